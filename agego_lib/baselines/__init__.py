"""Baselines in the same harness as the paper's model: same splits, frozen features, losses and metrics.

Each is a small class after the idea of a known method, frame by frame; its docstring says what of the original it
keeps and what it does not. The mean pose, the weakest of them, is `evaluation.mean_pose`.
"""

from agego_lib.baselines.egopw import Domains
from agego_lib.baselines.harness import (
    DEPTH,
    METHODS,
    PSEUDO_LABELLED,
    BaselineObjective,
    FrameFeatures,
    cost,
    frame_optimiser,
    new_baseline,
    predict_frames,
    sample_errors,
)
from agego_lib.baselines.labels import check_outside, pseudo_labels
from agego_lib.baselines.mo2cap2 import Zoom, ZoomedFrames

__all__ = [
    "DEPTH",
    "METHODS",
    "PSEUDO_LABELLED",
    "BaselineObjective",
    "Domains",
    "FrameFeatures",
    "Zoom",
    "ZoomedFrames",
    "check_outside",
    "cost",
    "frame_optimiser",
    "new_baseline",
    "predict_frames",
    "pseudo_labels",
    "sample_errors",
]
