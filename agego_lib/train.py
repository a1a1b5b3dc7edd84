"""One training stage by itself, for a machine without notebooks: `python -m agego_lib.train pose`.

Does what the training cell of the stage's notebook does and leaves the same weights, poses and curves in the same
places. Started as it is, by torchrun or by SLURM's srun; see docs/training.md.
"""

import argparse
import os
import sys
from dataclasses import replace

import torch

from agego_lib import params, weights
from agego_lib.checkpoints import Checkpoints, TrainingError
from agego_lib.datasets import FrameDataset, WindowDataset, read_prepared
from agego_lib.evaluation import mean_pose, predict_split, save_poses
from agego_lib.features import open_features
from agego_lib.models import ActionHead, HeatmapNet
from agego_lib.models.build import (
    frame_encoder,
    load_heatmap_net,
    load_model,
    motion_encoder,
    motion_stage_parts,
    new_model,
    save_model,
)
from agego_lib.training import ActionObjective, HeatmapObjective, MotionSource, PoseObjective, fit, make_fabric
from agego_lib.variants import plan


class Stage:
    """Where one stage reads and writes, and which of several processes does."""

    def __init__(self, settings, root, place):
        self.settings, self.root, self.place = settings, root, place
        self.fabric = make_fabric(settings.engine, settings.seed)
        self.checkpoints = Checkpoints(root / "artifacts/checkpoints" / place, settings.resume)

    def fit(self, objective, data, optimiser, label, step, curves=""):
        """`training.fit` with the stage's settings, its curves in plots/<place>/<curves>."""
        log = None
        if self.fabric.is_global_zero:
            try:
                from agego_lib.training_log import TrainingLog

                log = TrainingLog(self.root / "plots" / self.place / curves)
            except ImportError:
                print("dvclive is not installed: no curves are kept")
        fit(objective, data, optimiser, self.settings.engine, self.settings.seed, label, log, self.checkpoints.of(step))

    def write(self, function, *arguments):
        """Call it in the first process alone."""
        if self.fabric.is_global_zero:
            function(*arguments)

    def finish(self):
        """The stage has left all it leaves: its checkpoints go."""
        self.write(self.checkpoints.finish)


def train_heatmap(settings, root, loss=None):
    """The heatmap network, as `02_heatmap_training` trains it; loss: Table 6's other one."""
    heatmap, place = settings.heatmap, "heatmap"
    if loss:
        heatmap, place = replace(heatmap, loss=loss, pos_weight=1.0), f"heatmap_{loss}"
    stage = Stage(settings, root, place)
    frames = FrameDataset(
        [s for n in ("egopw", "sceneego") for s in read_prepared(root / "artifacts/prepared" / n, "train")]
    )
    net = HeatmapNet(init=heatmap.init, fpn_channels=heatmap.fpn_channels).to(memory_format=torch.channels_last)
    objective = HeatmapObjective(net, heatmap.loss, heatmap.sigma, heatmap.pos_weight, heatmap.colour_jitter)
    stage.fit(objective, frames, heatmap.optimiser, "heatmaps", "heatmaps")
    net.freeze()
    info = {"fpn_channels": list(heatmap.fpn_channels), "size": settings.prepare.size, "loss": heatmap.loss}
    stage.write(weights.save, root / "artifacts" / place / "heatmap_net.safetensors", net, info)
    stage.finish()


def train_motion(settings, root):
    """The temporal blocks, loaded or trained as `02c_motion_training` does."""
    stage, motion = Stage(settings, root, "motion"), settings.motion
    train = read_prepared(root / "artifacts/prepared/egopw", "train")
    net = load_heatmap_net(root / "artifacts/heatmap/heatmap_net.safetensors")
    torch.manual_seed(settings.seed)
    frames, blocks = frame_encoder(settings.visual, net), motion_encoder(motion)
    names = sorted({a for s in train for a in s.actions or () if a})
    if motion.checkpoint is not None:
        blocks.load_actionformer(root / motion.checkpoint, motion.checkpoint_blocks, motion.checkpoint_ema)
    elif len(names) < 2:
        raise TrainingError("motion: fewer than two actions are labelled, and motion.checkpoint names no file")
    else:
        source = MotionSource(frames, train, open_features(root / "artifacts/features", train), settings.engine)
        data = _windows(settings, train, source, names)
        objective = ActionObjective(frames.project, frames.norm, blocks, ActionHead(frames.dim, len(names)))
        stage.fit(objective, data, motion.optimiser, "motion", "motion")
    info = {"trained_here": motion.checkpoint is None, "checkpoint": motion.checkpoint, "actions": names}
    parts = motion_stage_parts(frames, blocks)
    stage.write(weights.save, root / "artifacts/motion/motion.safetensors", parts, info)
    stage.finish()


def train_pose(settings, root, run="pose", seed=None):
    """One run of `03_pose_training`: pose, finetune or a row of the tables (see variants.py)."""
    this, artifacts = plan(settings, run, seed), root / "artifacts"
    settings, sets = this.settings, [name for name, _ in this.steps]
    stage = Stage(settings, root, this.place)
    prepared = {(n, s): read_prepared(artifacts / "prepared" / n, s) for n in sets for s in ("train", "test")}
    other = artifacts / f"features_{this.loss}" if this.loss else None
    stores = {key: open_features(artifacts / "features", group, other) for key, group in prepared.items()}
    torch.manual_seed(settings.seed)
    if run == "finetune":
        model, config = load_model(artifacts / "pose/model.safetensors")
    else:
        main = artifacts / "heatmap/heatmap_net.safetensors"
        spatial = artifacts / f"heatmap_{this.loss}/heatmap_net.safetensors" if this.loss else main
        average = mean_pose(prepared[sets[0], "train"])
        motion = artifacts / "motion/motion.safetensors"
        model, config = new_model(settings, this.switches, spatial, motion, average, trunk_file=main)
    for name, optimiser in this.steps:
        data = _windows(settings, prepared[name, "train"], stores[name, "train"])
        stage.fit(PoseObjective(model, settings.loss), data, optimiser, f"{run} {name}", name, curves=name)
        if stage.fabric.is_global_zero:
            test, store = prepared[name, "test"], stores[name, "test"]
            poses = predict_split(model.to(stage.fabric.device), test, settings.window, store, f"{name} test")
            save_poses(artifacts / this.place / f"{name}.npz", poses)
            model.cpu()
    stage.write(save_model, artifacts / this.place / "model.safetensors", model, config)
    stage.finish()


def _windows(settings, sequences, source, action_names=None):
    w = settings.window
    return WindowDataset(sequences, w.length, w.stride, w.max_gap, source, action_names, w.step)


def launched(engine):
    """The engine's settings with as many devices and nodes as torchrun started processes for, where it did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return engine
    local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return replace(engine, devices=local, num_nodes=world // local)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m agego_lib.train", description=__doc__)
    parser.add_argument("run", help="heatmap, motion, pose, finetune, or a row: no_motion, window_half ...")
    parser.add_argument("--loss", help="heatmap: another loss than heatmap.loss (Table 6)")
    parser.add_argument("--seed", type=int, help="a row: repeat it from another start")
    given = parser.parse_args(arguments)
    try:
        settings, root = params.load(), params.find_root()
        settings = replace(settings, engine=launched(settings.engine))
        if given.run == "heatmap":
            train_heatmap(settings, root, given.loss)
        elif given.run == "motion":
            train_motion(settings, root)
        else:
            train_pose(settings, root, given.run, given.seed)
    except (ValueError, TrainingError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
