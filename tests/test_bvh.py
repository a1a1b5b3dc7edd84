"""The BVH file, read back by bvhio, a reader of its own that treats position channels as Blender does."""

import bvhio
import numpy as np
import pytest

from agego_lib.skeleton import BONES, JOINT_NAMES, PARENTS
from agego_video.bvh import write_bvh

# A camera frame's axes in the file's: x right -> -x, y towards the wearer's back -> -z, z to the ground -> -y.
NAMES = {name: i for i, name in enumerate(JOINT_NAMES)}
# A person who stands straight with arms to the sides, in the camera's frame (m): x right, y back, z down.
RIGHT = {"shoulder": (0.2, 0.1, 0.3), "elbow": (0.5, 0.1, 0.3), "wrist": (0.75, 0.1, 0.3), "hip": (0.1, 0.1, 0.8)}
RIGHT |= {"knee": (0.1, 0.1, 1.2), "ankle": (0.1, 0.1, 1.6), "toe": (0.1, -0.05, 1.65)}


def standing():
    pose = np.zeros((15, 3))
    pose[0] = 0, 0.1, 0.25
    for part, place in RIGHT.items():
        pose[NAMES[f"right_{part}"]] = place
        pose[NAMES[f"left_{part}"]] = np.array(place) * (-1, 1, 1)
    return pose


def in_file(points):
    return np.stack([-points[..., 0], -points[..., 2], -points[..., 1]], axis=-1)


def read_back(path):
    """World positions (N, 15, 3) and the reader's joints, by our names."""
    frames = bvhio.readAsBvh(str(path)).FrameCount
    root = bvhio.readAsHierarchy(str(path))
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    found = np.empty((frames, 15, 3))
    for frame in range(frames):
        root.loadPose(frame)
        found[frame] = [np.array(joints[name].PositionWorld) for name in JOINT_NAMES]
    return found, joints


@pytest.mark.parametrize("kind", ["moving", "noise", "one frame"])
def test_positions_read_back(tmp_path, kind):
    rng = np.random.default_rng(0)
    wobble = np.cumsum(rng.normal(0, 0.03, (40, 15, 3)), axis=0)
    poses = {
        "moving": standing() + wobble,
        "noise": rng.normal(0, 0.5, (20, 15, 3)),
        "one frame": standing()[None],
    }[kind]
    write_bvh(tmp_path / "motion.bvh", poses, 30)
    found, joints = read_back(tmp_path / "motion.bvh")
    assert np.abs(found - in_file(poses)).max() < 1e-3
    for child, parent in enumerate(PARENTS):
        assert (joints[JOINT_NAMES[child]].Parent or joints["neck"]).Name == JOINT_NAMES[parent]
    # Bones do change their length here, so that rotations alone could not have done it.
    lengths = np.linalg.norm(poses - poses[:, PARENTS], axis=-1)[:, 1:]
    assert kind == "one frame" or np.ptp(lengths, axis=0).min() > 0.01


def test_time_and_rest_pose(tmp_path):
    poses = standing() * np.array([1.0, 1.1, 1.3])[:, None, None]
    write_bvh(tmp_path / "motion.bvh", poses, 29.97)
    bvh = bvhio.readAsBvh(str(tmp_path / "motion.bvh"))
    assert bvh.FrameCount == 3 and bvh.FrameTime == pytest.approx(1 / 29.97, abs=1e-7)
    offsets = {joint.Name: np.array(joint.Offset) for joint, _, _ in bvh.Root.layout()}
    for parent, child in BONES:
        expected = 1.1 * np.linalg.norm(standing()[child] - standing()[parent])
        assert np.linalg.norm(offsets[JOINT_NAMES[child]]) == pytest.approx(expected, abs=1e-5)
    # The rest pose stands upright, its left at +x, its toes towards +z.
    assert offsets["left_knee"][1] < 0 < offsets["left_elbow"][0] and offsets["left_toe"][2] > 0


def test_rotations_point_bones_at_their_children(tmp_path):
    """With the bones at their median length, the rotations alone must give the pose, twists and all aside."""
    rng = np.random.default_rng(1)
    pose = standing()
    bent = np.stack([pose] * 9)
    # Limbs at random directions with their lengths kept; the torso is the rest pose's own shape.
    order = [NAMES[f"{s}_{part}"] for s in ("right", "left") for part in ("elbow", "wrist", "knee", "ankle", "toe")]
    for frame in range(1, 9):
        for child in order:
            direction = rng.normal(size=3)
            length = np.linalg.norm(pose[child] - pose[PARENTS[child]])
            bent[frame, child] = bent[frame, PARENTS[child]] + direction / np.linalg.norm(direction) * length
    write_bvh(tmp_path / "motion.bvh", bent, 30)
    _, joints = read_back(tmp_path / "motion.bvh")
    root, target = joints["neck"], in_file(bent)
    rest = {
        joint.Name: np.array(joint.Offset)
        for joint, _, _ in bvhio.readAsBvh(str(tmp_path / "motion.bvh")).Root.layout()
    }
    for frame in range(9):
        root.loadPose(frame)
        for child in order:
            name, parent = JOINT_NAMES[child], JOINT_NAMES[PARENTS[child]]
            # The reader's joints have a rest rotation of their own, which is taken away here.
            joint = joints[parent]
            turned = np.array(joint.RotationWorld * _inverse_rest(joint) * _vec(rest[name]))
            np.testing.assert_allclose(turned, target[frame, child] - target[frame, PARENTS[child]], atol=2e-4)


def _vec(values):
    import glm

    return glm.vec3(*map(float, values))


def _inverse_rest(joint):
    import glm

    rotation = glm.quat()
    while joint is not None:
        rotation = joint.RestPose.Rotation * rotation
        joint = joint.Parent
    return glm.inverse(rotation)


def test_straight_standing_needs_no_rotation(tmp_path):
    """Arms to the sides and legs straight down are the rest pose; hips and feet differ from it by a few degrees."""
    write_bvh(tmp_path / "motion.bvh", standing()[None], 30)
    values = np.array((tmp_path / "motion.bvh").read_text().splitlines()[-1].split(), float).reshape(15, 6)
    assert np.abs(values[:, 3:]).max() < 15


def test_no_jumps_over_time(tmp_path):
    """An arm that circles twice in the frontal plane turns by 720 degrees about z, never back."""
    angle = np.linspace(0, 4 * np.pi, 200)
    poses = np.stack([standing()] * 200)
    shoulder = NAMES["right_shoulder"]
    circle = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1)
    for reach, name in ((0.3, "right_elbow"), (0.55, "right_wrist")):
        poses[:, NAMES[name]] = poses[:, shoulder] + reach * circle
    write_bvh(tmp_path / "motion.bvh", poses, 30)
    lines = (tmp_path / "motion.bvh").read_text().splitlines()[-200:]
    values = np.array([line.split() for line in lines], float).reshape(200, 15, 6)
    turned = np.diff(values[..., 3:], axis=0)
    assert np.abs(turned).max() < 5 and np.abs(turned[:, 1, 0].sum()) == pytest.approx(720, abs=1)
    found, _ = read_back(tmp_path / "motion.bvh")
    assert np.abs(found - in_file(poses)).max() < 1e-3


@pytest.mark.parametrize("poses", [np.zeros((0, 15, 3)), np.full((2, 15, 3), np.nan), np.zeros((2, 14, 3))])
def test_bad_poses_are_refused(tmp_path, poses):
    with pytest.raises(ValueError, match="expected finite"):
        write_bvh(tmp_path / "motion.bvh", poses, 30)
