"""ProHMR (Kolotouros et al.): a distribution of poses for each frame, by a normalising flow."""

import math

import torch
from torch import nn

from .base import Distribution

LIKELIHOOD = 0.1  # weight of the mean negative log-likelihood of a number, beside Sec. 3.4's loss in m


class Coupling(nn.Module):
    """A scale for each number, an order, and an additive coupling: half of them shift the others, as a context says.

    As in Glow (Kingma and Dhariwal, 2018), with a fixed order in place of its 1x1 convolution.
    """

    def __init__(self, size: int, context: int, hidden: int, order):
        super().__init__()
        self.kept = size // 2
        self.register_buffer("order", order)
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.shift = nn.Sequential(
            nn.Linear(self.kept + context, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, size - self.kept),
        )  # fmt: skip
        nn.init.zeros_(self.shift[-1].weight)
        nn.init.zeros_(self.shift[-1].bias)

    def forward(self, z, context):
        kept, moved = (z * self.log_scale.exp())[:, self.order].tensor_split([self.kept], dim=1)
        return torch.cat([kept, moved + self.shift(torch.cat([kept, context], dim=1))], dim=1)

    def inverse(self, x, context):
        kept, moved = x.tensor_split([self.kept], dim=1)
        z = torch.cat([kept, moved - self.shift(torch.cat([kept, context], dim=1))], dim=1)
        return z[:, self.order.argsort()] * (-self.log_scale).exp()


class Flow(nn.Module):
    """An invertible map from noise to poses, both (B, size), given a context (B, context)."""

    def __init__(self, size: int, context: int, layers: int = 6, hidden: int = 256):
        super().__init__()
        self.size, generator = size, torch.Generator().manual_seed(0)
        orders = [torch.randperm(size, generator=generator) for _ in range(layers)]
        self.layers = nn.ModuleList(Coupling(size, context, hidden, order) for order in orders)

    def forward(self, z, context):
        for layer in self.layers:
            z = layer(z, context)
        return z

    def inverse(self, x, context):
        for layer in reversed(self.layers):
            x = layer.inverse(x, context)
        return x

    def log_det(self):
        """log |det dx/dz|, the same everywhere: only the scales change volumes."""
        return sum(layer.log_scale.sum() for layer in self.layers)

    def log_prob(self, x, context):
        """(B,) in nats, of x as numbers of its own unit."""
        z = self.inverse(x, context)
        return -0.5 * (z.square().sum(1) + self.size * math.log(2 * math.pi)) - self.log_det()


class Kolotouros(Distribution):
    """A normalising flow over poses, conditioned on the image's features (Kolotouros et al., ProHMR, ICCV 2021).

    Kept: a Glow-like flow from Gaussian noise to poses whose couplings read the features; the pose that zero noise
    gives is the reported one, with a loss of its own beside the likelihood of the true pose; samples. Its couplings
    are additive, so that this pose is the mode exactly. Not kept: SMPL's rotations and shape (here the 45 numbers of a
    `Distribution`), 2D reprojection and adversarial losses, the image encoder (the frozen trunk and heatmaps' peaks are
    read), fitting to keypoints with the flow as a prior.
    """

    def __init__(self, num_joints, channels, mean_pose, deviation):
        super().__init__(num_joints, channels, mean_pose, deviation)
        self.flow = Flow(self.size, 256)

    def _mode(self, context):
        return self.pose(self.flow(context.new_zeros(len(context), self.size), context))

    def forward(self, batch):
        return self._mode(self.context(batch))

    def samples(self, batch):
        context = self.context(batch)
        return torch.stack([self.pose(self.flow(z.expand(len(context), -1), context)) for z in self.noise], dim=1)

    def training_terms(self, batch):
        context = self.context(batch)
        likelihood = self.flow.log_prob(self.standard(batch["joints_3d"]), context).mean() / self.size
        return self._mode(context), {"likelihood": -LIKELIHOOD * likelihood}
