"""The page on joints says what the skeleton is, and its picture is the one that the script draws."""

import re
from pathlib import Path

import cv2
import draw_joints
import numpy as np

from agego_lib.skeleton import COMMON_BONE_LENGTHS, JOINT_NAMES, PARENTS
from agego_video.predict import OUTPUTS

PAGE = (Path(__file__).resolve().parents[1] / "docs/joints.md").read_text()


def test_the_table_is_the_skeleton():
    rows = re.findall(r"\| (\d+) \| (\w+) \| (\d+|–) (?=\|)", PAGE)
    assert sorted((int(number), name, parent) for number, name, parent in rows) == [
        (i, name, str(PARENTS[i]) if i else "–") for i, name in enumerate(JOINT_NAMES)
    ]
    assert all(f"`{name}`" in PAGE for name in OUTPUTS.values())


def test_the_picture_is_of_this_skeleton():
    image = cv2.imread(str(draw_joints.PICTURE))
    # Letters may differ from one OpenCV to the next; where the joints are does not.
    assert image.shape[1::-1] == draw_joints.SIZE and np.abs(image.astype(int) - draw_joints.draw()).mean() < 3
    pose = draw_joints.pose()
    lengths = np.linalg.norm(pose - pose[list(PARENTS)], axis=-1)[1:]
    np.testing.assert_allclose(lengths, COMMON_BONE_LENGTHS)
    # Seen from the front, the wearer's right is on the left.
    pixels = draw_joints.pixels(pose)
    right, left = (pixels[JOINT_NAMES.index(f"{side}_wrist"), 0] for side in ("right", "left"))
    assert right < left
