"""xR-EgoPose: heatmaps to pose through a bottleneck."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .base import Baseline


class XREgoPose(Baseline):
    """Heatmaps to pose through a bottleneck, which must give the heatmaps back too (Tome et al., ICCV 2019).

    Kept: three stride-2 convolutions, a 20-dimensional embedding, one branch to the pose and one that reconstructs the
    heatmaps. Not kept: the ResNet-101 detector (the heatmaps are ours), layers of 2048 units (512 here, as the maps
    are smaller), the original's own loss weights (Sec. 3.4's loss is used, as for every method here).
    """

    embedding = 20

    def __init__(self, num_joints, side, mean_pose, input_scale=1.0):
        super().__init__()
        self.input_scale, after = input_scale, side
        for _ in range(3):
            after = (after + 1) // 2
        widths = (num_joints, 64, 128, 256)
        convolutions = [
            layer
            for w_in, w_out in pairwise(widths)
            for layer in (nn.Conv2d(w_in, w_out, 3, stride=2, padding=1), nn.LeakyReLU(0.2))
        ]
        self.encode = nn.Sequential(
            *convolutions,
            nn.Flatten(), nn.Linear(256 * after**2, 512), nn.LeakyReLU(0.2), nn.Linear(512, self.embedding),
        )  # fmt: skip
        self.pose = nn.Sequential(
            nn.Linear(self.embedding, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2),
            nn.Linear(32, num_joints * 3),
        )  # fmt: skip
        # Logits of the maps, an eighth of whose side is grown back by three doublings.
        self.grow = nn.Sequential(nn.Linear(self.embedding, 512), nn.LeakyReLU(0.2), nn.Linear(512, 64 * after**2))
        self.reconstruct = nn.Sequential(
            nn.Unflatten(1, (64, after, after)),
            nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(32, num_joints, 4, stride=2, padding=1),
        )  # fmt: skip
        self.register_buffer("mean", torch.as_tensor(mean_pose).float())

    def embed(self, batch):
        """(B, 20), what each branch starts from."""
        return self.encode(batch["heatmaps"] * self.input_scale)

    def joints(self, z):
        return self.pose(z).unflatten(1, (-1, 3)) + self.mean

    def forward(self, batch):
        return self.joints(self.embed(batch))

    def reconstruction(self, batch, z=None):
        """Mean squared error of the heatmaps that the embedding, z where it is known, gives back."""
        maps = batch["heatmaps"]
        logits = self.reconstruct(self.grow(self.embed(batch) if z is None else z))
        return F.mse_loss(logits[..., : maps.shape[-2], : maps.shape[-1]].sigmoid(), maps)

    def own_terms(self, z, batch):
        """The method's own terms of the loss, of embeddings z (B, 20)."""
        return {"reconstruction": self.reconstruction(batch, z)}

    def training_terms(self, batch):
        z = self.embed(batch)
        return self.joints(z), self.own_terms(z, batch)
