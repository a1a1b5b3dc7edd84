"""Poses of a whole sequence from overlapping windows: every frame is encoded once and gets exactly one pose."""

import numpy as np
import torch

from agego_lib.datasets.windows import window_starts
from agego_lib.images import to_tensor


def read_frames(frames, indices):
    """Frames `indices` of an array (N, H, W, 3) or of anything with `.images(indices)` -> uint8 RGB (n, H, W, 3)."""
    return frames.images(indices) if hasattr(frames, "images") else np.asarray(frames[indices])


def _encode(model, frames, indices, features):
    """Joint tokens (n, J, 128) and static features (n, 384) of some frames; None for a stream that the model lacks."""
    device = next(model.parameters()).device
    if features is None:
        frozen = model.frozen_features(to_tensor(read_frames(frames, indices)).to(device))
    else:
        frozen = {name: torch.as_tensor(value, device=device) for name, value in features(indices).items()}
    tokens = model.embedding(frozen["heatmaps"][None].float())[0] if model.use_spatial else None
    static = model.frame_encoder.head(frozen["trunk"][None].float())[0] if model.use_motion else None
    return tokens, static


def _cat(parts):
    return None if parts[0] is None else torch.cat(parts)


@torch.inference_mode()
def predict_sequence(model, frames, *, length=64, stride=32, chunk=32, features=None, progress=None):
    """3D poses of all frames of one sequence -> float32 (N, 15, 3), metres in the camera frame.

    Windows of `length` frames start `stride` apart, the last one ends with the sequence (Sec. 4.2); where windows
    overlap, their poses are averaged. A sequence shorter than `length` is padded and masked. Only the frames of the
    current windows are held, so that memory does not grow with the sequence.

    frames: uint8 RGB (N, H, W, 3), or an object with len() and `.images(indices)`, at the model's input size.
    features: optional callable, frame indices -> dict of the model's frozen features, to read them from a store.
    progress: optional callable, given the number of frames done since the last call.
    Raises ValueError where stride exceeds length, as frames between windows would get no pose.
    """
    model.eval()
    count = len(frames)
    poses = np.zeros((count, 15, 3), dtype=np.float32)
    weight = np.zeros((count, 1, 1), dtype=np.float32)
    tokens, static, held, encoded = [], [], 0, 0  # what is held are the frames held .. encoded - 1
    for start in window_starts(count, length, stride):
        stop = min(start + length, count)
        while encoded < stop:
            indices = np.arange(encoded, min(encoded + chunk, stop))
            for part, store in zip(_encode(model, frames, indices, features), (tokens, static), strict=True):
                store.append(part)
            encoded = int(indices[-1]) + 1
            if progress:
                progress(len(indices))
        tokens, static = ([_cat(store)] for store in (tokens, static))
        # Frames before this window are in no later one.
        tokens, static = ([None if s[0] is None else s[0][start - held :]] for s in (tokens, static))
        held = start
        window = [None if s[0] is None else s[0][None, : stop - start] for s in (tokens, static)]
        mask = None
        if stop - start < length:
            pad = length - (stop - start)
            window = [None if w is None else torch.cat([w, w.new_zeros(1, pad, *w.shape[2:])], dim=1) for w in window]
            mask = torch.arange(length, device=next(model.parameters()).device)[None] < stop - start
        motion = model.motion_encoder(window[1], mask) if model.use_motion else None
        pose = model.decoder(window[0], motion)[0, : stop - start].float().cpu().numpy()
        poses[start:stop] += pose
        weight[start:stop] += 1
    return poses / np.maximum(weight, 1)
