"""The pose decoder and the whole model: memory, switches, frozen parts, padding."""

import pytest
import safetensors.torch
import torch
from torch import nn

from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.models.build import for_inference

TABLE_ROWS = [  # use_spatial, use_motion, use_cross_attention: Tables 4 and 5
    (True, True, False),
    (True, False, True),
    (False, True, True),
    (True, True, True),
]
SWITCHES = ("use_spatial", "use_motion", "use_cross_attention")
MOTION = 32


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small_decoder(**settings):
    return PoseDecoder(**{"dim": 16, "motion_dim": MOTION, "layers": 2, "heads": 2, **settings}).eval()


def small_model(row=(True, True, True), frame_encoder=None, heatmap_net=None):
    switches = dict(zip(SWITCHES, row, strict=True))
    return AGEgoPose(
        heatmap_net or HeatmapNet(fpn_channels=(8, 8, 8, 8)),
        frame_encoder or FrameEncoder("resnet18", dim=MOTION),
        MotionEncoder(dim=MOTION, depth=2, local_blocks=1, scale_init=0.1),
        HeatmapEmbedding(dim=16),
        small_decoder(dropout=0.0, **switches),
        **switches,
    )


def inputs():
    return torch.randn(2, 4, 15, 16), torch.randn(2, 4, MOTION)


def test_memory_frame_by_frame():
    decoder = small_decoder(memory_joint_embedding=True)
    tokens, motion = inputs()
    memory = decoder.build_memory(tokens, motion)
    w_c, phi, projection = decoder.memory[0], decoder.memory[2], decoder.motion_projection
    for b, t, j in ((0, 0, 0), (1, 3, 14), (1, 2, 7)):
        f = projection.weight @ motion[b, t] + projection.bias
        x = (w_c.weight @ torch.cat([tokens[b, t, j], f]) + w_c.bias).clamp(min=0)
        x = phi.weight @ x + phi.bias + decoder.joint_embedding[j]
        torch.testing.assert_close(memory[b, t, j], x)


def attention(x, memory, layer, heads):
    """Multi-head attention from its definition: x (J, d), memory (J, d)."""
    d = x.shape[-1]
    w, b = layer.in_proj_weight, layer.in_proj_bias
    q, k, v = (y @ w[i * d : (i + 1) * d].T + b[i * d : (i + 1) * d] for i, y in enumerate((x, memory, memory)))
    parts = []
    for q_head, k_head, v_head in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        parts.append(torch.softmax(q_head @ k_head.T / (d // heads) ** 0.5, -1) @ v_head)
    return torch.cat(parts, -1) @ layer.out_proj.weight.T + layer.out_proj.bias


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_from_its_definition(norm_first):
    decoder = small_decoder(norm_first=norm_first, output_mean=torch.randn(15, 3))
    tokens, motion = inputs()
    out, memory = decoder(tokens, motion), decoder.build_memory(tokens, motion)

    def same(y):
        return y

    for b, t in ((0, 0), (1, 3)):
        x = decoder.queries
        for layer in decoder.decoder.layers:
            norms = (layer.norm1, layer.norm2, layer.norm3)
            before, after = (norms, (same,) * 3) if norm_first else ((same,) * 3, norms)
            y = before[0](x)
            x = after[0](x + attention(y, y, layer.self_attn, 2))
            x = after[1](x + attention(before[1](x), memory[b, t], layer.multihead_attn, 2))
            x = after[2](x + layer.linear2(layer.linear1(before[2](x)).clamp(min=0)))
        x = decoder.decoder.norm(x) if norm_first else x
        for linear in (decoder.head[0], decoder.head[3]):
            x = torch.nn.functional.leaky_relu(linear(x), 0.1)
        torch.testing.assert_close(out[b, t], decoder.head[6](x) + decoder.output_mean, atol=1e-5, rtol=1e-4)


def test_sizes_follow_the_paper():
    decoder = PoseDecoder()
    assert decoder.queries.shape == (15, 128) and 0.015 < decoder.queries.std() < 0.025
    assert len(decoder.decoder.layers) == 3
    layer = decoder.decoder.layers[0]
    assert layer.linear1.out_features == 4 * 128 and layer.self_attn.num_heads == 4 and not layer.norm_first
    assert [m.out_features for m in decoder.head if isinstance(m, torch.nn.Linear)] == [128, 64, 3]


def test_memory_has_no_joint_order_unless_asked_for():
    """The paper names no joint embedding of the memory: swapping two joints' tokens then changes nothing."""
    tokens, motion = inputs()
    swapped = tokens[:, :, [1, 0, *range(2, 15)]]
    plain, embedded = small_decoder(), small_decoder(memory_joint_embedding=True)
    torch.testing.assert_close(plain(swapped, motion), plain(tokens, motion), atol=1e-5, rtol=1e-4)
    assert (embedded(swapped, motion) - embedded(tokens, motion)).abs().max() > 1e-5


def test_output_mean_is_added():
    (tokens, motion), mean = inputs(), torch.randn(15, 3)
    decoder, shifted = small_decoder(), small_decoder(output_mean=mean.tolist())
    assert decoder.output_mean.eq(0).all() and shifted.output_mean.equal(mean)
    shifted.load_state_dict({**decoder.state_dict(), "output_mean": mean})
    torch.testing.assert_close(shifted(tokens, motion), decoder(tokens, motion) + mean)
    with pytest.raises(ValueError, match=r"\(3,\), expected \(15, 3\)"):
        small_decoder(output_mean=[0, 0, 0])


def test_streams_that_are_missing_or_off():
    tokens, motion = inputs()
    with pytest.raises(ValueError, match="both off"):
        small_decoder(use_spatial=False, use_motion=False)
    with pytest.raises(ValueError, match="spatial_tokens is None"):
        small_decoder()(None, motion)
    with pytest.raises(ValueError, match="motion is None"):
        small_decoder()(tokens, None)
    assert small_decoder(use_spatial=False)(None, motion).shape == (2, 4, 15, 3)
    assert small_decoder(use_motion=False)(tokens, None).shape == (2, 4, 15, 3)
    direct = small_decoder(use_cross_attention=False)
    torch.testing.assert_close(direct(tokens, motion), direct.head(direct.build_memory(tokens, motion)))


@pytest.mark.parametrize("row", TABLE_ROWS)
def test_every_row_of_the_ablation(row):
    model = small_model(row).train()
    images = torch.randn(2, 3, 3, 64, 64)
    out = model(images)
    assert out.shape == (2, 3, 15, 3)
    out.square().mean().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None and p.grad.abs().sum() > 0) == p.requires_grad, name
    trainable = {id(p) for p in model.trainable_parameters()}
    assert trainable == {id(p) for p in model.parameters() if p.grad is not None}
    features = model.frozen_features(images[0])
    assert set(features) == {name for name, on in zip(("heatmaps", "trunk"), row, strict=False) if on}
    assert hasattr(model, "heatmap_net") == row[0] and hasattr(model, "motion_encoder") == row[1]
    assert hasattr(model.decoder, "queries") == row[2]


def test_forward_is_the_composition():
    model = small_model()
    images = torch.randn(2, 3, 3, 64, 96)
    mask = torch.tensor([[True] * 3, [True, False, False]])
    features = model.frozen_features(images.flatten(0, 1))
    assert features["heatmaps"].shape == (6, 15, 16, 24) and features["trunk"].shape == (6, 256, 4, 6)
    assert 0 < features["heatmaps"].min() and features["heatmaps"].max() < 1
    assert not any(value.requires_grad for value in features.values())
    features = {name: value.unflatten(0, (2, 3)) for name, value in features.items()}
    for mode in (True, False):
        model.train(mode)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        composed = model.forward_features(**features, mask=mask)
        model.load_state_dict(state)
        assert torch.equal(model(images, mask), composed)
    half = {name: value.half() for name, value in features.items()}
    torch.testing.assert_close(model.forward_features(**half, mask=mask), composed, atol=1e-2, rtol=1e-2)


def test_training_leaves_frozen_parts_alone():
    model = small_model().train()
    frozen = ("heatmap_net.", "motion_encoder.", *(f"frame_encoder.encoder.{p}." for p in ("conv1", "bn1", "layer1")))
    frozen += ("frame_encoder.encoder.layer2.", "frame_encoder.encoder.layer3.", "decoder.output_mean")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.trainable_parameters(), lr=1.0)
    model(torch.randn(2, 3, 3, 64, 64)).square().mean().backward()
    optimiser.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(frozen), key
    assert not any(m.training for m in (*model.heatmap_net.modules(), *model.motion_encoder.modules()))


@pytest.mark.parametrize("mode", [True, False])
def test_padded_frames_change_no_valid_pose(mode):
    model = small_model().train(mode)
    images = torch.randn(2, 4, 3, 64, 64)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    state = {k: v.clone() for k, v in model.state_dict().items()}
    out = model(images, mask)
    model.load_state_dict(state)
    images[1, 2:] = 50.0
    changed = model(images, mask)
    assert changed.isfinite().all()
    torch.testing.assert_close(changed[mask], out[mask])


def test_one_pass_serves_both_streams_that_share_a_trunk(monkeypatch):
    net = HeatmapNet(fpn_channels=(8, 8, 8, 8))
    net.train()(torch.randn(4, 3, 64, 64))  # statistics unlike a fresh network's
    encoder = FrameEncoder("resnet18", "heatmap_encoder", dim=MOTION, heatmap_state=net.state_dict())
    # The layout in which the model computes them; another one rounds differently.
    images = torch.randn(3, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    model = small_model(frame_encoder=encoder, heatmap_net=net)
    expected = encoder.trunk(images)
    assert model.shares_trunk() and not small_model().shares_trunk()
    monkeypatch.setattr(encoder, "trunk", None)
    assert torch.equal(model.frozen_features(images)["trunk"], expected)
    encoder.encoder.layer3[0].bn1.running_mean += 1
    assert not model.shares_trunk()


def test_default_model_and_its_size():
    model = AGEgoPose()
    count = sum(p.numel() for p in model.trainable_parameters())
    print(f"whole model {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M, trainable {count / 1e6:.2f} M")
    assert count == pytest.approx(16.8e6, abs=0.05e6)  # as measured on the authors' release
    # The temporal blocks are frozen, but no other method reads what they give.
    own, blocks = (
        sum(p.numel() for p in model.own_parameters()),
        sum(p.numel() for p in model.motion_encoder.parameters()),
    )
    assert own == count + blocks
    assert AGEgoPose(use_spatial=False, frame_encoder=FrameEncoder("resnet18", dim=64)).decoder.use_motion


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="use_motion is True, but the decoder was built with False"):
        AGEgoPose(frame_encoder=FrameEncoder("resnet18"), decoder=PoseDecoder(use_motion=False))
    with pytest.raises(ValueError, match="gives 384 channels, the motion encoder takes 32"):
        AGEgoPose(frame_encoder=FrameEncoder("resnet18"), motion_encoder=MotionEncoder(dim=32))
    with pytest.raises(ValueError, match="both off"):
        AGEgoPose(use_spatial=False, use_motion=False)


def test_weights_survive_a_safetensors_file(tmp_path):
    model, other = small_model().eval(), small_model().eval()
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    images = torch.randn(1, 2, 3, 64, 64)
    torch.testing.assert_close(other(images), model(images))


@pytest.mark.parametrize(("backbone", "shared"), [("resnet18", True), ("resnet18", False), ("resnet50", False)])
def test_the_model_for_inference_gives_the_same_poses(tiny_model, backbone, shared):
    model = tiny_model(shared_trunk=shared)
    if backbone == "resnet50":
        model.frame_encoder = FrameEncoder(backbone, dim=MOTION)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:  # as training leaves them
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    if shared:
        model.frame_encoder.encoder.load_state_dict(model.heatmap_net.encoder.state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = for_inference(model)
    images = torch.randn(2, 4, 3, 64, 64)
    mask = torch.arange(4) < torch.tensor([[4], [3]])
    with torch.inference_mode():
        expected, found = model.eval()(images, mask), fast(images, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1 and (expected[0, 0] - expected[0, 1]).abs().max() > 1e-2
    # Nothing is left to normalise, and the model itself is untouched.
    assert len(norms) > 40 and not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in fast.modules())
    assert fast.shares_trunk() is model.shares_trunk() is shared
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.trainable_parameters() and not fast.trainable_parameters()


def test_a_row_for_inference_lacks_what_the_row_lacks(tiny_model):
    for row in ("no_motion", "no_spatial"):
        model = tiny_model(row).eval()
        images = torch.randn(1, 4, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(for_inference(model)(images), model(images), rtol=1e-4, atol=1e-4)
