"""The shapes in signatures are those of real calls: inputs and outputs against jaxtyping's annotations."""

import inspect
import typing

import numpy as np
import pytest
import torch
from jaxtyping import Num, jaxtyped

from agego_lib import camera, heatmaps, images, inference, losses, metrics
from agego_lib.datasets.windows import segments
from agego_lib.evaluation import errors
from agego_lib.models import AGEgoPose, FrameEncoder, HeatmapEmbedding, HeatmapNet, MotionEncoder, PoseDecoder
from agego_lib.skeleton import BONES

LENS = camera.FisheyeCamera((128, 96), (63.5, 47.5), (-40.0, 0.0, 0.01), (60.0, 40.0))
VIEW = camera.InputView((128, 96), 64, "square")


def fits(value, hint):
    """Whether a value is of an annotation, containers looked into; dimensions are bound from call to call."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if value is None or hint in (None, type(None)):
        return value is None and (hint in (None, type(None)) or type(None) in inner)
    if isinstance(kind, type) and issubclass(kind, tuple) and Ellipsis not in inner:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if isinstance(kind, type) and issubclass(kind, dict):
        return all(fits(key, inner[0]) and fits(part, inner[1]) for key, part in value.items())
    if isinstance(kind, type) and hasattr(kind, "__iter__"):
        return all(fits(part, inner[0]) for part in value)
    return any(fits(value, part) for part in inner) if inner else isinstance(value, hint)


def called(function, *args, **kwargs):
    """The function's result; inputs and it must be of the shapes and kinds that the signature says."""
    unbound = getattr(function, "forward", function)
    hints = typing.get_type_hints(inspect.unwrap(unbound))
    given = inspect.signature(unbound).bind(*args, **kwargs).arguments
    with jaxtyped("context"):
        for name, value in given.items():
            assert name not in hints or fits(value, hints[name]), f"{name}: {getattr(value, 'shape', type(value))}"
        result = function(*args, **kwargs)
        assert fits(result, hints["return"]), f"{getattr(result, 'shape', type(result))} is not {hints['return']}"
    return result


def poses(*shape, kind=np):
    array = np.random.default_rng(0).normal(size=(*shape, 15, 3))
    return array if kind is np else torch.from_numpy(array).float()


def test_a_wrong_shape_or_kind_is_found():
    right = poses(4)
    called(metrics.mpjpe, right, right, "none")
    for wrong in (right[:3], right[..., :2], right[:, :14], right.astype(str), right.tolist()):
        with pytest.raises(AssertionError, match="target: "):
            called(metrics.mpjpe, right, wrong, "none")

    def flat(pred: Num[np.ndarray, "*N J 3"]) -> Num[np.ndarray, "*N J 3"]:
        return pred.reshape(-1, 3)

    with pytest.raises(AssertionError, match=r"\(60, 3\) is not"):
        called(flat, right)


@pytest.mark.parametrize("kind", [np, torch])
@pytest.mark.parametrize("shape", [(), (6,), (2, 6)])
def test_metrics_and_heatmaps(kind, shape):
    one, two = poses(*shape, kind=kind), poses(*shape, kind=kind) + 0.1
    called(metrics.procrustes_align, one, two)
    called(metrics.resize_bones, one)
    for measure in (metrics.mpjpe, metrics.pa_mpjpe, metrics.ba_mpjpe, metrics.per_joint_error):
        for reduce in ("mean", "none"):
            called(measure, one, two, reduce)
    called(metrics.pck, one[..., :2], two[..., :2], 0.1)
    called(metrics.auc, one, two, 0.2)
    maps = called(heatmaps.gaussian_heatmaps, one[..., :2] * 4 + 8, 16)
    called(heatmaps.decode_heatmaps, maps)
    if len(shape) == 1:
        for reduce in ("mean", "none"):
            called(metrics.acceleration_error, one, two, np.arange(6), reduce)
        called(metrics.bone_length_deviation, one, BONES)


def test_camera():
    pixels = called(LENS.project, poses(3, 4))
    called(LENS.unproject, pixels, 1.0)
    called(LENS.unproject, pixels, np.ones((3, 4, 15)))
    called(LENS.in_image, pixels)
    called(VIEW.to_full, called(VIEW.to_view, pixels, 16), 16)
    for frame in (np.zeros((96, 128, 3), np.uint8), np.zeros((96, 96, 3), np.uint8)):
        called(VIEW.whole, frame)
        called(VIEW.apply, frame)


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, False]] * 2)])
def test_losses(mask):
    for loss in (losses.position_loss, losses.bone_length_loss, losses.bone_cosine_loss, losses.PoseLoss()):
        called(loss, poses(2, 3, kind=torch), poses(2, 3, kind=torch) + 0.1, mask)
    logits = torch.zeros(2, 15, 8, 8)
    called(losses.heatmap_loss, logits, logits, pos_weight=2.0)


@pytest.fixture(scope="module")
def model():
    net = HeatmapNet(fpn_channels=(8, 8, 8, 8))
    return AGEgoPose(net, FrameEncoder("resnet18"), MotionEncoder(depth=2, local_blocks=1)).eval()


@pytest.mark.parametrize("mask", [None, torch.tensor([[True] * 3, [True, True, False]])])
@torch.no_grad()
def test_networks(model, mask):
    frames = called(images.to_tensor, np.zeros((6, 64, 96, 3), np.uint8))
    called(model.heatmap_net.decode, called(model.heatmap_net.encode, frames))
    called(model.heatmap_net, frames)
    features = called(model.frozen_features, frames)
    heatmap, trunk = (features[name].unflatten(0, (2, 3)) for name in ("heatmaps", "trunk"))
    tokens = called(model.embedding, heatmap)
    motion = called(model.motion_encoder, called(model.frame_encoder.head, trunk, mask), mask)
    called(model.motion_encoder.blocks[0], motion, None if mask is None else mask[..., None], None)
    called(model.decoder.build_memory, tokens, motion)
    called(model.decoder, tokens, motion)
    called(PoseDecoder(use_motion=False), tokens, None)
    called(HeatmapEmbedding(dim=32), heatmap)
    called(model.frame_encoder, frames.unflatten(0, (2, 3)), mask)
    called(model.forward_features, heatmap, trunk, mask)
    called(model, frames.unflatten(0, (2, 3)), mask)


def test_prediction_and_errors(model):
    video = np.zeros((5, 64, 64, 3), np.uint8)
    found = called(inference.predict_sequence, model, video, length=4, stride=2)
    stream, live = inference.PoseStream(model, length=4, stride=2), inference.LivePredictor(model, length=4)
    called(stream.push, video[0])
    called(stream.finish)
    called(live.push, video[0])
    called(segments, np.arange(5), 3)
    made = called(errors.pose_errors, [found, found[:3]], [found, found[:3]], [np.arange(5), np.arange(3)])
    called(errors.bootstrap_interval, made.mpjpe, made.lengths)
    for name in ("mpjpe", "pa_mpjpe", "ba_mpjpe", "per_joint", "pa_per_joint"):
        assert called(getattr(errors.PoseErrors, name).fget, made).dtype == np.float64
