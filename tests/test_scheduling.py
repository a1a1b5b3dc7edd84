"""scripts/pipeline.py: which stages run, in what order and how many at once, and the line about one that failed."""

import random
import threading
import time

import nbformat
import pipeline
import pytest
from pipeline import Graph, run_stages

DOT = """strict digraph {
"data.dvc";
"prepare";
"train";
"test";
"row@a";
"row@b";
"table";
"data.dvc" -> "prepare";
"prepare" -> "train";
"prepare" -> "row@a";
"prepare" -> "row@b";
"train" -> "test";
"row@a" -> "table";
"row@b" -> "table";
"test" -> "table";
}
"""
BEFORE = {
    "prepare": set(),
    "train": {"prepare"},
    "test": {"prepare", "train"},
    "row@a": {"prepare"},
    "row@b": {"prepare"},
    "table": {"prepare", "train", "test", "row@a", "row@b"},
}


@pytest.mark.parametrize(
    ("changed", "targets", "pending"),
    [
        ([], [], ""),
        (["data.dvc"], [], "prepare train test row@a row@b table"),
        (["test"], [], "test table"),
        (["row@b", "test"], [], "test row@b table"),
        (["prepare"], ["test"], "prepare train test"),
        (["row@b"], ["test"], ""),
        (["a stage of another graph"], [], ""),
    ],
)
def test_what_changed_and_what_follows_is_pending(changed, targets, pending):
    assert Graph(DOT, {stage: ["changed"] for stage in changed}).pending(targets) == pending.split()


def test_what_always_runs_makes_nothing_else_run():
    assert Graph(DOT, {"prepare": ["always changed"]}).pending() == []
    assert Graph(DOT, {"prepare": ["always changed", {"changed deps": {}}]}).pending()[0] == "prepare"


class Runs:
    """Stands for DVC: keeps the order of starts and ends, and what ran with how many threads."""

    def __init__(self, failing=()):
        self.failing, self.events, self.threads, self.lock = failing, [], {}, threading.Lock()
        self.draw = random.Random(0)

    def __call__(self, stage, threads, screen):
        with self.lock:
            self.events.append(("start", stage))
            self.threads[stage] = threads
        time.sleep(self.draw.uniform(0.001, 0.02))
        with self.lock:
            self.events.append(("end", stage))
        return 255 if stage in self.failing else 0

    def check(self, jobs):
        """Nothing starts before what it needs has ended, and never more than `jobs` run -> most that ran at once."""
        ended, running, most = set(), set(), 0
        for what, stage in self.events:
            if what == "start":
                assert BEFORE[stage] <= ended
                # A stage that is no row has the machine to itself.
                assert not running or all("@" in s for s in (stage, *running))
                running.add(stage)
            else:
                running.remove(stage)
                ended.add(stage)
            most = max(most, len(running))
        assert most <= jobs
        return most


@pytest.mark.parametrize("jobs", [1, 2, 3, 8])
def test_every_stage_runs_once_after_what_it_needs(jobs):
    runs = Runs()
    assert run_stages(Graph(DOT, {"prepare": []}), [], jobs, cores=4, start=runs)
    assert runs.check(jobs) == min(jobs, 2)
    assert sorted(stage for what, stage in runs.events if what == "start") == sorted(BEFORE)
    shared = max(1, 4 // jobs)
    assert runs.threads == {s: shared if "@" in s else None for s in BEFORE}
    assert runs.events.index(("end", "test")) < runs.events.index(("start", "row@a")), "rows come last"


def test_a_failure_lets_others_end_and_starts_no_more():
    runs = Runs(failing=["row@a"])
    assert not run_stages(Graph(DOT, {"prepare": []}), [], 2, cores=2, start=runs)
    started = {stage for what, stage in runs.events if what == "start"}
    assert started == {*BEFORE} - {"table"}
    assert {stage for what, stage in runs.events if what == "end"} == started
    runs = Runs(failing=["train"])
    assert not run_stages(Graph(DOT, {"prepare": []}), [], 2, cores=2, start=runs)
    assert {stage for _, stage in runs.events} == {"prepare", "train"}


def test_nothing_to_do_is_said(capsys):
    assert run_stages(Graph(DOT, {}), [], 2, cores=2, start=None)
    assert "up to date" in capsys.readouterr().out


def test_lines_have_their_stage_and_bars_are_shown_together(capsys):
    screen = pipeline.Screen()
    screen.line("train", "Running stage 'train':")
    for advice in ("To track the changes with git, run:", "\tgit add dvc.lock", "Updating lock file 'dvc.lock'"):
        screen.line("train", advice)
    screen.drawn = time.monotonic()
    screen.line("row@a", "row:   3%|=         | 3/100 [00:01<00:30,  3.00step/s]")
    screen.drawn = float("-inf")
    screen.line("train", "3D pose:  45%|====      | 45/100 [00:09<00:11,  5.00step/s, loss=1.2]")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[train] Running stage 'train':"
    bars = "[row@a] row: 3% 3/100 [00:01<00:30, 3.00step/s]   "
    assert lines[1:] == [bars + "[train] 3D pose: 45% 45/100 [00:09<00:11, 5.00step/s, loss=1.2]"]


def executed(*statuses, error=None):
    cells = []
    for number, status in enumerate(statuses):
        cell = nbformat.v4.new_code_cell("x", metadata={"papermill": {"status": status}}, execution_count=number)
        if status == "failed":
            cell.outputs = [
                nbformat.v4.new_output("error", ename="TrainingError", evalue=error, traceback=["...", "..."])
            ]
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), *cells])


@pytest.mark.parametrize(
    ("report", "stage"),
    [
        ("03_pose_finetuning", "finetune"),
        ("ablate_no_motion", "ablate@no_motion"),
        ("ablate_no_motion-2", "reseed@no_motion-2"),
        ("ablate_heatmap_mse", "ablate_loss@mse"),
        ("02_heatmap_training", "heatmap"),
        ("baseline_nearest", "baseline@nearest"),
    ],
)
def test_the_line_names_stage_error_and_report(project, tmp_path, report, stage):
    (tmp_path / "reports").mkdir()
    (tmp_path / "dvc.yaml").write_text((project / "dvc.yaml").read_text())
    nbformat.write(executed("completed", "completed"), tmp_path / "reports/01_data_preparation.ipynb")
    path = tmp_path / f"reports/{report}.ipynb"
    since = path.parent.stat().st_mtime - 1
    nbformat.write(executed("completed", "completed"), path)
    assert pipeline.last_failure(tmp_path, since) is None
    nbformat.write(executed("completed", "failed", "pending", error="loss nan\nat step 3"), path)
    line = f"stage '{stage}' failed: TrainingError: loss nan at step 3 [traceback: reports/{report}.ipynb]"
    assert pipeline.last_failure(tmp_path, since) == line
    assert pipeline.last_failure(tmp_path, since + 1e6) is None, "a failure of an earlier run"
    nbformat.write(executed("completed", "running", "pending"), path)
    assert "it was killed before it ended" in pipeline.last_failure(tmp_path, since)
