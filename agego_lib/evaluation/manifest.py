"""What a run was made with, so that two runs can be compared: code, versions, machine, settings, data."""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import cv2
import torch
import yaml

from agego_lib import params
from agego_lib.datasets import TITLES
from agego_lib.files import read_json, read_text, write_json

# What numbers depend on.
PACKAGES = (
    "torch", "torchvision", "numpy", "opencv-python-headless", "h5py", "safetensors", "lightning-fabric", "scipy",
)  # fmt: skip
# The pipeline writes these while it runs; that they differ from the commit says nothing about the code.
WRITTEN = ("metrics", "plots", "reports", "docs", "dvc.lock")
MAX_HASHED = 1 << 24  # bytes of a changed file


def _digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def _git(root, *arguments):
    command = ("git", "-C", str(root), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(next(iter(done.stderr.splitlines()), f"git ended with {done.returncode}"))
    return done.stdout


def _content(path):
    if not path.exists():
        return "deleted"
    return _digest(path.read_bytes()) if path.is_file() and path.stat().st_size <= MAX_HASHED else "not hashed"


def code(root):
    """The commit, the files that differ from it with a hash of each, and a hash of the library as it is.

    Without git, or outside a repository, "commit" is None and "note" says why.
    """
    library = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        library.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    result = {"commit": None, "dirty": {}, "library": library.hexdigest()[:16]}
    try:
        top, result["commit"] = _git(root, "rev-parse", "--show-toplevel", "HEAD").split("\n")[:2]
        excluded = [f":(exclude,top){name}" for name in WRITTEN]
        listed = _git(root, "status", "--porcelain", "-z", "--no-renames", "--", ":/", *excluded)
    except (OSError, subprocess.SubprocessError) as error:
        return {**result, "note": f"no git: {error}"}
    names = sorted(entry[3:] for entry in listed.split("\0") if entry)
    return {**result, "dirty": {name: _content(Path(top) / name) for name in names}}


@cache
def versions():
    """Versions of Python and of the packages that numbers depend on; None for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine():
    """Processor, the instructions that PyTorch uses of it, cores that this process may use, memory, GPUs, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "memory_gb": pages and round(pages / 1e9, 1),
        "gpu": gpus,
        "system": platform.platform(),
    }


def threads():
    """Threads of PyTorch and OpenCV, and the variables that set others'."""
    variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED")}
    return {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads(), **variables}


def _raw(root, source):
    """Hash of the embedded data's sources as DVC knows it, or the fingerprint of each set that was read from files."""
    if source is None:
        raise ValueError("the settings, which say where the data come from, cannot be read")
    if source == "synthetic":
        return yaml.safe_load(read_text(root / "data.dvc"))["outs"][0]["md5"]
    inputs = root / "artifacts/inputs/data.json"
    found = read_json(inputs)
    if found["source"] != source:
        raise ValueError(f"{inputs} is of source {found['source']!r}, the settings say {source!r}")
    return {name: found[name]["fingerprint"] for name in TITLES}


def data(root, source):
    """What the numbers were made from: the raw data, a hash of each prepared set, and each one's calibration.

    source: `dataset.source` of the settings, None where these cannot be read. The hashes are over those that
    preparation left in splits.json, of all that its files hold, so that none is read.
    """
    root, found, calibrations = Path(root), {}, {}
    try:
        found["raw"] = _raw(root, source)
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError) as error:
        found["raw"] = f"unknown: {type(error).__name__} {error}"
    for path in sorted((root / "artifacts/prepared").glob("*/splits.json")):
        name = path.parent.name
        try:
            splits = read_json(path, 1 << 28)
            found[name] = _digest(json.dumps([splits["splits"], splits["content"]]).encode())
            calibrations[name] = splits.get("calibration", "unknown: not in splits.json")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            found[name] = f"unknown: {type(error).__name__} {error}"
    return {**found, "calibration": calibrations}


def manifest(root=None, settings=None):
    """The manifest of a run, as a dict that JSON can hold.

    root: the project's folder, or None outside of one. settings: a params.Settings; by default what params.yaml says.
    """
    note = None
    if settings is None and root is not None:
        try:
            settings = params.load(Path(root) / "params.yaml")
        except params.SettingsError as error:
            note = str(error)
    values = dataclasses.asdict(settings) if settings is not None else None
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code(root) if root is not None else {"commit": None, "note": "outside of a project"},
        "versions": versions(),
        "machine": machine(),
        "threads": threads(),
        "seed": values and values["seed"],
        "settings_hash": values and _digest(json.dumps(values, sort_keys=True).encode()),
        "settings": values if note is None else note,
        "data": data(root, values and values["dataset"]["source"]) if root is not None else None,
    }


def write_manifest(path, settings=None):
    """Write the manifest of a run of the project that `path` lies in, whole or not at all."""
    try:
        root = params.find_root(Path(path).parent)
    except params.SettingsError:
        root = None
    write_json(path, manifest(root, settings))


def write_metrics(path, values, settings=None):
    """Write a dict of numbers as JSON that DVC compares; keys say their unit. Raises ValueError for NaN.

    Beside it, `<name>.run.json` says what made them (see manifest.py). settings: those of this run, where they are
    not the project's params.yaml. Both files are written whole or not at all.
    """
    path = Path(path)
    write_json(path, values)
    write_manifest(path.with_suffix(".run.json"), settings)


def _leaves(tree, key=()):
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, (*key, str(name)))
    else:
        yield ".".join(key), list(tree) if isinstance(tree, tuple) else tree


def differences(a, b, ignore=("written",)):
    """What differs between two manifests -> {dotted name: (in a, in b)}, None for what one of them lacks.

    ignore: first parts of names; by default only the time of writing.
    """
    # Through JSON, so that one just made and one read from its file are alike.
    a, b = (dict(_leaves(json.loads(json.dumps(tree)))) for tree in (a, b))
    names = sorted(name for name in a.keys() | b.keys() if name.split(".")[0] not in ignore)
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}
