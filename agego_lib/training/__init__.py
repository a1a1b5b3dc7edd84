"""Training: what is minimised (objectives), the loop, what a run goes on from (checkpoints), and one class for
each stage of the pipeline (stages), which notebooks and `python -m agego_lib.train` both call."""

from agego_lib.training.checkpoints import Checkpoints, TrainingError
from agego_lib.training.fabric import make_fabric, on_cpu, precision_here
from agego_lib.training.loop import fit, learning_rate_factor, noticing_sigterm
from agego_lib.training.objectives import ActionObjective, HeatmapObjective, MotionSource, PoseObjective

__all__ = [
    "ActionObjective",
    "Checkpoints",
    "HeatmapObjective",
    "MotionSource",
    "PoseObjective",
    "TrainingError",
    "fit",
    "learning_rate_factor",
    "make_fabric",
    "noticing_sigterm",
    "on_cpu",
    "precision_here",
]
