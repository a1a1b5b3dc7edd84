"""Prediction of videos, streams and live frames, against the evaluation's own loop and against the whole model."""

import csv
import json
import re
import shutil
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import bvhio
import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import CAMERA, SIZE, shake

from agego_lib.camera import CalibrationError, InputView
from agego_lib.evaluation import predict_split
from agego_lib.images import to_tensor
from agego_lib.inference import LivePredictor, PoseStream
from agego_lib.models import (
    AGEgoPose,
    FrameEncoder,
    HeatmapEmbedding,
    HeatmapNet,
    MotionEncoder,
    PoseDecoder,
    WeightsError,
)
from agego_lib.models.build import ABLATIONS, load_model, save_model
from agego_lib.params import WindowSettings
from agego_lib.skeleton import JOINT_NAMES, SIDE_COLOURS, side
from agego_video import cameras, overlay, predict
from agego_video.rig import AXES
from agego_video.video import VideoError, VideoFile, VideoWriter, open_frames, render_video

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = WindowSettings(length=4, stride=2, step=3, max_gap=5)
VIEW = InputView(SIZE, 32, "none")
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Files as a user has them: (model.safetensors with its .json, calibration.json)."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    motion = {"heads": 4, "depth": 1, "local_blocks": 1, "window": 3, "drop_path": 0.0}
    decoder = {"layers": 1, "heads": 4, "dropout": 0.0, "norm_first": True, "memory_joint_embedding": True}
    net = shake(HeatmapNet(fpn_channels=(8, 8, 8, 8)))
    with torch.no_grad():
        net.output.bias.fill_(0.0)
    model = AGEgoPose(
        net,
        FrameEncoder("resnet18", "heatmap_encoder", heatmap_state=net.state_dict()),
        MotionEncoder(**motion, scale_init=0.5),
        HeatmapEmbedding(input_scale=10.0),
        PoseDecoder(**decoder, output_mean=torch.randn(15, 3) * 0.3),
    )
    config = {
        "input": {"size": VIEW.size, "crop": VIEW.crop},
        "window": {"length": WINDOW.length, "stride": WINDOW.stride, "step": WINDOW.step, "max_gap": WINDOW.max_gap},
        "fpn_channels": [8, 8, 8, 8],
        "backbone": "resnet18",
        "motion": motion,
        "decoder": decoder | {"input_scale": 10.0},
        "switches": {},
    }
    save_model(folder / "model.safetensors", model, config)
    (folder / "camera.json").write_text(CAMERA.to_json())
    return {"model": folder / "model.safetensors", "calibration": folder / "camera.json"}


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained["model"])[0]


def picture(number):
    rng = np.random.default_rng(number)
    image = np.full((SIZE[1], SIZE[0], 3), rng.integers(0, 120, 3), np.uint8)
    for _ in range(6):
        cv2.circle(image, rng.integers(10, 120, 2).tolist(), 12, rng.integers(0, 256, 3).tolist(), -1)
    return image


def write_folder(folder, numbers):
    folder.mkdir()
    for number in numbers:
        cv2.imwrite(str(folder / f"img_{number:06d}.jpg"), picture(number))
    return folder


def write_file(path, count, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, SIZE)
    for number in range(count):
        writer.write(picture(number))
    writer.release()
    return path


@dataclass
class Frames:
    """BGR frames as the evaluation takes a sequence."""

    frames: list
    frame_numbers: np.ndarray

    def __len__(self):
        return len(self.frames)

    def images(self, indices):
        return np.stack([cv2.cvtColor(VIEW.apply(self.frames[i]), cv2.COLOR_BGR2RGB) for i in indices])


def reference(model, frames, numbers=None):
    numbers = np.arange(len(frames)) if numbers is None else np.asarray(numbers)
    return predict_split(model, [Frames(frames, numbers)], WINDOW)[0]


def decoded(path):
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while True:
        frame = capture.read()[1]
        if frame is None:
            return frames
        frames.append(frame)


def times(path):
    """Seconds of a video's frames as FFmpeg tells them to OpenCV."""
    capture, seconds = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while capture.read()[0]:
        seconds.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return seconds


def write_stamped(path, milliseconds, codec="mpeg4"):
    """A video whose frames have the given time stamps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(picture(i), format="bgr24") for i in range(len(milliseconds))]
        packets = [packet for image in [*pictures, None] for packet in stream.encode(image)]
        for packet, stamp in zip(packets, milliseconds, strict=True):
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = stamp
            container.mux(packet)
    return path


def patched(path, source, box, offset, *values):
    """A copy of the MP4 `source` whose first box of that name has other 32-bit numbers from an offset of it on."""
    data = bytearray(source.read_bytes())
    struct.pack_into(f">{len(values)}i", data, data.index(box) - 4 + offset, *values)
    path.write_bytes(data)
    return path


def test_a_folder_with_gaps_and_damage(trained, model, tmp_path):
    """4 numbers are missing after 120, 7 after 140: only the second hole parts the windows."""
    numbers = [*range(100, 121), *range(125, 141), *range(148, 153)]
    folder = write_folder(tmp_path / "frames", numbers)
    whole = (folder / "img_000110.jpg").read_bytes()
    (folder / "img_000110.jpg").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(folder / "img_000130.jpg"), picture(0)[:50])
    (folder / "notes.txt").write_text("no frame")
    good = [n for n in numbers if n not in (110, 130)]
    expected = reference(model, [cv2.imread(str(folder / f"img_{n:06d}.jpg")) for n in good], good)

    result = predict.predict_video(folder, tmp_path / "out", **trained, fps=25, bvh="positions")
    np.testing.assert_allclose(result.poses, expected, **CLOSE)
    assert result.frames.tolist() == [n - 100 for n in good]
    np.testing.assert_allclose(result.seconds, (np.array(good) - 100) / 25)
    assert result.skipped.keys() == {"img_000110.jpg", "frame 30"} and not result.interrupted
    assert "truncated" in result.skipped["img_000110.jpg"] and "160x50" in result.skipped["frame 30"]

    with np.load(result.files["npz"]) as file:
        np.testing.assert_array_equal(file["joints_3d"], result.poses)
        np.testing.assert_array_equal(file["frame"], result.frames)
        np.testing.assert_allclose(file["time_s"], result.seconds)
        assert tuple(file["joint_names"]) == JOINT_NAMES and file["fps"] == 25
    with result.files["csv"].open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["frame", "time_s", "neck_x_m", "neck_y_m", "neck_z_m"] and header[-1] == "left_toe_z_m"
    rows = np.array(rows, float)
    np.testing.assert_array_equal(rows[:, 0], result.frames)
    np.testing.assert_allclose(rows[:, 2:], result.poses.reshape(len(rows), -1), atol=1e-6)
    # Every frame number has its place in the motion, those without a pose between their neighbours.
    bvh, root = (read(str(result.files["bvh"])) for read in (bvhio.readAsBvh, bvhio.readAsHierarchy))
    assert bvh.FrameCount == numbers[-1] - 100 + 1 and bvh.FrameTime == pytest.approx(1 / 25)
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    between = (result.poses[result.frames == 9] + result.poses[result.frames == 11]) / 2
    for number, pose in [*zip(result.frames, result.poses, strict=True), (10, between[0])]:
        root.loadPose(int(number))
        found = [np.array(joints[name].PositionWorld) for name in JOINT_NAMES]
        np.testing.assert_allclose(found, pose @ AXES.T, atol=1e-3)
    np.testing.assert_allclose(times(result.files["overlay"]), result.seconds, atol=1e-3)


@pytest.mark.parametrize("codec", ["MJPG", "mp4v", "VP80"])
def test_a_video_file(trained, model, tmp_path, codec):
    path = write_file(tmp_path / {"MJPG": "a.avi", "mp4v": "a.mp4", "VP80": "a.webm"}[codec], 20, codec)
    result = predict.predict_video(path, tmp_path / "out", **trained, overlay="none", chunk=7)
    np.testing.assert_allclose(result.poses, reference(model, decoded(path)), **CLOSE)
    np.testing.assert_allclose(result.seconds, np.arange(20) / 25, atol=1e-3)
    assert result.fps == 25 and not result.skipped and not result.notes
    assert not (tmp_path / "out/overlay.mp4").exists()


def test_a_faster_video_thinned_out(trained, model, tmp_path):
    path = write_file(tmp_path / "a.avi", 21)
    result = predict.predict_video(path, tmp_path / "out", **trained, overlay="none", every=2)
    np.testing.assert_allclose(result.poses, reference(model, decoded(path)[::2]), **CLOSE)
    assert result.frames.tolist() == list(range(0, 21, 2)) and result.fps == 12.5
    np.testing.assert_allclose(result.seconds, np.arange(0, 21, 2) / 25, atol=1e-3)
    assert "12.5 frames a second" in result.notes[0] and "--every 1 takes 25 a second of it" in result.notes[0]
    render = {"fps": 238.374, "size": SIZE}
    with VideoWriter(tmp_path / "slow.mp4", **render) as writer:
        for number in range(20):
            writer.write(picture(number), number / render["fps"])
    slow = predict.predict_video(tmp_path / "slow.mp4", tmp_path / "out", **trained)
    assert "--every 8 takes 29.8 a second of it" in slow.notes[-1]
    assert "motion looks" not in str(
        predict.predict_video(tmp_path / "slow.mp4", tmp_path / "b", **trained, every=8).notes
    )


def test_a_video_cut_in_the_middle_of_a_frame(trained, model, tmp_path):
    path = write_file(tmp_path / "a.avi", 20)
    frames = decoded(path)
    data = path.read_bytes()
    starts = [m.start() for m in re.finditer(b"\xff\xd8\xff", data)]
    path.write_bytes(data[: (starts[12] + 2 * starts[13]) // 3])
    left = len(decoded(path))
    assert left == 13 and not np.array_equal(decoded(path)[-1], frames[12])
    result = predict.predict_video(path, tmp_path / "out", **trained)
    np.testing.assert_allclose(result.poses, reference(model, frames[: left - 1]), **CLOSE)
    assert f"ends early: {left} of 20 frames" in result.notes[0] and list(result.skipped) == [f"frame {left - 1}"]
    assert len(decoded(result.files["overlay"])) == left - 1


def test_ctrl_c_keeps_what_is_done(trained, model, tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "frames", range(30))

    def interrupted_after(frames, every, progress):
        for number, seconds, frame in frames:
            if number == 17:
                signal.raise_signal(signal.SIGINT)
            yield number, seconds, frame

    monkeypatch.setattr(predict, "_each", interrupted_after)
    options = [f"--{name}={value}" for name, value in trained.items()]
    before = signal.getsignal(signal.SIGINT)
    assert predict.main([str(folder), f"--out={tmp_path / 'out'}", *options]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "17 poses until it was interrupted" in capsys.readouterr().out
    expected = reference(model, [cv2.imread(str(path)) for path in sorted(folder.iterdir())[:17]])
    with np.load(tmp_path / "out/joints.npz") as file:
        np.testing.assert_allclose(file["joints_3d"], expected, **CLOSE)
    assert len((tmp_path / "out/joints.csv").read_text().splitlines()) == 18
    assert bvhio.readAsBvh(str(tmp_path / "out/motion.bvh")).FrameCount == 17
    assert len(decoded(tmp_path / "out/overlay.mp4")) == 17


def test_a_failure_keeps_what_is_done(trained, tmp_path, monkeypatch):
    folder, apply = write_folder(tmp_path / "frames", range(30)), InputView.apply
    calls = []

    def failing(view, frame):
        calls.append(1)
        if len(calls) > 20:
            raise MemoryError
        return apply(view, frame)

    monkeypatch.setattr(InputView, "apply", failing)
    with pytest.raises(MemoryError):
        predict.predict_video(folder, tmp_path / "out", **trained, overlay="none")
    with np.load(tmp_path / "out/joints.npz") as file:
        assert file["frame"].tolist() == list(range(20))


def test_an_earlier_result_stays_until_there_is_a_new_one(trained, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict.predict_video(write_folder(tmp_path / "frames", range(5)), out, **trained, gltf=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before.keys() == {"joints.csv", "joints.npz", "motion.bvh", "motion.glb", "overlay.mp4"}

    def stays():
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    cv2.imwrite(str(write_folder(tmp_path / "other_size", []) / "0.png"), picture(0)[:50])
    cut = write_folder(tmp_path / "cut", range(3))
    for path in cut.iterdir():
        path.write_bytes(path.read_bytes()[:99])
    for folder in (tmp_path / "other_size", cut, tmp_path / "none"):
        with pytest.raises(VideoError):
            predict.predict_video(folder, out, **trained)
        stays()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(PoseStream, "push", raising)
        predict.predict_video(tmp_path / "frames", out, **trained)
    stays()
    # The first pose is a new result: what the new run does not write is not left beside it.
    predict.predict_video(write_folder(tmp_path / "more", range(5, 9)), out, **trained, overlay="none")
    assert {path.name for path in out.iterdir()} == {"joints.csv", "joints.npz", "motion.bvh"}
    assert len((out / "joints.csv").read_text().splitlines()) == 5


def raising(*_):
    raise MemoryError


def test_many_videos_in_one_call(trained, tmp_path, monkeypatch, capsys):
    """Each has the folder and the poses that it has alone; one that fails loses no other, and the status says so."""
    first, last = write_file(tmp_path / "first.avi", 5), write_file(tmp_path / "läst one.avi", 4)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    options = [f"--{name}={path}" for name, path in trained.items()]
    out = tmp_path / "out"
    assert predict.main([str(first), str(tmp_path / "bad.mp4"), str(last), f"--out={out}", *options]) == 1
    said = capsys.readouterr()
    assert "bad.mp4: cannot be opened" in said.err and "error: 1 of 3 videos failed" in said.err
    assert str(out / "läst one/joints.csv") in said.out and not (out / "bad/joints.csv").exists()
    for video, folder in ((first, "first"), (last, "läst one")):
        alone = predict.predict_video(video, tmp_path / "alone", **trained, overlay="none")
        np.testing.assert_array_equal(stored_in(out / folder)["joints_3d"], alone.poses)
    assert predict.main([str(first), str(last), f"--out={out}", "--overlay=none", *options]) == 0
    capsys.readouterr()

    def failing(source, *rest, **options):
        return raising() if source == str(first) else predict_video(source, *rest, **options)

    predict_video = predict.predict_video
    monkeypatch.setattr(predict, "predict_video", failing)
    assert predict.main([str(first), str(last), f"--out={out}", "--overlay=none", *options]) == 1
    said = capsys.readouterr()
    assert "MemoryError" in said.err and "4 poses" in said.out
    with pytest.raises(MemoryError):
        predict.main([str(first), f"--out={out}", *options])


def test_folders_of_many_videos(tmp_path):
    (tmp_path / "walk.v2").mkdir()
    for videos, names in (
        (["a.mp4"], [""]),
        (["a.mp4", "x/b.avi", tmp_path / "walk.v2"], ["a", "b", "walk.v2"]),
        (["a.mp4", "a.avi", "b.mp4"], ["a.mp4", "a.avi", "b.mp4"]),
        (["one/GX01.mp4", "two/gx01.mp4"], ["one_GX01.mp4", "two_gx01.mp4"]),
    ):
        assert predict.folders_for(videos, "out") == [Path("out") / name for name in names]
    with pytest.raises(VideoError, match=r"a\.mp4: given twice"):
        predict.folders_for(["a.mp4", "b.mp4", "./a.mp4"], "out")


@pytest.mark.parametrize("name", ["cuda:99", "meta", "gpu", "xla", "vulkan", "mps"])
def test_a_device_that_is_not_there(trained, tmp_path, name):
    folder = write_folder(tmp_path / "frames", range(3))
    with pytest.raises(VideoError, match=rf"--device {name}: not usable here .*expected one of cpu") as caught:
        predict.predict_video(folder, tmp_path / "out", **trained, device=name)
    assert len(str(caught.value)) < 220
    assert not (tmp_path / "out").exists()


def test_in_the_world(trained, tmp_path, capsys):
    """A camera that stands at (1, 2, 3), turned by 90 degrees about x: its z is the world's -y, its y the world's z."""
    folder, out = write_folder(tmp_path / "frames", range(30)), tmp_path / "out"
    alone = predict.predict_video(folder, tmp_path / "alone", **trained, overlay="none")
    rows = [f"{100 + t} 1 2 3 {np.sqrt(0.5)} 0 0 {np.sqrt(0.5)}" for t in (0.0, 0.25, 0.5, 0.7)]
    (tmp_path / "t.txt").write_text("\n".join(rows))
    options = [f"--{name}={path}" for name, path in trained.items()]
    options += [f"--out={out}", f"--trajectory={tmp_path / 't.txt'}", "--trajectory-offset=99.9", "--overlay=none"]
    assert predict.main([str(folder), *options, "--gltf", "--bvh=positions"]) == 0
    said = capsys.readouterr()
    stored = stored_in(out)
    known = np.isfinite(stored["world"]).all((1, 2))
    # 0.1 to 0.8 s of the video, at 30 frames a second.
    assert known.tolist() == [3 <= i <= 24 for i in range(30)]
    assert "8 of 30 frames have no place in the world" in said.err and "joints_world.csv" in said.out
    np.testing.assert_array_equal(stored["joints_3d"], alone.poses)
    x, y, z = np.moveaxis(alone.poses[known], -1, 0)
    expected = np.stack([1 + x, 2 - z, 3 + y], axis=-1)
    np.testing.assert_allclose(stored["world"][known], expected, atol=1e-6)
    table = np.genfromtxt(out / "joints_world.csv", delimiter=",", skip_header=1)
    np.testing.assert_allclose(table[:, 2:].reshape(-1, 15, 3), expected, atol=1e-6)
    np.testing.assert_allclose(table[:, :2], np.stack([np.arange(3, 25), np.arange(3, 25) / 30], axis=-1), atol=1e-6)
    # Up is z: the file's y; the file begins with the first frame that has a place.
    root = bvhio.readAsHierarchy(str(out / "motion.bvh"))
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    for frame in (0, 21):
        root.loadPose(frame)
        found = [np.array(joints[name].PositionWorld) for name in JOINT_NAMES]
        np.testing.assert_allclose(found, expected[frame][:, [0, 2, 1]] * (1, 1, -1), atol=1e-3)
    assert (out / "motion.glb").read_bytes()[:4] == b"glTF"
    # What cannot be, is said before anything is predicted or deleted.
    late = [option.replace("99.9", "0") for option in options]
    assert predict.main([str(folder), *late]) == 1
    assert "but the video is from 0.000000 to 1.000000 s" in capsys.readouterr().err
    assert predict.main([str(folder), str(tmp_path / "frames2"), *options]) == 1
    assert "--trajectory is of one video" in capsys.readouterr().err
    assert (out / "joints_world.csv").exists()


def test_the_bvh_file_says_how_far_off_it_is(trained, tmp_path, capsys):
    folder, out = write_folder(tmp_path / "frames", range(5)), tmp_path / "out"
    options = [f"--{name}={path}" for name, path in trained.items()]
    assert predict.main([str(folder), f"--out={out}", "--overlay=none", *options]) == 0
    said = re.search(r"one length: joints ([\d.]+) mm off on average, (\d+) mm at most", capsys.readouterr().out)
    root = bvhio.readAsHierarchy(str(out / "motion.bvh"))
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    off = []
    for frame, pose in enumerate(stored_in(out)["joints_3d"]):
        root.loadPose(frame)
        found = np.array([np.array(joints[name].PositionWorld) for name in JOINT_NAMES])
        off.append(1000 * np.linalg.norm(found - pose @ AXES.T, axis=-1))
    assert float(said[1]) == pytest.approx(np.mean(off), abs=0.3) and float(said[2]) == pytest.approx(
        np.max(off), abs=1
    )


def test_what_cannot_be_used_is_named(trained, tmp_path):
    video = write_file(tmp_path / "good.avi", 3)
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    cut = write_file(tmp_path / "cut.mp4", 9, "mp4v")
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "damaged", range(3))
    for path in (tmp_path / "damaged").iterdir():
        path.write_bytes(path.read_bytes()[:99])
    (tmp_path / "other.json").write_text(replace(CAMERA.scaled(2), size=(330, 256)).to_json())
    (tmp_path / "file").write_text("")
    out, missing = tmp_path / "out", tmp_path / "missing"
    cases = [
        (missing, {}, VideoError, "no such video file or folder"),
        (tmp_path / "bad.mp4", {}, VideoError, "cannot be opened as a video"),
        (cut, {}, VideoError, "cut off"),
        (tmp_path / "empty", {}, VideoError, "no frames; expected images"),
        (tmp_path / "damaged", {}, VideoError, "no frame can be used .3 skipped; first: img_000000.jpg: truncated"),
        (
            video,
            {"calibration": tmp_path / "other.json"},
            VideoError,
            "160x128 px, but .*other.json .* 330x256 px.*--frame-size",
        ),
        (video, {"calibration": missing}, CalibrationError, "missing.*Name your camera's with --calibration"),
        (video, {"model": missing}, WeightsError, "missing; name another one with --model"),
        (video, {"out": tmp_path / "file"}, VideoError, "cannot be written to"),
        (video, {"fps": 30}, VideoError, "leave --fps out"),
        (video, {"bvh": "both"}, VideoError, "--bvh both; expected one of rotations, positions"),
    ]
    for source, changes, error, message in cases:
        with pytest.raises(error, match=message):
            predict.predict_video(**{"source": source, "out": out, "overlay": "none", **trained, **changes})
    with pytest.raises(VideoError, match="would be overwritten"):
        (out / "overlay.mp4").write_bytes(video.read_bytes())
        predict.predict_video(out / "overlay.mp4", out, **trained)


def stored_in(folder):
    with np.load(folder / "joints.npz") as file:
        return {name: file[name] for name in file.files}


def write_pictures(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def test_frames_of_another_size_are_taken_as_what_they_look_like(trained, tmp_path):
    """Enlarged and cut frames give the poses of the frames themselves; what was made of them is said."""
    frames = [cv2.resize(picture(n), (320, 256), interpolation=cv2.INTER_NEAREST) for n in range(6)]
    kinds = {
        "whole": (frames, {}, "320x256 px are taken as the whole 160x128 px"),
        "square": ([f[:, 32:288] for f in frames], {}, "256x256 px are taken as the central square of the 160x128 px"),
        "middle": (
            [f[20:236, 32:288] for f in frames],
            {"frame_size": (320, 256)},
            "the middle of 320x256 px, .* whole",
        ),
    }
    cameras = {}
    for name, (images, options, said) in kinds.items():
        write_pictures(tmp_path / name, images)
        result = predict.predict_video(tmp_path / name, tmp_path / f"out_{name}", **trained, **options)
        assert len(result.poses) == 6 and any(re.search(said, note) for note in result.notes)
        assert re.search(said, str(stored_in(tmp_path / f"out_{name}")["camera_note"]))
        cameras[name] = result.camera
    plain = write_pictures(tmp_path / "plain", [picture(n) for n in range(6)])
    expected = predict.predict_video(plain, tmp_path / "plain_out", **trained)
    np.testing.assert_allclose(stored_in(tmp_path / "out_whole")["joints_3d"], expected.poses, **CLOSE)
    assert expected.camera_note == "" and not any("taken as" in note for note in expected.notes)
    # Pixel edges, half a pixel before the centres, are what enlarging keeps in proportion.
    point = np.array([0.1, 0.2, 0.9])
    at = (CAMERA.project(point) + 0.5) * 2 - 0.5
    np.testing.assert_allclose(cameras["whole"].project(point), at)
    np.testing.assert_allclose(cameras["middle"].project(point), at - (32, 20))
    assert cameras["middle"].size == (256, 216)
    for options, message in (({"frame_size": (320, 200)}, "other proportions"), ({"frame_size": (160, 128)}, "within")):
        with pytest.raises(VideoError, match=message):
            predict.predict_video(tmp_path / "middle", tmp_path / "out", **trained, **options)
    (write_folder(tmp_path / "cut", []) / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(VideoError, match="no frame can be used"):
        predict.predict_video(tmp_path / "cut", tmp_path / "out", **trained, frame_size=(320, 256))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rolled_camera_gives_the_poses_in_its_own_axes(trained, tmp_path, degrees):
    """Frames stored rolled, with the calibration of such frames: joints land on the same things of the picture."""
    quarters = degrees // 90
    folders = [
        write_pictures(tmp_path / name, [np.rot90(picture(n), k) for n in range(6)])
        for name, k in (("upright", 0), ("rolled", quarters))
    ]
    calibration = tmp_path / "rolled.json"
    calibration.write_text(CAMERA.turned(-quarters).to_json())
    upright = predict.predict_video(folders[0], tmp_path / "a", **trained)
    options = {"model": trained["model"], "calibration": calibration, "mount_roll": degrees}
    rolled = predict.predict_video(folders[1], tmp_path / "b", **options)
    compared = 0
    for number in range(6):
        pixels = upright.camera.project(upright.poses[number]).round().astype(int)
        for joint in np.flatnonzero(((pixels >= 0) & (pixels < SIZE)).all(-1)):
            marks = np.zeros(SIZE[::-1])
            marks[pixels[joint, 1], pixels[joint, 0]] = 1
            wanted = np.argwhere(np.rot90(marks, quarters))[0][::-1]
            assert np.abs(rolled.camera.project(rolled.poses[number, joint]) - wanted).max() < 0.6
            compared += 1
    assert compared > 20
    np.testing.assert_allclose(np.linalg.norm(rolled.poses, axis=-1), np.linalg.norm(upright.poses, axis=-1), **CLOSE)
    assert (tmp_path / "b/motion.bvh").read_text() == (tmp_path / "a/motion.bvh").read_text()
    table = np.genfromtxt(tmp_path / "b/joints.csv", delimiter=",", skip_header=1)[:, 2:]
    np.testing.assert_allclose(table, rolled.poses.reshape(6, -1), atol=1e-6)


def test_without_a_calibration_the_circle_stands_for_one(trained, tmp_path, capsys):
    inside = np.hypot(*(np.mgrid[:128, :160] - np.array([60.5, 84.0])[:, None, None])) < 50
    frames = [np.where(inside[..., None], picture(n).clip(40), 4).astype(np.uint8) for n in range(6)]
    folder, out = write_pictures(tmp_path / "frames", frames), tmp_path / "out"
    arguments = [str(folder), "--out", str(out), "--model", str(trained["model"]), "--fov", "180"]
    (tmp_path / "slam.txt").write_text("0 0 0 3 1 0 0 0\n1 0 0 3 1 0 0 0\n")
    assert predict.main([*arguments, "--gltf", "--trajectory", str(tmp_path / "slam.txt")]) == 0
    said = capsys.readouterr().err
    assert "note: no calibration: an equidistant lens of 180 degrees is assumed" in said
    note = str(stored_in(out)["camera_note"])
    assert note and note in said
    # Every file that has a place for it says so.
    for name in ("joints.csv", "joints_world.csv"):
        table = np.genfromtxt(out / name, delimiter=",", names=True)
        assert table.dtype.names[-1] == "assumed_fov_deg" and table["assumed_fov_deg"].tolist() == [180.0] * 6
        assert len(table.dtype.names) == 2 + 45 + 1
    glb = (out / "motion.glb").read_bytes()
    assert json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])["asset"]["extras"] == {"note": note}
    camera = predict.predict_video(folder, out, model=trained["model"], fov=180).camera
    np.testing.assert_allclose([*camera.centre, camera.radius], [84, 60.5, 50], atol=1)
    # Equidistant: 60 of 90 degrees lie at two thirds of the radius.
    at = camera.project([np.sin(np.pi / 3), 0, np.cos(np.pi / 3)]) - camera.centre
    np.testing.assert_allclose(at, [camera.radius * 2 / 3, 0], atol=0.01)
    render_video(folder, tmp_path / "video.mp4")
    filmed = predict.predict_video(tmp_path / "video.mp4", out, model=trained["model"], fov=180).camera
    np.testing.assert_allclose([*filmed.centre, filmed.radius], [84, 60.5, 50], atol=1)
    assert predict.main([*arguments, "--calibration", str(trained["calibration"])]) == 1
    assert "leave --calibration, or --fov, out" in capsys.readouterr().err
    for wrong in (0.0, 500.0, float("nan")):
        with pytest.raises(VideoError, match=r"--fov .* 60 to 300"):
            predict.predict_video(folder, out, model=trained["model"], fov=wrong)
    shown = write_folder(tmp_path / "everywhere", range(3))
    with pytest.raises(VideoError, match="no image circle can be seen"):
        predict.predict_video(shown, out, model=trained["model"], fov=180)


def test_any_kind_of_calibration_predicts(trained, tmp_path):
    """Kalibr's camchain, whose second camera is an equidistant lens with other focal lengths across and down."""
    fields = {"camera_model": "pinhole", "intrinsics": [36, 36, 80, 64], "resolution": list(SIZE)}
    fields |= {"distortion_model": "equidistant", "distortion_coeffs": [0.0] * 4}
    (tmp_path / "chain.yaml").write_text(
        yaml.safe_dump({"cam0": fields, "cam1": fields | {"intrinsics": [36, 40, 80, 64]}})
    )
    folder = write_pictures(tmp_path / "frames", [picture(n) for n in range(4)])
    options = {"model": trained["model"], "calibration": tmp_path / "chain.yaml"}
    first = predict.predict_video(folder, tmp_path / "a", **options)
    np.testing.assert_allclose(first.camera.project([1, 0, 1]), [80 + 36 * np.pi / 4, 64], atol=0.01)
    assert first.camera_note == ""
    second = predict.predict_video(folder, tmp_path / "b", camera="cam1", **options)
    assert "Kalibr pinhole-equidistant, fitted to" in second.camera_note


def test_errors_of_the_command(tmp_path, capsys):
    assert predict.main([str(tmp_path / "none.mp4"), f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err.startswith("error: ") and not list(tmp_path.iterdir())
    for wrong in (["--every=0"], ["--fps=-1"], ["--overlay=mp4v"]):
        with pytest.raises(SystemExit):
            predict.main(["a.mp4", *wrong])


@pytest.fixture
def copy_of_project(tmp_path, raw_settings, trained):
    """A working copy that ran on real data of its own places: its settings, its models, and a test sequence."""
    root = tmp_path / "suite"
    for folder in ("conf", "notebooks/deep", "released", "artifacts/finetune", "elsewhere/scene/test"):
        (root / folder).mkdir(parents=True)
    data = {"root": "elsewhere/scene", "test_list": "elsewhere/list.txt", "calibration": "elsewhere/camera.json"}
    raw_settings["dataset"]["source"] = "files"
    raw_settings["dataset"]["sceneego"] |= data
    (root / "params.yaml").write_text(yaml.safe_dump(raw_settings))
    for suffix in (".safetensors", ".json"):
        for place in ("released", "artifacts/finetune"):
            shutil.copy(trained["model"].with_suffix(suffix), root / f"{place}/model{suffix}")
    shutil.copy(trained["calibration"], root / "elsewhere/camera.json")
    take = root / "elsewhere/scene/test/diogo1"
    take.mkdir()
    write_folder(take / "imgs", range(4))
    (root / "elsewhere/list.txt").write_text("test/diogo1\n")
    return root


def test_defaults_are_those_of_the_run(copy_of_project, trained, tmp_path, monkeypatch):
    """Model, calibration and demo sequence come from the settings, and relative paths are found, from any folder."""
    explicit = predict.predict_video(copy_of_project / "elsewhere/scene/test/diogo1/imgs", tmp_path / "a", **trained)
    monkeypatch.chdir(copy_of_project / "notebooks/deep")
    folder = predict.render_demo(tmp_path / "demo.mp4")
    assert folder == copy_of_project / "elsewhere/scene/test/diogo1" and len(decoded(tmp_path / "demo.mp4")) == 4
    named = {"model": "artifacts/finetune/model.safetensors", "calibration": "elsewhere/camera.json"}
    for options in ({}, named):
        found = predict.predict_video(folder / "imgs", tmp_path / "b", overlay="none", **options)
        np.testing.assert_array_equal(found.poses, explicit.poses)
        assert found.camera.to_json() == CAMERA.to_json()
    # What lies here comes before what the project has there.
    (copy_of_project / "notebooks/deep/elsewhere").mkdir()
    Path("elsewhere/camera.json").write_text("{")
    with pytest.raises(CalibrationError):
        predict.predict_video(folder / "imgs", tmp_path / "b", overlay="none", **named)


def test_what_a_working_copy_lacks_is_told_by_its_settings(copy_of_project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(copy_of_project / "notebooks")
    video = write_file(tmp_path / "a.avi", 3)
    (copy_of_project / "elsewhere/camera.json").unlink()
    (copy_of_project / "elsewhere/list.txt").write_text("test/other\n")
    with pytest.raises(CalibrationError, match=r"elsewhere/camera\.json.*dataset\.sceneego\.calibration.*data set$"):
        predict.predict_video(video, tmp_path / "out")
    with pytest.raises(VideoError, match=r"which comes with the data set: .*list\.txt, line 1: 'test/other'"):
        predict.render_demo(tmp_path / "demo.mp4")
    (copy_of_project / "released/model.safetensors").unlink()
    said = (
        r"run `dvc pull released\.dvc` in .*suite, or name another one with --model, such as artifacts/finetune/model"
    )
    with pytest.raises(WeightsError, match=said):
        predict.predict_video(video, tmp_path / "out")
    # The embedded data are rendered, whatever their place.
    text = (copy_of_project / "params.yaml").read_text()
    (copy_of_project / "params.yaml").write_text(text.replace("source: files", "source: synthetic"))
    with pytest.raises(VideoError, match="which `dvc repro prepare` renders"):
        predict.render_demo(tmp_path / "demo.mp4")
    (copy_of_project / "params.yaml").write_text("seed: -1\n")
    assert predict.main([str(video), f"--out={tmp_path / 'out'}"]) == 1
    assert "make repro" not in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_outside_of_any_project_that_of_the_code_counts(copy_of_project, trained, tmp_path, monkeypatch, capsys):
    """With no option at all: its model, its demo, and its camera, which a note tells. A project here comes first."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(cameras, "CODE", copy_of_project / "notebooks/deep")
    note = f"no --calibration: frames are taken for ones of the camera of {copy_of_project / 'elsewhere/camera.json'}"
    assert predict.main(["demo.mp4", "--demo", "--overlay=none"]) == 0
    assert f"note: {note}\n" in capsys.readouterr().err and str(stored_in(Path("poses"))["camera_note"]) == note
    found = predict.predict_video("demo.mp4", "b", overlay="none", model="artifacts/finetune/model.safetensors")
    explicit = predict.predict_video("demo.mp4", "a", **trained, overlay="none")
    np.testing.assert_array_equal(found.poses, explicit.poses)
    monkeypatch.setattr(cameras, "CODE", tmp_path)
    monkeypatch.chdir(copy_of_project / "notebooks")
    assert predict.predict_video(tmp_path / "home/demo.mp4", tmp_path / "b", overlay="none").notes == [note]


def test_without_a_project_both_files_are_named(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cameras, "CODE", tmp_path)
    video = write_file(tmp_path / "a.avi", 3)
    options = {name: f"--{name}={path}" for name, path in trained.items()}
    assert predict.main([str(video), "--overlay=none", *options.values()]) == 0
    for name in options:
        rest = [option for other, option in options.items() if other != name]
        assert predict.main([str(video), *rest]) == 1
        assert f"or name a file of your own with --{name}" in capsys.readouterr().err
    assert predict.main(["b.avi", "--demo", *options.values()]) == 1
    assert "error: no params.yaml" in capsys.readouterr().err


def test_runs_without_the_suite():
    """On a bare node there is no Jupyter, DVC, Hydra, Plotly or pandas."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('IPython', 'dvc', 'hydra', 'plotly', 'pandas')))"
    command = [sys.executable, "-c", f"{blocked}; from agego_lib import predict; predict.main(['--help'])"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "--calibration" in done.stdout, done.stderr


# --- Streams and live prediction -----------------------------------------------------------------------------------


def test_the_stream_holds_no_more_than_its_windows(model):
    stream, most, given = PoseStream(model, length=4, stride=2, step=3, chunk=5), 0, 0
    for number in range(120):
        given += len(stream.push(cv2.resize(picture(number), (32, 32))))
        held = sum(part.shape[0] for run in stream._runs for part in run.static)
        most = max(most, held)
        # Poses come at most step * (length + stride) frames late, and a chunk.
        assert number - given < 3 * (4 + 2) + 5
    assert most <= 3 * (4 + 2)
    assert given + len(stream.finish()) == 120


def test_a_stride_that_leaves_frames_out(model):
    with pytest.raises(ValueError, match="stride"):
        PoseStream(model, length=4, stride=5)


@pytest.mark.parametrize("row", ABLATIONS)
@pytest.mark.parametrize("step", [1, 3])
def test_live_against_the_whole_model(tiny_model, row, step):
    model = tiny_model(row).eval()
    frames = np.stack([cv2.resize(picture(i), (32, 32)) for i in range(14)])
    images, length, seen = to_tensor(frames), 4, []
    live = LivePredictor(model, length, step)
    encode = model.frozen_features
    model.frozen_features = lambda images: seen.append(len(images)) or encode(images)
    poses = [live.push(frame) for frame in frames]
    assert seen == [1] * 14
    del model.frozen_features
    for last, pose in enumerate(poses):
        past = list(range(last, -1, -step))[:length][::-1]
        window, mask = torch.zeros(1, length, *images.shape[1:]), torch.zeros(1, length, dtype=torch.bool)
        window[0, : len(past)], mask[0, : len(past)] = images[past], True
        with torch.no_grad():
            expected = model(window, mask)[0, len(past) - 1]
        np.testing.assert_allclose(pose, expected.numpy(), **CLOSE)


# --- Video files and pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [30, 238.374])
def test_written_videos_are_read_again(tmp_path, fps):
    """H.264 as browsers want it: 4:2:0, its index before its pictures; 238.374 is a phone's slow motion."""
    frames = [cv2.GaussianBlur(picture(i), (0, 0), 4) for i in range(9)]
    with VideoWriter(tmp_path / "a.mp4", fps, SIZE) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, number / fps)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    video = VideoFile(tmp_path / "a.mp4")
    assert video.size == SIZE and video.fps == pytest.approx(fps, rel=0.02) and video.total == 9
    read = list(video)
    assert [number for number, _, _ in read] == [*range(9)] and not video.notes
    np.testing.assert_allclose([seconds for _, seconds, _ in read], np.arange(9) / fps, atol=1e-5)
    for (_, _, found), same, frame in zip(read, decoded(tmp_path / "a.mp4"), frames, strict=True):
        np.testing.assert_array_equal(found, same)
        assert np.abs(found.astype(int) - frame).mean() < 8
    for path, size in ((tmp_path / "no/folder/a.mp4", SIZE), (tmp_path / "odd.mp4", (161, 128))):
        with pytest.raises(VideoError, match="cannot be written"):
            VideoWriter(path, 30, size)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1)])
def test_a_rotation_tag_turns_nothing(tmp_path, matrix):
    plain = write_file(tmp_path / "a.mp4", 5, "mp4v")
    a, b, c, d = (value << 16 for value in matrix)
    turned = VideoFile(patched(tmp_path / "b.mp4", plain, b"tkhd", 48, a, b, 0, c, d, 0))
    assert turned.size == SIZE
    for (_, _, found), (_, _, stored) in zip(turned, VideoFile(plain), strict=True):
        np.testing.assert_array_equal(found, stored)
    assert len(turned.notes) == 1 and "a tag asks players to turn" in turned.notes[0]


def test_a_trimmed_video_is_whole(tmp_path):
    """Losslessly trimmed, a file keeps all its frames, of which a list says that 0.5 s are shown."""
    whole = write_file(tmp_path / "a.mp4", 20, "mp4v")
    video = VideoFile(patched(tmp_path / "b.mp4", whole, b"elst", 16, 500))
    assert video.total == 13 == len(list(video)) and not video.notes and not video.skipped


def test_a_colon_in_a_name(tmp_path, monkeypatch):
    name = "2026-10-18T12:30:05.mp4"
    write_file(tmp_path / "a.mp4", 3, "mp4v").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoFile(name))) == 3
    assert render_video(write_folder(tmp_path / "frames", range(2)), "12:30.mp4") == 2
    assert len(list(VideoFile("12:30.mp4"))) == 2


def test_a_cover_picture_is_no_video_and_sound_none(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        streams = [file.add_stream(codec, rate=rate) for codec, rate in (("mjpeg", 1), ("libx264", 25))]
        for stream, size, pixels in zip(streams, ((64, 64), SIZE), ("yuvj420p", "yuv420p"), strict=True):
            (stream.width, stream.height), stream.pix_fmt = size, pixels
        cover = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="bgr24").reformat(format="yuvj420p")
        file.mux(streams[0].encode(cover))
        for image in [*(av.VideoFrame.from_ndarray(picture(i), format="bgr24") for i in range(5)), None]:
            file.mux(streams[1].encode(image))
    video = VideoFile(tmp_path / "a.mkv")
    assert video.size == SIZE and len(list(video)) == 5
    with av.open(str(tmp_path / "a.m4a"), "w") as file:
        stream = file.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        sound.sample_rate = 48000
        for part in (sound, None):
            file.mux(stream.encode(part))
    with pytest.raises(VideoError, match="a file without pictures"):
        VideoFile(tmp_path / "a.m4a")


def test_tags_in_any_encoding(tmp_path):
    path = write_file(tmp_path / "a.mp4", 3, "mp4v")
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf"))
    assert len(list(VideoFile(path))) == 3


@pytest.mark.parametrize("stamps", [[0, 35, 71, 108, 130, 164, 204, 241], [0] * 8])
def test_a_browsers_recording_has_no_rate(tmp_path, stamps):
    path = write_stamped(tmp_path / "a.webm", stamps, "libvpx")
    data = path.read_bytes()
    # The frames' duration and the file's become empty fields.
    for field, empty in ((b"\x23\xe3\x83\x84", b"\xec\x86" + bytes(6)), (b"\x44\x89\x88", b"\xec\x89" + bytes(9))):
        assert field in data
        at = data.index(field)
        data = data[:at] + empty + data[at + len(empty) :]
    path.write_bytes(data)
    if not any(stamps):
        with pytest.raises(VideoError, match=r"0 frames a second by its time stamps.*ffmpeg -i"):
            VideoFile(path)
        return
    video = VideoFile(path)
    assert video.total == 8 and video.fps == pytest.approx(7 / 0.241)
    np.testing.assert_allclose([seconds for _, seconds, _ in video], np.array(stamps) / 1000)
    assert not video.notes and not video.skipped


def test_a_frame_within_that_does_not_decode(tmp_path):
    """Predicted from others or not, the frames around it keep their numbers and times."""
    with VideoWriter(tmp_path / "a.mp4", 25, SIZE) as writer:
        for number in range(60):
            writer.write(picture(number), number / 25)
    with av.open(str(tmp_path / "a.mp4")) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        lost = round(float((packets[20].pts - file.streams.video[0].start_time) * packets[20].time_base) * 25)
        place, size = packets[20].pos, packets[20].size
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    data[place : place + size] = bytes(size)
    (tmp_path / "a.mp4").write_bytes(data)
    video = VideoFile(tmp_path / "a.mp4")
    read = list(video)
    assert list(video.skipped) == [f"frame {lost}"] and "does not decode" in video.skipped[f"frame {lost}"]
    assert [number for number, _, _ in read] == [n for n in range(60) if n != lost] and not video.notes
    np.testing.assert_allclose([seconds for _, seconds, _ in read], [n / 25 for n, _, _ in read], atol=1e-4)


def test_an_uneven_pace_is_kept_in_real_time(trained, model, tmp_path):
    """As phones record in dim light: ten frames 40 ms apart, ten 160 ms apart; two frames have one time stamp."""
    stamps = np.cumsum([0] + [40] * 4 + [0] + [40] * 5 + [160] * 9)
    path = write_stamped(tmp_path / "a.mkv", stamps.tolist())
    result = predict.predict_video(path, tmp_path / "out", **trained, bvh="positions")
    np.testing.assert_allclose(result.poses, reference(model, decoded(path)), **CLOSE)
    np.testing.assert_allclose(result.seconds, stamps / 1000, atol=1e-6)
    notes = "\n".join(result.notes)
    assert "1 frames have the time stamp of the frame before" in notes and "uneven pace" in notes
    np.testing.assert_allclose(times(result.files["overlay"]), stamps / 1000, atol=1e-3)
    bvh, root = (read(str(result.files["bvh"])) for read in (bvhio.readAsBvh, bvhio.readAsHierarchy))
    assert (bvh.FrameCount - 1) * bvh.FrameTime == pytest.approx(stamps[-1] / 1000, abs=0.5 * bvh.FrameTime)
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    for frame in set(range(bvh.FrameCount)) - {4}:  # at 0.16 s there are two poses
        after = min(int(np.searchsorted(result.seconds, frame * bvh.FrameTime)), 19)
        before = max(after - 1, 0)
        span = result.seconds[after] - result.seconds[before]
        share = min((frame * bvh.FrameTime - result.seconds[before]) / span, 1) if span else 0
        expected = result.poses[before] + share * (result.poses[after] - result.poses[before])
        root.loadPose(frame)
        found = [np.array(joints[name].PositionWorld) for name in JOINT_NAMES]
        np.testing.assert_allclose(found, expected @ AXES.T, atol=1e-3)


def test_a_pause_parts_the_windows(trained, model, tmp_path):
    stamps = [*range(0, 400, 40), *range(2000, 2400, 40)]
    path = write_stamped(tmp_path / "a.mkv", stamps)
    result = predict.predict_video(path, tmp_path / "out", **trained, overlay="none")
    frames = decoded(path)
    apart = [reference(model, frames[:10]), reference(model, frames[10:])]
    np.testing.assert_allclose(result.poses, np.concatenate(apart), **CLOSE)


def test_a_folder_becomes_a_video(tmp_path):
    folder = write_folder(tmp_path / "frames", range(3, 8))
    assert render_video(folder, tmp_path / "a.mp4") == 5 == len(decoded(tmp_path / "a.mp4"))
    (folder / "img_000004.jpg").write_bytes(b"")
    with pytest.raises(VideoError, match=r"1 frames do not decode .first: img_000004\.jpg"):
        render_video(folder, tmp_path / "a.mp4")


def named(folder, *names):
    """A folder of images of these names, each the picture of its place among them."""
    folder.mkdir()
    for number, name in enumerate(names):
        image = cv2.imencode(Path(name).suffix, picture(number))[1]
        (folder / name).write_bytes(image.tobytes())
    return open_frames(folder, 10)


@pytest.mark.parametrize(
    ("names", "numbers", "order", "said"),
    [
        # Unpadded, and a cover.
        (["f_8.png", "f_9.png", "f_10.png", "f_11.png", "cover.png"], [0, 1, 2, 3], [0, 1, 2, 3], "left out.*cover"),
        # Companions of macOS.
        (["img_0.png", "img_1.png", "._img_0.png", "._img_1.png", ".x.png"], [0, 1], [0, 1], None),
        # Suffixed; the camera's number does not count.
        (["cam1_2_rgb.png", "cam1_10_rgb.png", "cam1_4_rgb.png"], [0, 8, 2], [0, 1, 2], None),
        # Copies that a file manager made.
        (["i_1.png", "i_2.png", "i_3.png", "i_2 copy.png", "i_2 (1).png"], [0, 1, 2], [0, 1, 2], "like i_1.png: i_2 "),
        # One number twice: the usual kind counts.
        (["i_1.png", "i_2.png", "i_3.png", "i_2.jpg", "i_02.png"], [0, 1, 2], [0, 4, 2], "has the number of i_02.png"),
        # Times of day, and seconds with fractions.
        (["12-30-59.png", "12-31-04.png", "12-31-05.png"], [0, 1, 2], [0, 1, 2], "several numbers"),
        (["1700000000.5.png", "1700000000.25.png", "1700000001.0.png"], [1, 0, 2], [0, 1, 2], "fractions"),
        (["übung 1.png", "übung 3.png", "übung 2.PNG"], [0, 2, 1], [0, 1, 2], None),
        (["b.png", "a.png"], [1, 0], [0, 1], "no numbers"),
        (["only.png"], [0], [0], None),
        (["7.png"], [0], [0], None),
    ],
)
def test_names_of_frames(tmp_path, names, numbers, order, said):
    frames = named(tmp_path / "frames", *names)
    wanted = sorted(zip(numbers, order, strict=True))
    read = [*frames]
    assert [n for n, _, _ in read] == [n for n, _ in wanted] and frames.total == len(read)
    assert frames.length == (wanted[-1][0] + 1) / 10
    for (_, _, found), (_, which) in zip(read, wanted, strict=True):
        if names[which].lower().endswith(".png"):
            np.testing.assert_array_equal(found, picture(which))
    told = "\n".join([*frames.notes, *frames.skipped.values()])
    assert re.search(said, told) if said else not told


def test_two_series_in_one_folder(tmp_path):
    with pytest.raises(VideoError, match=r"several series: 3 like left_0\.png and 2 like right_0\.png"):
        named(tmp_path / "frames", "left_0.png", "left_1.png", "left_2.png", "right_0.png", "right_1.png")


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mp4", "libx265", "yuv420p"),
        ("a.mov", "libx265", "yuv420p10le"),
        ("a.mkv", "libx264", "yuv422p10le"),
        ("a.webm", "libsvtav1", "yuv420p10le"),
        ("ä b:c.mp4", "libx264", "yuvj420p"),
    ],
)
def test_formats_of_phones_and_browsers(tmp_path, name, codec, pixels):
    """Frames come in order, whole, and in their colours."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    smooth = [cv2.GaussianBlur(picture(i), (0, 0), 4) for i in range(12)]
    with av.open(f"file:{tmp_path / name}", "w") as container:
        stream = container.add_stream(codec, rate=30)
        (stream.width, stream.height), stream.pix_fmt = SIZE, pixels
        images = [av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pixels) for image in smooth]
        for image in [*images, None]:
            container.mux(stream.encode(image))
    video = VideoFile(tmp_path / name)
    read = list(video)
    assert [n for n, _, _ in read] == [*range(12)] and video.fps == pytest.approx(30, rel=0.01)
    assert not video.skipped and not video.notes
    for (_, _, found), image in zip(read, smooth, strict=True):
        assert np.abs(found.astype(int) - image).mean() < 10


def test_names_that_are_no_frame_numbers(tmp_path):
    for names in (["b.png", "a.png"], ["t1700000000123.png", "t1700000000089.png"]):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            cv2.imwrite(str(folder / name), picture(len(name) + ord(name[-5])))
        frames = open_frames(folder)
        first, second = sorted(names)
        assert [n for n, _, _ in frames] == [0, 1]
        np.testing.assert_array_equal(next(iter(frames))[2], cv2.imread(str(folder / first)))
    (folder / second).write_bytes((folder / second).read_bytes()[:99])
    assert len(list(frames)) == 1 and list(frames.skipped) == [second]
    numbers = [*range(20), 99]
    assert [n for n, _, _ in open_frames(write_folder(tmp_path / "apart", numbers))] == numbers


@pytest.mark.parametrize("stored", ["whole", "central square"])
def test_joints_are_drawn_where_the_camera_sees_them(stored):
    pixels = np.stack(np.meshgrid([45, 62, 80, 98, 115], [35, 64, 92]), axis=-1).reshape(15, 2)
    pose = CAMERA.unproject(pixels, np.full(15, 0.6))
    pixels = np.round(CAMERA.project(pose)).astype(int)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    left = 0
    if stored == "central square":
        left = (SIZE[0] - SIZE[1]) // 2
        image = image[:, left : left + SIZE[1]]
    drawn = overlay.draw(overlay.small(image), pose, CAMERA, "")
    assert drawn.shape == (SIZE[1], image.shape[1] + SIZE[1], 3)
    for joint, (u, v) in enumerate(pixels):
        colour = SIDE_COLOURS[side(joint)]
        # White outlines bleed a little into so small a dot; the other side's colour is more than 100 away.
        np.testing.assert_allclose(drawn[v, u - left], [int(colour[i : i + 2], 16) for i in (5, 3, 1)], atol=30)
    # A joint that cannot be seen is left out, and nothing fails.
    overlay.draw(overlay.small(image), np.where(np.arange(15)[:, None] < 3, 0.0, pose), CAMERA, "")


def test_large_frames_are_drawn_small():
    assert overlay.small(np.zeros((1024, 1280, 3), np.uint8)).shape == (384, 480, 3)
    assert overlay.small(np.zeros((101, 151, 3), np.uint8)).shape[0] % 2 == 0
