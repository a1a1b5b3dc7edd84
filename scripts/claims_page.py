"""Write docs/claims.md from docs/study.json, for maintainers: python scripts/claims_page.py

Run in a working copy of the profile `study`, after results_page.py. In one of the profiles `hidden` and `distances` it
writes docs/claims-hidden.md and docs/distances.md from metrics/ablations.json, after its rows and on the machine that
ran them.
"""

import argparse
import json
import sys
from pathlib import Path

from results_page import PageError, Study, in_words, markdown

from agego_lib import params
from agego_lib.datasets import TITLES
from agego_view import paper, tables

ROOT = Path(__file__).resolve().parents[1]
FEWEST = 2  # trainings of each row that a verdict needs: with one, nobody knows what another would give
# A claim of Sec. 5, the row that lacks what it praises, and the measures by all of which the row should be worse, the
# one that is shown first.
CLAIMS = (
    ("Motion features help (Tables 4 and 5)", "no_motion", ("pa_mpjpe",)),
    ("Motion helps the lower body most (Fig. 4)", "no_motion", ("lower_less_upper", "lower")),
    ("Motion helps where a joint has not been seen for over 32 frames (Sec. 1)", "no_motion", ("long_unseen",)),
    (
        "Context over time helps where a joint has not been seen for over 32 frames (Sec. 1): the decoder of rays",
        "rays_one_frame",
        ("long_unseen",),
    ),
    ("Heatmap features help (Tables 4 and 5)", "no_spatial", ("pa_mpjpe",)),
    ("Cross-attention helps (Tables 4 and 5)", "no_cross_attention", ("pa_mpjpe",)),
    ("Heatmaps trained by BCE beat those by MSE (Table 6)", "heatmap_mse", ("pa_mpjpe",)),
    ("T = 64 beats T = 32 (Table 7)", "window_half", ("pa_mpjpe",)),
    ("T = 64 beats T = 128 (Table 7)", "window_double", ("pa_mpjpe",)),
    ("Training on EgoPW first helps on SceneEgo (Sec. 4.2)", "sceneego_only", ("pa_mpjpe",)),
)
# Rows that learn from more or fewer frames than the full model does in as many passes: a sequence holds more short
# windows than long ones, whose number a step is the inverse of their length; and one set has fewer frames than both.
UNEQUAL = {"window_half", "window_double", "sceneego_only"}
PAPERS = {
    **paper.ABLATIONS,
    "heatmap_mse": paper.LOSSES["mse"],
    "window_half": paper.WINDOWS[32],
    "window_double": paper.WINDOWS[128],
}


def verdict(changes: list[dict], trainings: int, longer: dict | None, unequal: bool = False) -> str:
    """What intervals of "how much worse without", mm, say of a claim: all must leave zero out to confirm it, one to
    refute it. longer: the change that more passes than theirs bring the full model, which must not be a fall beyond
    chance for that; None where that is not known. unequal: of a row of UNEQUAL, so that it must not be one to confirm
    the claim either."""
    if trainings < FEWEST:
        return "undecided here: one training"
    confirmed = all(change["low"] > 0 for change in changes)
    if confirmed and not unequal:
        return "confirmed here"
    if not confirmed and not any(change["high"] < 0 for change in changes):
        return "undecided here"
    if longer is None:
        return "undecided here: too few trainings on more passes"
    if longer["high"] < 0:
        return "undecided here: the full model was still learning"
    return "confirmed here" if confirmed else "refuted here"


def more_passes(measured: dict, data_set: str, row: str = "full") -> dict | None:
    """The change of PA-MPJPE that twice the passes of a row bring the full model; None where that was not tried, or too
    seldom to say that it has learned all."""
    if tables.base_of(row) not in ("full", "full_long"):
        return None
    more = measured.get("full_longer" if row.endswith("_long") else "full_long", {}).get(data_set, {})
    change = more.get("change", {}).get("pa_mpjpe")
    return None if change and change["high"] >= 0 and more["trainings"] < FEWEST else change


def most_passes(measured: dict, row: str, data_set: str) -> str:
    """The row, or it on more passes where it and what it is set against had those often enough for a verdict."""
    longer = f"{row}_long"
    pair = [measured.get(name, {}).get(data_set, {}).get("trainings", 0) for name in (longer, tables.base_of(longer))]
    return longer if min(pair) >= FEWEST else row


def table(measured: dict, data: str) -> list[dict]:
    """metrics/ablations.json -> a row of each claim and data set."""
    rows = []
    for claim, row, measures in CLAIMS:
        for data_set, title in TITLES.items():
            tried = most_passes(measured, row, data_set)
            found = measured.get(tried, {}).get(data_set)
            if row == "sceneego_only" and data_set == "egopw":
                continue
            published = None
            if measures == ("pa_mpjpe",) and row in PAPERS:
                published = PAPERS[row][data_set][1] - paper.RESULTS[data_set][1]
            ours = interval = "–"
            said = "not run here"
            if found and not all(measure in found["change"] for measure in measures):
                said = "no such joints here"
            elif found:
                changes = [found["change"][measure] for measure in measures]
                change = changes[0]
                ours, interval = f"{change['mean']:+.1f}", f"{change['low']:+.1f} to {change['high']:+.1f}"
                trainings = min(found["trainings"], measured[tables.base_of(tried)][data_set]["trainings"])
                said = verdict(changes, trainings, more_passes(measured, data_set, tried), row in UNEQUAL)
            rows.append(
                {
                    "claim": claim,
                    "row": tried if found else "–",
                    "tested on": title,
                    "without it, paper, real data (mm)": "–" if published is None else f"{published:+.1f}",
                    f"without it, ours, {data} (mm)": ours,
                    "its 95 % interval": interval,
                    "verdict": said,
                }
            )
    return rows


def errors(measured: dict, claims: bool) -> list[dict]:
    """metrics/ablations.json -> the errors of each row and data set, and their change from the full model.

    claims: whether they stand below claims, which are judged by PA-MPJPE, so that its change alone is shown.
    """

    def change(found, measure):
        if measure not in found.get("change", {}):
            return "–"
        return "{mean:+.1f} ({low:+.1f} to {high:+.1f})".format_map(found["change"][measure])

    return [
        {
            "row": row,
            "tested on": title,
            "MPJPE": found[data_set]["mpjpe_mm"],
            **({} if claims else {"change of MPJPE": change(found[data_set], "mpjpe")}),
            "PA-MPJPE": found[data_set]["pa_mpjpe_mm"],
            "its change": change(found[data_set], "pa_mpjpe"),
            "acceleration error": found[data_set].get("acceleration_mm", "–"),
            "MPJPE of joints not seen for over 32 frames": found[data_set].get("long_unseen_mm", "–"),
            "and its change": change(found[data_set], "long_unseen"),
        }
        for row, found in measured.items()
        for data_set, title in TITLES.items()
        if data_set in found
    ]


def by_unseen(measured: dict) -> list[dict]:
    """metrics/ablations.json -> the MPJPE of each row and data set by how long joints have not been seen, and its
    change with its interval."""

    def cell(found, part, mm):
        change = found.get("unseen_change", {}).get(part)
        return f"{mm:.1f}" + (" ({mean:+.1f}; {low:+.1f} to {high:+.1f})".format_map(change) if change else "")

    return [
        {"row": row, "tested on": title, **{part: cell(found[data_set], part, mm) for part, mm in parts.items()}}
        for row, found in measured.items()
        for data_set, title in TITLES.items()
        if (parts := found.get(data_set, {}).get("unseen_mm"))
    ]


def told(run: dict, settings: params.Settings) -> str:
    """What made the rows of one working copy, in words, from metrics/evaluation.run.json."""
    return (
        f"Measured with the profile `{settings.run.profile}`: {settings.prepare.size} px, "
        f"{tables.windows(settings.window)}, {settings.visual.backbone}; {in_words(run['machine'])}, torch "
        f"{run['versions']['torch']}."
    )


def main():
    settings = params.load(ROOT / "params.yaml")
    name, title, about = PAGES.get(settings.run.profile, ("claims.md", TITLE, ""))
    if about:
        found = json.loads((ROOT / "metrics/ablations.json").read_text())
        made = told(json.loads((ROOT / "metrics/evaluation.run.json").read_text()), settings)
    else:
        try:
            study = Study(ROOT)
        except PageError as error:
            sys.exit(str(error))
        found, made = tables.measured(study.results), study.told()
    counts = {name: max(e["trainings"] for e in sets.values()) for name, sets in found.items()}
    claims = table(found, tables.data_name(settings))
    if about:
        # These profiles are there for a part of them; the other page names what was not run.
        claims = [row for row in claims if row["verdict"] != "not run here"]
    learning, again = (
        [
            f"by {-change['mean']:.1f} mm ({-change['high']:.1f} to {-change['low']:.1f}) on {title}"
            for data_set, title in TITLES.items()
            if (change := more_passes(found, data_set, row)) and change["high"] < 0
        ]
        for row in ("full", "full_long")
    )
    page = ROOT / "docs" / name
    page.write_text(
        "\n".join(
            [
                f"# {title}\n",
                *([about] if about else []),
                (CHANGES if claims else "")
                + "Intervals are 95 % bootstraps over test people and trainings"
                + (f"; with fewer than {FEWEST} trainings nothing is decided." if claims else ".")
                + " What made the numbers stands [at the end](#how-it-was-measured).\n",
                *([LEARNING.format(" and ".join(learning)) + (JUDGED if claims else "")] if learning else []),
                *([AGAIN.format(counts["full_longer"], " and ".join(again))] if again else []),
                *([FRAMES] if learning and UNEQUAL & found.keys() else []),
                *([markdown(claims)] if claims else []),
                "## Errors of each row\n",
                "mm, means of its trainings; in brackets the 95 % interval of the change from the full model"
                + (" (of Tables 4 and 5 on twice the passes: from `full_long`)" if "full_long" in found else "")
                + "; the acceleration error in mm a frame squared."
                + "".join(f" {note}" for part, note in ROWS.items() if any(part in name for name in found))
                + "\n",
                markdown(errors(found, bool(claims))),
                *([UNSEEN, markdown(rows)] if about and claims and (rows := by_unseen(found)) else []),
                *([BEYOND] if claims else []),
                "## How it was measured\n",
                f"{made}\n",
                f"Trainings of each row: {', '.join(f'{name} {count}' for name, count in counts.items())}.\n",
            ]
        )
    )
    print("wrote", page.relative_to(ROOT))


# What a row's name, or a part of it, says.
ROWS = {
    "full_longer": "`full_longer`: on four times the passes; its change is from `full_long`.",
    "rays": "`rays`: this suite's decoder (`decoder.kind: rays`), which looks at windows of frames too.",
    "rays_one_frame": "`rays_one_frame`: the same without attention over time, so that frames meet in its filter "
    "alone; its change is from `rays`.",
    "rays_one_frame_long": "`rays_one_frame_long`: its change is from `rays_long`.",
    "_stature": "`_stature`: told how tall each test person is, as the labels say.",
    "_distances": "`_distances`: with those that the heatmap network gives.",
    "window_adaptive": "`window_adaptive`: nothing trained; each joint from the shortest of the three windows of which "
    "half reaches back to a frame in which its heatmap showed it.",
}
CHANGES = (
    "The change is how much larger PA-MPJPE is when the row lacks what the claim praises; for the lower body, how "
    "much more its MPJPE changes than the upper body's (to be confirmed, it must also be larger itself); for unseen "
    "joints, their MPJPE. "
)
HIDDEN = """On people whose limbs are hidden for long: in about half of each sequence's time, in training and in test,
legs are behind a tray, arms behind the back, or there is no light (`render.hidden_stretches`). Here context over time
has something to recover. All rows had twice the passes that single ones have in [claims.md](claims.md), where the
same claims stand on the plain data.
"""
DISTANCES = """What both decoders gain where the heatmap network says, beside where each joint is seen, how far away it
is (`heatmap.distances`, `decoder.distances`; agego_lib/models/heatmap.py): from the same maps and features, `full` and
`rays` read no distances, the other rows do. Heatmap networks started from a released model that gives them.
"""
TITLE = "The paper's claims, tested"
# Profiles with a page of their own, of rows that all were made in one working copy.
PAGES = {
    "hidden": ("claims-hidden.md", TITLE, HIDDEN),
    "distances": ("distances.md", "Distances from the heatmap network", DISTANCES),
}
LEARNING = """**On the single passes the full model was still learning**: on twice as many (`full_long`) its PA-MPJPE
falls {}. A row that errs less may only have learned faster.
"""
AGAIN = """On twice as many again (`full_longer`, trainings: {}) it falls {} further.
What holds where it ends, no row says.
"""
JUDGED = """So claims are judged by the rows on twice the passes where there are enough of those (`_long`), nothing else
is refuted here, and what is confirmed holds for the passes it had.
"""
FRAMES = """Of other windows, and of the transfer, nothing is confirmed either while it learns: in as many passes, T =
32 learns from more frames and T = 128 from fewer, as a sequence holds more short windows than long ones; SceneEgo alone
has fewer than both sets.
"""
UNSEEN = """## By how long a joint has not been seen

MPJPE, mm, means of the trainings, and in brackets its change, from the same rows as above; `reports/05_ablations.ipynb`
has it as a figure. Compare rows, not columns: of what is not seen for longest, two fifths are neck and hips, which the
wearer's own body mostly hides.
"""
BEYOND = """## What these data cannot say

- Their people, clothes, rooms and motions are made: how large a difference is on real people nobody can tell from here.
- The motion features were trained on the actions of the same data, not on Ego4D's: a better teacher could make the
  motion stream worth more.
- A rendered frame shows what its heatmap network was trained to find. Where real frames hide more, context may be worth
  more.
- Intervals are of this number of people and trainings; another processor rounds differently: one more training.
"""

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
