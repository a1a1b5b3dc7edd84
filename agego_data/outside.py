"""A camera in the room that sees the wearer from outside, as EgoPW's recordings had one: 2D joints in its picture.

No picture is drawn and no detector runs. The joints' true pixels get the errors that detectors of people make: off by
what COCO's annotators differ by, more where the body itself is before them, now and then left and right swapped or
none at all. Furniture is not taken into account.
"""

import numpy as np

from agego_data.body import smooth_noise
from agego_lib.skeleton import BONES

SIZE = (1280, 720)
FOCAL = (0.6, 0.9)  # of the width
HEIGHT = (0.7, 2.0)  # m above the floor
NEAREST = 1.5  # m between the camera and the wearer's pelvis, at any time
TRIES = 200
# RMS distance from the truth over the root of the area that the person covers: three quarters of COCO's sigmas of its
# keypoints (cocodataset.org, keypoints-eval), an OKS of 0.93; the neck's a shoulder's, toes' the ankles'. Order of the
# 15 joints.
SPREAD = 0.75 * np.array([0.079, *[0.079, 0.072, 0.062] * 2, *[0.107, 0.087, 0.089, 0.089] * 2])
COVERED = 0.5  # of the box around its joints: what a person covers
HIDDEN_SPREAD = 2.5  # times as far off where hidden
MISSED = (0.01, 0.15)  # share of joints that are not found: seen, hidden
CONFIDENCE = (0.85, 0.5)  # of what is found: seen, hidden
ARM, TRUNK = 0.05, 0.13  # m: how thick limbs are, and the trunk around its middle


def _look_at(eye, target):
    """Camera-to-world turn (3, 3), x right, y down, z forward, of a level camera at `eye`."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(ahead, right), ahead], axis=1)


def project(joints, turn, place, intrinsics):
    """World points (..., 3) m -> px (..., 2) of a pinhole camera, and their depths (...) m."""
    local = (joints - place) @ turn
    pixels = local @ np.transpose(intrinsics)
    with np.errstate(divide="ignore", invalid="ignore"):
        return pixels[..., :2] / pixels[..., 2:], local[..., 2]


def place_camera(rng, joints, bounds):
    """Where a fixed camera stands in a room to see the wearer, whose joints (T, 15, 3) m are in the world -> turn
    (3, 3), place (3,), intrinsics (3, 3), of the tries the one that has most joints in its picture."""
    best, seen = None, -2.0
    x0, x1, y0, y1 = bounds
    target = (joints.min((0, 1)) + joints.max((0, 1))) / 2
    hips = joints[:, (7, 11)].mean(1)
    for _ in range(TRIES):
        place = rng.uniform((x0, y0, HEIGHT[0]), (x1, y1, HEIGHT[1]))
        focal = SIZE[0] * rng.uniform(*FOCAL)
        intrinsics = np.array([[focal, 0, SIZE[0] / 2], [0, focal, SIZE[1] / 2], [0, 0, 1]])
        turn = _look_at(place, target)
        # One that stands too near is worse than any other; in a small room there may be none else.
        near = np.linalg.norm(hips - place, axis=-1).min() < NEAREST
        share = in_picture(*project(joints, turn, place, intrinsics)).mean() - near
        if share > seen:
            best, seen = (turn, place, intrinsics), share
        if share > 0.99:
            break
    return best


def in_picture(pixels, depth):
    """Which points (...) of px (..., 2) and depth (...) m are in the picture: bool."""
    return (depth > 0.1) & (pixels >= 0).all(-1) & (pixels < SIZE).all(-1)


def behind_the_body(joints, place):
    """Which joints (T, 15, 3) m are hidden from `place` by the body itself, sticks about its bones: bool (T, 15)."""
    ends = [(joints[:, a], joints[:, b], ARM, (a, b)) for a, b in BONES if (a, b) not in ((1, 7), (4, 11))]
    ends.append((joints[:, 0], joints[:, (7, 11)].mean(1), TRUNK, (0, 7, 11)))
    hidden = np.zeros(joints.shape[:2], bool)
    for start, end, thick, own in ends:
        points = start[:, None] + np.linspace(0, 1, 9)[:, None] * (end - start)[:, None]
        # How far points of the bone are from the line of sight, and how far along it.
        sight = joints - place
        far = np.linalg.norm(sight, axis=-1, keepdims=True)
        away = points[:, None] - place
        along = np.einsum("tji,tjki->tjk", sight / far, away + np.zeros_like(sight)[:, :, None])
        gap = np.sqrt(np.maximum((away**2).sum(-1) - along**2, 0))
        covered = ((gap < thick) & (along > 0.1) & (along < far - thick - 0.05)).any(-1)
        covered[:, own] = False
        hidden |= covered
    return hidden


def outside_view(rng, joints, bounds, fps):
    """What a detector tells of the wearer in a fixed camera outside -> dict of arrays, and the camera's turn, place.

    joints: (T, 15, 3) m in the world. bounds: the room's walls (x0, x1, y0, y1).
    The arrays: joints_2d (T, 15, 2) px, NaN where a joint was not found, confidence (T, 15) from 0, not found, to 1,
    and intrinsics (3, 3).
    """
    turn, place, intrinsics = place_camera(rng, joints, bounds)
    pixels, depth = project(joints, turn, place, intrinsics)
    inside, hidden = in_picture(pixels, depth), behind_the_body(joints, place)
    seconds, count = np.arange(len(joints)) / fps, joints.shape[1]
    box = np.ptp(np.where(inside[..., None], pixels, np.nan_to_num(pixels).mean(1, keepdims=True)), axis=1)
    scale = np.sqrt(COVERED * box.prod(-1)).clip(20, 600)
    # Half of the variance stays for a while, as pictures that follow are alike.
    slow = smooth_noise(rng, seconds, 2 * count, 1.5).reshape(-1, count, 2)
    noise = (slow + rng.normal(size=slow.shape)) / 2  # of unit RMS length
    pixels = pixels + noise * (SPREAD * scale[:, None] * np.where(hidden, HIDDEN_SPREAD, 1))[..., None]
    confidence = np.where(hidden, CONFIDENCE[1], CONFIDENCE[0]) + rng.normal(0, 0.08, hidden.shape)
    # Arms, or legs, are swapped for as long as a slow curve is high: about a fortieth of the time.
    swapped = smooth_noise(rng, seconds, 2, 1.5) > 2
    for limb, right, left in ((0, (1, 2, 3), (4, 5, 6)), (1, (7, 8, 9, 10), (11, 12, 13, 14))):
        frames = np.flatnonzero(swapped[:, limb])[:, None]
        pixels[frames, right + left] = pixels[frames, left + right]
    found = inside & (rng.random(hidden.shape) >= np.where(hidden, MISSED[1], MISSED[0]))
    arrays = {
        "joints_2d": np.where(found[..., None], pixels, np.nan).astype(np.float32),
        "confidence": np.where(found, confidence.clip(0.05, 1), 0).astype(np.float32),
        "intrinsics": intrinsics.astype(np.float32),
    }
    return arrays, turn, place
