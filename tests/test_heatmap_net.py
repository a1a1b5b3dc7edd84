"""The heatmap network, its weights, and the joint tokens, against torchvision and plain loops."""

from types import SimpleNamespace
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision

from agego_lib.models import HeatmapEmbedding, HeatmapNet, WeightsError, backbone
from agego_lib.models.backbone import ResNetStages

SMALL = (8, 8, 12, 16)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def resnet18_with_random_statistics():
    net = torchvision.models.resnet18(weights=None).eval()
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return net


def test_output_is_a_quarter_of_the_image():
    net = HeatmapNet(fpn_channels=SMALL)
    assert net(torch.randn(2, 3, 64, 96)).shape == (2, 15, 16, 24)
    assert HeatmapNet(num_joints=4, fpn_channels=SMALL)(torch.randn(2, 3, 32, 32)).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 65), (1, 1, 64, 64), (3, 64, 64)])
def test_other_image_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 32"):
        HeatmapNet(fpn_channels=SMALL)(torch.randn(shape))


def test_four_widths_are_needed():
    with pytest.raises(ValueError, match="3 widths, expected 4"):
        HeatmapNet(fpn_channels=(8, 8, 8))


def test_parameter_count():
    net = HeatmapNet()
    encoder = parameters(net.encoder)
    print(f"heatmap network {parameters(net) / 1e6:.2f} M, of which the encoder {encoder / 1e6:.2f} M")
    classifier = 512 * 1000 + 1000
    assert encoder == parameters(torchvision.models.resnet18(weights=None)) - classifier
    # What the release carries without using it: the classifier, a fourth lateral and a fourth fusion of 64 channels.
    unused = classifier + (64 * 64 + 64) + (9 * 128 * 64 + 64)
    assert parameters(net) + unused == pytest.approx(14.4e6, abs=0.05e6)
    assert parameters(HeatmapNet(fpn_channels=SMALL)) < 11.3e6


def test_decoder_step_by_step():
    net = HeatmapNet(fpn_channels=SMALL).eval()
    c1, c2, c3, c4 = (torch.randn(2, c, s, s) for c, s in ((64, 16), (128, 8), (256, 4), (512, 2)))

    def lateral(i, c):
        x = torch.einsum("nchw,fc->nfhw", c, net.laterals[i].weight[:, :, 0, 0]) + net.laterals[i].bias[:, None, None]
        return torch.where(x > 0, x, 0.2 * x)

    def fuse(i, coarse, fine):
        conv = net.fuse[i][0]
        x = torch.cat([torch.nn.Upsample(scale_factor=2, mode="bilinear")(coarse), fine], 1)
        x = F.conv2d(x, conv.weight, conv.bias, padding=1)
        return torch.where(x > 0, x, 0.2 * x)

    x = fuse(2, lateral(3, c4), lateral(2, c3))
    x = fuse(0, fuse(1, x, lateral(1, c2)), lateral(0, c1))
    expected = torch.einsum("nchw,jc->njhw", x, net.output.weight[:, :, 0, 0]) + net.output.bias[:, None, None]
    torch.testing.assert_close(net.decode((c1, c2, c3, c4)), expected, atol=1e-4, rtol=1e-4)


def test_starts_near_empty_maps():
    net = HeatmapNet(fpn_channels=SMALL, output_bias=-4.0)
    assert net.output.bias.eq(-4).all()
    assert HeatmapNet(fpn_channels=SMALL, output_bias=0.0).output.bias.eq(0).all()


def test_gradient_reaches_every_parameter():
    net = HeatmapNet(fpn_channels=SMALL)
    F.binary_cross_entropy_with_logits(net(torch.randn(2, 3, 64, 64)), torch.rand(2, 15, 16, 16)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_frozen_for_good():
    net = HeatmapNet(fpn_channels=SMALL).freeze()
    assert torch.nn.Sequential(net).train()[0] is net
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_encoder_from_a_torchvision_file(tmp_path, suffix):
    source = resnet18_with_random_statistics()
    # Like the oldest files, without BatchNorm's counters.
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / f"resnet18.{suffix}"
    torch.save(state, path) if suffix == "pth" else safetensors.torch.save_file(state, path)

    encoder = HeatmapNet(init=path, fpn_channels=SMALL).eval().encoder
    images = torch.randn(2, 3, 64, 64)
    pooled = encoder(images)[-1].mean((2, 3))
    torch.testing.assert_close(source.fc(pooled), source(images))


def test_file_of_another_network_is_named(tmp_path):
    state = resnet18_with_random_statistics().state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    del state["layer2.0.bn1.weight"]
    state["layer9.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError) as error:
        ResNetStages("resnet18", tmp_path / "odd.pth")
    for part in ("odd.pth", "missing layer2.0.bn1.weight (128,)", "(64, 1, 7, 7), expected (64, 3, 7, 7)", "layer9"):
        assert part in str(error.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights file at .*nowhere\.pth"):
        ResNetStages("resnet18", tmp_path / "nowhere.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(WeightsError, match=name):
            ResNetStages("resnet18", tmp_path / name)
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds a Tensor"):
        ResNetStages("resnet18", tmp_path / "tensor.pth")
    torch.save({"weights": SimpleNamespace(a=1)}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="SimpleNamespace"):
        ResNetStages("resnet18", tmp_path / "code.pth")


def test_backbone_must_be_known():
    with pytest.raises(ValueError, match="'vgg', expected one of"):
        ResNetStages("vgg")


class FakeWeights:
    url = "https://example.org/models/resnet18-0123abcd.pth"

    def __init__(self, answer):
        self.answer = answer

    def get_state_dict(self, **kwargs):
        assert kwargs["weights_only"] and kwargs["check_hash"]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_imagenet_weights(monkeypatch):
    source = resnet18_with_random_statistics()
    monkeypatch.setitem(backbone.IMAGENET, "resnet18", FakeWeights(source.state_dict()))
    encoder = ResNetStages("resnet18", "imagenet")
    assert torch.equal(encoder.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_failed_download_says_where_to_put_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(backbone.IMAGENET, "resnet18", FakeWeights(URLError("no network")))
    with pytest.raises(WeightsError) as error:
        HeatmapNet(init="imagenet")
    for part in (FakeWeights.url, str(tmp_path / "hub" / "checkpoints" / "resnet18-0123abcd.pth"), "scratch"):
        assert part in str(error.value)


@pytest.mark.parametrize("size", [(64, 64), (30, 22)])
def test_embedding_equals_a_loop_over_maps(size):
    embedding = HeatmapEmbedding(dim=24, input_scale=3.0)
    heatmaps = torch.rand(2, 3, 5, *size)
    tokens = embedding(heatmaps)
    assert tokens.shape == (2, 3, 5, 24)
    convolutions = [m for m in embedding.cnn if isinstance(m, torch.nn.Conv2d)]
    for b, t, j in ((0, 0, 0), (0, 2, 4), (1, 1, 3)):
        x = 3.0 * heatmaps[b, t, j].view(1, 1, *size)
        for conv, stride in zip(convolutions, (1, 2, 2), strict=True):
            x = F.conv2d(x, conv.weight.contiguous(), conv.bias, stride=stride, padding=1).clamp(min=0)
        x = embedding.project.weight @ F.adaptive_avg_pool2d(x, (4, 4)).reshape(-1) + embedding.project.bias
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(tokens[b, t, j], x, atol=1e-5, rtol=1e-4)
