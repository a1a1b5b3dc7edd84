"""Run the pipeline, rows of its tables side by side: python scripts/pipeline.py [STAGE ...]

Each stage is `dvc repro` of that stage alone, once all that it needs is there. Rows of a matrix share the cores between
them: networks this small gain little from a second core, and two of them on a core each nearly twice as much. Any other
stage has the machine to itself, and comes before rows. Should a stage fail, what runs is finished, and the last line
names the stage, the error, and the executed notebook, which holds the traceback.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROGRESS = re.compile(r"\d+%\|")  # of a line that tqdm writes over and over
# DVC's advice on git, once a stage, and what it is about to do.
ADVICE = re.compile(r"To track the changes|\s*git add|To enable auto|\s*dvc config|Use `dvc push`|Updating lock")


def stage_of(report, stages):
    """Name, as DVC shows it, of the stage whose command writes the executed notebook `report`."""
    found = []
    for name, stage in stages.items():
        # A stage of a matrix: ${item.row} in its command stands for a part of the name.
        notebook = re.search(r"run_notebook\.py \S+ (\S+)", stage["cmd"])
        words = [re.escape(word) for word in re.split(r"\$\{item\.\w+\}", notebook[1])] if notebook else []
        if match := re.fullmatch("([^/]+?)".join(words), report):
            items = "-".join(match.groups())
            found.append((len("".join(match.groups())), f"{name}@{items}" if items else name))
    return min(found)[1] if found else "unknown"  # the fewest letters left open


def failure(report):
    """What went wrong in an executed notebook, in a few words, or None where all of it ran."""
    notebook = nbformat.read(report, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                return " ".join(f"{output.ename}: {output.evalue}".split())
    ended = all(cell.metadata.get("papermill", {}).get("status") == "completed" for cell in cells)
    return None if ended else "it was killed before it ended"


def last_failure(root, since):
    """The line about the newest report, written after `since` (seconds of the epoch), that did not end; or None."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    for path in sorted((root / "reports").glob("*.ipynb"), key=lambda p: p.stat().st_mtime, reverse=True):
        if path.stat().st_mtime >= since and (error := failure(path)):
            report = path.relative_to(root).as_posix()
            return f"stage '{stage_of(path.stem, stages)}' failed: {error} [traceback: {report}]"
    return None


def reach(edges, starts):
    """All that can be reached from `starts` along `edges`, {node: its next ones}, with the starts themselves."""
    found, todo = set(), list(starts)
    while todo:
        if (node := todo.pop()) not in found:
            found.add(node)
            todo += edges.get(node, ())
    return found


class Graph:
    """Stages in the order of dvc.yaml, from what `dvc dag --dot` and `dvc status --json` print."""

    def __init__(self, dot, status):
        self.before, self.after = {}, {}
        for stage in re.findall(r'^"([^"]+)";', dot, re.MULTILINE):
            self.before[stage], self.after[stage] = [], []
        for stage, next_one in re.findall(r'"([^"]+)" -> "([^"]+)"', dot):
            self.before[next_one].append(stage)
            self.after[stage].append(next_one)
        # What looks at the world outside each time has looked already.
        self.changed = {stage for stage, why in status.items() if why != ["always changed"]}

    def pending(self, targets=()):
        """Stages to be run: changed ones and all that follows from them; only what `targets` need, if there are any."""
        needed = reach(self.before, targets or self.before)
        stale = reach(self.after, self.changed & self.before.keys())
        # Data files tracked by themselves (data.dvc) are not stages.
        return [stage for stage in self.before if stage in needed & stale and not stage.endswith(".dvc")]


class Screen:
    """What stages print, each line under its stage's name, and the bars of all of them in one line at the bottom."""

    def __init__(self):
        self.bars, self.lock, self.drawn, self.live = {}, threading.Lock(), 0.0, sys.stderr.isatty()

    def line(self, stage, text):
        with self.lock:
            if PROGRESS.search(text):
                self.bars[stage] = " ".join(re.sub(r"\|.*?\|", "", text, count=1).split())
                # A log that is no terminal gets a line a minute.
                if time.monotonic() - self.drawn > (0.5 if self.live else 60):
                    self.drawn = time.monotonic()
                    shown = "   ".join(f"[{name}] {bar}" for name, bar in self.bars.items())
                    text, end = (f"\r\033[K{shown[:200]}", "") if self.live else (shown, "\n")
                    print(text, end=end, file=sys.stderr, flush=True)
            elif text.strip() and not ADVICE.match(text):
                print("\r\033[K" * self.live + f"[{stage}] {text}", file=sys.stderr, flush=True)

    def end(self, stage):
        with self.lock:
            self.bars.pop(stage, None)


def run_stage(stage, threads, screen):
    """`dvc repro` of one stage -> its exit code."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    # Two of them may come to write dvc.lock at once: the second then waits.
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for text in process.stdout:  # a carriage return ends a line too
            screen.line(stage, text.rstrip())
    screen.end(stage)
    screen.line(stage, f"{'failed' if process.returncode else 'done'} after {time.monotonic() - started:.0f} s")
    return process.returncode


def is_row(stage):
    """Whether DVC made this stage from a matrix."""
    return "@" in stage


def startable(graph, waiting, running, jobs):
    """Which of the `waiting` stages may start beside the `running` ones."""
    ready = [s for s in waiting if reach(graph.before, [s]).isdisjoint({*waiting, *running} - {s})]
    single = [s for s in ready if not is_row(s)]
    if single:
        return [] if running else single[:1]
    if not all(map(is_row, running)):
        return []
    # Those that most others wait for come first.
    return sorted(ready, key=lambda s: -len(reach(graph.after, [s])))[: jobs - len(running)]


def run_stages(graph, targets, jobs, cores, start=run_stage):
    """Run what is pending, up to `jobs` rows side by side -> whether all of it went well."""
    waiting, running, well, screen = graph.pending(targets), {}, True, Screen()
    if not waiting:
        print("Data and pipelines are up to date.")
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for stage in startable(graph, waiting, [*running.values()], jobs) if well else []:
                # By the stage, not by what happens to run: numbers depend on how many threads add them up.
                threads = max(1, cores // jobs) if is_row(stage) else None
                running[pool.submit(start, stage, threads, screen)] = stage
                waiting.remove(stage)
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                well &= done.result() == 0
                del running[done]
    return well


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only these and what they need (default: all)")
    parser.add_argument("--jobs", type=int, help="rows side by side (default: one a core up to 4; 1 on a GPU)")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = yaml.safe_load((ROOT / "params.yaml").read_text())["engine"]["accelerator"]
    jobs = arguments.jobs or (min(cores, 4) if accelerator == "cpu" else 1)

    def dvc(*command):
        done = subprocess.run(["dvc", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(done.returncode)  # DVC has said why
        return done.stdout

    # It says what is missing before anything is run, and finds changes of the data, which count as those of files do.
    if subprocess.run(["dvc", "repro", "--quiet", "--single-item", "preflight"], cwd=ROOT, check=False).returncode:
        sys.exit("nothing has been run; what is missing is above")
    graph = Graph(dvc("dag", "--dot"), json.loads(dvc("status", "--json")))
    if unknown := set(arguments.stages) - graph.before.keys():
        sys.exit(f"no stage {', '.join(sorted(unknown))}; there are: {', '.join(graph.before)}")
    since = time.time() - 1  # file systems may round down
    if not run_stages(graph, arguments.stages, jobs, cores):
        sys.exit(last_failure(ROOT, since) or "a stage failed; what it said is above")


if __name__ == "__main__":
    main()
