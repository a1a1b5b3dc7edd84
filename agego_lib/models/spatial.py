"""Joint tokens from heatmaps (Sec. 3.1, Eq. 2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from agego_lib.skeleton import BONES, NUM_JOINTS


class HeatmapEmbedding(nn.Module):
    """Heatmaps -> joint tokens H_e, by one small CNN shared by all joints.

    input_scale multiplies the maps, whose values lie between 0 and 1 and are nearly all close to 0. distances: whether
    each joint's distance, as `HeatmapNet.decode_all` gives it, is read beside its map, as the paper's is not.
    """

    def __init__(self, dim: int = 128, input_scale: float = 1.0, distances: bool = False):
        super().__init__()
        self.distances = distances
        self.input_scale = input_scale
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=1, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(4),
        )
        self.project = nn.Linear(64 * 4 * 4 + distances, dim)
        self.norm = nn.LayerNorm(dim)
        # Channels last made this CNN two to three times as fast on a CPU.
        self.cnn.to(memory_format=torch.channels_last)

    def forward(
        self, heatmaps: Float[Tensor, "B T J h w"], distances: Float[Tensor, "B T J 1"] | None = None
    ) -> Float[Tensor, "B T J dim"]:
        maps = heatmaps.flatten(0, 2).unsqueeze(1) * self.input_scale
        features = self.cnn(maps.to(memory_format=torch.channels_last)).flatten(1)
        if self.distances:
            features = torch.cat([features, distances.flatten(0, 2)], dim=1)
        return self.norm(self.project(features)).unflatten(0, heatmaps.shape[:3])


class LimbEmbedding(nn.Module):
    """Heatmaps -> joint tokens, as EgoTAP makes them (Kang, Lee, CVPR 2024); `decoder.embedding: limbs`.

    Kept: each heatmap is cut into patches that stay where they are, so that a joint's feature keeps their layout, and
    a transformer lets the patches of all maps see one another; then a recurrent unit passes what is known of the parent
    on to its child, from the neck to hands and toes, so that a joint that is not seen leans on the limb above it. Not
    kept: the second camera, heatmaps of limbs beside those of joints, the exact unit (a GRU's here).

    side: of the maps, px. input_scale: as in HeatmapEmbedding. norm: whether tokens are normalised as its are, for what
    is mixed with them in Eq. 4.
    """

    PATCHES = 4  # along a side of each map
    distances = False

    def __init__(
        self, side: int, dim: int = 128, input_scale: float = 1.0, layers: int = 2, heads: int = 4, norm: bool = True
    ):
        super().__init__()
        self.input_scale, self.patch = input_scale, -(-side // self.PATCHES)
        width = dim // 2
        self.read = nn.Linear(self.patch**2, width)
        self.place_embedding = nn.Parameter(0.02 * torch.randn(self.PATCHES**2, width))
        self.joint_embedding = nn.Parameter(0.02 * torch.randn(NUM_JOINTS, 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encode = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.gather = nn.Sequential(nn.Linear(self.PATCHES**2 * width, dim), nn.LayerNorm(dim), nn.GELU())
        self.propagate = nn.GRUCell(dim, dim)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def patches(self, maps: Float[Tensor, "N J h w"]) -> Float[Tensor, "N J patches px"]:
        """Row by row; zeros where the side is no multiple."""
        room = self.patch * self.PATCHES - maps.shape[-1]
        maps = F.pad(maps, (0, room, 0, room))
        cut = maps.unflatten(3, (self.PATCHES, self.patch)).unflatten(2, (self.PATCHES, self.patch))
        return cut.transpose(3, 4).flatten(4).flatten(2, 3)

    def forward(self, heatmaps: Float[Tensor, "B T J h w"]) -> Float[Tensor, "B T J dim"]:
        tokens = self.read(self.patches(heatmaps.flatten(0, 1) * self.input_scale))
        tokens = (tokens + self.place_embedding + self.joint_embedding).flatten(1, 2)
        # (B T, J, dim) of each joint by itself; now along the limbs, parents first.
        seen = self.gather(self.encode(tokens).unflatten(1, (NUM_JOINTS, -1)).flatten(2))
        known = {0: self.propagate(seen[:, 0])}
        for parent, child in BONES:
            known[child] = self.propagate(seen[:, child], known[parent])
        tokens = torch.stack([known[joint] for joint in range(NUM_JOINTS)], dim=1)
        return self.norm(tokens).unflatten(0, heatmaps.shape[:2])
