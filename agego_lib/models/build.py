"""From settings and weight files to models and back: what a stage starts from, and what it leaves for the next."""

import copy
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from agego_lib.models import weights
from agego_lib.params import DecoderSettings, HeatmapSettings, MotionSettings, Settings, VisualSettings, WindowSettings
from agego_lib.skeleton import NUM_JOINTS

from .backbone import WeightsError, fitted
from .heatmap import HeatmapNet
from .motion import FrameEncoder, MotionEncoder
from .pose import AGEgoPose, PoseDecoder
from .rays import Augmentation, RayDecoder, RayTokens
from .spatial import HeatmapEmbedding, LimbEmbedding

# The rows of Tables 4 and 5: which of the model's three parts is taken away.
ABLATIONS = {
    "full": {},
    "no_cross_attention": {"use_cross_attention": False},
    "no_motion": {"use_motion": False},
    "no_spatial": {"use_spatial": False},
}


# Settings of each kind of decoder, beside those of both, that the model is built with; the others say how it starts and
# trains.
DECODERS = {
    "paper": ("layers", "heads", "dropout", "norm_first", "embedding", "input_scale", "memory_joint_embedding"),
    "rays": ("layers", "heads", "dropout", "smoothing", "min_peak", "train_length", "flip_test"),
}
BOTH = ("kind", "stature", "distances")
# Those of them that no weight depends on.
FREE = ("dropout", "smoothing", "min_peak", "flip_test")


def load_heatmap_net(path) -> HeatmapNet:
    """The trained heatmap network that `02_heatmap_training` wrote -> frozen HeatmapNet."""
    state, info = weights.load(path)
    net = HeatmapNet(fpn_channels=tuple(info["fpn_channels"]), distances=info.get("distances", False))
    net.load_state_dict(fitted(net, state, source=str(path)))
    return net.freeze()


def _released(path, otherwise):
    """State and config of the released model. Raises WeightsError, with what to do otherwise, where it is not there."""
    if not Path(path).is_file():
        raise WeightsError(f"no weights file at {path}; run `dvc pull released.dvc`, or {otherwise}")
    return weights.load(path)


def new_heatmap_net(heatmap: HeatmapSettings, released) -> HeatmapNet:
    """The heatmap network at the start of its training, as the `heatmap` settings have it.

    released: file of the released model, whose heatmap network it is where `heatmap.init` says so.
    Raises WeightsError where weights are missing or do not fit.
    """
    distances = heatmap.distances > 0
    if heatmap.init != "released":
        return HeatmapNet(init=heatmap.init, fpn_channels=heatmap.fpn_channels, distances=distances)
    otherwise = "set heatmap.init to scratch, imagenet or a weights file"
    state, config = _released(released, otherwise)
    if config.get("fpn_channels") != list(heatmap.fpn_channels):
        raise WeightsError(
            f"{released} has fpn_channels {config.get('fpn_channels')}, heatmap.fpn_channels is "
            f"{list(heatmap.fpn_channels)}; set it as the file has it, or {otherwise}"
        )
    prefix = "heatmap_net."
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not distances:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("distances.")}
    net = HeatmapNet(fpn_channels=heatmap.fpn_channels, distances=distances)
    net.load_state_dict(fitted(net, state, str(released), prefix))
    return net


def frame_encoder(visual: VisualSettings, heatmap_net: HeatmapNet | None) -> FrameEncoder:
    """FrameEncoder of the `visual` settings; `heatmap_net` gives the weights where they ask for its encoder."""
    from_heatmaps = visual.init == "heatmap_encoder"
    state = heatmap_net.state_dict() if from_heatmaps else None
    return FrameEncoder(backbone=visual.backbone, init=visual.init, heatmap_state=state)


def motion_encoder(motion: MotionSettings) -> MotionEncoder:
    """Untrained MotionEncoder of the `motion` settings."""
    return MotionEncoder(
        heads=motion.heads,
        depth=motion.depth,
        local_blocks=motion.local_blocks,
        window=motion.window,
        drop_path=motion.drop_path,
    )


def motion_stage_parts(frames: FrameEncoder, blocks: MotionEncoder) -> nn.ModuleDict:
    """What the motion stage trains or loads, as one module: the projection to F_s (Eq. 3) and the temporal blocks."""
    return nn.ModuleDict({"project": frames.project, "norm": frames.norm, "motion_encoder": blocks})


def _config(settings, switches):
    decoder = {key: getattr(settings.decoder, key) for key in (*BOTH, *DECODERS[settings.decoder.kind])}
    motion = {k: getattr(settings.motion, k) for k in ("heads", "depth", "local_blocks", "window", "drop_path")}
    return {
        "input": {"size": settings.prepare.size, "crop": settings.prepare.crop},
        "window": asdict(settings.window),
        "fpn_channels": list(settings.heatmap.fpn_channels),
        "distances": settings.heatmap.distances > 0,
        "backbone": settings.visual.backbone,
        "motion": motion,
        "decoder": decoder,
        "switches": switches,
    }


def _embedding_and_decoder(config, output_mean):
    options = dict(config["decoder"])
    if options.pop("kind", "paper") == "rays":
        use_motion = config["switches"].get("use_motion", True)
        return RayTokens(options.get("distances", False)), RayDecoder(output_mean, **options, use_motion=use_motion)
    limbs, scale = options.pop("embedding", "cnn") == "limbs", options.pop("input_scale")
    distances = options.pop("distances", False)
    if limbs:
        embedding = LimbEmbedding(config["input"]["size"] // 4, input_scale=scale)
    else:
        embedding = HeatmapEmbedding(input_scale=scale, distances=distances)
    return embedding, PoseDecoder(**options, **config["switches"], output_mean=output_mean)


def augmentation(decoder: DecoderSettings) -> Augmentation | None:
    """What training windows are changed into, for a decoder that reads rays."""
    if decoder.kind != "rays":
        return None
    return Augmentation(decoder.turn_degrees, decoder.hidden_share, decoder.mirror)


def switches(settings: Settings, row: str) -> dict[str, bool]:
    """Which parts of the model are off in a row, a key of ABLATIONS."""
    off = {} if settings.decoder.use_motion else {"use_motion": False}
    if settings.decoder.kind == "rays":
        off["use_cross_attention"] = False  # it has none
    return off | ABLATIONS[row]


def _start_as_released(embedding, decoder, config, released):
    otherwise = "set decoder.init to scratch"
    state, theirs = _released(released, otherwise)
    for part in ("decoder", "switches"):
        # What changes no weight, such as the filter's width, may differ.
        given = {"distances": False} | theirs[part] if part == "decoder" else theirs[part]
        other = {k: v for k, v in given.items() if k not in FREE and config[part].get(k, v) != v}
        if other:
            found = ", ".join(f"{part}.{key} {value!r} ({config[part][key]!r} here)" for key, value in other.items())
            raise WeightsError(f"{released} has {found}; set it as the file has it, or {otherwise}")
    for prefix, module in (("embedding.", embedding), ("decoder.", decoder)):
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        module.load_state_dict(fitted(module, own, str(released), prefix))


def new_decoder(
    settings: Settings, row: str, mean_pose: Float[np.ndarray, "15 3"], released
) -> tuple[nn.Module, nn.Module, dict]:
    """What reads the heatmaps, and the decoder, at the start of their training, and the model's config.

    row: a key of ABLATIONS. mean_pose: m, the training split's. released: file of the released model, whose weights and
    mean pose they have where `decoder.init` says so. Raises WeightsError where it is missing, or its decoder is another
    one.
    """
    config = _config(settings, switches(settings, row))
    start = settings.decoder.start_at_mean_pose or settings.decoder.kind == "rays"
    embedding, decoder = _embedding_and_decoder(config, mean_pose if start else None)
    if settings.decoder.init == "released":
        _start_as_released(embedding, decoder, config, released)
    return embedding, decoder, config


def new_model(
    settings: Settings,
    row: str,
    heatmap_file,
    motion_file,
    mean_pose: Float[np.ndarray, "15 3"],
    trunk_file=None,
    released=None,
) -> tuple[AGEgoPose, dict]:
    """The model at the start of pose training: frozen parts from their stages, the rest new.

    row: a key of ABLATIONS. trunk_file: the heatmap network that `visual.init: heatmap_encoder` copies, where it is
    another one than the spatial stream's (Table 6 changes the heatmaps alone).
    mean_pose: m, the training split's; used when `decoder.start_at_mean_pose` is on.
    released: file of the released model, whose decoder it starts with where `decoder.init` says so.
    Returns the model and its config, the JSON-able dict that `save_model` keeps.
    """
    net = load_heatmap_net(heatmap_file)
    trunk = load_heatmap_net(trunk_file) if trunk_file else net
    frames, blocks = frame_encoder(settings.visual, trunk), motion_encoder(settings.motion)
    state, _ = weights.load(motion_file)
    parts = motion_stage_parts(frames, blocks)
    parts.load_state_dict(fitted(parts, state, source=str(motion_file)))
    # Last: a seed then gives it the same weights as ever.
    embedding, decoder, config = new_decoder(settings, row, mean_pose, released)
    return AGEgoPose(net, frames, blocks, embedding, decoder, **config["switches"]), config


def _untrained(config):
    return AGEgoPose(
        HeatmapNet(fpn_channels=tuple(config["fpn_channels"]), distances=config.get("distances", False)),
        FrameEncoder(backbone=config["backbone"], init="scratch"),
        MotionEncoder(**config["motion"]),
        *_embedding_and_decoder(config, torch.zeros(NUM_JOINTS, 3)),
        **config["switches"],
    )


def untrained_model(settings: Settings) -> AGEgoPose:
    """The main model of the settings as it is built, before any weights: for what it takes, in memory and time."""
    return _untrained(_config(settings, switches(settings, "full")))


def save_model(path, model: AGEgoPose, config: dict, packed: bool = False) -> None:
    """Write a pose model and all that is needed to build it again; packed as for release, see `weights`."""
    weights.save(path, model, config, packed)


def load_model(path, window: WindowSettings | None = None) -> tuple[AGEgoPose, dict]:
    """A trained pose model, on the CPU, in evaluation mode, and its config.

    window: of the run that uses it, where they must be those that it was trained with: another T or
    step would run, and be worse without a word. Raises WeightsError naming the file and the setting.
    """
    state, config = weights.load(path)
    for name, value in asdict(window).items() if window else ():
        if name in ("length", "step") and config["window"][name] != value:
            raise WeightsError(
                f"{path} was trained with window.{name} = {config['window'][name]}, and params.yaml has {value}; "
                "train again (`dvc repro pose`), or set it as it was"
            )
    model = _untrained(config)
    model.load_state_dict(fitted(model, state, source=str(path)))
    return model.eval(), config


# What BatchNorm can be folded into, where it directly follows.
FOLDS = {(nn.Conv2d, nn.BatchNorm2d): fuse_conv_bn_eval, (nn.Linear, nn.BatchNorm1d): fuse_linear_bn_eval}


def for_inference(model: nn.Module) -> nn.Module:
    """A copy of a model for prediction alone: the same poses to rounding, in less time.

    Each BatchNorm is folded into the convolution or linear layer that it follows, in evaluation mode, and weights are
    laid out channels last, as the images of `agego_lib.images.to_tensor` are. The copy cannot be trained or saved.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in [*model.modules()]:
        # In ResNets and the frame encoder, what is registered next is what runs next.
        for (first, before), (second, after) in pairwise([*module.named_children()]):
            fold = FOLDS.get((type(before), type(after)))
            if fold:
                setattr(module, first, fold(before, after))
                setattr(module, second, nn.Identity())
    return model.to(memory_format=torch.channels_last).requires_grad_(False)
