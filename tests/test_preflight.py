"""What a run takes, against counts made another way; and what the look before the first stage says."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAMERA
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from agego_lib import training
from agego_lib.datasets.features import feature_file, store_features
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.params import LossSettings, SceneEgoSettings
from agego_lib.preflight import budget
from agego_lib.preflight import checks as preflight
from agego_lib.preflight.budget import training_bytes, training_macs
from agego_lib.training import HeatmapObjective, PoseObjective, make_fabric


def small(settings, **window):
    """Settings of which everything is small but the batch."""
    settings = replace(settings, prepare=replace(settings.prepare, size=64))
    return replace(settings, window=replace(settings.window, **window), pose=replace(settings.pose, batch_size=12))


STEP = """
import resource, sys, torch
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.params import LossSettings, SceneEgoSettings
from agego_lib.training import PoseObjective
from benchmarks.common import peak_memory_mb
batch, frames, backbone = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model = AGEgoPose(HeatmapNet(fpn_channels=(8, 8, 8, 8)), FrameEncoder(backbone), MotionEncoder(depth=2, local_blocks=1),
                  HeatmapEmbedding(), PoseDecoder(layers=1)).train()
objective = PoseObjective(model, LossSettings(1.0, 0.1, 0.01, 0.0))
adam = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad])
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
window = {"heatmaps": torch.rand(batch, frames, 15, 16, 16), "trunk": torch.rand(batch, frames, 256, 4, 4),
          "joints_3d": torch.rand(batch, frames, 15, 3), "mask": torch.ones(batch, frames, dtype=torch.bool)}
objective(window)[0].backward()
adam.step()
weights = sum(p.numel() * 4 for p in objective.parameters())
print(round(1e6 * peak_memory_mb()) - before + weights)
"""


@pytest.mark.slow
def test_memory_of_a_step_is_near_what_a_process_takes(settings):
    """The peak of a real step in a process of its own, the weights that it had before counted in."""
    settings = small(settings, length=64, stride=32)
    expected = training_bytes(settings)["pose"]
    command = [sys.executable, "-c", STEP, "12", "64", "resnet18"]
    taken = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Processors differ in the room that their convolutions take beside what is counted.
    assert 0.5 * taken < expected < 1.5 * taken, (expected / 1e6, taken / 1e6)


def test_memory_grows_with_the_batch_alone(settings):
    once, twice = (
        training_bytes(replace(settings, pose=replace(settings.pose, batch_size=n)))["pose"] for n in (400, 800)
    )
    thrice = training_bytes(replace(settings, pose=replace(settings.pose, batch_size=1200)))["pose"]
    assert thrice - twice == pytest.approx(twice - once) and twice - once > 0.3 * twice


@pytest.mark.parametrize("motion", [True, False])
def test_features_are_as_large_as_said(settings, make_sequence, tmp_path, tiny_model, motion):
    sequence = make_sequence(f"size/{motion}", range(40))
    store_features(tmp_path, tiny_model("full" if motion else "no_motion"), [sequence], 1.0)
    settings = replace(settings, decoder=replace(settings.decoder, use_motion=motion))
    said = budget.feature_bytes(settings) * len(sequence)
    assert said < feature_file(tmp_path, sequence).stat().st_size < 1.1 * said + 10_000


def counted(call):
    """Multiply-accumulates of a forward and a backward pass, as torch counts what runs."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call().backward()
    return counter.get_total_flops() / 2


def test_operations_of_training_are_what_torch_counts(settings, one_thread):
    """One epoch of heatmaps and of poses over few frames, against real forward and backward passes."""
    optimiser = replace(settings.pose, epochs=1)
    settings = replace(
        settings,
        prepare=replace(settings.prepare, size=64),
        visual=replace(settings.visual, backbone="resnet18"),
        heatmap=replace(settings.heatmap, every=1, optimiser=replace(settings.heatmap.optimiser, epochs=1)),
        window=replace(settings.window, length=8, stride=8),
        pose=optimiser,
        finetune=optimiser,
        ablation=replace(settings.ablation, rows=(), heatmap_losses=(), seeds=(), baselines=()),
    )
    n = 8
    net = HeatmapNet()
    images = {"image": torch.zeros(n, 3, 64, 64, dtype=torch.uint8), "joints": torch.full((n, 15, 2), 20.0)}
    heatmaps = counted(lambda: HeatmapObjective(net)(images)[0])
    model = AGEgoPose(net, FrameEncoder("resnet18"), MotionEncoder(), HeatmapEmbedding(), PoseDecoder())
    window = {
        "heatmaps": torch.rand(1, n, 15, 16, 16),
        "trunk": torch.rand(1, n, 256, 4, 4),
        "joints_3d": torch.rand(1, n, 15, 3),
        "mask": torch.ones(1, n, dtype=torch.bool),
    }
    poses = counted(lambda: PoseObjective(model, LossSettings(1.0, 0.1, 0.01, 0.0))(window)[0])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.frozen_features(torch.rand(n, 3, 64, 64))
    frozen = counter.get_total_flops() / 2
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.rand(n, 3, 64, 64))
    frozen_maps = counter.get_total_flops() / 2
    said = training_macs(settings, {"train": n, "test": 0})
    assert said == pytest.approx(heatmaps + poses + frozen, rel=0.12)
    ablation = replace(settings.ablation, baselines=("mo2cap2_zoom",))
    second = training_macs(replace(settings, ablation=ablation), {"train": n, "test": 0}) - said
    assert second == pytest.approx(heatmaps + frozen_maps, rel=0.12)

    # Every second frame, first of 32 px, then of 64 or 96.
    def of(side):
        batch = {"image": torch.zeros(n, 3, side, side, dtype=torch.uint8), "joints": torch.full((n, 15, 2), 20.0)}
        return counted(lambda: HeatmapObjective(HeatmapNet())(batch)[0])

    other = replace(settings, heatmap=replace(settings.heatmap, every=2, coarse_size=32, sizes=[64, 96]))
    more = training_macs(other, {"train": n, "test": 0}) - said
    assert more == pytest.approx((of(32) + (of(64) + of(96)) / 2) / 2 - heatmaps, rel=0.12)
    # Mo2Cap2's second detector trains on all frames as they are prepared.
    assert training_macs(replace(other, ablation=ablation), {"train": n, "test": 0}) == pytest.approx(
        said + more + second
    )


@pytest.mark.parametrize("change", [{"coarse_size": 96}, {"sizes": [96, 32]}])
def test_memory_is_of_the_largest_frames(settings, change):
    """Heatmaps may train on frames that are larger than the prepared ones."""
    settings = replace(settings, prepare=replace(settings.prepare, size=64))
    larger = replace(settings, prepare=replace(settings.prepare, size=96))
    other = replace(settings, heatmap=replace(settings.heatmap, **change))
    assert training_bytes(other)["heatmap"] == training_bytes(larger)["heatmap"] > training_bytes(settings)["heatmap"]
    assert training_bytes(other)["pose"] == training_bytes(settings)["pose"]


def test_half_precision_is_a_gpus(settings, monkeypatch):
    """Fabric would turn 16-mixed into bfloat16 on a CPU, without asking."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for accelerator in ("cpu", "auto"):
        engine = replace(settings.engine, precision="16-mixed", accelerator=accelerator)
        assert training.precision_here(engine) == "32-true"
        with pytest.warns(UserWarning, match="no GPU: engine.precision is 16-mixed, 32-true is used"):
            assert make_fabric(engine, 0).strategy.precision.precision == "32-true"
        assert training.precision_here(replace(engine, precision="bf16-mixed")) == "bf16-mixed"
    assert training.precision_here(replace(settings.engine, precision="16-mixed", accelerator="cuda")) == "16-mixed"


FRAMES = {"train": 300_000, "test": 46_000}


def looked(settings, tmp_path, frames=FRAMES, frame_bytes=40_000):
    found = preflight.Findings()
    preflight.check_machine(settings, tmp_path, frames, frame_bytes, found)
    return found


def test_weeks_without_a_gpu_must_be_asked_for(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "on_cpu", lambda engine: True)
    monkeypatch.setattr(preflight, "operations_a_second", lambda: 1e9)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1e15}))
    for accelerator, asked, why in (("auto", False, "no GPU was found"), ("cpu", True, "engine.accelerator is cpu")):
        found = looked(replace(settings, engine=replace(settings.engine, accelerator=accelerator)), tmp_path)
        told = found.notes if asked else found.problems
        assert any(f"{why}; on these cores training takes about" in t and "weeks" in t for t in told)
        assert asked == (not found.problems)
        assert asked or "engine.accelerator=cpu" in found.problems[0]


@pytest.mark.slow
def test_a_disk_too_small_is_said_with_its_parts(settings, tmp_path, monkeypatch):
    free = 100e9
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    monkeypatch.setattr(preflight, "operations_a_second", lambda: 1e15)
    paper = replace(
        settings,
        prepare=replace(settings.prepare, size=256),
        visual=replace(settings.visual, backbone="resnet50", init="scratch"),
        features=replace(settings.features, limit_gb=250.0),
    )
    (problem,) = (p for p in looked(paper, tmp_path).problems if "disk" in p)
    # 346,000 frames: 15 maps of 64x64 and 1024 of 16x16 in two bytes each, once; 40 kB a frame, twice.
    features, prepared = 346_000 * 2 * (15 * 64**2 + 1024 * 16**2) / 1e9, 2 * 346_000 * 40_000 / 1e9
    for part in (f"features, once {features:.1f}", f"prepared frames, twice {prepared:.1f}", "100.0 are free"):
        assert part in problem
    # Features above the limit are not stored.
    found = looked(replace(paper, features=replace(paper.features, limit_gb=200.0)), tmp_path)
    assert not [p for p in found.problems if "disk" in p]


def test_loader_workers_without_shared_memory(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 64e6}))
    found = looked(replace(small(settings, length=64), engine=replace(settings.engine, workers=8)), tmp_path, None)
    assert any("engine.workers: 8 loader workers" in p and "--shm-size" in p for p in found.problems)


@pytest.mark.parametrize(("accelerator", "batches"), [("cpu", 5), ("gpu", 2 + 1)])
def test_shared_memory_must_hold_the_batches_that_a_worker_keeps(settings, tmp_path, monkeypatch, accelerator, batches):
    """On a CPU as many as docs/training.md says; towards a GPU torch's own two, and one that is copied."""
    chosen = replace(small(settings, length=64), engine=replace(settings.engine, workers=1, accelerator=accelerator))
    needed = batches * max(preflight.batch_bytes(chosen).values())
    for free, fits in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path, free=free: type("Usage", (), {"free": free}))
        assert fits != any("loader workers" in p for p in looked(chosen, tmp_path, None).problems)


def test_a_repository_needs_a_commit(tmp_path, monkeypatch):
    def told():
        found = preflight.Findings()
        preflight.check_repository(tmp_path, found)
        return found.problems

    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    assert not told()
    subprocess.run([*git, "init", "-q"], check=True)
    assert [str(tmp_path) in problem and "git commit" in problem for problem in told()] == [True]
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert not told()
    head = (tmp_path / ".git/HEAD").read_text()
    (tmp_path / ".git/HEAD").unlink()  # git then says that this is no repository
    assert not told()
    (tmp_path / ".git/HEAD").write_text(head)
    assert told()
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    assert not told()


def test_a_hundred_faults_are_one_readable_line():
    found = preflight.Findings()
    found.several(
        "a list names sequences that are not whole", [f"sequence {i} has no pseudo_gt.pkl" for i in range(100)]
    )
    (problem,) = found.problems
    assert "sequence 9 " in problem and "and 90 more" in problem and len(problem) < 1000


@pytest.fixture
def data(tmp_path):
    """Two sequences of SceneEgo, as published, and their settings."""
    root, numbers = tmp_path / "SceneEgo", np.random.default_rng(0)
    for name in ("train/diogo1", "test/diogo1"):
        (root / name / "imgs").mkdir(parents=True)
        for number in range(3):
            (root / name / f"imgs/img_{number:06d}.jpg").write_bytes(numbers.bytes(100 + number))
        (root / name / "local_pose_gt.pkl").write_bytes(numbers.bytes(50))
        (root / name / "syn.json").write_text('{"ego": 1, "ext": 1}')
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text(f"{split}/diogo1\n")
    (root / "camera.json").write_text(CAMERA.to_json())
    lists = (str(root / "train.txt"), str(root / "test.txt"))
    return root, SceneEgoSettings(str(root), *lists, str(root / "camera.json"), True, "sceneego")


def fingerprint(place):
    found = preflight.Findings()
    record, _, _ = preflight.check_data_set("sceneego", place, Path(place.root), found)
    assert not found.problems
    return record


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/diogo1/imgs/img_000001.jpg").unlink(),
        lambda root: (root / "train/diogo1/imgs/img_000001.jpg").rename(root / "train/diogo1/imgs/img_000007.jpg"),
        lambda root: (root / "train/diogo1/imgs/img_000001.jpg").write_bytes(b"another size"),
        lambda root: (root / "test/diogo1/local_pose_gt.pkl").write_bytes(b"other annotations"),
        lambda root: (root / "test/diogo1/syn.json").write_text('{"ego": 2, "ext": 1}'),
        lambda root: (root / "test/diogo1/actions.csv").write_text("frame,action\n"),
        lambda root: (root / "test/diogo1/depth.npz").write_bytes(b"depth"),
        lambda root: (root / "camera.json").write_text(replace(CAMERA, centre=(80.5, 64.0)).to_json()),
        lambda root: (root / "train.txt").write_text("train/diogo1\ntest/diogo1\n"),
    ],
    ids=[
        "frame gone",
        "frame renamed",
        "frame changed",
        "annotations",
        "clock",
        "labels",
        "depth",
        "calibration",
        "list",
    ],
)
def test_each_change_of_the_data_changes_its_fingerprint(data, change):
    root, place = data
    before = fingerprint(place)
    assert before == fingerprint(place) and before["train_frames"] == before["test_frames"] == 3
    change(root)
    assert fingerprint(place)["fingerprint"] != before["fingerprint"]


def test_every_fault_of_a_data_set_is_found_at_once(data):
    root, place = data
    (root / "train/diogo1/local_pose_gt.pkl").unlink()
    shutil.rmtree(root / "test/diogo1/imgs")
    (root / "camera.json").write_text("{}")
    found = preflight.Findings()
    preflight.check_data_set("sceneego", place, root, found)
    told = " ".join(found.problems)
    for part in ("camera.json", "local_pose_gt.pkl or annotation.pkl", "imgs: No such file", "test_list", "train_list"):
        assert part in told, part
    assert len(found.problems) == 3
    shutil.rmtree(root)
    found = preflight.Findings()
    assert preflight.check_data_set("sceneego", place, root, found)[0] is None
    assert "dataset.sceneego.root: no folder" in found.problems[0]


def test_a_damaged_frame_ends_no_look(settings, data):
    """Its size on the disk is taken from a frame's pixels; one that cannot be read is preparation's to tell."""
    root, place = data
    settings = replace(settings, dataset=replace(settings.dataset, source="files", egopw=place, sceneego=place))
    for path in root.rglob("pseudo_gt.pkl"):
        path.unlink()
    for name in ("train/diogo1", "test/diogo1"):
        (root / name / "pseudo_gt.pkl").write_bytes(b"annotations")
    settings = replace(settings, motion=replace(settings.motion, checkpoint=None))
    found = preflight.check(settings, root)
    assert any("GB of disk" in note for note in found.notes)
    assert found.problems and all("actions.csv" in problem for problem in found.problems)


@pytest.mark.parametrize("checkpoint", [None, "nowhere.pth.tar"])
def test_without_a_motion_stream_nothing_of_it_is_asked_for(settings, data, checkpoint):
    """As the released model, to train on with published data: neither its checkpoint nor action labels are read."""
    root, place = data
    settings = replace(settings, dataset=replace(settings.dataset, source="files", egopw=place, sceneego=place))
    settings = replace(settings, motion=replace(settings.motion, checkpoint=checkpoint))
    without = replace(settings, decoder=replace(settings.decoder, use_motion=False))

    def told(settings):
        return [problem for problem in preflight.check(settings, root).problems if "motion.checkpoint" in problem]

    (problem,) = told(settings)
    assert "decoder.use_motion=false" in problem and not told(without)


def test_baselines_that_read_depth_want_it_before_anything_runs(data):
    root, place = data
    found = preflight.Findings()
    _, looked, _ = preflight.check_data_set("sceneego", place, root, found)
    preflight.check_beside(("nearest", "sceneego", "sceneego_true_depth"), {"sceneego": looked}, found)
    estimated, true = found.problems
    assert "ablation.baselines: sceneego reads the depth" in estimated and "train/diogo1" in estimated
    assert "test/diogo1" not in estimated and "test/diogo1" in true and "put depth.npz beside" in true
    (root / "train/diogo1/depth.npz").write_bytes(b"depth")
    found = preflight.Findings()
    _, looked, _ = preflight.check_data_set("sceneego", place, root, found)
    preflight.check_beside(("nearest", "sceneego"), {"sceneego": looked}, found)
    assert not found.problems
    preflight.check_beside(("sceneego_true_depth",), {"sceneego": looked}, found)
    assert len(found.problems) == 1 and "train/diogo1" not in found.problems[0]
