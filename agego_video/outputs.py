"""The files of one prediction, written as poses become known."""

import csv
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from agego_lib.skeleton import JOINT_NAMES
from agego_video import overlay as drawing
from agego_video import trajectory as trajectories
from agego_video.bvh import write_bvh
from agego_video.gltf import write_gltf
from agego_video.rig import AXES
from agego_video.video import VideoError, VideoWriter

OUTPUTS = {
    "csv": "joints.csv",
    "npz": "joints.npz",
    "world": "joints_world.csv",
    "bvh": "motion.bvh",
    "gltf": "motion.glb",
    "overlay": "overlay.mp4",
}
# The last column is there where the lens is assumed, and in all rows the same.
ASSUMED = "assumed_fov_deg"
HEADER = ("frame", "time_s", *(f"{name}_{axis}_m" for name in JOINT_NAMES for axis in "xyz"))


class Outputs:
    """The files of one prediction. Rows and overlay frames are written as their poses become known.

    Poses come upright, as the overlay and the BVH file show them; joints are written in the axes of the camera as it is
    mounted. eye: an Eye. bvh: of KINDS. gltf: whether to write one. trajectory: into the world, or None. notes: what is
    worth saying of the files, once they are finished.
    """

    def __init__(self, out, fps, eye, overlay, bvh, gltf, trajectory):
        self.out, self.fps, self.eye, self.overlay = Path(out), fps, eye, overlay
        self._bvh, self._gltf, self._trajectory = bvh, gltf, trajectory
        self._caption, self._header, self._last = "", HEADER, []
        if eye.fov is not None:
            self._caption, self._header, self._last = ", lens assumed", (*HEADER, ASSUMED), [f"{eye.fov:g}"]
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
        self._rows.writerow(self._header)

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
            mounted = self.eye.turn_back(pose)
            self._rows.writerow(_row(number, seconds, mounted) + self._last)
            if picture is not None:
                self._draw(seconds, cv2.imdecode(picture, cv2.IMREAD_COLOR), pose)
            self.poses.append(mounted)
            self._upright.append(pose)
            self.frames.append(number)
            self.seconds.append(seconds)

    def _draw(self, seconds, image, pose):
        picture = drawing.draw(image, pose, self.eye.upright, f"{seconds:.2f} s{self._caption}")
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
            camera_note=np.array("; ".join(self.eye.notes)),
            **arrays,
        )
        if lost is not None:
            raise lost
        if self.world is not None:
            known = np.isfinite(self.world).all((1, 2))
            shown, frames, seconds = self.world[known], frames[known], seconds[known]
            with files["world"].open("w", newline="") as file:
                rows = [_row(*row) + self._last for row in zip(frames, seconds, shown, strict=True)]
                csv.writer(file).writerows([self._header, *rows])
        even = _without_gaps(shown, frames, seconds, self.fps)
        self.bvh_misses = 1000 * write_bvh(files["bvh"], even, self.fps, axes, self._bvh)
        if self._gltf:
            write_gltf(files["gltf"], shown, seconds, axes, "; ".join(self.eye.notes) if self._last else "")


def _row(number, seconds, pose):
    return [number, f"{seconds:.6f}", *(f"{v:.6f}" for v in pose.ravel())]


def uneven(frames, seconds, fps):
    """Whether times (N,) are half a frame or more from those that the numbers (N,) of frames have at an even pace."""
    late = (seconds - seconds[0]) * fps - (frames - frames[0])
    return np.abs(late).max() >= 0.5


def _without_gaps(poses, frames, seconds, fps):
    """Poses (N, 15, 3) of frames (N,) -> one each 1 / fps seconds from the first to the last, gaps filled linearly.

    Times (N,) count where they are uneven; else the numbers do, as time stamps are rounded, some to milliseconds.
    """
    at = (seconds - seconds[0]) * fps if uneven(frames, seconds, fps) else frames - frames[0]
    every = np.arange(round(at[-1]) + 1)
    flat = poses.reshape(len(poses), -1).T
    return np.stack([np.interp(every, at, values) for values in flat], axis=-1).reshape(-1, *poses.shape[1:])
