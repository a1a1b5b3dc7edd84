"""What git keeps of a notebook: a clean filter, so that looking at one leaves `git status` empty.

Outputs of cells tagged nbval-ignore-output, run data and widgets' state are taken out, with nbstripout. Those of the
other cells are kept, as tests compare them; but only `scripts/refresh_notebooks.py` makes them anew: while a cell's
code is as in git's index, so is its output, whatever a run in JupyterLab, with other settings, put in its place.
`make` switches the filter on (`install`); in a clone without it git takes notebooks as they are saved.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbstripout import strip_output

ROOT = Path(__file__).resolve().parents[1]
# No output of such a cell is compared, and none is stored: training, timings, figures.
IGNORED = "nbval-ignore-output"
# Set, to anything, while new outputs are meant to go into git.
KEEP = "AGEGO_KEEP_OUTPUTS"
# Where there is no .venv, the python3 at hand; where that has not what it takes, or the script is not there (an older
# commit), nothing is filtered.
COMMAND = (
    "p=.venv/bin/python f=scripts/notebook_filter.py; test -f $f || exec cat; "
    'test -x $p || { p=python3; $p -c "import nbformat, nbstripout" 2>/dev/null || exec cat; }; exec $p $f "$1"'
)


def indexed(path):
    """The notebook at `path` (from the project's folder) in git's index, or None where there is none to read."""
    command = ("git", "cat-file", "blob", f":{path}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    try:
        return None if done.returncode else nbformat.reads(done.stdout.decode(), as_version=4)
    except (ValueError, nbformat.ValidationError):
        return None


def clean(notebook, before=None):
    """Change a notebook to what git keeps of it -> the notebook. before: one whose outputs stay where code is equal."""
    known = {c.id: c for c in before.cells if c.cell_type == "code" and "id" in c} if before else {}
    for key in ("widgets", "papermill"):
        notebook.metadata.pop(key, None)
    notebook.metadata.language_info = {"name": "python"}
    if before and "kernelspec" in before.metadata:
        notebook.metadata.kernelspec = before.metadata.kernelspec
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        old = known.get(cell.get("id"))
        if IGNORED in tags:
            cell.execution_count = None
        else:
            # Its number stays: nbval compares nothing where a cell looks as if it had not run.
            cell.metadata.keep_output = True
            if old and old.source == cell.source:
                cell.outputs, cell.execution_count = old.outputs, old.execution_count
    return strip_output(notebook, False, keep_count=True, keep_id=True, extra_keys=["cell.metadata.keep_output"])


def install():
    """Switch the filter on in this clone's own configuration; outside a git repository there is nothing to do."""
    inside = subprocess.run(("git", "rev-parse", "--git-dir"), cwd=ROOT, capture_output=True, check=False)
    if inside.returncode == 0:
        command = ("git", "config", "filter.agego-notebook.clean", f"sh -c '{COMMAND}' filter %f")
        subprocess.run(command, cwd=ROOT, check=True)


def settle(path):
    """Tell git that a saved notebook, an absolute path, is unchanged, where that is so after filtering.

    `git status` goes by a file's size and shows it as modified although `git diff` is empty.
    """
    path = os.path.relpath(path, ROOT)
    commands = ("git", "rev-parse", f":{path}"), ("git", "hash-object", path)
    before, now = (subprocess.run(c, cwd=ROOT, capture_output=True, text=True, check=False) for c in commands)
    if before.returncode == 0 and before.stdout == now.stdout:
        subprocess.run(("git", "add", path), cwd=ROOT, capture_output=True, check=False)


def main():
    if sys.argv[1:] == ["install"]:
        return install()
    source = sys.stdin.buffer.read()
    try:
        notebook = nbformat.reads(source.decode(), as_version=4)
    except (ValueError, nbformat.ValidationError):
        # With the marks of a conflict, for one.
        result = source
    else:
        before = None if os.environ.get(KEEP) else indexed(sys.argv[1])
        result = (nbformat.writes(clean(notebook, before)) + "\n").encode()
    sys.stdout.buffer.write(result)


if __name__ == "__main__":
    main()
