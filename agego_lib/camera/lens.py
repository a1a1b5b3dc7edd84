"""Lens models as other programs calibrate them, and the fit of FisheyeCamera's two polynomials to them.

Each model takes directions (N, 3) of the camera frame to the plane that the matrix K then takes to pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Num

from agego_lib.camera.model import CalibrationError, FisheyeCamera

# Degrees from the axis: nobody's lens sees further, and the polynomials of OCamCalib have a pole at 180.
WIDEST = 150.0
NARROWEST = 15.0  # degrees from the axis to a corner of the image, below which no numbers are of a fisheye lens
ORDERS = range(3, 25)  # of the polynomials that are tried
CLOSE = 0.01  # px, by which a fit may miss: as far as OCamCalib's own goes
# Least growth of the image with the angle, as a share of that at the axis, for a model to be believed: the second and
# third where no polynomial is close up to the first.
LEAST_GROWTH = (0.25, 0.35, 0.45)
_STEPS = 4096


@dataclass(frozen=True, eq=False)
class Lens:
    """A camera's lens as its calibration states it.

    kind: what calibrated it, in words. size: (width, height) px. matrix: K (3, 3). plane: directions (N, 3), camera
    frame -> (N, 2), NaN or infinite where the model has no image of them. widest: degrees from the axis beyond which
    nothing is asked of the model, `circle` px the radius of the image circle where that is known.
    """

    kind: str
    size: tuple[int, int]
    matrix: np.ndarray
    plane: Callable
    widest: float = WIDEST
    circle: float | None = None

    def project(self, points: Num[np.ndarray, "*N 3"]) -> Float64[np.ndarray, "*N 2"]:
        """Points or directions, camera frame -> pixels."""
        with np.errstate(all="ignore"):
            place = self.plane(np.asarray(points, dtype=np.float64))
        return place @ self.matrix[:2, :2].T + self.matrix[:2, 2]


def equidistant(coefficients: tuple) -> Callable:
    """Kannala and Brandt's model of OpenCV's fisheye module and Kalibr's "equi": k1 to k4; none for r = f angle."""

    def plane(points):
        r = np.hypot(points[..., 0], points[..., 1])
        angle = np.arctan2(r, points[..., 2])
        distorted = angle * np.polynomial.polynomial.polyval(angle**2, (1.0, *coefficients))
        return points[..., :2] * (distorted / np.where(r == 0, 1.0, r))[..., None]

    return plane


def unified(xi: float, coefficients: tuple) -> Callable:
    """Mei's model, Kalibr's "omni" and OpenCV's omnidir: xi, then k1, k2, p1, p2 of a perspective lens."""
    k1, k2, p1, p2 = coefficients

    def plane(points):
        depth = points[..., 2] + xi * np.linalg.norm(points, axis=-1)
        x, y = points[..., 0] / depth, points[..., 1] / depth
        rr = x * x + y * y
        radial = 1 + k1 * rr + k2 * rr * rr
        place = np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (rr + 2 * x * x),
                y * radial + p1 * (rr + 2 * y * y) + 2 * p2 * x * y,
            ],
            axis=-1,
        )
        return np.where((depth > 0)[..., None], place, np.nan)

    return plane


def double_sphere(xi: float, alpha: float) -> Callable:
    """Usenko, Demmel and Cremers' model, Kalibr's "ds"."""

    def plane(points):
        z = points[..., 2]
        shifted = xi * np.linalg.norm(points, axis=-1) + z
        second = np.sqrt(points[..., 0] ** 2 + points[..., 1] ** 2 + shifted**2)
        return _over(points, alpha * second + (1 - alpha) * shifted)

    return plane


def extended_unified(alpha: float, beta: float) -> Callable:
    """Khomutenko, Garcia and Martinet's model, Kalibr's "eucm"."""

    def plane(points):
        z = points[..., 2]
        distance = np.sqrt(beta * (points[..., 0] ** 2 + points[..., 1] ** 2) + z**2)
        return _over(points, alpha * distance + (1 - alpha) * z)

    return plane


def _over(points, depth):
    return np.where((depth > 0)[..., None], points[..., :2] / depth[..., None], np.nan)


def directions(angle: Num[np.ndarray, "*N"], turn: Num[np.ndarray, "*N"]) -> Float64[np.ndarray, "*N 3"]:
    """Angles from the optical axis and around it, from x towards y, radians -> unit directions."""
    angle, turn = np.broadcast_arrays(angle, turn)
    return np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], axis=-1)


_TURNS = np.linspace(0, 2 * np.pi, 32, endpoint=False)


def _profile(lens, growth):
    """(angles, mean distance from the centre, px) from the axis on, as far as the image goes and the model is sane."""
    centre = lens.matrix[:2, 2]
    if not ((centre >= 0) & (centre < lens.size)).all():
        raise CalibrationError(
            f"{lens.kind}: principal point ({centre[0]:g}, {centre[1]:g}) px; expected one within the picture of "
            f"{lens.size[0]}x{lens.size[1]} px"
        )
    angle = np.linspace(0, np.radians(lens.widest), _STEPS)[1:]
    away = lens.project(directions(angle[:, None], _TURNS)) - centre
    with np.errstate(invalid="ignore"):
        distance = np.hypot(*np.moveaxis(away, -1, 0))
        rho = distance.mean(-1)
        # An image cannot come nearer again as the angle grows: shortly before, the formula ceases to be of the lens.
        slope = np.diff(distance, axis=0, prepend=0)
        grows = (slope > growth * slope[0]).all(-1)
    end = len(angle) if grows.all() else int(grows.argmin())
    corner = max(np.hypot(u - centre[0], v - centre[1]) for u in (0, lens.size[0] - 1) for v in (0, lens.size[1] - 1))
    beyond = np.flatnonzero(distance[:end].min(-1, initial=np.inf) > corner)
    covered = len(beyond) > 0
    end = int(beyond[0]) + 1 if covered else end
    if end == 0 or angle[end - 1] < np.radians(NARROWEST):
        raise CalibrationError(
            f"{lens.kind}: {np.degrees(angle[max(end - 1, 0)]):.2g} degrees from the axis its image stops growing, or "
            f"leaves the picture of {lens.size[0]}x{lens.size[1]} px; expected at least {NARROWEST:g}, and px of that "
            "picture"
        )
    return angle[:end], rho[:end], covered


@dataclass(frozen=True)
class Fit:
    """FisheyeCamera's polynomials fitted to a Lens.

    camera: with the circle at the model's end, where that lies within the image. lens: what was fitted. miss: px, the
    most by which they project a direction apart within the image. round_trip: px. degrees: from the axis, to which the
    image or the model goes.
    """

    camera: FisheyeCamera
    lens: Lens
    miss: float
    round_trip: float
    degrees: float

    def curves(self, count=400):
        """Degrees from the axis, the lens's mean radius px, the camera's, and the most they are apart px, each (N,).

        The last is NaN where no part of the image is so far from the axis.
        """
        angle = np.linspace(0, np.radians(self.degrees), count + 1)[1:]
        rays = directions(angle[:, None], _TURNS)
        theirs, ours = self.lens.project(rays), self.camera.project(rays)
        distance = np.hypot(*np.moveaxis(theirs - self.camera.centre, -1, 0)).mean(-1)
        mine = np.hypot(*np.moveaxis(ours - self.camera.centre, -1, 0)).mean(-1)
        apart = np.linalg.norm(theirs - ours, axis=-1)
        worst = np.where(self.camera.in_image(theirs), apart, -1.0).max(-1)
        return np.degrees(angle), distance, mine, np.where(worst < 0, np.nan, worst)


def fit(lens: Lens) -> Fit:
    """The two polynomials of a FisheyeCamera for a lens, of the lowest orders that miss it by less than CLOSE px.

    The camera is alike in all directions from its centre: of different focal lengths across and down it has the mean,
    and skew and tangential terms are left out; what that costs is in `miss`. Where the lens bends so much towards its
    edge that no polynomial goes back from there, the fit ends earlier. Raises CalibrationError where the lens's numbers
    give no image.
    """
    fits = []
    for growth in LEAST_GROWTH:
        fits.append(_fit(lens, growth))
        if fits[-1].round_trip < CLOSE:
            break
    made = min(fits, key=lambda made: made.round_trip)
    return replace(made, miss=float(np.nanmax(made.curves(_STEPS)[3])))


def _fit(lens, growth):
    angle, rho, covered = _profile(lens, growth)
    below = angle - np.pi / 2
    forwards = []
    for order in ORDERS:
        forwards.append(_series(below, rho, order))
        if np.abs(forwards[-1](below) - rho).max() < CLOSE / 4:
            break
    forward = min(forwards, key=lambda series: np.abs(series(below) - rho).max()).convert().coef.tolist()
    depth = -rho / np.tan(angle)
    centre = tuple(lens.matrix[:2, 2].tolist())
    circle = lens.circle or (None if covered else float(rho[-1]))
    pixels = np.stack([rho + centre[0], np.full_like(rho, centre[1])], axis=-1)
    chosen = None, np.inf
    for order in ORDERS:
        backward = _series(rho, depth, order).convert().coef.tolist()
        found = FisheyeCamera(lens.size, centre, tuple(backward), tuple(forward), circle)
        miss = float(np.abs(found.project(found.unproject(pixels, 1.0)) - pixels).max())
        if miss < chosen[1]:
            chosen = found, miss
        if miss < CLOSE:
            break
    return Fit(chosen[0], lens, np.nan, chosen[1], float(np.degrees(angle[-1])))


def _series(x, y, order):
    return np.polynomial.Polynomial.fit(x, y, order)


def equidistant_camera(size: tuple[int, int], centre: tuple[float, float], circle: float, fov: float) -> FisheyeCamera:
    """A lens whose image grows evenly with the angle, to fov / 2 degrees from its axis at the image circle, px."""
    focal = circle / np.radians(fov / 2)
    matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    return fit(Lens("equidistant", size, matrix, equidistant(()), fov / 2, circle)).camera
