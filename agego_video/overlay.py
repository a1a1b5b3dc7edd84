"""A frame with its predicted joints, and the same pose in 3D beside it, drawn with OpenCV for videos."""

import cv2
import numpy as np

from agego_lib.camera.view import halved
from agego_lib.skeleton import BONES, NUM_JOINTS, SIDE_COLOURS, side
from agego_video.rig import AXES

HEIGHT = 384  # of an overlay, px: readable, and a fraction of the time that encoding full frames takes
_BACKGROUND, _INK = (250, 250, 250), (90, 90, 90)
_BGR = {name: tuple(int(colour[i : i + 2], 16) for i in (5, 3, 1)) for name, colour in SIDE_COLOURS.items()}
# The panel shows this box around the camera, in metres: from above it to below a standing person's feet.
_TOP, _SPAN = 0.35, 2.1
# Coordinates are given to OpenCV in sixteenths of a pixel, so that a skeleton does not tremble.
_SHIFT = 4


def small(frame):
    """A frame (H, W, 3) at the overlay's height, its width even; frames that are no higher keep their size."""
    height, width = frame.shape[:2]
    factor = min(1.0, HEIGHT / height)
    size = [2 * max(1, round(v * factor / 2)) for v in (width, height)]
    while frame.shape[0] >= 2 * HEIGHT:
        frame = halved(frame)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if size != [*frame.shape[1::-1]] else frame.copy()


def draw_skeleton(image, points, thickness, order=None, outline=None, colour=None):
    """Draw bones and joints (15, 2) px into a BGR image; those with a NaN or far outside are left out.

    order: of the bones, for what hides what. outline: a colour around them, which keeps them apart from a photograph.
    colour: one for all, in place of the sides'.
    """
    height, width = image.shape[:2]
    limits = np.array([width, height], dtype=np.float64)
    usable = np.isfinite(points).all(-1)
    usable[usable] &= (np.abs(points[usable] - limits / 2) < 4 * limits).all(-1)
    at = np.round(np.where(usable[:, None], points, 0) * 2**_SHIFT).astype(int).tolist()
    line = {"lineType": cv2.LINE_AA, "shift": _SHIFT}
    bones = [BONES[i] for i in (range(len(BONES)) if order is None else order) if usable[list(BONES[i])].all()]
    for parent, child in bones if outline else []:
        cv2.line(image, at[parent], at[child], outline, thickness + 2, **line)
    for parent, child in bones:
        cv2.line(image, at[parent], at[child], colour or _BGR[side(child)], thickness, **line)
    for joint in np.flatnonzero(usable):
        cv2.circle(image, at[joint], (thickness + 1) << _SHIFT, colour or _BGR[side(joint)], -1, **line)
        cv2.circle(image, at[joint], (thickness + 1) << _SHIFT, (255, 255, 255), 1, **line)


def _panel(pose, height):
    """The pose (15, 3) m as seen from the front, the person's right and a little above -> (height, height, 3) BGR."""
    panel = np.full((height, height, 3), _BACKGROUND, np.uint8)
    yaw, pitch = np.radians(35.0), np.radians(12.0)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    seen = np.concatenate([pose, np.zeros((1, 3))]) @ (tilt @ turn @ AXES).T
    scale = height / _SPAN
    points = np.stack([height / 2 + seen[:, 0] * scale, (_TOP - seen[:, 1]) * scale], axis=-1)
    camera = [round(v) for v in points[NUM_JOINTS]]
    cv2.drawMarker(panel, camera, _INK, cv2.MARKER_DIAMOND, 10, 2)
    cv2.putText(panel, "camera", (camera[0] + 9, camera[1] + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
    depth = [seen[list(bone), 2].mean() for bone in BONES]
    draw_skeleton(panel, points[:NUM_JOINTS], max(2, height // 100), np.argsort(depth))
    return panel


def draw(image, pose, camera, caption):
    """A frame made `small` (h, w, 3) BGR, its pose (15, 3) m -> the overlay (h, w + h, 3).

    camera: the FisheyeCamera that projects the pose into the full frame. caption: a short text.
    """
    height, width = image.shape[:2]
    factor = width / camera.size[0], height / camera.size[1]
    if width / height < 1.01 and camera.size[0] != camera.size[1]:
        # Frames stored as the central square of the calibration's image.
        edge = min(camera.size)
        pixels = camera.project(pose) - [(s - edge) // 2 for s in camera.size]
        factor = width / edge, height / edge
    else:
        pixels = camera.project(pose)
    left = image.copy()
    draw_skeleton(left, (pixels + 0.5) * factor - 0.5, max(2, height // 130), outline=(255, 255, 255))
    both = np.hstack([left, _panel(pose, height)])
    for x, text in ((8, caption), (width + 8, "right"), (width + 58, "left")):
        colour = (255, 255, 255) if x == 8 else _BGR[text]
        cv2.putText(both, text, (x, height - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    return both
