"""How time, disk and memory of each stage grow with the number of frames, at the paper's sizes.

Each stage runs in a process of its own, on data of three sizes; one pass over the data each.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from agego_lib.datasets import FrameDataset, WindowDataset, read_prepared
from agego_lib.datasets.features import open_features, store_features
from agego_lib.inference import predict_sequence
from agego_lib.models.build import for_inference
from agego_lib.params import EngineSettings, LossSettings, OptimiserSettings
from agego_lib.training import HeatmapObjective, PoseObjective, fit
from benchmarks.common import arguments, in_own_process, report
from benchmarks.made_up import paper_model, prepare, write_egopw


def engine():
    return EngineSettings("cpu", 1, 1, "auto", "32-true", workers=0, threads=torch.get_num_threads())


def preparation(folder, size, length, quick):
    return prepare(folder / "raw", folder / "prepared", size)


def heatmap_epoch(folder, size, length, quick):
    data = FrameDataset(read_prepared(folder / "prepared", "train"))
    net = paper_model(quick).heatmap_net.requires_grad_(True)
    net.frozen = False
    fit(HeatmapObjective(net), data, OptimiserSettings(1, 8, 1e-4, 1e-5, 0, 0.0, 1.0), engine())
    return len(data) // 8 * 8


def features(folder, size, length, quick):
    sequences = read_prepared(folder / "prepared", "train")
    return store_features(folder / "features", paper_model(quick).eval(), sequences, limit_gb=100)["frames"]


def pose_epoch(folder, size, length, quick):
    sequences = read_prepared(folder / "prepared", "train")
    data = WindowDataset(sequences, length, length // 2, source=open_features(folder / "features", sequences))
    objective = PoseObjective(paper_model(quick), LossSettings(1.0, 0.1, 0.01, 0.0))
    fit(objective, data, OptimiserSettings(1, 1, 1e-4, 1e-5, 0, 0.0, 1.0), engine())
    return len(data) * length


def prediction(folder, size, length, quick):
    model = for_inference(paper_model(quick).eval())
    sequences = read_prepared(folder / "prepared", "train")
    for sequence in sequences:
        poses = predict_sequence(model, sequence, length=length, stride=length // 2)
        assert np.isfinite(poses).all()
    return sum(len(s) for s in sequences)


STAGES = {
    "preparation (one process)": (preparation, "prepared"),
    "heatmap training, an epoch": (heatmap_epoch, None),
    "feature store": (features, "features"),
    "pose training, an epoch": (pose_epoch, None),
    "prediction": (prediction, None),
}


def main():
    options = arguments(__doc__.splitlines()[0])
    size, length, counts = (64, 8, (16, 32)) if options.quick else (256, 64, (64, 128, 256))
    rows = []
    for frames in counts:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            write_egopw(folder / "raw", 1, frames)
            for stage, (call, written) in STAGES.items():
                done, seconds, peak, before = in_own_process(call, folder, size, length, options.quick)
                files = (folder / written).rglob("*.h5") if written else ()
                rows.append(
                    {
                        "stage": stage,
                        "frames of the data": frames,
                        "frames computed": done,
                        "seconds": seconds,
                        "MB on disk": sum(f.stat().st_size for f in files) / 1e6,
                        "MB of memory, peak": peak,
                        "MB of memory, before": before,
                    }
                )
    report("growth", options, {"size": size, "window": length, "windows a step": 1, "frames": counts}, rows)


if __name__ == "__main__":
    main()
