"""The view: how a full image becomes the square that a network sees, and how pixels go with it."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float64, Num, Shaped

from agego_lib.camera.model import FisheyeCamera

CROPS = ("none", "square", "fovea")
# The virtual lens of "fovea", in degrees: it looks TILT below the camera's axis, towards the body; HALF from there lies
# at the middle of the view's sides; beyond FOVEA pixels get scarce. So a pixel covers about as many millimetres of the
# feet, 1.5 m away and a few degrees from its middle, as of the shoulders, which are near and at its rim.
TILT, HALF, FOVEA = 15.0, 85.0, 55.0
WIDEST = 150.0  # degrees from the axis, which pixels in the view's corners stand for
FINER = 2  # times as many pixels a side are looked up as the view has
MAX_APART = 0.02  # a degree: between a direction and that of the pixel it is projected to


@dataclass(frozen=True)
class InputView:
    """How a full image becomes the square that a network sees, and how pixels go with it.

    full_size: (width, height) px of the calibration. size: side of the square in px.
    crop: "none" squeezes the whole image (the authors' release), "square" takes the central square first (SceneEgo),
    "fovea" looks through a virtual lens, the same whatever the camera's own is, with most pixels where the limbs are.
    camera: of the full image; "fovea" needs it.
    """

    full_size: tuple[int, int]
    size: int = 256
    crop: str = "none"
    camera: FisheyeCamera | None = None

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f"crop {self.crop!r}; expected one of {', '.join(map(repr, CROPS))}")
        if self.crop == "fovea" and (self.camera is None or tuple(self.camera.size) != tuple(self.full_size)):
            raise ValueError("crop 'fovea' without a camera, or with one of another image size; expected the image's")

    @classmethod
    def of(cls, camera: FisheyeCamera, size: int, crop: str) -> "InputView":
        """The view of a camera's images."""
        return cls(camera.size, size, crop, camera if crop == "fovea" else None)

    @property
    def central_square(self) -> tuple[int, int, int]:
        """(left, top, side) px of the full image's central square."""
        width, height = self.full_size
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, side

    @property
    def _box(self):
        if self.crop == "none":
            return 0, 0, *self.full_size
        left, top, side = self.central_square
        return left, top, side, side

    def check_size(self, width: int, height: int) -> None:
        """Raise ValueError unless `apply` takes an image of this size, px."""
        side = min(self.full_size)
        if (width, height) not in (tuple(self.full_size), (side, side)):
            raise ValueError(
                f"image of {width}x{height} px; expected the calibration's {self.full_size[0]}x{self.full_size[1]} "
                f"or its central square {side}x{side}"
            )

    def whole(self, image: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "H W 3"]:
        """Full image, or one already cropped to the central square, -> the full one, black where cropped.

        Raises ValueError where the image has neither the calibration's size nor that of its central square.
        """
        found = image.shape[1], image.shape[0]
        self.check_size(*found)
        if found == tuple(self.full_size):
            return image
        # Some SceneEgo frames are stored so.
        left, top, side = self.central_square
        full = np.zeros((*self.full_size[::-1], *image.shape[2:]), image.dtype)
        full[top : top + side, left : left + side] = image
        return full

    def apply(self, image: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "size size 3"]:
        """What `whole` takes -> the view, same dtype. Raises ValueError as it does."""
        image = self.whole(image)
        if self.crop == "fovea":
            halvings, lookup = self._lookup
            for _ in range(halvings):
                image = halved(image)
            fine = cv2.remap(image, *lookup, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            return cv2.resize(fine, (self.size, self.size), interpolation=cv2.INTER_AREA)
        x, y, w, h = self._box
        return cv2.resize(image[y : y + h, x : x + w], (self.size, self.size), interpolation=cv2.INTER_AREA)

    @cached_property
    def _lookup(self):
        """(times that the image is halved, cv2's maps into it): a large one is reduced, lest pixels be passed over."""
        side = FINER * self.size
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1)
        wanted = rays(grid, side)
        pixels = self.camera.project(wanted)
        # Beyond where the lens was calibrated its polynomials may fold back into the image: a pixel that is of another
        # ray shows something else. There, as where the lens gives no light, all is as dark as beyond the image.
        with np.errstate(invalid="ignore"):
            apart = np.linalg.norm(self.camera.unproject(pixels, 1.0) - wanted, axis=-1)
        pixels[~(apart < MAX_APART)] = np.nan
        # Pixels of the image to one of the grid, in the middle of the view, where they are closest.
        middle = self.to_full([[side / 2, side / 2], [side / 2 + 1, side / 2]], side)
        halvings = max(0, round(np.log2(np.linalg.norm(middle[1] - middle[0]))))
        maps = np.nan_to_num((pixels + 0.5) / 2**halvings - 0.5, nan=-10.0).clip(-10, 1e4).astype(np.float32)
        return halvings, cv2.convertMaps(maps, None, cv2.CV_16SC2)

    def to_view(self, pixels: Num[np.ndarray, "*N 2"], size: int | None = None) -> Float64[np.ndarray, "*N 2"]:
        """Full-image pixels -> pixels of the view, or of maps of another side `size` over the same view."""
        size = size or self.size
        if self.crop == "fovea":
            return project(self.camera.unproject(pixels, 1.0), size)
        x, y, w, h = self._box
        return (np.asarray(pixels, dtype=np.float64) + 0.5 - (x, y)) * (size / w, size / h) - 0.5

    def to_full(self, pixels: Num[np.ndarray, "*N 2"], size: int | None = None) -> Float64[np.ndarray, "*N 2"]:
        """Pixels of the view (or of maps of side `size`) -> full-image pixels."""
        size = size or self.size
        if self.crop == "fovea":
            return self.camera.project(rays(pixels, size))
        x, y, w, h = self._box
        return (np.asarray(pixels, dtype=np.float64) + 0.5) * (w / size, h / size) - 0.5 + (x, y)


def halved(image: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "h/2 w/2 3"]:
    """An image at exactly half its size, which OpenCV does ten times as fast as any other share; odd edges are cut."""
    height, width = (side // 2 for side in image.shape[:2])
    return cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


# The virtual lens: a ray at the angle a from its axis lies SCALE * a / sqrt(1 + (a / FOVEA)^2) half sides from the
# middle of the view.
_FOVEA, _HALF, _TILT = np.radians((FOVEA, HALF, TILT))
SCALE = np.sqrt(1 + (_HALF / _FOVEA) ** 2) / _HALF
# Columns: the virtual lens's axes (x right, y down, z forward) in the camera's.
TURN = np.array([[1, 0, 0], [0, np.cos(_TILT), np.sin(_TILT)], [0, -np.sin(_TILT), np.cos(_TILT)]])


def project(points: Num[np.ndarray, "*N 3"], size: int) -> Float64[np.ndarray, "*N 2"]:
    """Points or directions in the camera's frame -> pixels of a "fovea" view of side `size`, of any camera."""
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64) @ TURN, -1, 0)
    r = np.hypot(x, y)
    angle = np.arctan2(r, z)
    rho = SCALE * angle / np.sqrt(1 + (angle / _FOVEA) ** 2)
    share = rho / np.where(r == 0, 1.0, r)
    return (np.stack([x * share, y * share], axis=-1) + 1) * (size / 2) - 0.5


def rays(pixels: Num[np.ndarray, "*N 2"], size: int) -> Float64[np.ndarray, "*N 3"]:
    """Pixels of a "fovea" view of side `size` -> unit directions, camera frame, at most WIDEST from the axis."""
    place = (np.asarray(pixels, dtype=np.float64) + 0.5) * (2 / size) - 1
    rho = np.linalg.norm(place, axis=-1)
    root = np.sqrt(np.maximum(SCALE**2 - (rho / _FOVEA) ** 2, 1e-12))
    angle = np.minimum(rho / root, np.radians(WIDEST))
    share = np.sin(angle) / np.where(rho == 0, 1.0, rho)
    local = np.concatenate([place * share[..., None], np.cos(angle)[..., None]], axis=-1)
    return local @ TURN.T
