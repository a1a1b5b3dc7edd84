"""The model card's figures are those of the released file, or said to be missing; none of another model."""

import json

import model_card
import pytest
from model_card import END, NONE, START, figures, told
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
    harder = {"set": "SceneEgo-like", "MPJPE (mm)": "60.0 (50.0 to 70.0)", "its change, MPJPE": "+10.0 (+5.0 to +15.0)"}
    harder |= {"PA-MPJPE (mm)": "45.0 (40.0 to 50.0)", "its change, PA-MPJPE": "+4.0 (+1.0 to +7.0)"}
    hard = {
        "settings": {"model_sha256": digest},
        "rows": [harder | {"kind": kind} for kind in ("plain", "hidden stretches")],
    }
    (tmp_path / "benchmarks/results/hard.json").write_text(json.dumps(hard))
    return tmp_path


def test_figures_are_those_that_were_measured(root):
    found = figures(root)
    real, rendered, hard, speed = (
        next(rows for what, rows in found.items() if part in what) for part in ("Real", "Rendered", "harder", "Speed")
    )
    changes = ["60.0 (50.0 to 70.0)", "+10.0 (+5.0 to +15.0)", "45.0 (40.0 to 50.0)", "+4.0 (+1.0 to +7.0)"]
    assert [list(row.values()) for row in hard] == [["SceneEgo-like", "hidden stretches", *changes]]
    assert [list(row.values()) for row in real] == [
        ["heatmaps", 25, "0.96", "0.50"], ["3D poses, projected back", 25, "0.96", "0.50"]
    ]  # fmt: skip
    never, near = ("SceneEgo-like", "never trained"), ("SceneEgo-like", "as in real frames")
    by_key = {tuple(row.values())[:3]: list(row.values())[3:] for row in rendered}
    assert by_key[*never, "the model"] == ["50.0", "51.0 (40.0 to 60.0)", "52.0", "53.0"]
    assert by_key[*never, "the model, told the stature"][0] == "40.0"
    assert by_key[*never, "everybody taken for 1.75 m, all else right"] == ["43.8", "–", "–", "–"]
    assert by_key[*never, "the training people's mean"] == ["200.0"] * 4
    assert by_key[*near, "the model"][0] == "30.0" and len(by_key) == 6
    assert [tuple(row.values()) for row in speed] == [
        ("`predict`, frames a second", "30"),
        ("`predict --overlay none`, frames a second", "45"),
        ("live, median of a frame (ms)", "42"),
        ("weights (MB)", "3.0"),
    ]
    assert any("2 CPU cores (Some)" in what for what in found) and NONE not in told(found)


def test_what_is_not_measured_is_said(tmp_path):
    text = told(figures(tmp_path))
    assert text.count(NONE) == 2 * 2 + 4 + 3 and "not packed yet" in text


@pytest.mark.parametrize(
    "name", [f"benchmarks/results/{name}.json" for name in ("rendered", "hard", "real_frames", "live")]
)
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
        put(page, START, END, told(figures(root)))
        text = page.read_text()
        assert text.startswith(before + START) and text.endswith(END + after) and text.count("| 0.96 | 0.50 |") == 2
    page.write_text("nothing")
    with pytest.raises(PageError, match=r"card\.md: no place for figures"):
        put(page, START, END, "")
    assert model_card.ROOT == project


def test_the_card_has_the_figures_of_the_released_model(project):
    assert told(figures(project)) in (project / "docs/model-card.md").read_text()
