"""Pack a trained model for release: python scripts/release.py [artifacts/finetune]

Writes released/model.safetensors and .json: matrices and kernels in half precision, equal tensors once (see
agego_lib/models/weights.py). Before that, the packed model must give the poses of the original on a few frames: those
of the prepared SceneEgo test set, or of --frames. Then: `dvc add released`, `dvc push released.dvc`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera, InputView
from agego_lib.datasets import DatasetError, read_prepared
from agego_lib.inference import predict_sequence
from agego_lib.models import WeightsError, weights
from agego_lib.models.build import load_model, save_model
from agego_video.video import VideoError, open_frames

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 40e6  # bytes, of all that is released
TOLERANCE = 2.0  # mm, by which 99 in 100 joints may move: where two peaks of a map tie, rounding chooses
FRAMES = 64


class ReleaseError(ValueError):
    """What keeps a model from being released."""


def prepared_frames(root, config):
    """The first frames of the prepared SceneEgo test set, as far apart as the model's windows have them, RGB."""
    sequence = read_prepared(root / "artifacts/prepared/sceneego", "test")[0]
    view = {"size": sequence.view.size, "crop": sequence.view.crop}
    if view != config["input"]:
        raise ReleaseError(
            f"the prepared frames are of the view {view}, the model's is {config['input']}; name frames of your own "
            "with --frames and --calibration"
        )
    return sequence.images(np.arange(0, len(sequence), config["window"]["step"])[:FRAMES])


def own_frames(source, calibration, config):
    """The first frames of a video or a folder in the model's view, RGB."""
    camera = FisheyeCamera.from_json(calibration)
    view = InputView.of(camera, config["input"]["size"], config["input"]["crop"])
    images = []
    for _, _, frame in open_frames(source):
        try:
            images.append(cv2.cvtColor(view.apply(frame), cv2.COLOR_BGR2RGB))
        except ValueError as error:
            raise ReleaseError(f"{source}: {error}") from None
        if len(images) == FRAMES:
            break
    return np.stack(images)


def apart(first, second, images, window):
    """Distances (N, 15) mm of two models' poses of frames."""
    poses = [predict_sequence(m, images, length=window["length"], stride=window["stride"]) for m in (first, second)]
    return 1000 * np.linalg.norm(poses[0].astype(float) - poses[1], axis=-1)


def release(source, out, frames, tolerance=TOLERANCE):
    """Pack the model of the folder `source` into the folder `out` -> what to say of it, lines of text.

    frames: called with the model's config, gives RGB frames (N, S, S, 3). tolerance: mm.
    Raises ReleaseError, and then writes nothing.
    """
    source = Path(source) / "model.safetensors"
    model, config = load_model(source)
    images = frames(config)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model.safetensors"
        save_model(packed, model, config, packed=True)
        again, back = load_model(packed)
        if back != json.loads(json.dumps(config)):
            raise ReleaseError("the settings do not come back as they were")
        distance = apart(model, again, images, config["window"])
        sizes = {path.name: path.stat().st_size for path in (packed, packed.with_suffix(".json"))}
    if sum(sizes.values()) > LIMIT:
        raise ReleaseError(
            f"{sum(sizes.values()) / 1e6:.1f} MB; expected at most {LIMIT / 1e6:.0f}. Train a smaller one"
        )
    most = np.percentile(distance, 99)
    if not most <= tolerance:
        raise ReleaseError(
            f"half precision moves one in 100 joints by {most:.2f} mm or more on {len(images)} frames (the furthest by "
            f"{distance.max():.2f}); expected at most {tolerance:g} mm"
        )
    save_model(out / "model.safetensors", model, config, packed=True)
    _, aliases = weights.pack(model)
    return [
        f"{source}: {source.stat().st_size / 1e6:.1f} MB",
        *(f"{out / name}: {size / 1e6:.2f} MB" for name, size in sizes.items()),
        f"{len(aliases)} tensors equal others and are stored once",
        f"poses of {len(images)} frames: {distance.mean():.3f} mm from the original's on average, 99 in 100 "
        f"joints at most {most:.3f} (allowed: {tolerance:g}), the furthest {distance.max():.3f}",
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python scripts/release.py", description=__doc__.split("\n\n")[1])
    parser.add_argument("source", nargs="?", type=Path, default=ROOT / "artifacts/finetune", help="the model's folder")
    parser.add_argument("--out", type=Path, default=ROOT / Path(params.RELEASED).parent, help="default: %(default)s")
    parser.add_argument("--frames", help="a video or folder of frames to compare poses on, with --calibration")
    parser.add_argument("--calibration", help="of --frames, OCamCalib JSON")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="mm that 99 in 100 joints may move (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if bool(options.frames) != bool(options.calibration):
        parser.error("--frames and --calibration go together")

    def frames(config):
        if options.frames:
            return own_frames(options.frames, options.calibration, config)
        return prepared_frames(ROOT, config)

    try:
        for line in release(options.source, options.out, frames, options.tolerance):
            print(line)
    except (ReleaseError, WeightsError, DatasetError, CalibrationError, VideoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
