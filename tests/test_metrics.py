"""Metrics against SciPy, closed forms and the invariances that Sec. 4.3 promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from agego_lib.metrics import (
    acceleration_error,
    auc,
    ba_mpjpe,
    bone_length_deviation,
    mpjpe,
    pa_mpjpe,
    pck,
    per_joint_error,
    procrustes_align,
    resize_bones,
)
from agego_lib.skeleton import BONES, COMMON_BONE_LENGTHS, PARENTS


def scipy_align(pred, target):
    """Best similarity of one frame: SciPy's rotation, then the least-squares scale for it."""
    x, y = pred - pred.mean(0), target - target.mean(0)
    turned = Rotation.align_vectors(y, x)[0].apply(x)
    return turned * (turned * y).sum() / (x * x).sum() + target.mean(0)


@pytest.fixture
def poses():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 8, 15, 3))
    return target + 0.2 * rng.normal(size=target.shape), target


def test_mpjpe_is_the_mean_distance(poses):
    pred, target = poses
    assert mpjpe(pred, target) == pytest.approx(np.sqrt(((pred - target) ** 2).sum(-1)).mean())
    assert isinstance(mpjpe(pred, target), float)
    # A 3-4-5 triangle at each joint.
    assert mpjpe(target + np.array([0.3, 0, 0.4]), target) == pytest.approx(0.5)


def test_alignment_is_scipys(poses):
    pred, target = poses
    aligned = procrustes_align(pred, target)
    for frame in np.ndindex(3, 8):
        np.testing.assert_allclose(aligned[frame], scipy_align(pred[frame], target[frame]), atol=1e-10)
    assert pa_mpjpe(pred, target) == pytest.approx(np.linalg.norm(aligned - target, axis=-1).mean())


def test_alignment_is_a_minimum(poses):
    pred, target = (p[0, 0] for p in poses)
    aligned = procrustes_align(pred, target)
    best = ((aligned - target) ** 2).sum()
    rng = np.random.default_rng(1)
    for _ in range(100):
        moved = Rotation.from_rotvec(rng.normal(0, 0.05, 3)).apply(aligned) * rng.normal(1, 0.05)
        assert ((moved + rng.normal(0, 0.02, 3) - target) ** 2).sum() >= best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-50, 50))
def test_pa_mpjpe_does_not_see_a_similarity(seed, scale, shift):
    rng = np.random.default_rng(seed)
    pred, target = rng.normal(size=(2, 15, 3))
    moved = scale * Rotation.random(rng=rng).apply(pred) + shift
    assert pa_mpjpe(moved, target) == pytest.approx(pa_mpjpe(pred, target), rel=1e-6)
    assert pa_mpjpe(scale * Rotation.random(rng=rng).apply(target) + shift, target) < 1e-9


def test_each_frame_has_its_own_alignment(poses):
    _, target = poses
    turns = Rotation.random(24, rng=np.random.default_rng(2)).as_matrix().reshape(3, 8, 3, 3)
    assert pa_mpjpe(target @ turns, target) < 1e-9


def test_a_mirrored_pose_is_not_reflected_back(poses):
    _, target = poses
    mirrored = target * [-1, 1, 1]
    assert pa_mpjpe(mirrored, target, reduce="none").min() > 0.1
    np.testing.assert_allclose(procrustes_align(mirrored, target)[0, 0], scipy_align(mirrored[0, 0], target[0, 0]))


def test_degenerate_poses_stay_finite(poses):
    _, target = poses
    centre = target.mean(-2, keepdims=True)
    point = np.zeros_like(target)
    np.testing.assert_allclose(procrustes_align(point, target), np.broadcast_to(centre, target.shape), atol=1e-12)
    assert pa_mpjpe(point, point) == 0
    assert pa_mpjpe(target, point + 1) == pytest.approx(0, abs=1e-12)
    line = np.linspace(0, 1, 15)[:, None] * [1.0, 2, 3]
    assert pa_mpjpe(line, line[:, [2, 0, 1]]) == pytest.approx(0, abs=1e-12)
    flat = target * [1, 1, 0]
    assert np.isfinite(procrustes_align(flat, target)).all()


def test_a_nan_frame_is_nan_and_leaves_the_others(poses):
    pred, target = poses
    broken = pred.copy()
    broken[0, 0, 4, 1] = np.nan
    for metric in (mpjpe, pa_mpjpe):
        values = metric(broken, target, reduce="none")
        assert np.isnan(values[0, 0]) and np.isnan(values).sum() == 1
        np.testing.assert_allclose(values[1:], metric(pred, target, reduce="none")[1:])
        assert np.isnan(metric(broken, target))


def test_per_frame_and_per_joint_values_average_to_the_metric(poses):
    pred, target = poses
    for metric in (mpjpe, pa_mpjpe):
        frames = metric(pred, target, reduce="none")
        assert frames.shape == (3, 8) and frames.mean() == pytest.approx(metric(pred, target))
    joints = per_joint_error(pred, target)
    assert joints.shape == (15,) and joints.mean() == pytest.approx(mpjpe(pred, target))
    assert per_joint_error(pred, target, reduce="none").shape == (3, 8, 15)
    moved = target.copy()
    moved[..., 6, 2] += 0.25
    np.testing.assert_allclose(per_joint_error(moved, target), [0.25 if j == 6 else 0 for j in range(15)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out(poses, dtype):
    pred, target = (torch.from_numpy(p).to(dtype) for p in poses)
    for metric in (mpjpe, pa_mpjpe, per_joint_error, procrustes_align):
        result = metric(pred, target)
        assert isinstance(result, torch.Tensor) and result.dtype == dtype
        np.testing.assert_allclose(result.numpy(), metric(*poses), rtol=1e-4, atol=1e-5)
    assert mpjpe(pred, target).ndim == 0
    assert pck(pred, target, 0.3).ndim == 0


def test_pck_counts_what_can_be_counted():
    target = np.zeros((1, 5, 2))
    pred = np.array([[[0, 0], [3, 4], [3, 4.01], [np.nan, 0], [0, 0]]])
    target[0, 4] = np.nan
    assert pck(pred, target, 5) == 2 / 4
    assert pck(np.zeros((2, 15, 3)), np.ones((2, 15, 3)), 1.8) == 1


@pytest.mark.parametrize("metric", [mpjpe, pa_mpjpe, per_joint_error, procrustes_align])
def test_shapes_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match=r"pred \(2, 15, 3\) and target \(1, 15, 3\)"):
        metric(np.zeros((2, 15, 3)), np.zeros((1, 15, 3)))
    with pytest.raises(ValueError, match=r"\(\.\.\., J, 3\)"):
        metric(np.zeros((15, 2)), np.zeros((15, 2)))


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'mean' or 'none'"):
        mpjpe(np.zeros((15, 3)), np.zeros((15, 3)), reduce="sum")


# --- Beyond the paper ------------------------------------------------------------------------------------------------


def test_auc_is_the_mean_of_pck(poses):
    pred, target = poses
    expected = np.mean([pck(pred, target, limit) for limit in np.arange(31) * 0.5 / 30])
    assert auc(pred, target, 0.5) == pytest.approx(expected)
    assert auc(target, target, 0.15) == 1
    # All at half the limit: the 16 of 31 thresholds from there on count.
    assert auc(target + np.array([0.075, 0, 0]), target, 0.1500001) == pytest.approx(16 / 31)
    with_nan = np.where(np.arange(15)[:, None] == 3, np.nan, target)
    assert auc(np.delete(pred, 3, axis=-2), np.delete(target, 3, axis=-2), 0.4) == auc(pred, with_nan, 0.4)
    assert auc(torch.tensor(pred), torch.tensor(target), 0.5).item() == pytest.approx(expected)


def test_acceleration_error_in_closed_form():
    time = np.arange(20)[:, None, None]
    still = np.zeros((20, 15, 3))
    # x = a t^2 / 2 has second differences a, at any place and speed.
    moving = still + 0.5 * 0.004 * time**2 + 0.3 * time - 7
    assert acceleration_error(moving, still) == pytest.approx(0.004 * np.sqrt(3))
    assert acceleration_error(moving, moving + 5 - time) == pytest.approx(0)
    assert acceleration_error(still + (-1.0) ** time, still) == pytest.approx(4 * np.sqrt(3))
    assert np.isnan(acceleration_error(still[:2], still[:2]))
    with pytest.raises(ValueError, match=r"expected \(N, J, 3\), one sequence"):
        acceleration_error(still[0], still[0])


def test_a_missing_frame_is_no_jitter():
    """Second differences triple by triple; a path of one acceleration has it wherever frames are missing."""
    rng = np.random.default_rng(5)
    numbers = np.delete(np.arange(100, 160), rng.choice(60, 12, replace=False))
    pred, target = rng.normal(size=(2, len(numbers), 15, 3))
    place = {number: i for i, number in enumerate(numbers)}
    expected = []
    for number in numbers:
        if number + 1 in place and number + 2 in place:
            a, b, c = ((pred - target)[place[number + k]] for k in range(3))
            expected.append(np.sqrt(((a - 2 * b + c) ** 2).sum(-1)).mean())
    assert 10 < len(expected) < len(numbers) - 12
    np.testing.assert_allclose(acceleration_error(pred, target, numbers, reduce="none"), expected)
    assert acceleration_error(pred, target, numbers) == pytest.approx(np.mean(expected))
    torches = acceleration_error(torch.tensor(pred), torch.tensor(target), torch.tensor(numbers))
    assert torches.item() == pytest.approx(np.mean(expected))

    still = np.zeros((len(numbers), 15, 3))
    moving = still + 0.5 * 0.004 * numbers[:, None, None] ** 2 + 0.3 * numbers[:, None, None]
    assert acceleration_error(moving, still, numbers) == pytest.approx(0.004 * np.sqrt(3))
    assert acceleration_error(moving, still) > 10 * acceleration_error(moving, still, numbers)
    # Every fifth frame: a fifth of the rate, in frames of its own, twice with one left out.
    thinned = np.delete(np.arange(0, 100, 5), [7, 13])
    moving = 0.5 * 0.004 * thinned[:, None, None] ** 2 + np.zeros((18, 15, 3))
    assert acceleration_error(moving, 0 * moving, thinned) == pytest.approx(25 * 0.004 * np.sqrt(3))
    assert np.isnan(acceleration_error(moving[:6], moving[:6], [0, 1, 3, 4, 6, 7]))
    assert np.isnan(acceleration_error(moving[:1], moving[:1], [4]))
    for wrong in ([0, 1, 1], [0, 2, 1], [0, 1]):
        with pytest.raises(ValueError, match="expected 3 that ascend"):
            acceleration_error(moving[:3], moving[:3], wrong)


def resized(pose, lengths):
    """A pose with bones of those lengths, joint by joint."""
    result = np.array(pose, float)
    for child in range(1, 15):
        parent = PARENTS[child]
        bone = pose[child] - pose[parent]
        length = lengths[BONES.index((parent, child))]
        result[child] = result[parent] + (length * bone / np.linalg.norm(bone) if bone.any() else 0)
    return result


def test_bone_length_alignment_joint_by_joint(poses):
    pred, target = poses
    lengths = np.random.default_rng(6).uniform(0.1, 0.5, 14)
    made, expected = resize_bones(pred, lengths), np.empty((3, 8))
    for frame in np.ndindex(3, 8):
        np.testing.assert_allclose(made[frame], resized(pred[frame], lengths), atol=1e-12)
        a, b = (resized(p[frame], COMMON_BONE_LENGTHS) for p in poses)
        expected[frame] = np.linalg.norm(scipy_align(a, b) - b, axis=-1).mean()
    np.testing.assert_allclose(ba_mpjpe(pred, target, reduce="none"), expected, atol=1e-10)
    assert ba_mpjpe(pred, target) == pytest.approx(expected.mean())
    # SciPy's own Procrustes analysis, where no reflection would be better: its disparity is a share of the target's.
    a, b = (resized(p[0, 0], COMMON_BONE_LENGTHS) for p in (target + 0.02 * pred, target))
    disparity = procrustes(b, a)[2]
    spread = ((b - b.mean(0)) ** 2).sum()
    assert ((procrustes_align(a, b) - b) ** 2).sum() == pytest.approx(disparity * spread)
    # In metres of the common skeleton, whatever the unit, and blind to body size and proportions.
    grown = np.stack([[resized(p, np.linspace(300, 900, 14)) for p in take] for take in pred])
    assert ba_mpjpe(grown, target * 1000) == pytest.approx(expected.mean())
    assert ba_mpjpe(grown, pred) < 1e-12 < 0.01 < pa_mpjpe(grown, pred)
    assert ba_mpjpe(*map(torch.tensor, poses)).item() == pytest.approx(expected.mean())
    with pytest.raises(ValueError, match=r"pose \(2, 14, 3\).*expected \(\.\.\., 15, 3\)"):
        ba_mpjpe(np.zeros((2, 14, 3)), np.zeros((2, 14, 3)))
    with pytest.raises(ValueError, match="'mean' or 'none'"):
        ba_mpjpe(pred, target, reduce="sum")


def test_a_bone_of_length_zero_stays_so(poses):
    pred, target = (p[0].copy() for p in poses)
    pred[2, 9], target[3, 1] = pred[2, 8], target[3, 0]
    made = resize_bones(pred)
    np.testing.assert_array_equal(made[2, 9], made[2, 8])
    np.testing.assert_allclose(made[2], resized(pred[2], COMMON_BONE_LENGTHS), atol=1e-12)
    assert np.isfinite(ba_mpjpe(pred, target, reduce="none")).all()
    assert np.isfinite(ba_mpjpe(0 * pred, target))
    pred[4, 3, 0] = np.nan
    assert np.isnan(ba_mpjpe(pred, target, reduce="none")).tolist() == [i == 4 for i in range(8)]


def test_the_common_skeleton_is_that_of_the_other_projects(project):
    path = project.parent / "shared/published/mean3D.mat"
    if not path.is_file():
        pytest.skip("the published skeleton is not here")
    joints = loadmat(path)["mean3D"].T / 1000
    lengths = [np.linalg.norm(joints[child] - joints[parent]) for parent, child in BONES]
    np.testing.assert_allclose(COMMON_BONE_LENGTHS, lengths, atol=1e-6)
    np.testing.assert_allclose(resize_bones(3 * joints) - 2 * joints[0], joints, atol=1e-5)


def test_bone_length_deviation_bone_by_bone(poses):
    pred = poses[0][0]
    expected = np.mean([np.std([np.linalg.norm(p[c] - p[b]) for p in pred]) for b, c in BONES])
    assert bone_length_deviation(pred, BONES) == pytest.approx(expected)
    rigid = np.stack([Rotation.random(random_state=i).apply(pred[0]) + i for i in range(5)])
    assert bone_length_deviation(rigid, BONES) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="one sequence"):
        bone_length_deviation(pred[0], BONES)
