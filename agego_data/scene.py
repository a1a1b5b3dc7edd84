"""What the head-mounted fisheye camera of the embedded data sees: a clothed body in a room, drawn face by face.

Everything goes through FisheyeCamera: vertices are projected exactly, floor and walls are looked up along each pixel's
ray, and so are the textures of what is drawn. World axes as in body.py: z up, the floor at z = 0, metres. Camera axes:
x right, y down, z forward. Textures come from surfaces.py, things from props.py.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from agego_data import clothes, props, surfaces
from agego_data.others import Other
from agego_data.surfaces import SIDE, WALL_METRES, WALL_ROWS

FARTHEST = np.float32(40.0)  # metres of floor
ROWS, FINER = 48, 3  # of what a Sounder gives: about 4 degrees a pixel
WIDEST_FLOOR = 12.0  # metres a side that the floor's map covers at most; beyond it repeats

# How far behind the surface that is seen a joint may lie and still count as seen, metres: joints lie inside the body,
# hips and shoulders deeper than wrists. Order of the 15 joints.
TOLERANCE = np.array([0.12, *[0.11, 0.08, 0.07] * 2, *[0.16, 0.11, 0.10, 0.08] * 2])
# The same for what is not the body: it hides whatever lies behind it.
THING_TOLERANCE = 0.02


@dataclass(frozen=True)
class Lights:
    """Light of a sequence: directions (L, 3) towards the lamps, their colours (L, 3), light from above and from below
    (3,) that comes from all sides; BGR, together about 1 on a floor.
    """

    directions: np.ndarray
    colours: np.ndarray
    above: np.ndarray
    below: np.ndarray

    @classmethod
    def random(cls, rng):
        """One to three lamps, or the sun, and more or less light from all around."""
        count, tint = int(rng.integers(1, 4)), rng.choice([0.02, 0.05, 0.12], p=[0.5, 0.35, 0.15])
        azimuth, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.45, 1.5, count)
        flat = np.cos(height)
        directions = np.stack([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(height)], axis=1)
        lamps = rng.uniform(0.15, 0.75)
        shares = rng.dirichlet(np.full(count, 2.0)) * lamps / directions[:, 2]
        colours = shares[:, None] * rng.normal(1, tint, (count, 3)).clip(0.6, 1.4)
        below = rng.uniform(0.4, 0.95) * (1 - lamps) * rng.normal(1, tint, 3).clip(0.6, 1.4)
        return cls(directions, colours, (1 - lamps) * rng.normal(1, tint / 2, 3).clip(0.6, 1.4), below)

    def on(self, normals):
        """Light (N, 3) that surfaces with unit normals (N, 3) send back, about 1 where a floor lies."""
        up = 0.5 + 0.5 * normals[:, 2:]
        return up * self.above + (1 - up) * self.below + np.maximum(normals @ self.directions.T, 0) @ self.colours

    def glint(self, normals, towards):
        """Strength (N,) of the lamps' reflection; towards (N, 3): unit vectors to the camera."""
        total = np.zeros(len(normals))
        for direction, colour in zip(self.directions, self.colours, strict=True):
            half = towards + direction
            cosine = (normals * half).sum(1) / np.maximum(np.linalg.norm(half, axis=1), 1e-9)
            total += colour.mean() * np.maximum(cosine, 0) ** 24
        return total


@dataclass(frozen=True)
class Room:
    """A room or yard.

    atlas: floor above walls (surfaces.floor_map, wall_map), each with its first row and column once more at its end,
    BGRA; floor_metres: side of the floor's map; bounds: walls (x0, x1, y0, y1); things: furniture as one mesh;
    lights: what shines.
    """

    atlas: np.ndarray
    floor_metres: float
    bounds: tuple
    things: props.Mesh
    lights: Lights

    @classmethod
    def random(cls, rng, path, made):
        """A room around a path of joints (N, 3) in metres, with furniture of `made` that keeps clear of it."""
        near = rng.choice([0.9, 1.5, 2.5])
        low, high = (
            path[:, :2].min(0) - near - rng.uniform(0, 2.5, 2),
            path[:, :2].max(0) + near + rng.uniform(0, 2.5, 2),
        )
        wall = rng.choice(surfaces.WALLS, p=[0.22, 0.2, 0.14, 0.1, 0.1, 0.08, 0.06, 0.1])
        kinds, weights = surfaces.FLOORS, np.array([5, 4, 3, 2.5, 1.2, 2.5, 1.2, 0.1, 0.4])
        if wall == "outdoors":
            weights = np.array([0.5, 2, 0.2, 1, 0, 0, 0, 5, 4])
            low, high = low - 2, high + 2
        kind = rng.choice(kinds, p=weights / weights.sum())
        parts, marks = [], []
        for _ in range(int(rng.integers(3, 24)) if wall != "outdoors" else int(rng.integers(0, 6))):
            centre = rng.uniform(low + 0.3, high - 0.3)
            if rng.random() < 0.5:  # within the wearer's sight
                centre = path[rng.integers(len(path)), :2] + rng.normal(0, 1.3, 2)
            mesh, half = props.furniture(rng, made)
            # What is as high as the head stays further away.
            reach = np.hypot(*half)
            gap = reach + (0.6 if mesh.vertices[:, 2].max() > 1.0 else 0.1)
            outside = (centre < low + 0.1).any() or (centre > high - 0.1).any()
            if outside or np.hypot(*(path[:, :2] - centre).T).min() < gap:
                continue
            parts.append(mesh.moved(props.yaw(rng.uniform(0, 2 * np.pi)), (*centre, 0.0)))
            marks.append((centre, reach))
        metres = min(float((high - low).max()), WIDEST_FLOOR)
        floor = surfaces.floor_map(rng, kind, metres)
        shadow = np.full((SIDE // 4, SIDE // 4), 255, np.uint8)
        for centre, reach in marks:
            at = (centre % metres) * SIDE / 4 / metres
            cv2.circle(shadow, at.astype(int).tolist(), int(reach * 0.7 * SIDE / 4 / metres), 150, -1)
        shadow = cv2.resize(cv2.GaussianBlur(shadow, (0, 0), 0.12 * SIDE / 4 / metres), (SIDE, SIDE))
        floor = cv2.multiply(floor, cv2.merge([shadow] * 3), scale=1 / 255)
        edge = (0, 1), (0, 1), (0, 0)
        atlas = np.concatenate([np.pad(part, edge, mode="wrap") for part in (floor, surfaces.wall_map(rng, wall))])
        atlas = cv2.cvtColor(atlas, cv2.COLOR_BGR2BGRA)
        return cls(atlas, metres, (low[0], high[0], low[1], high[1]), props.join(parts), Lights.random(rng))

    def reached(self, x, y, z, place):
        """Distances m from a place (3,) along unit rays in the world, float32 of any shape: to the walls across x, to
        those across y, and to the floor."""
        x0, x1, y0, y1 = (np.float32(v) for v in self.bounds)
        px, py, pz = (np.float32(v) for v in place)
        tiny = np.float32(1e-3)
        tx = np.where(x > 0, x1 - px, px - x0) / np.maximum(np.abs(x), tiny)
        ty = np.where(y > 0, y1 - py, py - y0) / np.maximum(np.abs(y), tiny)
        return tx, ty, np.where(z < 0, pz / np.maximum(-z, tiny), np.float32(1e6))


def flat_normals(vertices, faces):
    """Unit normals (F, 3) of faces."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def attributes(light, glint, uv):
    """What is interpolated over faces: light (F, 3, 3) BGR, glint (F, 3), atlas px (F, 3, 2) -> (F, 3, 6) float32."""
    return np.concatenate([light, glint[..., None], uv], axis=-1).astype(np.float32)


def lit_mesh(mesh, lights, eye=None):
    """Attributes of a mesh whose faces are flat. eye: the camera's place; without it nothing glints."""
    normals = flat_normals(mesh.vertices, mesh.faces)
    light = np.repeat(lights.on(normals)[:, None], 3, axis=1)
    glint = np.zeros(mesh.faces.shape)
    if eye is not None and mesh.shine.any():
        towards = eye - mesh.vertices[mesh.faces].mean(1)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        glint += (mesh.shine * lights.glint(normals, towards))[:, None]
    return attributes(light, glint, mesh.uv)


def runs(values):
    """Stretches of values (T,), the empty ones ("" or NaN) left out -> [(first, end, value)].

    Words of a stretch are equal; of numbers, which may differ a little, it has the median.
    """
    values = np.asarray(values)
    words = values.dtype.kind == "U"
    same = values if words else np.isfinite(values)
    found, first = [], 0
    for i in range(1, len(values) + 1):
        if i == len(values) or same[i] != same[first]:
            if same[first]:
                found.append((first, i, str(values[first]) if words else float(np.median(values[first:i]))))
            first = i
    return found


@dataclass(frozen=True)
class Stage:
    """All that a sequence shows beside motion: the room, the dressed body and what it uses.

    atlas: textures of all things; gear: (mesh at rest) of hair, glasses, brim, which go with the head; standing:
    [(first, end, mesh, attributes)] seats and tables of those frames; held: [(first, end, kind, mesh, tilt)]; tray:
    that of the take's stretches, if it has one; other: somebody else (others.Other), whose textures lie below the rest.
    """

    room: Room
    outfit: clothes.Outfit
    atlas: np.ndarray
    gear: props.Mesh
    standing: list
    held: list
    grip: props.Grip
    tray: props.Mesh | None = None
    other: Other | None = None

    @classmethod
    def random(cls, rng, person, body, take):
        """Looks for a take from the generator rng; the wearer's skin and hair from `person`.

        Raises ValueError where the take holds what is not known, or a laptop without a table.
        """
        floating = np.flatnonzero((take.held == "laptop") & np.isnan(take.desk_m))
        if len(floating):
            raise ValueError(f"frame {floating[0]}: held 'laptop', but desk_m is NaN; expected a table to lie on")
        atlas = surfaces.Atlas()
        outfit = clothes.dress(body, person, rng, atlas)
        made = props.Materials(rng, atlas)
        usual = take.stretches or take
        room = Room.random(rng, usual.starts.reshape(-1, 3), made)
        grip = props.Grip(body)
        standing = [(0, len(take.starts), room.things, lit_mesh(room.things, room.lights))]

        def fixed(first, end, mesh):
            """At the pelvis' middle place in these frames, facing as it does."""
            facing = -take.turns[first:end, 0][:, :2, 1].mean(0)
            turn = props.yaw(np.arctan2(facing[0], -facing[1]))
            mesh = mesh.moved(turn, take.starts[first:end, 0].mean(0) * (1, 1, 0))
            standing.append((first, end, mesh, lit_mesh(mesh, room.lights)))

        for first, end, height in runs(take.seat_m):
            fixed(first, end, props.seat(rng, made, height))
        for first, end, height in runs(take.desk_m):
            gap = rng.uniform(*props.DESK_GAP)
            fixed(first, end, props.desk(rng, made, height, gap))
            computer = take.held[first:end] == "laptop"
            for begin, stop, _ in runs(np.where(computer, "laptop", "")):
                place = (0.0, -gap - rng.uniform(0.02, 0.15), height + 0.012)
                mesh = props.laptop(rng, made).moved(props.yaw(rng.normal(0, 0.1)), place)
                fixed(first + begin, first + stop, mesh)
        held = []
        for first, end, kind in runs(take.held):
            if kind == "laptop":
                continue
            gap = grip.gap(usual.starts[first:end], usual.turns[first:end])
            mesh = props.held_mesh(kind.split(".")[0], rng, made, gap)
            held.append((first, end, kind, mesh, rng.uniform(-0.35, 0.5)))
        gear = props.headgear(body, rng, made, outfit.patches)
        tray = None
        if take.stretches is not None and (carried := np.isfinite(take.stretches.tray)).any():
            # From a generator of its own, so that all else looks as it does without a tray.
            tray = props.tray(rng.spawn(1)[0], made, grip.gap(take.starts[carried], take.turns[carried]))
        return cls(room, outfit, atlas.image, gear, standing, held, grip, tray)

    def surroundings(self, i):
        """What stands in frame i, people and what they hold left out -> Mesh."""
        return props.join([mesh for first, end, mesh, _ in self.standing if first <= i < end])

    def joined_by(self, other):
        """The same with another person in it."""
        moved = replace(other.outfit, uv=other.outfit.uv + np.array([0, len(self.atlas)]))
        return replace(self, other=replace(other, outfit=moved), atlas=np.concatenate([self.atlas, other.atlas]))

    def _dressed(self, outfit, starts, turns, eye):
        """A dressed body (bones, 3), (bones, 3, 3) seen from the place `eye` -> vertices, faces, attributes."""
        faces, lights = outfit.body.faces, self.room.lights
        vertices = outfit.body.skin(starts, turns)
        normals = clothes.vertex_normals(vertices, faces)
        towards = eye - vertices
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
        glint = lights.glint(normals, towards)[faces] * outfit.shine[:, None]
        return vertices, faces, attributes(lights.on(normals)[faces], glint, outfit.uv)

    def shadow(self, take, i):
        """`floor_shadow` of all people in frame i."""
        starts, parents = take.starts[i], self.outfit.body.parents
        if self.other is not None:
            more = self.other.outfit.body.parents
            parents = np.concatenate([parents, np.where(more < 0, -1, more + len(parents))])
            starts = np.concatenate([starts, self.other.starts[i]])
        return floor_shadow(starts, parents, self.room.lights)

    def parts(self, take, i):
        """What is to be drawn of frame i -> vertices (V, 3), faces (F, 3), attributes (F, 3, 6), number of
        faces of the body, which come first, and of the body with what it holds and wears, which come next.
        """
        lights, eye = self.room.lights, take.camera_places[i]
        starts, turns = take.starts[i], take.turns[i]
        body = self.outfit.body
        meshes = [self._dressed(self.outfit, starts, turns, eye)]
        loose, hard = [], take.stretches
        if self.tray is not None and np.isfinite(hard.tray[i]):
            loose.append(self.tray.moved(*props.tray_pose(self.grip, starts, turns, hard.tray[i])))
        for first, end, kind, mesh, tilt in self.held:
            if first <= i < end and not (hard is not None and hard.busy[i]):
                loose.append(mesh.moved(*props.held_pose(kind, self.grip, starts, turns, eye, tilt)))
        if len(self.gear.faces):
            head = body.bone("head")
            turn = turns[head] @ body.neutral[head]
            loose.append(self.gear.moved(turn, starts[head] - turn @ body.starts[head]))
        meshes += [(mesh.vertices, mesh.faces, lit_mesh(mesh, lights, eye)) for mesh in loose]
        meshes += [(mesh.vertices, mesh.faces, lit) for first, end, mesh, lit in self.standing if first <= i < end]
        if self.other is not None:
            meshes.append(self._dressed(self.other.outfit, self.other.starts[i], self.other.turns[i], eye))
        counts = np.cumsum([0, *(len(part[0]) for part in meshes)])
        return (
            np.concatenate([part[0] for part in meshes]),
            np.concatenate([part[1] + n for part, n in zip(meshes, counts[:-1], strict=True)]),
            np.concatenate([part[2] for part in meshes]),
            len(body.faces),
            len(body.faces) + sum(len(mesh.faces) for mesh in loose),
        )


def surface_distances(corners, towards, length=1.0):
    """How far away the surfaces of triangles (N, 3, 3) are from the origin -> (N,), in their unit.

    towards: (N, 3), into which directions. length: (N,), of these.
    """
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    slope = (normals * towards).sum(1) / length
    depth = (normals * corners[:, 0]).sum(1) / np.where(slope == 0, -1e-12, slope)
    # A pixel's middle may lie just off the triangle: the plane's depth there is held to that of its corners.
    ends = np.linalg.norm(corners, axis=2)
    return np.clip(depth, ends.min(1), ends.max(1))


class Viewer:
    """Draws frames of one camera. Keeps what depends on the camera alone: pixels' rays and distances from the middle.

    full: the camera. camera: the same with the black columns beside the image circle cut off, `left` of them on the
    left; all is drawn on that narrower picture. share: distance from the middle in image circles, (H, W) float32.
    """

    def __init__(self, camera):
        left = max(0, int(camera.centre[0] - camera.radius) // 2 * 2)
        width = min(camera.size[0], int(np.ceil(camera.centre[0] + camera.radius)) + 1) - left
        height = camera.size[1]
        self.full, self.left = camera, left
        self.camera = camera = replace(camera, size=(width, height), centre=(camera.centre[0] - left, camera.centre[1]))
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
        rays = camera.unproject(grid, np.ones((height, width))).astype(np.float32)
        self.rays = rays.reshape(-1, 3)
        self.coarse_rays = cv2.resize(rays, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        self.share = (np.linalg.norm(grid - camera.centre, axis=-1) / camera.radius).astype(np.float32)
        # Beyond this angle from the axis nothing reaches the image circle.
        rim = camera.unproject(np.add(camera.centre, (camera.radius, 0.0)), 1.0)
        self.lowest_z = np.cos(min(np.arccos(rim[2]) + 0.15, np.pi))

    def _full(self, image):
        return cv2.resize(image, self.camera.size, interpolation=cv2.INTER_LINEAR)

    def background(self, room, turn, place, shadow):
        """Floor and walls: camera-to-world turn (3, 3), camera's place (3,), shadow of `floor_shadow` -> BGR image."""
        x, y, z = cv2.split(cv2.transform(self.coarse_rays, turn.astype(np.float32)))
        x0, _, y0, _ = (np.float32(v) for v in room.bounds)
        px, py, pz = (np.float32(v) for v in place)
        # Each surface is looked up on its own, so that their maps are smooth and may be computed at half size; only the
        # choice between them is sharp.
        tx, ty, down = room.reached(x, y, z, place)
        wall = np.minimum(tx, ty)
        is_wall = self._full(np.minimum(down / wall, 3.0)) > 1
        down = np.minimum(down, FARTHEST)
        floor_x, floor_y = px + x * down, py + y * down
        per_metre = np.float32(SIDE / room.floor_metres)
        along = np.where(tx < ty, py + y * wall - y0, px + x * wall - x0) * np.float32(SIDE / WALL_METRES[0])
        up = np.clip(1 - (pz + z * wall) / np.float32(WALL_METRES[1]), 0, 1) * np.float32(WALL_ROWS - 1)
        u = np.where(is_wall, self._full(along), self._full(floor_x * per_metre))
        v = np.where(is_wall, self._full(up), self._full(floor_y * per_metre))
        # Wrapped by hand, and with four channels: remap is several times faster so.
        u, v = (part - SIDE * np.floor(part * np.float32(1 / SIDE)) for part in (u, v))
        v += is_wall * np.float32(SIDE + 1)
        image = cv2.cvtColor(cv2.remap(room.atlas, u, v, cv2.INTER_LINEAR), cv2.COLOR_BGRA2BGR)
        dark, (left, top), scale = shadow
        u, v = (floor_x - np.float32(left)) * np.float32(scale), (floor_y - np.float32(top)) * np.float32(scale)
        dark = cv2.remap(dark, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=255)
        dark[wall < down] = 255
        dark = self._full(dark)
        return cv2.multiply(image, cv2.merge([dark, dark, dark]), scale=1 / 255)

    def paint(self, image, ids, vertices, faces, values, atlas, turn, place):
        """Colour the pixels of `image` that `draw` gave a face, in place. values: attributes (F, 3, 6); atlas: BGRA.

        The values are interpolated along each pixel's ray, exactly. Where something near stands before it, a surface
        gets less light.
        """
        flat = ids.ravel()
        covered = np.flatnonzero(flat >= 0)
        if not len(covered):
            return
        chosen = flat[covered]
        used = np.flatnonzero(np.bincount(chosen, minlength=len(faces)))
        number = np.zeros(len(faces), np.int32)
        number[used] = np.arange(len(used), dtype=np.int32)
        chosen = number[chosen]
        a, b, c = np.moveaxis(((vertices[faces[used]] - place) @ turn), 1, 0)
        # A ray d meets the plane of the corners a, b, c at (a, b, c) w with w proportional to their inverse times d.
        inverse = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
        volume = (a * inverse[:, 0]).sum(1)
        inverse /= np.where(np.abs(volume) < 1e-12, -1e-12, volume)[:, None, None]
        weights = np.einsum("nkj,nj->nk", np.take(inverse.astype(np.float32), chosen, axis=0), self.rays[covered])
        # A pixel's middle may lie just off the triangle that covers it.
        np.maximum(weights, 0, out=weights)
        total = np.maximum(weights.sum(1, keepdims=True), np.float32(1e-6))
        weights /= total
        values = np.einsum("nk,nkj->nj", weights, np.take(values[used], chosen, axis=0))
        rows = -(-len(covered) // 512)
        lookup = np.zeros((2, rows * 512), np.float32)
        lookup[:, : len(covered)] = values[:, 4:].T
        lookup = lookup.reshape(2, rows, 512)
        texture = cv2.remap(atlas, lookup[0], lookup[1], cv2.INTER_LINEAR).reshape(-1, 4)[: len(covered), :3]
        light = values[:, :3] * self._openness(covered, 1 / total[:, 0])[:, None]
        colours = texture * light + 255 * values[:, 3:4]
        image.reshape(-1, 3)[covered] = np.minimum(colours, 255).astype(np.uint8)

    def _openness(self, covered, depth):
        """Share of light (N,) that reaches pixels `covered`, whose surfaces are `depth` (N,) metres away: less where
        they lie a little behind what is drawn around them.
        """
        width, height = self.camera.size
        both = np.zeros((height * width, 2), np.float32)
        both[covered, 0], both[covered, 1] = np.minimum(depth, 3.0), 1
        small = cv2.resize(both.reshape(height, width, 2), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), 0.008 * height)
        mean = small[..., 0] / np.maximum(small[..., 1], 1e-3)
        behind = depth - self._full(mean).reshape(-1)[covered]
        return 1 - np.clip(behind * 3, -0.08, 0.42)

    def draw(self, vertices, faces, turn, place):
        """Painter's algorithm: triangles in the world -> face index of each pixel (H, W) int32, -1 where none.

        Faces that look away, or lie beyond the image circle, are left out.
        """
        local = (vertices - place) @ turn
        distance = np.linalg.norm(local, axis=1)
        pixels = self.camera.project(local)
        seen = np.isfinite(pixels).all(1) & (local[:, 2] > self.lowest_z * distance) & (distance > 0.02)
        corners = local[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        keep = np.flatnonzero(((normals * corners[:, 0]).sum(1) < 0) & seen[faces].all(1))
        keep = keep[np.argsort(-distance[faces[keep]].sum(1), kind="stable")]
        shift = 3
        points = np.round(pixels[faces[keep]] * (1 << shift)).astype(np.int32)
        ids = np.full(self.share.shape, -1, np.int32)
        for face, triangle in zip(keep.tolist(), points, strict=True):
            cv2.fillConvexPoly(ids, triangle, face, cv2.LINE_8, shift)
        return ids

    def hidden(self, ids, vertices, faces, body_faces, joints, place, turn):
        """Which joints (15, 3) are hidden: the surface seen at the joint's pixel lies nearer than the joint by more
        than TOLERANCE where it is the body's, whose faces come first, else THING_TOLERANCE -> bool (15,). Joints
        outside the image are not hidden but out of it: False.
        """
        local = (joints - place) @ turn
        far = np.linalg.norm(local, axis=1)
        pixels = self.camera.project(local)
        inside = np.flatnonzero(self.camera.in_image(pixels))
        u, v = np.round(pixels[inside]).astype(int).T
        seen = ids[v, u]
        inside, seen = inside[seen >= 0], seen[seen >= 0]
        corners = (vertices[faces[seen]] - place) @ turn
        hidden = np.zeros(len(joints), bool)
        room = np.where(seen < body_faces, TOLERANCE[inside], THING_TOLERANCE)
        hidden[inside] = surface_distances(corners, local[inside], far[inside]) < far[inside] - room
        return hidden


class Sounder(Viewer):
    """How far away what stands is, along the rays of a small picture: ROWS rows of the same camera's.

    Faces are drawn FINER times as fine, and every FINER-th pixel is kept: `draw` gives a face each pixel that it
    touches, which would make things on a small picture much too wide.
    """

    def __init__(self, camera):
        super().__init__(camera.scaled(FINER * ROWS / camera.size[1]))
        middle, (width, height) = FINER // 2, self.full.size
        kept = np.zeros((height, width), bool)
        kept[middle::FINER, middle::FINER] = True
        self.shape = len(range(middle, height, FINER)), len(range(middle, width, FINER))
        # Of the picture without the columns that are cut off, and of the whole one: those in the image circle.
        inside = np.zeros_like(kept)
        inside[:, self.left : self.left + self.camera.size[0]] = self.share <= 1
        self.kept = np.flatnonzero((kept & inside)[:, self.left : self.left + self.camera.size[0]])
        self.places = inside[kept].reshape(self.shape)

    def distances(self, room, vertices, faces, turn, place, above):
        """Metres to a room and a mesh in it -> (H, W) float32, 0 beyond the image circle.

        place: the camera's; above: that from which the room is seen, as `background` has it.
        """
        rays = self.rays[self.kept]
        tx, ty, down = room.reached(*(rays @ turn.T.astype(np.float32)).T, above)
        far = np.minimum(np.minimum(tx, ty), down)
        seen = self.draw(vertices, faces, turn, place).ravel()[self.kept]
        covered = np.flatnonzero(seen >= 0)
        far[covered] = surface_distances(((vertices - place) @ turn)[faces[seen[covered]]], rays[covered])
        whole = np.zeros(self.shape, np.float32)
        whole[self.places] = far
        return whole


def floor_shadow(starts, parents, lights):
    """Soft shadows of a stick figure (bones, 3) on the floor -> map (96, 96) uint8, its corner (2,) m, px a metre.

    The fewer the lamps and the less light comes from all around, the darker they are; low bones have sharper ones.
    """
    scale, size = 24.0, 96
    corner = starts[0, :2] - size / (2 * scale)
    total = (lights.above + lights.directions[:, 2] @ lights.colours).mean()
    lamps = [(d[:2] / d[2], (d[2] * c).mean() / total) for d, c in zip(lights.directions, lights.colours, strict=True)]
    # What all sides send is kept from the floor right below.
    lamps.append((np.zeros(2), 0.5 * lights.above.mean() / total))
    whole = np.full((size, size), 255, np.uint8)
    for (slope, share), soft in zip(lamps, (*[1.5] * (len(lamps) - 1), 4.5), strict=True):
        points = np.round((starts[:, :2] - starts[:, 2:] * slope - corner) * scale * 8).astype(int).clip(-9999, 9999)
        shadow = np.full((size, size), 255, np.uint8)
        for bone, parent in enumerate(parents):
            if parent >= 0:
                ends = points[parent].tolist(), points[bone].tolist()
                cv2.line(shadow, *ends, int(255 * (1 - share)), 5, cv2.LINE_8, 3)
        shadow = cv2.GaussianBlur(shadow, (0, 0), soft)
        whole = cv2.multiply(whole, shadow, scale=1 / 255)
    return whole, corner, scale
