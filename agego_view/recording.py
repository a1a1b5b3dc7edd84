"""What one trained model sees and says of one sequence, computed once, for looking at it frame by frame."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from agego_lib import params
from agego_lib.camera import InputView
from agego_lib.datasets import DatasetError, PreparedSequence, WindowDataset, read_split
from agego_lib.datasets.decoding import decode_image
from agego_lib.datasets.features import open_features
from agego_lib.datasets.preparation import KINDS
from agego_lib.evaluation import PoseErrors, predict_split, sequence_errors
from agego_lib.models.build import load_model
from agego_lib.params import WindowSettings
from agego_lib.skeleton import BONES, NUM_JOINTS
from agego_lib.training.rows import LOSSES
from agego_view.attention import watched

# Which joints a bone connects.
NEIGHBOURS = np.zeros((NUM_JOINTS, NUM_JOINTS), bool)
NEIGHBOURS[tuple(np.transpose(BONES))] = True
NEIGHBOURS |= NEIGHBOURS.T


@dataclass(frozen=True)
class Recording:
    """N frames of a prepared sequence as a model sees them. Attention is the mean over heads; its rows sum to 1.

    poses: (N, 15, 3) m. errors: PoseErrors of them. windows: the frames of each window, as indices in the sequence.
    heatmaps: (N, 15, h, w) float16, what the spatial stream reads; None without that stream.
    cross: (N, layers, 15, 15), from each joint's query (rows) to the memory's joints (columns), the mean over the
    windows that a frame is in, as its pose is; None without cross-attention.
    motion: for each window (blocks, T, T), from each frame (rows) to each frame, None without the motion stream.
    local_blocks: how many of the blocks are local ones; 0 without the motion stream.
    """

    sequence: "PreparedSequence | OtherView"
    poses: np.ndarray
    errors: PoseErrors
    windows: list
    heatmaps: np.ndarray | None
    cross: np.ndarray | None
    motion: list | None
    local_blocks: int

    def __len__(self):
        return len(self.poses)

    def motion_at(self, frame):
        """Where the motion blocks look from `frame` -> (frames (K,), weights (W, blocks, K)) of the W windows it is in.

        frames: all those of these windows, ascending, as indices in the sequence; NaN where a window does not hold one.
        Raises ValueError where the model has no motion stream.
        """
        if self.motion is None:
            raise ValueError("this model has no motion stream")
        places = [(w, int(i)) for w, frames in enumerate(self.windows) for i in np.flatnonzero(frames == frame)]
        frames = np.unique(np.concatenate([self.windows[w] for w, _ in places]))
        weights = np.full((len(places), len(self.motion[0]), len(frames)), np.nan, np.float32)
        for row, (w, i) in zip(weights, places, strict=True):
            row[:, np.searchsorted(frames, self.windows[w])] = self.motion[w][:, i]
        return frames, weights


def record(model, sequence, window, store=None, label="predicting"):
    """Run an AGEgoPose over a PreparedSequence as the evaluation does and note what it sees -> Recording.

    window: WindowSettings. store: FeatureStore of this one sequence, or None to compute from the images.
    """
    with watched(model) as notes:
        (poses,) = predict_split(model, [sequence], window, store, label)
    cut = WindowDataset([sequence], window.length, window.stride, window.max_gap, step=window.step)
    windows = [np.arange(start, stop, window.step) for _, start, stop in cut.windows]
    heatmaps = cross = motion = None
    if notes["heatmaps"]:
        # Each run of frames is encoded once, in the order in which its windows first need them.
        order = list(dict.fromkeys(np.concatenate(windows).tolist()))
        heatmaps = np.empty((len(order), *notes["heatmaps"][0].shape[1:]), np.float16)
        heatmaps[order] = np.concatenate(notes["heatmaps"])
    if notes["cross"]:
        layers, joints = len(notes["cross"][0]), notes["cross"][0].shape[-1]
        cross, count = np.zeros((len(poses), layers, joints, joints), np.float32), np.zeros(len(poses), int)
        for frames, weights in zip(windows, notes["cross"], strict=True):
            cross[frames] += weights[:, : len(frames)].swapaxes(0, 1)  # beyond them lies padding
            count[frames] += 1
        cross /= count[:, None, None, None]
    if notes["motion"]:
        motion = [w[:, : len(f), : len(f)] for f, w in zip(windows, notes["motion"], strict=True)]
    local = model.motion_encoder.local_blocks if model.use_motion else 0
    errors = sequence_errors([poses], [sequence])
    return Recording(sequence, poses, errors, windows, heatmaps, cross, motion, local)


class OtherView:
    """A prepared sequence in another view, its frames read from the data set's own images; all else is as prepared.

    paths: of the images, one a frame.
    """

    def __init__(self, sequence, view, paths):
        self.sequence, self.view, self.paths = sequence, view, paths

    def __getattr__(self, name):
        return getattr(self.sequence, name)

    def __len__(self):
        return len(self.sequence)

    def joints_view(self, size=None):
        """As that of PreparedSequence."""
        return self.view.to_view(self.sequence.joints_2d, size).astype(np.float32)

    def images(self, indices):
        """Frames of the view at `indices` -> (n, size, size, 3) uint8 RGB. Raises DatasetError where one is missing."""
        images = []
        for index in indices:
            try:
                image = self.view.apply(decode_image(self.paths[index], self.view.check_size))
            except ValueError as error:
                raise DatasetError(f"{self.paths[index]}: {error}") from None
            images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        return np.stack(images)


def in_view(root, sequence, size, crop):
    """A prepared sequence in the view that a model was trained with: itself, or its data set's images (OtherView).

    Raises DatasetError where it is in none of the project's lists.
    """
    if (sequence.view.size, sequence.view.crop) == (size, crop):
        return sequence
    place = getattr(params.load(Path(root) / "params.yaml").dataset, sequence.dataset)
    listed = getattr(place, f"{sequence.split}_list")
    for folder in read_split(params.locate(root, listed), params.locate(root, place.root)):
        if KINDS[sequence.dataset].sequence_name(folder) == sequence.name:
            view = InputView.of(sequence.camera, size, crop)
            return OtherView(sequence, view, [folder / "imgs" / name for name in sequence.frame_names])
    raise DatasetError(f"{listed}: no {sequence.name}, which is prepared; prepare the data again (`dvc repro prepare`)")


def find_models(root):
    """The pose models of a project -> {name of the run: its weights file}, full ones first.

    Those that runs left under `root`/artifacts, and the released one.
    """
    artifacts, released = Path(root) / "artifacts", Path(root) / params.RELEASED
    folders = [artifacts / "finetune", artifacts / "pose", *sorted((artifacts / "ablate").glob("*"))]
    found = {f.name: f / "model.safetensors" for f in folders} | {"released": released}
    order = ("finetune", "pose", "released", *found)
    return {name: found[name] for name in dict.fromkeys(order) if found[name].is_file()}


def record_run(root, run, sequence, device="cpu"):
    """`record` the model of a run named as in `find_models`, in its own windows and view.

    Stored features are read where there are some. Raises WeightsError for a run without a model, FeatureError
    where features.json is missing or does not fit, and DatasetError where the released model needs images of another
    view and they are not there.
    """
    artifacts = Path(root) / "artifacts"
    places = {name: artifacts / name for name in ("pose", "finetune")}
    places["released"] = (Path(root) / params.RELEASED).parent
    model, config = load_model(places.get(run, artifacts / "ablate" / run) / "model.safetensors")
    if run == "released":
        store, sequence = None, in_view(root, sequence, config["input"]["size"], config["input"]["crop"])
    else:
        # A row of Table 6 reads the heatmaps of another network; a number after the dash is a seed.
        loss = LOSSES.get(run.split("-")[0])
        store = open_features(artifacts / "features", [sequence], artifacts / f"features_{loss}" if loss else None)
    return record(model.to(device), sequence, WindowSettings(**config["window"]), store, f"{run}, {sequence.name}")


def attention_summary(recording):
    """Where attention goes over a whole recording -> list of dicts: part, measure, value, evenly.

    For each decoder layer the share on the query's own joint and on those that a bone connects with it; for each motion
    block how many frames away it looks on average. "evenly" is what the same weight on all that may be seen would give.
    """
    rows = []
    for layer, weights in enumerate([] if recording.cross is None else recording.cross.mean(0)):
        shares = {"own joint": np.eye(NUM_JOINTS), "its neighbours": NEIGHBOURS}
        for name, where in shares.items():
            value, evenly = (float((w * where).sum(1).mean()) for w in (weights, np.full_like(weights, 1 / NUM_JOINTS)))
            row = {
                "part": f"decoder layer {layer + 1}",
                "measure": f"share on {name}",
                "value": value,
                "evenly": evenly,
            }
            rows.append(row)
    numbers = recording.sequence.frame_numbers
    away = [np.abs(numbers[f][:, None] - numbers[f]) for f in recording.windows]
    for block in range(len(recording.motion[0]) if recording.motion else 0):
        weights = [w[block] for w in recording.motion]
        # A pair that a local block may not look at has no weight at all.
        seen = [(w > 0) / (w > 0).sum(1, keepdims=True) for w in weights]
        value, evenly = (
            float(np.concatenate([(d * w).sum(1) for d, w in zip(away, group, strict=True)]).mean())
            for group in (weights, seen)
        )
        kind = "local" if block < recording.local_blocks else "global"
        row = {"part": f"{kind} block {block + 1}", "measure": "frames away", "value": value, "evenly": evenly}
        rows.append(row)
    return rows
