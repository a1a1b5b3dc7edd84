"""What a run of some settings takes: memory of a training step, disk, and operations. Estimates, made in seconds."""

import time
from pathlib import Path

import cv2
import torch

from agego_lib.camera import InputView
from agego_lib.datasets.decoding import decode_image
from agego_lib.datasets.prepared import QUALITY
from agego_lib.evaluation.complexity import complexity, count_macs
from agego_lib.models import FrameEncoder, HeatmapNet
from agego_lib.models.backbone import STAGE_CHANNELS
from agego_lib.models.build import untrained_model
from agego_lib.training import HeatmapObjective, PoseObjective, on_cpu

ADAM = 4  # numbers kept for each weight that trains: itself, its gradient, two means
GB = 1e9


def feature_bytes(settings):
    """Bytes of one frame's frozen features in half precision: heatmaps, the joints' distances where the network gives
    them, and ResNet's layer3 for the motion stream."""
    size = settings.prepare.size
    channels = STAGE_CHANNELS[settings.visual.backbone][2] if settings.decoder.use_motion else 0
    return 2 * (15 * ((size // 4) ** 2 + (settings.heatmap.distances > 0)) + channels * (size // 16) ** 2)


def prepared_bytes(settings, example, camera):
    """Bytes of one frame in the prepared store: those of an example, encoded as preparation does.

    Raises ValueError where the example cannot be used.
    """
    view = InputView.of(camera, settings.prepare.size, settings.prepare.crop)
    image = view.apply(decode_image(example, view.check_size))
    return len(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def disk_bytes(settings, frames, frame_bytes):
    """Bytes that a run leaves, by what -> dict. DVC's cache is a second copy of all but the features.

    frames: of both sets and splits. frame_bytes: of one frame in the prepared store.
    """
    features = frames * feature_bytes(settings)
    stored = features <= settings.features.limit_gb * GB
    runs = 2 + len(settings.ablation.rows) + len(settings.ablation.reseeded) * len(settings.ablation.seeds)
    weights = sum(p.numel() for p in _model(settings, "meta").parameters()) * 4
    losses = len(settings.ablation.heatmap_losses)
    heatmaps = losses * frames * 2 * 15 * (settings.prepare.size // 4) ** 2
    return {
        "prepared frames, twice": 2 * frames * frame_bytes,
        "features, once": (features + heatmaps) if stored else 0,
        "models, twice": 2 * (runs + losses) * weights,
    }


def _model(settings, device):
    with torch.device(device):
        return untrained_model(settings)


def _peak(objective, batch):
    """Bytes of a batch's tensors at the peak of a step: all that autograd keeps of the forward pass, weights not
    counted, and beside it the gradients before and after the largest of them."""
    weights = {p.untyped_storage().data_ptr() for p in [*objective.parameters(), *objective.buffers()]}
    kept = {}

    def keep(tensor):
        # Held until the end, so that no other tensor comes to lie in its place.
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(batch)
    sizes = [t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights]
    return sum(sizes) + 2 * max(sizes)


def _heatmap_sides(settings):
    """Sides of the frames that the heatmap network trains on -> (of its first, coarse training, 0 without one; list of
    those of which each batch of the other has one, at random)."""
    return settings.heatmap.coarse_size, settings.heatmap.sizes or [settings.prepare.size]


def training_bytes(settings):
    """Bytes of memory that a training step takes, by stage -> {"heatmap": ..., "pose": ...}.

    Measured on two frames in single precision, since what autograd keeps grows with the frames alone. The paper
    profile's 12.3 GB for poses were 14.8 of a process on a CPU, which holds PyTorch and mapped features too.
    """
    size, frames = settings.prepare.size, 2
    model = _model(settings, "cpu").train()
    maps, trunk = (15, size // 4, size // 4), (STAGE_CHANNELS[settings.visual.backbone][2], size // 16, size // 16)
    truth = {"joints_3d": torch.zeros(1, frames, 15, 3), "mask": torch.ones(1, frames, dtype=torch.bool)}
    window = {"heatmaps": torch.zeros(1, frames, *maps), "trunk": torch.zeros(1, frames, *trunk), **truth}
    coarse, sides = _heatmap_sides(settings)
    side = max(coarse, *sides)
    images = {"image": torch.zeros(frames, 3, side, side, dtype=torch.uint8), "joints": torch.zeros(frames, 15, 2)}
    weight = settings.heatmap.distances
    if weight:
        window["distances"], images["distances"] = torch.zeros(1, frames, 15, 1, 1), torch.ones(frames, 15)
    net = HeatmapNet(fpn_channels=settings.heatmap.fpn_channels, distances=weight > 0).train()
    runs = {
        "heatmap": (HeatmapObjective(net, distances=weight), images, settings.heatmap.optimiser.batch_size),
        "pose": (PoseObjective(model, settings.loss), window, settings.pose.batch_size * settings.window.length),
    }
    needed = {}
    for name, (objective, batch, batch_frames) in runs.items():
        peak = _peak(objective, batch)
        fixed = sum(p.numel() * 4 * (ADAM if p.requires_grad else 1) for p in objective.parameters())
        needed[name] = fixed + peak * batch_frames // frames
    return needed


def batch_bytes(settings):
    """Bytes of a batch on its way from a loader worker, by stage."""
    size, optimiser = max(settings.prepare.size, settings.heatmap.coarse_size), settings.heatmap.optimiser
    frames = settings.pose.batch_size * settings.window.length
    return {"heatmap": optimiser.batch_size * 3 * size**2, "pose": frames * feature_bytes(settings)}


def free_memory(settings):
    """(bytes that training may take, where): of the GPU, or of the machine. None where the system does not say."""
    if not on_cpu(settings.engine) and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], torch.cuda.get_device_name(0)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024, "this machine's memory"
    except (OSError, KeyError, ValueError):
        return None, "this machine's memory"


def training_macs(settings, frames):
    """Multiply-accumulates of a whole run's training: heatmaps, features, and each row's poses. A backward pass counts
    two forward ones.

    settings: params.Settings. frames: {"train": of both sets, "test": of both sets}.
    """
    size, T, backbone = settings.prepare.size, settings.window.length, settings.visual.backbone
    macs = {row["part"].split(" (")[0]: row["mac"] for row in complexity(size, T, backbone)}
    with torch.device("meta"):
        encoder, images = FrameEncoder(backbone), torch.empty(2, 3, size, size)
        trunk = count_macs(lambda: encoder.trunk(images), 2)
    heatmap, pose = macs["heatmap network"], macs["sum"] - macs["heatmap network"] - trunk
    every, train = sum(frames.values()), frames["train"]
    ablation = settings.ablation
    # The second detector of mo2cap2_zoom looks at all frames as they are prepared; what else baselines train is small.
    seconds = ablation.baselines.count("mo2cap2_zoom")
    seconds += ablation.reseeded_baselines.count("mo2cap2_zoom") * len(ablation.seeds)
    coarse, sides = _heatmap_sides(settings)
    # Convolutions of an epoch of the others, in those of such frames.
    epoch = (coarse**2 + sum(side**2 for side in sides) / len(sides)) / size**2 / settings.heatmap.every
    networks = 1 + len(ablation.heatmap_losses)
    rows = 1 + len(ablation.rows) + len(ablation.reseeded) * len(ablation.seeds) + len(ablation.heatmap_losses)
    overlap = T / settings.window.stride
    # EgoPW's frames are most of them; both sets are counted with the longer of the two trainings.
    epochs = max(settings.pose.epochs, settings.finetune.epochs)
    return (
        3 * heatmap * train * settings.heatmap.optimiser.epochs * (networks * epoch + seconds)
        + heatmap * every * (networks + seconds)
        + trunk * every
        + rows * pose * (3 * overlap * train * epochs + overlap * frames["test"])
    )


def operations_a_second():
    """Floating-point operations a second of this machine's convolutions, tried for a moment."""
    layer, x = torch.nn.Conv2d(64, 64, 3, padding=1), torch.zeros(8, 64, 64, 64)
    with torch.inference_mode():
        layer(x)
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < 0.3:
            layer(x)
            rounds += 1
    return rounds * 2 * x.numel() * 64 * 9 / (time.perf_counter() - started)
