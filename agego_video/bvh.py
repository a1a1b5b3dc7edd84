"""Poses as BVH motion, which Blender and other animation programs open."""

import warnings

import numpy as np
from scipy.spatial.transform import Rotation

from agego_video.rig import AXES, CHILDREN, NAMES, rig

KINDS = ("rotations", "positions")


def _angles(rotations):
    """Rotations (N, ..., 3, 3) = Rz Rx Ry -> degrees (N, ..., 3) about z, x, y, with as small jumps as there can be.

    Programs fill in between frames angle by angle.
    """
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # gimbal lock: any split of the turn will do
        angles = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_euler("ZXY")
    angles = angles.reshape(rotations.shape[:-1])
    # Every rotation has two triples, and whole turns more of each.
    both = np.stack([angles, angles * (1, -1, 1) + np.pi])
    for frame in range(1, len(angles)):
        near = both[:, frame] + 2 * np.pi * np.round((angles[frame - 1] - both[:, frame]) / (2 * np.pi))
        away = np.abs(near - angles[frame - 1]).sum(-1, keepdims=True)
        angles[frame] = np.where(away[0] <= away[1], near[0], near[1])
    return np.degrees(angles)


def _hierarchy(offsets, positions, joint=0, depth=0):
    indent = "\t" * depth
    yield f"{indent}{'JOINT' if joint else 'ROOT'} {NAMES[joint]}"
    yield f"{indent}{{"
    yield f"{indent}\tOFFSET " + " ".join(f"{v:.6f}" for v in offsets[joint])
    placed = "6 Xposition Yposition Zposition" if positions or not joint else "3"
    yield f"{indent}\tCHANNELS {placed} Zrotation Xrotation Yrotation"
    for child in CHILDREN[joint]:
        yield from _hierarchy(offsets, positions, child, depth + 1)
    if not CHILDREN[joint]:
        # Only for show: wrists and toes end here.
        end = offsets[joint] * 0.4
        yield from (f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET " + " ".join(f"{v:.6f}" for v in end))
        yield f"{indent}\t}}"
    yield f"{indent}}}"


def write_bvh(path, poses, fps, axes=AXES, kind="rotations"):
    """Write poses (N, 15, 3), metres, one each 1 / fps seconds, as BVH -> how far off its joints are (N, 15), metres.

    The tree is `rig.NAMES`, rooted in the middle of the hips, units are metres, axes y up and z forward, so that the
    person is life-size and upright with Blender's default import. axes: (3, 3) from the poses' axes to these; by
    default from the camera's, which is the origin then and stays where it is.
    kind: "rotations": only the root is moved, every joint is at its OFFSET, as long as the bone's median, so that all
    programs show the same; predicted bones change their length a little, which is what gets lost. "positions": every
    joint has position channels too, its place in its parent's axes, which stand in place of OFFSET, as Blender reads
    them; nothing is lost, but programs that add them to OFFSET, or heed the root's alone, show something else.
    Raises ValueError for poses as `rig` does, and for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"BVH of kind '{kind}'; expected one of {', '.join(KINDS)}")
    motion, positions = rig(poses, axes), kind == "positions"
    places, angles = motion.local_places(), _angles(motion.local_turns())
    channels = [places[:, 0], angles[:, 0]]
    for joint in range(1, len(NAMES)):
        channels += [places[:, joint], angles[:, joint]] if positions else [angles[:, joint]]
    with open(path, "w") as file:
        file.write("\n".join(["HIERARCHY", *_hierarchy(motion.offsets, positions), "MOTION", f"Frames: {len(places)}"]))
        file.write(f"\nFrame Time: {1 / fps:.8f}\n")
        np.savetxt(file, np.concatenate(channels, axis=-1), fmt="%.6f")
    return np.zeros(places[:, :15, 0].shape) if positions else motion.misses()
