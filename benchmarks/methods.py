"""How many frames a second each method gives poses for, beside the frozen networks that all of them share.

At the sizes of this working copy's settings, with random weights, which change no timing, and made-up features.
"""

import math

import numpy as np
import torch

from agego_lib import params
from agego_lib.baselines import METHODS, Zoom, new_baseline
from agego_lib.datasets.prepared import DEPTH_SIDE
from agego_lib.models import HeatmapNet
from agego_lib.models.backbone import STAGE_CHANNELS
from agego_lib.models.build import untrained_model
from agego_lib.skeleton import NUM_JOINTS
from agego_lib.training.rows import plan
from benchmarks.common import arguments, interleaved, report


class _Sequence:
    def __init__(self, joints_3d, depth):
        self.joints_3d, self.depth = joints_3d, depth

    def __len__(self):
        return len(self.joints_3d)


class MadeUp:
    """Frames as a FrameFeatures gives them, of a "fovea" view of `size` px; channels: of the trunk."""

    def __init__(self, count, size, channels):
        rng, side = np.random.default_rng(0), size // 4
        rays = rng.normal(size=(count, NUM_JOINTS, 3)).astype(np.float32)
        poses = rng.normal([0, 0, 0.8], 0.3, (count, NUM_JOINTS, 3)).astype(np.float32)
        depth = rng.uniform(1, 3, (count, DEPTH_SIDE, DEPTH_SIDE)).astype(np.float32)
        self.sequences = [_Sequence(poses, depth)]
        self.zoom = Zoom(0.25, 0.25, 0.5)
        self.arrays = {
            "heatmaps": rng.uniform(0, 1, (count, NUM_JOINTS, side, side)).astype(np.float32),
            "trunk": rng.uniform(0, 1, (count, channels, size // 16, size // 16)).astype(np.float32),
            "pixels": rng.uniform(0, 1, (count, NUM_JOINTS, 2)).astype(np.float32),
            "rays": rays / np.linalg.norm(rays, axis=-1, keepdims=True),
            "depth": depth,
            "zoomed": rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8),
            "joints_3d": poses,
        }

    def frames(self, number, indices):
        return {name: value[indices] for name, value in self.arrays.items()}


@torch.inference_mode()
def main():
    options = arguments(__doc__.splitlines()[0])
    settings = params.load()
    # The nearest pose is sought among as many as the embedded data have for training.
    many = math.prod(settings.render.egopw_train) * settings.render.frames_per_sequence
    training, rounds = (64, 1) if options.quick else (many, 20)
    length, size = settings.window.length, settings.prepare.size
    frames = MadeUp(training, size, STAGE_CHANNELS[settings.visual.backbone][2])
    batch = {name: torch.from_numpy(value) for name, value in frames.frames(0, np.arange(length)).items()}
    mean = frames.sequences[0].joints_3d.mean(0)
    window = {name: batch[name][None] for name in ("heatmaps", "trunk")}
    calls = {}
    for name, run in (("full", "pose"), ("rays", "rays")):
        model = untrained_model(plan(settings, run).settings).eval()
        calls[name] = lambda model=model: model.forward_features(**window)
    for name in METHODS:
        detector = HeatmapNet(fpn_channels=settings.heatmap.fpn_channels)
        method = new_baseline(name, frames, mean, detector=detector).eval()
        calls[f"baseline_{name}"] = lambda method=method: method(batch)
    seconds = interleaved(calls, rounds, warm_up=2)
    rows = [{"method": name, "frames a second": round(length / seconds[name], 1)} for name in calls]
    sizes = {"view (px)": size, "frames a call": length}
    report(f"methods-{settings.run.profile}", options, sizes, rows, rounds=rounds)


if __name__ == "__main__":
    main()
