"""Imports run one way: the method imports no other room, rooms only those below, the library nothing beside it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "agego_lib"
# From the ground up: a room imports those before it, and modules of the method.
ROOMS = ("models", "datasets", "evaluation", "baselines", "training", "preflight")
BESIDE = ("agego_data", "agego_video", "agego_view")
# Commands, which open what lies above.
DOORS = {"agego_lib.train", "agego_lib.evaluate", "agego_lib.predict", "agego_lib.live", "agego_lib.camera.__main__"}
HEAVY = {"jupyter", "IPython", "ipywidgets", "dvc", "hydra", "omegaconf", "plotly", "papermill", "pandas"}


def modules(folder):
    """(dotted name, file) of every module in a package's folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imported(name, path):
    """Dotted names of the modules that a module imports."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                whole = ROOT / Path(*module.split("."), alias.name)
                yield f"{module}.{alias.name}" if whole.is_dir() or whole.with_suffix(".py").is_file() else module


def room(name):
    """The room of a module of the library; "method" for those that lie in none."""
    part = name.split(".")[1] if "." in name else ""
    return part if part in ROOMS else "method"


MODULES = [*modules("agego_lib")]


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_run_one_way(name, path):
    allowed = {"method", *ROOMS[: ROOMS.index(room(name)) + 1]} if room(name) in ROOMS else {"method"}
    found = {other for other in imported(name, path) if other.split(".")[0] in ("agego_lib", *BESIDE)}
    if name not in DOORS:
        assert {room(other) for other in found if other.startswith("agego_lib")} <= allowed
        assert not {other for other in found if other.split(".")[0] in BESIDE}
    assert not {other.split(".")[0] for other in imported(name, path)} & HEAVY


def test_video_needs_no_notebook_and_the_renderer_no_network():
    for folder, refused in (("agego_video", HEAVY), ("agego_data", HEAVY | {"torch"})):
        for name, path in modules(folder):
            assert not {other.split(".")[0] for other in imported(name, path)} & refused, name


def test_no_notebook_is_imported_and_each_room_says_what_it_is():
    for folder in ("agego_lib", *BESIDE):
        for name, path in modules(folder):
            assert ast.get_docstring(ast.parse(path.read_text())), f"{name} does not say what it is"


def test_an_environment_behind_a_link_is_left_alone(tmp_path):
    """`venv --clear` follows links: it would empty somebody else's."""
    theirs, here = tmp_path / "theirs", tmp_path / "clone"
    theirs.mkdir()
    (theirs / "kept").touch()
    here.mkdir()
    (here / ".venv").symlink_to(theirs)
    (here / "requirements.lock").touch()
    command = ["make", "-f", str(ROOT / "Makefile"), "PYTHON=python-that-is-nowhere", ".venv/installed"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode and ".venv is a link" in done.stderr and (theirs / "kept").exists()
    # And without one it goes on to make it.
    (here / ".venv").unlink()
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert "is a link" not in done.stderr and "python-that-is-nowhere" in done.stderr


def test_threads_of_commands_wait_as_long_as_make_says():
    makefile = re.search(r"export GOMP_SPINCOUNT \?= (\d+)", (ROOT / "Makefile").read_text())[1]

    def heard(given):
        """What OpenMP itself says that it was told."""
        environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT), **given}
        run = [sys.executable, "-c", "import agego_lib.live"]
        said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stderr
        return set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", said))

    assert heard({}) == {makefile}
    assert heard({"GOMP_SPINCOUNT": "5"}) == {"5"}


COMMANDS = [p for folder in ("scripts", "benchmarks", "agego_lib") for p in sorted((ROOT / folder).rglob("*.py"))]
COMMANDS = [path for path in COMMANDS if 'if __name__ == "__main__":' in path.read_text()]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_answer_help_and_refuse_what_they_do_not_know(path):
    """Nothing may run, and write, because somebody asked what it does: a parser is called, here or in its `main`."""
    texts = [path.read_text()]
    if "argparse" not in texts[0]:  # a door to what lies beside the library
        files = [(ROOT / Path(*name.split("."))).with_suffix(".py") for name in imported("", path)]
        texts += [file.read_text() for file in files if file.is_file()]
    called = r"\.parse_args\(|\barguments\(__doc__"
    # Git calls this one, with a file's name.
    assert path.name == "notebook_filter.py" or any(re.search(called, text) for text in texts)
