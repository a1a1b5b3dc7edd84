"""Prediction on the CPU against what the machine's convolution rate allows the backbones' multiply-accumulates.

256 x 256, ResNet-50 and the heatmap network, windows of 64 at stride 32, random weights.
"""

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from agego_lib.evaluation.complexity import complexity
from agego_lib.images import to_tensor
from agego_lib.inference import predict_sequence
from agego_lib.models.build import for_inference
from benchmarks.common import arguments, interleaved, report, target
from benchmarks.made_up import paper_model

# (channels, side, kernel) of ResNet's own dense convolutions at 256 px; as many channels out as in.
CONVOLUTIONS = ((64, 64, 3), (128, 32, 3), (256, 16, 3), (256, 64, 1), (512, 32, 1))
KINDS = {
    "convolutions": ("convolution", "conv2d"),
    "upsampling": ("upsample",),
    "joining and copying": ("cat", "copy", "contiguous", "clone"),
    "activations and sums": ("clamp", "relu", "add", "threshold"),
    "batch norm": ("batch_norm",),
    "matrix products": ("mm", "linear", "attention"),
}


def convolution_rate(rounds, batch):
    """Rows of measured fp32 convolution rates, in GMAC a second."""
    calls, macs = {}, {}
    for channels, side, kernel in CONVOLUTIONS:
        for layout, form in (("channels first", torch.contiguous_format), ("channels last", torch.channels_last)):
            conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).to(memory_format=form)
            x = torch.randn(batch, channels, side, side).to(memory_format=form)
            name = (f"{channels} channels, {side} x {side}, kernel {kernel}", layout)
            calls[name] = lambda conv=conv, x=x: [conv(x) for _ in range(4)]
            macs[name] = 4 * batch * channels**2 * kernel**2 * side**2
    with torch.inference_mode():
        seconds = interleaved(calls, rounds)
    return [
        {"convolution": shape, "layout": layout, "GMAC a second": macs[shape, layout] / s / 1e9}
        for (shape, layout), s in seconds.items()
    ]


def where_time_goes(model, images):
    """Share of the operators' own time in encoding one chunk, by kind, largest first."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as found:
        model.frozen_features(to_tensor(images))
    shares = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in found.key_averages():
        kind = next((k for k, words in KINDS.items() if any(w in event.key for w in words)), "the rest")
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    return [{"operators": k, "share": v / total} for k, v in sorted(shares.items(), key=lambda pair: -pair[1])]


def main():
    options = arguments(__doc__.splitlines()[0])
    size, frames, rounds, batch = (64, 16, 2, 1) if options.quick else (256, 96, 3, 8)
    length, stride = (8, 4) if options.quick else (64, 32)
    model = paper_model(options.quick).eval()
    fast = for_inference(model)
    images = np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8)
    rates = convolution_rate(max(5, rounds), batch)
    best = max(row["GMAC a second"] for row in rates)
    backbone = model.frame_encoder.backbone
    parts = complexity(size, length, backbone)
    macs = sum(p["mac"] for p in parts if p["part"].startswith(("heatmap network", "frame encoder"))) / 1e9
    models = {"as trained": model, "for inference: BatchNorm folded, channels last": fast}
    seconds = interleaved(
        {n: lambda m=m: predict_sequence(m, images, length=length, stride=stride) for n, m in models.items()}, rounds
    )
    rows = [
        {"model": n, "frames a second": frames / s, "share of the convolution rate": frames / s * macs / best}
        for n, s in seconds.items()
    ]
    settings = {"size": size, "frames": frames, "window": length, "stride": stride, "backbone": backbone}
    shares = {n: where_time_goes(m, images[:16]) for n, m in models.items()}
    reached = rows[-1]["share of the convolution rate"]
    targets = [target("share of the machine's convolution rate, end to end", reached, 0.8)]
    more = {"convolutions": rates, "best_gmac_s": best, "backbones_gmac": macs, "where_time_goes": shares}
    report("inference", options, settings, rows, targets, **more)


if __name__ == "__main__":
    main()
