"""Typed settings: params.yaml read once, every key and value checked, every mistake refused by name.

params.yaml alone says what a working copy runs. `conf/` holds the groups that it is composed from (see
scripts/configure.py); docs/decisions.md says which point of the paper each setting answers.
"""

import dataclasses
import os
import reprlib
import types
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from agego_lib.files import read_text

MAX_NUMBER = 10**18  # beyond any setting, infinity included
# The groups of conf/ that params.yaml is composed from.
GROUPS = ("dataset", "profile", "tables")
CONFIGURE = "choose data set, profile and tables with `python scripts/configure.py dataset=... profile=... tables=...`"


class SettingsError(ValueError):
    """A setting that is unknown, missing, of the wrong type or out of range; the message names it."""


def setting(low=None, high=None, above=None):
    """A required dataclass field whose value must satisfy low <= value <= high, or value > above."""
    return field(metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class RunSettings:
    """Which groups of conf/ the settings come from: marks what is kept of a run, and changes nothing by itself."""

    dataset: str
    profile: str
    tables: str


@dataclass(frozen=True)
class DataSetSettings:
    """Where one data set lies: paths are absolute or relative to the project; lists name one sequence a line."""

    root: str
    train_list: str
    test_list: str
    calibration: str
    allow_shared_actors: bool


@dataclass(frozen=True)
class SceneEgoSettings(DataSetSettings):
    """clock: which frame an annotation of the test split without image_name is of, as read_sceneego has it."""

    clock: Literal["sceneego", "egowholemocap"]


@dataclass(frozen=True)
class DatasetSettings:
    """The EgoPW-like and the SceneEgo-like set; `synthetic` renders both from data/ first."""

    source: Literal["synthetic", "files"]
    egopw: DataSetSettings
    sceneego: SceneEgoSettings


@dataclass(frozen=True)
class RenderSettings:
    """The embedded data: (actors, sequences an actor) of each split."""

    scale: float = setting(low=0.1, high=1.0)
    frames_per_sequence: int = setting(low=8)
    egopw_train: tuple[int, int] = setting(low=1)
    egopw_test: tuple[int, int] = setting(low=1)
    sceneego_train: tuple[int, int] = setting(low=1)
    sceneego_test: tuple[int, int] = setting(low=1)
    label_noise_mm: float = setting(low=0)


@dataclass(frozen=True)
class PrepareSettings:
    """Sec. 4.2: frames resized to `size` squared."""

    size: int = setting(low=32)
    crop: Literal["none", "square"]
    max_skipped: float = setting(low=0, high=1)
    workers: int = setting(low=1)


@dataclass(frozen=True)
class OptimiserSettings:
    """One training run: Adam with a linear warm-up and a cosine from lr to lr_final over all steps."""

    epochs: int = setting(low=1)
    batch_size: int = setting(low=1)
    lr: float = setting(above=0)
    lr_final: float = setting(low=0)
    warmup_steps: int = setting(low=0)
    weight_decay: float = setting(low=0)
    grad_clip: float = setting(low=0)


@dataclass(frozen=True)
class HeatmapSettings:
    """Sec. 3.1 and 4.2: the 2D joint heatmap network; sigma in pixels of the heatmap.

    colour_jitter: each training frame's channels are multiplied by 1 +- up to this.
    """

    init: str
    fpn_channels: tuple[int, int, int, int] = setting(low=1)
    loss: Literal["bce", "mse"]
    sigma: float = setting(above=0)
    pos_weight: float = setting(above=0)
    colour_jitter: float = setting(low=0, high=0.9)
    optimiser: OptimiserSettings


@dataclass(frozen=True)
class VisualSettings:
    """Sec. 3.2: the frame encoder's backbone. init: imagenet, heatmap_encoder, scratch, or a weights file."""

    backbone: Literal["resnet18", "resnet50"]
    init: str


@dataclass(frozen=True)
class FeaturesSettings:
    """Frozen features are stored when all of them fit into limit_gb (10^9 bytes), else computed in every step."""

    limit_gb: float = setting(low=0)
    batch_size: int = setting(low=1)


@dataclass(frozen=True)
class WindowSettings:
    """Sec. 4.2: T frames a window, `stride` frames apart; no window crosses a hole of more than max_gap frames.

    step: a window takes every step-th frame of the video (1: all), and stride counts those.
    """

    length: int = setting(low=2)
    stride: int = setting(low=1)
    step: int = setting(low=1)
    max_gap: int = setting(low=1)


@dataclass(frozen=True)
class MotionSettings:
    """Sec. 3.2: ActionFormer blocks, local then global. checkpoint: the public Ego4D file, or null to train here."""

    heads: int = setting(low=1)
    depth: int = setting(low=1)
    local_blocks: int = setting(low=0)
    window: int = setting(low=1)
    drop_path: float = setting(low=0, high=0.9)
    checkpoint: str | None
    checkpoint_blocks: tuple[str, ...]
    checkpoint_ema: bool
    optimiser: OptimiserSettings


@dataclass(frozen=True)
class DecoderSettings:
    """Sec. 3.3, and what it leaves open (docs/decisions.md)."""

    layers: int = setting(low=1)
    heads: int = setting(low=1)
    dropout: float = setting(low=0, high=0.9)
    norm_first: bool
    input_scale: float = setting(above=0)
    memory_joint_embedding: bool
    start_at_mean_pose: bool


@dataclass(frozen=True)
class LossSettings:
    """Sec. 3.4, the weights of the composite loss."""

    lambda_pos: float = setting(low=0)
    lambda_bone: float = setting(low=0)
    lambda_cos: float = setting(low=0)


@dataclass(frozen=True)
class EvaluateSettings:
    """pck_share: the 2D PCK threshold as a share of the input's side (8 px of 128 is 0.0625)."""

    pck_share: float = setting(above=0, high=1)


@dataclass(frozen=True)
class AblationSettings:
    """What `05_ablations` compares with the full model: runs of `03_pose_training`, and baselines.

    rows: one change each (see variants.py). heatmap_losses: other losses for the heatmap network (Table 6). seeds:
    further seeds beside `seed`, for each row of `reseeded`.
    """

    rows: tuple[
        Literal[
            "no_cross_attention", "no_motion", "no_spatial",
            "window_half", "window_double", "joint_embedding", "sceneego_only",
        ],
        ...,
    ]  # fmt: skip
    heatmap_losses: tuple[Literal["mse", "bce"], ...]
    seeds: tuple[int, ...] = setting(low=0)
    reseeded: tuple[Literal["full", "no_cross_attention", "no_motion", "no_spatial", "joint_embedding"], ...]
    baselines: tuple[Literal["nearest", "xr_egopose", "mo2cap2"], ...]


@dataclass(frozen=True)
class EngineSettings:
    """Lightning Fabric's own settings, loader workers and CPU threads (0: OMP_NUM_THREADS, or as many as there are)."""

    accelerator: str
    devices: int = setting(low=1)
    num_nodes: int = setting(low=1)
    strategy: str
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    workers: int = setting(low=0)
    threads: int = setting(low=0)


@dataclass(frozen=True)
class ResumeSettings:
    """What keeps a run safe and changes no result, so that no stage depends on it.

    every_minutes: longest time between two checkpoints (one is written after each epoch too). max_faults: steps that a
    run may skip because their loss or gradient is not finite.
    """

    every_minutes: float = setting(low=0)
    max_faults: int = setting(low=0)


@dataclass(frozen=True)
class Settings:
    run: RunSettings
    seed: int = setting(low=0)
    dataset: DatasetSettings
    render: RenderSettings
    prepare: PrepareSettings
    heatmap: HeatmapSettings
    visual: VisualSettings
    features: FeaturesSettings
    window: WindowSettings
    motion: MotionSettings
    decoder: DecoderSettings
    loss: LossSettings
    pose: OptimiserSettings
    finetune: OptimiserSettings
    evaluate: EvaluateSettings
    ablation: AblationSettings
    engine: EngineSettings
    resume: ResumeSettings


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlong = 40


def _refuse(where, value, expected):
    raise SettingsError(f"{where} is {_short.repr(value)}; expected {expected}")


def _scalar(kind, value, where, limits):
    if kind is bool:
        if not isinstance(value, bool):
            _refuse(where, value, "true or false")
        return value
    if kind is str:
        if not isinstance(value, str) or not value:
            _refuse(where, value, "a text")
        return value
    wanted = "a whole number" if kind is int else "a number"
    bounds = [f"at least {limits['low']}"] * (limits.get("low") is not None)
    bounds += [f"above {limits['above']}"] * (limits.get("above") is not None)
    bounds += [f"at most {limits['high']}"] * (limits.get("high") is not None)
    expected = " ".join([wanted, " and ".join(bounds)]).strip()
    allowed = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not -MAX_NUMBER < value < MAX_NUMBER:
        _refuse(where, value, expected)
    low, above, high = limits.get("low"), limits.get("above"), limits.get("high")
    if (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    ):
        _refuse(where, value, expected)
    return kind(value)


def _read(kind, value, where, limits):
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _section(kind, value, where)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            _refuse(where, value, "one of " + ", ".join(choices))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _read(next(a for a in typing.get_args(kind) if a is not type(None)), value, where, limits)
    if origin is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list):
            _refuse(where, value, "a list")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        elif len(kinds) != len(value):
            _refuse(where, value, f"a list of {len(kinds)}")
        return tuple(_read(k, v, f"{where}[{i}]", limits) for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    return _scalar(kind, value, where, limits)


def _section(kind, raw, where):
    if not isinstance(raw, dict):
        _refuse(where, raw, "a section of settings")
    prefix = where + ("" if where.endswith(": ") else ".")
    hints = typing.get_type_hints(kind)
    unknown = [f"{key:.100}" if isinstance(key, str) else _short.repr(key) for key in raw if key not in hints]
    if unknown:
        hint = CONFIGURE if unknown[0] in GROUPS else f"known here: {', '.join(hints)}"
        raise SettingsError(f"{prefix}{unknown[0]} is not a setting; {hint}")
    missing = [key for key in hints if key not in raw]
    if missing:
        raise SettingsError(
            f"{prefix}{missing[0]} is missing; compose params.yaml anew: `python scripts/configure.py --fresh`"
        )
    limits = {f.name: f.metadata for f in dataclasses.fields(kind)}
    return kind(**{key: _read(hint, raw[key], prefix + key, limits[key]) for key, hint in hints.items()})


def find_root(start=None):
    """The project's folder: the nearest one, from `start` (default: here) upwards, that holds params.yaml and conf/."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file() and (folder / "conf").is_dir():
            return folder
    raise SettingsError(f"no params.yaml with a conf/ beside it in {start} or above; start inside the project's folder")


def locate(root, path):
    """Where a path of the settings leads: a relative one starts at the project's folder `root`, from wherever it runs.

    DVC runs experiments of `--temp` and `--queue` in a copy of what git and DVC know, and names the project itself in
    DVC_ROOT: what lies there alone (data sets, weights) is found there.
    """
    place = Path(root) / path
    return place if place.exists() or "DVC_ROOT" not in os.environ else Path(os.environ["DVC_ROOT"]) / path


# What `init` may be beside the path of a weights file.
STARTS = ("scratch", "imagenet", "heatmap_encoder")


def located(settings, root):
    """The settings with the weights files that they name as whole paths (see `locate`)."""

    def start(part):
        return part if part.init in STARTS else replace(part, init=str(locate(root, part.init)))

    motion = settings.motion
    if motion.checkpoint is not None:
        motion = replace(motion, checkpoint=str(locate(root, motion.checkpoint)))
    return replace(settings, heatmap=start(settings.heatmap), visual=start(settings.visual), motion=motion)


def from_dict(raw, source="params.yaml"):
    """A dict as YAML gives it -> Settings. Raises SettingsError naming the setting, what was found and expected."""
    if isinstance(raw, dict) and isinstance(raw.get("dataset"), str):
        _refuse(f"{source}: dataset", raw["dataset"], f"its settings; {CONFIGURE}")
    settings = _section(Settings, raw, f"{source}: ")
    if settings.window.stride > settings.window.length:
        _refuse(f"{source}: window.stride", settings.window.stride, f"at most window.length ({settings.window.length})")
    if settings.prepare.size % 32:
        _refuse(f"{source}: prepare.size", settings.prepare.size, "a multiple of 32, the encoder's total stride")
    if settings.heatmap.loss == "mse" and settings.heatmap.pos_weight != 1:
        _refuse(f"{source}: heatmap.pos_weight", settings.heatmap.pos_weight, "1, as heatmap.loss is mse")
    if settings.seed in settings.ablation.seeds:
        _refuse(f"{source}: ablation.seeds", list(settings.ablation.seeds), f"seeds other than seed ({settings.seed})")
    if settings.heatmap.loss in settings.ablation.heatmap_losses:
        _refuse(f"{source}: ablation.heatmap_losses", settings.heatmap.loss, "another loss than heatmap.loss")
    for name, width in (("motion", 384), ("decoder", 128)):
        heads = getattr(settings, name).heads
        if width % heads:
            _refuse(f"{source}: {name}.heads", heads, f"a divisor of {width}, the width that the heads share")
    if settings.motion.local_blocks > settings.motion.depth:
        _refuse(
            f"{source}: motion.local_blocks",
            settings.motion.local_blocks,
            f"at most motion.depth ({settings.motion.depth})",
        )
    if settings.visual.init == "heatmap_encoder" and settings.visual.backbone != "resnet18":
        _refuse(f"{source}: visual.backbone", settings.visual.backbone, "resnet18, as visual.init is heatmap_encoder")
    return settings


class _Loader(yaml.SafeLoader):
    """Plain data only, and no references, with which a few lines can stand for gigabytes: DVC writes none."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "a reference (*name)", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def load(path=None):
    """Read the project's params.yaml (found from the current folder upwards) or another file -> Settings."""
    path = Path(path) if path else find_root() / "params.yaml"
    try:
        raw = yaml.load(read_text(path, 1 << 16), Loader=_Loader)
    except RecursionError:
        raise SettingsError(f"{path}: not readable as YAML (nested too deeply)") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: not readable as YAML ({error})") from None
    return from_dict(raw, path.name)
