"""Store the notebooks' outputs anew, for maintainers: python scripts/refresh_notebooks.py [NAME ...]

After an edit of a notebook, the outputs that tests compare must be made again. The pipeline is run with the smoke
profile on a copy of the working tree, each notebook is then executed there, and the outputs of the cells that nbval
compares are written into notebooks/. Nothing else of the working tree is touched. NAME limits the notebooks that are
written, for example 05_ablations.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
# No output of such a cell is compared, and none is stored: training, timings, figures.
IGNORED = "nbval-ignore-output"


def environment(project):
    """The environment of every command in `project`, a copy of the suite."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "GIT_", "PYTEST", "PAPERMILL"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # The installed package points at the original tree; the copy must use its own.
        "PYTHONPATH": str(project),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(project / ".dvc/tmp/site"),
        # A user's own settings (signing, hooks) have no say here.
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def run(project, *command, check=True, **options):
    """Run a command in `project` -> CompletedProcess with its output as text."""
    print("$", *command, flush=True)
    done = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, check=False, **options
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def copy_working_tree(project):
    """What a commit of the working tree would hold, as a git repository of its own in the folder `project`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)
    run(project, "git", "init", "-q")
    commit(project, "copy")


def commit(project, message):
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", message)


def run_pipeline(project):
    """Data out of the repository's own store, then every stage with the smoke profile -> CompletedProcess."""
    run(project, "dvc", "pull", "data.dvc")
    return run(project, "dvc", "exp", "run", "-S", "profile=smoke")


def stored(notebook):
    """A notebook as it is kept: outputs of the compared cells alone, and nothing that differs from run to run."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.metadata.pop("execution", None)
        if IGNORED in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.outputs:
            if output.output_type == "error":
                raise RuntimeError(f"cell {cell.id} failed: {output.ename}: {output.evalue}")
            if "execution_count" in output:
                output.execution_count = None
    return notebook


def execute(project, path):
    """Run a notebook of `project` where Jupyter would, in its own folder -> the notebook with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env=environment(project))
    return notebook


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to write (default: all)")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        copy_working_tree(project)
        run_pipeline(project)
        for path in sorted((project / "notebooks").glob("*.ipynb")):
            if names and path.stem not in names:
                continue
            source = path.read_bytes()
            result = stored(execute(project, path))
            target = ROOT / "notebooks" / path.name
            if target.read_bytes() != source:
                raise RuntimeError(f"{target} was edited meanwhile; run this again")
            nbformat.write(result, target)
            print("wrote", target.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main()
