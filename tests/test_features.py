"""The feature store: what it holds, when it stores nothing, and how it refuses files that do not fit."""

import copy
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import shake
from torch.utils.data import DataLoader

from agego_lib.datasets import WindowDataset
from agego_lib.datasets.features import (
    FeatureError,
    FeatureStore,
    estimate_gb,
    feature_file,
    open_features,
    store_features,
)
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.models.build import ABLATIONS
from agego_lib.params import EngineSettings, LossSettings, OptimiserSettings
from agego_lib.training import PoseObjective, fit

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = Path(__file__).resolve().parents[1] / "conf/splits"
# A frame of 32 px: 15 maps at stride 4, ResNet-18's 256 channels of layer3 at stride 16, two bytes a number.
FRAME_BYTES = {"heatmaps": 15 * 8 * 8 * 2, "trunk": 256 * 2 * 2 * 2}


@pytest.fixture(scope="module")
def sequences(make_sequence):
    return [
        make_sequence("features/a", range(11)),
        make_sequence("features/b", range(4)),
        make_sequence("features/a", range(6), dataset="sceneego"),
    ]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model().eval()


@pytest.fixture
def stored(tmp_path, model, sequences):
    store_features(tmp_path / "features", model, sequences, limit_gb=1, batch_size=4)
    return tmp_path / "features"


def all_features(model, sequence):
    images = torch.from_numpy(sequence.images(slice(None)).transpose(0, 3, 1, 2)) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return model.frozen_features((images - mean[:, None, None]) / std[:, None, None])


def test_stored_equals_computed_to_half_precision(stored, model, sequences):
    store = open_features(stored, sequences)
    for number, sequence in enumerate(sequences):
        expected = all_features(model, sequence)
        frames = np.arange(len(sequence))[::-1]  # in any order
        found = store.read(number, frames)
        assert found.keys() == expected.keys() == {"heatmaps", "trunk"}
        for name, value in expected.items():
            assert found[name].dtype == np.float16 and found[name].shape == value.shape
            reference = value.numpy()[frames]
            # Half a step of float16, and a little for convolutions in batches of another size.
            np.testing.assert_allclose(found[name].astype(np.float32), reference, rtol=2**-11 + 1e-4, atol=2e-5)
            assert np.ptp(reference, axis=0).max() > 0.01  # the frames do differ


def test_the_same_name_in_both_splits(tmp_path, model, make_sequence):
    """As SceneEgo is published: training must not learn from the features of the test take."""
    names = [line.split("/") for split in ("train", "test") for line in (SPLITS / f"{split}_sceneego.txt").open()]
    sequences = [
        make_sequence(name.strip(), range(3 + number), dataset="sceneego", split=split)
        for number, (split, name) in enumerate(names)
    ]
    assert len({s.name for s in sequences}) == 5 < len(sequences) == 9
    store_features(tmp_path, model, sequences, limit_gb=1)
    assert feature_file(tmp_path, sequences[-1]) == tmp_path / "sceneego/test/jian2.h5"
    assert len(list(tmp_path.rglob("*.h5"))) == 9
    for group in (sequences[:5], sequences[5:]):
        store = open_features(tmp_path, group)
        for number, sequence in enumerate(group):
            found = store.read(number, np.arange(len(sequence)))
            for name, value in all_features(model, sequence).items():
                np.testing.assert_allclose(found[name], value.numpy(), rtol=2**-11 + 1e-4, atol=2e-5)


def test_a_data_set_that_leaves_the_folder_is_refused(tmp_path, sequences):
    for name in ("../../elsewhere", "", ".."):
        sequence = copy.copy(sequences[0])
        sequence.dataset = name
        with pytest.raises(FeatureError, match="names no file"):
            feature_file(tmp_path, sequence)


@pytest.mark.parametrize("row", ABLATIONS)
def test_a_stream_that_is_off_is_not_stored(tmp_path, tiny_model, sequences, row):
    store_features(tmp_path, tiny_model(row), sequences[1:2], limit_gb=1)
    expected = set(FRAME_BYTES) - {{"no_motion": "trunk", "no_spatial": "heatmaps"}.get(row)}
    assert set(FeatureStore(tmp_path, sequences[1:2]).read(0, [0])) == expected


def test_size_and_manifest(stored, model, sequences):
    size = sum(FRAME_BYTES.values()) * sum(len(s) for s in sequences)
    assert estimate_gb(model, sequences) == pytest.approx(size / 1e9)
    on_disk = 0
    for sequence in sequences:
        with h5py.File(feature_file(stored, sequence), "r") as file:
            on_disk += sum(data.size * data.dtype.itemsize for data in file.values())
    assert on_disk == size
    manifest = json.loads((stored / "features.json").read_text())
    assert manifest == {
        "frames": 21,
        "estimated_gb": pytest.approx(size / 1e9, abs=5e-5),
        "limit_gb": 1,
        "stored": True,
    }
    assert not list(stored.rglob("*.partial"))


@pytest.mark.parametrize(("share", "fits"), [(0, False), (0.99, False), (1.01, True)])
def test_limit(tmp_path, model, sequences, share, fits):
    limit = share * sum(FRAME_BYTES.values()) * 21 / 1e9
    manifest = store_features(tmp_path, model, sequences, limit_gb=limit)
    assert manifest["stored"] is fits and manifest == json.loads((tmp_path / "features.json").read_text())
    assert len(list(tmp_path.rglob("*.h5"))) == (3 if fits else 0)
    assert (open_features(tmp_path, sequences) is not None) is fits


def test_the_size_is_told_before_anything_is_written(tmp_path, capsys, model, sequences, monkeypatch):
    written = []
    monkeypatch.setattr(type(sequences[0]), "images", lambda *_: written.append(list(tmp_path.iterdir())) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store_features(tmp_path / "new", model, sequences, limit_gb=1)
    assert written == [[]]
    monkeypatch.undo()
    store_features(tmp_path / "new", model, sequences, limit_gb=0)
    size = sum(FRAME_BYTES.values()) * 21 / 1e9
    assert f"21 frames in float16: {size:.3g} GB, of 0 GB" in capsys.readouterr().out


def beginner():
    """A small model at the start of training, with the quick profile's kind of decoder."""
    torch.manual_seed(0)
    net = shake(HeatmapNet(fpn_channels=(8, 8, 8, 8), output_bias=-2.0))
    frames = FrameEncoder("resnet18", "heatmap_encoder", dim=32, heatmap_state=net.state_dict())
    blocks = MotionEncoder(dim=32, depth=2, local_blocks=1, window=3)
    mean = 0.3 * torch.randn(15, 3)
    decoder = PoseDecoder(
        motion_dim=32, layers=1, dropout=0.0, norm_first=True, memory_joint_embedding=True, output_mean=mean
    )
    return AGEgoPose(net, frames, blocks, HeatmapEmbedding(input_scale=10.0), decoder)


@pytest.mark.slow
def test_twenty_steps_from_the_store_have_the_losses_of_twenty_steps_from_images(tmp_path, sequences):
    """Float16's rounding is all that differs. The steps are small: Adam makes whole steps of the tiniest gradients,
    so that with large ones any rounding drives such small batches apart."""
    store_features(tmp_path, beginner(), sequences, limit_gb=1)
    engine = EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=1)
    optimiser = OptimiserSettings(10, 2, 1e-4, 1e-5, 0, 0.0, 1.0)
    losses = {}
    for name, source in (("images", None), ("store", open_features(tmp_path, sequences))):
        data, log = WindowDataset(sequences, 8, 4, 10, source=source), []
        assert len(data) == 4
        objective = PoseObjective(beginner(), LossSettings(1.0, 0.1, 0.01, 0.0))
        fit(objective, data, optimiser, engine, log=lambda step, values, log=log: log.append(values["loss"]))
        losses[name] = np.array(log)
    assert len(losses["store"]) == 20 and losses["images"][-4:].mean() < 0.9 * losses["images"][:4].mean()
    np.testing.assert_allclose(losses["store"], losses["images"], rtol=1e-3)
    assert not np.array_equal(losses["store"], losses["images"])


def test_the_estimate_runs_where_the_model_is(tiny_model, sequences):
    """The meta device stands for any other than the images' one."""
    model = tiny_model("no_motion").to("meta")
    assert estimate_gb(model, sequences) == pytest.approx(FRAME_BYTES["heatmaps"] * 21 / 1e9)


def test_files_that_do_not_fit(stored, sequences, make_sequence):
    path = feature_file(stored, sequences[1])
    # Of as many frames, but others.
    other = make_sequence("features/b", range(1, 5), dataset="other")
    feature_file(stored, other).parent.mkdir(parents=True)
    path.rename(feature_file(stored, other))
    with pytest.raises(
        FeatureError, match=r"other.*b\.h5: features of another preparation of other/train/f.*dvc repro"
    ):
        open_features(stored, [sequences[0], other])
    with h5py.File(feature_file(stored, other), "a") as file:
        file.attrs["content"] = other.content
        del file["trunk"]
        file["trunk"] = np.zeros((3, 256, 2, 2), np.float16)
    with pytest.raises(FeatureError, match=r"features__b\.h5: trunk of 3 frames, expected 4; run `dvc repro"):
        open_features(stored, [sequences[0], other])
    with pytest.raises(FeatureError, match=r"egopw.*features__b\.h5: no readable features.*dvc repro"):
        open_features(stored, sequences)
    path.write_bytes(b"not HDF5")
    with pytest.raises(FeatureError, match=r"features__b\.h5: no readable features"):
        open_features(stored, sequences)


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_manifest_that_cannot_be_read(tmp_path, sequences, content):
    if content is not None:
        (tmp_path / "features.json").write_text(content)
    with pytest.raises(FeatureError, match=r"features\.json: not readable.*dvc repro"):
        open_features(tmp_path, sequences)


def test_loader_workers_get_the_same(stored, sequences):
    store = open_features(stored, sequences)
    copy = pickle.loads(pickle.dumps(store))
    for number, frames in ((0, [3, 3, 10]), (2, [5])):
        for name, value in store.read(number, frames).items():
            np.testing.assert_array_equal(copy.read(number, frames)[name], value)
    windows = WindowDataset(sequences, length=8, stride=4, source=store)
    expected = [windows[i] for i in range(len(windows))]
    batches = DataLoader(windows, batch_size=None, num_workers=1)
    for item, reference in zip(batches, expected, strict=True):
        number, mask = reference["sequence"], reference["mask"]
        assert "images" not in item
        for name, value in store.read(number, reference["frames"][mask].numpy()).items():
            np.testing.assert_array_equal(item[name][mask].numpy(), value)
            assert not item[name][~mask].any()
