"""Reader of EgoPW's published layout (Wang et al., "Estimating Egocentric 3D Human Pose in the Wild with External
Weak Supervision", CVPR 2022; data set page: people.mpi-inf.mpg.de/~jianwang/projects/egopw)."""

import os
from pathlib import Path

import numpy as np

from agego_lib.datasets.sequence import (
    FrameError,
    SequenceFolder,
    build_sequence,
    frame_number,
    joint_array,
    load_annotations,
    person,
    pose_array,
)

ANNOTATION_FILES = ("pseudo_gt.pkl", "pseudo.pkl")


def _joints(entry):
    pose = pose_array(entry.get("optimized_local_pose"), "optimized_local_pose")
    # Releases spell the key in two ways.
    key = next((key for key in ("joints_2d", "joints_2D") if entry.get(key) is not None), None)
    if key is None:
        raise FrameError("no joints_2d")
    pixels = joint_array(entry[key], 2, "joints_2d")
    pixels[~np.isfinite(pixels).all(axis=-1)] = np.nan
    if np.isnan(pixels).all():
        raise FrameError("joints_2d holds no finite pixel")
    return pose, pixels


def sequence_name(sequence_dir):
    """`<actor>/<sequence>` of a sequence directory."""
    path = Path(os.path.abspath(sequence_dir))
    return f"{path.parent.name}/{path.name}"


def actor_of(sequence_dir):
    """The actor: the sequence directory's parent; `chao_new` is chao."""
    return person(Path(os.path.abspath(sequence_dir)).parent.name)


def read_egopw(sequence_dir, root=None):
    """Read `<root>/<actor>/<sequence>/`: `imgs/img_%06d.jpg` and `pseudo_gt.pkl` (or `pseudo.pkl`) -> Sequence.

    Poses are the data set's pseudo labels, metres, camera frame; single 2D joints may be NaN. Frames with faults are
    listed in `skipped` with the reason. root: as in SequenceFolder. Raises DatasetError for a fault of the whole
    sequence.
    """
    folder = SequenceFolder(sequence_dir, root)
    source, entries = load_annotations(folder, ANNOTATION_FILES)
    return build_sequence(
        folder,
        dataset="egopw",
        name=sequence_name(sequence_dir),
        actor=actor_of(sequence_dir),
        source=source,
        entries=entries,
        number_of=lambda entry: frame_number(entry.get("image_name")),
        joints_of=_joints,
    )
