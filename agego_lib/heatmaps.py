"""Joint heatmaps: training targets (Eq. 7) and decoding of maps back to pixels.

Pixels are (u, v), u along a row; whole numbers are pixel centres. Maps are indexed [v, u].
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Num
from torch import Tensor

Array = np.ndarray | Tensor  # what comes back is of the kind that was given, and on its device


def _as_tensor(array):
    """(float tensor, whether to hand NumPy back)."""
    if isinstance(array, torch.Tensor):
        tensor, from_numpy = array, False
    else:
        tensor, from_numpy = torch.from_numpy(np.array(array)), True
    # Half precision cannot hold sub-pixel places on a map, and integers cannot hold NaN.
    keep = tensor.dtype in (torch.float32, torch.float64)
    return (tensor if keep else tensor.float()), from_numpy


def gaussian_heatmaps(
    joints_2d: Num[Array, "*N J 2"], size: int = 64, sigma: float = 2.0
) -> Float32[Array, "*N J size size"]:
    """Target heatmaps of Eq. 7, sampled at whole pixels around centres that stay at their sub-pixel places.

    joints_2d: heatmap pixels (u, v). size: side of a map in px. sigma: px. A map's peak is at most 1.
    A joint that is NaN, or whose centre is outside [-0.5, size - 0.5) in u or v, gives an all-zero map.
    Raises ValueError for joints that are not (..., 2), a size below 1 or a sigma that is not above 0.
    """
    joints, from_numpy = _as_tensor(joints_2d)
    if joints.ndim < 1 or joints.shape[-1] != 2:
        raise ValueError(f"joints_2d of shape {tuple(joints.shape)}; expected (..., J, 2)")
    if size < 1 or not sigma > 0:
        raise ValueError(f"size {size} and sigma {sigma}; expected a size of at least 1 px and a sigma above 0 px")
    inside = ((joints >= -0.5) & (joints < size - 0.5)).all(dim=-1)
    centres = torch.where(inside[..., None], joints, 0).float()
    grid = torch.arange(size, dtype=torch.float32, device=joints.device)
    # The Gaussian is a product of one profile along u and one along v: 2 * size exponentials a map, not size ** 2.
    profiles = torch.exp(-((grid - centres[..., None]) ** 2) / (2 * sigma**2)) * inside[..., None, None]
    maps = profiles[..., 1, :, None] * profiles[..., 0, None, :]
    return maps.numpy() if from_numpy else maps


def _vertex(values, peak):
    """Sub-pixel place of the maximum along the last axis of `values` (N, length), near whole pixels `peak` (N,)."""
    length = values.shape[-1]
    # At a border the three samples move inwards: the logarithm of a Gaussian is one parabola everywhere.
    middle = peak.clamp(1, length - 2)
    samples = torch.stack([middle - 1, middle, middle + 1], dim=-1)
    # The floor keeps the logarithm finite where a neighbour is zero.
    low, mid, high = values.gather(-1, samples).clamp_min(1e-12).log().unbind(-1)
    curvature = low - 2 * mid + high
    bends = curvature < 0
    offset = torch.where(bends, (low - high) / (2 * torch.where(bends, curvature, 1)), peak - middle)
    return torch.minimum(torch.maximum(middle + offset, peak - 0.5), peak + 0.5)


def decode_heatmaps(heatmaps: Num[Array, "*N J h w"]) -> tuple[Float[Array, "*N J 2"], Float[Array, "*N J"]]:
    """Joint places, heatmap pixels (u, v), and confidences, the peaks' values, from heatmaps.

    The brightest pixel is refined, along u and along v, to the vertex of the parabola through the logarithms of three
    neighbouring pixels, never by more than half a pixel; without noise this recovers Eq. 7's centre.
    heatmaps: values >= 0 such as targets or sigmoids of logits; h, w >= 3.
    A map without a value above 0 shows no joint: its place is NaN.
    Raises ValueError for maps smaller than 3 px.
    """
    maps, from_numpy = _as_tensor(heatmaps)
    if maps.ndim < 2 or min(maps.shape[-2:]) < 3:
        raise ValueError(f"heatmaps of shape {tuple(maps.shape)}; expected (..., J, h, w) with h and w of at least 3")
    lead, (height, width) = maps.shape[:-2], maps.shape[-2:]
    flat = maps.reshape(-1, height, width)
    confidence, index = flat.flatten(1).max(dim=-1)
    v, u = index // width, index % width
    each = torch.arange(len(flat), device=flat.device)
    joints = torch.stack([_vertex(flat[each, v], u), _vertex(flat[each, :, u], v)], dim=-1)
    joints = torch.where(confidence[:, None] > 0, joints, torch.nan)
    joints, confidence = joints.reshape(*lead, 2), confidence.reshape(lead)
    return (joints.numpy(), confidence.numpy()) if from_numpy else (joints, confidence)
