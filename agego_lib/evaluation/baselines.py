"""Baselines in the same harness as the paper's model: same splits, frozen features, losses and metrics.

Each is a small class after the idea of a known method, frame by frame; its docstring says what of the original it
keeps and what it does not. The mean pose, the weakest of them, is `evaluation.mean_pose`.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from agego_lib import metrics
from agego_lib.datasets import FrameItems
from agego_lib.heatmaps import decode_heatmaps
from agego_lib.losses import PoseLoss
from agego_lib.progress import bar


class FrameFeatures(FrameItems):
    """Single frames of prepared sequences as the baselines see them, from a FeatureStore.

    An item: `heatmaps` (J, h, w) and `trunk` (C, h', w') float32, `pixels` (J, 2) float32, the maps' peaks in shares
    of the view's side, `rays` (J, 3) float32, unit vectors of the camera through them, `joints_3d` (J, 3) m.
    Raises ValueError where there is no store: these methods read nothing else.
    """

    def __init__(self, sequences, store):
        if store is None:
            raise ValueError("baselines read stored features; raise features.limit_gb and run `dvc repro features`")
        super().__init__(sequences)
        self.store = store

    def frames(self, number, indices):
        """Frames `indices` (n,) of sequence `number` -> dict of arrays (n, ...)."""
        sequence, features = self.sequences[number], self.store.read(number, indices)
        heatmaps = features["heatmaps"].astype(np.float32)
        side = heatmaps.shape[-1]
        places, _ = decode_heatmaps(heatmaps)
        # A map without any value has no peak; its middle says as little.
        places = np.where(np.isnan(places), (side - 1) / 2, places)
        rays = sequence.camera.unproject(sequence.view.to_full(places, side), np.ones(places.shape[:-1]))
        return {
            "heatmaps": heatmaps,
            "trunk": features["trunk"].astype(np.float32),
            "pixels": ((places + 0.5) / side).astype(np.float32),
            "rays": rays.astype(np.float32),
            "joints_3d": sequence.joints_3d[indices],
        }

    def __getitem__(self, item):
        number, frame = self.place(item)
        return {name: torch.from_numpy(value[0]) for name, value in self.frames(number, [frame]).items()}


class NearestPose(nn.Module):
    """The pose of the training frame whose 2D joints are nearest: what remembering, without learning, gives.

    Not a published method. 2D joints are the peaks of the same predicted heatmaps that the other methods read, on both
    sides; the distance is Euclidean over all joints.
    """

    def __init__(self, frames):
        super().__init__()
        parts = [frames.frames(i, np.arange(len(s))) for i, s in enumerate(frames.sequences)]
        self.register_buffer("pixels", torch.from_numpy(np.concatenate([p["pixels"] for p in parts])).flatten(1))
        self.register_buffer("poses", torch.from_numpy(np.concatenate([p["joints_3d"] for p in parts])).float())

    def forward(self, batch):
        return self.poses[torch.cdist(batch["pixels"].flatten(1), self.pixels).argmin(1)]


class XREgoPose(nn.Module):
    """Heatmaps to pose through a bottleneck, which must give the heatmaps back too (Tome et al., ICCV 2019).

    Kept: three stride-2 convolutions, a 20-dimensional embedding, one branch to the pose and one that reconstructs the
    heatmaps. Not kept: the ResNet-101 detector (the heatmaps are ours), layers of 2048 units (512 here, as the maps
    are smaller), the original's own loss weights (Sec. 3.4's loss is used, as for every method here).
    """

    embedding = 20

    def __init__(self, num_joints, side, mean_pose, input_scale=1.0):
        super().__init__()
        self.input_scale, after = input_scale, side
        for _ in range(3):
            after = (after + 1) // 2
        widths = (num_joints, 64, 128, 256)
        convolutions = [
            layer
            for w_in, w_out in pairwise(widths)
            for layer in (nn.Conv2d(w_in, w_out, 3, stride=2, padding=1), nn.LeakyReLU(0.2))
        ]
        self.encode = nn.Sequential(
            *convolutions,
            nn.Flatten(), nn.Linear(256 * after**2, 512), nn.LeakyReLU(0.2), nn.Linear(512, self.embedding),
        )  # fmt: skip
        self.pose = nn.Sequential(
            nn.Linear(self.embedding, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2),
            nn.Linear(32, num_joints * 3),
        )  # fmt: skip
        # Logits of the maps, an eighth of whose side is grown back by three doublings.
        self.grow = nn.Sequential(nn.Linear(self.embedding, 512), nn.LeakyReLU(0.2), nn.Linear(512, 64 * after**2))
        self.reconstruct = nn.Sequential(
            nn.Unflatten(1, (64, after, after)),
            nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(32, num_joints, 4, stride=2, padding=1),
        )  # fmt: skip
        self.register_buffer("mean", torch.as_tensor(mean_pose).float())

    def forward(self, batch):
        z = self.encode(batch["heatmaps"] * self.input_scale)
        return self.pose(z).unflatten(1, (-1, 3)) + self.mean

    def extra_loss(self, batch):
        """Mean squared error of the heatmaps that the embedding gives back."""
        maps = batch["heatmaps"]
        logits = self.reconstruct(self.grow(self.encode(maps * self.input_scale)))
        return F.mse_loss(logits[..., : maps.shape[-2], : maps.shape[-1]].sigmoid(), maps)


class Mo2Cap2(nn.Module):
    """2D joints and, for each, its distance along the fisheye camera's ray (Xu et al., TVCG 2019).

    Kept: 3D joints are 2D detections pushed out along their rays through the calibrated camera; distances are
    regressed from the detector's features. Not kept: the second detector on a zoomed lower body, and training on
    distances alone (the loss is Sec. 3.4's on the resulting joints, as for every method here).
    """

    def __init__(self, num_joints, channels, mean_distance):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.distances = nn.Sequential(nn.Linear(128 * 16 + 2 * num_joints, 256), nn.ReLU(), nn.Linear(256, num_joints))
        self.register_buffer("mean", torch.as_tensor(mean_distance).float())

    def forward(self, batch):
        seen = torch.cat([self.features(batch["trunk"]), batch["pixels"].flatten(1)], dim=1)
        return batch["rays"] * (self.mean + self.distances(seen)).unsqueeze(-1)


def new_baseline(name, frames, mean_pose, input_scale=1.0):
    """An untrained baseline ("nearest" needs no training) for FrameFeatures of its training split.

    mean_pose: (15, 3) m, where its output starts. input_scale: what a lifter multiplies the maps by.
    Raises ValueError for an unknown name.
    """
    if name == "nearest":
        return NearestPose(frames)
    first = frames.frames(0, [0])
    joints, side = first["heatmaps"].shape[1], first["heatmaps"].shape[-1]
    if name == "xr_egopose":
        return XREgoPose(joints, side, mean_pose, input_scale)
    if name == "mo2cap2":
        return Mo2Cap2(joints, first["trunk"].shape[1], np.linalg.norm(mean_pose, axis=-1))
    raise ValueError(f"baseline {name!r}; expected nearest, xr_egopose or mo2cap2")


class BaselineObjective(nn.Module):
    """The composite loss of Sec. 3.4 on single frames, and a baseline's own term where it has one."""

    def __init__(self, model, loss_settings):
        super().__init__()
        self.model = model
        self.loss = PoseLoss(loss_settings.lambda_pos, loss_settings.lambda_bone, loss_settings.lambda_cos)

    def forward(self, batch):
        prediction, target = self.model(batch), batch["joints_3d"]
        total, terms = self.loss(prediction, target)
        values = {name: term.detach() for name, term in terms.items()}
        if hasattr(self.model, "extra_loss"):
            values["reconstruction"] = self.model.extra_loss(batch)
            total = total + values["reconstruction"]
            values["reconstruction"] = values["reconstruction"].detach()
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
def predict_frames(model, frames, label="predicting", chunk=256):
    """Poses of every frame of a FrameFeatures -> list of (N_i, 15, 3) float32 m, one a sequence."""
    model.eval()
    poses = []
    with bar(len(frames), label, "frame") as progress:
        for number, sequence in enumerate(frames.sequences):
            parts = []
            for start in range(0, len(sequence), chunk):
                indices = np.arange(start, min(start + chunk, len(sequence)))
                batch = {k: torch.from_numpy(v) for k, v in frames.frames(number, indices).items()}
                parts.append(model(batch).float().numpy())
                progress.update(len(indices))
            poses.append(np.concatenate(parts))
    return poses
