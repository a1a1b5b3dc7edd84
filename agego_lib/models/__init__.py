"""The networks of AG-EgoPose, one class for each box of Fig. 1."""

from .backbone import WeightsError
from .heatmap import HeatmapNet
from .motion import ActionHead, FrameEncoder, MotionEncoder
from .pose import AGEgoPose, PoseDecoder
from .spatial import HeatmapEmbedding

__all__ = [
    "AGEgoPose",
    "ActionHead",
    "FrameEncoder",
    "HeatmapEmbedding",
    "HeatmapNet",
    "MotionEncoder",
    "PoseDecoder",
    "WeightsError",
]
