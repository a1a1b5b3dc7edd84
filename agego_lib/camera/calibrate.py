"""A camera's calibration from pictures of a board: OpenCV's detection, and least squares in OpenCV's fisheye model.

cv2.fisheye.calibrate itself ends with an error, or with boards in wrong places, where its first guess is poor or a
corner lies 90 degrees from the axis; the solution is the same where it finds one.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import UInt8
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from agego_lib.camera.lens import Fit, Lens, directions, equidistant, fit
from agego_lib.camera.model import CalibrationError

LEAST_VIEWS, MOST_VIEWS = 8, 60
LEAST_CORNERS = 8  # in a view of a ChArUco board, part of which may be hidden
OUTLIER = 3.0  # times the median residual, from which on a view counts as misread
CELLS = 12  # across and down, by which coverage is told


@dataclass(frozen=True)
class Board:
    """A checkerboard of columns x rows inner corners, or a ChArUco board of columns x rows squares.

    square, marker: sides in metres. dictionary: of a ChArUco board's markers, such as "DICT_4X4_50"; None for a
    checkerboard. Raises CalibrationError for a dictionary that OpenCV does not know, and a board that is too small.
    """

    columns: int
    rows: int
    square: float
    dictionary: str | None = None
    marker: float | None = None

    def __post_init__(self):
        if min(self.columns, self.rows) < 3:
            raise CalibrationError(f"a board of {self.columns}x{self.rows}; expected at least 3x3, for example 9x6")
        if self.dictionary is not None and not hasattr(cv2.aruco, self.dictionary):
            known = [name for name in dir(cv2.aruco) if name.startswith("DICT_")]
            raise CalibrationError(f"dictionary {self.dictionary!r}; expected one of {', '.join(known)}")

    @cached_property
    def _charuco(self):
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        side = self.marker or 0.7 * self.square
        return cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, side, dictionary)

    @cached_property
    def points(self) -> np.ndarray:
        """Corners on the board, (N, 3) metres, z = 0."""
        if self.dictionary is not None:
            return np.asarray(self._charuco.getChessboardCorners(), dtype=np.float64)
        grid = np.stack(np.meshgrid(np.arange(self.columns), np.arange(self.rows)), axis=-1).reshape(-1, 2)
        return np.pad(grid * self.square, ((0, 0), (0, 1)))

    def find(self, grey: UInt8[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray] | None:
        """(numbers of the corners (n,), their pixels (n, 2)), or None where the board is not seen."""
        if self.dictionary is not None:
            corners, numbers = cv2.aruco.CharucoDetector(self._charuco).detectBoard(grey)[:2]
            if numbers is None or len(numbers) < LEAST_CORNERS:
                return None
            return numbers.ravel(), corners.reshape(-1, 2).astype(np.float64)
        found, corners = cv2.findChessboardCornersSB(
            grey, (self.columns, self.rows), flags=cv2.CALIB_CB_NORMALIZE_IMAGE
        )
        return (np.arange(len(self.points)), corners.reshape(-1, 2).astype(np.float64)) if found else None


@dataclass(frozen=True)
class View:
    """The board in one picture: its name, the corners' numbers (n,) and their pixels (n, 2)."""

    name: str
    numbers: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class Calibrated:
    """fit: the camera, and OpenCV's lens that its polynomials were fitted to. views: those used. dropped: those not.

    residuals: for each view (n, 2) px, found minus projected. rms: px over all corners. coverage: share of the picture,
    or of its circle, in whose CELLS x CELLS parts corners were. degrees: from the axis, of the outermost corner.
    """

    fit: Fit
    views: list
    dropped: list
    residuals: list
    rms: float
    coverage: float
    degrees: float


def spread(views: list, most: int = MOST_VIEWS) -> list:
    """At most so many views, each as different as can be from those before in place, size and tilt, in their order."""
    if len(views) <= most:
        return views
    about = []
    for view in views:
        low, high = view.pixels.min(0), view.pixels.max(0)
        about.append([*view.pixels.mean(0), *(high - low), *(view.pixels[-1] - view.pixels[0]) / 2])
    about = np.array(about) / np.std(about, axis=0).clip(1e-9)
    chosen = [int(np.linalg.norm(about - about.mean(0), axis=1).argmax())]
    nearest = np.full(len(views), np.inf)
    while len(chosen) < most:
        nearest = np.minimum(nearest, np.linalg.norm(about - about[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    return [views[i] for i in sorted(chosen)]


def _pose(points, rays):
    """Rotation vector and translation of a flat board, (6,), from its points (n, 2) and their rays (n, 3), linearly."""
    flat = np.column_stack([points, np.ones(len(points))])
    zero = np.zeros_like(flat)
    x, y, z = (rays[:, [i]] * flat for i in range(3))
    rows = np.concatenate([np.hstack([zero, -z, y]), np.hstack([z, zero, -x]), np.hstack([-y, x, zero])])
    plane = np.linalg.svd(rows, full_matrices=False)[2][-1].reshape(3, 3)
    plane /= np.sqrt(np.linalg.norm(plane[:, 0]) * np.linalg.norm(plane[:, 1]))
    if (rays * (flat @ plane.T)).sum() < 0:  # the board is in front of its rays
        plane = -plane
    u, _, v = np.linalg.svd(np.column_stack([plane[:, :2], np.cross(plane[:, 0], plane[:, 1])]))
    turn = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    return np.concatenate([Rotation.from_matrix(turn).as_rotvec(), plane[:, 2]])


def _projected(lens, poses, points, owner):
    """Pixels (n, 2) of board points (n, 3), each seen from the pose (6,) of its owner. lens: f, cx, cy, k1 to k4."""
    placed = Rotation.from_rotvec(poses[:, :3])[owner].apply(points) + poses[owner, 3:]
    return equidistant(tuple(lens[3:]))(placed) * lens[0] + lens[1:3]


def _start(board, views, size):
    """(f, cx, cy, 0, 0, 0, 0) and poses (n, 6) of an equidistant lens, of the focal length that suits most views."""
    centre = (np.array(size) - 1) / 2
    best = np.inf, None, None
    for focal in np.geomspace(0.15, 1.5, 25) * max(size):
        lens, poses, misses = np.array([focal, *centre, 0, 0, 0, 0]), [], []
        for view in views:
            away = view.pixels - centre
            r = np.linalg.norm(away, axis=-1)
            points = board.points[view.numbers]
            poses.append(_pose(points[:, :2], directions(r / focal, np.arctan2(away[:, 1], away[:, 0]))))
            seen = _projected(lens, poses[-1][None], points, np.zeros(len(points), int))
            misses.append(np.sqrt(((seen - view.pixels) ** 2).sum(-1).mean()))
        if np.median(misses) < best[0]:
            best = np.median(misses), lens, np.array(poses)
    return best[1:]


def _solve(board, views, size):
    """-> (f, cx, cy, k1 to k4), residuals (n, 2) px of each view."""
    lens, poses = _start(board, views, size)
    owner = np.repeat(np.arange(len(views)), [len(view.numbers) for view in views])
    points = np.concatenate([board.points[view.numbers] for view in views])
    pixels = np.concatenate([view.pixels for view in views])
    scale = np.array([lens[0], lens[0], lens[0], 0.1, 0.1, 0.1, 0.1])  # all unknowns of about one size
    used = np.hstack([np.ones((len(pixels), 7), bool), np.repeat(np.eye(len(views), dtype=bool)[owner], 6, axis=1)])

    def off(x):
        return (_projected(x[:7] * scale, x[7:].reshape(-1, 6), points, owner) - pixels).ravel()

    found = least_squares(
        off, np.concatenate([lens / scale, poses.ravel()]), jac_sparsity=np.repeat(used, 2, axis=0), x_scale="jac",
        loss="soft_l1", f_scale=1.0, max_nfev=200,
    )  # fmt: skip
    residuals = -off(found.x).reshape(-1, 2)
    return found.x[:7] * scale, np.split(residuals, np.flatnonzero(np.diff(owner)) + 1)


def calibrate(board: Board, views: list, size: tuple[int, int], source: str) -> Calibrated:
    """The camera that took the views of a board. size: (width, height) px. source: whose they are, for messages.

    Views whose residual is OUTLIER times the median's are dropped, and all is done once more. Raises CalibrationError
    for fewer than LEAST_VIEWS, and where no lens suits them.
    """
    dropped = []
    while True:
        if len(views) < LEAST_VIEWS:
            raise CalibrationError(
                f"{source}: the board can be used in {len(views)} pictures; expected at least {LEAST_VIEWS}, sharp, "
                "near the middle and near the edges, tilted in different ways. --board counts the inner corners of a "
                "checkerboard, and the squares of a ChArUco board"
            )
        lens, residuals = _solve(board, views, size)
        each = np.array([np.sqrt((r**2).sum(-1).mean()) for r in residuals])
        misread = each > OUTLIER * max(np.median(each), 0.1)
        if not misread.any():
            break
        dropped += [view for view, bad in zip(views, misread, strict=True) if bad]
        views = [view for view, bad in zip(views, misread, strict=True) if not bad]
    try:
        matrix = np.array([[lens[0], 0, lens[1]], [0, lens[0], lens[2]], [0, 0, 1]])
        made = fit(Lens("OpenCV fisheye", size, matrix, equidistant(tuple(lens[3:]))))
    except CalibrationError as error:
        raise CalibrationError(
            f"{source}: no lens suits the {len(views)} pictures of the board ({error}); expected sharp ones of a flat "
            "board, tilted in different ways"
        ) from None
    corners = np.concatenate([view.pixels for view in views])
    rays = made.camera.unproject(corners, 1.0)
    angles = np.degrees(np.arctan2(np.hypot(rays[:, 0], rays[:, 1]), rays[:, 2]))
    rms = float(np.sqrt((np.concatenate(residuals) ** 2).sum(-1).mean()))
    return Calibrated(made, views, dropped, residuals, rms, _coverage(corners, made.camera), float(angles.max()))


def _coverage(corners, camera):
    size = np.array(camera.size)
    cell = (corners / size * CELLS).astype(int).clip(0, CELLS - 1)
    hit = np.zeros((CELLS, CELLS), bool)
    hit[cell[:, 1], cell[:, 0]] = True
    middles = (np.stack(np.meshgrid(*[np.arange(CELLS)] * 2), axis=-1) + 0.5) / CELLS * size - 0.5
    seen = camera.in_image(middles) | hit
    return float(hit.sum() / seen.sum())
