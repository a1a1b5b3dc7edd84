"""Readers, splits and the prepared store, on layouts that these tests write as the data sets' pages describe them."""

import json
import multiprocessing
import os
import pickle
import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import yaml
from conftest import lens

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import (
    DatasetError,
    FrameDataset,
    PreparedSequence,
    Sequence,
    WindowDataset,
    check_disjoint,
    prepare_dataset,
    read_egopw,
    read_prepared,
    read_sceneego,
    read_split,
    sequence_key,
    write_prepared,
)
from agego_lib.datasets.decoding import decode_image
from agego_lib.datasets.preparation import KINDS

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
SIZE = (160, 128)
CALIBRATION = {
    "size": list(SIZE),
    "intrinsic": [[500, 0, 82.5, 0], [0, 500, 66.0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "imageCircleRadius": 64,
    **dict(zip(("polynomialC2W", "polynomialW2C"), lens(-36.0, 0.0, 0.009, reach=80), strict=True)),
    "affine": [1, 0, 0],
}


@pytest.fixture
def calibration(tmp_path):
    path = tmp_path / "fisheye.json"
    path.write_text(json.dumps(CALIBRATION))
    return path


@pytest.fixture
def camera(calibration):
    return FisheyeCamera.from_json(calibration)


def frame(number, size=SIZE):
    """A smooth picture that differs from frame to frame."""
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.stack([u + number, v * 2, u + v + 7 * number], axis=-1).clip(0, 255).astype(np.uint8)


def write_frame(folder, number, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"img_{number:06d}.jpg"
    cv2.imwrite(str(path), frame(number, size), [cv2.IMWRITE_JPEG_QUALITY, 98])
    return path


def pose(seed):
    return np.random.default_rng(seed).normal([0, 0, 0.6], 0.3, (15, 3))


def pixels(seed):
    return np.random.default_rng(1000 + seed).uniform(0, SIZE, (15, 2))


def egopw_entry(number, key="joints_2d", **changes):
    entry = {"image_name": f"img_{number:06d}.jpg", "optimized_local_pose": pose(number), key: pixels(number)}
    return {**entry, **changes}


def sceneego_entry(ext_id, **changes):
    matrix = np.eye(4)
    entry = {"ext_id": ext_id, "ego_pose_gt": pose(ext_id), "calib_board_pose": matrix, "ext_pose_gt": pose(0)}
    return {**entry, "ego_camera_matrix": matrix, **changes}


def write_sequence(folder, entries, numbers, name="pseudo_gt.pkl", protocol=4, syn=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(entries, protocol))
    for number in numbers:
        write_frame(folder / "imgs", number)
    if syn is not None:
        (folder / "syn.json").write_text(json.dumps(syn))
    return folder


# --- EgoPW ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["pseudo_gt.pkl", "pseudo.pkl"])
@pytest.mark.parametrize("key", ["joints_2d", "joints_2D"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_egopw_sorted_by_frame_number(tmp_path, file, key, protocol):
    numbers = [30, 4, 1_000_000, 5]
    folder = write_sequence(
        tmp_path / "anna" / "walk", [egopw_entry(n, key) for n in numbers], numbers, file, protocol=protocol
    )
    sequence = read_egopw(folder)
    assert (sequence.name, sequence.actor, sequence.dataset) == ("anna/walk", "anna", "egopw")
    assert sequence.frame_numbers.tolist() == sorted(numbers)
    assert sequence.frame_names == [f"img_{n:06d}.jpg" for n in sorted(numbers)]
    assert all(path.is_file() for path in sequence.frame_paths)
    assert sequence.joints_3d.dtype == sequence.joints_2d.dtype == np.float32
    np.testing.assert_array_equal(sequence.joints_3d, [pose(n).astype(np.float32) for n in sorted(numbers)])
    np.testing.assert_array_equal(sequence.joints_2d, [pixels(n).astype(np.float32) for n in sorted(numbers)])
    assert sequence.skipped == {} and sequence.actions is sequence.in_image is sequence.hidden is None


def test_egopw_every_fault_of_a_frame(tmp_path):
    nan_pose, nan_pixels, some_nan = pose(3), np.full((15, 2), np.nan), pixels(20)
    nan_pose[4, 1] = np.nan
    some_nan[2] = np.nan
    entries = [
        egopw_entry(1),
        egopw_entry(2),  # missing on disk
        egopw_entry(3, optimized_local_pose=nan_pose),
        egopw_entry(4, optimized_local_pose=None),
        egopw_entry(5, optimized_local_pose=pose(0)[:14]),
        egopw_entry(6, optimized_local_pose=np.full((15, 3), "x")),
        egopw_entry(7, joints_2d=None),
        egopw_entry(8, joints_2d=pixels(0).T),
        egopw_entry(9, joints_2d=nan_pixels),
        egopw_entry(1, optimized_local_pose=pose(99)),  # a second time
        egopw_entry(10),  # an empty file
        egopw_entry(11, optimized_local_pose=pose(11).tolist(), joints_2d=pixels(11).tolist()),  # lists are fine
        egopw_entry(12, optimized_local_pose=[[0, 0]] * 15),
        egopw_entry(13, image_name="../imgs/img_000013.jpg"),
        egopw_entry(14, image_name="/etc/passwd"),
        egopw_entry(15, image_name="frame_15.jpg"),
        egopw_entry(16, image_name=None),
        "not a dict",
        egopw_entry(17, optimized_local_pose=np.full((15, 3), np.inf)),
        egopw_entry(20, joints_2d=some_nan),  # one joint without a pixel is fine
    ]
    on_disk = [1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 20, 50]
    folder = write_sequence(tmp_path / "a" / "s", entries, on_disk)
    (folder / "imgs" / "img_000010.jpg").touch()
    (folder / "imgs" / "Thumbs.db").touch()
    sequence = read_egopw(folder)
    assert sequence.frame_numbers.tolist() == [1, 11, 20]
    np.testing.assert_array_equal(sequence.joints_3d[0], pose(1).astype(np.float32))
    assert np.isnan(sequence.joints_2d[2, 2]).all() and np.isnan(sequence.joints_2d).sum() == 2
    expected = {
        "img_000002.jpg": "missing on disk",
        "img_000003.jpg": "optimized_local_pose holds NaN or infinite values",
        "img_000004.jpg": "optimized_local_pose is None",
        "img_000005.jpg": "optimized_local_pose is a float64 array of shape (14, 3), not (15, 3) numbers",
        "img_000006.jpg": "optimized_local_pose is a <U1 array of shape (15, 3), not (15, 3) numbers",
        "img_000007.jpg": "no joints_2d",
        "img_000008.jpg": "joints_2d is a float64 array of shape (2, 15), not (15, 2) numbers",
        "img_000009.jpg": "joints_2d holds no finite pixel",
        "img_000001.jpg (annotation 9)": "repeated annotation: the frame's first one counts",
        "img_000010.jpg": "empty file",
        "img_000012.jpg": "optimized_local_pose is a list of another shape, not (15, 3) numbers",
        "../imgs/img_000013.jpg": "image_name is not of the form img_%06d.jpg: '../imgs/img_000013.jpg'",
        "/etc/passwd": "image_name is not of the form img_%06d.jpg: '/etc/passwd'",
        "frame_15.jpg": "image_name is not of the form img_%06d.jpg: 'frame_15.jpg'",
        "annotation 16": "image_name is not of the form img_%06d.jpg: a NoneType",
        "annotation 17": "annotation is a str, not a dict",
        "img_000017.jpg": "optimized_local_pose holds NaN or infinite values",
        "img_000013.jpg": "no annotation",
        "img_000050.jpg": "no annotation",
    }
    assert sequence.skipped == expected
    assert not set(sequence.skipped) & set(sequence.frame_names)


def test_whole_sequence_faults_name_the_file(tmp_path):
    with pytest.raises(DatasetError, match="no such sequence directory"):
        read_egopw(tmp_path / "absent")
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(1)], [])
    with pytest.raises(DatasetError, match=r"s/imgs: not readable"):
        read_egopw(folder)
    write_frame(folder / "imgs", 2)
    with pytest.raises(
        DatasetError, match=r"pseudo_gt\.pkl: no usable frame among 1 annotations and 1 .*missing on disk"
    ):
        read_egopw(folder)
    annotations = folder / "pseudo_gt.pkl"
    for content, said in [
        (pickle.dumps([]), "an empty list"),
        (pickle.dumps({"a": 1}), "holds a dict"),
        (pickle.dumps([egopw_entry(1)])[:100], "not a whole pickle"),
        (pickle.dumps(os.getcwd), "getcwd"),
    ]:
        annotations.write_bytes(content)
        with pytest.raises(DatasetError, match=rf"pseudo_gt\.pkl.*{said}"):
            read_egopw(folder)
    annotations.unlink()
    with pytest.raises(DatasetError, match=r"no annotation file; expected pseudo_gt\.pkl or pseudo\.pkl"):
        read_egopw(folder)


# --- SceneEgo ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["local_pose_gt.pkl", "annotation.pkl"])
def test_sceneego_frames_by_synchronisation(tmp_path, camera, file):
    # id = ext_id - ext + ego
    entries = [
        sceneego_entry(112),
        sceneego_entry(110, image_name="img_000015.jpg"),
        sceneego_entry(np.int64(111), image_name=None),
        sceneego_entry(113, ego_pose_gt=None),
        sceneego_entry(114, image_name="../img_000019.jpg"),
        sceneego_entry(115, image_name="img_000030.jpg"),  # ext_id says 20
        sceneego_entry(116),  # missing on disk
        sceneego_entry(3),  # before the first frame
        {**sceneego_entry(117), "ext_id": "117"},
        sceneego_entry(112),
    ]
    folder = write_sequence(
        tmp_path / "diogo2", entries, [15, 16, 17, 18, 19, 20, 22], file, syn={"ego": 5, "ext": 100}
    )
    sequence = read_sceneego(folder, camera)
    assert (sequence.name, sequence.actor, sequence.dataset) == ("diogo2", "diogo", "sceneego")
    assert sequence.frame_numbers.tolist() == [15, 16, 17]
    poses = [pose(110), pose(111), pose(112)]
    np.testing.assert_array_equal(sequence.joints_3d, np.float32(poses))
    # The published projection, written out.
    x, y, z = np.moveaxis(np.array(poses), -1, 0)
    r = np.sqrt(x**2 + y**2)
    theta = np.arctan(-z / r)
    rho = sum(b * theta**i for i, b in enumerate(CALIBRATION["polynomialW2C"]))
    np.testing.assert_allclose(sequence.joints_2d, np.stack([x / r * rho + 82.5, y / r * rho + 66], -1), atol=1e-4)
    kinds = {name: reason.split(":")[0] for name, reason in sequence.skipped.items()}
    assert kinds == {
        "img_000018.jpg": "ego_pose_gt is None",
        "../img_000019.jpg": "image_name is not of the form img_%06d.jpg",
        "img_000030.jpg": "missing on disk",
        "img_000021.jpg": "missing on disk",
        "annotation 7": "ext_id before the first frame",
        "annotation 8": "no whole number under ext_id",
        "img_000017.jpg (annotation 9)": "repeated annotation",
        "img_000019.jpg": "no annotation",
        "img_000020.jpg": "no annotation",
        "img_000022.jpg": "no annotation",
    }
    assert sequence.notes == [
        "image_name and ext_id name different frames in 1 of 2 annotations, by +10 to +10 "
        "(first: img_000030.jpg is number 20 by ext_id); image_name counts"
    ]


def test_sceneego_without_or_with_bad_synchronisation(tmp_path, camera):
    named = [sceneego_entry(i, image_name=f"img_{i:06d}.jpg") for i in (3, 4)]
    assert read_sceneego(write_sequence(tmp_path / "a1", named, [3, 4], "annotation.pkl"), camera).frame_numbers[1] == 4
    folder = write_sequence(tmp_path / "b1", [sceneego_entry(3)], [3], "annotation.pkl")
    with pytest.raises(DatasetError, match=r"syn\.json: missing"):
        read_sceneego(folder, camera)
    for text in ('{"ego": 1}', "[1, 2]", '{"ego": 1.5, "ext": 2}', "{", '{"ego": true, "ext": 2}'):
        (folder / "syn.json").write_text(text)
        with pytest.raises(DatasetError, match=r"syn\.json: no"):
            read_sceneego(folder, camera)


def published_clock(ext_id, ego, ext):
    """EgoWholeMocap's reader, as described of it: the frame number, or None for an annotation it skips."""
    if ext_id < ext:
        return None
    number = ext_id - ext + ego
    number += (ext_id - ext) // 1000
    return number + 1 if (ext_id - ext) % 1000 > 500 else number


@pytest.mark.parametrize("clock", ["sceneego", "egowholemocap"])
def test_sceneego_clock(tmp_path, camera, clock):
    ext_ids = [99, 100, 101, 600, 601, 1099, 1100, 1600, 1601, 2100]
    if clock == "sceneego":
        expected = {i: i - 100 + 5 for i in ext_ids}
    else:
        expected = {i: published_clock(i, 5, 100) for i in ext_ids}
    numbers = sorted(n for n in expected.values() if n is not None)
    assert len(set(numbers)) == len(numbers)
    entries = [sceneego_entry(i) for i in ext_ids]
    folder = write_sequence(tmp_path / "a1", entries, numbers, "annotation.pkl", syn={"ego": 5, "ext": 100})
    sequence = read_sceneego(folder, camera, clock=clock)
    assert sequence.frame_numbers.tolist() == numbers and sequence.notes == []
    used = {n: i for i, n in expected.items() if n is not None}
    np.testing.assert_array_equal(sequence.joints_3d, np.float32([pose(used[n]) for n in numbers]))
    early = [
        reason for reason in sequence.skipped.values() if reason.startswith("ext_id before the synchronised start")
    ]
    assert len(early) == (clock == "egowholemocap")
    with pytest.raises(ValueError, match="clock 'drift'; expected one of sceneego, egowholemocap"):
        read_sceneego(folder, camera, clock="drift")
    # A name counts for more than any clock, and what it says of the clock is told once.
    entries = [sceneego_entry(i, image_name=f"img_{published_clock(i, 5, 100):06d}.jpg") for i in ext_ids[1:]]
    numbers = [published_clock(i, 5, 100) for i in ext_ids[1:]]
    folder = write_sequence(tmp_path / "b1", entries, numbers, "annotation.pkl", syn={"ego": 5, "ext": 100})
    sequence = read_sceneego(folder, camera, clock=clock)
    assert sequence.frame_numbers.tolist() == numbers and sequence.skipped == {}
    said = "image_name and ext_id name different frames in 6 of 9 annotations, by +1 to +2 (first: img_000507.jpg"
    assert [note.startswith(said) for note in sequence.notes] == [True] * (clock == "sceneego")


def test_the_other_clock_is_for_the_test_split_alone(tmp_path, calibration):
    root = tmp_path / "sceneego"
    for split in ("train", "test"):
        folder = root / split / "diogo1"
        entries = [sceneego_entry(i) for i in (100, 601)]
        write_sequence(folder, entries, [0, 501, 502], "local_pose_gt.pkl", syn={"ego": 0, "ext": 100})
        (root / f"{split}.txt").write_text(f"{split}/diogo1\n")
    found = {}
    for clock in ("sceneego", "egowholemocap"):
        options = {"kind": "sceneego", "allow_shared_actors": True, "clock": clock}
        prepare(root, calibration, tmp_path / clock, **options)
        for split in ("train", "test"):
            (sequence,) = read_prepared(tmp_path / clock, split)
            found[clock, split] = sequence.frame_numbers.tolist()
    assert found.pop(("egowholemocap", "test")) == [0, 502]
    assert all(numbers == [0, 501] for numbers in found.values()) and len(found) == 3


# --- frames as converted copies have them ----------------------------------------------------------------------------


SPELLINGS = ["img_000012.jpg", "img_12.jpg", "img_000012.JPG", "IMG_000012.jpeg", "img_0000012.png", "img_012.PNG"]


@pytest.mark.parametrize("on_disk", SPELLINGS)
@pytest.mark.parametrize("given", SPELLINGS[::2])
def test_frame_names_in_other_spellings(tmp_path, camera, on_disk, given):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(3), egopw_entry(12, image_name=given)], [3])
    cv2.imwrite(str(folder / "imgs" / on_disk), frame(12))
    for number in (3, 12):
        (folder / "imgs" / f"._img_{number:06d}.jpg").write_bytes(b"\0\5\x16\7 Mac OS X")
    (folder / "actions.csv").write_text("frame,action\nimg_000003.jpg,sit\nimg_000012.jpg,walk\n")
    np.savez(
        folder / "visibility.npz", frame_names=["img_3.jpg", "img_12.png"], hidden=np.arange(30).reshape(2, 15) < 15
    )
    sequence = read_egopw(folder)
    assert sequence.frame_numbers.tolist() == [3, 12] and sequence.frame_names == ["img_000003.jpg", on_disk]
    assert sequence.skipped == {} and sequence.notes == [] and sequence.actions == ["sit", "walk"]
    assert sequence.hidden.all(axis=1).tolist() == [True, False]
    assert write_prepared(tmp_path / "s.h5", sequence, camera, InputView(SIZE, 128))["frames"] == 2
    seen = PreparedSequence(tmp_path / "s.h5").images([1])[0].astype(float)
    assert np.abs(seen - cv2.resize(frame(12)[..., ::-1], (128, 128), interpolation=cv2.INTER_AREA)).mean() < 4


def test_two_files_of_one_number_are_left_out_with_both_names(tmp_path):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(n) for n in (1, 2)], [1, 2])
    for name in ("img_2.jpg", "img_000002.png"):
        cv2.imwrite(str(folder / "imgs" / name), frame(2))
    sequence = read_egopw(folder)
    assert sequence.frame_numbers.tolist() == [1]
    (reason,) = sequence.skipped.values()
    assert reason.startswith("two files claim one frame number: ") and "and 1 more" in reason
    assert sum(name in reason for name in ("img_000002.jpg", "img_2.jpg", "img_000002.png")) == 2


def test_names_that_are_not_understood_are_shown_beside_one_that_is_expected(tmp_path):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(n) for n in (1, 2)], [1, 2])
    (folder / "imgs" / "cover.jpg").write_bytes(b"")
    (note,) = read_egopw(folder).notes
    assert "'img_000012.jpg'" in note and "'cover.jpg'" in note
    for number in (1, 2):
        (folder / "imgs" / f"img_{number:06d}.jpg").rename(folder / "imgs" / f"frame_{number}.jpg")
    (folder / "imgs" / "cover.jpg").unlink()
    expected = r"named as 'img_000012\.jpg' under imgs/.*; 'frame_1\.jpg' and 1 more there are not named so"
    with pytest.raises(DatasetError, match=expected):
        read_egopw(folder)


def png_with(data, kind, content):
    """The PNG with one more chunk before its pixels."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]


def test_images_of_other_kinds(tmp_path):
    grey = frame(3)[..., 1]
    whole = cv2.imencode(".png", frame(3))[1].tobytes()
    turned = png_with(whole, b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), 1).shape == (160, 128, 3)  # OpenCV would turn it
    jpeg = cv2.imencode(".jpg", frame(3))[1].tobytes()
    behind = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(5000) + b"\xff\xda\xff\xd8" * 200
    progressive = cv2.imencode(".jpg", frame(3), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3])[1]
    # A preview in the header has an end marker of its own.
    preview = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(jpeg) + 8) + b"Exif\0\0" + jpeg + jpeg[2:]
    three = np.repeat(grey[..., None], 3, axis=2)
    cases = {
        "motion photo": (jpeg + behind, frame(3), 4),
        "progressive": (progressive.tobytes(), frame(3), 4),
        "preview": (preview, frame(3), 4),
        "grey jpeg": (cv2.imencode(".jpg", grey)[1].tobytes(), three, 4),
        "png": (whole, frame(3), 0),
        "turned png": (turned, frame(3), 0),
        "grey png of 16 bits": (cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes(), three, 0),
        "png with transparency": (cv2.imencode(".png", np.dstack([frame(3), grey]))[1].tobytes(), frame(3), 0),
    }
    for name, (data, expected, tolerance) in cases.items():
        (tmp_path / "f").write_bytes(data)
        image = decode_image(tmp_path / "f", InputView(SIZE).check_size)
        assert image.shape == expected.shape and image.dtype == np.uint8, name
        assert np.abs(image.astype(float) - expected).mean() <= tolerance, name
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    for data, said in [
        (preview[:-200], "truncated JPEG"),
        (jpeg[:-40] + behind, "truncated JPEG"),
        (whole[:-12], "truncated PNG"),
        (whole[: len(whole) // 2], "truncated PNG"),
        (bytes(damaged), "damaged PNG"),
        (b"GIF89a", "not a JPEG or PNG"),
        (cv2.imencode(".png", frame(3, (90, 90)))[1].tobytes(), "wrong size: image of 90x90 px"),
    ]:
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(ValueError, match=said):
            decode_image(tmp_path / "f", InputView(SIZE).check_size)


# --- side files ----------------------------------------------------------------------------------------------------


def test_side_files(tmp_path):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(n) for n in (1, 2, 3)], [1, 2, 3])
    (folder / "actions.csv").write_text("frame,action\nimg_000003.jpg,walk\nimg_000001.jpg,sit\nimg_000002.jpg,\n")
    flags = np.random.default_rng(0).random((2, 4, 15)) < 0.5
    names = np.array([f"img_{n:06d}.jpg" for n in (3, 9, 1, 2)])
    np.savez(folder / "visibility.npz", frame_names=names, in_image=flags[0], hidden=flags[1])
    sequence = read_egopw(folder)
    assert sequence.actions == ["sit", None, "walk"]
    np.testing.assert_array_equal(sequence.in_image, flags[0][[2, 3, 0]])
    np.testing.assert_array_equal(sequence.hidden, flags[1][[2, 3, 0]])


@pytest.mark.parametrize("text", ["frame;action\n", "", "frame,action\na\n", "frame,action\na,b\na,c\n"])
def test_bad_actions(tmp_path, text):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(1)], [1])
    (folder / "actions.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"actions\.csv"):
        read_egopw(folder)


def test_bad_visibility(tmp_path):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(1)], [1])
    path, name = folder / "visibility.npz", np.array(["img_000001.jpg"])
    for arrays in [
        {"in_image": np.ones((1, 15), bool)},
        {"frame_names": name, "hidden": np.ones((1, 14), bool)},
        {"frame_names": name, "hidden": np.ones((1, 15))},
        {"frame_names": np.array(["img_000002.jpg"]), "hidden": np.ones((1, 15), bool)},
        {"frame_names": np.array(["img_000001.jpg"], dtype=object)},  # needs pickle
    ]:
        np.savez(path, **arrays)
        with pytest.raises(DatasetError, match=r"visibility\.npz"):
            read_egopw(folder)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DatasetError, match=r"visibility\.npz"):
        read_egopw(folder)


def test_depth_of_the_scene(tmp_path, camera):
    """Read by frame, kept in the view: each pixel has the nearest one of the image, 0 where nothing is known."""
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(n) for n in (1, 2, 3)], [1, 2, 3])
    maps = np.random.default_rng(0).uniform(0.5, 3, (4, 64, 80)).astype(np.float32)
    maps[1, :, :40], maps[2, :, 40:] = np.nan, -1
    np.savez(folder / "depth.npz", frame_names=[f"img_{n:06d}.jpg" for n in (3, 9, 1, 2)], distance=maps)
    sequence = read_egopw(folder)
    np.testing.assert_array_equal(sequence.depth, maps[[2, 3, 0]])
    for crop in ("none", "square", "fovea"):
        view = InputView.of(camera, 96, crop)
        write_prepared(tmp_path / f"{crop}.h5", sequence, camera, view)
        found = PreparedSequence(tmp_path / f"{crop}.h5").depth
        assert found.shape == (3, 24, 24) and found.dtype == np.float16
        known = 0
        for v, u in np.ndindex(24, 24):
            at = view.to_full(np.array([u, v]), 24)
            value = np.zeros(3)
            if camera.in_image(at) and np.abs(view.to_view(at, 24) - (u, v)).max() < 0.5:
                x, y = np.floor((at + 0.5) / 2).astype(int)  # the maps are half as large
                value = np.where(sequence.depth[:, y, x] > 0, sequence.depth[:, y, x], 0)
                known += 1
            np.testing.assert_array_equal(found[:, v, u], value.astype(np.float16))
        assert known > 200
    sequence.depth = None
    write_prepared(tmp_path / "without.h5", sequence, camera, InputView(SIZE, 96))
    assert PreparedSequence(tmp_path / "without.h5").depth is None


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (np.ones((1, 15)), r"'distance' is float64 of shape \(1, 15\); expected float \(1, any, any\)"),
        (np.ones((2, 8, 10)), "expected float"),
        (np.ones((1, 8, 10), np.uint16), "'distance' is uint16"),
        (np.full((1, 8, 10), 1600.0), "not in metres.*1600.*Divide millimetres"),
        (None, "no maps in 'distance'"),
    ],
)
def test_bad_depth(tmp_path, distance, said):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(1)], [1])
    arrays = {} if distance is None else {"distance": distance}
    np.savez(folder / "depth.npz", frame_names=["img_000001.jpg"], **arrays)
    with pytest.raises(DatasetError, match=rf"depth\.npz: .*{said}"):
        read_egopw(folder)


def test_depth_of_another_shape_than_the_image(tmp_path, camera):
    folder = write_sequence(tmp_path / "a" / "s", [egopw_entry(1)], [1])
    np.savez(folder / "depth.npz", frame_names=["img_000001.jpg"], distance=np.ones((1, 64, 64)))
    with pytest.raises(DatasetError, match=r"depth\.npz: maps of 64x64 px; expected .* 160x128"):
        write_prepared(tmp_path / "s.h5", read_egopw(folder), camera, InputView(SIZE, 32))


# --- splits --------------------------------------------------------------------------------------------------------


def test_split_lists(tmp_path):
    for name in ("a/s1", "a/s2", "b/s1"):
        (tmp_path / name).mkdir(parents=True)
    split = tmp_path / "train.txt"
    split.write_text("# training\n\na/s2  # the second\r\n a/s1/ \n")
    assert read_split(split, tmp_path) == [tmp_path / "a/s2", tmp_path / "a/s1"]
    for text, said in [
        ("a/s1\nc/s9\n", "line 2: 'c/s9' is no directory"),
        ("a/../b/s1", "line 1: .*leaves"),
        ("..\\x", "leaves"),
        ("C:/x", "line 1: 'C:/x' is no directory"),
        ("/etc", "line 1: '/etc' is no directory"),
        (str(tmp_path / "a"), "line 1: .* is no directory"),  # an end that is there, but no sequence
        ("a/s1\na//s1", "line 2: .*already in line 1"),
        ("# nothing\n", "lists no sequence"),
    ]:
        split.write_text(text)
        with pytest.raises(DatasetError, match=rf"train\.txt.*{said}"):
            read_split(split, tmp_path)
    with pytest.raises(DatasetError, match=r"absent\.txt"):
        read_split(tmp_path / "absent.txt", tmp_path)


def test_lists_made_elsewhere(tmp_path):
    root = tmp_path / "EgoPW"
    for name in ("a/s1", "a/s2", "b/s1", "s1"):
        (root / name / "imgs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    split = tmp_path / "train.txt"
    for line in [
        "a/s1", "a\\s1", "a/s1/imgs", "a\\s1\\imgs\\", "EgoPW/a/s1", "EgoPW\\a\\s1", "./a/s1", str(root / "a/s1"),
        "/CT/home/x/EgoPW/a/s1", "/x/a/s1/imgs/", "X:\\data\\EgoPW\\a\\s1", "\\\\server\\share\\a\\s1",
    ]:  # fmt: skip
        for place in (root, tmp_path / "link"):
            split.write_text(f"b/s1\n{line}\n")
            assert read_split(split, place) == [place / "b/s1", place / "a/s1"], line
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
        mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
        split.write_bytes((mark + "# liste für EgoPW\r\na/s1\r\nb/s1\r\n").encode(encoding))
        assert read_split(split, root) == [root / "a/s1", root / "b/s1"], encoding
    split.write_bytes("a/s1\nb/s1\n".encode("utf-16-le"))
    with pytest.raises(DatasetError, match=r"train\.txt, line 1: .*UTF-16 without its mark.*save it as UTF-8"):
        read_split(split, root)
    split.write_bytes("für/s1\n".encode("latin1"))
    with pytest.raises(DatasetError, match=r"train\.txt: not readable as a split list \('utf-8'.*expected .*UTF-8"):
        read_split(split, root)
    (root / "c").symlink_to(root / "a")
    split.write_text("a/s1\nc/s1\n")
    with pytest.raises(DatasetError, match=r"line 2: 'c/s1' is listed already in line 1, as .*a/s1: both are the same"):
        read_split(split, root)


def test_the_published_lists_are_part_of_the_project(project):
    conf = yaml.safe_load((project / "conf/dataset/egopw.yaml").read_text())
    published, found = project.parent / "shared/published", {}
    for name in ("egopw", "sceneego"):
        for split in ("train", "test"):
            path = project / conf[name][f"{split}_list"]
            assert path == project / f"conf/splits/{split}_{name}.txt"
            found[name, split] = path.read_text().split()
            if published.is_dir():
                assert found[name, split] == (published / path.name).read_text().split()
    assert [len(lines) for lines in found.values()] == [47, 39, 5, 4]
    actors = {key: {KINDS[key[0]].actor_of(f"root/{line}") for line in lines} for key, lines in found.items()}
    assert len(actors["egopw", "train"]) == 6 and actors["egopw", "test"] == {"ayush", "kripa", "lingjie"}
    assert not actors["egopw", "train"] & actors["egopw", "test"]
    assert actors["sceneego", "test"] < actors["sceneego", "train"] == {"diogo", "jian", "pranay"}
    assert Path(conf["sceneego"]["calibration"]).name == "fisheye.calibration_05_08.json"
    assert Path(conf["egopw"]["calibration"]).name == "fisheye.calibration.json"


def test_a_new_folder_is_of_the_same_actor():
    assert [KINDS["egopw"].actor_of(f"r/{name}/office1") for name in ("chao", "chao_new", "_new")] == ["chao"] * 2 + [
        "_new"
    ]
    names = ("jian1", "jian12", "jian1_new", "jian_new2", "jian_new", "12")
    assert [KINDS["sceneego"].actor_of(f"r/test/{name}") for name in names] == ["jian"] * 5 + ["12"]


def test_disjoint_splits(tmp_path):
    def actor(path):
        return Path(path).parent.name

    check_disjoint(["r/a/s1", "r/b/s1"], ["r/c/s1"], actor)
    with pytest.raises(DatasetError, match=r"actors in both .*: a, b;"):
        check_disjoint(["r/a/s1", "r/b/s1"], ["r/b/s2", "r/a/s2"], actor)
    check_disjoint(["r/a/s1"], ["r/a/s2"], actor, allow_shared_actors=True)
    with pytest.raises(DatasetError, match="in both"):
        check_disjoint(["r/a/s1"], ["r/x/../a/s1"], actor, allow_shared_actors=True)
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(DatasetError, match="in both"):
        check_disjoint([tmp_path / "one"], [tmp_path / "link"], str, allow_shared_actors=True)


# --- the prepared store --------------------------------------------------------------------------------------------


def made_sequence(folder, numbers, **extra):
    return Sequence(
        name="anna/walk",
        actor="anna",
        frame_paths=[write_frame(folder / "imgs", n) for n in numbers],
        frame_numbers=np.array(numbers),
        joints_3d=np.float32([pose(n) for n in numbers]),
        joints_2d=np.float32([pixels(n) for n in numbers]),
        dataset="egopw",
        **extra,
    )


@pytest.mark.parametrize("crop", ["none", "square"])
@pytest.mark.parametrize("labelled", [True, False])
def test_store_round_trip(tmp_path, camera, crop, labelled):
    numbers = [2, 3, 7, 20]
    rng = np.random.default_rng(0)
    extra = {}
    if labelled:
        flags = rng.random((2, 4, 15)) < 0.5
        extra = {"actions": ["walk", None, "sit", "walk"], "in_image": flags[0], "hidden": flags[1]}
    sequence = made_sequence(tmp_path, numbers, **extra)
    sequence.joints_2d[1, 3] = np.nan
    sequence.skipped["img_000099.jpg"] = "missing on disk"
    view = InputView(SIZE, 64, crop)
    path, done = tmp_path / "out" / "walk.h5", []
    report = write_prepared(path, sequence, camera, view, quality=98, progress=done.append)
    assert report == {"frames": 4, "skipped": {"img_000099.jpg": "missing on disk"}} and sum(done) == 4
    assert [p.name for p in path.parent.iterdir()] == ["walk.h5"]

    stored = PreparedSequence(path)
    assert len(stored) == 4
    assert (stored.name, stored.actor, stored.dataset) == ("anna/walk", "anna", "egopw")
    assert stored.camera == camera and stored.view == view
    assert stored.frame_names == sequence.frame_names and stored.frame_numbers.tolist() == numbers
    np.testing.assert_array_equal(stored.joints_3d, sequence.joints_3d)
    np.testing.assert_array_equal(stored.joints_2d, sequence.joints_2d)
    assert stored.joints_3d.dtype == stored.joints_2d.dtype == stored.joints_view().dtype == np.float32
    # Pixel centres at whole numbers: the outer edges of image (or central square) and map coincide.
    x, y, side_u, side_v = (0, 0, 160, 128) if crop == "none" else (16, 0, 128, 128)
    for size in (64, 16):
        u = (sequence.joints_2d[..., 0] - x + 0.5) * size / side_u - 0.5
        v = (sequence.joints_2d[..., 1] - y + 0.5) * size / side_v - 0.5
        np.testing.assert_allclose(stored.joints_view(size), np.stack([u, v], -1), atol=1e-4)
    if labelled:
        assert stored.actions == extra["actions"]
        np.testing.assert_array_equal(stored.in_image, flags[0])
        np.testing.assert_array_equal(stored.hidden, flags[1])
    else:
        assert stored.actions is None and stored.hidden is None
        np.testing.assert_array_equal(stored.in_image, camera.in_image(sequence.joints_2d))
    images = stored.images([3, 0, -2])
    assert images.shape == (3, 64, 64, 3) and images.dtype == np.uint8
    for image, number in zip(images, [20, 2, 7], strict=True):
        whole = frame(number)[y : y + side_v, x : x + side_u, ::-1]  # written as BGR, read as RGB
        expected = cv2.resize(whole, (64, 64), interpolation=cv2.INTER_AREA)
        # JPEG halves the resolution of colour, so single pixels differ more than the picture does.
        assert np.abs(image.astype(float) - expected).mean() < 4
    np.testing.assert_array_equal(stored.images(slice(1, 3)), stored.images([1, 2]))
    assert stored.images([]).shape == (0, 64, 64, 3)
    with pytest.raises(IndexError):
        stored.images([4])


def test_store_is_reproducible(tmp_path, camera):
    sequence = made_sequence(tmp_path, [1, 2], actions=["b", "a"])
    for name in ("a.h5", "b.h5"):
        write_prepared(tmp_path / name, sequence, camera, InputView(SIZE, 32))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_frames_that_do_not_decode_whole(tmp_path, camera):
    sequence = made_sequence(tmp_path, [1, 2, 3, 4, 5, 6, 7, 8], actions=list("abcdefgh"))
    folder = tmp_path / "imgs"
    data = (folder / "img_000002.jpg").read_bytes()
    (folder / "img_000002.jpg").write_bytes(data[: len(data) // 2])
    (folder / "img_000003.jpg").write_bytes(b"GIF89a")
    (folder / "img_000004.jpg").unlink()
    write_frame(folder, 5, (100, 100))
    write_frame(folder, 6, (128, 128))  # stored as its central square: fine
    (folder / "img_000007.jpg").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    (folder / "img_000008.jpg").write_bytes(data + bytes(10))  # padded: fine
    report = write_prepared(tmp_path / "s.h5", sequence, camera, InputView(SIZE, 32))
    assert report["frames"] == 3
    kinds = {name: reason.split(":")[0] for name, reason in report["skipped"].items()}
    assert kinds == {
        "img_000002.jpg": "truncated JPEG",
        "img_000003.jpg": "not a JPEG or PNG",
        "img_000004.jpg": "not readable",
        "img_000005.jpg": "wrong size",
        "img_000007.jpg": "truncated JPEG",
    }
    stored = PreparedSequence(tmp_path / "s.h5")
    assert stored.frame_numbers.tolist() == [1, 6, 8] and stored.actions == ["a", "f", "h"]
    np.testing.assert_array_equal(stored.joints_3d, sequence.joints_3d[[0, 5, 7]])
    np.testing.assert_array_equal(stored.images([2])[0], cv2_view(data))
    for number in (1, 6, 8):
        (folder / f"img_{number:06d}.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match="none of its 8 frames"):
        write_prepared(tmp_path / "none.h5", sequence, camera, InputView(SIZE, 32))
    assert not list(tmp_path.glob("*none.h5*"))


def cv2_view(data):
    """What quality-95 storage makes of a frame's bytes at 32x32."""
    small = cv2.resize(cv2.imdecode(np.frombuffer(data, np.uint8), 1), (32, 32), interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], 1)[..., ::-1]


def _same_images(sequence, indices, expected):
    assert np.array_equal(sequence.images(indices), expected)


def test_store_in_other_processes(tmp_path, camera):
    write_prepared(tmp_path / "s.h5", made_sequence(tmp_path, range(1, 9)), camera, InputView(SIZE, 32))
    stored = PreparedSequence(tmp_path / "s.h5")
    images = stored.images(range(8))
    assert np.array_equal(pickle.loads(pickle.dumps(stored)).images([5]), images[[5]])
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_same_images, args=(stored, [i, 7 - i], images[[i, 7 - i]])) for i in range(4)]
    for child in children:
        child.start()
    for _ in range(20):
        assert np.array_equal(stored.images([3, 4]), images[[3, 4]])
    for child in children:
        child.join()
        assert child.exitcode == 0
    stored.close()
    assert np.array_equal(stored.images([0]), images[[0]])


def test_files_that_are_no_store(tmp_path, camera):
    path = tmp_path / "s.h5"
    with pytest.raises(DatasetError, match=r"s\.h5: no such .*dvc repro prepare"):
        PreparedSequence(path)
    path.write_bytes(b"something else")
    with pytest.raises(DatasetError, match=r"s\.h5: not readable as HDF5.*dvc repro prepare"):
        PreparedSequence(path)
    h5py.File(path, "w").close()
    with pytest.raises(DatasetError, match=r"s\.h5: format None.*dvc repro prepare"):
        PreparedSequence(path)
    write_prepared(path, made_sequence(tmp_path, [1]), camera, InputView(SIZE, 32))
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(DatasetError, match=r"s\.h5: version 99; expected .*dvc repro prepare"):
        PreparedSequence(path)
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 2
        del file.attrs["actor"]
    with pytest.raises(DatasetError, match=r"s\.h5: not a whole prepared sequence.*actor"):
        PreparedSequence(path)


# --- preparing a data set ------------------------------------------------------------------------------------------


@pytest.fixture
def egopw(tmp_path):
    """Three sequences, two actors: one good, one with a fault in each of two frames, one without annotations."""
    root = tmp_path / "egopw"
    write_sequence(root / "anna" / "walk", [egopw_entry(n) for n in range(1, 7)], range(1, 9))
    entries = [egopw_entry(n) for n in range(1, 6)] + [egopw_entry(6, optimized_local_pose=None)]
    write_sequence(root / "bert" / "sit", entries, range(1, 7))
    cut = root / "bert" / "sit" / "imgs" / "img_000001.jpg"
    cut.write_bytes(cut.read_bytes()[:-40])
    (root / "anna" / "empty" / "imgs").mkdir(parents=True)
    (root / "train.txt").write_text("anna/walk\nanna/empty\n")
    (root / "test.txt").write_text("bert/sit\n")
    return root


def prepare(root, calibration, out, kind="egopw", **options):
    options = {"size": 32, **options}
    return prepare_dataset(kind, root, root / "train.txt", root / "test.txt", calibration, out, **options)


@pytest.mark.slow
def test_prepare_writes_the_same_whatever_the_workers(tmp_path, egopw, calibration):
    """The same bytes, and the same progress in the end."""
    done = {1: [], 2: []}
    for workers in (1, 2):
        prepare(egopw, calibration, tmp_path / str(workers), workers=workers, progress=done[workers].append)
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path / "1", tmp_path / "2")]
    assert files[0] == files[1] and len(files[0]) == 3
    assert sum(done[1]) == sum(done[2]) == 14  # all on disk, those left out too


def test_prepare_counts_everything(tmp_path, egopw, calibration):
    report = prepare(egopw, calibration, tmp_path / "out")
    assert report["train"]["frames"] == 6 and report["test"]["frames"] == 4
    assert report["train"]["skipped"] == {"anna/walk": {"no annotation": 2}}
    assert report["test"]["skipped"] == {"bert/sit": {"optimized_local_pose is None": 1, "truncated JPEG": 1}}
    assert list(report["train"]["failed"]) == ["anna/empty"] and not report["test"]["failed"]
    assert "pseudo_gt.pkl" in report["train"]["failed"]["anna/empty"]
    assert report["skipped_share"] == pytest.approx(2 / 12)
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert splits["kind"] == "egopw" and splits["report"] == report
    assert splits["splits"] == {"train": ["train/anna__walk.h5"], "test": ["test/bert__sit.h5"]}
    (train,), (test,) = read_prepared(tmp_path / "out", "train"), read_prepared(tmp_path / "out", "test")
    assert (train.name, test.name) == ("anna/walk", "bert/sit")
    assert train.frame_numbers.tolist() == [1, 2, 3, 4, 5, 6] and test.frame_numbers.tolist() == [2, 3, 4, 5]
    # Every annotated frame is written or counted.
    counted = Counter()
    for split in ("train", "test"):
        counted.update(*report[split]["skipped"].values())
    assert 6 + 4 + counted.total() - counted["no annotation"] == 12


def test_prepare_refuses_too_many_faults(tmp_path, egopw, calibration):
    out = tmp_path / "out"
    prepare(egopw, calibration, out)
    with pytest.raises(DatasetError, match=r"2 of 12 annotated frames .*1 x truncated JPEG.* max_skipped = 0\.1"):
        prepare(egopw, calibration, out, max_skipped=0.1)
    with pytest.raises(DatasetError, match="not completely prepared"):
        read_prepared(out, "train")


def test_prepare_checks_the_splits(tmp_path, egopw, calibration):
    (egopw / "test.txt").write_text("bert/sit\nanna/walk\n")
    with pytest.raises(DatasetError, match="both the training and the test list"):
        prepare(egopw, calibration, tmp_path / "out", allow_shared_actors=True)
    (egopw / "test.txt").write_text("anna/walk\n")
    (egopw / "train.txt").write_text("bert/sit\nanna/empty\n")
    with pytest.raises(DatasetError, match=r"actors in both .*anna"):
        prepare(egopw, calibration, tmp_path / "out")
    report = prepare(egopw, calibration, tmp_path / "out", allow_shared_actors=True, limit_sequences=1)
    assert not report["train"]["failed"]
    (egopw / "train.txt").write_text("anna/empty\n")
    with pytest.raises(DatasetError, match=r"no usable sequence in the train list.*pseudo_gt\.pkl"):
        prepare(egopw, calibration, tmp_path / "out", allow_shared_actors=True)
    with pytest.raises(DatasetError, match="mo2cap2"):
        prepare(egopw, calibration, tmp_path / "out", kind="mo2cap2")
    with pytest.raises(DatasetError, match="not completely prepared"):
        read_prepared(tmp_path / "out", "train")


def test_prepare_sceneego_with_the_same_names_in_both_splits(tmp_path, calibration):
    root = tmp_path / "sceneego"
    for split in ("train", "test"):
        entries = [sceneego_entry(100 + n) for n in range(4)]
        folder = root / split / "diogo1"
        write_sequence(folder, entries, range(10, 14), "local_pose_gt.pkl", syn={"ego": 10, "ext": 100})
        (root / f"{split}.txt").write_text(f"{split}/diogo1\n")
    with pytest.raises(DatasetError, match="diogo"):
        prepare(root, calibration, tmp_path / "out", kind="sceneego")
    report = prepare(root, calibration, tmp_path / "out", kind="sceneego", allow_shared_actors=True, crop="square")
    assert report["train"]["frames"] == report["test"]["frames"] == 4
    assert read_prepared(tmp_path / "out", "test")[0].path == tmp_path / "out" / "test" / "diogo1.h5"
    with pytest.raises(DatasetError, match="no split 'val'"):
        read_prepared(tmp_path / "out", "val")


def test_names_that_would_share_a_file_are_refused_before_anything_is_made(tmp_path, egopw, calibration):
    for first, second in [("anna/b__c", "anna__b/c"), ("Anna/walk", "anna/walk"), ("Jos\u00e9/s", "Jose\u0301/s")]:
        for name in (first, second):
            (egopw / name).mkdir(parents=True, exist_ok=True)
        (egopw / "train.txt").write_text(f"{first}\n{second}\n")
        with pytest.raises(DatasetError, match=r"both in the train list, would be kept in one file") as caught:
            prepare(egopw, calibration, tmp_path / "out")
        assert all(str(egopw / name) in str(caught.value) for name in (first, second))
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sequence_knows_its_split_and_content(tmp_path, egopw, calibration):
    prepare(egopw, calibration, tmp_path / "out")
    content = json.loads((tmp_path / "out/splits.json").read_text())["content"]
    for split, name in (("train", "anna/walk"), ("test", "bert/sit")):
        (sequence,) = read_prepared(tmp_path / "out", split)
        key = sequence_key("egopw", split, name)
        assert (sequence.split, sequence.name, sequence.key) == (split, name, key)
        assert key == f"egopw/{split}/{name.replace('/', '__')}"
        assert content[f"{split}/{name.replace('/', '__')}.h5"] == sequence.content and len(sequence.content) == 64
        assert WindowDataset([sequence], 4, 2).describe(0)["sequence"] == key
        assert FrameDataset([sequence]).describe(1) == {"sequence": key, "frames": [1]}
    # The content says what is in the file, not where it lies.
    first = tmp_path / "out/train/anna__walk.h5"
    before = PreparedSequence(first).content
    prepare(egopw, calibration, tmp_path / "again")
    assert PreparedSequence(tmp_path / "again/train/anna__walk.h5").content == before
    prepare(egopw, calibration, tmp_path / "smaller", size=16)
    assert PreparedSequence(tmp_path / "smaller/train/anna__walk.h5").content != before
    first.replace(tmp_path / "out/test/bert__sit.h5")
    with pytest.raises(DatasetError, match=r"bert__sit\.h5: of the split 'train', not 'test'.*dvc repro prepare"):
        read_prepared(tmp_path / "out", "test")


def test_notes_are_carried_into_the_report(tmp_path, egopw, calibration):
    (egopw / "anna/walk/imgs/cover.jpg").write_bytes(b"")
    report = prepare(egopw, calibration, tmp_path / "out")
    (note,) = report["train"]["notes"].pop("anna/walk")
    assert "'cover.jpg'" in note and report["train"]["notes"] == report["test"]["notes"] == {}


def test_a_hundred_bad_sequences_make_a_message_that_can_be_read(tmp_path, egopw, calibration):
    names = [f"anna/bad{i:03d}" for i in range(100)]
    for i, name in enumerate(names):
        (egopw / name / "imgs").mkdir(parents=True)
        if i % 4 == 0:
            write_sequence(egopw / name, [egopw_entry(n) for n in range(i + 1)], [])
    (egopw / "train.txt").write_text("\n".join(names))
    with pytest.raises(DatasetError, match="no usable sequence in the train list") as caught:
        prepare(egopw, calibration, tmp_path / "out")
    message = str(caught.value)
    assert "75 x no annotation file" in message and "25 x no usable frame among N annotations" in message
    assert "bad000" in message and "bad002" in message and "bad003" not in message and "and 97 more" in message
    assert len(message) < 2500
    (egopw / "test.txt").write_text("\n".join(names))
    with pytest.raises(DatasetError, match=r"in both the training and the test list: .* and 97 more") as caught:
        prepare(egopw, calibration, tmp_path / "out")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("error", [
    BlockingIOError(11, "Unable to synchronously open file (unable to lock file, errno = 11)"),
    OSError(77, "Unable to synchronously open file (unable to lock file, errno = 77, 'No locks available')"),
    OSError(5, "Input/output error"), PermissionError(13, "Permission denied"),
])  # fmt: skip
def test_an_error_of_the_disk_is_not_called_damage(tmp_path, camera, monkeypatch, error):
    write_prepared(tmp_path / "s.h5", made_sequence(tmp_path, [1]), camera, InputView(SIZE, 32))
    opened = []

    def refuse(path, mode, **options):
        opened.append(options)
        raise error

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DatasetError, match=r"s\.h5: .*the disk's or the network's doing") as caught:
        PreparedSequence(tmp_path / "s.h5")
    assert "prepare the data again" not in str(caught.value) and str(error) in str(caught.value)
    assert opened == [{"locking": False}]


def test_files_are_opened_without_locks(tmp_path, camera):
    """A lock of another process, as HDF5 itself takes it, stops neither reading nor writing."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "s.h5"
    write_prepared(path, made_sequence(tmp_path, [1]), camera, InputView(SIZE, 32))
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            h5py.File(path, "r", locking=True)
        assert len(PreparedSequence(path)) == 1
        write_prepared(path, made_sequence(tmp_path, [1, 2]), camera, InputView(SIZE, 32))
    assert len(PreparedSequence(path)) == 2


# --- real frames ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="no real frames beside the repository")
def test_real_frames_in_a_sceneego_layout(tmp_path):
    camera = FisheyeCamera.from_json(REAL / "fisheye.calibration_05_08.json")
    folder = tmp_path / "jian1"
    (folder / "imgs").mkdir(parents=True)
    numbers = [1000, 1796, 2376]
    for number in numbers:
        shutil.copy(REAL / f"img_{number:06d}.jpg", folder / "imgs")  # a link out of the data set is refused
    write_sequence(
        folder, [sceneego_entry(n + 40) for n in numbers], [], "local_pose_gt.pkl", syn={"ego": 60, "ext": 100}
    )
    sequence = read_sceneego(folder, camera)
    view = InputView(camera.size, 256, "square")
    assert write_prepared(tmp_path / "s.h5", sequence, camera, view) == {"frames": 3, "skipped": {}}
    images = PreparedSequence(tmp_path / "s.h5").images(range(3))
    for image, number in zip(images, numbers, strict=True):
        whole = cv2.imread(str(REAL / f"img_{number:06d}.jpg"))[..., ::-1]
        left = (whole.shape[1] - 1024) // 2
        expected = cv2.resize(whole[:, left : left + 1024], (256, 256), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(float) - expected).mean() < 4
