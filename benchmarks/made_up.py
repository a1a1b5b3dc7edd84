"""Made-up data at the real data's sizes: a data set in EgoPW's layout, prepared sequences, and the paper's model.

Frames show soft blobs with noise, so that JPEG has about as much to do as on real ones; only time matters here.
"""

import pickle
from pathlib import Path

import cv2
import numpy as np
import torch

from agego_lib.camera import FisheyeCamera
from agego_lib.datasets import prepare_dataset
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder

FULL = (1280, 1024)
# A stereographic lens, rho = 2 f tan(phi / 2) with f = 290 px: one polynomial is exact, the other a close fit.
BELOW = np.linspace(-np.pi / 2, 0, 200)
W2C = np.polynomial.polynomial.polyfit(BELOW, 580 * np.tan((BELOW + np.pi / 2) / 2), 10)
CAMERA = FisheyeCamera(FULL, (640.0, 512.0), (-290.0, 0.0, 1 / 1160), tuple(W2C), 512.0)


def pictures(count, width, height, seed=0):
    """`count` different images (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        coarse = rng.uniform(0, 255, (height // 64 + 1, width // 64 + 1, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        yield np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def write_egopw(root, sequences, frames):
    """`sequences` training sequences and a test sequence of `frames` frames each, in EgoPW's published layout."""
    root, rng = Path(root), np.random.default_rng(0)
    jpegs = [cv2.imencode(".jpg", image)[1].tobytes() for image in pictures(8, *FULL)]
    names = [f"actor{i}/walk" for i in range(sequences + 1)]
    for name in names:
        folder = root / name / "imgs"
        folder.mkdir(parents=True)
        entries = []
        for number in range(frames):
            (folder / f"img_{number:06d}.jpg").write_bytes(jpegs[number % len(jpegs)])
            entries.append(
                {
                    "image_name": f"img_{number:06d}.jpg",
                    "optimized_local_pose": rng.normal([0, 0.3, 0.6], 0.2, (15, 3)),
                    "joints_2d": rng.uniform((200, 100), (1000, 900), (15, 2)),
                }
            )
        (folder.parent / "pseudo_gt.pkl").write_bytes(pickle.dumps(entries, 4))
    (root / "train.txt").write_text("\n".join(names[:-1]))
    (root / "test.txt").write_text(names[-1])
    (root / "calibration.json").write_text(CAMERA.to_json())


def prepare(root, out, size, workers=1):
    """`prepare_dataset` on what `write_egopw` wrote -> frames."""
    root = Path(root)
    lists = (root / "train.txt", root / "test.txt")
    report = prepare_dataset("egopw", root, *lists, root / "calibration.json", out, size=size, workers=workers)
    return sum(report[split]["frames"] for split in ("train", "test"))


def paper_model(quick=False):
    """The paper's model with random weights; `quick`: ResNet-18 and narrow maps."""
    torch.manual_seed(0)
    if quick:
        net, frames = HeatmapNet(fpn_channels=(8, 8, 16, 16)), FrameEncoder("resnet18")
    else:
        net, frames = HeatmapNet(), FrameEncoder("resnet50")
    return AGEgoPose(net, frames, MotionEncoder(), HeatmapEmbedding(), PoseDecoder())
