"""What surfaces of the embedded data look like: floors, walls, furniture, print, skin and clothes, as painted textures.

All are BGR, 0 to 255, drawn anew for every sequence. What is worn or stands about shares one image, the Atlas.
"""

import colorsys
from dataclasses import dataclass

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
