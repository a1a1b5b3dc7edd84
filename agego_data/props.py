"""Things of the embedded data: furniture, what lies about, what is held or sat on, hair and frames before the face.

Meshes are triangles wound outwards, in metres; thin sheets have both sides. Axes of furniture: x to the left of one
who uses it, -y his front, z up, as a body's own.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from agego_data import surfaces

TWO_HANDED = ("paper", "book", "box")
# Where a seat and a table lie before the pelvis, metres: near and far edge of the seat, near edge of the table.
SEAT = (-0.22, 0.24)
DESK_GAP = (0.24, 0.36)


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3), faces (F, 3), uv (F, 3, 2) atlas px, shine (F,)."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    shine: np.ndarray

    def moved(self, turn, place):
        """The same, turned by a matrix (3, 3), then moved."""
        return Mesh(self.vertices @ np.asarray(turn).T + place, self.faces, self.uv, self.shine)


def join(meshes):
    """Several meshes as one."""
    counts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([np.zeros((0, 3)), *(mesh.vertices for mesh in meshes)]),
        np.concatenate([np.zeros((0, 3), int), *(m.faces + n for m, n in zip(meshes, counts[:-1], strict=True))]),
        np.concatenate([np.zeros((0, 3, 2)), *(mesh.uv for mesh in meshes)]),
        np.concatenate([np.zeros(0), *(mesh.shine for mesh in meshes)]),
    )


def yaw(angle):
    """Turn about z."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def sheet(grid, patch, shine=0.0, back=None):
    """A curved rectangle (rows, columns, 3), seen from where its rows run down and its columns to the right.

    back: the patch of the other side, if that is to be seen.
    """
    rows, columns = grid.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    v, u = np.divmod(faces, columns)
    uv = patch.uv(u / (columns - 1), v / (rows - 1))
    if back is not None:
        uv = np.concatenate([uv, back.uv(1 - u / (columns - 1), v / (rows - 1))[:, ::-1]])
        faces = np.concatenate([faces, faces[:, ::-1]])
    return Mesh(grid.reshape(-1, 3), faces, uv, np.full(len(faces), shine))


def _lines(low, high, cell):
    return np.linspace(low, high, max(2, int(np.ceil((high - low) / cell)) + 1))


def block(low, high, patch, cell=0.4, shine=0.0, top=None, bottom=False):
    """A box's sides and top, in cells of about `cell` metres. top: another patch for it."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    xs, ys, zs = (_lines(a, b, cell) for a, b in zip(low, high, strict=True))
    meshes = []

    def side(first, second, make, paint):
        meshes.append(sheet(make(*np.meshgrid(first, second)), paint, shine))

    side(xs, ys[::-1], lambda x, y: np.stack([x, y, 0 * x + z1], -1), top or patch)
    side(xs, zs[::-1], lambda x, z: np.stack([x, 0 * x + y0, z], -1), patch)
    side(xs[::-1], zs[::-1], lambda x, z: np.stack([x, 0 * x + y1, z], -1), patch)
    side(ys, zs[::-1], lambda y, z: np.stack([0 * y + x1, y, z], -1), patch)
    side(ys[::-1], zs[::-1], lambda y, z: np.stack([0 * y + x0, y, z], -1), patch)
    if bottom:
        side(xs, ys, lambda x, y: np.stack([x, y, 0 * x + z0], -1), patch)
    return join(meshes)


def post(start, end, radius, patch, sides=4, cell=0.4, shine=0.3, ends=None):
    """A rod from start to end. radius: one, or (at the start, at the end). ends: patch of a cap at its end."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = end - start
    length = np.linalg.norm(axis)
    axis /= length
    across = np.cross(axis, (0, 0, 1) if abs(axis[2]) < 0.9 else (1, 0, 0))
    across /= np.linalg.norm(across)
    angles = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(angles)[:, None] * across + np.sin(angles)[:, None] * np.cross(axis, across)
    share = _lines(0, length, cell)[::-1] / length
    first, last = np.broadcast_to(radius, 2)
    wide = first + (last - first) * share
    grid = start + share[:, None, None] * axis * length + wide[:, None, None] * ring
    mesh = sheet(grid, patch, shine)
    if ends is None:
        return mesh
    rim = end + last * ring
    return join([mesh, sheet(np.stack([np.broadcast_to(end, rim.shape), rim]), ends, 0.0)])


def ball(centre, radii, patch, shine=0.0, rows=5, columns=8):
    """An ellipsoid."""
    tilt, angle = np.meshgrid(np.linspace(0.02, np.pi - 0.02, rows), np.linspace(0, 2 * np.pi, columns), indexing="ij")
    grid = np.stack([np.sin(tilt) * np.cos(angle), np.sin(tilt) * np.sin(angle), np.cos(tilt)], axis=-1)
    return sheet(np.asarray(centre) + grid * radii, patch, shine)


class Materials:
    """What a sequence's things are made of: patches of the atlas by name."""

    def __init__(self, rng, atlas):
        self.wood, self.desk = atlas.add(surfaces.wood(rng)), atlas.add(surfaces.desk_top(rng))
        self.dark, self.light = (atlas.add(surfaces.stuff(rng, *b, 0.05)) for b in ((8, 50), (150, 245)))
        self.metal = atlas.add(surfaces.stuff(rng, 60, 220, 0.02))
        self.colours = [atlas.add(surfaces.stuff(rng, 30, 220, 0.5)) for _ in range(4)]
        self.card = atlas.add(surfaces.stuff(rng, 110, 190, 0.1) * (0.75, 0.95, 1.2))
        self.pages = [atlas.add(surfaces.page(rng)) for _ in range(2)]
        self.screen, self.keys = atlas.add(surfaces.screen(rng)), atlas.add(surfaces.keyboard(rng))
        self.drink = atlas.add(surfaces.stuff(rng, 20, 120, 0.3))

    def any(self, rng):
        """Any of the plain ones; dark ones come often, as with real chairs."""
        several = [self.dark, self.dark, self.wood, self.light, *self.colours]
        return several[rng.integers(len(several))]


def seat(rng, made, height):
    """What is sat on, its top at `height`: chairs of several kinds, stools, benches."""
    near, far = SEAT
    half, cloth, legs = rng.uniform(0.19, 0.26), made.any(rng), made.metal if rng.random() < 0.6 else made.any(rng)
    kind = rng.choice(["legs", "legs", "legs", "office", "block", "stool"])
    thick = min(height / 2, 0.04 if kind in ("legs", "stool") else 0.09)
    shine = rng.choice([0.0, 0.25])
    parts = [block((-half, -far, height - thick), (half, -near, height), cloth, 0.16, shine)]
    if kind == "block":
        wide = half + rng.uniform(0.0, 0.9)
        parts = [block((-wide, -far - 0.05, 0), (wide, -near, height), cloth, 0.22)]
    elif kind == "office":
        parts.append(post((0, 0, height - thick), (0, 0, 0.08), 0.03, made.dark, 5))
        for angle in np.arange(5) * 2 * np.pi / 5:
            parts.append(post((0, 0, 0.1), (0.3 * np.cos(angle), 0.3 * np.sin(angle), 0.05), 0.02, made.dark))
    else:
        for x in (-half, half):
            for y in (-far, -near):
                parts.append(post((x * 0.95, y * 0.95, height - thick), (x, y * 1.05, 0), 0.014, legs, 4, 0.3))
    if kind != "stool" and rng.random() < 0.85:  # a back
        top, lean = height + rng.uniform(0.3, 0.5), rng.uniform(0.02, 0.12)
        y, base = -near + 0.01, height + rng.uniform(0.0, 0.2)
        grid = np.stack(np.meshgrid(np.linspace(-half, half, 4), np.linspace(top, base, 4)), axis=-1)
        x, z = grid[..., 0], grid[..., 1]
        back = np.stack([x, y + lean * (z - height) / 0.4 + 0.3 * (half**2 - x**2), z], axis=-1)
        parts.append(sheet(back, cloth, shine, cloth))
        for x in (-half, half):
            parts.append(post((x, y, height), (x, y + lean, top), 0.012, legs, 4, 0.3))
    if kind != "stool" and rng.random() < 0.3:  # arms
        for x in (-half - 0.04, half + 0.04):
            parts.append(block((x - 0.02, -0.15, height + 0.17), (x + 0.02, 0.15, height + 0.2), made.dark, 0.16))
            parts.append(post((x, 0, height + 0.17), (x, 0, height - thick), 0.015, legs))
    return join(parts)


def desk(rng, made, height, gap, cell=0.13):
    """A table whose top is at `height` and whose near edge lies `gap` metres before the origin."""
    half, depth, thick = rng.uniform(0.4, 0.85), rng.uniform(0.5, 0.85), rng.uniform(0.02, 0.05)
    off = rng.uniform(-0.25, 0.25) * half
    low, high = (off - half, -gap - depth, height - thick), (off + half, -gap, height)
    legs = made.metal if rng.random() < 0.4 else made.dark if rng.random() < 0.6 else made.wood
    parts = [block(low, high, made.wood, cell, rng.choice([0.0, 0.15]), top=made.desk, bottom=True)]
    for x in (low[0] + 0.04, high[0] - 0.04):
        for y in (low[1] + 0.04, high[1] - 0.04):
            parts.append(post((x, y, height - thick), (x, y, 0), rng.uniform(0.012, 0.03), legs, 4, 0.3))
    for _ in range(int(rng.integers(0, 3))):
        place = np.array([rng.uniform(low[0] + 0.1, high[0] - 0.1), low[1] + rng.uniform(0.06, 0.2), height + 0.01])
        parts.append(_thing(rng, made).moved(yaw(rng.uniform(0, 6)), place))
    return join(parts)


def _thing(rng, made):
    """What stands on tables and floors: cup, bottle, box, lump."""
    kind = rng.choice(["cup", "bottle", "box", "lump"])
    if kind == "cup":
        return post((0, 0, 0), (0, 0, 0.1), (0.032, 0.04), made.any(rng), 7, 0.1, 0.3, made.drink)
    if kind == "bottle":
        patch = made.any(rng)
        body = post((0, 0, 0), (0, 0, 0.18), 0.035, patch, 6, 0.1, 0.4, patch)
        return join([body, post((0, 0, 0.18), (0, 0, 0.25), (0.03, 0.012), patch, 6, 0.1, 0.4, made.light)])
    if kind == "box":
        (x, y), z = rng.uniform(0.04, 0.15, 2), rng.uniform(0.02, 0.15)
        return block((-x, -y, 0), (x, y, z), made.card if rng.random() < 0.5 else made.any(rng), 0.1)
    wide = rng.uniform(0.06, 0.16, 3)
    return ball((0, 0, wide[2] * 0.9), wide, made.any(rng))


def laptop(rng, made):
    """A laptop, open, its keys before the origin, lying on z = 0."""
    half, depth, lean = rng.uniform(0.14, 0.19), rng.uniform(0.2, 0.26), rng.uniform(0.0, 0.12)
    case = made.light if rng.random() < 0.5 else made.dark
    # Ahead is y here, as a reader sees its pictures; turned about at the end.
    base = block((-half, 0, 0), (half, depth, 0.018), case, 0.09, 0.1, top=made.keys)
    x, z = np.meshgrid(np.linspace(-half, half, 5), np.linspace(depth * 0.9, 0.015, 4))
    lid = np.stack([x, depth + lean * z / depth, z], axis=-1)
    return join([base, sheet(lid, made.screen, 0.2, case)]).moved(yaw(np.pi), 0.0)


def furniture(rng, made):
    """One piece of furniture -> Mesh about the origin, its half widths (2,) m."""
    kind = rng.choice(["chair", "chair", "table", "table", "cupboard", "shelf", "lamp", "screen", "thing", "sofa"])
    if kind == "chair":
        return seat(rng, made, rng.uniform(0.4, 0.5)), (0.3, 0.35)
    if kind == "table":
        mesh = desk(rng, made, rng.uniform(0.4, 0.8), 0.0, 0.22)
        middle = (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2 * (1, 1, 0)
        return mesh.moved(np.eye(3), -middle), np.ptp(mesh.vertices, axis=0)[:2] / 2
    if kind in ("cupboard", "sofa"):
        half, high = rng.uniform(0.2, 0.6, 2), rng.uniform(0.4, 1.9)
        patch, top = made.any(rng), made.any(rng)
        if kind == "cupboard":
            return block((*-half, 0), (*half, high), patch, 0.45, top=top if rng.random() < 0.5 else None), half
        half = np.array([rng.uniform(0.5, 0.95), 0.42])
        parts = [block((-half[0], -0.42, 0), (half[0], 0.2, 0.42), patch, 0.4)]
        parts.append(block((-half[0], 0.2, 0), (half[0], 0.42, 0.85), patch, 0.4))
        return join(parts), half
    if kind == "shelf":
        half, high = np.array([rng.uniform(0.3, 0.6), 0.16]), rng.uniform(0.8, 1.9)
        parts = [block((*-half, z), (*half, z + 0.03), made.wood, 0.5) for z in np.arange(0.1, high, 0.4)]
        for z in np.arange(0.13, high - 0.4, 0.4):
            for x in np.arange(-half[0], half[0] - 0.15, 0.17):
                if rng.random() < 0.6:
                    deep, tall = rng.uniform(0.0, 0.12), rng.uniform(0.12, 0.3)
                    parts.append(block((x, -deep, z), (x + rng.uniform(0.04, 0.16), 0.14, z + tall), made.any(rng)))
        return join(parts), half
    if kind == "lamp":
        high, patch = rng.uniform(1.2, 1.8), made.light if rng.random() < 0.7 else made.any(rng)
        foot = post((0, 0, 0), (0, 0, 0.03), 0.15, made.dark, 8, 0.4, 0.2, made.dark)
        shade = post((0, 0, high), (0, 0, high + 0.25), (0.2, 0.12), patch, 8, 0.3, 0.0, made.light)
        return join([foot, post((0, 0, 0.03), (0, 0, high), 0.015, made.metal), shade]), (0.2, 0.2)
    if kind == "screen":
        half, high = rng.uniform(0.25, 0.7), rng.uniform(0.7, 1.2)
        x, z = np.meshgrid(np.linspace(-half, half, 4), np.linspace(high + half, high, 3))
        panel = sheet(np.stack([x, 0 * x, z], axis=-1), made.screen, 0.2, made.dark)
        foot = block((-0.2, -0.15, 0), (0.2, 0.15, 0.03), made.dark)
        return join([panel, foot, post((0, 0.02, 0), (0, 0.02, high), 0.03, made.dark)]), (half, 0.2)
    return _thing(rng, made), (0.16, 0.16)


# --- what is held -----------------------------------------------------------------------------------------------


class Grip:
    """Where a body's hands hold: the middle of each hand from its wrist, in the neutral pose's axes."""

    def __init__(self, body):
        self.bones = {side: body.bone(f"hand.{side}") for side in "RL"}
        self.offsets = {}
        for side, bone in self.bones.items():
            middle = body.vertices[np.unique(body.faces[body.face_bone == bone])].mean(0)
            self.offsets[side] = body.neutral[bone] @ (middle - body.starts[bone])

    def gap(self, starts, turns):
        """Metres between the two hands, the median of some frames: starts, turns as in `place`."""
        (right, _), (left, _) = (self.place(side, starts, turns) for side in "RL")
        return float(np.median(np.linalg.norm(right - left, axis=-1)))

    def place(self, side, starts, turns):
        """Hand's middle in the world and the unit vector from the wrist to it; starts, turns (..., bones, 3 [, 3])."""
        along = turns[..., self.bones[side], :, :] @ self.offsets[side]
        return starts[..., self.bones[side], :] + along, along / np.linalg.norm(self.offsets[side])


def _unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-9)


def _frame(across, normal):
    """Axes as columns: x along `across`, z as near to `normal` as that lets it."""
    x = _unit(across)
    z = _unit(normal - (normal @ x) * x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def held_mesh(kind, rng, made, gap):
    """What is held, in its own axes: x to the reader's right, y up the page, z to the eyes; for box, cup and bag y is
    ahead and z up. gap: metres between the hands. The origin is where the hand or hands hold.
    """
    if kind == "paper":
        half, tall = max(gap / 2, 0.08) + rng.uniform(0.02, 0.16), rng.uniform(0.25, 0.48)
        base = -tall * rng.uniform(0.0, 0.55)
        x, y = np.meshgrid(np.linspace(-half, half, 7), np.linspace(base + tall, base, 6))
        bend = rng.uniform(-0.1, 0.1) * np.cos(np.pi * x / (2 * half)) + rng.uniform(-0.06, 0.06) * y / tall
        bend += rng.choice([0.0, 0.08]) * np.abs(x) / half + rng.normal(0, 0.004, x.shape)
        grid = np.stack([x, y, bend + rng.uniform(-0.035, 0.02)], axis=-1)
        return sheet(grid, made.pages[0], 0.0, made.pages[1])
    if kind == "book":
        half, tall, slope = rng.uniform(0.1, 0.19), rng.uniform(0.16, 0.28), rng.uniform(0.1, 0.5)
        x, y = np.meshgrid(np.linspace(-half, half, 7), np.linspace(tall * 0.6, -tall * 0.4, 5))
        grid = np.stack([x, y, slope * np.abs(x) + 0.015 * np.cos(np.pi * x / half) + 0.015], axis=-1)
        return sheet(grid, made.pages[1], 0.0, made.any(rng))
    if kind == "box":
        half = max(gap / 2 - 0.025, 0.04)
        deep, low, high = rng.uniform(0.08, 0.2), rng.uniform(0.03, 0.16), rng.uniform(0.02, 0.14)
        patch = made.card if rng.random() < 0.6 else made.any(rng)
        top = made.pages[0] if rng.random() < 0.15 else None
        return block((-half, -deep, -low), (half, deep, high), patch, 0.09, 0.0, top, bottom=True)
    if kind == "phone":
        half, tall = rng.uniform(0.032, 0.042), rng.uniform(0.065, 0.082)
        lift = rng.uniform(0.015, 0.035)
        case = made.any(rng)
        return block((-half, -tall, lift), (half, tall, lift + 0.009), case, 0.045, 0.3, made.screen, bottom=True)
    if kind == "cup":
        tall, wide, patch = rng.uniform(0.08, 0.14), rng.uniform(0.03, 0.045), made.any(rng)
        low = rng.uniform(-0.07, -0.03)
        return post((0, 0, low), (0, 0, low + tall), (wide * 0.85, wide), patch, 9, 0.05, 0.25, made.drink)
    if kind == "bag":
        (half, deep), tall, drop = (
            rng.uniform((0.12, 0.04), (0.22, 0.1)),
            rng.uniform(0.25, 0.42),
            rng.uniform(0.1, 0.2),
        )
        patch = made.any(rng)
        sack = block((-deep, -half, -drop - tall), (deep, half, -drop), patch, 0.14, bottom=True)
        straps = [post((0, y, -drop), (0, y * 0.2, 0), 0.008, patch) for y in (-half * 0.6, half * 0.6)]
        return join([sack, *straps])
    raise ValueError(f"held {kind!r}; expected '', 'laptop', one of {', '.join(TWO_HANDED)}, or phone, cup, bag with "
                     "'.R' or '.L'")  # fmt: skip


def tray(rng, made, gap):
    """A tray in its own axes, x from hand to hand, y ahead, z up: it lies between hands `gap` metres apart, and reaches
    back to the belly. Something may stand on it.
    """
    half, back, front = max(gap / 2, 0.17) + 0.01, rng.uniform(-0.3, -0.22), rng.uniform(0.1, 0.22)
    patch, rim = made.any(rng), rng.choice([0.004, 0.02, 0.04])
    parts = [block((-half, back, -0.01), (half, front, 0.004), patch, 0.06, rng.choice([0.0, 0.2]), bottom=True)]
    for low, high in (((-half, back), (half, back + 0.01)), ((-half, front - 0.01), (half, front)),
                      ((-half, back), (0.01 - half, front)), ((half - 0.01, back), (half, front))):  # fmt: skip
        parts.append(block((*low, 0.004), (*high, rim), patch, 0.06))
    for _ in range(int(rng.integers(0, 3))):
        place = rng.uniform((-half + 0.1, back + 0.1), (half - 0.1, front - 0.06))
        parts.append(_thing(rng, made).moved(yaw(rng.uniform(0, 6)), (*place, 0.005)))
    return join(parts)


def tray_pose(grip, starts, turns, lift):
    """Where a tray is in one frame, as `held_pose`. lift: 1 level before the belly, 0 its far side let down."""
    (right, _), (left, _) = (grip.place(side, starts, turns) for side in "RL")
    c, s = np.cos(1.2 * (1 - lift)), np.sin(1.2 * (1 - lift))
    frame = _frame(right - left, np.array([0.0, 0, 1]))
    return frame @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]), (right + left) / 2


def held_pose(held, grip, starts, turns, eye, tilt):
    """Where what is held is in one frame: turn (3, 3) and place (3,) of `held_mesh`. starts (bones, 3), turns
    (bones, 3, 3) in the world; eye: the camera's place; tilt: radians by which pages lean back.
    """
    up = np.array([0.0, 0, 1])
    if held in TWO_HANDED:
        (right, _), (left, _) = (grip.place(side, starts, turns) for side in "RL")
        middle, across = (right + left) / 2, right - left
        if held == "box":
            return _frame(across, up), middle
        frame = _frame(across, eye - middle)
        c, s = np.cos(tilt), np.sin(tilt)
        return frame @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), middle
    kind, side = held.split(".")
    hand, along = grip.place(side, starts, turns)
    if kind == "phone":
        y = _unit(along + 0.3 * up)
        z = _unit(eye - hand - ((eye - hand) @ y) * y)
        return np.stack([np.cross(y, z), y, z], axis=1), hand
    ahead = -turns[0][:, 1] * (1, 1, 0)
    x = np.cross(ahead, up)
    if kind == "cup":
        return _frame(x, up + 0.25 * _unit(eye - hand)), hand
    return _frame(x, up), hand


# --- what hangs before the face ---------------------------------------------------------------------------------


def headgear(body, rng, made, patches):
    """Hair that falls into view, glasses, a cap's brim, on the resting body -> Mesh, without faces where none."""
    head = body.bone("head")
    skull = body.vertices[np.unique(body.faces[body.face_bone == head])]
    low, high = skull.min(0), skull.max(0)
    middle, size = (low + high) / 2, high - low
    parts = []
    if rng.random() < 0.22:  # locks beside the face
        drop, out = rng.uniform(0.5, 1.5) * size[2], rng.uniform(0.0, 0.04)
        for side in (-1, 1):
            y, z = np.meshgrid(np.linspace(-0.3, 0.5, 4), np.linspace(0.25, 0.25 - drop / size[2], 6))
            x = side * (size[0] / 2 + 0.005 + out * np.linspace(0, 1, 6)[:, None] + 0.006 * rng.normal(size=y.shape))
            x = x - side * 0.05 * np.maximum(-y, 0) * 2
            grid = np.stack([middle[0] + x, middle[1] + y * size[1], middle[2] + z * size[2]], axis=-1)
            parts.append(sheet(grid, patches["hair"], 0.1, patches["hair"]))
    if rng.random() < 0.2:
        y, z = low[1] - rng.uniform(0.0, 0.02), middle[2] + size[2] * rng.uniform(0.0, 0.1)
        for x in (-0.033, 0.033):
            angles = np.linspace(0, 2 * np.pi, 9)
            ring = np.stack([x + 0.026 * np.cos(angles), np.full(9, y), z + 0.02 * np.sin(angles)], axis=-1)
            parts += [post(a, b, rng.choice([0.0015, 0.003]), made.dark, 3) for a, b in pairwise(ring)]
    if rng.random() < 0.15:  # a brim
        x, share = np.meshgrid(np.linspace(-0.07, 0.07, 5), np.linspace(0, 1, 4))
        y = low[1] + 0.015 - share * rng.uniform(0.03, 0.07) + 8 * x**2
        grid = np.stack([middle[0] + x, y, np.full_like(x, middle[2] + 0.33 * size[2])], axis=-1)
        parts.append(sheet(grid, made.any(rng), 0.0, made.dark))
    return join(parts)
