"""Draw docs/joints.png, the joints by number and name and the camera's axes: python scripts/draw_joints.py"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from agego_lib.skeleton import COMMON_BONE_LENGTHS, JOINT_NAMES, NUM_JOINTS, PARENTS, side
from agego_video.overlay import draw_skeleton

PICTURE = Path(__file__).resolve().parents[1] / "docs/joints.png"
SIZE, SCALE, TOP = (760, 620), 330, 40  # px; px a metre; px above the camera
INK, AXIS = (40, 40, 40), (0, 140, 0)
# Directions from each joint's parent in the camera's axes (x right, y back, z down), of the right side.
DIRECTIONS = {"shoulder": (1, 0, 0.3), "elbow": (1, 0, 0.9), "wrist": (1, 0, 0.9), "hip": (-0.15, 0, 1)}
DIRECTIONS |= {"knee": (0.05, 0, 1), "ankle": (0.05, 0, 1), "toe": (0.5, -0.6, 0.5)}


def pose():
    """A person who stands with the arms a little out, (15, 3) m in the camera's axes."""
    found = np.zeros((NUM_JOINTS, 3))
    found[0] = 0, 0.08, 0.25
    for joint in range(1, NUM_JOINTS):
        direction = np.array(DIRECTIONS[JOINT_NAMES[joint].split("_")[1]], float)
        direction *= (-1 if side(joint) == "left" else 1, 1, 1)
        found[joint] = found[PARENTS[joint]] + direction / np.linalg.norm(direction) * COMMON_BONE_LENGTHS[joint - 1]
    return found


def pixels(points):
    """Seen from the front: the person's right is on the left."""
    return np.stack([SIZE[0] / 2 - points[..., 0] * SCALE, TOP + points[..., 2] * SCALE], axis=-1)


def write(image, text, at, colour=INK, right=False):
    """Text that starts, or ends, at a place (px)."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    width = cv2.getTextSize(text, font, scale, 1)[0][0] if right else 0
    cv2.putText(image, text, (round(at[0]) - width, round(at[1]) + 5), font, scale, colour, 1, cv2.LINE_AA)


def draw():
    image = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    points = pose()
    draw_skeleton(image, pixels(points), 4)
    for joint, (u, v) in enumerate(pixels(points)):
        right = side(joint) == "right"
        up = 0 if joint else 10
        write(image, f"{joint} {JOINT_NAMES[joint]}", (u + (-14 if right else 14), v - up), right=right)
    origin, x, z = (
        tuple(np.round(pixels(np.array(p))).astype(int).tolist()) for p in ((0, 0, 0), (0.3, 0, 0), (0, 0, 0.17))
    )
    for end in (x, z):
        cv2.arrowedLine(image, origin, end, AXIS, 2, cv2.LINE_AA, tipLength=0.15)
    # An arrow that goes away from the viewer.
    cv2.circle(image, origin, 9, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, origin, 9, AXIS, 2, cv2.LINE_AA)
    for sign in (1, -1):
        cv2.line(
            image, (origin[0] - 6, origin[1] - 6 * sign), (origin[0] + 6, origin[1] + 6 * sign), AXIS, 2, cv2.LINE_AA
        )
    write(image, "x: the wearer's right", (x[0] - 8, x[1]), AXIS, right=True)
    write(image, "z: ahead of the lens, to the ground", (z[0] + 12, z[1] - 12), AXIS)
    write(image, "camera, the origin; y: towards the wearer's back", (origin[0] + 18, origin[1] - 8), AXIS)
    write(image, "seen from the front, metres", (12, SIZE[1] - 16))
    return image


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    cv2.imwrite(str(PICTURE), draw())
