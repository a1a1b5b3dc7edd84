"""Poses as the frames come: python -m agego_lib.live --camera 0 --calibration my_camera.json

From a camera, a stream, or a video at its own pace: the overlay in a window, the joints as lines of JSON, over
WebSocket and as OSC. A model that is slower than the camera leaves frames out, and does not lag behind. Ctrl-C, q or
Esc ends it.
"""

import argparse
import os
import sys
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from agego_lib.inference import LivePredictor
from agego_video import overlay as drawing
from agego_video.eye import ERRORS, Eye, add_options, interrupts, positive, width_and_height
from agego_video.sending import Lines, Osc, WebSocket, as_json
from agego_video.sources import Coming, Newest, open_source
from agego_video.video import VideoError

TIMEOUT = 10.0  # seconds without anything from a stream, after which it is given up
WAKES = 0.1  # seconds, after which whoever waits looks whether to go on
KEPT = 18_000  # latencies, for the report: the last ten minutes
# Frames that a decoder over time looks back on, which cost time for each new one: with 64 the released model's latest
# pose of rendered test people is 118 and 121 mm off, with 16 it is 115 and 122.
HISTORY = 16
RECENT = 100  # latencies, for the running line


# --- Poses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LivePose:
    """The pose of a frame. number: of the frame, from 0, where those left out count. seconds: its time.

    joints: (15, 3) float32, metres, camera frame. frame: BGR, upright; upright: the joints as seen in it. came: when
    the frame was there, as time.perf_counter counts.
    """

    number: int
    seconds: float
    joints: np.ndarray
    frame: np.ndarray
    upright: np.ndarray
    came: float

    @property
    def age(self):
        """Seconds since the frame was there."""
        return time.perf_counter() - self.came


class Live:
    """Poses of a camera, a stream or a video as its frames come; iterate over it once, within `with`.

    source: a camera's number, the address of a stream, a video file or a folder of frames. capture: (width, height) px
    to ask a camera for. pace: how fast a file comes, times its own pace. every_frame: no frame is left out, however
    late its pose then is, and a file comes as fast as it is taken. The rest is as in `predict_video`.

    Each pose is from its frame and those before, as `LivePredictor` has it; after a hole in the time of more than the
    model's `window.max_gap` frames, from those since. skipped: reason -> number of frames. Raises what `predict_video`
    raises, and VideoError for a camera or stream that gives no picture, or breaks off.
    """

    def __init__(
        self, source, model=None, calibration=None, *, camera=None, fov=None, frame_size=None, mount_roll=0,
        device=None, capture=None, pace=1.0, every_frame=False, stature=None,
    ):  # fmt: skip
        self.source, self.name = open_source(source, capture), source
        self._pace, self._every, self._reader = pace, every_frame, None
        self.skipped = Counter()
        try:
            self.eye = Eye.of(
                self.source, source, model, calibration, camera, fov, frame_size, mount_roll, device, stature
            )
            # The first frame through a network takes longer than all others, and so does that of a view.
            self.predictor().push(self.eye.look(np.zeros((*self.eye.camera.size[::-1], 3), np.uint8))[1])
        except BaseException:
            self.close()
            raise

    def predictor(self):
        """A LivePredictor that has seen nothing."""
        length = self.eye.window["length"]
        if self.eye.network.decoder.temporal:
            length = min(length, HISTORY)
        return LivePredictor(self.eye.network, length, self.eye.window["step"], self.eye.stature)

    @property
    def dropped(self):
        """Frames left out so far, because the next one was there before they were taken."""
        return self._reader.dropped if self._reader else 0

    def __iter__(self):
        return self.poses()

    def poses(self, until=()):
        """-> an iterator of LivePose, until the source ends or `until`, a list, is not empty."""
        self._reader = Newest(self.source, self._pace, self._every)
        predictor, last = self.predictor(), None
        while (item := self._reader.take(until)) is not None:
            number, seconds, frame, came = item
            try:
                frame, image = self.eye.look(frame)
            except ValueError as error:
                self.skipped[f"wrong size: {error}"] += 1
                continue
            if last is not None and round((seconds - last) * self.source.fps) - 1 > self.eye.window["max_gap"]:
                predictor = self.predictor()
            last, pose = seconds, predictor.push(image)
            yield LivePose(number, seconds, self.eye.turn_back(pose), frame, pose, came)

    def overlay(self, pose, caption=""):
        """The picture of a LivePose -> (h, w, 3) BGR uint8: its joints in the frame, and in 3D beside it."""
        caption = f"{pose.seconds:.2f} s{caption}{', lens assumed' if self.eye.fov else ''}"
        return drawing.draw(drawing.small(pose.frame), pose.upright, self.eye.upright, caption)

    def close(self):
        """Let the source go."""
        if self._reader:
            self._reader.close()
        elif isinstance(self.source, Coming):
            self.source.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# --- The command -----------------------------------------------------------------------------------------------------


class Window:
    """A window that shows pictures, by OpenCV. Raises VideoError where there can be none."""

    NAME = "AG-EgoPose"

    def __init__(self):
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise VideoError("no window: this session has no display; go on without one: --no-window")
        try:
            cv2.namedWindow(self.NAME, cv2.WINDOW_NORMAL)
        except cv2.error:
            raise VideoError(
                f"no window: this OpenCV {cv2.__version__} is the headless one, which has none; put the other in its "
                "place (pip uninstall opencv-python-headless, then pip install opencv-python), or go on without a "
                "window: --no-window"
            ) from None

    def show(self, picture):
        """-> whether the window is still wanted: q, Esc and closing it end it."""
        cv2.imshow(self.NAME, picture)
        key = cv2.waitKey(1) & 0xFF
        return key not in (ord("q"), 27) and cv2.getWindowProperty(self.NAME, cv2.WND_PROP_VISIBLE) >= 1

    def close(self):
        cv2.destroyAllWindows()


def _percentiles(seconds):
    return "{:.0f} ms median, {:.0f} ms 95th percentile".format(*(1000 * np.quantile(seconds, (0.5, 0.95))))


class _Report:
    """Latencies from frame to joints sent, and to picture shown, seconds; and a running line on standard error."""

    def __init__(self, live):
        self.live, self.count, self.started = live, 0, time.perf_counter()
        self.sent, self.shown = deque(maxlen=KEPT), deque(maxlen=KEPT)
        self._overwrites = sys.stderr.isatty()
        self._every = 1.0 if self._overwrites else 10.0
        self._next = self.started + self._every

    def line(self):
        """The running line, where it is time for one."""
        now = time.perf_counter()
        if now < self._next or not self.sent:
            return
        self._next = now + self._every
        text = f"{self.count} poses, {self.live.dropped} frames dropped; {_percentiles([*self.sent][-RECENT:])}"
        print(f"\r{text:<78}" if self._overwrites else text, end="" if self._overwrites else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self):
        """What there is to say at the end."""
        if self._overwrites:
            print(file=sys.stderr)
        live, source = self.live, self.live.source
        for note in source.notes:
            print(f"note: {note}", file=sys.stderr)
        for reason, count in [*live.skipped.items(), *((f"{k}: {v}", 1) for k, v in source.skipped.items())][:10]:
            print(f"skipped: {count} frames: {reason}", file=sys.stderr)
        taken = time.perf_counter() - self.started
        rate, skipped = self.count / taken, live.skipped.total() + len(source.skipped)
        print(f"{self.count} poses in {taken:.1f} s, {rate:.1f} a second; {live.dropped} frames dropped, "
              f"{skipped} skipped", file=sys.stderr)  # fmt: skip
        for what, seconds in (("joints", self.sent), ("picture", self.shown)):
            if seconds:
                print(f"latency from frame to {what}: {_percentiles(seconds)}", file=sys.stderr)


def _run(live, senders, window, interrupted):
    """Poses into all that takes them, until the end; the report comes whatever it was."""
    report, ahead = _Report(live), time.time() - time.perf_counter()
    times = deque(maxlen=KEPT)
    try:
        for pose in live.poses(interrupted):
            line = as_json(pose.number, pose.seconds, pose.joints, live.eye.fov)
            for sender in senders:
                sender.send(line, pose.joints, ahead + pose.came)
            report.count += 1
            report.sent.append(pose.age)
            times.append(pose.seconds)
            if window:
                wanted = window.show(live.overlay(pose, f", {1000 * report.sent[-1]:.0f} ms"))
                report.shown.append(pose.age)
                if not wanted:
                    break
            report.line()
    finally:
        report.end()
    if not report.count and not interrupted:
        raise VideoError(f"{live.name}: no frame can be used")
    if len(times) > 1 and times[-1] > times[0]:
        kept_up = "a faster machine or a smaller model drops fewer" if live.dropped else "let the camera give about 30"
        note = live.eye.pace_note((len(times) - 1) / (times[-1] - times[0]), kept_up)
        if note:
            print(f"note: {note}", file=sys.stderr)


def main(arguments=None):
    """The command -> exit status: 0, 1 for an error, 130 after Ctrl-C."""
    description = __doc__.split("\n\n")[1]
    parser = argparse.ArgumentParser(prog="python -m agego_lib.live", description=description)
    parser.add_argument("--camera", dest="source", default="0", metavar="SOURCE", help="number of a camera, address of "
                        "a stream (rtsp://, http://, ...), video file or folder of frames (default: 0)")  # fmt: skip
    add_options(parser, kalibr="--kalibr-camera")
    parser.add_argument("--capture", type=width_and_height, metavar="WxH", help="size to ask the camera for")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--pace", type=positive(float), nargs="?", const=1.0, default=1.0, metavar="FACTOR",
                       help="how fast a file comes, times its own pace (default: 1)")  # fmt: skip
    speed.add_argument("--every-frame", action="store_true", help="leave no frame out, however late its pose is")
    parser.add_argument("--no-window", action="store_true", help="show no overlay")
    parser.add_argument("--out", metavar="FILE", help="joints as lines of JSON; - for standard output")
    parser.add_argument("--websocket", type=_address("127.0.0.1", 0), metavar="[HOST:]PORT", help="joints as JSON to "
                        "WebSocket clients (HOST: where to listen, 127.0.0.1, or 0.0.0.0 for the network)")  # fmt: skip
    parser.add_argument("--osc", type=_address(None, 1), metavar="HOST:PORT", help="joints as OSC bundles by UDP")
    options = parser.parse_args(arguments)
    named = {k: v for k, v in vars(options).items() if k not in ("no_window", "out", "websocket", "osc")}
    try:
        with ExitStack() as stack, interrupts() as interrupted:
            window, senders = _outputs(options, stack)
            live = stack.enter_context(Live(**named))
            for note in live.eye.notes:
                print(f"note: {note}", file=sys.stderr)
            _run(live, senders, window, interrupted)
    except BrokenPipeError:
        # Python would write what is left at its end, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("note: standard output has been closed; ended there", file=sys.stderr)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 130 if interrupted else 0


def _outputs(options, stack):
    """What the options ask for -> (Window or None, senders); the stack closes them."""
    if options.out not in (None, "-") and Path(options.out).resolve() == Path(options.source).resolve():
        raise VideoError(f"{options.source}: would be overwritten; choose another file with --out")

    def kept(opened):
        stack.callback(opened.close)
        return opened

    window = None if options.no_window else kept(Window())
    senders = [kept(Lines(options.out))] if options.out else []
    if options.osc:
        senders.append(kept(Osc(*options.osc, options.fov)))
    if options.websocket:
        senders.append(kept(WebSocket(*options.websocket)))
        print(f"note: joints at ws://{options.websocket[0]}:{senders[-1].port}", file=sys.stderr)
    return window, senders


def _address(host, least):
    """Reader of "HOST:PORT", or where a host is given here, of "PORT" too -> (host, port of at least `least`)."""

    def read(text):
        before, _, port = text.rpartition(":")
        found = (before.strip("[]") or host, int(port))
        if found[0] is None or not least <= found[1] < 65536:
            raise ValueError
        return found

    read.__name__ = "address"
    return read


if __name__ == "__main__":
    sys.exit(main())
