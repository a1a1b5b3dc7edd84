"""Properties that hold for any input: hypothesis looks for the one that breaks them, the same ones in every run."""

import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import CAMERA, SIZE
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from agego_lib import metrics
from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets import PreparedSequence, Sequence, WindowDataset, segments, window_starts, write_prepared
from agego_lib.evaluation import predict_split
from agego_lib.heatmaps import decode_heatmaps, gaussian_heatmaps
from agego_lib.params import WindowSettings

pytestmark = pytest.mark.usefixtures("one_thread")
examples = settings(derandomize=True, deadline=None, database=None, max_examples=40)
few = settings(examples, max_examples=12)
seeds = st.integers(0, 2**32 - 1)


# --- camera ----------------------------------------------------------------------------------------------------------


@st.composite
def lenses(draw):
    """A lens with radius f tan(theta / 2) px, a stereographic one, whose two polynomials are exact or close fits."""
    focal, width, height = draw(st.floats(60, 400)), draw(st.integers(64, 2000)), draw(st.integers(64, 2000))
    centre = draw(st.floats(0.3, 0.7)) * width, draw(st.floats(0.3, 0.7)) * height
    # Of a ray at angle theta to the axis: r = 2 f tan(theta / 2), so that z = f - r^2 / 4f; the fit is over what
    # project uses, the angle below the plane of the lens.
    below = np.linspace(-np.pi / 2, np.pi / 4, 400)
    w2c = np.polynomial.polynomial.polyfit(below, 2 * focal * np.tan((below + np.pi / 2) / 2), 14)
    return FisheyeCamera((width, height), centre, (-focal, 0.0, 1 / (4 * focal)), tuple(w2c)), focal


@examples
@given(lenses(), st.floats(0, 2.2), st.floats(-np.pi, np.pi), st.floats(0.01, 50))
def test_a_point_comes_back_from_its_pixel_and_distance(lens, theta, around, distance):
    camera, focal = lens
    point = distance * np.array([np.sin(theta) * np.cos(around), np.sin(theta) * np.sin(around), np.cos(theta)])
    pixel = camera.project(point)
    radius = np.hypot(*(pixel - camera.centre))
    assert radius == pytest.approx(2 * focal * np.tan(theta / 2), abs=1e-3 * focal)
    np.testing.assert_allclose(camera.unproject(pixel, distance), point, atol=2e-3 * distance)


@examples
@given(lenses(), st.floats(0.05, 1.2), st.floats(-np.pi, np.pi), st.floats(0.1, 9))
def test_only_the_direction_counts_and_the_lens_is_round(lens, theta, around, times):
    camera, _ = lens
    point = np.array([np.sin(theta), 0, np.cos(theta)])
    turned = Rotation.from_euler("z", around).apply(point)
    pixel, other = camera.project(point), camera.project(turned * times)
    np.testing.assert_allclose(np.hypot(*(other - camera.centre)), np.hypot(*(pixel - camera.centre)), rtol=1e-9)
    # As a direction: -pi and pi are the same.
    direction = (other - camera.centre) / np.hypot(*(other - camera.centre))
    np.testing.assert_allclose(direction, [np.cos(around), np.sin(around)], atol=1e-6)


@examples
@given(st.integers(8, 2000), st.integers(8, 2000), st.integers(1, 300), st.sampled_from(["none", "square"]), seeds)
def test_pixels_of_a_view_go_back_and_forth(width, height, size, crop, seed):
    view = InputView((width, height), size, crop)
    pixels = np.random.default_rng(seed).uniform(-1, 2, (5, 2)) * (width, height)
    np.testing.assert_allclose(view.to_full(view.to_view(pixels)), pixels, atol=1e-6)
    # A view of another side is the same view, scaled about its outer edge.
    np.testing.assert_allclose(view.to_view(pixels, 2 * size) + 0.5, 2 * (view.to_view(pixels) + 0.5), atol=1e-6)


# --- heatmaps --------------------------------------------------------------------------------------------------------


@examples
@given(st.integers(6, 40), st.floats(0.6, 4), st.floats(0, 1), st.floats(0, 1), st.floats(1e-3, 1e3))
def test_decoding_undoes_the_target_at_any_scale_of_its_values(size, sigma, u, v, scale):
    joint = np.array([[u, v]]) * (size - 1)
    found, peak = decode_heatmaps(gaussian_heatmaps(joint, size, sigma) * np.float32(scale))
    np.testing.assert_allclose(found, joint, atol=0.02)
    assert 0 < peak[0] <= scale * (1 + 1e-6)


@examples
@given(st.integers(6, 40), st.floats(0.6, 4), st.floats(-30, 70), st.floats(-30, 70))
def test_a_target_is_the_gaussian_or_nothing(size, sigma, u, v):
    target = gaussian_heatmaps(np.array([[u, v]]), size, sigma)[0]
    joint = np.float32([u, v])
    if not ((joint >= -0.5) & (joint < size - 0.5)).all():
        assert not target.any()
        return
    rows, columns = np.mgrid[:size, :size]
    expected = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(target, expected, atol=1e-5)


@examples
@given(seeds, st.integers(3, 12), st.integers(3, 12))
def test_decoding_stays_within_half_a_pixel_of_the_brightest(seed, height, width):
    maps = np.random.default_rng(seed).random((4, height, width)) ** 4
    found, peaks = decode_heatmaps(maps)
    for one, place, peak in zip(maps, found, peaks, strict=True):
        v, u = np.unravel_index(one.argmax(), one.shape)
        assert peak == one.max() and (np.abs(place - (u, v)) <= 0.5 + 1e-6).all()


# --- Procrustes ------------------------------------------------------------------------------------------------------


def poses(seed, joints=15):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.4, (joints, 3)), rng.normal(0, 0.4, (joints, 3)), rng


@examples
@given(seeds, st.floats(0.05, 20), st.floats(-20, 20))
def test_no_similarity_of_the_prediction_changes_its_error(seed, scale, shift):
    pred, target, rng = poses(seed)
    moved = scale * Rotation.random(random_state=rng).apply(pred) + shift
    assert metrics.pa_mpjpe(moved, target) == pytest.approx(metrics.pa_mpjpe(pred, target), rel=1e-6)
    np.testing.assert_allclose(metrics.procrustes_align(moved, pred), pred, atol=1e-8)


@examples
@given(seeds)
def test_no_other_similarity_comes_closer(seed):
    pred, target, rng = poses(seed)
    aligned = metrics.procrustes_align(pred, target)
    best = np.square(aligned - target).sum()
    centre = aligned.mean(0)
    for size in (1e-3, 1e-2, 0.3):
        turn = Rotation.from_rotvec(size * rng.normal(size=3))
        other = (1 + size * rng.normal()) * turn.apply(aligned - centre) + centre + size * rng.normal(size=3)
        assert np.square(other - target).sum() >= best
    # And none of those that start elsewhere: scipy's rotation and the best scale for it, from the centred poses.
    x, y = pred - pred.mean(0), target - target.mean(0)
    turned = Rotation.align_vectors(y, x)[0].apply(x)
    scaled = (turned * y).sum() / (turned * turned).sum() * turned
    np.testing.assert_allclose(aligned, scaled + target.mean(0), atol=1e-8)


@examples
@given(seeds)
def test_alignment_never_mirrors(seed):
    pred, target, _ = poses(seed)
    mirrored = target * (-1, 1, 1)
    for given_pose in (pred, mirrored):
        x = given_pose - given_pose.mean(0)
        aligned = metrics.procrustes_align(given_pose, target)
        turn = np.linalg.lstsq(x, aligned - aligned.mean(0), rcond=None)[0]
        assert np.linalg.det(turn) > 0
    assert metrics.pa_mpjpe(mirrored, target) > 1e-3


# --- windows ---------------------------------------------------------------------------------------------------------

gapped = st.lists(st.integers(1, 15), min_size=0, max_size=60).map(
    lambda steps: list(itertools.accumulate([3, *steps]))
)


@st.composite
def window_shapes(draw):
    length = draw(st.integers(1, 12))
    return length, draw(st.integers(1, length))


class Numbers:
    """As much of a prepared sequence as windows need: N frames with these numbers."""

    def __init__(self, numbers):
        self.frame_numbers, self.actions, self.view = np.array(numbers), None, SimpleNamespace(size=4)
        self.joints_3d = np.broadcast_to(np.array(numbers, np.float32)[:, None, None], (len(numbers), 15, 3))

    def __len__(self):
        return len(self.frame_numbers)

    def joints_view(self, size=None):
        return self.joints_3d[..., :2]

    def images(self, indices):
        return np.tile(np.uint8(indices)[:, None, None, None], (1, 4, 4, 3))

    def planes(self, indices, out):
        out[:] = np.uint8(indices)[:, None, None, None]


@examples
@given(gapped, window_shapes(), st.integers(1, 4), st.integers(1, 14))
def test_every_frame_is_in_a_window_and_no_window_crosses_a_hole(numbers, shape, step, max_gap):
    length, stride = shape
    dataset = WindowDataset([Numbers(numbers)], length, stride, max_gap, step=step)
    runs = segments(numbers, max_gap)
    seen = np.zeros(len(numbers), int)
    for item in (dataset[i] for i in range(len(dataset))):
        frames = item["frames"][item["mask"]].numpy()
        assert (np.diff(frames) == step).all() and item["mask"][: len(frames)].all()
        assert any(start <= frames[0] and frames[-1] < stop for start, stop in runs)
        np.testing.assert_array_equal(item["joints_3d"][: len(frames), 0, 0], np.array(numbers)[frames])
        seen[frames] += 1
    assert (seen > 0).all()
    # No frame is in more windows than overlap at a place, the one that ends with the run included.
    assert seen.max() <= -(-length // stride) + 1


class Echo(torch.nn.Module):
    """Answers each frame with its brightness plus a number of its own for each window, whose mean is then known."""

    use_spatial, use_motion, stature = True, False, "none"

    def __init__(self):
        super().__init__()
        self.scale, self.windows = torch.nn.Parameter(torch.ones(1)), []
        self.tokens = lambda heatmaps: heatmaps

    def frozen_features(self, images):
        # to_tensor normalises: x = (value / 255 - mean) / std of the first channel.
        return {"heatmaps": ((images[:, 0, 0, 0] * 0.229 + 0.485) * 255).round()}

    def decode(self, tokens, motion, mask, stature):
        self.windows.append(tokens[0].numpy().copy())
        number = len(self.windows)
        return (tokens + number)[..., None, None].expand(*tokens.shape, 15, 3)


@examples
@given(gapped, window_shapes(), st.integers(1, 4), st.integers(1, 14))
def test_the_average_weighs_each_window_of_a_frame_once(numbers, shape, step, max_gap):
    length, stride = shape
    assume(length >= 2)
    model, sequence = Echo(), Numbers(numbers)
    (found,) = predict_split(model, [sequence], WindowSettings(length, stride, step, max_gap))
    assert found.shape == (len(numbers), 15, 3)
    # Brute force: the windows of each interleaved run of each stretch, numbered in the same order.
    expected, count, window = np.zeros(len(numbers)), np.zeros(len(numbers)), 0
    for start, stop in segments(numbers, max_gap):
        for first in range(start, min(start + step, stop)):
            frames = np.arange(first, stop, step)
            for begin in window_starts(len(frames), length, stride):
                window += 1
                inside = frames[begin : begin + length]
                expected[inside] += inside + window
                count[inside] += 1
    assert window == len(model.windows) and (count > 0).all()
    np.testing.assert_allclose(found[:, 3, 1], expected / count, rtol=1e-5)


# --- the prepared store ----------------------------------------------------------------------------------------------

maybe = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Paths of 12 frames, each of one grey of its own."""
    folder = tmp_path_factory.mktemp("frames")
    for i in range(12):
        cv2.imwrite(str(folder / f"img_{i:06d}.jpg"), np.full((SIZE[1], SIZE[0], 3), 20 * i, np.uint8))
    return [folder / f"img_{i:06d}.jpg" for i in range(12)]


@few
@given(st.data(), st.integers(1, 12), st.sampled_from(["none", "square"]), st.integers(8, 40), st.booleans(), seeds)
def test_the_store_gives_back_what_it_was_given(frames, data, count, crop, size, flags, seed):
    rng = np.random.default_rng(seed)
    joints = rng.normal(0, 1, (count, 15, 3)).astype(np.float32)
    pixels = rng.uniform(-300, 300, (count, 15, 2)).astype(np.float32)
    pixels[rng.random((count, 15)) < 0.2] = np.nan
    sequence = Sequence(
        name=data.draw(maybe.filter(bool)),
        actor=data.draw(maybe.filter(bool)),
        frame_paths=frames[:count],
        frame_numbers=np.cumsum(rng.integers(1, 2**40, count)),
        joints_3d=joints,
        joints_2d=pixels,
        actions=data.draw(st.one_of(st.none(), st.lists(maybe, min_size=count, max_size=count))),
        in_image=rng.random((count, 15)) < 0.5 if flags else None,
        hidden=rng.random((count, 15)) < 0.5 if flags else None,
        dataset="egopw",
    )
    path = frames[0].parent / "stored.h5"
    report = write_prepared(path, sequence, CAMERA, InputView(SIZE, size, crop))
    stored = PreparedSequence(path)
    assert report == {"frames": count, "skipped": {}} and len(stored) == count
    for key in ("name", "actor", "dataset", "actions", "frame_names"):
        assert getattr(stored, key) == getattr(sequence, key), key
    assert stored.camera == CAMERA and stored.view == InputView(SIZE, size, crop)
    np.testing.assert_array_equal(stored.frame_numbers, sequence.frame_numbers)
    np.testing.assert_array_equal(stored.joints_3d, joints)
    np.testing.assert_array_equal(stored.joints_2d, pixels)
    for key in ("in_image", "hidden") if flags else ():
        np.testing.assert_array_equal(getattr(stored, key), getattr(sequence, key))
    chosen = rng.integers(0, count, 5)
    greys = stored.images(chosen).mean((1, 2, 3))
    np.testing.assert_allclose(greys, 20 * chosen, atol=2)
    stored.close()
