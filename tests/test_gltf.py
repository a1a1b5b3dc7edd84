"""The glTF file, read by a loop that follows the standard: chunks, views, accessors, samplers, nodes, skin."""

import json
import struct

import numpy as np
import pytest
from test_bvh import in_file, moving, standing

from agego_lib.skeleton import JOINT_NAMES, SIDE_COLOURS, side
from agego_video.gltf import write_gltf

KINDS = {5121: ("B", 1), 5123: ("H", 2), 5126: ("f", 4)}
COUNTS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def parsed(path):
    """(the JSON part, all accessors' values (K, C)) of a .glb file, within bounds and aligned as the standard wants."""
    data = path.read_bytes()
    assert struct.unpack("<4s2I", data[:12]) == (b"glTF", 2, len(data))
    at, chunks = 12, []
    while at < len(data):
        size, kind = struct.unpack("<I4s", data[at : at + 8])
        assert size % 4 == 0
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size
    (first, text), (second, binary) = chunks
    assert (first, second, at) == (b"JSON", b"BIN\0", len(data))
    content, values = json.loads(text), []
    assert len(binary) - 3 <= content["buffers"][0]["byteLength"] <= len(binary)
    for accessor in content["accessors"]:
        view = content["bufferViews"][accessor["bufferView"]]
        letter, size = KINDS[accessor["componentType"]]
        columns = COUNTS[accessor["type"]]
        assert view["byteOffset"] % 4 == 0 and accessor["count"] * columns * size == view["byteLength"]
        part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        rows = np.array(struct.unpack(f"<{accessor['count'] * columns}{letter}", part)).reshape(-1, columns)
        np.testing.assert_array_equal(accessor["min"], rows.min(0))
        np.testing.assert_array_equal(accessor["max"], rows.max(0))
        values.append(rows)
    return content, values


def matrix(place, quaternion):
    x, y, z, w = quaternion
    found = np.eye(4)
    found[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    found[:3, 3] = place
    return found


def played(content, values):
    """(times (N,), world matrices (N, nodes, 4, 4)) of the animation at its key frames."""
    nodes, animation = content["nodes"], content["animations"][0]
    inputs = {sampler["input"] for sampler in animation["samplers"]}
    assert len(inputs) == 1
    times = values[inputs.pop()][:, 0]
    tracks = {}
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        assert sampler["interpolation"] == "LINEAR"
        tracks[channel["target"]["node"], channel["target"]["path"]] = values[sampler["output"]]
    for (_, kind), track in tracks.items():
        assert len(track) == len(times)
        if kind == "rotation":
            np.testing.assert_allclose(np.linalg.norm(track, axis=-1), 1, atol=1e-6)
            assert ((track[1:] * track[:-1]).sum(-1) >= 0).all()
    worlds = np.full((len(times), len(nodes), 4, 4), np.nan)

    def walk(node, above, frame):
        place = tracks[node, "translation"][frame] if (node, "translation") in tracks else np.zeros(3)
        turned = tracks[node, "rotation"][frame] if (node, "rotation") in tracks else (0, 0, 0, 1)
        worlds[frame, node] = above @ matrix(place, turned)
        for child in nodes[node].get("children", ()):
            walk(child, worlds[frame, node], frame)

    for frame in range(len(times)):
        for root in content["scenes"][content["scene"]]["nodes"]:
            walk(root, np.eye(4), frame)
    return times, worlds


def test_the_animation_is_the_poses(tmp_path):
    """At an uneven pace, bones of changing length and all; of two poses at one time the first is kept."""
    poses = moving(12)
    seconds = 5 + np.cumsum([0, 0.04, 0.04, 0.16, 0, 0.01, 0.3, 0.04, 0.04, 0.04, 0.04, 2.0])
    write_gltf(tmp_path / "motion.glb", poses, seconds)
    content, values = parsed(tmp_path / "motion.glb")
    times, worlds = played(content, values)
    kept = [i for i in range(12) if i != 4]
    np.testing.assert_allclose(times, seconds[kept] - 5, atol=1e-6)
    assert (np.diff(times) > 0).all() and times[0] == 0
    names = [node["name"] for node in content["nodes"]]
    found = worlds[..., :3, 3][:, [names.index(name) for name in JOINT_NAMES]]
    np.testing.assert_allclose(found, in_file(poses)[kept], atol=1e-5)


def test_the_body_follows_the_joints(tmp_path):
    """Skinned as the standard says, each bone's octahedron goes from joint to joint, in the colour of its side."""
    poses = moving(5)
    write_gltf(tmp_path / "motion.glb", poses, np.arange(5) / 30)
    content, values = parsed(tmp_path / "motion.glb")
    _, worlds = played(content, values)
    (primitive,) = content["meshes"][0]["primitives"]
    corners, colours, joints, weights = (
        values[primitive["attributes"][name]] for name in ("POSITION", "COLOR_0", "JOINTS_0", "WEIGHTS_0")
    )
    skin = content["skins"][0]
    back = values[skin["inverseBindMatrices"]].reshape(-1, 4, 4).swapaxes(-1, -2)
    np.testing.assert_allclose(weights.sum(-1), 1)
    # The skeleton at rest has the body where its corners are.
    rest = np.linalg.inv(back)
    for node, joint in enumerate(skin["joints"]):
        for child in content["nodes"][joint].get("children", ()):
            apart = rest[skin["joints"].index(child), :3, 3] - rest[node, :3, 3]
            np.testing.assert_allclose(apart, content["nodes"][child]["translation"], atol=1e-6)
    homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], axis=-1)
    for frame, pose in enumerate(in_file(poses)):
        shaders = worlds[frame][skin["joints"]] @ back
        moved = np.einsum("vk,vkij,vj->vi", weights, shaders[joints.astype(int)], homogeneous)[:, :3]
        centre = (pose[JOINT_NAMES.index("right_hip")] + pose[JOINT_NAMES.index("left_hip")]) / 2
        places = [*pose, centre]
        tips = moved.reshape(-1, 6, 3)[:, [0, 5]]
        # Every joint but the pelvis is the far tip of one bone.
        distance = np.linalg.norm(tips[:, 1, None] - np.array(places), axis=-1)
        assert distance.min(1).max() < 1e-5 and sorted(distance.argmin(1)) == [*range(15)]
        assert np.linalg.norm(tips[:, 0, None] - np.array(places), axis=-1).min(1).max() < 1e-5
        # Faces look outwards: the body encloses a positive volume.
        a, b, c = moved[values[primitive["indices"]][:, 0].astype(int).reshape(-1, 3)].swapaxes(0, 1)
        volume = (np.cross(a, b) * c).sum(-1).reshape(-1, 8).sum(-1)
        assert (volume > 0).all()
        for bone, joint in enumerate(distance.argmin(1)):
            colour = [int(SIDE_COLOURS[side(joint)][i : i + 2], 16) / 255 for i in (1, 3, 5)]
            # Linear light, about sRGB's curve.
            np.testing.assert_allclose(colours[6 * bone] ** (1 / 2.2), colour, atol=0.04)


def test_long_recordings_and_one_pose(tmp_path):
    for poses in (standing()[None], np.zeros((1, 15, 3)), np.tile(standing(), (5_000, 1, 1))):
        write_gltf(tmp_path / "motion.glb", poses, np.arange(len(poses)) / 30)
        data = (tmp_path / "motion.glb").read_bytes()
        size = struct.unpack("<I", data[12:16])[0]
        content = json.loads(data[20 : 20 + size])
        times = content["accessors"][content["animations"][0]["samplers"][0]["input"]]
        assert times["count"] == len(poses) and times["max"] == [np.float32((len(poses) - 1) / 30)]


def test_bad_poses_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected finite"):
        write_gltf(tmp_path / "motion.glb", np.full((2, 15, 3), np.nan), np.arange(2))
    assert not (tmp_path / "motion.glb").exists()
