"""Live poses: what each part of a frame's latency takes, what is left out where a file comes at its own pace, and how
many frames a second `predict` takes from the same file, from decoding to overlay and tables.

Frames of 1280 x 1024 px, 25 a second, from an H.264 file as the camera. The model is the released one, or another's
file, --model; with --quick a tiny one with random weights.
"""

import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from agego_lib import params
from agego_lib.files import file_digest
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.models.build import save_model
from agego_video.live import Live
from agego_video.predict import predict_video
from agego_video.video import VideoWriter
from benchmarks.common import arguments, report, target
from benchmarks.made_up import CAMERA, FULL, pictures

FPS = 25
PARTS = ("view", "network", "decoder", "overlay", "all")


def tiny_model(path):
    """Write the smallest model that there is."""
    torch.manual_seed(0)
    motion = {"heads": 4, "depth": 1, "local_blocks": 1, "window": 3, "drop_path": 0.0}
    decoder = {"layers": 1, "heads": 4, "dropout": 0.0, "norm_first": True, "memory_joint_embedding": True}
    net = HeatmapNet(fpn_channels=(8, 8, 8, 8))
    parts = FrameEncoder("resnet18"), MotionEncoder(**motion), HeatmapEmbedding(), PoseDecoder(**decoder)
    config = {
        "input": {"size": 32, "crop": "fovea"},
        "window": {"length": 4, "stride": 2, "step": 1, "max_gap": 10},
        "fpn_channels": [8, 8, 8, 8],
        "backbone": "resnet18",
        "motion": motion,
        "decoder": decoder | {"input_scale": 1.0},
        "switches": {},
    }
    save_model(path, AGEgoPose(net, *parts), config)
    return path


class Timed:
    """A method in place of itself on its object, whose calls' seconds it sums."""

    def __init__(self, owner, name):
        self._method, self.seconds = getattr(owner, name), 0.0
        setattr(owner, name, self)

    def __call__(self, *given):
        started = time.perf_counter()
        result = self._method(*given)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return result


def parts_of(live, count):
    """(count, 5) milliseconds of each frame's PARTS, each in turn and nothing beside it."""
    predictor, clock, found = live.predictor(), time.perf_counter, []
    network = Timed(live.eye.network, "frozen_features")
    for pose in islice(live, count):
        # The frame once more, as the thread that reads has its own share of the first time.
        network.seconds, stored = 0.0, np.ascontiguousarray(np.rot90(pose.frame, live.eye.quarters))
        times = [clock()]
        _, image = live.eye.look(stored)
        times.append(clock())
        predictor.push(image)
        times.append(clock())
        live.overlay(pose)
        times.append(clock())
        view, whole, overlay = np.diff(times)
        found.append([view, network.seconds, whole - network.seconds, overlay, times[-1] - times[0]])
    return 1000 * np.array(found)


def percentiles(values):
    median, high = np.quantile(values, (0.5, 0.95))
    return {"median (ms)": float(median), "95th percentile (ms)": float(high)}


def main():
    options = arguments(__doc__.splitlines()[0], lambda parser: parser.add_argument("--model", help="a weights file"))
    count = 6 if options.quick else 250
    with tempfile.TemporaryDirectory() as folder:
        path, calibration = Path(folder) / "camera.mp4", Path(folder) / "camera.json"
        calibration.write_text(CAMERA.to_json())
        with VideoWriter(path, FPS, FULL) as writer:
            different = [*pictures(min(count, 10), *FULL)]
            for number in range(count):
                writer.write(different[number % len(different)], number / FPS)
        model = tiny_model(Path(folder) / "model.safetensors") if options.quick else options.model
        with Live(path, model, calibration, every_frame=True) as live:
            # Nothing is read while a part is timed: the next frame waits already.
            times, window = parts_of(live, count), live.eye.window
            view = live.eye.view
        ages = []
        with Live(path, model, calibration) as live:
            for pose in live:
                live.overlay(pose)
                ages.append(1000 * pose.age)
            paced = {"frames": len(ages) + live.dropped, "dropped": live.dropped, **percentiles(ages)}
        rates = {}
        for overlay in ("h264", "none"):
            started = time.perf_counter()
            predict_video(path, Path(folder) / "poses", model, calibration, overlay=overlay)
            rates[overlay] = count / (time.perf_counter() - started)
        weights = file_digest(model or params.locate(params.find_root(), params.RELEASED))
    rows = [{"part": name, **percentiles(column)} for name, column in zip(PARTS, times.T, strict=True)]
    settings = {"frames": count, "frame": f"{FULL[0]}x{FULL[1]}", "fps": FPS, "size": view.size, "crop": view.crop,
                "window": window["length"], "step": window["step"], "model": options.model or "released",
                "model_sha256": weights}  # fmt: skip
    print(f"at the file's pace: {paced}")
    within = target("60 ms over the median of all parts", 60 / rows[-1]["median (ms)"], 1.0)
    fast = [
        target("frames a second of predict", rates["h264"], 25),
        target("frames a second of predict --overlay none", rates["none"], 25),
    ]
    report("live", options, settings, rows, [within, *fast], **{"at the file's pace": paced})


if __name__ == "__main__":
    main()
