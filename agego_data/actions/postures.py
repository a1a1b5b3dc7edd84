"""What feet and pelvis do: stand, sit, kneel, climb, ...; each gives a Stance over the whole time."""

import numpy as np

from agego_data.actions.rig import OUT, Arm, Stance, between, curve, ease
from agego_data.body import smooth_noise


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


def anyhow(rng, rig, seconds, around):
    """Anything: feet anywhere within reach of the pelvis, on the floor or off it; the pelvis sinks and turns."""
    around.tall = False
    stance = stand(rng, rig, seconds, around)
    at = np.cumsum([0.0, *rng.uniform(0.4, 1.3, int(seconds[-1] / 0.4) + 2)])
    count = len(at)
    # Where each foot is from below the pelvis: outwards (crossing a little at most), forward; one at least is down.
    apart = rng.normal((0.18, 0.12), (0.19, 0.34), (count, 2, 2)).clip((-0.04, -0.6), (0.65, 0.85))
    lifted = rng.uniform(0.05, 0.75, (count, 2)) ** 1.5 * (rng.random((count, 2)) < 0.35)
    lifted[np.arange(count), rng.integers(0, 2, count)] = 0
    feet = np.stack([OUT * apart[..., 0], -apart[..., 1], rig.ankle + lifted], axis=-1)
    stance.feet = curve(at, feet, seconds)
    # Toes hang from a lifted foot, and a foot behind is on its ball.
    down = rng.normal(8, 12, (count, 2)) + 35 * (lifted > 0) + 45 * np.maximum(-apart[..., 1], 0)
    stance.soles = curve(at, np.stack([down, rng.uniform(-5, 35, (count, 2))], axis=-1), seconds)
    knees = np.stack([OUT * rng.uniform(-0.1, 0.8, (count, 2)), -np.ones((count, 2)), np.zeros((count, 2))], axis=-1)
    stance.knees = curve(at, knees, seconds)
    stance.pelvis = curve(at, rng.normal((0, 0.03), (0.06, 0.08), (count, 2)), seconds)
    stance.turn = curve(at, rng.normal(0, (11, 8, 30), (count, 3)), seconds)
    stance.low, stance.height = curve(at, rng.uniform(0, 1, (count, 2)) ** (2, 1) * (1, 0.4) + (0, 0.45), seconds).T
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
    "anyhow": anyhow,
}
