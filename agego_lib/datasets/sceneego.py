"""Reader of SceneEgo's published layout (Wang et al., "Scene-aware Egocentric 3D Human Pose Estimation", CVPR 2023;
annotation format: github.com/jianwang-mpi/SceneEgo)."""

import os
from pathlib import Path

import numpy as np

from agego_lib.datasets.sequence import (
    DatasetError,
    FrameError,
    SequenceFolder,
    build_sequence,
    frame_number,
    load_annotations,
    pose_array,
)
from agego_lib.files import read_json

MAX_NUMBER = 10**12
ANNOTATION_FILES = ("local_pose_gt.pkl", "annotation.pkl")


def _offset(folder):
    """Frame number minus ext_id from `syn.json`, or None where the file is missing."""
    path = folder.file("syn.json")
    if path is None:
        return None
    try:
        raw = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as JSON ({error}); download it again") from None
    starts = [raw.get(key) for key in ("ego", "ext")] if isinstance(raw, dict) else [None]
    if not all(type(start) is int and abs(start) < MAX_NUMBER for start in starts):
        raise DatasetError(
            f'{path}: no whole numbers below {MAX_NUMBER:.0e} under "ego" and "ext"; '
            'expected {"ego": int, "ext": int}'
        )
    return starts[0] - starts[1]


def _number(entry, offset):
    """Frame number by ext_id - ext + ego and by image_name, which must agree where both are given."""
    given = entry.get("image_name")
    by_name = None if given is None else frame_number(given)
    ext_id = entry.get("ext_id")
    if not isinstance(ext_id, int | np.integer) or isinstance(ext_id, bool):
        if by_name is None:
            raise FrameError("no whole number under ext_id")
        return by_name
    if offset is None:
        if by_name is None:
            raise FrameError("neither syn.json nor image_name says which frame this is")
        return by_name
    if not -MAX_NUMBER < ext_id < MAX_NUMBER:
        raise FrameError(f"ext_id is beyond {MAX_NUMBER:.0e}")
    number = int(ext_id) + offset
    if number < 0:
        raise FrameError(f"ext_id before the first frame: {int(ext_id)}")
    if by_name not in (None, number):
        raise FrameError(f"image_name and ext_id name different frames: {given} and img_{number:06d}.jpg")
    return number


def sequence_name(sequence_dir):
    """Name of a sequence: that of its directory."""
    return Path(os.path.abspath(sequence_dir)).name


def actor_of(sequence_dir):
    """The actor: the sequence's name without the digits of its take."""
    name = sequence_name(sequence_dir)
    return name.rstrip("0123456789") or name


def read_sceneego(sequence_dir, camera, root=None):
    """Read `<root>/<sequence>/`: `imgs/img_%06d.jpg`, `local_pose_gt.pkl` (or `annotation.pkl`) and `syn.json`.

    camera: FisheyeCamera. SceneEgo has no 2D labels, so `joints_2d` is the projection of the 3D joints.
    Returns a Sequence; frames with faults are listed in `skipped` with the reason. root: as in SequenceFolder.
    Raises DatasetError for a fault of the whole sequence.
    """
    folder = SequenceFolder(sequence_dir, root)
    source, entries = load_annotations(folder, ANNOTATION_FILES)
    offset = _offset(folder)
    if offset is None and not any(isinstance(entry, dict) and entry.get("image_name") for entry in entries):
        raise DatasetError(
            f"{Path(sequence_dir) / 'syn.json'}: missing, and the annotations have no image_name; "
            'expected {"ego": int, "ext": int}. Download it again'
        )

    def joints(entry):
        pose = pose_array(entry.get("ego_pose_gt"), "ego_pose_gt")
        return pose, camera.project(pose)

    return build_sequence(
        folder,
        dataset="sceneego",
        name=sequence_name(sequence_dir),
        actor=actor_of(sequence_dir),
        source=source,
        entries=entries,
        number_of=lambda entry: _number(entry, offset),
        joints_of=joints,
    )
