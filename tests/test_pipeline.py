"""The pipeline, run for real on a copy of the working tree: what it writes, and what makes it run again."""

import itertools
import json
import math
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from configure import composed
from dvc.repo import Repo
from pipeline import needs, stage_graph

pytest_plugins = ("clone",)

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def running(output):
    """Names of the stages that a `dvc repro` or scripts/pipeline.py ran, or with --dry would run."""
    return {a or b for a, b in re.findall(r"^Running stage '(.+?)'|^(\S+@\S+): done after", output, re.MULTILINE)}


def numbers(tree, path=""):
    """(dotted key, value) of every leaf."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from numbers(value, f"{path}.{key}" if path else key)
    else:
        yield path, tree


def expanded():
    """Every stage by the name that DVC shows, a matrix written out with the smoke profile's lists, and its items."""
    ablation = composed(ROOT, {"profile": "smoke"})["ablation"]
    for name, stage in STAGES.items():
        matrix = {
            key: ablation[re.fullmatch(r"\$\{ablation\.(\w+)\}", v)[1]] for key, v in stage.get("matrix", {}).items()
        }
        for values in itertools.product(*matrix.values()):
            items = dict(zip(matrix, values, strict=True))
            yield name + "".join(f"@{'-'.join(map(str, values))}" for _ in values[:1]), stage, items


NAMES = {name for name, _, _ in expanded()}
# The stages that train poses or baselines from scratch, with the settings of `pose`.
ROWS = {
    name for name in NAMES if name.split("@")[0] in ("ablate", "reseed", "ablate_loss", "baseline", "reseed_baseline")
}


def outputs(kind):
    """Every `outs`, `metrics` or `plots` path of dvc.yaml, the matrices written out."""
    for _, stage, items in expanded():
        for entry in stage.get(kind, []):
            path = entry if isinstance(entry, str) else next(iter(entry))
            for key, value in items.items():
                path = path.replace(f"${{item.{key}}}", str(value))
            yield path


def dvc_json(clone, *command):
    return json.loads(clone.run("dvc", *command, "--json").stdout)


def test_every_stage_runs(smoke_run):
    copy, output = smoke_run
    # Of preflight it shows what it found.
    assert running(output) | {"preflight"} == NAMES and "this working copy runs dataset=synthetic" in output
    # Every kind of row is tried.
    assert {name.split("@")[0] for name in NAMES} == set(STAGES)
    for kind in ("outs", "metrics", "plots"):
        for path in outputs(kind):
            assert (copy.folder / path).exists(), f"{path} was not written"


def test_each_metrics_file_has_its_manifest(clone):
    before = clone.run("git", "rev-parse", "HEAD~1").stdout.strip()
    assert set(clone.manifests) == {str(Path(path).with_suffix(".run.json")) for path in outputs("metrics")}
    for path, text in clone.manifests.items():
        run = json.loads(text)
        # Run before its own outcome was committed.
        assert run["code"]["commit"] == before and run["settings"]["window"], path
        assert set(run["code"]["dirty"]) <= {"params.yaml"} and run["data"]["egopw"], path
    assert ".run.json" not in clone.run("git", "status", "--porcelain", "-uall").stdout


def test_copy_runs_its_own_library(clone):
    done = clone.run("python", "-c", "import agego_lib; print(agego_lib.__file__)", within="notebooks")
    assert Path(done.stdout.strip()).is_relative_to(clone.folder)


def test_metrics_are_finite_and_in_millimetres(clone):
    shown = {file: entry["data"] for file, entry in dvc_json(clone, "metrics", "show")[""]["data"].items()}
    assert set(shown) == set(outputs("metrics"))
    values = {f"{file}:{key}": v for file, data in shown.items() for key, v in numbers(data)}
    assert not {k: v for k, v in values.items() if not (isinstance(v, int | float) and math.isfinite(v))}
    errors = {k: v for k, v in values.items() if k.endswith("mpjpe_mm")}
    # Metres would be below 5, and nobody is five metres tall.
    assert errors and all(5 < v < 5000 for v in errors.values()), errors
    for stage in ("pose", "finetune", "evaluation", "ablations"):
        assert any(k.startswith(f"metrics/{stage}.json:") and k.endswith("mpjpe_mm") for k in errors), stage


def test_executed_notebooks_hold_no_error(clone):
    reports = sorted((clone.folder / "reports").glob("*.ipynb"))
    assert {f"reports/{r.name}" for r in reports} == {o for o in outputs("outs") if o.endswith(".ipynb")}
    for report in reports:
        notebook = nbformat.read(report, as_version=4)
        cells = [c for c in notebook.cells if c.cell_type == "code"]
        assert all(c.execution_count for c in cells), f"{report.name}: a cell did not run"
        assert not [o for c in cells for o in c.outputs if o.output_type == "error"], report.name


def test_nothing_is_left_to_go_on_from(smoke_run):
    assert not [p for p in (smoke_run[0].folder / "artifacts/checkpoints").rglob("*") if p.is_file()]


def test_entry_point_trains_what_the_notebook_trains(clone):
    """What `python -m agego_lib.train` does: the same weights and test poses, to the last bit, and the same curves."""
    runs, before = ("heatmap", "motion", "pose", "finetune", "no_motion"), {}
    for run in runs:
        place = f"ablate/{run}" if run == "no_motion" else run
        folders = clone.folder / "artifacts" / place, clone.folder / "plots" / place
        kept = [*folders[0].glob("*.*"), *(path for folder in folders for path in folder.rglob("*.tsv"))]
        before |= {path: path.read_bytes() for path in kept}
        assert {path.suffix for path in kept} >= {".safetensors", ".json", ".tsv"}, run
        # Each starts from what the one before has left.
        for path in kept:
            path.unlink()
        clone.run("python", "-m", "agego_lib.train", run)
    for path, content in before.items():
        assert path.read_bytes() == content, path
    assert not [p for p in (clone.folder / "artifacts/checkpoints").rglob("*") if p.is_file()]


def test_second_run_has_nothing_to_do(clone):
    # As another version of Python would leave it in a folder that stages depend on.
    bytecode = clone.folder / "agego_lib/models/__pycache__/pose.cpython-399.pyc"
    bytecode.parent.mkdir(exist_ok=True)
    bytecode.write_bytes(b"")
    # The look at what is outside of the project is taken each time.
    assert running(clone.run("dvc", "repro").stdout) == {"preflight"}
    done = clone.run("python", "scripts/pipeline.py")
    assert "Data and pipelines are up to date." in done.stdout
    assert not running(done.stdout + done.stderr)


def test_saving_notebooks_and_mending_prose_trains_nothing(clone):
    for path in (clone.folder / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.kernelspec.display_name = "Another Python"
        notebook.metadata.language_info = {"name": "python", "version": "3.99", "file_extension": ".py"}
        notebook.metadata["papermill"] = {"duration": 1.0}
        for number, cell in enumerate(notebook.cells, 1):
            cell.metadata["collapsed"] = False
            if cell.cell_type == "markdown":
                cell.source += "\n\nOne more sentence."
            else:
                cell.execution_count = number
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="something else\n")]
        nbformat.write(notebook, path)
    done = clone.run("dvc", "repro")
    assert running(done.stdout) == {"preflight", "code"}


@pytest.mark.parametrize(
    ("section", "key", "value", "stale"),
    [
        ("pose", "epochs", 7, {"pose", "finetune", "evaluate", "ablations", *ROWS}),
        # The mean pose and the nearest one know no epochs, but their stage does not know that.
        ("finetune", "epochs", 7, {"finetune", "evaluate", "ablations", *ROWS}),
        ("evaluate", "pck_share", 0.1, {"heatmap", "heatmap_loss@mse", *NAMES} - {"preflight", "code", "prepare"}),
    ],
)
def test_one_changed_setting_reruns_what_depends_on_it(clone, section, key, value, stale):
    settings = yaml.safe_load((clone.folder / "params.yaml").read_text())
    settings[section][key] = value
    (clone.folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    changed = {stage for stage, why in dvc_json(clone, "status").items() if why != ["always changed"]}
    with Repo(clone.folder) as repo:
        graph = stage_graph(repo)
    assert changed and {stage for stage in graph if changed & set(needs(graph, [stage]))} == stale


def test_wrong_setting_is_named_before_anything_runs(clone):
    settings = yaml.safe_load((clone.folder / "params.yaml").read_text())
    settings["pose"]["epochs"] = -1
    (clone.folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for command in (("dvc", "repro"), ("python", "scripts/pipeline.py")):
        done = clone.run(*command, check=False)
        assert done.returncode and not running(done.stdout + done.stderr) - {"preflight", "code"}
        error = "SettingsError: params.yaml: pose.epochs is -1; expected a whole number at least 1"
        assert error in done.stdout + done.stderr


def test_failed_stage_is_named_and_mended_it_runs_alone(clone):
    path = clone.folder / "notebooks/05_ablations.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("raise ValueError('a fault')"))
    nbformat.write(notebook, path)
    done = clone.run("python", "scripts/pipeline.py", check=False)
    assert done.returncode
    for line in ("ValueError: a fault", "[traceback: reports/05_ablations.ipynb]", "failed to reproduce 'ablations'"):
        assert line in done.stdout + done.stderr
    report = nbformat.read(clone.folder / "reports/05_ablations.ipynb", as_version=4)
    failures = [o for c in report.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert [f.ename for f in failures] == ["ValueError"]

    # Changed code runs its own stage alone.
    notebook.cells[0].source = "print('one more line')"
    nbformat.write(notebook, path)
    done = clone.run("python", "scripts/pipeline.py")
    assert running(done.stdout + done.stderr) == {"code", "ablations"}
    assert "one more line" in (clone.folder / "reports/05_ablations.ipynb").read_text()


def test_metrics_diff(clone):
    path = clone.folder / "metrics/pose.json"
    data = json.loads(path.read_text())
    data["egopw"]["mpjpe_mm"] += 1
    path.write_text(json.dumps(data))
    diff = dvc_json(clone, "metrics", "diff")
    assert set(diff) == {"metrics/pose.json"}
    assert diff["metrics/pose.json"]["egopw.mpjpe_mm"]["diff"] == pytest.approx(1)


def test_experiment_is_kept(clone):
    done = clone.run("dvc", "exp", "run", "-S", "pose.epochs=1")
    assert running(done.stdout) == {"preflight"}
    table = dvc_json(clone, "exp", "show")
    kept = [rev["data"] for state in table for exp in state["experiments"] or [] for rev in exp["revs"]]
    workspace = next(state["data"] for state in table if state["rev"] == "workspace")
    assert len(kept) == 1
    for found in (kept[0], workspace):
        assert found["params"]["params.yaml"]["data"]["pose"]["epochs"] == 1
    assert kept[0]["metrics"] == workspace["metrics"]


def test_plots_show_curves_and_joint_errors(clone):
    clone.run("dvc", "plots", "show", "--out", "shown")
    page = (clone.folder / "shown/index.html").read_text()
    for name in ("plots/joint_error.csv", "left_ankle", "position.tsv"):
        assert name in page, f"{name} is not among the plots"
    clone.run("dvc", "plots", "diff", "HEAD", "--out", "compared")
    assert "plots/joint_error.csv" in (clone.folder / "compared/index.html").read_text()
