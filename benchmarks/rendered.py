"""The released model on rendered people, motions and camera mounts that never train: python -m benchmarks.rendered

Ten people a set with two sequences each, of bodies and mounts that no training draws; every second sequence shows
actions that none does (agego_data/synthetic.py); then the same people once more with mounts as in real frames, which
do train. Intervals are 95 % bootstraps over people. The mean pose is that of the model's own training. A model that
estimates the wearer's stature is also told it (`predict --stature`): that of the labels. As no frame shows it, beside
the MPJPE of one that is not told stands what would be left of it were everything else right.
"""

import tempfile
from pathlib import Path

import numpy as np

from agego_data.synthetic import render_datasets
from agego_lib import params
from agego_lib.datasets import TITLES, prepare_dataset, read_prepared
from agego_lib.evaluation import HEADLINE, error_groups, predict_split, sequence_errors
from agego_lib.files import file_digest
from agego_lib.models.build import for_inference, load_model
from agego_lib.params import WindowSettings
from agego_lib.stature import AVERAGE, stature
from benchmarks.common import arguments, report, target

SEED, FRAMES, SCALE = 1, 64, 0.375
# Of the test people -> whether they are as in real frames.
MOUNTS = {"never trained": False, "as in real frames": True}
# mm and, for the acceleration, mm a frame squared: what the SceneEgo-like set should stay below.
WANTED = {"mpjpe_mm": 60.0, "pa_mpjpe_mm": 45.0, "acceleration_mm": 15.0}


def prepared(folder, root, view, quick, workers, **hard):
    """{data set: prepared test sequences} of newly rendered people, in a model's view. hard: of `render_datasets`."""
    tests = (1, 1) if quick else (10, 2)
    counts = {f"{name}_{split}": tests if split == "test" else (1, 1) for name in TITLES for split in ("train", "test")}
    render_datasets(
        params.locate(root, "data"),
        folder / "raw",
        seed=SEED,
        scale=SCALE,
        frames_per_sequence=8 if quick else FRAMES,
        label_noise_mm=0.0,
        workers=workers,
        **counts,
        **hard,
    )
    found = {}
    for name in TITLES:
        raw = folder / "raw" / name
        lists = (raw / f"{split}_{name}.txt" for split in ("train", "test"))
        calibration = raw / "fisheye.calibration.json"
        prepare_dataset(name, raw, *lists, calibration, folder / "prepared" / name, **view, workers=workers)
        found[name] = read_prepared(folder / "prepared" / name, "test")
    return found


def average_stature_mpjpe(joints):
    """The MPJPE (mm) of the true rays, each joint as far away as were its wearer of AVERAGE stature.

    joints: true ones of each sequence, (frames, 15, 3), m in the camera's frame.
    """
    away = [np.linalg.norm(each, axis=-1) * np.abs(AVERAGE / np.median(stature(each)) - 1) for each in joints]
    return 1000 * float(np.concatenate(away).mean())


def row(name, mounts, kind, poses, sequences, mean):
    """Errors of a set, with those of the mean pose. mounts: a key of MOUNTS. kind: of the stature, which is estimated,
    told, "given" where the model always is told, or "none"."""
    errors = sequence_errors(poses, sequences)
    found, still = (
        errors.report(),
        sequence_errors([np.broadcast_to(mean, p.shape) for p in poses], sequences).summary(),
    )
    entry = {
        "set": f"{TITLES[name]}-like",
        "mounts": mounts,
        "stature": kind,
        "people": len(set(errors.people)),
        "frames": sum(errors.lengths),
    }
    for key in (*(f"{key}_mm" for key in HEADLINE), "acceleration_mm"):
        entry |= {key: found[key], f"{key}, mean pose": still[key]}
        if key in found["interval_95"]:
            entry[f"{key}, interval"] = "{low:.1f} to {high:.1f}".format_map(found["interval_95"][key])
    alone = 0.0 if kind in ("told", "given") else average_stature_mpjpe([s.joints_3d for s in sequences])
    entry["mpjpe_mm, of the stature alone"] = round(alone, 2)
    return entry, error_groups(errors, sequences)


def main():
    options = arguments(__doc__.splitlines()[0], lambda parser: parser.add_argument("--model", help="a weights file"))
    root = params.find_root()
    path = Path(options.model) if options.model else params.locate(root, params.RELEASED)
    model, config = load_model(path)
    network = for_inference(model)
    kinds = ["estimated", "told"] if model.stature == "estimated" else [model.stature]
    rows, groups = [], {}
    for mounts, real in MOUNTS.items():
        with tempfile.TemporaryDirectory() as folder:
            made = prepared(Path(folder), root, config["input"], options.quick, options.threads, real_mounts=real)
            for name, sequences in made.items():
                for kind in kinds:
                    poses = predict_split(network, sequences, WindowSettings(**config["window"]), told=kind == "told")
                    entry, parts = row(name, mounts, kind, poses, sequences, model.decoder.output_mean.numpy())
                    rows.append(entry)
                    groups.setdefault(name, parts)
    settings = {
        "model": options.model or "released",
        "model_sha256": file_digest(path),
        "seed": SEED,
        "frame scale": SCALE,
    }
    last = rows[len(kinds)]
    targets = [target(f"{most:g} over {key} ({last['set']})", most / last[key], 1.0) for key, most in WANTED.items()]
    report("rendered", options, settings, rows, targets, groups=groups)


if __name__ == "__main__":
    main()
