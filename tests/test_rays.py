"""The ray decoder: tokens against a loop over each map, turns against turned scenes, masks against shorter windows."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from agego_lib.camera import view
from agego_lib.heatmaps import gaussian_heatmaps
from agego_lib.images import to_tensor
from agego_lib.inference import LivePredictor, PoseStream, predict_sequence
from agego_lib.models import AGEgoPose, HeatmapNet
from agego_lib.models.build import load_model, save_model
from agego_lib.models.rays import (
    MIRRORED,
    TOKEN,
    Augmentation,
    RayDecoder,
    RayTokens,
    between,
    hidden_token,
    mirrored,
    smoothed,
    turned,
    unproject,
)
from agego_lib.params import LossSettings
from agego_lib.skeleton import JOINT_NAMES
from agego_lib.training import PoseObjective

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 24


def random_tokens(frames=6, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    places = torch.from_numpy(rng.uniform(2, SIDE - 3, (batch, frames, 15, 2))).float()
    return RayTokens()(gaussian_heatmaps(places, SIDE, 1.0)), places


def decoder(**options):
    torch.manual_seed(0)
    mean = torch.randn(15, 3) * 0.3 + torch.tensor([0.0, 0.3, 0.8])
    made = RayDecoder(mean, dim=32, layers=2, heads=2, motion_dim=8, **options).eval()
    torch.nn.init.normal_(made.head[-1].weight, std=0.1)  # as after some training
    for block in made.blocks:
        if block.farthest:
            torch.nn.init.normal_(block.distance)
    return made


def test_trained_on_single_frames_it_attends_to_no_other():
    made = decoder(use_motion=False, train_length=1)
    tokens, _ = random_tokens(frames=6)
    alone = torch.cat([made(tokens[:, [t]]) for t in range(6)], dim=1)
    torch.testing.assert_close(made(tokens), alone)
    assert not any("time" in name or "distance" in name for name in made.state_dict())
    whole = decoder(use_motion=False)
    assert (whole(tokens) - torch.cat([whole(tokens[:, [t]]) for t in range(6)], dim=1)).abs().max() > 1e-3


def test_frames_far_apart_count_alike_where_short_windows_are_trained_on():
    """Of 16 frames, from 12 on; tested on longer windows it must not need what it never learned."""
    made = decoder(use_motion=False, train_length=16)
    tokens, _ = random_tokens(frames=40)
    before = made(tokens)
    assert [block.distance.shape[1] for block in made.blocks] == [25, 25]
    for block in made.blocks:
        block.distance = torch.nn.Parameter(torch.cat([block.distance[:, :1].expand(-1, 27), block.distance,
                                                       block.distance[:, -1:].expand(-1, 27)], dim=1))  # fmt: skip
        block.farthest = 39
    torch.testing.assert_close(made(tokens), before)
    assert decoder(use_motion=False).blocks[0].distance.shape[1] == 129


def test_rays_are_those_of_the_view():
    places = np.random.default_rng(0).uniform(-0.5, SIDE - 0.5, (50, 2))
    found = unproject(torch.from_numpy(places), SIDE).numpy()
    np.testing.assert_allclose(found, view.rays(places, SIDE), atol=1e-9)


def test_tokens_are_what_a_loop_finds_on_each_map():
    rng = np.random.default_rng(0)
    first, second = rng.uniform(3, 10, (15, 2)), rng.uniform(14, 20, (15, 2))
    strong, weak = (gaussian_heatmaps(torch.from_numpy(p), SIDE, 1.0).double() for p in (first, second))
    maps = 0.9 * strong + 0.4 * weak
    maps[4] = 0  # nothing to be seen
    tokens = RayTokens()(maps[None, None].float())[0, 0].numpy()
    assert tokens.shape == (15, TOKEN)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for joint in range(15):
        values = maps[joint].numpy()
        if joint == 4:
            np.testing.assert_allclose(tokens[4, :6], [*view.rays([11.5, 11.5], SIDE)] * 2, atol=1e-6)
            np.testing.assert_array_equal(tokens[4, 9:11], 0)
            continue
        # The Gaussians hardly overlap: peaks lie at their centres.
        np.testing.assert_allclose(tokens[joint, :3], view.rays(first[joint], SIDE), atol=2e-3)
        np.testing.assert_allclose(tokens[joint, 3:6], view.rays(second[joint], SIDE), atol=4e-3)
        assert tokens[joint, 9] == pytest.approx(values.max(), abs=1e-5)
        apart = (columns - first[joint, 0]) ** 2 + (rows - first[joint, 1]) ** 2 > 3.5**2
        assert tokens[joint, 10] == pytest.approx(values[apart].max(), abs=1e-5)
        weights = values**2 / (values**2).sum()
        u, v = (weights * columns).sum(), (weights * rows).sum()
        np.testing.assert_allclose(tokens[joint, 6:9], view.rays([u, v], SIDE), atol=1e-5)
        spread = np.sqrt([(weights * (columns - u) ** 2).sum(), (weights * (rows - v) ** 2).sum()]) / SIDE
        np.testing.assert_allclose(tokens[joint, 11:13], spread, atol=1e-5)
        assert tokens[joint, 13] == pytest.approx(np.log1p(values.sum()), abs=1e-5)


def test_the_token_of_nothing_is_that_of_an_empty_map():
    tokens = RayTokens()(torch.zeros(1, 1, 15, SIDE, SIDE))
    np.testing.assert_allclose(tokens[0, 0, :, :6], hidden_token(tokens)[:6].expand(15, 6), atol=1e-6)
    np.testing.assert_array_equal(tokens[..., 9:], 0)


def test_turned_tokens_are_those_of_a_turned_camera():
    tokens, places = random_tokens()
    turn = Rotation.from_rotvec([0.05, -0.1, 0.08]).as_matrix()
    rays = view.rays(places.numpy(), SIDE) @ turn.T
    moved = torch.from_numpy(view.project(rays, SIDE)).float()
    inside = ((moved > 1.5) & (moved < SIDE - 2.5)).all(-1)
    again = RayTokens()(gaussian_heatmaps(moved, SIDE, 1.0))
    found = turned(tokens, torch.from_numpy(turn).float().expand(2, 3, 3))
    np.testing.assert_allclose(found[..., :3][inside], again[..., :3][inside], atol=1e-3)
    np.testing.assert_array_equal(found[..., 9:], tokens[..., 9:])


def test_augmentation_keeps_joints_on_their_rays():
    tokens, _ = random_tokens(frames=16, batch=40)
    joints = tokens[..., :3] * torch.rand(40, 16, 15, 1)
    torch.manual_seed(0)
    new, moved = Augmentation(turn_degrees=5.0, mirror=True)(tokens, joints)
    distance = joints.norm(dim=-1)
    flipped = [not torch.allclose(moved[i].norm(dim=-1), distance[i], atol=1e-5) for i in range(40)]
    assert 10 < sum(flipped) < 30
    for i, sides in enumerate(flipped):
        order = MIRRORED if sides else list(range(15))
        torch.testing.assert_close(moved[i].norm(dim=-1), distance[i][:, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(new[..., :3] * moved.norm(dim=-1, keepdim=True), moved, atol=1e-5, rtol=0)
    angle = torch.rad2deg(torch.arccos((new[..., 0, 0, :3] * tokens[..., 0, 0, :3]).sum(-1).clamp(-1, 1)))
    assert 2 < angle[[not m for m in flipped]].mean() < 12
    assert [JOINT_NAMES[j].replace("left", "right") for j in MIRRORED] == [
        n.replace("left", "right") for n in JOINT_NAMES
    ]


def test_mirrored_tokens_are_those_of_a_mirrored_picture():
    tokens, places = random_tokens()
    picture = torch.stack([SIDE - 1 - places[..., 0], places[..., 1]], dim=-1)[:, :, MIRRORED]
    again = RayTokens()(gaussian_heatmaps(picture, SIDE, 1.0))
    np.testing.assert_allclose(mirrored(tokens), again, atol=1e-3)
    np.testing.assert_allclose(mirrored(mirrored(tokens)), tokens, atol=1e-6)


@pytest.mark.parametrize("told", [None, 1.6])
def test_flip_test_is_the_mean_of_a_picture_and_its_mirror_image(told):
    """Filters included; and a mirror image then has the mirrored pose."""
    plain, both = (
        decoder(use_motion=False, smoothing=1.0, min_peak=0.5, stature="estimated", flip_test=on)
        for on in (False, True)
    )
    both.load_state_dict(plain.state_dict())
    tokens, _ = random_tokens()
    tokens[0, 3, :, 9] = 0.1  # a dark frame
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    stature = told and torch.full((2,), told)
    sides = torch.tensor([-1.0, 1.0, 1.0])
    one, other = (plain(t, None, mask, stature) for t in (tokens, mirrored(tokens)))
    found = both(tokens, None, mask, stature)
    torch.testing.assert_close(found[mask], ((one + other[:, :, MIRRORED] * sides) / 2)[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(both(mirrored(tokens), None, mask, stature)[:, :, MIRRORED] * sides, found)
    assert (one - found).abs().max() > 0.01
    torch.testing.assert_close(both.train()(tokens, None, mask, stature), plain.train()(tokens, None, mask, stature))
    with pytest.raises(ValueError, match="flip_test with use_motion"):
        decoder(flip_test=True)


def test_hidden_stretches_are_of_the_share_asked_for():
    tokens, _ = random_tokens(frames=40, batch=30)
    torch.manual_seed(0)
    new, _ = Augmentation(hidden_share=0.2)(tokens, tokens[..., :3])
    hidden = (new == hidden_token(tokens)).all(-1)
    assert 0.15 < hidden.float().mean() < 0.25
    # In stretches of eight frames: most hidden frames have a hidden neighbour.
    assert (hidden[:, 1:] & hidden[:, :-1]).sum() > 0.8 * hidden[:, 1:].sum()
    torch.testing.assert_close(new[~hidden], tokens[~hidden], atol=1e-6, rtol=0)


def test_it_starts_between_mean_pose_and_rays_at_the_mean_distance():
    mean = torch.randn(15, 3)
    tokens, _ = random_tokens()
    found = RayDecoder(mean, dim=32, layers=1, heads=2, use_motion=False)(tokens)
    wanted = (mean + tokens[..., :3] * mean.norm(dim=-1)[:, None]) / 2
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("use_motion", [False, True])
def test_padding_changes_no_pose(use_motion):
    tokens, _ = random_tokens(frames=8)
    motion = torch.randn(2, 8, 8) if use_motion else None
    made = decoder(use_motion=use_motion)
    mask = torch.arange(8)[None] < torch.tensor([[8], [5]])
    with torch.no_grad():
        found = made(tokens, motion, mask)
        short = made(tokens[1:, :5], None if motion is None else motion[1:, :5])
        whole = made(tokens[:1], None if motion is None else motion[:1])
    torch.testing.assert_close(found[1:, :5], short, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:1], whole, atol=1e-5, rtol=0)
    if use_motion:
        with pytest.raises(ValueError, match="motion"):
            made(tokens)


def test_time_and_the_other_joints_are_read():
    tokens, _ = random_tokens(frames=8, batch=1)
    made = decoder(use_motion=False)
    other = tokens.clone()
    other[0, 2, 5] = hidden_token(tokens)
    with torch.no_grad():
        change = (made(other) - made(tokens))[0].norm(dim=-1)
    assert change[6, 5] > 1e-5  # another frame of that joint
    assert change[2, 9] > 1e-5  # another joint of that frame


def test_smoothing_is_a_local_line_fit():
    rng = np.random.default_rng(0)
    joints, mask = rng.normal(size=(2, 9, 15, 3)), np.arange(9) < np.array([[9], [6]])
    found = smoothed(torch.from_numpy(joints), 1.5, torch.from_numpy(mask)).numpy()
    for window, frames in ((0, 9), (1, 6)):
        for t in range(frames):
            at = np.arange(frames)
            weights = np.exp(-0.25 * ((at - t) / 1.5) ** 2)  # polyfit squares them
            fit = np.polynomial.polynomial.polyfit(at - t, joints[window, :frames].reshape(frames, -1), 1, w=weights)
            np.testing.assert_allclose(found[window, t].ravel(), fit[0], atol=1e-4)
    # Steady movement stays as it is, up to the ends; one frame is its own answer; padding is no NaN.
    line = torch.arange(12.0)[None, :, None, None].expand(1, 12, 15, 3)
    torch.testing.assert_close(smoothed(line, 2.0), line, atol=1e-4, rtol=0)
    torch.testing.assert_close(smoothed(line[:, :1], 2.0), line[:, :1])
    far = torch.arange(64)[None] < 1
    assert smoothed(torch.ones(1, 64, 15, 3, requires_grad=True), 1.0, far).isfinite().all()
    made, (tokens, _) = decoder(use_motion=False), random_tokens()
    torch.testing.assert_close(decoder(use_motion=False, smoothing=2.0)(tokens), smoothed(made(tokens), 2.0))


def test_frames_that_show_nothing_lie_between_those_that_do():
    rng = np.random.default_rng(0)
    joints, known = rng.normal(size=(40, 12, 15, 3)), rng.random((40, 12)) < 0.4
    known[0], known[1] = False, True
    found = between(torch.from_numpy(joints), torch.from_numpy(known)).numpy()
    for window, which in zip(range(40), known, strict=True):
        if which.any():
            at, flat = np.flatnonzero(which), joints[window].reshape(12, -1)
            expected = np.stack([np.interp(np.arange(12), at, column[at]) for column in flat.T], axis=-1)
        else:
            expected = joints[window].reshape(12, -1)
        np.testing.assert_allclose(found[window].reshape(12, -1), expected, atol=1e-6)
    # Nothing of such a frame reaches any pose; padding counts as one.
    tokens, _ = random_tokens(frames=8)
    tokens[..., 9] = 0.9
    tokens[0, 2:4, :, 9] = 0.3
    other = tokens.clone()
    other[0, 2:4, :, :9] = tokens[0, 5:7, :, :9]
    made, mask = decoder(use_motion=False, min_peak=0.5, smoothing=1.0), torch.ones(tokens.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        poses = made(tokens)
        torch.testing.assert_close(made(other), poses)
        torch.testing.assert_close(poses[0, 2], torch.lerp(poses[0, 1], poses[0, 4], 1 / 3))
        mask[0, 5:] = False
        torch.testing.assert_close(made(tokens, mask=mask)[0, :5], made(tokens[:, :5])[0])
        # Where all are so, they are used.
        tokens[..., 9] = 0.3
        torch.testing.assert_close(made(tokens), decoder(use_motion=False, smoothing=1.0)(tokens))


def test_it_learns_distances_that_no_single_joint_tells():
    """Joints move by one amount, each its own way: all rays together tell what one ray leaves open."""
    torch.manual_seed(0)
    mean = torch.randn(15, 3) * 0.2 + torch.tensor([0.0, 0.2, 0.8])
    ways = torch.randn(15, 3) * 0.15
    made = RayDecoder(mean, dim=32, layers=2, heads=2, use_motion=False)
    adam = torch.optim.Adam(made.parameters(), 3e-3)

    def error(seed):
        joints = mean + ways * torch.randn(16, 4, 1, 1, generator=torch.Generator().manual_seed(seed))
        rays = joints / joints.norm(dim=-1, keepdim=True)
        tokens = torch.cat([rays, rays, rays, torch.ones(16, 4, 15, 5)], -1)
        return (made(tokens) - joints).norm(dim=-1).mean()

    with torch.no_grad():
        before = error(1000)
    for step in range(150):
        adam.zero_grad()
        error(step).backward()
        adam.step()
    with torch.no_grad():
        assert error(1000) < 0.3 * before


def small_model(use_motion=False):
    torch.manual_seed(0)
    net = HeatmapNet(fpn_channels=(8, 8, 8, 8), output_bias=0.0)
    mean = torch.randn(15, 3)
    options = {"layers": 1, "heads": 4, "dropout": 0.0}
    made = RayDecoder(mean, **options, use_motion=use_motion)
    torch.nn.init.normal_(made.head[-1].weight, std=0.1)
    off = {"use_motion": use_motion, "use_cross_attention": False}
    model = AGEgoPose(net, embedding=RayTokens(), decoder=made, **off).eval()
    config = {
        "input": {"size": 32, "crop": "fovea"},
        "window": {"length": 4, "stride": 2, "step": 1, "max_gap": 10},
        "fpn_channels": [8, 8, 8, 8],
        "backbone": "resnet18",
        "motion": {"heads": 4, "depth": 1, "local_blocks": 1, "window": 3, "drop_path": 0.0},
        "decoder": {"kind": "rays", **options},
        "switches": off,
    }
    return model, config


def test_sequences_streams_and_live_prediction_agree_with_windows_one_by_one():
    model, _ = small_model()
    frames = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)
    with torch.no_grad():
        tokens = model.embedding(model.frozen_features(to_tensor(frames))["heatmaps"][None])
        sums, counts = torch.zeros(7, 15, 3), torch.zeros(7, 1, 1)
        for start in (0, 2, 3):
            sums[start : start + 4] += model.decoder(tokens[:, start : start + 4])[0]
            counts[start : start + 4] += 1
        wanted = (sums / counts).numpy()
        live = [model.decoder(tokens[:, max(0, i - 3) : i + 1])[0, -1].numpy() for i in range(7)]
    np.testing.assert_allclose(predict_sequence(model, frames, length=4, stride=2), wanted, atol=1e-5)
    stream = PoseStream(model, 4, 2, chunk=3)
    poses = [pose for frame in frames for pose in stream.push(frame)] + [*stream.finish()]
    np.testing.assert_allclose(np.stack(poses), wanted, atol=1e-5)
    predictor = LivePredictor(model, 4)
    np.testing.assert_allclose(np.stack([predictor.push(frame) for frame in frames]), live, atol=1e-5)


def test_a_saved_model_comes_back(tmp_path):
    model, config = small_model()
    save_model(tmp_path / "model.safetensors", model, config)
    again, found = load_model(tmp_path / "model.safetensors")
    assert found == config
    images = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images))


def test_training_windows_are_changed_and_test_windows_are_not():
    model, _ = small_model()
    objective = PoseObjective(model, LossSettings(1.0, 0.0, 0.0, 0.0), Augmentation(20.0, 0.3, True))
    batch = {
        "heatmaps": torch.rand(2, 4, 15, 8, 8),
        "joints_3d": torch.randn(2, 4, 15, 3),
        "mask": torch.ones(2, 4, dtype=torch.bool),
    }
    with torch.no_grad():
        assert len({float(objective.eval()(batch)[0]) for _ in range(3)}) == 1
        assert len({float(objective.train()(batch)[0]) for _ in range(3)}) == 3
        plain = PoseObjective(model, LossSettings(1.0, 0.0, 0.0, 0.0))
        torch.testing.assert_close(objective.eval()(batch)[0], plain.eval()(batch)[0])
