"""What the people of the embedded data wear, and their skin and hair: a dressed body, its textures in the Atlas."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from agego_data.body import Body
from agego_data.surfaces import cloudy, grain, plain, tone


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

    body: Body
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
