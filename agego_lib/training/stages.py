"""The training stages of the pipeline, one class each: notebooks and `python -m agego_lib.train` both call them.

A stage reads what earlier ones left under artifacts/; its `train` leaves weights, poses and curves for the next.
"""

from dataclasses import replace
from functools import cached_property

import torch
from torch.utils.data import Dataset

from agego_lib.baselines import (
    DEPTH,
    PSEUDO_LABELLED,
    BaselineObjective,
    Domains,
    FrameFeatures,
    Zoom,
    ZoomedFrames,
    check_outside,
    cost,
    frame_optimiser,
    new_baseline,
    predict_frames,
    pseudo_labels,
    sample_errors,
)
from agego_lib.datasets import FrameDataset, WindowDataset, read_prepared
from agego_lib.datasets.features import open_features, store_features
from agego_lib.evaluation import mean_pose, predict_split, save_poses, sequence_errors
from agego_lib.files import write_json
from agego_lib.models import ActionHead, AGEgoPose, weights
from agego_lib.models.build import (
    augmentation,
    frame_encoder,
    load_heatmap_net,
    load_model,
    motion_encoder,
    motion_stage_parts,
    new_heatmap_net,
    new_model,
    save_model,
)
from agego_lib.params import RELEASED, locate, located
from agego_lib.training import ActionObjective, HeatmapObjective, MotionSource, PoseObjective, fit, make_fabric
from agego_lib.training.checkpoints import Checkpoints, TrainingError
from agego_lib.training.rows import plan, training_window

SETS = ("egopw", "sceneego")


class Stage:
    """Where one stage reads and writes, and which of several processes does.

    settings: params.Settings. root: the project's folder. place: the stage's folder under artifacts/.
    """

    def __init__(self, settings, root, place):
        self.settings, self.root, self.place = located(settings, root), root, place
        self.artifacts = root / "artifacts"
        self.fabric = make_fabric(settings.engine, settings.seed)
        self.device = self.fabric.device

    def prepared(self, name, split):
        """The prepared sequences of a split of a data set -> list."""
        return read_prepared(self.artifacts / "prepared" / name, split)

    def write(self, function, *arguments):
        """Call it in the first process alone."""
        if self.fabric.is_global_zero:
            function(*arguments)

    def finish(self):
        """To be called when all that the stage leaves is written."""


# Places whose training curves lie under plots/, for `dvc plots` and git; those of rows stay with their weights.
SHOWN = ("heatmap", "motion", "pose", "finetune")


class TrainingStage(Stage):
    """A stage that trains, with its curves and its checkpoints; logs: what each `fit` logged."""

    def __init__(self, settings, root, place):
        super().__init__(settings, root, place)
        self.checkpoints = Checkpoints(self.artifacts / "checkpoints" / place, settings.resume)
        self.curves = root / "plots" / place if place in SHOWN else self.artifacts / place / "curves"
        self.logs = {}

    def windows(self, sequences, source, action_names=None, window=None):
        """The WindowDataset of some prepared sequences with the stage's settings, or another window."""
        w = window or self.settings.window
        return WindowDataset(sequences, w.length, w.stride, w.max_gap, source, action_names, w.step)

    def fit(self, objective, data, optimiser, label, step, curves=""):
        """`training.fit` with the stage's settings, its curves in a folder of the stage's."""
        log = None
        if self.fabric.is_global_zero:
            try:
                from agego_lib.training.log import TrainingLog

                log = self.logs[step] = TrainingLog(self.curves / curves)
            except ImportError:
                print("dvclive is not installed: no curves are kept")
        fit(objective, data, optimiser, self.settings.engine, self.settings.seed, label, log, self.checkpoints.of(step))

    def finish(self):
        """All that the stage leaves is written: its checkpoints go."""
        self.write(self.checkpoints.finish)


class _Every(Dataset):
    """Each `step`-th item of a data set that tells of its items."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def __len__(self):
        return len(range(0, len(self.data), self.step))

    def __getitem__(self, item):
        return self.data[item * self.step]

    def describe(self, item):
        return self.data.describe(item * self.step)


def heatmap_objective(net, heatmap, size=0, sizes=()):
    """The HeatmapObjective of the `heatmap` settings; size: of frames as prepared."""
    return HeatmapObjective(
        net, heatmap.loss, heatmap.sigma, heatmap.pos_weight, heatmap.colour_jitter, heatmap.distances, size, sizes
    )


class HeatmapStage(TrainingStage):
    """The 2D heatmap network (Sec. 3.1, Eq. 1), on the training splits of both sets.

    loss: Table 6's other one, in place of `heatmap.loss`; or "scratch", in place of `heatmap.init`. net: HeatmapNet.
    """

    def __init__(self, settings, root, loss=None):
        place = "heatmap"
        if loss:
            place = f"heatmap_{loss}"
            change = {"init": "scratch"} if loss == "scratch" else {"loss": loss, "pos_weight": 1.0}
            settings = replace(settings, heatmap=replace(settings.heatmap, **change))
        super().__init__(settings, root, place)
        net = new_heatmap_net(self.settings.heatmap, locate(root, RELEASED))
        self.net = net.to(memory_format=torch.channels_last)

    def train(self):
        """Train the network, freeze it and save it -> HeatmapNet."""
        heatmap = self.settings.heatmap
        sequences = [s for name in SETS for s in self.prepared(name, "train")]
        size = self.settings.prepare.size
        if heatmap.coarse_size:
            objective = heatmap_objective(self.net, heatmap, size)
            coarse = _Every(FrameDataset(sequences, heatmap.coarse_size), heatmap.every)
            label = f"heatmaps, {heatmap.coarse_size} px"
            self.fit(
                objective, coarse, heatmap.optimiser, label, "coarse", curves=self.artifacts / self.place / "coarse"
            )
        objective = heatmap_objective(self.net, heatmap, size, heatmap.sizes)
        frames = _Every(FrameDataset(sequences), heatmap.every)
        self.fit(objective, frames, heatmap.optimiser, "heatmaps", "heatmaps")
        prepare = self.settings.prepare
        info = {"fpn_channels": list(heatmap.fpn_channels), "size": prepare.size, "crop": prepare.crop}
        info |= {"loss": heatmap.loss, "distances": heatmap.distances > 0}
        self.write(weights.save, self.artifacts / self.place / "heatmap_net.safetensors", self.net.freeze(), info)
        return self.net


class FeaturesStage(Stage):
    """What the frozen networks see of every frame, computed once (Sec. 3.2 and 4.2; see features.py).

    loss: the heatmaps alone of the network that Table 6 compares. model: AGEgoPose, of which the frozen parts run.
    """

    def __init__(self, settings, root, loss=None):
        suffix = f"_{loss}" if loss else ""
        super().__init__(settings, root, f"features{suffix}")
        net = load_heatmap_net(self.artifacts / f"heatmap{suffix}/heatmap_net.safetensors")
        # The other loss's network gives no motion stream.
        motion = not loss and self.settings.decoder.use_motion
        frames = frame_encoder(self.settings.visual, net) if motion else None
        self.model = AGEgoPose(net, frames, use_motion=motion).eval()
        self.sequences = [s for name in SETS for split in ("train", "test") for s in self.prepared(name, split)]

    def train(self):
        """Nothing is trained: compute and store -> manifest of `store_features`."""
        features = self.settings.features
        folder, model = self.artifacts / self.place, self.model.to(self.device)
        return store_features(folder, model, self.sequences, features.limit_gb, features.batch_size)


class MotionStage(TrainingStage):
    """The temporal blocks (Sec. 3.2, Eq. 3): from the Ego4D checkpoint, or trained on EgoPW's action labels.

    frames: FrameEncoder, blocks: MotionEncoder. used: whether the model has a motion stream. trained: whether they are
    trained here. action_names: of the training
    split. objective: ActionObjective, once they are.
    """

    def __init__(self, settings, root):
        super().__init__(settings, root, "motion")
        net = load_heatmap_net(self.artifacts / "heatmap/heatmap_net.safetensors")
        torch.manual_seed(settings.seed)
        self.frames, self.blocks = frame_encoder(self.settings.visual, net), motion_encoder(settings.motion)
        self.checkpoint = settings.motion.checkpoint
        self.used = settings.decoder.use_motion
        self.trained = self.used and self.checkpoint is None
        self.action_names = sorted({a for s in self.prepared("egopw", "train") for a in s.actions or () if a})
        self.objective = None

    def actions(self, split):
        """Windows of a split of EgoPW with the frames' global features and actions -> WindowDataset."""
        group = self.prepared("egopw", split)
        store = open_features(self.artifacts / "features", group)
        source = MotionSource(self.frames, group, store, self.settings.engine)
        return self.windows(group, source, self.action_names)

    def train(self):
        """Load the blocks, or train them; save them."""
        motion = self.settings.motion
        # DVC expects a folder of curves, which blocks that are loaded do not have.
        (self.curves / "plots/metrics").mkdir(parents=True, exist_ok=True)
        if not self.used:
            print("decoder.use_motion is off: the motion encoder stays untrained, and no model reads it")
        elif not self.trained:
            self.blocks.load_actionformer(motion.checkpoint, motion.checkpoint_blocks, motion.checkpoint_ema)
        elif len(self.action_names) < 2:
            raise TrainingError(
                "the motion encoder has neither a checkpoint nor action labels to learn from: set motion.checkpoint to "
                "the public ActionFormer checkpoint for Ego4D, or put an actions.csv (frame,action) beside each "
                "training sequence"
            )
        else:
            data = self.actions("train")
            head = ActionHead(self.frames.dim, len(self.action_names))
            self.objective = ActionObjective(self.frames.project, self.frames.norm, self.blocks, head)
            self.fit(self.objective, data, motion.optimiser, "motion", "motion")
        info = {"trained_here": self.trained, "checkpoint": self.checkpoint, "actions": self.action_names}
        parts = motion_stage_parts(self.frames, self.blocks)
        self.write(weights.save, self.artifacts / "motion/motion.safetensors", parts, info)


class PoseStage(TrainingStage):
    """One run of pose training (Sec. 3.3 and 4.2): "pose", "finetune", or a row of the tables (see rows.py).

    seed: of a repeated row. sets: the data sets that it trains on, in order. prepared_sets, stores: by (set, split).
    average: each set's mean training pose. model: AGEgoPose; config: what `save_model` keeps with it.
    poses: predictions of each set's test split, once trained.
    """

    def __init__(self, settings, root, run="pose", seed=None):
        self.plan = plan(settings, run, seed)
        super().__init__(self.plan.settings, root, self.plan.place)
        self.run, self.sets, self.poses = run, [name for name, _ in self.plan.steps], {}
        self.groups = {(n, split): self.prepared(n, split) for n in self.sets for split in ("train", "test")}
        other = self.artifacts / f"features_{self.plan.loss}" if self.plan.loss else None
        folder = self.artifacts / "features"
        self.stores = {key: open_features(folder, group, other) for key, group in self.groups.items()}
        self.average = {n: mean_pose(self.groups[n, "train"]) for n in self.sets}
        torch.manual_seed(self.settings.seed)
        self.model, self.config = self._model()

    def _model(self):
        if self.run == "finetune":
            return load_model(self.artifacts / "pose/model.safetensors", self.settings.window)
        main = self.artifacts / "heatmap/heatmap_net.safetensors"
        loss = self.plan.loss
        return new_model(
            self.settings,
            self.plan.switches,
            self.artifacts / f"heatmap_{loss}/heatmap_net.safetensors" if loss else main,
            self.artifacts / "motion/motion.safetensors",
            self.average[self.sets[0]],
            trunk_file=main,
            released=locate(self.root, RELEASED),
        )

    @cached_property
    def training_windows(self):
        """The WindowDataset of each set's training split."""
        window, _ = training_window(self.settings)
        return {n: self.windows(self.groups[n, "train"], self.stores[n, "train"], window=window) for n in self.sets}

    def train(self):
        """Train on each set in turn, test on its people never seen, and save poses and model."""
        for name, optimiser in self.plan.steps:
            objective = PoseObjective(self.model, self.settings.loss, augmentation(self.settings.decoder))
            label = f"{self.run} {name}"
            self.fit(objective, self.training_windows[name], optimiser, label, name, curves=name)
            # Tested at once: the next step trains the same model on.
            self.write(self._test, name)
        self.write(save_model, self.artifacts / self.place / "model.safetensors", self.model, self.config)

    def _test(self, name):
        group, store = self.groups[name, "test"], self.stores[name, "test"]
        self.model.to(self.device)
        self.poses[name] = predict_split(self.model, group, self.settings.window, store, f"{name} test")
        save_poses(self.artifacts / self.place / f"{name}.npz", self.poses[name])
        self.model.cpu()


class BaselineStage(TrainingStage):
    """Another method in the same harness (see baselines/): on EgoPW, then fine-tuned on SceneEgo.

    method: its name. optimisers: of each set. groups, frames: by (set, split). poses: as in PoseStage. facts: once
    trained, its `cost`, and by set, where it gives several poses a frame, its `sample_errors`; of a method of
    PSEUDO_LABELLED, which reads EgoPW's labels nowhere in training, what its own "labels" are worth; kept in
    method.json. seed: of a repetition.
    """

    def __init__(self, settings, root, method, seed=None):
        place = f"ablate/baseline_{method}"
        if seed is not None:
            settings, place = replace(settings, seed=seed), f"{place}-{seed}"
        super().__init__(settings, root, place)
        self.method, self.poses, self.facts = method, {}, {}
        optimisers = {"egopw": settings.pose, "sceneego": settings.finetune}
        self.optimisers = {n: frame_optimiser(o, settings.window) for n, o in optimisers.items()}
        self.groups = {(n, s): self.prepared(n, s) for n in SETS for s in ("train", "test")}
        folder = self.artifacts / "features"
        depth = DEPTH.get(method, ())
        zoom = Zoom.on_lower_body(self.groups["egopw", "train"]) if method == "mo2cap2_zoom" else None
        self.frames = {
            key: FrameFeatures(group, open_features(folder, group), key[1] in depth, zoom)
            for key, group in self.groups.items()
        }
        if method == "egopw":
            check_outside(self.groups["egopw", "train"])
        torch.manual_seed(settings.seed)
        first = ("sceneego" if method in PSEUDO_LABELLED else "egopw"), "train"
        average, scale = mean_pose(self.groups[first]), settings.decoder.input_scale
        detector = None
        if zoom:
            detector = load_heatmap_net(self.artifacts / "heatmap/heatmap_net.safetensors")
        self.model = new_baseline(method, self.frames[first], average, scale, detector)

    def train(self):
        """Train on each set in turn, test on it, and save the poses."""
        if self.method == "mo2cap2_zoom":
            self._second_detector()
        for name, optimiser in self.optimisers.items():
            frames = self.frames[name, "train"]
            if self.method in PSEUDO_LABELLED and name == "egopw":
                frames, trained = self._pseudo_labelled(), len(frames)
                # As many steps as without the other domain's frames.
                optimiser = replace(optimiser, epochs=max(1, round(optimiser.epochs * trained / len(frames))))
            if self.method == "nearest":
                self.model = new_baseline(self.method, frames, None)
            else:
                objective = BaselineObjective(self.model, self.settings.loss)
                self.fit(objective, frames, optimiser, f"{self.method} {name}", name, curves=name)
            test = self.frames[name, "test"]
            self.poses[name] = predict_frames(self.model, test, f"{name} test")
            self.write(save_poses, self.artifacts / self.place / f"{name}.npz", self.poses[name])
            if hasattr(self.model, "samples"):
                samples = predict_frames(self.model, test, f"{name} test, samples", call=self.model.samples)
                self.facts[name] = sample_errors(samples, test.sequences)
        self.facts |= cost(self.model, test)
        self.write(write_json, self.artifacts / self.place / "method.json", self.facts)

    def _second_detector(self):
        """Train Mo2Cap2's detector of the lower body, as the first was, and freeze it."""
        sequences = [s for name in SETS for s in self.groups[name, "train"]]
        detector = self.model.detector.thaw().to(memory_format=torch.channels_last)
        objective = heatmap_objective(detector, self.settings.heatmap)
        data = ZoomedFrames(sequences, self.model.zoom)
        self.fit(objective, data, self.settings.heatmap.optimiser, "second detector", "zoom", curves="zoom")
        self.logs.pop("zoom", None)  # what is shown are errors of poses
        detector.freeze()
        for name in SETS:
            frames = self.frames[name, "train"]
            # It is frozen: what it sees is the same in every epoch.
            frames.places = predict_frames(self.model, frames, f"{name}, second detector", call=self.model.places)

    def _pseudo_labelled(self):
        """EgoPW's training frames with labels of the method's own, and SceneEgo's with theirs -> Domains."""
        wild, labelled = self.frames["egopw", "train"], self.frames["sceneego", "train"]
        labels = pseudo_labels(wild, labelled, self.method == "egopw")
        # In a folder of their own: poses beside method.json are of test splits.
        self.write(save_poses, self.artifacts / self.place / "labels/egopw.npz", labels)
        self.facts["labels"] = sequence_errors(labels, wild.sequences).summary()
        return Domains(wild, labels, labelled)
