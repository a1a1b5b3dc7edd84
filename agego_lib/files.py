"""Files written whole or not at all, and files read within bounds: no device, no pipe, no more bytes than expected."""

import hashlib
import json
import stat
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """A temporary path beside `path`, which takes its place when the block ends and is removed when the block fails.

    Makes the folder. Who may read the file is what the process's umask says, whatever writes it: safetensors keeps its
    own from everybody else. Raises OSError with the path where it cannot be written, also where the system names none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        partial.unlink()
        yield partial
        if partial.stat().st_mode != mode:  # some file systems have no modes, and refuse to be told one
            partial.chmod(stat.S_IMODE(mode))
        partial.replace(path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path}: could not be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path, value, sort_keys=False):
    """`value` as indented JSON, whole or not at all. Raises ValueError for NaN."""
    text = json.dumps(value, indent=2, allow_nan=False, sort_keys=sort_keys) + "\n"
    with replacing(path) as partial:
        partial.write_text(text)


def read_bytes(path, limit):
    """A regular file of at most `limit` bytes. Raises OSError, and ValueError for anything else than that."""
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("no regular file")
    if found.st_size > limit:
        raise ValueError(f"{found.st_size} bytes, expected at most {limit}")
    with path.open("rb") as file:
        return file.read(found.st_size)  # not the limit: Python takes that much memory first


def read_text(path, limit=1 << 20, encoding="utf-8"):
    """As `read_bytes`, decoded. Raises ValueError for bytes in another encoding."""
    return read_bytes(path, limit).decode(encoding)


def read_json(path, limit=1 << 20):
    """What a JSON file of at most `limit` bytes holds, with a byte-order mark or without.

    Raises OSError, and ValueError, also for too deep nesting.
    """
    try:
        return json.loads(read_text(path, limit, "utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def file_digest(path):
    """The first 16 hex digits of the SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
