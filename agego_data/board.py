"""Pictures of a calibration board as a fisheye camera sees them: each pixel's ray is followed to the board's plane."""

import cv2
import numpy as np

_FINER = 2  # rays a pixel, across and down
_SQUARE = 32  # px of the board's texture


def checkerboard(columns, rows, square):
    """A board of columns x rows inner corners and squares of `square` metres -> (texture (H, W) uint8, metres a px).

    Its first inner corner, from which its coordinates count, lies 2 squares in from the texture's edge: black and white
    squares, then a white margin as wide.
    """
    y, x = np.mgrid[: (rows + 3) * _SQUARE, : (columns + 3) * _SQUARE] // _SQUARE
    inside = (x > 0) & (y > 0) & (x < columns + 2) & (y < rows + 2)
    return np.where(inside & ((x + y) % 2 == 0), 25, 230).astype(np.uint8), square / _SQUARE


def render_board(camera, texture, metres, origin, poses, background=90, seed=0):
    """Yield a grey frame (H, W) uint8 of the board for each pose, with a little noise.

    camera: FisheyeCamera. texture, metres: as `checkerboard` gives them. origin: (x, y) px of the texture, pixel edges
    counted, where the board's coordinates start; x runs along its columns, y along its rows. poses: of
    (rotation (3, 3), translation (3,) metres), board -> camera frame.
    """
    rng = np.random.default_rng(seed)
    width, height = camera.size
    u, v = ((np.arange(side * _FINER) + 0.5) / _FINER - 0.5 for side in (width, height))
    pixels = np.stack(np.meshgrid(u, v), axis=-1)
    rays = camera.unproject(pixels, 1.0)
    lit = camera.in_image(pixels)
    for rotation, translation in poses:
        normal = rotation[:, 2]
        with np.errstate(all="ignore"):
            reach = (normal @ translation) / (rays @ normal)
            place = (rays * reach[..., None] - translation) @ rotation[:, :2] / metres + origin - 0.5
        maps = np.where((reach > 0)[..., None], place, -1e4).clip(-1e4, 1e4).astype(np.float32)
        fine = cv2.remap(texture, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=background)
        fine[~lit] = 8
        image = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        yield (image + rng.normal(0, 2.0, image.shape)).clip(0, 255).round().astype(np.uint8)
