"""Table 3: parameters and multiply-accumulates of each box of Fig. 1, counted by torch itself."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.models.backbone import STAGE_CHANNELS
from agego_lib.models.build import untrained_model
from agego_lib.skeleton import NUM_JOINTS


def count_macs(call, frames):
    """Multiply-accumulates a frame of a call on `frames` frames; torch counts two operations for each."""
    # Written out as matrix products, attention is counted on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops() / 2 / frames


def cost(parameters, call, frames):
    """What a method costs -> {"parameters", "macs" a frame} of a call on `frames` frames."""
    # With gradients: without, torch has fused layers that its counter does not know.
    return {"parameters": sum(p.numel() for p in parameters), "macs": round(count_macs(call, frames))}


def full_cost(settings):
    """`cost` of the full model of params.Settings, beside the frozen networks of which other methods read what they see
    too. As in `complexity`, nothing is computed."""
    size, length = settings.prepare.size, settings.window.length
    channels = STAGE_CHANNELS[settings.visual.backbone][2]
    with torch.device("meta"):
        model = untrained_model(settings).eval()
        maps = torch.empty(1, length, NUM_JOINTS, size // 4, size // 4)
        trunk = torch.empty(1, length, channels, size // 16, size // 16)
        distances = torch.empty(1, length, NUM_JOINTS, 1, 1) if settings.decoder.distances else None
    return cost(model.own_parameters(), lambda: model.forward_features(maps, trunk, None, distances), length)


def complexity(size=256, frames=64, backbone="resnet50"):
    """Rows of Table 3 for images of `size` px in windows of `frames` -> list of dicts.

    Keys: part, parameters, trained, frozen (in pose training), mac (multiply-accumulates a frame). The last row is the
    sum. Nothing is computed: the tensors have shapes alone (torch's meta device).
    """
    with torch.device("meta"):
        model = AGEgoPose(HeatmapNet(), FrameEncoder(backbone), MotionEncoder(), HeatmapEmbedding(), PoseDecoder())
        images = torch.empty(frames, 3, size, size)
        maps = torch.empty(1, frames, 15, size // 4, size // 4)
        motion, tokens = torch.empty(1, frames, 384), torch.empty(1, frames, 15, 128)
    model.eval()
    calls = {
        "heatmap_net": ("heatmap network (ResNet-18 FPN)", lambda: model.heatmap_net(images)),
        "embedding": ("heatmap embedding", lambda: model.embedding(maps)),
        "frame_encoder": (f"frame encoder ({backbone})", lambda: model.frame_encoder(images[None])),
        "motion_encoder": ("motion encoder (ActionFormer blocks)", lambda: model.motion_encoder(motion)),
        "decoder": ("memory, pose decoder and head", lambda: model.decoder(tokens, motion)),
    }
    rows = []
    for name, (part, call) in calls.items():
        parameters = list(getattr(model, name).parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        rows.append(
            {"part": part, "parameters": total, "trained": trained, "frozen": total - trained,
             "mac": count_macs(call, frames)}
        )  # fmt: skip
    rows.append({"part": "sum", **{key: sum(row[key] for row in rows) for key in list(rows[0])[1:]}})
    return rows
