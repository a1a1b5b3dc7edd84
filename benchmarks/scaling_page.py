"""docs/scaling.md from benchmarks/results: no number and no verdict in it is typed by hand."""

# The text is wrapped as it reads in the page.
# ruff: noqa: E501

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from agego_lib.evaluation.complexity import complexity
from benchmarks.common import RESULTS, shown, table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/scaling.md"
# Frames of the data sets, as published; the last row asks what ten times as many would take.
DATA = {"SceneEgo": 28_000, "EgoPW": 318_000, "ten times EgoPW": 3_180_000}
NODES = 8
# Not measured: what a current data-centre GPU may keep up on such networks in bf16, and a usual network.
GPU_TMAC_S = 25
NETWORK_GBIT_S = 10


def load(name):
    result = json.loads((RESULTS / f"{name}.json").read_text())
    if result["quick"]:
        raise SystemExit(f"{name}.json holds a --quick run, whose numbers mean nothing; run `make bench`")
    return result


def duration(seconds):
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{shown(seconds / length)} {unit}"
    return f"{shown(seconds)} s"


def size(megabytes):
    for unit, weight in (("TB", 1e6), ("GB", 1e3)):
        if megabytes >= weight:
            return f"{shown(megabytes / weight)} {unit}"
    return f"{shown(megabytes)} MB"


def verdicts(result):
    lines = []
    for t in result["targets"]:
        verdict = "met" if t["met"] else "**missed**"
        lines.append(f"- {t['what']}: {shown(t['measured'])}; at least {t['at_least']} was wanted: {verdict}.")
    return "\n".join(lines)


def grown(growth):
    """Stage -> slope and course: seconds and MB of disk a frame, MB of memory a thousand frames."""
    stages = {}
    for row in growth["rows"]:
        stages.setdefault(row["stage"], []).append(row)
    found = {}
    for stage, rows in stages.items():
        frames = np.array([row["frames computed"] for row in rows], float)
        seconds = np.array([row["seconds"] for row in rows])
        slope, start = np.polyfit(frames, seconds, 1)
        memory = np.polyfit(frames, [row["MB of memory, peak"] for row in rows], 1)[0]
        found[stage] = {
            "seconds": slope,
            "start": start,
            # 1: time grows as the frames do; below 1, a fixed start-up still shows.
            "exponent": np.polyfit(np.log(frames), np.log(seconds), 1)[0],
            "disk": rows[-1]["MB on disk"] / frames[-1],
            "memory": memory * 1000,
            "peak": rows[-1]["MB of memory, peak"],
            "off": np.max(np.abs(np.polyval([slope, start], frames) / seconds - 1)),
        }
    return found


def passes(profile):
    """Stage -> how often the paper's settings compute each frame."""
    overlap = profile["window"]["length"] / profile["window"]["stride"]
    return {
        "preparation (one process)": 1,
        "heatmap training, an epoch": profile["heatmap"]["optimiser"]["epochs"],
        "feature store": 1,
        "pose training, an epoch": profile["pose"]["epochs"] * overlap,
        "prediction": 1,
    }


def main():
    names = ("training", "inference", "prediction", "reading", "growth")
    training, inference, prediction, reading, growth = map(load, names)
    profile = yaml.safe_load((ROOT / "conf/profile/paper.yaml").read_text())
    stages, often, machine = grown(growth), passes(profile), growth["machine"]
    macs = {row["part"]: row["mac"] for row in complexity()}
    heatmap_macs = next(v for k, v in macs.items() if k.startswith("heatmap network"))
    stored_macs = next(r["GMAC a frame"] for r in training["rows"] if r["loop"] == "stored features") * 1e9
    encode_macs = inference["backbones_gmac"] * 1e9
    gpu = {
        "heatmap training, an epoch": 3 * heatmap_macs,
        "feature store": encode_macs,
        "pose training, an epoch": stored_macs,
        "prediction": macs["sum"],
    }
    shares = {"preparation (one process)": machine["cores"]}

    cost = []
    for name, frames in DATA.items():
        for stage, per in stages.items():
            one = frames * often[stage] * per["seconds"] / shares.get(stage, 1)
            card = frames * often[stage] * gpu[stage] / (GPU_TMAC_S * 1e12) if stage in gpu else None
            cost.append(
                {
                    "data": name,
                    "stage": stage.split(" (")[0].replace(", an epoch", f", {often[stage]:g} passes"),
                    "one CPU machine": duration(one),
                    f"{NODES} such machines, at best": duration(one / NODES),
                    "one GPU (derived, not measured)": duration(card) if card else "its CPU's",
                    f"{NODES} GPU nodes (derived, not measured)": duration(card / NODES) if card else "their CPUs'",
                    "disk": size(frames * per["disk"]) if per["disk"] else "–",
                }
            )
    feature_mb = stages["feature store"]["disk"]
    limit = profile["features"]["limit_gb"]
    fits = []
    for name, frames in DATA.items():
        gb = frames * feature_mb / 1000
        verdict = "fits" if gb <= limit else "does not fit: they would be computed in every step"
        fits.append(f"- {name}: {size(gb * 1000)} of features; `features.limit_gb: {limit:g}` {verdict}.")
    both = (DATA["SceneEgo"] + DATA["EgoPW"]) * feature_mb / 1000

    rate = {(r["what"], r["workers"]): r["frames a second"] for r in reading["rows"]}
    decode = rate["windows", 0]
    pose_gpu, heatmap_gpu = (
        GPU_TMAC_S * 1e12 / gpu[s] for s in ("pose training, an epoch", "heatmap training, an epoch")
    )
    parameters = next(r["trained"] for r in complexity() if r["part"] == "sum")
    reduce = 2 * 4 * parameters * (NODES - 1) / NODES / (NETWORK_GBIT_S * 1e9 / 8)
    batch = profile["pose"]["batch_size"] * profile["window"]["length"]
    cpu_step, gpu_step = batch * stages["pose training, an epoch"]["seconds"], batch / pose_gpu
    exchange = "more than" if reduce > gpu_step else "less than"
    slowest = max(stages, key=lambda s: often[s] * stages[s]["seconds"] / shares.get(s, 1))
    rounded = {"as trained": "as trained", "for inference: BatchNorm folded, channels last": "for inference"}
    times = [
        {"operators": r["operators"], **{rounded[n]: next(x["share"] for x in rows if x["operators"] == r["operators"])
                                         for n, rows in inference["where_time_goes"].items()}}
        for r in inference["where_time_goes"]["as trained"]
    ]  # fmt: skip
    linear = [
        {
            "stage": stage, "ms a frame": g["seconds"] * 1e3, "exponent": g["exponent"],
            "largest deviation from the line": g["off"], "MB of memory, peak": g["peak"],
            "MB of memory for 1000 frames more": g["memory"], "MB on disk a frame": g["disk"] or None,
        }
        for stage, g in stages.items()
    ]  # fmt: skip
    steepest = max(stages, key=lambda s: stages[s]["memory"])
    embedding = next(r for r in training["parts"] if r["trained part"] == "heatmap embedding")
    reading_gb = pose_gpu * feature_mb / 1000

    text = f"""<!-- Written by `python -m benchmarks.scaling_page` from benchmarks/results; do not edit. -->
# How the cost grows

Measured by `make bench` on {machine["cores"]} CPU cores ({machine["cpu"]}, {machine["vectors"]}, {machine["threads"]} threads,
{shown(machine["memory_gb"])} GB of memory, torch {machine["torch"]}), at the paper's sizes: frames of 256 × 256, ResNet-50,
windows of 64 frames, random weights. Every ratio compares variants that took turns in one run. **No GPU was at hand:
bf16, `torch.compile`, pinned and overlapped loading and the share of a GPU's peak have not been measured**; what stands here
about GPUs follows from counted multiply-accumulates (MAC) and an assumed rate, and is marked.

## Frozen parts are computed once

{table(training["rows"])}

{verdicts(training)}

The counted operations allow a ratio of {shown(training["allowed_ratio"])}. The straightforward loop decodes JPEGs and runs
both frozen networks in every step, with the same kernels. What a step from the store spends on its trained parts:

{table(training["parts"])}

The heatmap embedding, on 15 maps a frame, is {shown(embedding["share"] * 100)} % of it.

## Prediction, and what convolutions allow

{table(inference["rows"])}

{verdicts(inference)}

The measure is the best dense fp32 convolution found on this machine, {shown(inference["best_gmac_s"])} GMAC a second, and the
{shown(inference["backbones_gmac"])} GMAC a frame of the two backbones alone; all else, decoder and embedding too, counts as
overhead. Where encoding spends its time, as a share:

{table(times)}

{table(inference["convolutions"])}

Each frame is encoded once, however windows overlap:

{table(prediction["rows"])}

{verdicts(prediction)}

Live, a pose comes with every frame, from the window that ends there. Memory of a process that predicts one sequence, at
the {prediction["settings"]["memory at"]}'s sizes:

{table(prediction["memory"])}

## Reading

{table(reading["rows"])}

{verdicts(reading)}

Frames of {shown(reading["settings"]["bytes a frame"] / 1000)} kB, windows in random order. The bare rate decodes the same bytes
from memory and throws the frames away.

## Growth

Each stage in a process of its own, one pass, on three sizes of made-up data:

{table([{k: v for k, v in row.items() if k != "MB of memory, before"} for row in growth["rows"]])}

A line through them; an exponent of 1 means that time grows as the frames do, and below 1 a fixed start-up still shows.

{table(linear)}

Memory grows most in *{steepest}*, by {shown(stages[steepest]["memory"])} MB for a thousand frames between these sizes.

## What that means for the real data sets

The paper's settings: {often["heatmap training, an epoch"]} epochs of the heatmap network, {profile["pose"]["epochs"]} of the pose
model with each frame in {shown(profile["window"]["length"] / profile["window"]["stride"])} windows. Preparation runs in one process a
core. "At best" divides by {NODES}. GPU columns assume {GPU_TMAC_S} TMAC a second ({2 * GPU_TMAC_S} TFLOP/s) sustained, and data
that arrives in time.

{table(cost)}

On a CPU machine most of the time goes to *{slowest.split(" (")[0]}*.

### Where it gets tight, and which setting to change

- **One CPU machine**: compute. Take `visual.backbone: resnet18`, a smaller `prepare.size` or fewer epochs; on this machine a
  step of {profile["pose"]["batch_size"]} windows takes {duration(cpu_step)}.
- **One GPU** (derived): at the assumed rate pose training takes {shown(pose_gpu)} frames a second from the store, which means
  reading {shown(reading_gb)} GB a second when the store does not fit in memory: put `artifacts/features` on a local NVMe disk. Heatmap
  training takes {shown(heatmap_gpu)} frames a second where one core here decodes {shown(decode)}: set `engine.workers` to
  {int(np.ceil(heatmap_gpu / decode))} or more.
- **{NODES} nodes** (derived): gradients of {shown(parameters / 1e6)} million parameters take {shown(reduce * 1e3)} ms a step at
  {NETWORK_GBIT_S} Gbit/s, {exchange} the {shown(gpu_step * 1e3)} ms that a GPU would compute for {profile["pose"]["batch_size"]}
  windows, and {shown(reduce / cpu_step * 100)} % of a CPU machine's step. Raise `pose.batch_size` (and `pose.lr` with it), or use a
  faster network. Each node needs the store on a disk of its own, or one file system that gives {NODES} times the rate above.
- **Disk**: the float16 store takes {shown(feature_mb * 1000)} kB a frame, most of it layer3's output.
{chr(10).join(fits)}
  Both sets together take {size(both * 1000)}. Above the limit the run says so and computes them in every step, at
  1/{shown(training["targets"][0]["measured"])} of the rate; raise `features.limit_gb` where the disk allows, or take
  `visual.backbone: resnet18`, whose layer3 is a quarter as wide. They are not compressed: compressed files could not be
  memory-mapped, and reading one frame would unpack many.
- **Memory**: frames and features are read from memory-mapped files; their pages count as the process's but go back when
  memory is short. What a process keeps for each frame are its labels (about 0.5 kB) and, in prediction, its pose.
  Preparation holds one sequence's JPEGs a process: fewer `prepare.workers` where sequences are very long.
"""
    PAGE.write_text(text)
    print(f"docs/scaling.md written from {RESULTS.name}/")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
