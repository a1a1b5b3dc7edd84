"""What each training minimises: 2D heatmaps (Eq. 1), actions, 3D poses (Sec. 3.4)."""

from dataclasses import asdict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from agego_lib import metrics
from agego_lib.heatmaps import gaussian_heatmaps
from agego_lib.images import normalise, to_tensor
from agego_lib.losses import PoseLoss, heatmap_loss
from agego_lib.progress import bar
from agego_lib.stature import stature
from agego_lib.training.fabric import make_fabric


class HeatmapObjective(nn.Module):
    """Eq. 1 on Gaussian targets (Eq. 7).

    sigma: in pixels of the heatmap of frames of side `size`, in proportion for others; of all alike where size is 0.
    colour_jitter: each frame's colour channels are multiplied by 1 +- up to this, all alike and each by itself.
    distances: weight of the mean error of the distances (m) that a network with a DistanceHead gives.
    sizes: sides, to one of which, drawn at random, each training batch is brought; empty: frames stay as they are.
    """

    def __init__(self, net, loss="bce", sigma=2.0, pos_weight=1.0, colour_jitter=0.0, distances=0.0, size=0, sizes=()):
        super().__init__()
        self.distances = distances
        self.size, self.sizes = size, tuple(sizes)
        self.colour_jitter = colour_jitter
        self.net, self.loss, self.sigma = net, loss, sigma
        # MSE knows no such weight; 1 is BCE as the paper has it.
        self.pos_weight = None if pos_weight == 1 else pos_weight

    def forward(self, batch):
        images = batch["image"]
        joints = (batch["joints"] + 0.5) / images.shape[-1]
        if self.sizes and self.training:
            side = self.sizes[int(torch.randint(len(self.sizes), ()))]
            images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        if self.colour_jitter and self.training:
            # Half of it in brightness, half in tint.
            gains = 1 + self.colour_jitter * (torch.rand(len(images), 4, 1, 1, device=images.device) - 0.5)
            images = (images * (gains[:, :1] * gains[:, 1:])).clamp(0, 255)
        frames = normalise(images).contiguous(memory_format=torch.channels_last)
        logits, logarithms = (
            self.net.decode_all(self.net.encode(frames)) if self.distances else (self.net(frames), None)
        )
        sigma = self.sigma * images.shape[-1] / (self.size or images.shape[-1])
        target = gaussian_heatmaps(joints * logits.shape[-1] - 0.5, logits.shape[-1], sigma)
        loss = heatmap_loss(logits, target, self.loss, self.pos_weight)
        if not self.distances:
            return loss, {"loss": loss.detach()}
        known = batch["distances"].isfinite()
        # Clamped: an exponential must not end a run.
        found, truth = logarithms.float().clamp(-4, 4).exp()[known], batch["distances"][known]
        error = (found - truth).abs().sum() / max(1, len(truth))
        loss = loss + self.distances * error
        return loss, {"loss": loss.detach(), "distance_mm": error.detach() * 1000}


class ActionObjective(nn.Module):
    """Action recognition of every labelled frame: it teaches the temporal blocks when no Ego4D checkpoint is given.

    project, norm: of a FrameEncoder, the linear layer and BatchNorm that give F_s (Eq. 3). Batches hold `pooled`, the
    global features (B, T, C) that come before them; see MotionSource.
    """

    def __init__(self, project, norm, motion_encoder, head):
        super().__init__()
        self.project, self.norm, self.motion_encoder, self.head = project, norm, motion_encoder, head

    def predict(self, batch):
        """Action logits (B, T, actions)."""
        pooled, mask = batch["pooled"], batch["mask"]
        static = pooled.new_zeros(*mask.shape, self.project.out_features)
        static[mask] = self.norm(self.project(pooled[mask])).to(static.dtype)
        return self.head(self.motion_encoder(static, mask))

    def forward(self, batch):
        action = batch["action"]
        labelled = batch["mask"] & (action >= 0)
        logits = self.predict(batch)
        # Sums over what there is: a batch without any label teaches nothing and must not give NaN.
        count = labelled.sum().clamp(min=1)
        loss = F.cross_entropy(logits[labelled].float(), action[labelled], reduction="sum") / count
        accuracy = (logits.argmax(-1) == action)[labelled].sum() / count
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    def terms(self, batch):
        """How many frames the loss is a mean over."""
        return (batch["mask"] & (batch["action"] >= 0)).sum()


class MotionSource:
    """Global features of the untrained-here ResNet, (C,) a frame, computed once for the motion stage.

    frame_encoder: FrameEncoder, whose layer4 is still as it was initialised. store: the split's FeatureStore, or None.
    """

    # Not inference_mode: parameters moved to a device and back under it could not be trained any more.
    @torch.no_grad()
    def __init__(self, frame_encoder, sequences, store, engine, chunk=128):
        device = make_fabric(engine, 0).device
        layer4 = frame_encoder.encoder.layer4.eval().to(device)
        self._pooled = []
        with bar(sum(len(s) for s in sequences), "global features", "frame") as progress:
            for number, sequence in enumerate(sequences):
                parts = []
                for start in range(0, len(sequence), chunk):
                    frames = np.arange(start, min(start + chunk, len(sequence)))
                    if store:
                        trunk = torch.from_numpy(store.read(number, frames)["trunk"]).to(device).float()
                    else:
                        trunk = frame_encoder.to(device).trunk(to_tensor(sequence.images(frames)).to(device))
                    parts.append(layer4(trunk).mean(dim=(2, 3)).cpu().numpy())
                    progress.update(len(frames))
                self._pooled.append(np.concatenate(parts))
        frame_encoder.cpu()

    def read(self, sequence, frames):
        """`pooled` (T, C) float32 of frames (T,)."""
        return {"pooled": self._pooled[sequence][frames]}


class PoseObjective(nn.Module):
    """The composite loss of Sec. 3.4 on windows of stored frozen features, or of images.

    augmentation: called with tokens and joints of each training window, where given (see rays.Augmentation).
    """

    def __init__(self, model, loss_settings, augmentation=None):
        super().__init__()
        self.model, self.augmentation = model, augmentation
        self.loss = PoseLoss(**asdict(loss_settings))

    def forward(self, batch):
        mask, target = batch["mask"], batch["joints_3d"]
        if "images" in batch:
            features = self.model.frozen_features(normalise(batch["images"]).flatten(0, 1))
            features = {name: value.unflatten(0, mask.shape) for name, value in features.items()}
        else:
            features = {name: batch[name] for name in ("heatmaps", "trunk", "distances") if name in batch}
        tokens, motion = self.model.streams(**features, mask=mask)
        if self.augmentation is not None and self.training:
            tokens, target = self.augmentation(tokens, target)
        prediction = self.model.decode(tokens, motion, mask, self._told(target, mask))
        total, terms = self.loss(prediction.float(), target, mask)
        values = {name: term.detach() for name, term in terms.items()}
        error = metrics.mpjpe(prediction.detach().float()[mask], target[mask])
        return total, {"loss": total.detach(), **values, "mpjpe_mm": error * 1000}

    def _told(self, target, mask):
        """The wearers' statures, m, (B,), from labels of each window; NaN where they are not told; None: of no one."""
        asked = self.model.stature
        if asked == "none":
            return None
        each = torch.where(mask, stature(target), 0)
        mean = each.sum(1) / mask.sum(1).clamp_min(1)
        if asked == "given":
            return mean
        # Half of them are to be estimated in training, and all when it is tested.
        unknown = torch.rand_like(mean) < (0.5 if self.training else 1)
        return mean.masked_fill(unknown, torch.nan)

    def terms(self, batch):
        """How many frames the loss is a mean over."""
        return batch["mask"].sum()
