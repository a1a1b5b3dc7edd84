"""dvc.yaml against the code: a stage depends on every file of agego_lib that its results come from.

A file left out is the pipeline's worst fault: it is edited, `dvc repro` finds nothing to do, and the old numbers stay.
"""

import ast
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# Settings are dependencies of their own; drawing, progress and how files are written or refused change no number.
HARMLESS = {"diagram", "files", "params", "plots", "progress", "training_log", "write_metrics"}
# 01 draws one joint's map, which is not worth preparing real data again.
ONLY_DRAWN = {"prepare": {"agego_lib/heatmaps.py"}}


def module_file(name):
    path = ROOT / name.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def read(path):
    """A module or notebook -> (its tree, name -> statements that define it, name -> (module, name) it comes from)."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        tree = ast.parse("\n".join(c.source for c in cells if c.cell_type == "code"))
    else:
        tree = ast.parse(path.read_text())
    package, imported, defined = path.relative_to(ROOT).parent.parts, {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            if module.split(".")[0] == "agego_lib":
                imported |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
    for statement in tree.body:
        stored = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for name in {statement.name} if hasattr(statement, "name") else stored:
            defined.setdefault(name, []).append(statement)
    return tree, defined, imported


def follow(path, statements, seen):
    """Add to `seen` every (file, name) of the library that these statements of `path` use, directly or not."""
    _, defined, imported = read(path)
    for name in {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name)}:
        if name in defined and (path, name) not in seen:
            seen.add((path, name))
            follow(path, defined[name], seen)
        elif name in imported:
            take(*imported[name], seen)


def take(module, name, seen):
    whole = module_file(f"{module}.{name}")
    path = whole or module_file(module)
    if {name, path.stem} & HARMLESS or (path, name) in seen:
        return
    if whole:
        seen.add((path, name))
        follow(path, [read(path)[0]], seen)
    elif name in read(path)[1]:
        seen.add((path, name))
        follow(path, read(path)[1][name], seen)
    else:
        # A package passes it on.
        take(*read(path)[2][name], seen)


def used_by(notebook):
    seen = set()
    follow(notebook, [read(notebook)[0]], seen)
    return {path.relative_to(ROOT) for path, _ in seen if path != notebook}


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in ("preflight", "code")])
def test_stage_depends_on_what_it_uses(stage):
    notebook = re.search(r"run_notebook\.py (\S+)", STAGES[stage]["cmd"])[1]
    used = used_by(ROOT / f"notebooks/{notebook}.ipynb")
    missing = {str(path) for path in used if not any(path.is_relative_to(dep) for dep in STAGES[stage]["deps"])}
    assert missing == ONLY_DRAWN.get(stage, set())


def test_use_is_followed_through_packages_and_functions():
    found = {str(path) for path in used_by(ROOT / "notebooks/02_heatmap_training.ipynb")}
    # HeatmapNet comes from agego_lib.models; its encoder is known to heatmap.py alone.
    assert {"agego_lib/models/heatmap.py", "agego_lib/models/backbone.py", "agego_lib/losses.py"} <= found
    # PoseObjective, which needs no part of this stage, lies in the same file as HeatmapObjective.
    assert "agego_lib/models/pose.py" not in found
