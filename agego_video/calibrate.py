"""Your own camera: python -m agego_lib.camera convert IN OUT.json, and calibrate BOARD OUT.json

`convert` reads a calibration of OpenCV, Kalibr or OCamCalib and writes the JSON that this project reads; `calibrate`
makes one from a video, or a folder of pictures, of a checkerboard or ChArUco board. Both draw what they did.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from agego_lib.camera import CalibrationError, read_camera
from agego_lib.camera.calibrate import LEAST_VIEWS, MOST_VIEWS, Board, View, calibrate, spread
from agego_lib.camera.picture import draw_board, draw_lens
from agego_lib.files import replacing
from agego_video.video import VideoError, open_frames

LOOKED_AT = 2 * MOST_VIEWS  # sharpest frames of as many stretches of a video


def board_views(source, board: Board):
    """The board in the sharpest frames of a video, or of a folder -> (views, (width, height), frames looked at).

    Raises VideoError, also where frames differ in size.
    """
    frames = open_frames(source)
    group = max(1, (frames.total or 3000) // LOOKED_AT)
    views, best, size, looked = [], None, None, 0

    def look():
        nonlocal looked
        looked += 1
        found = board.find(best[2])
        if found:
            views.append(View(f"frame {best[1]}", *found))

    for count, (number, _, frame) in enumerate(frames):
        if size is not None and frame.shape[1::-1] != size:
            raise VideoError(
                f"{source}: frame {number} is of {frame.shape[1::-1]} px after ones of {size}; expected one size"
            )
        size = frame.shape[1::-1]
        if best is not None and count % group == 0:
            look()
            best = None
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        sharpness = cv2.Laplacian(grey, cv2.CV_32F).var() if group > 1 else 0.0
        if best is None or sharpness > best[0]:
            best = sharpness, number, grey
    if best is None:
        raise VideoError(f"{source}: no frame that decodes")
    look()
    return views, size, looked


def calibrate_board(source, board: Board):
    """The camera that filmed a board -> (Calibrated, frames looked at). Raises VideoError, CalibrationError."""
    views, size, looked = board_views(source, board)
    if len(views) < LEAST_VIEWS:
        raise CalibrationError(
            f"{source}: the board was found in {len(views)} of {looked} frames looked at; expected at least "
            f"{LEAST_VIEWS}, sharp, all of the board within the picture. --board counts the inner corners of a "
            "checkerboard (9x6 of one with 10x7 squares), and the squares of a ChArUco board"
        )
    return calibrate(board, spread(views), size, str(source)), looked


def _check_places(options):
    """Raises CalibrationError where an output would take the place of the input, or of the other one."""
    places = {}
    for path in (options.source, options.out, options.plot):
        if places.setdefault(path.resolve(), path) is not path:
            raise CalibrationError(f"{path}: would be overwritten; choose another place for the output")


def _write(out, plot, camera, picture):
    """The calibration and its picture, each whole or not at all. Raises CalibrationError where that is impossible."""
    try:
        with replacing(out) as partial:
            partial.write_text(camera.to_json() + "\n")
        with replacing(plot) as partial:
            partial.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    except OSError as error:
        raise CalibrationError(f"{error}; choose another place for the output") from None
    print(f"{out}\n{plot}")


def _seen(camera):
    """(degrees from the axis at the image's nearest border, and at its farthest corner or its circle)."""
    width, height = camera.size
    u, v = np.linspace(0, width - 1, 65), np.linspace(0, height - 1, 65)
    ends = [(a, b) for a in u for b in (0, height - 1)] + [(a, b) for a in (0, width - 1) for b in v]
    away = np.hypot(*(np.array(ends) - camera.centre).T)
    reach = np.minimum([away.min(), away.max()], camera.radius or np.inf)
    rays = camera.unproject(np.stack([camera.centre[0] + reach, np.full(2, camera.centre[1])], axis=-1), 1.0)
    return np.degrees(np.arctan2(rays[:, 0], rays[:, 2]))


def _tell_lens(camera):
    near, far = _seen(camera)
    circle = f", image circle of {camera.radius:.0f} px" if camera.radius else ""
    print(f"sees {near:.1f} degrees from its axis at the nearest border, {far:.1f} at the farthest{circle}")


def _convert(options):
    found = read_camera(options.source, options.camera)
    print(f"{options.source}: {found.kind}, {found.camera.size[0]}x{found.camera.size[1]} px")
    if found.fit:
        orders = " and ".join(str(len(terms) - 1) for terms in (found.camera.c2w, found.camera.w2c))
        print(
            f"at most {found.fit.miss:.3g} px from the file's model, to {found.fit.degrees:.1f} degrees from the axis"
        )
        print(f"polynomials of orders {orders}: {found.fit.round_trip:.3g} px there and back")
    else:
        print(f"polynomials as they are: {found.camera.round_trip_miss():.3g} px there and back")
    if found.affine:
        print(f"affine terms, left out as in the data sets' code, would move pixels by {found.affine:.3g} px at most")
    _tell_lens(found.camera)
    _write(options.out, options.plot, found.camera, draw_lens(found))


def _calibrate(options):
    columns, rows = options.board
    marker = options.marker and options.marker / 1000
    found, looked = calibrate_board(
        options.source, Board(columns, rows, options.square / 1000, options.charuco, marker)
    )
    print(f"{options.source}: {len(found.views)} pictures of the board used, of {looked} frames looked at")
    if found.dropped:
        print(f"left out, as the board does not fit there: {', '.join(view.name for view in found.dropped)}")
    print(f"residual {found.rms:.3f} px (RMS); corners in {found.coverage:.0%} of the picture's parts, to "
          f"{found.degrees:.0f} degrees from the axis: beyond, the lens is as its formula goes on")  # fmt: skip
    _tell_lens(found.fit.camera)
    _write(options.out, options.plot, found.fit.camera, draw_board(found))


def _sides(text):
    columns, rows = (int(part) for part in text.lower().split("x"))
    return columns, rows


_sides.__name__ = "COLUMNSxROWS"


def _millimetres(text):
    value = float(text)
    if not 0 < value < 1e5:
        raise ValueError
    return value


_millimetres.__name__ = "length in mm"


def main(arguments=None):
    """The command -> exit status: 0, or 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m agego_lib.camera", description=__doc__.split("\n\n")[1])
    commands = parser.add_subparsers(required=True)
    convert = commands.add_parser("convert", help="another program's calibration into this project's JSON")
    convert.add_argument("source", type=Path, metavar="IN", help="YAML, JSON or calib_results.txt")
    convert.add_argument("--camera", metavar="NAME", help="which camera of a Kalibr camchain (default: its first)")
    convert.set_defaults(run=_convert)
    board = commands.add_parser("calibrate", help="a calibration from a video or folder of pictures of a board")
    board.add_argument("source", type=Path, metavar="BOARD", help="video file, or folder of pictures")
    board.add_argument("--board", type=_sides, required=True, metavar="9x6",
                       help="inner corners across and down; of a ChArUco board, squares")  # fmt: skip
    board.add_argument("--square", type=_millimetres, required=True, metavar="MM", help="side of a square")
    board.add_argument(
        "--charuco", metavar="DICT", help="a ChArUco board with markers of DICT, for example DICT_4X4_50"
    )
    board.add_argument("--marker", type=_millimetres, metavar="MM", help="side of its markers (default: 0.7 squares)")
    board.set_defaults(run=_calibrate)
    for command in (convert, board):
        command.add_argument("out", type=Path, metavar="OUT.json")
        command.add_argument("--plot", type=Path, metavar="PNG", help="picture to draw (default: OUT.png)")
    options = parser.parse_args(arguments)
    options.plot = options.plot or options.out.with_suffix(".png")
    try:
        _check_places(options)
        options.run(options)
    except (CalibrationError, VideoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
