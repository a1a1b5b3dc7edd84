"""The fisheye camera of EgoPW and SceneEgo: Scaramuzza's omnidirectional model, read from OCamCalib's JSON.

Camera frame: x right, y down, z forward along the optical axis, in metres.
Pixels are (u, v) in the full image; whole numbers are pixel centres.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short

import numpy as np
from jaxtyping import Bool, Float64, Num

from agego_lib.files import read_json

# px by which projecting back may miss. OCamCalib extends its inverse polynomial until it misses by under 0.01 px, and
# published calibrations that are in use miss by 0.008 px at most; one whose polynomials are of two lenses, by tens.
MAX_MISS = 1.0


class CalibrationError(ValueError):
    """A calibration file that cannot be used; the message names the file and the field."""


def _vector(raw, key, path, length=None):
    try:
        value = np.asarray(raw[key], dtype=np.float64)
    except KeyError:
        raise CalibrationError(f"{path}: no field '{key}'; expected an OCamCalib calibration JSON with it") from None
    except (TypeError, ValueError, OverflowError):
        raise CalibrationError(f"{path}: field '{key}' holds {short(raw[key])}; expected a list of numbers") from None
    if value.ndim != 1 or not value.size or not np.isfinite(value).all() or (length and len(value) != length):
        wanted = f"{length} finite numbers" if length else "a list of finite numbers"
        raise CalibrationError(f"{path}: field '{key}' holds {short(raw[key])}; expected {wanted}")
    return value


def _centre(raw, path):
    """The principal point, px, from `intrinsic`, or from `image_center`, as other projects' calibrations have it."""
    if "intrinsic" not in raw and "image_center" in raw:
        return tuple(_vector(raw, "image_center", path, 2).tolist())
    try:
        centre = float(raw["intrinsic"][0][2]), float(raw["intrinsic"][1][2])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        raise CalibrationError(
            f"{path}: field 'intrinsic' gives no principal point; expected a matrix with [0][2] and [1][2] in px, or "
            "'image_center': [u, v] in its place"
        ) from None
    if not np.isfinite(centre).all():
        raise CalibrationError(f"{path}: principal point {centre} in 'intrinsic'; expected finite numbers")
    return centre


@dataclass(frozen=True)
class FisheyeCamera:
    """Scaramuzza (OCamCalib) fisheye camera; the affine terms are ignored, as the data sets' own code does.

    size: (width, height) px. centre: (cx, cy) px. c2w, w2c: polynomial coefficients, lowest order first.
    radius: image circle's radius in px, or None where the calibration has none.
    """

    size: tuple[int, int]
    centre: tuple[float, float]
    c2w: tuple[float, ...]
    w2c: tuple[float, ...]
    radius: float | None = None

    @classmethod
    def from_json(cls, path: str | Path) -> "FisheyeCamera":
        """Read a calibration JSON. Raises CalibrationError naming the file and the field at fault.

        Refused too: two polynomials that contradict each other inside the image circle, by more than MAX_MISS px.
        """
        path = Path(path)
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise CalibrationError(f"{path}: no such calibration file; expected an OCamCalib JSON") from None
        except (ValueError, OSError) as error:
            raise CalibrationError(f"{path}: not readable as JSON ({error}); expected an OCamCalib JSON") from None
        if not isinstance(raw, dict):
            raise CalibrationError(f"{path}: holds a {type(raw).__name__}; expected a JSON object")
        size = _vector(raw, "size", path, 2)
        if not ((size > 0) & (size < 1 << 16)).all():
            raise CalibrationError(
                f"{path}: field 'size' holds {short(raw['size'])}; expected width and height above 0 and below 65536"
            )
        radius = raw.get("imageCircleRadius")
        if radius is not None and not (type(radius) in (int, float) and 0 < radius < 1 << 16):
            raise CalibrationError(f"{path}: field 'imageCircleRadius' holds {short(radius)}; expected px above 0")
        camera = cls(
            size=(int(size[0]), int(size[1])),
            centre=_centre(raw, path),
            c2w=tuple(_vector(raw, "polynomialC2W", path)),
            w2c=tuple(_vector(raw, "polynomialW2C", path)),
            radius=None if radius is None else float(radius),
        )
        miss = camera.round_trip_miss()
        if not miss <= MAX_MISS:
            raise CalibrationError(
                f"{path}: 'polynomialC2W' and 'polynomialW2C' contradict each other: a pixel of the image circle, "
                f"taken to its ray and projected back, misses by {miss:.4g} px; expected at most {MAX_MISS:g}. Both "
                "run from the lowest order up, and must be of the same calibration"
            )
        return camera

    def round_trip_miss(self) -> float:
        """The most by which project(unproject(pixel)) misses the pixel, px, inside the image circle.

        Where the circle's radius is unknown, a quarter of the image's shorter side stands for it: lenses see more.
        """
        rho = np.linspace(0, self.radius or min(self.size) / 4, 513)[1:]  # the model is the same in every direction
        pixels = np.stack([self.centre[0] + rho, np.full_like(rho, self.centre[1])], axis=-1)
        with np.errstate(all="ignore"):  # numbers of any size: what overflows misses
            return float(np.abs(self.project(self.unproject(pixels, 1.0)) - pixels).max())

    def to_json(self) -> str:
        """The calibration as JSON text that `from_json` and the data sets' own code read."""
        return json.dumps(
            {
                "size": list(self.size),
                "intrinsic": [[1, 0, self.centre[0], 0], [0, 1, self.centre[1], 0], [0, 0, 1, 0], [0, 0, 0, 1]],
                "imageCircleRadius": self.radius,
                "polynomialC2W": list(self.c2w),
                "polynomialW2C": list(self.w2c),
                "affine": [1.0, 0.0, 0.0],
            },
            indent=2,
        )

    def scaled(self, factor: float) -> "FisheyeCamera":
        """The same lens on an image resized by `factor` in both directions."""
        width, height = (round(side * factor) for side in self.size)
        return replace(
            self,
            size=(width, height),
            centre=tuple((c + 0.5) * factor - 0.5 for c in self.centre),
            c2w=tuple(a * factor ** (1 - i) for i, a in enumerate(self.c2w)),
            w2c=tuple(b * factor for b in self.w2c),
            radius=None if self.radius is None else self.radius * factor,
        )

    def cropped(self, left: int, top: int, size: tuple[int, int]) -> "FisheyeCamera":
        """The same lens on the part (width, height) of its image that begins at (left, top), px."""
        return replace(self, size=tuple(size), centre=(self.centre[0] - left, self.centre[1] - top))

    def turned(self, quarters: int) -> "FisheyeCamera":
        """The same lens on the image turned by quarters of a circle clockwise; its axes turn with the image."""
        (width, height), (u, v) = self.size, self.centre
        for _ in range(quarters % 4):
            width, height, u, v = height, width, height - 1 - v, u
        return replace(self, size=(width, height), centre=(u, v))

    def project(self, points: Num[np.ndarray, "*N 3"]) -> Float64[np.ndarray, "*N 2"]:
        """Points in metres -> pixels in the full image.

        A point on the optical axis (r = 0, z > 0) gives the principal point. Where no direction is defined
        (the camera's own centre, or the axis behind it) and for NaN points the pixel is NaN.
        """
        points = np.asarray(points, dtype=np.float64)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        r = np.hypot(x, y)
        rho = np.polynomial.polynomial.polyval(np.arctan2(-z, r), self.w2c)
        on_axis = r == 0
        scale = rho / np.where(on_axis, 1.0, r)
        scale = np.where(on_axis & ~(z > 0), np.nan, scale)
        return np.stack([x * scale + self.centre[0], y * scale + self.centre[1]], axis=-1)

    def unproject(
        self, pixels: Num[np.ndarray, "*N 2"], distance: float | Num[np.ndarray, "*N"]
    ) -> Float64[np.ndarray, "*N 3"]:
        """Pixels and distances along the ray in metres (not depths along z) -> points."""
        pixels = np.asarray(pixels, dtype=np.float64)
        x, y = pixels[..., 0] - self.centre[0], pixels[..., 1] - self.centre[1]
        z = -np.polynomial.polynomial.polyval(np.hypot(x, y), self.c2w)
        ray = np.stack([x, y, z], axis=-1)
        return ray / np.linalg.norm(ray, axis=-1, keepdims=True) * np.asarray(distance, dtype=np.float64)[..., None]

    def in_image(self, pixels: Num[np.ndarray, "*N 2"]) -> Bool[np.ndarray, "*N"]:
        """Whether pixels lie inside the image and, where the calibration has one, its circle."""
        pixels = np.asarray(pixels, dtype=np.float64)
        u, v = pixels[..., 0], pixels[..., 1]
        inside = (u >= -0.5) & (v >= -0.5) & (u < self.size[0] - 0.5) & (v < self.size[1] - 0.5)
        if self.radius is not None:
            inside &= np.hypot(u - self.centre[0], v - self.centre[1]) <= self.radius
        return inside
