"""JPEG files of frames, read whole or refused, within bounds whatever they declare."""

import struct

import cv2
import numpy as np

from agego_lib.files import read_bytes

# Ten times what a frame of 1280x1024 takes without compression's help; progressive JPEGs have about ten scans.
MAX_FRAME_BYTES, MAX_SCANS = 1 << 26, 100


def jpeg_size(data):
    """(width, height) that a JPEG's header declares, None where it declares none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + length
    return None


def decode_jpeg(path, check_size):
    """A JPEG file as BGR uint8 (H, W, 3). Raises ValueError with the reason where it cannot be used whole.

    check_size: called with (width, height) before any pixel is decoded; raises ValueError for a size to refuse.
    """
    try:
        data = read_bytes(path, MAX_FRAME_BYTES)
    except OSError as error:
        raise ValueError(f"not readable: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"not readable: {error}") from None
    # Decoders fill what is missing of a cut file with grey and go on; its end marker tells. Within the compressed
    # data these two bytes cannot occur, and a few bytes of padding may follow them.
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG")
    if b"\xff\xd9" not in data[-64:]:
        raise ValueError("truncated JPEG: no end marker")
    # Known before the pixels are decoded, of which a small file may declare gigabytes.
    size = jpeg_size(data)
    if size is None:
        raise ValueError("JPEG without a size")
    try:
        check_size(*size)
    except ValueError as error:
        raise ValueError(f"wrong size: {error}") from None
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"JPEG of more than {MAX_SCANS} scans")
    try:
        # The labels are in the pixels as stored, whatever orientation a tag may ask for.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError("JPEG does not decode")
    return image
