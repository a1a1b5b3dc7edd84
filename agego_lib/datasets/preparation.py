"""From a data set in its published layout to a folder of prepared sequences."""

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import egopw, sceneego
from agego_lib.datasets.prepared import SPLITS_FILE, write_and_hash
from agego_lib.datasets.sequence import NO_ANNOTATION, DatasetError, count_frames, reason_kind
from agego_lib.datasets.splits import check_disjoint, read_split
from agego_lib.files import write_json

KINDS = {"egopw": egopw, "sceneego": sceneego}


def _prepare_sequence(kind, root, directory, path, camera, view, progress=None):
    """-> (report and hash of write_and_hash, None), or (None, why the sequence as a whole cannot be used)."""
    try:
        if kind == "egopw":
            sequence = egopw.read_egopw(directory, root)
        else:
            sequence = sceneego.read_sceneego(directory, camera, root)
        return write_and_hash(path, sequence, camera, view, progress=progress), None
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
                    progress(result[0][0]["frames"])
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
    "skipped_share": faults among all annotated frames. Frames without an annotation do not count; of a failed
    sequence, whose annotations nobody knows, all frames on disk do. `splits.json` also keeps in "content" a SHA-256
    of what each file holds.
    Raises DatasetError for faults of the lists, where a split has no usable sequence, or where the share is above
    `max_skipped`, CalibrationError for the calibration, OSError where a file cannot be written; `splits.json` is then
    not there.
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
            jobs.append((kind, root, directory, out / split / f"{name.replace('/', '__')}.h5", camera, view))
    (out / SPLITS_FILE).unlink(missing_ok=True)  # the folder is not whole until the new one is there
    results = _run(jobs, workers, progress)

    files = {split: [] for split in splits}
    report = {split: {"frames": 0, "skipped": {}, "failed": {}} for split in splits}
    content, total, lost, used = {}, Counter(), 0, 0
    for (split, name), job, (written, failure) in zip(names, jobs, results, strict=True):
        if failure is not None:
            report[split]["failed"][name] = failure
            lost += count_frames(job[2])
            continue
        written, digest = written
        counts = Counter(reason_kind(reason) for reason in written["skipped"].values())
        file = f"{split}/{job[3].name}"
        files[split].append(file)
        content[file] = digest
        report[split]["frames"] += written["frames"]
        if counts:
            report[split]["skipped"][name] = dict(sorted(counts.items()))
        total += counts
        used += written["frames"]
    faults = total.total() - total.pop(NO_ANNOTATION, 0) + lost
    report["skipped_share"] = faults / (faults + used) if faults else 0.0

    for split in splits:
        if not files[split]:
            failed = report[split]["failed"]
            raise DatasetError(f"{root}: no usable sequence in the {split} list; {'; '.join(failed.values())}")
    if report["skipped_share"] > max_skipped:
        why = [f"{count} x {reason}" for reason, count in total.most_common()]
        failed = [reason for split in splits for reason in report[split]["failed"].values()]
        why += [f"{lost} frames of {len(failed)} sequences that failed: {'; '.join(failed[:3])}"] * bool(failed)
        raise DatasetError(
            f"{root}: {faults} of {faults + used} annotated frames cannot be used ({', '.join(why)}), a share of "
            f"{report['skipped_share']:.3f} above max_skipped = {max_skipped}; check the data set, or allow more"
        )
    write_json(out / SPLITS_FILE, {"kind": kind, "splits": files, "report": report, "content": content})
    return report
