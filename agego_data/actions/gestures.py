"""What hands, trunk and head do, on any posture: each gives key poses, drawn anew at each call."""

import numpy as np

from agego_data.actions.rig import HANG, Arm, Pose, unit


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


def anywhere(rng, around):
    """As `free`, but wrists are anywhere within reach, all of it as often, across the trunk and close to it too."""
    poses = free(rng, around)
    for k, pose in enumerate(poses):
        arms = []
        for arm in (pose.right, pose.left):
            place = np.zeros(3)
            while not 0.25 < np.linalg.norm(place) < 1 or (place[0] < -0.1 and place[1] < 0.15):
                place = rng.uniform((-0.8, -0.25, -1), (0.95, 1, 1))
            arms.append(arm._replace(place=tuple(place), raised=rng.normal(8, 28)))
        poses[k] = pose._replace(right=arms[0], left=arms[1])
    return poses


# Name -> what makes its poses, and how often it comes while standing and while sitting (never: where asked for alone).
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
    "anywhere": (anywhere, 0, 0),
}
