"""Trajectories read and applied, against rotations written out by hand and against where a room's points truly are."""

import argparse

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_bvh import standing

from agego_video.trajectory import UPS, Trajectory, TrajectoryError, add_options, from_options, read_trajectory

HEADER = "timestamp,tx,ty,tz,qx,qy,qz,qw"


def quaternion(axis, degrees):
    axis = np.array(axis) / np.linalg.norm(axis)
    return [*(axis * np.sin(np.radians(degrees) / 2)), np.cos(np.radians(degrees) / 2)]


def turned(axis, degrees, points):
    """Points (..., 3) turned about an axis: Rodrigues' formula, term by term."""
    k, a = np.array(axis) / np.linalg.norm(axis), np.radians(degrees)
    along = (points @ k)[..., None] * k
    return points * np.cos(a) + np.cross(k, points) * np.sin(a) + along * (1 - np.cos(a))


def write(path, rows, form="tum"):
    """rows: (timestamp, place, quaternion)."""
    flat = [[t, *place, *q] for t, place, q in rows]
    if form == "tum":
        lines = ["# timestamp tx ty tz qx qy qz qw", "", *(" ".join(f"{v:.9f}" for v in row) for row in flat)]
    else:
        # Other columns beside, in another order.
        names = ["qw", "note", "tx", "TY", "tz", "qx", "qy", "qz", "timestamp"]
        order = [HEADER.split(",").index(name.lower()) if name != "note" else None for name in names]
        lines = [", ".join(names)]
        lines += [", ".join("x" if i is None else f"{row[i]:.9f}" for i in order) for row in flat]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("form", ["tum", "csv"])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_walk_that_turns(tmp_path, form, inverse):
    """Turning at 90 degrees a second about a slanted axis and moving at 2 m/s; poses between the time stamps."""
    axis, step = (1.0, 2.0, 2.0), np.array([2.0, 0, -1.0])
    rows = []
    for t in np.arange(0, 3.01, 0.25):
        place, q = 3 + step * t, quaternion(axis, 90 * t)
        if inverse:  # of the world in the camera: turned back, and seen from there
            place, q = -turned(axis, -90 * t, place), [-q[0], -q[1], -q[2], q[3]]
        # q and -q are one rotation.
        rows.append((1700000000 + t, place, np.array(q) * (-1 if round(4 * t) % 3 else 1)))
    path = write(tmp_path / "t.txt", rows, form)
    trajectory = read_trajectory(path, inverse=inverse, offset=1700000000.1)
    seconds = np.array([0.0, 0.111, 1.37, 2.8])
    poses = np.stack([standing() + i for i in range(4)])
    found, notes = trajectory.world(poses, seconds)
    expected = [turned(axis, 90 * (t + 0.1), p) + 3 + step * (t + 0.1) for t, p in zip(seconds, poses, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not notes


def still(seconds, place=(0.0, 0, 0), q=(0.0, 0, 0, 1), **options):
    seconds = np.asarray(seconds, float)
    places = np.tile(place, (len(seconds), 1)).astype(float)
    return Trajectory("t.txt", seconds, places, Rotation.from_quat(np.tile(q, (len(seconds), 1))), **options)


def test_frames_outside_and_in_gaps_are_counted():
    trajectory = still([1.0, 1.5, 2.0, 3.5, 4.0], offset=0.5)
    seconds = np.array([0.0, 0.5, 1.2, 1.5, 1.7, 2.9, 3.0, 3.5, 3.6])  # 0.5 earlier than the trajectory's
    joints, (note,) = trajectory.world(np.zeros((9, 15, 3)), seconds)
    known = np.isfinite(joints).all((1, 2))
    # 2.2 and 3.4 lie in the gap of 1.5 s, 2.0 and 3.5 at its ends.
    assert known.tolist() == [False, True, True, True, False, False, True, True, False]
    assert "4 of 9 frames have no place in the world: 2 outside of its time, 2 in gaps of over 1 s" in note
    with pytest.raises(TrajectoryError, match="all 2 frames lie in a gap"):
        still([0.0, 9.0]).world(np.zeros((2, 15, 3)), [4, 5])


@pytest.mark.parametrize("start", [1700000000.0, -99.0])
def test_no_overlap_says_what_to_give(start):
    trajectory = still([start, start + 10])
    with pytest.raises(TrajectoryError, match=rf"{start + 10:.6f} s, but the video is from 0.0.* --trajectory-offset"):
        trajectory.world(np.zeros((3, 15, 3)), [0, 1, 2])
    with pytest.raises(TrajectoryError, match="--trajectory-offset, such as"):
        trajectory.check_overlap(2.0)
    still([start, start + 10], offset=start).check_overlap(2.0)


@pytest.mark.parametrize(("up", "tall"), [("z", (0, 0, 1)), ("y", (0, 1, 0)), ("-y", (0, -1, 0))])
def test_up_and_floor(up, tall):
    """A person who stands in the world, whichever axis goes up, has their feet at height 0, noise below aside."""
    height = np.array(tall, float)
    # Looking down: the camera's z goes against up; 1.9 m above a floor that lies at 7.
    down = np.cross((0, 0, 1.0), -height)
    angle = np.degrees(np.arctan2(np.linalg.norm(down), -height[2]))
    q = quaternion(down if np.linalg.norm(down) else (1.0, 0, 0), angle)
    trajectory = still([0.0, 1], 8.9 * height, q, up=up, floor=True)
    poses = np.stack([standing() * (1, 1, 1.0 + 0.01 * (i == 0)) for i in range(101)])
    joints, (note,) = trajectory.world(poses, np.linspace(0, 1, 101))
    heights = joints @ height
    # A toe is 1.65 m below the camera.
    assert heights[1:].min() == pytest.approx(0, abs=1e-9) and heights[0].min() == pytest.approx(-0.0165, abs=1e-6)
    assert "moved down by 7.250 m" in note
    # In the programs' axes up is y, and left stays left.
    axes = UPS[up]
    assert np.linalg.det(axes) == pytest.approx(1)
    np.testing.assert_allclose(axes @ height, (0, 1, 0))
    np.testing.assert_allclose((joints @ axes.T)[..., 1], heights)


GOOD = ["0 0 0 0 0 0 0 1", "1 0 0 0 0 0 0 1"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GOOD, "0.5 0 0 0 0 0 0 1"], r"t\.txt, line 3: time stamp 0\.500000 after 1\.000000; expected ascending"),
        ([*GOOD, "# again", "1 0 0 0 0 0 0 1"], r"line 4: time stamp 1\.000000 after 1\.000000.*leave duplicates out"),
        ([*GOOD, "2 0 0 0 1 0 0 1"], r"line 3: quaternion of length 1\.414; expected a unit quaternion"),
        ([*GOOD, "2 0 0 0 0 0 0 0"], "line 3: quaternion of length 0"),
        ([*GOOD, "2 nan 0 0 0 0 0 1"], "line 3: a number that is not finite"),
        ([*GOOD, "2 0 0 0 0 0 0"], "line 3: '2 0 0 0 0 0 0'; expected 8 numbers"),
        ([*GOOD, "2 a 0 0 0 0 0 1"], "line 3: '2 a 0"),
        (["17e17 0 0 0 0 0 0 1", "1700000000100000000 0 0 0 0 0 0 1"], r"stamps 1e\+08 apart; expected seconds"),
        (GOOD[:1], "1 poses; expected two or more"),
        (["a,b,c", *GOOD], "line 1: 'a,b,c'; expected 8 numbers"),
        (["timestamp,tx,ty,tz,qx,qy,qz", "0,0,0,0,0,0,0"], "line 1: no column qw; expected timestamp,tx"),
        ([HEADER, "0,0,0,0,0,0,0,1", "1,0"], "line 3: '1,0'"),
        (["\0\1"], "line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, lines, message):
    (tmp_path / "t.txt").write_text("\n".join(lines))
    with pytest.raises(TrajectoryError, match=message):
        read_trajectory(tmp_path / "t.txt")


def test_files_that_are_none(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, message in ((tmp_path / "none", "none: not readable"), (tmp_path, ": "), (tmp_path / "binary", "utf-8")):
        with pytest.raises(TrajectoryError, match=message):
            read_trajectory(path)


def test_what_files_have_besides(tmp_path):
    """A byte-order mark, Windows' line ends, a commented header, quaternions rounded to three digits."""
    lines = ["#" + HEADER, "0,1,2,3,0.707,0,0,0.707", "1,1,2,3,0.707,0,0,0.707"]
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    joints, _ = read_trajectory(tmp_path / "t.csv").world(np.full((1, 15, 3), (0.0, 1, 0)), [0.5])
    np.testing.assert_allclose(joints[0, 0], (1, 2, 4), atol=1e-9)


def test_options(tmp_path):
    parser = argparse.ArgumentParser()
    add_options(parser)
    path = write(tmp_path / "t.txt", [(5, (0, 0, 0), (0, 0, 0, 1)), (6, (0, 0, 0), (0, 0, 0, 1))])
    given = [f"--trajectory={path}", "--trajectory-offset=5.5", "--up=-y", "--floor"]
    trajectory = from_options(parser.parse_args(given))
    assert (trajectory.offset, trajectory.up, trajectory.floor) == (5.5, "-y", True)
    assert from_options(parser.parse_args([])) is None
    for option in ("--floor", "--trajectory-inverse", "--trajectory-offset=1"):
        with pytest.raises(TrajectoryError, match=f"{option.split('=')[0]} without --trajectory"):
            from_options(parser.parse_args([option]))
    with pytest.raises(TrajectoryError, match="nan; expected seconds"):
        from_options(parser.parse_args([f"--trajectory={path}", "--trajectory-offset=nan"]))
