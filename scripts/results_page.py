"""Write docs/results.md and the tables of README.md and docs/study.md, for maintainers: python scripts/results_page.py

Run in a working copy of the profile `study`, whichever of its rows have been trained there: they join those of other
copies and machines in docs/study.json, from which the pages are made.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from agego_data.synthetic import MOUNTS
from agego_lib import params
from agego_lib.datasets import TITLES, read_prepared
from agego_lib.evaluation import HEADLINE
from agego_lib.evaluation.complexity import complexity
from agego_lib.files import read_json, replacing
from agego_view import paper
from agego_view.tables import (
    REPEATED,
    Remembered,
    compare,
    data_name,
    load_results,
    measured,
    measured_on,
    method_facts,
    methods_table,
    pairs_table,
    run_names,
    seed_table,
    tables,
    windows,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results.md"
# What errors depend on; rows with other values cannot stand in one table.
SECTIONS = (
    "seed", "render", "prepare", "heatmap", "visual", "window", "motion", "decoder", "loss", "pose", "finetune",
)  # fmt: skip
# Where README and docs/study.md have their tables of these names.
SHORT = {"protocol": "docs/study.md", "parts": "README.md", "methods": "docs/study.md"}
START, END = "<!-- {}: written by scripts/results_page.py -->\n", "<!-- end of {} -->\n"
# Of a study whose file names no mounts.
OLDER = "Its people were rendered as up to commit 9b51c77: with the camera further from the body than in real frames."


def markdown(rows):
    """A list of dicts as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([row[key] for key in rows[0]] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


class PageError(ValueError):
    """A page that cannot be written; the message names the file and says what to do."""


def in_words(machine):
    """The machine of a run's manifest."""
    return f"{machine['cores']} CPU cores ({machine['cpu']}), {', '.join(machine['gpu']) or 'no GPU'}"


def seconds_of(documents):
    """What executed notebooks took together, s; None where one went on from a checkpoint, and so began elsewhere."""
    said = (o.get("text", "") for d in documents for cell in d.get("cells", ()) for o in cell.get("outputs", ()))
    if any(": goes on after step " in "".join(text) for text in said):
        return None
    return round(sum(d["metadata"]["papermill"]["duration"] or 0 for d in documents))


class Study:
    """docs/study.json: the test errors of every training of the study, by person, and what made each.

    root: of a working copy. settings: its Settings, with which all trainings were made. results: {run: {data set:
    Remembered}}, of `tables.load_results`; facts: {run: method.json}; trainings: {run: its machine, torch, commit,
    seconds, None where they are not known}; evaluation: of the first training, as in metrics/evaluation.json.
    mounts: where the camera sat in what they saw, synthetic.MOUNTS; None: as up to commit 9b51c77.
    Raises PageError where the file holds trainings of other settings than params.yaml, or of other mounts.
    """

    def __init__(self, root):
        self.file, self.root = root / "docs/study.json", root
        self.settings = params.load(root / "params.yaml")
        if self.settings.run.profile != "study":
            raise PageError(f"{root}/params.yaml: profile is {self.settings.run.profile!r}, expected 'study'")
        values = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        self.made_with = {name: values[name] for name in SECTIONS}
        self.results, self.facts, self.trainings, self.evaluation, self.mounts = {}, {}, {}, None, None
        if not self.file.is_file():
            return
        found = read_json(self.file, 1 << 24)
        if other := [name for name in SECTIONS if found["settings"][name] != self.made_with[name]]:
            raise PageError(
                f"{self.file}: its trainings were made with other settings of {', '.join(other)} than params.yaml has; "
                "remove it to begin anew"
            )
        self.evaluation, self.facts, self.mounts = found["evaluation"], found["facts"], found.get("mounts")
        for name, row in found["trainings"].items():
            self.trainings[name] = row["made"]
            self.results[name] = {
                n: Remembered(**errors | {"people": tuple(errors["people"])}) for n, errors in row["errors"].items()
            }

    def add(self, tests):
        """The trainings that have ended in this working copy. tests: prepared test sequences by data set."""
        metrics, reports = self.root / "metrics", self.root / "reports"
        made = {"full": ["pose", "finetune"]} | {n: [f"ablate/{n}"] for n in run_names(self.settings.ablation)}
        # Not in git, and written when a stage ends: here, and not by another working copy.
        made = {n: [metrics / f"{p}.run.json" for p in places] for n, places in made.items()}
        made = {n: [read_json(file) for file in files] for n, files in made.items() if all(f.is_file() for f in files)}
        mounts = {name: ranges.tolist() for name, ranges in MOUNTS.items()}
        if made and self.results and self.mounts != mounts:
            raise PageError(
                f"{self.file}: its trainings saw other camera mounts than this working copy's, which are those of "
                "agego_data/synthetic.py; remove the file to begin anew"
            )
        self.mounts = mounts if made else self.mounts
        found = load_results(self.root, self.settings, tests, made)
        for name, sets in found.items():
            self.results[name] = {n: Remembered.of(errors) for n, errors in sets.items()}
            if name not in made:
                continue  # made of others
            run = made[name][-1]
            if name == "full":
                names = ["03_pose_training", "03_pose_finetuning"]
            else:
                names = [name if name.startswith("baseline_") else f"ablate_{name}"]
            # Every working copy of the study has another params.yaml than the commit.
            changed = {file for each in made[name] for file in each["code"]["dirty"]} - {"params.yaml"}
            documents = [read_json(reports / f"{n}.ipynb", 1 << 28) for n in names]
            self.trainings[name] = {
                "machine": in_words(run["machine"]),
                "torch": run["versions"]["torch"],
                "commit": (run["code"]["commit"] or "unknown")[:7] + " with changes" * bool(changed),
                "seconds": seconds_of(documents),
            }
        self.facts |= method_facts(self.root, made)
        if "full" in made and (metrics / "evaluation.run.json").is_file():
            self.evaluation = read_json(metrics / "evaluation.json")
        order = sorted(self.results, key=lambda n: (n.startswith("baseline_"), not n.startswith("full"), n))
        self.results = {name: self.results[name] for name in order}
        people = {n: {r[n].people for r in self.results.values() if n in r} for n in TITLES}
        if other := [n for n, each in people.items() if len(each) > 1]:
            raise PageError(f"{self.file}: its trainings were tested on other people of {', '.join(other)}")

    def write(self):
        """The file, one line a training."""
        lines = [
            f"    {json.dumps(name)}: "
            + json.dumps(
                {
                    "made": self.trainings.get(name),
                    "errors": {n: dataclasses.asdict(errors) for n, errors in sets.items()},
                }
            )
            for name, sets in self.results.items()
        ]
        head = {"settings": self.made_with, "mounts": self.mounts, "evaluation": self.evaluation, "facts": self.facts}
        text = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
        with replacing(self.file) as partial:
            partial.write_text("{\n" + text + '  "trainings": {\n' + ",\n".join(lines) + "\n  }\n}\n")

    def told(self):
        """What made the trainings, in words."""
        made = [each for each in self.trainings.values() if each]
        timed = [each["seconds"] for each in made if each["seconds"] is not None]
        ended = len(made) - len(timed)

        def different(key):
            return "; ".join(dict.fromkeys(each[key] for each in made))

        text = (
            f"Measured at {different('commit')}, profile `study`: {self.settings.prepare.size} px, "
            f"{windows(self.settings.window)}, {self.settings.visual.backbone}; {different('machine')}, torch "
            f"{different('torch')}; {len(timed)} trainings took {sum(timed) / 3600:.1f} hours, side by side on a core "
            f"each{f' ({ended} more were ended and went on: their time is not known)' if ended else ''}."
        )
        if self.settings.heatmap.init == "released":
            text += " Heatmap networks started from the weights that `released.dvc` names there."
        return f"{text} {OLDER}" if self.mounts is None else text


def put(page, start, end, text):
    """Put Markdown between two marks of a page. Raises PageError where they are not there."""
    whole = page.read_text()
    if whole.count(start) != 1 or whole.count(end) != 1 or whole.index(start) > whole.index(end):
        raise PageError(f"{page}: no place for figures; expected the lines {start.strip()!r} and {end.strip()!r}")
    before, after = whole.split(start)[0], whole.split(end)[1]
    with replacing(page) as partial:
        partial.write_text(f"{before}{start}\n{text}\n{end}{after}")


def in_short(rows, data):
    """The columns of `methods_table` that docs/study.md has room for."""
    pairs = [(title, metric) for title in TITLES.values() for metric in ("MPJPE", "PA-MPJPE")]
    kept = {
        "method": "method", "frames": "frames seen", "trainings": "trainings", "parameters (M)": "parameters (M)",
        "MAC (M)": "multiply-accumulates (M)", "frames a second": "frames a second",
    }  # fmt: skip
    found = []
    for row in rows:
        ours = {f"{title}, {metric}": row[f"ours, {data}, {title}: {metric} (mm)"] for title, metric in pairs}
        there = " / ".join(str(row[f"published, real {title}: {metric} (mm)"]) for title, metric in pairs)
        found.append({key: row[name] for key, name in kept.items()} | ours | {"published, real data": there})
    return found


def parts_in_short(study, data):
    """Tables 4 and 5 and the decoder beside the paper's, as README has room for them: one row a run."""
    found = measured(study.results)
    labels = {
        "full": "full model", "no_cross_attention": "no cross-attention", "no_motion": "no motion stream",
        "no_spatial": "no spatial stream", **tables(study.settings)["parts, longer"][0],
        "rays": "decoder of rays, this suite's", "rays_long": "the same, four times the passes",
        "rays_one_frame": "decoder of rays, no attention over time",
        "rays_one_frame_long": "the same, four times the passes",
        "rays_stature": "decoder of rays, told the stature", "full_stature": "full model, told the stature",
    }  # fmt: skip
    rows = []
    for name, label in labels.items():
        if name not in found:
            continue
        made = [each for key, each in study.trainings.items() if REPEATED.sub("", key) == name and each]
        seconds = [each["seconds"] for each in made if each["seconds"] is not None]
        row = {
            "row": label,
            "trainings": found[name]["egopw"]["trainings"],
            "minutes of each": f"{sum(seconds) / len(seconds) / 60:.0f}" if seconds else "–",
        }
        for data_set, title in TITLES.items():
            entry = found[name][data_set]
            more = dict.fromkeys(("mpjpe", "pa_mpjpe"), "")
            if change := entry.get("change"):
                # From the trainings of the same seeds, as the interval is.
                base = {m: entry[f"{m}_mm"] - change[m]["mean"] for m in more}
                more = {m: f" ({100 * change[m]['mean'] / base[m]:+.0f}%" for m in more}
                more["mpjpe"] += ")"
                more["pa_mpjpe"] += "; {low:+.1f} to {high:+.1f})".format_map(change["pa_mpjpe"])
            row[f"{title}, {data}: MPJPE"] = f"{entry['mpjpe_mm']:.1f}{more['mpjpe']}"
            row[f"{title}: PA-MPJPE"] = f"{entry['pa_mpjpe_mm']:.1f}{more['pa_mpjpe']}"
            row[f"{title}: acceleration"] = f"{entry['acceleration_mm']:.2f}"
        figures = [paper.ABLATIONS.get(name, {}).get(data_set, (None, None))[1] for data_set in TITLES]
        rows.append(row | {"paper, real data: PA-MPJPE": " / ".join(str(figure or "–") for figure in figures)})
    still = {"row": "the training people's mean pose, for every frame"} | dict.fromkeys(list(rows[0])[1:], "–")
    for data_set, title in TITLES.items():
        entry = study.evaluation[data_set]["mean_pose"]
        still[f"{title}, {data}: MPJPE"] = f"{entry['mpjpe_mm']:.1f}"
        still[f"{title}: PA-MPJPE"] = f"{entry['pa_mpjpe_mm']:.1f}"
        still[f"{title}: acceleration"] = f"{entry['acceleration_mm']:.2f}"
    return [*rows, still]


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
    try:
        study = Study(ROOT)
        study.add({n: read_prepared(ROOT / "artifacts/prepared" / n, "test") for n in TITLES})
        study.write()
    except (PageError, OSError) as error:
        sys.exit(str(error))
    settings, results = study.settings, study.results
    methods = methods_table(results, ROOT, settings, study.facts)
    made = {name: markdown(compare(results, *rows, settings)) for name, rows in tables(settings).items()}
    parts = [
        "# Results\n",
        f"{study.told()} "
        "**The paper's figures are from the real data sets**, ours from the data that the column names; they are not "
        "to be compared unless that is the real one and nothing is left to fill the gap. Intervals are 95 % "
        "bootstraps over test people, and over seeds where a run was repeated. Written by `scripts/results_page.py`; "
        "the same tables, with figures, are in `reports/04_evaluation.ipynb` and `reports/05_ablations.ipynb` "
        "after a run.\n",
        "\n".join(f"- {line}" for line in measured_on(settings, ROOT / "artifacts/prepared")) + "\n",
        "## Tables 1 and 2\n",
        markdown(protocol(study.evaluation, settings)),
        "## Published on SceneEgo's test split\n",
        "By others and by the paper; nothing in this table was measured here.\n",
        markdown(paper.elsewhere()),
        "\n".join(f"- {note}" for note in paper.NOTES) + "\n",
        "## Tables 4 and 5\n",
        made["parts"],
        "## Tables 4 and 5 on more passes\n",
        "The full model's change is from itself on half the passes, the others' from it on as many as they had.\n",
        made["parts, longer"],
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
        "Parameters, multiply-accumulates of a frame and speed (`benchmarks/results/methods-study.json`, in calls "
        f"of {settings.window.length} frames) are those beside the frozen networks, which all of them share. "
        "An oracle's choice among samples is no method's error: nobody can choose so.\n",
        markdown(methods),
    ]
    if pairs := pairs_table(results):
        parts += [
            "Runs against each other, from the same seeds: the difference of their errors, with its interval.\n",
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
        f"Runs in this page: {', '.join(results)}.\n",
    ]
    PAGE.write_text("\n".join(parts))
    data = data_name(settings)
    short = {"protocol": protocol(study.evaluation, settings), "parts": parts_in_short(study, data)}
    # Until each has been trained, the page keeps a table of methods in which each has.
    if {f"baseline_{name}" for name in settings.ablation.baselines} <= set(results):
        short["methods"] = in_short(methods, data)
    for name, rows in short.items():
        put(ROOT / SHORT[name], START.format(name), END.format(name), markdown(rows))
    print(
        "wrote", study.file.relative_to(ROOT), PAGE.relative_to(ROOT), "and the tables of README.md and docs/study.md"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
