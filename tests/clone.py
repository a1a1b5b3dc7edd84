"""A copy of the working tree in which the whole pipeline has run with the smoke profile."""

import shutil

import pytest
from refresh_notebooks import Copy


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory, kernels):
    """(copy, output of the run); the run's lock file, metrics and curves are committed."""
    copy = Copy(tmp_path_factory.mktemp("clone"))
    copy.environment |= kernels
    done = copy.run_pipeline()
    # Git ignores them, so that what tests run later would leave its own in their place.
    copy.manifests = {p.relative_to(copy.folder).as_posix(): p.read_text() for p in copy.folder.rglob("*.run.json")}
    copy.commit("smoke run")
    yield copy, done.stdout + done.stderr
    # Over a gigabyte, which pytest would keep three times.
    shutil.rmtree(copy.folder, ignore_errors=True)


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
