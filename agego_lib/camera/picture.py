"""Pictures of a calibration, drawn with OpenCV: a lens and what was fitted to it, a board's corners and residuals."""

import cv2
import numpy as np

PANEL = (640, 440)  # px
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 28, 48, 56
_INK, _FAINT = (60, 60, 60), (225, 225, 225)
_THEIRS, _OURS = (200, 150, 60), (40, 90, 220)  # BGR
_ARROW = 40  # times a residual's length, at which it is drawn


def _write(image, text, at, scale=0.45, colour=_INK):
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _ticks(top):
    """About five round numbers from 0 up to `top`."""
    step = 10 ** np.floor(np.log10(top / 4))
    step *= next(k for k in (10, 5, 2, 1) if k * step <= top / 4 or k == 1)
    return np.arange(0, top * (1 + 1e-9), step)


def panel(curves, title, x_label, y_label):
    """Curves, (x (N,), y (N,), BGR, thickness, name) each, from 0 on -> (440, 640, 3) BGR. NaN is left out."""
    image = np.full((PANEL[1], PANEL[0], 3), 255, np.uint8)
    width, height = PANEL[0] - _LEFT - _RIGHT, PANEL[1] - _TOP - _BOTTOM
    tops = [max(float(np.nanmax(curve[axis])) for curve in curves) for axis in (0, 1)]
    tops = [top if top > 0 else 1.0 for top in tops]
    for value in _ticks(tops[0]):
        u = round(_LEFT + value / tops[0] * width)
        cv2.line(image, (u, _TOP), (u, _TOP + height), _FAINT, 1)
        _write(image, f"{value:g}", (u - 4 * len(f"{value:g}"), _TOP + height + 18))
    for value in _ticks(tops[1]):
        v = round(_TOP + height - value / tops[1] * height)
        cv2.line(image, (_LEFT, v), (_LEFT + width, v), _FAINT, 1)
        _write(image, f"{value:.3g}", (_LEFT - 8 - 8 * len(f"{value:.3g}"), v + 5))
    for number, (x, y, colour, thickness, name) in enumerate(curves):
        at = np.stack([_LEFT + x / tops[0] * width, _TOP + height - y / tops[1] * height], axis=-1)
        line = np.round(at[np.isfinite(at).all(-1)] * 16).astype(np.int32)
        cv2.polylines(image, [line], False, colour, thickness, cv2.LINE_AA, 4)
        if name:
            v = _TOP + 20 + 20 * number
            cv2.line(image, (_LEFT + 12, v - 5), (_LEFT + 40, v - 5), colour, thickness, cv2.LINE_AA)
            _write(image, name, (_LEFT + 48, v))
    cv2.rectangle(image, (_LEFT, _TOP), (_LEFT + width, _TOP + height), _INK, 1)
    _write(image, title, (_LEFT, 18), 0.5)
    _write(image, x_label, (_LEFT, PANEL[1] - 14))
    _write(image, y_label, (8, _TOP - 8), 0.4)
    return image


def draw_lens(calibration):
    """A Calibration as `read_camera` gives it -> (440, 1280, 3) BGR: radius over angle, and error over angle."""
    if calibration.fit:
        angle, theirs, ours, apart = calibration.fit.curves()
        what = "from the file's model"
    else:
        camera = calibration.camera
        # Not to the corners: where the circle is unknown, OCamCalib's polynomials may end before them.
        theirs = np.linspace(0, camera.radius or min(camera.size) / 2, 401)[1:]
        pixels = np.stack([theirs + camera.centre[0], np.full_like(theirs, camera.centre[1])], axis=-1)
        rays = camera.unproject(pixels, 1.0)
        angle, back = np.degrees(np.arctan2(rays[:, 0], rays[:, 2])), camera.project(rays)
        ours, apart = back[:, 0] - camera.centre[0], np.abs(back - pixels).max(-1)
        what = "there and back"
    x_label = "angle from the optical axis (degrees)"
    curves = [(angle, theirs, _THEIRS, 5, calibration.kind), (angle, ours, _OURS, 2, "polynomialW2C")]
    error = [(angle, apart, _OURS, 2, "")]
    worst = f"At most {np.nanmax(apart):.3g} px {what}"
    return np.hstack(
        [panel(curves, "The lens", x_label, "px from the centre"), panel(error, worst, x_label, "error (px)")]
    )


def draw_board(found):
    """A `Calibrated` -> (H, W, 3) BGR: every corner in its place in the picture, its residual as an arrow, enlarged."""
    width, height = found.fit.camera.size
    scale = 900 / max(width, height)
    image = np.full((round(height * scale) + 40, round(width * scale), 3), 255, np.uint8)
    for part in (1, 2, 3):
        u, v = round(width * scale * part / 4), round(height * scale * part / 4)
        cv2.line(image, (u, 40), (u, image.shape[0]), _FAINT, 1)
        cv2.line(image, (0, v + 40), (image.shape[1], v + 40), _FAINT, 1)
    for view, residuals in zip(found.views, found.residuals, strict=True):
        start = (view.pixels + 0.5) * scale + (0, 40)
        for a, b in zip(start, start + residuals * scale * _ARROW, strict=True):
            a, b = (tuple(np.round(p * 16).astype(int).tolist()) for p in (a, b))
            cv2.line(image, a, b, _OURS, 1, cv2.LINE_AA, 4)
            cv2.circle(image, a, 32, _THEIRS, -1, cv2.LINE_AA, 4)
    cv2.rectangle(image, (0, 40), (image.shape[1] - 1, image.shape[0] - 1), _INK, 1)
    corners = sum(len(view.pixels) for view in found.views)
    said = f"{corners} corners of {len(found.views)} pictures cover {found.coverage:.0%}; "
    _write(image, said + f"residuals x {_ARROW}, RMS {found.rms:.2f} px", (8, 26), 0.5)
    return image
