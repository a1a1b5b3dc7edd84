"""Prediction: each frame encoded once against window by window, the live mode's latency, and memory over length.

256 x 256, ResNet-50, windows of 64 at stride 32, and the quick profile's sizes; random weights, which change no timing.
Frames are in memory, so that decoding is not measured; for the memory they are made on demand.
"""

import time

import numpy as np
import torch

from agego_lib.images import to_tensor
from agego_lib.inference import LivePredictor, PoseStream, predict_sequence
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapNet
from agego_lib.models.build import for_inference
from benchmarks.common import arguments, in_own_process, interleaved, report, target

SIZES = {
    "paper": {"size": 256, "backbone": "resnet50", "fpn": None, "length": 64, "stride": 32},
    "quick profile": {"size": 96, "backbone": "resnet18", "fpn": (32, 48, 64, 96), "length": 64, "stride": 32},
    "tiny": {"size": 32, "backbone": "resnet18", "fpn": (8, 8, 8, 8), "length": 8, "stride": 4},
}


def build(size):
    """A model with random weights; the quick one's streams share their trunk, as that profile's do."""
    torch.manual_seed(0)
    net = HeatmapNet(fpn_channels=size["fpn"]) if size["fpn"] else HeatmapNet()
    shared = {"init": "heatmap_encoder", "heatmap_state": net.state_dict()} if size["fpn"] else {"init": "scratch"}
    return for_inference(AGEgoPose(net, FrameEncoder(size["backbone"], **shared)).eval())


def random_frames(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class OnDemand:
    """A sequence of any length whose frames take no memory."""

    def __init__(self, count, side):
        self.count, self.side = count, side

    def __len__(self):
        return self.count

    def images(self, indices):
        return random_frames(len(indices), self.side, int(indices[0]))


def speeds(name, rounds):
    """A row: one stride's worth of poses by each way in turn, and the live mode frame by frame."""
    size = SIZES[name]
    model, side, length, stride = build(size), size["size"], size["length"], size["stride"]
    frames = random_frames(length, side)
    stream, live = PoseStream(model, length, stride, chunk=stride), LivePredictor(model, length)
    # The live window is full from the start: what came before it costs nothing more.
    live._encoded.extend([(torch.zeros(1, 15, 128), torch.zeros(1, model.frame_encoder.dim))] * length)
    few, latencies = frames[: max(3, stride // 4)], []

    def advance():
        for frame in frames[:stride]:
            stream.push(frame)

    @torch.inference_mode()
    def window():
        model(to_tensor(frames)[None])

    def a_few_live():
        for frame in few:
            started = time.perf_counter()
            live.push(frame)
            latencies.append(1000 * (time.perf_counter() - started))

    advance()
    seconds = interleaved({"stream": advance, "window": window, "live": a_few_live}, rounds)
    return {
        "sizes": name,
        "streaming (frames a second)": stride / seconds["stream"],
        "window by window (frames a second)": stride / seconds["window"],
        "ratio": seconds["window"] / seconds["stream"],
        "live: a frame, median (ms)": float(np.median(latencies[len(few) :])),
        "live: 95th percentile (ms)": float(np.quantile(latencies[len(few) :], 0.95)),
    }


def predict_on_demand(name, count):
    size = SIZES[name]
    predict_sequence(build(size), OnDemand(count, size["size"]), length=size["length"], stride=size["stride"])


def main():
    options = arguments(__doc__.splitlines()[0])
    names, rounds = (["tiny"], 2) if options.quick else (["quick profile", "paper"], 5)
    rows = [speeds(name, rounds) for name in names]
    counts = (8, 80) if options.quick else (256, 2560)
    peaks = {count: in_own_process(predict_on_demand, names[0], count)[2] for count in counts}
    short, long = peaks.values()
    memory = [{"frames": count, "MB of memory, peak": peak} for count, peak in peaks.items()]
    targets = [
        target("times the frames a second of the window-by-window loop (2.0 is what the overlap allows)",
               rows[-1]["ratio"], 1.8),
        target("1.2 times the peak memory, over that of a sequence ten times as long", 1.2 * short / long, 1.0),
    ]  # fmt: skip
    report("prediction", options, {"rounds": rounds, "memory at": names[0]}, rows, targets, memory=memory)


if __name__ == "__main__":
    main()
