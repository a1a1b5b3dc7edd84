"""The released model: packed and read again, what damaged files say, and networks that start from it."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import release as command
import torch
from conftest import CAMERA, SIZE, shake
from safetensors.torch import load_file
from torch import nn

from agego_lib import params
from agego_lib.models import (
    AGEgoPose,
    FrameEncoder,
    HeatmapEmbedding,
    HeatmapNet,
    MotionEncoder,
    PoseDecoder,
    WeightsError,
    weights,
)
from agego_lib.models.build import load_model, new_heatmap_net, save_model
from agego_lib.params import RELEASED, SettingsError
from agego_lib.preflight import checks
from agego_lib.training.stages import HeatmapStage

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (8, 8, 8, 8)


@pytest.fixture(scope="module")
def config():
    return {
        "input": {"size": 32, "crop": "none"},
        "window": {"length": 4, "stride": 2, "step": 1, "max_gap": 5},
        "fpn_channels": list(SMALL),
        "backbone": "resnet18",
        "motion": {"heads": 4, "depth": 2, "local_blocks": 1, "window": 3, "drop_path": 0.0},
        "decoder": {
            "layers": 1, "heads": 4, "dropout": 0.0, "norm_first": True, "memory_joint_embedding": True,
            "input_scale": 10.0,
        },
        "switches": {},
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A folder with a model as training leaves it, whose frame encoder's trunk is the heatmap encoder's."""
    torch.manual_seed(0)
    net = shake(HeatmapNet(fpn_channels=SMALL))
    decoder = {key: value for key, value in config["decoder"].items() if key != "input_scale"}
    model = AGEgoPose(
        net,
        FrameEncoder("resnet18", "heatmap_encoder", heatmap_state=net.state_dict()),
        MotionEncoder(**config["motion"]),
        HeatmapEmbedding(input_scale=10.0),
        PoseDecoder(**decoder, output_mean=torch.randn(15, 3)),
    )
    folder = tmp_path_factory.mktemp("finetune")
    save_model(folder / "model.safetensors", model, config)
    return folder


@pytest.fixture(scope="module")
def frames():
    return lambda config: np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def released(trained, frames, tmp_path_factory):
    """A project's folder with the packed model."""
    root = tmp_path_factory.mktemp("project")
    command.release(trained, root / "released", frames)
    return root


def test_packed_and_read_again(trained, released, frames, config):
    path = released / RELEASED
    (first, _), (second, back) = load_model(trained / "model.safetensors"), load_model(path)
    assert back == config
    named, stored = dict(first.named_parameters()), load_file(path)
    aliases = json.loads(path.with_suffix(".json").read_text())["aliases"]
    state = first.state_dict()
    assert set(stored) | set(aliases) == set(state) and not set(stored) & set(aliases)
    for name, tensor in second.state_dict().items():
        expected = state[name]
        assert tensor.dtype == expected.dtype, name
        half = name in named and expected.ndim > 1
        # Ten bits behind the first, and nothing below 2^-24.
        close = {"rtol": 2.0**-11, "atol": 2.0**-25} if half else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(tensor, expected, **close)
        assert stored[aliases.get(name, name)].dtype == (torch.float16 if half else expected.dtype), name
    # The shared trunk lies there once, and is shared again.
    encoder = [n for n in aliases if n.startswith("heatmap_net.encoder.layer1") and n.endswith("weight")]
    assert encoder and all(aliases[n].startswith("frame_encoder.encoder.") for n in encoder)
    assert second.shares_trunk()
    whole = (trained / "model.safetensors").stat().st_size
    assert path.stat().st_size < 0.55 * whole
    distance = command.apart(first, second, frames(config), config["window"])
    assert 0 < distance.max() < command.TOLERANCE


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.fits = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        self.too_large = nn.Parameter(torch.tensor([[1.0, 7e4]]))
        self.too_small = nn.Parameter(torch.full((2, 2), 3e-8))
        self.vector = nn.Parameter(torch.rand(5))
        self.zero = nn.Parameter(torch.zeros(2, 2))
        self.register_buffer("same", torch.linspace(-1, 1, 6).view(2, 3))
        self.register_buffer("count", torch.tensor(3))
        self.twice = self.fits


def test_what_half_precision_cannot_hold_stays(tmp_path):
    module = Odd()
    weights.save(tmp_path / "a.safetensors", module, {"x": 1}, packed=True)
    kept = load_file(tmp_path / "a.safetensors")
    assert {name for name, tensor in kept.items() if tensor.dtype == torch.float16} == {"fits", "zero"}
    assert set(module.state_dict()) - set(kept) == {"twice"}  # the buffer is equal in float32 alone
    state, info = weights.load(tmp_path / "a.safetensors")
    assert info == {"x": 1}
    for name, expected in module.state_dict().items():
        assert state[name].dtype == expected.dtype
        torch.testing.assert_close(state[name], expected, rtol=0, atol=3e-4 if name in ("fits", "twice") else 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: [*a], "expected names of tensors by name"),
        (lambda a: a | {"decoder.queries": 3}, "expected names of tensors by name"),
        (lambda a: a | {"decoder.queries": "output_mean"}, "'decoder.queries', which model.safetensors holds itself"),
        (lambda a: dict.fromkeys(a, "nowhere"), "is to equal 'nowhere', which model.safetensors does not hold"),
        (lambda a: a | {"new": next(iter(a))}, "'new' is to equal"),
        (lambda a: {}, "does not fit: missing frame_encoder"),
        (lambda a: a | {"new": "decoder.queries"}, "does not fit: unknown new"),
    ],
)
def test_a_damaged_table_of_equal_tensors(released, tmp_path, change, said):
    for suffix in (".safetensors", ".json"):
        shutil.copy((released / RELEASED).with_suffix(suffix), tmp_path)
    info = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(info | {"aliases": change(info["aliases"])}))
    with pytest.raises(WeightsError) as caught:
        load_model(tmp_path / "model.safetensors")
    assert said in str(caught.value) and str(tmp_path / "model.") in str(caught.value)


def test_what_moves_the_poses_or_is_too_large_is_not_released(trained, frames, tmp_path, monkeypatch):
    with pytest.raises(command.ReleaseError, match=r"half precision moves one in 100 joints by .* at most 0\.001 mm"):
        command.release(trained, tmp_path, frames, tolerance=0.001)
    monkeypatch.setattr(command, "LIMIT", 1e6)
    with pytest.raises(command.ReleaseError, match=r"expected at most 1\. Train a smaller one"):
        command.release(trained, tmp_path, frames)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_command(trained, tmp_path, monkeypatch, capsys, make_sequence):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    out = tmp_path / "released"
    assert command.main([str(trained), f"--out={out}"]) == 1
    assert "splits.json: missing" in capsys.readouterr().err and not out.exists()
    for size, view in ((64, r"of the view {'size': 64"), (32, None)):
        sequence = make_sequence(f"release/{size}", range(6), size, "sceneego", split="test")
        folder = tmp_path / "artifacts/prepared/sceneego"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(sequence.path, folder / "one.h5")
        (folder / "splits.json").write_text(json.dumps({"splits": {"train": [], "test": ["one.h5"]}}))
        assert command.main([str(trained), f"--out={out}"]) == (1 if view else 0)
        assert not view or view in capsys.readouterr().err
    said = capsys.readouterr().out
    assert "poses of 6 frames" in said and "tensors equal others" in said
    # Frames of one's own.
    (tmp_path / "camera.json").write_text(CAMERA.to_json())
    own = [str(trained), f"--out={out}", f"--frames={tmp_path}/own", f"--calibration={tmp_path}/camera.json"]
    (tmp_path / "own").mkdir()
    for size, code in ((SIZE, 0), ((90, 80), 1)):
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
            cv2.imwrite(str(tmp_path / f"own/{number}.png"), noise)
        assert command.main(own) == code
    said = capsys.readouterr()
    assert "poses of 3 frames" in said.out and "own: image of 90x80 px; expected the calibration's" in said.err


# --- Training from it -----------------------------------------------------------------------------------------------


def starting(settings, **heatmap):
    return replace(settings, heatmap=replace(settings.heatmap, init="released", **heatmap))


def test_the_heatmap_network_starts_as_the_released_one(settings, released, trained):
    net = new_heatmap_net(starting(settings).heatmap, released / RELEASED)
    whole = load_model(trained / "model.safetensors")[0].heatmap_net.state_dict()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=2.0**-11, atol=2.0**-25)
    assert all(p.requires_grad for p in net.parameters()) and not net.frozen
    stage = HeatmapStage(starting(settings), released)
    images = torch.rand(2, 3, 32, 32)
    maps = net.eval()(images)
    torch.testing.assert_close(stage.net.eval()(images), maps)
    torch.testing.assert_close(maps, load_model(released / RELEASED)[0].heatmap_net(images))


def test_what_a_start_from_the_released_model_lacks(settings, released, tmp_path):
    with pytest.raises(WeightsError, match=r"no weights file at .*model\.safetensors; run `dvc pull released\.dvc`"):
        new_heatmap_net(starting(settings).heatmap, tmp_path / RELEASED)
    other = starting(settings, fpn_channels=(8, 8, 8, 16)).heatmap
    with pytest.raises(WeightsError, match=r"fpn_channels \[8, 8, 8, 8\], heatmap.fpn_channels is \[8, 8, 8, 16\]"):
        new_heatmap_net(other, released / RELEASED)


def test_the_look_before_a_run(settings, released, trained, tmp_path):
    found = checks.Findings()
    checks.check_weights(starting(settings), tmp_path, found)
    (problem,) = found.problems
    assert problem.startswith("heatmap.init is released: no weights file at ") and "dvc pull released.dvc" in problem
    prints = []
    for source, name in ((trained, "model"), (released, str(RELEASED.removesuffix(".safetensors")))):
        root = tmp_path / source.name
        (root / RELEASED).parent.mkdir(parents=True)
        for suffix in (".safetensors", ".json"):
            shutil.copy(source / f"{name}{suffix}", (root / RELEASED).with_suffix(suffix))
        found = checks.Findings()
        checks.check_weights(starting(settings), root, found)
        assert not found.problems
        prints.append(found.inputs["heatmap_init.json"])
    assert all(p["init"] == "released" and len(p["sha256"]) == 16 for p in prints) and prints[0] != prints[1]
    # Prepared frames have another crop than it saw.
    own = settings.prepare
    said = f"saw 32 px, crop none, not prepare's {own.size} px, crop {own.crop}"
    assert any(said in note for note in found.notes)


def test_the_look_before_a_run_whose_poses_start_from_it(settings, released, tmp_path):
    released_decoder = replace(settings, decoder=replace(settings.decoder, init="released", layers=1))
    found = checks.Findings()
    checks.check_weights(released_decoder, tmp_path, found)
    (problem,) = found.problems
    assert problem.startswith("decoder.init is released: no weights file at ") and "dvc pull released.dvc" in problem
    found = checks.Findings()
    checks.check_weights(released_decoder, released, found)
    assert not found.problems and len(found.inputs["decoder_init.json"]["sha256"]) == 16
    deeper = replace(released_decoder, decoder=replace(released_decoder.decoder, layers=2))
    checks.check_weights(deeper, released, found)
    assert "decoder.layers 1 (2 here)" in found.problems[0]
    found = checks.Findings()
    checks.check_weights(settings, released, found)
    assert found.inputs["decoder_init.json"] == {"init": "scratch"} and not found.problems


def test_settings_that_start_from_it(raw_settings, tmp_path):
    raw_settings["heatmap"]["init"] = "released"
    settings = params.from_dict(raw_settings)
    assert params.located(settings, tmp_path).heatmap.init == "released"
    raw_settings["visual"]["init"] = "released"
    with pytest.raises(SettingsError, match=r"visual\.init is 'released'; expected another start"):
        params.from_dict(raw_settings)
