"""The three training runs (Sec. 4.2): 2D heatmaps, motion, 3D pose; one loop on Lightning Fabric, three objectives."""

import math
import os
from collections import defaultdict

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from agego_lib import metrics
from agego_lib.heatmaps import gaussian_heatmaps
from agego_lib.images import normalise, to_tensor
from agego_lib.losses import PoseLoss, heatmap_loss
from agego_lib.progress import bar


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to change."""


class HeatmapObjective(nn.Module):
    """Eq. 1 on Gaussian targets (Eq. 7); sigma in pixels of the heatmap.

    colour_jitter: each frame's colour channels are multiplied by 1 +- up to this, all alike and each by itself.
    """

    def __init__(self, net, loss="bce", sigma=2.0, pos_weight=1.0, colour_jitter=0.0):
        super().__init__()
        self.colour_jitter = colour_jitter
        self.net, self.loss, self.sigma = net, loss, sigma
        # MSE knows no such weight; 1 is BCE as the paper has it.
        self.pos_weight = None if pos_weight == 1 else pos_weight

    def forward(self, batch):
        images = batch["image"]
        if self.colour_jitter and self.training:
            # Half of it in brightness, half in tint.
            gains = 1 + self.colour_jitter * (torch.rand(len(images), 4, 1, 1, device=images.device) - 0.5)
            images = (images * (gains[:, :1] * gains[:, 1:])).clamp(0, 255)
        logits = self.net(normalise(images).contiguous(memory_format=torch.channels_last))
        scale = logits.shape[-1] / images.shape[-1]
        target = gaussian_heatmaps((batch["joints"] + 0.5) * scale - 0.5, logits.shape[-1], self.sigma)
        loss = heatmap_loss(logits, target, self.loss, self.pos_weight)
        return loss, {"loss": loss.detach()}


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
    """The composite loss of Sec. 3.4 on windows of stored frozen features, or of images."""

    def __init__(self, model, loss_settings):
        super().__init__()
        self.model = model
        self.loss = PoseLoss(loss_settings.lambda_pos, loss_settings.lambda_bone, loss_settings.lambda_cos)

    def forward(self, batch):
        mask, target = batch["mask"], batch["joints_3d"]
        if "images" in batch:
            prediction = self.model(normalise(batch["images"]), mask)
        else:
            prediction = self.model.forward_features(batch.get("heatmaps"), batch.get("trunk"), mask)
        total, terms = self.loss(prediction.float(), target, mask)
        values = {name: term.detach() for name, term in terms.items()}
        error = metrics.mpjpe(prediction.detach().float()[mask], target[mask])
        return total, {"loss": total.detach(), **values, "mpjpe_mm": error * 1000}


def make_fabric(engine, seed):
    """A started Fabric of the settings' devices and precision; seeds and CPU threads are set here, in one place."""
    torch.set_num_threads(engine.threads or os.cpu_count())
    fabric = Fabric(
        accelerator=engine.accelerator,
        devices=engine.devices,
        num_nodes=engine.num_nodes,
        strategy=engine.strategy,
        precision=engine.precision,
    )
    fabric.launch()
    fabric.seed_everything(seed, verbose=False)
    return fabric


def learning_rate_factor(step, steps, warmup, final):
    """Linear warm-up to 1, then a cosine to `final` at the last step (Sec. 4.2: cosine annealing)."""
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2


def fit(objective, dataset, optimiser, engine, seed=0, label="training", log=None):
    """Train every parameter of `objective` that requires gradients; returns it, on the CPU, in evaluation mode.

    objective: module whose call on a batch gives (loss, values). optimiser: OptimiserSettings; engine: EngineSettings.
    log: called with (step, values) for the mean values since the last call, about 100 times a run.
    Raises TrainingError where the data set has no item or a loss is not finite.
    """
    if not len(dataset):
        raise TrainingError(f"{label}: no training item; look at the preparation's report of what it skipped")
    fabric = make_fabric(engine, seed)
    loader = DataLoader(
        dataset,
        batch_size=min(optimiser.batch_size, len(dataset)),
        shuffle=True,
        drop_last=True,
        num_workers=engine.workers,
        persistent_workers=engine.workers > 0,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),
    )
    # On several devices each one sees only its share of the batches.
    loader = fabric.setup_dataloaders(loader)
    steps = optimiser.epochs * len(loader)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    # One pass over the weights instead of several, twice as fast on a CPU; a GPU's mixed precision cannot clip with it.
    fused = fabric.device.type == "cpu"
    adam = torch.optim.Adam(parameters, lr=optimiser.lr, weight_decay=optimiser.weight_decay, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda s: learning_rate_factor(s, steps, optimiser.warmup_steps, optimiser.lr_final / optimiser.lr)
    )
    run, adam = fabric.setup(objective, adam)
    run.train()
    every, step, since = max(1, steps // 100), 0, defaultdict(list)
    with bar(steps, label, "step") as progress:
        for epoch in range(optimiser.epochs):
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(epoch)
            for batch in loader:
                loss, values = run(batch)
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"{label}: loss {loss.item()} at step {step}; lower the learning rate or the precision's risk"
                    )
                fabric.backward(loss)
                if optimiser.grad_clip:
                    fabric.clip_gradients(run, adam, max_norm=optimiser.grad_clip)
                adam.step()
                schedule.step()
                adam.zero_grad(set_to_none=True)
                for name, value in values.items():
                    since[name].append(float(value))
                step += 1
                progress.update()
                if step % every == 0 or step == steps:
                    means = {name: sum(v) / len(v) for name, v in since.items()}
                    progress.set_postfix(
                        {name: f"{v:.4g}" for name, v in means.items() if name in ("loss", "accuracy", "mpjpe_mm")}
                    )
                    if log is not None and fabric.is_global_zero:
                        log(step, means)
                    since.clear()
    return objective.cpu().eval()
