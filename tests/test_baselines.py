"""The baselines: nearest pose against SciPy, rays through the camera, losses that fall, and one pose a frame."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from agego_lib.baselines import (
    DEPTH,
    METHODS,
    BaselineObjective,
    FrameFeatures,
    Zoom,
    ZoomedFrames,
    frame_optimiser,
    new_baseline,
    predict_frames,
)
from agego_lib.baselines.mo2cap2 import LOWER
from agego_lib.datasets.features import open_features
from agego_lib.evaluation import mean_pose
from agego_lib.heatmaps import decode_heatmaps, gaussian_heatmaps
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
    return FrameFeatures(sequences, TrueMaps(sequences), depth=True, zoom=Zoom.on_lower_body(sequences))


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


def test_a_map_without_a_peak_points_at_the_middle(frames):
    class Empty:
        def read(self, number, indices):
            return {name: 0 * value for name, value in frames.store.read(number, indices).items()}

    item = FrameFeatures(frames.sequences, Empty()).frames(0, [0])
    np.testing.assert_allclose(item["pixels"], 0.5)
    assert np.isfinite(item["rays"]).all()


def test_each_frame_has_the_peaks_of_its_own_maps(frames, monkeypatch):
    monkeypatch.setattr("agego_lib.baselines.harness.CHUNK", 5)
    fresh = FrameFeatures(frames.sequences, frames.store)
    for number, indices in ((0, [11, 4, 5]), (1, [6]), (0, [0])):
        maps = frames.store.read(number, indices)["heatmaps"].astype(np.float32)
        peaks, _ = decode_heatmaps(maps)
        item = fresh.frames(number, indices)
        np.testing.assert_allclose(item["pixels"], (peaks + 0.5) / maps.shape[-1], atol=1e-6)
        np.testing.assert_array_equal(item["heatmaps"], maps)


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


def test_the_square_of_the_lower_body(frames):
    zoom, joints = frames.zoom, np.concatenate([s.joints_view(1)[:, LOWER] + 0.5 for s in frames.sequences])
    inside = zoom.inside(torch.from_numpy(joints))
    assert 0.9 < ((inside > 0) & (inside < 1)).float().mean() < 1  # 95 % along each side, as the labels are uniform
    torch.testing.assert_close(zoom.outside(inside), torch.from_numpy(joints), atol=1e-6, rtol=0)
    assert 0 <= min(zoom.left, zoom.top) and max(zoom.left, zoom.top) + zoom.side <= 1

    nothing = SimpleNamespace(joints_view=lambda size: np.full((4, 15, 2), np.nan))
    with pytest.raises(ValueError, match="no knee, ankle or toe"):
        Zoom.on_lower_body([nothing])


def test_what_the_second_detector_is_taught():
    """A spot at each label is at the label in the enlarged picture too; joints of the upper body have none."""
    zoom, size = Zoom(0.3, 0.4, 0.5), 64
    labels = np.full((15, 2), 10.0)
    labels[LOWER] = [[26.3, 32.6], [40, 50], [45.8, 36.1], [30, 51.5], [36, 42.2], [12, 12]]  # the last outside
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 2), axis=-1)

    class OneFrame(SimpleNamespace):
        def __len__(self):
            return 1

    sequence = OneFrame(view=SimpleNamespace(size=size), joints_view=lambda _: labels[None].astype(np.float32))
    sequence.joints_3d = np.random.default_rng(0).normal(size=(1, 15, 3)).astype(np.float32)
    for joint in LOWER:
        spot = 255 * np.exp(-((grid - labels[joint]) ** 2).sum(-1) / 4.5)
        planes = np.repeat(spot.astype(np.uint8)[None, None], 3, axis=1)
        sequence.planes = lambda _, planes=planes: planes
        item = ZoomedFrames([sequence], zoom)[0]
        u, v = item["joints"][joint].tolist()
        if joint == LOWER[-1]:
            assert min(u, v) < 0  # gives no target
            continue
        light = item["image"][0].double().numpy()
        assert np.average(grid[..., 0], weights=light) == pytest.approx(u, abs=0.2)
        assert np.average(grid[..., 1], weights=light) == pytest.approx(v, abs=0.2)
    assert torch.isnan(item["joints"][[0, 1, 2, 3, 4, 5, 6, 7, 11]]).all()


class Sees(torch.nn.Module):
    """A detector that gives the same maps whatever it is shown."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, images):
        return self.maps.logit(1e-6)


def test_the_second_detector_finds_the_lower_body(frames):
    """Where it sees the truth, legs lie on the true rays; the upper body, and legs outside its square, as before."""
    model = new_baseline("mo2cap2_zoom", frames, mean_pose(frames.sequences))
    batch = {k: torch.from_numpy(v) for k, v in frames.frames(0, np.arange(12)).items()}
    sequence = frames.sequences[0]
    truth = torch.from_numpy(sequence.joints_view(1)) + 0.5
    maps = gaussian_heatmaps(model.zoom.inside(truth) * 48 - 0.5, 48, 1.5)
    model.detector = Sees(maps)
    found = model.found(batch)
    first = model.zoom.inside(batch["pixels"])
    taken = ((first > 0) & (first < 1)).all(-1)
    taken[:, [0, 1, 2, 3, 4, 5, 6, 7, 11]] = False
    taken &= maps.amax((2, 3)) > 0.5  # at the square's rim the two detectors differ about what is inside
    assert taken.sum() > 40
    torch.testing.assert_close(found["pixels"][taken], truth[taken], atol=2e-3, rtol=0)
    true = torch.from_numpy(sequence.joints_3d)
    cosine = torch.nn.functional.cosine_similarity(found["rays"], true, dim=-1)
    assert torch.rad2deg(torch.acos(cosine[taken].clamp(-1, 1))).max() < 0.5
    others = torch.ones(15, dtype=torch.bool)
    others[LOWER] = False
    torch.testing.assert_close(found["rays"][:, others], batch["rays"][:, others])
    outside = ~((first > 0) & (first < 1)).all(-1)
    torch.testing.assert_close(found["rays"][outside], batch["rays"][outside])
    assert torch.linalg.cross(model(batch), found["rays"]).abs().max() < 1e-6


def test_what_the_second_detector_sees_can_be_kept(frames):
    """Poses from places looked up are those from the pictures, which are then read no more."""
    torch.manual_seed(0)
    model = new_baseline("mo2cap2_zoom", frames, mean_pose(frames.sequences))
    kept = copy.copy(frames)
    kept.places = predict_frames(model, frames, call=model.places)
    assert "places" in kept[0] and "zoomed" not in kept[0]
    for first, second in zip(predict_frames(model, frames), predict_frames(model, kept), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


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
    learns = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    still = {name for name, p in learns.items() if p.grad is None or not p.grad.any()}
    assert not still
    assert all(p.grad.isfinite().all() for p in learns.values())


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
