"""Poses of fisheye videos: python -m agego_lib.predict video.mp4 --out poses/

Reads a video file or a folder of frames one by one, and writes into the folder of --out: joints.csv and joints.npz
(metres in the camera frame, seconds), motion.bvh (opens in Blender) and overlay.mp4; of several videos each into a
folder of its own there. No video is ever held whole. Ctrl-C stops it; what is done by then is finished and kept.
"""

import argparse
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agego_lib import params
from agego_lib.camera import FisheyeCamera
from agego_lib.datasets import DatasetError, read_split
from agego_lib.inference import PoseStream
from agego_lib.progress import bar
from agego_video import trajectory as trajectories
from agego_video.bvh import KINDS
from agego_video.cameras import project_for, rendered
from agego_video.eye import ERRORS, Eye, add_options, interrupts, positive, usable
from agego_video.outputs import OUTPUTS, Outputs, uneven
from agego_video.video import VideoError, open_frames, render_video

OVERLAYS = ("h264", "none")


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
    stature=None,
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
    stature: how tall the wearer is, m, which frames do not show: a person twice as large, twice as far, looks the same.

    A frame that does not decode or has another size is counted in `skipped` and has no pose: joints.csv and joints.npz
    leave it out, motion.bvh fills it linearly, overlay.mp4 leaves the picture before standing. Time is that of the
    video's time stamps, also where they come unevenly. No window spans a hole of the time of more
    than the model's `window.max_gap` frames. Whatever ends the run early, the files hold the frames done so far.
    Files of an earlier run stay until this one has a pose.
    Raises VideoError, CalibrationError or WeightsError, which name the file and say what to do, and SettingsError
    where a default is needed and there is no project, or its params.yaml cannot be read.
    """
    device = usable(device)  # before anything is opened
    if bvh not in KINDS:
        raise VideoError(f"--bvh {bvh}; expected one of {', '.join(KINDS)}")
    frames = open_frames(source, fps)
    if trajectory is not None and frames.length is not None:
        trajectory.check_overlap(frames.length)
    if Path(source).resolve() in [(Path(out) / name).resolve() for name in OUTPUTS.values()]:
        raise VideoError(f"{source}: would be overwritten; choose another folder with --out")
    eye = Eye.of(frames, source, model, calibration, camera, fov, frame_size, mount_roll, device, stature)
    window, rate = eye.window, frames.fps / every

    def stream():
        return PoseStream(eye.network, window["length"], window["stride"], window["step"], chunk, eye.stature)

    outputs = Outputs(out, rate, eye, overlay, bvh, gltf, trajectory)
    skipped, last, part = {}, None, stream()
    with interrupts() as interrupted, bar(frames.total, "predicting", "frame") as progress:
        try:
            for number, seconds, frame in _each(frames, every, progress):
                if interrupted:
                    break
                try:
                    frame, image = eye.look(frame)
                except ValueError as error:
                    skipped[f"frame {number * every}"] = f"wrong size: {error}"
                    continue
                if last is not None and round((seconds - last) * rate) - 1 > window["max_gap"]:
                    outputs.write(part.finish())
                    part = stream()
                last = seconds
                outputs.wait(number, seconds, frame)
                outputs.write(part.push(image))
        finally:
            try:
                outputs.write(part.finish())
            finally:
                files = outputs.finish()
    skipped |= frames.skipped
    if not outputs.poses:
        _fail_without_poses(source, skipped)
    thinned = max(1, round(frames.fps / 30))
    advice = f"--every {thinned} takes {frames.fps / thinned:.3g} a second of it" if thinned != every else "film at 30"
    pace = eye.pace_note(rate, advice)
    notes = [*frames.notes, *eye.notes, *outputs.notes, *([pace] if pace else [])]
    if uneven(np.array(outputs.frames), np.array(outputs.seconds), rate):
        notes.append(
            f"frames come at an uneven pace; joints and overlay have their true times, and motion.bvh is in real time "
            f"at {rate:.4g} frames a second"
        )
    arrays = np.stack(outputs.poses), np.array(outputs.frames) * every, np.array(outputs.seconds)
    made = files, bool(interrupted), outputs.world, outputs.bvh_misses
    return Prediction(*arrays, rate, eye.camera, "; ".join(eye.notes), skipped, notes, *made)


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
    add_options(parser)
    parser.add_argument(
        "--overlay", choices=OVERLAYS, default="h264", help="codec of overlay.mp4, or none (default: %(default)s)"
    )
    parser.add_argument("--every", type=positive(int), default=1, metavar="K", help="use every K-th frame only")
    parser.add_argument("--fps", type=positive(float), help="frames a second of a folder of frames (default: 30)")
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
        except ERRORS as error:
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


if __name__ == "__main__":
    sys.exit(main())
