"""Figures hold what they were given: the coordinates in their traces, the pixels in their pictures."""

import base64
import itertools
import re

import cv2
import numpy as np
import pytest

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.heatmaps import gaussian_heatmaps
from agego_lib.skeleton import BONES, NUM_JOINTS, SIDE_COLOURS
from agego_view import plots
from agego_view.diagram import ARROWS, BOXES, pipeline_figure

RNG = np.random.default_rng(0)
IMAGE = np.full((48, 64, 3), (200, 30, 90), np.uint8)
TRUTH_2D, PREDICTION_2D = RNG.uniform(0, 48, (2, NUM_JOINTS, 2))
TRUTH_3D, PREDICTION_3D = RNG.uniform(-1, 1, (2, NUM_JOINTS, 3))


def coordinates(trace):
    axes = [trace.x, trace.y] + ([trace.z] if trace.type == "scatter3d" else [])
    return np.stack([np.array(axis, dtype=float) for axis in axes], axis=-1)


def markers(figure, name):
    (trace,) = [t for t in figure.data if t.type != "image" and t.mode == "markers" and t.name == name]
    return trace


def bones(figure, name):
    """Segments (N, 2, D) of the line traces of a skeleton, without the outline under it."""
    lines = [t for t in figure.data if t.type != "image" and t.mode == "lines" and t.name and t.legendgroup == name]
    return np.concatenate([coordinates(t).reshape(-1, 3, coordinates(t).shape[-1])[:, :2] for t in lines])


def picture(trace):
    head, data = trace.source.split(",")
    assert head == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def as_set(segments):
    return {tuple(np.round(segment.ravel(), 9)) for segment in segments}


@pytest.mark.parametrize("figure, poses", [
    (plots.frame_figure(IMAGE, TRUTH_2D, PREDICTION_2D, "t"), (TRUTH_2D, PREDICTION_2D)),
    (plots.pose_figure(TRUTH_3D, PREDICTION_3D, "t"), (TRUTH_3D, PREDICTION_3D)),
])  # fmt: skip
def test_skeletons_are_drawn_where_they_are(figure, poses):
    for name, pose in zip(("truth", "prediction"), poses, strict=True):
        np.testing.assert_array_equal(coordinates(markers(figure, name)), pose)
        assert as_set(bones(figure, name)) == as_set(pose[list(bone)] for bone in BONES)
    assert figure.layout.title.text == "t"
    truth, prediction = (markers(figure, name).marker.color for name in ("truth", "prediction"))
    assert len(set(truth)) == 1
    assert prediction[2] == SIDE_COLOURS["right"] and prediction[5] == SIDE_COLOURS["left"]


def test_a_truth_alone_has_the_colours_of_the_sides():
    colours = markers(plots.pose_figure(TRUTH_3D), "truth").marker.color
    assert set(colours) == set(SIDE_COLOURS.values())


@pytest.mark.parametrize("joint", [0, 6])
def test_a_nan_joint_takes_its_bones_along_and_nothing_else(joint):
    for pose, make in ((TRUTH_2D, lambda p: plots.frame_figure(IMAGE, p)), (TRUTH_3D, plots.pose_figure)):
        broken = pose.copy()
        broken[joint] = np.nan
        figure = make(broken)
        segments = bones(figure, "truth")
        left = [bone for bone in BONES if joint not in bone]
        assert as_set(segments[np.isfinite(segments).all((1, 2))]) == as_set(pose[list(bone)] for bone in left)
        figure.to_json()
    assert np.isfinite(plots.pose_figure(np.full((NUM_JOINTS, 3), np.nan)).layout.scene.zaxis.range).all()


def test_the_person_stands_upright_unmirrored_and_in_scale():
    scene = plots.pose_figure(TRUTH_3D).layout.scene
    ranges = {axis: scene[f"{axis}axis"].range for axis in "xyz"}
    # z, towards the feet, is drawn downwards; two reversed axes are a half turn, one would be a mirror.
    reverse = {axis: limits[0] > limits[1] for axis, limits in ranges.items()}
    assert reverse == {"x": False, "y": True, "z": True}
    units = [abs(limits[1] - limits[0]) / scene.aspectratio[axis] for axis, limits in ranges.items()]
    np.testing.assert_allclose(units, units[0])
    titles = [scene[f"{axis}axis"].title.text for axis in "xyz"]
    assert titles == ["x right (m)", "y down (m)", "z forward (m)"]


def test_a_frame_is_embedded_as_a_picture_in_its_own_pixels():
    figure = plots.frame_figure(IMAGE)
    assert np.abs(picture(figure.data[0]).astype(int) - IMAGE).max() < 8
    assert figure.layout.xaxis.range == (-0.5, 63.5) and figure.layout.yaxis.range == (47.5, -0.5)
    with pytest.raises(ValueError, match="uint8"):
        plots.frame_figure(IMAGE / 255)


def test_frame_and_pose_hold_both():
    figure = plots.frame_and_pose_figure(IMAGE, TRUTH_2D, PREDICTION_2D, TRUTH_3D, PREDICTION_3D, "t")
    drawn = [coordinates(t) for t in figure.data if t.type != "image" and t.mode == "markers"]
    for wanted in (TRUTH_2D, PREDICTION_2D, TRUTH_3D, PREDICTION_3D):
        assert any(found.shape == wanted.shape and (found == wanted).all() for found in drawn)
    names = [t.name for t in figure.data if t.type != "image" and t.showlegend]
    assert names == ["truth", "prediction, right", "prediction, left"]


def test_methods_stand_side_by_side_in_one_scene():
    methods = {"full": PREDICTION_3D, "other": PREDICTION_3D + 0.5}
    figure = plots.methods_figure(IMAGE, TRUTH_2D, PREDICTION_2D, TRUTH_3D, methods, "t")
    drawn = [t for t in figure.data if t.type == "scatter3d" and t.mode == "markers"]
    assert [t.name for t in drawn] == ["truth", "prediction"] * 2 and {t.scene for t in drawn} == {"scene"}
    truths, predictions = ([coordinates(t) for t in drawn if t.name == n] for n in ("truth", "prediction"))
    np.testing.assert_array_equal(truths[0], TRUTH_3D)
    np.testing.assert_array_equal(predictions[0], PREDICTION_3D)
    # The second method and its truth are moved alike, along x alone, past everything of the first: to the right of a
    # reader who sees the person from the front, where x runs to the left.
    move = truths[1] - truths[0]
    np.testing.assert_allclose(move - move[0], 0, atol=1e-12)
    np.testing.assert_allclose(predictions[1] - PREDICTION_3D - 0.5, move, atol=1e-12)
    assert move[0, 0] < -np.ptp([truths[0][:, 0], predictions[0][:, 0]]) and not move[0, 1:].any()
    (names,) = [t for t in figure.data if t.type == "scatter3d" and t.mode == "text"]
    assert names.text == ("full", "other") and names.x[1] - names.x[0] == pytest.approx(move[0, 0])
    shown = [t.name for t in figure.data if t.type != "image" and t.showlegend]
    assert shown == ["truth", "prediction, right", "prediction, left"]


def test_a_truth_looks_the_same_in_both_halves():
    figure = plots.frame_and_pose_figure(IMAGE, TRUTH_2D, None, TRUTH_3D, PREDICTION_3D)
    flat, solid = [t for t in figure.data if t.type != "image" and t.mode == "markers" and t.name == "truth"]
    assert flat.marker.color == solid.marker.color and len(set(flat.marker.color)) == 1


@pytest.mark.parametrize("count, columns", [(1, 4), (6, 4), (3, 1)])
def test_contact_sheet_has_every_frame_caption_and_pose(count, columns):
    poses = [TRUTH_2D + i for i in range(count)]
    figure = plots.contact_sheet([IMAGE] * count, [f"frame {i}" for i in range(count)], columns, poses)
    assert [t.type for t in figure.data].count("image") == count
    assert [a.text for a in figure.layout.annotations] == [f"frame {i}" for i in range(count)]
    drawn = [coordinates(t) for t in figure.data if t.type != "image" and t.mode == "markers"]
    np.testing.assert_array_equal(drawn, poses)
    with pytest.raises(ValueError, match="equal counts"):
        plots.contact_sheet([IMAGE], [])


def test_heatmaps_glow_at_their_joints():
    maps = gaussian_heatmaps(RNG.uniform(8, 56, (NUM_JOINTS, 2)))
    dark = np.zeros((256, 256, 3), np.uint8)
    figure = plots.heatmap_figure(dark, maps)
    for trace, heatmap in zip(figure.data, maps, strict=True):
        v, u = np.unravel_index(cv2.GaussianBlur(picture(trace).sum(-1) / 1.0, (0, 0), 4).argmax(), (256, 256))
        peak_v, peak_u = np.unravel_index(heatmap.argmax(), heatmap.shape)
        # A map pixel covers 4 x 4 pixels of the frame.
        assert np.abs([(u - 1.5) / 4 - peak_u, (v - 1.5) / 4 - peak_v]).max() < 1
    assert figure.layout.annotations[3].text == f"right wrist ({maps[3].max():.2f})"
    with pytest.raises(ValueError, match="joint names"):
        plots.heatmap_figure(dark, maps, ["neck"])


def test_curves_and_bars_hold_their_numbers():
    figure = plots.curves_figure({"train": ([0, 1], [3.0, 2.0]), "test": ([0], [4.0])}, "epoch", "loss", log_y=True)
    assert [t.name for t in figure.data] == ["train", "test"] and list(figure.data[0].y) == [3, 2]
    assert figure.layout.yaxis.type == "log" and figure.layout.xaxis.title.text == "epoch"

    errors = np.arange(15.0)
    figure = plots.joint_error_figure({"full": errors, "spatial": errors + 1})
    np.testing.assert_array_equal(figure.data[1].y, errors + 1)
    assert figure.data[0].x[1] == "right shoulder" and "mm" in figure.layout.yaxis.title.text
    assert figure.layout.showlegend and not plots.joint_error_figure({"one": errors}).layout.showlegend
    with pytest.raises(ValueError, match="'full'"):
        plots.joint_error_figure({"full": errors[:3]})


def test_published_figures_are_told_from_measured_ones():
    rows = [
        {"method": "SceneEgo", "metric": "MPJPE", "value": 118.5, "source": "paper"},
        {"method": "AG-EgoPose", "metric": "MPJPE", "value": 104.0, "source": "paper"},
        {"method": "AG-EgoPose", "metric": "MPJPE", "value": 99.0, "source": "measured"},
    ]
    figure = plots.comparison_figure(rows)
    paper, measured = figure.data
    assert list(paper.x) == [118.5, 104.0] and list(measured.x) == [99.0]
    assert list(measured.y) == ["AG-EgoPose (measured)"]
    assert paper.marker.pattern.shape == "/" and not measured.marker.pattern.shape
    # Each method's published bar stands above its measured one, in the order of the rows.
    assert figure.layout.yaxis.categoryarray == ("SceneEgo (paper)", "AG-EgoPose (paper)", "AG-EgoPose (measured)")
    (alone,) = plots.comparison_figure(rows[2:]).data
    assert list(alone.y) == ["AG-EgoPose"] and alone.name == "MPJPE"
    with pytest.raises(ValueError, match="guess"):
        plots.comparison_figure([rows[0] | {"source": "guess"}])


def test_intervals_reach_from_low_to_high():
    row = {"method": "ours", "metric": "PA", "value": 50.0, "source": "measured"}
    figure = plots.comparison_figure([{**row, "low": 45.0, "high": 58.0}])
    (bar,) = figure.data
    assert (bar.error_x.array, bar.error_x.arrayminus) == ((8.0,), (5.0,))
    (plain,) = plots.comparison_figure([row]).data
    assert not plain.error_x.array


@pytest.mark.parametrize("radius", [500.0, None])
def test_camera_figure_draws_the_lens(radius):
    # An equidistant lens, rho = 300 * angle; its inverse is not drawn exactly, only the circles are checked.
    camera = FisheyeCamera((1280, 1024), (640.0, 512.0), (-300.0, 0.0, 1 / 900), (150 * np.pi, 300.0), radius)
    figure = plots.camera_figure(camera)
    rings = [t for t in figure.data if t.name == "equal angle"]
    for degrees, ring in zip(range(15, 90, 15), rings, strict=False):
        distance = np.linalg.norm(coordinates(ring) - camera.centre, axis=-1)
        np.testing.assert_allclose(distance, 300 * np.radians(degrees))
    assert re.fullmatch(r"\d+ degrees of the world in one image", figure.layout.title.text)
    assert ("image circle" in [t.name for t in figure.data]) == (radius is not None)


def test_image_circles_lie_where_the_view_has_them():
    view = InputView((64, 48), 32, "none")  # squeezed: the circle becomes an ellipse
    circles = {"calibration": ((30.0, 20.0), 12.0), "frames": None}
    image = np.full((32, 32, 3), 90, np.uint8)
    figure = plots.image_circles_figure({"a: agree": (image, view, circles), "b": (image, view, circles)}, "t")
    rings = [trace for trace in figure.data if trace.name == "calibration"]
    assert len(rings) == 2 and [ring.showlegend for ring in rings] == [True, False]
    assert not [trace for trace in figure.data if trace.name == "frames"]
    ring = coordinates(rings[0])
    full = (ring + 0.5) * (64 / 32, 48 / 32) - 0.5
    np.testing.assert_allclose(np.hypot(*(full - (30, 20)).T), 12)
    assert sum(trace.type == "image" for trace in figure.data) == 2
    assert [note.text for note in figure.layout.annotations] == ["a: agree", "b"]


def test_joints_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(14, 3\)"):
        plots.pose_figure(TRUTH_3D[:14])
    with pytest.raises(ValueError, match=r"\(15, 3\)"):
        plots.frame_figure(IMAGE, TRUTH_3D)


def colours_apart(colours):
    """Smallest CIE76 difference of any two, over normal sight and the full dichromacies of Machado et al., 2009."""
    sight = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    srgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.stack([linear @ np.transpose(matrix) for matrix in sight]).clip(0, 1).astype(np.float32)
    coded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055).astype(np.float32)
    lab = cv2.cvtColor(coded, cv2.COLOR_RGB2Lab)
    pairs = itertools.combinations(range(len(colours)), 2)
    return min(np.linalg.norm(lab[:, a] - lab[:, b], axis=-1).min() for a, b in pairs)


def test_colours_stay_apart_for_colour_blind_readers():
    assert colours_apart(["#FF0000", "#008000"]) < 60 < colours_apart(["#000000", "#FFFFFF"])
    assert colours_apart([SIDE_COLOURS["right"], SIDE_COLOURS["left"], plots.TRUTH_COLOUR]) > 25
    assert colours_apart(plots.PALETTE) > 25


def test_the_method_is_drawn_with_the_part_at_hand_marked():
    figure = pipeline_figure("memory", "decoder", title="t")
    boxes = {shape.name: shape for shape in figure.layout.shapes}
    assert set(boxes) == set(BOXES)
    fill = {name: box.fillcolor for name, box in boxes.items()}
    assert fill["memory"] == fill["decoder"] != fill["head"] and len(set(fill.values())) == 2
    for one, other in itertools.combinations(boxes.values(), 2):
        assert one.x1 < other.x0 or other.x1 < one.x0 or one.y1 < other.y0 or other.y1 < one.y0, "two boxes overlap"
    texts = [note.text for note in figure.layout.annotations if not note.showarrow]
    assert all(any(f"Eq. {i}" in text for text in texts) for i in range(1, 7))
    # Every box lies on a way from the frames to the pose.
    for name in BOXES:
        assert name == "frames" or any(end == name for _, end in ARROWS)
        assert name == "pose" or any(start == name for start, _ in ARROWS)
    with pytest.raises(ValueError, match="'neck'"):
        pipeline_figure("neck")


def test_confusion_shows_shares_of_true_classes():
    (trace,) = plots.confusion_figure([[3, 1, 0], [0, 0, 0], [0, 2, 2]], ["walk", "sit", "run"]).data
    np.testing.assert_array_equal(trace.z, [[0.75, 0.25, 0], [np.nan] * 3, [0, 0.5, 0.5]])
    assert list(trace.x) == list(trace.y) == ["walk", "sit", "run"] and trace.customdata[0][0] == 3
    with pytest.raises(ValueError, match=r"shape \(2, 3\); expected \(3, 3\)"):
        plots.confusion_figure(np.zeros((2, 3)), ["a", "b", "c"])
