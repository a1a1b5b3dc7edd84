"""The released model where motion or other people matter: python -m benchmarks.hard

The test sequences of benchmarks/rendered.py three times: as they are, with another person before the wearer, and with
stretches in which joints are hidden (agego_data/stretches.py). Motions, mounts, rooms, clothes and lenses are the same,
so that changes are of the same frames; in the hidden stretches arms may do something else, legs never. Intervals are
95 % bootstraps over people.
"""

import tempfile
from pathlib import Path

import numpy as np

from agego_lib import params
from agego_lib.camera import FisheyeCamera
from agego_lib.datasets import TITLES
from agego_lib.evaluation import HEADLINE, bootstrap_interval, error_groups, predict_split, sequence_errors
from agego_lib.evaluation.errors import UNSEEN
from agego_lib.files import file_digest
from agego_lib.models.build import for_inference, load_model
from agego_lib.params import WindowSettings
from agego_lib.skeleton import LOWER_BODY
from benchmarks.common import arguments, report, table
from benchmarks.rendered import SCALE, SEED, prepared

KINDS = {"plain": {}, "another person": {"others": 1.0}, "hidden stretches": {"hidden_stretches": 0.4}}


def interval(values, errors, sign=""):
    """Mean of values (F,), of which some may be NaN, and its interval over people, as a text; None where all are.
    One person has no interval, which the text says.

    sign: "+" for changes.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    ends = np.cumsum(errors.lengths)[:-1]
    lengths = [part.sum() for part in np.split(known, ends)]
    kept = [k for k, n in enumerate(lengths) if n]
    people = [errors.people[k] for k in kept]
    if len(set(people)) == 1:
        return f"{values[known].mean():{sign}.1f} (one person)"
    low, high = bootstrap_interval(values[known], [lengths[k] for k in kept], people)
    return f"{values[known].mean():{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def over(values, where):
    """Mean of each frame's values (F, 15) where `where` is true, NaN in frames where it nowhere is."""
    count = where.sum(1)
    return np.divide((values * where).sum(1), count, out=np.full(len(values), np.nan), where=count > 0)


def others_joints(folder, sequences):
    """Joints (F, 15, 3) of the other people in the camera's frame, NaN in frames with less than half of one."""
    camera, parts = FisheyeCamera.from_json(folder / "fisheye.calibration.json"), []
    for sequence in sequences:
        path = folder / sequence.name / "other.npz"
        parts.append(np.full((len(sequence), 15, 3), np.nan))
        if path.is_file():
            with np.load(path) as file:
                number = {name: i for i, name in enumerate(file["frame_names"].tolist())}
                parts[-1] = file["joints_3d"][[number[name] for name in sequence.frame_names]]
    joints = np.concatenate(parts)
    joints[camera.in_image(camera.project(joints)).mean(1) < 0.5] = np.nan
    return joints


def captured(poses, truth, other):
    """Share of the predicted joints (F, 15, 3) that lie nearer to any joint of the other person than to where they
    should, of frames that have one."""
    own = np.linalg.norm(poses - truth, axis=-1)
    away = np.linalg.norm(poses[:, :, None] - other[:, None], axis=-1).min(-1)
    there = np.isfinite(away).all(1)
    return float((away < own)[there].mean()) if there.any() else None


def rows_of(name, folders, found, poses):
    """Of one set: rows, one a kind; rows of how long leg joints have been hidden; the groups of errors of each kind."""
    errors = {kind: sequence_errors(poses[kind][name], found[kind][name]) for kind in KINDS}
    sequences = {kind: found[kind][name] for kind in KINDS}
    names = {kind: [(s.name, s.frame_names) for s in sequences[kind]] for kind in KINDS}
    if any(names[kind] != names["plain"] for kind in KINDS):
        raise RuntimeError("the sequences are not the same in each kind; expected them to differ in what is seen alone")
    seen = {kind: np.concatenate([s.in_image & ~s.hidden for s in parts]) for kind, parts in sequences.items()}
    other = others_joints(folders["another person"] / "raw" / name, sequences["another person"])
    met = np.isfinite(other).all((1, 2))
    base, lower, everyone = errors["plain"], np.isin(np.arange(15), LOWER_BODY), np.ones(len(met), bool)
    rows = []
    for kind, these in errors.items():
        # Without anybody in view nothing could change.
        chosen = met if kind == "another person" else everyone
        entry = {"set": f"{TITLES[name]}-like", "kind": kind, "people": len(set(these.people))}
        entry["frames"] = int(chosen.sum())
        change = these.distance - base.distance
        lost, kept = (seen["plain"] & part & chosen[:, None] for part in (~seen[kind], seen[kind]))
        for key in ("mpjpe", "pa_mpjpe"):
            values = np.where(chosen, getattr(these, key), np.nan)
            entry[f"{HEADLINE[key]} (mm)"] = interval(values, these)
            entry[f"its change, {HEADLINE[key]}"] = interval(values - getattr(base, key), these, "+")
        entry["joints lost to sight"] = round(float(lost.sum() / max(1, 15 * chosen.sum())), 4)
        entry["their change, legs alone"] = interval(over(change, lost & lower), these, "+")
        entry["change of what is still seen"] = interval(over(change, kept), these, "+")
        truth = np.concatenate([s.joints_3d for s in sequences[kind]])
        entry["joints nearer to the other person"] = captured(np.concatenate(poses[kind][name]), truth, other)
        rows.append(entry)
    legs = seen["plain"] & ~seen["hidden stretches"] & lower
    hard, lasted = errors["hidden stretches"], []
    # In the dark nothing at all is seen; of what else there is, only a tray hides legs.
    dark = ~seen["hidden stretches"].any(1, keepdims=True)
    for how, frames in (("behind the tray", ~dark), ("in the dark", dark)):
        lowest = 0
        for most, part in UNSEEN:
            where = legs & frames & (hard.unseen > lowest) & (hard.unseen <= most)
            entry = {"set": f"{TITLES[name]}-like", "hidden": how, "unseen for": part, "leg joints": int(where.sum())}
            entry["where they are seen (mm)"] = interval(over(base.distance, where), base)
            entry["hidden (mm)"] = interval(over(hard.distance, where), hard)
            entry["change"] = interval(over(hard.distance - base.distance, where), hard, "+")
            lasted.append(entry)
            lowest = most
    return rows, lasted, {kind: error_groups(errors[kind], sequences[kind]) for kind in KINDS}


def main():
    options = arguments(__doc__.splitlines()[0])
    root = params.find_root()
    path = params.locate(root, params.RELEASED)
    model, config = load_model(path)
    network, window = for_inference(model), WindowSettings(**config["window"])
    with tempfile.TemporaryDirectory() as place:
        folders = {kind: Path(place) / str(number) for number, kind in enumerate(KINDS)}
        found = {
            kind: prepared(folders[kind], root, config["input"], options.quick, options.threads, **hard)
            for kind, hard in KINDS.items()
        }
        poses = {
            kind: {name: predict_split(network, sequences, window) for name, sequences in sets.items()}
            for kind, sets in found.items()
        }
        rows, lasted, groups = [], [], {}
        for name in TITLES:
            more, longer, groups[name] = rows_of(name, folders, found, poses)
            rows, lasted = rows + more, lasted + longer
    settings = {"model": "released", "model_sha256": file_digest(path), "seed": SEED, "frame scale": SCALE, **KINDS}
    report("hard", options, settings, rows, hidden_legs=lasted, groups=groups)
    print(f"Legs seen in the plain sequences and not in the hidden stretches\n\n{table(lasted)}\n")
    for name, kinds in groups.items():
        for kind, parts in kinds.items():
            for part in parts:
                if part["group"] in ("visibility", "unseen for"):
                    print(f"{TITLES[name]}-like, {kind}, {part['group']} {part['part']}: share {part['share']:.2f}, "
                          f"MPJPE {part['mpjpe_mm']:.0f}, PA-MPJPE {part['pa_mpjpe_mm']:.0f} mm")  # fmt: skip


if __name__ == "__main__":
    main()
