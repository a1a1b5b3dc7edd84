"""Image files of frames, JPEG or PNG, read whole or refused, within bounds whatever they declare."""

import re
import struct
import zlib

import cv2
import numpy as np

from agego_lib.files import read_bytes

# Ten times what a frame of 1280x1024 takes without compression's help; progressive JPEGs have about ten scans.
MAX_FRAME_BYTES, MAX_SCANS = 1 << 26, 100
PNG = b"\x89PNG\r\n\x1a\n"
_SCAN, _END = 0xDA, 0xD9
# Within compressed data 0xFF is followed by 0 or a restart; before a marker it may be repeated.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)


def _markers(data):
    """(marker, its place) of a JPEG, one after the other, until its end marker; what lies behind it is not read."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.start()
        yield marker, at
        if marker == _END:
            return
        at += 2 if marker in (0x01, 0xD8) else 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def jpeg_size(data):
    """(width, height) that a JPEG's header declares, None where it declares none."""
    for marker, at in _markers(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
    return None


def _whole_jpeg(data, check_size):
    """The bytes of a JPEG up to its end marker: phones put a video behind it."""
    end, scans = None, 0
    for marker, at in _markers(data):
        scans += marker == _SCAN
        if marker == _END:
            end = at + 2
    # Decoders fill what is missing of a cut file with grey and go on; its end marker tells.
    if end is None:
        raise ValueError("truncated JPEG: no end marker")
    size = jpeg_size(data)
    if size is None:
        raise ValueError("JPEG without a size")
    check_size(*size)
    if scans > MAX_SCANS:
        raise ValueError(f"JPEG of more than {MAX_SCANS} scans")
    return data[:end]


def _whole_png(data, check_size):
    """A PNG of those chunks alone that hold the picture: no orientation, colour profile or animation."""
    kept, at, kind = [PNG], len(PNG), None
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        chunk = data[at : at + length + 12]
        if len(chunk) < length + 12:
            raise ValueError("truncated PNG: no end chunk")
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise ValueError("damaged PNG: a wrong checksum")
            kept.append(chunk)
        at += length + 12
    if kept[1][4:8] != b"IHDR" or len(kept[1]) != 25:
        raise ValueError("PNG without a size")
    check_size(*struct.unpack(">II", kept[1][8:16]))
    return b"".join(kept)


def decode_image(path, check_size):
    """A JPEG or PNG file, grey or in colour, as BGR uint8 (H, W, 3); of 16 bits the upper 8.

    Raises ValueError with the reason where it cannot be used whole. The pixels are those stored, which the labels are
    of, whatever orientation a tag may ask for.
    check_size: called with (width, height) before any pixel is decoded; raises ValueError for a size to refuse.
    """
    try:
        data = read_bytes(path, MAX_FRAME_BYTES)
    except OSError as error:
        raise ValueError(f"not readable: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"not readable: {error}") from None

    # Known before the pixels are decoded, of which a small file may declare gigabytes.
    def check(width, height):
        try:
            check_size(width, height)
        except ValueError as error:
            raise ValueError(f"wrong size: {error}") from None

    if data[:2] == b"\xff\xd8":
        kind, data = "JPEG", _whole_jpeg(data, check)
    elif data.startswith(PNG):
        kind, data = "PNG", _whole_png(data, check)
    else:
        raise ValueError("not a JPEG or PNG")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(f"{kind} does not decode")
    return image
