"""Evaluation: predictions of test splits, their errors and intervals, and what made a number (manifest)."""

from agego_lib.evaluation.errors import (
    HEADLINE,
    PoseErrors,
    bootstrap_interval,
    error_groups,
    mean_pose,
    pose_errors,
    sequence_errors,
    unlabelled,
    unseen_for,
    unseen_parts,
)
from agego_lib.evaluation.manifest import write_metrics
from agego_lib.evaluation.predictions import by_need, load_poses, predict_split, save_poses

__all__ = [
    "HEADLINE",
    "PoseErrors",
    "bootstrap_interval",
    "by_need",
    "error_groups",
    "load_poses",
    "mean_pose",
    "pose_errors",
    "predict_split",
    "save_poses",
    "sequence_errors",
    "unlabelled",
    "unseen_for",
    "unseen_parts",
    "write_metrics",
]
