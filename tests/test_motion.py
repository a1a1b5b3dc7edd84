"""The motion stream against a NumPy loop over frames and checkpoints in ActionFormer's public key format."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from agego_lib.models import ActionHead, FrameEncoder, HeatmapNet, MotionEncoder, WeightsError
from agego_lib.models.motion import ACTIONFORMER_BLOCKS, allowed_pairs

C, HEADS = 16, 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small_encoder(**settings):
    return MotionEncoder(**{"dim": C, "heads": HEADS, "depth": 1, "local_blocks": 0, **settings}).eval()


def randomised(encoder):
    """Every parameter random, so that none is at a neutral value that would hide a mistake."""
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return encoder


# An independent implementation of one block, frame by frame.


def norm(x, weight, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight.ravel() + bias.ravel()


def reference_block(x, valid, w, heads, half_window):
    """x (T, C), valid (T,), w: the block's weights by name -> (T, C)."""
    frames, width = x.shape
    h = [norm(x[t], w["ln1.weight"], w["ln1.bias"]) for t in range(frames)]
    qkv = {}
    for name in ("query", "key", "value"):
        kernel, rows = w[f"attn.{name}_conv.conv.weight"][:, 0], []
        for t in range(frames):
            y = np.zeros(width)
            for k in range(3):
                if 0 <= t + k - 1 < frames:
                    y += kernel[:, k] * h[t + k - 1]
            y = norm(y * valid[t], w[f"attn.{name}_norm.weight"], w[f"attn.{name}_norm.bias"])
            rows.append(w[f"attn.{name}.weight"][:, :, 0] @ y + w[f"attn.{name}.bias"])
        qkv[name] = rows
    out, size = np.zeros_like(x), width // heads
    for i in range(frames):
        attention = np.zeros(width)
        seen = [j for j in range(frames) if valid[j] and (half_window is None or abs(i - j) <= half_window)]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            e = [math.exp(qkv["query"][i][part] @ qkv["key"][j][part] / math.sqrt(size)) for j in seen]
            for j, weight in zip(seen, e, strict=True):
                attention[part] += weight / sum(e) * qkv["value"][j][part]
        attention = (w["attn.proj.weight"][:, :, 0] @ attention + w["attn.proj.bias"]) * valid[i]
        y = x[i] * valid[i] + w["drop_path_attn.scale"].ravel() * attention
        z = w["mlp.0.weight"][:, :, 0] @ norm(y, w["ln2.weight"], w["ln2.bias"]) + w["mlp.0.bias"]
        z = w["mlp.3.weight"][:, :, 0] @ (z * 0.5 * (1 + erf(z / math.sqrt(2)))) + w["mlp.3.bias"]
        out[i] = y + w["drop_path_mlp.scale"].ravel() * z * valid[i]
    return out


MASKS = {
    "full": [[1] * 14, [1] * 14],
    "padded": [[1] * 14, [1] * 6 + [0] * 8],
    "holes": [[0, 1] * 7, [1, 1, 0, 0] * 3 + [1, 0]],
}


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("local_blocks", [0, 1])
def test_block_equals_the_loop(mask, local_blocks):
    encoder = randomised(small_encoder(local_blocks=local_blocks)).double()
    x = torch.randn(2, 14, C, dtype=torch.float64)
    valid = torch.tensor(MASKS[mask or "full"]).bool()
    out = encoder(x, None if mask is None else valid)
    weights = {name: p.detach().numpy() for name, p in encoder.blocks[0].named_parameters()}
    for b in range(2):
        zeroed = x[b].numpy() * valid[b].numpy()[:, None]
        expected = reference_block(zeroed, valid[b].numpy(), weights, HEADS, 4 if local_blocks else None)
        np.testing.assert_allclose(out[b].detach().numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("blocks", [1, 2])
def test_local_blocks_reach_exactly_as_far_as_they_should(blocks):
    # Attention reaches 4 frames, and the convolution of keys and values one more: 5 frames a block.
    encoder = randomised(small_encoder(depth=blocks, local_blocks=blocks)).double()
    x, i, reach = torch.randn(1, 32, C, dtype=torch.float64), 10, 5 * blocks
    base = encoder(x)
    for distance, changes in ((reach, True), (reach + 1, False), (-reach, True), (-reach - 1, False)):
        if i + distance < 0:
            continue
        moved = x.clone()
        moved[0, i + distance] = torch.randn(C)
        difference = (encoder(moved) - base)[0, i].abs().max()
        assert (difference > 1e-12) == changes, (distance, difference)


def test_global_blocks_reach_the_whole_sequence():
    encoder = randomised(small_encoder(depth=2, local_blocks=1))
    x = torch.randn(1, 40, C)
    moved = x.clone()
    moved[0, 39] = torch.randn(C)
    assert (encoder(moved) - encoder(x))[0, 0].abs().max() > 1e-6


def test_no_softmax_runs_over_nothing():
    mask = torch.tensor([[True] * 3 + [False] * 9, [False] * 12])
    for half_window in (4, None):
        pairs = allowed_pairs(12, half_window, mask)
        assert pairs.any(-1).all()
        assert not pairs[0, 0, :3, 3:].any()  # valid frames never see padding


def test_windows_8_and_9_are_the_same():
    nine = randomised(small_encoder(local_blocks=1, window=9))
    eight = small_encoder(local_blocks=1, window=8)
    eight.load_state_dict(nine.state_dict())
    x = torch.randn(1, 20, C)
    assert torch.equal(eight(x), nine(x))


def test_padding_never_matters_and_never_breaks():
    encoder = randomised(small_encoder(depth=3, local_blocks=2))
    x = torch.randn(3, 30, C, requires_grad=True)
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, 6:] = False  # frames whose whole window is padding
    mask[2] = False  # nothing valid at all
    out = encoder(x, mask)
    assert out.isfinite().all() and out[~mask].eq(0).all()
    out.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad[~mask].eq(0).all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())

    rubbish = torch.where(mask[..., None], x.detach(), torch.tensor(float("nan")))
    assert torch.equal(encoder(rubbish, mask), out)
    torch.testing.assert_close(encoder(x[:1], mask[:1]), encoder(x[:1]))  # a mask that masks nothing


def test_wrong_inputs_and_settings():
    encoder = small_encoder()
    with pytest.raises(ValueError, match=r"\(1, 5, 7\), expected \(B, T, 16\)"):
        encoder(torch.zeros(1, 5, 7))
    with pytest.raises(ValueError, match=r"expected torch.bool \(1, 5\)"):
        encoder(torch.zeros(1, 5, C), torch.ones(1, 5))
    wrong = [{"heads": 3}, {"local_blocks": 2}, {"window": 0}, {"drop_path": 1.0}]
    for settings in wrong:
        with pytest.raises(ValueError, match=next(iter(settings))):
            small_encoder(**settings)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    encoder = randomised(small_encoder(drop_path=0.5)).train()
    x = torch.randn(1, 4, C).expand(4000, -1, -1)
    update = encoder.blocks[0].drop_path_attn(x)
    full = encoder.blocks[0].drop_path_attn.scale.view(C) * x[0]
    dropped = update.flatten(1).eq(0).all(1)
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(update[~dropped][0], 2 * full)
    assert not encoder(x[:50]).std(0).eq(0).all()
    assert encoder.freeze().train()(x[:50]).std(0).max() < 1e-6


def test_scale_starts_small():
    encoder = MotionEncoder(dim=C, depth=2, local_blocks=1)
    assert encoder.blocks[1].drop_path_mlp.scale.unique().tolist() == pytest.approx([1e-4])
    assert MotionEncoder(dim=C, scale_init=0.5).blocks[0].drop_path_attn.scale.unique().tolist() == [0.5]


def test_default_size():
    encoder = MotionEncoder()
    per_block = 12 * 384**2 + (4 + 4 + 1) * 384 + 3 * 384 * (3 + 2) + 4 * 384 + 2 * 384
    total = sum(p.numel() for p in encoder.parameters())
    print(f"motion encoder {total / 1e6:.2f} M")
    assert total == 8 * per_block and encoder.local_blocks == 4 and encoder.half_window == 4


def test_action_head_is_linear_in_each_frame():
    head, x = ActionHead(C, 5), torch.randn(2, 3, C)
    torch.testing.assert_close(head(x)[1, 2], head.linear.weight @ x[1, 2] + head.linear.bias)


# Checkpoints.

SHAPES = {
    **{f"{n}.{p}": (1, C, 1) for n in ("ln1", "ln2") for p in ("weight", "bias")},
    **{f"attn.{n}_conv.conv.weight": (C, 1, 3) for n in ("query", "key", "value")},
    **{f"attn.{n}_norm.{p}": (1, C, 1) for n in ("query", "key", "value") for p in ("weight", "bias")},
    **{f"attn.{n}.weight": (C, C, 1) for n in ("query", "key", "value", "proj")},
    **{f"attn.{n}.bias": (C,) for n in ("query", "key", "value", "proj")},
    "mlp.0.weight": (4 * C, C, 1),
    "mlp.0.bias": (4 * C,),
    "mlp.3.weight": (C, 4 * C, 1),
    "mlp.3.bias": (C,),
    "drop_path_attn.scale": (1, C, 1),
    "drop_path_mlp.scale": (1, C, 1),
}


def actionformer_state():
    blocks = ["stem.0", "stem.1"] + [f"branch.{i}" for i in range(7)]
    state = {f"module.backbone.{b}.{k}": 0.4 * torch.randn(s) for b in blocks for k, s in SHAPES.items()}
    state["module.backbone.embd.0.conv.weight"] = torch.randn(C, 8, 3)
    state["module.cls_head.cls_head.conv.bias"] = torch.randn(3)
    return state


def saved(tmp_path, **content):
    path = tmp_path / "epoch_010.pth.tar"
    torch.save({"epoch": 10, **content}, path)
    return path


def test_actionformer_checkpoint_gives_the_reference_output(tmp_path):
    state, averaged = actionformer_state(), actionformer_state()
    path = saved(tmp_path, state_dict=state, state_dict_ema=averaged)
    encoder = small_encoder(depth=2, local_blocks=1)
    x = torch.randn(1, 12, C)
    for weights, use_ema in ((state, False), (averaged, True)):
        encoder.load_actionformer(path, mapping=("stem.1", "branch.3"), use_ema=use_ema)
        expected = x[0].numpy().astype(float)
        for name, half_window in (("stem.1", 4), ("branch.3", None)):
            block = {k: weights[f"module.backbone.{name}.{k}"].double().numpy() for k in SHAPES}
            expected = reference_block(expected, np.ones(12), block, HEADS, half_window)
        np.testing.assert_allclose(encoder(x)[0].detach().numpy(), expected, atol=2e-4, rtol=1e-4)


def test_default_mapping_fills_all_eight_blocks_in_order(tmp_path):
    state = actionformer_state()
    encoder = small_encoder(depth=8, local_blocks=4)
    encoder.load_actionformer(saved(tmp_path, state_dict=state))
    assert ACTIONFORMER_BLOCKS == ("stem.1", *(f"branch.{i}" for i in range(7)))
    for block, name in zip(encoder.blocks, ACTIONFORMER_BLOCKS, strict=True):
        assert {k: tuple(v.shape) for k, v in block.state_dict().items()} == SHAPES
        assert all(torch.equal(v, state[f"module.backbone.{name}.{k}"]) for k, v in block.state_dict().items())


def test_bad_checkpoints_are_named_and_load_nothing(tmp_path):
    state = actionformer_state()
    del state["module.backbone.branch.6.attn.query.bias"]
    state["module.backbone.branch.6.mlp.0.weight"] = torch.zeros(2 * C, C, 1)
    encoder = small_encoder(depth=8)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        encoder.load_actionformer(saved(tmp_path, state_dict=state))
    for part in (
        "epoch_010.pth.tar",
        "missing module.backbone.branch.6.attn.query.bias (16,)",
        "module.backbone.branch.6.mlp.0.weight is (32, 16, 1), expected (64, 16, 1)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())

    with pytest.raises(WeightsError, match=r"has no module\.backbone\.stem\.7\."):
        small_encoder().load_actionformer(saved(tmp_path, state_dict=state), mapping=("stem.7",))
    with pytest.raises(WeightsError, match="has no 'state_dict_ema': found"):
        encoder.load_actionformer(saved(tmp_path, state_dict=state), use_ema=True)
    with pytest.raises(ValueError, match="names 1 blocks, the encoder has 8"):
        encoder.load_actionformer(tmp_path / "any", mapping=("stem.1",))
    (tmp_path / "junk.pth.tar").write_bytes(b"\x80\x02junk")
    with pytest.raises(WeightsError, match=r"junk\.pth\.tar cannot be read"):
        encoder.load_actionformer(tmp_path / "junk.pth.tar")


# Frame encoder.


def test_frame_encoder_shapes():
    encoder = FrameEncoder("resnet50")
    trunk = encoder.trunk(torch.randn(2, 3, 64, 64))
    assert trunk.shape == (2, 1024, 4, 4) and not trunk.requires_grad
    assert encoder.head(trunk[None]).shape == (1, 2, 384)
    count = sum(p.numel() for p in encoder.encoder.parameters())
    print(f"ResNet-50 stages {count / 1e6:.2f} M")
    assert count == pytest.approx(23.5e6, abs=0.05e6)


def test_training_leaves_the_trunk_alone():
    encoder = FrameEncoder("resnet18", dim=8).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(torch.randn(2, 3, 3, 64, 64)).square().mean().backward()
    optimiser.step()
    for key, value in encoder.state_dict().items():
        trains = key.startswith(("encoder.layer4.", "project.", "norm."))
        assert torch.equal(value, before[key]) != trains, key
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters() if p.requires_grad)
    assert encoder.encoder.layer4[0].bn1.training and not encoder.encoder.layer3[0].bn1.training


@pytest.mark.parametrize("mode", [True, False])
def test_padded_frames_are_as_if_absent(mode):
    encoder = FrameEncoder("resnet18", dim=8).train(mode)
    alone = FrameEncoder("resnet18", dim=8).train(mode)
    alone.load_state_dict(encoder.state_dict())
    trunk = torch.randn(2, 4, 256, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    trunk[~mask] = float("nan")
    out, expected = encoder.head(trunk, mask), alone.head(trunk[mask][None])[0]
    torch.testing.assert_close(out[mask], expected)
    assert out[~mask].eq(0).all()
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[key])
    with pytest.raises(ValueError, match="no valid frame"):
        encoder.head(trunk, torch.zeros_like(mask))


def test_frame_encoder_from_a_heatmap_network():
    state = HeatmapNet(fpn_channels=(8, 8, 8, 8)).state_dict()
    encoder = FrameEncoder("resnet18", init="heatmap_encoder", dim=8, heatmap_state=state)
    assert all(torch.equal(v, state[f"encoder.{k}"]) for k, v in encoder.encoder.state_dict().items())
    with pytest.raises(ValueError, match="needs backbone=\"resnet18\", not 'resnet50'"):
        FrameEncoder("resnet50", init="heatmap_encoder", heatmap_state=state)
    with pytest.raises(ValueError, match="only with it"):
        FrameEncoder("resnet18", init="heatmap_encoder")
    with pytest.raises(ValueError, match="only with it"):
        FrameEncoder("resnet18", heatmap_state=state)
    del state["encoder.layer3.1.conv2.weight"]
    with pytest.raises(WeightsError, match=r"missing encoder\.layer3\.1\.conv2\.weight"):
        FrameEncoder("resnet18", init="heatmap_encoder", heatmap_state=state)
