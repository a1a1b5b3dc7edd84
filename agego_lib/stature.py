"""How tall the wearer is, which no frame shows: a body twice as large, twice as far away, looks the same."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from agego_lib.skeleton import bones

# The lengths of all BONES in sum over the stature: the mean of the embedded data's 24 bodies, whose statures are 1.61
# to 1.95 m; it differs by 1.1 % among them (standard deviation), their statures by 5 %.
BONES_OF_STATURE = 2.486
AVERAGE = 1.75  # m; what poses of no known stature are in units of


def stature(joints: Float[np.ndarray | Tensor, "*N 15 3"]) -> Float[np.ndarray | Tensor, "*N"]:
    """Joints, m -> the stature (m) of a person with bones as long as theirs in sum, of each pose."""
    return ((bones(joints) ** 2).sum(-1) ** 0.5).sum(-1) / BONES_OF_STATURE


def resized(joints: Float[Tensor, "B T 15 3"], stature: Float[Tensor, " B"]) -> Float[Tensor, "B T 15 3"]:
    """Joints of a person of AVERAGE stature -> the same rays at the distances of a person of `stature`, m."""
    return joints * (stature / AVERAGE)[:, None, None, None]


def known(stature: Float[Tensor, " B"] | None) -> Float[Tensor, " B"]:
    """The statures that a decoder with `stature: given` was told. Raises ValueError where one is missing."""
    if stature is None or stature.isnan().any():
        raise ValueError("decoder.stature is given, but the wearer's stature is not: tell it (metres)")
    return stature
