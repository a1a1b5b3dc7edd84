"""What each run of `03_pose_training` trains: the protocol of Sec. 4.2 and the rows of Tables 4 to 7.

A row is the full protocol, training on EgoPW and fine-tuning on SceneEgo, with one thing changed.
"""

from dataclasses import dataclass, replace

from agego_lib.models.build import ABLATIONS
from agego_lib.params import OptimiserSettings, Settings, WindowSettings


def _window(settings, factor):
    """T `factor` times as long, with as many frames a step and the same share of overlap as before."""
    window, scaled = settings.window, {}
    length, stride = (max(1, round(value * factor)) for value in (window.length, window.stride))
    for name in ("pose", "finetune"):
        optimiser = getattr(settings, name)
        scaled[name] = replace(optimiser, batch_size=max(1, round(optimiser.batch_size / factor)))
    return replace(settings, window=replace(window, length=length, stride=stride), **scaled)


def _other_joint_embedding(settings):
    decoder = settings.decoder
    return replace(settings, decoder=replace(decoder, memory_joint_embedding=not decoder.memory_joint_embedding))


def _limb_embedding(settings):
    return replace(settings, decoder=replace(settings.decoder, embedding="limbs"))


def _rays(settings, **other):
    """The decoder beside the paper's, as the released model has it but for filter, `min_peak`, flip test."""
    # Joints are filtered over neighbouring frames, of which longer steps have none. With this width those of training
    # people tremble least.
    smoothing = 2.0 if settings.window.step == 1 else 0.0
    # A step then sees four times as many sequences, from which it learns more.
    train_length = 16 if settings.window.length > 16 else 0
    new = {"kind": "rays", "use_motion": False, "turn_degrees": 4.0, "hidden_share": 0.05, "mirror": True}
    new |= {"train_length": train_length, "stature": "estimated", "flip_test": False} | other
    return replace(
        settings,
        decoder=replace(settings.decoder, layers=4, smoothing=smoothing, **new),
        # One frame has no velocity.
        loss=replace(settings.loss, lambda_velocity=0.0 if new["train_length"] == 1 else 2.0),
    )


def _told_stature(settings):
    return replace(settings, decoder=replace(settings.decoder, stature="given"))


def _distances(settings):
    return replace(settings, decoder=replace(settings.decoder, distances=True))


def _long(settings, times):
    """Trained on so many times the passes."""
    steps = {name: getattr(settings, name) for name in ("pose", "finetune")}
    return replace(settings, **{name: replace(o, epochs=times * o.epochs) for name, o in steps.items()})


def training_window(settings: Settings) -> tuple[WindowSettings, int]:
    """The windows that poses are trained on, and how many of them are as long as one that is tested.

    `decoder.train_length` asks for shorter ones, with the same share of overlap.
    """
    window, decoder = settings.window, settings.decoder
    as_long = max(1, window.length // decoder.train_length) if decoder.kind == "rays" and decoder.train_length else 1
    return replace(window, length=window.length // as_long, stride=max(1, window.stride // as_long)), as_long


# Rows that change a setting; those of ABLATIONS switch a part of the model off (Tables 4 and 5).
CHANGES = {
    "window_half": lambda settings: _window(settings, 0.5),  # Table 7: T = 32 where the paper has 64
    "window_double": lambda settings: _window(settings, 2),  # Table 7: T = 128
    "joint_embedding": _other_joint_embedding,
    "limb_embedding": _limb_embedding,
    "rays": _rays,
    "rays_motion": lambda settings: _rays(settings, use_motion=True, mirror=False),
    # Four times: about half of the time that the full model takes for its own passes.
    "rays_long": lambda settings: _long(_rays(settings), 4),
    # Without attention over time, from as many frames a step, each seen about as often.
    "rays_one_frame": lambda settings: _long(_rays(settings, train_length=1), 2),
    "rays_one_frame_long": lambda settings: _long(_rays(settings, train_length=1), 8),
    "rays_plain": lambda settings: _rays(settings, turn_degrees=0.0, hidden_share=0.0, mirror=False),
    # Both decoders told how tall the wearer is.
    "rays_stature": lambda settings: _rays(settings, stature="given"),
    "full_stature": _told_stature,
    # Both decoders with what the heatmap network says of the joints' distances.
    "rays_distances": lambda settings: _rays(settings, distances=True),
    "full_distances": _distances,
    "rays_distances_long": lambda settings: _long(_rays(settings, distances=True), 4),
    # Tables 4 and 5 again: whether a row is worse, or only behind.
    **{f"{row}_long": lambda settings: _long(settings, 2) for row in ABLATIONS},
    # As many passes as `rays_long`.
    "full_longer": lambda settings: _long(settings, 4),
}
# Rows that read the heatmaps of a network trained with this loss (Table 6), or from scratch.
LOSSES = {"heatmap_mse": "mse", "heatmap_bce": "bce", "heatmap_scratch": "scratch"}


@dataclass(frozen=True)
class Run:
    """One run. switches: a key of ABLATIONS. steps: (data set, its optimiser) in the order of training.

    place: its folder under artifacts/, plots/ and metrics/. loss: of the heatmap network that feeds the spatial
    stream, where that is another one than the main one; "scratch" is the main one's, trained from scratch.
    """

    settings: Settings
    place: str
    switches: str
    steps: tuple[tuple[str, OptimiserSettings], ...]
    loss: str | None = None


def plan(settings, run, seed=None):
    """The Run named `run`: "pose", "finetune", "sceneego_only", or a row of ABLATIONS, CHANGES or LOSSES.

    "sceneego_only" passes over SceneEgo as often as the other rows pass over both sets together.
    seed: given for a repetition of a row with another seed. Raises ValueError for another name.
    """
    known = ("pose", "finetune", "sceneego_only", *ABLATIONS, *CHANGES, *LOSSES)
    if run not in known:
        raise ValueError(f"run is {run!r}; expected one of {', '.join(known)}")
    place = run if run in ("pose", "finetune") else f"ablate/{run}"
    if seed is not None:
        settings, place = replace(settings, seed=seed), f"{place}-{seed}"
    if run in CHANGES:
        settings = CHANGES[run](settings)
    _, as_long = training_window(settings)
    first, second = (replace(o, batch_size=as_long * o.batch_size) for o in (settings.pose, settings.finetune))
    steps = {
        "pose": (("egopw", first),),
        "finetune": (("sceneego", second),),
        "sceneego_only": (("sceneego", replace(first, epochs=first.epochs + second.epochs)),),
    }.get(run, (("egopw", first), ("sceneego", second)))
    part = run.removesuffix("_long")
    return Run(settings, place, part if part in ABLATIONS else "full", steps, LOSSES.get(run))
