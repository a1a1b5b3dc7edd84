"""The embedded data written out as EgoPW and SceneEgo are published, and files in the formats of their weights."""

import json
import pickle
import shutil
from itertools import cycle
from pathlib import Path

import torch
import torchvision

from agego_lib.models.motion import ACTIONFORMER_BLOCKS, TemporalBlock


def _annotations(folder, name):
    """The annotations of a rendered sequence by the file name of their frame."""
    entries = pickle.loads((folder / name).read_bytes())
    if name == "pseudo_gt.pkl":
        return {entry["image_name"]: entry for entry in entries}
    syn = json.loads((folder / "syn.json").read_text())
    return {f"img_{entry['ext_id'] - syn['ext'] + syn['ego']:06d}.jpg": entry for entry in entries}


def _write_sequence(source, target, name, first, count):
    """`count` frames of a rendered sequence from `first` on: frames and annotations alone, as published."""
    frames = sorted((source / "imgs").iterdir())
    frames = [frames[(first + i) % len(frames)] for i in range(min(count, len(frames)))]
    known = _annotations(source, name)
    (target / "imgs").mkdir(parents=True)
    for frame in frames:
        shutil.copy(frame, target / "imgs" / frame.name)
    chosen = [known[frame.name] for frame in sorted(frames) if frame.name in known]
    (target / name).write_bytes(pickle.dumps(chosen))
    if (source / "syn.json").is_file():
        shutil.copy(source / "syn.json", target / "syn.json")


def write_data_sets(raw, out, lists, frames):
    """Write `out`/EgoPW and `out`/SceneEgo from what 01_data_preparation rendered into `raw`.

    lists: folder with the four published lists, all of whose sequences are made; they share the rendered ones.
    frames: (kind, split) -> frames a sequence. No action labels, no visibility; SceneEgo's names are in both splits.
    """
    raw, out, lists = Path(raw), Path(out), Path(lists)
    for kind, root, annotation, calibration in (
        ("egopw", out / "EgoPW", "pseudo_gt.pkl", "fisheye.calibration.json"),
        ("sceneego", out / "SceneEgo", "local_pose_gt.pkl", "fisheye.calibration_05_08.json"),
    ):
        for split in ("train", "test"):
            sources = cycle((raw / kind / f"{split}_{kind}.txt").read_text().split())
            for number, name in enumerate((lists / f"{split}_{kind}.txt").read_text().split()):
                source = raw / kind / next(sources)
                _write_sequence(source, root / name, annotation, 5 * number, frames[kind, split])
        shutil.copy(raw / kind / "fisheye.calibration.json", root / calibration)


def write_imagenet(hub, seed=0):
    """ResNet files as torchvision keeps them in torch.hub's folder, with the weights of an untrained network."""
    torch.manual_seed(seed)
    (Path(hub) / "checkpoints").mkdir(parents=True)
    for name in ("resnet18", "resnet50"):
        weights = getattr(torchvision.models, f"ResNet{name[6:]}_Weights").IMAGENET1K_V1
        state = getattr(torchvision.models, name)(weights=None).state_dict()
        torch.save(state, Path(hub) / "checkpoints" / weights.url.rsplit("/", 1)[1])


def write_actionformer(path, seed=0):
    """A checkpoint file of ActionFormer's Ego4D configuration: the backbone's blocks, and parts that are not used."""
    torch.manual_seed(seed)
    state = {"module.cls_head.head.0.conv.weight": torch.randn(8, 384, 3)}
    for name in ACTIONFORMER_BLOCKS:
        block = TemporalBlock(384, 4, 4, 0.1, 0.1).state_dict()
        state |= {f"module.backbone.{name}.{key}": value for key, value in block.items()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 10, "state_dict": state, "state_dict_ema": state}, path)
