"""Frames as the networks take them (Sec. 4.2: resized and normalised)."""

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

# The statistics that torchvision's ImageNet weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: UInt8[Tensor, "*N 3 H W"]) -> Float32[Tensor, "*N 3 H W"]:
    """RGB in 0..255 -> ImageNet-normalised, on the same device."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def to_tensor(frames: UInt8[np.ndarray, "N H W 3"]) -> Float32[Tensor, "N 3 H W"]:
    """RGB frames -> their normalised tensor."""
    return normalise(torch.from_numpy(frames).permute(0, 3, 1, 2))
