"""The 15-joint skeleton of EgoPW and SceneEgo: names, kinematic tree, left and right, colours."""

JOINT_NAMES = (
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "right_toe",
    "left_hip",
    "left_knee",
    "left_ankle",
    "left_toe",
)
NUM_JOINTS = len(JOINT_NAMES)

# Parent of each joint; the neck is the root and its own parent.
PARENTS = (0, 0, 1, 2, 0, 4, 5, 1, 7, 8, 9, 4, 11, 12, 13)

# Directed edges (parent, child) of the kinematic tree, the set B of Sec. 3.4.
BONES = tuple((parent, child) for child, parent in enumerate(PARENTS) if child != parent)

# Lengths (m) of BONES, in their order, of the skeleton that Mo2Cap2 (Xu et al., 2019) and its successors, such as
# SceneEgo, resize poses to (`mean3D.mat` of their repositories, which has joints in mm): see metrics.ba_mpjpe.
COMMON_BONE_LENGTHS = (
    0.146762, 0.220041, 0.144490, 0.147744, 0.224728, 0.147078, 0.454981,
    0.362098, 0.316054, 0.157179, 0.458426, 0.366159, 0.317777, 0.152772,
)  # fmt: skip

# (right, left) joint pairs, for mirroring.
LEFT_RIGHT_PAIRS = ((1, 4), (2, 5), (3, 6), (7, 11), (8, 12), (9, 13), (10, 14))

UPPER_BODY = (0, 1, 2, 3, 4, 5, 6)
LOWER_BODY = (7, 8, 9, 10, 11, 12, 13, 14)

# Okabe-Ito colours, which stay apart for colour-blind readers.
SIDE_COLOURS = {"right": "#D55E00", "left": "#0072B2", "centre": "#555555"}


def side(joint):
    """Side of the body that a joint index belongs to: "right", "left" or "centre"."""
    return JOINT_NAMES[joint].split("_")[0] if joint else "centre"


def bones(joints):
    """Bone vectors b_pc = X_c - X_p of Sec. 3.4, of BONES: array or tensor (..., 15, 3) -> (..., 14, 3).

    Raises ValueError for another number of joints.
    """
    if joints.shape[-2] != NUM_JOINTS:
        raise ValueError(f"{joints.shape[-2]} joints in {tuple(joints.shape)}; the skeleton has {NUM_JOINTS}")
    parents, children = zip(*BONES, strict=True)
    return joints[..., list(children), :] - joints[..., list(parents), :]
