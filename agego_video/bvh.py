"""Poses as BVH motion, which Blender and other animation programs open."""

import warnings

import numpy as np
from scipy.spatial.transform import Rotation

from agego_lib.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS

# BVH is y-up by custom, a figure looking along +z, its left side at +x. The camera looks down from the head: its x is
# the wearer's right, its y their back, its z the ground. A proper rotation, so that left and right stay what they are.
AXES = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])

# Direction from each joint's parent in the rest pose, a T-pose in BVH's axes; the right side, mirrored for the left.
_REST = {
    "shoulder": (-1.0, -0.3, 0.0),
    "elbow": (-1.0, 0.0, 0.0),
    "wrist": (-1.0, 0.0, 0.0),
    "hip": (0.15, -1.0, 0.0),
    "knee": (0.0, -1.0, 0.0),
    "ankle": (0.0, -1.0, 0.0),
    "toe": (0.0, -0.4, 1.0),
}
# The joint that each rotation points at. The torso turns with neck, shoulders and hips together; the last joints of a
# limb point nowhere and turn with the one before.
_AIMS = {"shoulder": "elbow", "elbow": "wrist", "hip": "knee", "knee": "ankle", "ankle": "toe"}
_TORSO = [JOINT_NAMES.index(f"{s}_{part}") for part in ("shoulder", "hip") for s in ("right", "left")]


def _split(joint):
    """Side and part of a joint by its index; the neck has no side."""
    side, _, part = JOINT_NAMES[joint].rpartition("_")
    return side, part


def _rest_directions():
    directions = np.zeros((NUM_JOINTS, 3))
    for joint in range(1, NUM_JOINTS):
        side, part = _split(joint)
        directions[joint] = np.array(_REST[part]) * ((-1 if side == "left" else 1), 1, 1)
    return directions / np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-12)


def _offsets(points):
    """Offsets of the rest pose (15, 3), each bone as long as its median over points (N, 15, 3)."""
    lengths = np.median(np.linalg.norm(points - points[:, PARENTS], axis=-1), axis=0)
    return _rest_directions() * lengths[:, None]


def _fit(rest, points):
    """Rotations (N, 3, 3) that take vectors rest (K, 3) nearest to points (N, K, 3): Kabsch, Acta Cryst. A32 (1976)."""
    u, _, vt = np.linalg.svd(np.einsum("nki,kj->nij", points, rest))
    sign = np.ones((len(points), 3))
    sign[:, 2] = np.linalg.det(u @ vt)
    return (u * sign[:, None]) @ vt


def _swing(start, end):
    """Smallest rotations (N, 3, 3) from unit vectors start (N, 3) to end (N, 3)."""
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (start * end).sum(-1, keepdims=True))
    # Opposite vectors: any axis across them will do.
    across = _unit(np.cross(start, np.eye(3)[np.abs(start).argmin(-1)]))
    axis = np.where(sine > 1e-9, axis / np.maximum(sine, 1e-9), across)
    return Rotation.from_rotvec(axis * angle).as_matrix()


def _unit(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), (0.0, 1.0, 0.0))


def _rotations(points, offsets):
    """World rotations (N, 15, 3, 3) of all joints for points (N, 15, 3) in BVH's axes."""
    rest = offsets.copy()
    for joint in range(1, NUM_JOINTS):
        rest[joint] += rest[PARENTS[joint]]
    world = np.empty((len(points), NUM_JOINTS, 3, 3))
    torso = world[:, 0] = _fit(rest[_TORSO], points[:, _TORSO] - points[:, :1])
    for joint in range(1, NUM_JOINTS):
        side, part = _split(joint)
        # Hips hang from the shoulders in this tree, but a raised arm turns no leg.
        base = torso if part in ("shoulder", "hip") else world[:, PARENTS[joint]]
        if part not in _AIMS:
            world[:, joint] = base
            continue
        child = JOINT_NAMES.index(f"{side}_{_AIMS[part]}")
        start = np.einsum("nij,j->ni", base, _unit(offsets[child]))
        world[:, joint] = _swing(start, _unit(points[:, child] - points[:, joint])) @ base
    return world


def _angles(rotations):
    """Rotations (N, ..., 3, 3) = Rz Rx Ry -> degrees (N, ..., 3) about z, x, y, without jumps over time."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # gimbal lock: any split of the turn will do
        angles = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_euler("ZXY")
    return np.degrees(np.unwrap(angles.reshape(rotations.shape[:-1]), axis=0))


def _hierarchy(offsets, joint=0, depth=0):
    indent = "\t" * depth
    yield f"{indent}{'JOINT' if joint else 'ROOT'} {JOINT_NAMES[joint]}"
    yield f"{indent}{{"
    yield f"{indent}\tOFFSET " + " ".join(f"{v:.6f}" for v in offsets[joint])
    yield f"{indent}\tCHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation"
    children = [child for child in range(1, NUM_JOINTS) if PARENTS[child] == joint]
    for child in children:
        yield from _hierarchy(offsets, child, depth + 1)
    if not children:
        # Only for show: wrists and toes end here.
        end = offsets[joint] * 0.4
        yield from (f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET " + " ".join(f"{v:.6f}" for v in end))
        yield f"{indent}\t}}"
    yield f"{indent}}}"


def _order(joint=0):
    """Joints as they stand in the hierarchy, depth first."""
    return [joint, *(j for child in range(1, NUM_JOINTS) if PARENTS[child] == joint for j in _order(child))]


def write_bvh(path, poses, fps):
    """Write poses (N, 15, 3), metres in the camera frame, one frame each 1 / fps seconds, as a BVH file.

    The tree is `skeleton.PARENTS`, units are metres, axes y up and z forward (see AXES), so that the person is
    life-size and upright with Blender's default import; the camera is the origin and stays where it is. OFFSETs are a
    T-pose with the median bone lengths. Predicted bones change their length a little from frame to frame, which
    rotations cannot say: every joint has position channels too, and its position, in its parent's frame, stands in
    place of OFFSET, as Blender reads it. So all positions are exact. Rotations point each joint at the next one with
    no twist of its own, as positions do not show any; the root turns with the torso.
    Raises ValueError where there is no pose, or one is not finite.
    """
    poses = np.asarray(poses, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (NUM_JOINTS, 3) or not len(poses) or not np.isfinite(poses).all():
        raise ValueError(f"poses of shape {poses.shape}; expected finite (N, {NUM_JOINTS}, 3) with N > 0")
    points = poses @ AXES.T
    offsets = _offsets(points)
    world = _rotations(points, offsets)
    parent = world[:, PARENTS].copy()
    parent[:, 0] = np.eye(3)
    local = parent.swapaxes(-1, -2) @ world
    place = points - points[:, PARENTS]
    place[:, 0] = points[:, 0]
    place = np.einsum("njki,njk->nji", parent, place)
    channels = np.concatenate([place, _angles(local)], axis=-1)[:, _order()].reshape(len(points), -1)
    with open(path, "w") as file:
        file.write("\n".join(["HIERARCHY", *_hierarchy(offsets), "MOTION", f"Frames: {len(points)}"]))
        file.write(f"\nFrame Time: {1 / fps:.8f}\n")
        np.savetxt(file, channels, fmt="%.6f")
