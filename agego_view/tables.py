"""What the runs of the pipeline left, for the tables of 05: test errors of every row, beside the paper's figures."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agego_lib import datasets
from agego_lib.datasets.features import open_features
from agego_lib.evaluation import (
    HEADLINE,
    bootstrap_interval,
    by_need,
    load_poses,
    sequence_errors,
    unseen_for,
    unseen_parts,
)
from agego_lib.evaluation.complexity import full_cost
from agego_lib.evaluation.errors import UNSEEN
from agego_lib.files import read_json
from agego_lib.heatmaps import decode_heatmaps
from agego_lib.training.rows import plan
from agego_view import paper

REPEATED = re.compile(r"-\d+$")  # the end of a name: the same row from another seed
SEEN = 0.3  # what a joint's heatmap must reach somewhere for it to count as seen, where the truth has no say
# Errors that runs are compared by in metrics/ablations.json: properties of PoseErrors, and the error of joints that
# have not been seen for longest.
MEASURES = (*HEADLINE, "upper", "lower", "lower_less_upper", "long_unseen")
# And, where the data say what is hidden, of joints by how long they have not been seen; the last is "long_unseen".
PARTS = ("in sight", *(part for _, part in UNSEEN))
# Table 7's runs and how long their windows are, as shares of the full model's; and what `by_need` takes from them.
WINDOWS, ADAPTIVE = {"window_half": 0.5, "full": 1, "window_double": 2}, "window_adaptive"


@dataclass(frozen=True)
class Remembered:
    """Test errors of a training by person, in place of PoseErrors, whose means and intervals the tables need alone.

    people: the wearers. means: of each of MEASURES that the data know, its mean for each person, mm; counts: of how
    many numbers. whole: as of PoseErrors. Every number of a person stands as their mean, which changes no mean over all
    and no interval over people.
    """

    people: tuple[str, ...]
    means: dict[str, list[float]]
    counts: dict[str, list[int]]
    whole: dict

    @classmethod
    def of(cls, errors):
        """Those of PoseErrors."""
        people = sorted({str(name) for name in errors.people})
        means, counts = {}, {}
        for metric in MEASURES:
            values, lengths = _values(errors, metric)
            who = np.repeat([people.index(str(name)) for name in errors.people], lengths)
            if len(values):
                counts[metric] = np.bincount(who, minlength=len(people)).tolist()
                sums = np.bincount(who, values, len(people)) / np.maximum(counts[metric], 1)
                means[metric] = [round(float(mean), 3) for mean in sums]
        return cls(tuple(people), means, counts, {k: round(float(v), 4) for k, v in errors.whole.items()})

    @property
    def lengths(self):
        return self.counts["mpjpe"]


def data_name(settings):
    """What numbers of a run are measured on, for the name of a column."""
    return "embedded data" if settings.dataset.source == "synthetic" else "real data"


def windows(window):
    """WindowSettings in words."""
    return f"windows of {window.length} frames {'in a row' if window.step == 1 else f'{window.step} apart'}"


def measured_on(settings, prepared):
    """The data of a run and each set's calibration -> texts, a line each. prepared: the folder of prepared sets."""
    embedded = settings.dataset.source == "synthetic"
    lines = ["embedded data: both sets are rendered" if embedded else "real data: both sets are read from files"]
    for name, title in datasets.TITLES.items():
        try:
            found = "calibration {file}, sha256 {sha256}".format_map(datasets.calibration_of(Path(prepared) / name))
        except (OSError, ValueError, LookupError, TypeError) as error:
            found = f"calibration unknown: {error}"
        lines.append(f"{title}{'-like' * embedded}: {found}")
    return lines


def run_names(ablation):
    """Names of all runs that the `ablation` settings ask for, as their folders under artifacts/ablate/ are called."""
    repeated = [f"{row}-{seed}" for row in reseeded(ablation) for seed in ablation.seeds]
    losses = [f"heatmap_{loss}" for loss in ablation.heatmap_losses]
    return [*ablation.rows, *losses, *(f"baseline_{name}" for name in ablation.baselines), *repeated]


def reseeded(ablation):
    """The runs that the settings train from other seeds too, by name."""
    return [*ablation.reseeded, *(f"baseline_{name}" for name in ablation.reseeded_baselines)] if ablation.seeds else []


def tables(settings):
    """The comparisons of 05 -> {table: ({run: label}, {run: the paper's figures by data set})}."""
    loss = settings.heatmap.loss
    other = {"bce": "mse", "mse": "bce"}[loss]
    span = settings.window.length * settings.window.step
    spans = {run: round(span * share) for run, share in WINDOWS.items()}
    turned = "without" if settings.decoder.memory_joint_embedding else "with"
    return {
        "parts": (
            {
                "full": "full model",
                "no_cross_attention": "no cross-attention",
                "no_motion": "no motion stream",
                "no_spatial": "no spatial stream",
            },
            paper.ABLATIONS,
        ),
        "parts, longer": (
            {
                "full_long": "full model, twice the passes",
                "full_longer": "full model, four times the passes",
                "no_cross_attention_long": "no cross-attention, twice the passes",
                "no_motion_long": "no motion stream, twice the passes",
                "no_spatial_long": "no spatial stream, twice the passes",
            },
            {},
        ),
        "loss": (
            {"full": f"heatmaps by {loss}", f"heatmap_{other}": f"heatmaps by {other}"},
            {"full": paper.LOSSES[loss], f"heatmap_{other}": paper.LOSSES[other]},
        ),
        "window": (
            {name: f"T = {frames}" for name, frames in spans.items()} | {ADAPTIVE: "T by what is seen"},
            {name: paper.WINDOWS.get(frames, {}) for name, frames in spans.items()},
        ),
        "joint embedding": ({"full": "full model", "joint_embedding": f"{turned} joint embedding"}, {}),
        "beyond": (
            {
                "full": "the paper's decoder",
                "limb_embedding": "the paper's decoder, EgoTAP's embedding in place of Eq. 2's",
                "rays": "rays and time in its place",
                "rays_long": "rays and time, trained on four times the passes",
                "rays_one_frame": "rays without attention over time; change: from rays and time",
                "rays_one_frame_long": "that on four times the passes; change: from rays and time on as many",
                "rays_motion": "rays and time with the motion stream, not mirrored",
                "rays_plain": "rays and time without any augmentation",
                "rays_stature": "rays and time, told the wearer's stature",
                "rays_distances": "rays and time, with the heatmap network's distances",
                "rays_distances_long": "the same, trained on four times the passes",
                "full_stature": "the paper's decoder, told the wearer's stature",
                "full_distances": "the paper's decoder, with the heatmap network's distances",
            },
            {},
        ),
        "others": (
            {
                "full": "full model",
                "sceneego_only": "trained on SceneEgo alone",
                "heatmap_scratch": "heatmaps trained from scratch",
                "baseline_nearest": "nearest training pose",
                "baseline_xr_egopose": "xR-EgoPose-style lifter",
                "baseline_mo2cap2": "Mo2Cap2-style regressor",
                "baseline_mo2cap2_zoom": "the same with its second detector",
                "baseline_selfpose": "SelfPose-style lifter",
                "baseline_egoposeformer": "EgoPoseFormer-style refinement",
                "baseline_egowholemocap": "EgoWholeMocap-style volume",
                "baseline_kolotouros": "ProHMR-style flow (Kolotouros et al.), its mode",
                "baseline_egohmr": "EgoHMR-style diffusion, mean of samples",
                "baseline_egotap": "EgoTAP-style propagation",
                "baseline_sceneego": "SceneEgo-style voxels, depth estimated",
                "baseline_sceneego_true_depth": "SceneEgo-style voxels, true depth",
                "baseline_egopw": "EgoPW-style pseudo labels from two views",
                "baseline_egopw_one_view": "the same from the head camera alone",
            },
            {"full": paper.RESULTS} | {f"baseline_{name}": figures for name, figures in paper.METHODS.items()},
        ),
    }


def load_results(root, settings, tests, finished=None):
    """Test errors of the full model and of every run of params.Settings -> {name: {data set: PoseErrors}}.

    tests: {data set: prepared test sequences}. A run that trains on one set has no errors on the other. Where all of
    Table 7's windows were run and features are stored, ADAPTIVE is there too, with as many repetitions as all have.
    finished: the runs to read, by name; by default all that the settings ask for, and FileNotFoundError is raised where
    one has left nothing.
    """
    folders = {name: [Path(root) / "artifacts/ablate" / name] for name in run_names(settings.ablation)}
    folders = {"full": [Path(root) / "artifacts/pose", Path(root) / "artifacts/finetune"], **folders}
    folders = {name: places for name, places in folders.items() if finished is None or name in finished}
    results, poses = {}, {}
    for name, places in folders.items():
        files = {path.stem: path for place in places for path in sorted(place.glob("*.npz"))}
        if not files:
            raise FileNotFoundError(f"{places[0]}: no poses of the run {name!r}; run `dvc repro`")
        poses[name] = {n: load_poses(path, tests[n]) for n, path in files.items()}
        results[name] = {n: sequence_errors(found, tests[n]) for n, found in poses[name].items()}
    return results | _adaptive(root, settings, tests, poses)


def _adaptive(root, settings, tests, poses):
    """Errors of `by_need` by what the heatmaps show, for each training that all of WINDOWS have -> {name: by set}."""
    if not {*WINDOWS} <= set(poses):
        return {}
    stores = {n: open_features(Path(root) / "artifacts/features", group) for n, group in tests.items()}
    if not all(stores.values()):
        return {}
    ages = {}
    for n, store in stores.items():
        maps = (store.read(i, slice(None))["heatmaps"].astype(np.float32) for i in range(len(tests[n])))
        seen = (decode_heatmaps(each)[1] >= SEEN for each in maps)
        ages[n] = [unseen_for(shown, s.frame_numbers) for shown, s in zip(seen, tests[n], strict=True)]
    span, found = settings.window.length * settings.window.step, {}
    for end in ("", *(f"-{seed}" for seed in settings.ablation.seeds)):
        runs = {round(span * share): poses.get(f"{run}{end}") for run, share in WINDOWS.items()}
        if all(runs.values()):
            chosen = {n: by_need({frames: run[n] for frames, run in runs.items()}, ages[n]) for n in tests}
            found[f"{ADAPTIVE}{end}"] = {n: sequence_errors(chosen[n], tests[n]) for n in tests}
    return found


def trainings(results, name, data_set, metric):
    """An error from each training of a run: its first, then its repetitions -> (S, F), of every frame.

    "long_unseen" has one number a joint and frame of those that it is of; no training has any where there are none.
    """
    return np.stack([_values(errors, metric)[0] for errors in _of_each(results, name, data_set).values()])


def _of_each(results, name, data_set):
    """{how the name ends: errors} of each training of a run, as `trainings`."""
    names = [name, *(key for key in results if REPEATED.sub("", key) == name != key)]
    return {key[len(name) :]: results[key][data_set] for key in names if data_set in results.get(key, {})}


def _values(errors, metric):
    """-> (an error, how many of its numbers are of each sequence); the metric is one of MEASURES or PARTS."""
    if isinstance(errors, Remembered):
        counts = errors.counts.get(metric, [0] * len(errors.people))
        return np.repeat(errors.means.get(metric, [0.0] * len(counts)), counts), counts
    if metric != "long_unseen" and metric not in PARTS:
        return getattr(errors, metric), errors.lengths
    if errors.unseen is None:
        where = np.zeros(errors.distance.shape, bool)
    elif metric == "in sight":
        where = errors.unseen == 0
    else:
        where = unseen_parts(errors.unseen)[PARTS[-1] if metric == "long_unseen" else metric]
    return errors.distance[where], [int(part.sum()) for part in np.split(where, np.cumsum(errors.lengths)[:-1])]


def by_unseen(results, name, data_set):
    """MPJPE of joints by how long they have not been seen, mm, mean over a run's trainings -> {part: mm}, of PARTS that
    there are; empty where the data do not say what is hidden."""
    found = {part: trainings(results, name, data_set, part) for part in PARTS}
    return {part: float(values.mean()) for part, values in found.items() if values.size}


def base_of(name):
    """The run that another is set against: the full model, on twice the passes for rows of Tables 4 and 5 on those, and
    for itself on twice as many again; the decoder of rays for itself without attention over time."""
    if name.startswith("rays_one_frame"):
        return name.replace("_one_frame", "")
    longer = {f"{row}_long" for row in paper.ABLATIONS if row != "full"} | {"full_longer"}
    return "full_long" if name in longer else "full"


def changes(results, name, data_set, metric, base=None):
    """How much larger an error is than that of `base_of` or of another run, by the seeds that both have -> (S, F), as
    `trainings`."""
    own, other = (_of_each(results, key, data_set) for key in (name, base or base_of(name)))
    both = [end for end in own if end in other]
    return np.stack([_values(own[end], metric)[0] - _values(other[end], metric)[0] for end in both])


def mean_change(results, name, data_set, metric, base=None):
    """Mean of `changes`, and its 95 % interval over people and trainings -> (mean, low, high)."""
    difference, full = changes(results, name, data_set, metric, base), results["full"][data_set]
    return float(difference.mean()), *bootstrap_interval(difference, _values(full, metric)[1], full.people)


def _not_run(name):
    """What says of a run that it was not made, and which setting would have it made."""
    if "_distances" in name:
        return "not run here: `profile=distances` has it"
    rows = [*WINDOWS] if name == ADAPTIVE else [name]
    for prefix, section in (("baseline_", "baselines"), ("heatmap_", "heatmap_losses"), ("", "rows")):
        if name.startswith(prefix):
            wanted = " and ".join(f"`{row.removeprefix(prefix)}`" for row in rows if row != "full")
            return f"not run here: {wanted} in `ablation.{section}`"


def compare(results, rows, figures, settings):
    """A table of runs beside the paper's figures -> list of dicts, one a row, data set and metric.

    rows: {name of a run: label}. figures: the paper's, {name: {data set: (MPJPE, PA-MPJPE)}}, None for what it has not.
    settings: those of the full model's run. A run that was not made says what would make it, in one row, or one for
    each of the paper's figures.
    Where a run was repeated with other seeds, "ours" is the mean over them. "change" is the mean difference from
    `base_of` it, frame by frame, with its 95 % interval over people, and over the seeds that both have.
    """
    table = []
    ours = f"ours, {data_name(settings)}"
    nothing = dict.fromkeys(("data set", "metric", ours, "change", "its 95 % interval", "paper, real data"), "–")
    for name, label in rows.items():
        if name not in results and not any(any(pair) for pair in figures.get(name, {}).values()):
            table.append({"row": label} | nothing | {"to fill the gap": _not_run(name)})
            continue
        for data_set in results["full"]:
            # The paper has no BA-MPJPE.
            published = (*figures.get(name, {}).get(data_set, (None, None)), None)
            errors = results.get(name, {}).get(data_set)
            if name in results and errors is None:
                continue  # trained on the other set alone
            for (metric, title), figure in zip(HEADLINE.items(), published, strict=True):
                if errors is None and figure is None:
                    continue
                row = {"row": label, "data set": datasets.TITLES[data_set], "metric": f"{title} (mm)"}
                value = change = interval = ""
                if errors is not None:
                    value = round(float(trainings(results, name, data_set, metric).mean()), 1)
                    if name != "full" and base_of(name) in results:
                        mean, low, high = mean_change(results, name, data_set, metric)
                        change, interval = f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}"
                gap = "" if figure is None else paper.gap(settings, data_set)
                row |= {
                    ours: value,
                    "change": change,
                    "its 95 % interval": interval,
                    "paper, real data": "–" if figure is None else figure,
                    "to fill the gap": gap if errors is not None else _not_run(name),
                }
                table.append(row)
    return table


def _published(figures):
    """{data set: (MPJPE, PA-MPJPE)} -> cells of `methods_table`."""
    return {
        f"published, real {title}: {metric} (mm)": figures.get(name, (None, None))[i] or "–"
        for name, title in datasets.TITLES.items()
        for i, metric in enumerate(("MPJPE", "PA-MPJPE"))
    }


def _speeds(root, settings):
    """Frames a second of each method, as texts, where they were measured at the sizes of the settings."""
    file = Path(root) / f"benchmarks/results/methods-{settings.run.profile}.json"
    sizes = {"view (px)": settings.prepare.size, "frames a call": settings.window.length}
    if not file.is_file() or (found := read_json(file))["settings"] != sizes:
        return {}
    return {row["method"]: f"{row['frames a second']:.0f}" for row in found["rows"]}


def method_facts(root, names):
    """What the runs of methods left of their cost and samples -> {run: its method.json}, of those that are there."""
    files = {name: Path(root) / "artifacts/ablate" / name / "method.json" for name in names}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def methods_table(results, root, settings, facts=None):
    """One row a method: what it sees, its size and cost, our errors on both sets, published ones -> list of dicts.

    results: of `load_results`. Parameters and multiply-accumulates are those beside the frozen networks, from `facts`
    (by default `method_facts`), and so are the frames a second, of benchmarks/results/methods-<profile>.json, where
    that was measured at this run's sizes; errors have their 95 % interval over people, and over seeds where it was
    repeated. "–": not published, or not run.
    """
    labels, figures = tables(settings)["others"]
    # Beside the full model, the one other that sees windows.
    labels = {"full": labels["full"], "rays": "decoder of rays, this suite's", **labels}
    windowed = {"full": settings, "rays": plan(settings, "rays").settings}
    elsewhere = {f"baseline_{name}": found for name, found in paper.METHODS_ELSEWHERE.items()}
    speeds = _speeds(root, settings)
    known = method_facts(root, labels) if facts is None else facts
    rows = []
    for name, label in labels.items():
        if name not in windowed and not name.startswith("baseline_"):
            continue
        facts = full_cost(windowed[name]) if name in windowed else known.get(name, {})
        row = {
            "method": label,
            "frames seen": settings.window.length if name in windowed else 1,
            "trainings": len(_of_each(results, name, next(iter(results[name])))) if name in results else 0,
            "parameters (M)": f"{facts['parameters'] / 1e6:.2f}" if facts else "–",
            "multiply-accumulates (M)": f"{facts['macs'] / 1e6:.1f}" if facts else "–",
            "frames a second": speeds.get(name, "–"),
        }
        for data_set, title in datasets.TITLES.items():
            errors = results.get(name, {}).get(data_set)
            for metric in ("mpjpe", "pa_mpjpe"):
                told = "–"
                if errors is not None:
                    values = trainings(results, name, data_set, metric)
                    low, high = bootstrap_interval(values, errors.lengths, errors.people)
                    told = f"{values.mean():.1f} ({low:.1f} to {high:.1f})"
                row[f"ours, {data_name(settings)}, {title}: {HEADLINE[metric]} (mm)"] = told
            best = facts.get(data_set, {})
            row[f"{title}: PA-MPJPE of the sample that an oracle picks (mm)"] = (
                f"{best['best_of_k_pa_mpjpe_mm']:.1f} of {best['samples']}" if best else "–"
            )
        published, source = elsewhere.get(name, (figures.get(name, {}), "the paper, Tables 1 and 2"))
        row |= _published(published)
        rows.append(row | {"source": source if any(v for pair in published.values() for v in pair) else "–"})
    return rows


# What a part of a method is worth (EgoPW's differs from Mo2Cap2's in its labels and in training on both sets at once),
# the best of those that see one frame beside the decoder that sees windows, what is left of its lead where the paper's
# decoder does without its cross-attention, and where it does without attention over time, what more passes are worth to
# it, and what knowing the stature is, and distances of the heatmap network.
PAIRS = (
    ("baseline_sceneego_true_depth", "baseline_sceneego"),
    ("baseline_egopw", "baseline_egopw_one_view"),
    ("baseline_egopw", "baseline_mo2cap2"),
    ("baseline_mo2cap2_zoom", "baseline_mo2cap2"),
    ("baseline_selfpose", "baseline_xr_egopose"),
    ("baseline_mo2cap2", "rays"),
    ("baseline_egowholemocap", "rays"),
    ("baseline_egotap", "rays"),
    ("rays", "no_cross_attention"),
    ("rays_one_frame", "full"),
    ("baseline_egowholemocap", "rays_one_frame"),
    ("rays_long", "rays"),
    ("rays_one_frame_long", "rays_one_frame"),
    ("rays_one_frame_long", "full_longer"),
    ("rays_long", "full_longer"),
    ("rays_stature", "rays"),
    ("rays_stature", "full_stature"),
    ("full_distances", "full"),
    ("rays_distances", "rays"),
    ("rays_distances", "full_distances"),
    ("rays_distances_long", "rays_distances"),
)


def pairs_table(results):
    """How much larger the errors of one of PAIRS are than the other's, frame by frame -> list of dicts, of those that
    were both run: trainings of both, and for each set and metric the mean with its 95 % interval, mm."""
    rows = []
    for name, base in PAIRS:
        if name not in results or base not in results:
            continue
        row = {"run": name, "less": base}
        for data_set, title in datasets.TITLES.items():
            row["trainings"] = len(changes(results, name, data_set, "mpjpe", base))
            for metric in ("mpjpe", "pa_mpjpe"):
                mean, low, high = mean_change(results, name, data_set, metric, base)
                row[f"{title}: {HEADLINE[metric]} (mm)"] = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        rows.append(row)
    return rows


def seed_table(results, ablation, seed):
    """Errors of rows over seeds -> list of dicts: row, data set, metric, a value a seed, mean, standard deviation."""
    table = []
    for row in reseeded(ablation):
        runs = {seed: results.get(row, {}), **{s: results.get(f"{row}-{s}", {}) for s in ablation.seeds}}
        for data_set in results["full"]:
            for metric, title in HEADLINE.items():
                found = {s: float(_values(r[data_set], metric)[0].mean()) for s, r in runs.items() if data_set in r}
                if not found:
                    continue
                values = np.array(list(found.values()))
                table.append(
                    {
                        "row": row,
                        "data set": datasets.TITLES[data_set],
                        "metric": f"{title} (mm)",
                        **{f"seed {s}": round(found[s], 1) if s in found else "–" for s in runs},
                        "mean": round(float(values.mean()), 1),
                        "deviation": round(float(values.std(ddof=1)), 1) if len(values) > 1 else "",
                    }
                )
    return table


def measured(results):
    """Every run's errors and how far they are from those of `base_of` it, for metrics/ablations.json.

    -> {run: {data set: {"<measure>_mm": mean over its trainings, "unseen_mm": `by_unseen` where it is known,
    "trainings": how many, "change": {measure: {"mean", "low", "high"}}, "unseen_change": the same of its parts}}}; the
    measures are those of MEASURES that the data know and the acceleration error, which has no change; the interval is
    `bootstrap_interval`'s over people and trainings. A repetition is no run of its own here.
    """
    out = {}
    for name, sets in results.items():
        if REPEATED.search(name):
            continue
        out[name] = {}
        for data_set in sets:
            values = {m: trainings(results, name, data_set, m) for m in MEASURES}
            values = {m: v for m, v in values.items() if v.size}
            entry = {f"{m}_mm": round(float(v.mean()), 2) for m, v in values.items()}
            found = _of_each(results, name, data_set).values()
            if all("acceleration_mm" in errors.whole for errors in found):
                entry["acceleration_mm"] = round(float(np.mean([e.whole["acceleration_mm"] for e in found])), 2)
            if parts := by_unseen(results, name, data_set):
                entry["unseen_mm"] = {part: round(mm, 2) for part, mm in parts.items()}
            out[name][data_set] = entry | {"trainings": len(found)}
            if name != "full" and base_of(name) in results:
                keys = ("mean", "low", "high")
                for key, measures in (("change", values), ("unseen_change", parts)):
                    found = {m: mean_change(results, name, data_set, m) for m in measures}
                    told = {m: {k: round(v, 2) for k, v in zip(keys, n, strict=True)} for m, n in found.items()}
                    out[name][data_set] |= {key: told} if told else {}
    return out


def verdict(difference, lengths, people=None):
    """One of "worse", "better" or "no clear difference", by whether the 95 % interval of the mean leaves zero out.

    difference (F,) or, of several trainings, (S, F); lengths, people: as for `bootstrap_interval`.
    """
    if len(lengths if people is None else set(people)) < 2:
        return "no interval with one test person"
    low, high = bootstrap_interval(difference, lengths, people)
    return "worse" if low > 0 else "better" if high < 0 else "no clear difference"


def telling_frames(errors, sequences):
    """Frames for Fig. 3, not chosen by eye -> {what: index in the split}: best, median, worst, most out of view.

    Where no joint is outside the image, there is none of the last.
    """
    order = np.argsort(errors.mpjpe)
    outside = (~np.concatenate([s.in_image for s in sequences])).sum(1)
    frames = {"best": int(order[0]), "median": int(order[len(order) // 2]), "worst": int(order[-1])}
    return frames | ({"most out of view": int(np.argmax(outside))} if outside.any() else {})


def frame_at(sequences, number):
    """Index of a frame in the whole split -> (number of its sequence, index in it)."""
    ends = np.cumsum([len(s) for s in sequences])
    which = int(np.searchsorted(ends, number, side="right"))
    return which, int(number - (ends[which] - len(sequences[which])))
