"""01_data_preparation on data sets as published, which have no actions, no visibility, and labels of their own.

The pipeline's tests run it on the embedded data; here its code runs without data/ beside it.
"""

import json
import shutil

import cv2
import nbformat
import numpy as np
import pytest
import yaml
from test_bad_input import Layout
from test_image_circle import picture

from agego_lib.datasets import read_prepared


def code(project):
    """The notebook's code."""
    cells = nbformat.read(project / "notebooks/01_data_preparation.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("seen", [True, False])
def test_it_runs_on_data_as_published(tmp_path, monkeypatch, project, raw_settings, capsys, seen):
    shutil.copytree(project / "conf", tmp_path / "conf")
    raw_settings["dataset"] = yaml.safe_load((project / "conf/dataset/egopw.yaml").read_text())
    for kind, name in (("egopw", "EgoPW"), ("sceneego", "SceneEgo")):
        data, place = Layout(tmp_path / "datasets" / name, kind), raw_settings["dataset"][kind]
        shutil.copy(data.calibration, tmp_path / place["calibration"])
        place |= {key: f"datasets/{name}/{key[:-5]}.txt" for key in ("train_list", "test_list")}
        if seen:
            for number, path in enumerate(sorted(data.root.rglob("*.jpg"))):
                cv2.imwrite(str(path), picture((56, 40), 30.0, (96, 80), seed=number))
    data.annotations.unlink()
    (data.root / "good1" / "imgs" / "cover.jpg").write_bytes(b"")
    raw_settings["prepare"] |= {"workers": 1, "max_skipped": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw_settings))
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "prepare")  # a bar of text
    scope = {}
    if seen:
        with pytest.warns(UserWarning, match="may be of another camera"):
            exec(compile(code(project), "01_data_preparation", "exec"), scope)
    else:
        exec(compile(code(project), "01_data_preparation", "exec"), scope)
    said = capsys.readouterr()
    metrics = json.loads((tmp_path / "metrics/prepare.json").read_text())
    assert metrics["egopw"]["train_frames"] == 20 and metrics["sceneego"]["failed_sequences"] == 1
    assert len(read_prepared(tmp_path / "artifacts/prepared/sceneego", "train")) == 1
    # Random labels: said, not refused.
    assert "2D and 3D labels lie apart in 3 sequences" in said.out
    assert ("WARNING: fisheye.calibration.json may be of another camera" in said.out) == seen
    assert "no annotation file" in said.out and "cover.jpg" in said.out
    assert "60/60" in said.err  # the bar's total: all frames on disk
    assert np.array_equal([len(scope["left_out"]), len(scope["failed"])], [0, 1])
