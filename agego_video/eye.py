"""A model and the camera whose frames it is shown, and the options of all commands that predict."""

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten

import cv2
import numpy as np
import torch

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera, InputView
from agego_lib.models.backbone import WeightsError
from agego_lib.models.build import for_inference, load_model
from agego_video.cameras import camera_of, project_for, resolved
from agego_video.video import VideoError

TRAINED = "artifacts/finetune/model.safetensors"  # in the project's folder, once `make repro` has run
# Frames a second for which a model trained at 25 to 30 is taken as it is.
USUAL_FPS = (20, 40)
ROLLS = (0, 90, 180, 270)
SHORTEST, TALLEST = 0.5, 2.6  # m, of all people there are
ERRORS = (VideoError, CalibrationError, WeightsError, params.SettingsError)  # that commands tell in a line


@contextmanager
def interrupts():
    """A list that becomes non-empty on Ctrl-C, so that no step is cut in half; a second Ctrl-C stops at once."""
    asked = []

    def note(*_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.append(True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread gets signals
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Eye:
    """A model, and the camera whose frames it is shown.

    network: for inference, on its device; window: the frames it looks at together, as its config has them. camera: of
    the frames as they are stored; upright: of the same, turned clockwise by `quarters` of a circle, whose view it sees.
    notes: how the camera became known. fov: degrees, where the lens is not known but assumed; else None.
    stature: of the wearer, m, where it was told; else None.
    """

    network: torch.nn.Module
    window: dict
    camera: FisheyeCamera
    upright: FisheyeCamera
    quarters: int
    view: InputView
    notes: list
    fov: float | None = None
    stature: float | None = None

    @classmethod
    def of(cls, frames, source, model, calibration, camera, fov, frame_size, mount_roll, device, stature=None):
        """For the frames of a source; the options, and what they raise, are those of `predict_video`."""
        network, config = load_named(model)
        check_stature(stature, network, model)
        own, notes = camera_of(frames, source, calibration, camera, fov, frame_size)
        if mount_roll not in ROLLS:
            raise VideoError(f"--mount-roll {mount_roll}; expected one of {', '.join(map(str, ROLLS))}")
        quarters = mount_roll // 90
        upright = own.turned(quarters)
        view = InputView.of(upright, config["input"]["size"], config["input"]["crop"])
        network = for_inference(network).to(usable(device))
        return cls(network, config["window"], own, upright, quarters, view, notes, fov, stature)

    def look(self, frame):
        """A BGR frame as it is stored -> (it upright, the view in RGB). Raises ValueError for one of another size."""
        # A copy, as OpenCV wants its rows one after the other.
        frame = np.ascontiguousarray(np.rot90(frame, -self.quarters))
        return frame, cv2.cvtColor(self.view.apply(frame), cv2.COLOR_BGR2RGB)

    def turn_back(self, poses):
        """Poses (..., 3) seen in upright frames -> in the axes of the camera as it is mounted."""
        for _ in range(self.quarters):
            # x to the right of the turned image is up in the stored one, y down of it is to the right.
            x, y, z = np.moveaxis(poses, -1, 0)
            poses = np.stack([y, -x, z], axis=-1)
        return poses

    def pace_note(self, fps, otherwise):
        """What to say of frames that come at another pace than the model's, or None. otherwise: what to do."""
        if USUAL_FPS[0] <= fps <= USUAL_FPS[1]:
            return None
        span = self.window["step"] * (self.window["length"] - 1) + 1
        return (
            f"{fps:.4g} frames a second, but the model's windows are of {span} frames of 25 to 30 a second: motion "
            f"looks slower or faster to it; {otherwise}"
        )


def check_stature(stature, network, model):
    """Raises VideoError for a stature (m) that nobody has, that the model cannot use, or that it needs and lacks."""
    asked = network.stature
    name = model or f"the project's {params.RELEASED}"
    if stature is None:
        if asked == "given":
            raise VideoError(f"{name} must be told how tall the wearer is; tell it: --stature 1.75 (metres)")
    elif not SHORTEST <= stature <= TALLEST:
        raise VideoError(f"--stature {stature:g}; expected metres, {SHORTEST} to {TALLEST}")
    elif asked == "none":
        raise VideoError(
            f"--stature: {name} was trained without any (decoder.stature is none), so that it cannot use it; leave it "
            "out, or name another model with --model"
        )


def load_named(path):
    """What `load_model` gives of the file that --model names, by default the released model."""
    default = path is None
    if default:
        root = project_for("--model")[0]
        path = params.locate(root, params.RELEASED)
    path = resolved(path)
    try:
        return load_model(path)
    except WeightsError as error:
        if path.is_file():
            raise
        pull = f"run `dvc pull released.dvc` in {root}, or " if default else ""
        raise WeightsError(f"{error}; {pull}name another one with --model, such as {TRAINED}") from None


def usable(name):
    """The device of that name, which does compute here; by default a GPU where there is one."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=name).item()
    # Backends that are not built in, or have no hardware, fail in several ways.
    except (RuntimeError, AssertionError, ImportError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = shorten(str(error).splitlines()[0], 120)  # some name dozens of backends
        raise VideoError(f"--device {name}: not usable here ({reason}); expected one of {', '.join(there)}") from None
    return name


def add_options(parser, kalibr="--camera"):
    """Which model, camera and device: the options of every command that predicts, named as `Eye.of` takes them.

    kalibr: name of the one that chooses a camera of a Kalibr camchain.
    """
    parser.add_argument(
        "--model", help=f"weights, with their .json beside them (default: the project's {params.RELEASED})"
    )
    parser.add_argument("--calibration", help="of OCamCalib, OpenCV or Kalibr (default: that of the SceneEgo set of "
                        "params.yaml; the embedded data's lens is made up)")  # fmt: skip
    parser.add_argument(
        kalibr, dest="camera", metavar="NAME", help="which camera of a Kalibr camchain (default: its first)"
    )
    parser.add_argument("--fov", type=float, metavar="DEGREES", help="in place of a calibration: an "
                        "equidistant lens, with this field of view over the image circle of the frames")  # fmt: skip
    parser.add_argument("--frame-size", type=width_and_height, metavar="WxH", help="size of the calibration's image "
                        "in the frames' pixels, where they were cut out of its middle")  # fmt: skip
    parser.add_argument("--mount-roll", type=int, choices=ROLLS, default=0, metavar="DEGREES", help="by which frames "
                        "are turned clockwise to be upright: 90, 180 or 270")  # fmt: skip
    parser.add_argument("--stature", type=float, metavar="METRES", help="how tall the wearer is, which no frame shows, "
                        "for models trained with decoder.stature (default: estimated)")  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")


def width_and_height(text):
    width, height = (int(part) for part in text.lower().split("x"))
    if min(width, height) < 1:
        raise ValueError
    return width, height


width_and_height.__name__ = "WIDTHxHEIGHT"


def positive(kind):
    def read(text):
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    read.__name__ = f"positive {kind.__name__}"
    return read
