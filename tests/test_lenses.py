"""The released model on rendered people: one motion through five lenses and three mounts; its benchmark."""

import itertools
import json
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_camera import LENSES

from agego_data import synthetic
from agego_data.scene import Stage, Viewer
from agego_lib.camera import FisheyeCamera
from agego_lib.camera.lens import equidistant_camera
from agego_lib.params import RELEASED
from agego_lib.stature import AVERAGE, stature
from agego_video import predict
from benchmarks import rendered

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
FRAMES, WIDE = 3, 960


@pytest.fixture(scope="module")
def filmed(project, tmp_path_factory):
    """{(lens, roll in degrees): joints of every frame as predicted, in the axes of the upright camera}."""
    bodies, clips = synthetic._sources(str(project / "data"))
    take = synthetic.make_take(bodies[18], clips, "sceneego", np.random.default_rng(1), FRAMES)
    stage = Stage.random(np.random.default_rng(1), np.random.default_rng(2), bodies[18], take)
    lenses = [
        FisheyeCamera.from_json(project / "data/fisheye.calibration.json"),
        *LENSES,
        equidistant_camera((1280, 1024), (650.0, 500.0), 500.0, 190.0),
        equidistant_camera((960, 960), (470.0, 490.0), 470.0, 175.0),
    ]
    found = {}
    for number, lens in enumerate(lenses):
        camera = lens.scaled(WIDE / lens.size[0])
        viewer = Viewer(camera)
        for roll in (0, 90, 180):
            turn = Rotation.from_euler("z", roll, degrees=True)
            rolled = replace(take, camera_turns=take.camera_turns @ turn.as_matrix())
            folder = tmp_path_factory.mktemp("filmed")
            (folder / "lens.json").write_text(camera.to_json())
            (folder / "frames").mkdir()
            for i in range(FRAMES):
                seen, _, _ = synthetic.draw_frame(viewer, stage, rolled, i)
                image = np.zeros((*camera.size[::-1], 3), np.uint8)
                image[:, viewer.left : viewer.left + seen.shape[1]] = np.where(viewer.share[..., None] > 1, 0, seen)
                cv2.imwrite(str(folder / f"frames/{i}.png"), image)
            result = predict.predict_video(
                folder / "frames",
                folder / "out",
                model=project / RELEASED,
                calibration=folder / "lens.json",
                mount_roll=roll,
                overlay="none",
            )
            found[number, roll] = turn.apply(result.poses.reshape(-1, 3)).reshape(-1, 15, 3)
    return found, take.joints


def test_poses_of_five_lenses_and_three_mounts_agree(filmed):
    found, truth = filmed
    assert len(found) == 15
    poses = np.stack(list(found.values()))
    apart = 1000 * np.linalg.norm(poses[:, None] - poses, axis=-1).mean(2)
    # But for one joint of each pair: a wrist's map has two peaks here, between which a pixel chooses.
    assert np.sort(apart, axis=-1)[..., :-1].mean(-1).max() < 12
    assert apart.mean(-1).max() < 50
    # It is the wearer's pose that they agree on, not one that the model always gives.
    assert 1000 * np.linalg.norm(poses - truth, axis=-1).mean((1, 2)).max() < 100


def test_the_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rendered", "--quick", "--threads=1", f"--out={tmp_path}"])
    rendered.main()
    result = json.loads((tmp_path / "rendered.json").read_text())
    found = [(row["mounts"], row["set"], row["stature"]) for row in result["rows"]]
    sets, told = ("EgoPW-like", "SceneEgo-like"), ("estimated", "told")
    assert found == list(itertools.product(("never trained", "as in real frames"), sets, told))
    # Frames of other mounts, from which the same people are seen.
    assert len({row["mpjpe_mm, mean pose"] for row in result["rows"]}) == 4
    for row in result["rows"]:
        assert row["people"] == 1 and row["frames"] == 8
        # Even on eight frames of one person it knows more than a pose that never moves.
        assert 0 < row["mpjpe_mm"] < row["mpjpe_mm, mean pose"]
        # One who is told has nothing left to guess.
        assert (row["mpjpe_mm, of the stature alone"] > 0) == (row["stature"] == "estimated")
    assert {row["group"] for row in result["groups"]["sceneego"]} >= {"body", "visibility"}


def test_what_not_knowing_the_stature_costs():
    # A tenth too tall, and a fifth too small: joints are off by those shares of the average wearer's distances.
    average = np.random.default_rng(0).normal(size=(15, 3))
    average *= AVERAGE / stature(average)
    away = 1000 * np.linalg.norm(average, axis=-1).mean()
    assert rendered.average_stature_mpjpe([np.stack([average] * 4)]) == pytest.approx(0, abs=1e-9)
    # Sequences count by their frames.
    found = rendered.average_stature_mpjpe([np.stack([1.1 * average] * 3), np.stack([0.8 * average])])
    assert found == pytest.approx(away * (3 * 0.1 + 0.2) / 4)
