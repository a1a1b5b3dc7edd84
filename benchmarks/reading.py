"""Random windows from the prepared store against bare JPEG decoding of the same bytes, and the feature store's rate."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from agego_lib.datasets import WindowDataset, read_prepared
from agego_lib.datasets.features import open_features, store_features
from agego_lib.training.loading import Watched, make_loader
from benchmarks.common import arguments, interleaved, report, target
from benchmarks.made_up import paper_model, prepare, write_egopw


class Bare(Dataset):
    """The windows' JPEG bytes, held in memory, decoded and thrown away: an item is the number of frames."""

    def __init__(self, windows):
        self.items = []
        for number, start, stop in windows.windows:
            sequence = windows.sequences[number]
            offsets, jpeg = sequence._offsets, np.array(sequence._jpeg)
            self.items.append([jpeg[offsets[i] : offsets[i + 1]] for i in range(start, stop)])

    def __len__(self):
        return len(self.items)

    def __getitem__(self, item):
        for data in self.items[item]:
            cv2.imdecode(data, cv2.IMREAD_COLOR)
        return len(self.items[item])


def reader(data, order, workers):
    """A call that reads all windows of `data` once, in random order."""
    if workers == 0:
        return lambda: [data[i] for i in order]
    watched = Watched(data, workers)
    loader = make_loader(watched, [[item] for item in order], workers)
    return lambda: [None for _ in watched.batches(loader)]


def main():
    options = arguments(__doc__.splitlines()[0])
    size, length, frames, rounds = (64, 8, 32, 2) if options.quick else (256, 64, 512, 5)
    workers = options.threads
    # Workers share the cores as they are: OpenCV's own threads would only be in their way.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_egopw(folder / "raw", 2, frames)
        prepare(folder / "raw", folder / "prepared", size)
        sequences = read_prepared(folder / "prepared", "train")
        # Smaller features suffice: reading them copies memory, and the rate is told in bytes.
        store_features(folder / "features", paper_model(quick=True), sequences, limit_gb=10)
        windows = WindowDataset(sequences, length, length // 2)
        features = WindowDataset(sequences, length, length // 2, source=open_features(folder / "features", sequences))
        order = np.random.default_rng(0).permutation(len(windows)).tolist()
        bare = Bare(windows)
        calls = {
            (kind, n): reader(data, order, n)
            for n in (0, workers)
            for kind, data in (("bare decoding", bare), ("windows", windows), ("stored features", features))
        }
        seconds = interleaved(calls, rounds)
        read = length * len(order)
        jpeg = sum(len(data) for item in bare.items for data in item) / read
        feature = sum(features[0][name][0].numel() * 2 for name in ("heatmaps", "trunk"))
    weigh = {"bare decoding": jpeg, "windows": jpeg, "stored features": feature}
    rows = [
        {"what": kind, "workers": n, "frames a second": read / s, "MB a second": weigh[kind] * read / s / 1e6}
        for (kind, n), s in seconds.items()
    ]
    ratio = {n: seconds["bare decoding", n] / seconds["windows", n] for n in (0, workers)}
    settings = {"size": size, "window": length, "windows": len(order), "bytes a frame": round(jpeg), "rounds": rounds}
    targets = [
        target("share of the bare decoding rate, in one process", ratio[0], 0.8),
        target(f"share of the bare decoding rate, both with {workers} workers", ratio[workers], 0.8),
    ]
    report("reading", options, settings, rows, targets)


if __name__ == "__main__":
    main()
