"""A copy of the working tree in which the whole pipeline has run with the smoke profile."""

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from refresh_notebooks import Copy


def run_once(folder, warm):
    """The pipeline's run in `folder`, made by the first of pytest-xdist's processes that comes -> what it said."""
    said = Path(f"{folder}.json")
    with FileLock(f"{folder}.lock"):
        if not said.is_file():
            copy = Copy(folder)
            copy.environment |= warm
            done = copy.run_pipeline()
            # Git ignores them, so that what tests run later would leave its own in their place.
            manifests = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.run.json")}
            copy.commit("smoke run")
            said.write_text(json.dumps({"manifests": manifests, "output": done.stdout + done.stderr}))
    return json.loads(said.read_text())


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory, warm):
    """(copy, output of the run); the run's lock file, metrics and curves are committed. Each process has its own."""
    folder = Path(os.environ["AGEGO_TESTS_SHARED"]) / "smoke"
    said = run_once(folder, warm)
    own = tmp_path_factory.mktemp("clone") / "project"
    shutil.copytree(folder, own, symlinks=True)
    copy = Copy(own)
    copy.environment |= warm
    copy.manifests = said["manifests"]
    yield copy, said["output"]
    # Over a gigabyte, which pytest would keep three times.
    shutil.rmtree(own, ignore_errors=True)


def outputs(folder):
    """Every file that stages write and git ignores, with its time and size."""
    paths = [path for name in ("artifacts", "reports") for path in (folder / name).rglob("*")]
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths if not path.is_dir()}


@pytest.fixture
def clone(smoke_run):
    """The copy; whatever a test changes there is put back."""
    copy, _ = smoke_run
    before = outputs(copy.folder)
    yield copy
    copy.run("git", "checkout", "-q", "--", ".")
    copy.run("git", "clean", "-fdq")
    # DVC takes seconds to look, and most tests leave its files alone.
    if outputs(copy.folder) != before:
        copy.run("dvc", "checkout", "--force", "-q")
