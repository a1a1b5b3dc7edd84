"""Split lists: which sequences train and which test (`train_egopw.txt`, `test_egopw.txt` and SceneEgo's)."""

import codecs
import os
from pathlib import Path, PureWindowsPath

from agego_lib.datasets.sequence import DatasetError
from agego_lib.files import read_bytes

MAX_LIST_BYTES = 1 << 24


def _lines(list_file):
    """Lines of a text file in UTF-8, or in UTF-16 with its byte-order mark. Raises OSError and ValueError."""
    data = read_bytes(list_file, MAX_LIST_BYTES)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16").splitlines()
    return data.decode("utf-8-sig").splitlines()


def _find(text, root):
    """The sequence's directory under `root` that a line means, or None.

    It may have backslashes, begin with the root's own name and end with imgs/. An absolute path, of the machine on
    which the list was made, means the longest end of it that is a sequence with frames under `root`.
    """
    path = PureWindowsPath(text)  # splits at both kinds of slashes
    parts = [part for part in path.parts if part != path.anchor]
    if parts[-1:] == ["imgs"]:
        parts = parts[:-1]
    if path.anchor:
        ends = (root.joinpath(*parts[i:]) for i in range(len(parts)))
        return next((end for end in ends if end != root and (end / "imgs").is_dir()), None)
    shorter = parts[1:] if parts and parts[0] in (root.name, Path(os.path.realpath(root)).name) else []
    found = (root.joinpath(*names) for names in (parts, shorter) if names)
    return next((directory for directory in found if directory.is_dir()), None)


def read_split(list_file, root):
    """Sequence directories of a split list, in its order. One per line, relative to `root`; `#` starts a comment.

    Lists made elsewhere are read too: see `_find`. Raises DatasetError naming the list and the line for a directory
    that is missing, outside `root` or listed twice, through a link as well.
    """
    list_file, root = Path(list_file), Path(root)
    try:
        lines = _lines(list_file)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{list_file}: not readable as a split list ({error}); expected text in UTF-8, or in UTF-16 with its mark"
        ) from None
    directories = {}
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        where = f"{list_file}, line {number}: {text[:200]!r}"
        if "\0" in text:
            raise DatasetError(f"{where} holds a zero byte, as text in UTF-16 without its mark does; save it as UTF-8")
        if ".." in PureWindowsPath(text).parts:
            raise DatasetError(f"{where} leaves the data set's root; expected a path relative to {root}, without '..'")
        # A name too long to be one makes is_dir fail.
        directory = _find(text, root) if len(text) <= 1000 else None
        if directory is None:
            raise DatasetError(
                f"{where} is no directory under {root}; expected one relative to it, such as 'chao/office1'. Check the "
                "root, or remove the line"
            )
        found = directory.stat()
        same = found.st_dev, found.st_ino
        if same in directories:
            first, earlier = directories[same]
            link = "" if earlier == directory else f", as {earlier}: both are the same folder"
            raise DatasetError(f"{where} is listed already in line {first}{link}; remove one of them")
        directories[same] = number, directory
    if not directories:
        raise DatasetError(f"{list_file}: lists no sequence; expected one directory per line, relative to {root}")
    return [directory for _, directory in directories.values()]


def _some(names):
    """The first three of many names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def check_disjoint(train, test, actor_of, allow_shared_actors=False):
    """Raise DatasetError where a sequence, or an actor unless allowed, is in both of two lists of directories.

    actor_of(sequence_dir) -> actor. EgoPW's test actors do not train; SceneEgo's test sequences are other takes of
    actors who do, hence `allow_shared_actors`.
    """
    real = [{os.path.realpath(directory): str(directory) for directory in split} for split in (train, test)]
    shared = sorted(real[0][path] for path in real[0].keys() & real[1].keys())
    if shared:
        raise DatasetError(f"in both the training and the test list: {_some(shared)}; remove each from one of them")
    actors = sorted({actor_of(directory) for directory in train} & {actor_of(directory) for directory in test})
    if actors and not allow_shared_actors:
        raise DatasetError(
            f"actors in both the training and the test list: {_some(actors)}; "
            "move their sequences to one of them, or set allow_shared_actors where the data set's own split is so"
        )
