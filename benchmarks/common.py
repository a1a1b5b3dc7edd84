"""What all benchmarks share: the machine, variants timed in turn, peak memory, tables, and results as JSON.

Run them from the project's folder: `python -m benchmarks.NAME`, or all with `make bench`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from statistics import median

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def arguments(description, more=None):
    """The command line of a benchmark: --quick for sizes that only show that it runs, --threads, --out.

    more: adds options of its own to the parser.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its numbers mean nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON results")
    if more:
        more(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def machine():
    """The machine and the versions that a result depends on, as a dict."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return {
        "cpu": next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": next((name for name in ("avx512f", "avx2", "asimd") if name in flags), platform.machine()),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "malloc": {key: value for key, value in sorted(os.environ.items()) if key.startswith("MALLOC_")},
    }


def interleaved(variants, rounds, warm_up=1):
    """Time variants in turn, so that whatever else the machine does meets all of them alike.

    variants: dict from name to a call without arguments. Returns name -> median seconds of `rounds` calls, after
    `warm_up` untimed rounds.
    """
    seconds = {name: [] for name in variants}
    for turn in range(warm_up + rounds):
        for name, call in variants.items():
            started = time.perf_counter()
            call()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return {name: median(times) for name, times in seconds.items()}


def peak_memory_mb():
    """Peak resident memory of this process so far, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Of this program alone: Linux lets a process inherit ru_maxrss from the one that started it.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _child(pipe, threads, function, given):
    torch.set_num_threads(threads)
    before, started = peak_memory_mb(), time.perf_counter()
    try:
        result = function(*given)
        pipe.send((result, time.perf_counter() - started, peak_memory_mb(), before, None))
    except Exception as error:
        pipe.send((None, 0, 0, 0, f"{type(error).__name__}: {error}"))
        raise


def in_own_process(function, *given):
    """Call `function`, of a module, in a fresh process -> (result, seconds, peak MB, MB before the call).

    Seconds leave out the start of Python and its libraries. Raises RuntimeError where the call fails, EOFError where it
    is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agego_lib.training"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, torch.get_num_threads(), function, given))
    process.start()
    theirs.close()
    result, seconds, peak, before, error = ours.recv()
    process.join()
    if error:
        raise RuntimeError(f"{function.__name__}{given}: {error}")
    return result, seconds, peak, before


def target(what, measured, at_least):
    """One target and whether it is met."""
    return {"what": what, "measured": measured, "at_least": at_least, "met": measured >= at_least}


def shown(value):
    """A value as tables show it: three significant digits, thousands apart."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def table(rows):
    """Rows, dicts with the same keys, as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([shown(row[key]) for key in head] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(name, options, settings, rows, targets=(), **more):
    """Print a benchmark's table and targets, and write `<name>.json` with its settings and the machine."""
    print(f"\n{name}: {settings}\n\n{table(rows)}\n")
    for entry in targets:
        verdict = "met" if entry["met"] else "MISSED"
        print(f"{entry['what']}: {shown(entry['measured'])}, target at least {entry['at_least']}: {verdict}")
    content = {"quick": options.quick, "machine": machine(), "settings": settings, "rows": rows, "targets": [*targets]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(content | more, indent=2) + "\n")
