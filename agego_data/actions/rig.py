"""A body's measures and limits, key poses, and the inverse kinematics that reach them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agego_data.body import from_vector, to_matrix

# Ranges of motion in degrees: American Academy of Orthopaedic Surgeons, Joint Motion: Method of Measuring and
# Recording (1965). Forward flexion of the trunk, 80, and of the neck, 45, are shared by two bones each. The
# foot under the body's weight comes up further than its 20: about 38 in Bennell et al.'s lunge test (1998).
# Rotation vectors about x (forward bend; of limbs: back), y (to the left) and z (turn to the left), low and high.
LIMITS = {
    "spine": ((-15, 40), (-17, 17), (-22, 22)),
    "chest": ((-15, 40), (-17, 17), (-22, 22)),
    "neck": ((-22, 22), (-22, 22), (-30, 30)),
    "head": ((-22, 22), (-22, 22), (-30, 30)),
    "hand": ((-70, 80), (-30, 20), (-15, 15)),
    "foot": ((-38, 50), (-15, 35), (-30, 30)),
}
ELBOW, KNEE, FOREARM_TURN = (0, 150), (0, 135), 80
SHOULDER_BACK, HIP_BACK = 60, 30  # extension of upper arm and thigh behind the trunk
SIDES = ("R", "L")
OUT = np.array([-1.0, 1.0])  # which way along x is away from the body, right and left

# Wrists stay this far from the neck's top and the middle of the skull, and from where cameras sit, metres.
HEAD_RADIUS, CAMERA_RADIUS = 0.145, 0.2
HAND_ABOVE = 0.09  # a wrist's height at least, metres


@dataclass(frozen=True)
class Rig:
    """A body's measures in leg lengths, in the neutral pose, and the room that its trunk takes up.

    offsets (bones, 3) from the parent's start; arms, legs (2, 2): upper and lower length, right and left; ankle: above
    the floor; sole of the pelvis (`under`): how far the pelvis' start lies above what is sat on; trunk: half width, and
    middle and half depth along y from the chest's start; metre: one metre in leg lengths.
    """

    body: object
    offsets: np.ndarray
    arms: np.ndarray
    legs: np.ndarray
    ankle: float
    under: float
    trunk: tuple
    metre: float

    @classmethod
    def of(cls, body):
        """Measure a Body."""
        length = body.leg_length
        rest = np.zeros((1, len(body.bone_names), 4))
        rest[..., 0] = 1
        starts, turns = body.pose(np.zeros((1, 3)), rest)
        vertices, starts = body.skin(starts[0], turns[0]) / length, starts[0] / length
        offsets = starts - np.where(body.parents[:, None] < 0, 0, starts[body.parents])
        size = np.linalg.norm(offsets, axis=1)
        arms, legs = (
            np.array([[size[body.bone(f"{name}.{side}")] for name in names] for side in SIDES])
            for names in (("forearm", "hand"), ("shin", "foot"))
        )
        chief = body.weights.argmax(1)
        trunk = vertices[np.isin(chief, [body.bone(name) for name in ("spine", "chest")])] - starts[body.bone("chest")]
        trunk = trunk[np.abs(trunk[:, 0]) < 0.9 * abs(starts[body.bone("upperarm.R"), 0])]
        width, front, back = np.abs(trunk[:, 0]).max(), trunk[:, 1].min(), trunk[:, 1].max()
        return cls(
            body,
            offsets,
            arms,
            legs,
            ankle=starts[body.bone("foot.R"), 2] - vertices[:, 2].min(),
            under=-vertices[chief == body.bone("pelvis"), 2].min(),
            trunk=(width, (front + back) / 2, (back - front) / 2),
            metre=1 / length,
        )


def ease(share):
    """Minimum-jerk course from 0 to 1 for shares within 0 to 1."""
    share = np.clip(share, 0, 1)
    return share**3 * (10 + share * (6 * share - 15))


def between(at, seconds):
    """Keys at the times `at` (K,) -> for each moment (T,): key before, key after, eased share of the latter."""
    at = np.asarray(at, dtype=np.float64)
    after = np.clip(np.searchsorted(at, seconds, side="right"), 1, len(at) - 1)
    span = np.maximum(at[after] - at[after - 1], 1e-6)
    return after - 1, after, ease((seconds - at[after - 1]) / span)


def curve(at, values, seconds):
    """Values (K, ...) reached at the times `at` (K,), smooth in between -> (T, ...)."""
    values = np.asarray(values, dtype=np.float64)
    low, high, share = between(at, seconds)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[low] + share * (values[high] - values[low])


def unit(vectors):
    """Vectors (..., 3) of length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def about(degrees):
    """Rotation vectors (..., 3) in degrees -> matrices (..., 3, 3)."""
    return to_matrix(from_vector(np.radians(degrees)))


def quaternions(matrices):
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4), by the largest of the four parts."""
    m = matrices
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    yz, zx, xy = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    sxy, szx, syz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    rows = np.stack(
        [
            np.stack([1 + xx + yy + zz, yz, zx, xy], -1),
            np.stack([yz, 1 + xx - yy - zz, sxy, szx], -1),
            np.stack([zx, sxy, 1 - xx + yy - zz, syz], -1),
            np.stack([xy, szx, syz, 1 - xx - yy + zz], -1),
        ],
        axis=-2,
    )
    best = np.diagonal(rows, axis1=-2, axis2=-1).argmax(-1)
    out = np.take_along_axis(rows, best[..., None, None], axis=-2)[..., 0, :]
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def vectors(quaternion):
    """Unit quaternions (..., 4) -> rotation vectors (..., 3) in degrees, the shorter way round."""
    quaternion = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    return np.degrees(np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0) * quaternion[..., 1:])


def two_bones(start, target, lengths, pole, bends, limit):
    """A limb of two bones from `start` towards `target` (T, 3), its middle joint on the side of `pole` (T, 3).

    lengths: upper, lower. bends: +1 a knee, whose lower bone goes back, -1 an elbow, whose lower bone goes to the
    front. limit: degrees that the middle joint bends at most. A target out of reach is approached along its line.
    -> turns of the upper bone from hanging down (T, 3, 3), bend of the middle joint (T,) in radians, middle joint.
    """
    upper, lower = lengths
    towards = target - start
    far = np.linalg.norm(towards, axis=-1)
    towards = towards / np.maximum(far, 1e-9)[:, None]
    least = np.sqrt(upper**2 + lower**2 + 2 * upper * lower * np.cos(np.radians(limit)))
    far = np.clip(far, least, 0.9998 * (upper + lower))
    aside = unit(pole - (pole * towards).sum(-1, keepdims=True) * towards)
    cosine = np.clip((upper**2 + far**2 - lower**2) / (2 * upper * far), -1, 1)[:, None]
    sine = np.sqrt(1 - cosine**2)
    along, across = cosine * towards + sine * aside, sine * towards - cosine * aside
    bend = np.arccos(np.clip((far**2 - upper**2 - lower**2) / (2 * upper * lower), -1, 1))
    y = bends * across
    return np.stack([np.cross(y, -along), y, -along], axis=-1), bends * bend, start + upper * along


class Arm(NamedTuple):
    """Where a wrist goes. place: out (away from the body), front, up; from the shoulder, turning with the chest, in arm
    lengths; or, `ground`, from the floor below the start of the posture, in leg lengths. raised: degrees by which the
    elbow leaves its usual place, to the outside. hand: bend, tilt and turn in degrees."""

    place: tuple
    raised: float = 0.0
    hand: tuple = (10, 0, 0)
    ground: bool = False


HANG = Arm((0.1, 0.06, -0.98), 0, (8, 0, 10))


class Pose(NamedTuple):
    """A key pose. move, hold: seconds to get there and to stay. bend, look: trunk and head, degrees (forward, to the
    left, turned left). crouch: how much lower the pelvis is. held: what the hands hold."""

    move: float
    hold: float
    right: Arm = HANG
    left: Arm = HANG
    bend: tuple = (4, 0, 0)
    look: tuple = (10, 0, 0)
    crouch: float = 0.0
    held: str = ""


@dataclass
class Stance:
    """Feet and pelvis over T frames. feet (T, 2, 3): ankles; soles (T, 2, 2): toes down and turned out, degrees;
    knees (T, 2, 3): where they point; pelvis (T, 2): place on the floor; turn (T, 3): rotation vector, degrees;
    low (T,): 0 as high as the legs allow to 1 at `height` (T,); seat, desk (T,), NaN where none;
    stoop: share of a trunk bend that the pelvis takes; arms: None, or the posture's own pair of Arms."""

    feet: np.ndarray
    soles: np.ndarray
    knees: np.ndarray
    pelvis: np.ndarray
    turn: np.ndarray
    low: np.ndarray
    height: np.ndarray
    seat: np.ndarray
    desk: np.ndarray
    stoop: float = 0.45
    arms: tuple | None = None


@dataclass
class Around:
    """What a posture offers to the hands, in leg lengths, NaN where none. thighs: height of hips and thighs, to lay
    hands on; desk: of a table top; front: how far before the start hands lie. tall: whether knees are free to bend.
    """

    thighs: float = np.nan
    desk: float = np.nan
    front: float = np.nan
    tall: bool = True
