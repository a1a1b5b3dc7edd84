"""EgoWholeMocap's single-frame body model: where in the view, and how far away."""

import torch
from torch import nn
from torch.nn import functional as F

from .base import Baseline
from .lens import unproject

DISTANCES = 16  # bins along a ray


def soft_argmax(logits):
    """Logits (B, J, D, h, w) -> expected (u, v), shares of the side (B, J, 2), and distance, of its axis (B, J)."""
    middles = [(torch.arange(n, device=logits.device) + 0.5) / n for n in logits.shape[-3:]]
    distances, v, u = torch.meshgrid(*middles, indexing="ij")
    # One product instead of three sums over the volume: with its gradients half the time on a CPU. Where a run is in
    # half precision, a product would be too, in which the shares of so many voxels are lost.
    with torch.autocast(logits.device.type, enabled=False):
        expected = logits.float().flatten(2).softmax(-1) @ torch.stack([u, v, distances], dim=-1).flatten(0, 2)
    return expected[..., :2], expected[..., 2]


class EgoWholeMocap(Baseline):
    """A volume over (u, v, distance) of each joint, its expected place, the ray through it (Wang et al., CVPR 2024).

    Kept, of its single-frame body model: 3D heatmaps whose axes are the image's and the distance to the camera, a
    soft-argmax over them, and the calibrated fisheye camera's unprojection of what it finds. So a joint is always on
    a ray of the view: one outside it can only be put at its rim. Not kept: FisheyeViT and its undistorted patches (the
    features are the frozen trunk's; the heatmaps' logarithm is where (u, v) starts), hands and face, the diffusion
    model that refines whole windows.
    """

    def __init__(self, num_joints, channels, reach, dim=64):
        """reach: m, the far end of the distance axis."""
        super().__init__()
        self.reach = float(reach)
        self.from_trunk = nn.Sequential(nn.Conv2d(channels, dim, 3, padding=1), nn.ReLU())
        self.from_maps = nn.Sequential(nn.Conv2d(num_joints, dim, 3, padding=1), nn.ReLU())
        self.mixed = nn.Sequential(nn.Conv2d(2 * dim, dim, 1), nn.ReLU())
        self.volume = nn.Conv2d(dim, num_joints * DISTANCES, 1)
        self.distances = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(dim * 16, num_joints * DISTANCES)
        )
        self.sharpness = nn.Parameter(torch.ones(()))

    def logits(self, batch):
        """(B, J, D, h, w)"""
        maps = batch["heatmaps"]
        logarithm = maps.clamp_min(1e-4).log()
        trunk = self.from_trunk(batch["trunk"])
        grown = F.interpolate(trunk, maps.shape[-2:], mode="bilinear", align_corners=False)
        mixed = self.mixed(torch.cat([grown, self.from_maps(logarithm)], dim=1))
        volume = self.volume(mixed).unflatten(1, (-1, DISTANCES))
        # What says how far a joint is, is often seen elsewhere: the trunk as a whole has a say in every pixel.
        everywhere = self.distances(trunk).unflatten(1, (-1, DISTANCES))[..., None, None]
        return volume + everywhere + self.sharpness * logarithm[:, :, None]

    def forward(self, batch):
        places, distance = soft_argmax(self.logits(batch))
        return unproject(places, batch.get("lens")) * (self.reach * distance)[..., None]
