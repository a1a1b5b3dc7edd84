"""A model on frames whose joints were marked by hand: python -m benchmarks.real_frames FOLDER

FOLDER holds the frames, joints.json and fisheye.calibration.json. joints.json: {"frames": {file: {joint: [u, v]}}},
joints by their numbers (agego_lib/skeleton.py), u and v px in the full image of the calibration, also where the file
is its central square. Printed are the shares of the marked joints within 64 and 32 px of 1024 (PCK), of the heatmaps'
joints and of the 3D joints projected back, by group of joints; and how long the limbs of the 3D poses are. Joints that
are not marked are not counted. Frames are no sequence here: each is given to the model by itself.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

import cv2
import numpy as np
import torch

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera, InputView
from agego_lib.camera.view import CROPS
from agego_lib.datasets.decoding import decode_image
from agego_lib.files import file_digest, read_json, write_json
from agego_lib.heatmaps import decode_heatmaps
from agego_lib.images import to_tensor
from agego_lib.inference import predict_sequence
from agego_lib.models import WeightsError, weights
from agego_lib.models.build import load_heatmap_net, load_model
from agego_lib.skeleton import NUM_JOINTS
from agego_video.overlay import draw_skeleton
from benchmarks.common import RESULTS, machine, shown, table, target

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION = "fisheye.calibration.json"
SIDE = 1024  # px of a frame's shorter side, that thresholds are of
THRESHOLDS = (64, 32)
GROUPS = {
    "neck, shoulders": (0, 1, 4),
    "elbows": (2, 5),
    "wrists": (3, 6),
    "hips": (7, 11),
    "knees": (8, 12),
    "ankles, toes": (9, 10, 13, 14),
    "all": tuple(range(NUM_JOINTS)),
}
# Right and left bones, as (parent, child).
LIMBS = {
    "shoulder": ((0, 1), (0, 4)),
    "upper arm": ((1, 2), (4, 5)),
    "forearm": ((2, 3), (5, 6)),
    "flank": ((1, 7), (4, 11)),
    "thigh": ((7, 8), (11, 12)),
    "shin": ((8, 9), (12, 13)),
    "foot": ((9, 10), (13, 14)),
}
# At least this share of all marked joints within px.
WANTED = {"heatmaps": {64: 0.97, 32: 0.85}, "3D, projected": {64: 0.95, 32: 0.75}}
HEIGHT = 768  # px of a picture
MARK = (80, 255, 255)


class FramesError(ValueError):
    """Frames or marks that cannot be used; the message names the file, what was found and what was expected."""


@dataclass(frozen=True)
class MarkedFrames:
    """N frames with marked joints. names: of their files. images: full ones, BGR, black where a file is cropped.

    joints: (N, 15, 2) px in the full image, NaN where not marked. camera: of the full image.
    """

    names: list
    images: list
    joints: np.ndarray
    camera: FisheyeCamera


def _joints(path, name, marks, size):
    """The marks of one frame, as joints.json has them -> (15, 2) px."""
    joints = np.full((NUM_JOINTS, 2), np.nan)
    if not isinstance(marks, dict):
        raise FramesError(f"{path}: {name}: {short(marks)}; expected places [u, v] by joint number")
    for key, place in marks.items():
        if key not in map(str, range(NUM_JOINTS)):
            raise FramesError(f"{path}: {name}: joint {key!r}; expected a number from 0 to {NUM_JOINTS - 1}")
        numbers = isinstance(place, list) and len(place) == 2 and all(type(v) in (int, float) for v in place)
        if not (numbers and all(-0.5 <= v < side - 0.5 for v, side in zip(place, size, strict=True))):
            raise FramesError(
                f"{path}: {name}: joint {key} at {short(place)}; expected [u, v] within {size[0]}x{size[1]} px"
            )
        joints[int(key)] = place
    return joints


def read_marked(folder, calibration=None) -> MarkedFrames:
    """The frames that a folder's joints.json names. calibration: OCamCalib JSON, by default the folder's.

    Raises FramesError and CalibrationError.
    """
    folder = Path(folder)
    path = folder / "joints.json"
    camera = FisheyeCamera.from_json(calibration or folder / CALIBRATION)
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise FramesError(f'{path}: no such file; expected {{"frames": {{file: {{joint: [u, v]}}}}}}') from None
    except (OSError, ValueError) as error:
        raise FramesError(f"{path}: not readable as JSON ({error})") from None
    marks = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(marks, dict) or not marks:
        raise FramesError(f"{path}: 'frames' is {short(marks)}; expected marks by file name, of one frame at least")
    view = InputView.of(camera, 32, "none")
    images, joints = [], []
    for name, places in marks.items():
        joints.append(_joints(path, name, places, camera.size))
        try:
            images.append(view.whole(decode_image(folder / name, view.check_size)))
        except ValueError as error:
            raise FramesError(f"{folder / name}, named in {path.name}: {error}") from None
    return MarkedFrames(list(marks), images, np.stack(joints), camera)


def seen(images, view):
    """Full BGR frames -> RGB in the model's view (N, S, S, 3)."""
    return np.stack([cv2.cvtColor(view.apply(image), cv2.COLOR_BGR2RGB) for image in images])


def places(maps, view):
    """Heatmaps (N, 15, h, h) -> their joints (N, 15, 2), px in the full image."""
    joints, _ = decode_heatmaps(np.asarray(maps, np.float32))
    return view.to_full(joints, maps.shape[-1])


@torch.inference_mode()
def run_model(model, config, frames):
    """A pose model on marked frames -> (heatmap joints (N, 15, 2) px or None without them, poses (N, 15, 3) m).

    Each frame is a sequence of its own: a padded window.
    """
    view = InputView.of(frames.camera, config["input"]["size"], config["input"]["crop"])
    images, window = seen(frames.images, view), config["window"]
    maps = model.frozen_features(to_tensor(images)).get("heatmaps")
    poses = [predict_sequence(model, image[None], length=window["length"], stride=window["stride"]) for image in images]
    return None if maps is None else places(maps.numpy(), view), np.concatenate(poses)


@torch.inference_mode()
def run_heatmaps(net, size, crop, frames):
    """A heatmap network alone on marked frames -> its joints (N, 15, 2), px in the full image."""
    view = InputView.of(frames.camera, size, crop)
    return places(net(to_tensor(seen(frames.images, view))).sigmoid().numpy(), view)


def pck_rows(found, frames):
    """Shares of the marked joints within each threshold, by group -> list of dicts.

    found: {what: joints (N, 15, 2), px in the full image}. A joint that was found nowhere counts as missed.
    """
    rows = []
    for what, joints in found.items():
        distance = np.linalg.norm(joints - frames.joints, axis=-1) * (SIDE / min(frames.camera.size))
        marked = np.isfinite(frames.joints).all(-1)
        for group, members in GROUPS.items():
            of = distance[:, members][marked[:, members]]
            share = {f"PCK at {px} px": float((of <= px).mean()) if len(of) else None for px in THRESHOLDS}
            middle = float(np.nanmedian(of)) if np.isfinite(of).any() else None
            rows.append({"joints of": what, "group": group, "marked": len(of), **share, "median (px)": middle})
    return rows


def limb_rows(poses):
    """Lengths of the limbs of poses (N, 15, 3) m, in mm, means over the frames -> list of dicts."""
    rows = []
    for name, bones in LIMBS.items():
        right, left = (1000 * np.linalg.norm(poses[:, b] - poses[:, a], axis=-1) for a, b in bones)
        both = np.concatenate([right, left])
        row = {"limb": name, "right (mm)": right.mean(), "left (mm)": left.mean()}
        row |= {"shortest (mm)": both.min(), "longest (mm)": both.max()}
        rows.append({k: v if k == "limb" else float(v) for k, v in row.items()})
        rows[-1]["left and right apart (mm)"] = float(np.abs(right - left).mean())
    return rows


def pictures(folder, frames, found):
    """One PNG a frame in `folder`: what was found, side by side, and the marks as crosses."""
    folder.mkdir(parents=True, exist_ok=True)
    factor = HEIGHT / frames.camera.size[1]
    for i, (name, image) in enumerate(zip(frames.names, frames.images, strict=True)):
        panels = []
        for what, joints in found.items():
            panel = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            draw_skeleton(panel, (joints[i] + 0.5) * factor - 0.5, 3, outline=(255, 255, 255))
            for mark in frames.joints[i][np.isfinite(frames.joints[i]).all(-1)]:
                at = [round(v) for v in (mark + 0.5) * factor - 0.5]
                cv2.drawMarker(panel, at, MARK, cv2.MARKER_TILTED_CROSS, 14, 2)
            cv2.putText(panel, what, (8, HEIGHT - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, MARK, 1, cv2.LINE_AA)
            panels.append(panel)
        path = folder / f"{Path(name).stem}.png"
        if not cv2.imwrite(str(path), np.hstack(panels)):
            raise FramesError(f"{path}: could not be written; choose another folder with --out")


def _view_of(info, path, size, crop):
    """Size and crop that a heatmap network was trained with: as its .json has them, or as they are given."""
    size, crop = size or info.get("size"), crop or info.get("crop")
    if size is None or crop is None:
        raise WeightsError(f"{Path(path).with_suffix('.json')} does not say the view; name it with --size and --crop")
    return size, crop


def check(options):
    """What was asked for on the command line -> (results as a JSON-able dict, MarkedFrames, joints found by kind)."""
    frames = read_marked(options.folder, options.calibration)
    path, poses = Path(options.heatmaps or options.model), None
    if options.heatmaps:
        net = load_heatmap_net(path)
        size, crop = _view_of(weights.load(path)[1], path, options.size, options.crop)
        found = {"heatmaps": run_heatmaps(net, size, crop, frames)}
    else:
        try:
            model, config = load_model(path)
        except WeightsError as error:
            hint = "; run `dvc pull released.dvc`, or name another one with --model" if not path.is_file() else ""
            raise WeightsError(f"{error}{hint}") from None
        size, crop = config["input"]["size"], config["input"]["crop"]
        joints, poses = run_model(model, config, frames)
        found = {} if joints is None else {"heatmaps": joints}
        found["3D, projected"] = frames.camera.project(poses)
    rows = pck_rows(found, frames)
    total = {row["joints of"]: row for row in rows if row["group"] == "all"}
    targets = [
        target(f"PCK at {px} px, {what}", total[what][f"PCK at {px} px"], least)
        for what in found
        for px, least in WANTED[what].items()
        if total[what]["marked"]
    ]
    settings = {"frames": len(frames.names), "size": size, "crop": crop, "model_sha256": file_digest(path)}
    result = {"machine": machine(), "settings": settings, "rows": rows, "targets": targets}
    return result | {"limbs": [] if poses is None else limb_rows(poses)}, frames, found


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_frames", description=__doc__.split(":")[0])
    parser.add_argument("folder", type=Path, help=f"frames, joints.json and {CALIBRATION}")
    parser.add_argument("--calibration", type=Path, help="OCamCalib JSON (default: the folder's)")
    parser.add_argument("--model", type=Path, default=ROOT / params.RELEASED, help="default: %(default)s")
    parser.add_argument("--heatmaps", type=Path, help="a heatmap_net.safetensors to check alone, in place of a model")
    parser.add_argument("--size", type=int, help="px of the view of --heatmaps, where its .json does not say it")
    parser.add_argument("--crop", choices=CROPS, help="crop of the view of --heatmaps, where its .json does not say it")
    parser.add_argument("--out", type=Path, help="folder of one picture a frame")
    parser.add_argument(
        "--out-json", type=Path, nargs="?", const=RESULTS / "real_frames.json", help="write results (to: %(const)s)"
    )
    options = parser.parse_args(arguments)
    try:
        result, frames, found = check(options)
        print(f"\nreal_frames: {result['settings']}\n\n{table(result['rows'])}\n")
        if result["limbs"]:
            print(f"{table(result['limbs'])}\n")
        for entry in result["targets"]:
            verdict = "met" if entry["met"] else "MISSED"
            print(f"{entry['what']}: {shown(entry['measured'])}, target at least {entry['at_least']}: {verdict}")
        if options.out:
            pictures(options.out, frames, found)
        if options.out_json:
            write_json(options.out_json, result)
    except (FramesError, CalibrationError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
