"""From a data set in its published layout to a folder of prepared sequences."""

import json
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import egopw, sceneego
from agego_lib.datasets.prepared import SPLITS_FILE, write_prepared
from agego_lib.datasets.sequence import NO_ANNOTATION, DatasetError, reason_kind
from agego_lib.datasets.splits import check_disjoint, read_split

KINDS = {"egopw": egopw, "sceneego": sceneego}


def _prepare_sequence(kind, directory, path, camera, view, progress=None):
    """-> (report of write_prepared, None), or (None, why the sequence as a whole cannot be used)."""
    try:
        if kind == "egopw":
            sequence = egopw.read_egopw(directory)
        else:
            sequence = sceneego.read_sceneego(directory, camera)
        return write_prepared(path, sequence, camera, view, progress=progress), None
    except DatasetError as error:
        return None, str(error)


def _one_thread():
    cv2.setNumThreads(1)  # the sequences run side by side already


def _run(jobs, workers, progress):
    """Results of `_prepare_sequence` for the list of its arguments, in order."""
    if workers <= 1:
        return [_prepare_sequence(*job, progress=progress) for job in jobs]
    results = [None] * len(jobs)
    # Spawned, since forking a process that runs threads (a notebook, PyTorch, OpenCV) may hang it.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)
    with pool:
        futures = {pool.submit(_prepare_sequence, *job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                result = results[futures[future]] = future.result()
                if progress is not None and result[0] is not None:
                    progress(result[0]["frames"])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


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
):
    """Prepare both splits of a data set: `out/<split>/<sequence>.h5` and `out/splits.json` -> report.

    kind: "egopw" or "sceneego". root: the data set's folder, which the lines of both lists are relative to.
    calibration: path of the camera's JSON. size, crop: the InputView. limit_sequences: only the first n of each split.
    workers: sequences prepared side by side, in processes. progress: called with numbers of frames that were finished.

    Report, per split: "frames" written, "skipped" {sequence: {reason: frames}}, "failed" {sequence: reason}; and
    "skipped_share" of the annotated frames (frames without an annotation do not count, those of failed sequences are
    not known). Raises DatasetError for faults of the lists, where a split has no usable sequence, or where the share
    is above `max_skipped`; `splits.json` is then not written. CalibrationError for the calibration.
    """
    if kind not in KINDS:
        raise DatasetError(f"data set {kind!r}; expected one of {', '.join(KINDS)}")
    reader, out = KINDS[kind], Path(out)
    camera = FisheyeCamera.from_json(calibration)
    view = InputView(camera.size, size, crop)
    splits = {"train": read_split(train_list, root), "test": read_split(test_list, root)}
    check_disjoint(splits["train"], splits["test"], reader.actor_of, allow_shared_actors)
    splits = {split: directories[:limit_sequences] for split, directories in splits.items()}

    jobs, names = [], []
    for split, directories in splits.items():
        for directory in directories:
            name = reader.sequence_name(directory)
            if (split, name) in names:
                raise DatasetError(
                    f"{directory}: a second sequence named {name} in the {split} list; rename one of them"
                )
            names.append((split, name))
            jobs.append((kind, directory, out / split / f"{name.replace('/', '__')}.h5", camera, view))
    (out / SPLITS_FILE).unlink(missing_ok=True)  # the folder is not whole until the new one is there
    results = _run(jobs, workers, progress)

    files = {split: [] for split in splits}
    report = {split: {"frames": 0, "skipped": {}, "failed": {}} for split in splits}
    faults = annotated = 0
    for (split, name), job, (written, failure) in zip(names, jobs, results, strict=True):
        if failure is not None:
            report[split]["failed"][name] = failure
            continue
        counts = Counter(reason_kind(reason) for reason in written["skipped"].values())
        files[split].append(f"{split}/{job[2].name}")
        report[split]["frames"] += written["frames"]
        if counts:
            report[split]["skipped"][name] = dict(sorted(counts.items()))
        here = counts.total() - counts[NO_ANNOTATION]
        faults, annotated = faults + here, annotated + here + written["frames"]
    report["skipped_share"] = faults / annotated if annotated else 0.0

    for split in splits:
        if not files[split]:
            failed = report[split]["failed"]
            raise DatasetError(f"{root}: no usable sequence in the {split} list; {'; '.join(failed.values())}")
    if report["skipped_share"] > max_skipped:
        total = sum((Counter(c) for s in splits for c in report[s]["skipped"].values()), Counter())
        why = ", ".join(f"{count} x {reason}" for reason, count in total.most_common())
        raise DatasetError(
            f"{root}: {faults} of {annotated} annotated frames cannot be used ({why}), a share of "
            f"{report['skipped_share']:.3f} above max_skipped = {max_skipped}; check the data set, or allow more"
        )
    partial = out / f".{SPLITS_FILE}.part"
    partial.write_text(json.dumps({"kind": kind, "splits": files, "report": report}, indent=2) + "\n")
    partial.replace(out / SPLITS_FILE)
    return report
