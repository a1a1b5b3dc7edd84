"""git's filter of notebooks, in a real repository: a look at a notebook is no change, an edit is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_filter
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = "notebooks/04_evaluation.ipynb"


class Repository:
    def __init__(self, folder):
        self.folder = folder
        for name in (".gitattributes", ".gitignore", "scripts/notebook_filter.py", NAME):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "AGEGO"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        off = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        self.environment = kept | {"PATH": path} | off
        self.git("init", "-q")
        self.commit()

    def run(self, *command, **more):
        options = {"cwd": self.folder, "env": self.environment | more, "capture_output": True, "text": True}
        return subprocess.run(command, **options, check=True).stdout

    def git(self, *arguments, **more):
        return self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments, **more)

    def commit(self):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "copy")

    def install(self):
        self.run(sys.executable, "scripts/notebook_filter.py", "install")

    def settle(self):
        code = f"import notebook_filter; notebook_filter.settle({str(self.folder / NAME)!r})"
        self.run(sys.executable, "-c", code, PYTHONPATH=str(self.folder / "scripts"))

    def changed(self):
        return [line[3:] for line in self.git("status", "--porcelain").splitlines()]

    def change(self, edit):
        notebook = nbformat.read(self.folder / NAME, as_version=4)
        edit(notebook)
        nbformat.write(notebook, self.folder / NAME)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def look(notebook):
    """What JupyterLab writes when a notebook was run out of order, with other settings, and saved."""
    notebook.metadata.kernelspec.display_name = "Another Python"
    notebook.metadata.language_info = {"name": "python", "version": "3.99", "file_extension": ".py"}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    for number, cell in enumerate(notebook.cells, 40):
        cell.metadata |= {"scrolled": True, "execution": {"iopub.execute_input": "2024-01-01T00:00:00Z"}}
        if cell.cell_type == "code":
            cell.execution_count = number
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"another result, {number}\n")]


def test_looking_at_a_notebook_changes_nothing(repository):
    repository.change(look)
    assert repository.changed() == [NAME], "without the filter this is a change, or the test shows nothing"
    repository.install()
    assert repository.git("diff") == ""
    repository.settle()
    assert repository.changed() == []
    # What the user made stays on disk, and a commit takes none of it.
    assert "another result" in (repository.folder / NAME).read_text()
    repository.git("add", "-A")
    assert repository.git("diff", "--cached", "--stat") == ""


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_as_the_filter_leaves_them(path):
    # As git has them, since somebody may be looking at one.
    notebook = notebook_filter.indexed(f"notebooks/{path.name}") or nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    assert nbformat.writes(notebook_filter.clean(notebook)) == before


def test_an_edit_is_a_change_and_keeps_outputs_of_the_others(repository):
    repository.install()
    before = nbformat.read(repository.folder / NAME, as_version=4)

    def edit(notebook):
        look(notebook)
        notebook.cells[0].source += "\n\nOne more sentence."
        notebook.cells[-1].source += "\nprint('more')"

    repository.change(edit)
    repository.settle()
    assert repository.git("diff", "--cached", "--stat") == "", "an edit was staged unasked"
    assert repository.changed() == [NAME]
    repository.commit()
    kept = nbformat.reads(repository.git("show", f"HEAD:{NAME}"), as_version=4)
    assert kept.cells[0].source.endswith("One more sentence.")
    # The edited cell's output is the one it has now; the others' are those that were committed.
    assert kept.cells[-1].outputs[0].text.startswith("another result")
    assert [c.get("outputs") for c in kept.cells[:-1]] == [c.get("outputs") for c in before.cells[:-1]]
    assert [c.metadata for c in kept.cells] == [c.metadata for c in before.cells]


def test_new_outputs_can_be_committed(repository):
    repository.install()
    repository.change(look)
    repository.git("add", NAME, AGEGO_KEEP_OUTPUTS="1")
    repository.git("commit", "-q", "-m", "new outputs")
    repository.settle()
    kept = nbformat.reads(repository.git("show", f"HEAD:{NAME}"), as_version=4)
    for cell in (c for c in kept.cells if c.cell_type == "code"):
        compared = "nbval-ignore-output" not in cell.metadata.get("tags", [])
        assert bool(cell.outputs) == compared == (cell.execution_count is not None)
    assert repository.changed() == []


def test_a_file_that_is_no_notebook_is_taken_as_it_is(repository):
    repository.install()
    text = "<<<<<<< ours\n{}\n=======\n"
    (repository.folder / NAME).write_text(text)
    repository.commit()
    assert repository.git("show", f"HEAD:{NAME}") == text


def test_without_its_tools_nothing_is_filtered(repository):
    repository.install()
    repository.change(look)
    saved = (repository.folder / NAME).read_text()
    # As where neither .venv nor nbstripout is: git works on.
    bare = repository.folder / "bin"
    bare.mkdir()
    for tool in ("git", "sh", "cat", "test"):
        (bare / tool).symlink_to(shutil.which(tool))
    repository.git("add", NAME, PATH=str(bare))
    assert repository.git("show", f":{NAME}") == saved


def test_installing_outside_a_repository_does_nothing(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/notebook_filter.py", tmp_path / "scripts")
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    command = (sys.executable, "scripts/notebook_filter.py", "install")
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
