"""Losses against Sec. 3.4 and Eq. 1 written out joint by joint in NumPy."""

import math

import numpy as np
import pytest
import torch

from agego_lib.losses import (
    PoseLoss,
    bone_cosine_loss,
    bone_length_loss,
    heatmap_loss,
    position_loss,
    velocity_loss,
)

# Written out again, apart from the library's table.
EDGES = [(0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (1, 7), (7, 8), (8, 9), (9, 10),
         (4, 11), (11, 12), (12, 13), (13, 14)]  # fmt: skip


def paper_losses(pred, target):
    """(L_pos, L_bone, L_cos) of one frame (15, 3), by loops."""
    position = sum(math.dist(p, t) for p, t in zip(pred, target, strict=True)) / 15
    length = cosine = 0
    for p, c in EDGES:
        a, b = pred[c] - pred[p], target[c] - target[p]
        length += (math.hypot(*a) - math.hypot(*b)) ** 2 / len(EDGES)
        cosine -= float(a @ b) / (math.hypot(*a) * math.hypot(*b)) / len(EDGES)
    return position, length, cosine


@pytest.fixture
def poses():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 4, 15, 3, generator=generator, dtype=torch.float64) for _ in range(2))


LOSSES = (position_loss, bone_length_loss, bone_cosine_loss)


@pytest.mark.parametrize("which", range(3))
def test_losses_are_the_papers_averaged_over_frames(poses, which):
    pred, target = poses
    frames = zip(pred.reshape(-1, 15, 3).numpy(), target.reshape(-1, 15, 3).numpy(), strict=True)
    wanted = np.mean([paper_losses(p, t)[which] for p, t in frames])
    assert LOSSES[which](pred, target).item() == pytest.approx(wanted, rel=1e-12)


def test_total_is_weighted_and_terms_are_not(poses):
    pred, target = poses
    total, terms = PoseLoss()(pred, target)
    assert list(terms) == ["position", "bone_length", "bone_cosine"]
    for loss, term in zip(LOSSES, terms.values(), strict=True):
        torch.testing.assert_close(term, loss(pred, target))
    wanted = terms["position"] + 0.1 * terms["bone_length"] + 0.01 * terms["bone_cosine"]
    torch.testing.assert_close(total, wanted)
    released, _ = PoseLoss(lambda_pos=5.0, lambda_bone=0, lambda_cos=0)(pred, target)
    torch.testing.assert_close(released, 5 * terms["position"])


def test_a_mask_takes_padded_frames_out_even_if_they_hold_nan(poses):
    pred, target = poses
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    wanted, _ = PoseLoss()(pred[mask], target[mask])
    padded = pred.clone()
    padded[~mask] = torch.nan
    padded.requires_grad_()
    total, _ = PoseLoss()(padded, target, mask)
    total.backward()
    torch.testing.assert_close(total, wanted)
    assert padded.grad.isfinite().all() and not padded.grad[~mask].any() and padded.grad[mask].any()
    for loss in LOSSES:
        torch.testing.assert_close(loss(padded, target, mask), loss(pred[mask], target[mask]))


def test_gradients_are_right(poses):
    pred, target = (p[:1, :1].clone() for p in poses)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: PoseLoss()(x, target)[0], pred)


@pytest.mark.parametrize("case", ["equal", "pred in one point", "target in one point", "both in one point"])
def test_degenerate_poses_have_finite_values_and_gradients(poses, case):
    pred, target = poses
    if case == "equal":
        pred = target.clone()
    if case in ("pred in one point", "both in one point"):
        pred = torch.zeros_like(pred)
    if case in ("target in one point", "both in one point"):
        target = torch.zeros_like(target)
    pred.requires_grad_()
    total, terms = PoseLoss()(pred, target)
    total.backward()
    assert pred.grad.isfinite().all() and pred.grad.abs().max() < 10
    assert all(term.isfinite() for term in terms.values())
    if case == "equal":
        assert terms["position"] == 0 and terms["bone_length"] == 0
        assert terms["bone_cosine"].item() == pytest.approx(-1)
    elif case != "equal":
        assert terms["bone_cosine"] == 0


def test_half_precision_predictions_are_compared_in_float32(poses):
    pred, target = (p.float() for p in poses)
    half = pred.half()
    total, _ = PoseLoss()(half, target)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, PoseLoss()(half.float(), target)[0])


def test_pose_shapes_that_do_not_fit_are_refused():
    pose = torch.zeros(2, 15, 3)
    with pytest.raises(ValueError, match="two equal"):
        position_loss(pose, pose[:1])
    with pytest.raises(ValueError, match="14 joints"):
        bone_length_loss(pose[:, :14], pose[:, :14])
    with pytest.raises(ValueError, match="mask"):
        position_loss(pose, pose, torch.ones(2))
    with pytest.raises(ValueError, match="excludes every frame"):
        position_loss(pose, pose, torch.zeros(2, dtype=torch.bool))


def test_heatmap_losses_are_their_definitions():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 15, 8, 8)), rng.uniform(size=(2, 15, 8, 8))
    p = 1 / (1 + np.exp(-logits))
    as_torch = torch.from_numpy(logits), torch.from_numpy(target)
    bce = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert heatmap_loss(*as_torch).item() == pytest.approx(bce)
    weighted = -(12 * target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert heatmap_loss(*as_torch, "bce", pos_weight=12).item() == pytest.approx(weighted)
    assert heatmap_loss(*as_torch, kind="mse").item() == pytest.approx(((p - target) ** 2).mean())


def test_heatmap_loss_survives_large_logits_and_half_precision():
    logits = torch.tensor([[-3e4, 3e4]], dtype=torch.float16, requires_grad=True)
    for kind in ("bce", "mse"):
        loss = heatmap_loss(logits, torch.tensor([[1.0, 0.0]]), kind)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad.isfinite().all()


def test_heatmap_loss_refuses_what_it_does_not_know():
    maps = torch.zeros(1, 15, 4, 4)
    with pytest.raises(ValueError, match="'bce' or 'mse'"):
        heatmap_loss(maps, maps, "l1")
    with pytest.raises(ValueError, match="differ in shape"):
        heatmap_loss(maps, maps[0])
    with pytest.raises(ValueError, match="pos_weight"):
        heatmap_loss(maps, maps, "mse", pos_weight=12)


def test_velocity_is_a_loop_over_steps_between_valid_frames(poses):
    pred, target = poses
    mask = torch.tensor([[True, True, False, True], [True, True, True, False]])
    wanted, steps = 0.0, 0
    for b, t in ((0, 0), (1, 0), (1, 1)):  # the others touch a frame that is not valid
        for joint in range(15):
            ours, true = (p[b, t + 1, joint] - p[b, t, joint] for p in (pred, target))
            wanted, steps = wanted + math.dist(ours, true), steps + 1
    assert velocity_loss(pred, target, mask).item() == pytest.approx(wanted / steps)
    total, terms = PoseLoss(1.0, 0.0, 0.0, 3.0)(pred, target, mask)
    assert terms["velocity"].item() == pytest.approx(wanted / steps)
    assert total.item() == pytest.approx(terms["position"].item() + 3 * wanted / steps)
    assert "velocity" not in PoseLoss()(pred, target, mask)[1]
    assert velocity_loss(pred + torch.randn(2, 1, 15, 3), pred).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="T at least 2"):
        velocity_loss(pred[:, :1], target[:, :1])
    with pytest.raises(ValueError, match="every frame"):
        velocity_loss(pred, target, torch.tensor([[True, False, True, False]] * 2))
