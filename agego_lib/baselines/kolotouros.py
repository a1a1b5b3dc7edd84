"""ProHMR (Kolotouros et al.): a distribution of poses for each frame, by a normalising flow."""

import torch
from torch import nn
from zuko.distributions import DiagNormal
from zuko.flows import Flow, GeneralCouplingTransform, UnconditionalDistribution, UnconditionalTransform
from zuko.transforms import AdditiveTransform, DependentTransform, MonotonicAffineTransform

from .base import Distribution

LIKELIHOOD = 0.1  # weight of the mean negative log-likelihood of a number, beside Sec. 3.4's loss in m


def _scale(shift, log_scale):
    return DependentTransform(MonotonicAffineTransform(shift, log_scale, slope=1e-6), 1)


def additive_flow(size: int, context: int, layers: int = 6, hidden: int = 256) -> Flow:
    """Poses of `size` numbers to noise and back, given a context: couplings that shift, and a scale for each number.

    As in Glow (Kingma and Dhariwal, 2018), with halves drawn once in place of its 1x1 convolution. A coupling shifts
    half of the numbers, as the others and the context say: volumes change by the scales alone, everywhere alike.
    """
    generator, steps = torch.Generator().manual_seed(0), []
    for _ in range(layers):
        half = torch.randperm(size, generator=generator) < size // 2
        coupling = GeneralCouplingTransform(
            size, context, half, AdditiveTransform, shapes=((),), hidden_features=(hidden, hidden), activation=nn.GELU
        )
        for parameter in coupling.hyper[-1].parameters():
            nn.init.zeros_(parameter)
        steps += [coupling, UnconditionalTransform(_scale, torch.zeros(size), torch.zeros(size))]
    return Flow(steps, UnconditionalDistribution(DiagNormal, torch.zeros(size), torch.ones(size), buffer=True))


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
        self.flow = additive_flow(self.size, 256)

    def _poses(self, context, noise):
        return self.pose(self.flow(context).transform.inv(noise.expand(len(context), -1)))

    def forward(self, batch):
        return self._poses(self.context(batch), self.noise.new_zeros(self.size))

    def samples(self, batch):
        context = self.context(batch)
        return torch.stack([self._poses(context, noise) for noise in self.noise], dim=1)

    def training_terms(self, batch):
        context = self.context(batch)
        likelihood = self.flow(context).log_prob(self.standard(batch["joints_3d"])).mean() / self.size
        mode = self._poses(context, self.noise.new_zeros(self.size))
        return mode, {"likelihood": -LIKELIHOOD * likelihood}
