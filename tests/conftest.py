"""Small made-up data and models that several test files share."""

import copy
import multiprocessing
import os
import signal
import tempfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from warm import warm_processes

from agego_data.body import load_bodies
from agego_data.motion import load_clips
from agego_data.scene import Viewer
from agego_lib import params
from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import PreparedSequence, Sequence, sequence_key, write_prepared
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.models.build import ABLATIONS


def lens(*c2w, reach):
    """(c2w, w2c) of a lens: the first polynomial as given, the other a close fit up to `reach` px from the centre."""
    rho = np.linspace(0, reach, 400)
    below = np.arctan2(np.polynomial.polynomial.polyval(rho, c2w), rho)  # the plane of the lens
    return c2w, tuple(np.polynomial.polynomial.polyfit(below, rho, 10).tolist())


SIZE = (160, 128)
CAMERA = FisheyeCamera(SIZE, (80.0, 64.0), *lens(-36.0, 0.0, 0.009, reach=80), 64.0)
MOTION = 32
SOURCES = Path(__file__).resolve().parents[1] / "data"
SOURCE_FILES = ("bodies.npz", "clips.npz", "fisheye.calibration.json", "NOTICE.md")
# Files that start processes, train, render, or need a browser; `make check` leaves them out.
SLOW = (
    "test_published", "test_benchmarks", "test_report", "test_resume", "test_distributed", "test_predict",
    "test_synthetic", "test_baselines", "test_training", "test_live", "test_calibration", "test_scene", "test_release",
    "test_stretches", "test_others", "test_data_motion", "test_outside", "test_real_data", "test_notebook_filter",
    "test_baseline_methods", "test_preparation_notebook", "test_explore", "test_mocap",
)  # fmt: skip
# These begin, as they take longest, so that no process is left alone with one of them at the end. Notebooks and browser
# need the run that test_pipeline makes, and come when it is there.
FIRST = ("test_published", "test_pipeline", "test_notebooks", "test_browser", *SLOW[1:])
# Not forked from here: whatever threads earlier tests left, holding a lock, would leave a child waiting for ever.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["agego_lib.training", "pytest"])


def pytest_configure(config):
    # Started in the background of a script, processes ignore Ctrl-C, which some tests send themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        # A folder for what all processes of pytest-xdist share.
        shared = tempfile.TemporaryDirectory(prefix="agego-tests-")
        os.environ["AGEGO_TESTS_SHARED"] = shared.name
        config.add_cleanup(shared.cleanup)


def pytest_collection_modifyitems(items):
    for item in items:
        if "smoke_run" in item.fixturenames or item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def warm():
    """Variables with which the kernels, `python` and `dvc` of a `Copy` start at once."""
    # Not pytest's folder: a socket's path may have some hundred letters at most.
    with tempfile.TemporaryDirectory() as folder, warm_processes(folder) as variables:
        yield variables


@pytest.fixture(scope="session")
def project():
    """The project's folder."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sources():
    """Folder of what the embedded data is rendered from."""
    absent = [name for name in SOURCE_FILES if not (SOURCES / name).is_file()]
    assert not absent, f"{SOURCES} lacks {absent}; the embedded data's sources are needed: run `dvc pull data.dvc`"
    return SOURCES


@pytest.fixture(scope="module")
def people(sources):
    return load_bodies(sources)


@pytest.fixture(scope="module")
def clips(sources):
    return load_clips(sources)


@pytest.fixture(scope="module")
def viewer(sources):
    return Viewer(FisheyeCamera.from_json(sources / "fisheye.calibration.json").scaled(0.375))


@pytest.fixture(scope="module")
def one_thread():
    """Small networks run faster so, and give the same numbers on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def raw_settings(project):
    """params.yaml as YAML gives it, with everything small: 32 px frames, windows of 8, few and narrow layers."""
    raw = yaml.safe_load((project / "params.yaml").read_text())
    raw["prepare"] |= {"size": 32}
    raw["heatmap"] |= {"fpn_channels": [8, 8, 8, 8], "init": "scratch"}
    raw["visual"] |= {"backbone": "resnet18", "init": "heatmap_encoder"}
    raw["window"] |= {"length": 8, "stride": 4, "step": 1, "max_gap": 10}
    raw["motion"] |= {"depth": 2, "local_blocks": 1, "window": 3, "checkpoint": None}
    raw["decoder"] |= {"layers": 1}
    raw["engine"] |= {"accelerator": "cpu", "devices": 1, "precision": "32-true", "workers": 0, "threads": 1}
    return raw


@pytest.fixture
def settings(raw_settings):
    return params.from_dict(raw_settings)


@pytest.fixture(scope="session")
def make_sequence(tmp_path_factory):
    """Writer of prepared sequences whose frames show a dot of its own colour at each of 15 random joints."""
    folder = tmp_path_factory.mktemp("prepared")

    def make(name, numbers, size=32, dataset="egopw", actions=None, split="train"):
        numbers, rng = list(numbers), np.random.default_rng(list(name.encode()))
        pixels = rng.uniform(12, np.array(SIZE) - 12, (len(numbers), 15, 2))
        place = folder / dataset / split / name
        place.mkdir(parents=True)
        colours = np.random.default_rng(0).integers(60, 256, (15, 3)).tolist()
        for number, joints in zip(numbers, pixels, strict=True):
            image = np.full((SIZE[1], SIZE[0], 3), rng.integers(0, 50, 3), np.uint8)
            for joint, colour in zip(joints, colours, strict=True):
                cv2.circle(image, [round(v) for v in joint], 9, colour, -1)
            cv2.imwrite(str(place / f"img_{number:06d}.jpg"), image)
        sequence = Sequence(
            name=name,
            actor=name.split("/")[0],
            frame_paths=[place / f"img_{number:06d}.jpg" for number in numbers],
            frame_numbers=np.array(numbers),
            joints_3d=rng.normal([0, 0, 0.5], 0.3, (len(numbers), 15, 3)),
            joints_2d=pixels,
            actions=actions and [actions[i % len(actions)] for i in range(len(numbers))],
            dataset=dataset,
        )
        path = folder / f"{sequence_key(dataset, split, name)}_{size}.h5"
        write_prepared(path, sequence, CAMERA, InputView(SIZE, size), split=split)
        return PreparedSequence(path)

    return make


def shake(module):
    """Give every parameter and running statistic a value that no initialisation has."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
                if tensor.ndim == 1:
                    tensor.add_(0.02 * torch.rand_like(tensor))
    return module


@pytest.fixture(scope="session")
def tiny_model():
    """Maker of small AGEgoPose models, by row of the ablation tables, whose streams all matter to their output."""

    @cache
    def build(row, seed, shared_trunk):
        torch.manual_seed(seed)
        net = shake(HeatmapNet(fpn_channels=(8, 8, 8, 8)))
        # Larger maps than an untrained network's, so that the spatial stream has something to see.
        with torch.no_grad():
            net.output.bias.fill_(0.0)
        kind = {"init": "heatmap_encoder", "heatmap_state": net.state_dict()} if shared_trunk else {"init": "scratch"}
        frames = FrameEncoder("resnet18", dim=MOTION, **kind)
        blocks = MotionEncoder(dim=MOTION, depth=2, local_blocks=1, window=3, scale_init=0.5)
        decoder = PoseDecoder(motion_dim=MOTION, layers=1, output_mean=torch.randn(15, 3), **ABLATIONS[row])
        # An untrained decoder says nearly the same of every frame.
        with torch.no_grad():
            for weights in (p for p in decoder.parameters() if p.ndim > 1):
                weights.mul_(2.5)
        return AGEgoPose(net, frames, blocks, HeatmapEmbedding(input_scale=10.0), decoder, **ABLATIONS[row])

    def make(row="full", seed=0, shared_trunk=True):
        # A copy takes less time than drawing ResNet's weights.
        return copy.deepcopy(build(row, seed, shared_trunk))

    return make
