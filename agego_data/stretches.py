"""Stretches of a sequence in which joints cannot be seen: legs behind a tray, arms behind the back, frames in the dark.

A tray is held in both hands before the belly. The hands leave what they hold for it. What is hidden is not said here:
the renderer finds it out, as for everything it draws.
"""

from dataclasses import dataclass, replace

import numpy as np

from agego_data.actions import Arm, Pose, Rig, ease, solve
from agego_data.body import slerp

# Kinds, and how long each lasts, seconds, without the ways there and back.
SECONDS = {"tray": (1.0, 3.0), "arms behind": (1.0, 3.0), "dark": (0.7, 2.0)}
REACH, LIFT, FADE = 0.3, 0.4, 0.15  # seconds until arms are where the way begins, of the way, of a light going out
BETWEEN = 2 * (REACH + LIFT)  # seconds at least between two stretches
# No larger share of the time goes into stretches that lie BETWEEN apart.
MAX_SHARE = 0.5
# Joints are hidden while less than this share of the light is left.
DARK = 0.15
ARMS = ("shoulder", "upperarm", "forearm", "hand")


@dataclass(frozen=True)
class Stretches:
    """tray (T,): how far it is up, 0 to 1, NaN where there is none; busy (T,) bool: whether the hands let go of what
    they held; light (T,): share that is left of it; starts, turns: bones as without them, which the looks go by.
    """

    tray: np.ndarray
    busy: np.ndarray
    light: np.ndarray
    starts: np.ndarray
    turns: np.ndarray

    @property
    def dark(self):
        """Frames (T,) bool in which nothing can be seen."""
        return self.light < DARK


def spans(rng, seconds, share):
    """Stretches that take up `share` of the time -> [(kind, start, end)] in seconds; the first and the last may reach
    beyond the recording.
    """
    mean = np.mean([sum(SECONDS[kind]) / 2 for kind in SECONDS])
    rest = mean * (1 - share) / share - BETWEEN
    # From so long before that where the first one lies no longer tells of where it began.
    found, at = [], -rng.uniform(2, 4) * mean / share
    while at < seconds:
        kind = str(rng.choice(list(SECONDS)))
        end = at + rng.uniform(*SECONDS[kind])
        found.append((kind, at, end))
        at = end + BETWEEN + rest * rng.uniform(0, 2)
    return [span for span in found if span[2] > 0]


def with_stretches(motion, roots, body, rng, fps, share):
    """A Motion, its roots in metres, with stretches in `share` (above 0, at most MAX_SHARE) of its time -> local
    rotations, Stretches.

    Where the wearer is not upright, sits, or has a table before him in one, the light goes out instead.
    """
    count, rig = len(motion), Rig.of(body)
    seconds = np.arange(count) / fps
    starts, turns = body.pose(roots, motion.rotations)
    level = starts[..., 2]
    legs = np.min([level[:, body.bone(f"thigh.{s}")] - level[:, body.bone(f"shin.{s}")] for s in "RL"], axis=0)
    upright = (turns[:, body.bone("chest"), 2, 2] > 0.8) & (legs > 0.15 * body.leg_length)
    free = upright & np.isnan(motion.seat) & np.isnan(motion.desk)
    tray, busy, light = np.full(count, np.nan), np.zeros(count, bool), np.ones(count)
    for kind, start, end in spans(rng, seconds[-1], share):
        first, last = start - LIFT - REACH, end + LIFT + REACH
        during = np.flatnonzero((seconds > first) & (seconds < last))
        if kind == "dark" or len(during) < 3 or not free[during].all():
            end, left = min(end, start + rng.uniform(*SECONDS["dark"])), rng.uniform(0.0, 0.03)
            out = ease((seconds - start) / FADE) * ease((end - seconds) / FADE)
            light = np.minimum(light, 1 - (1 - left) * out)
            continue
        motion = _with_arms(motion, rig, rng, during, seconds[during] - first, kind, end - start)
        busy[during] = True
        if kind == "tray":
            up = np.minimum(ease((seconds - start + LIFT) / LIFT), ease((end + LIFT - seconds) / LIFT))
            shown = (seconds > start - LIFT) & (seconds < end + LIFT)
            tray[shown] = up[shown]
    return motion.rotations, Stretches(tray, busy, light, starts, turns)


def _with_arms(motion, rig, rng, during, at, kind, held):
    """Arms taken to a tray, or behind the back, for `held` seconds in the frames `during`, at the times `at` (s)."""
    if kind == "tray":
        out, front, up = rng.uniform(0.05, 0.3), rng.uniform(0.5, 0.62), rng.uniform(-0.62, -0.5)
        way, there = Arm((out, 0.4, -0.82), 5), Arm((out, front, up), 10)
    else:
        way, there = Arm((0.2, 0.0, -0.9), 10), Arm((-0.22, -0.34, rng.uniform(-0.8, -0.6)), 20)
    poses = [Pose(0, REACH, way, way), Pose(LIFT, held, there, there), Pose(LIFT, REACH, way, way)]
    _, turned, _ = solve(rig, None, poses, rng, at, base=(motion.roots[during], motion.rotations[during]))
    bones = [i for i, name in enumerate(rig.body.bone_names) if name.split(".")[0] in ARMS]
    old, new = _steady(motion.rotations[during][:, bones]), _steady(turned[:, bones])
    # The way round is chosen once for coming and once for going, as where arms are solved alone it does not matter.
    late = at > at[-1] / 2
    for half, edge in ((~late, 0), (late, -1)):
        new[half] *= np.where((old[edge] * new[edge]).sum(-1, keepdims=True) < 0, -1, 1)
    whole = 2 * (LIFT + REACH) + held
    share = ease(at / REACH) * ease((whole - at) / REACH)
    rotations = motion.rotations.copy()
    rotations[np.ix_(during, bones)] = slerp(old, new, np.repeat(share[:, None], len(bones), axis=1))
    return replace(motion, rotations=rotations)


def _steady(rotations):
    """Quaternions (T, N, 4) whose signs do not jump from frame to frame."""
    dots = (rotations[1:] * rotations[:-1]).sum(-1)
    signs = np.cumprod(np.concatenate([np.ones((1, dots.shape[1])), np.where(dots < 0, -1, 1)]), axis=0)
    return rotations * signs[..., None]
