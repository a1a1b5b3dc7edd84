"""Plotly figures of frames, poses, heatmaps, cameras and results.

Colours: the wearer's right and left side as in `skeleton.SIDE_COLOURS`. Where a figure holds both, the prediction has
the sides' colours, the truth is dark and thin, and dashed on a photograph.
"""

import base64
import math

import cv2
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from agego_lib.skeleton import BONES, JOINT_NAMES, NUM_JOINTS, SIDE_COLOURS, side

# Those of Okabe-Ito and Tol, but for the two sides' colours, that stay farthest apart for colour-blind readers.
PALETTE = ("#117733", "#E69F00", "#332288", "#56B4E9", "#000000")
TRUTH_COLOUR = "#222222"
DASHES = ("solid", "dash", "dot", "dashdot")
# Entries side by side: a group of traces would otherwise be stacked.
BELOW = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "top", "traceorder": "normal"}
LABELS = tuple(name.replace("_", " ") for name in JOINT_NAMES)


def _layout(figure, title, **more):
    figure.update_layout(template="plotly_white", title_text=title, title_x=0.5, **more)
    return figure


def data_uri(bgr, quality):
    """A uint8 image (H, W, 3), BGR, as a JPEG of this quality (0 to 100) within a URI."""
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _image(image):
    """An RGB uint8 image (H, W, 3) as a trace whose axes are pixels, whole numbers at pixel centres."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image of shape {image.shape} and {image.dtype}; expected (H, W, 3) uint8 RGB")
    # An encoded image is some hundred times smaller in a notebook than its pixels as a list.
    return go.Image(source=data_uri(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), 90), hoverinfo="skip")


def _image_axes(figure, image, **where):
    """Equal aspect, v downwards, the image's own borders."""
    height, width = np.asarray(image).shape[:2]
    figure.update_xaxes(range=[-0.5, width - 0.5], visible=False, constrain="domain", **where)
    figure.update_yaxes(range=[height - 0.5, -0.5], visible=False, constrain="domain", **where)


def _joints(joints, dim):
    joints = np.asarray(joints, dtype=np.float64)
    if joints.shape != (NUM_JOINTS, dim):
        raise ValueError(f"joints of shape {joints.shape}; expected ({NUM_JOINTS}, {dim})")
    return joints


def _lines(joints, bones):
    """Bones as one broken line (3 * bones, D): parent, child, gap. A bone with a NaN end is left out."""
    segments = np.full((len(bones), 3, joints.shape[-1]), np.nan)
    for segment, (parent, child) in zip(segments, bones, strict=True):
        if np.isfinite(joints[[parent, child]]).all():
            segment[:2] = joints[parent], joints[child]
    return segments.reshape(-1, joints.shape[-1])


def _parts(neutral):
    """The bones that one trace draws, trace by trace -> {what they are: bones}; as `_skeleton` has them."""
    if neutral:
        return {None: BONES}
    return {part: [bone for bone in BONES if side(bone[1]) == part] for part in ("right", "left")}


def _skeleton(joints, name, neutral, legend):
    """Traces of one skeleton (J, 2) or (J, 3): its bones, then a trace of all its joints called `name`.

    neutral: dark and thin instead of the sides' colours.
    """
    flat = joints.shape[-1] == 2
    trace, width, dot = (go.Scatter, 3, 7) if flat else (go.Scatter3d, 6, 4)

    def draw(values, **style):
        return trace(**dict(zip("xyz", values.T, strict=False)), legendgroup=name, **style)

    def draw_bones(bones, label, **line):
        shown = label is not None and legend
        return draw(_lines(joints, bones), mode="lines", line=line, name=label, hoverinfo="skip", showlegend=shown)

    # On a photograph a white outline keeps the bones apart from whatever is behind them.
    traces = [draw_bones(BONES, None, color="white", width=width + 2.5)] if flat else []
    # WebGL draws dashes of another length on each bone, which look like different kinds of line.
    dark = {"color": TRUTH_COLOUR} | ({"width": width, "dash": "dash"} if flat else {"width": width / 2})
    for part, bones in _parts(neutral).items():
        style = dark if neutral else {"color": SIDE_COLOURS[part], "width": width}
        traces.append(draw_bones(bones, name if neutral else f"{name}, {part}", **style))
    colours = [TRUTH_COLOUR if neutral else SIDE_COLOURS[side(joint)] for joint in range(NUM_JOINTS)]
    marker = {"color": colours, "size": dot, "line": {"color": "white", "width": 1}}
    place = "%{x:.1f}, %{y:.1f} px" if flat else "%{x:.3f}, %{y:.3f}, %{z:.3f} m"
    hover = f"%{{text}}<br>{place}<extra>{name}</extra>"
    traces.append(
        draw(joints, mode="markers", name=name, text=LABELS, marker=marker, hovertemplate=hover, showlegend=False)
    )
    return traces


def _skeletons(truth, prediction, dim, legend=True, compared=None):
    """Traces of truth and prediction (either may be None), (J, dim) each.

    compared: whether the figure holds a prediction that the truth must not be mistaken for (None: where one is given).
    """
    compared = prediction is not None if compared is None else compared
    traces = []
    for name, joints in (("truth", truth), ("prediction", prediction)):
        if joints is not None:
            traces += _skeleton(_joints(joints, dim), name, compared and name == "truth", legend)
    return traces


def _scene(poses):
    """Axes of the camera frame, equal in scale, with the person upright and seen from the front and the right.

    y and z are both drawn reversed, a half turn about x: a mirror image would swap left and right.
    """
    points = np.concatenate([np.zeros((1, 3)), *(np.asarray(pose, dtype=np.float64) for pose in poses)])
    low, high = np.nanmin(points, axis=0) - 0.1, np.nanmax(points, axis=0) + 0.1
    spans = (high - low) / (high - low).max()
    axes = {}
    for i, name in enumerate(("x right (m)", "y down (m)", "z forward (m)")):
        limits = [low[i], high[i]] if i == 0 else [high[i], low[i]]
        axes[f"{'xyz'[i]}axis"] = {"title": {"text": name}, "range": limits, "dtick": 0.25, "gridcolor": "#C8D0D8"}
    return axes | {
        "aspectmode": "manual",
        "aspectratio": dict(zip("xyz", 1.2 * spans, strict=True)),
        # Aimed a little low, where the titles of the x and y axes need room.
        "camera": {"eye": {"x": 1.05, "y": 1.8, "z": 0.3}, "center": {"x": 0, "y": 0, "z": -0.12}},
    }


def _pose_traces(truth, prediction, compared=None):
    camera = go.Scatter3d(
        x=[0], y=[0], z=[0], mode="markers+text", text=["camera"], textposition="top center", name="camera",
        marker={"symbol": "diamond", "size": 4, "color": "black"}, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    return [*_skeletons(truth, prediction, 3, compared=compared), camera]


def frame_figure(image, truth=None, prediction=None, title=""):
    """A frame with its 2D skeletons. image: (H, W, 3) uint8 RGB; truth, prediction: (15, 2) px of that image.

    A NaN joint and its bones are left out. Raises ValueError for other shapes.
    """
    figure = go.Figure([_image(image), *_skeletons(truth, prediction, 2)])
    _image_axes(figure, image)
    return _layout(figure, title, height=520, margin={"t": 60, "b": 20, "l": 20, "r": 20})


def pose_figure(truth=None, prediction=None, title=""):
    """3D skeletons and the camera that sees them. truth, prediction: (15, 3) metres in the camera frame.

    A NaN joint and its bones are left out. Raises ValueError for other shapes.
    """
    figure = go.Figure(_pose_traces(truth, prediction))
    scene = _scene([pose for pose in (truth, prediction) if pose is not None])
    return _layout(figure, title, height=560, scene=scene, margin={"t": 60, "b": 0, "l": 0, "r": 0})


def frame_and_pose_figure(image, truth_2d=None, prediction_2d=None, truth_3d=None, prediction_3d=None, title=""):
    """`frame_figure` and `pose_figure` of one frame side by side."""
    figure = make_subplots(1, 2, specs=[[{"type": "xy"}, {"type": "scene"}]], horizontal_spacing=0.02)
    compared = prediction_2d is not None or prediction_3d is not None
    # One legend does for both halves.
    legend = truth_3d is None and prediction_3d is None
    left = [_image(image), *_skeletons(truth_2d, prediction_2d, 2, legend, compared)]
    figure.add_traces(left, rows=1, cols=1)
    figure.add_traces(_pose_traces(truth_3d, prediction_3d, compared), rows=1, cols=2)
    _image_axes(figure, image, row=1, col=1)
    figure.update_scenes(_scene([pose for pose in (truth_3d, prediction_3d) if pose is not None]))
    return _layout(figure, title, height=560, legend=BELOW, margin={"t": 60, "b": 40, "l": 10, "r": 10})


def methods_figure(image, truth_2d, prediction_2d, truth_3d, predictions, title=""):
    """Fig. 3 of the paper for one frame: the image with its joints, then the truth with each method's pose in 3D.

    predictions: {method: (15, 3) m}. The other arguments as `frame_and_pose_figure`. The methods stand side by side
    in one scene, the first at the left, moved along x: since a page with a scene each has more than browsers draw.
    """
    specs = [[{"type": "xy"}, {"type": "scene"}]]
    figure = make_subplots(1, 2, specs=specs, column_widths=[0.3, 0.7], horizontal_spacing=0.01)
    figure.add_traces([_image(image), *_skeletons(truth_2d, prediction_2d, 2, legend=True)], rows=1, cols=1)
    _image_axes(figure, image, row=1, col=1)
    points = np.concatenate([truth_3d, *predictions.values()])
    # Seen from the front, x runs to the left.
    step = -np.ptp(points[:, 0]) - 0.3
    poses, labels = [], []
    for number, (method, pose) in enumerate(predictions.items()):
        moved = [np.add(p, (number * step, 0.0, 0.0)) for p in (truth_3d, pose)]
        figure.add_traces(_skeletons(*moved, 3, legend=False), rows=1, cols=2)
        # Long names would run into each other on one line.
        height = points[:, 2].min() - 0.15 - 0.25 * (number % 2)
        labels.append((points[:, 0].mean() + number * step, points[:, 1].mean(), height, method))
        poses += moved
    x, y, z, text = zip(*labels, strict=True)
    where = {"x": x, "y": y, "z": z, "text": text, "mode": "text", "name": "methods"}
    figure.add_trace(go.Scatter3d(**where, showlegend=False, hoverinfo="skip"), row=1, col=2)
    scene = _scene([*poses, np.stack([x, y, z], axis=-1)])
    # Seen from the front, so that no method hides the next, and without perspective, so that all have one scale.
    scene["camera"] = {
        "eye": {"x": 0.15, "y": 1.5, "z": 0.2},
        "center": {"x": 0, "y": 0, "z": -0.05},
        "projection": {"type": "orthographic"},
    }
    scene["aspectratio"] = {axis: 2 * length for axis, length in scene["aspectratio"].items()}
    # Places along x are no coordinates once methods are moved.
    scene["xaxis"] |= {"title": {"text": "x right, a line each 0.25 m"}, "showticklabels": False}
    # Nearly along the line of sight, where its numbers would overlap.
    scene["yaxis"] |= {"title": {"text": "y down"}, "showticklabels": False}
    figure.update_scenes(scene)
    return _layout(figure, title, height=430, legend=BELOW, margin={"t": 60, "b": 40, "l": 10, "r": 10})


def _grid(count, columns, titles, spacing):
    rows = max(1, math.ceil(count / columns))
    gaps = {"horizontal_spacing": 0.01, "vertical_spacing": min(spacing, 1 / max(1, rows - 1) / 2)}
    figure = make_subplots(rows, columns, subplot_titles=[str(title) for title in titles], **gaps)
    figure.update_annotations(font_size=12)
    # Cells that stay empty after the last picture.
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure, [{"row": i // columns + 1, "col": i % columns + 1} for i in range(count)], rows


def contact_sheet(images, captions, columns=4, joints=None, title=""):
    """Frames in a grid. images: a list of (H, W, 3) uint8 RGB; captions: a text each; joints: None or (15, 2) px each.

    Raises ValueError where the lists differ in length.
    """
    joints = [None] * len(images) if joints is None else joints
    if not len(images) == len(captions) == len(joints):
        raise ValueError(f"{len(images)} images, {len(captions)} captions, {len(joints)} joints; expected equal counts")
    figure, cells, rows = _grid(len(images), columns, captions, 0.06)
    for image, pose, cell in zip(images, joints, cells, strict=True):
        for trace in [_image(image), *_skeletons(pose, None, 2, legend=False)]:
            figure.add_trace(trace, **cell)
        _image_axes(figure, image, **cell)
    return _layout(figure, title, height=100 + 260 * rows, margin={"t": 80, "b": 20, "l": 20, "r": 20})


def image_circles_figure(pictures, title=""):
    """Circles over frames. pictures: caption -> (frame of an InputView (S, S, 3) uint8 RGB, the view, circles).

    circles: name -> ((u, v), radius) px of the full image, or None for one that is unknown.
    """
    figure, cells, rows = _grid(len(pictures), 2, list(pictures), 0.06)
    turn = np.linspace(0, 2 * np.pi, 121)
    names = list(dict.fromkeys(name for _, _, circles in pictures.values() for name in circles))
    for (image, view, circles), cell in zip(pictures.values(), cells, strict=True):
        figure.add_trace(_image(image), **cell)
        for name, circle in circles.items():
            if circle is None:
                continue
            (u, v), radius = circle
            ring = view.to_view(np.stack([u + radius * np.cos(turn), v + radius * np.sin(turn)], axis=-1))
            place = names.index(name)
            line = {"color": ("#E69F00", "#56B4E9")[place % 2], "dash": DASHES[place % len(DASHES)], "width": 3}
            first = not any(trace.name == name for trace in figure.data)
            style = {"mode": "lines", "line": line, "name": name, "legendgroup": name, "showlegend": first}
            figure.add_trace(go.Scatter(x=ring[:, 0], y=ring[:, 1], **style), **cell)
        _image_axes(figure, image, **cell)
    return _layout(figure, title, height=100 + 380 * rows, legend=BELOW, margin={"t": 80, "b": 40, "l": 20, "r": 20})


def _glow(image, heatmap):
    """A heatmap (h, w) in [0, 1] glowing over its darkened frame -> uint8 RGB, of at most 256 px a side."""
    scale = min(1, 256 / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[..., None] * 0.45
    glow = cv2.resize(heatmap, small.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)[..., None]
    colour = cv2.cvtColor(cv2.applyColorMap((glow * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return (grey * (1 - glow) + colour * np.sqrt(glow)).clip(0, 255).astype(np.uint8)


def heatmap_figure(image, heatmaps, joint_names=None, columns=5, title=""):
    """Each joint's heatmap glowing over the darkened frame, captioned with its peak.

    image: (H, W, 3) uint8 RGB; heatmaps: (J, h, w) in [0, 1] over the same view; joint_names: J names.
    Raises ValueError where the names are not one a map.
    """
    heatmaps = np.asarray(heatmaps, dtype=np.float32)
    names = LABELS[: len(heatmaps)] if joint_names is None else [name.replace("_", " ") for name in joint_names]
    if heatmaps.ndim != 3 or len(names) != len(heatmaps):
        raise ValueError(f"heatmaps of shape {heatmaps.shape} and {len(names)} joint names; expected (J, h, w) and J")
    titles = [f"{name} ({peak:.2f})" for name, peak in zip(names, heatmaps.max((1, 2)), strict=True)]
    figure, cells, rows = _grid(len(heatmaps), columns, titles, 0.06)
    for heatmap, cell in zip(heatmaps, cells, strict=True):
        picture = _glow(image, heatmap)
        figure.add_trace(_image(picture), **cell)
        _image_axes(figure, picture, **cell)
    return _layout(figure, title, height=100 + 230 * rows, margin={"t": 80, "b": 20, "l": 20, "r": 20})


def curves_figure(series, x_title, y_title, log_y=False, title=""):
    """Lines over a shared axis. series: name -> (x, y). Lines differ in colour and in dash."""
    figure = go.Figure()
    for i, (name, (x, y)) in enumerate(series.items()):
        line = {"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i % len(DASHES)], "width": 2.5}
        mode = "lines+markers" if len(x) <= 60 else "lines"
        figure.add_trace(go.Scatter(x=np.asarray(x), y=np.asarray(y), name=name, mode=mode, line=line))
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title, type="log" if log_y else "linear")
    return _layout(figure, title, showlegend=True, hovermode="x unified")


def bars_figure(labels, series, x_title, y_title, title=""):
    """Bars at labelled places, side by side for each of series: name -> one value a label."""
    figure = go.Figure()
    for i, (name, values) in enumerate(series.items()):
        style = {"marker_color": PALETTE[i % len(PALETTE)], "hovertemplate": "%{x}: %{y:.1f}"}
        figure.add_trace(go.Bar(x=list(labels), y=np.asarray(values), name=name, **style))
    figure.update_xaxes(title_text=x_title, tickangle=-40)
    figure.update_yaxes(title_text=y_title)
    return _layout(figure, title, barmode="group", showlegend=len(series) > 1)


def confusion_figure(counts, names, title=""):
    """Which class was taken for which. counts: (n, n), true classes by guessed ones; shares of each row are shown."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"counts of shape {counts.shape}; expected {(len(names),) * 2} for {len(names)} names")
    # A class without any frame has no shares.
    shares = np.divide(
        counts, counts.sum(1, keepdims=True), out=np.full_like(counts, np.nan), where=counts.any(1)[:, None]
    )
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=list(names),
            y=list(names),
            customdata=counts,
            texttemplate="%{z:.0%}",
            hovertemplate="%{y} taken for %{x}: %{z:.0%} (%{customdata:.0f} frames)<extra></extra>",
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            colorbar={"title": "share of<br>true frames", "tickformat": ".0%"},
        )
    )
    # Square cells, and axes no longer than they are.
    figure.update_xaxes(title_text="guessed action", tickangle=-40, constrain="domain", showgrid=False)
    figure.update_yaxes(
        title_text="true action", autorange="reversed", scaleanchor="x", constrain="domain", showgrid=False
    )
    return _layout(figure, title, height=160 + 46 * len(names))


def joint_error_figure(errors, title="", y_title="mean error (mm)"):
    """Joint-wise errors, or another number a joint, as grouped bars (Fig. 4).

    errors: name -> (15,) in the unit of y_title. Raises ValueError for other shapes.
    """
    errors = {name: np.asarray(values, dtype=np.float64) for name, values in errors.items()}
    for name, values in errors.items():
        if values.shape != (NUM_JOINTS,):
            raise ValueError(f"errors {name!r} of shape {values.shape}; expected ({NUM_JOINTS},)")
    return bars_figure(LABELS, errors, "joint", y_title, title)


def comparison_figure(rows, x_title="error (mm)", title=""):
    """A metric by method as bars, published figures pale and hatched, measured ones plain.

    rows: mappings with "method", "metric", "value" and "source", which is "paper" (published) or "measured"; "low" and
    "high", where given, are drawn as an interval.
    Raises ValueError for another source.
    """
    rows = list(rows)
    sources = {row["source"] for row in rows}
    if unknown := sources - {"paper", "measured"}:
        raise ValueError(f"source {sorted(unknown)} in the rows; expected 'paper' or 'measured'")
    # A method that was both published and measured has a row of bars for each.
    name = "{method} ({source})".format_map if len(sources) > 1 else "{method}".format_map
    methods = dict.fromkeys(row["method"] for row in rows)
    labels = [name({"method": m, "source": s}) for m in methods for s in ("paper", "measured")]
    labels = [label for label in dict.fromkeys(labels) if label in set(map(name, rows))]
    figure = go.Figure()
    for i, metric in enumerate(dict.fromkeys(row["metric"] for row in rows)):
        for source in ("paper", "measured"):
            chosen = [row for row in rows if row["metric"] == metric and row["source"] == source]
            if chosen:
                figure.add_trace(
                    go.Bar(
                        x=[row["value"] for row in chosen],
                        y=[name(row) for row in chosen],
                        name=f"{metric}, {source}" if len(sources) > 1 else metric,
                        orientation="h",
                        offsetgroup=metric,
                        texttemplate="%{x:.1f}",
                        # Beyond the bar's end an interval would cross the number.
                        textposition="inside" if any("high" in row for row in chosen) else "outside",
                        insidetextanchor="start",
                        cliponaxis=False,
                        error_x={
                            "type": "data",
                            "symmetric": False,
                            "array": [row["high"] - row["value"] for row in chosen if "high" in row],
                            "arrayminus": [row["value"] - row["low"] for row in chosen if "low" in row],
                        },
                        marker={
                            "color": PALETTE[i % len(PALETTE)],
                            "opacity": 0.55 if source == "paper" else 1,
                            "pattern": {"shape": "/" if source == "paper" else "", "fillmode": "replace"},
                        },
                    )
                )
    figure.update_xaxes(title_text=x_title, rangemode="tozero")
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=labels, automargin=True)
    return _layout(figure, title, barmode="group", showlegend=True, height=180 + 50 * len(labels))


def camera_figure(camera, title=""):
    """A FisheyeCamera: image radius over the angle from the optical axis, and circles of equal angle in the image."""
    figure = make_subplots(1, 2, column_widths=[0.4, 0.6], horizontal_spacing=0.1)
    limit = camera.radius or math.hypot(*camera.size) / 2
    rho = np.linspace(0, limit, 200)
    rays = camera.unproject(np.add(camera.centre, rho[:, None] * [1, 0]), 1.0)
    angle = np.degrees(np.arctan2(rays[:, 0], rays[:, 2]))
    for name, x, y, colour, dash in (
        ("unproject (polynomialC2W)", angle, rho, PALETTE[0], "solid"),
        ("project (polynomialW2C)", angle, camera.project(rays)[:, 0] - camera.centre[0], PALETTE[1], "dash"),
    ):
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", line=line), row=1, col=1)
    figure.update_xaxes(title_text="angle from the optical axis (degrees)", row=1, col=1)
    figure.update_yaxes(title_text="distance from the principal point (px)", row=1, col=1)

    turn = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    for degrees in range(15, math.ceil(angle.max()), 15):
        theta = math.radians(degrees)
        ring = camera.project(np.concatenate([circle * math.sin(theta), np.full((181, 1), math.cos(theta))], axis=-1))
        line = {"color": "#777777", "width": 2 if degrees % 90 == 0 else 1}
        # Every other angle is written, once, at the ring's highest point: more would overlap.
        label = [f"{degrees}°" if i == 135 and degrees % 30 == 0 else "" for i in range(181)]
        figure.add_trace(
            go.Scatter(x=ring[:, 0], y=ring[:, 1], mode="lines+text", line=line, text=label, name="equal angle",
                       textposition="bottom center", showlegend=degrees == 15, hoverinfo="skip"),
            row=1, col=2,
        )  # fmt: skip
    if camera.radius:
        ring = camera.centre + camera.radius * circle
        style = {"mode": "lines", "line": {"color": PALETTE[2], "width": 3, "dash": "dot"}, "name": "image circle"}
        figure.add_trace(go.Scatter(x=ring[:, 0], y=ring[:, 1], **style), row=1, col=2)
    centre = {"mode": "markers", "marker": {"symbol": "cross", "size": 10, "color": "black"}, "name": "principal point"}
    figure.add_trace(go.Scatter(x=camera.centre[:1], y=camera.centre[1:], **centre), row=1, col=2)
    width, height = camera.size
    border = {"x0": -0.5, "y0": -0.5, "x1": width - 0.5, "y1": height - 0.5, "line": {"color": "#555555"}}
    figure.add_shape(type="rect", row=1, col=2, **border)
    figure.update_xaxes(title_text="u (px)", range=[-40, width + 40], constrain="domain", row=1, col=2)
    vertical = {"range": [height + 40, -40], "scaleanchor": "x2", "constrain": "domain"}
    figure.update_yaxes(title_text="v (px)", row=1, col=2, **vertical)
    title = title or f"{2 * angle.max():.0f} degrees of the world in one image"
    return _layout(figure, title, height=560, legend={"orientation": "h", "y": -0.15})
