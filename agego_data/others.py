"""Another person before the camera, who faces the wearer: who it is, what is done, and where.

All of it comes from a generator of its own, so that the same sequence can be had without.
"""

from dataclasses import dataclass

import numpy as np

from agego_data import clothes, props, surfaces
from agego_data.motion import make_company, on_the_floor

METRES = (0.6, 2.0)  # between the two pelvises, when they face each other
BEARING = np.radians(60)  # to either side of where the wearer's head points
APART = 0.15  # metres at least between any two bones' starts, at any time
TRIES = 400


@dataclass(frozen=True)
class Other:
    """A dressed body, and its bones in the world: starts (T, bones, 3), turns (T, bones, 3, 3). atlas: its textures."""

    outfit: clothes.Outfit
    atlas: np.ndarray
    starts: np.ndarray
    turns: np.ndarray

    @property
    def joints(self):
        """(T, 15, 3) in the world, metres."""
        return self.outfit.body.joints(self.starts)


def find_other(rng, body, clips, take, room, camera, unseen=False):
    """Someone with a Body for a take in a Room -> Other, or None where TRIES places all were taken, by the wearer
    himself, a wall or furniture, or out of the camera's view.

    At one moment, drawn anew, they face each other METRES apart; before and after, either goes on with what he does.
    """
    motion = make_company(clips, body, rng, len(take.starts), take.fps, unseen)
    starts, turns = body.pose(on_the_floor(body, motion, take.fps), motion.rotations)
    atlas = surfaces.Atlas()
    outfit = clothes.dress(body, rng, rng, atlas)
    head = take.turns[:, body.bone("head")]
    ahead = -head[:, :2, 1] / np.maximum(np.linalg.norm(head[:, :2, 1], axis=1, keepdims=True), 1e-9)
    things = room.things.vertices[:, :2]
    x0, x1, y0, y1 = room.bounds
    for attempt in range(TRIES):
        moment = int(rng.integers(len(starts)))
        side, far, glance = rng.uniform(-BEARING, BEARING), rng.uniform(*METRES), rng.normal(0, np.radians(15))
        place = take.starts[moment, 0, :2] + far * props.yaw(side)[:2, :2] @ ahead[moment]
        own, back = -turns[moment, 0][:2, 1], take.starts[moment, 0, :2] - place
        turn = props.yaw(np.arctan2(back[1], back[0]) - np.arctan2(own[1], own[0]) + glance)
        moved = (starts - starts[moment, 0] * (1, 1, 0)) @ turn.T + (*place, 0.0)
        flat = moved[..., :2]
        if (flat < (x0, y0)).any() or (flat > (x1, y1)).any():
            continue
        if np.linalg.norm(moved[:, :, None] - take.starts[:, None], axis=-1).min() < APART:
            continue
        if len(things) and np.linalg.norm(flat[::8, :1] - things, axis=-1).min() < 0.25:
            continue
        pixels = camera.project(
            np.einsum("tij,tni->tnj", take.camera_turns, body.joints(moved) - take.camera_places[:, None])
        )
        near = np.linalg.norm(moved[:, 0] - take.starts[:, 0], axis=-1) < METRES[1] + 0.5
        shown = near & (camera.in_image(pixels).mean(1) >= 0.5)
        # For most of the time, if that can be had.
        if shown[moment] and shown.mean() > (0.6 if attempt < TRIES / 2 else 0):
            return Other(outfit, atlas.image, moved, turn @ turns)
    return None
