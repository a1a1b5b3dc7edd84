"""Errors of a split in millimetres (Sec. 4.3), their intervals, and what knowing nothing gives: the mean pose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from agego_lib import metrics
from agego_lib.skeleton import BONES, COMMON_BONE_LENGTHS, JOINT_NAMES, LOWER_BODY, UPPER_BODY

# Properties of PoseErrors that stand in every table, and their titles there.
HEADLINE = {"mpjpe": "MPJPE", "pa_mpjpe": "PA-MPJPE", "ba_mpjpe": "BA-MPJPE"}
PCK_LIMIT_MM = 150  # of 3D PCK and its AUC, as in MPI-INF-3DHP (Mehta et al., 3DV 2017)


@dataclass(frozen=True)
class PoseErrors:
    """Errors of a split in mm, of all its F frames, one sequence after the other.

    distance, pa_distance: of each joint, without and with Procrustes alignment of its frame; ba_distance: with
    it, after both poses got the bones of one skeleton (see metrics.ba_mpjpe).
    lengths: frames of each sequence. whole: what only whole sequences have, for `summary`.
    """

    distance: Float[np.ndarray, "F 15"]
    pa_distance: Float[np.ndarray, "F 15"]
    ba_distance: Float[np.ndarray, "F 15"]
    lengths: tuple[int, ...]
    whole: dict

    @property
    def mpjpe(self) -> Float[np.ndarray, " F"]:
        return self.distance.mean(-1)

    @property
    def pa_mpjpe(self) -> Float[np.ndarray, " F"]:
        return self.pa_distance.mean(-1)

    @property
    def ba_mpjpe(self) -> Float[np.ndarray, " F"]:
        return self.ba_distance.mean(-1)

    @property
    def per_joint(self) -> Float[np.ndarray, "15"]:
        return self.distance.mean(0)

    @property
    def pa_per_joint(self) -> Float[np.ndarray, "15"]:
        return self.pa_distance.mean(0)

    def summary(self) -> dict[str, float]:
        """Means over all frames, with the unit in the key."""
        means = {f"{name}_mm": round(float(getattr(self, name).mean()), 2) for name in HEADLINE}
        return means | {name: round(value, 4) for name, value in self.whole.items()}

    def report(self) -> dict:
        """`summary`, and in `interval_95` the bootstrap intervals over sequences of its headline numbers."""
        intervals = {}
        for name in HEADLINE:
            low, high = bootstrap_interval(getattr(self, name), self.lengths)
            intervals[f"{name}_mm"] = {"low": round(low, 2), "high": round(high, 2)}
        return {**self.summary(), "interval_95": intervals}


def bootstrap_interval(
    values: Float[np.ndarray, " F"], lengths: Sequence[int], level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of `values` when whole sequences are drawn again.

    lengths: frames of each sequence, which sum to F. Frames of one sequence are alike, so that drawing single frames
    would promise too much; with few sequences the interval is rough, and with one it is a point.
    Raises ValueError where the lengths do not sum to F.
    """
    if sum(lengths) != len(values):
        raise ValueError(f"lengths sum to {sum(lengths)}, expected {len(values)}, the number of values")
    sums = np.array([part.sum() for part in np.split(np.asarray(values, float), np.cumsum(lengths)[:-1])])
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(1) / np.asarray(lengths)[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_pose(sequences) -> Float64[np.ndarray, "15 3"]:
    """Mean of all frames' joints over prepared sequences, m: the error that knowing nothing gives."""
    return np.concatenate([sequence.joints_3d for sequence in sequences]).mean(axis=0, dtype=np.float64)


def pose_errors(
    predictions: Sequence[Float[np.ndarray, "_ 15 3"]],
    targets: Sequence[Float[np.ndarray, "_ 15 3"]],
    frame_numbers: Sequence[Int[np.ndarray, " _"]] | None = None,
) -> PoseErrors:
    """Joints in m, one array a sequence -> PoseErrors over all frames together (Sec. 4.3).

    Beyond the paper: BA-MPJPE, and in its `summary` 3D PCK at 150 mm and AUC, the acceleration error (mm a frame
    squared) over all three frames in a row, and the deviation of bone lengths over time (mm), as a mean over sequences
    weighted by their frames.
    frame_numbers: those of each sequence. Without them, or where no three frames are in a row, nobody knows
    the acceleration error, and `summary` has none.
    """
    pred, target = ([np.asarray(p, np.float64) * 1000 for p in poses] for poses in (predictions, targets))
    lengths = tuple(len(p) for p in pred)
    joints, true = np.concatenate(pred), np.concatenate(target)
    resized, resized_true = (metrics.resize_bones(p, np.multiply(COMMON_BONE_LENGTHS, 1000)) for p in (joints, true))
    distances = (
        np.linalg.norm(p - t, axis=-1)
        for p, t in (
            (joints, true),
            (metrics.procrustes_align(joints, true), true),
            (metrics.procrustes_align(resized, resized_true), resized_true),
        )
    )
    whole = {"pck_150mm": metrics.pck(joints, true, PCK_LIMIT_MM), "auc_150mm": metrics.auc(joints, true, PCK_LIMIT_MM)}
    if frame_numbers is not None:
        triples = zip(pred, target, frame_numbers, strict=True)
        jitter = np.concatenate([metrics.acceleration_error(p, t, n, reduce="none") for p, t, n in triples])
        if len(jitter):
            whole["acceleration_mm"] = float(jitter.mean())
    moving = [p for p in pred if len(p) > 1]
    if moving:
        stretch = [metrics.bone_length_deviation(p, BONES) for p in moving]
        whole["bone_length_std_mm"] = float(np.average(stretch, weights=[len(p) for p in moving]))
    return PoseErrors(*distances, lengths, whole)


def sequence_errors(predictions: Sequence[Float[np.ndarray, "_ 15 3"]], sequences) -> PoseErrors:
    """`pose_errors` of poses of prepared sequences, with all that these know."""
    truth, numbers = [s.joints_3d for s in sequences], [s.frame_numbers for s in sequences]
    return pose_errors(predictions, truth, numbers)


def error_groups(errors: PoseErrors, sequences) -> list[dict]:
    """Mean errors of parts of a split: by body half, by visibility where known, by action where known.

    errors: of `sequences`, prepared sequences. -> list of dicts: group, part, share (of all joints),
    and the means, mpjpe_mm, pa_mpjpe_mm, ba_mpjpe_mm. A part without any joint is left out: see `unlabelled`.
    """
    joints = np.arange(len(JOINT_NAMES))
    chosen = {
        ("body", "upper"): np.isin(joints, UPPER_BODY)[None],
        ("body", "lower"): np.isin(joints, LOWER_BODY)[None],
    }
    inside = np.concatenate([s.in_image for s in sequences])
    chosen["visibility", "outside the image"] = ~inside
    if all(s.hidden is not None for s in sequences):
        hidden = np.concatenate([s.hidden for s in sequences])
        chosen |= {("visibility", "hidden by the body"): inside & hidden, ("visibility", "in sight"): inside & ~hidden}
    actions = np.array([a or "" for s in sequences for a in s.actions or [None] * len(s)])
    chosen |= {("action", str(a)): (actions == a)[:, None] for a in np.unique(actions) if a}
    rows = []
    for (group, part), where in chosen.items():
        where = np.broadcast_to(where, errors.distance.shape)
        if where.any():
            distances = (errors.distance, errors.pa_distance, errors.ba_distance)
            values = {f"{k}_mm": round(float(d[where].mean()), 2) for k, d in zip(HEADLINE, distances, strict=True)}
            rows.append({"group": group, "part": part, "share": round(float(where.mean()), 4), **values})
    return rows


def unlabelled(sequences) -> list[str]:
    """Labels that the data lack, of those that `error_groups` goes by -> list of texts, for a line beside its table."""
    lacks = []
    if any(s.hidden is None for s in sequences):
        lacks.append("joints hidden by the body")
    if not any(a for s in sequences for a in s.actions or ()):
        lacks.append("actions")
    return lacks
