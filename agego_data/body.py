"""Bodies and motion of the embedded data: body meshes posed by linear blend skinning, and mocap clips joined together.

World axes: x to the left of a person who faces -y, z up, metres. Rotations are unit quaternions (w, x, y, z).
The neutral pose, which zero rotations stand for, is upright with straight legs and the arms hanging down.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# RMS of the slow random turns added to the clips, degrees, by the bone's name without its side.
# They make no two passes of a clip the same; arms move most, as they do in daily life.
SWAY = {"spine": 3, "chest": 3, "neck": 4, "head": 4, "shoulder": 3, "upperarm": 12, "forearm": 9, "hand": 8,
        "thigh": 3, "shin": 2, "foot": 3, "toe": 2}  # fmt: skip
BLEND_SECONDS = 0.27
# Times that an action comes before all have come again, once where it is not named: daily life is mostly upright.
TURNS = {"walk": 6, "run": 4, "jump": 3, "punch": 3, "dance": 2, "kick": 2, "spin": 2}


class SourcesError(FileNotFoundError):
    """The embedded data's sources are missing or unreadable; the message names the file and what to do."""


def _load(path):
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
    neutral pose; joint_bones (15,): bones whose starts are the joints in the data sets' order;
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
    raw = _load(Path(sources) / "bodies.npz")
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


@dataclass(frozen=True)
class Clip:
    """A motion clip: action label, root positions (T, 3) in leg lengths, local rotations (T, bones, 4), fps."""

    action: str
    roots: np.ndarray
    rotations: np.ndarray
    fps: float

    def resampled(self, fps, speed):
        """The clip played `speed` times as fast at `fps` frames a second -> roots, rotations."""
        count = max(2, int((len(self.roots) - 1) / self.fps / speed * fps) + 1)
        at = np.minimum(np.arange(count) * speed / fps * self.fps, len(self.roots) - 1)
        low = np.minimum(at.astype(int), len(self.roots) - 2)
        share = at - low
        roots = self.roots[low] + share[:, None] * (self.roots[low + 1] - self.roots[low])
        return roots, slerp(
            self.rotations[low], self.rotations[low + 1], np.repeat(share[:, None], self.rotations.shape[1], axis=1)
        )


def load_clips(sources):
    """All clips of the folder `sources` -> list of Clip. Raises SourcesError where clips.npz is missing."""
    raw = _load(Path(sources) / "clips.npz")
    ends = np.cumsum(raw["lengths"])
    fps = float(raw["fps"])
    return [
        Clip(str(action), *(raw[key][end - n : end].astype(np.float64) for key in ("roots", "rotations")), fps)
        for action, n, end in zip(raw["actions"], raw["lengths"], ends, strict=True)
    ]


def mirror(roots, rotations, bone_names):
    """The motion seen in a mirror: left and right change places."""
    names = list(bone_names)
    partner = [names.index(n[:-1] + {"R": "L", "L": "R"}[n[-1]]) if n[-2:] in (".R", ".L") else i
               for i, n in enumerate(names)]  # fmt: skip
    return roots * (-1, 1, 1), rotations[:, partner] * (1, 1, -1, -1)


def heading(rotation):
    """Angle about z (radians) of where a root rotation (4,) faces; lying down, of where the head or feet point."""
    turn = to_matrix(rotation)
    forward, up = -turn[:, 1], turn[:, 2]
    facing = forward - forward[2] * up
    return np.arctan2(facing[0], -facing[1])


def _joined(first, second, fps):
    """Two (roots, rotations, labels) as one: the second is turned and moved to where the first ends, then blended."""
    roots, rotations, labels = first
    new_roots, new_rotations, new_labels = second
    yaw = heading(rotations[-1, 0]) - heading(new_rotations[0, 0])
    turn = from_vector(np.array([0.0, 0.0, yaw]))
    new_rotations = new_rotations.copy()
    new_rotations[:, 0] = multiply(turn, new_rotations[:, 0])
    new_roots = (new_roots - new_roots[0] * (1, 1, 0)) @ to_matrix(turn).T
    # Getting down to the floor, or out of a kick, takes longer than passing from one step to another.
    drop = abs(new_roots[0, 2] - roots[-1, 2])
    angle = 2 * np.arccos(np.minimum(np.abs((rotations[-1] * new_rotations[0]).sum(-1)), 1)).max()
    count = min(round((BLEND_SECONDS + 0.6 * drop + 0.1 * angle) * fps), len(roots) - 1, len(new_roots) - 1)
    new_roots = new_roots + roots[-count] * (1, 1, 0)
    share = (np.arange(count) + 1) / (count + 1)
    share = share * share * (3 - 2 * share)
    # The way round is chosen once, at the blend's start: choosing it frame by frame could change sides midway.
    opposite = (rotations[-count] * new_rotations[0]).sum(-1, keepdims=True) < 0
    new_rotations = np.where(opposite, -new_rotations, new_rotations)
    mixed = roots[-count:] + share[:, None] * (new_roots[:count] - roots[-count:])
    turned = slerp(rotations[-count:], new_rotations[:count], np.repeat(share[:, None], rotations.shape[1], axis=1))
    half = count // 2
    return (
        np.concatenate([roots[:-count], mixed, new_roots[count:]]),
        np.concatenate([rotations[:-count], turned, new_rotations[count:]]),
        np.concatenate([labels[: len(labels) - count + half], new_labels[half:]]),
    )


def make_motion(clips, bone_names, rng, frames, fps):
    """A motion of `frames` frames from clips in random order, speed and handedness, smoothly joined.

    Each action comes as often as TURNS says before they all come again; a short clip is repeated until it fills a
    second or three.
    Slow random turns are added.
    -> roots (frames, 3) in leg lengths, local rotations (frames, bones, 4), action label of each frame (frames,).
    """
    actions = sorted({clip.action for clip in clips})
    actions = [action for action in actions for _ in range(TURNS.get(action, 1))]
    motion, deck = None, []
    while motion is None or len(motion[0]) < frames:
        deck = deck or rng.permutation(actions).tolist()
        action = deck.pop()
        choices = [clip for clip in clips if clip.action == action]
        clip = choices[rng.integers(len(choices))]
        speed, flipped, seconds = rng.uniform(0.8, 1.25), rng.random() < 0.5, rng.uniform(1.5, 3.0)
        roots, rotations = clip.resampled(fps, speed)
        repeats = max(1, round(seconds * fps / len(roots)))
        if flipped:
            roots, rotations = mirror(roots, rotations, bone_names)
        for _ in range(repeats):
            piece = roots, rotations, np.full(len(roots), clip.action, dtype="U16")
            motion = piece if motion is None else _joined(motion, piece, fps)
    roots, rotations, labels = (part[:frames] for part in motion)
    seconds = np.arange(frames) / fps
    rms = np.radians([SWAY.get(name.split(".")[0], 0) for name in bone_names]).repeat(3)
    habit = rng.normal(size=rms.shape) * 0.5  # how this wearer holds himself, all along the sequence
    sway = (smooth_noise(rng, seconds, len(rms)) + habit) * rms / np.sqrt(3)
    return roots, multiply(rotations, from_vector(sway.reshape(frames, -1, 3))), labels


def on_the_floor(body, roots, rotations, fps):
    """Root positions in metres that put the body's lowest point on the floor z = 0, without following jumps."""
    roots = roots * body.leg_length
    starts, turns = body.pose(roots, rotations)
    sampled = np.arange(0, len(roots), 3)
    lowest = np.array([body.skin(starts[i], turns[i])[:, 2].min() for i in sampled])
    half = max(1, round(0.5 * fps / 3))
    padded = np.pad(lowest, 2 * half, mode="edge")
    least = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1).min(1)
    kernel = np.hanning(2 * half + 3)[1:-1]
    ground = np.convolve(least, kernel / kernel.sum(), mode="valid")
    return roots - np.interp(np.arange(len(roots)), sampled, ground)[:, None] * (0, 0, 1)
