"""From a data set in its published layout to a folder of prepared sequences."""

import re
import unicodedata
import warnings
from collections import Counter
from concurrent.futures import as_completed
from pathlib import Path

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import egopw, image_circle, sceneego
from agego_lib.datasets.prepared import SPLITS_FILE, write_and_describe
from agego_lib.datasets.sequence import NO_ANNOTATION, DatasetError, count_frames, reason_kind, sequence_key
from agego_lib.datasets.splits import check_disjoint, read_split
from agego_lib.files import file_digest, write_json
from agego_lib.workers import worker_pool

KINDS = {"egopw": egopw, "sceneego": sceneego}


def _prepare_sequence(kind, root, directory, path, camera, view, split, clock, progress=None):
    """-> (report of write_and_describe with the sequence's "notes", None), or (None, why it cannot be used)."""
    try:
        if kind == "egopw":
            sequence = egopw.read_egopw(directory, root)
        else:
            sequence = sceneego.read_sceneego(directory, camera, root, clock)
        written = write_and_describe(path, sequence, camera, view, progress=progress, split=split)
        return written | {"notes": sequence.notes}, None
    except DatasetError as error:
        return None, str(error)


def _run(jobs, on_disk, workers, progress):
    """Results of `_prepare_sequence` for the list of its arguments, in order. on_disk: each one's number of frames."""
    done = progress or (lambda frames: None)
    results = [None] * len(jobs)
    if workers <= 1:
        for index, job in enumerate(jobs):
            encoded = []
            results[index] = _prepare_sequence(*job, progress=lambda n, encoded=encoded: (encoded.append(n), done(n)))
            done(on_disk[index] - sum(encoded))
        return results
    with worker_pool(workers) as pool:
        futures = {pool.submit(_prepare_sequence, *job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                done(on_disk[futures[future]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _failures(reasons):
    """Why sequences failed: the first three reasons in full; of more, how many there are of each kind."""
    shown = "; ".join(reason[:500] for reason in reasons[:3])
    if len(reasons) <= 3:
        return shown
    # The file comes first in each, and numbers differ.
    kinds = Counter(re.sub(r"\d+", "N", re.split(r"[:;(]", reason.partition(": ")[2])[0].strip()) for reason in reasons)
    counts = [f"{count} x {kind:.100}" for kind, count in kinds.most_common(5)]
    return f"{', '.join(counts)}; the first: {shown}; and {len(reasons) - 3} more"


def _plan(splits, kind):
    """(split, name, directory) of every sequence. Raises DatasetError where two would be kept in one file."""
    planned, taken = [], {}
    for split, directories in splits.items():
        for directory in directories:
            name = KINDS[kind].sequence_name(directory)
            # On macOS and Windows files that differ in capitals, or in how an accent is written, are one.
            file = unicodedata.normalize("NFC", sequence_key(kind, split, name)).casefold()
            if file in taken:
                raise DatasetError(
                    f"{directory} and {taken[file]}, both in the {split} list, would be kept in one file, as {name}; "
                    "rename one of them"
                )
            taken[file] = directory
            planned.append((split, name, directory))
    return planned


def prepare_dataset(
    kind,
    root,
    train_list,
    test_list,
    calibration,
    out,
    size=256,
    crop="none",
    allow_shared_actors=False,
    max_skipped=0.2,
    limit_sequences=None,
    workers=1,
    progress=None,
    clock="sceneego",
):
    """Prepare both splits of a data set: `out/<split>/<sequence>.h5` and `out/splits.json` -> report.

    kind: "egopw" or "sceneego". root: the data set's folder, which the lines of both lists are relative to.
    calibration: path of the camera's JSON. size, crop: the InputView. limit_sequences: only the first n of each split.
    workers: sequences prepared side by side, in processes. progress: called with numbers of frames that were finished,
    in all as many as there are on disk. clock: how SceneEgo's test split is read where its annotations have no
    image_name, as in `read_sceneego`; the training split is always read as SceneEgo does, since the other reading is
    known of the test split alone.

    Report, per split: "frames" written, "skipped" {sequence: {reason: frames}}, "failed" {sequence: reason}, "notes"
    {sequence: [what was odd]}; "skipped_share": faults among all annotated frames. Frames without an annotation do not
    count; of a failed sequence, whose annotations nobody knows, all frames on disk do. "circle": what the frames' image
    circle says of the calibration (`image_circle.compare`); a warning is also given as such, once.
    `splits.json` also keeps in "content" a SHA-256 of what each file holds, and which "calibration" it was.
    Raises DatasetError for faults of the lists, where a split has no usable sequence, or where the share is above
    `max_skipped`, CalibrationError for the calibration, OSError where a file cannot be written; `splits.json` is then
    not there.
    """
    if kind not in KINDS:
        raise DatasetError(f"data set {kind!r}; expected one of {', '.join(KINDS)}")
    reader, out, calibration = KINDS[kind], Path(out), Path(calibration)
    camera = FisheyeCamera.from_json(calibration)
    view = InputView.of(camera, size, crop)
    splits = {"train": read_split(train_list, root), "test": read_split(test_list, root)}
    check_disjoint(splits["train"], splits["test"], reader.actor_of, allow_shared_actors)
    splits = {split: directories[:limit_sequences] for split, directories in splits.items()}

    planned = _plan(splits, kind)
    clocks = {"train": "sceneego", "test": clock}
    # `out` is the data set's own folder already.
    names = [sequence_key(kind, split, name).partition("/")[2] + ".h5" for split, name, _ in planned]
    jobs = [
        (kind, root, directory, out / file, camera, view, split, clocks[split])
        for (split, _, directory), file in zip(planned, names, strict=True)
    ]
    on_disk = [count_frames(directory) for _, _, directory in planned]
    (out / SPLITS_FILE).unlink(missing_ok=True)  # the folder is not whole until the new one is there
    results = _run(jobs, on_disk, workers, progress)

    files = {split: [] for split in splits}
    report = {split: {"frames": 0, "skipped": {}, "failed": {}, "notes": {}} for split in splits}
    content, circles, total, lost, used = {}, {}, Counter(), 0, 0
    for (split, name, _), file, frames, (written, failure) in zip(planned, names, on_disk, results, strict=True):
        if failure is not None:
            report[split]["failed"][name] = failure
            lost += frames
            continue
        counts = Counter(reason_kind(reason) for reason in written["skipped"].values())
        files[split].append(file)
        content[file] = written["content"]
        circles[sequence_key(kind, split, name)] = written["circle"]
        report[split]["frames"] += written["frames"]
        if counts:
            report[split]["skipped"][name] = dict(sorted(counts.items()))
        if written["notes"]:
            report[split]["notes"][name] = written["notes"]
        total += counts
        used += written["frames"]
    faults = total.total() - total.pop(NO_ANNOTATION, 0) + lost
    report["skipped_share"] = faults / (faults + used) if faults else 0.0

    for split in splits:
        if not files[split]:
            failed = list(report[split]["failed"].values())
            raise DatasetError(f"{root}: no usable sequence in the {split} list; {_failures(failed)}")
    if report["skipped_share"] > max_skipped:
        why = [f"{count} x {reason}" for reason, count in total.most_common()]
        failed = [reason for split in splits for reason in report[split]["failed"].values()]
        if failed:
            why.append(f"{lost} frames of {len(failed)} sequences that failed: {_failures(failed)}")
        raise DatasetError(
            f"{root}: {faults} of {faults + used} annotated frames cannot be used ({', '.join(why)}), a share of "
            f"{report['skipped_share']:.3f} above max_skipped = {max_skipped}; check the data set, or allow more"
        )
    report["circle"] = image_circle.compare(camera, calibration.name, circles)
    if report["circle"]["warning"]:
        warnings.warn(report["circle"]["warning"], stacklevel=2)
    used_calibration = {
        "file": calibration.name,
        "sha256": file_digest(calibration),
    }
    write_json(
        out / SPLITS_FILE,
        {"kind": kind, "splits": files, "report": report, "content": content, "calibration": used_calibration},
    )
    return report
