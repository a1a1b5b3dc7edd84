"""EgoPoseFormer: a proposal, looked at again where it lies in the view."""

import torch
from torch import nn
from torch.nn import functional as F

from agego_lib.losses import position_loss

from .base import Baseline, Context, images
from .lens import project


class Sampling(nn.Module):
    """Deformable attention to one map (Zhu et al., Deformable DETR, 2021): each query reads a few places near its own.

    Where and how much each head reads, the query says; a place outside the map gives zeros.
    """

    def __init__(self, dim: int, heads: int, points: int):
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets, self.weights = nn.Linear(dim, heads * points * 2), nn.Linear(dim, heads * points)
        self.values, self.out = nn.Conv2d(dim, dim, 1), nn.Linear(dim, dim)
        nn.init.zeros_(self.offsets.weight)
        nn.init.normal_(self.offsets.bias)  # px of the map: the points begin apart
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, queries, features, places):
        """Queries (B, J, dim), map (B, dim, h, w), places (B, J, 2) in shares of its side -> (B, J, dim)."""
        shape = (self.heads, self.points)
        offsets = self.offsets(queries).unflatten(-1, (*shape, 2)) / features.shape[-1]
        grid = 2 * (places[:, :, None, None] + offsets) - 1
        grid = grid.transpose(1, 2).flatten(0, 1)  # (B heads, J, points, 2)
        values = self.values(features).unflatten(1, (self.heads, -1)).flatten(0, 1)
        # (B, heads, channels, J, points), weighed by (B, heads, 1, J, points)
        read = F.grid_sample(values, grid, align_corners=False).unflatten(0, (-1, self.heads))
        weights = self.weights(queries).unflatten(-1, shape).softmax(-1).permute(0, 2, 1, 3)[:, :, None]
        return self.out((read * weights).sum(-1).permute(0, 3, 1, 2).flatten(2))


class Layer(nn.Module):
    """Queries read the map, then one another."""

    def __init__(self, dim: int, heads: int, points: int):
        super().__init__()
        self.sampling = Sampling(dim, heads, points)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x, features, places):
        x = self.norms[0](x + self.sampling(x, features, places))
        x = self.norms[1](x + self.attention(x, x, x, need_weights=False)[0])
        return self.norms[2](x + self.feed(x))


class EgoPoseFormer(Baseline):
    """A coarse pose, projected into the view and refined by what is to be seen there (Yang et al., ECCV 2024).

    Kept: a first network proposes all joints at once; each becomes a query, reads the feature map by deformable
    attention around the place where the fisheye camera sees it, then attends to the other joints; layers of that
    give offsets from the proposal. As in the authors' code the proposal is detached, so that places and offsets send
    no gradient to it, every layer has a loss, and the last one's pose counts. Not kept: the second camera and its
    attention (their monocular variant has none either), an encoder trained with it (map and proposal come from the
    frozen trunk and heatmaps, the proposal from features pooled to 4x4 and the heatmaps' peaks, not from an average
    alone), and training in two stages.
    """

    def __init__(self, num_joints, channels, mean_pose, input_scale=1.0, dim=64, layers=3, heads=4, points=8):
        super().__init__()
        self.input_scale = input_scale
        self.register_buffer("mean", torch.as_tensor(mean_pose).float())
        self.context = Context(num_joints, channels)
        self.proposal = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 3 * num_joints))
        self.from_trunk, self.from_maps = nn.Conv2d(channels, dim, 1), nn.Conv2d(num_joints, dim, 3, padding=1)
        self.query = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.joint_embedding = nn.Parameter(torch.randn(num_joints, dim))
        self.layers = nn.ModuleList(Layer(dim, heads, points) for _ in range(layers))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 3)) for _ in range(layers)
        )

    def features(self, batch):
        """One map (B, dim, h, w) of the heatmaps' size from both of what is stored."""
        maps, trunk = images(batch)
        trunk = F.interpolate(self.from_trunk(trunk), maps.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(trunk + self.from_maps(maps * self.input_scale))

    def stages(self, batch):
        """The proposal, then the pose after each layer -> list of (B, J, 3)."""
        proposal = self.mean + self.proposal(self.context(batch)).unflatten(1, (-1, 3))
        fixed = proposal.detach()
        places, features = project(fixed, batch.get("lens")), self.features(batch)
        x, poses = self.query(fixed) + self.joint_embedding, [proposal]
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x, features, places)
            poses.append(fixed + head(x))
        return poses

    def forward(self, batch):
        return self.stages(batch)[-1]

    def training_terms(self, batch):
        *earlier, pose = self.stages(batch)
        return pose, {"earlier_stages": sum(position_loss(p, batch["joints_3d"]) for p in earlier)}
