"""What every baseline goes through: its data, its making by name, its loss, its test and its cost."""

from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from torch import nn

from agego_lib import metrics
from agego_lib.datasets import FrameItems
from agego_lib.evaluation import complexity, sequence_errors
from agego_lib.heatmaps import decode_heatmaps
from agego_lib.losses import PoseLoss
from agego_lib.models import HeatmapNet
from agego_lib.params import BESIDE, BaselineName
from agego_lib.progress import bar
from agego_lib.skeleton import PARENTS

from .egohmr import EgoHMR
from .egoposeformer import EgoPoseFormer
from .egopw import EgoPW
from .egotap import EgoTAP
from .egowholemocap import EgoWholeMocap
from .kolotouros import Kolotouros
from .lens import lens_of
from .mo2cap2 import Mo2Cap2, Mo2Cap2Zoom
from .nearest import NearestPose
from .sceneego import SceneEgo, usual_depth
from .selfpose import SelfPose
from .xr_egopose import XREgoPose

METHODS = get_args(BaselineName)
# Those that do not read EgoPW's labels.
PSEUDO_LABELLED = ("egopw", "egopw_one_view")
# Methods that read the depth of the scene, and the splits whose depth they read.
DEPTH = {method: splits["egopw"] for method, (file, _, splits) in BESIDE.items() if file == "depth.npz"}
CHUNK = 64  # frames whose heatmaps are decoded at once
NO_DEPTH = (
    "the embedded data have it once they are rendered anew (`dvc repro`); for other data put depth.npz beside each "
    "sequence's imgs/ (datasets.sequence.read_depth) and prepare again, or leave it out of ablation.baselines"
)


class FrameFeatures(FrameItems):
    """Single frames of prepared sequences as the baselines see them, from a FeatureStore.

    An item: `heatmaps` (J, h, w) and `trunk` (C, h', w') float32, `pixels` (J, 2) float32, the maps' peaks in shares
    of the view's side, `rays` (J, 3) float32, unit vectors of the camera through them, `joints_3d` (J, 3) m, and,
    unless the view is "fovea", `lens` (see lens.py). With depth also `depth` (side, side) float32, m, 0 where unknown;
    with a mo2cap2.Zoom, `zoom`, also `zoomed` (3, S, S) uint8, what it shows of the frame, or, once `places` has what
    the second detector sees there of each sequence's frames, that (6, 2).
    Raises ValueError where there is no store, as these methods read nothing else, or a sequence without its depth.
    """

    def __init__(self, sequences, store, depth=False, zoom=None):
        if store is None:
            raise ValueError("baselines read stored features; raise features.limit_gb and run `dvc repro features`")
        super().__init__(sequences)
        self.store, self.depth, self.zoom, self.places = store, depth, zoom, None
        lacking = [str(sequence.path) for sequence in self.sequences if depth and sequence.depth is None]
        if lacking:
            raise ValueError(
                f"{lacking[0]} and {len(lacking) - 1} more hold no depth of the scene, which this baseline reads; "
                f"{NO_DEPTH}"
            )
        self._lenses = [lens_of(sequence) for sequence in self.sequences]
        self._found = {}

    def _peaks(self, number):
        """(`pixels`, `rays`) of all frames of a sequence, kept: frame by frame they take half of a step's reading."""
        if number not in self._found:
            sequence, parts = self.sequences[number], []
            for start in range(0, len(sequence), CHUNK):
                # A slice of a mapped file reads nothing of the trunk, which is not looked at.
                heatmaps = self.store.read(number, slice(start, start + CHUNK))["heatmaps"].astype(np.float32)
                side = heatmaps.shape[-1]
                places, _ = decode_heatmaps(heatmaps)
                # A map without any value has no peak; its middle says as little.
                places = np.where(np.isnan(places), (side - 1) / 2, places)
                rays = sequence.camera.unproject(sequence.view.to_full(places, side), np.ones(places.shape[:-1]))
                parts.append((((places + 0.5) / side).astype(np.float32), rays.astype(np.float32)))
            self._found[number] = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return self._found[number]

    def frames(self, number, indices):
        """Frames `indices` (n,) of sequence `number` -> dict of arrays (n, ...)."""
        sequence, features = self.sequences[number], self.store.read(number, indices)
        pixels, rays = (found[indices] for found in self._peaks(number))
        lens = self._lenses[number]
        return {
            **({} if lens is None else {"lens": np.tile(lens, (len(indices), 1))}),
            **({"depth": sequence.depth[indices].astype(np.float32)} if self.depth else {}),
            **self._zoomed(number, indices),
            "heatmaps": features["heatmaps"].astype(np.float32),
            "trunk": features["trunk"].astype(np.float32),
            "pixels": pixels,
            "rays": rays,
            "joints_3d": sequence.joints_3d[indices],
        }

    def _zoomed(self, number, indices):
        if self.places is not None:
            return {"places": self.places[number][indices]}
        if self.zoom is None:
            return {}
        return {"zoomed": np.stack([*map(self.zoom.enlarged, self.sequences[number].images(indices))])}

    def __getitem__(self, item):
        number, frame = self.place(item)
        return {name: torch.from_numpy(value[0]) for name, value in self.frames(number, [frame]).items()}


def new_baseline(name, frames, mean_pose, input_scale=1.0, detector=None):
    """An untrained baseline of METHODS ("nearest" needs no training) for FrameFeatures of its training split.

    mean_pose: (15, 3) m, where its output starts. input_scale: what a lifter multiplies the maps by.
    detector: the HeatmapNet that mo2cap2_zoom, whose frames have a `zoom`, starts its second one from; by default a new
    one. Raises ValueError for an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"baseline {name!r}; expected {', '.join(METHODS)}")
    if name == "nearest":
        return NearestPose(frames)
    first = frames.frames(0, [0])
    joints, side, channels = first["heatmaps"].shape[1], first["heatmaps"].shape[-1], first["trunk"].shape[1]
    poses = np.concatenate([sequence.joints_3d for sequence in frames.sequences]).astype(np.float64)
    if name == "xr_egopose":
        return XREgoPose(joints, side, mean_pose, input_scale)
    if name == "selfpose":
        # At rest bones point as those of the mean pose, whose own are shorter than anybody's.
        direction = mean_pose - mean_pose[list(PARENTS)]
        length = np.linalg.norm(poses - poses[:, list(PARENTS)], axis=-1).mean(0)
        bones = direction * (length / np.linalg.norm(direction, axis=-1).clip(1e-6))[:, None]
        return SelfPose(joints, side, mean_pose, bones, input_scale)
    if name == "egotap":
        return EgoTAP(side, mean_pose, input_scale)
    if name == "mo2cap2_zoom":
        distances, second = np.linalg.norm(mean_pose, axis=-1), (detector or HeatmapNet()).freeze()
        return Mo2Cap2Zoom(joints, channels, distances, second, frames.zoom)
    if name in ("mo2cap2", *PSEUDO_LABELLED):
        kind = Mo2Cap2 if name == "mo2cap2" else EgoPW
        return kind(joints, channels, np.linalg.norm(mean_pose, axis=-1))
    if name == "egoposeformer":
        return EgoPoseFormer(joints, channels, mean_pose, input_scale)
    if name == "egowholemocap":
        # Room beyond the farthest joint, as an expected place never reaches the end of its axis.
        return EgoWholeMocap(joints, channels, 1.2 * np.linalg.norm(poses, axis=-1).max())
    if name in DEPTH:
        low, high = np.percentile(poses.reshape(-1, 3), [0.1, 99.9], axis=0)
        # Room beyond the farthest joints, as an expected place never reaches the end of its axis.
        room = 0.15 * (high - low)
        true = "test" in DEPTH[name]
        usual = None if true else usual_depth(np.concatenate([sequence.depth for sequence in frames.sequences]))
        return SceneEgo(joints, channels, low - room, high + room, usual)
    deviation = poses.std(0).clip(0.01)
    return {"kolotouros": Kolotouros, "egohmr": EgoHMR}[name](joints, channels, mean_pose, deviation)


class BaselineObjective(nn.Module):
    """The composite loss of Sec. 3.4 on single frames, and a baseline's own terms where it has some."""

    def __init__(self, model, loss_settings):
        super().__init__()
        self.model = model
        self.loss = PoseLoss(loss_settings.lambda_pos, loss_settings.lambda_bone, loss_settings.lambda_cos)

    def forward(self, batch):
        target = batch["joints_3d"]
        prediction, own = self.model.training_terms(batch)
        total, terms = self.loss(prediction, target) if self.model.composite else (0, {})
        total = sum(own.values(), start=total)
        values = {name: term.detach() for name, term in {**terms, **own}.items()}
        error = metrics.mpjpe(prediction.detach(), target)
        return total, {"loss": total.detach(), **values, "mpjpe_mm": error * 1000}


def frame_optimiser(optimiser, window):
    """A window optimiser's settings for single frames: as many frames a step, and as many steps."""
    visits = window.length / window.stride  # how often windows show a frame in an epoch
    return replace(
        optimiser,
        batch_size=optimiser.batch_size * window.length,
        epochs=max(1, round(optimiser.epochs * visits)),
    )


@torch.inference_mode()
def predict_frames(model, frames, label="predicting", chunk=256, call=None):
    """Poses of every frame of a FrameFeatures -> list of (N_i, 15, 3) float32 m, one a sequence.

    call: what is asked of a batch, by default the model; `model.samples` gives (N_i, K, 15, 3).
    """
    model.eval()
    poses, call = [], call or model
    with bar(len(frames), label, "frame") as progress:
        for number, sequence in enumerate(frames.sequences):
            parts = []
            for start in range(0, len(sequence), chunk):
                indices = np.arange(start, min(start + chunk, len(sequence)))
                batch = {k: torch.from_numpy(v) for k, v in frames.frames(number, indices).items()}
                parts.append(call(batch).float().numpy())
                progress.update(len(indices))
            poses.append(np.concatenate(parts))
    return poses


def sample_errors(samples, sequences):
    """Errors of K samples a frame, [(N_i, K, 15, 3) m, one a sequence] -> dict of means over frames, mm.

    `first_` of each frame's first sample, `mean_of_k_` of the samples' mean, `best_of_k_` of the one nearest to the
    truth by that very measure: an oracle's choice, which no method can make, and which falls with K.
    """
    count = samples[0].shape[1]
    each = [sequence_errors([s[:, k] for s in samples], sequences) for k in range(count)]
    middle = sequence_errors([s.mean(1) for s in samples], sequences)
    found = {"samples": count}
    for name in ("mpjpe", "pa_mpjpe"):
        values = np.stack([getattr(errors, name) for errors in each])
        means = {"first": values[0], "mean_of_k": getattr(middle, name), "best_of_k": values.min(0)}
        found |= {f"{key}_{name}_mm": round(float(value.mean()), 2) for key, value in means.items()}
    return found


def cost(model, frames):
    """`complexity.cost` of a model, beside the frozen networks.

    What training alone needs counts as parameters too. Macs are those of layers and matrix products; "nearest" compares
    with every training pose, which torch does not count.
    """
    batch = {k: torch.from_numpy(v) for k, v in frames.frames(0, np.arange(1)).items()}
    model.eval()
    return complexity.cost(model.parameters(), lambda: model(batch), 1)
