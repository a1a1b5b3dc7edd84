"""Speed and memory of prediction, as ratios of one run: python benchmarks/prediction.py [--threads N] [--quick-only]

Compared, at the paper's sizes (256x256, ResNet-50, T = 64, stride 32) and at the quick profile's (96x96, ResNet-18):

- streaming: `PoseStream`, which encodes each frame once, advanced by one stride;
- window by window: the whole model on each window, which encodes a frame in every window that holds it;
- live: `LivePredictor`, one frame after the other.

One stride's worth of poses is made by each in turn, several times, after a first round that is not counted; medians are
compared. Weights are random, which changes no timing. Frames are in memory: decoding is not measured. Memory is the
peak of a process of its own for each length of sequence, of which frames are made on demand. Writes
benchmarks/results/prediction.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from agego_lib.images import to_tensor
from agego_lib.inference import LivePredictor, PoseStream, predict_sequence
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapNet

RESULTS = Path(__file__).resolve().parent / "results/prediction.json"
SIZES = {
    "paper": {"size": 256, "backbone": "resnet50", "fpn": None, "length": 64, "stride": 32},
    "quick": {"size": 96, "backbone": "resnet18", "fpn": (32, 48, 64, 96), "length": 64, "stride": 32},
    "tiny": {"size": 32, "backbone": "resnet18", "fpn": (8, 8, 8, 8), "length": 8, "stride": 4},
}
FRAMES = 256  # of the shorter sequence of the memory measurement; the longer one has ten times as many


def build(size):
    """A model with random weights; the quick one's streams share their trunk, as that profile's do."""
    torch.manual_seed(0)
    net = HeatmapNet(fpn_channels=size["fpn"]) if size["fpn"] else HeatmapNet()
    shared = {"init": "heatmap_encoder", "heatmap_state": net.state_dict()} if size["fpn"] else {"init": "scratch"}
    return AGEgoPose(net, FrameEncoder(size["backbone"], **shared)).eval()


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


def speeds(size, rounds):
    """Medians over the rounds of the seconds for one stride's worth of poses -> dict of frames a second and latency."""
    model, side, length, stride = build(size), size["size"], size["length"], size["stride"]
    frames = random_frames(length, side)
    stream, live = PoseStream(model, length, stride, chunk=stride), LivePredictor(model, length)

    def advance():
        for frame in frames[:stride]:
            stream.push(frame)

    @torch.inference_mode()
    def window():
        model(to_tensor(frames)[None])

    advance()
    # The live window is full from the start: what came before it costs nothing more.
    live._static.extend(torch.zeros(length, 1, model.frame_encoder.dim).unbind(0))
    seconds = {"stream": [], "window": [], "live": []}
    for number in range(rounds + 1):
        for name, call in (("stream", advance), ("window", window)):
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
        for frame in frames[: max(3, stride // 4)]:
            start = time.perf_counter()
            live.push(frame)
            if number:
                seconds["live"].append(time.perf_counter() - start)
    stream_rate, window_rate = (stride / statistics.median(seconds[name]) for name in ("stream", "window"))
    return {
        **size,
        "rounds": rounds,
        "streaming_frames_per_s": round(stream_rate, 2),
        "window_by_window_frames_per_s": round(window_rate, 2),
        "ratio": round(stream_rate / window_rate, 3),
        "live_latency_ms": round(1000 * statistics.median(seconds["live"]), 1),
        "live_latency_p95_ms": round(1000 * float(np.quantile(seconds["live"], 0.95)), 1),
    }


def peak_mb(name, count, threads):
    """Peak resident memory, in MB of 2^20 bytes, of a process that predicts a sequence of `count` frames."""
    command = [sys.executable, __file__, "--memory-of", str(count), "--memory-size", name, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def predict_on_demand(name, count):
    size = SIZES[name]
    predict_sequence(build(size), OnDemand(count, size["size"]), length=size["length"], stride=size["stride"])
    status = Path("/proc/self/status")
    if status.is_file():
        # Of this program alone: Linux lets a process inherit ru_maxrss from the one that started it.
        print(int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def memory(name, threads, frames=FRAMES):
    short, long = (peak_mb(name, n, threads) for n in (frames, 10 * frames))
    return {"size": name, "frames": [frames, 10 * frames], "peak_mb": [short, long], "ratio": round(long / short, 3)}


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick-only", action="store_true", help="leave the paper's sizes out")
    parser.add_argument("--tiny", action="store_true", help="only to try this script out: writes nothing")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory-size", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        predict_on_demand(options.memory_size, options.memory_of)
        return
    names = ["tiny"] if options.tiny else ["quick"] if options.quick_only else ["quick", "paper"]
    results = {name: speeds(SIZES[name], options.rounds) for name in names}
    flat = memory("tiny", options.threads, 40) if options.tiny else memory("quick", options.threads)
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": options.threads, "torch": torch.__version__}
    print(
        "| sizes | streaming (frames/s) | window by window | ratio (2.0 allowed) | live: a frame, median and p95 (ms) |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, r in results.items():
        rates = f"{r['streaming_frames_per_s']} | {r['window_by_window_frames_per_s']} | {r['ratio']}"
        print(f"| {name} | {rates} | {r['live_latency_ms']}, {r['live_latency_p95_ms']} |")
    peaks = " and ".join(f"{mb:.0f} MB for {n} frames" for n, mb in zip(flat["frames"], flat["peak_mb"], strict=True))
    print(f"\npeak memory ({flat['size']}): {peaks}, a ratio of {flat['ratio']}")
    print(", ".join(f"{key}: {value}" for key, value in machine.items()))
    if not options.tiny:
        RESULTS.parent.mkdir(exist_ok=True)
        record = {"machine": machine, "weights": "random", "speed": results, "memory": flat}
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
