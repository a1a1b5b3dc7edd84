"""Prepared sequences as PyTorch data sets: windows of T frames (Sec. 4.1: T = 64, stride 32) and single frames."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Dataset

from agego_lib.inference import window_starts
from agego_lib.stature import AVERAGE, stature


def segments(frame_numbers: Int[np.ndarray, " N"], max_gap: int) -> list[tuple[int, int]]:
    """Runs without a hole: [start, stop), cut where more than `max_gap` ascending numbers in a row are missing."""
    numbers = np.asarray(frame_numbers)
    if not len(numbers):
        return []
    cuts = np.flatnonzero(np.diff(numbers) - 1 > max_gap) + 1
    edges = [0, *cuts.tolist(), len(numbers)]
    return list(pairwise(edges))


def _padded(values, length):
    # Always a copy: whoever changes an item in place must not change the sequence.
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return torch.from_numpy(padded)


class WindowDataset(Dataset):
    """Windows of T = `length` frames over prepared sequences; none spans a hole of more than `max_gap` frame numbers.

    An item: `images` (T, 3, S, S) uint8 RGB, `joints_3d` (T, 15, 3) float32 m, `joints_2d` (T, 15, 2) float32 px in
    the view, `action` (T,) int64, index into `action_names` or -1, `mask` (T,) bool, False for padding,
    `sequence` int, `frames` (T,) int64, indices in the sequence. Padding is zeros, and -1 in `action` and `frames`.
    source: where given, `source.read(sequence index, frame indices)` -> dict of arrays (n, ...), such as cached
    features, which stand in the item in place of `images`.
    step: only every step-th frame is in a window, and stride counts such frames too; each of the `step` interleaved
    runs of a sequence has its windows, so that every frame is in one.
    action_names: given for a data set that must share another's indices, else collected from the sequences, sorted.
    """

    def __init__(
        self,
        sequences,
        length: int = 64,
        stride: int = 32,
        max_gap: int = 10,
        source=None,
        action_names: Sequence[str] | None = None,
        step: int = 1,
    ):
        self.sequences = list(sequences)
        self.length, self.step = length, step
        self.source = source
        if action_names is None:
            action_names = sorted({a for s in self.sequences for a in s.actions or () if a is not None})
        self.action_names = list(action_names)
        index = {name: i for i, name in enumerate(self.action_names)}
        self._joints_2d = [sequence.joints_view() for sequence in self.sequences]
        self._actions = [
            np.array([index.get(a, -1) for a in s.actions or [None] * len(s)], dtype=np.int64) for s in self.sequences
        ]
        # (sequence, start, stop) of each window, whose frames are range(start, stop, step)
        self.windows = [
            (number, first + start * step, min(first + (start + length) * step, stop))
            for number, sequence in enumerate(self.sequences)
            for begin, stop in segments(sequence.frame_numbers, max_gap)
            for first in range(begin, min(begin + step, stop))
            for start in window_starts(len(range(first, stop, step)), length, stride)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def describe(self, item: int) -> dict:
        """Which sequence and frames a window holds, for messages."""
        number, start, stop = self.windows[item]
        sequence = self.sequences[number]
        return {"sequence": sequence.key, "frames": list(range(start, stop, self.step))}

    def __getitem__(self, item: int) -> dict:
        number, start, stop = self.windows[item]
        sequence, frames = self.sequences[number], np.arange(start, stop, self.step)
        inputs = {} if self.source is None else self.source.read(number, frames)
        mask = torch.arange(self.length) < len(frames)
        arrays = {
            **inputs,
            "joints_3d": sequence.joints_3d[frames],
            "joints_2d": self._joints_2d[number][frames],
            "action": self._actions[number][frames],
            "frames": frames,
        }
        result = {key: _padded(value, self.length) for key, value in arrays.items()}
        for key in ("action", "frames"):
            result[key][~mask] = -1
        if self.source is None:
            # Decoded to where they stay: frames are most of what an item weighs.
            images = np.empty((self.length, 3, sequence.view.size, sequence.view.size), np.uint8)
            sequence.planes(frames, out=images[: len(frames)])
            images[len(frames) :] = 0
            result = {"images": torch.from_numpy(images), **result}
        return {**result, "mask": mask, "sequence": number}


class FrameItems(Dataset):
    """Frames of `sequences`, one after another: what data sets of single frames have in common."""

    def __init__(self, sequences):
        self.sequences = list(sequences)
        self._ends = np.cumsum([len(s) for s in self.sequences], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, item: int) -> tuple[int, int]:
        """(sequence index, frame index) of an item."""
        number = bisect_right(self._ends, item)
        return number, item - self._ends[number] + len(self.sequences[number])

    def describe(self, item: int) -> dict:
        """Which sequence and frame an item is, for messages."""
        number, frame = self.place(item)
        sequence = self.sequences[number]
        return {"sequence": sequence.key, "frames": [frame]}


class FrameDataset(FrameItems):
    """Every frame of prepared sequences by itself, for the heatmap network.

    An item: `image` (3, S, S) uint8 RGB, `joints` (15, 2) float32, px in that image (NaN where a joint has no label),
    `distances` (15,) float32, m from the camera, were the wearer of average stature (agego_lib/stature.py), `sequence`
    int, `frame` int, its index in the sequence. size: S, by default that of the prepared view.
    """

    def __init__(self, sequences, size: int | None = None):
        super().__init__(sequences)
        self.size = size
        self._joints = [sequence.joints_view(size) for sequence in self.sequences]
        self._distances = [
            np.linalg.norm(s.joints_3d, axis=-1) * (AVERAGE / stature(s.joints_3d)[:, None]) for s in self.sequences
        ]

    def __getitem__(self, item: int) -> dict:
        if item < 0:
            item += len(self)
        if not 0 <= item < len(self):
            raise IndexError(f"frame {item} of {len(self)}")
        number, frame = self.place(item)
        sequence = self.sequences[number]
        if self.size is None or sequence.view.size == self.size:
            planes = sequence.planes([frame])[0]
        else:
            image = cv2.resize(sequence.images([frame])[0], (self.size, self.size), interpolation=cv2.INTER_AREA)
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {
            "image": torch.from_numpy(planes),
            "joints": torch.from_numpy(self._joints[number][frame].copy()),
            "distances": torch.from_numpy(self._distances[number][frame].copy()),
            "sequence": number,
            "frame": frame,
        }
