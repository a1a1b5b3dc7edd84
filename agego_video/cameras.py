"""Which camera took the frames of a video: its calibration, or an assumed lens; and what stands in for an option."""

from collections import Counter
from itertools import islice
from pathlib import Path

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera, InputView, read_camera
from agego_lib.camera.lens import equidistant_camera
from agego_lib.datasets.image_circle import FRAMES, BrightestFrame
from agego_video.video import VideoError, open_frames

FOVS = (60, 300)  # degrees across an image circle, of lenses that there are
BETWEEN = 15  # frames, between those that show the image circle: half a second, in which the light moves
CODE = Path(__file__).parent
TOLD = 0.5  # px, by which a calibration of another model is fitted, from which on it is told


def project():
    """The folder of the project here, or outside of any, of the one that this code lies in. Raises SettingsError."""
    try:
        return params.find_root()
    except params.SettingsError:
        try:
            return params.find_root(CODE)
        except params.SettingsError:  # the code alone is installed
            pass
        raise


def resolved(path):
    """A path as given, or in the project's folder where a relative one is not here but is there."""
    path = Path(path)
    if not path.exists():
        try:
            there = project() / path
        except params.SettingsError:
            return path
        return there if there.exists() else path
    return path


def project_for(option):
    """(folder, settings of its data) of the `project`, whose files an option stands in for."""
    try:
        root = project()
    except params.SettingsError as error:
        raise params.SettingsError(f"{error}, or name a file of your own with {option}") from None
    return root, params.load(root / "params.yaml").dataset


def camera_of(frames, source, calibration, name, fov, frame_size) -> tuple[FisheyeCamera, list[str]]:
    """-> (FisheyeCamera of the frames as they are stored, notes on how it became known)."""
    if fov is not None:
        if calibration is not None or name is not None or frame_size is not None:
            raise VideoError(f"{source}: --fov stands in for a calibration; leave --calibration, or --fov, out")
        return _assumed(frames, source, fov)
    path, found, notes = _camera(calibration, name)
    if found.fit and found.fit.miss > TOLD:
        notes.append(
            f"{path}: {found.kind}, fitted to {found.fit.miss:.2g} px at the worst place: this project's cameras are "
            "alike in all directions from their centre"
        )
    if found.affine > TOLD:
        notes.append(f"{path}: affine terms left out, which would move pixels by {found.affine:.2g} px at most")
    size = _usual_size(frames)
    if frame_size is not None:
        camera, note = _cut_out(found.camera, size, frame_size, source, path)
    else:
        camera, note = _as_stored(found.camera, size, path)
        if frames.size is not None:
            _check_size(source, size, camera, path)
    return camera, [*notes, *([note] if note else [])]


def _some(frames, count, between):
    """At most so many frames, one of every `between`: of what has a path from its start, of a camera as they come."""
    again = frames if frames.path is None else open_frames(frames.path)
    taken = (frame for i, (_, _, frame) in enumerate(again) if i % between == 0)
    return islice(taken, count)


def _usual_size(frames):
    """(width, height) px that most of the first frames have."""
    if frames.size is not None:
        return tuple(frames.size)
    sizes = Counter(frame.shape[1::-1] for frame in _some(frames, 9, 1))
    return sizes.most_common(1)[0][0] if sizes else None


def _assumed(frames, source, fov):
    """An equidistant lens over the image circle that the frames show."""
    if not FOVS[0] <= fov <= FOVS[1]:
        raise VideoError(f"--fov {fov:g}; expected the degrees that the image circle shows, {FOVS[0]} to {FOVS[1]}")
    size = _usual_size(frames)
    circle = None
    if size is not None:
        brightest = BrightestFrame(InputView(size))
        for frame in _some(frames, FRAMES, BETWEEN if frames.size else max(1, frames.total // FRAMES)):
            if frame.shape[1::-1] == size:
                brightest.add(frame)
        circle = brightest.circle()
    if circle is None:
        raise VideoError(
            f"{source}: no image circle can be seen in its frames, so that --fov says nothing of their pixels; name a "
            "calibration with --calibration, or make one: python -m agego_lib.camera calibrate"
        )
    (u, v), radius = circle
    camera = equidistant_camera(size, (u, v), radius, fov)
    return camera, [
        f"no calibration: an equidistant lens of {fov:g} degrees is assumed over the image circle that the frames show "
        f"(centre {u:.0f}, {v:.0f}, radius {radius:.0f} px); directions, and so poses, are off as far as the lens is "
        "not so. python -m agego_lib.camera calibrate measures it"
    ]


def _as_stored(camera, size, path):
    """The camera of frames of `size`, where they are the calibration's image at another size -> (camera, note)."""
    if size is None or size == tuple(camera.size):
        return camera, None
    width, height = camera.size
    side, edge = min(camera.size), f"{size[0]}x{size[1]} px"
    own = f"{width}x{height} px of {path}"
    if size[0] == size[1] and width != height:
        camera = camera.scaled(size[0] / side) if size[0] != side else camera
        return camera, f"frames of {edge} are taken as the central square of the {own}; --frame-size says otherwise"
    factor = size[0] / width
    if round(height * factor) == size[1]:
        return camera.scaled(factor), f"frames of {edge} are taken as the whole {own}, at another size"
    return camera, None


def _cut_out(camera, size, whole, source, path):
    """The camera of frames of `size`, the middle of the calibration's image at the size `whole` -> (camera, note)."""
    factor = whole[0] / camera.size[0]
    found = f"--frame-size {whole[0]}x{whole[1]}"
    if abs(camera.size[1] * factor - whole[1]) > 1:
        raise VideoError(
            f"{source}: {found}, but the image of {path} has other proportions, {camera.size[0]}x{camera.size[1]} px; "
            "expected its size in the frames' pixels, before they were cut out of its middle"
        )
    if size is None:  # no frame decodes, which is told once all have been tried
        return camera, None
    if size[0] > whole[0] or size[1] > whole[1]:
        raise VideoError(
            f"{source}: frames of {size[0]}x{size[1]} px do not lie within {found}; expected at least the frames' size"
        )
    left, top = ((a - b) // 2 for a, b in zip(whole, size, strict=True))
    return camera.scaled(factor).cropped(left, top, size), (
        f"frames of {size[0]}x{size[1]} px are taken as the middle of {whole[0]}x{whole[1]} px, which are the whole "
        f"{camera.size[0]}x{camera.size[1]} px of {path}"
    )


def _camera(path, name):
    """-> (path, Calibration, notes)."""
    default, notes = "", []
    if path is None:
        root, data = project_for("--calibration")
        path = params.locate(root, data.sceneego.calibration)
        whose = ", a lens that was made up for the embedded data" if data.source == "synthetic" else ""
        notes = [f"no --calibration: frames are taken for ones of the camera of {path}{whose}"]
        default = "; the default is dataset.sceneego.calibration of params.yaml" + rendered(data)
    path = resolved(path)
    try:
        return path, read_camera(path, name), notes
    except CalibrationError as error:
        if path.is_file():
            raise
        raise CalibrationError(f"{error}. Name your camera's with --calibration{default}") from None


def rendered(data):
    return ", which `dvc repro prepare` renders" if data.source == "synthetic" else ", which comes with the data set"


def _check_size(source, size, camera, calibration):
    side = min(camera.size)
    if tuple(size) not in (tuple(camera.size), (side, side)):
        raise VideoError(
            f"{source}: frames of {size[0]}x{size[1]} px, but {calibration} is of a camera of "
            f"{camera.size[0]}x{camera.size[1]} px; name the calibration of this camera with --calibration, or where "
            "they are cut out of its middle, say with --frame-size how large the whole would be in their pixels"
        )
