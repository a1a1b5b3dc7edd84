"""Where frames come from as they come: a camera, a stream, or a video at a pace; the newest is kept, and no other."""

import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import cv2

from agego_video.video import VideoError, open_frames

TIMEOUT = 10.0  # seconds without anything from a stream, after which it is given up
WAKES = 0.1  # seconds, after which whoever waits looks whether to go on


class Coming:
    """Frames that come by themselves. Iterates as VideoFile does, and goes on where an iteration before ended.

    seconds: when a frame came, by the clock. fps: what gaps are counted with, as cameras seldom tell theirs rightly.
    """

    path = total = None
    fps = 30.0

    def __init__(self, name, size):
        self.name, self.size = name, size
        self.skipped, self.notes = {}, []
        self._number, self._start = 0, None

    def _next(self):
        """The next frame (H, W, 3) BGR, or None at the end."""
        raise NotImplementedError

    def __iter__(self):
        while (frame := self._next()) is not None:
            now = time.perf_counter()
            self._start = self._start or now
            yield self._number, now - self._start, frame
            self._number += 1


class Camera(Coming):
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
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
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


class Stream(Coming):
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
        live = isinstance(self._source, Coming)
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
