"""Live poses: a file, a stream and a made-up camera through the whole command, against LivePredictor by hand."""

import asyncio
import io
import json
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import websocket
from conftest import SIZE
from test_predict import (  # noqa: F401, with the fixtures of a small trained model
    CLOSE,
    VIEW,
    WINDOW,
    decoded,
    model,
    picture,
    trained,
    write_file,
    write_folder,
    write_stamped,
)

from agego_lib.inference import LivePredictor
from agego_lib.skeleton import JOINT_NAMES
from agego_video import live, sending, sources
from agego_video.video import VideoError
from benchmarks import live as benchmark

# ruff: noqa: F811
pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(model, frames):
    predictor = LivePredictor(model, WINDOW.length, WINDOW.step)
    return np.stack([predictor.push(cv2.cvtColor(VIEW.apply(frame), cv2.COLOR_BGR2RGB)) for frame in frames])


def read(lines):
    """Lines of JSON -> (numbers, seconds, joints (N, 15, 3))."""
    rows = [json.loads(line) for line in lines]
    assert all(tuple(row["joints"]) == JOINT_NAMES for row in rows)
    joints = np.array([[*row["joints"].values()] for row in rows])
    return [row["frame"] for row in rows], np.array([row["seconds"] for row in rows]), joints


def arguments(trained, *more):
    return ["--no-window", *(f"--{name}={path}" for name, path in trained.items()), *more]


class Fed(sources.Coming):
    """A camera that gives the frames that a test hands it, and waits for more; None ends it."""

    fps = 1e-3  # no pause of the machine is a hole in the time

    def __init__(self, *frames):
        super().__init__("fed", SIZE)
        self.frames, self.given, self.asked = queue.Queue(), 0, 0
        self.give(*frames)

    def give(self, *frames):
        self.given += len(frames)
        for frame in frames:
            self.frames.put(frame)

    def wait(self):
        """Until all that was given has been read, and the next is asked for."""
        while self.asked <= self.given:
            time.sleep(0.001)

    def _next(self):
        self.asked += 1
        return self.frames.get()

    def close(self):
        pass


@pytest.fixture
def fed(monkeypatch):
    source = Fed()
    monkeypatch.setattr(live, "open_source", lambda *_: source)
    return source


@pytest.fixture
def after_each(monkeypatch):
    """Setter of a function that a slow model runs on each frame, given how many there were."""

    def install(function):
        class Slow(LivePredictor):
            seen = -1  # the first is the warm-up

            def push(self, frame):
                Slow.seen += 1
                if Slow.seen:
                    function(Slow.seen)
                return super().push(frame)

        monkeypatch.setattr(live, "LivePredictor", Slow)

    return install


def test_every_frame_of_a_file(trained, model, tmp_path, capsys):
    path = write_file(tmp_path / "a.avi", 20)
    assert live.main(arguments(trained, f"--camera={path}", "--every-frame", "--out=-")) == 0
    printed = capsys.readouterr()
    numbers, seconds, joints = read(printed.out.splitlines())
    assert numbers == [*range(20)]
    np.testing.assert_allclose(seconds, np.arange(20) / 25, atol=1e-6)
    np.testing.assert_allclose(joints, by_hand(model, decoded(path)), **CLOSE)
    assert "20 poses in " in printed.err and "0 frames dropped, 0 skipped" in printed.err
    assert "latency from frame to joints: " in printed.err and "picture" not in printed.err


def test_a_slow_model_leaves_frames_out(trained, model, tmp_path, capsys, fed, after_each):
    """While it works on a frame three more come; it goes on with the newest, and the others are counted."""
    frames, out = [picture(n) for n in range(7)], tmp_path / "joints.jsonl"

    def slow(seen):
        if seen == 3:
            return fed.give(None)
        fed.give(*frames[3 * seen - 2 : 3 * seen + 1])
        fed.wait()

    fed.give(frames[0])
    after_each(slow)
    assert live.main(arguments(trained, f"--out={out}")) == 0
    numbers, _, joints = read(out.read_text().splitlines())
    assert numbers == [0, 3, 6]
    np.testing.assert_allclose(joints, by_hand(model, frames[::3]), **CLOSE)
    printed = capsys.readouterr()
    assert not printed.out and "4 frames dropped" in printed.err


def test_a_hole_in_the_time_starts_anew(trained, model, tmp_path):
    path = write_stamped(tmp_path / "a.mkv", [*range(0, 400, 40), *range(2000, 2400, 40)])
    frames = decoded(path)
    with live.Live(path, **trained, every_frame=True) as source:
        found = np.stack([pose.joints for pose in source])
    np.testing.assert_allclose(
        found, np.concatenate([by_hand(model, frames[:10]), by_hand(model, frames[10:])]), **CLOSE
    )


def test_a_rolled_camera_and_a_frame_of_another_size(trained, tmp_path):
    folder = write_folder(tmp_path / "frames", range(5))
    cv2.imwrite(str(folder / "img_000002.jpg"), picture(2)[:60])
    with live.Live(folder, **trained, every_frame=True, mount_roll=180) as source:
        poses = [*source]
        drawn = source.overlay(poses[0], ", some text")
    assert [pose.number for pose in poses] == [0, 1, 3, 4] and source.skipped.total() == 1
    for pose in poses:
        np.testing.assert_array_equal(pose.joints, pose.upright * (-1, -1, 1))
    np.testing.assert_array_equal(poses[0].frame, cv2.imread(str(folder / "img_000000.jpg"))[::-1, ::-1])
    assert drawn.shape == (SIZE[1], SIZE[0] + SIZE[1], 3) and (drawn[:, : SIZE[0]] != poses[0].frame).any()


def test_a_file_comes_at_its_pace(monkeypatch):
    now, closing = [100.0], threading.Event()
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(closing, "wait", lambda seconds: now.__setitem__(0, now[0] + seconds))
    frames = [(number, seconds, None) for number, seconds in enumerate((0.5, 0.6, 1.0, 1.2))]
    came = []
    for number, _, _ in sources._paced(frames, 2.0, closing):
        came.append(now[0])
        now[0] += 0.3 * (number == 1)  # whoever takes it late: the next comes at once
    np.testing.assert_allclose(came, [100, 100.05, 100.35, 100.35])


# --- What takes the joints -------------------------------------------------------------------------------------------


def decode_osc(data):
    """(time tag, address -> floats) of a bundle, byte by byte as OSC 1.0 describes it."""

    def text(at):
        end = data.index(b"\0", at)
        return data[at:end].decode(), (end // 4 + 1) * 4

    kind, at = text(0)
    assert kind == "#bundle"
    tag, at, found = struct.unpack_from(">Q", data, at)[0], at + 8, {}
    while at < len(data):
        size, start = struct.unpack_from(">i", data, at)[0], at + 4
        address, at = text(start)
        types, at = text(at)
        assert set(types[1:]) == {"f"}
        found[address] = [struct.unpack_from(">f", data, at + 4 * i)[0] for i in range(len(types) - 1)]
        assert at + 4 * len(found[address]) == start + size
        at = start + size
    return tag, found


def test_websocket_and_osc_get_the_same_joints(trained, tmp_path, fed, after_each, capsys):
    """A client connects before the first frame; each next frame comes once it has the one before."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(20)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    messages, osc, out = [], [], tmp_path / "joints.jsonl"

    def listen():
        while not messages:
            try:
                client = websocket.create_connection(f"ws://127.0.0.1:{port}/", timeout=20)
            except ConnectionRefusedError:
                time.sleep(0.01)
                continue
            for number in range(5):
                fed.give(picture(number))
                messages.append(client.recv())
                osc.append(decode_osc(receiver.recv(4096)))
            fed.give(None)
            client.close()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    options = (f"--out={out}", f"--websocket={port}", f"--osc=127.0.0.1:{receiver.getsockname()[1]}")
    started = time.time()
    assert live.main(arguments(trained, *options)) == 0
    listener.join(20)
    receiver.close()
    assert f"note: joints at ws://127.0.0.1:{port}" in capsys.readouterr().err
    lines = out.read_text().splitlines()
    assert len(lines) == 5 and messages == lines
    joints = read(lines)[2]
    for (_, found), expected in zip(osc, joints, strict=True):
        assert [*found] == [f"/agego/{name}" for name in JOINT_NAMES]
        np.testing.assert_allclose([*found.values()], expected, atol=1e-6)
    seconds = [tag / 2**32 - 2_208_988_800 for tag, _ in osc]  # 70 years and 17 leap days after 1900
    assert started - 1 < seconds[0] and seconds == sorted(seconds) and seconds[-1] < time.time() + 1


def test_bundles_by_hand():
    joints = np.arange(45, dtype=np.float64).reshape(15, 3) / 8
    data = sending.osc_bundle(joints, 0.25)
    assert data[:16] == b"#bundle\0" + bytes.fromhex("83aa7e80 40000000")  # 1970 in NTP's time, and a quarter second
    # "/agego/neck" and ",fff" with their zeros, three floats.
    assert data[16:52] == struct.pack(">i", 32) + b"/agego/neck\0,fff\0\0\0\0" + struct.pack(">3f", 0, 0.125, 0.25)
    assert len(data) < 1200  # fits a datagram


def test_pages_from_elsewhere_get_nothing():
    server = sending.WebSocket("127.0.0.1", 0)
    address = f"ws://127.0.0.1:{server.port}/"
    try:
        for origin in ("http://example.org", "null"):
            with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
                websocket.create_connection(address, origin=origin, timeout=20)
        client = websocket.create_connection(address, origin="http://localhost:8000", timeout=20)
        while not server._clients:
            time.sleep(0.001)
        server.send("a line", None, None)
        assert client.recv() == "a line"
        with pytest.raises(VideoError, match=f"--websocket 127.0.0.1:{server.port}: .*choose another port"):
            sending.WebSocket("127.0.0.1", server.port)
        client.close()
    finally:
        server.close()


def test_a_client_that_does_not_keep_up_misses_frames():
    server = sending.WebSocket("127.0.0.1", 0)
    try:
        client = websocket.create_connection(f"ws://127.0.0.1:{server.port}/", timeout=20)
        while not server._clients:
            time.sleep(0.001)
        for number in range(6000):
            server.send(f"{number} {'x' * 8000}", None, None)
        # All that was sent has been given out, or left out.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), server._loop).result(20)
        client.settimeout(1.0)
        numbers = []
        with pytest.raises(websocket.WebSocketTimeoutException):
            while True:
                numbers.append(int(client.recv().split()[0]))
        assert numbers == sorted(numbers) and 0 < len(numbers) < 6000
        server.send("the newest", None, None)
        assert client.recv() == "the newest"
        client.close()
    finally:
        server.close()


def test_where_joints_cannot_go(trained, tmp_path, capsys):
    path = write_file(tmp_path / "a.avi", 3)
    before = path.read_bytes()
    for option, said in (
        (f"--out={path}", "would be overwritten"),
        (f"--out={tmp_path / 'no/a.jsonl'}", "cannot be written"),
        ("--osc=no.such.host.invalid:9000", "no such host"),
    ):
        assert live.main(arguments(trained, f"--camera={path}", "--every-frame", option)) == 1
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert path.read_bytes() == before
    for wrong in ("--osc=9000", "--osc=host:99999", "--websocket=here", "--pace=0"):
        with pytest.raises(SystemExit):
            live.main([wrong])


@pytest.mark.parametrize(("terminal", "every"), [(True, 1), (False, 10)])
def test_the_running_line(monkeypatch, terminal, every):
    """A terminal shows one line, written over each second; a log gets one each ten seconds."""
    now, said = [50.0], io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    report = live._Report(SimpleNamespace(dropped=7))
    for _ in range(25):
        now[0] += 1
        report.count += 1
        report.sent.append(report.count / 1000)
        report.line()
    lines = said.getvalue().replace("\r", "\n").split("\n")
    lines = [line.strip() for line in lines if line]
    assert len(lines) == 25 // every and said.getvalue().count("\r") == (25 if terminal else 0)
    shown = 25 // every * every  # the latencies are 1, 2, ... ms
    high = np.percentile(np.arange(1, shown + 1), 95)
    expected = f"{shown} poses, 7 frames dropped; {(shown + 1) / 2:.0f} ms median, {high:.0f} ms 95th percentile"
    assert lines[-1] == expected


def test_a_reader_of_standard_output_may_leave(trained, tmp_path, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as closed:
        patch.setattr(sys, "stdout", closed)
        path = write_file(tmp_path / "a.avi", 3)
        assert live.main(arguments(trained, f"--camera={path}", "--every-frame", "--out=-")) == 0
    assert "standard output has been closed" in capsys.readouterr().err


def test_ctrl_c_ends_and_reports(trained, tmp_path, fed, capsys):
    """It comes while the camera gives nothing."""
    out = tmp_path / "joints.jsonl"
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        while not (out.exists() and len(out.read_text().splitlines()) == 1):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        fed.give(None)

    fed.give(picture(0))
    sender = threading.Thread(target=interrupt, daemon=True)
    sender.start()
    assert live.main(arguments(trained, f"--out={out}")) == 130
    sender.join(20)
    assert "1 poses in " in capsys.readouterr().err and len(out.read_text().splitlines()) == 1
    assert signal.getsignal(signal.SIGINT) is before


# --- The window ------------------------------------------------------------------------------------------------------


def test_the_window_shows_and_ends_it(trained, tmp_path, monkeypatch, capsys):
    shown, keys = [], iter([-1, ord("x"), ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    path = write_file(tmp_path / "a.avi", 9)
    assert live.main(arguments(trained, f"--camera={path}", "--every-frame")[1:]) == 0
    assert [image.shape for image in shown[:-1]] == [(SIZE[1], SIZE[0] + SIZE[1], 3)] * 3 and shown[-1] == "closed"
    said = capsys.readouterr().err
    assert "3 poses in " in said and "latency from frame to picture: " in said


def test_where_there_can_be_no_window(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert live.main([]) == 1
    assert "error: no window: this session has no display" in capsys.readouterr().err

    def headless(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(cv2, "namedWindow", headless)
    assert live.main([]) == 1
    said = capsys.readouterr().err
    assert "pip install opencv-python)" in said and "--no-window" in said


# --- Cameras and streams ---------------------------------------------------------------------------------------------


@pytest.fixture
def capture(monkeypatch):
    """Stands in for OpenCV's access to cameras: one that gives the frames of a list."""

    class Capture:
        frames, settings, released = [], {}, False

        def __init__(self, number):
            Capture.left = iter(Capture.frames)

        def isOpened(self):
            return bool(Capture.frames)

        def set(self, name, value):
            Capture.settings[name] = value

        def read(self):
            frame = next(Capture.left, None)
            return frame is not None, frame

        def release(self):
            Capture.released = True

    monkeypatch.setattr(sources, "_check_device", lambda *_: None)
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    return Capture


def test_a_camera_that_is_unplugged(trained, model, tmp_path, capture, capsys):
    """The first picture only tells the size. What came until then is there, and so is the report."""
    capture.frames, out = [picture(n) for n in range(4)], tmp_path / "a.jsonl"
    options = ("--camera=2", "--every-frame", "--capture=1280x1024", f"--out={out}")
    assert live.main(arguments(trained, *options)) == 1
    said = capsys.readouterr().err
    assert "error: camera 2: gave no more pictures after 3" in said and "3 poses in " in said
    assert "note: camera 2: asked for 1280x1024 px with --capture, it gives 160x128" in said
    np.testing.assert_allclose(
        read(out.read_text().splitlines())[2][0], by_hand(model, capture.frames[1:2])[0], **CLOSE
    )
    assert capture.settings[cv2.CAP_PROP_FRAME_WIDTH] == 1280 and capture.released


def test_a_camera_that_gives_nothing(trained, capture, capsys):
    assert live.main(arguments(trained)) == 1
    assert "error: camera 0: gives no picture" in capsys.readouterr().err and capture.released


def test_a_camera_that_is_not_there(tmp_path, monkeypatch, capsys):
    if sys.platform.startswith("linux"):
        assert live.main(["--camera=987", "--no-window"]) == 1
        assert "error: camera 987: no /dev/video987; there " in capsys.readouterr().err
    with pytest.raises(VideoError, match="there is none; a container"):
        sources._check_device(0, "camera 0", tmp_path)
    for number in (1, 3):
        (tmp_path / f"video{number}").touch()
    with pytest.raises(VideoError, match=r"video0; there are 1, 3$"):
        sources._check_device(0, "camera 0", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(VideoError, match="usermod -aG video"):
        sources._check_device(1, "camera 1", tmp_path)
    (tmp_path / "by-id").symlink_to(tmp_path / "video3")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_char_device", lambda _: True)
        patch.setattr(sources, "Camera", lambda number, size: number)
        assert sources.open_source(tmp_path / "by-id") == 3
    for source in (tmp_path / "none.mp4", "none.mp4"):
        with pytest.raises(VideoError, match=r"none\.mp4: no such video file"):
            sources.open_source(source)
    with pytest.raises(VideoError, match="--capture asks a camera"):
        sources.open_source("rtsp://camera/live", (640, 480))


def test_without_a_calibration_the_circle_of_a_camera(trained, capture):
    inside = np.hypot(*(np.mgrid[:128, :160] - np.array([60.5, 84.0])[:, None, None])) < 50
    capture.frames = [np.where(inside[..., None], picture(n % 9).clip(40), 4).astype(np.uint8) for n in range(150)]
    with live.Live(0, trained["model"], fov=180, every_frame=True) as source:
        np.testing.assert_allclose([*source.eye.camera.centre, source.eye.camera.radius], [84, 60.5, 50], atol=1)
        assert "an equidistant lens of 180 degrees is assumed" in source.eye.notes[0]
        pose = next(iter(source))
        assert pose.number > 100 and source.overlay(pose).shape == (128, 288, 3)


def test_an_assumed_lens_is_told_with_every_pose(trained, tmp_path, capsys):
    inside = np.hypot(*(np.mgrid[:128, :160] - np.array([60.5, 84.0])[:, None, None])) < 50
    for n in range(3):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.where(inside[..., None], picture(n).clip(40), 4).astype(np.uint8))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        options = [f"--osc=127.0.0.1:{receiver.getsockname()[1]}", f"--model={trained['model']}", "--fov=190"]
        assert live.main([f"--camera={tmp_path}", "--no-window", "--every-frame", "--out=-", *options]) == 0
        bundles = [decode_osc(receiver.recv(4096))[1] for _ in range(3)]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["assumed_fov_deg"] for line in lines] == [190.0] * 3
    for line, found in zip(lines, bundles, strict=True):
        assert found.pop("/agego/assumed_fov_deg") == [190.0]
        np.testing.assert_allclose([*found.values()], [*line["joints"].values()], atol=1e-6)


@pytest.fixture
def server(tmp_path):
    """Address of an HTTP server of a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def test_a_stream(trained, model, tmp_path, server, capsys):
    path = write_file(tmp_path / "a.avi", 12)
    out = tmp_path / "joints.jsonl"
    options = (f"--camera=http://{server}/a.avi", "--every-frame", f"--out={out}")
    assert live.main(arguments(trained, *options)) == 0
    numbers, seconds, joints = read(out.read_text().splitlines())
    assert numbers == [*range(12)] and seconds[0] == 0 and (np.diff(seconds) >= 0).all()
    np.testing.assert_allclose(joints, by_hand(model, decoded(path)), **CLOSE)
    Path(tmp_path / "page.html").write_text("<html>no video")
    for name in ("none.avi", "page.html"):
        with pytest.raises(VideoError, match=rf"http://{server}/{name}: cannot be opened as a stream") as error:
            sources.open_source(f"http://user:secret@{server}/{name}")
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(("hangs", "said"), [(True, "nothing came for 0.5 s"), (False, "broke off after")])
def test_a_stream_that_breaks_off(trained, tmp_path, monkeypatch, capsys, hangs, said):
    """Half of a video, as is, then the connection stays silent or is closed."""
    data, done = write_file(tmp_path / "a.avi", 40).read_bytes(), threading.Event()
    monkeypatch.setattr(sources, "TIMEOUT", 0.5)
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = server.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[: len(data) // 2])
        if hangs:
            done.wait(20)
        connection.close()
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}/a.avi"
    assert live.main(arguments(trained, f"--camera={address}", "--every-frame")) == 1
    done.set()
    printed = capsys.readouterr().err
    assert f"error: {address}: broke off after" in printed and said in printed


# --- The benchmark ---------------------------------------------------------------------------------------------------


def test_the_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["live", "--quick", "--threads=1", f"--out={tmp_path}"])
    benchmark.main()
    result = json.loads((tmp_path / "live.json").read_text())
    parts = {row["part"]: row for row in result["rows"]}
    assert [*parts] == ["view", "network", "decoder", "overlay", "all"]
    assert all(0 < row["median (ms)"] <= row["95th percentile (ms)"] for row in parts.values())
    assert result["at the file's pace"]["frames"] == result["settings"]["frames"]
