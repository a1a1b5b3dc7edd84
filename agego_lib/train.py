"""One training stage by itself, for a machine without notebooks: `python -m agego_lib.train pose`.

Calls what the stage's notebook calls, and leaves the same weights, poses and curves in the same places. Started as it
is, by torchrun or by SLURM's srun; see docs/training.md.
"""

import argparse
import os
import sys
from dataclasses import replace

from agego_lib import params
from agego_lib.models import WeightsError
from agego_lib.training.checkpoints import TrainingError
from agego_lib.training.stages import BaselineStage, FeaturesStage, HeatmapStage, MotionStage, PoseStage


def launched(engine):
    """The engine's settings with as many devices and nodes as torchrun started processes for, where it did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return engine
    local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return replace(engine, devices=local, num_nodes=world // local)


def new_stage(settings, root, run, loss=None, seed=None):
    """The stage of a run's name: heatmap, features, motion, baseline_<method>, or a run of `rows.plan`.

    Raises ValueError for a loss or a seed with a stage that has none.
    """
    of_heatmaps = {"heatmap": HeatmapStage, "features": FeaturesStage}
    if loss and run not in of_heatmaps:
        raise ValueError(f"{run}: --loss {loss} is of heatmap and features alone")
    if seed is not None and run in (*of_heatmaps, "motion", "pose", "finetune"):
        raise ValueError(f"{run}: --seed is of rows and baselines alone; the main run's is `seed` in params.yaml")
    if run in of_heatmaps:
        return of_heatmaps[run](settings, root, loss)
    if run == "motion":
        return MotionStage(settings, root)
    if run.startswith("baseline_"):
        return BaselineStage(settings, root, run.removeprefix("baseline_"), seed)
    return PoseStage(settings, root, run, seed)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m agego_lib.train", description=__doc__)
    parser.add_argument("run", help="heatmap, features, motion, pose, finetune, baseline_..., or a row: no_motion ...")
    parser.add_argument("--loss", help="heatmap, features: of another loss than heatmap.loss (Table 6)")
    parser.add_argument("--seed", type=int, help="a row or baseline: repeat it from another start")
    given = parser.parse_args(arguments)
    try:
        settings, root = params.load(), params.find_root()
        settings = replace(settings, engine=launched(settings.engine))
        stage = new_stage(settings, root, given.run, given.loss, given.seed)
        stage.train()
        stage.finish()
    except (ValueError, TrainingError, WeightsError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
