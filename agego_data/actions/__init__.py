"""What people do, without motion capture: key poses of hands, trunk and feet, and the joint angles that reach them.

Everything is in leg lengths, on a floor at z = 0, with axes as in body.py: a person faces -y, x is to his left.
A pose says where the wrists go, how trunk and head turn and how low the pelvis is; feet and pelvis come from a posture
(stand, sit, kneel, ...). Any pose goes with any posture. Two-bone inverse kinematics finds arms and legs.
"""

from agego_data.actions.gestures import GESTURES
from agego_data.actions.postures import POSTURES
from agego_data.actions.rig import (
    ELBOW,
    HIP_BACK,
    KNEE,
    SHOULDER_BACK,
    Arm,
    Around,
    Pose,
    Rig,
    ease,
    quaternions,
    two_bones,
    vectors,
)
from agego_data.actions.solve import solve

__all__ = [
    "ELBOW",
    "GESTURES",
    "HIP_BACK",
    "KNEE",
    "POSTURES",
    "SHOULDER_BACK",
    "Arm",
    "Around",
    "Pose",
    "Rig",
    "ease",
    "quaternions",
    "solve",
    "two_bones",
    "vectors",
]
