"""The skeleton as animation programs want it: a tree of joints from the pelvis up and down, turned by rotations."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from agego_lib.skeleton import JOINT_NAMES, NUM_JOINTS

# Programs are y-up by custom, a figure looking along +z, its left side at +x. The camera looks down from the head: its
# x is the wearer's right, its y their back, its z the ground. A proper rotation, so that left and right stay apart.
AXES = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])

# Beside the 15 joints: the middle of the hips, and joints with no offset of their own, as CMU's recordings have them,
# so that every bone has a rotation for itself and only its length is fixed.
_ARM, _LEG = ("collar", "shoulder", "elbow", "wrist"), ("hip", "knee", "ankle", "toe")
# Direction of each joint from its parent in the rest pose, a T-pose; the right side, mirrored for the left.
_REST = {
    "neck": (0.0, 1.0, 0.0),
    "shoulder": (-1.0, -0.3, 0.0),
    "elbow": (-1.0, 0.0, 0.0),
    "wrist": (-1.0, 0.0, 0.0),
    "hip": (-1.0, 0.0, 0.0),
    "knee": (0.0, -1.0, 0.0),
    "ankle": (0.0, -1.0, 0.0),
    "toe": (0.0, -0.4, 1.0),
}


def _tree():
    """(name, name of its parent) depth first."""
    yield from (("pelvis", None), ("spine", "pelvis"), ("neck", "spine"))
    for root, parts in (("neck", _ARM), ("pelvis", _LEG)):
        for side in ("right", "left"):
            above = root
            for part in parts:
                yield f"{side}_{part}", above
                above = f"{side}_{part}"


NAMES, _ABOVE = zip(*_tree(), strict=True)
INDEX = {name: i for i, name in enumerate(NAMES)}
PARENTS = tuple(-1 if name is None else INDEX[name] for name in _ABOVE)
CHILDREN = tuple(tuple(c for c, p in enumerate(PARENTS) if p == joint) for joint in range(len(NAMES)))
OURS = [INDEX[name] for name in JOINT_NAMES]  # where the 15 joints are among NAMES


@dataclass(frozen=True)
class Rig:
    """The tree's joints, J of them, in N poses, in the programs' axes (m).

    offsets: (J, 3) from the parent in the rest pose, each as long as the bone's median. places: (N, J, 3) of the poses.
    turns: (N, J, 3, 3) from the rest pose into the poses' axes.
    """

    offsets: np.ndarray
    places: np.ndarray
    turns: np.ndarray

    def local_turns(self):
        """Rotations (N, J, 3, 3) in the parent's axes; those of the root in the file's."""
        local = self.turns.copy()
        local[:, 1:] = self.turns[:, PARENTS[1:]].swapaxes(-1, -2) @ self.turns[:, 1:]
        return local

    def local_places(self):
        """Exact places (N, J, 3) in the parent's axes; those of the root in the file's."""
        local = self.places.copy()
        apart = self.places[:, 1:] - self.places[:, PARENTS[1:]]
        local[:, 1:] = np.einsum("njki,njk->nji", self.turns[:, PARENTS[1:]], apart)
        return local

    def misses(self):
        """Distances (N, 15), m, of our joints from where the offsets and rotations alone put them."""
        put = self.places.copy()
        for joint, parent in enumerate(PARENTS[1:], 1):
            put[:, joint] = put[:, parent] + self.turns[:, parent] @ self.offsets[joint]
        return np.linalg.norm((put - self.places)[:, OURS], axis=-1)


def rig(poses, axes=AXES):
    """Poses (N, 15, 3), m -> their Rig. axes: (3, 3) from the poses' axes to the programs'.

    The pelvis turns with the line of the hips and, as far as that lets it, with the spine, the neck with the line of
    the shoulders. All others point their bone at the next joint, with the smallest turn from their parent's, as
    positions show no twist; the last joints of a limb turn with the one before.
    Raises ValueError where there is no pose, or one is not finite.
    """
    poses = np.asarray(poses, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (NUM_JOINTS, 3) or not len(poses) or not np.isfinite(poses).all():
        raise ValueError(f"poses of shape {poses.shape}; expected finite (N, {NUM_JOINTS}, 3) with N > 0")
    places = np.empty((len(poses), len(NAMES), 3))
    places[:, OURS] = poses @ np.transpose(axes)
    right, left = (places[:, INDEX[f"{side}_hip"]] for side in ("right", "left"))
    places[:, [INDEX["pelvis"], INDEX["spine"]]] = ((right + left) / 2)[:, None]
    for side in ("right", "left"):
        places[:, INDEX[f"{side}_collar"]] = places[:, INDEX["neck"]]
    offsets = np.zeros((len(NAMES), 3))
    for joint in range(1, len(NAMES)):
        offsets[joint] = rest_direction(NAMES[joint]) * np.median(
            np.linalg.norm(places[:, joint] - places[:, PARENTS[joint]], axis=-1)
        )
    return Rig(offsets, places, _turns(places))


def rest_direction(name):
    """Unit vector (3,) of a joint from its parent in the rest pose; zero for a joint without an offset."""
    side, _, part = name.rpartition("_")
    direction = np.array(_REST.get(part, (0.0, 0.0, 0.0))) * ((-1 if side == "left" else 1), 1, 1)
    return direction / max(np.linalg.norm(direction), 1e-12)


def _turns(places):
    up = places[:, INDEX["neck"]] - places[:, INDEX["pelvis"]]
    turns = np.empty((*places.shape, 3))
    for joint, name in enumerate(NAMES):
        part = {"pelvis": "hip", "neck": "shoulder"}.get(name)
        if part:
            left, right = (places[:, INDEX[f"{side}_{part}"]] for side in ("left", "right"))
            turns[:, joint] = _upright(left - right, up)
            continue
        turns[:, joint] = turns[:, PARENTS[joint]]
        if CHILDREN[joint]:
            (child,) = CHILDREN[joint]
            start = turns[:, joint] @ rest_direction(NAMES[child])
            end = places[:, child] - places[:, joint]
            turns[:, joint] = _swing(start, _unit(end, start)) @ turns[:, joint]
    return turns


def _unit(vectors, otherwise):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), otherwise)


def _upright(x, up):
    """Rotations (N, 3, 3) whose x axis has the direction of x (N, 3), and whose y axis is as near to up as it can."""
    x = _unit(x, (1.0, 0.0, 0.0))
    # Along x, up says nothing: any axis across will do.
    z = _unit(np.cross(x, up), _unit(np.cross(x, np.eye(3)[np.abs(x).argmin(-1)]), (0.0, 0.0, 1.0)))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _swing(start, end):
    """Smallest rotations (N, 3, 3) from unit vectors start (N, 3) to end (N, 3)."""
    axis = np.cross(start, end)
    angle = np.arctan2(np.linalg.norm(axis, axis=-1), (start * end).sum(-1))
    # Opposite vectors: any axis across them will do.
    across = _unit(np.cross(start, np.eye(3)[np.abs(start).argmin(-1)]), (0.0, 1.0, 0.0))
    return Rotation.from_rotvec(_unit(axis, across) * angle[:, None]).as_matrix()
