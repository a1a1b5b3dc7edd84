"""The fisheye camera, calibrations of it as people have them, and the view of its images that a network sees."""

from agego_lib.camera.formats import read_camera
from agego_lib.camera.model import MAX_MISS, CalibrationError, FisheyeCamera
from agego_lib.camera.view import InputView

__all__ = ["MAX_MISS", "CalibrationError", "FisheyeCamera", "InputView", "read_camera"]
