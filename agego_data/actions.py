"""What people do, without motion capture: key poses of hands, trunk and feet, and the joint angles that reach them.

Everything is in leg lengths, on a floor at z = 0, with axes as in body.py: a person faces -y, x is to his left.
A pose says where the wrists go, how trunk and head turn and how low the pelvis is; feet and pelvis come from a posture
(stand, sit, kneel, ...). Any pose goes with any posture. Two-bone inverse kinematics finds arms and legs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agego_data.body import from_vector, multiply, smooth_noise, to_matrix

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


# --- postures ---------------------------------------------------------------------------------------------------------


def stand(rng, rig, seconds, around):
    """Both feet on the floor; the weight shifts."""
    count = len(seconds)
    width, stagger = rng.uniform(0.08, 0.2, 2), rng.uniform(-0.09, 0.09)
    ankles = np.zeros((count, 2, 3))
    ankles[:] = np.stack([OUT * width, [stagger, -stagger], [rig.ankle] * 2], axis=-1)
    soles = np.zeros((count, 2, 2))
    soles[..., 1] = rng.uniform(0, 22, 2)
    sway = smooth_noise(rng, seconds, 5, 0.4)
    knees = np.stack([OUT * 0.25, [-1.0] * 2, [0.0] * 2], axis=-1)
    return Stance(
        ankles,
        soles,
        np.tile(knees, (count, 1, 1)),
        ankles[:, :, :2].mean(1) + sway[:, :2] * (0.025, 0.015) + (0, 0.02),
        sway[:, 2:] * (1.5, 1.5, 4),
        np.zeros(count),
        np.ones(count),
        np.full(count, np.nan),
        np.full(count, np.nan),
    )


def stepped(at, places, seconds, lift):
    """Ankles (T, 3) that go to the places (K, 3) at the times `at` (K,), lifted on the way."""
    low, high, share = between(at, seconds)
    places = np.asarray(places, dtype=np.float64)
    path = places[low] + share[:, None] * (places[high] - places[low])
    moved = np.linalg.norm(places[high] - places[low], axis=1)
    path[:, 2] += np.minimum(lift, moved) * np.sin(np.pi * share) ** 2
    return path


def sit(rng, rig, seconds, around, crossed=False):
    """Sit down, sit, stand up: the feet stand still meanwhile, then find a place of their own."""
    stance = stand(rng, rig, seconds, around)
    end = seconds[-1]
    down, up = rng.uniform(1.0, 1.7), rng.uniform(1.0, 1.6)
    seat, far = rng.uniform(0.42, 0.6), rng.uniform(0.36, 0.52)
    at = [0, down, max(end - up, down + 0.1), max(end, down + 0.2)]
    share = curve(at, [0, 1, 1, 0], seconds)
    home = stance.feet[0].copy()
    middle = home[:, :2].mean(0)
    stance.pelvis = stance.pelvis * (1 - share)[:, None] + share[:, None] * (middle + np.array([0, far]))
    stance.low, stance.height = share, np.full(len(seconds), seat + rig.under)
    stance.turn *= 1 - 0.7 * share[:, None]
    # Leaning forward is what brings the weight over the feet on the way down and up.
    stance.turn[:, 0] += 28 * np.sin(np.pi * share) ** 2
    settled = (seconds >= down) & (seconds <= at[2])
    stance.seat[settled] = seat
    around.thighs, around.tall = seat + rig.under, False
    around.front = rng.uniform(0.4, 0.55) - far - middle[1]
    if not crossed and rng.random() < 0.5:
        around.desk = seat + rng.uniform(0.27, 0.36)
        stance.desk[settled] = around.desk
    place = home.copy()
    if crossed:
        # The right ankle on the left knee, or the ankles one over the other.
        if rng.random() < 0.6:
            place[1] = middle[0] + 0.12, middle[1] - 0.02, rig.ankle
            place[0] = middle[0] + 0.05, middle[1] + far - 0.42, seat + rig.under + 0.1
            stance.knees[:, 0] = -1.0, -0.35, 0.3
        else:
            out = rng.uniform(0.05, 0.4)
            place[0] = middle[0] + 0.05, middle[1] - out, rig.ankle + 0.1
            place[1] = middle[0] - 0.05, middle[1] - out + 0.04, rig.ankle
    else:
        kind = rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])
        place[:, 0] = middle[0] + OUT * rng.uniform(0.06, 0.24, 2)
        if kind == 1:
            place[:, 1] -= rng.uniform(0.25, 0.42) + rng.uniform(-0.05, 0.05, 2)  # stretched
        elif kind == 2:
            place[:, 1] += rng.uniform(0.0, 0.2, 2)  # drawn in
        elif kind == 3:
            place[:, 1] -= rng.permutation([rng.uniform(0.2, 0.4), 0.0])
    # Legs reach no further than they are long.
    hips = np.stack([OUT * 0.132, np.full(2, middle[1] + far), np.full(2, seat + rig.under)], -1)
    reach = place - hips
    far_away = np.linalg.norm(reach[:, :2], axis=1)
    most = np.sqrt(np.maximum(0.97**2 - reach[:, 2] ** 2, 0.01))
    place[:, :2] = hips[:, :2] + reach[:, :2] * np.minimum(1, most / np.maximum(far_away, 1e-6))[:, None]
    if at[2] - down > 1.6:
        times = [0, down, down + 0.7, at[2] - 0.7, at[2]]
        for side in range(2):
            where = [home[side], home[side], place[side], place[side], home[side]]
            stance.feet[:, side] = stepped(times, where, seconds, 0.06)
    stance.stoop = 0.1 if crossed else 0.3
    return stance


def sit_crossed(rng, rig, seconds, around):
    """Sit with crossed legs."""
    return sit(rng, rig, seconds, around, crossed=True)


def kneel(rng, rig, seconds, around, both=True):
    """Kneel down on both knees, upright or towards the heels, or on the right one; and rise again."""
    around.tall = False
    stance = stand(rng, rig, seconds, around)
    end = seconds[-1]
    at = [0, rng.uniform(0.9, 1.5), max(end - rng.uniform(0.9, 1.4), 1.6), max(end, 1.7)]
    share = curve(at, [0, 1, 1, 0], seconds)
    home = stance.feet[0].copy()
    middle = home[:, :2].mean(0)
    flesh = 0.07  # knee joint above the floor
    high = rng.choice([0.5, rng.uniform(0.44, 0.48)]) if both else 0.49
    back = np.sqrt(max(0.5**2 - high**2, 0.0))  # pelvis behind the knees
    down = home.copy()
    down[0] = middle[0] - 0.13, middle[1] + 0.46, rig.ankle
    down[1] = middle[0] + 0.13, middle[1] + (0.46 if both else -0.42), rig.ankle
    behind = np.array([True, both])
    down[behind, 2] += 0.1  # on the balls of the feet
    for side in range(2):
        stance.feet[:, side] = stepped(at, [home[side], down[side], down[side], home[side]], seconds, 0.05)
    stance.soles[:, behind, 0] = 65 * share[:, None]
    stance.knees += share[:, None, None] * behind[:, None] * (0, 0.2, -1.2)
    stance.pelvis = stance.pelvis * (1 - share)[:, None] + share[:, None] * (middle + np.array([0, back]))
    stance.low, stance.height = share, np.full(len(seconds), flesh + high + 0.015)
    stance.turn[:, 0] += 10 * share * (1 - share) * 4
    stance.stoop = 0.3
    return stance


def kneel_on_one(rng, rig, seconds, around):
    """Kneel on the right knee."""
    return kneel(rng, rig, seconds, around, both=False)


def squat(rng, rig, seconds, around):
    """Down and up again, once or several times; the trunk leans forward."""
    stance = stand(rng, rig, seconds, around)
    width = rng.uniform(0.14, 0.3)
    stance.feet[:, :, 0] = OUT * width
    stance.knees = np.tile(np.stack([OUT * rng.uniform(0.3, 0.6), [-1.0] * 2, [0.0] * 2], -1), (len(seconds), 1, 1))
    stance.soles[..., 1] = rng.uniform(5, 30)
    at, depth = [0.0], [0.0]
    while at[-1] < seconds[-1]:
        at += [at[-1] + rng.uniform(0.6, 1.3)] * 1
        depth += [rng.uniform(0.5, 1.0)]
        at += [at[-1] + rng.choice([0.1, rng.uniform(0.5, 2.5)])]
        depth += [depth[-1]]
        at += [at[-1] + rng.uniform(0.6, 1.2)]
        depth += [rng.uniform(0, 0.2)]
    share = curve(at, depth, seconds)
    lowest = rng.uniform(0.5, 0.7)
    stance.low, stance.height = share, np.full(len(seconds), lowest)
    stance.pelvis[:, 1] += 0.12 * share
    stance.turn[:, 0] += rng.uniform(8, 25) * share
    around.tall, stance.stoop = False, 0.2
    return stance


def lunge(rng, rig, seconds, around):
    """A long step with the left foot, the pelvis sinking and rising."""
    stance = stand(rng, rig, seconds, around)
    end, home = seconds[-1], stance.feet[0].copy()
    long = rng.uniform(0.55, 0.85)
    go = rng.uniform(0.8, 1.2)
    at = [0, go, max(end - go, go + 0.1), max(end, go + 0.2)]
    share = curve(at, [0, 1, 1, 0], seconds)
    front = home[1] + (0.04, -long, 0)
    stance.feet[:, 1] = stepped(at, [home[1], front, front, home[1]], seconds, 0.12)
    bob = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.15, 0.5) * seconds + rng.uniform(0, 6.28))
    deep = share * (0.35 + 0.65 * bob)
    stance.pelvis[:, 1] -= 0.45 * long * share
    stance.soles[:, 0, 0] = 40 * share
    stance.feet[:, 0, 2] += 0.1 * share
    stance.low, stance.height = deep, np.full(len(seconds), rng.uniform(0.55, 0.72))
    return stance


def _cadence(rng, seconds, pace):
    """Two feet in turn: share of its swing (T, 2), 0 while on the floor, and the index of its step (T, 2)."""
    phase = seconds[:, None] * pace + np.array([0.0, 0.5]) + rng.uniform()
    step = np.floor(phase)
    return np.clip((phase - step) / 0.45, 0, 1), step - step[0]


def side_step(rng, rig, seconds, around):
    """Steps to one side and back again."""
    stance = stand(rng, rig, seconds, around)
    swing, step = _cadence(rng, seconds, rng.uniform(0.6, 1.1))
    stance.feet[:, :, 0] = OUT * 0.16
    wide, turn_back = rng.uniform(0.12, 0.28), rng.integers(2, 5)
    sign = rng.choice([-1, 1])

    def place(number):
        return sign * wide * (turn_back - np.abs((number % (2 * turn_back)) - turn_back))

    stance.feet[:, :, 0] += place(step - 1) + ease(swing) * (place(step) - place(step - 1)) - place(-1)
    stance.feet[:, :, 2] += rng.uniform(0.04, 0.12) * np.sin(np.pi * swing) ** 2
    stance.pelvis[:, 0] += stance.feet[:, :, 0].mean(1) - stance.feet[:, :, 0].mean()
    stance.pelvis[:, 0] += stance.feet[:, :, 0].mean() - stance.pelvis[:, 0].mean()
    return stance


def march(rng, rig, seconds, around):
    """Walk in place."""
    stance = stand(rng, rig, seconds, around)
    swing, _ = _cadence(rng, seconds, rng.uniform(0.7, 1.3))
    high = rng.uniform(0.08, 0.42)
    rise = np.sin(np.pi * swing) ** 2
    stance.feet[:, :, 2] += high * rise
    stance.feet[:, :, 1] -= 0.5 * high * rise
    stance.soles[..., 0] += 25 * rise
    stance.pelvis[:, 0] += 0.04 * (OUT * (1 - rise)).sum(1)
    return stance


def climb(rng, rig, seconds, around):
    """The feet go to steps of different height and back in turn, as on stairs or a ladder."""
    stance = stand(rng, rig, seconds, around)
    at, where, side = [0.0], [stance.feet[0]], int(rng.integers(2))
    while at[-1] < seconds[-1]:
        step = stance.feet[0].copy()
        step[side] += 0, -rng.uniform(0.15, 0.4), rng.uniform(0.18, 0.42)
        at += [at[-1] + t for t in np.cumsum([0.7, rng.uniform(0.1, 0.9), 0.7, rng.uniform(0.0, 0.5)])]
        where += [step, step, stance.feet[0], stance.feet[0]]
        side = 1 - side
    where = np.array(where)
    for side in range(2):
        stance.feet[:, side] = stepped(at, where[:, side], seconds, 0.06)
    stance.pelvis[:, 1] -= 0.08
    stance.turn[:, 0] += rng.uniform(0, 12)
    around.tall, stance.stoop = False, 0.2
    return stance


def push_up(rng, rig, seconds, around):
    """Face down on hands and toes, up and down."""
    around.tall = False
    stance = stand(rng, rig, seconds, around)
    count = len(seconds)
    depth = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.3, 0.6) * seconds)
    stance.feet[:] = np.stack([OUT * 0.12, [0.98] * 2, [rig.ankle + 0.1] * 2], -1)
    stance.soles[:] = 60, 0
    stance.knees[:] = 0, 0, -1
    stance.turn = np.zeros((count, 3))
    stance.turn[:, 0] = 74 + 10 * depth
    stance.low, stance.height = np.ones(count), 0.42 - 0.2 * depth
    stance.pelvis[:, 0] = 0
    stance.pelvis[:, 1] = 0.98 - np.sqrt(0.99**2 - (stance.height - rig.ankle - 0.1) ** 2)
    # Hands below the shoulders, which lie about 0.53 from the pelvis.
    stance.arms = (Arm((rng.uniform(0.24, 0.36), 0.5, 0.1), 30, (-60, 0, 0), True),) * 2
    stance.stoop = 0.0
    return stance


def lie(rng, rig, seconds, around):
    """On the back, the knees more or less drawn up."""
    around.tall = False
    stance = stand(rng, rig, seconds, around)
    count = len(seconds)
    out = curve([0, seconds[-1] / 2, seconds[-1] + 0.1], rng.uniform(0.45, 0.95, (3, 2)), seconds)
    stance.feet[:] = np.stack([OUT * rng.uniform(0.08, 0.2), [0.0] * 2, [rig.ankle] * 2], -1)
    stance.feet[:, :, 1] = -out
    stance.soles[..., 0] = -40
    stance.knees[:] = 0, -0.1, 1
    stance.turn = np.tile([-86.0, 0, 0], (count, 1))
    stance.pelvis[:] = 0, 0
    stance.low, stance.height = np.ones(count), np.full(count, 0.14)
    stance.stoop = 0.0
    return stance


POSTURES = {
    "stand": stand,
    "sit": sit,
    "sit crossed": sit_crossed,
    "kneel": kneel,
    "kneel on one": kneel_on_one,
    "squat": squat,
    "lunge": lunge,
    "side-step": side_step,
    "march": march,
    "climb": climb,
    "push-up": push_up,
    "lie": lie,
}

# --- what hands, trunk and head do ------------------------------------------------------------------------------------


def _near(rng, place, spread=0.05):
    return tuple(np.asarray(place) + rng.normal(0, spread, 3))


def _look(rng, down=10.0):
    """A glance: mostly ahead and down, at times to a side."""
    return rng.normal(down, 13), rng.normal(0, 5), rng.normal(0, 22 if rng.random() < 0.4 else 7)


def _lean(rng, forward=5.0):
    return rng.normal(forward, 5), rng.normal(0, 3), rng.normal(0, 5)


def _still(rng, right, left=None, held="", look=10.0, spread=0.04, keys=3, forward=5.0):
    """A few poses about one place for each wrist (out, front, up, raised), as someone who stays so has them."""
    left = right if left is None else left
    out = []
    for _ in range(keys):
        arms = [
            Arm(_near(rng, (o, f, u), spread), raised + rng.normal(0, 8), tuple(rng.normal((10, 0, 10), 10)))
            for o, f, u, raised in (right, left)
        ]
        pose = Pose(rng.uniform(0.5, 1.0), rng.uniform(0.3, 1.5), *arms, _lean(rng, forward), _look(rng, look), 0, held)
        out.append(pose)
    return out


def hang(rng, around):
    return _still(rng, (0.12, 0.08, -0.96, 0), look=rng.choice([5, 15, 35]))


def hips(rng, around):
    return _still(rng, (0.08, 0.0, -0.7, 55), spread=0.02)


def fold(rng, around):
    up = rng.uniform(-0.5, -0.32)
    return _still(rng, (-0.5, 0.42, up, 15), (-0.48, 0.34, up - 0.08, 15), spread=0.02)


def behind(rng, around):
    return _still(rng, (-0.22, -0.34, -0.76, 20), spread=0.02)


def pockets(rng, around):
    other = (0.04, 0.1, -0.84, 25) if rng.random() < 0.6 else (0.12, 0.08, -0.96, 0)
    return _still(rng, (0.04, 0.1, -0.84, 25), other, spread=0.015)


def belly(rng, around):
    """Hands before the belly, folded or busy with one another."""
    up, front = rng.uniform(-0.75, -0.3), rng.uniform(0.38, 0.6)
    return _still(rng, (-0.26, front, up, 5), spread=0.05, look=22)


def forward(rng, around):
    """Both arms stretched to the front, hands together or apart."""
    out, up = rng.uniform(-0.32, 0.15), rng.uniform(-0.45, 0.3)
    poses = _still(rng, (out, rng.uniform(0.75, 1.0), up, 10), spread=0.05, look=rng.uniform(-10, 25))
    return [*poses, *_still(rng, (0.05, 0.4, -0.6, 0), keys=1)]


def wide(rng, around):
    """Arms to the sides, high or low, straight or bent: for balance, in dance or gymnastics."""
    out = []
    for _ in range(4):
        up, front, far = rng.uniform(-0.8, 0.7, 2), rng.uniform(-0.15, 0.5), rng.uniform(0.55, 1.0)
        arms = []
        for high in up if rng.random() < 0.4 else up[[0, 0]]:
            place = far * unit(np.array([1.0, front, high]))
            arms.append(Arm(_near(rng, place, 0.05), rng.normal(0, 12), tuple(rng.normal(0, 15, 3))))
        out.append(Pose(rng.uniform(0.4, 1.0), rng.uniform(0.05, 0.8), *arms, _lean(rng), _look(rng)))
    return out


def look_around(rng, around):
    arms = [Arm(_near(rng, p, 0.06), 0) for p in [(0.12, 0.1, -0.93), (-0.1, 0.4, -0.6)]]
    if rng.random() < 0.6:
        arms[1] = arms[0]
    out = []
    for _ in range(4):
        turn = rng.uniform(-60, 60)
        trunk = 0.5 * turn * rng.random()
        if rng.random() < 0.25:
            turn, trunk = np.sign(turn) * 60, np.sign(turn) * 42  # looks back
        look = rng.uniform(-30, 42), rng.normal(0, 8), turn
        bend = rng.normal(6, 8), rng.normal(0, 6), trunk
        out.append(Pose(rng.uniform(0.4, 1.0), rng.uniform(0.1, 0.9), *arms, bend, look))
    return out


def reach(rng, around):
    """One hand to somewhere within reach, and back; low places bend the trunk."""
    azimuth, up = rng.uniform(-75, 125), rng.uniform(-0.95, 0.9)
    far = rng.uniform(0.7, 1.0)
    flat = far * np.sqrt(max(1 - up * up, 0.15))
    place = flat * np.sin(np.radians(azimuth)), flat * np.cos(np.radians(azimuth)), up * far
    deep = rng.uniform(20, 75) if up < -0.4 and rng.random() < 0.6 else rng.normal(6, 6)
    turn = -0.25 * azimuth
    look = np.clip(-40 * up, -20, 40), 0, np.clip(-0.5 * azimuth, -50, 50)
    other = Arm(_near(rng, rng.permutation([(0.1, 0.08, -0.93), (-0.1, 0.4, -0.55), (0.1, 0.3, -0.75)])[0], 0.06))
    raised = rng.normal(10, 15)
    out = Pose(
        rng.uniform(0.5, 1.0), rng.uniform(0.2, 0.9), Arm(place, raised), other, (deep, rng.normal(0, 5), turn), look
    )
    back = Pose(0.7, 0.2, Arm(_near(rng, (0.0, 0.45, -0.6), 0.1)), other, _lean(rng), _look(rng))
    return [out, out._replace(right=Arm(_near(rng, place, 0.08), raised), move=0.5), back]


def reach_both(rng, around):
    """Both hands to the same side, high or low, near or far."""
    up, front, apart = rng.uniform(-0.9, 0.8), rng.uniform(0.4, 0.95), rng.uniform(-0.35, 0.45)
    deep = rng.uniform(25, 85) if up < -0.35 and rng.random() < 0.6 else rng.normal(6, 6)
    turn = rng.normal(0, 18)
    arms = [Arm(_near(rng, (apart, front, up), 0.07), rng.normal(10, 12)) for _ in range(2)]
    pose = Pose(
        rng.uniform(0.6, 1.1), rng.uniform(0.3, 1.0), *arms, (deep, 0, turn), (np.clip(-35 * up, -20, 40), 0, turn)
    )
    return [pose, *_still(rng, (0.0, 0.4, -0.6, 5), keys=1)]


def typing(rng, around):
    """Hands on a keyboard on the desk; without a desk, on the lap."""
    out = []
    height = around.desk + 0.06 if np.isfinite(around.desk) else around.thighs + 0.13
    front = around.front
    for _ in range(6):
        arms = [
            Arm(
                (rng.uniform(0.06, 0.16), front + rng.normal(0, 0.02), height + rng.uniform(0, 0.015)),
                8,
                (-12, 0, 20),
                True,
            )
            for _ in range(2)
        ]
        held = "laptop" if np.isfinite(around.desk) else ""
        out.append(
            Pose(0.35, rng.uniform(0.1, 0.8), *arms, (8, 0, 0), (rng.normal(20, 8), 0, rng.normal(0, 6)), 0, held)
        )
    return out


def thighs(rng, around):
    """Hands on the thighs."""
    if not np.isfinite(around.thighs):
        return belly(rng, around)
    front = around.front - 0.1
    arms = [
        Arm((rng.uniform(0.08, 0.2), front + rng.normal(0, 0.06), around.thighs + 0.13), 10, (5, 0, 30), True)
        for _ in range(2)
    ]
    return [Pose(0.7, rng.uniform(1, 2), *arms, _lean(rng, 6), _look(rng)) for _ in range(2)]


def read(rng, around, held="paper"):
    """Something to read in both hands before the chest or belly, a page turned now and then."""
    wide = rng.uniform(-0.2, 0.0) if held == "paper" else rng.uniform(-0.26, -0.16)
    front, up = rng.uniform(0.5, 0.82), rng.uniform(-0.55, -0.12)
    out = []
    for k in range(5):
        arms = [Arm(_near(rng, (wide, front, up), 0.025), 5, (-5, 0, 45)) for _ in range(2)]
        if k == 3 and rng.random() < 0.5:
            arms[0] = Arm((-0.45, front, up + 0.06), 15, (-5, 0, 45))
        look = rng.normal(26, 6), rng.normal(0, 3), rng.normal(0, 8)
        out.append(Pose(0.6, rng.uniform(0.4, 1.6), *arms, _lean(rng, 6), look, 0, held))
    return out


def book(rng, around):
    return read(rng, around, "book")


def phone(rng, around):
    """A phone before the chest, in the right hand; the left taps, holds it too or hangs."""
    front, up = rng.uniform(0.4, 0.65), rng.uniform(-0.5, -0.15)
    other = [(-0.25, front - 0.03, up - 0.05), (0.1, 0.08, -0.95), (-0.05, 0.3, -0.7)][rng.integers(3)]
    out = []
    for _ in range(4):
        right = Arm(_near(rng, (-0.18, front, up), 0.03), 8, (-5, 0, 60))
        out.append(
            Pose(
                0.6,
                rng.uniform(0.3, 1.4),
                right,
                Arm(_near(rng, other, 0.03), 5),
                _lean(rng, 6),
                (rng.normal(28, 6), 0, rng.normal(0, 6)),
                0,
                "phone.R",
            )
        )
    return out


def call(rng, around):
    """A phone at the right ear."""
    other = [(0.1, 0.1, -0.94, 0), (-0.35, 0.4, -0.55, 0), (0.06, 0.0, -0.7, 50)][rng.integers(3)]
    return _still(rng, (0.0, 0.26, 0.16, 0), other, "phone.R", spread=0.02)


def drink(rng, around):
    """A cup held before the body and brought to the mouth."""
    low = Arm(_near(rng, (-0.05, 0.55, -0.45), 0.06), 0, (0, 0, 60))
    mouth = Arm((-0.22, 0.5, 0.15), 5, (-10, 0, 60))
    left = Arm(_near(rng, [(0.1, 0.08, -0.95), (-0.1, 0.4, -0.6)][rng.integers(2)], 0.04))
    rest = Pose(0.6, rng.uniform(0.5, 1.5), low, left, _lean(rng), _look(rng), 0, "cup.R")
    return [rest, Pose(0.7, rng.uniform(0.4, 1.0), mouth, left, (0, 0, 0), (-6, 0, 0), 0, "cup.R"), rest]


def _box(rng, up, front, wide, **more):
    return [Arm((wide, front, up), 8, (0, 0, 10), **more) for _ in range(2)]


def carry(rng, around):
    """A box before the belly or chest."""
    up, front, wide = rng.uniform(-0.65, -0.3), rng.uniform(0.5, 0.75), rng.uniform(-0.12, 0.06)
    return [
        Pose(
            0.6,
            rng.uniform(0.5, 1.5),
            *_box(rng, *_near(rng, (up, front, wide), 0.015)),
            _lean(rng, 2),
            _look(rng),
            0,
            "box",
        )
        for _ in range(3)
    ]


def lift(rng, around):
    """Bend down to a box, take it up, hold it, put it down."""
    wide, front = rng.uniform(0.14, 0.24), rng.uniform(0.32, 0.5)
    low = rng.uniform(0.12, 0.5)
    deep, crouch = (rng.uniform(45, 75), rng.uniform(0.25, 0.45)) if around.tall else (rng.uniform(35, 60), 0.0)
    if not around.tall:
        low = max(low, 0.3)
    hands = _box(rng, low, front, wide, ground=True)
    down = Pose(1.0, 0.25, *hands, (deep, 0, 0), (10, 0, 0), crouch)
    up = Pose(
        1.1,
        rng.uniform(0.6, 2),
        *_box(rng, rng.uniform(-0.6, -0.1), 0.62, wide / 2 - 0.1),
        (-2, 0, 0),
        (18, 0, rng.normal(0, 10)),
        0,
        "box",
    )
    return [
        _still(rng, (*HANG.place, 0), keys=1)[0],
        down,
        down._replace(move=0.1, hold=0.2, held="box"),
        up,
        down._replace(held="box"),
        down._replace(move=0.1),
    ]


def bag(rng, around):
    """A bag that hangs from the right hand."""
    return _still(rng, (0.16, 0.06, -0.98, 0), (0.1, 0.08, -0.95, 0), "bag.R", spread=0.02)


def wave(rng, around):
    place = np.array([rng.uniform(-0.1, 0.35), rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.7)])
    left = Arm(_near(rng, (0.1, 0.1, -0.93), 0.04))
    side = rng.uniform(0.08, 0.22)
    return [
        Pose(
            0.3,
            0.02,
            Arm((place[0] + side * (-1) ** k, place[1], place[2]), 10, (-20, 0, 40)),
            left,
            (2, 0, 0),
            (0, 0, rng.normal(0, 3)),
        )
        for k in range(8)
    ]


def clap(rng, around):
    up, front = rng.uniform(-0.45, 0.0), rng.uniform(0.5, 0.7)
    return [Pose(0.18, 0.04, *[Arm((-0.3 + 0.22 * (k % 2), front, up), 20, (0, 0, 0))] * 2) for k in range(10)]


def stretch(rng, around):
    """Arms overhead, to the sides, behind."""
    high = [Arm(_near(rng, (-0.1, 0.1, 0.97), 0.06), 10) for _ in range(2)]
    wide = [Arm(_near(rng, (0.95, 0.1, 0.15), 0.06), 0) for _ in range(2)]
    out = Pose(1.1, rng.uniform(0.6, 1.4), *high, (-8, rng.normal(0, 12), 0), (-12, 0, 0))
    return [out, Pose(0.9, 0.4, *wide, (-4, 0, rng.normal(0, 10)), (0, 0, 0)), *_still(rng, (*HANG.place, 0), keys=1)]


def point(rng, around):
    azimuth, up = np.radians(rng.uniform(-40, 80)), rng.uniform(-0.4, 0.5)
    flat = 0.97 * np.sqrt(1 - up * up)
    left = Arm(_near(rng, [(0.1, 0.08, -0.94), (0.06, 0.0, -0.7)][rng.integers(2)], 0.03))
    place = flat * np.sin(azimuth), flat * np.cos(azimuth), 0.97 * up
    look = -20 * up, 0, -40 * azimuth
    return [
        Pose(0.5, rng.uniform(0.6, 1.4), Arm(place, 5, (-5, 0, 20)), left, (2, 0, -15 * azimuth), look),
        *_still(rng, (-0.05, 0.4, -0.5, 5), keys=1),
    ]


def throw(rng, around):
    left = [Arm(_near(rng, p, 0.05)) for p in [(0.1, 0.7, 0.0), (0.1, 0.2, -0.85)]]
    back = Pose(0.7, 0.05, Arm((0.55, -0.15, 0.4), 25), left[0], (-5, 0, -28), (0, 0, 20))
    ahead = Pose(0.42, 0.05, Arm((-0.05, 0.92, 0.25), 10), left[1], (14, 0, 22), (5, 0, -10))
    return [back, ahead, Pose(0.4, 0.3, Arm((-0.3, 0.5, -0.65), 0), left[1], (22, 0, 28), (5, 0, -15))]


def sweep(rng, around):
    """A broom or a cloth in both hands, to and fro."""
    up, front = rng.uniform(-0.75, -0.35), rng.uniform(0.5, 0.75)
    swing = rng.uniform(0.2, 0.45)
    out = []
    for k in range(6):
        x = swing * (-1) ** k
        arms = Arm((-0.2 - x, front, up), 10), Arm((-0.15 + x, front - 0.1, up + 0.25), 20)
        out.append(Pose(0.6, 0.05, *arms, (18, 0, 14 * (-1) ** k), (22, 0, 0)))
    return out


def talk(rng, around):
    """Gestures of someone who talks: hands before the trunk, together and apart."""
    out = []
    for _ in range(6):
        both = rng.random() < 0.55
        place = rng.uniform((-0.25, 0.3, -0.75), (0.5, 0.85, 0.15))
        arms = [
            Arm(_near(rng, place, 0.06 if both else 0.22), rng.normal(5, 12), tuple(rng.normal((0, 0, 20), 20)))
            for _ in range(2)
        ]
        out.append(Pose(rng.uniform(0.25, 0.6), rng.uniform(0.02, 0.5), *arms, _lean(rng, 4), _look(rng, 8)))
    return out


def spar(rng, around):
    """Guard and straight punches."""
    guard = [Arm(_near(rng, (-0.12, 0.42, 0.12), 0.04), 0, (0, 0, 0)) for _ in range(2)]
    out = []
    for _ in range(5):
        hit = Arm(_near(rng, (-0.25, 0.93, 0.1), 0.06), 25, (0, 0, -40))
        right = rng.random() < 0.5
        out.append(
            Pose(0.25, 0.03, *((hit, guard[1]) if right else (guard[0], hit)), (10, 0, 20 if right else -20), (8, 0, 0))
        )
        out.append(Pose(0.3, rng.uniform(0.02, 0.4), *guard, (10, 0, 0), (8, 0, 0)))
    return out


def face(rng, around):
    """A hand to chin, cheek, hair or glasses."""
    place = rng.uniform((-0.35, 0.3, 0.05), (-0.05, 0.45, 0.35))
    other = [(0.1, 0.08, -0.94), (-0.4, 0.35, -0.5)][rng.integers(2)]
    return [
        Pose(
            0.6,
            rng.uniform(0.5, 1.2),
            Arm(_near(rng, place, 0.02), 8),
            Arm(_near(rng, other, 0.04)),
            _lean(rng),
            _look(rng),
        ),
        *_still(rng, (0.05, 0.35, -0.7, 0), keys=1),
    ]


def climbing(rng, around):
    """Hands in turn to rungs or a rail in front."""
    out = []
    for k in range(6):
        high, low = Arm(_near(rng, (0.0, 0.7, 0.45), 0.08), 10), Arm(_near(rng, (0.0, 0.65, -0.2), 0.08), 10)
        out.append(
            Pose(
                0.55, 0.1, *((high, low) if k % 2 else (low, high)), (4, 0, rng.normal(0, 6)), (rng.normal(0, 15), 0, 0)
            )
        )
    return out


def free(rng, around):
    """Anything: wrists anywhere within reach, mostly in front, the trunk bent anyhow."""
    out = []
    for _ in range(7):
        arms = []
        for _ in range(2):
            way = np.array([-1.0, -1.0, 0.0])
            while way[1] < -0.35 or way[0] < -0.6 or way[0] + way[1] < -0.45:  # behind the back, far across
                way = rng.normal(size=3) * (1, 0.9, 1) + (0.35, 0.3, -0.1)
                way /= np.linalg.norm(way)
            place = way * rng.uniform(0.4, 1.0) ** 0.4
            arms.append(Arm(tuple(place), rng.normal(8, 22), tuple(rng.normal(0, 22, 3))))
        bend = rng.normal(8, 16), rng.normal(0, 10), rng.normal(0, 15)
        out.append(
            Pose(rng.uniform(0.4, 1.2), rng.uniform(0, 0.4), *arms, bend, tuple(rng.normal((8, 0, 0), (18, 8, 22))))
        )
    return out


# Name -> what makes its poses, and how often it comes while standing and while sitting.
GESTURES = {
    "arms down": (hang, 4, 1),
    "hands on hips": (hips, 2, 0.3),
    "fold arms": (fold, 2, 2),
    "hands behind back": (behind, 1, 0),
    "hands in pockets": (pockets, 1.5, 0),
    "hands before belly": (belly, 4, 3),
    "arms forward": (forward, 3, 2),
    "arms wide": (wide, 3, 1.5),
    "look around": (look_around, 2, 1),
    "reach": (reach, 6, 4),
    "reach with both": (reach_both, 4, 2),
    "type": (typing, 0, 6),
    "hands on thighs": (thighs, 0, 4),
    "read paper": (read, 3, 4),
    "read book": (book, 2, 3),
    "phone": (phone, 3, 3),
    "call": (call, 1, 1),
    "drink": (drink, 2, 2),
    "carry box": (carry, 2, 0.3),
    "lift box": (lift, 3, 0.5),
    "carry bag": (bag, 1, 0),
    "wave": (wave, 1, 0.7),
    "clap": (clap, 1, 1),
    "stretch": (stretch, 1.5, 1),
    "point": (point, 1.5, 1),
    "throw": (throw, 1, 0.3),
    "sweep": (sweep, 2, 0.3),
    "talk": (talk, 4, 3),
    "spar": (spar, 2, 0.2),
    "hand to face": (face, 1, 1),
    "climb up": (climbing, 0.5, 0),
    "free": (free, 10, 5),
}


# --- from poses to joint angles ---------------------------------------------------------------------------------------


def _arm_targets(rig, poses, side, seconds, at, shoulder, chest):
    """Wrist (T, 3) where the poses want it, elbow's raise (T,) and hand (T, 3)."""
    arms = [(p.right, p.left)[side] for p in poses for _ in range(2)]
    place = np.array([arm.place for arm in arms], dtype=np.float64)
    ground = np.array([arm.ground for arm in arms])
    low, high, share = between(at, seconds)
    flip = np.array([OUT[side], -1.0, 1.0])
    reach = rig.arms[side].sum()

    def world(keys):
        local = shoulder + np.einsum("tij,tj->ti", chest, place[keys] * flip * reach)
        return np.where(ground[keys][:, None], place[keys] * flip, local)

    wrist = world(low) + share[:, None] * (world(high) - world(low))
    rest = np.array([(arm.raised, *arm.hand) for arm in arms], dtype=np.float64)
    rest = rest[low] + share[:, None] * (rest[high] - rest[low])
    return wrist, rest[:, 0], rest[:, 1:]


def _inside(rig, points, chest_start, chest, margin):
    """How a point lies to the trunk: share of the way out (1 at its skin), weight along its height, and its local
    place."""
    width, middle, depth = rig.trunk
    local = np.einsum("tji,tj->ti", chest, points - chest_start)
    scaled = np.stack([local[:, 0] / (width + margin), (local[:, 1] - middle) / (depth + margin)], axis=-1)
    out = np.maximum(np.linalg.norm(scaled, axis=-1), 1e-3)
    # The trunk reaches from the crotch to the shoulders; its ends are soft, so that nothing jumps.
    weight = ease((local[:, 2] + 0.4) / 0.1) * ease((0.38 - local[:, 2]) / 0.1)
    return out, weight, local


def _kept_out(rig, points, shoulder, reach, chest_start, chest, head_start, head):
    """Wrists (T, 3) moved out of trunk, head and floor, and away from their own shoulder."""
    # An arm folds before its shoulder, not through it: the ball that a wrist goes around lies a bit behind.
    behind = shoulder + 0.2 * reach * chest[:, :, 1]
    points = _away(points, behind, 0.55 * reach)
    margin = 0.035 * rig.metre
    out, weight, local = _inside(rig, points, chest_start, chest, margin)
    factor = 1 + weight * np.maximum(1 / out - 1, 0)
    middle = rig.trunk[1]
    moved = np.stack([local[:, 0] * factor, middle + (local[:, 1] - middle) * factor, local[:, 2]], axis=-1)
    points = chest_start + np.einsum("tij,tj->ti", chest, moved)
    # Nobody puts a hand over the camera; then the skull, and last the top of the neck.
    for place, radius in (((0, -0.25, 0.12), CAMERA_RADIUS), ((0, -0.03, 0.07), HEAD_RADIUS), ((0, 0, 0), HEAD_RADIUS)):
        centre = head_start + np.einsum("tij,j->ti", head, np.array(place) * rig.metre)
        points = _away(points, centre, radius * rig.metre)
    points[:, 2] = np.maximum(points[:, 2], HAND_ABOVE * rig.metre)
    return points


def _away(points, centre, radius):
    """Points (T, 3) no nearer to the centres (T, 3) than `radius`."""
    off = points - centre
    far = np.maximum(np.linalg.norm(off, axis=-1, keepdims=True), 1e-6)
    return centre + off * np.maximum(1, radius / far)


def _clipped(degrees, name):
    """Rotation vectors (..., 3) in degrees held softly to LIMITS of a bone."""
    low, high = np.array(LIMITS[name], dtype=np.float64).T
    middle, half = (low + high) / 2, (high - low) / 2
    off = (degrees - middle) / half
    # Straight up to 80 % of the range, then ever slower up to its end.
    over = np.maximum(np.abs(off) - 0.8, 0)
    return middle + half * np.sign(off) * (np.minimum(np.abs(off), 0.8) + 0.2 * np.tanh(over / 0.2))


def solve(rig, stance, poses, rng, seconds, base=None):
    """Joint angles of poses on a posture. poses: list of Pose, one after the other from the start on.

    base: roots (T, 3) and rotations (T, bones, 4) of a clip whose pelvis and legs stay as they are, or None.
    -> roots (T, 3) in leg lengths, local rotations (T, bones, 4), index of the pose (T,) that each frame shows.
    """
    body, count = rig.body, len(seconds)
    bone, offsets = body.bone, rig.offsets
    at = np.cumsum([span for p in poses for span in (p.move, p.hold)])
    at = at - at[0]
    low, high, share = between(at, seconds)
    shown = np.where(share < 0.5, low, high) // 2
    bend, look = (
        curve(at, np.repeat([getattr(p, name) for p in poses], 2, axis=0), seconds) for name in ("bend", "look")
    )
    rate = 1 / (seconds[1] - seconds[0])
    crouch = curve(at, np.repeat([p.crouch for p in poses], 2), seconds)
    noise = smooth_noise(rng, seconds, 12, 0.5)
    bend, look = bend + noise[:, :3] * 2.0, look + noise[:, 3:6] * (3.5, 2.5, 4)

    rotations = np.zeros((count, len(offsets), 4))
    rotations[..., 0] = 1
    turns = np.empty((count, len(offsets), 3, 3))
    starts = np.empty((count, len(offsets), 3))

    def place(name, local):
        index = bone(name)
        parent = body.parents[index]
        rotations[:, index] = local
        turns[:, index] = turns[:, parent] @ to_matrix(local)
        starts[:, index] = starts[:, parent] + np.einsum("tij,j->ti", turns[:, parent], offsets[index])
        return turns[:, index]

    if base is None:
        stoop = np.stack([bend[:, 0] * stance.stoop, 0 * bend[:, 0], 0 * bend[:, 0]], axis=-1)
        turn = about(stance.turn) @ about(stoop)
        hips = np.stack([np.einsum("tij,j->ti", turn, offsets[bone(f"thigh.{side}")]) for side in SIDES], axis=1)
        # The hips go back as the trunk comes forward, so that the weight stays over the feet; not on a seat.
        upright = 1 - stance.low
        flat = stance.pelvis + (0.3 * upright * np.sin(np.radians(np.maximum(stoop[:, 0], 0))))[:, None] * (0, 1)
        apart = np.linalg.norm(flat[:, None] + hips[..., :2] - stance.feet[..., :2], axis=-1)
        most = stance.feet[..., 2] + np.sqrt(np.maximum(0.998**2 - apart**2, 0.05)) - hips[..., 2]
        highest = -np.log(np.exp(-60 * most).mean(1)) / 60  # the lower of the two, without a corner
        highest = highest - 0.002 * (1 + noise[:, 6]) ** 2 - crouch * upright
        root = np.column_stack([flat, highest + stance.low * (stance.height - highest)])
    else:
        turn = to_matrix(base[1][:, 0])
        root = base[0]
        bend = bend * 0.6
    rotations[:, 0], turns[:, 0], starts[:, 0] = quaternions(turn), turn, root
    rest = bend * (1 - (stance.stoop if base is None else 0.2), 1, 1)
    for name, part in (("spine", 0.45), ("chest", 0.55)):
        place(name, from_vector(np.radians(_clipped(rest * part, name))))
    for name, part in (("neck", 0.45), ("head", 0.55)):
        place(name, from_vector(np.radians(_clipped(look * part, name))))
    chest, chest_start = turns[:, bone("chest")], starts[:, bone("chest")]
    head, head_start = turns[:, bone("head")], starts[:, bone("head")]
    wobble = smooth_noise(rng, seconds, 6, 0.8).reshape(-1, 2, 3) * 0.012

    for side, letter in enumerate(SIDES):
        clavicle, out = bone(f"shoulder.{letter}"), OUT[side]
        first = offsets[clavicle] + offsets[bone(f"upperarm.{letter}")]
        shoulder = chest_start + np.einsum("tij,j->ti", chest, first)
        wrist, raised, hand = _arm_targets(rig, poses, side, seconds, at, shoulder, chest)
        reach = rig.arms[side].sum()
        wrist = _kept_out(rig, wrist + wobble[:, side], shoulder, reach, chest_start, chest, head_start, head)
        # The shoulder goes along: up with a raised arm, to the front with one that reaches there.
        aim = np.einsum("tji,tj->ti", chest, wrist - shoulder) / rig.arms[side].sum()
        up, ahead = 26 * ease((aim[:, 2] + 0.2) / 1.2), 14 * np.clip(-aim[:, 1], -0.6, 1)
        place(f"shoulder.{letter}", from_vector(np.radians(np.stack([0 * up, -out * up, -out * ahead], axis=-1))))
        place(f"upperarm.{letter}", rotations[:, clavicle] * 0 + (1, 0, 0, 0))
        shoulder = starts[:, bone(f"upperarm.{letter}")]
        upper, bent = _arm(rig, side, shoulder, wrist, raised, chest, chest_start, rate)
        parent = turns[:, clavicle]
        place(f"upperarm.{letter}", quaternions(parent.swapaxes(-1, -2) @ upper))
        mirrored = np.array([1, -out, -out])
        hand = _clipped(hand * (1, 1, 0), "hand") * mirrored, np.clip(hand[:, 2], -FOREARM_TURN, FOREARM_TURN) * -out
        elbow = from_vector(np.stack([bent, 0 * bent, 0 * bent], axis=-1))
        twist = from_vector(np.radians(np.stack([0 * bent, 0 * bent, hand[1]], axis=-1)))
        place(f"forearm.{letter}", multiply(elbow, twist))
        place(f"hand.{letter}", from_vector(np.radians(hand[0])))
        if base is not None:
            continue
        hip = starts[:, 0] + np.einsum("tij,j->ti", turn, offsets[bone(f"thigh.{letter}")])
        pole = stance.knees[:, side]
        thigh, bent, _ = two_bones(hip, stance.feet[:, side], rig.legs[side], pole, 1, KNEE[1])
        place(f"thigh.{letter}", quaternions(turn.swapaxes(-1, -2) @ thigh))
        shin = place(f"shin.{letter}", from_vector(np.stack([bent, 0 * bent, 0 * bent], axis=-1)))
        down, turned = stance.soles[:, side].T
        zero = 0 * down
        sole = about(np.stack([zero, zero, out * turned], axis=-1)) @ about(np.stack([down, zero, zero], axis=-1))
        local = vectors(quaternions(shin.swapaxes(-1, -2) @ sole)) * (1, -out, -out)
        place(f"foot.{letter}", from_vector(np.radians(_clipped(local, "foot") * (1, -out, -out))))
        place(f"toe.{letter}", from_vector(np.radians(np.stack([-0.8 * np.maximum(down, 0), zero, zero], axis=-1))))
    if base is not None:
        legs = [i for i, name in enumerate(body.bone_names) if name.split(".")[0] in ("thigh", "shin", "foot", "toe")]
        rotations[:, legs] = base[1][:, legs]
    return root, rotations, shown


def _arm(rig, side, shoulder, wrist, raised, chest, chest_start, rate):
    """Inverse kinematics of an arm at `rate` frames a second, its elbow kept out of the trunk -> as `two_bones`."""
    out = OUT[side]
    # The elbow's usual place turns along with the arm from one direction, forward and down, where it is known;
    # the only direction without one lies opposite, behind the back and up, where no arm goes.
    known = unit(np.array([0.25 * out, -0.8, -0.5]))
    usual = np.array([0.5 * out, 0.0, -0.85])
    usual = unit(usual - usual @ known * known)
    aim = unit(np.einsum("tji,tj->ti", chest, wrist - shoulder))
    both = known + aim
    aside = usual - ((aim @ usual) / np.maximum(1 + aim @ known, 1e-3))[:, None] * both
    across = np.cross(aim, aside)
    wanted = raised

    def solved():
        angle = np.radians(raised)[:, None]
        pole = np.einsum("tij,tj->ti", chest, np.cos(angle) * aside + out * np.sin(angle) * across)
        return two_bones(shoulder, wrist, rig.arms[side], pole, -1, ELBOW[1])

    for _ in range(5):
        _, _, elbow = solved()
        deep, weight, _ = _inside(rig, elbow, chest_start, chest, 0.03 * rig.metre)
        back = np.einsum("ti,ti->t", chest[:, :, 1], elbow - shoulder) / rig.arms[side, 0]
        past = np.maximum(back - np.sin(np.radians(SHOULDER_BACK - 12)), 0)
        raised = raised + 150 * weight * np.maximum(1 - deep, 0) + 300 * past
    # Elbows give way ahead of time and gradually, not at once.
    half = max(1, round(0.15 * rate))
    kernel = np.hanning(2 * half + 3)[1:-1]
    most = np.lib.stride_tricks.sliding_window_view(np.pad(raised - wanted, 2 * half, mode="edge"), 2 * half + 1).max(1)
    raised = wanted + np.convolve(most, kernel / kernel.sum(), mode="valid")
    upper, bent, _ = solved()
    return upper, bent
