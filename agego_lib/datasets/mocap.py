"""Readers of two test sets of motion capture, GlobalEgoMocap and Mo2Cap2, on which EgoPW and its successors report.

GlobalEgoMocap: Wang et al., "Estimating Egocentric 3D Human Pose in Global Space", ICCV 2021. Mo2Cap2: Xu et al.,
"Mo2Cap2: Real-time Mobile 3D Motion Capture with a Cap-mounted Fisheye Camera", TVCG 2019. Which frames count is as
EgoWholeMocap's reader has it (github.com/jianwang-mpi/egowholemocap). Nobody says in which axes the poses are, so that
errors mean something after alignment only, and joints have no place in the image.
"""

import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from scipy.io import loadmat, whosmat

from agego_lib.datasets.sequence import (
    DatasetError,
    FrameError,
    Sequence,
    SequenceFolder,
    frames_on_disk,
    joint_array,
    load_pickle,
    one_file,
    reason_kind,
)
from agego_lib.files import read_bytes
from agego_lib.skeleton import BONES, COMMON_BONE_LENGTHS, NUM_JOINTS

MAX_MAT_BYTES, MAX_POSES = 1 << 28, 100_000
# Times the common skeleton's bones, that a person's may measure together: beyond lie other units, and no people.
HUMAN = (0.5, 2.0)
NO_FILE = "missing on disk"
_IMAGE = re.compile(r".*\.(?:jpe?g|png)", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(r"(.*?)([0-9]{1,12})\.[a-z]+", re.IGNORECASE | re.DOTALL)


class Take(NamedTuple):
    """Which frames of a sequence count: by position in the sorted folder, `stop` excluded. actor: who wears the camera.

    The first pose belongs to the frame at `start`.
    """

    actor: str
    start: int
    stop: int


TITLES = {"globalegomocap": "GlobalEgoMocap", "mo2cap2": "Mo2Cap2"}
# As published. Mo2Cap2's frames are 386 to 3288 and 157 to 2901 of its recordings, and alone in its folders.
TAKES = {
    "globalegomocap": {
        "jian3": Take("jian", 557, 1857),
        "studio-jian1": Take("jian", 503, 3603),
        "studio-jian2": Take("jian", 600, 3400),
        "studio-lingjie1": Take("lingjie", 551, 3251),
        "studio-lingjie2": Take("lingjie", 438, 2738),
    },
    "mo2cap2": {"weipeng_studio": Take("weipeng", 0, 2902), "olek_outdoor": Take("olek", 0, 2744)},
}


def _natural(name):
    """Sorts names as people count: img_9 before img_10."""
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split("([0-9]+)", name))], name


def _positions(names, exactly):
    """Positions of image files in their folder -> (name -> position, notes on what their numbers tell).

    By their numbers, where names differ in nothing else: a recording is numbered through, so that a number that is not
    there is a lost file, after which frames must not take the poses of others. Else by their natural order.
    """
    found = {name: _NUMBERED.fullmatch(name) for name in names}
    if all(found.values()) and len({match[1] for match in found.values()}) == 1:
        numbers = {name: int(match[2]) for name, match in found.items()}
        first, there = min(numbers.values()), set(numbers.values())
        lost = max(there) - first + 1 - len(there)
        if lost <= len(there):  # numbers further apart are no count of frames, but times or the like
            notes = [f"{lost} numbers between the first and last image have none: taken for lost frames"] * bool(lost)
            if first > 1 and not exactly:
                notes.append(f"images are numbered from {first}, which is taken for the first of the recording")
            return {name: number - first for name, number in numbers.items()}, notes
    return {name: position for position, name in enumerate(sorted(names, key=_natural))}, []


def _images(folder, take, exactly):
    """-> (position -> files as `frames_on_disk` gives them, notes). Raises DatasetError where there are too few, or,
    exactly, more."""
    place = folder.path / "imgs"
    if not place.is_dir():
        place = folder.path  # Mo2Cap2 as its authors publish it
    try:
        names = [name for name in os.listdir(place) if _IMAGE.fullmatch(name) and not name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{place}: not readable ({error}); expected the frames there") from None
    positions, notes = _positions(names, exactly) if names else ({}, [])

    def number_of(name):
        if name not in positions:
            raise FrameError("no image")
        return positions[name]

    frames, others = frames_on_disk(folder, place, number_of)
    count = max(frames, default=-1) + 1
    if count < take.stop or (exactly and count > take.stop):
        found = f"{count} images (JPEG or PNG)" if place.name == "imgs" else f"no imgs/, and {count} images in itself"
        raise DatasetError(
            f"{place}: {found}, lost ones in between included; expected {'' if exactly else 'at least '}{take.stop}, "
            f"of which those from {take.start} on count, by position. Copy or download the sequence again"
        )
    if others and place != folder.path:
        notes.append(f"{len(others)} files that are no images were left out (first: {others[0]!r:.90})")
    return frames, [f"{place}: {note}" for note in notes]


def _person_sized(poses, source):
    """Raise DatasetError where the bones of poses (m) do not have a person's length: they are in another unit."""
    expected = sum(COMMON_BONE_LENGTHS)
    found = np.median(sum(np.linalg.norm(poses[:, child] - poses[:, parent], axis=-1) for parent, child in BONES))
    if not HUMAN[0] * expected <= found <= HUMAN[1] * expected:
        raise DatasetError(
            f"{source}: the bones of a pose measure {found:.4g} m together (median), expected about {expected:.1f}, a "
            "person's. GlobalEgoMocap is read as metres, Mo2Cap2 as millimetres: check the file's unit and its joints"
        )


def _build(kind, folder, name, take, source, poses, frames, notes):
    """The frames of a take joined with its poses (m), one a frame, any that are faulty left out -> Sequence."""
    skipped, used = {}, []
    for position, pose in zip(range(take.start, take.stop), poses, strict=True):
        label = f"frame {position}"
        try:
            if position not in frames:
                raise FrameError(NO_FILE)
            label = frames[position][0][0].name
            path = one_file(frames[position])
            pose = joint_array(pose, 3, "pose")
            if not np.isfinite(pose).all():
                raise FrameError("pose holds NaN or infinite values")
            used.append((position, path, pose))
        except FrameError as error:
            skipped[label] = str(error)
    if not used:
        why = Counter(reason_kind(reason) for reason in skipped.values()).most_common(3)
        counts = ", ".join(f"{count} x {reason}" for reason, count in why)
        raise DatasetError(f"{source}: no usable frame of {folder.path} ({counts}); expected (15, 3) poses, finite")
    numbers, paths, joints = zip(*used, strict=True)
    joints = np.stack(joints)
    _person_sized(joints, source)
    return Sequence(
        name=name,
        actor=take.actor,
        frame_paths=list(paths),
        frame_numbers=np.array(numbers, dtype=np.int64),
        joints_3d=joints.astype(np.float32),
        joints_2d=np.full((len(used), NUM_JOINTS, 2), np.nan, dtype=np.float32),
        skipped=skipped,
        dataset=kind,
        notes=notes,
    )


def _only(folder, pattern, beside=None):
    """The one file of a pattern in a sequence's folder, or that beside it. Raises DatasetError for none and several."""
    found = [path.name for path in sorted(folder.path.glob(pattern)) if not path.name.startswith(".")]
    if len(found) > 1:
        raise DatasetError(f"{folder.path}: {', '.join(found[:4])}; expected one {pattern} alone, that with the poses")
    path = folder.file(found[0]) if found else None
    if path is None and beside is not None and beside.is_file():
        folder.check(beside)
        return beside
    if path is None:
        also = f", or {beside}" if beside is not None else ""
        raise DatasetError(f"{folder.path}: no {pattern} with the poses in it{also}; copy or download it again")
    return path


def _enough(poses, take, source):
    """The poses of a take, and what to say of more than that. Raises DatasetError where they are fewer."""
    count = take.stop - take.start
    if len(poses) < count:
        raise DatasetError(
            f"{source}: {len(poses)} poses, expected {count}, one for each of the frames {take.start} to {take.stop}; "
            "copy or download it again"
        )
    more = len(poses) - count
    return poses[:count], [f"{source}: its last {more} poses, beyond the frames that count, were left out"] * bool(more)


def read_globalegomocap(sequence_dir, take, root=None) -> Sequence:
    """Read `<root>/<sequence>/`: `imgs/` in the natural order of names, and one pickle of a list of (15, 3) poses.

    take: the frames that count; the list's first pose is that of the first of them. Metres. Frames with faults are
    listed in `skipped` with the reason. root: as in SequenceFolder. Raises DatasetError for a fault of the whole.
    """
    folder = SequenceFolder(sequence_dir, root)
    frames, notes = _images(folder, take, exactly=False)
    source = _only(folder, "*.pkl")
    poses = load_pickle(source)
    if not isinstance(poses, list) and not (isinstance(poses, np.ndarray) and poses.ndim):
        raise DatasetError(f"{source}: holds a {type(poses).__name__}; expected a list of (15, 3) poses, one a frame")
    poses, more = _enough(poses, take, source)
    return _build("globalegomocap", folder, folder.path.name, take, source, poses, frames, notes + more)


def _pose_gt(path):
    """`pose_gt` (N, 15, 3) of a MATLAB file, also of a v7.3 one, which is HDF5, in its unit. Raises DatasetError."""

    def checked(shape):
        if len(shape) != 3 or shape[1:] != (NUM_JOINTS, 3) or not 0 < shape[0] <= MAX_POSES:
            raise DatasetError(f"{path}: 'pose_gt' has the shape {tuple(shape)}, expected (N, {NUM_JOINTS}, 3)")

    try:
        data = read_bytes(path, MAX_MAT_BYTES)
        if data[:10] == b"MATLAB 7.3":
            with h5py.File(io.BytesIO(data), "r") as file:
                link = file.get("pose_gt", getlink=True)
                found = file["pose_gt"] if isinstance(link, h5py.HardLink) else None
                if isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual:
                    checked(found.shape[::-1])  # MATLAB writes the last axis first
                    return np.asarray(found[()].T, dtype=np.float64)
                names = list(file)
        else:
            # The header alone, before anything of the size that it declares is made.
            shapes = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(data))}
            names = list(shapes)
            if "pose_gt" in shapes:
                shape, kind = shapes["pose_gt"]
                checked(shape)
                if kind in ("double", "single") or "int" in kind:
                    return np.asarray(loadmat(io.BytesIO(data), variable_names=["pose_gt"])["pose_gt"], np.float64)
                raise DatasetError(f"{path}: 'pose_gt' is of MATLAB's kind {kind}, expected numbers")
    except DatasetError:
        raise
    except Exception as error:  # a damaged file makes SciPy and HDF5 raise nearly anything
        raise DatasetError(
            f"{path}: not readable as a MATLAB file ({type(error).__name__}: {str(error)[:200]}); copy or download it "
            "again"
        ) from None
    raise DatasetError(f"{path}: no array 'pose_gt' in it, but {', '.join(map(repr, names[:5])) or 'nothing'}")


def read_mo2cap2(sequence_dir, take, root=None) -> Sequence:
    """Read `<root>/<sequence>/`: images, in `imgs/` or the folder itself, and a `.mat` file, there or beside the folder
    as `<sequence>_gt.mat`, whose `pose_gt` is (N, 15, 3) in millimetres.

    As many images as poses that count. Arguments, faults and errors as of `read_globalegomocap`.
    """
    folder = SequenceFolder(sequence_dir, root)
    frames, notes = _images(folder, take, exactly=True)
    source = _only(folder, "*.mat", folder.path.with_name(f"{folder.path.name}_gt.mat"))
    poses, more = _enough(_pose_gt(source), take, source)
    return _build("mo2cap2", folder, folder.path.name, take, source, poses / 1000, frames, notes + more)


READERS = {"globalegomocap": read_globalegomocap, "mo2cap2": read_mo2cap2}


def read_mocap(kind, root, takes=None) -> list[Sequence]:
    """All sequences of a test set, "globalegomocap" or "mo2cap2", no image of which is opened.

    takes: sequence -> Take, by default the published ones (TAKES). Raises DatasetError with all that is missing or
    wrong, a line for each sequence, so that nothing is computed in vain.
    """
    root, takes = Path(root), takes or TAKES[kind]
    try:
        there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise DatasetError(
            f"{root}: not readable ({error}); expected the sequences of {TITLES[kind]}: {', '.join(takes)}"
        ) from None
    faults, sequences = [], []
    missing = [name for name in takes if name not in there]
    if missing:
        found = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        faults.append(f"{root}: no folder {', '.join(missing)}; expected {', '.join(takes)}, found {found or 'none'}")
    for name, take in takes.items():
        if name not in missing:
            try:
                sequences.append(READERS[kind](root / name, take, root))
            except DatasetError as error:
                faults.append(str(error))
    if faults:
        raise DatasetError("\n".join(faults))
    return sequences
