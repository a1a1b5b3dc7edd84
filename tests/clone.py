"""A copy of the working tree in which the whole pipeline has run with the smoke profile."""

import importlib.util
import shutil
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/refresh_notebooks.py"


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """(copy, output of the run); the run's lock file, metrics and curves are committed."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    copy = script.Copy(tmp_path_factory.mktemp("clone"))
    done = copy.run_pipeline()
    copy.commit("smoke run")
    yield copy, done.stdout
    # Over a gigabyte, which pytest would keep three times.
    shutil.rmtree(copy.folder, ignore_errors=True)


@pytest.fixture
def clone(smoke_run):
    """The copy; whatever a test changes there is put back."""
    copy, _ = smoke_run
    yield copy
    copy.run("git", "checkout", "-q", "--", ".")
    copy.run("git", "clean", "-fdq")
    copy.run("dvc", "checkout", "--force", "-q")
