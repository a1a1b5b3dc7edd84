"""Poses as glTF 2.0 (.glb), which viewers, browsers, Blender and game engines show without any setting.

Written by hand from the standard (Khronos, glTF 2.0): a skeleton of nodes, its animation, and a body of one octahedron
for each bone, whose corners follow the joints (a skin), so that bones change their length with the poses.
"""

import json
import struct

import numpy as np
from scipy.spatial.transform import Rotation

from agego_lib.skeleton import SIDE_COLOURS
from agego_video.rig import AXES, CHILDREN, NAMES, PARENTS, rest_direction, rig

_FLOAT, _BYTE, _SHORT = 5126, 5121, 5123
_KINDS = {_FLOAT: np.float32, _BYTE: np.uint8, _SHORT: np.uint16}
_SHAPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_VERTICES, _ELEMENTS = 34962, 34963  # what a graphics card gets them for
_RING, _THICK = 0.15, 0.07  # of a bone's length: where an octahedron is widest, and half how wide
# Of an octahedron: the tip at the parent, the ring, the tip at the child; all faces outwards.
_FACES = [face for i in range(4) for face in ((0, 1 + (i + 1) % 4, 1 + i), (5, 1 + i, 1 + (i + 1) % 4))]


class _Buffer:
    """The binary part, and what says where each array lies in it."""

    def __init__(self):
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, values, kind=_FLOAT, target=None):
        """Append an array (K,) or (K, C), and its least and greatest values -> the number of its accessor."""
        values = np.ascontiguousarray(values, _KINDS[kind])
        columns = values.reshape(len(values), -1)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes}
        self.views.append(view | ({"target": target} if target else {}))
        self.data += values.tobytes() + bytes(-values.nbytes % 4)
        self.accessors.append(
            {
                "bufferView": len(self.views) - 1,
                "componentType": kind,
                "count": len(values),
                "type": _SHAPES[columns.shape[1]],
                "min": columns.min(0).tolist(),
                "max": columns.max(0).tolist(),
            }
        )
        return len(self.accessors) - 1


def _linear(colour):
    """A colour "#rrggbb" -> linear RGB (3,), 0 to 1, from sRGB."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _body(rest, buffer):
    """The mesh of the bones at rest, places (J, 3) -> attributes and indices of its primitive."""
    corners, joints, colours, faces = [], [], [], []
    for child, parent in enumerate(PARENTS):
        direction = rest_direction(NAMES[child])
        if not direction.any():
            continue
        bone = rest[child] - rest[parent]
        x = np.cross(direction, np.eye(3)[np.abs(direction).argmin()])
        x /= np.linalg.norm(x)
        across = [x, np.cross(direction, x)]
        ring = [sign * axis * _THICK * np.linalg.norm(bone) for sign in (1, -1) for axis in across]
        faces += [[len(corners) + i for i in face] for face in _FACES]
        corners += [rest[parent], *(rest[parent] + bone * _RING + part for part in ring), rest[child]]
        # The parent points at the child, so that the ring stays across.
        joints += [parent] * 5 + [child]
        colours += [_linear(SIDE_COLOURS.get(NAMES[child].split("_")[0], SIDE_COLOURS["centre"]))] * 6
    attributes = {
        "POSITION": buffer.add(corners, target=_VERTICES),
        "COLOR_0": buffer.add(colours, target=_VERTICES),
        "JOINTS_0": buffer.add([[joint, 0, 0, 0] for joint in joints], _BYTE, _VERTICES),
        "WEIGHTS_0": buffer.add([[1.0, 0, 0, 0]] * len(joints), target=_VERTICES),
    }
    return {
        "attributes": attributes,
        "indices": buffer.add(np.ravel(faces), _SHORT, _ELEMENTS),
        "material": 0,
    }


def write_gltf(path, poses, seconds, axes=AXES, note=""):
    """Write poses (N, 15, 3), metres, at times (N,) in seconds, as a binary glTF file.

    Nodes are `rig.NAMES`; each has a place and a rotation for every pose, so that all joints are exact. Time is that of
    the poses, from the first one's, at any pace; viewers fill in linearly. Of poses with one time the first is kept.
    axes: (3, 3) from the poses' axes to glTF's (y up, z forward), by default from the camera's. note: a text to keep.
    Raises ValueError for poses as `rig` does.
    """
    motion = rig(poses, axes)
    times = (np.asarray(seconds) - seconds[0]).astype(np.float32)
    kept = np.concatenate([[True], times[1:] > np.maximum.accumulate(times)[:-1]])
    places = motion.local_places()[kept]
    turns = Rotation.from_matrix(motion.local_turns()[kept].reshape(-1, 3, 3)).as_quat()
    turns = turns.reshape(*places.shape[:2], 4)
    # q and -q are one rotation; viewers that do not take the shorter way round would spin through the longer one.
    flips = np.sign((turns[1:] * turns[:-1]).sum(-1, keepdims=True))
    turns[1:] *= np.cumprod(np.where(flips < 0, -1, 1), axis=0)

    buffer, rest = _Buffer(), motion.offsets.copy()
    for joint, parent in enumerate(PARENTS[1:], 1):
        rest[joint] += rest[parent]
    body = _body(rest, buffer)
    back = np.tile(np.eye(4), (len(NAMES), 1, 1))
    back[:, :3, 3] = -rest
    # Matrices are stored column by column.
    skin = buffer.add(back.swapaxes(-1, -2).reshape(-1, 16))
    time, samplers, channels = buffer.add(times[kept]), [], []
    for joint in range(len(NAMES)):
        for what, values in (("translation", places[:, joint]), ("rotation", turns[:, joint])):
            channels.append({"sampler": len(samplers), "target": {"node": joint, "path": what}})
            samplers.append({"input": time, "output": buffer.add(values), "interpolation": "LINEAR"})
    nodes = [
        {"name": name, "translation": motion.offsets[joint].tolist()}
        | ({"children": list(CHILDREN[joint])} if CHILDREN[joint] else {})
        for joint, name in enumerate(NAMES)
    ]
    content = {
        "asset": {"version": "2.0", "generator": "AG-EgoPose"} | ({"extras": {"note": note}} if note else {}),
        "scene": 0,
        "scenes": [{"nodes": [0, len(nodes)]}],
        "nodes": [*nodes, {"name": "body", "mesh": 0, "skin": 0}],
        "meshes": [{"primitives": [body]}],
        "materials": [
            {"doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}},
        ],
        "skins": [{"joints": list(range(len(NAMES))), "skeleton": 0, "inverseBindMatrices": skin}],
        "animations": [{"name": "motion", "samplers": samplers, "channels": channels}],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    parts = [(b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", bytes(buffer.data))]
    with open(path, "wb") as file:
        file.write(struct.pack("<4s2I", b"glTF", 2, 12 + sum(8 + len(data) for _, data in parts)))
        for kind, data in parts:
            file.write(struct.pack("<I4s", len(data), kind) + data)
