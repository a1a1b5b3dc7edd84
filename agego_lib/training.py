"""The three training runs (Sec. 4.2): 2D heatmaps, motion, 3D pose; one loop on Lightning Fabric, three objectives."""

import math
import os
import signal
import tempfile
import threading
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import nn
from torch.nn import functional as F

from agego_lib import metrics
from agego_lib.checkpoints import TrainingError, identity_of, model_state
from agego_lib.distributed import synced_batch_norm
from agego_lib.heatmaps import gaussian_heatmaps
from agego_lib.images import normalise, to_tensor
from agego_lib.loading import BatchOrder, Watched, describe, make_loader
from agego_lib.losses import PoseLoss, heatmap_loss
from agego_lib.progress import bar
from agego_lib.steps import RunState, take_step


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

    def terms(self, batch):
        """How many frames the loss is a mean over."""
        return batch["mask"].sum()


def on_cpu(engine):
    """Whether the engine's settings lead to a CPU on this machine."""
    there = torch.cuda.is_available() or torch.backends.mps.is_available()
    return engine.accelerator == "cpu" or (engine.accelerator == "auto" and not there)


def precision_here(engine):
    """The precision that training has on this machine: half precision is a GPU's.

    In its place on a CPU Fabric would take bfloat16, which another network comes of, and which is slower there.
    """
    return "32-true" if engine.precision == "16-mixed" and on_cpu(engine) else engine.precision


def make_fabric(engine, seed):
    """A Fabric of the settings' devices and precision, started unless it is one that starts processes for a function.

    In place of 16-mixed a CPU has 32-true, and a warning says so. CPU threads, seeds, those of loader workers and
    deterministic algorithms are set here, in one place.
    """
    torch.set_num_threads(engine.threads or _threads(engine.devices))
    # Operations without a deterministic kernel (some of CUDA's) warn. Memory is not filled, which would cost time.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precision = precision_here(engine)
    if precision != engine.precision:
        warnings.warn(f"no GPU: engine.precision is {engine.precision}, {precision} is used", stacklevel=2)
    fabric = Fabric(
        accelerator=engine.accelerator,
        devices=engine.devices,
        num_nodes=engine.num_nodes,
        strategy=engine.strategy,
        precision=precision,
    )
    if not isinstance(fabric.strategy.launcher, _MultiProcessingLauncher):
        fabric.launch()
    _seed(fabric, seed)
    return fabric


def _threads(processes):
    """CPU threads of each process where the settings leave it open: what OMP_NUM_THREADS says, or a share of all."""
    return int(os.environ.get("OMP_NUM_THREADS", "0").split(",")[0]) or max(1, os.cpu_count() // processes)


def _seed(fabric, seed):
    # Each process draws its own dropout.
    fabric.seed_everything(seed + fabric.global_rank, workers=True, verbose=False)


def learning_rate_factor(step, steps, warmup, final):
    """Linear warm-up to 1, then a cosine to `final` at the last step (Sec. 4.2: cosine annealing)."""
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2


def fit(objective, dataset, optimiser, engine, seed=0, label="training", log=None, checkpoint=None):
    """Train every parameter of `objective` that requires gradients; returns it, on the CPU, in evaluation mode.

    objective: module whose call on a batch gives (loss, values), means over `objective.terms(batch)` terms, or over
    the batch's items where it has no such method. optimiser: OptimiserSettings, whose batch is that of all processes
    together; engine: EngineSettings. log: called with (step, values) for the mean values since the last call, about
    100 times a run. checkpoint: a Checkpoint to go on from and to write; a run that had ended is not trained again,
    but its log is told anew.
    A step whose loss or gradient is not finite is skipped: weights, optimiser and statistics stay, the schedule goes
    on.
    Raises TrainingError where the data set has no item, more than `checkpoint.max_faults` (none without a checkpoint)
    steps were skipped, an item cannot be read, the checkpoint is of another run or cannot be written, or on SIGTERM,
    then with a checkpoint written.
    """
    if not len(dataset):
        raise TrainingError(f"{label}: no training item; look at the preparation's report of what it skipped")
    fabric = make_fabric(engine, seed)
    job = (objective, dataset, optimiser, engine.workers, seed, label)
    if isinstance(fabric.strategy.launcher, _MultiProcessingLauncher):
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.pt"
            try:
                fabric.launch(_fit_here, engine.threads, result, *job, None, checkpoint)
            except torch.multiprocessing.ProcessRaisedException as error:
                raise TrainingError(f"{label}: a training process failed: {error}") from None
            trained = torch.load(result, weights_only=True)
        objective.load_state_dict(trained["model"], strict=False)
        for entry in trained["history"] if log is not None else ():
            log(*entry)
    else:
        _fit(fabric, *job, log, checkpoint)
    return objective.cpu().eval()


def _fit_here(fabric, threads, result, objective, dataset, optimiser, workers, seed, *rest):
    """`_fit` in a process that Fabric started for it; the first one leaves what it trained in the file `result`."""
    # OpenMP's threads do not survive a fork: a forked process that asked for more than its own would wait for ever.
    forked = fabric.strategy.launcher._start_method == "fork"
    torch.set_num_threads(1 if forked else threads or _threads(fabric.strategy.num_processes))
    _seed(fabric, seed)
    history = _fit(fabric, objective, dataset, optimiser, workers, seed, *rest)
    if fabric.is_global_zero:
        torch.save({"model": model_state(objective.cpu()), "history": history}, result)


@contextmanager
def noticing_sigterm(on):
    """Yields a list that is no longer empty once the process was asked to end (SLURM does, before it takes a node)."""
    asked = []
    # Python allows handlers in the main thread alone.
    on = on and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True)) if on else None
    try:
        yield asked
    finally:
        if on:
            signal.signal(signal.SIGTERM, before)


def _fit(fabric, objective, dataset, optimiser, workers, seed, label, log, checkpoint):
    """One process's part of `fit` -> history, the list of what was logged."""
    batch_size, ranks = min(optimiser.batch_size, len(dataset)), fabric.world_size
    if batch_size < ranks:
        raise TrainingError(f"{label}: {ranks} processes share batches of {batch_size}; lower engine.devices")
    order = BatchOrder(len(dataset), batch_size, seed, fabric.global_rank, ranks)
    # Towards a GPU torch's own thread copies batches into pinned memory, and does not know lent ones.
    with_cpu = fabric.device.type == "cpu"
    watched = Watched(dataset, workers, lend=with_cpu)
    loader = make_loader(watched, order, workers, seed, pin_memory=fabric.device.type == "cuda")
    loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    steps = optimiser.epochs * len(order)
    identity = identity_of(objective, dataset, optimiser, seed, label, fabric) if checkpoint else None
    parameters = [p for p in objective.parameters() if p.requires_grad]
    # One pass over the weights instead of several, twice as fast on a CPU; with a gradient scaler it cannot be clipped.
    fused = with_cpu and getattr(fabric.strategy.precision, "scaler", None) is None
    adam = torch.optim.Adam(parameters, lr=optimiser.lr, weight_decay=optimiser.weight_decay, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda s: learning_rate_factor(s, steps, optimiser.warmup_steps, optimiser.lr_final / optimiser.lr)
    )
    run, stepper = fabric.setup(objective, adam)
    run.train()
    with (
        checkpoint.locked() if checkpoint and fabric.is_global_zero else nullcontext(),
        bar(steps, label, "step", show=fabric.is_global_zero) as progress,
        synced_batch_norm(objective, ranks),
        watched.naming_dead_workers(),
        # Processes that Fabric started for a function end with the one that started them.
        noticing_sigterm(checkpoint and not isinstance(fabric.strategy.launcher, _MultiProcessingLauncher)) as asked,
    ):
        state = RunState(fabric, objective, adam, schedule, steps, label, log, checkpoint, identity, progress)
        state.restore()
        while state.step < steps:
            epoch, first = divmod(state.step, len(order))
            order.start(epoch, first)
            for batch, items in zip(watched.batches(loader), order.batches[first:], strict=True):
                flags = [state.due(), bool(asked)]
                problem, values, (due, stop) = take_step(
                    fabric, objective, run, stepper, batch, optimiser.grad_clip, flags
                )
                schedule.step()
                state.count(values, problem, lambda items=items: [describe(dataset, item) for item in items])
                if due or stop or state.step % len(order) == 0:
                    state.save()
                if stop:
                    raise TrainingError(
                        f"{label}: asked to end (SIGTERM) after step {state.step}; run it again to go on"
                    )
    if state.faults and fabric.is_global_zero:
        print(f"{label}: {len(state.faults)} of {steps} steps skipped, as their loss or gradient was not finite")
    return state.history
