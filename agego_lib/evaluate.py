"""A model on a test set of motion capture, where EgoPW and its successors report: `python -m agego_lib.evaluate`.

    python -m agego_lib.evaluate globalegomocap FOLDER --calibration FILE --out results.json

Prints PA-MPJPE and BA-MPJPE of every sequence and of all, with 95 % intervals over people, beside published figures.
Frames are looked at as 01_data_preparation looks at them, in the view that the model was trained with. All of the set
is looked over before anything is computed. Results are written after each sequence: Ctrl-C keeps those that are done.
EgoPW and SceneEgo are tested by 04_evaluation.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from agego_lib.camera import InputView, read_camera
from agego_lib.datasets import DatasetError, PreparedSequence, image_circle
from agego_lib.datasets.mocap import TAKES, TITLES, read_mocap
from agego_lib.datasets.prepared import write_and_describe
from agego_lib.datasets.sequence import reason_kind
from agego_lib.evaluation import manifest, pose_errors, predict_split
from agego_lib.files import file_digest, write_json
from agego_lib.models.build import for_inference
from agego_lib.params import RELEASED, WindowSettings
from agego_lib.progress import bar
from agego_video.cameras import resolved
from agego_video.eye import ERRORS, load_named, usable
from agego_view import paper

SHOWN = {"pa_mpjpe_mm": "PA-MPJPE", "ba_mpjpe_mm": "BA-MPJPE"}  # what means something in unknown axes


def _predict(network, sequence, camera, view, window):
    """-> (poses of a Sequence's usable frames, their true ones, both m, and the report of `write_and_describe`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.h5"
        with bar(len(sequence), f"{sequence.name}: reading", "frame") as progress:
            report = write_and_describe(path, sequence, camera, view, progress=progress.update, split="test")
        prepared = PreparedSequence(path)
        (poses,) = predict_split(network, [prepared], window, label=f"{sequence.name}: predicting")
        truth = prepared.joints_3d
        prepared.close()
    return poses, truth, report


def _numbers(poses, truth, people):
    """The SHOWN errors of sequences (lists of (N, 15, 3) m), and their intervals."""
    found = pose_errors(poses, truth, people=people).report()
    return {key: found[key] for key in SHOWN}, {key: found["interval_95"][key] for key in SHOWN}


def evaluate(kind, sequences, network, config, camera, calibration="the calibration", save=lambda result: None):
    """Errors of a model on the sequences of a test set -> dict that JSON can hold.

    kind: a key of TAKES. sequences: Sequence objects of `read_mocap`. network: for inference, on its device; config:
    the model's, whose view and windows are used. camera: FisheyeCamera of the frames. calibration: its name, for
    warnings. save: called with the result so far after each sequence, once there is one. A sequence of which no frame
    can be used is in "failed" with the reason, one that Ctrl-C has prevented in "not_run"; "complete" says whether
    there is none of either.
    """
    view = InputView.of(camera, config["input"]["size"], config["input"]["crop"])
    window = WindowSettings(**config["window"])
    rows, failed, circles, poses, truth, people = {}, {}, {}, [], [], []
    result = {"set": kind, "complete": False, "interrupted": False}

    def update(**more):
        left = [s.name for s in sequences if s.name not in rows and s.name not in failed]
        result.update(more, complete=not left and not failed, sequences=rows, failed=failed, not_run=left)
        if rows:
            numbers, intervals = _numbers(poses, truth, people)
            total = {"frames": sum(map(len, poses)), "people": len(set(people)), **numbers, "interval_95": intervals}
            circle = image_circle.compare(camera, calibration, circles)["warning"]
            result.update(total, warnings=[circle] if circle else [])
            save(result)

    try:
        for sequence in sequences:
            try:
                found, true, report = _predict(network, sequence, camera, view, window)
            except DatasetError as error:
                failed[sequence.name] = str(error)
                update()
                continue
            reasons = Counter(reason_kind(reason) for reason in report["skipped"].values())
            row = {
                "person": sequence.actor,
                "frames": len(found),
                "skipped": dict(sorted(reasons.items())),
                "notes": sequence.notes,
                **_numbers([found], [true], None)[0],
            }
            poses.append(found)
            truth.append(true)
            people.append(sequence.actor)
            circles[sequence.name], rows[sequence.name] = report["circle"], row
            update()
    except KeyboardInterrupt:
        update(interrupted=True)
    return result


def _tell(result):
    """Print a result as the command does, warnings on standard error."""
    for name, row in result["sequences"].items():
        for note in row["notes"]:
            print(f"note: {note}", file=sys.stderr)
        for reason, count in row["skipped"].items():
            print(f"skipped: {name}: {count} frames: {reason}", file=sys.stderr)
    for warning in result.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    for reason in result["failed"].values():  # which name their sequence
        print(f"error: {reason}", file=sys.stderr)
    if not result["sequences"]:
        return
    table = [["sequence", "person", "frames", "without pose", *(f"{title} (mm)" for title in SHOWN.values())]]
    for name, row in result["sequences"].items():
        numbers = [f"{row[key]:.1f}" for key in SHOWN]
        table.append([name, row["person"], row["frames"], sum(row["skipped"].values()), *numbers])
    spans = [f"{result[key]:.1f}" for key in SHOWN]
    if result["people"] > 1:
        between = ["{low:.1f} to {high:.1f}".format_map(result["interval_95"][key]) for key in SHOWN]
        spans = [f"{mean} ({span})" for mean, span in zip(spans, between, strict=True)]
    lost = sum(sum(row["skipped"].values()) for row in result["sequences"].values())
    table.append(["all", f"{result['people']} in all", result["frames"], lost, *spans])
    widths = [max(len(str(row[i])) for row in table) for i in range(len(table[0]))]
    print(f"\n{TITLES[result['set']]}, measured here; in brackets 95 % intervals over people, rough as they are two\n")
    for row in table:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not result["complete"]:
        absent = ", ".join([*result["failed"], *result["not_run"]])
        print(f"\nnot the whole set, and no number to compare: {absent} missing")
    figures = ", ".join(f"{method} ({venue}) {value}" for method, venue, value in paper.MOCAP[result["set"]])
    print(f"\npublished by their authors, not measured here: PA-MPJPE (mm) {figures or 'of no method known here'}")


def main(arguments=None):
    """The command -> exit status: 0, 1 for an error or a sequence that failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m agego_lib.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=sorted(TAKES), help="which test set")
    parser.add_argument("root", help="its folder, with a folder for each sequence")
    parser.add_argument("--calibration", required=True, help="of its camera: of OCamCalib, OpenCV or Kalibr")
    parser.add_argument("--camera", metavar="NAME", help="which camera of a Kalibr camchain (default: its first)")
    parser.add_argument("--model", help=f"weights, with their .json beside them (default: the project's {RELEASED})")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--out", required=True, help="JSON file to write; an earlier one is replaced")
    given = parser.parse_args(arguments)
    out = Path(given.out)
    try:
        device = usable(given.device)
        sequences = read_mocap(given.set, given.root)
        calibration = resolved(given.calibration)
        camera = read_camera(calibration, given.camera).camera
        model, config = load_named(given.model)
        made = {
            "model": given.model or RELEASED,
            "model_sha256": file_digest(resolved(given.model or RELEASED)),
            "calibration": calibration.name,
            "calibration_sha256": file_digest(calibration),
            "input": config["input"],
            "window": config["window"],
            "versions": manifest.versions(),
            "machine": manifest.machine(),
        }
        figures = [
            {"method": method, "published": venue, "pa_mpjpe_mm": value}
            for method, venue, value in paper.MOCAP[given.set]
        ]

        def save(result):
            write_json(out, {**result, "published": figures, "made_with": made})

        # That it can be written, before hours of computing; what is there stays until there is something new.
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(f"{out}: a folder; name a file with --out")
        with tempfile.TemporaryFile(dir=out.parent):
            pass
        network = for_inference(model).to(device)
        result = evaluate(given.set, sequences, network, config, camera, calibration.name, save)
    except (*ERRORS, DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _tell(result)
    if result["sequences"]:
        print(out)
    if result["interrupted"]:
        return 130
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
