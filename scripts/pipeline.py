"""`dvc repro` with the rows of the tables side by side: python scripts/pipeline.py [STAGE ...]

Rows are the stages that DVC makes from a matrix. On a CPU they run two or more at once and share the cores: networks
this small gain little from a second core, and two of them on a core each nearly twice as much (docs/decisions.md). All
else is `dvc repro`, which also runs everything where there is one GPU.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from dvc.repo import Repo
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
# DVC's advice on git, after every stage.
ADVICE = re.compile(r"\s*$|To track the changes|\s*git add|To enable auto|\s*dvc config|Use `dvc push`|Updating lock")


def stage_graph(repo):
    """{stage: the ones it depends on} of a project, by the names that DVC shows in its folder."""

    def name(stage):
        # Its full address begins with a path where this is run from another folder.
        return getattr(stage, "name", None) or stage.addressing

    return {name(s): [name(d) for d in repo.index.graph.successors(s)] for s in repo.index.graph}


def changed(repo):
    """Names of the stages of a project that would run again, by what lies there now."""
    return {stage for stage, why in repo.status().items() if not stage.endswith(".dvc") and why != ["always changed"]}


def needs(graph, stages):
    """All stages that some stages need, {stage: the ones it depends on}, with the stages themselves, in that order."""
    found = []
    for stage in stages:
        for other in (*needs(graph, graph[stage]), stage):
            if other not in found:
                found.append(other)
    return found


def run_row(row, threads):
    """`dvc repro` of one row whose dependencies are there -> (exit code, what it printed)."""
    # Two of them may come to write dvc.lock at once: the second then waits.
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", row]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def run_rows(rows, graph, jobs, threads, run=run_row):
    """Rows, each after the rows that it needs, up to `jobs` at once -> those that failed. No more start after one."""
    failed, futures = [], {}
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(rows), desc="rows", unit="row") as progress:

        def run_one(row):
            # Submitted before this one, so that one of them always goes on.
            for other in needs(graph, [row])[:-1]:
                if other in futures:
                    futures[other].result()
            if not failed:
                started = time.monotonic()
                code, output = run(row, threads)
                if code:
                    failed.append(row)
                    progress.write(output)
                if "didn't change, skipping" not in output:
                    progress.write(f"{row}: {'failed' if code else 'done'} after {time.monotonic() - started:.0f} s")
            progress.update()

        for row in rows:
            futures[row] = pool.submit(run_one, row)
        for future in futures.values():
            future.result()
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only these and what they need (default: all)")
    parser.add_argument("--jobs", type=int, help="rows side by side (default: one a core up to 4; 1 on a GPU)")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = yaml.safe_load((ROOT / "params.yaml").read_text())["engine"]["accelerator"]
    jobs = given.jobs or (min(cores, 4) if accelerator == "cpu" else 1)

    def repro(stages, *options):
        # By name, in their order: what these need is there, and preflight, which looks each time, is not asked again.
        command = ["dvc", "repro", "--single-item", *options, *stages]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if not ADVICE.match(line):
                    print(line, end="", flush=True)
        if process.returncode:
            sys.exit(process.returncode)  # what is wrong is above

    # It says what is missing before anything is run, and finds changes of the data, which count as those of files do.
    repro(["preflight"], "--quiet")
    with Repo(ROOT) as repo:
        stale, graph = changed(repo), stage_graph(repo)
    if not stale:
        print("Data and pipelines are up to date.")
        return
    if unknown := set(given.stages) - graph.keys():
        sys.exit(f"no stage {', '.join(sorted(unknown))}; there are: {', '.join(graph)}")
    wanted = needs(graph, given.stages or [stage for stage in graph if not stage.endswith(".dvc")])
    first = [stage for stage in wanted if not any("@" in other for other in needs(graph, [stage]))]
    rows = [stage for stage in wanted if "@" in stage and jobs > 1]
    last = [stage for stage in wanted if stage not in (*first, *rows)]
    if others := [stage for stage in first if stage != "preflight"]:
        repro(others)
    if rows:
        # To ask DVC once is cheaper than to start it for every row. What came out as it was makes no row run again.
        with Repo(ROOT) as repo:
            stale = changed(repo)
        rows = [row for row in rows if stale.intersection(needs(graph, [row]))]
    if rows and (failed := run_rows(rows, graph, jobs, max(1, cores // jobs))):
        sys.exit(f"{', '.join(failed)} failed; what was printed is above")
    if last:
        repro(last)


if __name__ == "__main__":
    main()
