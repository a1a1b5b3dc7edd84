"""ProHMR (Kolotouros et al.): a distribution of poses for each frame, by a normalising flow."""

import math

import torch
from torch import nn

from .base import Baseline, Context

SAMPLES = 8
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


class Kolotouros(Baseline):
    """A normalising flow over poses, conditioned on the image's features (Kolotouros et al., ProHMR, ICCV 2021).

    Kept: a Glow-like flow from Gaussian noise to poses whose couplings read the features; the pose that zero noise
    gives is the reported one, with a loss of its own beside the likelihood of the true pose; samples. Its couplings
    are additive, so that this pose is the mode exactly. Not kept: SMPL's rotations and shape (here 45 numbers, the 15
    joints in the camera's frame, each less its mean and over its deviation), 2D reprojection and adversarial losses,
    the image encoder (the frozen trunk and heatmaps' peaks are read), fitting to keypoints with the flow as a prior.
    """

    def __init__(self, num_joints, channels, mean_pose, deviation):
        """deviation: (15, 3) m, of the training poses."""
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean_pose).float().flatten())
        self.register_buffer("deviation", torch.as_tensor(deviation).float().flatten())
        self.context = Context(num_joints, channels)
        self.flow = Flow(3 * num_joints, 256)
        # The same noise for every frame, so that a pose does not depend on the frames beside it.
        noise = torch.randn(SAMPLES, 3 * num_joints, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise)

    def _pose(self, z, context):
        return (self.mean + self.deviation * self.flow(z, context)).unflatten(1, (-1, 3))

    def forward(self, batch):
        context = self.context(batch)
        return self._pose(context.new_zeros(len(context), self.flow.size), context)

    def samples(self, batch):
        context = self.context(batch)
        return torch.stack([self._pose(z.expand(len(context), -1), context) for z in self.noise], dim=1)

    def training_terms(self, batch):
        context = self.context(batch)
        true = (batch["joints_3d"].flatten(1) - self.mean) / self.deviation
        likelihood = self.flow.log_prob(true, context).mean() / self.flow.size
        pose = self._pose(torch.zeros_like(true), context)
        return pose, {"likelihood": -LIKELIHOOD * likelihood}
