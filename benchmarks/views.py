"""What a frame's view costs: through a virtual lens ("fovea"), the central square, the whole squeezed; one core.

Frames of 1280 x 1024 px in memory. Beside them one reduction of the frame by OpenCV to the resolution that a fovea view
looks up in, by the share that this is and by exactly a half.
"""

import cv2
import numpy as np

from agego_lib.camera import InputView
from agego_lib.camera.lens import equidistant_camera
from benchmarks.common import arguments, interleaved, report, target

FULL = (1280, 1024)
SIZES = (96, 128, 192, 256)


def main():
    options = arguments(__doc__.splitlines()[0])
    rounds, sizes = (2, SIZES[:1]) if options.quick else (60, SIZES)
    cv2.setNumThreads(1)
    camera = equidistant_camera(FULL, (641.0, 515.0), 510.0, 180.0)
    frame = np.random.default_rng(0).integers(0, 256, (FULL[1], FULL[0], 3), dtype=np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 2)
    views = {(crop, size): InputView.of(camera, size, crop) for size in sizes for crop in ("fovea", "square", "none")}
    calls = {key: lambda view=view: view.apply(frame) for key, view in views.items()}
    shares = {"by 0.4": (512, 410), "by a half": (640, 512)}
    calls |= {key: lambda to=to: cv2.resize(frame, to, interpolation=cv2.INTER_AREA) for key, to in shares.items()}
    ms = {key: 1000 * seconds for key, seconds in interleaved(calls, rounds).items()}
    rows = [
        {"view (px)": size, **{f"{crop} (ms)": ms[crop, size] for crop in ("fovea", "square", "none")}}
        for size in sizes
    ]
    reductions = {key: ms[key] for key in shares}
    settings = {"frame": "1280x1024", "rounds": rounds, "one reduction (ms)": reductions}
    worst = max(ms["fovea", size] for size in sizes)
    report("views", options, settings, rows, [target("fovea views a second, of the costliest size", 1000 / worst, 500)])


if __name__ == "__main__":
    main()
