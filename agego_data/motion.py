"""Motion of the embedded data: mocap clips, actions made from key poses, and mixtures of both, joined together.

Axes and rotations as in body.py. Some actions never train: HELD_OUT names them, so that a test is of motion unseen.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from agego_data.actions import ELBOW, GESTURES, KNEE, POSTURES, Around, Rig, solve, vectors
from agego_data.body import from_vector, load_source, multiply, slerp, smooth_noise, to_matrix

# RMS of the slow random turns added to the clips, degrees, by the bone's name without its side.
# They make no two passes of a clip the same; arms move most, as they do in daily life.
SWAY = {"spine": 3, "chest": 3, "neck": 4, "head": 4, "shoulder": 3, "upperarm": 12, "forearm": 9, "hand": 8,
        "thigh": 3, "shin": 2, "foot": 3, "toe": 2}  # fmt: skip
BLEND_SECONDS = 0.27
SPEEDS = 0.6, 1.6
# What is for tests alone: clips, postures and gestures (of GESTURES in actions/) of every kind.
HELD_OUT = frozenset({
    "run", "dance", "spinkick",
    "sit crossed", "kneel on one", "lunge", "side-step",
    "fold arms", "read book", "call", "clap", "throw", "point", "stretch", "sweep",
})  # fmt: skip
# How often each kind of piece comes: clips, walking with other arms, and postures.
PIECES = {"clip": 30, "walk": 11, "stand": 32, "sit": 17, "sit crossed": 6, "kneel": 3, "kneel on one": 3, "squat": 4,
          "lunge": 2, "side-step": 2, "march": 3, "climb": 3, "push-up": 0.7, "lie": 0.7}  # fmt: skip
# Times that a clip's action comes, once where it is not named: daily life is mostly upright.
TURNS = {"walk": 6, "run": 4, "jump": 3, "punch": 3, "dance": 2, "kick": 2, "spin": 2}
# Clips whose legs go under other arms.
LEGS = {"walk", "jump", "spin"}
# The share of standing, sitting, squatting people whose upper body moves as in a clip.
BORROWED = 0.07


@dataclass(frozen=True)
class Motion:
    """A motion of T frames: roots (T, 3) in leg lengths, local rotations (T, bones, 4), and for each frame a label of
    the action, what the hands hold ("", "paper", "book", "box", "laptop", "phone", "cup" or "bag"; the last three with
    the side, "cup.R"), and in leg lengths the height of what is sat on and of a table top in front (NaN where none).
    """

    roots: np.ndarray
    rotations: np.ndarray
    actions: np.ndarray
    held: np.ndarray
    seat: np.ndarray
    desk: np.ndarray

    def __len__(self):
        return len(self.roots)

    def __getitem__(self, frames):
        return Motion(*(getattr(self, part.name)[frames] for part in fields(self)))


def held_out(action):
    """Whether a frame's label is of what only tests show: one of its parts is in HELD_OUT."""
    return not HELD_OUT.isdisjoint(action.split(", "))


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
    raw = load_source(Path(sources) / "clips.npz")
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


def _piece(roots, rotations, actions, held=None, seat=None, desk=None):
    """A Motion of these parts; nothing held, no seat and no desk where not given."""
    count = len(roots)
    actions, held = np.broadcast_to(np.asarray(actions, "U32"), count), np.broadcast_to(held or "", count)
    return Motion(roots, rotations, actions, held, *(np.full(count, np.nan) if p is None else p for p in (seat, desk)))


def _lying(held, desk):
    """What hands hold (T,), without a laptop where there is no table, at `desk`, for it to lie on."""
    return np.where((held == "laptop") & np.isnan(desk), "", held)


def mirrored(motion, bone_names):
    """A Motion seen in a mirror: what one hand held, the other holds."""
    roots, rotations = mirror(motion.roots, motion.rotations, bone_names)
    swap = {".R": ".L", ".L": ".R"}
    held = np.array([name[:-2] + swap.get(name[-2:], name[-2:]) for name in motion.held], dtype=motion.held.dtype)
    return Motion(roots, rotations, motion.actions, held, motion.seat, motion.desk)


def _joined(first, second, fps):
    """Two Motions as one: the second is turned and moved to where the first ends, then blended."""
    yaw = heading(first.rotations[-1, 0]) - heading(second.rotations[0, 0])
    turn = from_vector(np.array([0.0, 0.0, yaw]))
    new = second.rotations.copy()
    new[:, 0] = multiply(turn, new[:, 0])
    roots = (second.roots - second.roots[0] * (1, 1, 0)) @ to_matrix(turn).T
    # Getting down to the floor, or out of a kick, takes longer than passing from one step to another.
    drop = abs(roots[0, 2] - first.roots[-1, 2])
    angle = 2 * np.arccos(np.minimum(np.abs((first.rotations[-1] * new[0]).sum(-1)), 1)).max()
    count = max(1, min(round((BLEND_SECONDS + 0.6 * drop + 0.1 * angle) * fps), len(first) - 1, len(second) - 1))
    roots = roots + first.roots[-count] * (1, 1, 0)
    share = (np.arange(count) + 1) / (count + 1)
    share = share * share * (3 - 2 * share)
    # The way round is chosen once, at the blend's start: choosing it frame by frame could change sides midway.
    new = np.where((first.rotations[-count] * new[0]).sum(-1, keepdims=True) < 0, -new, new)
    between = first.roots[-count:] + share[:, None] * (roots[:count] - first.roots[-count:])
    turned = slerp(first.rotations[-count:], new[:count], np.repeat(share[:, None], new.shape[1], axis=1))
    half, nothing = count // 2, np.full(count, np.nan)
    actions, held = (
        np.concatenate([getattr(first, name)[: len(first) - count + half], getattr(second, name)[half:]])
        for name in ("actions", "held")
    )
    # Nobody is sat, nor at a table, while he passes from one to the other.
    seat, desk = (
        np.concatenate([getattr(first, name)[:-count], nothing, getattr(second, name)[count:]])
        for name in ("seat", "desk")
    )
    return Motion(
        np.concatenate([first.roots[:-count], between, roots[count:]]),
        np.concatenate([first.rotations[:-count], turned, new[count:]]),
        actions,
        _lying(held, desk),
        seat,
        desk,
    )


def _within_hinges(rotations, bone_names):
    """Elbows and knees that bend one way only."""
    rotations = rotations.copy()
    for name, low, high in (("forearm", -ELBOW[1], -ELBOW[0]), ("shin", KNEE[0], 158)):  # clips go down to a crouch
        bones = [i for i, other in enumerate(bone_names) if other.startswith(name)]
        turn = vectors(rotations[:, bones])
        turn[..., 0] = np.clip(turn[..., 0], low, high)
        rotations[:, bones] = from_vector(np.radians(turn))
    return rotations


def _clip_piece(clip, bone_names, rng, seconds, fps):
    """A clip, repeated until it fills `seconds`, with slow random turns."""
    roots, rotations = clip.resampled(fps, rng.uniform(*SPEEDS))
    one = _piece(roots, rotations, clip.action)
    motion = one
    while len(motion) < seconds * fps:
        motion = _joined(motion, one, fps)
    rms = np.radians([SWAY.get(name.split(".")[0], 0) for name in bone_names]).repeat(3)
    habit = rng.normal(size=rms.shape) * 0.5  # how this wearer holds himself
    sway = (smooth_noise(rng, np.arange(len(motion)) / fps, len(rms)) + habit) * rms / np.sqrt(3)
    rotations = multiply(motion.rotations, from_vector(sway.reshape(len(motion), -1, 3)))
    return _piece(motion.roots, _within_hinges(rotations, bone_names), motion.actions)


def _gestures(rng, around, known, seated, seconds, first=()):
    """Poses of gestures, one after the other, for `seconds`, and each pose's gesture.

    known: names to choose from. first: gestures to begin with.
    """
    weights = np.array([GESTURES[name][1 + seated] for name in known], dtype=np.float64)
    if len(known) == 1:
        weights[:] = 1
    weights[~np.isfinite(around.thighs) & np.isin(known, ["type", "hands on thighs"])] = 0
    poses, names, waiting = [], [], list(first)
    while sum(pose.move + pose.hold for pose in poses) < seconds:
        name = waiting.pop(0) if waiting else str(rng.choice(known, p=weights / weights.sum()))
        more = GESTURES[name][0](rng, around)
        poses += more
        names += [name] * len(more)
    return poses, np.array(names)


def _made(rig, posture, known, clips, rng, seconds, fps):
    """A posture with gestures on top, or with the upper body of one of `clips`."""
    names = rig.body.bone_names
    speed = rng.uniform(*SPEEDS)
    at = np.arange(max(4, round(seconds * fps))) * speed / fps
    around = Around()
    stance = POSTURES[posture](rng, rig, at, around)
    seated = posture.startswith("sit")
    if posture not in ("stand", "sit", "kneel", "kneel on one"):  # nobody bends down that far elsewhere
        known = [name for name in known if name != "lift box"]
    if posture == "anyhow":
        known = ["anywhere"]
    first = ["climb up"] if posture == "climb" and "climb up" in known and rng.random() < 0.6 else []
    poses, gestures = _gestures(rng, around, known, seated, at[-1], first)
    if stance.arms:
        poses = [pose._replace(right=stance.arms[0], left=stance.arms[1], bend=(0, 0, 0), held="") for pose in poses]
    roots, rotations, shown = solve(rig, stance, poses, rng, at)
    held = _lying(np.array([pose.held for pose in poses])[shown], stance.desk)
    labels = gestures[shown]
    if posture in ("stand", "sit", "squat", "march") and clips and rng.random() < BORROWED:
        clip = _chosen(clips, rng)
        other = _clip_piece(clip, names, rng, seconds + 1 / fps, fps)[: len(at)]
        upper = ("spine", "chest", "neck", "head", "shoulder", "upperarm", "forearm", "hand")
        bones = [i for i, name in enumerate(names) if name.split(".")[0] in upper]
        rotations[:, bones] = other.rotations[:, bones]
        labels, held = np.full(len(at), clip.action), np.full(len(at), "")
    if posture == "sit":
        labels = np.char.add("sit, ", labels)
    elif posture != "stand":
        labels = np.full(len(at), posture)
    return Motion(roots, rotations, labels.astype("U32"), held.astype("U8"), stance.seat, stance.desk)


def _walking(rig, clip, known, rng, seconds, fps):
    """The legs of a clip, the arms of gestures."""
    base = _clip_piece(clip, rig.body.bone_names, rng, seconds, fps)
    at = np.arange(len(base)) / fps * rng.uniform(*SPEEDS)
    known = [name for name in known if name not in ("lift box", "stretch")]
    poses, gestures = _gestures(rng, Around(), known, False, at[-1])
    roots, rotations, shown = solve(rig, None, poses, rng, at, base=(base.roots, base.rotations))
    labels = np.char.add(f"{clip.action}, ", gestures[shown]).astype("U32")
    held = np.array([pose.held for pose in poses])[shown].astype("U8")
    return Motion(roots, rotations, labels, held, base.seat, base.desk)


def _chosen(clips, rng):
    """One of the clips, as often as TURNS says of its action."""
    actions = sorted({clip.action for clip in clips})
    weights = np.array([TURNS.get(action, 1) for action in actions], dtype=np.float64)
    action = rng.choice(actions, p=weights / weights.sum())
    same = [clip for clip in clips if clip.action == action]
    return same[rng.integers(len(same))]


def make_motion(clips, body, rng, frames, fps, unseen=False, anyhow=0.0):
    """A Motion of `frames` frames for a Body: pieces of random kind, speed and handedness, smoothly joined.

    unseen: of the actions in HELD_OUT alone, upright or seated where they say nothing of it; else of all others.
    anyhow: share of pieces that are no action, arms and legs going anywhere within human limits; the others are as
    without them.
    """
    rig = Rig.of(body)
    known = [name for name in GESTURES if (name in HELD_OUT) == unseen]
    own = [clip for clip in clips if (clip.action in HELD_OUT) == unseen]
    walks = [clip for clip in clips if clip.action == "walk"] if unseen else [c for c in own if c.action in LEGS]
    shared = {"clip", "walk", "stand", "sit"}
    kinds = [name for name in PIECES if name in shared or (name in HELD_OUT) == unseen]
    weights = np.array([PIECES[name] for name in kinds], dtype=np.float64)
    kinds, weights = [*kinds, "anyhow"], np.array([*weights / weights.sum() * (1 - anyhow), anyhow])
    motion = None
    while motion is None or len(motion) < frames:
        kind = rng.choice(kinds, p=weights)
        flipped, seconds = rng.random() < 0.5, rng.uniform(2.5, 7.0) + 3 * kind.startswith("sit")
        if kind == "clip":
            piece = _clip_piece(_chosen(own, rng), body.bone_names, rng, rng.uniform(2.0, 4.5), fps)
        elif kind == "walk":
            piece = _walking(rig, _chosen(walks, rng), known, rng, seconds, fps)
        else:
            piece = _made(rig, kind, known, own, rng, seconds, fps)
        if flipped:
            piece = mirrored(piece, body.bone_names)
        if motion is None:  # a recording starts in the middle of something
            piece = piece[int(rng.uniform(0, 0.6) * len(piece)) :]
        motion = piece if motion is None else _joined(motion, piece, fps)
    return motion[:frames]


def make_company(clips, body, rng, frames, fps, unseen=False):
    """A Motion for someone whom the wearer meets: he stands, or walks, with gestures. unseen: as in `make_motion`."""
    known = [name for name in GESTURES if (name in HELD_OUT) == unseen]
    seconds, rig = (frames + 1) / fps, Rig.of(body)
    if rng.random() < 0.6:
        return _made(rig, "stand", known, [], rng, seconds, fps)[:frames]
    walks = [clip for clip in clips if clip.action == "walk"]
    return _walking(rig, walks[rng.integers(len(walks))], known, rng, seconds, fps)[:frames]


def on_the_floor(body, motion, fps):
    """Roots (T, 3) in metres that put the body's lowest point on the floor z = 0, without following jumps.

    Seated people stay as they are: they were made for this floor, and must not rise and sink on their seats.
    """
    roots = motion.roots * body.leg_length
    starts, turns = body.pose(roots, motion.rotations)
    sampled = np.arange(0, len(roots), 3)
    lowest = np.array([body.skin(starts[i], turns[i])[:, 2].min() for i in sampled])
    half = max(1, round(0.5 * fps / 3))
    windows = np.lib.stride_tricks.sliding_window_view
    least = windows(np.pad(lowest, 2 * half, mode="edge"), 2 * half + 1).min(1)
    near = windows(np.pad(np.isfinite(motion.seat)[sampled].astype(float), 2 * half, mode="edge"), 2 * half + 1).max(1)
    kernel = np.hanning(2 * half + 3)[1:-1]
    ground, seated = (np.convolve(part, kernel / kernel.sum(), mode="valid") for part in (least, near))
    return roots - np.interp(np.arange(len(roots)), sampled, ground * (1 - seated))[:, None] * (0, 0, 1)
