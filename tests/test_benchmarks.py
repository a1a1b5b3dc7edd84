"""Every benchmark of `make bench` runs at its tiny sizes; what a page may say of them is refused from such a run."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from agego_lib import params
from benchmarks import common, hard, scaling_page


@pytest.fixture(scope="module")
def results(project, tmp_path_factory):
    """Folder of all results."""
    folder = tmp_path_factory.mktemp("results")
    names = re.search(r"^BENCHMARKS \?= (.+)$", (project / "Makefile").read_text(), re.MULTILINE)[1].split()
    # One after the other in one process, as to start takes longer than most of them.
    code = (
        "import importlib, sys\n"
        "names, options = sys.argv[1].split(), sys.argv[2:]\n"
        "for name in names:\n"
        "    sys.argv = [name, *options]\n"
        "    importlib.import_module(f'benchmarks.{name}').main()\n"
    )
    options = ["--quick", "--threads", "1", "--out", str(folder)]
    command = [sys.executable, "-c", code, " ".join(names), *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # "methods" are timed at the sizes of each profile apart.
    names[names.index("methods")] = f"methods-{params.load(project / 'params.yaml').run.profile}"
    assert all(f"{name}: " in done.stdout for name in names)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(names)
    return folder


def test_results_name_machine_and_settings(results):
    for path in results.iterdir():
        result = json.loads(path.read_text())
        assert result["quick"] and result["settings"] and result["rows"], path.name
        assert result["machine"]["cores"] and result["machine"]["torch"] and result["machine"]["threads"] == 1
        for target in result["targets"]:
            assert target["met"] is (target["measured"] >= target["at_least"])


def test_growth_counts_the_frames_it_computed(results):
    rows = json.loads((results / "growth.json").read_text())["rows"]
    for row in rows:
        assert row["seconds"] > 0 and row["MB of memory, peak"] >= row["MB of memory, before"] > 0
        assert row["frames computed"] >= row["frames of the data"] // 8 * 8
    prepared = {r["frames of the data"]: r["frames computed"] for r in rows if r["stage"].startswith("preparation")}
    # A training and a test sequence of as many frames each.
    assert all(done == 2 * frames for frames, done in prepared.items())


def test_the_page_needs_a_real_run(results, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling_page, "RESULTS", results)
    with pytest.raises(SystemExit, match="--quick run, whose numbers mean nothing"):
        scaling_page.main()
    # With as much in it as a real run has, it can be written.
    for path in results.iterdir():
        content = json.loads(path.read_text()) | {"quick": False}
        (tmp_path / path.name).write_text(json.dumps(content))
    monkeypatch.setattr(scaling_page, "RESULTS", tmp_path)
    monkeypatch.setattr(scaling_page, "PAGE", tmp_path / "page.md")
    scaling_page.main()
    page = (tmp_path / "page.md").read_text()
    assert "# How the cost grows" in page and "EgoPW" in page and "nan" not in page


def test_interleaved_takes_turns_and_gives_medians(monkeypatch):
    clock, order = iter(range(1000)), []
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(clock) ** 2)
    seconds = common.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    # The clock is read once in each call that warms up, then before and after: 2^2 to 3^2, 4^2 to 5^2, and so on.
    assert seconds == {"a": 49 - 36, "b": 81 - 64}


def test_hard_compares_the_same_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hard", "--quick", "--threads=1", f"--out={tmp_path}"])
    hard.main()
    result = json.loads((tmp_path / "hard.json").read_text())
    assert [row["kind"] for row in result["rows"]] == [*hard.KINDS] * 2
    assert all(row["MPJPE (mm)"].endswith("(one person)") for row in result["rows"])  # no interval that is a point
    assert all(row["people"] == 1 and row["frames"] <= 8 for row in result["rows"])
    assert {row["its change, MPJPE"] for row in result["rows"] if row["kind"] == "plain"} == {"+0.0 (one person)"}
    parts = {part["group"] for part in result["groups"]["sceneego"]["hidden stretches"]}
    assert parts >= {"visibility", "unseen for"} and len(result["hidden_legs"]) == 12


def test_captured_counts_joints_nearer_to_somebody_else():
    rng = np.random.default_rng(0)
    poses, truth, other = rng.normal(size=(3, 6, 15, 3))
    other[2] = np.nan  # nobody else there
    count = 0
    for frame in (0, 1, 3, 4, 5):
        for j in range(15):
            own = np.linalg.norm(poses[frame, j] - truth[frame, j])
            count += any(np.linalg.norm(poses[frame, j] - other[frame, k]) < own for k in range(15))
    assert hard.captured(poses, truth, other) == pytest.approx(count / 75) and 0 < count < 75
    assert hard.captured(poses, truth, np.full_like(other, np.nan)) is None


def test_means_over_some_joints_leave_frames_without_any_out():
    values, where = np.arange(30.0).reshape(2, 15), np.zeros((2, 15), bool)
    where[0, [2, 5]] = True
    np.testing.assert_array_equal(hard.over(values, where), [3.5, np.nan])
