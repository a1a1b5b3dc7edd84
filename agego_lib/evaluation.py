"""The protocol of Sec. 4.2 and 4.3: predictions for a split, their errors in millimetres, and the mean pose's."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agego_lib import metrics
from agego_lib.datasets.windows import segments
from agego_lib.inference import predict_sequence
from agego_lib.progress import bar


@dataclass(frozen=True)
class PoseErrors:
    """Errors of a split in mm: `mpjpe` and `pa_mpjpe` a frame (F,), `per_joint` and `pa_per_joint` means (15,)."""

    mpjpe: np.ndarray
    pa_mpjpe: np.ndarray
    per_joint: np.ndarray
    pa_per_joint: np.ndarray

    def summary(self):
        """Means over all frames, with the unit in the key."""
        return {
            "mpjpe_mm": round(float(self.mpjpe.mean()), 2),
            "pa_mpjpe_mm": round(float(self.pa_mpjpe.mean()), 2),
        }


def mean_pose(sequences):
    """Mean of all frames' joints over prepared sequences -> (15, 3) m: the error that knowing nothing gives."""
    return np.concatenate([sequence.joints_3d for sequence in sequences]).mean(axis=0, dtype=np.float64)


def pose_errors(predictions, targets):
    """Lists of (N_i, 15, 3) m, one a sequence -> PoseErrors over all frames together (Sec. 4.3)."""
    pred = np.concatenate(predictions).astype(np.float64) * 1000
    target = np.concatenate(targets).astype(np.float64) * 1000
    aligned = metrics.procrustes_align(pred, target)
    joints, pa_joints = (np.linalg.norm(p - target, axis=-1) for p in (pred, aligned))
    return PoseErrors(joints.mean(-1), pa_joints.mean(-1), joints.mean(0), pa_joints.mean(0))


def predict_split(model, sequences, window, store=None, label="predicting"):
    """Poses of every frame of prepared sequences -> list of (N_i, 15, 3) m, in the order of `sequences`.

    window: WindowSettings. store: the split's FeatureStore, or None to compute from the images.
    """
    poses = []
    with bar(sum(len(s) for s in sequences), label, "frame") as progress:
        for index, sequence in enumerate(sequences):
            pose = np.empty((len(sequence), 15, 3), dtype=np.float32)
            for start, stop in segments(sequence.frame_numbers, window.max_gap):
                for first in range(start, min(start + window.step, stop)):
                    frames = np.arange(first, stop, window.step)
                    pose[frames] = predict_sequence(
                        model,
                        _Frames(sequence, frames),
                        length=window.length,
                        stride=window.stride,
                        features=store and (lambda i, frames=frames, n=index: store.read(n, frames[i])),
                        progress=progress.update,
                    )
            poses.append(pose)
    return poses


def write_metrics(path, values):
    """Write a dict of numbers as JSON that DVC compares; keys say their unit. Raises ValueError for NaN."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class _Frames:
    """Some frames of a prepared sequence, by their indices, as a sequence of its own."""

    sequence: object
    frames: np.ndarray

    def __len__(self):
        return len(self.frames)

    def images(self, indices):
        return self.sequence.images(self.frames[indices])
