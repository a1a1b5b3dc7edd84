"""Trains small models again and again, kills them at random moments, and asks whether anything was lost.

    python -m benchmarks.soak --minutes 15

Each training runs in a process of its own that is killed with SIGKILL a few times, at random or while it writes a
checkpoint, and started again until it ends. Its weights must then equal, bit for bit, those of one that was never
killed, and its curves must be whole. Prints a table and writes it, with settings and machine, as JSON.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from agego_lib.models import ActionHead, MotionEncoder
from agego_lib.params import EngineSettings, OptimiserSettings, ResumeSettings
from agego_lib.training import ActionObjective, HeatmapObjective, fit
from agego_lib.training.checkpoints import Checkpoints
from benchmarks.common import RESULTS, machine

ENGINE = EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=1)
OPTIMISER = OptimiserSettings(4, 8, 1e-3, 1e-4, warmup_steps=2, weight_decay=0.0, grad_clip=1.0)
# Besides one after every epoch, a checkpoint every tenth of a second or so, to have many that a kill can meet.
RESUME = ResumeSettings(every_minutes=0.002, max_faults=0)
ITEMS, SIDE, FRAMES, WIDTH, ACTIONS = 48, 64, 8, 32, 5


class Items(Dataset):
    """Random items in memory, drawn from a seed."""

    def __init__(self, make):
        self.items = [make(torch.Generator().manual_seed(i)) for i in range(ITEMS)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, item):
        return self.items[item]


def heatmap_parts():
    """A heatmap network, with BatchNorm and random colours."""

    def make(g):
        image = torch.randint(0, 256, (3, SIDE, SIDE), generator=g, dtype=torch.uint8)
        return {"image": image, "joints": SIDE * torch.rand(15, 2, generator=g)}

    # HeatmapNet's parts in little: its 11 million weights would leave few trainings in 15 minutes.
    layers = (nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16))
    net = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(16, 15, 1)).to(memory_format=torch.channels_last)
    return HeatmapObjective(net, "bce", 1.0, colour_jitter=0.4), Items(make)


def motion_parts():
    """The temporal blocks, with random depth and masks."""

    def make(g):
        mask = torch.arange(FRAMES) < torch.randint(2, FRAMES + 1, (), generator=g)
        action = torch.randint(0, ACTIONS, (FRAMES,), generator=g)
        return {"pooled": torch.randn(FRAMES, 16, generator=g), "mask": mask, "action": action}

    blocks = MotionEncoder(WIDTH, depth=2, local_blocks=1, drop_path=0.2, scale_init=0.5)
    project, norm = nn.Linear(16, WIDTH), nn.BatchNorm1d(WIDTH)
    return ActionObjective(project, norm, blocks, ActionHead(WIDTH, ACTIONS)), Items(make)


PARTS = {"heatmap": heatmap_parts, "motion": motion_parts}


def train(name, folder, step=None):
    """One training, as a stage runs it; leaves its weights and curves in `folder`. step: shared, the step it is at."""
    # Its output belongs to nobody.
    sys.stdout = sys.stderr = open(folder / "output.txt", "a")
    torch.manual_seed(0)
    objective, data = PARTS[name]()
    curves = []

    def log(at, values):
        curves.append([at, values])
        if step is not None:
            step.value = at

    fit(objective, data, OPTIMISER, ENGINE, 0, name, log, Checkpoints(folder / "checkpoints", RESUME).of("main"))
    torch.save({"model": objective.state_dict(), "curves": curves}, folder / "result.partial")
    os.replace(folder / "result.partial", folder / "result.pt")


def started(*arguments):
    # Forked, so that importing torch is paid for once; threads there are none.
    process = multiprocessing.get_context("fork").Process(target=train, args=arguments)
    process.start()
    return process


def result(folder):
    return torch.load(folder / "result.pt", weights_only=True)


def same(a, b):
    """(weights equal bit for bit, curves equal)."""
    weights = a["model"].keys() == b["model"].keys()
    return weights and all(torch.equal(v, b["model"][k]) for k, v in a["model"].items()), a["curves"] == b["curves"]


def kill_often(name, folder, draw, seconds, counts, kills):
    """One training, killed `kills` times; seconds: what it takes when nobody does."""
    checkpoint, step = folder / "checkpoints/main.pt", multiprocessing.get_context("fork").Value("i", 0)
    while True:
        counts["resumes"] += checkpoint.exists()
        step.value = 0
        process = started(name, folder, step)
        if kills > 0:
            writing, until = draw.random() < 0.5, time.monotonic() + draw.uniform(0, seconds)
            while process.is_alive() and time.monotonic() < until:
                time.sleep(0.001)
            partial = checkpoint.with_suffix(".partial")
            while writing and process.is_alive() and not partial.exists():
                time.sleep(0.0002)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0:
            return
        if process.exitcode != -signal.SIGKILL:
            counts["failures"] += 1
            print((folder / "output.txt").read_text()[-2000:])
            return
        kills -= 1
        counts["kills"] += 1
        counts["kills while a checkpoint was written"] += partial.exists()
        kept = torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0
        counts["steps done twice"] += max(0, step.value - kept)


def soak(minutes, seed):
    """-> (counts, seconds a training takes alone)."""
    draw, counts = random.Random(seed), Counter()
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        folder, alone, seconds = Path(folder), {}, {}
        for name in PARTS:
            place = folder / f"alone_{name}"
            place.mkdir()
            start = time.monotonic()
            process = started(name, place)
            process.join()
            alone[name], seconds[name] = result(place), time.monotonic() - start
        while time.monotonic() < end:
            name, place = draw.choice(list(PARTS)), folder / "killed"
            place.mkdir()
            kill_often(name, place, draw, seconds[name], counts, draw.randint(1, 5))
            counts["runs"] += 1
            if (place / "result.pt").exists():
                weights, curves = same(result(place), alone[name])
                counts["runs with other weights"] += not weights
                counts["runs with other curves"] += not curves
            shutil.rmtree(place)
    return counts, seconds


ROWS = (
    "runs", "kills", "kills while a checkpoint was written", "resumes", "steps done twice",
    "failures", "runs with other weights", "runs with other curves",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    counts, seconds = soak(arguments.minutes, arguments.seed)
    figures = {name: counts[name] for name in ROWS}
    settings = {
        "minutes": round((time.monotonic() - start) / 60, 2),
        "seed": arguments.seed,
        "steps a run": OPTIMISER.epochs * (ITEMS // OPTIMISER.batch_size),
        "seconds a run, not killed": {name: round(value, 2) for name, value in seconds.items()},
        "longest time between checkpoints, minutes": RESUME.every_minutes,
    }
    for name, value in figures.items():
        print(f"{name:40} {value:8}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"figures": figures, "settings": settings, "machine": machine()}
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    bad = ("failures", "runs with other weights", "runs with other curves")
    return int(any(figures[name] for name in bad) or not figures["kills"])


if __name__ == "__main__":
    sys.exit(main())
