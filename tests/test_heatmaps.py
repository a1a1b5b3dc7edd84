"""Heatmap targets against Eq. 7 written as loops, and decoding against the centres that were drawn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agego_lib.heatmaps import decode_heatmaps, gaussian_heatmaps


def eq7(u_j, v_j, size, sigma):
    return np.array(
        [[math.exp(-((u - u_j) ** 2 + (v - v_j) ** 2) / (2 * sigma**2)) for u in range(size)] for v in range(size)]
    )


@pytest.mark.parametrize("size, sigma", [(64, 2.0), (16, 1.3)])
def test_targets_are_equation_7_with_sub_pixel_centres(size, sigma):
    joints = np.random.default_rng(0).uniform(-0.5, size - 0.51, (2, 3, 2))
    maps = gaussian_heatmaps(joints, size, sigma)
    assert isinstance(maps, np.ndarray) and maps.dtype == np.float32 and maps.shape == (2, 3, size, size)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(maps[place], eq7(*joints[place], size, sigma), atol=2e-6)


def test_defaults_are_the_papers():
    np.testing.assert_allclose(gaussian_heatmaps([[20.25, 40.5]])[0], eq7(20.25, 40.5, 64, 2.0), atol=2e-6)


@pytest.mark.parametrize("u, v, drawn", [
    (-0.5, 3, True), (-0.51, 3, False), (63.49, 3, True), (63.5, 3, False), (3, -0.6, False), (3, 63.5, False),
    (np.nan, 3, False), (3, np.nan, False), (np.inf, 3, False),
])  # fmt: skip
def test_a_centre_outside_the_map_or_nan_gives_zeros(u, v, drawn):
    maps = gaussian_heatmaps(np.array([[u, v], [10.0, 12.0]]))
    assert np.isfinite(maps).all()
    assert (maps[0].max() > 0.8) == drawn
    assert drawn or not maps[0].any()
    assert maps[1].max() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_torch_gives_torch_float32(dtype):
    maps = gaussian_heatmaps(torch.tensor([[[5, 9]]]).to(dtype), size=16)
    assert maps.dtype == torch.float32 and maps.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(maps[0, 0].numpy(), eq7(5, 9, 16, 2.0), atol=1e-6)


def test_the_input_is_left_alone():
    joints = np.array([[np.nan, 1.0], [2.0, 3.0]])
    joints.setflags(write=False)
    gaussian_heatmaps(joints)
    tensor = torch.tensor([[np.nan, 1.0]])
    gaussian_heatmaps(tensor)
    assert tensor.isnan().any()


@pytest.mark.parametrize("arguments", [(np.zeros((15, 3)),), (np.zeros((15, 2)), 0), (np.zeros((15, 2)), 64, 0.0)])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        gaussian_heatmaps(*arguments)


# Centres up to the very border: the parabola stays exact where a neighbour is missing.
@settings(max_examples=60, deadline=None)
@given(st.floats(-0.5, 63.49), st.floats(-0.5, 63.49), st.sampled_from([1.0, 2.0, 3.0]))
def test_decoding_finds_the_centre(u, v, sigma):
    maps = gaussian_heatmaps(np.array([[u, v]]), sigma=sigma)
    joints, confidence = decode_heatmaps(maps)
    np.testing.assert_allclose(joints[0], [u, v], atol=0.01)
    assert confidence[0] == maps.max()


def test_decoding_keeps_shapes_kind_and_scale():
    joints = torch.rand(2, 5, 15, 2) * torch.tensor([40.0, 20.0])
    maps = gaussian_heatmaps(joints, size=48)[..., :24, :] * 0.3
    found, confidence = decode_heatmaps(maps)
    assert found.shape == (2, 5, 15, 2) and confidence.shape == (2, 5, 15)
    torch.testing.assert_close(found, joints, atol=0.01, rtol=0)
    assert ((confidence > 0.25) & (confidence <= 0.3)).all()


def test_decoding_under_noise_is_within_a_pixel():
    rng = np.random.default_rng(1)
    joints = rng.uniform(4, 60, (200, 2))
    noisy = np.clip(gaussian_heatmaps(joints) + rng.normal(0, 0.02, (200, 64, 64)), 0, 1)
    found, _ = decode_heatmaps(noisy)
    assert np.linalg.norm(found - joints, axis=-1).mean() < 0.5


def test_a_map_without_a_joint_decodes_to_nan():
    joints, confidence = decode_heatmaps(np.zeros((2, 8, 8), np.float32))
    assert np.isnan(joints).all() and (confidence == 0).all()


def test_decoding_one_bright_pixel_and_a_flat_map_is_finite():
    dot = np.zeros((8, 8))
    dot[6, 0] = 1
    np.testing.assert_allclose(decode_heatmaps(dot)[0], [0, 6])
    assert np.isfinite(decode_heatmaps(np.ones((8, 8)))[0]).all()


def test_maps_too_small_to_refine_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        decode_heatmaps(np.zeros((1, 2, 64)))
