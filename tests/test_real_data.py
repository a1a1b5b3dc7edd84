"""04_evaluation on data as the published sets have it: frames missing, no action labels, nothing about visibility."""

import ast
import json
import shutil
from dataclasses import asdict

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from test_predict import WINDOW, trained  # noqa: F401, the fixture of a small trained model

from agego_lib.datasets import read_prepared
from agego_lib.datasets.features import store_features
from agego_lib.models.build import load_model

NUMBERS = {"egopw": [[*range(10), *range(30, 40)], [0, 2, 3, 5, 6]], "sceneego": [[*range(8), 20, 21, 23]]}
CALIBRATION = {"file": "fisheye.json", "sha256": "0123456789abcdef"}


@pytest.fixture
def evaluated(make_sequence, trained, raw_settings, project, tmp_path, monkeypatch, capsys, request):  # noqa: F811
    """A run of 04's cells in a small project on files -> (its folder, {cell: what it shows last}, what they print).

    The parameter says which actions EgoPW's frames are labelled with, if any.
    """
    root, tag = tmp_path / "suite", f"real{len(request.param or ())}"
    (root / "conf").mkdir(parents=True)
    raw_settings["window"] = asdict(WINDOW)
    raw_settings["dataset"]["source"] = "files"
    (root / "params.yaml").write_text(yaml.safe_dump(raw_settings))
    sequences = []
    for name, takes in NUMBERS.items():
        folder, splits = root / "artifacts/prepared" / name, {"train": [], "test": []}
        for split, listed in splits.items():
            (folder / split).mkdir(parents=True)
            for i, numbers in enumerate(takes):
                actions = request.param if name == "egopw" else None
                made = make_sequence(f"{tag}{split}{i}", numbers, dataset=name, actions=actions, split=split)
                shutil.copy(made.path, folder / split / f"{i}.h5")
                listed.append(f"{split}/{i}.h5")
        (folder / "splits.json").write_text(json.dumps({"splits": splits, "calibration": CALIBRATION}))
        sequences += [sequence for split in splits for sequence in read_prepared(folder, split)]
    for stage in ("pose", "finetune"):
        (root / "artifacts" / stage).mkdir()
        for suffix in (".safetensors", ".json"):
            shutil.copy(trained["model"].with_suffix(suffix), root / "artifacts" / stage / f"model{suffix}")
    store_features(root / "artifacts/features", load_model(trained["model"])[0], sequences, limit_gb=1)
    monkeypatch.setattr(go.Figure, "show", lambda figure: None)
    monkeypatch.chdir(root)
    space, shown = {}, {}
    for cell in nbformat.read(project / "notebooks/04_evaluation.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, cell.id, "exec"), space)
            shown[cell.id] = last and eval(compile(ast.Expression(last.value), cell.id, "eval"), space)
    return root, shown, capsys.readouterr().out


def title(figure):
    return figure.layout.title.text


@pytest.mark.parametrize("evaluated", [None], indirect=True)
def test_what_the_data_do_not_have_is_left_out_and_said(evaluated):
    root, shown, said = evaluated
    for name in ("EgoPW", "SceneEgo"):
        assert f"{name}: the data have no labels of joints hidden from view or actions" in said
        assert f"{name}: calibration fisheye.json, sha256 0123456789abcdef" in said
    assert "real data: both sets are read from files" in said and "no chart of actions" in said
    charts = [f for cell, f in shown.items() if isinstance(f, go.Figure) and cell != "04-fig1"]
    assert len(charts) == 4 and all(len(f.data) and "Hardest" not in title(f) for f in charts)
    table = shown["04-04"]
    assert {"ours, real data", "mean pose, real data", "paper, real data"} <= set(table.columns)
    assert not table["to fill the gap"].str.contains("the real").any()
    assert set(table["metric"]) == {"mpjpe_mm", "pa_mpjpe_mm", "ba_mpjpe_mm"}
    assert "action" not in {group for group, _ in shown["04-11"].index}
    # The line of errors over time is cut between frames 7 and 20, which no window spans.
    assert np.flatnonzero(np.isnan(shown["04-13"].data[0].y)).tolist() == [8]
    found = {str(p.relative_to(root / "artifacts/evaluation")) for p in (root / "artifacts/evaluation").rglob("*.npz")}
    assert found == {
        "egopw/egopw/test/real0test0.npz", "egopw/egopw/test/real0test1.npz",
        "transfer/sceneego/test/real0test0.npz", "sceneego/sceneego/test/real0test0.npz",
    }  # fmt: skip
    numbers = json.loads((root / "metrics/evaluation.json").read_text())
    assert not [part for part in numbers["egopw"]["parts"] if part.startswith("action")]
    assert numbers["egopw"]["mean_pose"]["ba_mpjpe_mm"] > 0


@pytest.mark.parametrize("evaluated", [["walk", None, "sit"]], indirect=True)
def test_labels_that_one_set_has_are_shown(evaluated):
    _, shown, said = evaluated
    assert "EgoPW: the data have no labels of joints hidden from view; what" in said
    assert "SceneEgo: the data have no labels of joints hidden from view or actions; what" in said
    assert title(shown["04-11b"]).startswith("Hardest: ") and "(EgoPW)" in title(shown["04-11b"])
    assert ("action", "walk") in shown["04-11"].index
