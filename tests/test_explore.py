"""The explorer's figure holds what the recording says of the chosen frame, and its controls lead there."""

import base64
import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import CAMERA

from agego_lib.camera import InputView
from agego_lib.inference import predict_sequence
from agego_lib.models.build import load_model, save_model
from agego_lib.params import RELEASED, WindowSettings
from agego_lib.skeleton import BONES
from agego_view import explore, recording_view
from agego_view.plots import LABELS
from agego_view.recording import find_models, record, record_run

WINDOW = WindowSettings(length=4, stride=2, step=2, max_gap=5)


@pytest.fixture(scope="module")
def sequence(make_sequence):
    return make_sequence("explore/seq", range(100, 114))


@pytest.fixture(scope="module")
def recording(tiny_model, sequence, one_thread):
    return record(tiny_model(), sequence, WINDOW)


def trace(view, panel, number):
    return view.figure.data[view._traces[panel][number]]


def points(*traces):
    """What the `markers` trace of a skeleton holds."""
    return [np.stack([np.array(t[axis], float) for axis in "xyz" if axis in t], -1) for t in traces]


def picture(view, name):
    (data,) = re.findall(rf'alt="{name}" src="data:image/jpeg;base64,([^"]+)"', view.pictures.value)
    data = np.frombuffer(base64.b64decode(data), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def texts(view):
    written = re.sub(r'src="[^"]*"', "", view.pictures.value)
    return " | ".join([written, *(a.text for a in view.figure.layout.annotations)])


@pytest.mark.parametrize("frame", [0, 5, 13])
def test_a_frame_is_shown_in_every_panel(recording, sequence, frame):
    view = explore.View(recording)
    view.show(13 - frame)
    view.show(frame, joint=3, layer=0)
    dots = [t for t in view.figure.data if t.type == "scatter3d" and t.mode == "markers"]
    for found, expected in zip(points(*dots), (sequence.joints_3d[frame], recording.poses[frame]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    image = cv2.resize(sequence.images([frame])[0], (recording_view.PICTURE,) * 2, interpolation=cv2.INTER_LINEAR)
    changed = np.abs(picture(view, "frame") - image).max(-1) > 40  # more than JPEG does
    drawn = np.zeros(changed.shape, np.uint8)
    predicted = sequence.view.to_view(sequence.camera.project(recording.poses[frame]))
    for joints in (sequence.joints_view()[frame], predicted):
        centres = (joints + 0.5) * (len(image) / sequence.view.size) - 0.5
        for parent, child in BONES:
            cv2.line(drawn, *(centres[[parent, child]].round().astype(int).tolist()), 255, 15)
        inside = centres[((centres > 5) & (centres < len(image) - 5)).all(-1)].round().astype(int)
        assert all(changed[y - 4 : y + 5, x - 4 : x + 5].any() for x, y in inside)
    assert changed.any() and not changed[drawn == 0].any()
    np.testing.assert_allclose(trace(view, "joints", 0).y, recording.errors.distance[frame], atol=1e-4)
    assert list(trace(view, "time", 2).x) == [100 + frame] * 2
    np.testing.assert_allclose(trace(view, "cross", 0).z, recording.cross[frame, 0], atol=1e-5)
    # The strips of a block are its windows, next to each other.
    frames, weights = recording.motion_at(frame)
    shown = trace(view, "motion", 0)
    np.testing.assert_array_equal(shown.x, 100 + frames)
    for y, row in zip(shown.y, np.asarray(shown.z, float), strict=True):
        block = round(float(y))
        assert any(np.allclose(row, w[block], rtol=0, atol=1e-5, equal_nan=True) for w in weights)
    assert len(shown.z) == weights.shape[0] * weights.shape[1]
    for text in (f"frame {frame + 1} of 14", f"MPJPE {recording.errors.mpjpe[frame]:.0f} mm", f"{LABELS[3]} looks at"):
        assert text in texts(view)


def test_names_are_text(recording):
    sequence = copy.copy(recording.sequence)
    sequence.name = "<img src=x onerror=alert(1)>"
    view = explore.View(dataclasses.replace(recording, sequence=sequence))
    assert "<img src=x" not in view.pictures.value and "&lt;img src=x" in view.pictures.value


def test_heatmaps_of_one_joint_or_of_all(recording, sequence):
    view = explore.View(recording)
    glow = {}
    for joint in (None, 2, 9):
        view.show(4, joint)
        glow[joint] = picture(view, "heatmaps")
        white = glow[joint].min(-1) > 180
        at = (sequence.joints_view()[4] + 0.5) * (len(white) / sequence.view.size) - 0.5
        v, u = np.indices(white.shape)
        ringed = [white[np.abs(np.hypot(u - x, v - y) - 9) < 1].mean() > 0.9 for x, y in at]
        assert all(ringed) if joint is None else ringed[joint] and not all(ringed)
    assert not np.array_equal(glow[2], glow[9])
    # The brightest of all maps is nowhere darker than one of them, but for the JPEG.
    assert cv2.blur(glow[None].sum(-1) - glow[2].sum(-1), (9, 9)).min() > -40
    view.show(4, 2)
    assert f"{LABELS[2]}, peak {recording.heatmaps[4, 2].max():.2f}" in texts(view)


def test_the_viewers_angle_stays(recording):
    view = explore.View(recording)
    angle = {"eye": {"x": 0.3, "y": 2.0, "z": 0.4}}
    view.figure.layout.scene.camera = angle
    ranges = view.figure.layout.scene.to_plotly_json()
    for frame in range(3):
        view.show(frame)
    assert view.figure.layout.scene.to_plotly_json() == ranges
    assert view.figure.layout.scene.camera.eye.to_plotly_json() == angle["eye"]
    assert view.figure.layout.uirevision


def test_another_frame_is_one_message(recording, monkeypatch):
    view = explore.View(recording)
    sent = []
    monkeypatch.setattr(view.figure, "_send_update_msg", lambda *a, **k: sent.append(a))
    monkeypatch.setattr(view.figure, "_send_restyle_msg", lambda *a, **k: pytest.fail("a trace by itself"))
    monkeypatch.setattr(view.figure, "_send_relayout_msg", lambda *a, **k: pytest.fail("the layout by itself"))
    view.show(6, 1, 0)
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("row", "what"),
    [("no_spatial", "spatial stream"), ("no_motion", "motion stream"), ("no_cross_attention", "cross-attention")],
)
def test_a_part_that_the_model_lacks_is_named(row, what, tiny_model, sequence, one_thread):
    view = explore.View(record(tiny_model(row), sequence, WINDOW))
    view.show(3, 0)
    assert texts(view).count("this model has no") == 1 and f"this model has no {what}" in texts(view)


@pytest.fixture(scope="module")
def tests(make_sequence):
    scenes = [
        make_sequence(name, range(frames), dataset="sceneego", split="test")
        for name, frames in (("one", 8), ("two", 6))
    ]
    return {"sceneego": scenes, "egopw": [make_sequence("a/one", range(9), split="test")]}


@pytest.fixture
def project(tmp_path, tests, tiny_model, monkeypatch):
    """A project's folder with prepared test sequences, and models that stand in for trained ones."""
    for name, group in tests.items():
        folder = tmp_path / "artifacts/prepared" / name
        folder.mkdir(parents=True)
        paths = [shutil.copy(sequence.path, folder) for sequence in group]
        splits = {"train": [], "test": [Path(path).name for path in paths]}
        (folder / "splits.json").write_text(json.dumps({"splits": splits}))
    for run in ("finetune", "ablate/no_motion", "ablate/baseline_nearest"):
        (tmp_path / "artifacts" / run).mkdir(parents=True)
        if "baseline" not in run:
            (tmp_path / "artifacts" / run / "model.safetensors").touch()
    calls = []

    def stand_in(root, run, sequence, device):
        calls.append((run, sequence.name))
        return record(tiny_model("no_motion" if run == "no_motion" else "full"), sequence, WINDOW)

    monkeypatch.setattr(explore, "record_run", stand_in)
    return tmp_path, calls


def test_controls(project, one_thread):
    root, calls = project
    explorer = explore.Explorer(root)
    assert explorer.model.options == ("finetune", "no_motion")
    assert calls == [("finetune", "one")]
    explorer.frame.value = 5
    assert "one, frame 6 of 8" in texts(explorer.view)
    explorer.view.figure.layout.scene.camera.eye.x = 0.7
    explorer.sequence.index = 1
    # The frame stays where the new sequence has one; the angle stays.
    assert "two, frame 6 of 6" in texts(explorer.view)
    assert explorer.view.figure.layout.scene.camera.eye.x == 0.7
    explorer.data_set.value = "egopw"
    assert "a/one" in texts(explorer.view) and explorer.frame.max == explorer.play.max == 8
    explorer.model.value = "no_motion"
    assert explorer.view.recording.motion is None
    explorer.layer.index = 1
    np.testing.assert_allclose(trace(explorer.view, "cross", 0).z, explorer.view.recording.cross[5, 0], atol=1e-5)
    explorer.model.value = "finetune"
    assert calls == [("finetune", "one"), ("finetune", "two"), ("finetune", "a/one"), ("no_motion", "a/one")]


def test_whichever_control_says_it_first_shows_a_frame_once(project, one_thread, monkeypatch):
    explorer = explore.Explorer(project[0])
    shown = []
    monkeypatch.setattr(explorer.view, "show", lambda *chosen: shown.append(chosen))
    explorer.play.value = 3  # what the browser sends for a move of the slider, as both are linked there
    explorer.frame.value = 3
    explorer.frame.value = 4
    explorer.play.value = 4
    explorer.joint.index = 2
    assert shown == [(3, None, None), (4, None, None), (4, 1, None)]


def test_a_click_goes_to_its_frame(project, one_thread):
    explorer = explore.Explorer(project[0])
    curve = trace(explorer.view, "time", 0)
    curve._dispatch_on_click(type("Points", (), {"point_inds": [4]})(), None)
    assert explorer.frame.value == 4 and "frame 5 of 8" in texts(explorer.view)


def test_what_is_missing_is_said_in_one_line(tmp_path, project):
    with pytest.raises(explore.NothingToExplore, match="run `dvc repro`") as caught:
        explore.test_sequences(tmp_path / "nowhere", "egopw")
    assert caught.value._render_traceback_() == [str(caught.value)] and "\n" not in str(caught.value)
    with pytest.raises(explore.NothingToExplore, match="run `dvc repro`"):
        explore.trained_models(tmp_path / "nowhere")
    root, _ = project
    assert list(find_models(root)) == ["finetune", "no_motion"]


@pytest.fixture
def with_released(project, tests, tiny_model, monkeypatch):
    """The project with a released model of another view, and its data set's images."""
    root, _ = project
    config = {
        "input": {"size": 64, "crop": "fovea"},
        "window": dataclasses.asdict(WINDOW),
        "fpn_channels": [8, 8, 8, 8],
        "backbone": "resnet18",
        "motion": {"heads": 4, "depth": 1, "local_blocks": 1, "window": 3, "drop_path": 0.0},
        "decoder": {"layers": 1, "heads": 4, "input_scale": 10.0},
        "switches": {"use_motion": False},
    }
    save_model(root / RELEASED, tiny_model("no_motion"), config, packed=True)
    for sequence in tests["sceneego"]:
        (root / "raw/test" / sequence.name).mkdir(parents=True)
        shutil.copytree(sequence.path.parent / sequence.name, root / "raw/test" / sequence.name / "imgs")
    (root / "test.txt").write_text("test/one\ntest/two\n")
    raw_settings = yaml.safe_load((Path(__file__).resolve().parents[1] / "params.yaml").read_text())
    raw_settings["dataset"]["sceneego"] |= {"root": "raw", "test_list": "test.txt"}
    (root / "params.yaml").write_text(yaml.safe_dump(raw_settings))
    monkeypatch.setattr(explore, "record_run", record_run)
    return root


def test_the_released_model_sees_its_own_view(with_released, tests, one_thread):
    root = with_released
    assert list(find_models(root)) == ["finetune", "released", "no_motion"]
    prepared = tests["sceneego"][1]
    recording = explore.recorded(root, "released", prepared)
    model = load_model(root / RELEASED)[0]
    view, folder = InputView.of(CAMERA, 64, "fovea"), root / "raw/test/two/imgs"
    images = [cv2.imread(str(folder / name)) for name in prepared.frame_names]
    images = np.stack([view.apply(image)[..., ::-1] for image in images])
    np.testing.assert_array_equal(recording.sequence.images(range(6)), images)
    # Windows of four frames, every second one, of six: frames 0, 2, 4 and 1, 3, 5, padded by one.
    for first in (0, 1):
        poses = predict_sequence(model, images[first::2], length=4, stride=2)
        np.testing.assert_allclose(recording.poses[first::2], poses, atol=1e-5)
    expected = 1000 * np.linalg.norm(recording.poses - prepared.joints_3d, axis=-1)
    np.testing.assert_allclose(recording.errors.distance, expected, rtol=1e-4)
    # Truth and prediction are drawn in that view too.
    found = recording.sequence.joints_view(32)
    np.testing.assert_allclose(found, view.to_view(prepared.joints_2d, 32), atol=1e-3)
    drawn = explore.View(recording)
    drawn.show(3, 2)
    assert "frame 4 of 6" in texts(drawn) and recording.heatmaps.shape == (6, 15, 16, 16)


def test_what_the_released_model_lacks_is_said(with_released, tests):
    root, (one, _) = with_released, tests["sceneego"]
    (root / "raw/test/one/imgs" / one.frame_names[3]).unlink()
    with pytest.raises(explore.NothingToExplore, match=r"released cannot be shown.*_000003\.jpg: not readable"):
        explore.recorded(root, "released", one)
    (root / "test.txt").write_text("test/two\n")
    with pytest.raises(
        explore.NothingToExplore, match=r"released cannot be shown.*test\.txt: no one, which is prepared"
    ):
        explore.recorded(root, "released", one)
    # In the prepared view no other image is read.
    path = (root / RELEASED).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"input": {"size": 32, "crop": "none"}}))
    assert explore.recorded(root, "released", one).sequence is one


def test_a_run_that_cannot_be_read_is_said_in_one_line(project, monkeypatch):
    monkeypatch.setattr(explore, "record_run", record_run)
    root, _ = project
    (sequence, *_) = explore.test_sequences(root, "sceneego")
    with pytest.raises(explore.NothingToExplore, match="finetune cannot be shown; run `dvc repro`") as caught:
        explore.recorded(root, "finetune", sequence)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)
