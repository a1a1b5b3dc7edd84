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
    person,
    pose_array,
)
from agego_lib.files import read_json

MAX_NUMBER = 10**12
CLOCKS = ("sceneego", "egowholemocap")
ANNOTATION_FILES = ("local_pose_gt.pkl", "annotation.pkl")


def _starts(folder):
    """(ego, ext) from `syn.json`: the same moment by both cameras' counts; None where the file is missing."""
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
    return tuple(starts)


class _Clock:
    """Frame numbers of annotations, by their image_name or by the clocks of the two cameras.

    An image_name says which frame it is, whatever ext_id says; `note` tells how often they disagree.
    """

    def __init__(self, starts, clock):
        if clock not in CLOCKS:
            raise ValueError(f"clock {clock!r}; expected one of {', '.join(CLOCKS)}")
        self.starts, self.clock = starts, clock
        self.both, self.apart, self.first = 0, [], None

    def number(self, entry):
        """Frame number of an annotation. Raises FrameError where it says none."""
        given = entry.get("image_name")
        if given is None:
            return self._counted(entry)
        by_name = frame_number(given)
        try:
            by_clock = self._counted(entry)
        except FrameError:
            return by_name
        self.both += 1
        if by_clock != by_name:
            self.apart.append(by_name - by_clock)
            self.first = self.first or f"{given} is number {by_clock} by ext_id"
        return by_name

    def _counted(self, entry):
        ext_id = entry.get("ext_id")
        if not isinstance(ext_id, int | np.integer) or isinstance(ext_id, bool):
            raise FrameError("no whole number under ext_id")
        if self.starts is None:
            raise FrameError("neither syn.json nor image_name says which frame this is")
        if not -MAX_NUMBER < ext_id < MAX_NUMBER:
            raise FrameError(f"ext_id is beyond {MAX_NUMBER:.0e}")
        ego, ext = self.starts
        passed = int(ext_id) - ext
        if self.clock == "egowholemocap":
            if passed < 0:
                raise FrameError(f"ext_id before the synchronised start: {int(ext_id)}")
            passed += passed // 1000 + (passed % 1000 > 500)
        if passed + ego < 0:
            raise FrameError(f"ext_id before the first frame: {int(ext_id)}")
        return passed + ego

    def note(self):
        """What to say about disagreements, as a list of at most one text."""
        if not self.apart:
            return []
        return [
            f"image_name and ext_id name different frames in {len(self.apart)} of {self.both} annotations, by "
            f"{min(self.apart):+d} to {max(self.apart):+d} (first: {self.first}); image_name counts"
        ]


def sequence_name(sequence_dir):
    """Name of a sequence: that of its directory."""
    return Path(os.path.abspath(sequence_dir)).name


def actor_of(sequence_dir):
    """The actor: the sequence's name without the digits of its take; `jian_new1` and `jian1_new` are jian."""
    name = sequence_name(sequence_dir)
    return person(person(name).rstrip("0123456789")) or name


def read_sceneego(sequence_dir, camera, root=None, clock="sceneego"):
    """Read `<root>/<sequence>/`: `imgs/img_%06d.jpg`, `local_pose_gt.pkl` (or `annotation.pkl`) and `syn.json`.

    camera: FisheyeCamera. SceneEgo has no 2D labels, so `joints_2d` is the projection of the 3D joints.
    clock: which frame an annotation without an image_name is of. "sceneego": ext_id - ext + ego, both cameras in step.
    "egowholemocap": one more for each 1000 frames since the start, rounded, and nothing before it.
    Returns a Sequence; frames with faults are listed in `skipped` with the reason. root: as in SequenceFolder.
    Raises DatasetError for a fault of the whole sequence.
    """
    folder = SequenceFolder(sequence_dir, root)
    source, entries = load_annotations(folder, ANNOTATION_FILES)
    clock = _Clock(_starts(folder), clock)
    if clock.starts is None and not any(isinstance(entry, dict) and entry.get("image_name") for entry in entries):
        raise DatasetError(
            f"{Path(sequence_dir) / 'syn.json'}: missing, and the annotations have no image_name; "
            'expected {"ego": int, "ext": int}. Download it again'
        )

    def joints(entry):
        pose = pose_array(entry.get("ego_pose_gt"), "ego_pose_gt")
        return pose, camera.project(pose)

    sequence = build_sequence(
        folder,
        dataset="sceneego",
        name=sequence_name(sequence_dir),
        actor=actor_of(sequence_dir),
        source=source,
        entries=entries,
        number_of=clock.number,
        joints_of=joints,
    )
    sequence.notes += clock.note()
    return sequence
