"""Store the notebooks' outputs anew, for maintainers: python scripts/refresh_notebooks.py [NAME ...]

After an edit of a notebook, the outputs that tests compare must be made again. The pipeline is run with the smoke
profile on a copy of the working tree, each notebook is then executed there, and the outputs of the cells that nbval
compares are written into notebooks/ and added to git's index. Nothing else of the working tree is touched. NAME limits
the notebooks that are written, for example 05_ablations.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import notebook_filter
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


class Copy:
    """What a commit of the working tree would hold, as a git repository of its own in `folder`.

    Where a copy lies there already it is taken as it is.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        # Neither an outer run of DVC, git or pytest nor a user's own switches of Python reach into the copy.
        outer = ("DVC", "GIT_", "PYTEST", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        self.environment = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # The installed package points at the original tree; the copy must use its own.
            "PYTHONPATH": str(self.folder),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/tmp/site"),
            # A user's own settings (signing, hooks) have no say here.
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        if not (self.folder / ".git").is_dir():
            self._fill()

    def _fill(self):
        command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, listed.split("\0")):
            # A file deleted and not yet committed is still listed.
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                if name.endswith(".ipynb"):
                    # As git would keep it: what a look at it in JupyterLab put there has no say.
                    notebook = nbformat.read(ROOT / name, as_version=4)
                    nbformat.write(notebook_filter.clean(notebook, notebook_filter.indexed(name)), self.folder / name)
                else:
                    shutil.copy(ROOT / name, self.folder / name)
        self.run("git", "init", "-q")
        self.commit("copy")

    def run(self, *command, check=True, within="."):
        """Run a command in a folder of the copy -> CompletedProcess with its output as text."""
        place = self.folder / within
        done = subprocess.run(command, cwd=place, env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def commit(self, message):
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", message)

    def run_pipeline(self):
        """Data and weights out of the repository, then every stage with the smoke profile -> CompletedProcess."""
        self.run("dvc", "pull", "data.dvc", "released.dvc")
        self.run("python", "scripts/configure.py", "profile=smoke")
        return self.run("python", "scripts/pipeline.py")

    def execute(self, path):
        """Run a notebook of the copy where Jupyter would, in its own folder -> the notebook with its outputs."""
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}})
        client.execute(env=self.environment)
        return notebook


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to write (default: all)")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(folder)
        print("running the pipeline ...", flush=True)
        copy.run_pipeline()
        for path in sorted((copy.folder / "notebooks").glob("*.ipynb")):
            if names and path.stem not in names:
                continue
            target = ROOT / "notebooks" / path.name
            source = target.read_bytes()
            result = notebook_filter.clean(copy.execute(path))
            if target.read_bytes() != source:
                raise RuntimeError(f"{target} was edited meanwhile; run this again")
            nbformat.write(result, target)
            # Past the filter, which would put the old outputs back.
            kept = {**os.environ, notebook_filter.KEEP: "1"}
            subprocess.run(("git", "add", str(target)), cwd=ROOT, env=kept, check=True)
            print("wrote", target.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main()
