"""The explorer's figure holds what the recording says of the chosen frame, and its controls lead there."""

import base64
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from agego_lib import explore
from agego_lib.params import WindowSettings
from agego_lib.plots import LABELS
from agego_lib.recording import find_models, record, record_run
from agego_lib.skeleton import NUM_JOINTS

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


def picture(trace):
    data = base64.b64decode(trace.source.split(",")[1])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def texts(view):
    return " | ".join(a.text for a in view.figure.layout.annotations)


@pytest.mark.parametrize("frame", [0, 5, 13])
def test_a_frame_is_shown_in_every_panel(recording, sequence, frame):
    view = explore.View(recording)
    view.show(13 - frame)
    view.show(frame, joint=3, layer=0)
    dots = [t for t in view.figure.data if t.type == "scatter3d" and t.mode == "markers"]
    for found, expected in zip(points(*dots), (sequence.joints_3d[frame], recording.poses[frame]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    names = ("truth", "prediction")
    dots = [t for t in view.figure.data if t.type == "scatter" and t.mode == "markers" and t.name in names]
    flat = sequence.joints_view()[frame], sequence.view.to_view(sequence.camera.project(recording.poses[frame]))
    for found, expected in zip(points(*dots), flat, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(picture(trace(view, "frame", 0)) - sequence.images([frame])[0]).mean() < 15  # JPEG
    np.testing.assert_array_equal(trace(view, "joints", 0).y, recording.errors.distance[frame])
    assert list(trace(view, "time", 2).x) == [100 + frame] * 2
    np.testing.assert_array_equal(trace(view, "cross", 0).z, recording.cross[frame, 0])
    # The strips of a block are its windows, next to each other.
    frames, weights = recording.motion_at(frame)
    shown = trace(view, "motion", 0)
    np.testing.assert_array_equal(shown.x, 100 + frames)
    for y, row in zip(shown.y, np.asarray(shown.z), strict=True):
        block = round(float(y))
        assert any(np.array_equal(row, w[block], equal_nan=True) for w in weights)
    assert len(shown.z) == weights.shape[0] * weights.shape[1]
    title = view.figure.layout.title.text
    assert f"frame {frame + 1} of 14" in title and f"MPJPE {recording.errors.mpjpe[frame]:.0f} mm" in title
    assert f"{LABELS[3]} looks at" in texts(view)


def test_heatmaps_of_one_joint_or_of_all(recording):
    view = explore.View(recording)
    glow = {}
    for joint in (None, 2, 9):
        view.show(4, joint)
        glow[joint] = picture(trace(view, "heatmap", 0))
        rings = np.isfinite(np.array(trace(view, "heatmap", 1).x, float))
        assert rings.sum() == (NUM_JOINTS if joint is None else 1) and (joint is None or rings[joint])
    assert not np.array_equal(glow[2], glow[9])
    # The brightest of all maps is nowhere darker than one of them, but for the JPEG.
    assert (glow[None].sum(-1) - glow[2].sum(-1)).min() > -60


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
    scenes = [make_sequence(name, range(frames), dataset="sceneego") for name, frames in (("one", 8), ("two", 6))]
    return {"sceneego": scenes, "egopw": [make_sequence("a/one", range(9))]}


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
    assert "one, frame 6 of 8" in explorer.view.figure.layout.title.text
    explorer.view.figure.layout.scene.camera.eye.x = 0.7
    explorer.sequence.index = 1
    # The frame stays where the new sequence has one; the angle stays.
    assert "two, frame 6 of 6" in explorer.view.figure.layout.title.text
    assert explorer.view.figure.layout.scene.camera.eye.x == 0.7
    explorer.data_set.value = "egopw"
    assert "a/one" in explorer.view.figure.layout.title.text and explorer.frame.max == explorer.play.max == 8
    explorer.model.value = "no_motion"
    assert explorer.view.recording.motion is None
    explorer.layer.index = 1
    np.testing.assert_array_equal(trace(explorer.view, "cross", 0).z, explorer.view.recording.cross[5, 0])
    explorer.model.value = "finetune"
    assert calls == [("finetune", "one"), ("finetune", "two"), ("finetune", "a/one"), ("no_motion", "a/one")]


def test_a_click_goes_to_its_frame(project, one_thread):
    explorer = explore.Explorer(project[0])
    curve = trace(explorer.view, "time", 0)
    curve._dispatch_on_click(type("Points", (), {"point_inds": [4]})(), None)
    assert explorer.frame.value == 4 and "frame 5 of 8" in explorer.view.figure.layout.title.text


def test_what_is_missing_is_said_in_one_line(tmp_path, project):
    with pytest.raises(explore.NothingToExplore, match="run `make repro`") as caught:
        explore.test_sequences(tmp_path / "nowhere", "egopw")
    assert caught.value._render_traceback_() == [str(caught.value)] and "\n" not in str(caught.value)
    with pytest.raises(explore.NothingToExplore, match="run `make repro`"):
        explore.trained_models(tmp_path / "nowhere")
    root, _ = project
    assert list(find_models(root)) == ["finetune", "no_motion"]


def test_a_run_that_cannot_be_read_is_said_in_one_line(project, monkeypatch):
    monkeypatch.setattr(explore, "record_run", record_run)
    root, _ = project
    (sequence, *_) = explore.test_sequences(root, "sceneego")
    with pytest.raises(explore.NothingToExplore, match="finetune cannot be shown; run `make repro`") as caught:
        explore.recorded(root, "finetune", sequence)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)
