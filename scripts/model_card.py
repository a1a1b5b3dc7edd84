"""Write the figures of docs/model-card.md from what was measured, for maintainers: python scripts/model_card.py

Read are rendered.json, hard.json, real_frames.json and live.json in benchmarks/results/, and the released model's own
file. Results of another model are refused by its hash; what is not measured, the card says.
"""

import argparse
import sys
from pathlib import Path

from results_page import PageError, put

from agego_lib import params
from agego_lib.files import file_digest, read_json

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- figures: written by scripts/model_card.py -->\n", "<!-- end of figures -->\n"
NONE = "not measured yet"
RENDERED = "`python -m benchmarks.rendered`"
HARD = "`python -m benchmarks.hard`"
REAL = "`python -m benchmarks.real_frames FOLDER --out-json`"


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


def figures(root):
    """Rows of the card's table -> list of dicts. Raises PageError where results are of another model."""
    root = Path(root)
    model = root / params.RELEASED
    digest = file_digest(model) if model.is_file() else None
    rendered, hard, real, speed = (
        _results(root / f"benchmarks/results/{name}.json", lambda r: r["settings"]["model_sha256"], digest)
        for name in ("rendered", "hard", "real_frames", "live")
    )
    rows = []

    def row(what, measure, value, command):
        rows.append({"tested on": what, "measure": measure, "released model": value, "how": command})

    totals = {r["joints of"]: r for r in real["rows"] if r["group"] == "all"} if real else {}
    for what, joints in (("heatmaps", "joints of the heatmaps"), ("3D, projected", "3D joints, projected back")):
        total = totals.get(what)
        for px in (64, 32):
            value = f"{total[f'PCK at {px} px']:.2f} of {total['marked']} joints" if total else NONE
            row("real frames, marked by hand", f"{joints}, PCK at {px} px of 1024", value, REAL)
    measures = {
        "mpjpe_mm": "MPJPE (mm)",
        "pa_mpjpe_mm": "PA-MPJPE (mm)",
        "ba_mpjpe_mm": "BA-MPJPE (mm)",
        "acceleration_mm": "acceleration error (mm a frame squared)",
    }
    for n in rendered["rows"] if rendered else ({"set": name} for name in ("EgoPW-like", "SceneEgo-like")):
        told = ", told their stature" if n.get("stature") == "told" else ""
        mounts = ", mounts as in real frames" if n.get("mounts") == "as in real frames" else ""
        what = f"rendered test people, {n['set']}{mounts}{told}"
        for key, measure in measures.items():
            interval = f"{n[f'{key}, interval']}; " if f"{key}, interval" in n else ""
            guessed = n.get(f"{key}, of the stature alone")
            alone = f"; of the stature alone: {guessed:.1f}" if guessed else ""
            value = f"{n[key]:.1f} ({interval}mean pose: {n[f'{key}, mean pose']:.1f}{alone})" if rendered else NONE
            row(what, measure, value, RENDERED)
    for n in hard["rows"] if hard else ():
        if n["kind"] != "plain":
            what, change = f"the same people, {n['set']}, {n['kind']}", n["its change, MPJPE"]
            row(what, "MPJPE (mm), and its change", f"{n['MPJPE (mm)']}; {change}", HARD)
    rates = {t["what"]: t["measured"] for t in speed["targets"]} if speed else {}
    parts = {r["part"]: r["median (ms)"] for r in speed["rows"]} if speed else {}
    cores = f"{speed['machine']['cores']} CPU cores ({speed['machine']['cpu']})" if speed else "CPU"
    for measure, value in (
        ("`predict`, frames a second", rates.get("frames a second of predict")),
        ("`predict --overlay none`, frames a second", rates.get("frames a second of predict --overlay none")),
        ("live, median of a frame (ms)", parts.get("all")),
    ):
        row(cores, measure, f"{value:.0f}" if value else NONE, "`python -m benchmarks.live`")
    size = sum(p.stat().st_size for p in (model, model.with_suffix(".json"))) if digest else None
    row("", "size of the weights (MB)", f"{size / 1e6:.1f}" if size else "not packed yet", "`scripts/release.py`")
    return rows


def main():
    page = ROOT / "docs/model-card.md"
    try:
        put(page, START, END, figures(ROOT))
    except PageError as error:
        sys.exit(f"error: {error}")
    print("wrote", page.relative_to(ROOT))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
