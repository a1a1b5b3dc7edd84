"""The image circle of a fisheye lens, as the frames themselves show it, to hold against the calibration's."""

import cv2
import numpy as np

FRAMES = 8  # of a sequence: enough that most of the circle's edge is lit in one of them
RAYS = 360
# Shares of the radius by which calibration and frames may differ. Centres of real frames, fitted one by one, scatter by
# 1 %, and a lens's principal point is 1 % from its circle's centre; a calibration of another camera was 9 % off. Where
# the edge lies in its soft shadow depends on the light, by 3 % of the radius.
CENTRE_TOLERANCE, RADIUS_TOLERANCE = 0.03, 0.05
_DARK_RUN, _LIT_RUN, _LIT = 8, 8, 4  # px, px, grey levels above the dark


class BrightestFrame:
    """The brightest grey level of each pixel over a few frames, which all show the same circle."""

    def __init__(self, view):
        self._view, self._image, self._whole = view, None, False

    def add(self, image):
        """Take in one more frame (H, W, 3), whole or cropped to the central square."""
        grey = cv2.cvtColor(self._view.whole(image), cv2.COLOR_BGR2GRAY)
        self._image = grey if self._image is None else np.maximum(self._image, grey)
        self._whole |= image.shape[1::-1] == tuple(self._view.full_size)

    def circle(self):
        """((u, v), radius) in px of the full image, or None where the frames do not show the circle."""
        if self._image is None:
            return None
        left, top, side = self._view.central_square
        if self._whole:
            return fit_circle(self._image)
        found = fit_circle(self._image[top : top + side, left : left + side])
        return found and ((found[0][0] + left, found[0][1] + top), found[1])


def _edge(grey):
    """Where the picture begins, on rays from the border to the middle of `grey` (H, W) uint8 -> (n, 2) px."""
    height, width = grey.shape
    corner = max(4, min(height, width) // 20)
    corners = [grey[y, x] for y in (slice(corner), slice(-corner, None)) for x in (slice(corner), slice(-corner, None))]
    # The darkest corner: light, or a lamp, may reach into others.
    lit = cv2.medianBlur(grey, 5) >= min(np.median(c) for c in corners) + _LIT
    centre = np.array([width - 1, height - 1]) / 2
    angles = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)
    away = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    steps = np.arange(int(np.hypot(*centre)))
    points = np.rint(centre + steps[:, None, None] * away).astype(int)  # (steps, rays, 2)
    inside = ((points >= 0) & (points < (width, height))).all(axis=-1)
    x, y = points.clip(0, (width - 1, height - 1)).transpose(2, 0, 1)
    lit = lit[y, x] & inside
    # The outermost of _LIT_RUN lit pixels in a row, and as many dark ones as make sure of it before the border.
    run = np.lib.stride_tricks.sliding_window_view(lit, _LIT_RUN, axis=0).all(axis=-1)
    last = len(run) - 1 - run[::-1].argmax(axis=0) + _LIT_RUN - 1
    border = inside.sum(axis=0) - 1
    seen = run.any(axis=0) & (border - last >= _DARK_RUN)
    return centre + last[seen, None] * away[seen]


def _robust_circle(points, middle):
    """(u, v, radius) of the circle near most of `points` (n, 2); least squares, of which outliers get little weight."""
    circle = np.array([*middle, np.median(np.hypot(*(points - middle).T))])
    # Dark clothes at the edge, and lamps beyond it, are far from the circle. Where it is shows step by step.
    for share in np.geomspace(0.1, 0.004, 30):
        off = points - circle[:2]
        distance = np.hypot(*off.T)
        residual = distance - circle[2]
        weight = 1 / np.hypot(1, residual / (share * circle[2]))[:, None]
        slopes = np.column_stack([-off / distance[:, None], -np.ones(len(off))])
        circle += np.linalg.lstsq(weight * slopes, -weight[:, 0] * residual, rcond=None)[0]
    return circle


def fit_circle(grey):
    """The circle that is lit within dark surroundings of a grey image (H, W) uint8 -> ((u, v), radius) px, or None.

    None where fewer than a quarter of all directions, or than 6 in 10 of those that have an edge, agree, or those that
    do lie to one side: the circle is then not to be seen, or too little of it to say where its centre is.
    """
    points = _edge(grey)
    if len(points) < RAYS // 4:
        return None
    circle = _robust_circle(points, (np.array(grey.shape[::-1]) - 1) / 2)
    off = points - circle[:2]
    agree = off[np.abs(np.hypot(*off.T) - circle[2]) < max(1, 0.01 * circle[2])]  # a pixel is how exact an edge is
    if len(agree) < max(RAYS // 4, 0.6 * len(points)):
        return None
    directions = np.sort(np.arctan2(*agree.T))
    if np.diff(directions, append=directions[0] + 2 * np.pi).max() > np.radians(160):
        return None
    return (float(circle[0]), float(circle[1])), float(circle[2])


def is_off(camera, circle):
    """Whether a circle ((u, v), radius) differs from a FisheyeCamera's by more than the tolerances."""
    centre, radius = circle
    apart = np.hypot(*np.subtract(centre, camera.centre)) / radius
    return bool(
        apart > CENTRE_TOLERANCE
        or (camera.radius is not None and abs(camera.radius - radius) / radius > RADIUS_TOLERANCE)
    )


def compare(camera, file, circles):
    """What the circles of a data set's sequences, {key: circle or None}, say of its calibration -> dict for the report.

    "calibration" and "frames" (the median of the sequences that show it, or None): "centre" and "radius", px;
    "sequences" {key: [u, v, radius] or None}; "warning", where more than a tenth of them differ, else None.
    """
    shown = {key: np.round([*circle[0], circle[1]], 1).tolist() for key, circle in circles.items() if circle}
    found = {
        "calibration": {"file": file, "centre": np.round(camera.centre, 1).tolist(), "radius": camera.radius},
        "frames": None,
        "sequences": {key: shown.get(key) for key in circles},
        "warning": None,
    }
    if not shown:
        return found
    u, v, radius = np.median(list(shown.values()), axis=0).round(1).tolist()
    found["frames"] = {"centre": [u, v], "radius": radius}
    off = [key for key in shown if is_off(camera, circles[key])]
    if len(off) > 0.1 * len(shown):
        own = f" and radius {camera.radius:g}" if camera.radius is not None else ""
        found["warning"] = (
            f"{file} may be of another camera: its principal point ({camera.centre[0]:.1f}, {camera.centre[1]:.1f})"
            f"{own} px differ from the frames' image circle, centre ({u:.1f}, {v:.1f}) and radius {radius:.0f} px "
            f"(median), in {len(off)} of {len(shown)} sequences that show it (first: {off[0]}). What is "
            "projected with it lies beside the body; try the data set's other calibration files"
        )
    return found
