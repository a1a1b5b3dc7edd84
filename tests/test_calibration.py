"""Calibrations as people have them, against OpenCV and the papers' formulas; boards seen through known lenses."""

import json
import math
import re

import cv2
import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation
from test_camera import LENSES, PUBLISHED, stereographic

from agego_data.board import checkerboard, render_board
from agego_lib.camera import CalibrationError, FisheyeCamera, read_camera
from agego_lib.camera.calibrate import Board, View, calibrate, spread
from agego_lib.camera.lens import Lens, equidistant, equidistant_camera, fit
from agego_video import calibrate as command
from agego_video.calibrate import board_views, main
from agego_video.video import VideoWriter

K = np.array([[330.0, 0, 652.25], [0, 330.0, 521.5], [0, 0, 1]])
D = np.array([0.012, -0.006, 0.0055, -0.0009])
SIZE = (1280, 1024)


def directions(count=200, widest=100, seed=0):
    rng = np.random.default_rng(seed)
    angle, turn = np.radians(rng.uniform(0, widest, count)), rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], -1)


def opencv(points):
    """cv2.fisheye's own projection, which knows no point beside or behind the camera."""
    return cv2.fisheye.projectPoints(points[None], np.zeros(3), np.zeros(3), K, D[:, None])[0][0]


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def matrix(values, rows, columns):
    return {"rows": rows, "cols": columns, "data": np.ravel(values).tolist()}


PLAIN = {
    "K": {"K": K.tolist(), "D": D.tolist(), "DIM": [1280, 1024]},
    "camera_matrix": {"camera_matrix": K.tolist(), "dist_coeffs": D[:, None].tolist(), "size": [1280, 1024]},
    "CameraMatrix": {"CameraMatrix": K.ravel().tolist(), "distortion_coefficients": [D.tolist()],
                     "image_width": 1280, "image_height": 1024},
    "ROS": {"image_width": 1280, "image_height": 1024, "camera_name": "head", "distortion_model": "equidistant",
            "camera_matrix": matrix(K, 3, 3), "distortion_coefficients": matrix(D, 1, 4)},
    "img_size": {"K": K.tolist(), "dist_coeff": D.tolist(), "img_size": [1280, 1024]},
    "w": {"K": K.tolist(), "distortion": D.tolist(), "w": 1280, "h": 1024},
    "resolution": {"mtx": K.tolist(), "dist": [str(d) for d in D], "resolution": [1280, 1024]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["yml", "4.yml", "flat.yml", "json", "flat.json", *PLAIN])
def test_opencvs_fisheye_model(tmp_path, kind):
    path = tmp_path / f"camera.{kind}"
    if kind in PLAIN:
        write(path, PLAIN[kind] if kind == "K" else yaml.safe_dump(PLAIN[kind]))
    else:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        size = {"image_size": np.array([1280, 1024])} if "flat" in kind else {"image_width": 1280, "image_height": 1024}
        # A flat array has another type in the file.
        for name, value in {**size, "K": K, "D": D if "flat" in kind else D[:, None]}.items():
            storage.write(name, value)
        storage.release()
        if kind == "4.yml":
            # OpenCV 4 writes a first line that YAML does not know.
            path.write_text("%YAML:1.0\n---\n" + path.read_text().split("---\n", 1)[1])
    found = read_camera(path)
    rays = directions(widest=85)
    np.testing.assert_allclose(found.camera.project(rays), opencv(rays), atol=0.01)
    assert found.kind == "OpenCV fisheye" and found.camera.size == SIZE
    # It bends so much far behind the camera that no polynomial goes back exactly there.
    assert found.fit.miss < 0.01 and found.fit.round_trip < 0.05
    np.testing.assert_allclose(found.camera.unproject(opencv(rays), 1.0), rays, atol=1e-4)


def loop_double_sphere(x, y, z, xi, alpha, fx, fy, cx, cy):
    """Usenko, Demmel and Cremers 2018, equations 40 to 42."""
    d1 = math.sqrt(x * x + y * y + z * z)
    d2 = math.sqrt(x * x + y * y + (xi * d1 + z) ** 2)
    below = alpha * d2 + (1 - alpha) * (xi * d1 + z)
    return fx * x / below + cx, fy * y / below + cy


def loop_eucm(x, y, z, alpha, beta, fx, fy, cx, cy):
    """Khomutenko, Garcia and Martinet 2016, equation 17."""
    below = alpha * math.sqrt(beta * (x * x + y * y) + z * z) + (1 - alpha) * z
    return fx * x / below + cx, fy * y / below + cy


def loop_omni(x, y, z, xi, fx, fy, cx, cy, k1, k2, p1, p2):
    """Mei and Rives 2007: the unit sphere, then a perspective lens with radial and tangential distortion."""
    norm = math.sqrt(x * x + y * y + z * z)
    x, y = x / norm / (z / norm + xi), y / norm / (z / norm + xi)
    r2 = x * x + y * y
    u = x * (1 + k1 * r2 + k2 * r2**2) + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * (1 + k1 * r2 + k2 * r2**2) + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return fx * u + cx, fy * v + cy


def loop_equidistant(x, y, z, fx, fy, cx, cy, k1, k2, k3, k4):
    theta, r = math.acos(z / math.sqrt(x * x + y * y + z * z)), math.hypot(x, y)
    bent = theta + k1 * theta**3 + k2 * theta**5 + k3 * theta**7 + k4 * theta**9
    return fx * bent * x / r + cx, fy * bent * y / r + cy


CHAINS = {
    "ds": ("ds", "none", [-0.2, 0.59, 160.0, 160.0, 365.2, 240.3], [], loop_double_sphere),
    "eucm": ("eucm", "none", [0.63, 1.04, 240.0, 240.0, 365.2, 240.3], [], loop_eucm),
    "omni": ("omni", "radtan", [1.2, 500.0, 500.0, 365.2, 240.3], [-0.05, 0.02, 0.0, 0.0], loop_omni),
    "equi": (
        "pinhole",
        "equidistant",
        [190.9, 190.9, 365.2, 240.3],
        [0.0034, 0.0007, -0.002, 0.0002],
        loop_equidistant,
    ),
}


def chain(name, **changes):
    model, distortion, intrinsics, coefficients, _ = CHAINS[name]
    fields = {"camera_model": model, "distortion_coeffs": coefficients, "distortion_model": distortion}
    return fields | {"intrinsics": intrinsics, "resolution": [752, 480], "rostopic": "/cam0/image_raw"} | changes


@pytest.mark.parametrize("name", CHAINS)
def test_kalibrs_models_are_the_papers_formulas(tmp_path, name):
    *_, intrinsics, coefficients, loop = CHAINS[name]
    path = write(tmp_path / "camchain.yaml", yaml.safe_dump({"cam0": {"camera_model": "fov"}, "cam3": chain(name)}))
    found = read_camera(path, "cam3")
    assert found.kind.startswith(f"Kalibr {CHAINS[name][0]}")
    seen = 0
    for ray in directions(400, 110):
        wanted = loop(*ray, *intrinsics, *coefficients)
        if found.camera.in_image(wanted):
            np.testing.assert_allclose(found.camera.project(ray), wanted, atol=0.02)
            # A hundredth of a pixel is so many radians at the least.
            np.testing.assert_allclose(found.camera.unproject(wanted, 1.0), ray, atol=0.05 / 60)
            seen += 1
    assert seen > 200 and found.fit.miss < 0.01 and found.fit.round_trip < 0.05
    assert read_camera(write(tmp_path / "alone.yaml", yaml.safe_dump(chain(name)))).camera == found.camera


def test_what_one_circle_cannot_hold_is_told(tmp_path):
    """Other focal lengths across and down, and tangential terms: the camera is alike all around, the miss says so."""
    path = tmp_path / "chain.yaml"
    write(path, yaml.safe_dump({"cam0": chain("omni", distortion_coeffs=[-0.05, 0.02, 0.001, -0.001])}))
    found = read_camera(path)
    worst = 0
    for ray in directions(3000, 110):
        pixel = loop_omni(*ray, *CHAINS["omni"][2], -0.05, 0.02, 0.001, -0.001)
        if found.camera.in_image(pixel):
            worst = max(worst, math.dist(pixel, found.camera.project(ray)))
    assert worst > 0.5 and found.fit.miss == pytest.approx(worst, rel=0.1)


def test_a_fit_ends_where_the_lens_does():
    """r = f (a - 0.1 a^3) comes nearer again from the angle sqrt(1 / 0.3) on; a circle about there is the image's."""
    found = fit(Lens("test", (2000, 2000), np.array([[400, 0, 999.5], [0, 400, 999.5], [0, 0, 1]]),
                     equidistant((-0.1, 0.0, 0.0, 0.0))))  # fmt: skip
    end = math.sqrt(1 / 0.3)
    assert 80 < found.degrees < math.degrees(end)
    assert 0.9 < found.camera.radius / (400 * (end - 0.1 * end**3)) < 1
    assert found.round_trip < 0.02 and found.miss < 0.01
    wide = fit(Lens("test", SIZE, K, equidistant(())))  # to the corner, behind the camera
    assert wide.degrees > 140 and wide.camera.radius is None
    behind = wide.camera.project([np.sin(2.4), 0, np.cos(2.4)])
    np.testing.assert_allclose(behind, [652.25 + 330 * 2.4, 521.5], atol=0.01)


@pytest.mark.parametrize("fov", [120, 180, 220])
def test_the_assumed_lens_is_equidistant(fov):
    camera = equidistant_camera((640, 480), (310.0, 245.0), 230.0, fov)
    for degrees in np.linspace(1, fov / 2, 9):
        a = math.radians(degrees)
        at = camera.project([0, math.sin(a), math.cos(a)])
        np.testing.assert_allclose(at, [310, 245 + 230 * degrees / (fov / 2)], atol=0.01)
        np.testing.assert_allclose(camera.unproject(at, 2.0), [0, 2 * math.sin(a), 2 * math.cos(a)], atol=1e-3)
    assert camera.radius == 230


def results_txt(raw, centre):
    """What OCamCalib writes: its own rows and columns."""
    line = {key: " ".join(f"{v:.17g}" for v in raw[key]) for key in ("polynomialC2W", "polynomialW2C", "affine")}
    return f"""#polynomial coefficients for the DIRECT mapping function (ocam_model.ss in MATLAB)

{len(raw["polynomialC2W"])} {line["polynomialC2W"]}

#polynomial coefficients for the inverse mapping function (ocam_model.invpol in MATLAB)

{len(raw["polynomialW2C"])} {line["polynomialW2C"]}

#center: "row" and "column", starting from 0 (C convention)

{centre[1]:.17g} {centre[0]:.17g}

#affine parameters "c", "d", "e"

{line["affine"]}

#image size: "height" and "width"

{raw["size"][1]} {raw["size"][0]}

"""


def loop_world2cam(raw, row, column, point):
    """OCamCalib's, scalar: x down the rows, y along the columns, z towards the scene is negative -> (row, column)."""
    x, y, z = point
    norm = math.hypot(x, y)
    theta = math.atan(z / norm)
    rho = sum(b * theta**i for i, b in enumerate(raw["polynomialW2C"]))
    x, y = x / norm * rho, y / norm * rho
    c, d, e = raw["affine"]
    return x * c + y * d + row, x * e + y + column


def loop_cam2world(raw, row, column, pixel):
    c, d, e = raw["affine"]
    x, y = pixel[0] - row, pixel[1] - column
    x, y = (x - d * y) / (c - d * e), (-e * x + c * y) / (c - d * e)
    z = sum(a * math.hypot(x, y) ** i for i, a in enumerate(raw["polynomialC2W"]))
    norm = math.sqrt(x * x + y * y + z * z)
    return x / norm, y / norm, z / norm


@pytest.mark.parametrize("name", ["closed form", "ego4view_front_left", "sceneego_01_12", "unrealego"])
def test_calib_results_txt(tmp_path, name):
    raw = stereographic()
    if name != "closed form":
        if not (PUBLISHED / f"{name}.json").is_file():
            pytest.skip("no published calibrations beside the repository")
        raw = json.loads((PUBLISHED / f"{name}.json").read_text())
    centre = raw.get("image_center") or (raw["intrinsic"][0][2], raw["intrinsic"][1][2])
    found = read_camera(write(tmp_path / "calib_results.txt", results_txt(raw, centre)))
    assert found.camera.size == tuple(raw["size"]) and found.fit is None
    plain, worst = raw | {"affine": [1.0, 0.0, 0.0]}, 0.0
    for ray in directions(200, 75):
        x, y, z = ray
        row, column = loop_world2cam(plain, centre[1], centre[0], (y, x, -z))
        np.testing.assert_allclose(found.camera.project(ray), [column, row], atol=1e-8)
        down, right, back = loop_cam2world(plain, centre[1], centre[0], (row, column))
        np.testing.assert_allclose(found.camera.unproject([column, row], 1.0), [right, down, -back], atol=1e-8)
        worst = max(worst, math.dist(loop_world2cam(raw, centre[1], centre[0], (y, x, -z)), (row, column)))
    assert worst <= found.affine + 1e-9 and (worst == 0) == (found.affine == 0)
    # The same as the JSON of the same lens, but for the circle, which the text does not have.
    own = read_camera(write(tmp_path / "camera.json", raw))
    assert (own.camera.c2w, own.camera.w2c, own.camera.centre) == (found.camera.c2w, found.camera.w2c, tuple(centre))
    assert own.kind == "OCamCalib JSON" and worst <= own.affine * 1.001 + 1e-9


GOOD = results_txt(stereographic(), (652.25, 521.5))
KALIBR = {"cam0": chain("ds")}


@pytest.mark.parametrize("text, said", [
    ("", "understood are"), ("hello", "holds a str"), ("[1, 2]", "holds a list"), ("{", "not readable as JSON"),
    ("a: [", "not readable as"), ({"pose": 1}, "no camera matrix 'K'"),
    ("&a [*a, *a]", "holds a list"), ({"K": K.tolist(), "D": D.tolist()}, "no image size.*'image_width'"),
    ({"K": K.tolist(), "size": SIZE}, "no distortion 'D'"),
    ({"K": [1, 2], "D": D.tolist(), "size": SIZE}, "'K' holds .1, 2.; expected 9 finite"),
    ({"K": K.tolist(), "D": [0.1] * 5, "size": SIZE}, "'D' has 5 coefficients.*cv2.fisheye.calibrate"),
    ({"K": K.tolist(), "D": [0.1] * 4, "size": SIZE, "distortion_model": "plumb_bob"}, "model 'plumb_bob'"),
    ({"K": K.tolist(), "D": ["x"] * 4, "size": SIZE}, "'D' holds"),
    ({"K": (-K).tolist(), "D": D.tolist(), "size": SIZE}, "focal lengths -330 and -330"),
    ({"K": K.tolist(), "D": D.tolist(), "size": [320, 240]}, "principal point .652.25, 521.5. px"),
    ({"K": K.tolist(), "D": D.tolist(), "size": [0, 2]}, "'size' is"),
    ({"K": K.tolist(), "D": [-9.0, 0, 0, 0], "size": SIZE}, "stops growing"),
    (yaml.safe_dump({"cam0": chain("equi", distortion_model="fov")}), "cam0: .*'pinhole' with .*'fov'"),
    (yaml.safe_dump({"cam0": chain("ds", intrinsics=[1.0, 2.0])}), "cam0: 'intrinsics' holds .*expected 6 finite"),
    (yaml.safe_dump({"cam0": {"camera_model": "ds"}}), "cam0: no field 'intrinsics'"),
    (yaml.safe_dump({"cam0": chain("equi", distortion_coeffs=[1.0])}), "'distortion_coeffs' holds .*expected 4"),
    (GOOD.replace("1024 1280", ""), "4 lines of numbers; expected 5"),
    (GOOD.replace("\n3 ", "\n4 "), "3 coefficients of the direct"),
    (GOOD.replace("1 0 0", "1 0"), "2 numbers of the affine terms"),
    (GOOD.replace("1024 1280", "1024.5 1280"), "1024.5 and 1280"),
    (GOOD.replace("\n3 -280 ", "\n3 -200 "), "contradict each other"), (GOOD.replace("521.5", "nan"), "not finite"),
    (stereographic() | {"affine": ["a", 1]}, "'affine' holds"),
])  # fmt: skip
def test_what_is_no_calibration_is_named(tmp_path, text, said):
    path = write(tmp_path / "my.camera", text)
    with pytest.raises(CalibrationError, match=rf"my\.camera(?s:.)*{said}"):
        read_camera(path)


def test_which_camera_of_a_chain(tmp_path):
    path = write(tmp_path / "chain.yaml", yaml.safe_dump({"cam0": chain("ds"), "cam1": chain("equi")}))
    assert read_camera(path).camera == read_camera(path, "cam0").camera
    assert read_camera(path, "cam1").kind == "Kalibr pinhole-equidistant"
    with pytest.raises(CalibrationError, match=r"no camera 'cam2'; expected one of cam0, cam1"):
        read_camera(path, "cam2")
    for alone in (PLAIN["K"], GOOD, stereographic(), yaml.safe_dump(chain("ds"))):
        with pytest.raises(CalibrationError, match=r"of one camera.*leave its name out"):
            read_camera(write(tmp_path / "alone", alone), "cam0")
    with pytest.raises(CalibrationError, match=r"nowhere: no such calibration file; understood are"):
        read_camera(tmp_path / "nowhere")
    with pytest.raises(CalibrationError, match="not readable"):
        read_camera(tmp_path)


def test_convert_writes_what_from_json_reads(tmp_path, capsys):
    source = write(tmp_path / "chain.yaml", yaml.safe_dump({"cam0": chain("eucm")}))
    out = tmp_path / "made/camera.json"
    assert main(["convert", str(source), str(out)]) == 0
    camera, found = FisheyeCamera.from_json(out), read_camera(source)
    assert camera == found.camera
    said = capsys.readouterr().out
    assert "Kalibr eucm-none, 752x480 px" in said
    worst = float(re.search(r"at most (\S+) px from the file's model", said)[1])
    rays = directions(3000, found.fit.degrees)
    wanted = np.array([loop_eucm(*ray, *CHAINS["eucm"][2]) for ray in rays])
    inside = camera.in_image(wanted)
    assert np.linalg.norm(camera.project(rays) - wanted, axis=-1)[inside].max() <= worst * 1.05
    border = float(re.search(r"sees (\S+) degrees from its axis at the nearest border", said)[1])
    a = math.radians(border)
    assert loop_eucm(0, math.sin(a), math.cos(a), *CHAINS["eucm"][2])[1] == pytest.approx(479, abs=0.5)
    picture = cv2.imread(str(out.with_suffix(".png")))
    assert picture.shape == (440, 1280, 3) and picture.std() > 10
    own = write(tmp_path / "own.json", stereographic() | {"affine": [0.999, 0.0, 0.0]})
    assert main(["convert", str(own), str(out), "--plot", str(tmp_path / "p.png")]) == 0
    assert "would move pixels by 0.5 px at most" in capsys.readouterr().out and (tmp_path / "p.png").stat().st_size
    assert main(["convert", str(tmp_path / "none"), str(out)]) == 1
    assert "error: " in capsys.readouterr().err
    before = source.read_bytes()
    (tmp_path / "link.json").symlink_to(source)
    for places in ([source], [out, "--plot", source], [tmp_path / "link.json"], [tmp_path / "new.png"]):
        assert main(["convert", str(source), *map(str, places)]) == 1
        assert "would be overwritten" in capsys.readouterr().err
    assert source.read_bytes() == before and not (tmp_path / "new.png").exists()
    write(tmp_path / "file", "")
    assert main(["convert", str(source), str(tmp_path / "file/x.json")]) == 1
    assert "choose another place" in capsys.readouterr().err


def facing(count, centre, seed=0, distance=(0.2, 0.3)):
    """Poses of a board all over the field of view, tilted by up to 30 degrees about each axis."""
    rng, poses = np.random.default_rng(seed), []
    for number in range(count):
        away = math.radians((0, 35, 60)[number % 3] if number else 0)
        turn = number * 2.4
        z = np.array([math.sin(away) * math.cos(turn), math.sin(away) * math.sin(turn), math.cos(away)])
        x = np.cross([0, 1, 0], z) / np.linalg.norm(np.cross([0, 1, 0], z))
        facing_it = np.stack([x, np.cross(z, x), z], axis=1)
        rotation = facing_it @ Rotation.from_euler("xyz", rng.uniform(-30, 30, 3), degrees=True).as_matrix()
        poses.append((rotation, z * rng.uniform(*distance) - rotation @ centre))
    return poses


SEEN_BY = LENSES[1]  # 640x480 px, stereographic
BOARD = Board(9, 6, 0.03)
POSES = facing(17, np.array([0.12, 0.075, 0.0]))


@pytest.fixture(scope="module")
def pictures():
    texture, metres = checkerboard(9, 6, 0.03)
    return list(render_board(SEEN_BY, texture, metres, (64, 64), POSES))


def views_of(pictures):
    found = [(str(number), BOARD.find(picture)) for number, picture in enumerate(pictures)]
    return [View(name, *seen) for name, seen in found if seen]


def degrees_apart(camera, truth, widest):
    """The most by which two cameras' directions of a pixel differ, up to `widest` degrees from the axis."""
    pixels = np.stack(np.meshgrid(np.arange(0, truth.size[0], 7), np.arange(0, truth.size[1], 7)), -1)
    ours, theirs = camera.unproject(pixels, 1.0), truth.unproject(pixels, 1.0)
    apart = np.degrees(np.arccos((ours * theirs).sum(-1).clip(-1, 1)))
    return apart[truth.in_image(pixels) & (theirs[..., 2] > math.cos(math.radians(widest)))].max()


def test_a_rendered_corner_is_where_the_camera_sees_it(pictures):
    for picture, (rotation, shift) in list(zip(pictures, POSES, strict=True))[:5]:
        wanted = SEEN_BY.project(BOARD.points @ rotation.T + shift)
        found = BOARD.find(picture)[1]
        # Which end of the board is its first cannot be seen of one with as many squares either way.
        apart = min(np.abs(order - wanted).mean() for order in (found, found[::-1]))
        assert apart < 0.25


def test_a_rendered_board_gives_the_lens_back(pictures, tmp_path, capsys):
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), picture)
    out = tmp_path / "camera.json"
    assert main(["calibrate", str(tmp_path), "--board", "9x6", "--square", "30", str(out)]) == 0
    said = capsys.readouterr().out
    assert float(re.search(r"residual (\S+) px", said)[1]) < 0.5
    used = int(re.search(r"(\d+) pictures of the board used, of 17 frames looked at", said)[1])
    assert used >= 15
    reach = float(re.search(r"to (\d+) degrees from the axis: beyond", said)[1])
    assert reach > 75
    camera = FisheyeCamera.from_json(out)
    assert degrees_apart(camera, SEEN_BY, reach) < 0.2
    np.testing.assert_allclose(camera.centre, SEEN_BY.centre, atol=0.5)
    assert cv2.imread(str(tmp_path / "camera.png")).std() > 10


def test_the_solution_is_opencvs_own(pictures):
    views = views_of(pictures)
    # Of views whose corners lie within 70 degrees, with a good guess: else it may end 50 px from them.
    views = [v for v in views if SEEN_BY.unproject(v.pixels, 1.0)[:, 2].min() > math.cos(math.radians(70))]
    assert len(views) >= 8
    found = calibrate(BOARD, views, SEEN_BY.size, "here")
    flags = {name: getattr(cv2.fisheye, name, None) or getattr(cv2, name)
             for name in ("CALIB_RECOMPUTE_EXTRINSIC", "CALIB_FIX_SKEW", "CALIB_USE_INTRINSIC_GUESS")}  # fmt: skip
    guess = np.array([[130.0, 0, 310], [0, 130, 250], [0, 0, 1]])
    points, pixels = [BOARD.points[None]] * len(views), [view.pixels[None] for view in views]
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-9)
    rms, k, d = cv2.fisheye.calibrate(
        points, pixels, SEEN_BY.size, guess, np.zeros((4, 1)), None, None, sum(flags.values()), criteria
    )[:3]
    assert found.rms == pytest.approx(rms, rel=0.01)
    np.testing.assert_allclose(found.fit.lens.matrix, k, atol=0.15)
    rays = directions(300, 70)
    theirs = cv2.fisheye.projectPoints(rays[None], np.zeros(3), np.zeros(3), k, d)[0][0]
    assert np.abs(found.fit.camera.project(rays) - theirs).max() < 0.15


def test_a_misread_view_is_left_out(pictures):
    views = views_of(pictures)
    shuffled = np.random.default_rng(0).permutation(len(BOARD.points))
    wrong = View("wrong", views[3].numbers, views[3].pixels[shuffled])
    found = calibrate(BOARD, [*views[:5], wrong, *views[5:]], SEEN_BY.size, "here")
    assert [view.name for view in found.dropped] == ["wrong"] and found.rms < 0.5
    assert degrees_apart(found.fit.camera, SEEN_BY, 70) < 0.2


def test_a_video_of_a_charuco_board(tmp_path):
    """Part of the board may be hidden; of every stretch of the video the sharpest frame is looked at."""
    board = Board(8, 6, 0.04, "DICT_4X4_50", 0.028)
    texture = cv2.copyMakeBorder(
        board._charuco.generateImage((8 * 48, 6 * 48)), 48, 48, 48, 48, cv2.BORDER_CONSTANT, value=255
    )
    poses = facing(12, np.array([0.16, 0.12, 0.0]), seed=1)
    with VideoWriter(tmp_path / "board.mp4", 10, SEEN_BY.size) as video:
        for number, frame in enumerate(render_board(SEEN_BY, texture, 0.04 / 48, (48, 48), poses)):
            frame[:60, :200] = 128  # a hand
            video.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), number / 10)
    views, size, looked = board_views(tmp_path / "board.mp4", board)
    assert size == SEEN_BY.size and looked == 12 and len(views) >= 10
    for view in views:
        rotation, shift = poses[int(view.name.split()[1])]
        wanted = SEEN_BY.project(board.points[view.numbers] @ rotation.T + shift)
        assert np.abs(view.pixels - wanted).mean() < 0.4
    found = calibrate(board, views, size, "board.mp4")
    assert found.rms < 0.5 and degrees_apart(found.fit.camera, SEEN_BY, found.degrees - 5) < 0.3


def test_of_a_stretch_the_sharpest_frame_is_looked_at(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "LOOKED_AT", 3)
    for number in range(7):  # stretches of two, and one left over
        image = pictures[number // 2]
        cv2.imwrite(
            str(tmp_path / f"{number}.png"), image if number in (1, 2, 5, 6) else cv2.GaussianBlur(image, (0, 0), 3)
        )
    views, _, looked = command.board_views(tmp_path, BOARD)
    assert looked == 4 and [view.name for view in views] == ["frame 1", "frame 2", "frame 5", "frame 6"]


def test_boards_that_cannot_be_used_are_named(pictures, tmp_path, capsys):
    for number, picture in enumerate(pictures[:5]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    words = ["calibrate", str(tmp_path), "--square", "30", str(tmp_path / "camera.json"), "--board"]
    for board, said in (
        (["9x6"], "found in 5 of 5 frames looked at; expected at least 8"),
        (["9x8"], "found in 0 of 5 frames"),
        (["2x9"], "a board of 2x9; expected at least 3x3"),
        (["9x6", "--charuco", "DICT_9"], "dictionary 'DICT_9'; expected one of"),
    ):
        assert main([*words, *board]) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "camera.json").exists()
    cv2.imwrite(str(tmp_path / "9.png"), pictures[0][:100])
    assert main([*words, "9x6"]) == 1
    assert "expected one size" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "nine"])


def test_few_views_of_many_are_spread():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), -1).reshape(-1, 2)
    near = [View(f"near {n}", np.arange(12), grid * 10 + 300 + rng.normal(0, 1, 2)) for n in range(50)]
    far = [View(f"far {n}", np.arange(12), grid * (8 + 2 * n) + (60 * n, 40 * n)) for n in range(6)]
    chosen = spread([*near, *far], 10)
    assert len(chosen) == 10 and {view.name for view in far} <= {view.name for view in chosen}
    assert spread(far, 10) is far
