"""Frames as the networks take them (Sec. 4.2: resized and normalised)."""

import torch

# The statistics that torchvision's ImageNet weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images):
    """uint8 RGB (..., 3, H, W) in 0..255 -> float32, ImageNet-normalised, on the same device."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def to_tensor(frames):
    """uint8 RGB frames (N, H, W, 3), NumPy -> normalised tensor (N, 3, H, W)."""
    return normalise(torch.from_numpy(frames).permute(0, 3, 1, 2))
