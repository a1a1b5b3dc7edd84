"""Whole-sequence prediction against a brute-force loop over windows, and the evaluation against SciPy."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import bootstrap

from agego_lib.datasets.features import open_features, store_features
from agego_lib.evaluation import (
    bootstrap_interval,
    error_groups,
    mean_pose,
    pose_errors,
    predict_split,
    sequence_errors,
    unlabelled,
    write_metrics,
)
from agego_lib.inference import predict_sequence, read_frames
from agego_lib.metrics import ba_mpjpe
from agego_lib.models.build import ABLATIONS
from agego_lib.params import WindowSettings
from agego_lib.skeleton import JOINT_NAMES

pytestmark = pytest.mark.usefixtures("one_thread")

T = 8
# ImageNet's mean and deviation as torchvision's documentation of its weights gives them.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model().eval()


def random_frames(n, seed=0):
    rng = np.random.default_rng(seed)
    # Noise on a brightness of its own keeps the frames apart.
    return (rng.integers(0, 128, (n, 32, 32, 3)) + rng.integers(0, 128, (n, 1, 1, 3))).astype(np.uint8)


def starts_of(n, length, stride):
    """Every stride-th window that fits, and one that ends with the sequence."""
    fitting = [start for start in range(0, n, stride) if start + length <= n]
    return sorted({*fitting, max(0, n - length)}) if n else []


@torch.no_grad()
def brute_force(model, frames, length, stride):
    """Each window by itself through the whole model; then the mean over all windows with a frame, frame by frame."""
    model.eval()
    images = torch.from_numpy(((frames / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    poses = [[] for _ in frames]
    for start in starts_of(len(frames), length, stride):
        count = min(length, len(frames) - start)
        # What stands in the padding must not matter.
        window, mask = torch.randn(1, length, *images.shape[1:]), torch.zeros(1, length, dtype=torch.bool)
        window[0, :count], mask[0, :count] = images[start : start + count], True
        for frame, pose in enumerate(model(window, mask)[0, :count], start):
            poses[frame].append(pose.numpy().astype(np.float64))
    return np.array([np.mean(found, axis=0) for found in poses]).reshape(-1, 15, 3), poses


@pytest.mark.parametrize("n", [1, 5, T, T + 1, 3 * T + 2])
@pytest.mark.parametrize(("stride", "chunk"), [(3, 5), (4, 32), (T, 1)])
def test_against_every_window_by_itself(model, n, stride, chunk):
    frames = random_frames(n)
    expected, _ = brute_force(model, frames, T, stride)
    found = predict_sequence(model, frames, length=T, stride=stride, chunk=chunk)
    assert found.shape == (n, 15, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_the_brute_force_sees_differences(model):
    """Otherwise the comparisons of this file would prove nothing: frames, windows and padding change the poses."""
    frames = random_frames(2 * T)
    expected, single = brute_force(model, frames, T, 4)
    far = 50 * CLOSE["atol"]
    assert all(np.abs(a - b).max() > far for a, b in pairwise(expected))
    assert [len(found) for found in single] == [1] * 4 + [2] * 8 + [1] * 4
    assert all(np.abs(found[0] - found[1]).max() > far for found in single if len(found) == 2)
    assert np.abs(brute_force(model, frames[:5], T, 4)[0] - expected[:5]).max() > far


@pytest.mark.parametrize("row", ABLATIONS)
@pytest.mark.parametrize("n", [5, 2 * T + 3])
def test_rows_of_the_ablations(tiny_model, row, n):
    model, frames = tiny_model(row), random_frames(n)
    found = predict_sequence(model, frames, length=T, stride=4, chunk=6)
    np.testing.assert_allclose(found, brute_force(model, frames, T, 4)[0], **CLOSE)


def test_trunk_of_its_own(tiny_model):
    model, frames = tiny_model(shared_trunk=False), random_frames(T + 1)
    assert not model.shares_trunk()
    found = predict_sequence(model, frames, length=T, stride=4)
    np.testing.assert_allclose(found, brute_force(model, frames, T, 4)[0], **CLOSE)


def test_batch_statistics_are_never_used(model):
    frames = random_frames(T)
    expected = brute_force(model, frames, T, 4)[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = predict_sequence(model.train(), frames, length=T, stride=4)
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_empty_sequence(model):
    found = predict_sequence(model, random_frames(0), length=T, stride=4)
    assert found.shape == (0, 15, 3) and found.dtype == np.float32


def test_a_stride_that_leaves_frames_out(model):
    for stride in (0, T + 1):
        with pytest.raises(ValueError, match="stride"):
            predict_sequence(model, random_frames(20), length=T, stride=stride)


class Counting:
    """Frames that note which of them are asked for."""

    def __init__(self, frames):
        self.frames, self.asked = frames, []

    def __len__(self):
        return len(self.frames)

    def images(self, indices):
        self.asked.append(np.array(indices))
        return self.frames[indices]


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_each_frame_is_encoded_once(model, monkeypatch, chunk):
    frames, seen, done = Counting(random_frames(3 * T + 2)), [], []
    encode = model.frozen_features
    monkeypatch.setattr(model, "frozen_features", lambda images: seen.append(len(images)) or encode(images))
    predict_sequence(model, frames, length=T, stride=2, chunk=chunk, progress=done.append)
    assert np.concatenate(frames.asked).tolist() == list(range(3 * T + 2))
    assert sum(seen) == sum(done) == 3 * T + 2 and max(seen) <= chunk
    # The window that needs a frame asks for it, and no sooner, so that memory does not grow with the sequence.
    assert max(asked.max() for asked in frames.asked[: -(-T // chunk)]) < T


def test_read_frames():
    frames = random_frames(6)
    for source in (frames, Counting(frames)):
        np.testing.assert_array_equal(read_frames(source, np.array([4, 1])), frames[[4, 1]])


@pytest.mark.parametrize("row", ABLATIONS)
def test_from_stored_features(tiny_model, monkeypatch, row):
    model, frames = tiny_model(row), random_frames(2 * T + 3)
    expected = predict_sequence(model, frames, length=T, stride=4)
    images = torch.from_numpy(((frames / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    frozen = {name: value.numpy() for name, value in model.frozen_features(images).items()}
    monkeypatch.setattr(model, "frozen_features", None)
    for dtype, close in ((np.float32, CLOSE), (np.float16, {"rtol": 0, "atol": 5e-3})):
        asked = []

        def features(indices, dtype=dtype, asked=asked):
            asked.extend(indices.tolist())
            return {name: value[indices].astype(dtype) for name, value in frozen.items()}

        found = predict_sequence(model, frames, length=T, stride=4, features=features)
        np.testing.assert_allclose(found, expected, **close)
        assert asked == list(range(len(frames)))


# --- Splits and their errors ---------------------------------------------------------------------------------------

WINDOW = WindowSettings(length=T, stride=4, step=1, max_gap=10)


def test_no_window_crosses_a_hole(model, make_sequence, tmp_path):
    """11 numbers are missing after frame 10, 10 after frame 39: only the first hole parts the sequence."""
    sequences = [
        make_sequence("holes/a", [*range(11), *range(22, 40), *range(50, 53)]),
        make_sequence("holes/b", range(5)),
    ]
    images = [sequence.images(slice(None)) for sequence in sequences]
    first, second = (predict_sequence(model, part, length=T, stride=4) for part in (images[0][:11], images[0][11:]))
    expected = [np.concatenate([first, second]), predict_sequence(model, images[1], length=T, stride=4)]
    found = predict_split(model, sequences, WINDOW)
    for poses, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(poses, reference, **CLOSE)
    whole = predict_sequence(model, images[0], length=T, stride=4)
    assert np.abs(whole - expected[0]).max() > 50 * CLOSE["atol"]

    # With a step, each interleaved run of each part is a sequence of its own.
    for poses, frames, cuts in zip(
        predict_split(model, sequences, replace(WINDOW, step=3)), images, ([0, 11], [0]), strict=True
    ):
        reference = np.empty_like(poses)
        for start, stop in zip(cuts, [*cuts[1:], len(frames)], strict=True):
            for first in range(start, start + 3):
                run = predict_sequence(model, frames[first:stop:3], length=T, stride=4)
                reference[first:stop:3] = run
        np.testing.assert_allclose(poses, reference, **CLOSE)

    # From the store, whose indices count from the start of the sequence, not of its part.
    assert store_features(tmp_path, model, sequences, limit_gb=1)["stored"]
    store = open_features(tmp_path, sequences)
    for sequence in sequences:
        sequence.images = None
    for poses, reference in zip(predict_split(model, sequences, WINDOW, store), expected, strict=True):
        np.testing.assert_allclose(poses, reference, rtol=0, atol=5e-3)


def test_pose_errors_against_scipy():
    rng = np.random.default_rng(3)
    target = rng.normal([0, 0, 0.5], 0.3, (7, 15, 3))
    pred = target + rng.normal(0, 0.05, target.shape)
    pred[2] = 1.7 * target[2] @ Rotation.from_euler("xyz", [1, 2, 3]).as_matrix().T + [1, -2, 3]  # aligns exactly
    pred[4] = target[4] * [-1, 1, 1]  # a mirrored pose is no rotated one
    aligned = np.empty_like(pred)
    for i, (p, t) in enumerate(zip(pred, target, strict=True)):
        x, y = p - p.mean(0), t - t.mean(0)
        turned = Rotation.align_vectors(y, x)[0].apply(x)
        aligned[i] = (turned * y).sum() / (x * x).sum() * turned + t.mean(0)
    distance, pa_distance = (1000 * np.sqrt(((a - target) ** 2).sum(-1)) for a in (pred, aligned))
    assert pa_distance[2].max() < 1e-9 < 10 < pa_distance[4].mean()

    errors = pose_errors([pred[:2], pred[2:]], [target[:2], target[2:]], [range(2), range(5)])
    np.testing.assert_allclose(errors.mpjpe, distance.mean(1))
    np.testing.assert_allclose(errors.per_joint, distance.mean(0))
    np.testing.assert_allclose(errors.pa_mpjpe, pa_distance.mean(1), atol=1e-6)
    np.testing.assert_allclose(errors.pa_per_joint, pa_distance.mean(0), atol=1e-6)
    # Over all frames together, not over sequences.
    summary = errors.summary()
    assert summary["mpjpe_mm"] == pytest.approx(distance.mean(), abs=0.005)
    assert summary["pa_mpjpe_mm"] == pytest.approx(pa_distance.mean(), abs=0.005)
    assert summary["pck_150mm"] == pytest.approx((distance <= 150).mean(), abs=1e-4)
    # With two sequences the ends of the interval are the means of one and of the other.
    ends = sorted([distance[:2].mean(), distance[2:].mean()])
    assert list(errors.report()["interval_95"]["mpjpe_mm"].values()) == pytest.approx(ends, abs=0.006)
    # Two frames have no acceleration: the other sequence alone counts.
    change = np.diff(pred[2:] - target[2:], n=2, axis=0) * 1000
    assert summary["acceleration_mm"] == pytest.approx(np.sqrt((change**2).sum(-1)).mean(), abs=1e-4)
    np.testing.assert_allclose(errors.ba_mpjpe, 1000 * ba_mpjpe(pred, target, reduce="none"), atol=1e-6)
    assert summary["ba_mpjpe_mm"] == pytest.approx(1000 * ba_mpjpe(pred, target), abs=0.005)
    assert errors.report()["interval_95"].keys() == {"mpjpe_mm", "pa_mpjpe_mm", "ba_mpjpe_mm"}


def test_jitter_is_of_frames_in_a_row_or_not_told(make_sequence, tmp_path):
    """The mean pose's jitter is the truth's own, triple by triple; where there is no triple, metrics can be written."""
    holes = make_sequence("jitter/a", [3, 4, 5, 9, 10, 12, 13, 14, 15])
    none, other = make_sequence("jitter/b", [0, 1, 3, 4, 6]), make_sequence("jitter/c", range(4))
    sequences = [holes, none, other]
    still = [np.zeros((len(s), 15, 3)) for s in sequences]
    expected = [
        np.linalg.norm(np.diff(s.joints_3d[i : i + 3].astype(float), n=2, axis=0), axis=-1).mean() * 1000
        for s, starts in ((holes, (0, 5, 6)), (other, (0, 1)))
        for i in starts
    ]
    found = sequence_errors(still, sequences)
    assert found.summary()["acceleration_mm"] == pytest.approx(np.mean(expected), abs=1e-4)
    unknown = sequence_errors(still[1:2], [none]).report()
    assert "acceleration_mm" not in unknown and "bone_length_std_mm" in unknown
    truth = [s.joints_3d for s in sequences]
    assert "acceleration_mm" not in pose_errors(still, truth).summary()
    write_metrics(tmp_path / "metrics.json", {"a": unknown})


def test_labels_that_the_data_lack_are_named(make_sequence):
    whole = make_sequence("lacks/a", range(3), actions=["walk", None])
    bare = make_sequence("lacks/b", range(3))
    whole.hidden = np.zeros((3, 15), bool)
    assert unlabelled([whole]) == [] and unlabelled([whole, bare]) == ["joints hidden from view"]
    assert unlabelled([bare]) == ["joints hidden from view", "actions"]
    rows = error_groups(sequence_errors([bare.joints_3d + 0.1], [bare]), [bare])
    assert not [r for r in rows if r["group"] == "action" or r["part"] in ("in sight", "hidden from view")]


def test_bootstrap_interval_against_scipy():
    rng = np.random.default_rng(1)
    lengths = rng.integers(5, 200, 12)
    values = np.concatenate([rng.normal(rng.normal(100, 20), 5, n) for n in lengths])
    sums = [part.sum() for part in np.split(values, np.cumsum(lengths)[:-1])]
    reference = bootstrap(
        (np.array(sums), lengths),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert bootstrap_interval(values, lengths) == pytest.approx((reference.low, reference.high), abs=0.5)
    assert bootstrap_interval(values[:9], [9]) == pytest.approx((values[:9].mean(),) * 2)
    # A person's sequences are drawn together, wherever they stand in the list.
    people = list("abcabcabcabc")
    parts = np.split(values, np.cumsum(lengths)[:-1])
    groups = [np.concatenate([p for p, who in zip(parts, people, strict=True) if who == name]) for name in "abc"]
    one_each = bootstrap_interval(np.concatenate(groups), [len(g) for g in groups])
    assert bootstrap_interval(values, lengths, people) == pytest.approx(one_each)
    # Of several trainings, each is drawn too: with one person, the interval is theirs.
    trainings = np.stack([values[:9] + shift for shift in (0, 3, 30)])
    picked = np.array(list(product(trainings.mean(1), repeat=3))).mean(1)
    # Each of the 27 draws is as likely, so that the outer 2.5 % are those of the least and of the greatest.
    assert bootstrap_interval(trainings, [9]) == pytest.approx((picked.min(), picked.max()))
    assert bootstrap_interval(values[None], lengths) == bootstrap_interval(values, lengths)
    with pytest.raises(ValueError, match="lengths sum to 3, expected 4"):
        bootstrap_interval(np.ones(4), [1, 2])


@pytest.mark.parametrize("seen", [True, False])
def test_error_groups_joint_by_joint(make_sequence, seen):
    sequences = [
        make_sequence(f"groups{seen}/a", range(4), actions=["walk", None]),
        make_sequence(f"groups{seen}/b", [2, 3, 9, 20, 60]),
    ]
    rng = np.random.default_rng(4)
    for sequence in sequences if seen else []:
        sequence.in_image, sequence.hidden = rng.random((2, len(sequence), 15)) < 0.5
    truth = [s.joints_3d for s in sequences]
    errors = pose_errors([t + rng.normal(0, 0.05, t.shape) for t in truth], truth)
    parts = {}
    number = 0
    for sequence in sequences:
        for i in range(len(sequence)):
            for joint, name in enumerate(JOINT_NAMES):
                lower = any(part in name for part in ("hip", "knee", "ankle", "toe"))
                inside = sequence.in_image[i][joint]
                belongs = [("body", "lower" if lower else "upper")]
                if not inside:
                    belongs.append(("visibility", "outside the image"))
                elif seen:
                    belongs.append(("visibility", "hidden from view" if sequence.hidden[i][joint] else "in sight"))
                # How long ago, in frames of the recording, it was seen last; where never, since before the first frame.
                clear = [
                    n for n in range(i + 1) if sequence.in_image[n][joint] and not (seen and sequence.hidden[n][joint])
                ]
                numbers = sequence.frame_numbers
                age = numbers[i] - (numbers[clear[-1]] if clear else numbers[0] - 1)
                if seen and age:
                    names = ("up to 8 frames", "9 to 32 frames", "longer")
                    belongs.append(("unseen for", names[int(age > 8) + int(age > 32)]))
                if sequence.actions and sequence.actions[i]:
                    belongs.append(("action", sequence.actions[i]))
                for key in belongs:
                    parts.setdefault(key, []).append(
                        [d[number, joint] for d in (errors.distance, errors.pa_distance, errors.ba_distance)]
                    )
            number += 1
    rows = {(row["group"], row["part"]): row for row in error_groups(errors, sequences)}
    assert rows.keys() == parts.keys() and ("action", "walk") in rows
    assert {("visibility", "hidden from view"), ("unseen for", "longer")} <= set(rows) or not seen
    for key, values in parts.items():
        mean, pa_mean, ba_mean = np.mean(values, axis=0)
        assert rows[key]["mpjpe_mm"] == pytest.approx(mean, abs=0.006)
        assert rows[key]["pa_mpjpe_mm"] == pytest.approx(pa_mean, abs=0.006)
        assert rows[key]["ba_mpjpe_mm"] == pytest.approx(ba_mean, abs=0.006)
        assert rows[key]["share"] == pytest.approx(len(values) / errors.distance.size, abs=1e-4)


def test_mean_pose_weighs_frames_alike(make_sequence):
    sequences = [make_sequence("mean/a", range(3)), make_sequence("mean/b", range(9))]
    total, count = [[0.0] * 3 for _ in range(15)], 0
    for sequence in sequences:
        for pose in sequence.joints_3d.tolist():
            count += 1
            for joint, place in enumerate(pose):
                for axis, value in enumerate(place):
                    total[joint][axis] += value
    np.testing.assert_allclose(mean_pose(sequences), np.array(total) / count, rtol=1e-6)


def test_write_metrics_makes_its_folder(tmp_path):
    path = tmp_path / "metrics" / "pose.json"
    write_metrics(path, {"mpjpe_mm": 12.34})
    assert path.read_text() == '{\n  "mpjpe_mm": 12.34\n}\n'
