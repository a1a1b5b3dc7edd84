"""A sequence as read from a data set in its published layout, and what both readers share."""

import csv
import io
import math
import os
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short

import numpy as np

from agego_lib.datasets import safe_pickle
from agego_lib.files import read_text
from agego_lib.skeleton import NUM_JOINTS

# A frame without a label is within the layouts; every other reason for skipping one is a fault.
NO_ANNOTATION = "no annotation"
OUTSIDE = "link out of the data set"
# On a body that wears the camera no joint is farther away than this; in millimetres or centimetres the feet are.
MAX_DISTANCE = 10.0  # m
MAX_ROOM = 30.0  # m: farther away from the head than half of what a wide lens sees ever is
MAX_SIDE_FILE = 1 << 28  # bytes
# As published, img_%06d.jpg; converted copies are PNG, or lost the padding or the small letters.
_FRAME_NAME = re.compile(r"img_([0-9]{1,12})\.(?:jpe?g|png)", re.IGNORECASE | re.ASCII)
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")


class DatasetError(ValueError):
    """A fault of a whole sequence, split or store; the message names the file, what was found, what to do."""


class FrameError(ValueError):
    """Why one frame cannot be used."""


@dataclass(frozen=True, eq=False)
class OutsideView:
    """The wearer's joints as a detector found them in N frames of a pinhole camera outside, which stands still.

    joints_2d: (N, 15, 2) px, NaN where a joint was not found. confidence: (N, 15), 0 to 1. intrinsics: (3, 3). All
    float32. Where the camera is, nobody knows.
    """

    joints_2d: np.ndarray
    confidence: np.ndarray
    intrinsics: np.ndarray


@dataclass(eq=False)
class Sequence:
    """N usable frames of one recording, sorted by frame number.

    name: unique within a split. actor: who wears the camera. frame_paths: N paths. frame_numbers: (N,) int64.
    joints_3d: (N, 15, 3) float32, metres, camera frame. joints_2d: (N, 15, 2) float32, px in the full image.
    actions: N names, None where a frame's action is unknown; None where there are no labels.
    in_image, hidden: (N, 15) bool, or None where unknown. skipped: frame name -> reason. dataset: "egopw", "sceneego".
    notes: what was found odd and cost no frame, as texts. depth: (N, H, W) float, metres, as `read_depth` has it.
    outside: an OutsideView of these frames, where there is one.
    """

    name: str
    actor: str
    frame_paths: list
    frame_numbers: np.ndarray
    joints_3d: np.ndarray
    joints_2d: np.ndarray
    actions: list | None = None
    in_image: np.ndarray | None = None
    hidden: np.ndarray | None = None
    skipped: dict = field(default_factory=dict)
    dataset: str = ""
    notes: list = field(default_factory=list)
    depth: np.ndarray | None = None
    outside: OutsideView | None = None

    def __len__(self):
        return len(self.frame_paths)

    @property
    def frame_names(self):
        return [path.name for path in self.frame_paths]


def sequence_key(dataset, split, name):
    """Where all that is made of a sequence lies: "sceneego/test/diogo1"; a slash in the name becomes "__".

    The same name may be in both splits: SceneEgo's are published so.
    """
    return f"{dataset}/{split}/{name.replace('/', '__')}"


def person(name):
    """Who an actor's folder is of: `NAME` and `NAME_new` are one person in both data sets."""
    return re.sub(r"(?<=.)_new$", "", name)


def reason_kind(reason):
    """The part of a reason that frames with the same fault share."""
    return reason.split(":")[0]


def frame_number(name):
    """Number of a frame from its base name, `img_%06d.jpg` or the like of it: PNG, another padding, capital letters.

    Raises FrameError for any other name, paths included.
    """
    match = _FRAME_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        found = repr(name[:80]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise FrameError(f"image_name is not of the form img_%06d.jpg: {found}")
    return int(match[1])


def _same_frame(name):
    """What the spellings of one frame's name share: its number; of any other name, the name."""
    try:
        return frame_number(name)
    except FrameError:
        return name


def _has_shape(value, shape):
    if isinstance(value, np.ndarray):
        return value.shape == shape and value.dtype.kind in "fiu"
    if not shape:
        return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return isinstance(value, list | tuple) and len(value) == shape[0] and all(_has_shape(v, shape[1:]) for v in value)


def joint_array(value, dims, what):
    """An annotation's (15, dims) numbers as float64. Raises FrameError naming `what` where they have another shape."""
    shape = (NUM_JOINTS, dims)
    if not _has_shape(value, shape):
        if isinstance(value, np.ndarray):
            found = f"{value.dtype} array of shape {value.shape}"
        else:
            found = f"{type(value).__name__} of another shape"
        raise FrameError(f"{what} is a {found}, not {shape} numbers")
    try:
        return np.array(value, dtype=np.float64)
    except OverflowError:
        raise FrameError(f"{what} holds whole numbers too large for a float") from None


def pose_array(value, what):
    """A (15, 3) pose in metres as float64. Raises FrameError for None, other shapes, units, NaN and infinite values."""
    if value is None:
        raise FrameError(f"{what} is None")
    pose = joint_array(value, 3, what)
    if not np.isfinite(pose).all():
        raise FrameError(f"{what} holds NaN or infinite values")
    farthest = np.abs(pose).max()
    if farthest > MAX_DISTANCE:
        raise FrameError(
            f"{what} is not in metres: a joint at {farthest:.4g}, farther than {MAX_DISTANCE:g} m from the camera that "
            "its body wears. Divide millimetres by 1000"
        )
    return pose


class SequenceFolder:
    """Where one sequence lies. The folder may be a link; what lies in it must not lead out of it.

    root: the data set's folder, within which links may lead anywhere. Without one, the sequence's own is the limit.
    Raises DatasetError where there is no such folder.
    """

    def __init__(self, path, root=None):
        self.path = Path(path)
        if not self.path.is_dir():
            raise DatasetError(f"{self.path}: no such sequence directory; check the data set's root and the split list")
        self._limits = [Path(os.path.realpath(folder)) for folder in (self.path, root) if folder is not None]

    def holds(self, path):
        """Whether `path`, all links followed, lies within the limits."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(limit) for limit in self._limits)

    def check(self, path):
        """Raise DatasetError where `path` leads out of the limits."""
        if not self.holds(path):
            raise DatasetError(
                f"{path}: a link out of the data set, to {os.path.realpath(path)}; refused. Link whole sequences, or "
                "the data set's root, or put a copy there"
            )

    def file(self, name):
        """Path of a regular file of the sequence, or None. Raises DatasetError for a link out of the data set."""
        path = self.path / name
        if not path.is_file():
            return None
        self.check(path)
        return path


def load_pickle(path):
    """What a pickle of plain data holds. Raises DatasetError for one that cannot be read, or holds anything else."""
    try:
        return safe_pickle.load(path)
    except OSError as error:
        raise DatasetError(f"{path}: not readable ({error}); check the file's permissions and the disk") from None
    except ValueError as error:
        raise DatasetError(str(error)) from None


def load_annotations(folder, names):
    """List of annotations in the first of `names` that exists in a SequenceFolder -> (path, list).

    Raises DatasetError.
    """
    path = next(filter(None, map(folder.file, names)), None)
    if path is None:
        raise DatasetError(f"{folder.path}: no annotation file; expected {' or '.join(names)} in it. Download it again")
    entries = load_pickle(path)
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if isinstance(entries, list) else f"a {type(entries).__name__}"
        raise DatasetError(f"{path}: holds {found}; expected a list of dicts, one a frame. Download it again")
    return path, entries


def frames_on_disk(folder, place=None, number_of=frame_number):
    """The files in `place`, by default imgs/ -> (frame number -> [(path, size in bytes, or None for a link out of the
    data set)] of each file of that number, names of other files but those that operating systems leave behind).

    number_of(name) raises FrameError for a name that is no frame's. Raises DatasetError.
    """
    place = place or folder.path / "imgs"
    frames, others = {}, []
    try:
        with os.scandir(place) as found:
            folder.check(place)
            for entry in found:
                try:
                    number = number_of(entry.name)
                except FrameError:
                    if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BY_SYSTEMS:
                        others.append(entry.name)
                    continue
                path = place / entry.name
                # A link may lead nowhere, or to itself, which a folder's entry does not take for an answer.
                if path.is_file() if entry.is_symlink() else entry.is_file():
                    outside = entry.is_symlink() and not folder.holds(path)
                    frames.setdefault(number, []).append((path, None if outside else entry.stat().st_size))
    except OSError as error:
        raise DatasetError(f"{place}: not readable ({error}); expected the frames img_%06d.jpg there") from None
    return {number: sorted(files) for number, files in frames.items()}, sorted(others)


def count_frames(sequence_dir):
    """Number of files under imgs/ that are named as frames are; 0 where it cannot be read."""
    try:
        names = os.listdir(Path(sequence_dir) / "imgs")
    except OSError:
        return 0
    return sum(_FRAME_NAME.fullmatch(name) is not None for name in names)


def one_file(files):
    """The one path of a frame's files on disk. Raises FrameError where it cannot be used, or is not one."""
    if len(files) > 1:
        names = " and ".join(path.name for path, _ in files[:2])
        more = f" and {len(files) - 2} more" if len(files) > 2 else ""
        raise FrameError(f"two files claim one frame number: {names}{more}; remove all but one")
    ((path, size),) = files
    if size is None:
        raise FrameError(OUTSIDE)
    if not size:
        raise FrameError("empty file")
    return path


def build_sequence(folder, dataset, name, actor, source, entries, number_of, joints_of):
    """The usable annotations of a SequenceFolder, joined with the frames on disk -> Sequence.

    source: the annotation file. number_of(entry) -> frame number and joints_of(entry) -> ((15, 3) m, (15, 2) px)
    raise FrameError for an annotation that cannot be used. The first annotation of a frame counts.
    Raises DatasetError where no frame is usable.
    """
    on_disk, others = frames_on_disk(folder)
    skipped, used, seen, notes = {}, {}, set(), []
    for index, entry in enumerate(entries):
        given = entry.get("image_name") if isinstance(entry, dict) else None
        label = given[:200] if isinstance(given, str) else f"annotation {index}"
        try:
            if not isinstance(entry, dict):
                raise FrameError(f"annotation is a {type(entry).__name__}, not a dict")
            number = number_of(entry)
            label = on_disk[number][0][0].name if number in on_disk else f"img_{number:06d}.jpg"
            if number in seen:
                label += f" (annotation {index})"
                raise FrameError("repeated annotation: the frame's first one counts")
            seen.add(number)
            if number not in on_disk:
                raise FrameError("missing on disk")
            used[number] = one_file(on_disk[number]), *joints_of(entry)
        except FrameError as error:
            skipped[label if label not in skipped else f"{label} (annotation {index})"] = str(error)
    for number in sorted(on_disk.keys() - seen):
        for path, size in on_disk[number]:
            skipped.setdefault(path.name, OUTSIDE if size is None else NO_ANNOTATION)
    if not used:
        counts = Counter(reason_kind(reason) for reason in skipped.values())
        why = ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(5))
        found = f"; {others[0]!r:.90} and {len(others) - 1} more there are not named so" if others else ""
        raise DatasetError(
            f"{source}: no usable frame among {len(entries)} annotations and {len(on_disk)} frames on disk ({why}); "
            f"expected frames named as 'img_000012.jpg' under imgs/, with finite poses{found}. Check that both are "
            "from the same release"
        )
    if others:
        notes.append(
            f"files under imgs/ that are not named as frames, such as 'img_000012.jpg', were left out: {len(others)} "
            f"(first: {others[0]!r:.90})"
        )
    numbers = sorted(used)
    paths, poses, pixels = zip(*(used[number] for number in numbers), strict=True)
    names = [path.name for path in paths]
    in_image, hidden = read_visibility(folder, names)
    return Sequence(
        name=name,
        actor=actor,
        frame_paths=list(paths),
        frame_numbers=np.array(numbers, dtype=np.int64),
        joints_3d=np.stack(poses).astype(np.float32),
        joints_2d=np.stack(pixels).astype(np.float32),
        actions=read_actions(folder, names),
        in_image=in_image,
        hidden=hidden,
        skipped=skipped,
        dataset=dataset,
        notes=notes,
        depth=read_depth(folder, names),
        outside=read_outside(folder, names),
    )


def read_actions(folder, frame_names):
    """Action of each frame from the optional `actions.csv` (header `frame,action`) -> list of str or None, or None.

    `frame` is the frame's file name, in any spelling. Raises DatasetError for another header or two actions for one
    frame.
    """
    path = folder.file("actions.csv")
    if path is None:
        return None
    actions = {}
    try:
        rows = csv.reader(io.StringIO(read_text(path, MAX_SIDE_FILE, "utf-8-sig"), newline=""))
        header = [cell.strip() for cell in next(rows, [])]
        if header != ["frame", "action"]:
            raise DatasetError(
                f"{path}: header {short(header)}; expected 'frame,action'. Correct it or remove the file"
            )
        for row in rows:
            if not row:
                continue
            if len(row) != 2:
                raise DatasetError(f"{path}, line {rows.line_num}: {len(row)} cells; expected frame,action")
            frame, action = (cell.strip() for cell in row)
            if actions.setdefault(_same_frame(frame), action) != action:
                raise DatasetError(f"{path}, line {rows.line_num}: a second action for {frame:.80}; expected one")
    except DatasetError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path}: not readable as UTF-8 CSV ({error}); correct it or remove the file") from None
    return [actions.get(_same_frame(name)) or None for name in frame_names]


def _read_npz(path, keys):
    """The arrays of `keys` that an NPZ file has, as a dict. Raises ValueError for one larger than it should be."""
    arrays = {}
    with zipfile.ZipFile(path) as store:
        members = {info.filename: info for info in store.infolist()}
        for key in keys:
            if (info := members.get(f"{key}.npy")) is None:
                continue
            # Neither a member that unpacks to gigabytes nor a header that declares them is followed.
            if info.file_size > MAX_SIDE_FILE:
                raise ValueError(f"'{key}' unpacks to {info.file_size} bytes, expected at most {MAX_SIDE_FILE}")
            file = io.BytesIO(store.read(info))
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](file)
            if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
                raise ValueError(f"'{key}' declares {dtype} {shape}, which its bytes do not fill")
            file.seek(0)
            arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _side_arrays(folder, name, shapes, frame_names):
    """The arrays that an optional NPZ file of a SequenceFolder has, as a dict; None where there is no such file.

    shapes: {key: (shape, kinds of dtype, what is expected in words)}; a shape that begins with None is of an array with
    a row for each of the file's `frame_names` (M,), whose rows are taken in the order of `frame_names`; -1 is any
    length.
    Raises DatasetError where arrays have another shape or one of `frame_names` is not in it.
    """
    path = folder.file(name)
    if path is None:
        return None
    try:
        arrays = _read_npz(path, ("frame_names", *shapes))
    except Exception as error:  # a damaged zip makes NumPy raise nearly anything
        raise DatasetError(f"{path}: not readable as NPZ ({error}); write it again or remove it") from None
    names = arrays.pop("frame_names", None)
    if names is None or names.ndim != 1 or names.dtype.kind not in "US":
        raise DatasetError(f"{path}: no list of names in 'frame_names'; write it again or remove it")
    for key, value in arrays.items():
        shape, kinds, what = shapes[key]
        expected = tuple(len(names) if side is None else side for side in shape)
        fits = len(expected) == value.ndim and all(e in (-1, v) for e, v in zip(expected, value.shape, strict=True))
        if not fits or value.dtype.kind not in kinds:
            told = f"({', '.join('any' if side == -1 else str(side) for side in expected)})"
            raise DatasetError(f"{path}: '{key}' is {value.dtype} of shape {value.shape}; expected {what} {told}")
    rows = {_same_frame(str(name)): row for row, name in enumerate(names.astype(str))}
    missing = [name for name in frame_names if _same_frame(name) not in rows]
    if missing:
        raise DatasetError(
            f"{path}: nothing about {missing[0]} and {len(missing) - 1} more; write it again or remove it"
        )
    order = [rows[_same_frame(name)] for name in frame_names]
    return {key: value[order] if shapes[key][0][0] is None else value for key, value in arrays.items()}


def read_visibility(folder, frame_names):
    """(in_image, hidden), each (N, 15) bool or None, from the optional `visibility.npz`.

    Its arrays: `frame_names` (M,) and, each optional, `in_image` and `hidden` (M, 15).
    Raises DatasetError where arrays have another shape or one of `frame_names` is not in it.
    """
    flags = (None, NUM_JOINTS), "biu", "bool"
    arrays = _side_arrays(folder, "visibility.npz", {"in_image": flags, "hidden": flags}, frame_names) or {}
    return tuple(arrays[key].astype(bool) if key in arrays else None for key in ("in_image", "hidden"))


def read_depth(folder, frame_names):
    """How far away the scene is, as if nobody were there -> (N, H, W) float, or None without a `depth.npz`.

    Its arrays: `frame_names` (M,) and `distance` (M, H, W) of the full image at any smaller size, metres along each
    pixel's ray; what is not above 0 stands for unknown. Raises DatasetError as `read_visibility`, and for other units.
    """
    arrays = _side_arrays(folder, "depth.npz", {"distance": ((None, -1, -1), "f", "float")}, frame_names)
    if arrays is None:
        return None
    path = folder.path / "depth.npz"
    if "distance" not in arrays:
        raise DatasetError(f"{path}: no maps in 'distance'; write it again or remove it")
    depth = arrays["distance"]
    known = depth[depth > 0]
    if known.size and np.median(known) > MAX_ROOM:
        raise DatasetError(
            f"{path}: 'distance' is not in metres: half of it is above {np.median(known):.4g}; expected distances in a "
            "room, such as 1.6. Divide millimetres by 1000"
        )
    return depth


def read_outside(folder, frame_names):
    """The OutsideView of a sequence's frames, or None, from the optional `outside.npz`.

    Its arrays: `frame_names` (M,), `joints_2d` (M, 15, 2), `confidence` (M, 15), `intrinsics` (3, 3).
    Raises DatasetError where one is missing or has another shape, or one of `frame_names` is not in it.
    """
    floats = {"joints_2d": (None, NUM_JOINTS, 2), "confidence": (None, NUM_JOINTS), "intrinsics": (3, 3)}
    shapes = {key: (shape, "f", "float") for key, shape in floats.items()}
    arrays = _side_arrays(folder, "outside.npz", shapes, frame_names)
    if arrays is None:
        return None
    path = folder.path / "outside.npz"
    if absent := floats.keys() - arrays.keys():
        raise DatasetError(f"{path}: no {', '.join(sorted(absent))}; write it again or remove it")
    found = OutsideView(**{key: value.astype(np.float32) for key, value in arrays.items()})
    if not (found.intrinsics[[0, 1], [0, 1]] > 0).all() or not np.isfinite(found.intrinsics).all():
        raise DatasetError(f"{path}: 'intrinsics' without focal lengths above 0; write it again or remove it")
    if not ((found.confidence >= 0) & (found.confidence <= 1)).all():
        raise DatasetError(f"{path}: 'confidence' outside 0 to 1; write it again or remove it")
    return found
