"""EgoHMR: a distribution of poses for each frame, by diffusion."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .base import Distribution

STEPS = 100  # of the noising
SAMPLED = 10  # of them, that sampling takes


def signal_shares(steps: int = STEPS):
    """How much of the signal's variance is left after each step, by the cosine schedule (Nichol and Dhariwal, 2021)."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    share = torch.cos((at + 0.008) / 1.008 * math.pi / 2).square()
    beta = (1 - share[1:] / share[:-1]).clamp(max=0.999)
    return (1 - beta).cumprod(0).float()


def noised(x, noise, share):
    """x (B, n) after a step that leaves `share` (B, 1) of its variance: sqrt(share) x + sqrt(1 - share) noise."""
    return share.sqrt() * x + (1 - share).sqrt() * noise


def ddim(denoise, noise, shares, steps: int = SAMPLED):
    """What `denoise(x, step)` makes of noise (B, n) in a few steps, without noise on the way (Song et al., DDIM, 2021).

    denoise: x at a step (B,) int64 -> the clean x that it believes in.
    """
    x, at = noise, torch.linspace(len(shares) - 1, 0, steps).round().long()
    for i, step in enumerate(at.tolist()):
        share = shares[step]
        clean = denoise(x, torch.full((len(x),), step, device=x.device))
        left = (x - share.sqrt() * clean) / (1 - share).sqrt()
        following = shares[at[i + 1]] if i + 1 < steps else torch.ones_like(share)
        x = noised(clean, left, following)
    return x


class Denoiser(nn.Module):
    """The clean pose from a noised one, the step, and the context, all as vectors."""

    def __init__(self, size: int, context: int, hidden: int = 256, blocks: int = 3):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, -math.log(1000), 16)))
        self.read, self.condition = nn.Linear(size, hidden), nn.Linear(32 + context, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
            for _ in range(blocks)
        )
        self.out = nn.Linear(hidden, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x, step, context):
        angle = step[:, None] * self.frequencies
        told = self.condition(torch.cat([angle.sin(), angle.cos(), context], dim=1))
        h = self.read(x) + told
        for block in self.blocks:
            h = h + block(h + told)
        return self.out(h)


class EgoHMR(Distribution):
    """A diffusion model of the pose, conditioned on the image's features (Liu et al., ICRA 2023).

    Kept: poses come out of noise by denoising in steps that read the image's features, and several samples of a frame
    tell how sure it is. The reported pose is their mean. Not kept: the human mesh (SMPL) and the latent space with its
    hierarchy: noise is put on the 45 numbers of a `Distribution`; the image encoder (the frozen trunk and heatmaps'
    peaks are read). The denoiser gives the clean pose and learns by its squared error alone, whose best answer is the
    mean that sampling needs; Sec. 3.4's loss is not used.
    """

    composite = False

    def __init__(self, num_joints, channels, mean_pose, deviation):
        super().__init__(num_joints, channels, mean_pose, deviation)
        self.register_buffer("shares", signal_shares())
        self.denoiser = Denoiser(self.size, 256)

    def samples(self, batch):
        context = self.context(batch).repeat_interleave(self.num_samples, dim=0)
        noise = self.noise.repeat(len(batch["trunk"]), 1)
        x = ddim(lambda x, step: self.denoiser(x, step, context), noise, self.shares)
        return self.pose(x).unflatten(0, (-1, self.num_samples))

    def forward(self, batch):
        return self.samples(batch).mean(1)

    def training_terms(self, batch):
        x = self.standard(batch["joints_3d"])
        step = torch.randint(STEPS, (len(x),), device=x.device)
        seen = noised(x, torch.randn_like(x), self.shares[step, None])
        clean = self.denoiser(seen, step, self.context(batch))
        return self.pose(clean), {"denoising": F.mse_loss(clean, x)}
