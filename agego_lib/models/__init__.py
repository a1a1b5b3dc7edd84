"""The networks of AG-EgoPose, one class for each box of Fig. 1."""

from .backbone import WeightsError
from .heatmap import HeatmapNet
from .motion import ActionHead, FrameEncoder, MotionEncoder
from .pose import AGEgoPose, PoseDecoder
from .rays import Augmentation, RayDecoder, RayTokens
from .spatial import HeatmapEmbedding, LimbEmbedding

__all__ = [
    "AGEgoPose",
    "ActionHead",
    "Augmentation",
    "FrameEncoder",
    "HeatmapEmbedding",
    "HeatmapNet",
    "LimbEmbedding",
    "MotionEncoder",
    "PoseDecoder",
    "RayDecoder",
    "RayTokens",
    "WeightsError",
]
