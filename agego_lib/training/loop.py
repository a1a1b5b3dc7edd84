"""One training loop for all objectives (Sec. 4.2): Adam, warm-up and cosine, checkpoints, several processes."""

import math
import signal
import tempfile
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from lightning_fabric.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from agego_lib.progress import bar
from agego_lib.training.checkpoints import TrainingError, identity_of, model_state
from agego_lib.training.distributed import synced_batch_norm
from agego_lib.training.fabric import make_fabric, seed_process, threads_of_each
from agego_lib.training.loading import BatchOrder, Watched, describe, make_loader
from agego_lib.training.steps import RunState, take_step


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
    torch.set_num_threads(1 if forked else threads or threads_of_each(fabric.strategy.num_processes))
    seed_process(fabric, seed)
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


@contextmanager
def tiny_numbers_as_zero():
    """Within it, a CPU takes numbers below 1e-38 as zero.

    Gradients of a sigmoid far from its edge are as small, and with them steps of the lifters took twice as long.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


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
        tiny_numbers_as_zero(),
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
