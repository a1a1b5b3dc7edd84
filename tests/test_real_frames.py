"""The check on marked frames: joints found where they were drawn, through any view, and counted as a loop counts."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CAMERA
from torch import nn

from agego_lib.camera import CalibrationError, InputView
from agego_lib.images import to_tensor
from agego_lib.models import weights
from agego_lib.models.build import save_model
from agego_lib.skeleton import LEFT_RIGHT_PAIRS, NUM_JOINTS
from benchmarks import real_frames
from benchmarks.real_frames import FramesError, limb_rows, pck_rows, read_marked, run_heatmaps, run_model

pytestmark = pytest.mark.usefixtures("one_thread")

BIG = CAMERA.scaled(4)  # 640x512
COLOURS = np.stack(np.meshgrid((70, 160, 250), (60, 150, 240), (80, 170)), -1).reshape(-1, 3)[:NUM_JOINTS]
REAL = Path(__file__).resolve().parents[2] / "shared/real"


def drawn(joints):
    """A full frame with a disc of its own colour at each of the joints (15, 2) px that are marked, BGR."""
    image = np.full((BIG.size[1], BIG.size[0], 3), 20, np.uint8)
    for place, colour in zip(joints, COLOURS.tolist(), strict=True):
        if np.isfinite(place).all():
            cv2.circle(image, [round(v) for v in place], 26, colour, -1)
    return image


@pytest.fixture
def folder(tmp_path):
    """Three rendered frames, one of them stored as its central square, and the true places of most joints."""
    rng, frames = np.random.default_rng(0), {}
    grid = np.stack(np.meshgrid(np.linspace(190, 450, 4), np.linspace(120, 390, 4)), -1).reshape(-1, 2)
    for number in range(3):
        joints = rng.permutation(grid)[:NUM_JOINTS] + rng.uniform(-4, 4, (NUM_JOINTS, 2))
        joints[rng.choice(NUM_JOINTS, 4, replace=False)] = np.nan
        image, name = drawn(joints), f"img_{number}.png"
        cv2.imwrite(str(tmp_path / name), image[:, 64:576] if number == 1 else image)
        frames[name] = {str(j): p.tolist() for j, p in enumerate(joints) if np.isfinite(p).all()}
    (tmp_path / "joints.json").write_text(json.dumps({"about": "made up", "frames": frames}))
    (tmp_path / "fisheye.calibration.json").write_text(BIG.to_json())
    return tmp_path


class ByColour(nn.Module):
    """Stands in for a trained heatmap network: logits by how near a pixel's colour is to each joint's."""

    def __init__(self):
        super().__init__()
        rgb = np.ascontiguousarray(COLOURS[:, ::-1]).astype(np.uint8)
        self.register_buffer("colours", to_tensor(rgb[:, None, None])[:, :, 0, 0])

    def forward(self, images):
        small = nn.functional.avg_pool2d(images, 4)
        away = (small[:, None] - self.colours[None, :, :, None, None]).square().sum(2)
        # A disc becomes one peak at its middle.
        return nn.functional.avg_pool2d(torch.exp(-8 * away), 5, 1, 2) * 12 - 6


@pytest.mark.parametrize("crop", ["none", "square", "fovea"])
def test_joints_are_found_where_they_were_drawn(folder, crop):
    frames = read_marked(folder)
    assert [image.shape for image in frames.images] == [(512, 640, 3)] * 3
    found = run_heatmaps(ByColour(), 256, crop, frames)
    marked = np.isfinite(frames.joints).all(-1)
    assert marked.sum() == 33
    assert np.linalg.norm(found - frames.joints, axis=-1)[marked].max() < 13  # of a disc's 26
    (row,) = (r for r in pck_rows({"heatmaps": found}, frames) if r["group"] == "all")
    assert row["marked"] == 33 and row["PCK at 32 px"] == row["PCK at 64 px"] == 1


def test_counts_against_a_loop(folder):
    frames, rng = read_marked(folder), np.random.default_rng(1)
    guess = np.nan_to_num(frames.joints, nan=300.0) + rng.normal(0, 14, frames.joints.shape)
    guess[0, 3] = np.nan
    rows = {r["group"]: r for r in pck_rows({"x": guess}, frames)}
    marks = json.loads((folder / "joints.json").read_text())["frames"]
    counted = 0
    for group, members in real_frames.GROUPS.items():
        hits, count = {64: 0, 32: 0}, 0
        for i, places in enumerate(marks.values()):
            for joint in members:
                if str(joint) in places:
                    count += 1
                    u, v = places[str(joint)]
                    for px in hits:
                        # 512 px stand for 1024.
                        hits[px] += ((guess[i, joint, 0] - u) ** 2 + (guess[i, joint, 1] - v) ** 2) ** 0.5 <= px / 2
        assert rows[group]["marked"] == count
        for px, hit in hits.items():
            assert rows[group][f"PCK at {px} px"] == pytest.approx(hit / count)
        counted += count
    assert counted == 2 * 33 and 0.1 < rows["all"]["PCK at 32 px"] < rows["all"]["PCK at 64 px"] < 1
    # All joints are in one group beside "all", and right and left in the same.
    groups = [set(g) for name, g in real_frames.GROUPS.items() if name != "all"]
    assert sorted(j for g in groups for j in g) == list(range(NUM_JOINTS))
    assert all(any({*pair} <= g for g in groups) for pair in LEFT_RIGHT_PAIRS)


def test_a_group_without_marks_has_no_share(folder):
    frames = read_marked(folder)
    frames.joints[:, [7, 11]] = np.nan
    row = next(r for r in pck_rows({"x": frames.joints}, frames) if r["group"] == "hips")
    assert row["marked"] == 0 and row["PCK at 64 px"] is None and row["median (px)"] is None


def test_limbs_against_a_loop():
    poses = np.random.default_rng(0).normal(0, 0.3, (5, 15, 3))
    for row in limb_rows(poses):
        sides = [[], []]
        for pose in poses:
            for lengths, (a, b) in zip(sides, real_frames.LIMBS[row["limb"]], strict=True):
                lengths.append(1000 * sum((pose[a][k] - pose[b][k]) ** 2 for k in range(3)) ** 0.5)
        assert row["right (mm)"] == pytest.approx(sum(sides[0]) / 5)
        assert row["left (mm)"] == pytest.approx(sum(sides[1]) / 5)
        assert row["longest (mm)"] == pytest.approx(max(*sides[0], *sides[1]))
        apart = sum(abs(r - s) for r, s in zip(*sides, strict=True)) / 5
        assert row["left and right apart (mm)"] == pytest.approx(apart)
    pairs = {frozenset((x, y)) for bones in real_frames.LIMBS.values() for x, y in zip(*bones, strict=True) if x != y}
    assert pairs <= {frozenset(p) for p in LEFT_RIGHT_PAIRS}


CONFIG = {"input": {"size": 64, "crop": "fovea"}, "window": {"length": 4, "stride": 2, "step": 1, "max_gap": 5}}


@pytest.mark.parametrize("row", ["full", "no_spatial"])
def test_each_frame_is_a_window_of_its_own(folder, tiny_model, row):
    frames, model = read_marked(folder), tiny_model(row).eval()
    joints, poses = run_model(model, CONFIG | {"input": {"size": 64, "crop": "square"}}, frames)
    assert (joints is None) == (row == "no_spatial") and poses.shape == (3, 15, 3)
    view = InputView.of(BIG, 64, "square")
    for i, image in enumerate(frames.images):
        padded = np.zeros((4, 64, 64, 3), np.uint8)
        padded[0] = cv2.cvtColor(view.apply(image), cv2.COLOR_BGR2RGB)
        with torch.inference_mode():
            expected = model(to_tensor(padded)[None], torch.tensor([[True, False, False, False]]))[0, 0]
            maps = model.heatmap_net(to_tensor(padded[:1]))[0].sigmoid() if joints is not None else ()
        np.testing.assert_allclose(poses[i], expected, rtol=1e-4, atol=1e-4)
        for joint, heat in enumerate(maps):
            v, u = np.unravel_index(int(heat.argmax()), heat.shape)
            near = view.to_view(joints[i, joint], 16) - (u, v)
            assert np.abs(near).max() < 0.51


@pytest.fixture
def model_file(tmp_path, tiny_model):
    # The command builds motion encoders of the paper's width; that a model without that stream will do is enough here.
    config = CONFIG | {
        "fpn_channels": [8, 8, 8, 8],
        "backbone": "resnet18",
        "motion": {"heads": 4, "depth": 1, "local_blocks": 1, "window": 3, "drop_path": 0.0},
        "decoder": {"layers": 1, "heads": 4, "input_scale": 10.0},
        "switches": {"use_motion": False},
    }
    save_model(tmp_path / "weights/model.safetensors", tiny_model("no_motion"), config)
    return tmp_path / "weights/model.safetensors"


def test_the_command(folder, model_file, tmp_path, capsys, tiny_model):
    out, results = tmp_path / "pictures", tmp_path / "results/real.json"
    assert real_frames.main([str(folder), f"--model={model_file}", f"--out={out}", f"--out-json={results}"]) == 0
    said = capsys.readouterr().out
    assert "ankles, toes" in said and "3D, projected" in said and "upper arm" in said and "target at least 0.97" in said
    result = json.loads(results.read_text())
    assert result["machine"]["torch"] and result["settings"]["frames"] == 3 and result["settings"]["crop"] == "fovea"
    assert len(result["rows"]) == 14 and len(result["targets"]) == 4 and len(result["limbs"]) == 7
    shapes = {p.name: cv2.imread(str(p)).shape for p in out.iterdir()}
    assert shapes == {f"img_{i}.png": (768, 2 * 960, 3) for i in range(3)}
    net = tmp_path / "net/heatmap_net.safetensors"
    info = {"fpn_channels": [8, 8, 8, 8], "size": 64, "loss": "bce"}
    weights.save(net, tiny_model().heatmap_net, info)
    assert real_frames.main([str(folder), f"--heatmaps={net}"]) == 1
    assert "heatmap_net.json does not say the view; name it with --size and --crop" in capsys.readouterr().err
    assert real_frames.main([str(folder), f"--heatmaps={net}", "--crop=square"]) == 0
    assert "3D" not in capsys.readouterr().out
    weights.save(net, tiny_model().heatmap_net, info | {"crop": "square"})
    assert real_frames.main([str(folder), f"--heatmaps={net}"]) == 0
    assert real_frames.main([str(folder), f"--model={tmp_path / 'none.safetensors'}"]) == 1
    assert "run `dvc pull released.dvc`, or name another one with --model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f, m: (f / "joints.json").unlink(), r"joints\.json: no such file; expected"),
        (lambda f, m: (f / "img_2.png").unlink(), r"img_2\.png, named in joints\.json: not readable: No such file"),
        (lambda f, m: (f / "img_0.png").write_bytes(b"GIF89a"), r"img_0\.png.*not a JPEG or PNG"),
        (lambda f, m: cv2.imwrite(str(f / "img_0.png"), np.zeros((100, 90, 3))), r"img_0\.png.*wrong size.*90x100 px"),
        (lambda f, m: m["img_0.png"].update({"15": [1, 2]}), r"img_0\.png: joint '15'; expected a number from 0 to 14"),
        (lambda f, m: m["img_0.png"].update({"neck": [1, 2]}), r"joint 'neck'"),
        (lambda f, m: m["img_0.png"].update({"3": [1]}), r"joint 3 at \[1\]; expected \[u, v\] within 640x512 px"),
        (lambda f, m: m["img_0.png"].update({"3": [700, 5]}), r"joint 3 at \[700, 5\]"),
        (lambda f, m: m["img_0.png"].update({"3": [float("nan"), 5]}), r"joint 3 at \[nan, 5\]"),
        (lambda f, m: m.update({"img_0.png": []}), r"img_0\.png: \[\]; expected places"),
        (lambda f, m: m.clear(), r"'frames' is \{\}; expected marks by file name"),
    ],
)
def test_what_cannot_be_used_is_named(folder, change, said):
    path = folder / "joints.json"
    content = json.loads(path.read_text())
    change(folder, content["frames"])
    if path.exists():
        path.write_text(json.dumps(content))
    with pytest.raises(FramesError, match=said):
        read_marked(folder)


def test_a_calibration_of_another_place(folder, tmp_path):
    other = (folder / "fisheye.calibration.json").rename(tmp_path / "other.json")
    assert read_marked(folder, other).camera.size == BIG.size
    with pytest.raises(CalibrationError, match=r"fisheye\.calibration\.json: no such calibration file"):
        read_marked(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real frames here")
def test_the_format_of_the_real_frames():
    frames = read_marked(REAL)
    assert len(frames.names) == 3 and frames.camera.size == (1280, 1024)
    assert 20 < np.isfinite(frames.joints).all(-1).sum() < 45
