"""What surfaces of the embedded data look like: floors, walls, furniture, print, skin and clothes, as painted textures.

All are BGR, 0 to 255, drawn anew for every sequence. What is worn or stands about shares one image, the Atlas.
"""

import colorsys
from dataclasses import dataclass, replace

import cv2
import numpy as np

FLOORS = ("smooth", "concrete", "planks", "tiles", "checks", "carpet", "rug", "grass", "paving")
WALLS = ("cloth", "plain", "pictures", "shelves", "windows", "panels", "bricks", "outdoors")
SIDE = 1024  # px: side of the atlas and of the floor's map, width of the walls' map
WALL_ROWS = 384
WALL_METRES = (12.0, 3.0)  # what the walls' map covers, along and up


def tone(rng, low, high, colourful=0.25):
    """A random BGR colour of brightness in [low, high); the larger `colourful`, the further from grey."""
    hue = rng.choice([0.07, 0.6, 0.35, 0.0, 0.13]) + rng.normal(0, 0.06) if rng.random() < 0.7 else rng.random()
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(0.35 + colourful / 2, rng.exponential(0.8 * colourful)), 1.0)
    colour = np.array([blue, green, red])
    return colour / colour.mean() ** 0.7 * rng.uniform(low, high)


def cloudy(rng, cells, size):
    """A smooth random field of zero mean and about unit range: cells and size are (rows, columns) -> float32.

    It repeats at its edges.
    """
    noise = rng.normal(size=cells).astype(np.float32)
    (rows, columns), (height, width) = cells, size
    wide = np.pad(noise, 2, mode="wrap")
    step_y, step_x = height / rows, width / columns
    wide = cv2.resize(wide, (round((columns + 4) * step_x), round((rows + 4) * step_y)), interpolation=cv2.INTER_CUBIC)
    top, left = round(2 * step_y), round(2 * step_x)
    return wide[top : top + height, left : left + width]


def plain(colour, size):
    """A surface of one colour, float32 (rows, columns, 3)."""
    return np.tile(np.asarray(colour, np.float32), (*size, 1))


def grain(rng, size, spread):
    """Fine noise (rows, columns, 1) float32."""
    return rng.standard_normal((*size, 1), dtype=np.float32) * np.float32(spread)


def finished(image):
    return np.clip(image, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Patch:
    """A rectangle of the atlas: left, top, width, height px."""

    left: int
    top: int
    width: int
    height: int

    def uv(self, u, v):
        """Shares of the patch's width and height, held to [0, 1] -> atlas px (..., 2)."""
        u, v = np.clip(u, 0, 1) * (self.width - 1) + self.left, np.clip(v, 0, 1) * (self.height - 1) + self.top
        return np.stack([u, v], axis=-1)


class Atlas:
    """One image that all textures of a sequence's things share, filled row by row. image: BGRA (SIDE, SIDE, 4)."""

    def __init__(self):
        self.image = np.zeros((SIDE, SIDE, 4), np.uint8)
        self._x = self._y = self._tall = 0

    def add(self, texture):
        """Put a texture in, its edges once more around it -> Patch. Raises ValueError when the atlas is full."""
        height, width = texture.shape[:2]
        if self._x + width + 4 > SIDE:
            self._x, self._y, self._tall = 0, self._y + self._tall, 0
        if self._y + height + 4 > SIDE:
            raise ValueError(f"the atlas of {SIDE} px is full; expected fewer or smaller textures")
        padded = cv2.copyMakeBorder(finished(texture), 2, 2, 2, 2, cv2.BORDER_REPLICATE)
        self.image[self._y : self._y + height + 4, self._x : self._x + width + 4, :3] = padded
        patch = Patch(self._x + 2, self._y + 2, width, height)
        self._x, self._tall = self._x + width + 4, max(self._tall, height + 4)
        return patch


def floor_tile(rng, kind, size):
    """A square of floor that repeats: float32 (size, size, 3)."""
    bright = rng.random() < 0.68
    base = tone(rng, 140, 240, 0.06) if bright else tone(rng, 25, 150, 0.12)
    image = plain(base, (size, size))
    rows, columns = np.mgrid[:size, :size]
    if kind == "smooth":
        image *= 1 + 0.015 * cloudy(rng, (9, 9), (size, size))[..., None]
        image += grain(rng, (size, size), 2)
    elif kind == "concrete":
        image *= 1 + rng.uniform(0.005, 0.025) * cloudy(rng, (14, 14), (size, size))[..., None]
        image += grain(rng, (size, size), rng.uniform(2, 9))
    elif kind == "planks":
        image[:] = np.array([85, 115, 150]) * rng.uniform(0.35, 1.4) + rng.uniform(-10, 25)
        count = int(rng.choice([8, 16, 32]))
        plank = rows * count // size
        image *= rng.uniform(1 - rng.uniform(0.05, 0.25), 1.1, count).astype(np.float32)[plank][..., None]
        image *= 1 + 0.08 * cloudy(rng, (size // 4, 4), (size, size))[..., None]
        seam = (rows % (size // count) == 0) | ((columns + plank * 197) % size < 2)
        image[seam] *= rng.uniform(0.45, 0.9)
    elif kind in ("tiles", "paving", "checks"):
        count = int(rng.choice([2, 4, 8]))
        cell = size // count
        if kind == "checks":
            image[(rows // cell + columns // cell) % 2 == 1] = tone(rng, 20, 240, 0.2)
        shift = (rows // cell % 2) * (cell // 2) if kind == "paving" else 0
        index = (rows // cell * 7 + (columns + shift) // cell * 3) % 61
        image *= rng.uniform(1 - rng.uniform(0, 0.25), 1.05, 61).astype(np.float32)[index][..., None]
        image *= 1 + 0.025 * cloudy(rng, (30, 30), (size, size))[..., None]
        wide = max(1, size // int(rng.integers(100, 400)))
        image[(rows % cell < wide) | ((columns + shift) % cell < wide)] = tone(rng, 30, 220, 0.05)
    elif kind == "carpet":
        image += grain(rng, (size, size), rng.uniform(6, 24))
        if rng.random() < 0.5:
            step = size // int(rng.choice([4, 8, 16]))
            image[(rows // step % 2 == 0) & (rng.random() < 0.5 or columns // step % 2 == 0)] *= rng.uniform(0.6, 1.2)
    elif kind == "rug":
        image += grain(rng, (size, size), 9)
        for _ in range(int(rng.integers(2, 7))):
            inset = int(rng.integers(size // 50, size * 9 // 20))
            corner = (inset, inset), (size - inset, size - inset)
            cv2.rectangle(image, *corner, tone(rng, 20, 220, 0.5).tolist(), int(rng.integers(2, size // 16)))
        for _ in range(int(rng.integers(0, 40))):
            centre = rng.integers(0, size, 2).tolist()
            cv2.circle(image, centre, int(rng.integers(3, size // 14)), tone(rng, 20, 220, 0.5).tolist(), -1)
    else:
        image[:] = np.array([55, 105, 85]) * rng.uniform(0.5, 1.4) * rng.uniform(0.8, 1.2, 3)
        image *= 1 + rng.uniform(0.02, 0.12) * cloudy(rng, (24, 24), (size, size))[..., None]
        image *= 1 + grain(rng, (size, size), rng.uniform(0.1, 0.3))
    return image


def floor_map(rng, kind, metres):
    """A floor of `metres` a side with stains, marks, cables, papers and pools of light: uint8 (SIDE, SIDE, 3)."""
    repeats = max(1, round(metres / rng.uniform(1.6, 4.0)))
    size = SIDE // repeats
    tile = floor_tile(rng, kind, 512)
    tile = cv2.resize(tile, (size, size), interpolation=cv2.INTER_AREA)
    image = np.tile(finished(tile), (repeats + 1, repeats + 1, 1))[:SIDE, :SIDE].copy()
    scale = SIDE / metres

    def spot():
        return rng.uniform(0, SIDE, 2).astype(int)

    for _ in range(int(rng.choice([0, 10, 60]))):  # scuffs and crumbs
        (x, y), (w, h) = spot().tolist(), rng.integers(1, 5, 2).tolist()
        cv2.ellipse(image, (x, y), (w, h), rng.uniform(0, 180), 0, 360, tone(rng, 20, 180, 0.15).tolist(), -1)
    for _ in range(int(rng.integers(0, 5))):  # tape
        centre, angle = spot(), rng.uniform(0, np.pi)
        colour = tone(rng, 60, 160, rng.choice([0.1, 0.8])).tolist()
        for turn in (0, rng.uniform(1.2, 1.9)) if rng.random() < 0.7 else (0,):
            arm = rng.uniform(0.1, 0.5) * scale * np.array([np.cos(angle + turn), np.sin(angle + turn)])
            ends = (centre - arm).astype(int).tolist(), (centre + arm).astype(int).tolist()
            cv2.line(image, *ends, colour, max(1, round(rng.uniform(0.02, 0.05) * scale)), cv2.LINE_AA)
    for _ in range(int(rng.choice([0, 2, 5]))):  # papers, boards, mats
        box = (spot().tolist(), (rng.uniform(0.2, 0.9, 2) * scale).tolist(), rng.uniform(0, 90))
        colour = tone(rng, 150, 250, 0.05) if rng.random() < 0.5 else tone(rng, 30, 200, 0.4)
        cv2.fillConvexPoly(image, cv2.boxPoints(box).astype(np.int32), colour.tolist(), cv2.LINE_AA)
    for _ in range(int(rng.choice([0, 1, 3]))):  # cables
        steps = np.cumsum(np.cumsum(rng.normal(0, 0.025, (40, 2)), axis=0) * 0.2 + rng.normal(0, 0.03, 2), axis=0)
        path = (spot() + steps * scale).astype(np.int32)
        cv2.polylines(image, [path], False, tone(rng, 10, 60, 0.1).tolist(), max(1, round(0.02 * scale)), cv2.LINE_AA)
    light = 1 + rng.uniform(0, 0.06) * cloudy(rng, (3, 3), (64, 64))
    rows, columns = np.mgrid[:64, :64]
    for _ in range(int(rng.integers(0, 5))):
        (x, y), wide = rng.uniform(0, 64, 2), rng.uniform(1.5, 9)
        light += rng.uniform(-0.25, 0.6) * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * wide**2))
    light = cv2.resize(light.clip(0.3, 2).astype(np.float32), (SIDE, SIDE))
    return cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)


def wall_map(rng, kind):
    """Walls, floor at the last row: uint8 (WALL_ROWS, SIDE, 3). They cover WALL_METRES, and go on."""
    size = WALL_ROWS, SIDE
    image = plain(tone(rng, 120, 235, 0.1) if rng.random() < 0.6 else tone(rng, 20, 150, 0.5), size)

    def rectangles(count, colours, width, height, lowest):
        for _ in range(count):
            w, h = int(rng.integers(*width)), int(rng.integers(*height))
            x, y = int(rng.integers(0, SIDE - w)), int(rng.integers(0, max(1, lowest - h)))
            colour = colours()
            cv2.rectangle(image, (x, y), (x + w, y + h), colour.tolist(), -1)
            cv2.rectangle(image, (x, y), (x + w, y + h), (colour * rng.uniform(0.4, 0.9)).tolist(), 3)

    if kind == "cloth":
        colour = tone(rng, 40, 170, rng.choice([0.05, 0.15, 0.5]))
        image[:] = np.array([75, 105, 45]) * rng.uniform(0.5, 1.5) if rng.random() < 0.3 else colour
        folds = cloudy(rng, (3, int(rng.integers(20, 90))), size) * (0.3 + cloudy(rng, (2, 9), size).clip(0, 1.5))
        creases = np.zeros(size, np.float32)
        for _ in range(int(rng.integers(10, 60))):
            start, angle = rng.uniform(0, size[::-1]), rng.normal(np.pi / 2, 0.7)
            path = start + rng.uniform(20, 120) * np.array([[0, 0], [np.cos(angle), np.sin(angle)]])
            cv2.line(creases, *path.astype(int).tolist(), rng.uniform(-2, 2.5), int(rng.integers(2, 6)), cv2.LINE_AA)
        folds += cv2.GaussianBlur(creases, (0, 0), 2.0)
        image *= 1 + rng.uniform(0.05, 0.2) * folds[..., None]
        for _ in range(int(rng.choice([0, 30, 90]))):  # what holds it
            cv2.circle(image, rng.integers(0, (SIDE, WALL_ROWS)).tolist(), 3, (15, 18, 15), -1)
    elif kind == "pictures":
        rectangles(int(rng.integers(3, 12)), lambda: tone(rng, 20, 240, 0.4), (20, 150), (40, 200), 330)
        rectangles(int(rng.integers(0, 4)), lambda: tone(rng, 40, 200, 0.3), (70, 100), (250, 280), WALL_ROWS)
    elif kind == "shelves":
        step = int(rng.choice([32, 48]))
        x = 0
        while x < SIDE:
            wide = int(rng.integers(2, 9))
            for top in range(step * int(rng.integers(0, 3)), WALL_ROWS, step):
                high = int(rng.integers(step // 2, step - 4))
                colour = tone(rng, 15, 190, 0.25).tolist()
                cv2.rectangle(image, (x, top + step - high), (x + wide, top + step), colour, -1)
            x += wide + int(rng.random() < 0.1) * 40
        image[::step] = image[1::step] = tone(rng, 30, 200, 0.3)
    elif kind == "windows":
        rectangles(int(rng.integers(4, 10)), lambda: tone(rng, 180, 300, 0.08), (60, 160), (100, 240), 320)
        image[:, :: int(rng.integers(40, 90))] *= 0.6
    elif kind == "panels":
        step = int(rng.integers(20, 130))
        image *= rng.uniform(0.8, 1.1, SIDE // step + 1).astype(np.float32)[np.arange(SIDE) // step][:, None]
        image[:, ::step] *= 0.6
    elif kind == "bricks":
        rows, columns = np.mgrid[:WALL_ROWS, :SIDE]
        image[:] = np.array([60, 80, 140]) * rng.uniform(0.5, 1.5) if rng.random() < 0.5 else image
        index = (rows // 12 * 31 + (columns + rows // 12 % 2 * 10) // 20 * 17) % 97
        image *= rng.uniform(0.75, 1.1, 97).astype(np.float32)[index][..., None]
        image[(rows % 12 == 0) | ((columns + rows // 12 % 2 * 10) % 20 == 0)] = tone(rng, 90, 200, 0.05)
    elif kind == "outdoors":
        sky = tone(rng, 170, 280, 0.12) + np.array([25, 5, -10])
        image[:] = sky * np.linspace(1.1, 0.9, WALL_ROWS, dtype=np.float32)[:, None, None]
        rectangles(int(rng.integers(0, 6)), lambda: tone(rng, 60, 200, 0.2), (80, 300), (120, 330), WALL_ROWS)
        line = 200 + 60 * cloudy(rng, (1, 20), (1, SIDE))[0] + 25 * cloudy(rng, (1, 150), (1, SIDE))[0]
        green = np.array([40, 80, 55]) * rng.uniform(0.4, 1.3) * (1 + 0.5 * cloudy(rng, (60, 160), size)[..., None])
        image = np.where(np.arange(WALL_ROWS)[:, None, None] > line[None, :, None], green, image).astype(np.float32)
    if kind != "outdoors":
        image[-int(rng.integers(1, 18)) :] *= rng.uniform(0.4, 1.1)
    image *= 1 + 0.05 * cloudy(rng, (3, 8), size)[..., None]
    image *= np.linspace(rng.uniform(0.7, 1.2), rng.uniform(0.6, 1.0), WALL_ROWS, dtype=np.float32)[:, None, None]
    return finished(image)


def page(rng, size=(192, 160)):
    """Printed matter: float32 (rows, columns, 3)."""
    height, width = size
    image = plain(tone(rng, 205, 262, 0.03), size)
    ink = tone(rng, 10, 110, 0.05).tolist()
    columns = int(rng.integers(1, 5))
    wide = (width - 12) // columns
    image[8 : 8 + int(rng.integers(0, 16)), 12 : int(rng.integers(width // 3, width - 12))] = ink
    for column in range(columns):
        y = 28
        while y < height - 10:
            left = 8 + column * wide
            if rng.random() < 0.12:  # a picture
                tall = int(rng.integers(14, 60))
                right = min(width - 8, left + wide * int(rng.integers(1, 3)) - 5)
                block = image[y : min(y + tall, height - 8), left:right]
                block[:] = (
                    tone(rng, 40, 170, 0.3)
                    + 35 * cloudy(rng, tuple(1 + n // 5 for n in block.shape[:2]), block.shape[:2])[..., None]
                )
                y += tall + 3
            else:
                image[y, left : left + int(wide * rng.uniform(0.5, 0.95))] = ink
                y += int(rng.choice([2, 3, 3, 7]))
    return image + 3 * cloudy(rng, (4, 4), size)[..., None]


def screen(rng, size=(96, 144)):
    """A screen: dark, or with windows of a bright interface."""
    image = plain(tone(rng, 5, 40, 0.1) if rng.random() < 0.4 else tone(rng, 90, 240, 0.3), size)
    for _ in range(int(rng.integers(0, 7))):
        x, y = int(rng.integers(0, size[1] - 20)), int(rng.integers(0, size[0] - 10))
        corner = x + int(rng.integers(10, 90)), y + int(rng.integers(4, 60))
        cv2.rectangle(image, (x, y), corner, tone(rng, 20, 250, 0.3).tolist(), -1)
    return image


def keyboard(rng, size=(64, 96)):
    """The lower half of a laptop."""
    image = plain(tone(rng, 20, 200, 0.03), size)
    keys = tone(rng, 10, 80, 0.02).tolist()
    for y in range(5, 38, 7):
        for x in range(6, 88, 7):
            cv2.rectangle(image, (x, y), (x + 4, y + 4), keys, -1)
    cv2.rectangle(image, (32, 44), (62, 60), (image[0, 0] * 0.85).tolist(), -1)
    return image


def wood(rng, size=(96, 96)):
    """Wood, or what is printed like it."""
    image = plain(np.array([95, 140, 180]) * rng.uniform(0.35, 1.25) + rng.uniform(-15, 30), size)
    return image * (1 + 0.07 * cloudy(rng, (40, 2), size)[..., None]) + grain(rng, size, 3)


def desk_top(rng, size=(160, 224)):
    """A table's top, often with papers on it."""
    image = wood(rng, size) if rng.random() < 0.6 else plain(tone(rng, 20, 240, 0.08), size) + grain(rng, size, 2)
    for _ in range(int(rng.integers(0, 6))):
        sheet = finished(page(rng, (64, 48)))
        angle, (x, y) = rng.uniform(0, 360), rng.uniform(20, (size[1] - 20, size[0] - 20))
        turn = cv2.getRotationMatrix2D((24, 32), angle, rng.uniform(0.6, 1.1))
        turn[:, 2] += x - 24, y - 32
        mask = cv2.warpAffine(np.full((64, 48), 255, np.uint8), turn, size[::-1])
        image = np.where(mask[..., None] > 128, cv2.warpAffine(sheet, turn, size[::-1]), image)
    image[:3] = image[-3:] = image[:, :3] = image[:, -3:] = image.mean((0, 1)) * rng.uniform(0.5, 1.1)
    return image


def stuff(rng, low, high, colourful, size=(32, 32)):
    """Cloth, plastic, metal, card: one colour with some unevenness."""
    image = plain(tone(rng, low, high, colourful), size)
    return image * (1 + 0.05 * cloudy(rng, (5, 5), size)[..., None]) + grain(rng, size, rng.uniform(0, 6))


def cloth(rng, colour, size, second, pattern):
    """Fabric with weave, folds and a pattern: float32 (rows, columns, 3)."""
    height, width = size
    image = plain(colour, size)
    rows, columns = np.mgrid[:height, :width]
    step = int(rng.integers(8, 44))
    if pattern == "stripes":
        image[rows % step < step * rng.uniform(0.15, 0.6)] = second
    elif pattern == "pinstripes":
        image[columns % step < max(1, step // 6)] = second
    elif pattern == "checks":
        share = 0.5 * (rows % step < step // 2) + 0.5 * (columns % step < step // 2)
        image += (np.asarray(second) - colour).astype(np.float32) * share[..., None].astype(np.float32)
    elif pattern == "dots":
        for y in range(0, height, step):
            for x in range(step // 2 * (y // step % 2), width, step):
                cv2.circle(image, (x, y), max(1, step // 5), np.asarray(second).tolist(), -1)
    elif pattern == "melange":
        image *= 1 + grain(rng, size, 0.12)
    folds = cloudy(rng, (int(rng.integers(6, 18)), int(rng.integers(3, 9))), size) + 0.6 * cloudy(rng, (24, 18), size)
    image *= (1 + rng.uniform(0.03, 0.16) * folds)[..., None]
    return image + (0.02 * np.mean(colour) + 1.5) * grain(rng, size, 1)


@dataclass(frozen=True)
class Outfit:
    """A dressed body. body: the mesh, wider where cloth is loose; uv (F, 3, 2) atlas px; shine (F,) 0 to 1;
    patches: "skin", "hair", "cloth", for what is added to the body."""

    body: object
    uv: np.ndarray
    shine: np.ndarray
    patches: dict


def vertex_normals(vertices, faces):
    """Smooth unit normals (V, 3) of a mesh, outwards where faces wind so."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    whole = (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
    corners = faces.ravel()
    normals = np.stack([np.bincount(corners, np.repeat(part, 3), len(vertices)) for part in whole], axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def limb_coordinates(body):
    """Place of each face's corners on its limb: along (F, 3), 0 to 1 on upper arm and thigh, 1 to 2 on forearm and
    shin; around (F, 3), 0 to 1 with the seam at the back. Faces of other bones: 0.
    """
    along, around = np.zeros(body.faces.shape), np.full(body.faces.shape, 0.5)
    for side in "RL":
        for chain in (("upperarm", "forearm", "hand"), ("thigh", "shin", "foot")):
            for k in range(2):
                start, end = (body.starts[body.bone(f"{name}.{side}")] for name in chain[k : k + 2])
                faces = np.flatnonzero(body.face_bone == body.bone(f"{chain[k]}.{side}"))
                axis = (end - start) / np.linalg.norm(end - start)
                front = np.array([0.0, -1, 0]) + axis * axis[1]
                front /= np.linalg.norm(front)
                out = body.vertices[body.faces[faces]] - start
                along[faces] = k + out @ axis / np.linalg.norm(end - start)
                middle = out.mean(1)
                angle = np.arctan2(out @ np.cross(axis, front), out @ front) / (2 * np.pi)
                centre = np.arctan2(middle @ np.cross(axis, front), middle @ front)[:, None] / (2 * np.pi)
                around[faces] = 0.5 + angle + np.round(centre - angle)
    return along, around


LONGEST, MARGIN = 2.1, 0.1  # a limb's patch reaches from -MARGIN to LONGEST, and MARGIN round beyond its seam


def _row(along, rows):
    return int(np.clip((along + MARGIN) / (LONGEST + MARGIN), 0, 1) * rows)


def limb_texture(rng, skin, covered, fabric, hem, hair, band=None, size=(192, 96)):
    """An arm or leg: cloth as far as `covered` along it, skin beyond. hair: strength of dark hairs on the lower half;
    hem: colour of the cloth's end; band: (along, colour, dial's colour or None) of a watch or bracelet.
    """
    rows, columns = size
    image = plain(skin, size) * (1 + 0.06 * cloudy(rng, (10, 6), size)[..., None])
    image *= 1 + 0.1 * np.cos(np.linspace(-np.pi, np.pi, columns, dtype=np.float32))[None, :, None]
    strands = cv2.GaussianBlur(rng.standard_normal(size, dtype=np.float32), (0, 0), sigmaX=0.7, sigmaY=2.2)
    strands = np.clip(strands * 4 - 0.6, 0, 1) * np.clip((np.arange(rows)[:, None] / rows - 0.42) * 6, 0, 1)
    image *= (1 - hair * strands)[..., None]
    if band is not None:
        at, colour, dial = band
        middle = _row(at, rows)
        image[middle - 4 : middle + 4] = colour
        if dial is not None:
            cv2.circle(image, (columns * int(rng.integers(2, 9)) // 10, middle), 10, (dial * 0.3).tolist(), -1)
            cv2.circle(image, (columns * int(rng.integers(2, 9)) // 10, middle), 8, dial.tolist(), -1)
    end = _row(covered, rows)
    if covered > 0:
        image[:end] = fabric[:end]
        image[max(0, end - 5) : end] *= hem
        image[max(0, end - 6) : max(0, end - 5)] *= 0.75
        image[end : end + 5] *= np.linspace(0.55, 0.95, 5, dtype=np.float32)[: len(image[end : end + 5]), None, None]
    return image


def _print(rng, image):
    """What a chest has on it: a logo, a text, a number, a zip, buttons, a pocket."""
    height, width = image.shape[:2]
    ink = tone(rng, 180, 255, 0.1) if image.mean() < 110 else tone(rng, 5, 200, 0.6)
    ink = ink.tolist()
    x, y = int(width * rng.uniform(0.3, 0.7)), int(height * rng.uniform(0.35, 0.6))
    kind = rng.choice(["swoosh", "text", "block", "zip", "buttons", "pocket", "picture", "strings"])
    if kind == "swoosh":
        angle = rng.uniform(-60, 60)
        cv2.ellipse(image, (x, y), (int(rng.integers(8, 40)), int(rng.integers(3, 12))), angle, 0, 200, ink, -1)
    elif kind == "text":
        word = "".join(rng.choice(list("ABCDEGHKLMNORSTUX0123456789"), int(rng.integers(1, 7))))
        size = rng.uniform(0.5, 1.8)
        letters = np.zeros((height, width), np.uint8)
        cv2.putText(letters, word, (x - 45, y), cv2.FONT_HERSHEY_DUPLEX, size, 255, int(rng.integers(1, 6)))
        image[letters > 128] = ink
    elif kind == "block":
        w, h = rng.integers(10, 70, 2).tolist()
        cv2.rectangle(image, (x - w, y - h // 2), (x + w, y + h // 2), ink, -1)
    elif kind in ("zip", "buttons"):
        middle = width // 2
        image[:, middle : middle + 3] *= 0.6
        if kind == "zip":
            cv2.line(image, (middle + 4, 0), (middle + 4, height), ink, 1)
        for at in range(40, height, 26) if kind == "buttons" else ():
            cv2.circle(image, (middle + 5, at), 3, ink, -1)
    elif kind == "pocket":
        corner = x + int(rng.integers(20, 40)), y + int(rng.integers(20, 44))
        cv2.rectangle(image, (x, y), corner, (image[y, x] * 0.65).tolist(), 2)
    elif kind == "picture":
        tall, wide = rng.integers(30, 90, 2).tolist()
        block = image[y - tall // 2 : y + tall // 2, x - wide // 2 : x + wide // 2]
        block[:] = np.array(ink) + 90 * cloudy(rng, (5, 5), block.shape[:2])[..., None]
    else:
        for side in (-1, 1):
            line = np.array([[width // 2 + side * 12, height // 4], [x + side * 9, y + int(rng.integers(10, 40))]])
            cv2.polylines(image, [line.astype(np.int32)], False, ink, int(rng.integers(2, 5)), cv2.LINE_AA)


def dress(body, person, rng, atlas):
    """Paint skin and hair from the generator `person`, what is worn from `rng`, into the atlas -> Outfit."""
    skins = np.array([[165, 190, 228], [140, 170, 215], [120, 150, 200], [95, 130, 180], [60, 90, 140], [40, 58, 92]])
    skin = (
        skins[person.choice(len(skins), p=[0.2, 0.22, 0.2, 0.16, 0.12, 0.1])]
        * person.uniform(0.9, 1.12)
        * person.uniform(0.96, 1.04, 3)
    )
    hairs = np.array([[22, 22, 25], [30, 40, 55], [35, 55, 85], [80, 120, 160], [125, 125, 130], [40, 60, 130]])
    hair, hairy = hairs[person.integers(len(hairs))], person.choice([0.0, 0.1, 0.3, 0.6]) * person.uniform(0.7, 1.2)
    stubble = person.choice([0.0, 0.0, 0.15, 0.3, 0.6])

    shirt = tone(rng, 8, 60, 0.1) if rng.random() < 0.5 else tone(rng, 40, 250, rng.choice([0.08, 0.2, 0.6]))
    trousers = rng.choice([0, 1, 2], p=[0.35, 0.3, 0.35])
    trousers = (tone(rng, 8, 60, 0.1), shirt * rng.uniform(0.8, 1.25), tone(rng, 20, 210, 0.25))[trousers]
    second, shoes = tone(rng, 10, 245, 0.5), tone(rng, 8, 60, 0.1) if rng.random() < 0.5 else tone(rng, 60, 255, 0.3)
    patterns = ["plain", "melange", "stripes", "pinstripes", "checks", "dots"]
    pattern = rng.choice(patterns, p=[0.5, 0.16, 0.12, 0.06, 0.1, 0.06])
    below = rng.choice(patterns, p=[0.72, 0.16, 0.02, 0.05, 0.04, 0.01])
    sleeve = rng.choice([0.1, 0.5, 0.75, 1.4, 1.97], p=[0.08, 0.25, 0.22, 0.1, 0.35]) + rng.normal(0, 0.06)
    leg = rng.choice([0.5, 0.9, 1.4, 1.95], p=[0.1, 0.2, 0.08, 0.62]) + rng.normal(0, 0.05)
    sock = rng.choice([0.0, 0.06, 0.2]) if leg < 1.6 else 0.0

    along, around = limb_coordinates(body)
    part = np.array(body.part_names)[body.face_part]
    side_of = np.array([name[-2:] for name in body.bone_names])[body.face_bone]
    corners = body.vertices[body.faces]
    uv, shine = np.zeros((*body.faces.shape, 2)), np.zeros(len(part))
    skinny = rng.uniform(0.0, 0.35)

    # Loose cloth: vertices move outwards where it covers.
    wide = np.zeros(len(body.vertices))
    for name, worn, room in (
        ("arm", along < sleeve, rng.uniform(0.0, 0.022)), ("leg", along < leg, rng.uniform(0.0, 0.035)),
        ("shirt", np.ones_like(along), rng.uniform(0.0, 0.02)), ("trousers", np.ones_like(along), 0.012),
    ):  # fmt: skip
        chosen = body.faces[(part == name)[:, None] & worn.astype(bool)]
        wide[chosen] = np.maximum(wide[chosen], room)
    loose = body.vertices + wide[:, None] * vertex_normals(body.vertices, body.faces)

    def limb(name, covered, colour, kind, fade):
        hem = rng.choice([1.0, 0.7, 1.3])
        for side in (".R", ".L"):
            band = None
            if name == "arm" and rng.random() < 0.3:
                band = (rng.uniform(1.7, 1.92), tone(rng, 10, 200, 0.5), rng.choice([None, 1.0]))
                band = (*band[:2], band[2] and tone(rng, 20, 255, 0.1))
            fabric = cloth(rng, colour, (192, 96), second, kind)
            texture = limb_texture(rng, skin, covered, fabric, hem, hairy * fade, band)
            if name == "leg" and sock:
                texture[_row(1.95 - sock, 192) :] = tone(rng, 10, 250, 0.2)
            faces = np.flatnonzero((part == name) & (side_of == side))
            patch = atlas.add(texture)
            u = (around[faces] + MARGIN) / (1 + 2 * MARGIN)
            uv[faces] = patch.uv(u, (along[faces] + MARGIN) / (LONGEST + MARGIN))
            shine[faces] = np.where(along[faces].mean(1) > covered, skinny, 0.03)

    limb("arm", sleeve, shirt, pattern, 1.0)
    limb("leg", leg, trousers, below, 0.6)

    # The trunk seen from the front; `height` goes on over the shoulders. Neck at the top row.
    trunk = np.isin(part, ("shirt", "trousers"))
    place, height = corners[trunk][..., 0], corners[trunk][..., 2] + corners[trunk][..., 1]
    low, high, half = height.min(), height.max(), np.abs(place).max()
    size = 256, 192
    front = body.vertices[body.faces[trunk].ravel(), 1].min()

    def row(z):
        return int(np.clip((high - z - front) / (high - low), 0, 1) * size[0])

    image = cloth(rng, shirt, size, second, pattern)
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        _print(rng, image)
    yoke = rng.random()
    if yoke < 0.08:
        image[: int(rng.integers(60, 130))] = cloth(rng, second, size, shirt, "plain")[0]
    elif yoke < 0.2:  # an open jacket over something else
        gap = int(rng.integers(8, 40))
        image[:, size[1] // 2 - gap : size[1] // 2 + gap] = cloth(rng, second, (size[0], 2 * gap), shirt, "plain")
    waist = row(body.starts[body.bone("spine"), 2] + rng.uniform(-0.2, 0.06))
    image[waist:] = cloth(rng, trousers, size, second, below)[waist:]
    image[max(0, waist - 4) : waist + 3] *= rng.uniform(0.4, 0.9)
    neck = body.starts[body.bone("neck")]
    centre = size[1] // 2, int((high - neck[2] - neck[1]) / (high - low) * size[0])
    radius = (size[1] / (2 * half) * rng.uniform(0.07, 0.12), size[0] / (high - low) * rng.uniform(0.07, 0.16))
    radius = tuple(round(r) for r in radius)
    collar = tone(rng, 10, 240, 0.3) if rng.random() < 0.2 else shirt * rng.uniform(0.6, 1.1)
    cv2.ellipse(image, centre, tuple(r + 5 for r in radius), 0, 0, 360, collar.tolist(), -1)
    cv2.ellipse(image, centre, radius, 0, 0, 360, (skin * 0.95).tolist(), -1)
    uv[trunk] = atlas.add(image).uv((place + half) / (2 * half), (high - height) / (high - low))
    shine[trunk] = rng.choice([0.0, 0.03, 0.12])

    # Head: from the front, with what is left of a shave.
    head = part == "skin"
    x, z = corners[head][..., 0], corners[head][..., 2]
    image = plain(skin, (96, 96)) * (1 + 0.05 * cloudy(rng, (8, 8), (96, 96))[..., None]) + grain(rng, (96, 96), 3)
    rows, columns = np.mgrid[:96, :96] / 96
    beard = np.exp(-(((rows - 0.62) / 0.16) ** 2) - ((columns - 0.5) / 0.22) ** 2)[..., None]
    image *= 1 - stubble * beard * (0.7 + 0.3 * np.abs(grain(rng, (96, 96), 1)))
    uv[head] = atlas.add(image).uv((x - x.min()) / np.ptp(x), (z.max() - z) / np.ptp(z))
    patches = {"skin": atlas.add(plain(skin, (16, 16)))}
    patches["hair"] = atlas.add(plain(hair, (32, 32)) * (1 + 0.3 * cloudy(rng, (2, 16), (32, 32))[..., None]))
    patches["cloth"] = atlas.add(cloth(rng, shirt, (32, 32), second, "plain"))
    image = plain(skin, (64, 64)) * (1 + 0.1 * cloudy(rng, (9, 9), (64, 64))[..., None]) + grain(rng, (64, 64), 4)
    if rng.random() < 0.04:
        image = cloth(rng, tone(rng, 10, 240, 0.3), (64, 64), second, "plain")
    patches["hand"] = atlas.add(image)
    patches["lips"] = atlas.add(plain(skin * (0.75, 0.62, 0.9), (8, 8)))
    patches["eyes"] = atlas.add(plain(skin * 0.5, (8, 8)))
    image = cloth(rng, shoes, (64, 48), second, "plain")
    if rng.random() < 0.5:
        cv2.rectangle(image, (0, 0), (47, 63), tone(rng, 120, 255, 0.05).tolist(), int(rng.integers(4, 16)))
    for y in range(20, 44, 5) if rng.random() < 0.5 else ():
        cv2.line(image, (16, y), (32, y), tone(rng, 150, 255, 0.1).tolist(), 2)
    bare = rng.random()
    if bare < 0.12:
        image = plain(skin if bare < 0.08 else tone(rng, 10, 240, 0.3), (64, 48)) + grain(rng, (64, 48), 4)
    patches["shoe"] = atlas.add(image)
    for name in ("hair", "hand", "lips", "eyes", "shoe"):
        for side in sorted(set(side_of[part == name])):
            faces = np.flatnonzero((part == name) & (side_of == side))
            u, v = corners[faces][..., 0], corners[faces][..., 2 if name in ("hair", "hand") else 1]
            uv[faces] = patches[name].uv((u - u.min()) / np.ptp(u), (v - v.min()) / np.ptp(v))
    shine[head | (part == "hand")] = skinny
    shine[part == "shoe"] = rng.choice([0.02, 0.3])
    return Outfit(replace(body, vertices=loose), uv, shine, patches)
