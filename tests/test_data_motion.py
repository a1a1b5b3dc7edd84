"""Motion of the embedded data: inverse kinematics, human limits, feet, seats, hands, and what is held out."""

import numpy as np
import pytest

from agego_data import actions, motion
from agego_data.body import to_matrix


def made(body, posture, gesture, seed, seconds=6.0, fps=30):
    """A posture with one gesture, as make_motion has it, and its joints: Motion, starts (T, bones, 3), turns."""
    rng = np.random.default_rng(seed)
    piece = motion._made(actions.Rig.of(body), posture, [gesture], [], rng, seconds, fps)
    return piece, *body.pose(piece.roots * body.leg_length, piece.rotations)


def bend(first, middle, last):
    """Degrees by which a limb of three points bends: 0 straight."""
    a, b = middle - first, last - middle
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize(("bends", "limit"), [(1, 135), (-1, 150)])
def test_two_bones_reach_their_target(bends, limit):
    """Forward kinematics of the angles ends at the target; the bend follows the law of cosines, the side the pole."""
    rng = np.random.default_rng(1)
    upper, lower = 0.5, 0.45
    start, way, pole = rng.normal(size=(3, 500, 3))
    way = way / np.linalg.norm(way, axis=1, keepdims=True) * rng.uniform(0.4, 0.94, (500, 1))
    turn, angle, middle = actions.two_bones(start, start + way, (upper, lower), pole, bends, limit)
    np.testing.assert_allclose(np.linalg.det(turn), 1)
    np.testing.assert_allclose(turn @ turn.swapaxes(1, 2), np.tile(np.eye(3), (500, 1, 1)), atol=1e-9)
    down = np.array([0.0, 0, -1])
    np.testing.assert_allclose(start + upper * turn @ down, middle, atol=1e-9)
    cos, sin, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 0 * angle + 1
    hinge = np.stack([np.stack(r, -1) for r in ([one, zero, zero], [zero, cos, -sin], [zero, sin, cos])], -2)
    end = middle + lower * (turn @ hinge @ down)
    np.testing.assert_allclose(end, start + way, atol=1e-7)
    far = np.linalg.norm(way, axis=1)
    inner = np.arccos((upper**2 + lower**2 - far**2) / (2 * upper * lower))
    np.testing.assert_allclose(np.abs(angle), np.pi - inner, atol=1e-7)
    assert (bends * angle >= 0).all() and (((middle - start - way / 2) * pole).sum(1) > -1e-9).mean() > 0.9
    # Out of reach: along the line, as far as it goes.
    _, _, far_middle = actions.two_bones(start, start + 9 * way, (upper, lower), pole, bends, limit)
    assert bend(start, far_middle, start + 9 * way).max() < 3


def test_matrices_become_quaternions():
    rng = np.random.default_rng(4)
    q = rng.normal(size=(400, 4))
    q[:40, :3] = 0  # half turns, where the real part vanishes
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    np.testing.assert_allclose(to_matrix(actions.quaternions(to_matrix(q))), to_matrix(q), atol=1e-12)


def test_every_action_can_be_made_for_every_body(people):
    rigs = [actions.Rig.of(body) for body in people]
    for posture in actions.POSTURES:
        for number, gesture in enumerate(actions.GESTURES):
            if gesture in ("type", "hands on thighs") and not posture.startswith("sit"):
                continue
            rig, rng = rigs[number % len(rigs)], np.random.default_rng(number)
            piece = motion._made(rig, posture, [gesture, "arms down"], [], rng, 2.0, 10)
            assert np.isfinite(piece.roots).all() and np.isfinite(piece.rotations).all()
            np.testing.assert_allclose(np.linalg.norm(piece.rotations, axis=-1), 1, atol=1e-9)


def test_limits_hold_over_long_motions(people, clips):
    """Measured on joints and matrices, not on the angles that made them. Clips are recordings: only hinges count."""
    for seed in range(3):
        body = people[5 * seed]
        rng = np.random.default_rng(seed)
        long = motion.make_motion(clips, body, rng, 900, 30, unseen=seed == 1)
        starts, turns = body.pose(long.roots * body.leg_length, long.rotations)
        of_clip = np.isin(long.actions, list({clip.action for clip in clips}))
        for side in "RL":
            limb = {name: body.bone(f"{name}.{side}") for name in
                    ("upperarm", "forearm", "hand", "thigh", "shin", "foot")}  # fmt: skip
            elbow = bend(*(starts[:, limb[name]] for name in ("upperarm", "forearm", "hand")))
            knee = bend(*(starts[:, limb[name]] for name in ("thigh", "shin", "foot")))
            assert elbow.max() < 151 and knee.max() < 159 and knee[~of_clip].max() < 148  # blends from clips
            # A forearm lies in front of its upper arm's frame, a shin behind its thigh's.
            forearm = np.einsum(
                "tji,tj->ti", turns[:, limb["upperarm"]], starts[:, limb["hand"]] - starts[:, limb["forearm"]]
            )
            shin = np.einsum("tji,tj->ti", turns[:, limb["thigh"]], starts[:, limb["foot"]] - starts[:, limb["shin"]])
            assert forearm[:, 1].max() < 0.02 and shin[:, 1].min() > -0.02
    for number, gesture in enumerate(actions.GESTURES):
        seated = actions.GESTURES[gesture][1] == 0
        body = people[number % len(people)]
        _, starts, turns = made(body, "sit" if seated else "stand", gesture, number)
        chest = turns[:, body.bone("chest")]
        for side, out in (("R", -1), ("L", 1)):
            arm = starts[:, body.bone(f"forearm.{side}")] - starts[:, body.bone(f"upperarm.{side}")]
            arm = np.einsum("tji,tj->ti", chest, arm / np.linalg.norm(arm, axis=1, keepdims=True))
            assert np.degrees(np.arcsin(arm[:, 1].clip(-1, 1))).max() < actions.SHOULDER_BACK, gesture
            assert np.degrees(np.arcsin((-out * arm[:, 0]).clip(-1, 1))).max() < 50, gesture
            thigh = starts[:, body.bone(f"shin.{side}")] - starts[:, body.bone(f"thigh.{side}")]
            thigh = np.einsum("tji,tj->ti", turns[:, 0], thigh)
            assert np.degrees(np.arctan2(thigh[:, 1], -thigh[:, 2])).max() < actions.HIP_BACK, gesture
        trunk = np.degrees(np.arccos(((turns[:, 0] @ [0, 0, 1]) * (chest @ [0, 0, 1])).sum(1).clip(-1, 1)))
        head = np.degrees(
            np.arccos(((turns[:, body.bone("head")] @ [0, 0, 1]) * (chest @ [0, 0, 1])).sum(1).clip(-1, 1))
        )
        assert trunk.max() < 80 and head.max() < 62, gesture


def test_hands_stay_out_of_head_and_trunk(people):
    for number, gesture in enumerate(actions.GESTURES):
        body = people[(3 * number) % len(people)]
        rig = actions.Rig.of(body)
        _, starts, turns = made(body, "sit" if actions.GESTURES[gesture][1] == 0 else "stand", gesture, 50 + number)
        chest, origin = turns[:, body.bone("chest")], starts[:, body.bone("chest")]
        width, middle, depth = np.array(rig.trunk) * body.leg_length
        for side in "RL":
            wrist = starts[:, body.bone(f"hand.{side}")]
            assert np.linalg.norm(wrist - starts[:, body.bone("head")], axis=1).min() > 0.12, gesture
            local = np.einsum("tji,tj->ti", chest, wrist - origin)
            beside = (local[:, 2] > -0.2) & (local[:, 2] < 0.2)
            inside = np.hypot(local[:, 0] / width, (local[:, 1] - middle) / depth)[beside]
            assert not len(inside) or inside.min() > 0.85, gesture


@pytest.mark.parametrize("gesture", ["reach", "talk", "lift box", "read paper", "free"])
def test_planted_feet_stay(people, gesture):
    for seed in range(4):
        body = people[seed]
        piece, starts, turns = made(body, "stand", gesture, seed)
        for side in "RL":
            foot = starts[:, body.bone(f"foot.{side}")]
            assert np.ptp(foot, axis=0).max() < 0.03
        roots = motion.on_the_floor(body, piece, 30)
        assert np.abs(roots - piece.roots * body.leg_length).max() < 0.04
        assert min(body.skin(s, t)[:, 2].min() for s, t in zip(starts[::10], turns[::10], strict=True)) > -0.05


@pytest.mark.parametrize("posture", ["sit", "sit crossed"])
def test_seats_carry_the_pelvis(people, posture):
    for seed in range(6):
        body = people[2 * seed]
        piece, starts, turns = made(body, posture, "read paper", seed, seconds=9)
        seated = np.isfinite(piece.seat)
        assert seated.mean() > 0.3 and np.ptp(piece.seat[seated]) == 0
        assert (np.diff(np.flatnonzero(seated)) == 1).all()
        assert np.ptp(piece.roots[seated], axis=0).max() < 0.08
        roots = motion.on_the_floor(body, piece, 30)
        np.testing.assert_allclose(roots[seated], piece.roots[seated] * body.leg_length, atol=1e-4)
        height = piece.seat[seated][0] * body.leg_length
        for i in np.flatnonzero(seated)[::15]:
            vertices = body.skin(starts[i], turns[i])
            pelvis = vertices[body.weights.argmax(1) == body.bone("pelvis"), 2].min()
            assert abs(pelvis - height) < 0.06
            assert vertices[:, 2].min() > -0.06  # and a foot is on the floor
            ankles = [starts[i, body.bone(f"foot.{side}"), 2] for side in "RL"]
            assert min(ankles) < actions.Rig.of(body).ankle * body.leg_length + 0.07  # a step


def test_a_paper_is_held_before_the_trunk(people):
    for seed in range(8):
        body = people[seed]
        piece, starts, turns = made(body, "stand", "read paper", seed)
        assert (piece.held == "paper").all()
        right, left = (starts[:, body.bone(f"hand.{side}")] for side in "RL")
        assert np.linalg.norm(right - left, axis=1).max() < 0.6
        chest = turns[:, body.bone("chest")]
        for wrist in (right, left):
            local = np.einsum("tji,tj->ti", chest, wrist - starts[:, body.bone("chest")])
            assert local[:, 1].max() < -0.15


def test_held_out_actions_never_train(people, clips):
    names = {clip.action for clip in clips} | set(actions.POSTURES) | set(actions.GESTURES)
    assert names > motion.HELD_OUT and 0.2 < len(motion.HELD_OUT) / len(names) < 0.45
    seen = {False: set(), True: set()}
    for seed in range(24):
        for unseen in (False, True):
            rng = np.random.default_rng((seed, unseen))
            found = motion.make_motion(clips, people[seed], rng, 300, 15, unseen)
            assert found.roots.shape == (300, 3) and found.rotations.shape == (300, 21, 4)
            assert all(len(part) == 300 for part in (found.actions, found.held, found.seat, found.desk))
            assert np.isnan(found.desk[np.isnan(found.seat)]).all()
            assert set(found.held) <= {"", "paper", "book", "box", "laptop", "phone.R", "phone.L", "cup.R", "cup.L",
                                       "bag.R", "bag.L"}  # fmt: skip
            seen[unseen] |= set(found.actions.tolist())
    assert not seen[False] & seen[True]
    parts = {unseen: {part for label in labels for part in label.split(", ")} for unseen, labels in seen.items()}
    assert not parts[False] & motion.HELD_OUT
    assert all(motion.HELD_OUT & set(label.split(", ")) for label in seen[True])
    assert len(parts[False]) > 20 and len(parts[True] & motion.HELD_OUT) > 10


def test_no_laptop_is_left_in_the_air(people):
    """A long way down from a desk, or a laptop's piece that begins or ends at work: it goes with its table."""
    still = np.zeros((40, len(people[0].bone_names), 4))
    still[..., 0] = 1
    height = np.ones((40, 1)) * (0, 0, 1)
    at_work = motion._piece(height, still, "sit, type", "laptop", np.full(40, 0.5), np.full(40, 0.8))
    lying = motion._piece(0.1 * height, still, "lie")
    for first, second in ((at_work, lying), (lying, at_work), (at_work, at_work)):
        found = motion._joined(first, second, 30)
        laptop = found.held == "laptop"
        np.testing.assert_array_equal(laptop, np.isfinite(found.desk))
        assert 0 < laptop.sum() < len(found)


def test_limbs_go_anywhere_in_their_share_of_the_time(people, clips):
    """Feet are in more places than in all actions together, and what is an action is as without."""

    def make(seed, **more):
        return motion.make_motion(clips, people[seed], np.random.default_rng(seed), 400, 15, **more)

    def places(found):
        """How both feet are from the pelvis, in its frame, to 15 cm."""
        starts, turns = people[0].pose(found.roots, found.rotations)
        away = [starts[:, people[0].bone(f"foot.{side}")] - starts[:, 0] for side in "RL"]
        both = np.einsum("tji,stj->tsi", turns[:, 0], away).reshape(len(found), 6)
        return {tuple(row) for row in (both / 0.15).round().astype(int).tolist()}

    for part in ("roots", "rotations", "actions"):
        np.testing.assert_array_equal(getattr(make(3, anyhow=0.0), part), getattr(make(3), part))
    shares = [np.mean([(make(n, anyhow=share).actions == "anyhow").mean() for n in range(20)]) for share in (0.5, 1.0)]
    assert 0.3 < shares[0] < 0.7 and shares[1] == 1
    met = [set.union(*(places(make(n, anyhow=share)) for n in range(20))) for share in (0.0, 1.0)]
    assert len(met[1]) > 2 * len(met[0])


def test_mirrored_motion_changes_hands(people):
    piece, _, _ = made(people[0], "stand", "phone", 3)
    assert set(piece.held) == {"phone.R"}
    other = motion.mirrored(piece, people[0].bone_names)
    assert set(other.held) == {"phone.L"}


def test_motion_is_smooth_and_never_repeats(people, clips):
    body = people[1]
    for seed in (3, 4, 5):
        whole = motion.make_motion(clips, body, np.random.default_rng(seed), 400, 30)
        again = motion.make_motion(clips, body, np.random.default_rng(seed), 400, 30)
        assert whole.rotations.tobytes() == again.rotations.tobytes() and whole.roots.tobytes() == again.roots.tobytes()
        starts, turns = body.pose(motion.on_the_floor(body, whole, 30), whole.rotations)
        fastest = max(
            np.linalg.norm(np.diff(body.pose(clip.roots * body.leg_length, clip.rotations)[0], axis=0), axis=-1).max()
            for clip in clips
        )
        step = np.linalg.norm(np.diff(starts, axis=0), axis=-1).max(1)
        assert step.max() < 1.3 * 1.6 * fastest, f"a joint jumps by {step.max():.2f} m at frame {step.argmax()}"
        lowest = np.array([body.skin(s, t)[:, 2].min() for s, t in zip(starts[::5], turns[::5], strict=True)])
        assert lowest.min() > -0.08 and np.median(np.abs(lowest)) < 0.06
        flat = whole.rotations[:, 1:].reshape(400, -1)
        distance = np.linalg.norm(flat[:, None, ::3] - flat[None, :, ::3], axis=-1) + 9 * np.eye(400)
        assert distance.min() > 0
