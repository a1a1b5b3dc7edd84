"""The baselines: nearest pose against SciPy, rays through the camera, losses that fall, and one pose a frame."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from agego_lib.baselines import (
    DEPTH,
    METHODS,
    BaselineObjective,
    FrameFeatures,
    frame_optimiser,
    new_baseline,
    predict_frames,
)
from agego_lib.datasets.features import open_features
from agego_lib.evaluation import mean_pose
from agego_lib.heatmaps import gaussian_heatmaps
from agego_lib.metrics import mpjpe
from agego_lib.params import EngineSettings, LossSettings, OptimiserSettings, WindowSettings
from agego_lib.training import fit

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 16
ENGINE = EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=1)
LOSS = LossSettings(lambda_pos=1.0, lambda_bone=0.1, lambda_cos=0.01, lambda_velocity=0.0)


class TrueMaps:
    """A feature store whose heatmaps are Eq. 7's of the labels, and whose trunk holds each joint's distance."""

    def __init__(self, sequences):
        self.sequences = sequences

    def read(self, number, frames):
        sequence = self.sequences[number]
        maps = gaussian_heatmaps(sequence.joints_view(SIDE)[frames], SIDE, 1.0)
        distance = np.linalg.norm(sequence.joints_3d[frames], axis=-1)
        trunk = np.broadcast_to(distance[:, :, None, None], (*distance.shape, 4, 4))
        return {"heatmaps": np.asarray(maps, np.float16), "trunk": trunk.astype(np.float16)}


@pytest.fixture(scope="module")
def frames(make_sequence):
    sequences = [make_sequence("base/a", range(12)), make_sequence("base/b", range(7))]
    for sequence in sequences:
        # Poses that the pixels really show: each joint on the ray of its label, half a metre to one away.
        rng = np.random.default_rng(len(sequence))
        away = rng.uniform(0.5, 1.0, sequence.joints_2d.shape[:2])
        sequence.joints_3d = sequence.camera.unproject(sequence.joints_2d, away).astype(np.float32)
        sequence.depth = rng.uniform(0.5, 3.0, (len(sequence), 24, 24)).astype(np.float16)
    return FrameFeatures(sequences, TrueMaps(sequences), depth=True)


@pytest.fixture(autouse=True)
def few_voxels(monkeypatch):
    monkeypatch.setattr("agego_lib.baselines.sceneego.GRID", 8)


def test_frames_are_seen_through_the_camera(frames):
    assert len(frames) == 19
    item = frames[14]
    truth = frames.sequences[1].joints_3d[2]
    np.testing.assert_array_equal(item["joints_3d"], truth)
    rays = truth / np.linalg.norm(truth, axis=-1, keepdims=True)
    inside = frames.sequences[1].in_image[2]
    # A few degrees: maps of 16 px see a pixel of the image only roughly.
    assert np.degrees(np.arccos(np.clip((item["rays"].numpy() * rays).sum(-1), -1, 1)))[inside].max() < 3
    np.testing.assert_allclose(np.linalg.norm(item["rays"], axis=-1), 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"raise features\.limit_gb"):
        FrameFeatures(frames.sequences, None)


def test_the_depth_of_the_scene_is_there_or_missed(frames, make_sequence):
    item, sequence = frames[14], frames.sequences[1]
    np.testing.assert_array_equal(item["depth"], sequence.depth[2].astype(np.float32))
    assert "depth" not in FrameFeatures(frames.sequences, frames.store)[0]
    bare = make_sequence("base/bare", range(3))
    with pytest.raises(ValueError, match=r"bare_32\.h5 and 0 more hold no depth .* depth\.npz .* ablation\.baselines"):
        FrameFeatures([sequence, bare], frames.store, depth=True)
    assert set(DEPTH) <= set(METHODS)


def test_a_map_without_a_peak_points_at_the_middle(frames, monkeypatch):
    empty = frames.store.read(0, [0])["heatmaps"] * 0
    monkeypatch.setattr(frames.store, "read", lambda n, f: {"heatmaps": empty, "trunk": np.zeros((1, 15, 4, 4))})
    item = frames.frames(0, [0])
    np.testing.assert_allclose(item["pixels"], 0.5)
    assert np.isfinite(item["rays"]).all()


def test_nearest_pose_is_scipys(frames):
    model = new_baseline("nearest", frames, None)
    pixels = np.concatenate([frames.frames(i, np.arange(len(s)))["pixels"] for i, s in enumerate(frames.sequences)])
    poses = np.concatenate([s.joints_3d for s in frames.sequences])
    asked = pixels[[3, 15]] + np.random.default_rng(0).normal(0, 0.05, (2, 15, 2)).astype(np.float32)
    _, nearest = cKDTree(pixels.reshape(19, -1)).query(asked.reshape(2, -1))
    np.testing.assert_allclose(model({"pixels": torch.from_numpy(asked)}), poses[nearest], rtol=1e-6)
    # A training frame finds itself.
    for found, sequence in zip(predict_frames(model, frames), frames.sequences, strict=True):
        np.testing.assert_allclose(found, sequence.joints_3d, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_frame_gets_one_pose(frames, method):
    torch.manual_seed(0)
    model = new_baseline(method, frames, mean_pose(frames.sequences))
    poses = predict_frames(model, frames, chunk=5)
    assert [p.shape for p in poses] == [(12, 15, 3), (7, 15, 3)]
    assert all(np.isfinite(p).all() for p in poses)
    one_by_one = predict_frames(model, frames, chunk=1)
    for a, b in zip(poses, one_by_one, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_mo2cap2_keeps_the_rays(frames):
    model = new_baseline("mo2cap2", frames, mean_pose(frames.sequences))
    batch = {k: torch.from_numpy(v) for k, v in frames.frames(0, np.arange(4)).items()}
    pose = model(batch)
    assert torch.linalg.cross(pose, batch["rays"]).abs().max() < 1e-6


@pytest.fixture(scope="module")
def few(frames):
    """Some frames of both sequences as one batch."""
    items = [frames[i] for i in (0, 4, 8, 11, 12, 18)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    return batch | {"wild": torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])}  # which domain, that EgoPW asks for


def trained(method, frames, few, steps):
    """(model, values that its objective gave in each step) after as many steps on the same few frames."""
    torch.manual_seed(0)
    objective = BaselineObjective(new_baseline(method, frames, mean_pose(frames.sequences)), LOSS)
    adam = torch.optim.Adam(objective.parameters(), lr=3e-3)
    told = []
    for _ in range(steps):
        loss, values = objective(few)
        adam.zero_grad()
        loss.backward()
        adam.step()
        told.append(values)
    return objective.model.eval(), told


@pytest.mark.parametrize("method", METHODS[1:])
def test_training_leaves_the_mean_pose_behind(frames, few, method):
    model, told = trained(method, frames, few, steps=150 if method == "egohmr" else 80)
    mean = torch.from_numpy(mean_pose(frames.sequences)).float()
    with torch.no_grad():
        error, nothing = (mpjpe(pose, few["joints_3d"]) for pose in (model(few), mean.expand(6, 15, 3)))
    assert error < 0.5 * nothing
    own = {
        "xr_egopose": {"reconstruction"},
        "selfpose": {"reconstruction", "rotations"},
        "egoposeformer": {"earlier_stages"},
        "kolotouros": {"likelihood"},
        "egohmr": {"denoising"},
        "sceneego": {"depth"},
        "egopw": {"domain"},
        "egopw_one_view": {"domain"},
    }.get(method, set())
    composite = {"position", "bone_length", "bone_cosine"} if method != "egohmr" else set()
    assert set(told[-1]) == {"loss", "mpjpe_mm"} | composite | own


@pytest.mark.parametrize("method", METHODS[1:])
def test_every_parameter_learns(frames, few, method):
    torch.manual_seed(0)
    objective = BaselineObjective(new_baseline(method, frames, mean_pose(frames.sequences)), LOSS)
    # As after some training: layers that start at zero let nothing through.
    for p in objective.parameters():
        torch.nn.init.normal_(p, std=0.1) if not p.any() else None
    objective(few)[0].backward()
    still = {name for name, p in objective.named_parameters() if p.grad is None or not p.grad.any()}
    assert not still
    assert all(p.grad.isfinite().all() for p in objective.parameters())


def test_the_stage_trains_by_the_same_loop_as_the_model(frames):
    torch.manual_seed(0)
    objective = BaselineObjective(new_baseline("mo2cap2", frames, mean_pose(frames.sequences)), LOSS)
    settings = OptimiserSettings(
        epochs=30, batch_size=19, lr=3e-3, lr_final=3e-4, warmup_steps=5, weight_decay=0.0, grad_clip=1.0
    )
    errors = []
    fit(objective, frames, settings, ENGINE, log=lambda _, v: errors.append(v["mpjpe_mm"]))
    assert errors[-1] < 0.6 * errors[0]


def test_reconstruction_is_the_mean_squared_error(frames):
    torch.manual_seed(0)
    model = new_baseline("xr_egopose", frames, mean_pose(frames.sequences), input_scale=3.0)
    batch = {k: torch.from_numpy(v) for k, v in frames.frames(0, np.arange(4)).items()}
    maps = model.reconstruct(model.grow(model.encode(batch["heatmaps"] * 3))).sigmoid()
    assert maps.shape == batch["heatmaps"].shape
    expected = ((maps - batch["heatmaps"]) ** 2).mean()
    torch.testing.assert_close(model.reconstruction(batch), expected)
    plain, _ = BaselineObjective(new_baseline("mo2cap2", frames, mean_pose(frames.sequences)), LOSS)(batch)
    assert plain.isfinite()


def test_as_many_frames_and_steps_as_with_windows():
    window = WindowSettings(length=8, stride=4, step=8, max_gap=10)
    optimiser = OptimiserSettings(2, 4, 1e-3, 1e-4, 0, 0.0, 0.0)
    found = frame_optimiser(optimiser, window)
    # 960 frames are 240 windows an epoch, half overlapping: 2 x 240 / 4 steps of 32 frames.
    assert (found.batch_size, found.epochs) == (32, 4)
    assert found.epochs * 960 // found.batch_size == 2 * 240 // 4


def test_unknown_method(frames):
    with pytest.raises(ValueError, match="baseline 'egoglass'; expected nearest"):
        new_baseline("egoglass", frames, np.zeros((15, 3)))


def test_other_heatmaps_stand_in_the_store(tmp_path, make_sequence, tiny_model):
    """Table 6: heatmaps of one store, all else of the other."""
    from agego_lib.datasets.features import store_features

    sequences = [make_sequence("mixed/a", range(4))]
    for folder, seed in (("main", 0), ("other", 1)):
        store_features(tmp_path / folder, tiny_model(seed=seed), sequences, limit_gb=1)
    main, other = (open_features(tmp_path / f, sequences).read(0, np.arange(4)) for f in ("main", "other"))
    mixed = open_features(tmp_path / "main", sequences, tmp_path / "other").read(0, np.arange(4))
    np.testing.assert_array_equal(mixed["heatmaps"], other["heatmaps"])
    np.testing.assert_array_equal(mixed["trunk"], main["trunk"])
    assert not np.array_equal(main["heatmaps"], other["heatmaps"])
