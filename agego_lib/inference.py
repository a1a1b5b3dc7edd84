"""Poses of a whole sequence, of a stream, or live, from overlapping windows: every frame is encoded once."""

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from torch import nn

from agego_lib.images import to_tensor


def window_starts(n: int, length: int, stride: int) -> list[int]:
    """Starts of the windows of `length` frames that cover 0..n-1, ascending.

    The last window ends with the run. A run shorter than `length` gets one window, to be padded; an empty one none.
    Raises ValueError for a stride that would leave frames out.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride {stride} with windows of {length} frames; expected 1 <= stride <= length")
    if n <= length:
        return [0] if n > 0 else []
    starts = list(range(0, n - length + 1, stride))
    if starts[-1] + length < n:
        starts.append(n - length)
    return starts


def read_frames(frames, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
    """RGB frames `indices` of an array (N, H, W, 3) or of anything with `.images(indices)`."""
    return frames.images(indices) if hasattr(frames, "images") else np.asarray(frames[indices])


def _encode(model, images=None, stored=None):
    """Joint tokens (n, J, 128) and static features (n, 384) of n frames; None for a stream that the model lacks.

    images: uint8 RGB (n, H, W, 3); or stored: their frozen features, a dict of arrays (n, ...).
    """
    device = next(model.parameters()).device
    if stored is None:
        frozen = model.frozen_features(to_tensor(images).to(device))
    else:
        frozen = {name: torch.as_tensor(value, device=device) for name, value in stored.items()}
    maps = {name: frozen[name][None].float() for name in ("heatmaps", "distances") if name in frozen}
    tokens = model.tokens(**maps)[0] if model.use_spatial else None
    static = model.frame_encoder.head(frozen["trunk"][None].float())[0] if model.use_motion else None
    return tokens, static


def _told(stature, device):
    return None if stature is None else torch.tensor([float(stature)], device=device)


def _cat(parts):
    return None if parts[0] is None else torch.cat(parts)


def _padded(window, length):
    """A window of at most `length` frames, each tensor (1, n, ...) or None -> padded with zeros, and its mask."""
    frames = next(w.shape[1] for w in window if w is not None)
    if frames == length:
        return window, None
    device = next(w.device for w in window if w is not None)
    window = [None if w is None else torch.cat([w, w.new_zeros(1, length - frames, *w.shape[2:])], 1) for w in window]
    return window, torch.arange(length, device=device)[None] < frames


class _Windows:
    """Windows over the encoded frames of one run that come one after the other, its length unknown until the end."""

    def __init__(self, model, length, stride, stature):
        window_starts(0, length, stride)  # raises for a stride that leaves frames out
        self.model, self.length, self.stride = model, length, stride
        self.stature = _told(stature, next(model.parameters()).device)
        self.tokens, self.static = [], []
        # What is held are the frames held .. count - 1; `start` is where the next window begins.
        self.held = self.count = self.start = 0
        self.sums = np.zeros((length, 15, 3), dtype=np.float32)
        self.weights = np.zeros((length, 1, 1), dtype=np.float32)

    @property
    def wanted(self):
        """Frames until the next window is complete."""
        return self.start + self.length - self.count

    def push(self, tokens, static):
        """Take at most `wanted` encoded frames -> poses (m, 15, 3) of those frames that no later window holds."""
        self.tokens.append(tokens)
        self.static.append(static)
        self.count += len(static if tokens is None else tokens)
        return self._run(self.start) if not self.wanted else self.sums[:0].copy()

    def finish(self):
        """Poses of all frames that are left: the last window ends with the run."""
        last = max(0, self.count - self.length)
        # Nothing is left to compute where the last window that was run ended here.
        ran = self.start - self.stride
        left = self._run(last) if self.count and (ran < 0 or ran + self.length < self.count) else self.sums[:0]
        rest = self.count - self.held
        return np.concatenate([left, self.sums[:rest] / np.maximum(self.weights[:rest], 1)])

    def _run(self, start):
        stop = min(start + self.length, self.count)
        self.tokens, self.static = ([_cat(store)] for store in (self.tokens, self.static))
        # Frames before this window are in no later one.
        done = start - self.held
        self.tokens, self.static = ([None if s[0] is None else s[0][done:]] for s in (self.tokens, self.static))
        ready = self.sums[:done] / np.maximum(self.weights[:done], 1)
        for held in (self.sums, self.weights):
            held[: self.length - done] = held[done:].copy()
            held[self.length - done :] = 0
        self.held, self.start = start, start + self.stride
        window = [None if s[0] is None else s[0][None, : stop - start] for s in (self.tokens, self.static)]
        (tokens, static), mask = _padded(window, self.length)
        motion = self.model.motion_encoder(static, mask) if self.model.use_motion else None
        pose = self.model.decode(tokens, motion, mask, self.stature)[0, : stop - start].float().cpu().numpy()
        self.sums[: stop - start] += pose
        self.weights[: stop - start] += 1
        return ready


@torch.inference_mode()
def predict_sequence(
    model: nn.Module,
    frames,
    *,
    length: int = 64,
    stride: int = 32,
    chunk: int = 32,
    features: Callable | None = None,
    progress: Callable | None = None,
    stature: float | None = None,
) -> Float32[np.ndarray, "N 15 3"]:
    """3D poses of all frames of one sequence, metres in the camera frame.

    Windows of `length` frames start `stride` apart, the last one ends with the sequence (Sec. 4.2); where windows
    overlap, their poses are averaged. A sequence shorter than `length` is padded and masked. Only the frames of the
    current windows are held, so that memory does not grow with the sequence.

    frames: uint8 RGB (N, H, W, 3), or an object with len() and `.images(indices)`, at the model's input size.
    features: optional callable, frame indices -> dict of the model's frozen features, to read them from a store.
    progress: optional callable, given the number of frames done since the last call.
    stature: of the wearer, m, for a model that asks for it (`decoder.stature`).
    Raises ValueError where stride exceeds length, as frames between windows would get no pose.
    """
    model.eval()
    count, windows = len(frames), _Windows(model, length, stride, stature)
    poses, known = np.empty((count, 15, 3), dtype=np.float32), 0
    while windows.count < count:
        indices = np.arange(windows.count, min(windows.count + min(chunk, windows.wanted), count))
        if features is None:
            encoded = _encode(model, read_frames(frames, indices))
        else:
            encoded = _encode(model, stored=features(indices))
        ready = windows.push(*encoded)
        poses[known : known + len(ready)] = ready
        known += len(ready)
        if progress:
            progress(len(indices))
    poses[known:] = windows.finish()
    return poses


class PoseStream:
    """Poses of frames that come one after the other, the number of them unknown, such as a video's.

    The poses are those that `predict_sequence` gives for each of the `step` interleaved runs of the frames, as
    `evaluation.predict_split` makes them. What is held does not grow: about step * length encoded frames.
    length, stride, step: see WindowSettings. chunk: frames that are encoded together. stature: see `predict_sequence`.
    Raises ValueError where stride exceeds length.
    """

    def __init__(
        self,
        model: nn.Module,
        length: int = 64,
        stride: int = 32,
        step: int = 1,
        chunk: int = 32,
        stature: float | None = None,
    ):
        self.model, self.chunk = model.eval(), chunk
        self._waiting = []
        self._runs = [_Windows(model, length, stride, stature) for _ in range(step)]
        self._ready = [deque() for _ in range(step)]
        self._encoded = self._given = 0

    def push(self, frame: UInt8[np.ndarray, "S S 3"]) -> Float32[np.ndarray, "m 15 3"]:
        """The next frame, RGB -> poses, m >= 0, of the next frames that they are final for.

        Poses come in the order of the frames, up to step * (length + stride) frames after theirs.
        """
        self._waiting.append(frame)
        if len(self._waiting) == self.chunk:
            self._encode_waiting()
        return self._take()

    def finish(self) -> Float32[np.ndarray, "m 15 3"]:
        """The frames have ended -> poses of all those that are left."""
        if self._waiting:
            self._encode_waiting()
        with torch.inference_mode():
            for run, ready in zip(self._runs, self._ready, strict=True):
                ready.extend(run.finish())
        return self._take()

    @torch.inference_mode()
    def _encode_waiting(self):
        tokens, static = _encode(self.model, np.stack(self._waiting))
        for i in range(len(self._waiting)):
            number = self._encoded % len(self._runs)
            parts = (None if part is None else part[i : i + 1] for part in (tokens, static))
            self._ready[number].extend(self._runs[number].push(*parts))
            self._encoded += 1
        self._waiting = []

    def _take(self):
        poses = []
        while ready := self._ready[self._given % len(self._ready)]:
            poses.append(ready.popleft())
            self._given += 1
        return np.array(poses, dtype=np.float32).reshape(-1, 15, 3)


class LivePredictor:
    """Causal prediction for live use: the pose of each frame as it comes, from it and the frames before.

    The window is the last `length` of the frames i, i - step, i - 2 step, ...; until there are so many, it is padded
    and masked as a short sequence is. Each frame is encoded once. stature: see `predict_sequence`.
    """

    def __init__(self, model: nn.Module, length: int = 64, step: int = 1, stature: float | None = None):
        self.model, self.length, self.step = model.eval(), length, step
        self._stature = _told(stature, next(model.parameters()).device)
        self._encoded = deque(maxlen=(length - 1) * step + 1)

    @torch.inference_mode()
    def push(self, frame: UInt8[np.ndarray, "S S 3"]) -> Float32[np.ndarray, "15 3"]:
        """The next frame, RGB, at the model's input size -> its pose, metres."""
        self._encoded.append(_encode(self.model, frame[None]))
        window = [_cat(parts) for parts in zip(*list(self._encoded)[:: -self.step][::-1], strict=True)]
        window = [None if w is None else w[None] for w in window]
        here = next(w.shape[1] for w in window if w is not None) - 1
        (tokens, static), mask = _padded(window, self.length)
        motion = self.model.motion_encoder(static, mask) if self.model.use_motion else None
        if not self.model.decoder.temporal:  # each frame is decoded by itself: this one alone
            tokens, motion = (None if part is None else part[:, here : here + 1] for part in (tokens, motion))
            here, mask = 0, None
        return self.model.decode(tokens, motion, mask, self._stature)[0, here].float().cpu().numpy()
