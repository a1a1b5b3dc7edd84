"""Split lists: which sequences train and which test (`train_egopw.txt`, `test_egopw.txt` and SceneEgo's)."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from agego_lib.datasets.sequence import DatasetError
from agego_lib.files import read_text

MAX_LIST_BYTES = 1 << 24


def read_split(list_file, root):
    """Sequence directories of a split list, in its order. One per line, relative to `root`; `#` starts a comment.

    Raises DatasetError naming the list and the line for a directory that is missing, outside `root` or listed twice.
    """
    list_file, root = Path(list_file), Path(root)
    try:
        lines = read_text(list_file, MAX_LIST_BYTES, "utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{list_file}: not readable as a split list ({error})") from None
    directories = {}
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        where = f"{list_file}, line {number}: {text[:200]!r}"
        if PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or ".." in PureWindowsPath(text).parts:
            raise DatasetError(f"{where} leaves the data set's root; expected a path relative to {root}, without '..'")
        directory = root / PurePosixPath(text)
        # A name too long to be one makes is_dir fail.
        if len(text) > 1000 or not directory.is_dir():
            raise DatasetError(f"{where} is no directory under {root}; check the root, or remove the line")
        if directory in directories:
            raise DatasetError(f"{where} is listed already in line {directories[directory]}; remove one of them")
        directories[directory] = number
    if not directories:
        raise DatasetError(f"{list_file}: lists no sequence; expected one directory per line, relative to {root}")
    return list(directories)


def check_disjoint(train, test, actor_of, allow_shared_actors=False):
    """Raise DatasetError where a sequence, or an actor unless allowed, is in both of two lists of directories.

    actor_of(sequence_dir) -> actor. EgoPW's test actors do not train; SceneEgo's test sequences are other takes of
    actors who do, hence `allow_shared_actors`.
    """
    real = [{os.path.realpath(directory): str(directory) for directory in split} for split in (train, test)]
    shared = sorted(real[0][path] for path in real[0].keys() & real[1].keys())
    if shared:
        raise DatasetError(f"in both the training and the test list: {', '.join(shared)}; remove each from one of them")
    actors = sorted({actor_of(directory) for directory in train} & {actor_of(directory) for directory in test})
    if actors and not allow_shared_actors:
        raise DatasetError(
            f"actors in both the training and the test list: {', '.join(actors)}; "
            "move their sequences to one of them, or set allow_shared_actors where the data set's own split is so"
        )
