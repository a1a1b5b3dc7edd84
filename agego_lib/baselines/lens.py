"""The calibrated view in torch, with gradients: points in the camera's frame to places in the view, and back to rays.

Places are shares of the view's side, (0, 0) its upper left corner, (1, 1) its lower right one.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agego_lib.camera import view
from agego_lib.models.rays import unproject as fovea_rays

TERMS = 16  # of each polynomial; shorter ones are filled with zeros
SIZE = 4 + 2 * TERMS

Lens = Float[Tensor, "B 36"] | None


def lens_of(sequence) -> Float[np.ndarray, "36"] | None:
    """What `project` and `unproject` must know of a prepared sequence's camera and view; None for a "fovea" view, which
    is the same whatever the camera.

    Four numbers of where the principal point lies in the view and how far half the image's shorter side reaches there,
    then both polynomials in that unit, lowest order first. Raises ValueError for polynomials of more than TERMS terms.
    """
    camera = sequence.camera
    if sequence.view.crop == "fovea":
        return None
    if max(len(camera.w2c), len(camera.c2w)) > TERMS:
        found = f"{len(camera.c2w)} and {len(camera.w2c)} terms"
        raise ValueError(f"{sequence.path}: polynomials of {found}; the baselines read up to {TERMS} each")
    unit = min(camera.size) / 2  # lest high powers of pixels lose single precision
    origin, end = sequence.view.to_view(np.add(camera.centre, [[0, 0], [unit, unit]]), 1) + 0.5
    lens = np.zeros(SIZE, np.float32)
    lens[:2], lens[2:4] = origin, end - origin
    lens[4 : 4 + len(camera.w2c)] = np.divide(camera.w2c, unit)
    lens[4 + TERMS : 4 + TERMS + len(camera.c2w)] = [a * unit ** (i - 1) for i, a in enumerate(camera.c2w)]
    return lens


def _polynomial(coefficients, x):
    """(B, TERMS), (B, J) -> (B, J)"""
    value = torch.zeros_like(x)
    for term in coefficients.flip(1).unbind(1):
        value = value * x + term[:, None]
    return value


def project(points: Float[Tensor, "B J 3"], lens: Lens = None) -> Float[Tensor, "B J 2"]:
    """Points (m, camera frame) -> their places in the view, as `InputView.to_view(FisheyeCamera.project(points))`."""
    if lens is None:
        # Not as a matrix product, which mixed precision would round to half.
        turn = torch.as_tensor(view.TURN.T, dtype=points.dtype, device=points.device)
        points = (points[..., None, :] * turn).sum(-1)
    across, depth = points[..., :2], points[..., 2]
    # The little under the root keeps the gradient finite on the axis.
    r = (across.square().sum(-1) + 1e-12).sqrt()
    if lens is None:
        angle = torch.atan2(r, depth)
        rho = view.SCALE * angle / (1 + (angle / math.radians(view.FOVEA)).square()).sqrt()
        return (across * (rho / r)[..., None] + 1) / 2
    rho = _polynomial(lens[:, 4 : 4 + TERMS], torch.atan2(-depth, r))
    return lens[:, None, :2] + lens[:, None, 2:4] * across * (rho / r)[..., None]


def unproject(places: Float[Tensor, "B J 2"], lens: Lens = None) -> Float[Tensor, "B J 3"]:
    """Places in the view -> unit rays, camera frame, as `FisheyeCamera.unproject` of `InputView.to_full`."""
    if lens is None:
        return fovea_rays(places - 0.5, 1)
    across = (places - lens[:, None, :2]) / lens[:, None, 2:4]
    rho = (across.square().sum(-1) + 1e-12).sqrt()
    depth = -_polynomial(lens[:, 4 + TERMS :], rho)
    return torch.nn.functional.normalize(torch.cat([across, depth[..., None]], dim=-1), dim=-1)
