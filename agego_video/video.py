"""Frames from a video file or a folder of images, read one after the other, and frames written as a video."""

import math
import re
from collections import Counter, defaultdict
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2

from agego_lib.datasets.decoding import decode_image

IMAGES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 64_000_000
_NUMBER = re.compile(r"[0-9]{9,}\.[0-9]+|[0-9]+")  # the first: seconds since 1970, with a fraction
_TICK = Fraction(1, 90_000)  # of written videos, seconds


class VideoError(ValueError):
    """A video or folder of frames that cannot be used, or written; the message says what was found and what to do."""


class VideoFile:
    """The frames of a video file. Iteration gives (number, seconds, BGR uint8 (H, W, 3)); one frame is held at a time.

    The pixels are those stored, which the calibration is of, whatever rotation a tag may ask for. seconds: the frame's
    time stamp, from the first one's. fps: frames a second, on average. total: frames that the file announces, or None.
    length: seconds that it announces, or None.
    size: (width, height) px. skipped: frame -> why it does not decode, and notes: what else was found, as texts; both
    are filled by iteration.
    Raises VideoError where the file cannot be opened or has no frame.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.skipped, self.notes = {}, []
        if not self.path.is_file():
            raise VideoError(f"{path}: no such video file or folder of frames")
        self._first, found = None, "cannot be opened as a video"
        try:
            self._container, self._stream = self._open()
            self._announced = self._stream.frames
            self.fps, count = float(self._stream.average_rate or 0), None
            if not 0 < self.fps < 1000:
                self.fps, count = self._count()
            found = "has no frame that decodes"
            self._decoded = self._decode()
            self._first = next(self._decoded, None)
        except av.FFmpegError:
            pass
        if self._first is None:
            raise VideoError(
                f"{path}: {found}; it may be damaged or cut off (an MP4 has its index at its end). "
                "Copy it anew, or mend it with FFmpeg"
            )
        seconds = self._end()
        self.total = count or (math.ceil(seconds * self.fps - 0.01) if seconds else self._announced) or None
        self.length = self.total / self.fps if self.total else None
        frame = self._first[1]
        self.size = frame.width, frame.height
        if frame.rotation:
            self.notes.append(
                f"{path}: a tag asks players to turn its pictures by {frame.rotation} degrees; they are used as they "
                "are stored, as the calibration must be of the stored pixels; --mount-roll if they are not upright"
            )

    def _open(self):
        # A colon in a name makes no protocol of it, and a playlist opens nothing but files.
        container = av.open(f"file:{self.path}", metadata_errors="replace", options={"protocol_whitelist": "file"})
        # Not the first: a cover picture may come before it.
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(f"{self.path}: a file without pictures, of sound or text alone; expected a video")
        return container, stream

    def _count(self):
        """(frames a second, frames) by the time stamps alone: browsers record without a rate."""
        container, stream = self._open()
        with container:
            times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        span = float((max(times, default=0) - min(times, default=0)) * stream.time_base)
        fps = (len(times) - 1) / span if span > 0 else 0
        if not 0 < fps < 1000:
            raise VideoError(
                f"{self.path}: {fps:.6g} frames a second by its time stamps; expected more than 0, below 1000. "
                f"Give it new ones: ffmpeg -i {self.path.name} -vf setpts=N/30/TB -r 30 mended.mp4"
            )
        return fps, len(times)

    def _end(self):
        """Seconds until the announced end, None where the file announces none."""
        if self._stream.duration:
            return float(((self._stream.start_time or 0) + self._stream.duration) * self._stream.time_base)
        container = self._container
        # With sound beside the pictures it may be the sound that lasts.
        return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None

    def _seconds(self, ticks, otherwise=0.0):
        return otherwise if ticks is None else float(ticks * self._stream.time_base)

    def _packets(self):
        """Coded frames, and at last an empty one, which asks the decoder for those that it holds back."""
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except av.FFmpegError as error:
            self.notes.append(f"{self.path}: cannot be read further ({error})")
        yield None

    def _decode(self):
        """(number, frame of PyAV) in the order of their times. Those lost on the way are numbered and listed too."""
        number, packets, reached, lost = 0, 0, 0.0, []
        time = -math.inf

        def lose(until):
            nonlocal number
            while lost and lost[0][0] < until:
                self.skipped[f"frame {number}"] = f"does not decode: {lost.pop(0)[1]}"
                number += 1

        with self._container:
            for packet in self._packets():
                if packet is not None:
                    time = self._seconds(packet.dts if packet.pts is None else packet.pts, reached)
                    packets += 1
                    reached = max(reached, time + (self._seconds(packet.duration) or 1 / self.fps))
                    if packet.is_corrupt:
                        lost = sorted([*lost, (time, "cut or damaged")])
                        continue
                try:
                    frames = self._stream.codec_context.decode(packet)
                except av.FFmpegError as error:
                    lost = sorted([*lost, (time, error.strerror)])
                    continue
                for frame in frames:
                    lose(self._seconds(frame.pts, -math.inf))
                    yield number, frame
                    number += 1
            lose(math.inf)
            end = self._end()
            if end and reached < end - 0.5 / self.fps:
                self.notes.append(
                    f"{self.path}: ends early: {packets} of {max(self._announced, round(end * self.fps))} frames"
                )

    def __iter__(self):
        item, self._first = self._first, None
        shift, last, repeated = -self._seconds(item[1].pts) if item else 0.0, 0.0, 0
        while item is not None:
            number, frame = item
            # Where a stamp is missing, or goes back as where recordings were put together, time goes on regardless.
            following = last + 1 / self.fps if number else 0.0
            seconds = self._seconds(frame.pts, following - shift) + shift
            if seconds < last:
                shift, seconds = shift + following - seconds, following
            repeated += number > 0 and seconds == last
            yield number, seconds, frame.to_ndarray(format="bgr24")
            last, item = seconds, next(self._decoded, None)
        if repeated:
            self.notes.append(f"{self.path}: {repeated} frames have the time stamp of the frame before")


class FrameFolder:
    """The images of a folder in the order of the numbers in their names. Iterates as VideoFile.

    Frames are the images whose names are alike but for numbers (see `_series`); others are left out, and noted. Where
    most names have nothing alike, or no number, the order is that of the names, and noted too.
    fps: frames a second to count the time with, from the first one to `length` seconds. A gap in the numbers is a gap
    in time. skipped: name -> reason, of
    images that do not decode whole, filled by iteration, or of a number that another image has.
    Raises VideoError where the folder has no image, or several series of them.
    """

    def __init__(self, path, fps=30.0):
        self.path, self.fps = Path(path), fps
        self.skipped, self.notes = {}, []
        try:
            # Hidden ones are companions that macOS writes, and their like.
            found = sorted(p for p in self.path.iterdir() if p.suffix.lower() in IMAGES and p.name[0] != ".")
        except OSError as error:
            raise VideoError(f"{path}: not readable ({error})") from None
        if not found:
            raise VideoError(f"{path}: no frames; expected images ({', '.join(IMAGES)}) in it")
        series = self._series(found)
        if series is None:
            self._frames = list(enumerate(found))
            if len(found) > 1:
                self.notes.append(f"{path}: no numbers that count the names; taken in the order of the names")
        else:
            self._frames = self._numbered(*series)
        self.total = len(self._frames)
        self.length = (self._frames[-1][0] + 1) / fps
        self.size = None

    def _series(self, found):
        """(images of the series that the folder holds, their numbers as tuples), None where it holds none."""
        kinds = defaultdict(list)
        for path in found:
            kinds[_NUMBER.sub("\0", path.stem)].append(path)
        (kind, paths), *others = sorted(kinds.items(), key=lambda item: -len(item[1]))
        if "\0" not in kind or len(paths) < 2 <= len(found) or 2 * len(paths) < len(found):
            return None
        # Two cameras, or the copies of all frames: no one can know which is meant.
        if others and len(others[0][1]) > 1 and 2 * len(others[0][1]) > len(paths):
            both = " and ".join(f"{len(group)} like {group[0].name}" for group in (paths, others[0][1]))
            raise VideoError(f"{self.path}: images of several series: {both}; put each into a folder of its own")
        odd = [path.name for _, group in others for path in group]
        if odd:
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            self.notes.append(
                f"{self.path}: left out, as their names are not like {paths[0].name}: {', '.join(odd[:3])}{more}"
            )
        numbers = [[Fraction(n) for n in _NUMBER.findall(path.stem)] for path in paths]
        # Those that never change are part of the name.
        counting = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        return paths, list(zip(*counting, strict=True)) or [()] * len(paths)

    def _numbered(self, paths, numbers):
        """[(number, image)] in order, each number once."""
        usual = Counter(path.suffix for path in paths).most_common(1)[0][0]
        ordered, taken = [], {}
        for number, path in sorted(zip(numbers, paths, strict=True), key=lambda n: (n[0], n[1].suffix != usual, n[1])):
            if number in taken:
                self.skipped[path.name] = f"has the number of {taken[number]}"
            else:
                taken[number] = path.name
                ordered.append((number, path))
        if len(ordered) == 1:
            return [(0, ordered[0][1])]
        counted = len(ordered[0][0]) == 1 and all(number[0].denominator == 1 for number, _ in ordered)
        if counted and ordered[-1][0][0] - ordered[0][0][0] < 10 * len(ordered):
            return [(int(number[0] - ordered[0][0][0]), path) for number, path in ordered]
        # Time stamps, for example.
        self.notes.append(
            f"{self.path}: the numbers in the names leave too many out to be frames'; taken as an order"
            if counted
            else f"{self.path}: several numbers in each name, or fractions; taken as an order"
        )
        return [(i, path) for i, (_, path) in enumerate(ordered)]

    def __iter__(self):
        for number, path in self._frames:
            try:
                yield number, number / self.fps, decode_image(path, _check_pixels)
            except ValueError as error:
                self.skipped[path.name] = str(error)


def _check_pixels(width, height):
    # No fisheye camera has so many; a small file may declare gigabytes.
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} px, more than {MAX_PIXELS} in all")


def open_frames(path, fps=None):
    """VideoFile or FrameFolder, whichever `path` is. fps: of a folder, by default 30; a file knows its own.

    Raises VideoError, also for an fps given for a file.
    """
    if Path(path).is_dir():
        return FrameFolder(path, fps or 30.0)
    if fps is not None:
        raise VideoError(f"{path}: a video file knows its own frames a second; leave --fps out")
    return VideoFile(path)


class VideoWriter:
    """An MP4 file of H.264 (yuv420p, index in front), which players and browsers show; a context manager.

    fps: about how many frames a second will come. size: (width, height) px, both even.
    Raises VideoError where the file cannot be written, or not any further.
    """

    def __init__(self, path, fps, size):
        self.path, self._last = Path(path), -1
        with self._errors():
            self._container = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            self._stream.width, self._stream.height = size
            # The next slower preset takes two to three times as long for a file as large.
            self._stream.pix_fmt, self._stream.options = "yuv420p", {"preset": "ultrafast", "crf": "20"}
            self._stream.codec_context.time_base = self._stream.time_base = _TICK
            self._container.start_encoding()

    @contextmanager
    def _errors(self):
        try:
            yield
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self.path}: cannot be written ({error}); check its folder and the disk's room"
            ) from None

    def write(self, frame, seconds):
        """Append a frame (H, W, 3) BGR uint8, shown from `seconds` on."""
        # In less than half the time that FFmpeg takes.
        picture = av.VideoFrame.from_ndarray(cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420), format="yuv420p")
        # Two frames of one time follow each other at once.
        self._last = picture.pts = max(round(seconds / _TICK), self._last + 1)
        picture.time_base = _TICK
        with self._errors():
            self._container.mux(self._stream.encode(picture))

    def close(self):
        """Finish the file. It can be played only then."""
        with self._errors(), self._container:
            self._container.mux(self._stream.encode(None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def render_video(folder, path, fps=30.0):
    """Write the images of a folder, such as a raw sequence's imgs/, as a video -> number of frames.

    Raises VideoError where there is no image, one does not decode or has another size than the first.
    """
    frames, writer = FrameFolder(folder, fps), None
    try:
        for i, (_, _, image) in enumerate(frames):
            size = image.shape[1::-1]
            if writer is None:
                writer, first = VideoWriter(path, fps, size), size
            if size != first:
                raise VideoError(f"{folder}: a frame of {size} px after ones of {first}; expected one size")
            writer.write(image, i / fps)
    finally:
        if writer is not None:
            writer.close()
    if frames.skipped:
        name, reason = next(iter(frames.skipped.items()))
        raise VideoError(f"{folder}: {len(frames.skipped)} frames do not decode (first: {name}: {reason})")
    return frames.total
