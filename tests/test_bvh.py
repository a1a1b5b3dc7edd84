"""The BVH file, read back by bvhio and by a plain loop over its text that reads positions as programs differ on them.

Some let a joint's position channels replace its OFFSET (Blender, bvhio), some add them, some heed the root's alone.
"""

from itertools import pairwise

import bvhio
import numpy as np
import pytest

from agego_lib.skeleton import JOINT_NAMES
from agego_video.bvh import write_bvh
from agego_video.rig import NAMES as RIG_NAMES
from agego_video.rig import rig

NAMES = {name: i for i, name in enumerate(JOINT_NAMES)}
# A person who stands straight with arms to the sides, in the camera's frame (m): x right, y back, z down.
RIGHT = {"shoulder": (0.2, 0.1, 0.3), "elbow": (0.5, 0.1, 0.3), "wrist": (0.75, 0.1, 0.3), "hip": (0.1, 0.1, 0.8)}
RIGHT |= {"knee": (0.1, 0.1, 1.2), "ankle": (0.1, 0.1, 1.6), "toe": (0.1, -0.05, 1.65)}
CHAINS = [("neck", "shoulder", "elbow", "wrist"), ("hip", "knee", "ankle", "toe")]
READINGS = ("replace", "add", "rotations only")


def standing():
    pose = np.zeros((15, 3))
    pose[0] = 0, 0.1, 0.25
    for part, place in RIGHT.items():
        pose[NAMES[f"right_{part}"]] = place
        pose[NAMES[f"left_{part}"]] = np.array(place) * (-1, 1, 1)
    return pose


def moving(frames=40):
    """Poses that drift at random, so that bones change their length."""
    return standing() + np.cumsum(np.random.default_rng(0).normal(0, 0.01, (frames, 15, 3)), axis=0)


def rigid(frames=9):
    """Limbs in random directions and a turned body, with each bone as long as in the first frame."""
    rng = np.random.default_rng(1)
    poses = np.stack([standing()] * frames)
    for frame in poses[1:]:
        for side in ("right", "left"):
            for chain in CHAINS:
                for above, part in pairwise(chain):
                    parent, child = NAMES.get(above, NAMES.get(f"{side}_{above}")), NAMES[f"{side}_{part}"]
                    length = np.linalg.norm(standing()[child] - standing()[parent])
                    way = rng.normal(size=3)
                    frame[child] = frame[parent] + way / np.linalg.norm(way) * length
        frame[:] = frame @ np.linalg.qr(rng.normal(size=(3, 3)))[0].T + rng.normal(size=3)
    return poses


def in_file(points):
    """A camera frame's axes in the file's: x right -> -x, y towards the wearer's back -> -z, z to the ground -> -y."""
    return np.stack([-points[..., 0], -points[..., 2], -points[..., 1]], axis=-1)


def by_bvhio(path):
    root = bvhio.readAsHierarchy(str(path))
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    found = np.empty((bvhio.readAsBvh(str(path)).FrameCount, 15, 3))
    for frame in range(len(found)):
        root.loadPose(frame)
        found[frame] = [np.array(joints[name].PositionWorld) for name in JOINT_NAMES]
    return found


def turn(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return {
        "X": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "Y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "Z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


def by_loop(path, reading):
    """World positions (N, 15, 3), line by line from the text of the file."""
    head, motion = path.read_text().split("MOTION\n")
    joints, stack, end = [], [], False
    for words in (line.split() for line in head.splitlines()):
        if words[0] in ("ROOT", "JOINT"):
            joints.append({"name": words[1], "parent": stack[-1] if stack else None})
            name = len(joints) - 1
        elif words[0] == "End":
            end, name = True, None
        elif words[0] == "{":
            stack.append(name)
        elif words[0] == "}":
            stack.pop()
            end = False
        elif words[0] == "OFFSET" and not end:
            joints[-1]["offset"] = np.array(words[1:], float)
        elif words[0] == "CHANNELS":
            joints[-1]["channels"] = words[2:]
            assert len(words[2:]) == int(words[1])
    rows = [np.array(line.split(), float) for line in motion.splitlines()[2:]]
    assert motion.splitlines()[0] == f"Frames: {len(rows)}"
    found = np.empty((len(rows), 15, 3))
    for row, pose in zip(rows, found, strict=True):
        values = iter(row)
        for joint in joints:
            place, turned, given = np.zeros(3), np.eye(3), False
            for channel in joint["channels"]:
                if channel.endswith("position"):
                    place["XYZ".index(channel[0])], given = next(values), True
                else:
                    turned = turned @ turn(channel[0], next(values))
            if reading == "add":
                place = place + joint["offset"]
            elif not given or (reading == "rotations only" and joint["parent"] is not None):
                place = joint["offset"]
            if joint["parent"] is None:
                joint["place"], joint["turn"] = place, turned
            else:
                parent = joints[joint["parent"]]
                joint["place"], joint["turn"] = parent["place"] + parent["turn"] @ place, parent["turn"] @ turned
            if joint["name"] in NAMES:
                pose[NAMES[joint["name"]]] = joint["place"]
        assert not list(values)
    return found


@pytest.mark.parametrize("kind", ["rigid", "one frame"])
def test_rotations_are_exact_where_bones_keep_their_length(tmp_path, kind):
    poses = {"rigid": rigid(), "one frame": standing()[None]}[kind]
    assert write_bvh(tmp_path / "motion.bvh", poses, 30).max() < 1e-9
    for found in (by_bvhio(tmp_path / "motion.bvh"), *(by_loop(tmp_path / "motion.bvh", r) for r in READINGS)):
        np.testing.assert_allclose(found, in_file(poses), atol=2e-4)


def test_all_programs_show_the_same_rotations(tmp_path):
    """Where bones change their length, every reading gives the same joints, as far off as the writer says."""
    poses = moving()
    misses = write_bvh(tmp_path / "motion.bvh", poses, 30)
    expected = by_bvhio(tmp_path / "motion.bvh")
    for reading in READINGS:
        np.testing.assert_allclose(by_loop(tmp_path / "motion.bvh", reading), expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(expected - in_file(poses), axis=-1), misses, atol=2e-4)
    assert 0.001 < misses.mean() < 0.2
    # Directions are not lost: only lengths are.
    for above, part in (("shoulder", "elbow"), ("elbow", "wrist"), ("knee", "ankle"), ("ankle", "toe")):
        bones = [p[:, NAMES[f"left_{part}"]] - p[:, NAMES[f"left_{above}"]] for p in (expected, in_file(poses))]
        found, wanted = (bone / np.linalg.norm(bone, axis=-1, keepdims=True) for bone in bones)
        np.testing.assert_allclose(found, wanted, atol=2e-3)
        np.testing.assert_allclose(
            np.linalg.norm(bones[0], axis=-1), np.median(np.linalg.norm(bones[1], axis=-1)), atol=1e-4
        )


@pytest.mark.parametrize("kind", ["moving", "noise", "one frame"])
def test_positions_are_exact(tmp_path, kind):
    poses = {"moving": moving(), "noise": np.random.default_rng(0).normal(0, 0.5, (20, 15, 3))}.get(
        kind, standing()[None]
    )
    assert not write_bvh(tmp_path / "motion.bvh", poses, 30, kind="positions").any()
    for found in (by_bvhio(tmp_path / "motion.bvh"), by_loop(tmp_path / "motion.bvh", "replace")):
        np.testing.assert_allclose(found, in_file(poses), atol=1e-3)


def test_other_axes(tmp_path):
    """Poses of a world whose z is up: x stays, z becomes the file's y."""
    world = standing() @ np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]])
    write_bvh(tmp_path / "motion.bvh", world[None], 30, np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]))
    found = by_loop(tmp_path / "motion.bvh", "replace")[0]
    np.testing.assert_allclose(found, world[:, [0, 2, 1]] * (1, 1, -1), atol=1e-4)
    assert found[NAMES["neck"], 1] > found[NAMES["left_toe"], 1] + 1


def test_time_and_rest_pose(tmp_path):
    poses = standing() * np.array([1.0, 1.1, 1.3])[:, None, None]
    write_bvh(tmp_path / "motion.bvh", poses, 29.97)
    bvh = bvhio.readAsBvh(str(tmp_path / "motion.bvh"))
    assert bvh.FrameCount == 3 and bvh.FrameTime == pytest.approx(1 / 29.97, abs=1e-7)
    offsets = {joint.Name: np.array(joint.Offset) for joint, _, _ in bvh.Root.layout()}
    for chain in CHAINS:
        for above, part in pairwise(chain[1:]):
            bone = standing()[NAMES[f"left_{part}"]] - standing()[NAMES[f"left_{above}"]]
            assert np.linalg.norm(offsets[f"left_{part}"]) == pytest.approx(1.1 * np.linalg.norm(bone), abs=1e-5)
    # The rest pose stands upright, its left at +x, its toes towards +z.
    assert offsets["left_knee"][1] < 0 < offsets["left_elbow"][0] and offsets["left_toe"][2] > 0


def test_straight_standing_needs_no_rotation(tmp_path):
    """Arms to the sides and legs straight down are the rest pose; shoulders and feet differ a little."""
    write_bvh(tmp_path / "motion.bvh", standing()[None], 30)
    values = np.array((tmp_path / "motion.bvh").read_text().splitlines()[-1].split(), float)
    assert len(values) == 6 + 18 * 3 and np.abs(values[3:]).max() < 15


@pytest.mark.parametrize(
    ("chain", "across", "axis"),
    [
        # An arm in the frontal plane, about z; a leg in the sagittal one, about x, the angle in the middle, past 90.
        (("shoulder", "elbow", "wrist"), (1, 0, 0), 0),
        (("hip", "knee", "ankle", "toe"), (0, 1, 0), 1),
    ],
)
def test_no_jumps_over_time(tmp_path, chain, across, axis):
    """A limb that circles twice turns by 720 degrees about one axis, never back, and no angle jumps."""
    angle = np.linspace(0.1, 0.1 + 4 * np.pi, 200)
    poses = np.stack([standing()] * 200)
    first = NAMES[f"right_{chain[0]}"]
    circle = np.outer(np.cos(angle), across) + np.outer(np.sin(angle), (0, 0, 1))
    for reach, part in zip((0.3, 0.55, 0.7), chain[1:], strict=False):
        poses[:, NAMES[f"right_{part}"]] = poses[:, first] + reach * circle
    write_bvh(tmp_path / "motion.bvh", poses, 30)
    lines = (tmp_path / "motion.bvh").read_text().splitlines()[-200:]
    turned = np.diff(np.array([line.split() for line in lines], float)[:, 3:].reshape(200, 19, 3), axis=0)
    limb = RIG_NAMES.index(f"right_{chain[0]}")
    assert np.abs(turned).max() < 5 and np.abs(turned[:, limb, axis].sum()) == pytest.approx(720, abs=1)
    np.testing.assert_allclose(by_bvhio(tmp_path / "motion.bvh"), in_file(poses), atol=1e-3)


@pytest.mark.parametrize("poses", [np.zeros((0, 15, 3)), np.full((2, 15, 3), np.nan), np.zeros((2, 14, 3))])
def test_bad_poses_are_refused(tmp_path, poses):
    with pytest.raises(ValueError, match="expected finite"):
        write_bvh(tmp_path / "motion.bvh", poses, 30)
    with pytest.raises(ValueError, match="expected one of rotations, positions"):
        write_bvh(tmp_path / "motion.bvh", moving(2), 30, kind="both")


def test_degenerate_poses_have_proper_rotations():
    """All joints in one place, bones against their rest direction, hips in line with the spine."""
    flipped = standing() * (1, 1, -1)
    line = np.zeros((15, 3))
    line[:, 0] = np.arange(15)
    for poses in (np.zeros((1, 15, 3)), flipped[None], line[None], -standing()[None]):
        turns = rig(poses).turns
        np.testing.assert_allclose(turns @ turns.swapaxes(-1, -2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(turns), 1)
