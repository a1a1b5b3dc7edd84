"""The fisheye camera against a scalar loop, a closed-form lens and the data sets' own calibrations."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation

from agego_lib.camera import CalibrationError, FisheyeCamera, InputView
from agego_lib.camera import view as fovea

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
PUBLISHED = REAL.parent / "published/calibrations"
REAL_CALIBRATIONS = ("fisheye.calibration.json", "fisheye.calibration_05_08.json")


def stereographic(f=280.0, size=(1280, 1024), centre=(652.25, 521.5), radius=500.0):
    """Calibration of a stereographic lens, rho = 2 f tan(phi / 2) with phi the angle from the optical axis.

    Its inverse polynomial is exact, z' = -(f - rho^2 / (4 f)); the forward one is fitted.
    """
    phi = np.linspace(0, 2 * math.atan(radius / (2 * f)), 400)
    forward = np.polynomial.Polynomial.fit(phi - math.pi / 2, 2 * f * np.tan(phi / 2), 10).convert().coef
    return {
        "size": list(size),
        "intrinsic": [[1, 0, centre[0], 0], [0, 1, centre[1], 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        "imageCircleRadius": radius,
        "polynomialC2W": [-f, 0.0, 1 / (4 * f)],
        "polynomialW2C": list(forward),
        "affine": [1.0, 0.0, 0.0],
    }


def load(tmp_path, raw):
    path = tmp_path / "calibration.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return FisheyeCamera.from_json(path)


def real_calibration(name):
    if not (REAL / name).exists():
        pytest.skip(f"no real calibration {name} beside the repository")
    return REAL / name


@pytest.fixture
def camera(tmp_path):
    return load(tmp_path, stereographic())


@pytest.fixture(params=[None, *REAL_CALIBRATIONS])
def calibration(request):
    """The raw JSON of the closed-form lens and of each real calibration."""
    return json.loads(real_calibration(request.param).read_text()) if request.param else stereographic()


def loop_project(raw, point):
    x, y, z = point
    r = math.sqrt(x * x + y * y)
    cx, cy = raw["intrinsic"][0][2], raw["intrinsic"][1][2]
    if r == 0:
        return cx, cy
    theta = math.atan(-z / r)
    rho = sum(b * theta**i for i, b in enumerate(raw["polynomialW2C"]))
    return x / r * rho + cx, y / r * rho + cy


def loop_unproject(raw, pixel, distance):
    x, y = pixel[0] - raw["intrinsic"][0][2], pixel[1] - raw["intrinsic"][1][2]
    rho = math.sqrt(x * x + y * y)
    z = -sum(a * rho**i for i, a in enumerate(raw["polynomialC2W"]))
    norm = math.sqrt(x * x + y * y + z * z)
    return [distance * value / norm for value in (x, y, z)]


def pixels_in_circle(camera, count=2000):
    rng = np.random.default_rng(0)
    rho, angle = camera.radius * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    return np.stack([rho * np.cos(angle), rho * np.sin(angle)], -1) + camera.centre


def test_project_and_unproject_are_the_datasets_formulas(tmp_path, calibration):
    camera = load(tmp_path, calibration)
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal((0, 0, 1.2), size=(4, 20, 3)), [[[0, 0, 2.0]] * 20]])
    pixels = camera.project(points)
    assert pixels.shape == (5, 20, 2) and pixels.dtype == np.float64
    distances = rng.uniform(0.1, 3, (5, 20))
    rays = camera.unproject(pixels, distances)
    for place in np.ndindex(5, 20):
        np.testing.assert_allclose(pixels[place], loop_project(calibration, points[place]), rtol=1e-11)
        wanted = loop_unproject(calibration, pixels[place], distances[place])
        np.testing.assert_allclose(rays[place], wanted, rtol=1e-9, atol=1e-12)


def test_round_trip_over_the_image_circle(tmp_path, calibration):
    camera = load(tmp_path, calibration)
    pixels = pixels_in_circle(camera)
    distances = np.random.default_rng(2).uniform(0.2, 3, len(pixels))
    points = camera.unproject(pixels, distances)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), distances)
    # The real calibrations' two polynomials agree to about 2e-5 px.
    assert np.abs(camera.project(points) - pixels).max() < 1e-3


def test_unproject_is_the_closed_form_lens(camera):
    for degrees in (0, 10, 45, 80):
        phi = math.radians(degrees)
        rho = 2 * 280.0 * math.tan(phi / 2)
        right = camera.unproject(np.add(camera.centre, [rho, 0]), 2.0)
        np.testing.assert_allclose(right, [2 * math.sin(phi), 0, 2 * math.cos(phi)], atol=1e-12)
        below = camera.project([0, math.sin(phi), math.cos(phi)])
        np.testing.assert_allclose(below, np.add(camera.centre, [0, rho]), atol=1e-3)


def test_optical_axis_and_undefined_points(camera):
    points = [[0, 0, 1.5], [0, 0, -1.0], [0, 0, 0], [np.nan, 0, 1], [0, np.nan, 1], [0, 0, np.nan], [0.1, 0, 1]]
    with np.errstate(all="raise"):
        pixels = camera.project(points)
    np.testing.assert_array_equal(pixels[0], camera.centre)
    assert np.isnan(pixels[1:6]).all() and np.isfinite(pixels[6]).all()
    # Approaching the axis has the same limit as standing on it.
    np.testing.assert_allclose(camera.project([1e-9, -1e-9, 1]), camera.centre, atol=1e-3)
    np.testing.assert_allclose(camera.unproject(camera.centre, 2.0), [0, 0, 2])
    assert np.isnan(camera.unproject([np.nan, 3.0], 1.0)).all()


def test_points_right_and_below_land_right_and_below(camera):
    u, v = (camera.project([0.2, 0.1, 1]) - camera.centre).T
    assert u > v > 0


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.25, 0.125, 0.5, 2.0]), st.integers(0, 2**32 - 1))
def test_scaled_camera_is_the_camera_of_the_resized_image(factor, seed):
    raw = stereographic()
    camera = FisheyeCamera((1280, 1024), (652.25, 521.5), tuple(raw["polynomialC2W"]), tuple(raw["polynomialW2C"]), 500)
    small = camera.scaled(factor)
    points = np.random.default_rng(seed).normal((0, 0, 1), size=(10, 3))
    pixels = camera.project(points)
    resized = (pixels + 0.5) * factor - 0.5
    np.testing.assert_allclose(small.project(points), resized, rtol=1e-10)
    np.testing.assert_allclose(small.unproject(resized, 1.3), camera.unproject(pixels, 1.3), atol=1e-10)
    assert small.size == (1280 * factor, 1024 * factor) and small.radius == 500 * factor


def test_in_image_knows_border_and_circle(camera):
    u, v = camera.centre
    inside = camera.in_image([[u, v], [u + 499, v], [u + 501, v], [u, -0.4], [u, -0.6], [u, 1023.6], [np.nan, v]])
    assert inside.tolist() == [True, True, False, False, False, False, False]
    no_circle = FisheyeCamera((4, 3), (2, 1), (-1.0,), (1.0,))
    corners = [[-0.5, -0.5], [3.4, 2.4], [3.5, 0], [0, 2.5]]
    assert no_circle.in_image(corners).tolist() == [True, True, False, False]


def test_json_round_trip_keeps_the_camera(tmp_path, calibration):
    camera = load(tmp_path, calibration)
    assert load(tmp_path, camera.to_json()) == camera


@pytest.mark.parametrize("field, value", [
    ("size", [1280]), ("size", [0, 10]), ("size", "wide"), ("intrinsic", [[1, 0]]), ("intrinsic", None),
    ("intrinsic", [[1, 0, math.nan], [0, 1, 5]]), ("polynomialC2W", []), ("polynomialC2W", "a"),
    ("polynomialW2C", [1.0, math.nan]), ("polynomialW2C", [[1.0]]), ("imageCircleRadius", -3),
    ("imageCircleRadius", "512"),
])  # fmt: skip
def test_an_unusable_field_is_named(tmp_path, field, value):
    with pytest.raises(CalibrationError, match=r"calibration\.json") as caught:
        load(tmp_path, stereographic() | {field: value})
    assert f"'{field}'" in str(caught.value)


@pytest.mark.parametrize("field", ["size", "intrinsic", "polynomialC2W", "polynomialW2C"])
def test_a_missing_field_is_named(tmp_path, field):
    raw = stereographic()
    del raw[field]
    with pytest.raises(CalibrationError, match=rf"calibration\.json.*'{field}'"):
        load(tmp_path, raw)


def test_a_missing_circle_and_affine_are_allowed(tmp_path):
    raw = stereographic()
    del raw["imageCircleRadius"], raw["affine"]
    assert load(tmp_path, raw).radius is None


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_file_that_is_no_calibration_is_named(tmp_path, text):
    with pytest.raises(CalibrationError, match=r"calibration\.json"):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CalibrationError, match=r"nowhere\.json: no such calibration file"):
        FisheyeCamera.from_json(tmp_path / "nowhere.json")


def test_polynomials_of_two_lenses_are_refused(tmp_path):
    """Whatever the size of the image, and whether or not the circle is known."""
    for scale in (1, 0.1):
        narrow, wide = (stereographic(f * scale, radius=500.0 * scale) for f in (280.0, 300.0))
        mixed = narrow | {"polynomialW2C": wide["polynomialW2C"]}
        for raw in (mixed, mixed | {"imageCircleRadius": None}):
            with pytest.raises(CalibrationError, match=r"contradict each other: .* misses by \d+(\.\d+)? px"):
                load(tmp_path, raw)
        with pytest.raises(CalibrationError, match="contradict each other"):
            load(tmp_path, narrow | {"polynomialW2C": narrow["polynomialW2C"][::-1]})
    with pytest.raises(CalibrationError, match=r"misses by (nan|inf) px"):
        load(tmp_path, narrow | {"polynomialW2C": [1e308] * 11})


def test_the_round_trip_is_as_far_as_a_loop_over_the_circle_says(tmp_path):
    raw = stereographic() | {"polynomialW2C": [*stereographic()["polynomialW2C"][:4]]}
    camera = FisheyeCamera((1280, 1024), (652.25, 521.5), tuple(raw["polynomialC2W"]), tuple(raw["polynomialW2C"]), 500)
    worst = 0
    for pixel in pixels_in_circle(camera, 4000):
        back = loop_project(raw, loop_unproject(raw, pixel, 1.0))
        worst = max(worst, math.dist(back, pixel))
    assert worst <= camera.round_trip_miss() * 1.42 and worst == pytest.approx(camera.round_trip_miss(), rel=0.05)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published calibrations beside the repository")
def test_published_calibrations(project):
    found = {path.stem: path for path in PUBLISHED.glob("*.json")}
    with pytest.raises(CalibrationError, match=r"globalegomocap_bak\.json.*contradict each other.* misses by 5\d"):
        FisheyeCamera.from_json(found.pop("globalegomocap_bak"))
    others = [*found.values(), *REAL.glob("fisheye*.json")]
    misses = [FisheyeCamera.from_json(path).round_trip_miss() for path in others]
    assert len(misses) == 5 and max(misses) < 0.01  # as far as OCamCalib's own fit goes
    assert FisheyeCamera.from_json(found["ego4view_front_left"]).centre == (426.391953, 442.934625)
    assert FisheyeCamera.from_json(found["unrealego"]).size == (1024, 1024)


def test_the_centre_may_be_called_image_center(tmp_path):
    raw = stereographic()
    expected = load(tmp_path, raw)
    del raw["intrinsic"]
    assert load(tmp_path, raw | {"image_center": [652.25, 521.5]}) == expected
    for wrong in ([652.25], "a", [652.25, math.nan], [[1, 2]]):
        with pytest.raises(CalibrationError, match="'image_center'"):
            load(tmp_path, raw | {"image_center": wrong})


def test_a_byte_order_mark_is_no_fault(tmp_path):
    expected = load(tmp_path, stereographic())
    assert load(tmp_path, "\ufeff" + json.dumps(stereographic())) == expected


FULL = (1280, 1024)


@pytest.mark.parametrize("crop", ["none", "square"])
@pytest.mark.parametrize("size", [256, 64])
def test_view_pixels_are_a_loop_over_pixel_edges(crop, size):
    view = InputView(FULL, 256, crop)
    left, top, width, height = (0, 0, 1280, 1024) if crop == "none" else (128, 0, 1024, 1024)
    pixels = np.random.default_rng(0).uniform(0, 1000, (3, 5, 2))
    found = view.to_view(pixels, size)
    for place in np.ndindex(3, 5):
        u, v = pixels[place]
        # Edges, half a pixel before the centres, are what a resize keeps in proportion.
        wanted = (u + 0.5 - left) / width * size - 0.5, (v + 0.5 - top) / height * size - 0.5
        np.testing.assert_allclose(found[place], wanted, atol=1e-9)
    np.testing.assert_allclose(view.to_full(found, size), pixels)


@pytest.mark.parametrize("crop", ["none", "square"])
@pytest.mark.parametrize("pixel", [(300, 200), (641, 511), (1003, 14), (150, 1020)])
def test_a_dot_lands_where_to_view_says(crop, pixel):
    image = np.zeros((1024, 1280, 3), np.uint8)
    image[pixel[1], pixel[0]] = 255
    view = InputView(FULL, 256, crop)
    small = view.apply(image)
    assert small.shape == (256, 256, 3) and small.dtype == np.uint8
    v, u = np.unravel_index(small[..., 0].argmax(), (256, 256))
    assert np.abs(view.to_view(pixel) - [u, v]).max() <= 0.5


@pytest.mark.parametrize("crop", ["none", "square"])
def test_a_cropped_frame_is_seen_as_the_full_one(crop):
    rng = np.random.default_rng(0)
    full = np.zeros((1024, 1280, 3), np.uint8)
    full[:, 128:1152] = rng.integers(0, 255, (1024, 1024, 3))
    view = InputView(FULL, 64, crop)
    np.testing.assert_array_equal(view.apply(full[:, 128:1152]), view.apply(full))


def lens(*arguments):
    raw = stereographic(*arguments)
    return FisheyeCamera(
        tuple(raw["size"]), arguments[2], tuple(raw["polynomialC2W"]), tuple(raw["polynomialW2C"]), arguments[3]
    )


LENSES = [lens(280.0, FULL, (648.0, 519.0), 600.0), lens(140.0, (640, 480), (310.5, 251.0), 320.0)]


def test_a_ray_of_the_fovea_is_the_lens_solved_by_bisection():
    side, middle = 96, 47.5
    for pixel in np.random.default_rng(0).uniform(0, 95, (30, 2)):
        x, y = (pixel - middle) / (side / 2)
        rho = np.hypot(x, y)
        if rho > 1:
            continue

        def miss(a, rho=rho):
            return a / np.sqrt(1 + (a / 55) ** 2) / (85 / np.sqrt(1 + (85 / 55) ** 2)) - rho

        angle = np.radians(brentq(miss, 0, 180))
        local = np.sin(angle) * x / rho, np.sin(angle) * y / rho, np.cos(angle)
        # It looks 15 degrees below the camera's axis: y down, z forward.
        wanted = Rotation.from_euler("x", -15, degrees=True).apply(local)
        np.testing.assert_allclose(fovea.rays(pixel, side), wanted, atol=1e-9)
    assert fovea.rays([middle, middle], side)[1] == pytest.approx(np.sin(np.radians(15)))


@pytest.mark.parametrize("camera", LENSES)
def test_pixels_of_the_fovea_go_back_and_forth(camera):
    view = InputView.of(camera, 96, "fovea")
    pixels = np.random.default_rng(0).uniform(17, 78, (200, 2))  # where the lenses have been fitted
    np.testing.assert_allclose(view.to_view(view.to_full(pixels)), pixels, atol=1e-3)
    np.testing.assert_allclose(view.to_view(view.to_full(pixels), 24) + 0.5, (pixels + 0.5) / 4, atol=1e-3)
    points = fovea.rays(pixels, 96) * np.random.default_rng(1).uniform(0.1, 3, (200, 1))
    np.testing.assert_allclose(fovea.project(points, 96), pixels, atol=1e-9)


def coloured(camera):
    """The image of a camera that sees the same colours in the same directions as any other, and black outside."""
    grid = np.stack(np.meshgrid(np.arange(camera.size[0]), np.arange(camera.size[1])), -1)
    x, y, z = np.moveaxis(camera.unproject(grid, 1.0), -1, 0)
    colour = np.stack([np.sin(5 * x + 2 * y), np.cos(4 * y), np.sin(6 * z * x)], -1)
    return np.where(camera.in_image(grid)[..., None], 127.5 + 120 * colour, 0).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pictures():
    """(camera, what it sees) of five lenses: two of closed form, and those published that are there."""
    names = ("ego4view_front_left", "sceneego_01_12", "unrealego")
    published = [FisheyeCamera.from_json(p) for p in (PUBLISHED / f"{n}.json" for n in names) if p.is_file()]
    return [(camera, coloured(camera)) for camera in [*LENSES, *published]]


@pytest.mark.parametrize("size", [64, 192])
def test_five_lenses_give_one_fovea(pictures, size):
    """The view must not tell which lens took the picture."""
    cameras = [camera for camera, _ in pictures]
    views = [InputView.of(camera, size, "fovea") for camera in cameras]
    seen = np.stack([view.apply(image) for view, (_, image) in zip(views, pictures, strict=True)]).astype(int)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    place = np.stack([view.to_full(grid) for view in views])
    # Where all see it, more than two of the view's pixels within their borders.
    common = np.all([camera.in_image(pixels) for camera, pixels in zip(cameras, place, strict=True)], axis=0)
    common = cv2.erode(common.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert common.mean() > 0.55
    difference = np.abs(seen - seen.mean(0))[:, common]
    assert difference.mean() < 0.5 and difference.max() < 4
    assert seen[0][common].std() > 50


def test_where_a_lens_folds_back_there_is_no_light():
    """A polynomial that ends at 60 degrees, and beyond comes back into the image, shows nothing there."""
    angle = np.radians(np.linspace(0, 60, 200))
    below = np.polynomial.polynomial.polyfit(angle - np.pi / 2, 100 * np.sin(1.5 * angle), 8)
    rho = 100 * np.sin(1.5 * angle[1:-1])
    back = np.polynomial.polynomial.polyfit(rho, -rho / np.tan(angle[1:-1]), 10)
    camera = FisheyeCamera((256, 256), (127.5, 127.5), tuple(back), tuple(below))
    view = InputView.of(camera, 64, "fovea")
    image = view.apply(np.full((256, 256, 3), 200, np.uint8))[..., 0]
    rays = fovea.rays(np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1), 64)
    degrees = np.degrees(np.arccos(rays[..., 2].clip(-1, 1)))
    assert (image[degrees < 55] == 200).all() and (image[(degrees > 75) & (degrees < 110)] == 0).all()
    pixels = view.to_full(np.argwhere((degrees > 75) & (degrees < 90))[:, ::-1])
    assert camera.in_image(pixels).mean() > 0.5  # where the polynomial puts them


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_a_turned_image_is_one_of_a_turned_camera(quarters):
    camera = LENSES[1]
    turned = camera.turned(quarters)
    for u, v in ((310, 250), (0, 0), (639, 479), (120, 33)):
        image = np.zeros((480, 640))
        image[v, u] = 1
        at = np.argwhere(np.rot90(image, -quarters))[0][::-1]
        ray = camera.unproject([u, v], 1.0)
        # Clockwise in the image, from x (right) towards y (down).
        expected = Rotation.from_euler("z", 90 * quarters, degrees=True).apply(ray)
        np.testing.assert_allclose(turned.unproject(at, 1.0), expected, atol=1e-12)
    assert turned.size == ((640, 480) if quarters == 2 else (480, 640))


def test_a_cropped_image_is_one_of_a_cropped_camera():
    part = LENSES[0].cropped(100, 40, (800, 900))
    point = [0.2, -0.1, 1.0]
    np.testing.assert_allclose(part.project(point), LENSES[0].project(point) - (100, 40))
    assert part.size == (800, 900)


def test_a_fovea_needs_the_camera_of_the_image():
    with pytest.raises(ValueError, match="camera"):
        InputView(FULL, 64, "fovea")
    with pytest.raises(ValueError, match="another image size"):
        InputView((64, 64), 64, "fovea", LENSES[0])


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"640x480.*1280x1024"):
        InputView(FULL).apply(np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(ValueError, match="'middle'"):
        InputView(FULL, crop="middle")


@pytest.mark.parametrize("name, cropped", [("img_001000.jpg", False), ("img_001796.jpg", True)])
def test_real_frames_fill_the_view(name, cropped):
    if not (REAL / name).exists():
        pytest.skip(f"no real frame {name} beside the repository")
    image = cv2.imread(str(REAL / name))
    assert (image.shape[1] == 1024) == cropped
    view = InputView(FULL, 256, "square").apply(image)
    # The image circle: bright in the middle, dark in the corners.
    assert view[96:160, 96:160].mean() > 4 * view[:16, :16].mean()
