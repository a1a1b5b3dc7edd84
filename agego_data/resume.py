"""Rendering that was ended goes on: what is drawn waits where no run empties it, until all is."""

import hashlib
import os
import shutil
from pathlib import Path

from agego_lib import camera, skeleton

# What decides how a sequence looks, beside its job and the sources.
CODE = (*Path(__file__).parent.glob("*.py"), *Path(camera.__file__).parent.glob("*.py"), Path(skeleton.__file__))


def waiting_room(folder, plan, sources) -> Path:
    """Where in `folder` the sequences of a plan wait that are drawn by this code from these sources.

    plan: its repr says all of it. sources: folder of files. What waits there for another plan is removed.
    """
    digest = hashlib.sha256(repr(plan).encode())
    for path in sorted([*CODE, *(path for path in Path(sources).iterdir() if path.is_file())]):
        digest.update(path.read_bytes())
    room = Path(folder) / digest.hexdigest()[:16]
    for other in Path(folder).glob("*"):
        if other != room:
            shutil.rmtree(other)
    return room


def finish(part, whole):
    """Give a folder that is written its name, unless another process was faster, whose files are the same."""
    try:
        part.rename(whole)
    except OSError:
        if not whole.is_dir():
            raise
        shutil.rmtree(part)


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def bring(source, target):
    """A folder of finished files to where they belong, without a second copy of them where the disk can."""
    shutil.copytree(source, target, copy_function=_link)
