"""Frames from a video file or a folder of images, read one after the other, and frames written as a video."""

import re
from pathlib import Path

import cv2

from agego_lib.datasets.decoding import decode_image

IMAGES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 64_000_000


class VideoError(ValueError):
    """A video or folder of frames that cannot be used, or written; the message says what was found and what to do."""


class VideoFile:
    """The frames of a video file. Iteration gives (number, seconds, BGR uint8 (H, W, 3)); one frame is held at a time.

    fps: frames a second. total: frames that the file announces, or None. size: (width, height) px. notes: what was
    found wrong, as texts, filled by iteration. A file that ends before its announced end may have been cut in the
    middle of a frame, which decoders fill up with grey or the frame before: then the last one is left out.
    Raises VideoError where the file cannot be opened or has no frame.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.skipped, self.notes = {}, []
        if not self.path.is_file():
            raise VideoError(f"{path}: no such video file or folder of frames")
        # FFmpeg alone: other backends of OpenCV guess at what they are given.
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self._first = self._capture.read()[1] if self._capture.isOpened() else None
        if self._first is None:
            found = "has no frame that decodes" if self._capture.isOpened() else "cannot be opened as a video"
            raise VideoError(
                f"{path}: {found}; it may be damaged or cut off (an MP4 has its index at its end). "
                "Copy it anew, or mend it with FFmpeg"
            )
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)
        if not 0 < self.fps < 1000:
            raise VideoError(f"{path}: {self.fps} frames a second; expected more than 0. Mend it with FFmpeg")
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.total = int(announced) if announced > 0 else None
        self.size = self._first.shape[1::-1]

    def __iter__(self):
        frame, seconds, number = self._first, self._seconds(), 0
        self._first = None
        while frame is not None:
            following, after = self._capture.read()[1], self._seconds()
            if following is None and self.total is not None and number + 1 < self.total:
                self.notes.append(
                    f"{self.path}: ends early: {number + 1} of {self.total} frames; "
                    f"the last of them, number {number}, may be cut and was left out"
                )
                self.skipped[f"frame {number}"] = "last frame of a video that ends early"
                break
            yield number, seconds, frame
            frame, seconds, number = following, after, number + 1
        self._capture.release()

    def _seconds(self):
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


class FrameFolder:
    """The images of a folder in the order of the numbers in their names, or of their names. Iterates as VideoFile.

    fps: frames a second to count the time with. A gap in the numbers is a gap in time. skipped: name -> reason, of
    images that do not decode whole, filled by iteration.
    Raises VideoError where the folder has no image.
    """

    def __init__(self, path, fps=30.0):
        self.path, self.fps = Path(path), fps
        self.skipped, self.notes = {}, []
        try:
            found = sorted(p for p in self.path.iterdir() if p.suffix.lower() in IMAGES)
        except OSError as error:
            raise VideoError(f"{path}: not readable ({error})") from None
        if not found:
            raise VideoError(f"{path}: no frames; expected images ({', '.join(IMAGES)}) in it")
        numbers = [re.search(r"(\d+)$", p.stem) for p in found]
        numbers = [int(n[1]) for n in numbers if n]
        self._frames = list(enumerate(found))
        if len(set(numbers)) == len(found):
            first, end = min(numbers), max(numbers)
            ordered = sorted(zip(numbers, found, strict=True))
            if end - first < 10 * len(found):
                self._frames = [(number - first, path) for number, path in ordered]
            else:
                # Time stamps, for example.
                self._frames = [(i, path) for i, (_, path) in enumerate(ordered)]
                self.notes.append(
                    f"{path}: the numbers in the names leave too many out to be frames'; taken as an order"
                )
        self.total = len(found)
        self.size = None

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
    """An MP4 file written frame by frame (BGR uint8, all of one size, with even sides); a context manager.

    codec: "vp9", which browsers play, or "mp4v" (MPEG-4 Part 2), some forty times faster to write, for players such as
    VLC alone. OpenCV's own wheels hold no H.264 encoder.
    Raises VideoError where the file cannot be written or OpenCV lacks the encoder.
    """

    def __init__(self, path, fps, size, codec="vp9"):
        tag = {"vp9": "vp09", "mp4v": "mp4v"}[codec]
        self.path, self.frames = Path(path), 0
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*tag), fps, size)
        if not self._writer.isOpened():
            raise VideoError(
                f"{path}: OpenCV cannot write {codec} video of {size[0]}x{size[1]} px there; "
                "check that the folder can be written to, or choose another codec"
            )

    def write(self, frame):
        """Append a frame (H, W, 3)."""
        self._writer.write(frame)
        self.frames += 1

    def close(self):
        """Finish the file. It can be played only then."""
        self._writer.release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def render_video(folder, path, fps=30.0, codec="mp4v"):
    """Write the images of a folder, such as a raw sequence's imgs/, as a video -> number of frames.

    Raises VideoError where there is no image, one does not decode or has another size than the first.
    """
    frames, writer = FrameFolder(folder, fps), None
    try:
        for _, _, image in frames:
            size = image.shape[1::-1]
            if writer is None:
                writer, first = VideoWriter(path, fps, size, codec), size
            if size != first:
                raise VideoError(f"{folder}: a frame of {size} px after ones of {first}; expected one size")
            writer.write(image)
    finally:
        if writer is not None:
            writer.close()
    if frames.skipped:
        name, reason = next(iter(frames.skipped.items()))
        raise VideoError(f"{folder}: {len(frames.skipped)} frames do not decode (first: {name}: {reason})")
    return frames.total
