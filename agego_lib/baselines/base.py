"""What all baselines have in common: one frame's stored features in, one pose out, own terms in training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Joints = Float[Tensor, "B 15 3"]  # m, camera frame
Terms = dict[str, Float[Tensor, ""]]


def images(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(heatmaps, trunk) with channels innermost: convolutions of maps this small take a fifth less so on a CPU."""
    heatmaps, trunk = (batch[name].contiguous(memory_format=torch.channels_last) for name in ("heatmaps", "trunk"))
    return heatmaps, trunk


class Baseline(nn.Module):
    """A method that sees single frames of a FrameFeatures, as batches of its items.

    composite: whether Sec. 3.4's loss is put on the pose that `training_terms` gives.
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


class Distribution(Baseline):
    """A method that gives a distribution of poses for each frame, as noise that becomes poses.

    Poses are 45 numbers to it, the 15 joints in the camera's frame, each less its mean and over its deviation.
    """

    num_samples = 8
    mean: Tensor
    deviation: Tensor
    noise: Tensor

    def __init__(self, num_joints, channels, mean_pose, deviation):
        """deviation: (15, 3) m, of the training poses."""
        super().__init__()
        self.size = 3 * num_joints
        self.register_buffer("mean", torch.as_tensor(mean_pose).float().flatten())
        self.register_buffer("deviation", torch.as_tensor(deviation).float().flatten())
        self.context = Context(num_joints, channels)
        # The same noise for every frame, so that a pose does not depend on the frames beside it.
        noise = torch.randn(self.num_samples, self.size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise)

    def standard(self, joints: Joints) -> Float[Tensor, "B 45"]:
        """Joints as the numbers that the method works with."""
        return (joints.flatten(1) - self.mean) / self.deviation

    def pose(self, x: Float[Tensor, "B 45"]) -> Joints:
        """`standard` back again."""
        return (self.mean + self.deviation * x).unflatten(-1, (-1, 3))

    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "B K 15 3"]:
        """`num_samples` poses of each frame, the same every time that they are asked for."""
        raise NotImplementedError
