"""EgoPW and SceneEgo as published, from preparation to the tables, by the README's commands: a miniature of both.

Every sequence of the published lists with a few small frames, the same names in both splits of SceneEgo, no action
labels, no visibility, ResNet files where torchvision keeps them and an Ego4D-like checkpoint.
"""

import json
import os
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
import yaml
from published import write_actionformer, write_data_sets, write_imagenet
from refresh_notebooks import Copy
from test_pipeline import running

from agego_data.synthetic import render_datasets
from agego_lib.datasets import read_prepared
from agego_lib.images import to_tensor
from agego_lib.models import AGEgoPose
from agego_lib.models.build import frame_encoder, load_heatmap_net
from agego_lib.params import VisualSettings

FRAMES = {("egopw", "train"): 4, ("egopw", "test"): 5, ("sceneego", "train"): 8, ("sceneego", "test"): 6}
# The paper profile's own settings, but for sizes; one row of each kind that reads other files than the full model.
SMALL = (
    "prepare.size=64", "heatmap.fpn_channels=[8,8,8,8]", "heatmap.optimiser.epochs=1", "window.length=4",
    "window.stride=2", "motion.depth=2", "motion.local_blocks=1", "motion.checkpoint_blocks=[stem.1,branch.0]",
    "pose.epochs=1", "finetune.epochs=1", "engine.accelerator=cpu", "engine.workers=0", "engine.threads=1",
    "prepare.workers=2", "ablation.rows=[no_motion]", "ablation.heatmap_losses=[]", "ablation.baselines=[nearest]",
)  # fmt: skip


class Published(Copy):
    """A fresh clone with the data linked at datasets/, and weights where the settings look for them."""

    def __init__(self, folder, raw):
        super().__init__(folder / "project")
        self.data = folder / "disk"
        write_data_sets(raw, self.data, self.folder / "conf/splits", FRAMES)
        (self.folder / "datasets").symlink_to(self.data)
        write_actionformer(self.folder / "weights/actionformer_ego4d.pth.tar")
        write_imagenet(folder / "torch/hub")
        self.environment["TORCH_HOME"] = str(folder / "torch")

    def configure(self, *settings):
        return self.run("python", "scripts/configure.py", *settings)

    def settings(self):
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def stale(self):
        """Stages that another look at the data and weights would run again."""
        self.run("dvc", "repro", "preflight")
        status = json.loads(self.run("dvc", "status", "--json").stdout)
        # The embedded data's sources and the released weights are not here.
        return {stage for stage, why in status.items() if why != ["always changed"]} - {"data.dvc", "released.dvc"}


@pytest.fixture(scope="module")
def published(project, tmp_path_factory, warm):
    """(the clone after its first run, what the run printed)."""
    raw = tmp_path_factory.mktemp("rendered")
    chosen = {"egopw_train": (2, 1), "egopw_test": (1, 1), "sceneego_train": (1, 1), "sceneego_test": (1, 1)}
    render_datasets(project / "data", raw, seed=0, scale=0.25, frames_per_sequence=24, workers=1, **chosen)
    copy = Published(tmp_path_factory.mktemp("published"), raw)
    copy.environment |= warm
    copy.configure("dataset=egopw", "profile=paper", *SMALL)
    done = copy.run("dvc", "repro")
    copy.commit("first run")
    yield copy, done
    shutil.rmtree(copy.folder.parent, ignore_errors=True)


@pytest.fixture
def clone(published):
    """The clone; whatever a test changes there, on its disk included, is put back."""
    copy, _ = published
    kept = copy.folder.parent / "kept"
    shutil.copytree(copy.data, kept, copy_function=os.link)
    weights = {path: path.read_bytes() for path in (copy.folder / "weights").iterdir()}
    yield copy
    shutil.rmtree(copy.data)
    kept.rename(copy.data)
    for path, content in weights.items():
        path.write_bytes(content)
    copy.run("git", "checkout", "-q", "--", ".")


def test_all_of_it_runs(published):
    copy, done = published
    stages = {"preflight", "code", "prepare", "heatmap", "features", "motion", "pose", "finetune", "evaluate"}
    assert running(done.stdout) == stages | {"ablate@no_motion", "baseline@nearest", "ablations"}
    numbers = json.loads((copy.folder / "metrics/ablations.json").read_text())
    assert set(numbers) == {"full", "no_motion", "baseline_nearest"}
    assert set(numbers["full"]) == {"egopw", "sceneego"}
    prepared = json.loads((copy.folder / "metrics/prepare.json").read_text())
    lists = {name: (copy.folder / f"conf/splits/{name}.txt").read_text().split() for name in
             ("train_egopw", "test_egopw", "train_sceneego", "test_sceneego")}  # fmt: skip
    assert [len(names) for names in lists.values()] == [47, 39, 5, 4]
    for kind, split in FRAMES:
        assert prepared[kind][f"{split}_frames"] == FRAMES[kind, split] * len(lists[f"{split}_{kind}"])
    # The blocks are the checkpoint's, and nothing of git's changed but what a run writes.
    assert json.loads((copy.folder / "metrics/motion.json").read_text()) == {"trained_here": False}
    assert not copy.run("git", "ls-files", "datasets", "weights").stdout


def test_a_second_run_has_nothing_to_do(clone):
    assert running(clone.run("dvc", "repro").stdout) == {"preflight"}
    done = clone.run("python", "scripts/pipeline.py")
    assert "Data and pipelines are up to date." in done.stdout and not running(done.stdout + done.stderr)


def test_every_sequence_has_its_own_features(clone):
    """Computed anew from each sequence's frames: the data sets use the same names in both splits."""
    artifacts = clone.folder / "artifacts"
    net = load_heatmap_net(artifacts / "heatmap/heatmap_net.safetensors")
    resnet = clone.folder.parent / "torch/hub/checkpoints/resnet50-0676ba61.pth"
    model = AGEgoPose(net, frame_encoder(VisualSettings("resnet50", str(resnet)), net)).eval()
    counts, files = Counter(), set()
    for kind, split in FRAMES:
        group = read_prepared(artifacts / "prepared" / kind, split)
        # All of SceneEgo, and every tenth of EgoPW.
        for sequence in group if kind == "sceneego" else group[::10]:
            path = artifacts / "features" / f"{sequence.key}.h5"
            with torch.inference_mode():
                fresh = model.frozen_features(to_tensor(sequence.images(slice(None))))
            with h5py.File(path) as file:
                for name, value in fresh.items():
                    np.testing.assert_allclose(file[name][:].astype(np.float32), value, atol=2e-3, rtol=2e-3)
            files.add(path)
            counts[sequence.name] += 1
    assert {name for name, count in counts.items() if count == 2} == {"diogo1", "diogo2", "jian1", "jian2"}
    assert len(files) == sum(counts.values())


def test_one_setting_changes_and_the_rest_stays(clone):
    """`dvc exp run -S`: data set, profile and own changes hold, and only what depends on the setting runs."""
    before = clone.settings()
    wanted = before | {"motion": before["motion"] | {"drop_path": 0.2}}
    done = clone.run("dvc", "exp", "run", "-S", "motion.drop_path=0.2", "motion")
    assert running(done.stdout) == {"preflight", "motion"}
    assert clone.settings() == wanted != before
    # Neither a plain run nor the tables go back to anything.
    clone.run("dvc", "exp", "run", "preflight")
    assert clone.settings() == wanted
    clone.configure("tables=all")
    now = clone.settings()
    assert now["run"] == {"dataset": "egopw", "profile": "paper", "tables": "all"}
    tables = ("run", "ablation")
    assert {k: v for k, v in now.items() if k not in tables} == {k: v for k, v in wanted.items() if k not in tables}


def test_a_group_named_to_dvc_is_refused(clone):
    done = clone.run("dvc", "exp", "run", "-S", "dataset=synthetic", check=False)
    assert done.returncode and "scripts/configure.py dataset=" in done.stdout + done.stderr
    assert not running(done.stdout) - {"preflight", "code"}
    assert clone.run("dvc", "exp", "run", "-S", "profile=quick", check=False).returncode


def test_a_change_of_what_is_read_runs_again(clone):
    """Of the data (each kind: test_preflight.py) and of weights."""
    assert not clone.stale()
    path = clone.folder / "conf/splits/train_egopw.txt"
    path.write_text("\n".join(path.read_text().split()[:-1]))
    write_actionformer(clone.folder / "weights/actionformer_ego4d.pth.tar", seed=1)
    assert clone.stale() >= {"prepare", "motion"}


def test_all_that_is_missing_is_said_at_once(clone):
    """Before the first stage: nothing is computed, and one look mends it all."""
    shutil.rmtree(clone.data / "EgoPW/chao/out")
    (clone.data / "SceneEgo/test/jian1/local_pose_gt.pkl").unlink()
    (clone.data / "EgoPW/fisheye.calibration.json").unlink()
    (clone.folder / "weights/actionformer_ego4d.pth.tar").unlink()
    clone.environment["TORCH_HOME"], home = str(clone.folder / "nowhere"), clone.environment["TORCH_HOME"]
    try:
        clone.configure("pose.batch_size=1000000")
        for command in (("dvc", "repro"), ("python", "scripts/pipeline.py")):
            done = clone.run(*command, check=False)
            assert done.returncode and not running(done.stdout) - {"preflight", "code"}
            for part in (
                "chao/out", "local_pose_gt.pkl or annotation.pkl", "dataset.egopw.calibration",
                "motion.checkpoint: no file", "actionformer_release", "motion.checkpoint=null",
                "heatmap.init", "visual.init", "resnet50-0676ba61.pth", "lower pose.batch_size",
            ):  # fmt: skip
                assert part in done.stdout + done.stderr, part
    finally:
        clone.environment["TORCH_HOME"] = home


def test_from_embedded_to_real_data_nothing_is_taken_over_silently(clone):
    """The embedded data's sources are not needed, and going back to them is said."""
    assert not (clone.folder / "data").exists()
    done = clone.configure("dataset=synthetic")
    assert "dataset=synthetic" in done.stdout and "your own" in done.stdout
    done = clone.run("dvc", "repro", check=False)
    assert done.returncode and "dvc pull data.dvc" in done.stdout + done.stderr


def test_git_and_dvc_do_not_walk_the_data(clone):
    """DVC's walk of the project, with its ignore file, finds none of the frames."""
    script = (
        "from dvc.repo import Repo; repo = Repo(); "
        "print(sum(len(files) for _, _, files in repo.dvcignore.walk(repo.fs, repo.root_dir)), "
        "any('img_' in f for _, _, files in repo.dvcignore.walk(repo.fs, repo.root_dir) for f in files))"
    )
    # As a folder, which a walk would enter; a link it would not.
    (clone.folder / "datasets").unlink()
    shutil.copytree(clone.data, clone.folder / "datasets", copy_function=os.link)
    try:
        assert clone.run("python", "-c", script).stdout.split()[1] == "False"
        assert not clone.run("git", "status", "--porcelain", "-uall", "--", "datasets", "weights").stdout
    finally:
        shutil.rmtree(clone.folder / "datasets")
        (clone.folder / "datasets").symlink_to(clone.data)


def test_stages_name_their_kernel(clone, monkeypatch):
    """A notebook saved with another kernel runs in the project's environment, here in processes of its own."""
    clone.run("dvc", "repro", "preflight")  # of which an earlier test's failure left nothing
    monkeypatch.delitem(clone.environment, "JUPYTER_PATH")
    monkeypatch.setitem(clone.environment, "PATH", clone.environment["PATH"].split(os.pathsep, 1)[1])
    path = clone.folder / "notebooks/02c_motion_training.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["kernelspec"] = {"name": "myenv", "display_name": "myenv", "language": "python"}
    path.write_text(json.dumps(notebook))
    done = clone.run("dvc", "repro", "--force", "--single-item", "motion")
    assert running(done.stdout) == {"motion"}
