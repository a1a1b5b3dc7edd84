"""Poses as the frames come: python -m agego_lib.live --camera 0 --calibration my_camera.json

From a camera, a stream, or a video at its own pace: the overlay in a window, the joints as lines of JSON, over
WebSocket and as OSC. A model that is slower than the camera leaves frames out, and does not lag behind. Ctrl-C, q or
Esc ends it.
"""

import argparse
import os
import re
import sys
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from agego_lib.inference import LivePredictor
from agego_video import overlay as drawing
from agego_video.eye import ERRORS, Eye, add_options, interrupts, positive, width_and_height
from agego_video.sending import Lines, Osc, WebSocket, as_json
from agego_video.video import VideoError, open_frames

TIMEOUT = 10.0  # seconds without anything from a stream, after which it is given up
WAKES = 0.1  # seconds, after which whoever waits looks whether to go on
KEPT = 18_000  # latencies, for the report: the last ten minutes
RECENT = 100  # latencies, for the running line


# --- Sources ---------------------------------------------------------------------------------------------------------


class _Coming:
    """Frames that come by themselves. Iterates as VideoFile does, and goes on where an iteration before ended.

    seconds: when a frame came, by the clock. fps: what gaps are counted with, as cameras seldom tell theirs rightly.
    """

    path = total = None
    fps = 30.0

    def __init__(self, name, size):
        self.name, self.size = name, size
        self.skipped, self.notes = {}, []
        self._number, self._start = 0, None

    def __iter__(self):
        while (frame := self._next()) is not None:
            now = time.perf_counter()
            self._start = self._start or now
            yield self._number, now - self._start, frame
            self._number += 1


class Camera(_Coming):
    """A camera of this machine, by its number. size: (width, height) px to ask it for.

    By OpenCV, to which a number says enough on every system; FFmpeg's own devices want names on some of them.
    Raises VideoError where there is none, it may not be used, or it gives no picture.
    """

    def __init__(self, number, size=None):
        name = f"camera {number}"
        if sys.platform.startswith("linux"):
            _check_device(number, name)
        self._capture = cv2.VideoCapture(number)
        if size is not None:
            # Uncompressed, most cameras give large pictures slowly.
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        frame = self._capture.read()[1] if self._capture.isOpened() else None
        if frame is None:
            self._capture.release()
            raise VideoError(
                f"{name}: gives no picture; another program may hold it, the system may keep cameras from this one, or "
                "it has another number (they count from 0, and some cameras have two)"
            )
        super().__init__(name, frame.shape[1::-1])
        if size is not None and self.size != tuple(size):
            self.notes.append(
                f"{name}: asked for {size[0]}x{size[1]} px with --capture, it gives {self.size[0]}x{self.size[1]}"
            )

    def _next(self):
        given, frame = self._capture.read()
        if not given:
            raise VideoError(f"{self.name}: gave no more pictures after {self._number}; is it still plugged in?")
        return frame

    def close(self):
        self._capture.release()


def _check_device(number, name, folder=Path("/dev")):
    device = folder / f"video{number}"
    if not device.exists():
        found = sorted(path.name.removeprefix("video") for path in folder.glob("video*"))
        there = f"there are {', '.join(found)}" if found else "there is none; a container must be given its devices"
        raise VideoError(f"{name}: no {device}; {there}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise VideoError(
            f"{name}: {device} may not be used by this user; join its group (sudo usermod -aG video $USER) and log in "
            "anew"
        )


class Stream(_Coming):
    """A stream by its address, such as rtsp://camera/live. Raises VideoError where it gives no picture, or breaks off.

    A stream that ends is an end, as a file's.
    """

    def __init__(self, address):
        name = re.sub(r"//[^/@]*@", "//", address)  # without its password
        self._container, problem = None, "has no picture"
        try:
            # By UDP, as RTSP does by default, pictures lack parts; other protocols do not know the option.
            self._container = av.open(address, timeout=TIMEOUT, metadata_errors="replace",
                                      options={"rtsp_transport": "tcp"})  # fmt: skip
            self._pictures = self._decode(self._container.streams.video[0])
            first = next(self._pictures, None)
        except IndexError:  # no stream of pictures
            first = None
        except (av.FFmpegError, ValueError) as error:
            first, problem = None, _reason(error)
        if first is None:
            self.close()
            raise VideoError(f"{name}: cannot be opened as a stream ({problem}); check the address, and that it is on")
        super().__init__(name, (first.width, first.height))
        self._first = first

    def _decode(self, stream):
        for packet in self._container.demux(stream):
            # What is lost on the way leaves one picture out.
            with suppress(av.error.InvalidDataError):
                yield from stream.codec_context.decode(packet if packet.size else None)

    def _next(self):
        picture, self._first = self._first, None
        try:
            picture = picture or next(self._pictures, None)
        except av.FFmpegError as error:
            raise VideoError(f"{self.name}: broke off after {self._number} pictures ({_reason(error)})") from None
        return None if picture is None else picture.to_ndarray(format="bgr24")

    def close(self):
        if self._container is not None:
            self._container.close()


def _reason(error):
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {TIMEOUT:g} s"
    return getattr(error, "strerror", None) or error  # the whole text has the address, with its password


def open_source(source, capture=None):
    """Camera, Stream, VideoFile or FrameFolder: whichever a number, an address or a path stands for."""
    text = str(source)
    device = Path(text).resolve().name if "://" not in text and Path(text).is_char_device() else ""
    number = text if text.isdecimal() else device.removeprefix("video")
    if number.isdecimal():
        return Camera(int(number), capture)
    if capture is not None:
        raise VideoError(f"{source}: --capture asks a camera of this machine for a size; leave it out")
    return Stream(text) if "://" in text else open_frames(source)


def _paced(frames, pace, closing):
    """The frames when their time has come, `pace` times as fast as they were taken."""
    start = None
    for item in frames:
        if start is None:
            start = time.perf_counter() - item[1] / pace
        if closing.wait(max(0.0, start + item[1] / pace - time.perf_counter())):
            return
        yield item


class Newest:
    """The newest frame of a source, which is read in a thread of its own.

    pace: of a file, times its own. every: the source waits until its frame is taken; else a frame that nobody took
    before the next came is dropped. dropped: how many were.
    """

    def __init__(self, source, pace=1.0, every=False):
        self.dropped = 0
        self._source, self._pace, self._every = source, pace, every
        self._item = self._error = None
        self._ended, self._closing, self._news = False, threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        live = isinstance(self._source, _Coming)
        try:
            for item in self._source if live or self._every else _paced(self._source, self._pace, self._closing):
                with self._news:
                    while self._every and self._item is not None and not self._closing.is_set():
                        self._news.wait(WAKES)
                    if self._closing.is_set():
                        return
                    self.dropped += self._item is not None
                    self._item = (*item, time.perf_counter())
                    self._news.notify_all()
        except Exception as error:  # for the thread that takes the frames
            self._error = error
        finally:
            if live:
                self._source.close()
            with self._news:
                self._ended = True
                self._news.notify_all()

    def take(self, until=()):
        """-> (number, seconds, frame, when it came), waiting for one; None at the end, or once `until` is not empty.

        When: as time.perf_counter counts. Raises what reading raised.
        """
        with self._news:
            while self._item is None and not self._ended and not until:
                self._news.wait(WAKES)
            item, self._item = self._item, None
            self._news.notify_all()
        if until:
            return None
        if item is None and self._error is not None:
            raise self._error
        return (*item[:3], time.perf_counter()) if item and self._every else item

    def close(self):
        self._closing.set()
        self._thread.join(2.0)  # a camera may hang


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
        device=None, capture=None, pace=1.0, every_frame=False,
    ):  # fmt: skip
        self.source, self.name = open_source(source, capture), source
        self._pace, self._every, self._assumed, self._reader = pace, every_frame, fov is not None, None
        self.skipped = Counter()
        try:
            self.eye = Eye.of(self.source, source, model, calibration, camera, fov, frame_size, mount_roll, device)
            # The first frame through a network takes longer than all others, and so does that of a view.
            self.predictor().push(self.eye.look(np.zeros((*self.eye.camera.size[::-1], 3), np.uint8))[1])
        except BaseException:
            self.close()
            raise

    def predictor(self):
        """A LivePredictor that has seen nothing."""
        return LivePredictor(self.eye.network, self.eye.window["length"], self.eye.window["step"])

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
        caption = f"{pose.seconds:.2f} s{caption}{', lens assumed' if self._assumed else ''}"
        return drawing.draw(drawing.small(pose.frame), pose.upright, self.eye.upright, caption)

    def close(self):
        """Let the source go."""
        if self._reader:
            self._reader.close()
        elif isinstance(self.source, _Coming):
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
            line = as_json(pose.number, pose.seconds, pose.joints)
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
        senders.append(kept(Osc(*options.osc)))
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
