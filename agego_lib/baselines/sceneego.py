"""SceneEgo: heatmaps and the depth of the scene, in voxels around the wearer."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .base import Baseline, Context, images
from .egowholemocap import soft_argmax
from .lens import project, unproject

GRID = 16  # voxels a side, about 17 cm each
LOWEST = 1e-4  # of a heatmap, that its logarithm knows
SURFACE = 0.3  # m before and behind a surface within which a voxel tells how near it is
FARTHEST = 4.0  # m, of what the depth network tells apart: no joint is so far away
SAME_RAY = math.cos(math.radians(5))


def usual_depth(depth):
    """Mean of known depth (N, side, side) m, as far as the network tells apart -> (side, side); FARTHEST where none."""
    known = depth > 0
    total = np.where(known, np.minimum(depth.astype(np.float64), FARTHEST), 0).sum(0)
    return np.where(known.any(0), total / known.sum(0).clip(1), FARTHEST)


class DepthNetwork(nn.Module):
    """Metres along the rays to the scene behind the body, from the trunk (B, C, h', w') -> (B, side, side).

    usual: (side, side) m, what it starts from everywhere.
    """

    def __init__(self, channels, usual, dim=64):
        super().__init__()
        self.side = len(usual)
        self.local = nn.Conv2d(channels, dim, 3, padding=1)
        # The same floor is seen all over the view.
        self.everywhere = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * dim, dim))
        self.finer = nn.Conv2d(dim, dim // 2, 3, padding=1)
        self.out = nn.Conv2d(dim // 2, 1, 3, padding=1)
        self.register_buffer("usual", (torch.as_tensor(usual).float() / FARTHEST).logit(eps=0.01))

    def forward(self, trunk):
        def grown(x, side):
            return F.interpolate(F.relu(x), (side, side), mode="bilinear", align_corners=False)

        local = self.local(trunk)
        x = self.finer(grown(local + self.everywhere(local)[..., None, None], self.side // 2))
        return FARTHEST * (self.usual + self.out(grown(x, self.side))[:, 0]).sigmoid()


class Block(nn.Module):
    """x and what a 3x3x3 convolution of a quarter of its channels makes of it."""

    def __init__(self, dim):
        super().__init__()
        self.narrow, self.near = nn.Conv3d(dim, dim // 4, 1), nn.Conv3d(dim // 4, dim // 4, 3, padding=1)
        self.wide = nn.Conv3d(dim // 4, dim, 1)

    def forward(self, x):
        return x + self.wide(F.relu(self.near(F.relu(self.narrow(F.relu(x))))))


class SceneEgo(Baseline):
    """3D heatmaps in voxels that know what is seen through them and where the scene is (Wang et al., CVPR 2023).

    Kept: features of a frozen 2D network are lifted into voxels in the camera's frame, each reading where the
    calibrated fisheye camera sees it; the depth of the scene behind the body, as if nobody were there, comes into the
    same grid; a 3D encoder-decoder like V2V-PoseNet gives a 3D heatmap for each joint, whose expected place is the
    joint. The depth is the true one, or that of a network which learns from it by its own loss and sends no gradient
    through the voxels. Not kept: the 2D backbone (the features are the frozen trunk's, whose pooled context enters the
    middle of the 3D network, and the heatmaps, whose logarithm enters its output too), depth with the body in it and
    the inpainting of what is behind (here one network learns that at once), training on several data sets in stages, a
    cross-entropy of the 3D heatmaps, occupied voxels (here each says how far before or behind the surface it lies, and
    whether that is known), the cube of 2 m (here a box around the training poses) and its 64 voxels a side.
    """

    def __init__(self, num_joints, channels, low, high, usual=None, dim=32):
        """low, high: (3,) m, corners of the grid. usual: (side, side) m, the scene's mean depth, where a network is to
        estimate it; None: the batches give the true one, as `depth`, in the test too.
        """
        super().__init__()
        low, high = (torch.as_tensor(corner, dtype=torch.float32) for corner in (low, high))
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        for name, side_voxels in (("voxels", GRID), ("coarse", GRID // 2)):
            middles = (torch.arange(side_voxels) + 0.5) / side_voxels
            shares = torch.stack(torch.meshgrid(middles, middles, middles, indexing="ij"), dim=-1).flatten(0, 2)
            self.register_buffer(name, low + shares * (high - low))
        self.depth = None if usual is None else DepthNetwork(channels, usual)
        self.context = Context(num_joints, channels)
        self.from_trunk, self.from_maps = nn.Conv2d(channels, dim, 1), nn.Conv2d(num_joints, dim, 3, padding=1)
        self.enter = nn.Conv3d(num_joints + 2, dim, 2, stride=2)
        self.prior = nn.Parameter(torch.zeros(dim, *[GRID // 2] * 3))
        self.down, self.up = nn.Conv3d(dim, 2 * dim, 2, stride=2), nn.ConvTranspose3d(2 * dim, dim, 2, stride=2)
        self.first, self.last = Block(dim), Block(dim)
        self.middle = nn.Sequential(Block(2 * dim), Block(2 * dim))
        self.told = nn.Linear(256, 2 * dim * (GRID // 4) ** 3)
        self.out = nn.ConvTranspose3d(dim, num_joints, 2, stride=2)
        self.sharpness = nn.Parameter(torch.ones(()))

    def places(self, voxels, lens, count):
        """Where the view sees voxels (N, 3), as `grid_sample` counts (count, N, 1, 2); outside where it does not."""
        if lens is not None and (lens == lens[:1]).all():
            lens = lens[:1]
        points = voxels.expand(1 if lens is None else len(lens), -1, -1)
        places = project(points, lens)
        # What the lens was not calibrated for may be projected into the view all the same.
        seen = (unproject(places, lens) * F.normalize(points, dim=-1)).sum(-1) > SAME_RAY
        return torch.where(seen[..., None], 2 * places - 1, -3.0)[:, :, None].expand(count, -1, -1, -1)

    def scene(self, depth, places):
        """Depth (B, side, side) m, 0 where unknown -> (B, 2, N): from 1, well before the surface, to -1, well behind
        it, and whether that is known."""
        found = F.grid_sample(depth[:, None], places, mode="nearest", align_corners=False).flatten(1)
        known = (found > 0).to(found.dtype)
        before = ((found - self.voxels.norm(dim=-1)) / SURFACE).clamp(-1, 1)
        return torch.stack([before * known, known], dim=1)

    def logits(self, batch, depth):
        """(B, J, N)"""
        maps, trunk = images(batch)
        logarithm = maps.clamp_min(LOWEST).log() - math.log(LOWEST)  # zero where nothing is, as outside the view
        grown = F.interpolate(self.from_trunk(trunk), maps.shape[-2:], mode="bilinear", align_corners=False)
        features = F.relu(grown + self.from_maps(logarithm))
        places, coarse = (self.places(v, batch.get("lens"), len(maps)) for v in (self.voxels, self.coarse))
        joints = F.grid_sample(logarithm, places, align_corners=False).flatten(2)
        fine = torch.cat([joints, self.scene(depth, places)], dim=1).unflatten(2, (GRID,) * 3)
        lifted = F.grid_sample(features, coarse, align_corners=False).flatten(2).unflatten(2, (GRID // 2,) * 3)
        x = self.first(self.enter(fine) + lifted + self.prior)
        middle = self.down(F.relu(x))
        middle = self.middle(middle + self.told(self.context(batch)).view_as(middle))
        x = self.last(x + self.up(F.relu(middle)))
        return self.out(F.relu(x)).flatten(2) + self.sharpness * joints

    def pose(self, batch, depth):
        zy, x = soft_argmax(self.logits(batch, depth).unflatten(2, (GRID,) * 3))
        return self.low + torch.cat([x[..., None], zy.flip(-1)], dim=-1) * (self.high - self.low)

    def forward(self, batch):
        return self.pose(batch, batch["depth"] if self.depth is None else self.depth(batch["trunk"]))

    def training_terms(self, batch):
        if self.depth is None:
            return self(batch), {}
        true, found = batch["depth"], self.depth(batch["trunk"])
        known = true > 0
        apart = (found - true.clamp(max=FARTHEST)).abs() * known
        return self.pose(batch, found.detach()), {"depth": apart.sum() / known.sum().clamp_min(1)}
