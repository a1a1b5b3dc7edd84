"""From a posture and key poses to the joint angles of a body, kept out of trunk, head and floor."""

import numpy as np

from agego_data.actions.rig import (
    CAMERA_RADIUS,
    ELBOW,
    FOREARM_TURN,
    HAND_ABOVE,
    HEAD_RADIUS,
    KNEE,
    LIMITS,
    OUT,
    SHOULDER_BACK,
    SIDES,
    about,
    between,
    curve,
    ease,
    quaternions,
    two_bones,
    unit,
    vectors,
)
from agego_data.body import from_vector, multiply, smooth_noise, to_matrix


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
