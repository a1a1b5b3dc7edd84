"""The training loop and its objectives against closed forms, and models written and read between stages."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from agego_lib import params, train, training
from agego_lib.datasets import FrameDataset, WindowDataset
from agego_lib.datasets.features import open_features, store_features
from agego_lib.images import normalise
from agego_lib.models import ActionHead, FrameEncoder, HeatmapNet, LimbEmbedding, MotionEncoder, WeightsError, weights
from agego_lib.models.build import (
    ABLATIONS,
    load_heatmap_net,
    load_model,
    motion_encoder,
    motion_stage_parts,
    new_model,
    save_model,
)
from agego_lib.models.build import frame_encoder as build_frame_encoder
from agego_lib.params import RELEASED, EngineSettings, LossSettings, OptimiserSettings
from agego_lib.skeleton import BONES
from agego_lib.training import (
    ActionObjective,
    HeatmapObjective,
    MotionSource,
    PoseObjective,
    TrainingError,
    fit,
    learning_rate_factor,
)
from agego_lib.training.loading import BatchOrder

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINE = EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=1)
LOSS = LossSettings(lambda_pos=1.0, lambda_bone=0.1, lambda_cos=0.01, lambda_velocity=0.0)


def optimiser(**settings):
    defaults = {"epochs": 1, "batch_size": 2, "lr": 1e-3, "lr_final": 1e-4, "warmup_steps": 0}
    return OptimiserSettings(**{**defaults, "weight_decay": 0.0, "grad_clip": 0.0, **settings})


class Log(list):
    def __call__(self, step, values):
        self.append((step, values))

    def of(self, name):
        return np.array([values[name] for _, values in self])


# --- The schedule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(30, 0), (101, 20), (11, 10)])
def test_learning_rate_at_the_papers_ends(steps, warmup):
    """Sec. 4.2: from 1e-3 to 1e-4."""
    rate = [1e-3 * learning_rate_factor(s, steps, warmup, 0.1) for s in range(steps)]
    assert rate[:warmup] == pytest.approx([1e-3 * (s + 1) / warmup for s in range(warmup)])
    if steps - warmup > 1:
        assert rate[warmup] == pytest.approx(1e-3) and rate[-1] == pytest.approx(1e-4)
    if (steps - 1 - warmup) % 2 == 0:
        assert rate[(steps - 1 + warmup) // 2] == pytest.approx(max(5.5e-4, 1e-3 * (steps - warmup == 1)))
    assert learning_rate_factor(steps + 5, steps, warmup, 0.1) == pytest.approx(0.1)


def test_learning_rate_against_torch():
    parameter = nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=39, eta_min=1e-4)
    for step in range(40):
        assert 1e-3 * learning_rate_factor(step, 40, 0, 0.1) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        adam.step()
        schedule.step()


class Slope(nn.Module):
    """loss = slope * w: as its gradient is the same in every step, Adam moves w by the learning rate itself."""

    def __init__(self, slopes=(1.0,)):
        super().__init__()
        self.w, self.fixed = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()), requires_grad=False)
        self.slopes, self.seen = slopes, []

    def forward(self, batch):
        slope = self.slopes[len(self.seen) % len(self.slopes)]
        self.seen.append(batch[0].flatten().tolist())
        loss = slope * self.w * self.fixed
        return loss, {"loss": loss.detach(), "w": self.w.detach().clone()}


def test_steps_take_the_schedules_rate():
    log = Log()
    settings = optimiser(epochs=10, batch_size=2, lr=1e-2, lr_final=1e-3, warmup_steps=3)
    objective = fit(Slope(), TensorDataset(torch.arange(10.0)), settings, ENGINE, log=log)
    cosine = [0.5 + 0.5 * math.cos(math.pi * k / 46) for k in range(47)]
    rates = [1e-2 / 3, 2e-2 / 3, 1e-2, *[1e-3 + 9e-3 * c for c in cosine]][:50]
    expected = -np.concatenate([[0], np.cumsum(rates)])
    assert [step for step, _ in log] == list(range(1, 51))
    np.testing.assert_allclose(log.of("w"), expected[:-1], rtol=1e-4, atol=1e-8)
    assert objective.w.item() == pytest.approx(expected[-1], rel=1e-4)
    assert objective.fixed == 1 and not objective.training


def test_gradients_are_clipped():
    """Clipped to 1, a gradient of 1000 and one of 1 are the same, and Adam takes whole steps again."""
    data, settings = TensorDataset(torch.zeros(8)), optimiser(lr=1e-2, lr_final=1e-2)
    moved = [
        fit(Slope((1000.0, 1.0, 1.0, 1.0)), data, replace(settings, grad_clip=clip), ENGINE).w.item()
        for clip in (1.0, 0.0)
    ]
    assert moved[0] == pytest.approx(-4e-2, rel=1e-4)
    assert abs(moved[1] - moved[0]) > 1e-3


def test_epochs_shuffle_the_whole_set():
    objectives = [
        fit(Slope(), TensorDataset(torch.arange(7.0)), optimiser(epochs=3, batch_size=3), ENGINE, seed)
        for seed in (5, 5, 6)
    ]
    first, again, other = (objective.seen for objective in objectives)
    assert first == again != other
    assert len(first) == 6 and all(len(batch) == 3 for batch in first)  # a last batch of one is left out
    epochs = [first[i] + first[i + 1] for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 6 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3


def test_a_set_smaller_than_a_batch_trains():
    objective = fit(Slope(), TensorDataset(torch.arange(3.0)), optimiser(epochs=2, batch_size=8), ENGINE)
    assert [sorted(batch) for batch in objective.seen] == [[0, 1, 2]] * 2


def test_log_gets_means_and_the_last_step():
    """251 steps: every second one, and the last."""
    log = Log()
    fit(Slope(), TensorDataset(torch.zeros(251)), optimiser(batch_size=1, lr=1e-2, lr_final=1e-2), ENGINE, log=log)
    assert [step for step, _ in log] == [*range(2, 251, 2), 251]
    assert np.isfinite(log.of("loss")).all() and log[0][1].keys() == {"loss", "w"}
    # Before step s, counted from 1, w is -0.01 (s - 1): steps 1 and 2 have the mean -0.005.
    np.testing.assert_allclose(log.of("w"), [*(-0.01 * (s - 1.5) for s in range(2, 251, 2)), -2.5], rtol=1e-3)


def test_workers_change_nothing():
    """Neither the order of any epoch nor the weights."""
    data, settings = TensorDataset(torch.arange(7.0)), optimiser(epochs=3, batch_size=3)
    alone, helped = (fit(Slope(), data, settings, replace(ENGINE, workers=w), seed=5) for w in (0, 2))
    assert alone.seen == helped.seen and torch.equal(alone.w, helped.w)


def test_order_is_that_of_torchs_own_loader():
    """As `DataLoader(shuffle=True)` with a seeded generator gives it, epoch by epoch."""
    loader = DataLoader(range(11), 3, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(4))
    order = BatchOrder(11, 3, seed=4)
    for epoch in range(4):
        order.start(epoch)
        assert list(order) == order.batches == [batch.tolist() for batch in loader]
    order.start(2, first=1)
    again, whole = list(order), order.batches
    assert again == whole[1:] and len(order) == 3


@pytest.mark.parametrize(("size", "ranks"), [(8, 2), (7, 2), (5, 3), (3, 3)])
def test_processes_share_every_batch(size, ranks):
    orders = [BatchOrder(23, size, 0, rank, ranks) for rank in range(ranks)]
    for shares, batch in zip(zip(*orders, strict=True), orders[0].batches, strict=True):
        assert [item for share in shares for item in share] == batch
        assert max(map(len, shares)) - min(map(len, shares)) <= 1 <= min(map(len, shares))


def test_no_item():
    with pytest.raises(TrainingError, match="pose run: no training item"):
        fit(Slope(), TensorDataset(torch.zeros(0)), optimiser(), ENGINE, label="pose run")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(value):
    objective = Slope((1.0, 1.0, value))
    objective.w.data.fill_(1.0)
    with pytest.raises(TrainingError, match=rf"pose run: loss {value} at step 2\b"):
        fit(objective, TensorDataset(torch.zeros(20)), optimiser(), ENGINE, label="pose run")
    assert torch.isfinite(objective.w)


# --- Heatmaps ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dots(make_sequence):
    return FrameDataset([make_sequence("training/dots", range(8))])


def small_net():
    torch.manual_seed(0)
    return HeatmapNet(fpn_channels=(16, 16, 32, 32))


def batch_of(dataset, indices):
    return torch.utils.data.default_collate([dataset[i] for i in indices])


def targets_of(batch, side, sigma):
    """Eq. 7, pixel by pixel; pixel centres of the image and of the map lie on the same grid of the view."""
    maps = np.zeros((len(batch["joints"]), 15, side, side))
    scale = batch["image"].shape[-1] / side
    for n, joints in enumerate(batch["joints"].double().numpy()):
        for j, (u, v) in enumerate(joints):
            u, v = (u + 0.5) / scale - 0.5, (v + 0.5) / scale - 0.5
            for y in range(side):
                for x in range(side):
                    maps[n, j, y, x] = math.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2))
    return maps


@pytest.mark.parametrize(("kind", "weight"), [("bce", 1.0), ("bce", 5.0), ("mse", 1.0)])
def test_heatmap_objective_from_its_definition(dots, kind, weight):
    net, batch = small_net().eval(), batch_of(dots, [0, 1])
    images = (batch["image"] / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        loss, values = HeatmapObjective(net, kind, 1.5, weight)(batch)
        guess = net(images).sigmoid().double().numpy()
    target = targets_of(batch, 8, 1.5)
    if kind == "bce":
        expected = -(weight * target * np.log(guess) + (1 - target) * np.log1p(-guess)).mean()
    else:
        expected = ((guess - target) ** 2).mean()
    assert loss.item() == values["loss"].item() == pytest.approx(expected, rel=1e-5)


class Seen(nn.Module):
    """Keeps what it is given."""

    def forward(self, images):
        self.images = images
        return images.new_zeros(len(images), 15, images.shape[-2] // 4, images.shape[-1] // 4)


def test_colour_jitter_scales_each_frames_channels(dots):
    """Half of it in brightness, half in tint: a channel's gain stays within (1 + j/2)^2 and (1 - j/2)^2."""
    batch = {**batch_of(dots, [0, 1, 2]), "image": torch.full((3, 3, 64, 64), 60, dtype=torch.uint8)}
    plain = normalise(batch["image"])
    objective = HeatmapObjective(Seen(), colour_jitter=0.6)
    objective.eval()(batch)
    torch.testing.assert_close(objective.net.images, plain)
    torch.manual_seed(0)
    objective.train()(batch)
    zero, one = (normalise(torch.full((1, 3, 1, 1), v, dtype=torch.uint8)) for v in (0, 1))
    gains = ((objective.net.images - zero) / (one - zero) / 60).flatten(2)
    assert (gains.amax(-1) - gains.amin(-1)).max() < 1e-4, "one gain a channel"
    assert len(gains[..., 0].flatten().round(decimals=4).unique()) == 9, "another gain for each frame and channel"
    assert gains.min() >= 0.7**2 - 1e-4 and gains.max() <= 1.3**2 + 1e-4


def test_batches_of_several_sizes_have_targets_in_proportion(dots):
    """In training each batch is of one of the sizes, sigma with it; a test sees frames as they were prepared."""
    batch = batch_of(dots, [0, 1])
    objective = HeatmapObjective(Seen(), "mse", 1.5, size=32, sizes=(32, 64, 96))
    expected = {side: ((0.5 - targets_of(batch, side // 4, 1.5 * side / 32)) ** 2).mean() for side in (32, 64, 96)}
    torch.manual_seed(0)
    met = set()
    for _ in range(12):
        loss, _ = objective.train()(batch)
        met.add(side := objective.net.images.shape[-1])
        assert loss.item() == pytest.approx(expected[side], rel=1e-4)
        mean = normalise(batch["image"]).mean((2, 3))
        torch.testing.assert_close(objective.net.images.mean((2, 3)), mean, atol=0.02, rtol=0)
    assert met == {32, 64, 96}
    loss, _ = objective.eval()(batch)
    assert objective.net.images.shape[-1] == 32 and loss.item() == pytest.approx(expected[32], rel=1e-5)


def test_fit_learns_where_the_dots_are(dots):
    """Better than any map that is the same for all frames: the network has to look."""
    settings = optimiser(epochs=14, batch_size=4, lr=2e-3, lr_final=1e-5, warmup_steps=6, grad_clip=5.0)
    log = Log()
    fit(HeatmapObjective(small_net(), "bce", 1.0), dots, settings, ENGINE, seed=0, log=log)
    target = targets_of(batch_of(dots, range(8)), 8, 1.0)
    mean = target.mean(axis=0)
    blind = -(mean * np.log(mean) + (1 - mean) * np.log1p(-mean)).mean()
    loss = log.of("loss")
    assert loss[-4:].mean() < 0.93 * blind < blind < loss[0]
    assert [step for step, _ in log] == list(range(1, 29)) and np.isfinite(loss).all()


def test_same_seed_same_weights(dots):
    def run(seed):
        objective = HeatmapObjective(small_net(), "bce", 1.5)
        fit(objective, dots, optimiser(batch_size=4), ENGINE, seed=seed)
        return objective.state_dict()

    first, again, other = run(3), run(3), run(4)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


# --- Motion --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moving(make_sequence):
    return [
        make_sequence("training/long", [*range(9), *range(30, 41)], actions=["walk", "sit", None]),
        make_sequence("training/short", range(5), actions=["turn"]),
    ]


class MovedEncoder(FrameEncoder):
    """Its move to the device and back replaces every parameter's memory, as a real one does."""

    def to(self, *_):
        self.double()
        return self.float()

    def cpu(self):
        return self.to()


@pytest.mark.parametrize("stored", [False, True])
def test_motion_source(moving, tiny_model, tmp_path, stored):
    torch.manual_seed(0)
    model = tiny_model()
    encoder = MovedEncoder("resnet18", dim=32)
    encoder.load_state_dict(model.frame_encoder.state_dict())
    store = None
    if stored:
        store_features(tmp_path, model, moving, limit_gb=1)
        store = open_features(tmp_path, moving)
    source = MotionSource(encoder, moving, store, ENGINE, chunk=7)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for number, sequence in enumerate(moving):
        images = (torch.from_numpy(sequence.images(slice(None)).transpose(0, 3, 1, 2)) / 255 - mean) / std
        with torch.no_grad():
            expected = model.eval().frame_encoder.encoder(images)[-1].mean(dim=(2, 3)).numpy()
        frames = np.array([4, 0, 2])
        found = source.read(number, frames)["pooled"]
        np.testing.assert_allclose(found, expected[frames], rtol=0, atol=2e-2 if stored else 1e-5)
        assert np.ptp(expected, axis=0).max() > 0.2
    # What the stage trains next must still be able to.
    encoder.norm(encoder.project(torch.from_numpy(found))).sum().backward()
    assert encoder.project.weight.grad is not None


def action_parts(moving):
    torch.manual_seed(0)
    encoder, blocks = FrameEncoder("resnet18", dim=32), MotionEncoder(32, depth=2, local_blocks=1, scale_init=0.5)
    data = WindowDataset(moving, 8, 4, 10, source=MotionSource(encoder, moving, None, ENGINE))
    return encoder, blocks, ActionHead(32, len(data.action_names)), data


def test_action_objective_frame_by_frame(moving):
    encoder, blocks, head, data = action_parts(moving)
    objective = ActionObjective(encoder.project, encoder.norm, blocks, head).eval()
    batch = batch_of(data, range(len(data)))
    assert not batch["mask"].all()  # padding is among them
    losses, right = [], []
    with torch.no_grad():
        loss, values = objective(batch)
        for pooled, mask, action in zip(batch["pooled"], batch["mask"], batch["action"], strict=True):
            static = torch.zeros(1, len(mask), 32)
            static[0, mask] = encoder.norm(encoder.project(pooled[mask]))
            logits = head(blocks(static, mask[None]))[0].double()
            for frame in range(len(mask)):
                if mask[frame] and action[frame] >= 0:
                    losses.append(-torch.log_softmax(logits[frame], 0)[action[frame]].item())
                    right.append(logits[frame].argmax() == action[frame])
    assert 0 < len(losses) < batch["mask"].sum()  # some frames have no label
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert values["accuracy"].item() == pytest.approx(np.mean(right))


def test_action_training_teaches_what_the_stage_keeps(moving):
    encoder, blocks, head, data = action_parts(moving)
    before = {key: value.clone() for key, value in motion_stage_parts(encoder, blocks).state_dict().items()}
    others = {key: value.clone() for key, value in encoder.encoder.state_dict().items()}
    log = Log()
    objective = ActionObjective(encoder.project, encoder.norm, blocks, head)
    fit(objective, data, optimiser(epochs=8, lr=3e-3, lr_final=1e-3), ENGINE, log=log)
    assert log.of("loss")[-3:].mean() < 0.7 * log.of("loss")[:3].mean()
    parts = motion_stage_parts(encoder, blocks).state_dict()
    # Attention does not change when all keys move by the same: their bias has no gradient but rounding.
    assert all(not torch.equal(value, before[key]) for key, value in parts.items() if not key.endswith("key.bias"))
    assert all(torch.equal(value, others[key]) for key, value in encoder.encoder.state_dict().items())


# --- Pose ----------------------------------------------------------------------------------------------------------

FROZEN = ("heatmap_net.", "motion_encoder.", *(f"frame_encoder.encoder.{p}." for p in ("conv1", "bn1")))
FROZEN = (*FROZEN, *(f"frame_encoder.encoder.layer{i}." for i in (1, 2, 3)))


@pytest.mark.parametrize("row", ABLATIONS)
def test_pose_training_leaves_frozen_parts_alone(moving, tiny_model, row):
    model = tiny_model(row)
    before = copy.deepcopy(model.state_dict())
    log = Log()
    fit(PoseObjective(model, LOSS), WindowDataset(moving, 8, 4, 10), optimiser(epochs=2), ENGINE, log=log)
    names = {"loss", "position", "bone_length", "bone_cosine", "mpjpe_mm"}
    assert all(values.keys() == names and np.isfinite(list(values.values())).all() for _, values in log)
    after, trained = model.state_dict(), {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {key for key in after if key.startswith(FROZEN)} | {"decoder.output_mean"}
    prefixes = {"no_motion": ("heatmap_net.",), "no_spatial": FROZEN[1:]}.get(row, FROZEN)
    assert all(any(key.startswith(prefix) for key in frozen) for prefix in prefixes)
    assert any(key.endswith("running_mean") for key in frozen)
    for key, value in after.items():
        if key in frozen:
            assert key not in trained and torch.equal(value, before[key]), key
        else:
            assert not torch.equal(value, before[key]), key
    # layer4 and the norm of F_s keep learning their statistics.
    moved = {key for key in after if key.endswith("running_mean") and key not in frozen}
    assert bool(moved) is (row != "no_motion")


def test_pose_objective_from_its_definition(moving, tiny_model):
    """The terms of Sec. 3.4 over valid frames, by loops."""
    model = tiny_model().eval()
    data = WindowDataset(moving, 8, 4, 10)
    batch = batch_of(data, range(len(data)))
    with torch.no_grad():
        total, values = PoseObjective(model, LossSettings(2.0, 0.5, 0.25, 0.0))(batch)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        found = model((batch["images"] / 255 - mean) / std, batch["mask"]).double().numpy()
    target, mask = batch["joints_3d"].double().numpy(), batch["mask"].numpy()
    assert not mask.all()
    distance, length, cosine = [], [], []
    for pred, true in zip(found[mask], target[mask], strict=True):
        distance += [np.sqrt(((p - t) ** 2).sum()) for p, t in zip(pred, true, strict=True)]
        for parent, child in BONES:
            a, b = pred[child] - pred[parent], true[child] - true[parent]
            length.append((np.sqrt(a @ a) - np.sqrt(b @ b)) ** 2)
            cosine.append(-(a @ b) / np.sqrt((a @ a) * (b @ b)))
    terms = [np.mean(term) for term in (distance, length, cosine)]
    assert [values[k].item() for k in ("position", "bone_length", "bone_cosine")] == pytest.approx(terms, rel=1e-4)
    assert total.item() == values["loss"].item() == pytest.approx(np.dot(terms, [2.0, 0.5, 0.25]), rel=1e-4)
    assert values["mpjpe_mm"].item() == pytest.approx(1000 * np.mean(distance), rel=1e-4)


@pytest.mark.parametrize("row", ABLATIONS)
def test_training_from_the_store_equals_training_from_images(moving, tiny_model, tmp_path, row):
    """Up to float16's rounding; dropout draws the same numbers, as frozen parts draw none."""
    losses = []
    store_features(tmp_path, tiny_model(row), moving, limit_gb=1)
    for source in (None, open_features(tmp_path, moving)):
        log = Log()
        data = WindowDataset(moving, 8, 4, 10, source=source)
        assert ("images" in data[0]) is (source is None)
        fit(PoseObjective(tiny_model(row), LOSS), data, optimiser(lr=1e-5, lr_final=1e-6), ENGINE, log=log)
        losses.append(log.of("loss"))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert len(losses[0]) >= 2
    # Other features would show.
    objective, batch = PoseObjective(tiny_model(row), LOSS).eval(), batch_of(data, range(len(data)))
    blank = batch | {name: torch.zeros_like(batch[name]) for name in ("heatmaps", "trunk") if name in batch}
    with torch.no_grad():
        assert abs(objective(blank)[0] / objective(batch)[0] - 1) > 1e-2


def test_tiny_numbers_are_zero_while_training_and_not_after():
    def left():
        return int(torch.full((16,), 1e-40).mul(2).count_nonzero())

    class Noticing(torch.nn.Linear):
        def forward(self, batch):
            found.append(left())
            return super().forward(batch["x"]).mean(), {}

    found, item = [], {"x": torch.ones(3)}
    training.fit(Noticing(3, 1), [item] * 4, optimiser(epochs=1, batch_size=2), ENGINE)
    assert found == [0, 0] and left() == 16


def test_make_fabric_seeds_and_sets_threads():
    drawn = []
    for seed in (1, 1, 2):
        training.make_fabric(ENGINE, seed)
        drawn.append((torch.rand(3).tolist(), np.random.rand()))
        assert torch.get_num_threads() == 1
    assert drawn[0] == drawn[1] != drawn[2]


# --- Between the stages --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage_files(tmp_path_factory):
    """What the heatmap stage and the motion stage of the small settings leave, given the settings."""
    folder = tmp_path_factory.mktemp("stages")

    def make(settings):
        heatmap, motion = folder / "heatmap.safetensors", folder / "motion.safetensors"
        if not motion.exists():
            torch.manual_seed(1)
            net = HeatmapNet(fpn_channels=settings.heatmap.fpn_channels)
            randomise(net)
            weights.save(heatmap, net, {"fpn_channels": list(settings.heatmap.fpn_channels)})
            parts = motion_stage_parts(build_frame_encoder(settings.visual, net), motion_encoder(settings.motion))
            weights.save(motion, randomise(parts), {})
        return heatmap, motion

    return make


def randomise(module):
    """No parameter or running statistic stays as it was made, so that one not loaded would show."""
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.mul_(1 + 0.2 * torch.rand_like(value)).add_(0.01 * torch.rand_like(value))
    return module


VARIANTS = [
    *({"row": row} for row in ABLATIONS),
    {"row": "full", "norm_first": False, "memory_joint_embedding": True, "start_at_mean_pose": False},
    {"row": "no_spatial", "memory_joint_embedding": True, "input_scale": 3.0},
    {"row": "full", "embedding": "limbs", "input_scale": 3.0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_model_written_and_read_again_is_the_same(raw_settings, stage_files, tmp_path, variant):
    row = variant["row"]
    raw_settings["decoder"] |= {key: value for key, value in variant.items() if key != "row"}
    settings = params.from_dict(raw_settings)
    model, config = new_model(settings, row, *stage_files(settings), np.zeros((15, 3)))
    randomise(model).eval()
    path = tmp_path / "pose" / "model.safetensors"
    save_model(path, model, config)
    torch.manual_seed(99)
    read, found = load_model(path)
    assert found == json.loads(path.with_suffix(".json").read_text()) == config
    assert found["window"] == {"length": 8, "stride": 4, "step": 1, "max_gap": 10} and found["input"]["size"] == 32
    switches = {name: getattr(read, name) for name in ("use_spatial", "use_motion", "use_cross_attention")}
    assert [name for name, on in switches.items() if not on] == [name for name, on in ABLATIONS[row].items() if not on]
    images = torch.randn(2, 8, 3, 32, 32)
    mask = torch.arange(8) < torch.tensor([[8], [5]])
    with torch.no_grad():
        expected, poses = model(images, mask), read(images, mask)
    torch.testing.assert_close(poses, expected, rtol=0, atol=0)
    assert not read.training and expected.std() > 1e-3
    # Both are what the settings ask for.
    assert (read.decoder.joint_embedding is not None) is settings.decoder.memory_joint_embedding
    if read.use_cross_attention:
        layers = read.decoder.decoder.layers
        assert len(layers) == settings.decoder.layers and layers[0].norm_first is settings.decoder.norm_first
        assert layers[0].self_attn.num_heads == settings.decoder.heads
    if read.use_motion:
        blocks = read.motion_encoder
        assert (len(blocks.blocks), blocks.local_blocks, blocks.half_window) == (2, 1, 1)
    if read.use_spatial:
        assert read.embedding.input_scale == settings.decoder.input_scale
        assert isinstance(read.embedding, LimbEmbedding) is (settings.decoder.embedding == "limbs")
    # Fine-tuning starts from it: the same parts train.
    trains = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (model, read)]
    assert trains[0] == trains[1]


def test_a_new_model_starts_from_the_stages(settings, stage_files):
    heatmap_file, motion_file = stage_files(settings)
    mean = np.random.default_rng(0).normal(size=(15, 3))
    model, _ = new_model(settings, "full", heatmap_file, motion_file, mean)
    (heatmaps, _), (motion, _) = weights.load(heatmap_file), weights.load(motion_file)
    state = model.state_dict()
    for key, value in heatmaps.items():
        assert torch.equal(state[f"heatmap_net.{key}"], value)
        if key.startswith("encoder."):
            assert torch.equal(state[f"frame_encoder.{key}"], value)
    for key, value in motion.items():
        name = key if key.startswith("motion_encoder.") else f"frame_encoder.{key}"
        assert torch.equal(state[name], value)
    np.testing.assert_allclose(state["decoder.output_mean"], mean, rtol=1e-6)
    assert model.shares_trunk() and model.embedding.input_scale == settings.decoder.input_scale
    later = replace(settings, decoder=replace(settings.decoder, start_at_mean_pose=False))
    assert not new_model(later, "full", heatmap_file, motion_file, mean)[0].decoder.output_mean.any()


KINDS = {
    "paper": {"start_at_mean_pose": True},
    "rays": {"kind": "rays", "use_motion": False, "stature": "estimated", "smoothing": 1.5, "train_length": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_poses_start_from_the_released_model(raw_settings, stage_files, tmp_path, kind):
    raw_settings["decoder"] |= KINDS[kind]
    raw_settings["ablation"]["rows"] = []
    own = params.from_dict(raw_settings)
    files, released = stage_files(own), tmp_path / RELEASED
    theirs, config = new_model(own, "full", *files, np.ones((15, 3)))
    save_model(released, randomise(theirs), config, packed=True)

    def begun(**changed):
        settings = replace(own, decoder=replace(own.decoder, init="released", **changed))
        return new_model(settings, "full", *files, np.zeros((15, 3)), released=released)

    # What changes no weight may differ, and stays the settings'.
    model, said = begun(dropout=0.25)
    assert said["decoder"] == config["decoder"] | {"dropout": 0.25} != config["decoder"]
    stored = load_model(released)[0].state_dict()
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in model.state_dict().items():
        if name.startswith(("decoder.", "embedding.")):
            assert torch.equal(tensor, stored[name]), name
            assert name in trains or name.endswith("output_mean")
    # The mean pose is theirs too, which offsets were learned beside; frozen networks are this run's own.
    torch.testing.assert_close(model.decoder.output_mean, theirs.decoder.output_mean)
    own_net, _ = weights.load(files[0])
    assert all(torch.equal(model.state_dict()[f"heatmap_net.{key}"], value) for key, value in own_net.items())
    with pytest.raises(WeightsError, match=r"decoder\.layers 1 \(2 here\); set it .* or set decoder\.init to scratch"):
        begun(layers=2)
    released.unlink()
    with pytest.raises(WeightsError, match=r"no weights file .*; run `dvc pull released\.dvc`, or set decoder\.init"):
        begun()


def test_the_heatmap_net_comes_back_frozen(settings, stage_files):
    heatmap_file, _ = stage_files(settings)
    net = load_heatmap_net(heatmap_file).train()
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    state, info = weights.load(heatmap_file)
    assert info == {"fpn_channels": list(settings.heatmap.fpn_channels)}
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_weights_that_do_not_fit_are_refused(settings, stage_files, tmp_path):
    heatmap_file, motion_file = stage_files(settings)
    deeper = replace(settings, motion=replace(settings.motion, depth=3))
    with pytest.raises(WeightsError, match=r"motion\.safetensors does not fit: missing motion_encoder\.blocks\.2"):
        new_model(deeper, "full", heatmap_file, motion_file, None)
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "bare.safetensors").write_bytes(heatmap_file.read_bytes())
    with pytest.raises(WeightsError, match=r"bare\.json.*cannot be read"):
        load_model(tmp_path / "bare.safetensors")


def test_options_of_other_stages_are_refused_and_baselines_are_repeated(settings, tmp_path, monkeypatch):
    """`python -m agego_lib.train`: none is taken and then ignored."""
    for run, loss, seed in (
        ("pose", "mse", None),
        ("motion", None, 1),
        ("heatmap", None, 1),
        ("no_motion", "mse", None),
    ):
        with pytest.raises(ValueError, match=f"{run}: --{'loss' if loss else 'seed'} .*alone"):
            train.new_stage(settings, tmp_path, run, loss, seed)
    monkeypatch.setattr(train, "BaselineStage", lambda *given: given)
    assert train.new_stage(settings, tmp_path, "baseline_nearest", None, 7) == (settings, tmp_path, "nearest", 7)
