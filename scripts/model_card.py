"""Write the figures of docs/model-card.md from what was measured, for maintainers: python scripts/model_card.py

Read are rendered.json, hard.json, real_frames.json and live.json in benchmarks/results/, and the released model's own
file. Results of another model are refused by its hash; what is not measured, the card says.
"""

import argparse
import sys
from pathlib import Path

from results_page import PageError, markdown, put

from agego_lib import params
from agego_lib.files import file_digest, read_json

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- figures: written by scripts/model_card.py -->\n", "<!-- end of figures -->\n"
NONE = "not measured yet"
ALONE, MEAN = "everybody taken for 1.75 m, all else right", "the training people's mean"
MEASURES = {
    "mpjpe_mm": "MPJPE (mm)",
    "pa_mpjpe_mm": "PA-MPJPE (mm)",
    "ba_mpjpe_mm": "BA-MPJPE (mm)",
    "acceleration_mm": "acceleration error (mm a frame squared)",
}


def _results(path, digest_of, digest):
    """A JSON of results, or None where there is none. Raises PageError where it is of another model."""
    try:
        results = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PageError(f"{path}: not readable as results ({error}); measure again") from None
    try:
        found = digest_of(results)
    except (KeyError, TypeError):
        raise PageError(f"{path}: does not say which model it is of; measure again") from None
    if found != digest:
        raise PageError(f"{path}: of the model {found}, the released one is {digest}; measure again, or remove it")
    return results


def _of_real_frames(real):
    """Which share of the marked joints is found, by the heatmaps and by the poses projected back."""
    totals = {r["joints of"]: r for r in real["rows"] if r["group"] == "all"} if real else {}
    rows = []
    for what, label in (("heatmaps", "heatmaps"), ("3D, projected", "3D poses, projected back")):
        total = totals.get(what)
        shares = {f"within {px} px of 1024": f"{total[f'PCK at {px} px']:.2f}" if total else NONE for px in (64, 32)}
        rows.append({"joints of": label, "marked": total["marked"] if total else "–"} | shares)
    return rows


def _of_rendered_people(rendered):
    """For each set and kind of mount: the model, it told the stature, and what knowing less would give."""
    if not rendered:
        return [{"people": "EgoPW-like and SceneEgo-like"} | dict.fromkeys(MEASURES.values(), NONE)]
    found = {}
    for n in rendered["rows"]:
        poses = found.setdefault((n["set"], n["mounts"]), {})
        poses["the model, told the stature" if n["stature"] == "told" else "the model"] = {
            key: f"{n[key]:.1f}" + (f" ({n[f'{key}, interval']})" if f"{key}, interval" in n else "")
            for key in MEASURES
        }
        if n["stature"] != "told" and "mpjpe_mm, of the stature alone" in n:
            poses[ALONE] = {"mpjpe_mm": f"{n['mpjpe_mm, of the stature alone']:.1f}"}
        poses[MEAN] = {key: f"{n[f'{key}, mean pose']:.1f}" for key in MEASURES}
    order = ["the model", "the model, told the stature", ALONE, MEAN]
    return [
        {"people": people, "camera mounts": mounts, "poses": what}
        | {title: poses[what].get(key, "–") for key, title in MEASURES.items()}
        for (people, mounts), poses in found.items()
        for what in order
        if what in poses
    ]


def _of_speed(speed, model):
    """How fast the model is, and how large its files are."""
    rates = {t["what"]: t["measured"] for t in speed["targets"]} if speed else {}
    parts = {r["part"]: r["median (ms)"] for r in speed["rows"]} if speed else {}
    measured = {
        "`predict`, frames a second": rates.get("frames a second of predict"),
        "`predict --overlay none`, frames a second": rates.get("frames a second of predict --overlay none"),
        "live, median of a frame (ms)": parts.get("all"),
    }
    rows = [{"measure": name, "value": f"{value:.0f}" if value else NONE} for name, value in measured.items()]
    size = sum(p.stat().st_size for p in (model, model.with_suffix(".json"))) if model.is_file() else None
    return [*rows, {"measure": "weights (MB)", "value": f"{size / 1e6:.1f}" if size else "not packed yet"}]


def figures(root):
    """What gave them -> rows of that table. Raises PageError where results are of another model."""
    root = Path(root)
    model = root / params.RELEASED
    digest = file_digest(model) if model.is_file() else None
    rendered, hard, real, speed = (
        _results(root / f"benchmarks/results/{name}.json", lambda r: r["settings"]["model_sha256"], digest)
        for name in ("rendered", "hard", "real_frames", "live")
    )
    tables = {
        "Real frames, marked by hand (`python -m benchmarks.real_frames FOLDER --out-json`)": _of_real_frames(real),
        "Rendered test people (`python -m benchmarks.rendered`)": _of_rendered_people(rendered),
    }
    if hard:
        tables["The same people, the mounts that never train, with harder frames (`python -m benchmarks.hard`)"] = [
            {"people": n["set"], "frames with": n["kind"]}
            | {name: n[name] for name in ("MPJPE (mm)", "its change, MPJPE", "PA-MPJPE (mm)", "its change, PA-MPJPE")}
            for n in hard["rows"]
            if n["kind"] != "plain"
        ]
    machine = f", {speed['machine']['cores']} CPU cores ({speed['machine']['cpu']})" if speed else ""
    tables[f"Speed (`python -m benchmarks.live`{machine}) and size"] = _of_speed(speed, model)
    return tables


def told(tables):
    """The tables below each other, as Markdown."""
    return "\n".join(f"{what}:\n\n{markdown(rows)}" for what, rows in tables.items())


def main():
    page = ROOT / "docs/model-card.md"
    try:
        put(page, START, END, told(figures(ROOT)))
    except PageError as error:
        sys.exit(f"error: {error}")
    print("wrote", page.relative_to(ROOT))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
