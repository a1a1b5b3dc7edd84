"""2D joint heatmaps from one frame (Sec. 3.1, Fig. 2): ResNet-18 encoder, FPN decoder, unified skip connections."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agego_lib.skeleton import NUM_JOINTS

from .backbone import Freezable, Image, ResNetStages, Stride4, Stride8, Stride16, Stride32

SLOPE = 0.2  # of the decoder's LeakyReLUs
Distances = Float[Tensor, "N J"]


class DistanceHead(nn.Module):
    """How far away each joint is, from what the heatmap network holds where the joint's heatmap is bright.

    A map says in which direction a joint lies; how large hand or foot looks there, and what lies around it, says
    something of its distance, which nothing read from the map itself can. Distances beside places are known from
    EgoWholeMocap (Wang et al., 2024), which has them as a third axis of its heatmaps.

    channels: of the network's features of several strides, which are averaged with the squared heatmap as weights.
    """

    def __init__(self, channels: tuple[int, ...], dim: int = 128, num_joints: int = NUM_JOINTS):
        super().__init__()
        self.read = nn.Linear(sum(channels), dim)
        self.joint_embedding = nn.Parameter(0.02 * torch.randn(num_joints, dim))
        self.output = nn.Linear(dim, 1)
        self.bias = nn.Parameter(torch.zeros(num_joints))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, heatmaps: Float[Tensor, "N J h w"], features: list[Float[Tensor, "N _ _ _"]]) -> Distances:
        weights, pooled = heatmaps.square(), []
        for level in features:
            shares = F.adaptive_avg_pool2d(weights, level.shape[2:]).flatten(2)
            shares = shares / shares.sum(2, keepdim=True).clamp_min(1e-12)
            pooled.append(shares.to(level.dtype) @ level.flatten(2).transpose(1, 2))
        hidden = F.gelu(self.read(torch.cat(pooled, dim=-1)) + self.joint_embedding)
        return self.output(hidden)[..., 0] + self.bias


class HeatmapNet(Freezable):
    """Images, ImageNet-normalised -> logits of each joint's map; their sigmoid is the heatmap.

    The defaults have 13.9 M parameters. (The release's 14.4 M also counts ResNet's classifier and a fourth
    upsampling step, which its forward pass never uses.)

    init: where the encoder starts, see `ResNetStages`.
    fpn_channels: widths of the decoder at strides 4, 8, 16 and 32; smaller ones make a lighter network. Like the
        release's, the decoder has no BatchNorm: trials from scratch learned no faster with it.
    output_bias: first bias of the logits. A joint covers under 1 % of its map, so that starting at
        sigmoid(-4) = 0.02 spares BCE the epochs in which it would only learn that maps are nearly empty.
    distances: whether it has a `DistanceHead`, as the paper's has not.
    """

    def __init__(
        self,
        num_joints: int = 15,
        init: str = "scratch",
        fpn_channels: tuple[int, ...] = (64, 128, 256, 512),
        output_bias: float = -4.0,
        distances: bool = False,
    ):
        super().__init__()
        if len(fpn_channels) != 4:
            raise ValueError(f"fpn_channels has {len(fpn_channels)} widths, expected 4 (strides 4, 8, 16 and 32)")
        self.encoder = ResNetStages("resnet18", init)
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, f, 1) for c, f in zip(self.encoder.channels, fpn_channels, strict=True)
        )
        self.fuse = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(coarse + fine, fine, 3, padding=1),
                nn.LeakyReLU(SLOPE, inplace=True),
            )
            for fine, coarse in pairwise(fpn_channels)
        )
        self.output = nn.Conv2d(fpn_channels[0], num_joints, 1)
        for module in [*self.laterals.modules(), *self.fuse.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.output.bias, output_bias)
        self.distances = None
        if distances:
            # The decoder's three levels, and the encoder's coarser ones, which are wider.
            channels = (*fpn_channels[:3], *self.encoder.channels[2:])
            self.distances = DistanceHead(channels, num_joints=num_joints)

    def forward(self, images: Image) -> Float[Tensor, "N J H/4 W/4"]:
        """Images -> logits. Raises ValueError unless 32 divides H and W."""
        return self.decode(self.encode(images))

    def encode(self, images: Image) -> tuple[Stride4, Stride8, Stride16, Stride32]:
        """Images -> encoder features."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(f"images are {tuple(images.shape)}, expected (N, 3, H, W) with H and W multiples of 32")
        return self.encoder(images)

    def decode(self, features: tuple[Tensor, Tensor, Tensor, Tensor]) -> Float[Tensor, "N J h w"]:
        """What `encode` gives -> logits at stride 4, from coarse to fine."""
        return self.output(self._fused(features)[0])

    def decode_all(
        self, features: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Float[Tensor, "N J h w"], Distances | None]:
        """Logits, and the logarithms of the joints' distances from the camera, in metres, for a wearer of average
        stature (agego_lib/stature.py); None where the network gives none."""
        fused = self._fused(features)
        logits = self.output(fused[0])
        if self.distances is None:
            return logits, None
        # Where a joint is, its map is trained to say: distances must not pull it elsewhere.
        return logits, self.distances(logits.detach().float().sigmoid(), [*fused, *features[2:]])

    def _fused(self, features):
        """The decoder's features at strides 4, 8 and 16."""
        skips = [F.leaky_relu(lateral(c), SLOPE) for lateral, c in zip(self.laterals, features, strict=True)]
        x, fused = skips[3], []
        for level in (2, 1, 0):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.fuse[level](torch.cat([x, skips[level]], dim=1))
            fused.insert(0, x)
        return fused
