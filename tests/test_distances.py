"""What the heatmap network says of the joints' distances: how it is read, learned, stored and handed on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from test_rays import small_model

from agego_lib import params
from agego_lib.baselines.mo2cap2 import LOWER, Zoom, ZoomedFrames
from agego_lib.datasets import FrameDataset
from agego_lib.datasets.features import open_features, store_features
from agego_lib.evaluation.complexity import full_cost
from agego_lib.images import to_tensor
from agego_lib.inference import predict_sequence
from agego_lib.models import HeatmapEmbedding, HeatmapNet, RayTokens
from agego_lib.models.backbone import WeightsError
from agego_lib.models.build import for_inference, load_model, new_decoder, new_heatmap_net, save_model
from agego_lib.models.rays import TOKEN, Augmentation, hidden_token
from agego_lib.preflight.budget import training_bytes
from agego_lib.skeleton import BONES
from agego_lib.stature import AVERAGE, BONES_OF_STATURE
from agego_lib.training import HeatmapObjective

pytestmark = pytest.mark.usefixtures("one_thread")


def small_net():
    torch.manual_seed(0)
    net = HeatmapNet(fpn_channels=(8, 8, 16, 16), output_bias=-1.0, distances=True)
    torch.nn.init.normal_(net.distances.output.weight)
    torch.nn.init.normal_(net.distances.bias)
    return net


def with_distances(settings, **decoder):
    heatmap = replace(settings.heatmap, distances=0.1)
    return replace(settings, heatmap=heatmap, decoder=replace(settings.decoder, distances=True, **decoder))


@pytest.fixture(scope="module")
def frames(make_sequence):
    return FrameDataset([make_sequence("training/far", range(8))])


def test_read_where_the_heatmap_is_bright():
    """Joint by joint, pixel by pixel: features of each level, weighed by the squared map in the same square."""
    net, images = small_net().eval(), torch.randn(2, 3, 64, 64)
    levels = []
    hook = net.distances.register_forward_hook(lambda _, inputs, __: levels.extend(inputs[1]))
    with torch.no_grad():
        logits, found = net.decode_all(net.encode(images))
        torch.testing.assert_close(logits, net(images))
    hook.remove()
    assert [tuple(level.shape[1:]) for level in levels] == [
        (8, 16, 16),
        (8, 8, 8),
        (16, 4, 4),
        (256, 4, 4),
        (512, 2, 2),
    ]
    head, bright = net.distances, logits.sigmoid().square().double()
    for n in range(2):
        for joint in (0, 7, 14):
            read = []
            for level in levels:
                side = level.shape[-1]
                cell = 16 // side
                weights = np.zeros((side, side))
                for y in range(side):
                    for x in range(side):
                        weights[y, x] = bright[n, joint, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].sum()
                read += [
                    float((level[n, c].double().numpy() * weights).sum() / weights.sum()) for c in range(len(level[n]))
                ]
            hidden = head.read.weight @ torch.tensor(read).float() + head.read.bias + head.joint_embedding[joint]
            gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            wanted = gelu @ head.output.weight[0] + head.output.bias[0] + head.bias[joint]
            assert found[n, joint].item() == pytest.approx(wanted.item(), abs=1e-3)


def test_labels_are_those_of_a_person_of_average_stature(frames, make_sequence):
    sequence = frames.sequences[0]
    for index in (0, 5):
        joints = sequence.joints_3d[index].astype(np.float64)
        tall = sum(np.linalg.norm(joints[child] - joints[parent]) for parent, child in BONES) / BONES_OF_STATURE
        wanted = [np.linalg.norm(joint) * AVERAGE / tall for joint in joints]
        np.testing.assert_allclose(frames[index]["distances"], wanted, rtol=1e-5)


def test_objective_from_its_definition(frames):
    """A joint without a label counts for nothing, and leaves no gradient that is no number."""
    net = small_net().eval()
    batch = torch.utils.data.default_collate([frames[0], frames[3]])
    batch["distances"][1, 4] = torch.nan
    plain, _ = HeatmapObjective(net)(batch)
    loss, values = HeatmapObjective(net, distances=0.5)(batch)
    with torch.no_grad():
        logarithms = net.decode_all(net.encode(to_tensor(batch["image"].permute(0, 2, 3, 1).numpy())))[1]
    errors = [
        abs(np.exp(logarithms[n, j].item()) - batch["distances"][n, j].item())
        for n in range(2)
        for j in range(15)
        if (n, j) != (1, 4)
    ]
    assert values["distance_mm"].item() == pytest.approx(1000 * np.mean(errors), rel=1e-4)
    assert loss.item() == pytest.approx(plain.item() + 0.5 * np.mean(errors), rel=1e-5)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_distances_leave_the_maps_alone(frames):
    """Their error reaches the features, but not through where a joint is said to be."""
    net = small_net().eval()
    images = to_tensor(frames[0]["image"].permute(1, 2, 0).numpy()[None])
    net.decode_all(net.encode(images))[1].sum().backward()
    assert all(p.grad is None for p in net.output.parameters())
    assert all(
        p.grad.abs().sum() > 0 for p in (net.distances.read.weight, net.fuse[0][0].weight, net.encoder.conv1.weight)
    )


def test_the_second_detector_learns_the_lower_bodys(frames):
    zoom = Zoom.on_lower_body(frames.sequences)
    item, whole = ZoomedFrames(frames.sequences, zoom)[2], frames[2]
    assert torch.equal(item["distances"][LOWER], whole["distances"][LOWER])
    assert item["distances"].isfinite().sum() == len(LOWER)


def model_with_distances():
    model, config = small_model()
    config |= {"distances": True, "decoder": config["decoder"] | {"distances": True}}
    torch.manual_seed(1)
    model.heatmap_net = HeatmapNet(fpn_channels=(8, 8, 8, 8), output_bias=0.0, distances=True).freeze()
    torch.nn.init.normal_(model.heatmap_net.distances.output.weight)
    model.embedding = RayTokens(distances=True)
    model.decoder.read[0] = torch.nn.Linear(TOKEN + 1, 128)
    return model.eval(), config


def test_tokens_end_with_the_distance():
    maps, far = torch.rand(2, 3, 15, 8, 8), torch.randn(2, 3, 15, 1)
    tokens = RayTokens(distances=True)(maps, far)
    assert torch.equal(tokens[..., :-1], RayTokens()(maps)) and torch.equal(tokens[..., -1:], far)
    torch.manual_seed(0)
    changed, _ = Augmentation(turn_degrees=20.0)(tokens, torch.randn(2, 3, 15, 3))
    assert torch.equal(changed[..., -1], tokens[..., -1]) and not torch.equal(changed, tokens)
    assert hidden_token(tokens)[-1] == 0 and len(hidden_token(tokens)) == TOKEN + 1


def test_the_papers_embedding_reads_them_too():
    torch.manual_seed(0)
    embedding, maps = HeatmapEmbedding(distances=True), torch.rand(1, 2, 15, 8, 8)
    near, far = (embedding(maps, torch.full((1, 2, 15, 1), value)) for value in (-1.0, 1.0))
    assert near.shape == (1, 2, 15, 128) and not torch.allclose(near, far, atol=1e-2)


def test_predicted_saved_stored_and_folded_alike(tmp_path):
    model, config = model_with_distances()
    frames = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)
    wanted = predict_sequence(model, frames, length=4, stride=2)
    save_model(tmp_path / "model.safetensors", model, config)
    again, found = load_model(tmp_path / "model.safetensors")
    assert found == config
    frozen = model.frozen_features(to_tensor(frames))
    stored = {name: value.half().numpy() for name, value in frozen.items()}
    for network, features, close in (
        (again, None, 1e-6),
        (for_inference(model), None, 1e-4),
        (model, lambda indices: {name: value[indices] for name, value in stored.items()}, 2e-2),
    ):
        poses = predict_sequence(network, frames, length=4, stride=2, features=features)
        np.testing.assert_allclose(poses, wanted, atol=close)
    with torch.no_grad():
        windows = {name: value[None] for name, value in frozen.items()}
        other = model.forward_features(**windows | {"distances": windows["distances"] + 1})
        assert not torch.allclose(model.forward_features(**windows), other, atol=1e-3)
        with pytest.raises(ValueError, match=r"decoder\.distances is on, but distances is None"):
            model.forward_features(frozen["heatmaps"][None])


def test_another_networks_heatmaps_bring_their_distances(frames, tmp_path):
    """Table 6 compares networks: what one says of distances must not stand beside another one's maps."""
    sequences, (model, _) = frames.sequences, model_with_distances()
    store_features(tmp_path / "ours", model, sequences, limit_gb=1)
    torch.nn.init.normal_(model.heatmap_net.distances.bias)
    torch.nn.init.normal_(model.heatmap_net.output.weight)
    store_features(tmp_path / "theirs", model, sequences, limit_gb=1)
    ours, theirs = (open_features(tmp_path / name, sequences).read(0, slice(None)) for name in ("ours", "theirs"))
    mixed = open_features(tmp_path / "ours", sequences, tmp_path / "theirs").read(0, slice(None))
    assert set(mixed) == {"heatmaps", "distances"}
    for name, value in mixed.items():
        assert np.array_equal(value, theirs[name]) and not np.array_equal(value, ours[name])


def test_starts_from_released_weights_with_and_without_them(tmp_path, settings):
    model, config = model_with_distances()
    path = tmp_path / "model.safetensors"
    save_model(path, model, config)
    heatmap = replace(settings.heatmap, init="released", fpn_channels=(8, 8, 8, 8))
    for distances in (0.0, 0.1):
        net = new_heatmap_net(replace(heatmap, distances=distances), path)
        assert torch.equal(net.output.weight, model.heatmap_net.output.weight)
        assert (net.distances is not None) == (distances > 0)
    # A released model from before it gave distances.
    plain, without = small_model()
    save_model(path, plain, without)
    with pytest.raises(WeightsError, match=r"missing heatmap_net\.distances"):
        new_heatmap_net(replace(heatmap, distances=0.1), path)
    options = {"kind": "rays", "init": "released", "layers": 1, "heads": 4, "dropout": 0.0, "use_motion": False}
    wanted = with_distances(replace(settings, heatmap=heatmap), **options)
    with pytest.raises(WeightsError, match=r"decoder\.distances False \(True here\)"):
        new_decoder(wanted, "full", np.zeros((15, 3)), path)


@pytest.mark.parametrize("kind", ["paper", "rays"])
def test_what_it_costs(settings, kind):
    """One number more a joint to read, and the head's own weights."""
    told = with_distances(settings, kind=kind, use_motion=False)
    plain = replace(told, decoder=replace(told.decoder, distances=False))
    assert full_cost(told)["parameters"] - full_cost(plain)["parameters"] == 128
    without = replace(plain, heatmap=replace(settings.heatmap, distances=0.0))
    more = {stage: need - training_bytes(without)[stage] for stage, need in training_bytes(told).items()}
    head = sum(
        p.numel() for p in HeatmapNet(fpn_channels=settings.heatmap.fpn_channels, distances=True).distances.parameters()
    )
    assert more["heatmap"] > 4 * 4 * head
    # The head is frozen there, and its weights are 4 bytes each.
    assert more["pose"] >= 4 * head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": {"distances": True}}, "decoder.distances is True; expected false, as heatmap.distances is 0"),
        ({"ablation": {"rows": ["rays_distances"]}}, "expected no _distances rows, as heatmap.distances is 0"),
        (
            {"heatmap": {"distances": 0.1}, "decoder": {"distances": True, "embedding": "limbs"}},
            "decoder.embedding is 'limbs'; expected cnn, with distances",
        ),
    ],
)
def test_settings_that_do_not_go_together(project, change, message):
    raw = yaml.safe_load((project / "params.yaml").read_text())
    for section, values in change.items():
        raw[section] |= values
    with pytest.raises(params.SettingsError, match=message.replace(".", r"\.")):
        params.from_dict(raw)
