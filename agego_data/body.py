"""Bodies of the embedded data: meshes posed by linear blend skinning, mixtures of them, and the algebra of rotations.

World axes: x to the left of a person who faces -y, z up, metres. Rotations are unit quaternions (w, x, y, z).
The neutral pose, which zero rotations stand for, is upright with straight legs and the arms hanging down.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


class SourcesError(FileNotFoundError):
    """The embedded data's sources are missing or unreadable; the message names the file and what to do."""


def load_source(path):
    """Arrays of one of the embedded data's .npz files by name. Raises SourcesError where it cannot be read."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as store:
            return {key: store[key] for key in store.files}
    except FileNotFoundError:
        raise SourcesError(
            f"{path}: no such file; expected a source of the embedded data. Run `dvc pull data.dvc`"
        ) from None
    except (ValueError, OSError) as error:
        raise SourcesError(f"{path}: not readable as .npz ({error}). Run `dvc pull data.dvc` again") from None


def multiply(a, b):
    """Quaternion product, b's turn first: (..., 4), (..., 4) -> (..., 4)."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def from_vector(vector):
    """Rotation vectors (..., 3) in radians -> quaternions (..., 4)."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.concatenate([np.cos(angle / 2), np.sinc(angle / (2 * np.pi)) * vector / 2], axis=-1)


def to_matrix(quaternions):
    """Unit quaternions (..., 4) -> rotation matrices (..., 3, 3)."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def slerp(a, b, share):
    """From quaternions a (share 0) to b (share 1): (..., 4), (..., 4), (...) -> (..., 4).

    The way round is the one that their signs give: the shorter one where their product is positive.
    """
    dot = np.clip((a * b).sum(-1, keepdims=True), -1.0, 1.0)
    share = np.asarray(share, dtype=np.float64)[..., None]
    angle = np.arccos(dot)
    sine = np.sin(angle)
    near = sine < 1e-4
    safe = np.where(near, 1.0, sine)
    start = np.where(near, 1 - share, np.sin((1 - share) * angle) / safe)
    end = np.where(near, share, np.sin(share * angle) / safe)
    out = start * a + end * b
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def smooth_noise(rng, seconds, channels, max_hz=0.6):
    """Smooth random curves of zero mean and unit RMS: times (T,) in seconds -> (T, channels)."""
    waves = 6
    frequency = rng.uniform(0.05, max_hz, (waves, channels))
    phase = rng.uniform(0, 2 * np.pi, (waves, channels))
    curves = np.sin(2 * np.pi * frequency * np.asarray(seconds)[:, None, None] + phase)
    return curves.sum(1) * np.sqrt(2 / waves)


@dataclass(frozen=True)
class Body:
    """One body: mesh, skinning weights and rig.

    vertices (V, 3) m at rest; faces (F, 3); weights (V, bones), rows sum to 1; bone_names; parents (bones,), -1 for
    the root, parents before children; starts (bones, 3) m at rest; neutral (bones, 3, 3): turns from rest to the
    neutral pose; joint_bones (15,): bones at whose starts the joints are, in the data sets' order (see `joints`);
    face_part, face_bone (F,) and face_along (F,): what a face is, its bone and its place along it (0 start, 1 end).
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    bone_names: tuple
    parents: np.ndarray
    starts: np.ndarray
    neutral: np.ndarray
    joint_bones: np.ndarray
    part_names: tuple
    face_part: np.ndarray
    face_bone: np.ndarray
    face_along: np.ndarray

    def bone(self, name):
        """Index of the bone called `name`."""
        return self.bone_names.index(name)

    @property
    def leg_length(self):
        """Metres from hip to ankle along the right leg."""
        hip, knee, ankle = (self.starts[self.bone(f"{name}.R")] for name in ("thigh", "shin", "foot"))
        return np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee)

    def joints(self, starts):
        """Starts of bones (..., bones, 3) -> the 15 joints (..., 15, 3), in the data sets' order.

        Their neck lies 50 mm above the middle of the shoulders (Mo2Cap2's mean3D.mat), where ours begins at 90 to 110:
        it is put half-way between the two.
        """
        joints = starts[..., self.joint_bones, :].copy()
        joints[..., 0, :] = (joints[..., 0, :] + (joints[..., 1, :] + joints[..., 4, :]) / 2) / 2
        return joints

    def pose(self, roots, rotations):
        """Forward kinematics: root positions (T, 3) m, local rotations (T, bones, 4) from the neutral pose
        -> bone starts (T, bones, 3) m in the world, turns (T, bones, 3, 3) from the neutral pose to the world.
        """
        local = to_matrix(np.asarray(rotations, dtype=np.float64))
        turns, starts = np.empty_like(local), np.empty((*local.shape[:2], 3))
        for bone, parent in enumerate(self.parents):
            if parent < 0:
                turns[:, bone], starts[:, bone] = local[:, bone], roots
                continue
            turns[:, bone] = turns[:, parent] @ local[:, bone]
            offset = self.neutral[parent] @ (self.starts[bone] - self.starts[parent])
            starts[:, bone] = starts[:, parent] + turns[:, parent] @ offset
        return starts, turns

    def skin(self, starts, turns):
        """Linear blend skinning of one frame: starts (bones, 3), turns (bones, 3, 3) of `pose` -> vertices (V, 3) m."""
        matrices = turns @ self.neutral
        offsets = starts - np.einsum("bij,bj->bi", matrices, self.starts)
        blended = np.einsum("vb,bk->vk", self.weights, np.concatenate([matrices.reshape(-1, 9), offsets], axis=1))
        return np.einsum("vij,vj->vi", blended[:, :9].reshape(-1, 3, 3), self.vertices) + blended[:, 9:]


def load_bodies(sources):
    """All bodies of the folder `sources` -> list of Body. Raises SourcesError where bodies.npz is missing."""
    raw = load_source(Path(sources) / "bodies.npz")
    weights = raw["weights"].astype(np.float64)
    shared = {
        "faces": raw["faces"].astype(np.int64),
        "weights": weights / weights.sum(1, keepdims=True),
        "bone_names": tuple(str(name) for name in raw["bone_names"]),
        "parents": raw["bone_parents"].astype(np.int64),
        "joint_bones": raw["joint_bones"].astype(np.int64),
        "part_names": tuple(str(name) for name in raw["part_names"]),
        "face_part": raw["face_part"].astype(np.int64),
        "face_bone": raw["face_bone"].astype(np.int64),
        "face_along": raw["face_along"].astype(np.float64),
    }
    own = (raw[key].astype(np.float64) for key in ("vertices", "bone_starts", "neutral"))
    return [Body(vertices=v, starts=s, neutral=n, **shared) for v, s, n in zip(*own, strict=True)]


def mixed(bodies, rng):
    """A new body between two or three of `bodies`: their mean by random weights, made 0.94 to 1.06 times as large."""
    count = min(len(bodies), int(rng.integers(2, 4)))
    chosen = [bodies[i] for i in rng.choice(len(bodies), count, replace=False)]
    shares = rng.dirichlet(np.full(count, 2.0))
    size = rng.uniform(0.94, 1.06)
    vertices, starts, neutral = (
        sum(share * getattr(body, name) for share, body in zip(shares, chosen, strict=True))
        for name in ("vertices", "starts", "neutral")
    )
    # The rotation nearest to the mean of the matrices.
    left, _, right = np.linalg.svd(neutral)
    left[..., -1] *= np.linalg.det(left @ right)[..., None]
    return replace(chosen[0], vertices=size * vertices, starts=size * starts, neutral=left @ right)
