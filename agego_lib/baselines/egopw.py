"""EgoPW: a network trained on pseudo labels, aligned with a labelled domain (see labels.py)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from .mo2cap2 import Mo2Cap2

ALIGNMENT = 0.02  # of the gradient that comes back reversed from the domain classifier


class _Reversed(torch.autograd.Function):
    """x as it is; its gradient turned round and `share` times as large (Ganin and Lempitsky, ICML 2015)."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore
        return -ctx.share * gradient, None


class EgoPW(Mo2Cap2):
    """Mo2Cap2's network, trained on pseudo labels and a labelled domain (Wang et al., CVPR 2022).

    Kept: labels for the frames "in the wild", here EgoPW's, by optimisation over sequences: joints that agree with the
    head camera's heatmaps and with 2D joints in an outside camera whose pose is unknown, bones of constant length,
    smooth motion, a prior of poses learned from a labelled domain, here SceneEgo's training people. Then training on
    both, with features that a classifier behind a reversed gradient cannot tell the domains by. As it is the row
    `mo2cap2` with other labels and both sets at once, the two rows tell what these are worth together.
    Not kept: the motion prior's variational
    autoencoder and the initial poses from a network (a Gaussian of poses, distances by ridge regression), 3D poses from
    the outside picture, the head camera's path by SLAM, features of an outside network that the head camera's are to
    resemble (there are no outside pictures), a detector that has not seen the wild frames' 2D labels (the heatmaps are
    those that all methods read). "egopw_one_view" has labels without the outside view.
    """

    def __init__(self, num_joints, channels, mean_distance, alignment=ALIGNMENT):
        super().__init__(num_joints, channels, mean_distance)
        self.alignment = alignment
        self.domain = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_terms(self, batch):
        """As `Baseline.training_terms`; `wild` (B,) in the batch, where it is, tells the frames' domains."""
        seen = self.seen(batch)
        logits = self.domain(_Reversed.apply(seen, self.alignment))[:, 0]
        # With one domain there is nothing to tell apart; each parameter has a gradient all the same.
        domain = F.binary_cross_entropy_with_logits(logits, batch["wild"]) if "wild" in batch else 0 * logits.sum()
        return self.placed(batch, seen), {"domain": domain}


class Domains(Dataset):
    """Items of `wild` frames with `labels` (one (N, 15, 3) m a sequence) in place of theirs, then those of `labelled`.

    wild, labelled: FrameFeatures. `wild` in an item is 1 or 0, float32.
    """

    def __init__(self, wild, labels, labelled):
        self.wild, self.labels, self.labelled = wild, labels, labelled

    def __len__(self):
        return len(self.wild) + len(self.labelled)

    def __getitem__(self, item):
        if item >= len(self.wild):
            return {**self.labelled[item - len(self.wild)], "wild": torch.tensor(0.0)}
        number, frame = self.wild.place(item)
        label = torch.from_numpy(self.labels[number][frame])
        return {**self.wild[item], "joints_3d": label, "wild": torch.tensor(1.0)}

    def describe(self, item):
        """Which sequence and frame an item is, for messages."""
        known = item < len(self.wild)
        return self.wild.describe(item) if known else self.labelled.describe(item - len(self.wild))
