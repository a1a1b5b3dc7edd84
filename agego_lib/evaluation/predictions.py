"""Poses of whole test splits (Sec. 4.2), and the files in which they are kept."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from torch import nn

from agego_lib.datasets.prepared import PreparedSequence
from agego_lib.datasets.windows import segments
from agego_lib.files import replacing
from agego_lib.inference import predict_sequence
from agego_lib.params import WindowSettings
from agego_lib.progress import bar
from agego_lib.skeleton import JOINT_NAMES
from agego_lib.stature import stature

Poses = Float32[np.ndarray, "_ 15 3"]  # of the frames of one sequence, m


@dataclass(frozen=True)
class _Frames:
    """Some frames of a prepared sequence, by their indices, as a sequence of its own."""

    sequence: PreparedSequence
    frames: np.ndarray

    def __len__(self):
        return len(self.frames)

    def images(self, indices):
        return self.sequence.images(self.frames[indices])


def predict_split(
    model: nn.Module, sequences, window: WindowSettings, store=None, label: str = "predicting", told: bool = False
) -> list[Poses]:
    """Poses of every frame of prepared sequences, in the order of `sequences`.

    store: the split's FeatureStore, or None to compute from the images. told: whether a model that estimates the
    stature is told it, that of each sequence's labels (median); one whose stature is `given` always is.
    """
    poses, told = [], told or model.stature == "given"
    with bar(sum(len(s) for s in sequences), label, "frame") as progress:
        for index, sequence in enumerate(sequences):
            pose = np.empty((len(sequence), 15, 3), dtype=np.float32)
            wearer = float(np.median(stature(sequence.joints_3d))) if told else None
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
                        stature=wearer,
                    )
            poses.append(pose)
    return poses


def by_need(poses: dict[int, list[Poses]], ages: list[Int64[np.ndarray, "_ 15"]]) -> list[Poses]:
    """Poses whose window each joint chooses by what is seen: the paper's future work, in its simplest form.

    poses: of the same frames, by the frames that the windows of their model span. ages: for how many frames each joint
    has not been seen. A joint is taken from the shortest windows of which half reaches back to where it was seen, and
    from the longest where none does.
    """
    spans = np.array(sorted(poses))
    chosen = []
    for number, age in enumerate(ages):
        reach = np.searchsorted(spans / 2, age).clip(max=len(spans) - 1)
        every = np.stack([poses[span][number] for span in spans])
        chosen.append(np.take_along_axis(every, reach[None, ..., None], axis=0)[0])
    return chosen


def save_poses(path, poses: list[Poses]) -> None:
    """Keep the poses of a split's sequences in one .npz file, written whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, poses=np.concatenate(poses), lengths=[len(p) for p in poses])


def load_poses(path, sequences) -> list[Poses]:
    """What `save_poses` kept, one array a sequence. Raises ValueError where it is damaged or not of these sequences."""
    try:
        with np.load(path, allow_pickle=False) as file:
            poses, lengths = file["poses"], file["lengths"].tolist()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged zip makes NumPy raise nearly anything
        raise ValueError(f"{path}: not readable as poses ({error}); run `dvc repro`") from None
    expected = [len(s) for s in sequences]
    if lengths != expected or poses.shape != (sum(expected), len(JOINT_NAMES), 3):
        raise ValueError(f"{path}: poses of sequences of {lengths} frames, expected {expected}; run `dvc repro`")
    return np.split(poses, np.cumsum(lengths)[:-1])
