"""EgoTAP: heatmaps as patches, and what a limb's parent knows passed on to its child."""

import torch
from torch import nn
from torch.nn import functional as F

from agego_lib.skeleton import BONES

from .base import Baseline

PATCHES = 4  # along a side of each map


class EgoTAP(Baseline):
    """Patches of all heatmaps, attention over them, joints one after another along the limbs (Kang, Lee, CVPR 2024).

    Kept: each heatmap is cut into patches that stay where they are, so that a joint's feature keeps their layout, and
    a transformer lets the patches of all maps see one another; then a recurrent unit passes what is known of the parent
    on to its child, from the neck to hands and toes, so that a joint that is not seen leans on the limb above it. Not
    kept: the second camera, heatmaps of limbs beside those of joints, the exact unit (a GRU's here); the loss is
    Sec. 3.4's.
    """

    def __init__(self, num_joints, side, mean_pose, input_scale=1.0, dim=48, layers=2, heads=4):
        super().__init__()
        self.input_scale, self.patch = input_scale, -(-side // PATCHES)
        self.register_buffer("mean", torch.as_tensor(mean_pose).float())
        self.read = nn.Linear(self.patch**2, dim)
        self.place_embedding = nn.Parameter(0.02 * torch.randn(PATCHES**2, dim))
        self.joint_embedding = nn.Parameter(0.02 * torch.randn(num_joints, 1, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encode = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.gather = nn.Sequential(nn.Linear(PATCHES**2 * dim, 2 * dim), nn.LayerNorm(2 * dim), nn.GELU())
        self.propagate = nn.GRUCell(2 * dim, 2 * dim)
        self.head = nn.Linear(2 * dim, 3)

    def patches(self, maps):
        """(B, J, h, w) -> (B, J, patches, their px), row by row; zeros where the side is no multiple."""
        room = self.patch * PATCHES - maps.shape[-1]
        maps = F.pad(maps, (0, room, 0, room))
        cut = maps.unflatten(3, (PATCHES, self.patch)).unflatten(2, (PATCHES, self.patch))
        return cut.transpose(3, 4).flatten(4).flatten(2, 3)

    def forward(self, batch):
        tokens = self.read(self.patches(batch["heatmaps"] * self.input_scale))
        tokens = tokens + self.place_embedding + self.joint_embedding
        joints = tokens.shape[1]
        seen = self.gather(self.encode(tokens.flatten(1, 2)).unflatten(1, (joints, -1)).flatten(2))
        # (B, J, 2 dim) of each joint by itself; now along the limbs, parents first.
        known = {0: self.propagate(seen[:, 0])}
        for parent, child in BONES:
            known[child] = self.propagate(seen[:, child], known[parent])
        return self.mean + self.head(torch.stack([known[joint] for joint in range(joints)], dim=1))
