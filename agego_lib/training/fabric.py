"""Lightning Fabric as the settings ask for it: devices, precision, CPU threads, seeds."""

import os
import warnings

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.launchers.multiprocessing import _MultiProcessingLauncher


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
    torch.set_num_threads(engine.threads or threads_of_each(engine.devices))
    # Operations without a deterministic kernel (some of CUDA's) warn. Memory is not filled, which would cost time.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # ty: ignore
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
    seed_process(fabric, seed)
    return fabric


def threads_of_each(processes):
    """CPU threads of each process where the settings leave it open: what OMP_NUM_THREADS says, or a share of all."""
    return int(os.environ.get("OMP_NUM_THREADS", "0").split(",")[0]) or max(1, os.cpu_count() // processes)


def seed_process(fabric, seed):
    # Each process draws its own dropout.
    fabric.seed_everything(seed + fabric.global_rank, workers=True, verbose=False)
