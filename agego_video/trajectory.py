"""Where a headset or SLAM says that the camera was: poses into the world, gravity up, feet on the floor."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from agego_lib.files import read_text
from agego_lib.skeleton import JOINT_NAMES
from agego_video.video import VideoError

FIELDS = ("timestamp", "tx", "ty", "tz", "qx", "qy", "qz", "qw")
# World axes -> those of BVH and glTF, whose y is up: proper rotations.
UPS = {
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "y": np.eye(3),
    "-y": np.diag([1.0, -1.0, -1.0]),
}
MAX_BYTES = 1 << 28
MAX_GAP = 1.0  # s, over which poses are interpolated: tracking that was lost for longer says nothing in between
NO_UNIT = 0.01  # by which a quaternion's length may miss 1: files round to two digits or more
STANDING = 5  # percent of the frames whose lowest joint may be below the floor, noise and steps down
_FEET = [i for i, name in enumerate(JOINT_NAMES) if name.endswith(("ankle", "toe"))]


class TrajectoryError(VideoError):
    """A trajectory that cannot be used; the message says which file and line, what was found and what to do."""


@dataclass(frozen=True)
class Trajectory:
    """The camera's poses over time, at least two: world = turn applied to camera + place.

    path: of its file. seconds: (K,) its time stamps, ascending. places: (K, 3) m. turns: K rotations.
    offset: its time stamp when the video's first frame was taken. up: of UPS, the world's axis against gravity.
    floor: whether the world is moved up or down so that the feet stand at height 0.
    """

    path: Path
    seconds: np.ndarray
    places: np.ndarray
    turns: Rotation
    offset: float = 0.0
    up: str = "z"
    floor: bool = False

    @property
    def axes(self):
        """(3, 3) from the world's axes to those of BVH and glTF."""
        return UPS[self.up]

    def check_overlap(self, seconds):
        """Raises TrajectoryError where no time of a video of so many seconds lies within."""
        if self.offset > self.seconds[-1] or self.offset + seconds < self.seconds[0]:
            raise TrajectoryError(
                f"{self.path}: from {self.seconds[0]:.6f} to {self.seconds[-1]:.6f} s, but the video is from "
                f"{self.offset:.6f} to {self.offset + seconds:.6f} s; give the trajectory's time stamp of the video's "
                f"first frame with --trajectory-offset, such as {self.seconds[0]:.6f}"
            )

    def world(self, poses, seconds):
        """Poses (N, 15, 3) in the camera's axes at the video's times (N,) -> (joints (N, 15, 3) m in the world, notes).

        NaN where the trajectory does not say where the camera was: before, after, and in gaps of over MAX_GAP.
        Raises TrajectoryError where that is so of all frames.
        """
        at = np.asarray(seconds) + self.offset
        after = np.clip(np.searchsorted(self.seconds, at), 1, len(self.seconds) - 1)
        gap = self.seconds[after] - self.seconds[after - 1]
        within = (at >= self.seconds[0]) & (at <= self.seconds[-1])
        known = within & ((gap <= MAX_GAP) | np.isin(at, self.seconds))
        if not known.any():
            self.check_overlap(float(np.max(seconds)))
            raise TrajectoryError(
                f"{self.path}: all {len(at)} frames lie in a gap of over {MAX_GAP:g} s between its poses, or outside; "
                "expected a pose at least every second while the video was taken"
            )
        place = np.stack([np.interp(at[known], self.seconds, axis) for axis in self.places.T], axis=-1)
        turn = Slerp(self.seconds, self.turns)(at[known]).as_matrix()
        joints = np.full(np.shape(poses), np.nan)
        joints[known] = np.einsum("nij,nkj->nki", turn, np.asarray(poses, np.float64)[known]) + place[:, None]
        notes = []
        if not known.all():
            lost = int((within & ~known).sum())
            notes.append(
                f"{self.path}: {(~known).sum()} of {len(at)} frames have no place in the world: {(~within).sum()} "
                f"outside of its time, {lost} in gaps of over {MAX_GAP:g} s"
            )
        if self.floor:
            heights = (joints[known] @ self.axes.T)[:, _FEET, 1].min(-1)
            lift = -np.percentile(heights, STANDING)
            joints += lift * self.axes[1]
            way = f"{'up' if lift >= 0 else 'down'} by {abs(lift):.3f} m"
            notes.append(f"{self.path}: the world is moved {way}, so that the feet stand at height 0")
        return joints, notes


def read_trajectory(path, *, inverse=False, **options):
    """Read a trajectory in TUM's format (lines of FIELDS, parted by blanks) or CSV with that header -> Trajectory.

    Lines that start with # are comments; columns of a CSV file are found by name, and others ignored. Seconds, metres,
    and unit quaternions, of the camera in the world (x right, y down, z forward), or, inverse, of the world in the
    camera. options: offset, up and floor, see Trajectory.
    Raises TrajectoryError, which names the line.
    """
    path = Path(path)
    try:
        text = read_text(path, MAX_BYTES, "utf-8-sig")
    except OSError as error:
        raise TrajectoryError(f"{path}: not readable ({error.strerror}); name a trajectory with --trajectory") from None
    except ValueError as error:
        raise TrajectoryError(f"{path}: {error}; expected lines of text: {' '.join(FIELDS)}") from None
    lines, rows = _rows(text, path)
    if len(rows) < 2:
        raise TrajectoryError(f"{path}: {len(rows)} poses; expected two or more, as lines of {' '.join(FIELDS)}")

    def fail(bad, found, expected):
        i = int(np.flatnonzero(bad)[0])
        raise TrajectoryError(f"{path}, line {lines[i]}: {found(i)}; {expected}")

    if not np.isfinite(rows).all():
        fail(~np.isfinite(rows).all(-1), lambda i: "a number that is not finite", "leave out poses that are not known")
    seconds, length = rows[:, 0], np.linalg.norm(rows[:, 4:], axis=-1)
    late = np.concatenate([[False], np.diff(seconds) <= 0])
    if late.any():
        fail(
            late,
            lambda i: f"time stamp {seconds[i]:.6f} after {seconds[i - 1]:.6f}",
            "expected ascending ones, each once; sort the file and leave duplicates out",
        )
    apart = np.median(np.diff(seconds))
    if apart > 60:
        raise TrajectoryError(f"{path}: time stamps {apart:.6g} apart; expected seconds (nanoseconds divided by 1e9)")
    if (np.abs(length - 1) > NO_UNIT).any():
        fail(
            np.abs(length - 1) > NO_UNIT,
            lambda i: f"quaternion of length {length[i]:.4g}",
            f"expected a unit quaternion in the order {' '.join(FIELDS[4:])}",
        )
    places, turns = rows[:, 1:4], Rotation.from_quat(rows[:, 4:])
    if inverse:
        turns = turns.inv()
        places = -turns.apply(places)
    return Trajectory(path, seconds, places, turns, **options)


def _rows(text, path):
    """-> (numbers of the lines, from 1; their numbers (K, 8) in the order of FIELDS)."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1)]
    header, columns, comma = None, list(range(len(FIELDS))), False
    numbers, rows = [], []
    for n, line in lines:
        names = [part.strip().lower() for part in line.lstrip("# ").split(",")]
        if header is None and not rows and "tx" in names:
            header, comma = names, True
            missing = [field for field in FIELDS if field not in names]
            if missing:
                raise TrajectoryError(f"{path}, line {n}: no column {', '.join(missing)}; expected {','.join(FIELDS)}")
            columns = [names.index(field) for field in FIELDS]
            continue
        if not line or line.startswith("#"):
            continue
        parts = next(csv.reader([line])) if comma else line.split()
        try:
            if header is None and len(parts) != len(FIELDS):
                raise ValueError
            rows.append([float(parts[column]) for column in columns])
        except (ValueError, IndexError):
            raise TrajectoryError(
                f"{path}, line {n}: '{line[:60]}'; expected {len(header or FIELDS)} numbers: "
                f"{' '.join(FIELDS)} parted by blanks, or a CSV file with these names in its first line"
            ) from None
        numbers.append(n)
    return numbers, np.array(rows, dtype=np.float64).reshape(-1, len(FIELDS))


def add_options(parser):
    """Add the options of a trajectory to a command's parser; `from_options` takes what was given."""
    group = parser.add_argument_group("in the world")
    group.add_argument("--trajectory", metavar="FILE", help="where the camera was: lines of " + " ".join(FIELDS) +
                       " (TUM), or a CSV file with that header")  # fmt: skip
    group.add_argument("--trajectory-offset", type=float, default=0.0, metavar="SECONDS",
                       help="its time stamp of the video's first frame (default: 0)")  # fmt: skip
    group.add_argument("--trajectory-inverse", action="store_true", help="its poses are of the world in the camera")
    group.add_argument("--up", choices=UPS, default="z", help="the world's axis against gravity (default: "
                       "%(default)s); the last as --up=-y")  # fmt: skip
    group.add_argument("--floor", action="store_true", help="move the world up or down until the feet stand at 0")


def from_options(options):
    """Trajectory, or None where none is asked for. Raises TrajectoryError, also for options that need one."""
    if options.trajectory is None:
        for name in ("trajectory_offset", "trajectory_inverse", "floor"):
            if getattr(options, name):
                raise TrajectoryError(f"--{name.replace('_', '-')} without --trajectory; name the camera's poses")
        return None
    if not np.isfinite(options.trajectory_offset):
        raise TrajectoryError(f"--trajectory-offset {options.trajectory_offset}; expected seconds")
    return read_trajectory(
        options.trajectory,
        inverse=options.trajectory_inverse,
        offset=options.trajectory_offset,
        up=options.up,
        floor=options.floor,
    )
