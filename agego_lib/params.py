"""Settings: params.yaml read once, every key and value checked, every mistake refused by name.

params.yaml alone says what a working copy runs. `conf/` holds the groups that it is composed from (see
scripts/configure.py); docs/decisions.md says which point of the paper each setting answers. The classes check
what they are made of, also by `dataclasses.replace`; what must fit together within the file is at their end.
"""

import os
import reprlib
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

import yaml
import yaml.composer
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from agego_lib.files import read_text

MAX_NUMBER = 10**18  # beyond any setting, infinity included
# The groups of conf/ that params.yaml is composed from.
GROUPS = ("dataset", "profile", "tables")
CONFIGURE = "choose data set, profile and tables with `python scripts/configure.py dataset=... profile=... tables=...`"


class SettingsError(ValueError):
    """A setting that is unknown, missing, of the wrong type or out of range; the message names it."""


def _kind(kind, expected, **limits):
    """A field's type: `kind` within pydantic's `limits`, nothing converted but whole numbers to floats."""

    def check(value, handler):
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", expected) from None

    return Annotated[kind, Field(strict=True, **limits), WrapValidator(check)]


def _number(kind, **limits):
    names = {"ge": "at least", "gt": "above", "le": "at most", "multiple_of": "a multiple of"}
    bounds = " and ".join(f"{names[key]} {limit}" for key, limit in limits.items())
    noun = "a whole number" if kind is int else "a number"
    return _kind(kind, f"{noun} {bounds}", lt=MAX_NUMBER, **limits)


def _list(kind, length=None):
    def check(value):
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise PydanticCustomError("expected", f"a list of {length}" if length else "a list")
        return value

    return Annotated[tuple[kind, ...], BeforeValidator(check)]


Text = _kind(str, "a text", min_length=1)
Switch = _kind(bool, "true or false")
Count = _number(int, ge=1)
Natural = _number(int, ge=0)
Positive = _number(float, gt=0)
NotNegative = _number(float, ge=0)
Part = _number(float, ge=0, le=0.9)
# The classes of baselines/.
BaselineName = Literal[
    "nearest", "xr_egopose", "mo2cap2", "mo2cap2_zoom", "selfpose", "egoposeformer", "egowholemocap", "kolotouros",
    "egohmr", "egotap", "egopw", "egopw_one_view", "sceneego", "sceneego_true_depth",
]  # fmt: skip
# Files beside imgs/ that some of them read: the file, what it holds, and of which splits of which sets.
BESIDE = {
    "egopw": ("outside.npz", "a view from outside (egopw_one_view does without)", {"egopw": ("train",)}),
    "sceneego": ("depth.npz", "the depth of the scene", {"egopw": ("train",), "sceneego": ("train",)}),
    "sceneego_true_depth": (
        "depth.npz", "the depth of the scene", {"egopw": ("train", "test"), "sceneego": ("train", "test")}
    ),
}  # fmt: skip
section = dataclass(frozen=True, config={"extra": "forbid"})


@section
class RunSettings:
    """Which groups of conf/ the settings come from: marks what is kept of a run, and changes nothing by itself."""

    dataset: Text
    profile: Text
    tables: Text


@section
class DataSetSettings:
    """Where one data set lies: paths are absolute or relative to the project; lists name one sequence a line."""

    root: Text
    train_list: Text
    test_list: Text
    calibration: Text
    allow_shared_actors: Switch


@section
class SceneEgoSettings(DataSetSettings):
    """clock: which frame an annotation of the test split without image_name is of, as read_sceneego has it."""

    clock: Literal["sceneego", "egowholemocap"]


@section
class DatasetSettings:
    """The EgoPW-like and the SceneEgo-like set; `synthetic` renders both from data/ first."""

    source: Literal["synthetic", "files"]
    egopw: DataSetSettings
    sceneego: SceneEgoSettings


@section
class RenderSettings:
    """The embedded data: (actors, sequences an actor) of each split.

    hidden_stretches: about this share of the time, joints are hidden on purpose (agego_data/stretches.py).
    others: probability that in a sequence another person is in view (agego_data/others.py).
    step: how many frames of 25 or 30 a second the rendered ones are apart. More than one for heatmaps alone.
    anyhow: share of what training people do that is no action: arms and legs go anywhere within human limits.
    """

    scale: _number(float, ge=0.1, le=1.0)
    frames_per_sequence: _number(int, ge=8)
    egopw_train: _list(Count, 2)
    egopw_test: _list(Count, 2)
    sceneego_train: _list(Count, 2)
    sceneego_test: _list(Count, 2)
    label_noise_mm: NotNegative
    hidden_stretches: _number(float, ge=0, le=0.5)
    others: _number(float, ge=0, le=1)
    step: Count
    anyhow: _number(float, ge=0, le=1)


@section
class PrepareSettings:
    """Sec. 4.2: frames resized to `size` squared, a multiple of the encoder's total stride."""

    size: _number(int, ge=32, multiple_of=32)
    crop: Literal["none", "square", "fovea"]
    max_skipped: _number(float, ge=0, le=1)
    workers: Count


@section
class OptimiserSettings:
    """One training run: Adam with a linear warm-up and a cosine from lr to lr_final over all steps."""

    epochs: Count
    batch_size: Count
    lr: Positive
    lr_final: NotNegative
    warmup_steps: Natural
    weight_decay: NotNegative
    grad_clip: NotNegative


@section
class HeatmapSettings:
    """Sec. 3.1 and 4.2: the 2D joint heatmap network; sigma in pixels of the heatmap of frames as prepared.

    init: where the encoder starts: scratch, imagenet, or a weights file; or released: the whole network starts as that
    of the released model.
    colour_jitter: each training frame's channels are multiplied by 1 +- up to this.
    distances: weight of the error of the joints' distances (m), which the network then gives too; 0: it does not.
    every: only each so-manieth frame trains; coarse_size: the whole training runs on frames of this side first, in px,
    which costs less; 0: it does not. sizes: sides, px, to one of which each training batch is brought at random, so
    that the network knows more than one; empty: frames as they are prepared.
    """

    init: Text
    fpn_channels: _list(Count, 4)
    loss: Literal["bce", "mse"]
    sigma: Positive
    pos_weight: Positive
    colour_jitter: Part
    distances: NotNegative
    every: Count
    coarse_size: _number(int, ge=0, multiple_of=32)
    sizes: _list(_number(int, ge=32, multiple_of=32))
    optimiser: OptimiserSettings


@section
class VisualSettings:
    """Sec. 3.2: the frame encoder's backbone. init: imagenet, heatmap_encoder, scratch, or a weights file."""

    backbone: Literal["resnet18", "resnet50"]
    init: Text


@section
class FeaturesSettings:
    """Frozen features are stored when all of them fit into limit_gb (10^9 bytes), else computed in every step."""

    limit_gb: NotNegative
    batch_size: Count


@section
class WindowSettings:
    """Sec. 4.2: T frames a window, `stride` frames apart; no window crosses a hole of more than max_gap frames.

    step: a window takes every step-th frame of the video (1: all), and stride counts those.
    """

    length: Count
    stride: Count
    step: Count
    max_gap: Count


@section
class MotionSettings:
    """Sec. 3.2: ActionFormer blocks, local then global. checkpoint: the public Ego4D file, or null to train here."""

    heads: Count
    depth: Count
    local_blocks: Natural
    window: Count
    drop_path: Part
    checkpoint: Text | None
    checkpoint_blocks: _list(Text)
    checkpoint_ema: Switch
    optimiser: OptimiserSettings


@section
class DecoderSettings:
    """Sec. 3.3, and what it leaves open (docs/decisions.md). kind: the paper's, or one beside it (models/rays.py).

    init: "released": it starts as the released model's, which must be alike. use_motion: whether the main model has the
    motion stream. Of "rays" alone: turn_degrees, hidden_share, mirror are what training windows are changed into
    (rays.Augmentation), smoothing the width of the filter that its joints go through, in the window's frames, min_peak
    the value that one of a frame's maps must reach for it to be looked at, train_length the frames of the windows that
    it is trained on, as many more of which make a step (0: those of window.length, which it is tested on; 1: without
    attention over time, so that frames meet in the filter and in the stature alone), flip_test whether poses are means
    of those of the rays and of their mirror image. stature: of the wearer: not asked for; estimated unless it is told,
    for which half of the training windows are (rays alone); or given, in training and test alike
    (agego_lib/stature.py). distances: whether it reads those of the heatmap network.
    Of "paper" alone: norm_first, embedding (of the heatmaps: Eq. 2's small CNN, or models.LimbEmbedding), input_scale,
    memory_joint_embedding and start_at_mean_pose.
    """

    kind: Literal["paper", "rays"]
    init: Literal["scratch", "released"]
    use_motion: Switch
    turn_degrees: NotNegative
    hidden_share: Part
    mirror: Switch
    smoothing: NotNegative
    min_peak: Part
    train_length: Natural
    flip_test: Switch
    stature: Literal["none", "estimated", "given"]
    distances: Switch
    layers: Count
    heads: Count
    dropout: Part
    norm_first: Switch
    embedding: Literal["cnn", "limbs"]
    input_scale: Positive
    memory_joint_embedding: Switch
    start_at_mean_pose: Switch


@section
class LossSettings:
    """Sec. 3.4, the weights of the composite loss; lambda_velocity: of a term that the paper has not (losses.py)."""

    lambda_pos: NotNegative
    lambda_bone: NotNegative
    lambda_cos: NotNegative
    lambda_velocity: NotNegative


@section
class EvaluateSettings:
    """pck_share: the 2D PCK threshold as a share of the input's side (8 px of 128 is 0.0625)."""

    pck_share: _number(float, gt=0, le=1)


RowName = Literal[
    "no_cross_attention", "no_motion", "no_spatial", "window_half", "window_double", "joint_embedding", "sceneego_only",
    "limb_embedding", "full_long", "no_cross_attention_long", "no_motion_long", "no_spatial_long", "full_longer",
    "rays", "rays_long", "rays_motion", "rays_one_frame", "rays_one_frame_long", "rays_plain",
    "full_stature", "rays_stature", "full_distances", "rays_distances", "rays_distances_long",
]  # fmt: skip


@section
class AblationSettings:
    """What `05_ablations` compares with the full model: runs of `03_pose_training`, and baselines.

    rows: one change each (see training/rows.py). heatmap_losses: other heatmap networks: of another
    loss (Table 6), or trained from "scratch", where heatmap.init is a start. seeds: further seeds beside `seed`, for
    each row of `reseeded` and each baseline of `reseeded_baselines`.
    """

    rows: _list(RowName)
    heatmap_losses: _list(Literal["mse", "bce", "scratch"])
    seeds: _list(Natural)
    reseeded: _list(Literal["full", RowName])
    baselines: _list(BaselineName)
    reseeded_baselines: _list(BaselineName)


@section
class EngineSettings:
    """Lightning Fabric's own settings, loader workers and CPU threads (0: OMP_NUM_THREADS, or as many as there are)."""

    accelerator: Text
    devices: Count
    num_nodes: Count
    strategy: Text
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    workers: Natural
    threads: Natural


@section
class ResumeSettings:
    """What keeps a run safe and changes no result, so that no stage depends on it.

    every_minutes: longest time between two checkpoints (one is written after each epoch too). max_faults: steps that a
    run may skip because their loss or gradient is not finite.
    """

    every_minutes: NotNegative
    max_faults: Natural


@section
class Settings:
    run: RunSettings
    seed: Natural
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


# Rows that change a part which the paper's decoder alone has.
_PAPERS_OWN = {"no_spatial", "no_cross_attention", "joint_embedding", "limb_embedding"}


def _fits_together(s):
    """`s`, the settings of a file, or the error of the first that does not go with the others."""
    paper = s.decoder.kind == "paper"
    rules = [
        # Of those that are tested; decoder.train_length may ask for shorter ones in training.
        ("window.length", s.window.length > 1, "a whole number at least 2"),
        ("window.stride", s.window.stride <= s.window.length, f"at most window.length ({s.window.length})"),
        ("heatmap.pos_weight", s.heatmap.loss == "bce" or s.heatmap.pos_weight == 1, "1, as heatmap.loss is mse"),
        ("ablation.seeds", s.seed not in s.ablation.seeds, f"seeds other than seed ({s.seed})"),
        ("ablation.heatmap_losses", s.heatmap.loss not in s.ablation.heatmap_losses, "another loss than heatmap.loss"),
        ("motion.heads", 384 % s.motion.heads == 0, "a divisor of 384, the width that the heads share"),
        ("decoder.heads", 128 % s.decoder.heads == 0, "a divisor of 128, the width that the heads share"),
        ("motion.local_blocks", s.motion.local_blocks <= s.motion.depth, f"at most motion.depth ({s.motion.depth})"),
        (
            "loss.lambda_velocity",
            paper or s.decoder.train_length != 1 or not s.loss.lambda_velocity,
            "0, as decoder.train_length is 1: one frame has no velocity",
        ),
        ("decoder.kind", paper or s.prepare.crop == "fovea", "paper, unless prepare.crop is fovea"),
        (
            "decoder.stature",
            not (paper and s.decoder.stature == "estimated"),
            "none or given, as decoder.kind is paper",
        ),
        ("decoder.distances", s.heatmap.distances > 0 or not s.decoder.distances, "false, as heatmap.distances is 0"),
        (
            "ablation.rows",
            s.heatmap.distances > 0 or not any("_distances" in row for row in s.ablation.rows),
            "no _distances rows, as heatmap.distances is 0",
        ),
        ("decoder.embedding", not (s.decoder.distances and s.decoder.embedding == "limbs"), "cnn, with distances"),
        (
            "ablation.rows",
            paper or not _PAPERS_OWN & {*s.ablation.rows},
            f"rows that a model with decoder.kind rays has (not {', '.join(sorted(_PAPERS_OWN))})",
        ),
        (
            "ablation.rows",
            (paper and s.prepare.crop == "fovea") or not any(row.startswith("rays") for row in s.ablation.rows),
            "no rays rows, unless prepare.crop is fovea and decoder.kind paper",
        ),
        *(
            (
                f"decoder.{name}",
                not (getattr(s.decoder, name) and s.decoder.use_motion),
                "false, as decoder.use_motion is on: the motion stream's features have no mirror image",
            )
            for name in ("mirror", "flip_test")
        ),
        (
            "visual.backbone",
            s.visual.init != "heatmap_encoder" or s.visual.backbone == "resnet18",
            "resnet18, as visual.init is heatmap_encoder",
        ),
        (
            "visual.init",
            s.visual.init != "released",
            "another start: with heatmap.init released, visual.init heatmap_encoder takes its encoder",
        ),
    ]
    for name, holds, expected in rules:
        if not holds:
            error = {"type": PydanticCustomError("expected", expected), "loc": tuple(name.split("."))}
            raise ValidationError.from_exception_data("Settings", [{**error, "input": attrgetter(name)(s)}])  # ty: ignore
    return s


_FILE = TypeAdapter(Annotated[Settings, AfterValidator(_fits_together)])
_KEYS = ("invalid_key", "unexpected_keyword_argument", "missing")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlong = 40


def _message(error):
    """What a pydantic error says of the settings, in this project's words."""
    *parents, last = error["loc"] or ("its content",)
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key:.100}" for key in (*parents, last)).removeprefix(".")
    if error["type"] == "missing":
        return f"{name} is missing; compose params.yaml anew: `python scripts/configure.py --fresh`"
    if error["type"] in _KEYS:
        kind = Settings
        for key in parents:
            kind = kind.__dataclass_fields__[key].type
        hint = CONFIGURE if last in GROUPS else "known here: " + ", ".join(field.name for field in fields(kind))
        return f"{name} is not a setting; {hint}"
    value, expected = error["input"], error["msg"].removeprefix("Input should be ")
    if error["type"] == "dataclass_type":
        expected = f"its settings; {CONFIGURE}" if last in GROUPS else "a section of settings"
    return f"{name} is {_short.repr(list(value) if isinstance(value, tuple) else value)}; expected {expected}"


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
STARTS = ("scratch", "imagenet", "heatmap_encoder", "released")
# The model that comes with the project, in its folder.
RELEASED = "released/model.safetensors"


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
    try:
        return _FILE.validate_python(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    # Keys come before values: a value that does not fit is often another key's.
    first = min(errors, key=lambda e: _KEYS.index(e["type"]) if e["type"] in _KEYS else len(_KEYS))
    raise SettingsError(f"{source}: {_message(first)}")


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
