"""scripts/pipeline.py: rows of the tables side by side, each after what it needs."""

import threading
import time

import pytest
from pipeline import needs, run_rows

GRAPH = {
    "prepare": [],
    "train": ["prepare"],
    "test": ["prepare", "train"],
    "row@a": ["prepare"],
    "row@b": ["prepare"],
    "loss@c": ["prepare"],
    "features@c": ["prepare", "loss@c"],
    "row@c": ["prepare", "loss@c", "features@c"],
    "table": ["prepare", "train", "row@a", "row@b", "row@c"],
}
ROWS = [stage for stage in GRAPH if "@" in stage]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (["test"], ["prepare", "train", "test"]),
        (["row@c"], ["prepare", "loss@c", "features@c", "row@c"]),
        (["row@b", "row@a"], ["prepare", "row@b", "row@a"]),
        ([], []),
    ],
)
def test_what_stages_need_comes_before_them(stages, expected):
    assert needs(GRAPH, stages) == expected
    everything = needs(GRAPH, ["table"])
    assert set(everything) == GRAPH.keys() - {"test"}
    assert all(everything.index(d) < everything.index(stage) for stage in everything for d in GRAPH[stage])


class Runs:
    """Stands for DVC: keeps the order of starts and ends, and how many ran at once."""

    def __init__(self, failing=()):
        self.failing, self.events, self.now, self.most, self.lock = failing, [], 0, 0, threading.Lock()

    def __call__(self, row, threads):
        with self.lock:
            self.events.append(("start", row, threads))
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
            self.events.append(("end", row, threads))
        return int(row in self.failing), f"what {row} printed"

    def place(self, what, row):
        return next(i for i, event in enumerate(self.events) if event[:2] == (what, row))


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_rows_run_side_by_side_after_what_they_need(jobs):
    runs = Runs()
    assert run_rows(ROWS, GRAPH, jobs, 3, runs) == []
    assert sorted(row for what, row, _ in runs.events if what == "end") == sorted(ROWS)
    assert runs.most == min(jobs, 3) and {threads for *_, threads in runs.events} == {3}
    for row in ROWS:
        for other in set(GRAPH[row]) & set(ROWS):
            assert runs.place("end", other) < runs.place("start", row)


def test_a_failed_row_shows_what_it_printed_and_no_more_start(capsys):
    runs = Runs(failing=["loss@c"])
    assert run_rows(ROWS[2:], GRAPH, 2, 1, runs) == ["loss@c"]
    assert {row for _, row, _ in runs.events} == {"loss@c"}
    shown = "".join(capsys.readouterr())
    assert "what loss@c printed" in shown and "loss@c: failed after" in shown
