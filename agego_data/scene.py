"""What the head-mounted fisheye camera of the embedded data sees: a clothed body in a room, drawn face by face.

Everything goes through FisheyeCamera: vertices are projected exactly, floor and walls are looked up along each pixel's
ray. World axes as in body.py: z up, the floor at z = 0, metres. Camera axes: x right, y down, z forward.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

FLOORS = ("checks", "planks", "carpet", "concrete", "grass")
TEXTURE = 512  # px; floor and wall textures repeat
FARTHEST = np.float32(40.0)  # metres of floor
WALL_METRES = (np.float32(8.0), np.float32(3.0))  # along the wall and up

# How far behind the surface that is seen a joint may lie and still count as seen, metres: joints lie inside the body,
# hips and shoulders deeper than wrists. Order of the 15 joints.
TOLERANCE = np.array([0.12, *[0.11, 0.08, 0.07] * 2, *[0.16, 0.11, 0.10, 0.08] * 2])


def _tone(rng, low, high, colourful=0.25):
    """A random BGR colour with channels in [low, high), pulled towards grey: rooms and clothes are rarely gaudy."""
    colour = rng.uniform(low, high, 3)
    return colour * colourful + colour.mean() * (1 - colourful)


def _cloudy(rng, cells, size=TEXTURE):
    """A smooth random field (size, size) of zero mean that repeats at its edges, about unit range."""
    noise = rng.normal(size=(cells, cells)).astype(np.float32)
    wide = cv2.resize(np.tile(noise, (3, 3)), (3 * size, 3 * size), interpolation=cv2.INTER_CUBIC)
    return wide[size : 2 * size, size : 2 * size]


def floor_texture(rng):
    """A floor that repeats: BGR (512, 512, 3) uint8 and the metres that it covers."""
    kind = rng.choice(FLOORS)
    base = _tone(rng, 70, 210)
    image = np.tile(base.astype(np.float32), (TEXTURE, TEXTURE, 1))
    rows, columns = np.mgrid[:TEXTURE, :TEXTURE]
    if kind == "checks":
        cells = int(rng.choice([4, 8]))
        odd = (rows * cells // TEXTURE + columns * cells // TEXTURE) % 2 == 1
        image[odd] = _tone(rng, 40, 230)
    elif kind == "planks":
        image[:] = np.array([70, 110, 160]) * rng.uniform(0.6, 1.3)
        count = int(rng.choice([16, 32]))
        plank = rows * count // TEXTURE
        image *= rng.uniform(0.8, 1.15, count)[plank][..., None]
        seam = (rows % (TEXTURE // count) == 0) | ((columns + plank * 197) % TEXTURE < 2)
        image[seam] *= 0.6
    elif kind == "carpet":
        image += rng.normal(0, 14, (TEXTURE, TEXTURE, 1))
        for _ in range(int(rng.integers(1, 4))):
            inset = int(rng.integers(10, 200))
            corner = (inset, inset), (TEXTURE - inset, TEXTURE - inset)
            cv2.rectangle(image, *corner, _tone(rng, 30, 220).tolist(), int(rng.integers(6, 30)))
    elif kind == "concrete":
        image += 7 * _cloudy(rng, 12)[..., None] + rng.normal(0, 5, (TEXTURE, TEXTURE, 1))
        for _ in range(int(rng.integers(2, 7))):  # tape marks and papers
            x, y = rng.integers(20, TEXTURE - 60, 2)
            w, h = rng.integers(4, 55, 2)
            cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), rng.uniform(20, 235, 3).tolist(), -1)
    else:
        image[:] = np.array([50, 110, 80]) * rng.uniform(0.7, 1.2)
        image *= 1 + 0.15 * _cloudy(rng, 24)[..., None] + rng.normal(0, 0.12, (TEXTURE, TEXTURE, 1))
    image *= 1 + 0.06 * _cloudy(rng, 5)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), 0.8, borderType=cv2.BORDER_REFLECT)
    return np.clip(image, 0, 255).astype(np.uint8), float(rng.uniform(2.0, 4.0))


def wall_texture(rng):
    """Walls, floor at the last row: BGR (512, 512, 3) uint8; it covers 8 m along the wall and 3 m up, and goes on."""
    image = np.tile(_tone(rng, 60, 225).astype(np.float32), (TEXTURE, TEXTURE, 1))
    image += 8 * _cloudy(rng, 6)[..., None]
    for _ in range(int(rng.integers(3, 10))):  # doors, windows, shelves, curtains
        x, y = int(rng.integers(0, TEXTURE - 80)), int(rng.integers(40, 420))
        w, h = int(rng.integers(20, 120)), int(rng.integers(40, 260))
        colour = _tone(rng, 20, 245)
        cv2.rectangle(image, (x, y), (x + w, y + h), colour.tolist(), -1)
        cv2.rectangle(image, (x, y), (x + w, y + h), (colour * 0.6).tolist(), 3)
    image[-14:] *= 0.6  # skirting board
    image *= np.linspace(1.08, 0.85, TEXTURE)[:, None, None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _box(low, high, cell=0.3):
    """The sides and top of a box as small triangles, wound outwards -> vertices (V, 3), faces (F, 3)."""
    vertices, faces = [], []
    low, high = np.asarray(low), np.asarray(high)
    for axis, top in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        counts = [max(1, int(np.ceil((high[k] - low[k]) / cell))) for k in (a, b)]
        grid = np.zeros((counts[0] + 1, counts[1] + 1, 3))
        grid[..., axis] = (low, high)[top][axis]
        grid[..., a] = np.linspace(low[a], high[a], counts[0] + 1)[:, None]
        grid[..., b] = np.linspace(low[b], high[b], counts[1] + 1)
        index = np.arange(grid[..., 0].size).reshape(grid.shape[:2]) + sum(map(len, vertices))
        quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 4)
        quads = quads if top else quads[:, ::-1]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
        vertices.append(grid.reshape(-1, 3))
    return np.concatenate(vertices), np.concatenate(faces)


def shade(vertices, faces, colours, light, smooth=False):
    """Lambert shading with a soft fill: colours (F, 3) -> shaded colours (F, 3).

    light: unit vector towards the light. smooth: take each face's normal from its corners' surroundings.
    """
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if smooth:
        around = [np.bincount(faces.ravel(), np.repeat(part, 3), len(vertices)) for part in normals.T]
        normals = np.stack(around, axis=1)[faces].sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return colours * (0.6 + 0.15 * normals[:, 2:] + 0.45 * np.maximum(normals @ light, 0)[:, None])


@dataclass(frozen=True)
class Room:
    """A room or yard.

    atlas: floor above wall texture, each with its first row and column once more at its end, BGRA; floor_metres: side
    of the floor's texture; bounds: walls (x0, x1, y0, y1); vertices, faces, colours: furniture as shaded triangles;
    light: unit vector towards the light.
    """

    atlas: np.ndarray
    floor_metres: float
    bounds: tuple
    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    light: np.ndarray

    @classmethod
    def random(cls, rng, path):
        """A room around a path of joints (N, 3) in metres, with furniture that keeps clear of it."""
        floor, metres = floor_texture(rng)
        low, high = path[:, :2].min(0) - rng.uniform(1.5, 4, 2), path[:, :2].max(0) + rng.uniform(1.5, 4, 2)
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
        light = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
        parts, count = [], 0
        for _ in range(int(rng.integers(4, 14))):
            centre, half = rng.uniform(low + 0.5, high - 0.5), rng.uniform(0.15, 0.6, 2)
            gap = np.maximum(np.abs(path[:, :2] - centre) - half, 0)
            if np.hypot(*gap.T).min() < 0.35:
                continue
            top = rng.choice([0.45, 0.75, 1.2, 1.9]) * rng.uniform(0.8, 1.1)
            vertices, faces = _box([*(centre - half), 0.0], [*(centre + half), top])
            colours = shade(vertices, faces, np.tile(_tone(rng, 25, 220), (len(faces), 1)), light)
            parts.append((vertices, faces + count, colours))
            count += len(vertices)
        empty = np.zeros((0, 3))
        vertices, faces, colours = (
            np.concatenate(part) for part in zip((empty, empty.astype(int), empty), *parts, strict=True)
        )
        edge = (0, 1), (0, 1), (0, 0)
        atlas = np.concatenate([np.pad(part, edge, mode="wrap") for part in (floor, wall_texture(rng))])
        atlas = cv2.cvtColor(atlas, cv2.COLOR_BGR2BGRA)
        return cls(atlas, metres, (low[0], high[0], low[1], high[1]), vertices, faces, colours, light)


def clothing(body, person, rng):
    """Colours of a body's faces: skin and hair from the generator `person`, what is worn from `rng` -> BGR (F, 3)."""
    skins = np.array([[160, 185, 225], [130, 160, 205], [95, 130, 180], [60, 90, 140], [40, 60, 95]])
    skin = skins[person.integers(len(skins))] * person.uniform(0.9, 1.1)
    hair = np.array([[25, 25, 28], [35, 50, 75], [80, 120, 160], [120, 120, 125]])[person.integers(4)]
    shirt, second, trousers, shoes = (_tone(rng, 15, 235, 0.6) for _ in range(4))
    trousers = trousers * 0.7
    sleeve, hem = rng.choice([0.55, 0.8, 1.5, 1.97]), rng.choice([0.85, 1.95, 1.95])
    part = np.array(body.part_names)[body.face_part]
    bone = np.array([name.split(".")[0] for name in body.bone_names])[body.face_bone]
    # Place along the whole limb: 0 to 1 on upper arm and thigh, 1 to 2 on forearm and shin.
    limb = body.face_along + np.isin(bone, ("forearm", "shin"))
    colours = np.empty((len(part), 3))
    colours[:] = shirt
    centre = body.vertices[body.faces].mean(1)
    pattern = rng.choice(["plain", "stripes", "yoke", "front"])
    if pattern == "stripes":
        colours[np.sin(centre[:, 2] * 2 * np.pi / rng.uniform(0.12, 0.2)) > 0.2] = second
    elif pattern == "yoke":
        colours[centre[:, 2] > body.starts[body.bone("upperarm.R"), 2] - 0.1] = second
    elif pattern == "front":
        chest = body.starts[body.bone("chest")]
        colours[(np.abs(centre[:, 0]) < 0.1) & (centre[:, 1] < chest[1]) & (centre[:, 2] > chest[2])] = second
    colours[(part == "arm") & (limb > sleeve)] = skin
    colours[part == "trousers"] = trousers
    colours[part == "leg"] = np.where((limb > hem)[part == "leg"][:, None], skin, trousers)
    colours[part == "shoe"] = shoes if rng.random() < 0.85 else skin
    for name, colour in (("skin", skin), ("hand", skin), ("hair", hair), ("lips", skin * (0.8, 0.7, 0.95))):
        colours[part == name] = colour
    colours[part == "eyes"] = 45.0
    return colours * rng.uniform(0.94, 1.06, (len(part), 1))


class Viewer:
    """Draws frames of one camera. Keeps what depends on the camera alone: each pixel's ray, the circle's soft edge.

    full: the camera. camera: the same with the black columns beside the image circle cut off; everything but `finish`
    works on that narrower picture.
    """

    def __init__(self, camera):
        left = max(0, int(camera.centre[0] - camera.radius) // 2 * 2)
        width = min(camera.size[0], int(np.ceil(camera.centre[0] + camera.radius)) + 1) - left
        height = camera.size[1]
        self.full, self.left = camera, left
        self.camera = camera = replace(camera, size=(width, height), centre=(camera.centre[0] - left, camera.centre[1]))
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
        rays = camera.unproject(grid, np.ones((height, width))).astype(np.float32)
        self.coarse_rays = cv2.resize(rays, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        rho = np.linalg.norm(grid - camera.centre, axis=-1)
        edge = np.clip((camera.radius - rho) / (0.08 * camera.radius), 0, 1)
        falloff = 1 - 0.25 * (rho / camera.radius) ** 2
        mask = edge * edge * (3 - 2 * edge) * falloff
        self.mask = np.repeat(np.round(255 * mask).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        # Beyond this angle from the axis nothing reaches the image circle.
        rim = camera.unproject(np.add(camera.centre, (camera.radius, 0.0)), 1.0)
        self.lowest_z = np.cos(min(np.arccos(rim[2]) + 0.15, np.pi))

    def finish(self, image, exposure):
        """Darken outside the circle, as the lens does, and put the black columns back -> BGR image of the full size."""
        image = cv2.multiply(image, self.mask, scale=exposure / 255)
        right = self.full.size[0] - self.left - image.shape[1]
        return cv2.copyMakeBorder(image, 0, 0, self.left, right, cv2.BORDER_CONSTANT)

    def _full(self, image):
        return cv2.resize(image, self.camera.size, interpolation=cv2.INTER_LINEAR)

    def background(self, room, turn, place, shadow):
        """Floor and walls: camera-to-world turn (3, 3), camera's place (3,), shadow of `floor_shadow` -> BGR image."""
        x, y, z = cv2.split(cv2.transform(self.coarse_rays, turn.astype(np.float32)))
        x0, x1, y0, y1 = (np.float32(v) for v in room.bounds)
        px, py, pz = (np.float32(v) for v in place)
        tiny = np.float32(1e-3)
        # Distances along the ray to the walls ahead and to the floor. Each surface is looked up on its own, so that
        # their maps are smooth and may be computed at half size; only the choice between them is sharp.
        tx = np.where(x > 0, x1 - px, px - x0) / np.maximum(np.abs(x), tiny)
        ty = np.where(y > 0, y1 - py, py - y0) / np.maximum(np.abs(y), tiny)
        wall, down = np.minimum(tx, ty), np.where(z < 0, pz / np.maximum(-z, tiny), np.float32(1e6))
        is_wall = self._full(np.minimum(down / wall, 3.0)) > 1
        down = np.minimum(down, FARTHEST)
        floor_x, floor_y = px + x * down, py + y * down
        per_metre = np.float32(TEXTURE / room.floor_metres)
        along = np.where(tx < ty, py + y * wall - y0, px + x * wall - x0) * np.float32(TEXTURE / WALL_METRES[0])
        up = np.clip(1 - (pz + z * wall) / WALL_METRES[1], 0, 1) * np.float32(TEXTURE - 1)
        u = np.where(is_wall, self._full(along), self._full(floor_x * per_metre))
        v = np.where(is_wall, self._full(up), self._full(floor_y * per_metre))
        # Wrapped by hand, and with four channels: remap is several times faster so.
        u, v = (part - TEXTURE * np.floor(part * np.float32(1 / TEXTURE)) for part in (u, v))
        v += is_wall * np.float32(TEXTURE + 1)
        image = cv2.cvtColor(cv2.remap(room.atlas, u, v, cv2.INTER_LINEAR), cv2.COLOR_BGRA2BGR)
        dark, (left, top), scale = shadow
        u, v = (floor_x - np.float32(left)) * np.float32(scale), (floor_y - np.float32(top)) * np.float32(scale)
        dark = cv2.remap(dark, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=255)
        dark[wall < down] = 255
        dark = self._full(dark)
        return cv2.multiply(image, cv2.merge([dark, dark, dark]), scale=1 / 255)

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
        ids = np.full(self.mask.shape[:2], -1, np.int32)
        for face, triangle in zip(keep.tolist(), points, strict=True):
            cv2.fillConvexPoly(ids, triangle, face, cv2.LINE_8, shift)
        return ids

    def hidden(self, ids, vertices, faces, body_faces, joints, place, turn):
        """Which joints (15, 3) the body hides: the body's surface seen at the joint's pixel lies nearer than the joint
        by more than TOLERANCE -> bool (15,). Joints outside the image are not hidden but out of it: False.
        """
        local = (joints - place) @ turn
        far = np.linalg.norm(local, axis=1)
        pixels = self.camera.project(local)
        inside = np.flatnonzero(self.camera.in_image(pixels))
        u, v = np.round(pixels[inside]).astype(int).T
        seen = ids[v, u]
        inside, seen = inside[(seen >= 0) & (seen < body_faces)], seen[(seen >= 0) & (seen < body_faces)]
        corners = (vertices[faces[seen]] - place) @ turn
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        slope = (normals * local[inside]).sum(1) / far[inside]
        depth = (normals * corners[:, 0]).sum(1) / np.where(slope == 0, -1e-12, slope)
        # A pixel's middle may lie just off the triangle: the plane's depth there is held to that of its corners.
        distances = np.linalg.norm(corners, axis=2)
        hidden = np.zeros(len(joints), bool)
        hidden[inside] = np.clip(depth, distances.min(1), distances.max(1)) < far[inside] - TOLERANCE[inside]
        return hidden


def floor_shadow(starts, parents, light):
    """Soft shadow of a stick figure (bones, 3) on the floor -> map (192, 192) uint8, its corner, px a metre."""
    scale, size = 48.0, 192
    flat = starts[:, :2] - starts[:, 2:] * light[:2] / light[2]
    corner = flat[0] - size / (2 * scale)
    points = np.round((flat - corner) * scale * 8).astype(int)
    shadow = np.full((size, size), 255, np.uint8)
    for bone, parent in enumerate(parents):
        if parent >= 0:
            cv2.line(shadow, points[parent].tolist(), points[bone].tolist(), 120, 9, cv2.LINE_8, 3)
    return cv2.GaussianBlur(shadow, (0, 0), 3.5), corner, scale
