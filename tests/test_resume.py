"""Runs that are killed, refused, cut short by a full disk or by bad batches: nothing is lost, and nothing is hidden."""

import gc
import json
import math
import multiprocessing
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CHILDREN
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from agego_lib.datasets import FrameDataset, WindowDataset
from agego_lib.models import ActionHead, MotionEncoder
from agego_lib.params import EngineSettings, LossSettings, OptimiserSettings, ResumeSettings
from agego_lib.training import (
    ActionObjective,
    HeatmapObjective,
    PoseObjective,
    TrainingError,
    checkpoints,
    fit,
    learning_rate_factor,
    loop,
)
from agego_lib.training.checkpoints import Checkpoint, Checkpoints
from agego_lib.training.log import TrainingLog

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINE = EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=1)
OPTIMISER = OptimiserSettings(3, 4, 1e-2, 1e-3, warmup_steps=2, weight_decay=0.01, grad_clip=1.0)
OFTEN = ResumeSettings(every_minutes=0, max_faults=0)


class Items(Dataset):
    """Items drawn from a seed; `slow` seconds pass while one is read, so that a kill finds the run in every state."""

    def __init__(self, make, items=18, slow=0.0):
        self.items, self.slow = [make(torch.Generator().manual_seed(i)) for i in range(items)], slow

    def __len__(self):
        return len(self.items)

    def __getitem__(self, item):
        time.sleep(self.slow)
        return self.items[item]


def heatmap_parts():
    def make(g):
        image = torch.randint(0, 256, (3, 32, 32), generator=g, dtype=torch.uint8)
        return {"image": image, "joints": 32 * torch.rand(15, 2, generator=g)}

    net = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 15, 1))
    return HeatmapObjective(net, "bce", 1.0, colour_jitter=0.4), Items(make)


def motion_parts():
    def make(g):
        mask = torch.arange(6) < torch.randint(1, 7, (), generator=g)
        action = torch.randint(-1, 3, (6,), generator=g)
        return {"pooled": torch.randn(6, 8, generator=g), "mask": mask, "action": action}

    blocks = MotionEncoder(16, depth=2, local_blocks=1, drop_path=0.3, scale_init=0.5)
    return ActionObjective(nn.Linear(8, 16), nn.BatchNorm1d(16), blocks, ActionHead(16, 3)), Items(make)


class TinyPose(nn.Module):
    """Stands for AGEgoPose: features in, joints out, with dropout and BatchNorm between."""

    stature = "none"

    def __init__(self):
        super().__init__()
        self.fixed = nn.Linear(8, 16).requires_grad_(False)
        self.norm, self.drop, self.head = nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 45)

    def streams(self, trunk, mask):
        return None, trunk

    def decode(self, tokens, trunk, mask, stature):
        hidden = torch.zeros(*mask.shape, 16)
        hidden[mask] = self.drop(self.norm(self.fixed(trunk[mask])))
        return self.head(hidden).unflatten(-1, (15, 3))


def pose_parts():
    def make(g):
        mask = torch.arange(6) < torch.randint(1, 7, (), generator=g)
        return {"trunk": torch.randn(6, 8, generator=g), "mask": mask, "joints_3d": torch.randn(6, 15, 3, generator=g)}

    return PoseObjective(TinyPose(), LossSettings(1.0, 0.1, 0.01, 0.0)), Items(make)


PARTS = {"heatmap": heatmap_parts, "motion": motion_parts, "pose": pose_parts}


def train(name, folder, resume=OFTEN, optimiser=OPTIMISER, slow=0.0, seed=0):
    """What a stage does: -> the objective's state, the curves as they were logged, and dvclive's files."""
    torch.manual_seed(0)
    objective, data = PARTS[name]()
    data.slow = slow
    log = TrainingLog(folder / "curves")
    fit(objective, data, optimiser, ENGINE, seed, name, log, Checkpoints(folder / "checkpoints", resume).of("main"))
    files = {path.name: path.read_text() for path in (folder / "curves/plots/metrics").iterdir()}
    return objective.state_dict(), log.series, files, torch.get_rng_state()


def in_child(function, *arguments, wait=True, **named):
    """Run it in a process of its own -> that process."""
    process = CHILDREN.Process(target=_quiet, args=(function, arguments, named))
    process.start()
    if wait:
        process.join()
    return process


def _quiet(function, arguments, named):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    function(*arguments, **named)


def same(a, b):
    assert a[0].keys() == b[0].keys() and all(torch.equal(v, b[0][k]) for k, v in a[0].items())
    assert a[1:3] == b[1:3] and torch.equal(a[3], b[3])


@pytest.mark.parametrize("name", PARTS)
def test_killed_at_random_moments(tmp_path, name):
    """Until it comes through; then weights, curves and random states are those of a run nobody touched."""
    alone = train(name, tmp_path / "alone")
    folder, draw, kills = tmp_path / "killed", np.random.default_rng(len(name)), 0
    path = folder / "checkpoints/main.pt"
    while kills < 3:
        process = in_child(train, name, folder, slow=0.01, wait=False)
        before = path.stat().st_ino if path.exists() else None
        # Once it has got further than the last one did, and then any time.
        while process.is_alive() and (path.stat().st_ino if path.exists() else None) == before:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert 0 < torch.load(path, weights_only=True)["step"] < 12
    same(train(name, folder), alone)


def train_until_killed(folder, moment):
    """The process ends at the given moment of the sixth checkpoint."""
    done, save, rename = [], torch.save, os.replace

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def half(state, file):
        save(state, file)
        if len(done) == 5:
            file.flush()
            os.truncate(file.name, file.tell() // 2)
            kill()

    def replace_file(*paths):
        if moment == "written, not renamed" and len(done) == 5:
            kill()
        rename(*paths)
        if moment == "just renamed" and len(done) == 5:
            kill()
        done.append(paths)

    checkpoints.os.replace = replace_file
    if moment == "half written":
        checkpoints.torch.save = half
    train("pose", folder)


@pytest.mark.parametrize("moment", ["half written", "written, not renamed", "just renamed"])
def test_killed_while_a_checkpoint_is_written(tmp_path, moment):
    alone, folder = train("pose", tmp_path / "alone"), tmp_path / "killed"
    assert in_child(train_until_killed, folder, moment).exitcode == -signal.SIGKILL
    kept = torch.load(folder / "checkpoints/main.pt", weights_only=True)["step"]
    assert kept == (6 if moment == "just renamed" else 5)
    assert (folder / "checkpoints/main.partial").exists() is (moment != "just renamed")
    same(train("pose", folder), alone)


def test_an_ended_run_is_not_trained_again_until_the_place_is_finished(tmp_path, monkeypatch):
    first = train("motion", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", None)
        same(train("motion", tmp_path), first)
    Checkpoints(tmp_path / "checkpoints", OFTEN).finish()
    assert not (tmp_path / "checkpoints").exists()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", None)
        with pytest.raises(TypeError):
            train("motion", tmp_path)


def test_sigterm_leaves_a_checkpoint_and_a_status(tmp_path):
    alone, folder = train("pose", tmp_path / "alone"), tmp_path / "ended"
    never = replace(OFTEN, every_minutes=1e6)
    process = in_child(train, "pose", folder, never, slow=0.05, wait=False)
    while not any((folder / "curves").rglob("loss.tsv")) and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    # Not the death by a signal that would have left nothing.
    assert process.exitcode == 1
    assert torch.load(folder / "checkpoints/main.pt", weights_only=True)["step"] > 0
    same(train("pose", folder), alone)


def test_two_processes_do_not_train_the_same(tmp_path, monkeypatch):
    """The second waits a little, and then says so; a lock whose holder was killed is free."""
    path = tmp_path / "checkpoints/main.pt"
    process = in_child(train, "pose", tmp_path, slow=0.5, wait=False)
    while not path.exists():
        time.sleep(0.01)
    with (
        pytest.raises(TrainingError, match=r"main\.pt: another process trains the same here"),
        Checkpoint(path, 1, 0).locked(wait=0.2),
    ):
        pass
    os.kill(process.pid, signal.SIGKILL)
    with Checkpoint(path, 1, 0).locked():
        process.join()


def test_checkpoints_come_each_epoch_and_after_a_time(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(Checkpoint, "write", lambda self, state, identity: steps.append(state["step"]))
    train("pose", tmp_path, replace(OFTEN, every_minutes=1e6))
    assert steps == [4, 8, 12]
    steps.clear()
    train("pose", tmp_path, OFTEN)
    assert steps == list(range(1, 13))


# --- What is refused ------------------------------------------------------------------------------------------------


def stopped(folder, name="heatmap"):
    """A run that ended by an error after its fifth step."""
    train(name, folder, optimiser=replace(OPTIMISER, epochs=3))
    path = folder / "checkpoints/main.pt"
    assert path.exists()
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimiser": replace(OPTIMISER, lr=0.02)}, r"optimiser\.lr: it has 0\.01, this run 0\.02"),
        ({"optimiser": replace(OPTIMISER, batch_size=6)}, r"optimiser\.batch_size: it has 4, this run 6"),
        ({"seed": 1}, "seed: it has 0, this run 1"),
    ],
)
def test_other_settings_are_named(tmp_path, change, named):
    path = stopped(tmp_path)
    with pytest.raises(TrainingError, match=rf"main\.pt: a checkpoint of another run \({named}\); delete it"):
        train("heatmap", tmp_path, **change)
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda o, d: setattr(o, "sigma", 2.0), r"objective's sigma: it has 1\.0, this run 2\.0"),
        (lambda o, d: setattr(o.net[1], "momentum", 0.2), r"objective's net\.1\.momentum: it has 0\.1, this run 0\.2"),
        (lambda o, d: d.items.pop(), "data set's length: it has 18, this run 17"),
        (lambda o, d: d.items[0]["image"].add_(1), "data set's first, middle and last item"),
        (lambda o, d: o.net[3].bias.data.add_(1), "starting weights"),
        (lambda o, d: o.net.append(nn.Conv2d(15, 15, 1)), r"shape of net\.4\.weight: it has none, this run \(15, 15,"),
    ],
)
def test_another_objective_or_data_set_is_named(tmp_path, monkeypatch, change, named):
    stopped(tmp_path)

    def parts():
        objective, data = heatmap_parts()
        change(objective, data)
        return objective, data

    monkeypatch.setitem(PARTS, "heatmap", parts)
    with pytest.raises(TrainingError, match=named):
        train("heatmap", tmp_path)


def test_other_precision_processes_and_code_are_named(tmp_path, monkeypatch):
    path = stopped(tmp_path)
    found = torch.load(path, weights_only=True)["identity"]
    assert found["engine.precision"] == "'32-true'" and found["number of processes"] == "1"
    assert {"code of agego_lib/training/loop.py", "code of agego_lib/losses.py"} <= found.keys()
    checkpoint = Checkpoint(path, 1, 0)
    for name in ("engine.precision", "number of processes", "code of agego_lib/training/loop.py"):
        with pytest.raises(TrainingError, match=name):
            checkpoint.read({**found, name: "other"})
    assert checkpoint.read(found)["step"] == 12


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "text", "another", "code"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = stopped(tmp_path)
    content = path.read_bytes()
    if damage == "another":
        torch.save({"step": 3}, path)
    elif damage == "code":
        torch.save({"format": 1, "identity": {}, "step": Path("x")}, path)
    else:
        place = content.index(b"data/0") + 200
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        path.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "byte": flipped, "text": b"x" * 99}[damage]
        )
    with pytest.raises(TrainingError, match=r"main\.pt: not a whole checkpoint of this version .*; delete it"):
        train("heatmap", tmp_path)


def write_with_little_room(checkpoint, state, identity):
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    with pytest.raises(TrainingError, match=r"main\.pt: the checkpoint cannot be written .*one before is intact"):
        checkpoint.write(state, identity)


@pytest.mark.parametrize("how", ["error", "limit"])
def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch, how):
    path = tmp_path / "main.pt"
    checkpoint, identity = Checkpoint(path, 1, 0), {"run": "x"}
    checkpoint.write({"step": 1}, identity)
    big = {"step": 2, "model": torch.zeros(300_000)}
    if how == "limit":
        assert in_child(write_with_little_room, checkpoint, big, identity).exitcode == 0
    else:

        def half(state, file):
            file.write(b"PK half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints.torch, "save", half)
        with pytest.raises(TrainingError, match=r"No space left on device\), the one before is intact; make room"):
            checkpoint.write(big, identity)
    assert [p.name for p in tmp_path.iterdir()] == ["main.pt"] and checkpoint.read(identity)["step"] == 1


def test_no_stages_output_holds_the_checkpoints(project):
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for kind in ("outs", "plots", "metrics"):
            for entry in stage.get(kind, []):
                path = Path(entry if isinstance(entry, str) else next(iter(entry)))
                assert not Path("artifacts/checkpoints").is_relative_to(path)
                assert not path.is_relative_to("artifacts/checkpoints")
        # What keeps a run safe makes no stage stale.
        assert not any(str(p).startswith("resume") for p in stage.get("params", []))


# --- Steps that are skipped -----------------------------------------------------------------------------------------


class Fragile(nn.Module):
    """loss = mean of x * w, with a BatchNorm that sees x; x of infinity, or a NaN gradient where x is above 1e3."""

    def __init__(self):
        super().__init__()
        self.w, self.norm, self.states = nn.Parameter(torch.ones(())), nn.BatchNorm1d(1), []

    def forward(self, batch):
        self.states.append({k: v.clone() for k, v in self.state_dict().items()})
        x = batch[0][:, None]
        self.norm(x)
        loss = (x * self.w).mean()
        if (x.abs() > 1e3).any():
            # The square root of 0 is 0, with a gradient of infinity.
            loss = loss + torch.sqrt((self.w - self.w.detach()).abs())
        return loss, {"loss": loss.detach()}


def faulty(values, **settings):
    return {"dataset": TensorDataset(torch.tensor(values)), "engine": ENGINE, "label": "pose run", **settings}


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize(("value", "problem"), [(math.inf, "loss"), (math.nan, "loss"), (1e4, "gradient")])
def test_a_bad_step_is_skipped_and_the_schedule_goes_on(tmp_path, capsys, value, problem, clip):
    settings = OptimiserSettings(1, 2, 1e-2, 1e-3, 0, 0.0, clip)
    checkpoint = Checkpoint(tmp_path / "main.pt", 1e6, max_faults=1)
    values = [*torch.linspace(0.5, 1, 19).tolist(), value]
    objective, log = Fragile(), []
    data = faulty(values)
    fit(objective, optimiser=settings, log=lambda step, v: log.append((step, v["loss"])), checkpoint=checkpoint, **data)
    # The fault itself: what the model was before it and after it is the same, in every number.
    states = [*objective.states, objective.state_dict()]
    still = [i for i in range(10) if all(torch.equal(v, states[i + 1][k]) for k, v in states[i].items())]
    assert len(still) == 1
    assert "pose run: 1 of 10 steps skipped, as their loss or gradient was not finite" in capsys.readouterr().out
    assert len(log) == 9 and np.isfinite([loss for _, loss in log]).all()
    # Adam moves w by the rate itself where gradients hardly change: the other nine steps have the schedule's.
    rates = [1e-2 * learning_rate_factor(s, 10, 0, 0.1) for s in range(10) if s != still[0]]
    assert 1 - objective.w.item() == pytest.approx(sum(rates), rel=0.05)


def test_too_many_bad_steps_end_the_run_and_name_the_batches(tmp_path, make_sequence):
    sequence = make_sequence("faults/one", range(6))
    sequence.joints_3d[3:] = np.nan
    data = WindowDataset([sequence], 2, 1, 10)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            loss = (batch["joints_3d"] * self.w).mean()
            return loss, {"loss": loss.detach()}

    checkpoint = Checkpoint(tmp_path / "egopw.pt", 1e6, max_faults=1)
    one = replace(OPTIMISER, batch_size=1, epochs=1)
    with pytest.raises(TrainingError) as caught:
        fit(Loss(), data, one, ENGINE, label="pose egopw", checkpoint=checkpoint)
    path = tmp_path / "egopw.faults.json"
    message = str(caught.value)
    assert message.startswith("pose egopw: loss nan at step ") and f"all are named in {path}" in message
    assert "sequence egopw/train/faults__one, frames [" in message
    faults = json.loads(path.read_text())
    assert len(faults) == 2
    for fault in faults:
        assert fault["problem"] == "loss nan" and fault["items"][0]["sequence"] == "egopw/train/faults__one"
        assert max(fault["items"][0]["frames"]) >= 3


@pytest.mark.parametrize(("scale", "bad"), [(2.0**24, False), (0.5, True)])
def test_the_scalers_own_skips_are_no_faults(monkeypatch, tmp_path, scale, bad):
    """A scale too high makes gradients overflow until it has fallen; below 1 the gradient itself is not finite."""
    made = []

    def make_fabric(engine, seed):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        made.append(scaler)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
        fabric.launch()
        return fabric

    monkeypatch.setattr(loop, "make_fabric", make_fabric)
    values = [1e4 if bad else 8.0] * 2 + [8.0] * 58
    settings = OptimiserSettings(1, 2, 1e-2, 1e-2, 0, 0.0, 1.0)
    checkpoint = Checkpoint(tmp_path / "main.pt", 1e6, max_faults=2)
    objective = fit(Fragile(), optimiser=settings, checkpoint=checkpoint, **faulty(values))
    faults = torch.load(checkpoint.path, weights_only=True)["faults"]
    # 8 times 2^24 is beyond float16, in which autocast gives the loss: some ten steps until it has fallen enough.
    assert bool(faults) is bad and len(faults) <= 2
    assert made[0].get_scale() < scale / (1 if bad else 2**5) and 0 < 1 - objective.w.item() < 0.31


# --- Loader workers -------------------------------------------------------------------------------------------------


class Deadly(FrameDataset):
    """Reading one of its frames raises, or kills the process that reads it."""

    how = "raise"

    def __getitem__(self, item):
        if item == 5 and self.how == "raise":
            raise ValueError("no such frame")
        if item == 5 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(item)


@pytest.mark.parametrize(("how", "workers"), [("raise", 0), ("raise", 2), ("kill", 2)])
def test_a_worker_that_fails_names_what_it_read(make_sequence, how, workers):
    data = Deadly([make_sequence(f"workers/{how}{workers}", range(12))])
    data.how = how
    objective, _ = heatmap_parts()
    with pytest.raises(TrainingError) as caught:
        fit(objective, data, replace(OPTIMISER, batch_size=2), replace(ENGINE, workers=workers))
    said = str(caught.value)
    # The error's traceback holds the loader, and that its workers: none may outlive this test.
    del caught
    gc.collect()
    assert not multiprocessing.active_children()
    place = f"sequence egopw/train/workers__{how}{workers}, frames [5]"
    message = {"raise": f"reading {place}: ValueError: no such frame", "kill": f"died while reading {place}"}[how]
    assert message in said
