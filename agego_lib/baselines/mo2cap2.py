"""Mo2Cap2: 2D joints and their distances."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Baseline, Joints


class Mo2Cap2(Baseline):
    """2D joints and, for each, its distance along the fisheye camera's ray (Xu et al., TVCG 2019).

    Kept: 3D joints are 2D detections pushed out along their rays through the calibrated camera; distances are
    regressed from the detector's features. Not kept: training on distances alone (the loss is Sec. 3.4's on the
    resulting joints, as for every method here), and the second detector, which sees the image's middle enlarged, as
    the lower body is small there. Of stored features no such zoom can be had: a larger crop of the same trunk shows no
    more of the feet than the trunk does. What it is for, the `fovea` view (`prepare.crop`) does for every method: it is
    that zoom, in one picture, with as many pixels for the feet as for the shoulders.
    """

    def __init__(self, num_joints, channels, mean_distance):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.distances = nn.Sequential(nn.Linear(128 * 16 + 2 * num_joints, 256), nn.ReLU(), nn.Linear(256, num_joints))
        self.register_buffer("mean", torch.as_tensor(mean_distance).float())

    def seen(self, batch: dict[str, Tensor]) -> Float[Tensor, "B 256"]:
        """What tells the distances."""
        found = torch.cat([self.features(batch["trunk"]), batch["pixels"].flatten(1)], dim=1)
        return self.distances[:2](found)

    def placed(self, batch: dict[str, Tensor], seen: Float[Tensor, "B 256"]) -> Joints:
        """Joints on their rays, at the distances that `seen` tells."""
        return batch["rays"] * (self.mean + self.distances[2](seen)).unsqueeze(-1)

    def forward(self, batch):
        return self.placed(batch, self.seen(batch))
