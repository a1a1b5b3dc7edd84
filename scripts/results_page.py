"""Write docs/results.md from what the pipeline left, for maintainers: python scripts/results_page.py

Run after `make tables`, on the machine that ran it: the page names the machine and the versions, as
`metrics/evaluation.run.json` has them.
"""

import json
from pathlib import Path

from agego_lib import params
from agego_lib.datasets import TITLES, read_prepared
from agego_lib.evaluation import HEADLINE
from agego_lib.evaluation.complexity import complexity
from agego_lib.files import replacing
from agego_view import paper
from agego_view.tables import (
    compare,
    data_name,
    load_results,
    measured_on,
    methods_table,
    pairs_table,
    run_names,
    seed_table,
    tables,
    windows,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results.md"
# Where README has its table of methods.
START, END = "<!-- methods: written by scripts/results_page.py -->\n", "<!-- end of methods -->\n"


def markdown(rows):
    """A list of dicts as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([row[key] for key in rows[0]] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


class PageError(ValueError):
    """A page that cannot be written; the message names the file and says what to do."""


def put(page, start, end, rows):
    """Put a table between two marks of a page. Raises PageError where they are not there."""
    text = page.read_text()
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise PageError(f"{page}: no place for figures; expected the lines {start.strip()!r} and {end.strip()!r}")
    before, after = text.split(start)[0], text.split(end)[1]
    with replacing(page) as partial:
        partial.write_text(f"{before}{start}\n{markdown(rows)}\n{end}{after}")


def in_short(rows, data):
    """The columns of `methods_table` that README has room for."""
    pairs = [(title, metric) for title in TITLES.values() for metric in ("MPJPE", "PA-MPJPE")]
    kept = {
        "method": "method", "frames": "frames seen", "parameters (M)": "parameters (M)",
        "MAC (M)": "multiply-accumulates (M)", "frames a second": "frames a second",
    }  # fmt: skip
    found = []
    for row in rows:
        ours = {f"{title}, {metric}": row[f"ours, {data}, {title}: {metric} (mm)"] for title, metric in pairs}
        there = " / ".join(str(row[f"published, real {title}: {metric} (mm)"]) for title, metric in pairs)
        found.append({key: row[name] for key, name in kept.items()} | ours | {"published, real data": there})
    return found


def protocol(evaluation, settings):
    """Tables 1 and 2 from metrics/evaluation.json."""
    data = data_name(settings)
    labels = {"egopw": "EgoPW", "transfer": "SceneEgo, not fine-tuned", "sceneego": "SceneEgo, fine-tuned"}
    rows = []
    for name, label in labels.items():
        # The paper has no BA-MPJPE.
        for (key, title), published in zip(
            HEADLINE.items(), (*paper.RESULTS.get(name, (None, None)), None), strict=True
        ):
            n, metric = evaluation[name], f"{key}_mm"
            low, high = n["interval_95"][metric].values()
            # The file has two decimals, of which a 5 goes up as it did there.
            ours, mean = n[metric] + 1e-6, n["mean_pose"][metric] + 1e-6
            rows.append(
                {
                    "tested on": label,
                    "metric (mm)": title,
                    f"ours, {data}": f"{ours:.1f} ({low:.1f} to {high:.1f})",
                    f"mean pose, {data}": f"{mean:.1f}",
                    "below it": f"{1 - ours / mean:.0%}",
                    "paper, real data": published or "–",
                    "to fill the gap": paper.gap(settings, name) if published else "",
                }
            )
    return rows


def main():
    settings = params.load(ROOT / "params.yaml")
    tests = {n: read_prepared(ROOT / "artifacts/prepared" / n, "test") for n in ("egopw", "sceneego")}
    results = load_results(ROOT, settings, tests)
    evaluation = json.loads((ROOT / "metrics/evaluation.json").read_text())
    run = json.loads((ROOT / "metrics/evaluation.run.json").read_text())
    machine = run["machine"]
    rows = [ROOT / f"metrics/ablate/{name}.run.json" for name in run_names(settings.ablation)]
    codes = [run["code"], *(json.loads(path.read_text())["code"] for path in rows)]
    commits = [f"{c['commit'][:7]}{' with changes' * bool(c['dirty'])}" if c["commit"] else "unknown" for c in codes]
    methods = methods_table(results, ROOT, settings)
    made = {name: markdown(compare(results, *rows, settings)) for name, rows in tables(settings).items()}
    parts = [
        "# Results\n",
        f"Measured at {', '.join(dict.fromkeys(commits))}, {settings.prepare.size} px, {windows(settings.window)}, "
        f"{settings.visual.backbone}, seed {settings.seed}; "
        f"{machine['cores']} CPU cores ({machine['cpu']}), {', '.join(machine['gpu']) or 'no GPU'}, torch "
        f"{run['versions']['torch']}. "
        "**The paper's figures are from the real data sets**, ours from the data that the column names; they are not "
        "to be compared unless that is the real one and nothing is left to fill the gap. Intervals are 95 % "
        "bootstraps over test people, and over seeds where a run was repeated. Written by `scripts/results_page.py`; "
        "the same tables, with figures, are in `reports/04_evaluation.ipynb` and `reports/05_ablations.ipynb` "
        "after a run.\n",
        "\n".join(f"- {line}" for line in measured_on(settings, ROOT / "artifacts/prepared")) + "\n",
        "## Tables 1 and 2\n",
        markdown(protocol(evaluation, settings)),
        "## Published on SceneEgo's test split\n",
        "By others and by the paper; nothing in this table was measured here.\n",
        markdown(paper.elsewhere()),
        "\n".join(f"- {note}" for note in paper.NOTES) + "\n",
        "## Tables 4 and 5\n",
        made["parts"],
        "## Table 6\n",
        made["loss"],
        "## Table 7\n",
        made["window"],
        "## A joint embedding in the memory\n",
        made["joint embedding"],
        "## A decoder beside the paper's\n",
        made["beyond"],
        "## The transfer, and baselines\n",
        made["others"],
        "## Methods side by side\n",
        "Parameters, multiply-accumulates of a frame and speed (`benchmarks/results/methods.json`, in calls "
        f"of {settings.window.length} frames) are those beside the frozen networks, which all of them share. "
        "An oracle's choice among samples is no method's error: nobody can choose so.\n",
        markdown(methods),
    ]
    if pairs := pairs_table(results):
        parts += [
            "Methods against each other, frame by frame: the difference of their errors, with its interval.\n",
            markdown(pairs),
        ]
    if seeds := seed_table(results, settings.ablation, settings.seed):
        parts += ["## Seeds\n", markdown(seeds)]
    sizes = [
        {
            "part": row["part"],
            **{f"{key} (M)": f"{row[key] / 1e6:.2f}" for key in ("parameters", "trained", "frozen")},
            "multiply-accumulates a frame (G)": f"{row['mac'] / 1e9:.3f}",
        }
        for row in complexity()
    ]
    parts += [
        "## Table 3, at the paper's sizes\n",
        markdown(sizes),
        f"The paper reports {paper.PARAMETERS / 1e6:.1f} M parameters and {paper.FLOPS / 1e9:.1f} G. "
        "See `05_ablations` for how they compare.\n",
        f"Runs in this page: full, {', '.join(run_names(settings.ablation))}.\n",
    ]
    PAGE.write_text("\n".join(parts))
    put(ROOT / "README.md", START, END, in_short(methods, data_name(settings)))
    print("wrote", PAGE.relative_to(ROOT), "and the methods of README.md")


if __name__ == "__main__":
    main()
