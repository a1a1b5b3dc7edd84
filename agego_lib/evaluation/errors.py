"""Errors of a split in millimetres (Sec. 4.3), their intervals, and what knowing nothing gives: the mean pose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

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
    lengths: frames of each sequence; people: who wears the camera in each, None where nobody knows. whole: what only
    whole sequences have, for `summary`. unseen: `unseen_for` of each joint, None where nobody knows.
    """

    distance: Float[np.ndarray, "F 15"]
    pa_distance: Float[np.ndarray, "F 15"]
    ba_distance: Float[np.ndarray, "F 15"]
    lengths: tuple[int, ...]
    whole: dict
    people: tuple[str, ...] | None = None
    unseen: Int64[np.ndarray, "F 15"] | None = None

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
    def upper(self) -> Float[np.ndarray, " F"]:
        return self.distance[:, UPPER_BODY].mean(-1)

    @property
    def lower(self) -> Float[np.ndarray, " F"]:
        return self.distance[:, LOWER_BODY].mean(-1)

    @property
    def lower_less_upper(self) -> Float[np.ndarray, " F"]:
        """How much worse the lower body is than the upper."""
        return self.lower - self.upper

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
        """`summary`, and in `interval_95` the bootstrap intervals over people of its headline numbers."""
        intervals = {}
        for name in HEADLINE:
            low, high = bootstrap_interval(getattr(self, name), self.lengths, self.people)
            intervals[f"{name}_mm"] = {"low": round(low, 2), "high": round(high, 2)}
        return {**self.summary(), "interval_95": intervals}


def bootstrap_interval(
    values: Float[np.ndarray, "*S F"],
    lengths: Sequence[int],
    people: Sequence[str] | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of `values` when whole people are drawn again.

    lengths: frames of each sequence, which sum to F; people: the wearer of each, where unknown each is somebody else.
    Frames of one person are alike, so that drawing single frames or sequences would promise too much; with few people
    the interval is rough, and with one it is a point. Values of S trainings, an axis before: these are drawn too.
    Raises ValueError where the lengths do not sum to F.
    """
    values = np.atleast_2d(np.asarray(values, float))
    if sum(lengths) != values.shape[-1]:
        raise ValueError(f"lengths sum to {sum(lengths)}, expected {values.shape[-1]}, the number of values")
    _, who = np.unique(np.arange(len(lengths)) if people is None else people, return_inverse=True)
    frames = np.bincount(who, weights=lengths)
    sums = np.array([np.bincount(np.repeat(who, lengths), weights=row) for row in values])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(frames), size=(draws, len(frames)))
    trainings = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[trainings].mean(1)[np.arange(draws)[:, None], drawn].sum(1) / frames[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_pose(sequences) -> Float64[np.ndarray, "15 3"]:
    """Mean of all frames' joints over prepared sequences, m: the error that knowing nothing gives."""
    return np.concatenate([sequence.joints_3d for sequence in sequences]).mean(axis=0, dtype=np.float64)


def pose_errors(
    predictions: Sequence[Float[np.ndarray, "_ 15 3"]],
    targets: Sequence[Float[np.ndarray, "_ 15 3"]],
    frame_numbers: Sequence[Int[np.ndarray, " _"]] | None = None,
    people: Sequence[str] | None = None,
) -> PoseErrors:
    """Joints in m, one array a sequence -> PoseErrors over all frames together (Sec. 4.3).

    Beyond the paper: BA-MPJPE, and in its `summary` 3D PCK at 150 mm and AUC, the acceleration error (mm a frame
    squared) over all three frames in a row, and the deviation of bone lengths over time (mm), as a mean over sequences
    weighted by their frames.
    frame_numbers: those of each sequence. Without them, or where no three frames are in a row, nobody knows
    the acceleration error, and `summary` has none. people: the wearer of each sequence, for intervals.
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
    return PoseErrors(*distances, lengths, whole, None if people is None else tuple(people))


def sequence_errors(predictions: Sequence[Float[np.ndarray, "_ 15 3"]], sequences) -> PoseErrors:
    """`pose_errors` of poses of prepared sequences, with all that these know."""
    truth, numbers = [s.joints_3d for s in sequences], [s.frame_numbers for s in sequences]
    errors = pose_errors(predictions, truth, numbers, [s.actor for s in sequences])
    if any(s.hidden is None for s in sequences):
        return errors
    return replace(errors, unseen=np.concatenate([_unseen(s) for s in sequences]))


def unseen_for(seen: Bool[np.ndarray, "F J"], frame_numbers: Int[np.ndarray, " F"]) -> Int64[np.ndarray, "F J"]:
    """For how many frames, itself included, each joint has not been seen; 0 where it is. Holes in the numbers count."""
    last = np.where(seen, np.asarray(frame_numbers)[:, None], frame_numbers[0] - 1)
    return np.asarray(frame_numbers)[:, None] - np.maximum.accumulate(last)


def _unseen(sequence):
    return unseen_for(sequence.in_image & ~sequence.hidden, sequence.frame_numbers)


# Frames for which a joint has not been seen, from above 0 to each bound, and what a table calls them.
UNSEEN = ((8, "up to 8 frames"), (32, "9 to 32 frames"), (np.inf, "longer"))


def unseen_parts(unseen: Int64[np.ndarray, "F 15"]) -> dict[str, Bool[np.ndarray, "F 15"]]:
    """`unseen_for` of joints -> which of them have not been seen for how long, by the names of UNSEEN."""
    bounds = [0, *(most for most, _ in UNSEEN)]
    return {part: (unseen > least) & (unseen <= most) for (most, part), least in zip(UNSEEN, bounds, strict=False)}


def error_groups(errors: PoseErrors, sequences) -> list[dict]:
    """Mean errors of parts of a split: by body half, by visibility where known, and how long it has lasted, by action
    where known.

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
        chosen |= {("visibility", "hidden from view"): inside & hidden, ("visibility", "in sight"): inside & ~hidden}
        ages = np.concatenate([_unseen(s) for s in sequences])
        chosen |= {("unseen for", part): where for part, where in unseen_parts(ages).items()}
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
        lacks.append("joints hidden from view")
    if not any(a for s in sequences for a in s.actions or ()):
        lacks.append("actions")
    return lacks
