"""Checkpoints: where a training run stands, written so that a run killed at any moment goes on from the last one."""

import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

FORMAT = 1
# Code that every training runs through, beside that of its own model, objective and data set.
COMMON_CODE = (
    "training/loop.py", "training/fabric.py", "training/steps.py", "training/checkpoints.py", "training/distributed.py",
    "training/loading.py", "losses.py", "heatmaps.py", "images.py",
)  # fmt: skip
LIBRARY = Path(__file__).resolve().parents[1]


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to change."""


class Checkpoints:
    """The checkpoints of one place (a stage of the pipeline), which may train in several steps.

    folder: `artifacts/checkpoints/<place>`, which no stage's output contains: DVC deletes a stage's outputs before it
    runs. settings: ResumeSettings.
    """

    def __init__(self, folder, settings):
        self.folder, self.settings = Path(folder), settings

    def of(self, step):
        """The Checkpoint of one training step, by its name."""
        return Checkpoint(self.folder / f"{step}.pt", self.settings.every_minutes, self.settings.max_faults)

    def finish(self):
        """Remove them all: to be called when what the run leaves is written, so that no later run goes on from it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One training step's checkpoint file; every_minutes: longest time between two; max_faults: steps skipped."""

    path: Path
    every_minutes: float
    max_faults: int

    @property
    def faults_path(self):
        """Where the batches of a run that stopped for its faults are named."""
        return self.path.with_suffix(".faults.json")

    @contextmanager
    def locked(self, wait=10.0):
        """While it lasts, no other process trains here.

        A notebook's kernel lives on for a second when what started it is killed, which `wait` allows for. The system
        takes the lock from a process that ends, however it ends. Raises TrainingError.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Never the soft kind, a plain file that a killed process leaves behind.
        lock = FileLock(self.path.with_suffix(".lock"), timeout=wait, fallback_to_soft=False)
        try:
            held = lock.acquire()
        except Timeout:
            raise TrainingError(
                f"{self.path}: another process trains the same here; wait for its end, or end it"
            ) from None
        with held:
            yield

    def write(self, state, identity):
        """Replace the file by one of `state` (tensors and plain values) in one step: whoever reads sees all or none.

        Raises TrainingError, with the old file intact, where it cannot be written.
        """
        partial = self.path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save({"format": FORMAT, "identity": identity, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        # torch wraps what the file raises.
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            kept = "the one before is intact" if self.path.exists() else "there is none before it"
            raise TrainingError(
                f"{self.path}: the checkpoint cannot be written ({error}), {kept}; make room or mend the folder, then "
                "run the same command again"
            ) from error

    def read(self, identity):
        """What `write` kept, or None where there is no file.

        Raises TrainingError for a damaged file, and for one of another identity, by the name of what differs.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"{damaged} is damaged")
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}, expected {FORMAT}")
            found = state["identity"]
        except Exception as error:
            # torch's own text advises to run what the file holds.
            foreign = isinstance(error, pickle.UnpicklingError)
            reason = "it holds more than tensors and plain values" if foreign else error
            raise TrainingError(
                f"{self.path}: not a whole checkpoint of this version ({reason}); delete it to train from the start"
            ) from None
        names = [name for name in {**identity, **found} if found.get(name) != identity.get(name)]
        if names:
            shown = [f"{n}: it has {found.get(n, 'none')}, this run {identity.get(n, 'none')}" for n in names[:3]]
            more = f"; and {len(names) - 3} more" * (len(names) > 3)
            raise TrainingError(
                f"{self.path}: a checkpoint of another run ({'; '.join(shown)}{more}); delete it to train from the "
                "start, or put that back to go on"
            )
        return state

    def write_faults(self, faults):
        """Name the batches of skipped steps in a JSON file -> its path."""
        self.faults_path.parent.mkdir(parents=True, exist_ok=True)
        self.faults_path.write_text(json.dumps(faults, indent=2) + "\n")
        return self.faults_path


def _digest(parts):
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
    return digest.hexdigest()


def _tensor_bytes(tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _plain(value):
    if isinstance(value, tuple | list):
        return all(_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def identity_of(objective, dataset, optimiser, seed, label, fabric):
    """What a checkpoint must share with a run that goes on from it -> dict from a name to a text.

    Settings of the optimiser, seed, devices and precision; every plain attribute of the objective's modules (loss,
    rates, sigma ...); names and shapes of parameters; the starting weights; the data set's length and three of its
    items; the code.
    """
    values = {"run": label, "seed": seed}
    values |= {f"optimiser.{k}": v for k, v in dataclasses.asdict(optimiser).items()}
    values |= {
        "engine.accelerator": fabric.device.type,
        "engine.precision": fabric.strategy.precision.precision,
        "number of processes": fabric.world_size,
        "data set's length": len(dataset),
    }
    items = []
    for index in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        item = dataset[index]
        for part in item.values() if isinstance(item, dict) else item:
            items.append(_tensor_bytes(part) if isinstance(part, torch.Tensor) else part)
    values["data set's first, middle and last item"] = _digest(items)
    files = {LIBRARY / name for name in COMMON_CODE}
    for thing in (*objective.modules(), dataset):
        if type(thing).__module__.startswith("agego_lib."):
            files.add(Path(sys.modules[type(thing).__module__].__file__))
    for name, tensor in objective.state_dict().items():
        values[f"shape of {name}"] = tuple(tensor.shape)
    for name, module in objective.named_modules():
        for key, value in vars(module).items():
            if not key.startswith("_") and key != "training" and _plain(value):
                values[f"objective's {name + '.' if name else ''}{key}"] = value
    values["starting weights"] = _digest(map(_tensor_bytes, objective.state_dict().values()))
    values |= {f"code of agego_lib/{f.relative_to(LIBRARY)}": _digest([f.read_bytes()]) for f in files}
    return {name: repr(value) for name, value in values.items()}


def random_states(device):
    """States of every random generator of this process, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states, device):
    """Put back what `random_states` gave."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def model_state(objective):
    """What training changes of an objective: trained parameters, and all buffers (BatchNorm's statistics)."""
    fixed = {name for name, parameter in objective.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in objective.state_dict().items() if name not in fixed}
