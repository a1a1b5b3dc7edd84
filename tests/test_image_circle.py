"""The image circle that frames show, against circles that were drawn, SciPy's fit and real frames."""

import hashlib
import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CAMERA
from scipy.optimize import least_squares
from test_bad_input import CALIBRATION, Layout

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import DatasetError, calibration_of, image_circle
from agego_lib.datasets.image_circle import BrightestFrame, compare, fit_circle

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
FULL = (1280, 1024)


def picture(centre, radius, size=FULL, dark=22, seed=0, scale=1):
    """A frame: smooth blobs within the circle, dark at some places, and dark grey with noise around it, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    inside = cv2.resize(rng.uniform(dark + 10, 220, (8, 10)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    v, u = np.mgrid[: size[1], : size[0]]
    # The lens's soft edge: one pixel and a half wide.
    share = np.clip((radius - np.hypot(u - centre[0], v - centre[1])) / (1.5 * scale) + 0.5, 0, 1)
    grey = dark + share * (inside.clip(dark + 10, 255) - dark) + rng.normal(0, 0.7, inside.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("centre", [(614.4, 520.7), (659.7, 530.1), (640.0, 480.0)])
@pytest.mark.parametrize("radius", [512.0, 470.0])
@pytest.mark.parametrize("dark", [0, 22])
def test_a_drawn_circle_is_found(centre, radius, dark):
    found = fit_circle(picture(centre, radius, dark=dark)[..., 0])
    np.testing.assert_allclose([*found[0], found[1]], [*centre, radius], atol=2)


def test_a_small_image_is_no_less_exact():
    found = fit_circle(picture((161.7, 129.3), 120.0, (320, 256), dark=0)[..., 0])
    np.testing.assert_allclose([*found[0], found[1]], [161.7, 129.3, 120], atol=1)


def test_dark_clothes_and_a_lamp_outside_do_not_draw_it_away():
    image = picture((614.4, 520.7), 500.0)
    cv2.ellipse(image, (800, 950), (260, 160), 0, 0, 360, (22, 22, 22), -1)  # a dark trunk at the lower edge
    cv2.circle(image, (1230, 60), 45, (255, 255, 255), -1)
    found = fit_circle(image[..., 0])
    np.testing.assert_allclose([*found[0], found[1]], [614.4, 520.7, 500], atol=3)


def test_the_robust_fit_is_scipys():
    rng = np.random.default_rng(0)
    turn = rng.uniform(0, 2 * np.pi, 200)
    points = np.stack([50 + 40 * np.cos(turn), 45 + 40 * np.sin(turn)], axis=-1) + rng.normal(0, 0.1, (200, 2))
    points[:60] = points[:60] * 0.7 + 15  # inside

    def distance(circle):
        return np.hypot(*(points - circle[:2]).T) - circle[2]

    expected = least_squares(distance, [50, 45, 40], loss="cauchy", f_scale=0.004 * 40).x
    np.testing.assert_allclose(image_circle._robust_circle(points, (55.0, 40.0)), expected, atol=0.05)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((100, 120), np.uint8),
        np.full((100, 120), 200, np.uint8),
        picture((640, 512), 900.0)[..., 0],  # the whole image is within it
        picture((640, 512), 512.0)[212:812, 340:940, 0],
        cv2.resize(np.random.default_rng(3).integers(0, 255, (5, 6), dtype=np.uint8), (96, 80)),
        picture((-200, 512), 512.0)[..., 0],  # one side of it
        np.tile(np.where(np.arange(400) < 200, 22, 200).astype(np.uint8), (300, 1)),  # a straight edge
    ],
)
def test_where_there_is_no_circle_nothing_is_guessed(image):
    assert fit_circle(image) is None


def test_cropped_frames_count_where_they_lie_in_the_full_one():
    view, whole = InputView(FULL), picture((614.4, 520.7), 490.0)
    for frames in ([whole[:, 128:1152]], [whole[:, 128:1152], whole], [whole, whole[:, 128:1152]]):
        brightest = BrightestFrame(view)
        for frame in frames:
            brightest.add(frame)
        found = brightest.circle()
        np.testing.assert_allclose([*found[0], found[1]], [614.4, 520.7, 490], atol=2)
    assert BrightestFrame(view).circle() is None


def test_frames_that_are_lit_at_different_places_make_one_circle():
    view, brightest = InputView(FULL), BrightestFrame(InputView(FULL))
    for place in range(4):
        image = picture((614.4, 520.7), 500.0)
        rows, columns = (slice(0, 560), slice(460, 1024))[place // 2], (slice(0, 700), slice(580, 1280))[place % 2]
        kept = np.full_like(image, 22)
        kept[rows, columns] = image[rows, columns]
        brightest.add(kept)
        alone = BrightestFrame(view)
        alone.add(kept)
        assert alone.circle() is None
    found = brightest.circle()
    np.testing.assert_allclose([*found[0], found[1]], [614.4, 520.7, 500], atol=2)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real frames beside the repository")
@pytest.mark.parametrize("names", [["001000"], ["001796"], ["002376"], ["001796", "002376"], ["001000", "002376"]])
def test_real_frames_tell_the_right_calibration_from_the_old_one(names):
    right, old = (FisheyeCamera.from_json(REAL / f"fisheye.calibration{suffix}.json") for suffix in ("_05_08", ""))
    brightest = BrightestFrame(InputView(FULL))
    for name in names:
        brightest.add(cv2.imread(str(REAL / f"img_{name}.jpg")))
    (u, v), radius = circle = brightest.circle()
    # The centre as measured by hand on the first of them.
    assert np.hypot(u - 614.4, v - 520.7) < 6 and abs(radius - 508) < 8
    assert not image_circle.is_off(right, circle) and image_circle.is_off(old, circle)
    assert compare(right, "right.json", {"a": circle})["warning"] is None
    assert (
        "old.json may be of another camera: its principal point (659.7, 530.1)"
        in (compare(old, "old.json", {"a": circle})["warning"])
    )


def test_the_comparison_counts_sequences():
    right, wrong, none = ((80.0, 64.5), 64.0), ((70.0, 64.0), 64.0), None
    found = compare(CAMERA, "c.json", {"a": right, "b": none})
    assert found["frames"] == {"centre": [80.0, 64.5], "radius": 64.0} and found["warning"] is None
    assert found["sequences"] == {"a": [80.0, 64.5, 64.0], "b": None}
    assert found["calibration"] == {"file": "c.json", "centre": [80.0, 64.0], "radius": 64.0}
    many = {str(i): right for i in range(10)}
    assert compare(CAMERA, "c.json", many | {"x": wrong})["warning"] is None  # one may have been misread
    warning = compare(CAMERA, "c.json", many | {"x": wrong, "y": wrong})["warning"]
    assert "in 2 of 12 sequences" in warning and "first: x" in warning
    narrow = compare(CAMERA, "c.json", {"a": ((80.0, 64.0), 58.0)})["warning"]
    assert "radius 64 px differ" in narrow and "radius 58 px" in narrow
    unseen = compare(CAMERA, "c.json", {"a": None})
    assert unseen["frames"] is None and unseen["warning"] is None


def test_preparation_says_once_that_the_calibration_is_anothers(tmp_path):
    data = Layout(tmp_path, "egopw")
    report = data.prepare()
    assert set(report["circle"]["sequences"].values()) == {None} and report["circle"]["warning"] is None
    for number, path in enumerate(sorted(data.root.rglob("*.jpg"))):
        cv2.imwrite(str(path), picture((48, 40), 36.0, (96, 80), seed=number))
    for centre, warns in ((48.0, False), (55.0, True)):
        intrinsic = [[1, 0, centre, 0], [0, 1, 40.0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        data.calibration.write_text(json.dumps(CALIBRATION | {"intrinsic": intrinsic}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = data.prepare()
        said = [str(w.message) for w in caught if "image circle" in str(w.message)]
        assert said == [report["circle"]["warning"]] * warns
        np.testing.assert_allclose([*report["circle"]["frames"]["centre"]], [48, 40], atol=1)
        assert list(report["circle"]["sequences"]) == [
            "egopw/train/bad__one", "egopw/train/good__one", "egopw/test/test__one"
        ]  # fmt: skip
    assert "camera.json" in said[0] and "(55.0, 40.0)" in said[0] and "(48." in said[0]
    digest = hashlib.sha256(data.calibration.read_bytes()).hexdigest()
    assert calibration_of(data.root / "out") == {"file": "camera.json", "sha256": digest[:16]}
    for content in ("{}", "[1]", '{"calibration": "a"}'):
        (data.root / "out/splits.json").write_text(content)
        with pytest.raises(DatasetError, match=r"splits\.json: .*which calibration.*dvc repro prepare"):
            calibration_of(data.root / "out")
