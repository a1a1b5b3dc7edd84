"""Evaluation metrics of Sec. 4.3. Errors are in the unit of their input; NumPy in, NumPy out, torch in, torch out.

A frame that holds NaN gives NaN. NumPy input is computed in float64, torch input in float32 or better.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from agego_lib.skeleton import BONES, COMMON_BONE_LENGTHS, NUM_JOINTS

Array = np.ndarray | Tensor
Scalar = float | Float[Tensor, ""]  # of NumPy input, of torch input


def _pair(pred, target, dim=3):
    """(pred, target, finish): equal float tensors (..., J, dim) and the way back to the caller's kind of array."""
    as_torch = [array for array in (pred, target) if isinstance(array, torch.Tensor)]
    if as_torch:
        dtype = torch.promote_types(torch.float32, as_torch[0].dtype)
        dtype = torch.promote_types(dtype, as_torch[-1].dtype)
        pred, target = (torch.as_tensor(array, dtype=dtype, device=as_torch[0].device) for array in (pred, target))
    else:
        pred, target = (torch.from_numpy(np.array(array, dtype=np.float64)) for array in (pred, target))
    if pred.shape != target.shape or pred.ndim < 2 or (dim and pred.shape[-1] != dim):
        raise ValueError(
            f"pred {tuple(pred.shape)} and target {tuple(target.shape)}; expected two equal (..., J, {dim or 'D'})"
        )

    def finish(result):
        if as_torch:
            return result
        return result.numpy() if result.ndim else result.item()

    return pred, target, finish


def _check_reduce(reduce):
    if reduce not in ("mean", "none"):
        raise ValueError(f"reduce {reduce!r}; expected 'mean' or 'none'")


def _align(pred, target):
    """Umeyama's closed form for the similarity that takes each frame of `pred` closest to `target`."""
    pred_mean, target_mean = pred.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    x, y = pred - pred_mean, target - target_mean
    # A NaN frame stays NaN through its mean; the decomposition itself would refuse it, and its batch with it.
    u, s, vh = torch.linalg.svd((x.mT @ y).nan_to_num(0, 0, 0))
    # Turning the least significant axis makes the best orthogonal matrix a rotation, so no pose is mirrored.
    turn = torch.ones_like(s)
    turn[..., 2] = torch.linalg.det(u @ vh).sign()
    rotation = u @ (turn[..., None] * vh)
    spread = x.square().sum((-2, -1))
    # All joints in one point have no scale; any would do, as x is zero then.
    scale = (s * turn).sum(-1) / torch.where(spread > 0, spread, 1)
    return scale[..., None, None] * (x @ rotation) + target_mean


def procrustes_align(pred: Num[Array, "*N J 3"], target: Num[Array, "*N J 3"]) -> Float[Array, "*N J 3"]:
    """`pred` moved onto `target`, frame by frame, by the best similarity in the least-squares sense (Sec. 4.3).

    Rotation (never a reflection), translation and scale. Raises ValueError for other shapes.
    """
    pred, target, finish = _pair(pred, target)
    return finish(_align(pred, target))


def mpjpe(
    pred: Num[Array, "*N J 3"], target: Num[Array, "*N J 3"], reduce: str = "mean"
) -> Scalar | Float[Array, "*N"]:
    """Mean Per Joint Position Error (Sec. 4.3): mean Euclidean distance between joints.

    reduce: "mean" over frames and joints -> a number; "none" -> one value a frame.
    Raises ValueError for other shapes or another `reduce`.
    """
    _check_reduce(reduce)
    pred, target, finish = _pair(pred, target)
    error = torch.linalg.vector_norm(pred - target, dim=-1)
    return finish(error.mean() if reduce == "mean" else error.mean(-1))


def pa_mpjpe(
    pred: Num[Array, "*N J 3"], target: Num[Array, "*N J 3"], reduce: str = "mean"
) -> Scalar | Float[Array, "*N"]:
    """MPJPE after Procrustes alignment of each frame by itself (Sec. 4.3). Arguments as `mpjpe`."""
    _check_reduce(reduce)
    pred, target, finish = _pair(pred, target)
    error = torch.linalg.vector_norm(_align(pred, target) - target, dim=-1)
    return finish(error.mean() if reduce == "mean" else error.mean(-1))


def resize_bones(
    pose: Num[Array, "*N 15 3"], lengths: Sequence[float] = COMMON_BONE_LENGTHS
) -> Float[Array, "*N 15 3"]:
    """Poses whose bones keep their directions and get the lengths given, one after the other from the neck outwards.

    The neck stays where it is. lengths: 14, in the order of `skeleton.BONES`, of any unit, which is then that of the
    bones. A bone of length zero has no direction: it stays so, its joint where its parent is.
    Raises ValueError for other shapes.
    """
    pose, _, finish = _pair(pose, pose)
    if pose.shape[-2] != NUM_JOINTS or len(lengths) != len(BONES):
        raise ValueError(f"pose {tuple(pose.shape)}, {len(lengths)} lengths; expected (..., 15, 3) and {len(BONES)}")
    return finish(_resize(pose, lengths))


def _resize(pose, lengths):
    joints = list(pose.unbind(-2))
    # BONES go from the root outwards, so that a bone's parent has its place before.
    for (parent, child), length in zip(BONES, lengths, strict=True):
        bone = pose[..., child, :] - pose[..., parent, :]
        norm = torch.linalg.vector_norm(bone, dim=-1, keepdim=True)
        joints[child] = joints[parent] + bone * (length / torch.where(norm == 0, 1, norm))
    return torch.stack(joints, dim=-2)


def ba_mpjpe(
    pred: Num[Array, "*N 15 3"], target: Num[Array, "*N 15 3"], reduce: str = "mean"
) -> Scalar | Float[Array, "*N"]:
    """Bone-length-aligned MPJPE: PA-MPJPE after both poses were resized to the bones of one common skeleton.

    As Mo2Cap2, GlobalEgoMocap and SceneEgo report it beside PA-MPJPE: what is left when body size and proportions do
    not count. Arguments and errors as `mpjpe`, with J = 15; the result is in metres whatever the unit of the input,
    as COMMON_BONE_LENGTHS are, and a bone of length zero counts as `resize_bones` says.
    """
    _check_reduce(reduce)
    pred, target = (resize_bones(pose) for pose in (pred, target))
    return pa_mpjpe(pred, target, reduce)


def per_joint_error(
    pred: Num[Array, "*N J 3"], target: Num[Array, "*N J 3"], reduce: str = "mean"
) -> Float[Array, " J"] | Float[Array, "*N J"]:
    """Euclidean distance of each joint (Fig. 4), the mean of which is `mpjpe`; align first for the PA variant.

    reduce: "mean" over frames, or "none".
    Raises ValueError as `mpjpe`.
    """
    _check_reduce(reduce)
    pred, target, finish = _pair(pred, target)
    error = torch.linalg.vector_norm(pred - target, dim=-1)
    return finish(error.reshape(-1, error.shape[-1]).mean(0) if reduce == "mean" else error)


def pck(pred: Num[Array, "*N J D"], target: Num[Array, "*N J D"], threshold: float) -> Scalar:
    """Percentage of Correct Keypoints as a fraction: the share of joints at most `threshold` from their target.

    pred, target: for example 2D joints in px; threshold in the same unit. A joint whose target is NaN
    (outside the image) is not counted; a NaN prediction of a joint that is there counts as wrong.
    Raises ValueError for shapes that differ. NaN where no target can be counted.
    """
    pred, target, finish = _pair(pred, target, dim=None)
    correct = torch.linalg.vector_norm(pred - target, dim=-1) <= threshold
    return finish(correct[~target.isnan().any(-1)].to(pred.dtype).mean())


def auc(pred: Num[Array, "*N J D"], target: Num[Array, "*N J D"], limit: float, steps: int = 31) -> Scalar:
    """Area under the PCK curve: the mean of `pck` over `steps` thresholds from 0 to `limit`, both among them.

    With limit = 150 mm and 31 steps this is the AUC of the MPI-INF-3DHP benchmark (Mehta et al., 3DV 2017).
    Arguments and errors as `pck`; limit in the unit of pred.
    """
    pred, target, finish = _pair(pred, target, dim=None)
    error = torch.linalg.vector_norm(pred - target, dim=-1)[~target.isnan().any(-1)]
    thresholds = torch.linspace(0, limit, steps, dtype=error.dtype, device=error.device)
    return finish((error[:, None] <= thresholds).to(error.dtype).mean())


def acceleration_error(
    pred: Num[Array, "N J 3"],
    target: Num[Array, "N J 3"],
    frame_numbers: Int[np.ndarray, " N"] | None = None,
    reduce: str = "mean",
) -> Scalar | Float[Array, " M"]:
    """Mean distance between the second differences of two joint paths, in units a frame squared: jitter.

    pred, target: frames of one sequence (Kanazawa et al., CVPR 2019, call it acceleration error).
    frame_numbers: ascending, or None for N consecutive frames. Only three frames in a row count: across a missing
    frame, a second difference is mostly the motion that was missed. In a row are frames as far apart as the
    sequence's closest ones: where every k-th frame of a video was kept, those are its frames, and "a frame squared" is
    of them. reduce: "mean" over triples and joints -> a number, NaN where there is no triple; "none" -> one value a
    triple. Raises ValueError for other shapes, and for numbers that do not ascend.
    """
    _check_reduce(reduce)
    pred, target, finish = _pair(pred, target)
    if pred.ndim != 3:
        raise ValueError(f"pred is {tuple(pred.shape)}, expected (N, J, 3), one sequence")
    numbers = np.arange(len(pred)) if frame_numbers is None else np.asarray(frame_numbers)
    steps = np.diff(numbers)
    if numbers.shape != pred.shape[:1] or (steps <= 0).any():
        raise ValueError(f"frame_numbers of shape {numbers.shape}, expected {len(pred)} that ascend")
    near = steps == steps.min(initial=np.iinfo(np.int64).max)
    triples = torch.from_numpy(near[1:] & near[:-1]).to(pred.device)
    error = torch.linalg.vector_norm((pred - target).diff(n=2, dim=0), dim=-1)[triples]
    return finish(error.mean() if reduce == "mean" else error.mean(-1))


def bone_length_deviation(pred: Num[Array, "N J 3"], bones: Sequence[tuple[int, int]]) -> Scalar:
    """Standard deviation of each bone's length over the frames of one sequence, mean over bones; 0 for a rigid body.

    bones: pairs of joint indices. Raises ValueError for another shape.
    """
    pred, _, finish = _pair(pred, pred)
    if pred.ndim != 3:
        raise ValueError(f"pred is {tuple(pred.shape)}, expected (N, J, 3), one sequence")
    parents, children = torch.as_tensor(np.asarray(bones), device=pred.device).T
    lengths = torch.linalg.vector_norm(pred[:, children] - pred[:, parents], dim=-1)
    return finish(lengths.std(0, correction=0).mean())
