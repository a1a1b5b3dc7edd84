"""EgoTAP: heatmaps as patches, and what a limb's parent knows passed on to its child."""

import torch
from torch import nn

from agego_lib.models import LimbEmbedding

from .base import Baseline


class EgoTAP(Baseline):
    """Patches of all heatmaps, attention over them, joints one after another along the limbs (Kang, Lee, CVPR 2024).

    What it keeps of the original and what not, its LimbEmbedding says; the loss is Sec. 3.4's. That embedding in place
    of the paper's, before the paper's decoder, is the row `limb_embedding`.
    """

    def __init__(self, side, mean_pose, input_scale=1.0, dim=96):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean_pose).float())
        self.embed = LimbEmbedding(side, dim, input_scale, norm=False)
        self.head = nn.Linear(dim, 3)

    def forward(self, batch):
        return self.mean + self.head(self.embed(batch["heatmaps"][:, None])[:, 0])
