"""Recordings and attention weights against the modules' own outputs, brute force, and predictions of single windows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agego_lib.datasets import WindowDataset
from agego_lib.evaluation import predict_split
from agego_lib.images import normalise, to_tensor
from agego_lib.models.motion import MaskedAttention, allowed_pairs
from agego_lib.params import WindowSettings
from agego_lib.skeleton import PARENTS
from agego_view.attention import cross_weights, temporal_weights, watched
from agego_view.recording import NEIGHBOURS, attention_summary, record

# 29 frames in runs of every third one: windows overlap, and the last run's ends off the stride.
WINDOW = WindowSettings(length=6, stride=4, step=3, max_gap=5)
LOCAL_WINDOW = 3


@pytest.fixture(scope="module")
def sequence(make_sequence):
    # A hole of more than max_gap frames cuts the sequence; the second part is shorter than a window.
    return make_sequence("look/seq", [*range(10, 39), *range(60, 70)])


def heads_of(module, part):
    return part.unflatten(-1, (module.heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("masked", [False, True])
def test_temporal_weights_give_the_blocks_own_output(masked, one_thread):
    torch.manual_seed(0)
    module, x = MaskedAttention(16, heads=4), torch.randn(2, 9, 16)
    mask = torch.arange(9)[None] < torch.tensor([[9], [6]]) if masked else None
    allowed = allowed_pairs(9, 2, mask)
    with torch.no_grad():
        weights = temporal_weights(module, x, allowed)
        values = heads_of(module, module.value(module.value_norm(module.value_conv(x))))
        out = module.proj((weights @ values).transpose(1, 2).flatten(2))
        expected = module(x, None, allowed)
    torch.testing.assert_close(out, expected)
    assert not weights[(~allowed).expand_as(weights)].any()


def test_cross_weights_are_a_softmax_of_scaled_products(one_thread):
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    queries, memory = torch.randn(3, 15, 8), torch.randn(3, 15, 8)
    with torch.no_grad():
        weights = cross_weights(module, queries, memory)
        q_w, k_w, v_w = module.in_proj_weight.chunk(3)
        q_b, k_b, v_b = module.in_proj_bias.chunk(3)
        q, k, v = queries @ q_w.T + q_b, memory @ k_w.T + k_b, memory @ v_w.T + v_b
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            scores = torch.exp(q[..., part] @ k[..., part].mT / 2)
            expected = scores / scores.sum(-1, keepdim=True)
            torch.testing.assert_close(weights[:, h], expected)
            heads.append(expected @ v[..., part])
        torch.testing.assert_close(module.out_proj(torch.cat(heads, -1)), module(queries, memory, memory)[0])


@pytest.mark.parametrize("row", ["full", "no_spatial", "no_motion", "no_cross_attention"])
def test_watching_changes_no_pose_and_leaves_no_hook(row, tiny_model, sequence, one_thread):
    model = tiny_model(row)
    (plain,) = predict_split(model, [sequence], WINDOW)
    recording = record(model, sequence, WINDOW)
    np.testing.assert_array_equal(recording.poses, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert (recording.heatmaps is None) == (row == "no_spatial")
    assert (recording.motion is None) == (row == "no_motion")
    assert (recording.cross is None) == (row == "no_cross_attention")
    expected = np.linalg.norm(plain.astype(float) - sequence.joints_3d, axis=-1) * 1000
    np.testing.assert_allclose(recording.errors.distance, expected, rtol=1e-6)
    if row == "no_motion":
        assert recording.local_blocks == 0
        with pytest.raises(ValueError, match="no motion stream"):
            recording.motion_at(0)


def test_hooks_go_when_the_model_fails(tiny_model, one_thread):
    model = tiny_model()
    with pytest.raises(RuntimeError), watched(model):
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def one_window(model, sequence, frames):
    """Each decoder layer's and motion block's weights for a window by itself, padded to its length, without hooks."""
    images = sequence.images(frames).transpose(0, 3, 1, 2)
    padded = np.zeros((WINDOW.length, *images.shape[1:]), images.dtype)
    padded[: len(frames)] = images
    frozen = model.frozen_features(normalise(torch.from_numpy(padded)))
    mask = torch.arange(WINDOW.length)[None] < len(frames)
    static = model.frame_encoder.head(frozen["trunk"][None], mask)
    x, motion = static.masked_fill(~mask[..., None], 0), []
    for i, block in enumerate(model.motion_encoder.blocks):
        pairs = allowed_pairs(WINDOW.length, LOCAL_WINDOW // 2 if i < 1 else None, mask)
        motion.append(temporal_weights(block.attn, block.ln1(x), pairs)[0].mean(0))
        x = block(x, mask[..., None], pairs)
    memory = model.decoder.build_memory(model.embedding(frozen["heatmaps"][None]), x).flatten(0, 1)
    layer, queries = model.decoder.decoder.layers[0], model.decoder.queries.expand(len(memory), -1, -1)
    hidden = layer.norm1(queries + layer.self_attn(queries, queries, queries)[0])
    cross = layer.multihead_attn(hidden, memory, memory, need_weights=True)[1]
    return torch.stack(motion).numpy()[:, : len(frames), : len(frames)], cross.numpy()[: len(frames)]


def test_attention_is_that_of_the_windows_a_frame_is_in(tiny_model, sequence, one_thread):
    model = tiny_model()
    recording = record(model, sequence, WINDOW)
    # Found without the library: the frames of each window, by their numbers.
    parts = [range(start, stop)[first::3] for start, stop in ((10, 39), (60, 70)) for first in range(3)]
    expected = []
    for part in parts:
        starts = sorted({min(s, max(0, len(part) - 6)) for s in range(0, max(1, len(part) - 5) + 3, 4)})
        expected += [list(part[s : s + 6]) for s in starts]
    assert [sequence.frame_numbers[f].tolist() for f in recording.windows] == expected
    cross, times = np.zeros((len(sequence), 15, 15)), np.zeros(len(sequence))
    with torch.no_grad():
        alone = [one_window(model, sequence, frames) for frames in recording.windows]
    for frames, noted, (motion, crossed) in zip(recording.windows, recording.motion, alone, strict=True):
        np.testing.assert_allclose(noted, motion, atol=2e-5)
        cross[frames] += crossed
        times[frames] += 1
    np.testing.assert_allclose(recording.cross[:, 0], cross / times[:, None, None], atol=2e-5)
    assert times.min() == 1 and times.max() > 1
    for frame in range(len(sequence)):
        within = [w for w, frames in enumerate(recording.windows) if frame in frames]
        found, weights = recording.motion_at(frame)
        assert set(found) == {f for w in within for f in recording.windows[w]}
        for w, noted in zip(within, weights, strict=True):
            held = list(recording.windows[w])
            np.testing.assert_allclose(noted[:, np.isin(found, held)], alone[w][0][:, held.index(frame)], atol=2e-5)
            assert np.isnan(noted[:, ~np.isin(found, held)]).all()


def test_each_frame_has_its_own_heatmaps(tiny_model, sequence, one_thread):
    model = tiny_model()
    recording = record(model, sequence, WINDOW)
    for frame in (0, 7, 28, 29, 38):
        own = model.frozen_features(to_tensor(sequence.images([frame])))["heatmaps"][0]
        np.testing.assert_allclose(recording.heatmaps[frame], own, atol=1e-3)


def test_windows_are_those_of_training(tiny_model, sequence, one_thread):
    recording = record(tiny_model(), sequence, WINDOW)
    items = WindowDataset([sequence], 6, 4, 5, step=3)
    for item, frames in zip(items, recording.windows, strict=True):
        assert item["frames"][item["mask"]].tolist() == frames.tolist()


def test_summary_of_known_attention():
    cross = np.zeros((2, 1, 15, 15))
    cross[0, 0] = np.eye(15)  # each looks at itself, then at its parent, which for the neck is itself
    cross[1, 0, np.arange(15), PARENTS] = 1
    near = np.eye(4)[[1, 0, 3, 2]]
    recording = SimpleNamespace(
        cross=cross,
        motion=[np.stack([np.eye(4), near])],
        windows=[np.arange(4)],
        sequence=SimpleNamespace(frame_numbers=np.array([5, 15, 25, 35])),
        local_blocks=1,
    )
    rows = {(r["part"], r["measure"]): (r["value"], r["evenly"]) for r in attention_summary(recording)}
    assert rows["decoder layer 1", "share on own joint"] == pytest.approx(((1 + 1 / 15) / 2, 1 / 15))
    assert rows["decoder layer 1", "share on its neighbours"] == pytest.approx((14 / 30, 28 / 225))
    assert rows["local block 1", "frames away"] == pytest.approx((0, 0))
    assert rows["global block 2", "frames away"] == pytest.approx((10, 10))
    assert NEIGHBOURS.sum() == 28
