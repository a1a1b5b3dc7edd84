"""Calibrations as people have them: OpenCV's fisheye and omnidir models, Kalibr's camchains, OCamCalib's own files."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr

import numpy as np
import yaml

from agego_lib.camera.lens import Fit, Lens, double_sphere, equidistant, extended_unified, fit, unified
from agego_lib.camera.model import MAX_MISS, CalibrationError, FisheyeCamera
from agego_lib.files import read_text

UNDERSTOOD = (
    "OCamCalib's calib_results.txt, a JSON with polynomialC2W and polynomialW2C, OpenCV's fisheye or omnidir model "
    "(K, D of 4, image size; YAML or JSON), or a Kalibr camchain (pinhole with equi, omni with radtan, ds, eucm)"
)
MAX_BYTES, MAX_ALIASES = 1 << 18, 32
_short = Repr()
_short.maxlevel = 2  # as deep as numbers may lie: more would make a long message
short = _short.repr
# Spellings in use, in lower case and without what is no letter or digit.
_MATRIX = ("k", "cameramatrix", "intrinsicmatrix", "mtx")
_COEFFICIENTS = ("d", "distcoeffs", "distcoeff", "dist", "distortioncoefficients", "distortioncoeffs", "distortion")
_SIZE = ("size", "imagesize", "imgsize", "dim", "resolution")
_WIDTH, _HEIGHT = ("imagewidth", "width", "w"), ("imageheight", "height", "h")
_FISHEYE = ("fisheye", "equidistant", "equi", "kannalabrandt", "kb4", "opencvfisheye")


@dataclass(frozen=True)
class Calibration:
    """What a calibration file gives.

    camera: FisheyeCamera. kind: of the file, in words. fit: of the camera's polynomials, where the file has another
    model. affine: px, the most that the affine terms, which the camera leaves out, would move a pixel of the image.
    """

    camera: FisheyeCamera
    kind: str
    fit: Fit | None = None
    affine: float = 0.0


class _Loader(yaml.SafeLoader):
    """YAML as OpenCV writes it too, whose matrices are tagged, with few references: many stand for gigabytes."""

    aliases = 0

    def compose_node(self, parent, index):
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > MAX_ALIASES:
            raise yaml.YAMLError(f"more than {MAX_ALIASES} references within it")
        return super().compose_node(parent, index)


# The second is how OpenCV 5 writes an array of one dimension.
for _tag in ("opencv-matrix", "opencv-nd-matrix"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda loader, node: loader.construct_mapping(node, deep=True))


def read_camera(path: str | Path, camera: str | None = None) -> Calibration:
    """Read a calibration of any kind that is UNDERSTOOD. camera: which one of a Kalibr camchain; its first by default.

    Raises CalibrationError, which names the file, what was found and what is understood.
    """
    path = Path(path)
    try:
        text = read_text(path, MAX_BYTES, "utf-8-sig")
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such calibration file; understood are {UNDERSTOOD}") from None
    except (ValueError, OSError) as error:
        raise CalibrationError(f"{path}: not readable ({error}); understood are {UNDERSTOOD}") from None
    rows = _numbers(text)
    if rows:
        return _one_alone(camera, path) or _ocamcalib(rows, path)
    raw = _mapping(text, path)
    if "polynomialC2W" in raw or "polynomialW2C" in raw:
        return _one_alone(camera, path) or _own(raw, path)
    cameras = [key for key, value in raw.items() if re.fullmatch(r"cam\d+", str(key)) and isinstance(value, dict)]
    if cameras:
        name = camera or cameras[0]
        if name not in cameras:
            raise CalibrationError(f"{path}: no camera {name!r}; expected one of {', '.join(cameras[:9])}")
        lens = _kalibr(raw[name], f"{path}: {name}")
    elif "camera_model" in raw:
        lens = _one_alone(camera, path) or _kalibr(raw, path)
    else:
        lens = _one_alone(camera, path) or _opencv(raw, path)
    try:
        made = fit(lens)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    return Calibration(made.camera, lens.kind, made)


def _one_alone(camera, path):
    if camera is not None:
        raise CalibrationError(f"{path}: of one camera, so there is no {camera!r} in it; leave its name out")


def _numbers(text):
    """Rows of numbers of a text that has nothing else in it but comments, else None."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "%"))]
    try:
        return [[float(word) for word in row] for row in rows]
    except ValueError:
        return None


def _mapping(text, path):
    try:
        if text.lstrip().startswith("{"):
            raw = json.loads(text)
        else:
            # OpenCV's own first line, %YAML:1.0, is none that YAML knows.
            raw = yaml.load(re.sub(r"\A\s*%YAML[^\n]*", "", text), _Loader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split()) or "nested too deeply"
        raise CalibrationError(
            f"{path}: not readable as JSON, YAML or numbers ({said}); understood are {UNDERSTOOD}"
        ) from None
    if not isinstance(raw, dict):
        raise CalibrationError(f"{path}: holds a {type(raw).__name__}; understood are {UNDERSTOOD}")
    return raw


def _own(raw, path):
    camera = FisheyeCamera.from_json(path)
    terms = raw.get("affine")
    try:
        affine = _affine(camera, *(float(v) for v in terms)) if terms is not None else 0.0
    except (TypeError, ValueError, OverflowError):
        raise CalibrationError(f"{path}: field 'affine' holds {short(terms)}; expected three numbers c, d, e") from None
    return Calibration(camera, "OCamCalib JSON", affine=affine)


def _affine(camera, c, d, e):
    """px by which OCamCalib's affine terms move a pixel of the image or its circle, at the most.

    Rows: v = c v' + d u'; columns: u = e v' + u', from the centre.
    """
    reach = camera.radius or max(np.hypot(*(np.subtract(camera.size, 1) * end - camera.centre)) for end in _CORNERS)
    return float(np.linalg.norm([[c - 1, d], [e, 0.0]], 2) * reach)


_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _ocamcalib(rows, path):
    """calib_results.txt: two polynomials, centre (row, column), affine terms c d e, size (height, width)."""

    def fail(found, expected):
        raise CalibrationError(
            f"{path}: {found}; expected {expected}, as OCamCalib writes calib_results.txt: the polynomials' lengths "
            "and coefficients, the centre's row and column, c d e, height and width, each on a line"
        )

    if len(rows) != 5:
        fail(f"{len(rows)} lines of numbers", "5")
    if not all(np.isfinite(row).all() for row in rows):
        fail("a number that is not finite", "finite ones")
    for row, name in zip(rows, ("direct", "inverse"), strict=False):
        if len(row) < 2 or row[0] != len(row) - 1:
            fail(f"{len(row) - 1} coefficients of the {name} polynomial, which says that it has {row[0]:g}", "as many")
    for row, count, name in ((rows[2], 2, "centre"), (rows[3], 3, "affine terms"), (rows[4], 2, "size")):
        if len(row) != count:
            fail(f"{len(row)} numbers of the {name}", str(count))
    height, width = rows[4]
    if not all(0 < side < 1 << 16 and side == int(side) for side in (height, width)):
        fail(f"a height and width of {height:g} and {width:g} px", "whole numbers above 0 and below 65536")
    camera = FisheyeCamera((int(width), int(height)), (rows[2][1], rows[2][0]), tuple(rows[0][1:]), tuple(rows[1][1:]))
    miss = camera.round_trip_miss()
    if not miss <= MAX_MISS:
        fail(f"polynomials that contradict each other, by {miss:.4g} px there and back", "ones of the same calibration")
    return Calibration(camera, "OCamCalib calib_results.txt", affine=_affine(camera, *rows[3]))


def _array(value, where, count=None):
    """Numbers, also of OpenCV's and ROS's {rows, cols, data}, as a flat array."""
    if isinstance(value, dict) and "data" in value:
        value = value["data"]
    rows = value if isinstance(value, list) else [value]
    # A number, a list of them, or rows: nothing deeper, as with YAML's aliases a short text can be huge.
    flat = [number for row in rows[:99] for number in (row[:99] if isinstance(row, list) else [row])]
    try:
        found = np.array([float(number) for number in flat])
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not np.isfinite(found).all() or (count is not None and len(found) != count):
        wanted = "finite numbers" if count is None else f"{count} finite numbers"
        raise CalibrationError(f"{where} holds {short(value)}; expected {wanted}")
    return found


def _size(values, where):
    if not all(0 < v < 1 << 16 and v == int(v) for v in values):
        raise CalibrationError(f"{where} is {short(list(values))}; expected width and height, px, above 0, below 65536")
    return int(values[0]), int(values[1])


def _matrix(fx, fy, cx, cy, where, skew=0.0):
    if not (fx > 0 and fy > 0):
        raise CalibrationError(f"{where}: focal lengths {fx:g} and {fy:g} px; expected ones above 0")
    return np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1]])


def _opencv(raw, path):
    """OpenCV's fisheye model, or omnidir's where there is a xi, under the names that are in use."""
    plain = {re.sub(r"[^a-z0-9]", "", str(key).lower()): (key, value) for key, value in raw.items()}

    def get(names, what):
        found = next((plain[name] for name in names if name in plain), None)
        if found is None:
            raise CalibrationError(f"{path}: no {what}, only {short(list(raw))}; understood are {UNDERSTOOD}")
        return f"{path}: field '{found[0]}'", found[1]

    where, value = get(_MATRIX, "camera matrix 'K'")
    k = _array(value, where, 9).reshape(3, 3)
    matrix = _matrix(k[0, 0], k[1, 1], k[0, 2], k[1, 2], where, k[0, 1])
    model = short(next((plain[n][1] for n in ("distortionmodel", "model", "cameramodel") if n in plain), ""))
    where, value = get(_COEFFICIENTS, "distortion 'D'")
    d = _array(value, where)
    known = re.sub(r"[^a-z0-9]", "", model.lower())
    if len(d) != 4 or (known and known not in _FISHEYE and "xi" not in plain):
        said = f", and the model {model}" if known else ""
        raise CalibrationError(
            f"{where} has {len(d)} coefficients{said}; expected the 4 of OpenCV's fisheye model. Five or more are of "
            "cv2.calibrateCamera, whose model ends before 90 degrees: calibrate with cv2.fisheye.calibrate, or here "
            "with python -m agego_lib.camera calibrate"
        )
    if any(name in plain for name in _SIZE):
        where, value = get(_SIZE, "image size")
        size = _size(_array(value, where, 2), where)
    else:
        found = [
            get(names, f"image size ('size': [width, height], or 'image_{what}')")
            for names, what in ((_WIDTH, "width"), (_HEIGHT, "height"))
        ]
        size = _size([_array(value, where, 1)[0] for where, value in found], f"{path}: image size")
    if "xi" in plain:
        key, value = plain["xi"]
        return Lens("OpenCV omnidir", size, matrix, unified(_array(value, f"{path}: field '{key}'", 1)[0], d))
    return Lens("OpenCV fisheye", size, matrix, equidistant(tuple(d)))


# (camera_model, distortion_model): how many intrinsics come before fu, fv, pu, pv, and what makes the plane of all.
_KALIBR = {
    ("pinhole", "equidistant"): (0, lambda _, d: equidistant(tuple(d))),
    ("omni", "radtan"): (1, lambda own, d: unified(own[0], d)),
    ("omni", "none"): (1, lambda own, _: unified(own[0], (0.0,) * 4)),
    ("ds", "none"): (2, lambda own, _: double_sphere(*own)),
    ("eucm", "none"): (2, lambda own, _: extended_unified(*own)),
}


def _kalibr(raw, where):
    """One camera of a Kalibr camchain."""
    names = tuple(short(raw.get(key) or "none").strip("'") for key in ("camera_model", "distortion_model"))
    names = names[0], {"equi": "equidistant"}.get(names[1], names[1])
    if names not in _KALIBR:
        listed = ", ".join(f"{a} with {b}" for a, b in _KALIBR)
        raise CalibrationError(
            f"{where}: camera_model {names[0]!r} with distortion_model {names[1]!r}; understood are {listed}"
        )
    own, make = _KALIBR[names]
    for key in ("intrinsics", "resolution"):
        if key not in raw:
            raise CalibrationError(f"{where}: no field '{key}'; expected it, as Kalibr writes it")
    numbers = _array(raw["intrinsics"], f"{where}: 'intrinsics'", own + 4).tolist()
    coefficients = [0.0] * 4
    if names[1] != "none":
        coefficients = _array(raw.get("distortion_coeffs"), f"{where}: 'distortion_coeffs'", 4).tolist()
    size = _size(_array(raw["resolution"], f"{where}: 'resolution'", 2), f"{where}: 'resolution'")
    return Lens(f"Kalibr {'-'.join(names)}", size, _matrix(*numbers[own:], where), make(numbers[:own], coefficients))
