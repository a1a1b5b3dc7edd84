"""Two processes against one: the same losses and weights from the same global batches, each frame seen once an epoch.

Both are real gloo processes on the CPU. What is drawn at random (dropout, drop path, colours) differs between numbers
of processes, so that no part here draws anything.
"""

import multiprocessing
import os
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from agego_lib import train as entry
from agego_lib import training
from agego_lib.models import ActionHead, MotionEncoder
from agego_lib.params import EngineSettings, LossSettings, OptimiserSettings
from agego_lib.training import ActionObjective, HeatmapObjective, PoseObjective, TrainingError, fit
from agego_lib.training.checkpoints import Checkpoint
from agego_lib.training.distributed import _SyncedBatchNorm, synced_batch_norm

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINE = EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=1)
# A batch of 5 is shared 2 to 3; 23 items leave 3 out.
OPTIMISER = OptimiserSettings(2, 5, 1e-2, 1e-3, warmup_steps=2, weight_decay=0.01, grad_clip=1.0)
FORK = multiprocessing.get_context("fork")


class Items(Dataset):
    def __init__(self, make, seen=None):
        self.items, self.seen = [make(torch.Generator().manual_seed(i)) for i in range(23)], seen

    def __len__(self):
        return len(self.items)

    def __getitem__(self, item):
        if self.seen is not None:
            with open(self.seen, "a") as file:
                file.write(f"{item}\n")
        return self.items[item]


def heatmap_parts():
    def make(g):
        image = torch.randint(0, 256, (3, 32, 32), generator=g, dtype=torch.uint8)
        return {"image": image, "joints": 32 * torch.rand(15, 2, generator=g)}

    net = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 15, 1))
    return HeatmapObjective(net, "bce", 1.0), make


def motion_parts():
    """Masks and missing labels give the shares of a batch very different weights."""

    def make(g):
        length = torch.randint(1, 7, (), generator=g)
        action = torch.randint(-2, 3, (6,), generator=g).clamp(min=-1)
        return {"pooled": torch.randn(6, 8, generator=g), "mask": torch.arange(6) < length, "action": action}

    blocks = MotionEncoder(16, depth=2, local_blocks=1, drop_path=0.0, scale_init=0.5)
    return ActionObjective(nn.Linear(8, 16), nn.BatchNorm1d(16), blocks, ActionHead(16, 3)), make


class TinyPose(nn.Module):
    stature = "none"

    def __init__(self):
        super().__init__()
        self.fixed, self.norm, self.head = nn.Linear(8, 16).requires_grad_(False), nn.BatchNorm1d(16), nn.Linear(16, 45)

    def streams(self, trunk, mask):
        return None, trunk

    def decode(self, tokens, trunk, mask, stature):
        hidden = torch.zeros(*mask.shape, 16)
        hidden[mask] = self.norm(self.fixed(trunk[mask]))
        return self.head(hidden).unflatten(-1, (15, 3))


def pose_parts():
    def make(g):
        mask = torch.arange(6) < torch.randint(1, 7, (), generator=g)
        return {"trunk": torch.randn(6, 8, generator=g), "mask": mask, "joints_3d": torch.randn(6, 15, 3, generator=g)}

    return PoseObjective(TinyPose(), LossSettings(1.0, 0.1, 0.01, 0.0)), make


PARTS = {"heatmap": heatmap_parts, "motion": motion_parts, "pose": pose_parts}


def train(name, engine, optimiser=OPTIMISER, seen=None, checkpoint=None):
    """-> (the objective's state, what was logged)."""
    torch.manual_seed(0)
    objective, make = PARTS[name]()
    log = []
    fit(objective, Items(make, seen), optimiser, engine, 0, name, lambda *entry: log.append(entry), checkpoint)
    return objective.state_dict(), log


def alike(one, two):
    assert one[0].keys() == two[0].keys()
    for key, value in one[0].items():
        # What moves all keys alike changes no attention: its gradient is rounding, which Adam blows up to whole steps.
        if not key.endswith(("key.bias", "key_norm.bias")):
            torch.testing.assert_close(two[0][key], value, rtol=2e-3, atol=2e-4, msg=key)
    assert [step for step, _ in one[1]] == [step for step, _ in two[1]] == list(range(1, 9))
    for (_, a), (_, b) in zip(one[1], two[1], strict=True):
        assert a.keys() == b.keys() and list(b.values()) == pytest.approx(list(a.values()), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_two_processes_as_a_notebook_starts_them(tmp_path, name):
    one, seen = train(name, ENGINE), tmp_path / "seen"
    two = train(name, replace(ENGINE, devices=2, strategy="ddp_notebook"), seen=seen)
    alike(one, two)
    items = [int(line) for line in seen.read_text().split()]
    assert len(items) == 40
    # In both epochs together no item came more than twice, and nearly all did.
    assert max(np.bincount(items)) == 2 and len(set(items)) == 23


def under_torchrun(function, folder):
    """Run function(rank) in two processes with torchrun's environment -> their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def child(rank):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({key: str(value) for key, value in names.items()})
        with open(folder / f"output{rank}.txt", "w") as file:
            os.dup2(file.fileno(), 2)
        function(rank)

    processes = [FORK.Process(target=child, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_two_processes_as_torchrun_starts_them_only_the_first_writes(tmp_path):
    """Also: they go on from a checkpoint after a kill, with the same weights to the last bit."""
    engine = replace(ENGINE, devices=2)

    def run(rank, folder, kill_at=None):
        write = Checkpoint.write

        def write_and_die(self, state, identity):
            assert rank == 0
            write(self, state, identity)
            if state["step"] == kill_at:
                os._exit(9)

        Checkpoint.write = write_and_die
        result = train("motion", engine, checkpoint=Checkpoint(folder / "main.pt", 0, 0))
        torch.save(result, folder / f"result{rank}.pt")

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert under_torchrun(lambda rank: run(rank, tmp_path / "whole"), tmp_path) == [0, 0]
    # The first one dies; the second notices that it is alone.
    killed = under_torchrun(lambda rank: run(rank, tmp_path / "killed", kill_at=5), tmp_path)
    assert killed[0] == 9 and killed[1]
    assert torch.load(tmp_path / "killed/main.pt", weights_only=True)["step"] == 5
    assert under_torchrun(lambda rank: run(rank, tmp_path / "killed"), tmp_path) == [0, 0]
    results = {(n, r): torch.load(tmp_path / n / f"result{r}.pt") for n in ("whole", "killed") for r in (0, 1)}
    alike(train("motion", ENGINE), results["whole", 0])
    for state, log in results.values():
        assert all(torch.equal(value, results["whole", 0][0][key]) for key, value in state.items())
        assert log in ([], results["whole", 0][1])
    assert [bool(results["killed", rank][1]) for rank in (0, 1)] == [True, False]


def test_a_bad_share_skips_the_step_of_all(tmp_path):
    """One process's loss is not finite: both skip, and stay alike."""

    def parts():
        objective, make = pose_parts()

        def bad(g):
            item = make(g)
            return item if g.initial_seed() != 7 else {**item, "joints_3d": item["joints_3d"] * torch.nan}

        return objective, bad

    PARTS["bad"] = parts
    try:
        checkpoint = Checkpoint(tmp_path / "main.pt", 1e6, max_faults=2)
        results = [
            train("bad", engine, checkpoint=replace(checkpoint, path=tmp_path / f"{engine.devices}.pt"))
            for engine in (ENGINE, replace(ENGINE, devices=2, strategy="ddp_notebook"))
        ]
        faults = [torch.load(tmp_path / f"{n}.pt", weights_only=True)["faults"] for n in (1, 2)]
        for key, value in results[0][0].items():
            torch.testing.assert_close(results[1][0][key], value, rtol=2e-3, atol=2e-4)
        assert [f["step"] for f in faults[0]] == [f["step"] for f in faults[1]] and faults[0]
        # Named by the whole batch, whichever process read it.
        assert faults[0][0]["items"] == faults[1][0]["items"] and {"item": 7} in faults[1][0]["items"]
    finally:
        del PARTS["bad"]


def test_a_failure_in_a_started_process_is_told():
    with pytest.raises(TrainingError, match=r"(?s)a training process failed.*2 processes share batches of 1"):
        train("pose", replace(ENGINE, devices=2, strategy="ddp_notebook"), replace(OPTIMISER, batch_size=1))


def test_entry_point_takes_torchruns_numbers_and_refuses_by_name(monkeypatch, capsys, project):
    monkeypatch.chdir(project)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert entry.launched(ENGINE) == ENGINE
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert entry.launched(ENGINE) == replace(ENGINE, devices=4, num_nodes=2)
    assert entry.main(["no_head"]) == 1
    assert "ValueError: run is 'no_head'; expected one of pose, finetune" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(7, 6), (5, 6, 4, 3)])
def test_synced_batch_norm_is_torchs_on_the_whole_batch(tmp_path, shape):
    """Shares of 2 and the rest: outputs, gradients and running statistics, in two steps."""
    torch.manual_seed(0)
    x, weights = torch.randn(2, *shape) * 3 + 1, torch.randn(2, *shape)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    norm = kind(shape[1])
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    state = {k: v.clone() for k, v in norm.state_dict().items()}

    def steps(norm, parts, reduce):
        found = []
        for inputs, factors in parts:
            inputs = inputs.clone().requires_grad_()
            norm.zero_grad()
            out = norm(inputs)
            (out * factors).sum().backward()
            gradients = [p.grad.clone() for p in norm.parameters()]
            found.append((out.detach(), inputs.grad, [reduce(g) for g in gradients]))
        return found, {k: v.clone() for k, v in norm.state_dict().items()}

    expected, after = steps(norm, zip(x, weights, strict=True), lambda g: g)

    def child(rank):
        training.make_fabric(replace(ENGINE, devices=2), 0)
        module = nn.Sequential(kind(shape[1]))
        module[0].load_state_dict(state)

        def reduce(gradient):
            torch.distributed.all_reduce(gradient)
            return gradient

        where = slice(0, 2) if rank == 0 else slice(2, None)
        with synced_batch_norm(module, 2):
            assert type(module[0]) is _SyncedBatchNorm
            result = steps(module[0], zip(x[:, where], weights[:, where], strict=True), reduce)
        assert type(module[0]) is kind
        torch.save(result, tmp_path / f"{rank}.pt")

    assert under_torchrun(child, tmp_path) == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for step, (out, gradient, parameters) in enumerate(expected):
        found = [result[0][step] for result in results]
        torch.testing.assert_close(torch.cat([f[0] for f in found]), out, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.cat([f[1] for f in found]), gradient, rtol=1e-4, atol=1e-5)
        for f in found:
            torch.testing.assert_close(f[2], parameters, rtol=1e-4, atol=1e-4)
    for result in results:
        torch.testing.assert_close(result[1], after, rtol=1e-5, atol=1e-6)
