"""The model card's figures are those of the released file, or said to be missing; none of another model."""

import json

import model_card
import pytest
from model_card import END, NONE, START, figures
from results_page import PageError, put

from agego_lib.files import file_digest
from agego_lib.params import RELEASED


@pytest.fixture
def root(tmp_path):
    """A project's folder with a released model and results of it."""
    model = tmp_path / RELEASED
    model.parent.mkdir()
    model.write_bytes(b"w" * 3_000_000)
    model.with_suffix(".json").write_text("{}")
    digest = file_digest(model)
    measures = ("mpjpe_mm", "pa_mpjpe_mm", "ba_mpjpe_mm", "acceleration_mm")
    numbers = {k: 50.04 + i for i, k in enumerate(measures)} | {f"{k}, mean pose": 200.0 for k in measures}
    numbers["pa_mpjpe_mm, interval"] = "40.0 to 60.0"
    row = {"set": "SceneEgo-like", "mounts": "never trained", "stature": "estimated", **numbers}
    rows = [row, row | {"stature": "told", "mpjpe_mm": 40.0}, row | {"mounts": "as in real frames", "mpjpe_mm": 30.0}]
    row["mpjpe_mm, of the stature alone"] = 43.84
    rendered = {"settings": {"model_sha256": digest}, "rows": rows}
    rows = [
        {"joints of": what, "group": group, "marked": 25, "PCK at 64 px": 0.961, "PCK at 32 px": 0.5}
        for what in ("heatmaps", "3D, projected")
        for group in ("hips", "all")
    ]
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/rendered.json").write_text(json.dumps(rendered))
    real = {"settings": {"model_sha256": digest}, "rows": rows}
    (tmp_path / "benchmarks/results/real_frames.json").write_text(json.dumps(real))
    live = {
        "settings": {"model_sha256": digest},
        "machine": {"cores": 2, "cpu": "Some"},
        "rows": [{"part": "view", "median (ms)": 1.0}, {"part": "all", "median (ms)": 41.6}],
        "targets": [
            {"what": "frames a second of predict", "measured": 30.2},
            {"what": "frames a second of predict --overlay none", "measured": 44.9},
        ],
    }
    (tmp_path / "benchmarks/results/live.json").write_text(json.dumps(live))
    return tmp_path


def test_figures_are_those_that_were_measured(root):
    found = {(r["tested on"], r["measure"]): r["released model"] for r in figures(root)}
    assert found["real frames, marked by hand", "joints of the heatmaps, PCK at 64 px of 1024"] == "0.96 of 25 joints"
    untold = found["rendered test people, SceneEgo-like", "MPJPE (mm)"]
    assert untold == "50.0 (mean pose: 200.0; of the stature alone: 43.8)"
    aligned = found["rendered test people, SceneEgo-like", "PA-MPJPE (mm)"]
    assert aligned == "51.0 (40.0 to 60.0; mean pose: 200.0)"
    assert found["rendered test people, SceneEgo-like, told their stature", "MPJPE (mm)"] == "40.0 (mean pose: 200.0)"
    near = found["rendered test people, SceneEgo-like, mounts as in real frames", "MPJPE (mm)"]
    assert near == "30.0 (mean pose: 200.0)"
    assert found["", "size of the weights (MB)"] == "3.0"
    assert found["2 CPU cores (Some)", "`predict`, frames a second"] == "30"
    assert found["2 CPU cores (Some)", "`predict --overlay none`, frames a second"] == "45"
    assert found["2 CPU cores (Some)", "live, median of a frame (ms)"] == "42"
    assert NONE not in found.values()


def test_what_is_not_measured_is_said(tmp_path):
    values = [r["released model"] for r in figures(tmp_path)]
    assert values == [NONE] * (len(values) - 1) + ["not packed yet"] and len(values) == 16


@pytest.mark.parametrize("name", [f"benchmarks/results/{name}.json" for name in ("rendered", "real_frames", "live")])
def test_figures_of_another_model_are_refused(root, name):
    text = (root / name).read_text()
    (root / name).write_text(text.replace(file_digest(root / RELEASED), "0" * 16))
    with pytest.raises(PageError, match=f"{name}: of the model 0000000000000000, the released one is"):
        figures(root)
    for broken in ("[]", "{}", "{"):
        (root / name).write_text(broken)
        with pytest.raises(PageError, match=f"{name}: .*; measure again"):
            figures(root)


def test_the_page_keeps_its_words(root, project):
    page = root / "card.md"
    page.write_text((project / "docs/model-card.md").read_text())
    before, after = page.read_text().split(START)[0], page.read_text().split(END)[1]
    for _ in range(2):
        put(page, START, END, figures(root))
        text = page.read_text()
        assert text.startswith(before + START) and text.endswith(END + after) and text.count("0.96 of 25 joints") == 2
    page.write_text("nothing")
    with pytest.raises(PageError, match=r"card\.md: no place for figures"):
        put(page, START, END, [])
    assert model_card.ROOT == project
