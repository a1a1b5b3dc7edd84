"""What all baselines have in common: one frame's stored features in, one pose out, own terms in training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Joints = Float[Tensor, "B 15 3"]  # m, camera frame
Terms = dict[str, Float[Tensor, ""]]


class Baseline(nn.Module):
    """A method that sees single frames of a FrameFeatures, as batches of its items.

    composite: whether Sec. 3.4's loss is put on the pose that `training_terms` gives. Methods that give more than one
    pose have `samples(batch) -> (B, K, 15, 3)`, the same K every time that they are asked.
    """

    composite = True

    def forward(self, batch: dict[str, Tensor]) -> Joints:
        """The pose that is reported."""
        raise NotImplementedError

    def training_terms(self, batch: dict[str, Tensor]) -> tuple[Joints, Terms]:
        """(pose, the method's own terms of the loss, weighted) of a batch that has `joints_3d` too."""
        return self(batch), {}


class Context(nn.Module):
    """One vector a frame: the trunk's features pooled to 4x4, where things still have a place, and the maps' peaks."""

    def __init__(self, num_joints: int, channels: int, dim: int = 256):
        super().__init__()
        self.pooled = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.mix = nn.Sequential(nn.Linear(64 * 16 + 2 * num_joints, dim), nn.GELU())

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "B dim"]:
        return self.mix(torch.cat([self.pooled(batch["trunk"]), batch["pixels"].flatten(1)], dim=1))
