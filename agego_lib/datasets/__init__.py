"""Data sets: readers of the published layouts, the suite's own prepared store, and windows over it."""

from agego_lib.datasets.egopw import read_egopw
from agego_lib.datasets.preparation import prepare_dataset
from agego_lib.datasets.prepared import PreparedSequence, calibration_of, read_prepared, write_prepared
from agego_lib.datasets.safe_pickle import DamagedPickleError, UnsafePickleError
from agego_lib.datasets.sceneego import read_sceneego
from agego_lib.datasets.sequence import DatasetError, Sequence, count_frames, sequence_key
from agego_lib.datasets.splits import check_disjoint, read_split
from agego_lib.datasets.windows import FrameDataset, FrameItems, WindowDataset, segments, window_starts

TITLES = {"egopw": "EgoPW", "sceneego": "SceneEgo"}

__all__ = [
    "TITLES",
    "DamagedPickleError",
    "DatasetError",
    "FrameDataset",
    "FrameItems",
    "PreparedSequence",
    "Sequence",
    "UnsafePickleError",
    "WindowDataset",
    "calibration_of",
    "check_disjoint",
    "count_frames",
    "prepare_dataset",
    "read_egopw",
    "read_prepared",
    "read_sceneego",
    "read_split",
    "segments",
    "sequence_key",
    "window_starts",
    "write_prepared",
]
