"""Pose training at the paper's sizes: frozen parts computed in every step, and read from the store.

Windows of 64 frames of 256 x 256, ResNet-50, random weights; a step is reading, forward, backward, clipping and Adam.
"""

import tempfile
from pathlib import Path

import torch
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from agego_lib.datasets import WindowDataset, read_prepared
from agego_lib.datasets.features import open_features, store_features
from agego_lib.params import LossSettings
from agego_lib.training import PoseObjective
from benchmarks.common import arguments, interleaved, report, target
from benchmarks.made_up import paper_model, prepare, write_egopw

EVERY, STORED = "frozen parts in every step", "stored features"


def stepper(model, adam, data, batch_size):
    """A call that makes one training step on the next windows of `data`."""
    objective = PoseObjective(model, LossSettings(1.0, 0.1, 0.01, 0.0))
    turn = iter(range(10**9))

    def step():
        items = (next(turn) for _ in range(batch_size))
        loss, _ = objective(default_collate([data[i % len(data)] for i in items]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.trainable_parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return step


def trained_parts(model, item):
    """Calls that run each trained part forward and backward on one window of stored features."""
    tokens = torch.randn(1, *item["heatmaps"].shape[:2], 128, requires_grad=True)
    static = torch.randn(1, len(item["mask"]), 384, requires_grad=True)
    maps, trunk = item["heatmaps"][None].float(), item["trunk"][None].float()
    calls = {
        "heatmap embedding": lambda: model.embedding(maps),
        "layer4 and projection": lambda: model.frame_encoder.head(trunk),
        "motion encoder (frozen, gradients pass)": lambda: model.motion_encoder(static),
        "memory, decoder and head": lambda: model.decoder(tokens, static),
    }
    return {name: lambda call=call: call().square().mean().backward() for name, call in calls.items()}


def main():
    options = arguments(__doc__.splitlines()[0])
    size, length, rounds = (64, 8, 2) if options.quick else (256, 64, 3)
    settings = {"size": size, "window": length, "windows a step": 1, "rounds": rounds}
    settings["backbone"] = "resnet18" if options.quick else "resnet50"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_egopw(folder / "raw", 1, 2 * length)
        prepare(folder / "raw", folder / "prepared", size)
        sequences, model = read_prepared(folder / "prepared", "train"), paper_model(options.quick).train()
        store_features(folder / "features", model, sequences, limit_gb=10)
        sources = {EVERY: None, STORED: open_features(folder / "features", sequences)}
        data = {name: WindowDataset(sequences, length, length // 2, source=s) for name, s in sources.items()}
        adam = torch.optim.Adam(model.trainable_parameters(), lr=1e-4, fused=True)
        steps = {name: stepper(model, adam, windows, 1) for name, windows in data.items()}
        counted = {}
        for name, step in steps.items():
            with FlopCounterMode(display=False) as counter:
                step()
            counted[name] = counter.get_total_flops() / 2 / length / 1e9
        seconds = interleaved(steps, rounds)
        parts = interleaved(trained_parts(model, data[STORED][0]), rounds)
    rows = [
        {"loop": n, "frames a second": length / s, "GMAC a frame": counted[n], "GMAC a second": counted[n] * length / s}
        for n, s in seconds.items()
    ]
    total = sum(parts.values())
    shares = [{"trained part": n, "ms a frame": s / length * 1e3, "share": s / total} for n, s in parts.items()]
    targets = [
        target("times the frames a second with stored features", seconds[EVERY] / seconds[STORED], 2.8),
        target("frames a second with stored features", length / seconds[STORED], 11.5),
    ]
    allowed = counted[EVERY] / counted[STORED]
    report("training", options, settings, rows, targets, parts=shares, allowed_ratio=allowed)


if __name__ == "__main__":
    main()
