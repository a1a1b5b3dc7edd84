"""Training losses: the heatmap loss (Eq. 1) and the pose losses of Sec. 3.4."""

from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from agego_lib.skeleton import bones

# A bone shorter than this (metres) has no direction that a cosine could compare.
MIN_BONE_LENGTH = 1e-6

Scalar = Float[Tensor, ""]
# Which frames count, where not all of them do.
Mask = Bool[Tensor, "*N"] | None


def _at_least_float32(tensor):
    # Millimetres are lost in half precision, which mixed-precision training hands over.
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def heatmap_loss(
    logits: Float[Tensor, "*N J h w"],
    target: Float[Tensor, "*N J h w"],
    kind: str = "bce",
    pos_weight: float | None = None,
) -> Scalar:
    """Heatmap loss, a mean over all pixels: Eq. 1, or the alternative of Table 6.

    target: in [0, 1]. kind: "bce" is BCEWithLogits; "mse" compares the
    sigmoid of the logits with the target, so that both losses train the same quantity, the maps in [0, 1] that the
    joint embedding reads. pos_weight: factor on the target's share of "bce" (None: 1, as in the paper).
    Raises ValueError for shapes that differ, an unknown kind, or pos_weight with "mse".
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    logits, target = _at_least_float32(logits), _at_least_float32(target)
    if kind == "bce":
        weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=logits.dtype, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    if kind != "mse":
        raise ValueError(f"heatmap loss {kind!r}; expected 'bce' or 'mse'")
    if pos_weight is not None:
        raise ValueError("pos_weight belongs to the 'bce' heatmap loss; 'mse' has none")
    return F.mse_loss(logits.sigmoid(), target)


def _valid_frames(pred, target, mask):
    """The frames to average over, (N, J, 3) or (..., J, 3) without a mask."""
    if pred.shape != target.shape or pred.shape[-1:] != (3,):
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)}; expected two equal (..., J, 3)")
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != pred.shape[:-2]:
            raise ValueError(
                f"mask {tuple(mask.shape)} of {mask.dtype}; expected bool {tuple(pred.shape[:-2])}, true where valid"
            )
        # Chosen before anything is computed: a padded frame may hold NaN, which a product with zero would keep.
        pred, target = pred[mask], target[mask]
        if not len(pred):
            raise ValueError("mask excludes every frame; expected at least one valid frame")
    return _at_least_float32(pred), _at_least_float32(target)


def position_loss(pred: Float[Tensor, "*N J 3"], target: Float[Tensor, "*N J 3"], mask: Mask = None) -> Scalar:
    """L_pos of Sec. 3.4: mean Euclidean distance over joints and frames, in the unit of the input.

    Raises ValueError for shapes that do not fit or a mask that excludes every frame.
    """
    pred, target = _valid_frames(pred, target, mask)
    return torch.linalg.vector_norm(pred - target, dim=-1).mean()


def bone_length_loss(pred: Float[Tensor, "*N 15 3"], target: Float[Tensor, "*N 15 3"], mask: Mask = None) -> Scalar:
    """L_bone of Sec. 3.4: mean squared difference of bone lengths over bones and frames, in the input's unit squared.

    Raises ValueError as `position_loss`.
    """
    pred, target = _valid_frames(pred, target, mask)
    lengths = [torch.linalg.vector_norm(bones(joints), dim=-1) for joints in (pred, target)]
    return (lengths[0] - lengths[1]).square().mean()


def bone_cosine_loss(pred: Float[Tensor, "*N 15 3"], target: Float[Tensor, "*N 15 3"], mask: Mask = None) -> Scalar:
    """L_cos of Sec. 3.4: minus the mean cosine between predicted and true bones, over bones and frames; in [-1, 1].

    pred, target: in metres. A bone of no length, predicted or true, counts as cosine 0 and gives no gradient.
    Raises ValueError as `position_loss`.
    """
    pred, target = _valid_frames(pred, target, mask)
    a, b = bones(pred), bones(target)
    norm_a, norm_b = torch.linalg.vector_norm(a, dim=-1), torch.linalg.vector_norm(b, dim=-1)
    defined = (norm_a > MIN_BONE_LENGTH) & (norm_b > MIN_BONE_LENGTH)
    # The inner `where` keeps the division, and so the gradient, finite where the outer one discards the value.
    cosine = torch.where(defined, (a * b).sum(-1) / torch.where(defined, norm_a * norm_b, 1), 0)
    return -cosine.mean()


def velocity_loss(pred: Float[Tensor, "*N T J 3"], target: Float[Tensor, "*N T J 3"], mask: Mask = None) -> Scalar:
    """Mean distance of each joint's step to the next frame from the true step, in the input's unit; not in the paper.

    It is what keeps poses of neighbouring frames from trembling (as in VideoPose3D, Pavllo et al., 2019). Steps from
    or to a frame outside the mask do not count. Raises ValueError for shapes that do not fit, or where no step is left.
    """
    if pred.shape != target.shape or pred.shape[-1:] != (3,) or pred.ndim < 3 or pred.shape[-3] < 2:
        found = f"pred {tuple(pred.shape)} and target {tuple(target.shape)}"
        raise ValueError(f"{found}; expected two equal (..., T, J, 3), T at least 2")
    steps = [_at_least_float32(joints).diff(dim=-3) for joints in (pred, target)]
    return position_loss(*steps, None if mask is None else mask[..., 1:] & mask[..., :-1])


class PoseLoss(nn.Module):
    """The overall objective of Sec. 3.4: lambda_pos * L_pos + lambda_bone * L_bone + lambda_cos * L_cos.

    lambda_velocity: of `velocity_loss`, where that is wanted beside them.
    """

    def __init__(
        self,
        lambda_pos: float = 1.0,
        lambda_bone: float = 0.1,
        lambda_cos: float = 0.01,
        lambda_velocity: float = 0.0,
    ):
        super().__init__()
        self.weights = {"position": lambda_pos, "bone_length": lambda_bone, "bone_cosine": lambda_cos}
        if lambda_velocity:
            self.weights["velocity"] = lambda_velocity

    def forward(
        self, pred: Float[Tensor, "*N 15 3"], target: Float[Tensor, "*N 15 3"], mask: Mask = None
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """Joints in m -> (total, terms): "position", "bone_length", "bone_cosine", and "velocity" where it has a
        weight, before weighting."""
        velocity = {"velocity": velocity_loss(pred, target, mask)} if "velocity" in self.weights else {}
        pred, target = _valid_frames(pred, target, mask)
        terms = velocity | {
            "position": position_loss(pred, target),
            "bone_length": bone_length_loss(pred, target),
            "bone_cosine": bone_cosine_loss(pred, target),
        }
        return reduce(torch.add, (self.weights[name] * term for name, term in terms.items())), terms
