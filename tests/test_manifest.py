"""What is written beside the metrics, and what a failure leaves: manifests, whole files, one line about a run."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from agego_lib.evaluation import manifest, save_poses, write_metrics
from agego_lib.files import read_text, replacing, write_json
from agego_lib.models import WeightsError, weights


@pytest.fixture
def place(tmp_path, project, monkeypatch):
    """A small project of its own under git, with a prepared set."""
    folder = tmp_path / "suite"
    (folder / "conf").mkdir(parents=True)
    for name in ("params.yaml", ".gitignore", "data.dvc"):
        (folder / name).write_text((project / name).read_text())
    (folder / "artifacts/prepared/egopw").mkdir(parents=True)
    splits = {"splits": {"train": ["a.h5"]}, "content": {"a.h5": "0" * 64}, "report": {"failed": "/some/where"}}
    (folder / "artifacts/prepared/egopw/splits.json").write_text(json.dumps(splits))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "first")
    return folder


def git(folder, *arguments):
    return subprocess.run(("git", *arguments), cwd=folder, check=True, capture_output=True, text=True).stdout


def read(path):
    return json.loads(path.read_text())


def test_two_runs_of_the_same_differ_in_nothing_but_the_time(place):
    path = place / "metrics/ablate/full.json"
    write_metrics(path, {"mpjpe_mm": 1.5})
    first, numbers = read(path.with_suffix(".run.json")), path.read_bytes()
    write_metrics(path, {"mpjpe_mm": 1.5})
    second = read(path.with_suffix(".run.json"))
    assert path.read_bytes() == numbers and read(path) == {"mpjpe_mm": 1.5}
    assert manifest.differences(first, second) == {} and first.keys() == second.keys()
    assert set(manifest.differences(first, {**second, "written": "then"}, ignore=())) == {"written"}
    # Git sees the numbers, not the manifest, and the numbers make no run "dirty".
    assert git(place, "status", "--porcelain", "-uall").splitlines() == ["?? metrics/ablate/full.json"]
    assert second["code"]["dirty"] == {} and second["code"]["commit"] == git(place, "rev-parse", "HEAD").strip()


def test_what_is_in_it(place, raw_settings):
    found = manifest.manifest(place)
    raw = yaml.safe_load((place / "params.yaml").read_text())
    assert found["seed"] == raw["seed"] and json.loads(json.dumps(found["settings"])) == raw
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0] and found["versions"]["numpy"] == np.__version__
    )
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["machine"]["cores"] >= 1 and found["machine"]["memory_gb"] > 0 and found["machine"]["cpu"]
    assert found["data"]["raw"] == yaml.safe_load((place / "data.dvc").read_text())["outs"][0]["md5"]
    json.dumps(found, allow_nan=False)


def test_what_differs_is_named(place, settings):
    first = manifest.manifest(place)
    (place / "params.yaml").write_text((place / "params.yaml").read_text().replace("max_gap: 10", "max_gap: 11"))
    (place / "mine.py").write_text("x = 1\n")
    splits = place / "artifacts/prepared/egopw/splits.json"
    splits.write_text(splits.read_text().replace("/some/where", "/else/where"))
    changed = manifest.manifest(place)
    assert manifest.differences(first, changed).keys() == {
        "settings.window.max_gap", "settings_hash", "code.dirty", "code.dirty.mine.py", "code.dirty.params.yaml",
    }  # fmt: skip
    assert manifest.differences(first, changed)["settings.window.max_gap"] == (10, 11)
    (place / "mine.py").write_text("x = 2\n")
    splits.write_text(splits.read_text().replace("0" * 64, "1" * 64))
    assert manifest.differences(changed, manifest.manifest(place)).keys() == {"code.dirty.mine.py", "data.egopw"}


def test_real_data_are_known_by_what_was_read(place, settings):
    """data.dvc is of the embedded data: a run on files says their fingerprints, and each set's calibration."""
    real = dataclasses.replace(settings, dataset=dataclasses.replace(settings.dataset, source="files"))
    splits = place / "artifacts/prepared/egopw/splits.json"
    assert manifest.manifest(place, real)["data"]["raw"].startswith("unknown: FileNotFoundError")
    assert manifest.manifest(place, real)["data"]["calibration"] == {"egopw": "unknown: not in splits.json"}
    used = {"file": "fisheye.json", "sha256": "0123456789abcdef"}
    splits.write_text(json.dumps(read(splits) | {"calibration": used}))
    inputs = {
        "source": "files",
        "egopw": {"fingerprint": "a" * 16, "frames": 9},
        "sceneego": {"fingerprint": "b" * 16},
    }
    write_json(place / "artifacts/inputs/data.json", inputs)
    found = manifest.manifest(place, real)["data"]
    assert found["raw"] == {"egopw": "a" * 16, "sceneego": "b" * 16} and found["calibration"] == {"egopw": used}
    # One run on other files, or with another calibration, differs from it by name.
    splits.write_text(json.dumps(read(splits) | {"calibration": used | {"sha256": "f" * 16}}))
    write_json(place / "artifacts/inputs/data.json", inputs | {"egopw": {"fingerprint": "c" * 16}})
    other = manifest.manifest(place, real)["data"]
    assert manifest.differences({"data": found}, {"data": other}).keys() == {
        "data.raw.egopw", "data.calibration.egopw.sha256",
    }  # fmt: skip
    # Of the run before, on other data; and damaged.
    for wrong in (inputs | {"source": "synthetic"}, {"source": "files", "egopw": {}}, []):
        write_json(place / "artifacts/inputs/data.json", wrong)
        assert manifest.manifest(place, real)["data"]["raw"].startswith("unknown: ")
    assert manifest.manifest(place)["data"]["raw"] == yaml.safe_load((place / "data.dvc").read_text())["outs"][0]["md5"]


def test_settings_of_a_row_are_those_that_it_ran_with(place, settings):
    row = dataclasses.replace(settings, seed=7)
    write_metrics(place / "metrics/a.json", {}, row)
    found = read(place / "metrics/a.run.json")
    assert found["seed"] == found["settings"]["seed"] == 7
    assert found["settings_hash"] != manifest.manifest(place, settings)["settings_hash"]


@pytest.mark.parametrize("case", ["no repository", "no git", "no project", "wrong settings", "not prepared"])
def test_what_is_not_known_is_said(place, tmp_path, monkeypatch, case):
    root = place
    if case == "no repository":
        (place / ".git").rename(tmp_path / "away")
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    elif case == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif case == "no project":
        root = tmp_path / "elsewhere"
    elif case == "wrong settings":
        (place / "params.yaml").write_text("seed: -1\n")
    else:
        (place / "artifacts/prepared/egopw/splits.json").write_text("{}")
    write_metrics(root / "metrics/a.json", {"n": 1})
    found = read(root / "metrics/a.run.json")
    assert read(root / "metrics/a.json") == {"n": 1} and found["versions"]["torch"]
    if case in ("no repository", "no git"):
        assert found["code"]["commit"] is None and found["code"]["note"].startswith("no git: ")
        assert len(found["code"]["library"]) == 16
    elif case == "no project":
        assert found["code"]["note"] == "outside of a project" and found["settings"] is found["data"] is None
    elif case == "wrong settings":
        assert found["settings"].startswith("params.yaml: ") and found["seed"] is None
    else:
        assert found["data"]["egopw"].startswith("unknown: KeyError")


# --- whole or not at all -------------------------------------------------------------------------------------------


def test_what_fails_in_the_middle_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep/a.txt"
    with replacing(path) as partial:
        partial.write_text("first")
    for error in (KeyboardInterrupt, ValueError, OSError(28, "No space left on device")):
        with pytest.raises(error if isinstance(error, type) else OSError), replacing(path) as partial:
            partial.write_text("half")
            raise error
        assert path.read_text() == "first" and os.listdir(path.parent) == ["a.txt"]
    with pytest.raises(OSError, match=r"a\.txt: could not be written \(.*No space left"), replacing(path):
        raise OSError(28, "No space left on device")
    with pytest.raises(ValueError):
        write_json(path, {"a": float("inf")})
    assert read_text(path) == "first"


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_who_may_read_a_file_is_what_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("")
        weights.save(tmp_path / "w.safetensors", torch.nn.Linear(3, 3), {})
        save_poses(tmp_path / "p.npz", [np.zeros((1, 15, 3))])
        # What a process that was killed had begun.
        (tmp_path / ".a.json.part").touch(0o600)
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["plain", "w.safetensors", "w.json", "p.npz", "a.json"], 0o666 & ~umask)


def test_a_file_system_without_modes_can_be_written_to_and_nothing_written_is_an_error(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    write_json(tmp_path / "a.json", {})
    assert read_text(tmp_path / "a.json") == "{}\n"
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "b.json"):
        pass
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("stopped_at", ["w.safetensors", "w.json"])
def test_weights_never_stand_beside_the_settings_of_others(tmp_path, monkeypatch, stopped_at):
    """Killed at either of the two renames: what is there is the old pair, or refused."""
    path = tmp_path / "w.safetensors"
    weights.save(path, torch.nn.Linear(3, 3), {"run": "first"})
    rename = Path.replace

    def killed(self, target):
        if Path(target).name == stopped_at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        weights.save(path, torch.nn.Linear(3, 3), {"run": "second"})
    with pytest.raises(WeightsError, match=r"w\.json, the settings of"):
        weights.load(path)
    monkeypatch.undo()
    weights.save(path, torch.nn.Linear(3, 3), {"run": "third"})
    assert weights.load(path)[1] == {"run": "third"}


def test_half_written_poses_have_no_name_that_anyone_looks_for(tmp_path, monkeypatch):
    def interrupted(file, **_):
        file.write(b"half")
        assert not list(tmp_path.glob("*.npz")) and len(os.listdir(tmp_path)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_poses(tmp_path / "egopw.npz", [np.zeros((2, 15, 3))])
    assert not list(tmp_path.iterdir())
