"""Poses of fisheye videos: python -m agego_lib.predict video.mp4 --out poses/

Reads a video file or a folder of frames one by one, and writes into the folder of --out: joints.csv and joints.npz
(metres in the camera frame, seconds), motion.bvh (opens in Blender) and overlay.mp4; of several videos each into a
folder of its own there. No video is ever held whole. Ctrl-C stops it; what is done by then is finished and kept.
"""

import argparse
import csv
import signal
import sys
import traceback
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera, InputView
from agego_lib.datasets import DatasetError, read_split
from agego_lib.inference import PoseStream
from agego_lib.models.backbone import WeightsError
from agego_lib.models.build import for_inference, load_model
from agego_lib.progress import bar
from agego_lib.skeleton import JOINT_NAMES
from agego_video import overlay as drawing
from agego_video import trajectory as trajectories
from agego_video.bvh import KINDS, write_bvh
from agego_video.cameras import camera_of, project_for, rendered, resolved
from agego_video.gltf import write_gltf
from agego_video.rig import AXES
from agego_video.video import VideoError, VideoWriter, open_frames, render_video

TRAINED = "artifacts/finetune/model.safetensors"  # in the project's folder, once `make repro` has run
OUTPUTS = {
    "csv": "joints.csv",
    "npz": "joints.npz",
    "world": "joints_world.csv",
    "bvh": "motion.bvh",
    "gltf": "motion.glb",
    "overlay": "overlay.mp4",
}
HEADER = ("frame", "time_s", *(f"{name}_{axis}_m" for name in JOINT_NAMES for axis in "xyz"))
OVERLAYS = ("h264", "none")
# Frames a second for which a model trained at 25 to 30 is taken as it is.
USUAL_FPS = (20, 40)
ROLLS = (0, 90, 180, 270)


@dataclass
class Prediction:
    """What `predict_video` made of a video: N frames with a pose.

    poses: (N, 15, 3) float32, metres, camera frame. frames: (N,) numbers of the frames, from 0. seconds: (N,) their
    times. fps: frames a second of the video, or of those taken from it. camera: of the frames as they are stored.
    camera_note: how the camera became known. skipped: frame -> why it has no pose.
    notes: what else was found. files: kind -> path. interrupted: whether Ctrl-C ended it.
    world: (N, 15, 3) m in the world, NaN where the camera's place is not known; None without a trajectory.
    bvh_misses: (M, 15) mm from the joints of motion.bvh, of M frames at an even pace, to those predicted.
    """

    poses: np.ndarray
    frames: np.ndarray
    seconds: np.ndarray
    fps: float
    camera: FisheyeCamera
    camera_note: str
    skipped: dict
    notes: list = field(default_factory=list)
    files: dict = field(default_factory=dict)
    interrupted: bool = False
    world: np.ndarray | None = None
    bvh_misses: np.ndarray | None = None


@contextmanager
def _interrupts():
    """A list that becomes non-empty on Ctrl-C, so that no step is cut in half; a second Ctrl-C stops at once."""
    asked = []

    def note(*_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.append(True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread gets signals
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class _Outputs:
    """The files of one prediction. Rows and overlay frames are written as their poses become known.

    Poses come upright, as the overlay and the BVH file show them; joints are written in the axes of the camera as it is
    mounted, rolled by `quarters` of a circle. caption: of the overlay, after the time. bvh: of KINDS. gltf: whether to
    write one. trajectory: into the world, or None. notes: what is worth saying of the files, once they are finished.
    """

    def __init__(self, out, fps, camera, overlay, camera_note, quarters, caption, bvh, gltf, trajectory):
        self.out, self.fps, self.camera, self.overlay = Path(out), fps, camera, overlay
        self.camera_note, self._quarters, self._caption = camera_note, quarters, caption
        self._bvh, self._gltf, self._trajectory = bvh, gltf, trajectory
        with self._errors():
            self.out.mkdir(parents=True, exist_ok=True)
        self._file, self._waiting, self._writer = None, deque(), None
        self.poses, self._upright, self.frames, self.seconds, self.notes = [], [], [], [], []
        self.world, self.bvh_misses = None, None

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise VideoError(f"{self.out}: cannot be written to ({error}); choose another folder with --out") from None

    def _start(self):
        """With the first pose, and no sooner: the files of an earlier run go, as they would not belong to these."""
        with self._errors():
            for name in OUTPUTS.values():
                (self.out / name).unlink(missing_ok=True)
            self._file = (self.out / OUTPUTS["csv"]).open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(HEADER)

    def wait(self, number, seconds, frame):
        """A frame whose pose is not known yet; kept as JPEG, a tenth of its pixels' size."""
        picture = None
        if self.overlay != "none":
            picture = cv2.imencode(".jpg", drawing.small(frame), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        self._waiting.append((number, seconds, picture))

    def write(self, poses):
        """Poses of the frames that have waited longest."""
        for pose in poses:
            if self._file is None:
                self._start()
            number, seconds, picture = self._waiting.popleft()
            mounted = _turn_back(pose, self._quarters)
            self._rows.writerow(_row(number, seconds, mounted))
            if picture is not None:
                self._draw(seconds, cv2.imdecode(picture, cv2.IMREAD_COLOR), pose)
            self.poses.append(mounted)
            self._upright.append(pose)
            self.frames.append(number)
            self.seconds.append(seconds)

    def _draw(self, seconds, image, pose):
        picture = drawing.draw(image, pose, self.camera, f"{seconds:.2f} s{self._caption}")
        if self._writer is None:
            self._begin, self._size = seconds, picture.shape[1::-1]
            self._writer = VideoWriter(self.out / OUTPUTS["overlay"], self.fps, self._size)
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        # A frame without a pose leaves the picture before it standing.
        self._writer.write(picture, seconds - self._begin)

    def finish(self):
        """Write what goes in one piece and close all -> kind -> path of what was written."""
        if self._file is None:
            return {}
        self._file.close()
        files = {kind: self.out / name for kind, name in OUTPUTS.items()}
        try:
            self._write_whole(files)
        finally:
            if self._writer is not None:
                self._writer.close()
        return {kind: path for kind, path in files.items() if path.exists()}

    def _write_whole(self, files):
        poses, frames, seconds = np.stack(self.poses), np.array(self.frames), np.array(self.seconds)
        arrays, shown, axes, lost = {}, np.stack(self._upright), AXES, None
        if self._trajectory:
            try:
                self.world, notes = self._trajectory.world(poses, seconds)
                self.notes += notes
                arrays["world"], axes = self.world, self._trajectory.axes
            except trajectories.TrajectoryError as error:  # the joints in the camera frame are worth keeping
                lost = error
        np.savez(
            files["npz"],
            joints_3d=poses,
            frame=frames,
            time_s=seconds,
            joint_names=np.array(JOINT_NAMES),
            fps=self.fps,
            camera_note=np.array(self.camera_note),
            **arrays,
        )
        if lost is not None:
            raise lost
        if self.world is not None:
            known = np.isfinite(self.world).all((1, 2))
            shown, frames, seconds = self.world[known], frames[known], seconds[known]
            with files["world"].open("w", newline="") as file:
                csv.writer(file).writerows([HEADER, *map(_row, frames, seconds, shown)])
        even = _without_gaps(shown, frames, seconds, self.fps)
        self.bvh_misses = 1000 * write_bvh(files["bvh"], even, self.fps, axes, self._bvh)
        if self._gltf:
            write_gltf(files["gltf"], shown, seconds, axes)


def _row(number, seconds, pose):
    return [number, f"{seconds:.6f}", *(f"{v:.6f}" for v in pose.ravel())]


def _device(name):
    """The device of that name, which does compute here; by default a GPU where there is one."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=name).item()
    # Backends that are not built in, or have no hardware, fail in several ways.
    except (RuntimeError, AssertionError, ImportError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise VideoError(f"--device {name}: not usable here ({reason}); expected one of {', '.join(there)}") from None
    return name


def _turn_back(poses, quarters):
    """Poses (..., 3) seen in images that were turned clockwise, in quarters of a circle -> in the camera's own axes."""
    for _ in range(quarters):
        # x to the right of the turned image is up in the stored one, y down of it is to the right.
        x, y, z = np.moveaxis(poses, -1, 0)
        poses = np.stack([y, -x, z], axis=-1)
    return poses


def _uneven(frames, seconds, fps):
    """Whether times (N,) are half a frame or more from those that the numbers (N,) of frames have at an even pace."""
    late = (seconds - seconds[0]) * fps - (frames - frames[0])
    return np.abs(late).max() >= 0.5


def _without_gaps(poses, frames, seconds, fps):
    """Poses (N, 15, 3) of frames (N,) -> one each 1 / fps seconds from the first to the last, gaps filled linearly.

    Times (N,) count where they are uneven; else the numbers do, as time stamps are rounded, some to milliseconds.
    """
    at = (seconds - seconds[0]) * fps if _uneven(frames, seconds, fps) else frames - frames[0]
    every = np.arange(round(at[-1]) + 1)
    flat = poses.reshape(len(poses), -1).T
    return np.stack([np.interp(every, at, values) for values in flat], axis=-1).reshape(-1, *poses.shape[1:])


def _each(frames, every, progress):
    """Every `every`-th frame, its number counting those alone."""
    for number, seconds, frame in frames:
        progress.update(1)
        if number % every == 0:
            yield number // every, seconds, frame


def _fail_without_poses(source, skipped):
    name, reason = next(iter(skipped.items()), ("", "no frame"))
    raise VideoError(f"{source}: no frame can be used ({len(skipped)} skipped; first: {name}: {reason})")


def predict_video(
    source, out, model=None, calibration=None, *, camera=None, fov=None, frame_size=None, mount_roll=0,
    overlay="h264", every=1, fps=None, chunk=32, device=None, bvh="rotations", gltf=False, trajectory=None,
):  # fmt: skip
    """Predict the poses of a fisheye video and write them into the folder `out` -> Prediction.

    source: a video file, or a folder of images. model: a .safetensors file with its .json, as 03_pose_training writes
    them; windows, input size and crop are those it was trained with, so that the poses are those of
    `evaluation.predict_split`. calibration: the camera's, of any kind that `read_camera` takes. Relative paths of these
    two start here or at the project's folder; by default they are the released model, and the calibration of
    the project's SceneEgo set.
    camera: which one of a Kalibr camchain. fov: degrees, in place of a calibration: an equidistant lens over the image
    circle that the frames show. frame_size: (width, height) px that the calibration's image has in the frames' pixels,
    where they are its middle, cut out; by default frames of the calibration's proportions are its image at another
    size, and square ones its central square. mount_roll: by how many degrees, of ROLLS, frames are turned clockwise to
    be upright; joints come out in the axes of the frames as they are stored.
    overlay: codec of overlay.mp4 ("h264", see VideoWriter), or "none". every: only each every-th frame is
    used. fps: frames a second of a folder of images. device: as torch names it; by default a GPU where there is one.
    bvh: "rotations" or "positions", see write_bvh. gltf: whether to write motion.glb too. trajectory: a Trajectory of
    the camera as it is mounted: then the joints in the world are written too, and motion.bvh and motion.glb are there.

    A frame that does not decode or has another size is counted in `skipped` and has no pose: joints.csv and joints.npz
    leave it out, motion.bvh fills it linearly, overlay.mp4 leaves the picture before standing. Time is that of the
    video's time stamps, also where they come unevenly. No window spans a hole of the time of more
    than the model's `window.max_gap` frames. Whatever ends the run early, the files hold the frames done so far.
    Files of an earlier run stay until this one has a pose.
    Raises VideoError, CalibrationError or WeightsError, which name the file and say what to do, and SettingsError
    where a default is needed and there is no project, or its params.yaml cannot be read.
    """
    device = _device(device)
    if bvh not in KINDS:
        raise VideoError(f"--bvh {bvh}; expected one of {', '.join(KINDS)}")
    frames = open_frames(source, fps)
    if trajectory is not None and frames.length is not None:
        trajectory.check_overlap(frames.length)
    if Path(source).resolve() in [(Path(out) / name).resolve() for name in OUTPUTS.values()]:
        raise VideoError(f"{source}: would be overwritten; choose another folder with --out")
    network, config = _load(model)
    own, camera_notes = camera_of(frames, source, calibration, camera, fov, frame_size)
    if mount_roll not in ROLLS:
        raise VideoError(f"--mount-roll {mount_roll}; expected one of {', '.join(map(str, ROLLS))}")
    quarters = mount_roll // 90
    upright = own.turned(quarters)
    view = InputView.of(upright, config["input"]["size"], config["input"]["crop"])
    window = config["window"]
    max_gap = window["max_gap"]
    network, rate = for_inference(network).to(device), frames.fps / every

    def stream():
        return PoseStream(network, window["length"], window["stride"], window["step"], chunk)

    camera_note = "; ".join(camera_notes)
    caption = ", lens assumed" if fov else ""
    outputs = _Outputs(out, rate, upright, overlay, camera_note, quarters, caption, bvh, gltf, trajectory)
    skipped, last, part = {}, None, stream()
    with _interrupts() as interrupted, bar(frames.total, "predicting", "frame") as progress:
        try:
            for number, seconds, frame in _each(frames, every, progress):
                if interrupted:
                    break
                # A copy, as OpenCV wants its rows one after the other.
                frame = np.ascontiguousarray(np.rot90(frame, -quarters))
                try:
                    image = view.apply(frame)
                except ValueError as error:
                    skipped[f"frame {number * every}"] = f"wrong size: {error}"
                    continue
                if last is not None and round((seconds - last) * rate) - 1 > max_gap:
                    outputs.write(part.finish())
                    part = stream()
                last = seconds
                outputs.wait(number, seconds, frame)
                outputs.write(part.push(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
        finally:
            try:
                outputs.write(part.finish())
            finally:
                files = outputs.finish()
    skipped |= frames.skipped
    if not outputs.poses:
        _fail_without_poses(source, skipped)
    notes = [*frames.notes, *camera_notes, *outputs.notes]
    if not USUAL_FPS[0] <= rate <= USUAL_FPS[1]:
        span = window["step"] * (window["length"] - 1) + 1
        notes.append(
            f"{rate:.4g} frames a second, but the model's windows are of {span} frames of 25 to 30 a second: motion "
            "looks slower or faster to it; --every thins a faster video out"
        )
    if _uneven(np.array(outputs.frames), np.array(outputs.seconds), rate):
        notes.append(
            f"frames come at an uneven pace; joints and overlay have their true times, and motion.bvh is in real time "
            f"at {rate:.4g} frames a second"
        )
    arrays = np.stack(outputs.poses), np.array(outputs.frames) * every, np.array(outputs.seconds)
    made = files, bool(interrupted), outputs.world, outputs.bvh_misses
    return Prediction(*arrays, rate, own, camera_note, skipped, notes, *made)


def _load(path):
    default = path is None
    if default:
        root = project_for("--model")[0]
        path = params.locate(root, params.RELEASED)
    path = resolved(path)
    try:
        return load_model(path)
    except WeightsError as error:
        if path.is_file():
            raise
        pull = f"run `dvc pull released.dvc` in {root}, or " if default else ""
        raise WeightsError(f"{error}; {pull}name another one with --model, such as {TRAINED}") from None


def render_demo(path, fps=30.0):
    """Write the first test sequence of the project's SceneEgo set as a video -> folder of the sequence.

    Raises VideoError where the set is not there, SettingsError outside of a project.
    """
    root, data = project_for("VIDEO, without --demo")
    try:
        places = [params.locate(root, place) for place in (data.sceneego.test_list, data.sceneego.root)]
        folder = read_split(*places)[0]
    except DatasetError as error:
        raise VideoError(f"no test sequence, which params.yaml names{rendered(data)}: {error}") from None
    render_video(folder / "imgs", path, fps)
    return folder


def folders_for(videos, out):
    """A folder for each video: `out` for a single one, else one within, by its name without the suffix.

    Where two would share one, all have their suffix, and then the folder they come from, in the name.
    Raises VideoError where that does not part them.
    """
    if len(videos) == 1:
        return [Path(out)]
    paths = [Path(video).resolve() for video in videos]
    for name in (
        lambda path: path.name if path.is_dir() else path.stem,
        lambda path: path.name,
        lambda path: f"{path.parent.name}_{path.name}",
    ):
        names = [name(path) for path in paths]
        # Some file systems take A and a for one.
        if len({text.casefold() for text in names}) == len(names):
            return [Path(out) / text for text in names]
    twice = next(video for i, video in enumerate(videos) if names[i].casefold() in map(str.casefold, names[:i]))
    raise VideoError(f"{twice}: given twice, or of one name with another one; predict it in a call of its own")


def main(arguments=None):
    """The command -> exit status: 0, 1 for an error with any video, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m agego_lib.predict", description=__doc__.split("\n\n")[1])
    parser.add_argument("videos", nargs="+", metavar="video", help="a fisheye video file, or a folder of frames")
    parser.add_argument("--out", default="poses", help="folder to write (default: %(default)s); for several videos "
                        "one within for each")  # fmt: skip
    parser.add_argument(
        "--model", help=f"weights, with their .json beside them (default: the project's {params.RELEASED})"
    )
    parser.add_argument("--calibration", help="of OCamCalib, OpenCV or Kalibr (default: the project's SceneEgo set's)")
    parser.add_argument("--camera", metavar="NAME", help="which camera of a Kalibr camchain (default: its first)")
    parser.add_argument("--fov", type=float, metavar="DEGREES", help="in place of a calibration: an "
                        "equidistant lens, with this field of view over the image circle of the frames")  # fmt: skip
    parser.add_argument("--frame-size", type=_width_and_height, metavar="WxH", help="size of the calibration's image "
                        "in the frames' pixels, where they were cut out of its middle")  # fmt: skip
    parser.add_argument("--mount-roll", type=int, choices=ROLLS, default=0, metavar="DEGREES", help="by which frames "
                        "are turned clockwise to be upright: 90, 180 or 270")  # fmt: skip
    parser.add_argument(
        "--overlay", choices=OVERLAYS, default="h264", help="codec of overlay.mp4, or none (default: %(default)s)"
    )
    parser.add_argument("--every", type=_positive(int), default=1, metavar="K", help="use every K-th frame only")
    parser.add_argument("--fps", type=_positive(float), help="frames a second of a folder of frames (default: 30)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--demo", action="store_true", help="first write VIDEO from a test sequence of this project")
    parser.add_argument("--bvh", choices=KINDS, default=KINDS[0], help="what motion.bvh says of each joint: rotations "
                        "alone, or exact positions too (default: %(default)s)")  # fmt: skip
    parser.add_argument("--gltf", action="store_true", help="write motion.glb too, for viewers")
    trajectories.add_options(parser)
    options = parser.parse_args(arguments)
    if options.demo and len(options.videos) > 1:
        parser.error(f"--demo writes one video; {len(options.videos)} are named")
    try:
        folders = folders_for(options.videos, options.out)
        trajectory = trajectories.from_options(options)
        if trajectory and len(folders) > 1:
            raise VideoError("--trajectory is of one video; predict the others in calls of their own")
    except VideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    left_out = ("videos", "out", "demo", "trajectory_offset", "trajectory_inverse", "up", "floor")
    named = {k: v for k, v in vars(options).items() if k not in left_out} | {"trajectory": trajectory}
    failed = 0
    for video, folder in zip(options.videos, folders, strict=True):
        if len(folders) > 1:
            print(f"{video}:")
        try:
            if options.demo:
                print(f"{video}: made of {render_demo(video)}")
            result = predict_video(video, folder, **named)
        except (VideoError, CalibrationError, WeightsError, params.SettingsError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        except Exception:
            if len(folders) == 1:
                raise
            # Not foreseen, but a night's other videos are not to be lost for it.
            traceback.print_exc()
            failed += 1
            continue
        _tell(result)
        if result.interrupted:
            return 130
    if failed and len(folders) > 1:
        print(f"error: {failed} of {len(folders)} videos failed, see above", file=sys.stderr)
    return 1 if failed else 0


def _tell(result):
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    for frame, reason in list(result.skipped.items())[:10]:
        print(f"skipped: {frame}: {reason}", file=sys.stderr)
    if len(result.skipped) > 10:
        print(f"skipped: and {len(result.skipped) - 10} more", file=sys.stderr)
    ended = " until it was interrupted" if result.interrupted else ""
    print(f"{len(result.poses)} poses{ended}; {len(result.skipped)} frames skipped")
    for path in result.files.values():
        print(path)
    if result.bvh_misses.max() > 0.05:
        print(
            f"motion.bvh keeps bones at one length: joints {result.bvh_misses.mean():.1f} mm off on average, "
            f"{result.bvh_misses.max():.0f} mm at most (--bvh positions: exact, for Blender)"
        )


def _width_and_height(text):
    width, height = (int(part) for part in text.lower().split("x"))
    if min(width, height) < 1:
        raise ValueError
    return width, height


_width_and_height.__name__ = "WIDTHxHEIGHT"


def _positive(kind):
    def read(text):
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    read.__name__ = f"positive {kind.__name__}"
    return read


if __name__ == "__main__":
    sys.exit(main())
