"""Each notebook, run again by nbval on a copy of the working tree: the stored outputs of its cells must come out."""

from pathlib import Path

import nbformat
import pytest

pytest_plugins = ("clone",)

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
# Training, timings, figures: nbval runs the cells tagged so, and compares nothing.
IGNORED = "nbval-ignore-output"
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def nbval(clone, name):
    command = ("python", "-m", "pytest", "--nbval", "-q", "--color=no", "-p", "no:cacheprovider")
    return clone.run(*command, f"notebooks/{name}", check=False)


@each
def test_what_is_stored(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert "widgets" not in notebook.metadata
    ignored = [c for c in cells if IGNORED in c.metadata.get("tags", [])]
    compared = [c for c in cells if c not in ignored]
    assert not any(c.outputs or c.execution_count for c in ignored), "an output that is not compared is stored"
    assert any(c.outputs for c in compared), "nothing is compared; run scripts/refresh_notebooks.py"
    # nbval compares nothing where a cell looks as if it had not run.
    assert all(c.execution_count for c in compared), "run scripts/refresh_notebooks.py"
    assert not any(o.output_type == "error" for c in cells for o in c.outputs)


@each
def test_stored_outputs_come_out_again(clone, path):
    done = nbval(clone, path.name)
    assert done.returncode == 0, done.stdout


def test_another_output_is_noticed(clone):
    path = clone.folder / "notebooks/05_ablations.ipynb"
    notebook = nbformat.read(path, as_version=4)
    changed = next(i for i, c in enumerate(c for c in notebook.cells if c.cell_type == "code") if c.id == "05-01")
    output = next(c for c in notebook.cells if c.id == "05-01").outputs[0]
    output.text = output.text.replace("no_motion", "no_emotion")
    nbformat.write(notebook, path)
    done = nbval(clone, path.name)
    assert done.returncode == 1
    assert f"FAILED notebooks/05_ablations.ipynb::Cell {changed}" in done.stdout
    assert "1 failed" in done.stdout
