"""Data, weights, memory and disk of a run, looked at before it begins."""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera
from agego_lib.datasets import DatasetError, read_split
from agego_lib.datasets.preparation import KINDS
from agego_lib.files import file_digest
from agego_lib.models import MotionEncoder, weights
from agego_lib.models.backbone import ResNetStages, WeightsError
from agego_lib.models.build import new_decoder, new_heatmap_net
from agego_lib.preflight.budget import (
    GB,
    batch_bytes,
    disk_bytes,
    free_memory,
    operations_a_second,
    prepared_bytes,
    training_bytes,
    training_macs,
)
from agego_lib.skeleton import NUM_JOINTS
from agego_lib.training import on_cpu, precision_here
from agego_lib.training.loading import BUFFERS

SIDE_FILES = ("syn.json", "actions.csv", "visibility.npz", "depth.npz", "outside.npz")
SHOWN = 10  # faults of one kind that are written out
LONG = 48 * 3600  # s: a run that takes longer without a GPU must be asked for
ACTIONFORMER = (
    "ActionFormer's public checkpoint for Ego4D with EgoVLP features (*.pth.tar), published with "
    "github.com/happyharrycn/actionformer_release"
)
WITHOUT = "set decoder.use_motion=false: the model then has no motion stream"
OTHERWISE = (
    "Put it there, name another place, or set motion.checkpoint=null: the temporal blocks are then trained on action "
    f"labels (actions.csv beside imgs/ of EgoPW's training sequences); or {WITHOUT}"
)


@dataclass
class Findings:
    """What `check` found. problems: what ends the run now. notes: what to know. inputs: file name -> fingerprint."""

    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)

    def several(self, what, faults):
        """Note faults of one kind as one problem, the first few written out."""
        if faults:
            more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            self.problems.append(f"{what}: {'; '.join(faults[:SHOWN])}{more}")


def digest(parts):
    """16 hex digits of texts and bytes."""
    content = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        content.update(len(part).to_bytes(8, "little") + part)
    return content.hexdigest()[:16]


@dataclass(frozen=True)
class _Listed:
    """One sequence of a list: what is missing of it, its number of frames, its fingerprint, a frame, its labels, and
    those of SIDE_FILES that it lacks."""

    missing: str | None
    frames: int = 0
    content: str = ""
    example: Path | None = None
    actions: bool = False
    lacks: tuple[Path, ...] = ()


def _look_at(directory, annotation_files):
    """Names and sizes of a sequence's frames, bytes of its other files -> _Listed."""
    annotations = next((directory / name for name in annotation_files if (directory / name).is_file()), None)
    if annotations is None:
        return _Listed(f"{directory} has no {' or '.join(annotation_files)}")
    try:
        with os.scandir(directory / "imgs") as entries:
            frames = sorted((e.name, e.stat().st_size) for e in entries if not e.name.startswith(".") and e.is_file())
    except OSError as error:
        return _Listed(f"{directory / 'imgs'}: {error.strerror}")
    if not frames:
        return _Listed(f"{directory / 'imgs'} holds no frame")
    parts, lacks = [f"{name} {size}" for name, size in frames], []
    for path in (annotations, *(directory / name for name in SIDE_FILES)):
        if path.is_file():
            parts += [path.name, file_digest(path)]
        else:
            lacks.append(path)
    example = directory / "imgs" / frames[len(frames) // 2][0]
    labelled = directory / "actions.csv" not in lacks
    return _Listed(None, len(frames), digest(parts), example, labelled, tuple(lacks))


def check_data_set(kind, place, root, found):
    """Lists, calibration and every listed sequence of one data set -> (fingerprint, {split: its _Listed}, camera).

    place: DataSetSettings. Faults go into `found`.
    """
    where = params.locate(root, place.root)
    camera, calibration, splits = None, params.locate(root, place.calibration), {}
    if not where.is_dir():
        found.problems.append(
            f"dataset.{kind}.root: no folder {where}; put or link the data set there, or name its place in params.yaml"
        )
        return None, splits, camera
    try:
        camera = FisheyeCamera.from_json(calibration)
    except CalibrationError as error:
        found.problems.append(f"dataset.{kind}.calibration: {error}")
    parts = [file_digest(calibration) if camera else ""]
    for split, list_file in (("train", place.train_list), ("test", place.test_list)):
        try:
            directories = read_split(params.locate(root, list_file), where)
        except DatasetError as error:
            found.problems.append(f"dataset.{kind}.{split}_list: {error}")
            continue
        with ThreadPoolExecutor(16) as pool:  # a network disk answers many at once
            looked = [*pool.map(lambda d: _look_at(d, KINDS[kind].ANNOTATION_FILES), directories)]
        found.several(
            f"dataset.{kind}.{split}_list names sequences that are not whole", [s.missing for s in looked if s.missing]
        )
        splits[split] = looked
        parts += [
            split,
            *(f"{KINDS[kind].sequence_name(d)} {s.content}" for d, s in zip(directories, looked, strict=True)),
        ]
    record = {"fingerprint": digest(parts)}
    record |= {f"{split}_sequences": len(looked) for split, looked in splits.items()}
    record |= {f"{split}_frames": sum(s.frames for s in looked) for split, looked in splits.items()}
    return record, splits, camera


def check_beside(methods, looked, found):
    """Whether all sequences have the files that some baselines read. looked: {set: {split: _Listed}}."""
    for method in (m for m in methods if m in params.BESIDE):
        file, what, wanted = params.BESIDE[method]
        for kind, splits in wanted.items():
            listed = [s for split in splits for s in looked.get(kind, {}).get(split, ())]
            found.several(
                f"ablation.baselines: {method} reads {what}, which sequences of {kind} do not have; the embedded data "
                "have it once they are rendered anew (`dvc repro`), the published sets do not: take "
                f"{method} out, or put {file} beside imgs/ (agego_lib/datasets says what it holds). There is none at",
                [str(path) for s in listed for path in s.lacks if path.name == file],
            )


def check_released(part, begin, settings, root, found):
    """The released model, as which a part (heatmap or decoder) starts: there, whole, alike -> its fingerprint.

    begin: called with the model's file, makes the part or raises WeightsError.
    """
    path = params.locate(root, params.RELEASED)
    try:
        begin(path)
    except WeightsError as error:
        found.problems.append(f"{part}.init is released: {error}")
        return {}
    own, view = settings.prepare, weights.load(path)[1]["input"]
    if (view["size"], view["crop"]) != (own.size, own.crop):
        found.notes.append(
            f"{part}.init is released, and that model saw {view['size']} px, crop {view['crop']}, not prepare's "
            f"{own.size} px, crop {own.crop}"
        )
    # Names and widths lie in the .json.
    return {"sha256": digest([file_digest(path), file_digest(path.with_suffix(".json"))])}


def check_weights(settings, root, found):
    """Weights files that the settings name: there, readable, of the right network. Fingerprints go into `found`."""
    settings = params.located(settings, root)
    for name, init, backbone in (
        ("heatmap", settings.heatmap.init, "resnet18"),
        ("visual", settings.visual.init, settings.visual.backbone),
    ):
        found.inputs[f"{name}_init.json"] = {"init": init}
        if init in ("scratch", "heatmap_encoder"):
            continue
        if init == "released":
            begin = partial(new_heatmap_net, settings.heatmap)
            found.inputs[f"{name}_init.json"] |= check_released("heatmap", begin, settings, root, found)
            continue
        try:
            ResNetStages(backbone, init)
        except WeightsError as error:
            what = (
                f"{name}.init wants the weights of a {backbone} (torchvision's ImageNet weights, or a file like them)"
            )
            found.problems.append(f"{what}: {error}")
            continue
        if init != "imagenet":
            found.inputs[f"{name}_init.json"] = {"init": "file", "sha256": file_digest(init)}
    found.inputs["decoder_init.json"] = {"init": settings.decoder.init}
    if settings.decoder.init == "released":
        begin = partial(new_decoder, settings, "full", np.zeros((NUM_JOINTS, 3)))
        found.inputs["decoder_init.json"] |= check_released("decoder", begin, settings, root, found)
    checkpoint = settings.motion.checkpoint
    found.inputs["motion_checkpoint.json"] = {"checkpoint": None}
    if checkpoint is None or not settings.decoder.use_motion:  # then nothing reads it
        return
    if not Path(checkpoint).is_file():
        found.problems.append(f"motion.checkpoint: no file {checkpoint}. It is {ACTIONFORMER}. {OTHERWISE}")
        return
    try:
        blocks = MotionEncoder(depth=settings.motion.depth, local_blocks=0)
        blocks.load_actionformer(checkpoint, settings.motion.checkpoint_blocks, settings.motion.checkpoint_ema)
    except (WeightsError, ValueError) as error:
        found.problems.append(f"motion.checkpoint: {error}. Expected is {ACTIONFORMER}. {OTHERWISE}")
        return
    found.inputs["motion_checkpoint.json"] = {"checkpoint": "file", "sha256": file_digest(checkpoint)}


def _size_of(folder):
    """Bytes that the files in a folder take."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def check_machine(settings, root, frames, frame_bytes, found):
    """Memory, loader workers' shared memory, disk, and how long a run without a GPU takes.

    frames: {split: of both sets}, or None where they are not known yet.
    """
    if precision_here(settings.engine) != settings.engine.precision:
        found.notes.append(
            f"no GPU was found: engine.precision {settings.engine.precision} is a GPU's, 32-true is used"
        )
    free, where = free_memory(settings)
    for stage, needed in training_bytes(settings).items() if free else ():
        text = (
            f"a step of {stage} training takes about {needed / GB:.1f} GB of {where}, of which {free / GB:.1f} are free"
        )
        if needed > free:
            batch = "heatmap.optimiser.batch_size" if stage == "heatmap" else "pose.batch_size or window.length"
            found.problems.append(f"{text}; lower {batch}")
        else:
            found.notes.append(text)
    workers, shared = settings.engine.workers, Path("/dev/shm")
    if workers and shared.is_dir():
        # Towards a GPU torch has two of each worker wait, and copies one into pinned memory.
        batches = BUFFERS * workers if on_cpu(settings.engine) else 2 * workers + 1
        needed, free = batches * max(batch_bytes(settings).values()), shutil.disk_usage(shared).free
        if needed > free:
            found.problems.append(
                f"engine.workers: {workers} loader workers keep about {needed / GB:.1f} GB of batches in {shared}, of "
                f"which {free / GB:.1f} GB are free; lower engine.workers, or enlarge it (Docker: --shm-size)"
            )
    if frames is None:
        return
    parts = disk_bytes(settings, sum(frames.values()), frame_bytes)
    there = sum(_size_of(root / "artifacts" / name) for name in ("prepared", "features"))
    needed, free = sum(parts.values()) - there, shutil.disk_usage(root).free
    told = ", ".join(f"{name} {value / GB:.1f}" for name, value in parts.items())
    text = f"the run takes about {max(0, needed) / GB:.1f} GB of disk ({told}), of which {free / GB:.1f} are free"
    if needed > free:
        found.problems.append(f"{text}; make room, lower features.limit_gb, or clone the project to another disk")
    else:
        found.notes.append(text)
    if on_cpu(settings.engine):
        seconds = 2 * training_macs(settings, frames) / operations_a_second()
        why = "no GPU was found" if settings.engine.accelerator == "auto" else "engine.accelerator is cpu"
        text = f"{why}; on these cores training takes about {_duration(seconds)}"
        if seconds > LONG and settings.engine.accelerator == "auto":
            found.problems.append(
                f"{text}. Set engine.accelerator=cpu to start it all the same, or use a smaller profile"
            )
        elif seconds > 3600:
            found.notes.append(text)


def _duration(seconds):
    for unit, length in (("weeks", 7 * 86400), ("days", 86400), ("hours", 3600)):
        if seconds > 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"


def check_repository(root, found):
    """A project in a git repository without a commit, as after `git init` in an unpacked archive: dvclive needs one."""
    if not (root / ".git").exists() or not shutil.which("git"):
        return
    head = ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"]
    # 1: no such commit. What else git refuses, such as a folder of another owner's, is not what is asked here.
    if subprocess.run(head, capture_output=True).returncode == 1:
        found.problems.append(
            f"{root} is a git repository without a commit, which training curves cannot be kept in: "
            "git add -A && git commit -m start"
        )


def check(settings, root):
    """Everything that a run of these settings needs -> Findings."""
    found = Findings()
    frames = frame_bytes = None
    if settings.dataset.source == "synthetic":
        sources = sorted(path for path in params.locate(root, "data").rglob("*") if path.is_file())
        if not sources:
            found.problems.append("data/: the sources of the embedded data are not there; run `dvc pull data.dvc`")
        content = digest(part for path in sources for part in (path.name, path.read_bytes()))
        found.inputs["data.json"] = {"source": "synthetic", "sources": content}
    else:
        records, looked, examples = {}, {}, []
        for kind in KINDS:
            records[kind], looked[kind], camera = check_data_set(kind, getattr(settings.dataset, kind), root, found)
            found_examples = (s.example for group in looked[kind].values() for s in group if s.example)
            if camera and (example := next(found_examples, None)):
                examples.append((example, camera))
        found.inputs["data.json"] = {"source": "files", **records}
        if all(len(splits) == 2 for splits in looked.values()) and examples:
            frames = {s: sum(x.frames for splits in looked.values() for x in splits[s]) for s in ("train", "test")}
            try:
                frame_bytes = max(prepared_bytes(settings, *example) for example in examples)
            except ValueError:
                frame_bytes = 3 * settings.prepare.size**2 // 4  # a frame that is not whole is preparation's to tell
        labelled = any(s.actions for s in looked["egopw"].get("train", ()))
        learned = settings.decoder.use_motion and settings.motion.checkpoint is None
        if learned and looked["egopw"] and not labelled:
            found.problems.append(
                "motion.checkpoint is null, and no training sequence of EgoPW has an actions.csv (beside imgs/) to "
                f"train the temporal blocks on. Name {ACTIONFORMER}; or {WITHOUT}"
            )
        check_beside(settings.ablation.baselines, looked, found)
    check_repository(root, found)
    check_weights(settings, root, found)
    check_machine(settings, root, frames, frame_bytes, found)
    return found
