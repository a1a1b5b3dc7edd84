"""One Recording as pictures and a figure of panels, drawn frame by frame: another frame changes only their data.

What is looked at as pixels is no part of the Plotly figure, which would draw all its axes anew with them.
"""

import html

import cv2
import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from agego_lib.skeleton import NUM_JOINTS, SIDE_COLOURS, side
from agego_video.overlay import draw_skeleton
from agego_view import plots
from agego_view.plots import LABELS, PALETTE, TRUTH_COLOUR
from agego_view.recording import NEIGHBOURS

# Each panel's axes and where it is, in shares of the figure: from left to right, from bottom to top. The pictures are
# laid over the corner that is left free.
PANELS = {
    "pose": ("scene", (0.59, 1.0), (0.65, 1.0)),
    "time": ("", (0.06, 0.55), (0.44, 0.58)),
    "joints": ("2", (0.64, 1.0), (0.44, 0.58)),
    "cross": ("3", (0.11, 0.46), (0.05, 0.27)),
    "motion": ("4", (0.62, 1.0), (0.05, 0.27)),
}
HEIGHT = 1060
PICTURE = 384  # px of a picture's side, more than it is shown at: bones stay smooth on a fine screen
_INK = tuple(int(TRUTH_COLOUR[i : i + 2], 16) for i in (5, 3, 1))  # as OpenCV takes it
_KEY = "".join(
    f'<span style="color: {colour}; white-space: nowrap">&#9473; {name} &ensp;</span>'
    for name, colour in (
        ("truth", TRUTH_COLOUR),
        ("prediction, right", SIDE_COLOURS["right"]),
        ("prediction, left", SIDE_COLOURS["left"]),
    )
)
# What stands over a picture and the picture, decoded before it is shown: a frame must not blink.
_COLUMN = """<div style="flex: 0 1 270px; min-width: 0; font-size: 12px">{text}
<img decoding="sync" style="width: 100%; margin-top: 4px" alt="{name}" src="{source}"></div>"""
_PICTURES = """<div style="text-align: center; line-height: 1.3; color: #2A3F5F; font-family: 'Open Sans', sans-serif">
<div style="font-size: 16px; margin: 4px">{title}</div>
<div style="display: flex; justify-content: space-evenly; gap: 12px">{columns}</div>
<div style="font-size: 12px">{key}</div></div>"""


def _axes(panel):
    suffix = PANELS[panel][0]
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _coloured(i, text):
    return f'<span style="color: {PALETTE[i]}">{text}</span>'


def _cross_title(weights, joint):
    """What the cross-attention (15, 15) says; `joint` is an index, or None for all."""
    if joint is None:
        own, near = np.diag(weights).mean(), (weights * NEIGHBOURS).sum(1).mean()
        evenly = NEIGHBOURS.sum(1).mean() / NUM_JOINTS
        return f"own joint {own:.0%} (evenly {1 / NUM_JOINTS:.0%})<br>neighbours {near:.0%} (evenly {evenly:.0%})"
    first, second = np.argsort(weights[joint])[:-3:-1]
    most = f"{LABELS[first]} {weights[joint, first]:.0%}, {LABELS[second]} {weights[joint, second]:.0%}"
    return f"{LABELS[joint]} looks at<br>{most} (evenly {1 / NUM_JOINTS:.0%})"


def _motion_title(numbers, weights, number, local):
    """How far, in frames, the blocks look on average from the frame `number`; weights as in `Recording.motion_at`."""
    away = np.nansum(weights * np.abs(numbers - number), axis=-1).mean(0)
    parts = {"local": away[:local], "global": away[local:]}
    return "<br>".join(f"{name}: {v.mean():.1f} frames away on average" for name, v in parts.items() if len(v))


class View:
    """A widget of a Recording. on_click: called with the frame clicked in the error curve.

    chosen: arguments of `show` for what is drawn first. widget: all of it; figure: its FigureWidget; pictures: its
    HTML widget with what is looked at as pixels, the frame with its joints and its heatmaps.
    """

    def __init__(self, recording, on_click=None, chosen=(0,)):
        self.recording, sequence = recording, recording.sequence
        self._truth = sequence.joints_view(PICTURE)
        pixels = sequence.view.to_view(sequence.camera.project(recording.poses))
        self._pixels = (pixels + 0.5) * (PICTURE / sequence.view.size) - 0.5
        self.pictures = widgets.HTML()
        self._titles = {}
        figure = go.Figure()
        self._layout(figure)
        self._traces = {name: range(0) for name in PANELS}
        for panel in PANELS:
            start = len(figure.data)
            figure.add_traces(getattr(self, f"_{panel}_traces")())
            self._traces[panel] = range(start, len(figure.data))
        # Drawn before there is a widget: what a browser is sent before it has drawn a widget may be lost on the way.
        self.figure = figure
        self.show(*chosen)
        self.figure = go.FigureWidget(figure)
        self.figure._config = self.figure._config | {"responsive": True, "displaylogo": False, "plotGlPixelRatio": 1}
        for trace in self.figure.data[self._traces["time"].start :][:2]:
            trace.on_click(lambda _, points, __: on_click and points.point_inds and on_click(points.point_inds[0]))
        # Both in one cell of a grid, the pictures over the figure's free corner: one message and one drawing each.
        over = {"grid_area": "1 / 1 / 2 / 2"}
        self.pictures.layout = over | {"width": "55%", "align_self": "flex-start"}
        boxes = [widgets.VBox([self.figure], layout=over | {"width": "100%"}), self.pictures]
        self.widget = widgets.GridBox(boxes, layout={"grid_template_columns": "100%"})

    def __len__(self):
        return len(self.recording)

    def _layout(self, figure):
        r, sequence = self.recording, self.recording.sequence
        self._scene_layout = plots._scene([r.poses.reshape(-1, 3), sequence.joints_3d.reshape(-1, 3)])
        for axis in "xyz":
            self._scene_layout[f"{axis}axis"]["dtick"] = 0.5
        layout = {
            "template": "plotly_white",
            "height": HEIGHT,
            "margin": {"t": 50, "b": 60, "l": 10, "r": 30},
            "hoverdistance": -1,  # a click in the error curve's panel goes to the nearest frame, however far
            # What the viewer turned, zoomed or switched off stays so when the data change.
            "uirevision": "kept",
            "showlegend": False,  # the panels' titles say it; a legend is laid out anew with every frame
            "scene": self._scene_layout,
            "bargap": 0.25,
            "modebar": {"orientation": "v", "remove": ["select", "lasso", "zoomin", "zoomout", "pan", "tableRotation"]},
        }
        # From a little farther off than usual: the panel is small, and axes' titles need room.
        layout["scene"]["camera"]["eye"] = {"x": 1.34, "y": 2.3, "z": 0.38}
        layout["scene"]["domain"] = dict(zip("xy", PANELS["pose"][1:], strict=True))
        axes = {}
        self._limit = float(r.errors.mpjpe.max() * 1.1)
        axes["time"] = (
            {"title": "frame number", "range": sequence.frame_numbers[[0, -1]].tolist()},
            {"title": "error (mm)", "range": [0, self._limit]},
        )
        joints = {"tickvals": list(range(NUM_JOINTS)), "ticktext": LABELS}
        axes["joints"] = (
            {"tickangle": -45, **joints},
            {"title": "error (mm)", "range": [0, float(r.errors.distance.max())]},
        )
        blocks = len(r.motion[0]) if r.motion else 0
        self._blocks = [f"{'local' if b < r.local_blocks else 'global'} {b + 1}" for b in range(blocks)]
        self._limits = {
            "cross": 1.0 if r.cross is None else float(r.cross.max()),
            "motion": max((float(w.max()) for w in r.motion or ()), default=1.0),
        }
        # In words: a colour bar's axis would be drawn anew with every frame.
        scale = {name: f"weight: dark 0, yellow {limit:.2f}" for name, limit in self._limits.items()}
        joints["visible"] = r.cross is not None
        axes["cross"] = (
            {"title": f"memory's joint ({scale['cross']})", "tickangle": -45, **joints},
            {"title": "query's joint", "autorange": "reversed", **joints},
        )
        axes["motion"] = (
            {"title": f"frame number ({scale['motion']})", "visible": bool(blocks)},
            {"title": "block", "range": [blocks - 0.5, -0.5], "tickvals": list(range(blocks)), "ticktext": self._blocks,
             "visible": bool(blocks)},
        )  # fmt: skip
        for name, (x, y) in axes.items():
            suffix, across, up = PANELS[name]
            # Labels that may overflow need no measuring of each, which takes a browser longer than drawing them.
            free = {"ticklabeloverflow": "allow"}
            layout[f"xaxis{suffix}"] = {"domain": across, "anchor": f"y{suffix}", **free, **x}
            layout[f"yaxis{suffix}"] = {"domain": up, "anchor": f"x{suffix}", **free, **y}
        figure.update_layout(layout)
        for name, (_, across, up) in PANELS.items():
            self._titles[name] = len(figure.layout.annotations)
            where = {"xref": "paper", "yref": "paper", "x": sum(across) / 2, "y": up[1], "showarrow": False}
            figure.add_annotation(text=" ", xanchor="center", yanchor="bottom", yshift=4, align="center", **where)
        for name, part, what in (("cross", r.cross, "cross-attention"), ("motion", r.motion, "motion stream")):
            if part is None:
                _, across, up = PANELS[name]
                where = {"xref": "paper", "yref": "paper", "x": sum(across) / 2, "y": sum(up) / 2, "showarrow": False}
                figure.add_annotation(text=f"this model has no {what}", **where)

    def _pose_traces(self):
        traces = plots._pose_traces(self.recording.sequence.joints_3d[0], self.recording.poses[0])
        # From these the scene's extent is computed: were it another in each frame, WebGL would make its axes anew.
        scene = self._scene_layout
        traces.append(
            go.Scatter3d({axis: scene[f"{axis}axis"]["range"] for axis in "xyz"}, mode="none", hoverinfo="skip")
        )
        return traces

    def _time_traces(self):
        numbers, errors = self.recording.sequence.frame_numbers, self.recording.errors
        lines = (("MPJPE", errors.mpjpe, "solid"), ("PA-MPJPE", errors.pa_mpjpe, "dash"))
        traces = [
            go.Scatter(x=_plain(numbers), y=_plain(values), name=name, mode="lines",
                       line={"color": PALETTE[i], "dash": dash}, hovertemplate="%{y:.0f} mm", **_axes("time"))
            for i, (name, values, dash) in enumerate(lines)
        ]  # fmt: skip
        cursor = {"color": "black", "width": 1.5}
        return [*traces, go.Scatter(name="this frame", line=cursor, y=[0, self._limit], mode="lines",
                                    hoverinfo="skip", **_axes("time"))]  # fmt: skip

    def _joints_traces(self):
        colours = [SIDE_COLOURS[side(j)] for j in range(NUM_JOINTS)]
        mean = {"symbol": "line-ew", "size": 14, "line": {"color": "black", "width": 2.5}}
        hover, joints = "%{hovertext}: %{y:.0f} mm", {"x": list(range(NUM_JOINTS)), "hovertext": LABELS}
        return [
            go.Bar(**joints, marker_color=colours, name="this frame", hovertemplate=hover, **_axes("joints")),
            go.Scatter(**joints, y=_plain(self.recording.errors.per_joint), mode="markers", marker=mean,
                       hovertemplate=hover, name="sequence's mean", **_axes("joints")),
        ]  # fmt: skip

    def _attention(self, name, where, **more):
        scale = {"colorscale": "Cividis", "zmin": 0, "zmax": self._limits[name], "showscale": False}
        return go.Heatmap(**scale, hovertemplate=f"{where}: %{{z:.3f}}<extra></extra>", **more, **_axes(name))

    def _cross_traces(self):
        if self.recording.cross is None:
            return []
        text = [[f"{query} looks at {joint}" for joint in LABELS] for query in LABELS]
        return [self._attention("cross", "%{text}", text=text)]

    def _motion_traces(self):
        if self.recording.motion is None:
            return []
        return [
            self._attention("motion", "%{text}, frame %{x}"),
            go.Scatter(mode="lines", line={"color": "white", "width": 2, "dash": "dot"}, hoverinfo="skip",
                       **_axes("motion")),
        ]  # fmt: skip

    def _frame_picture(self, frame, image):
        """The frame with both skeletons, BGR, and what stands over it."""
        picture = self._enlarged(image)
        for points, colour in ((self._truth[frame], _INK), (self._pixels[frame], None)):
            draw_skeleton(picture, points, 3 if colour is None else 2, outline=(255, 255, 255), colour=colour)
        return picture, f"Frame {int(self.recording.sequence.frame_numbers[frame])}<br>truth and prediction"

    def _heatmap_picture(self, frame, image, joint):
        """Heatmaps over the frame, BGR, with the true joints as rings, and what stands over them."""
        if self.recording.heatmaps is None:
            return np.full((PICTURE, PICTURE, 3), 255, np.uint8), "Heatmaps<br>this model has no spatial stream"
        maps = self.recording.heatmaps[frame].astype(np.float32)
        joints = range(NUM_JOINTS) if joint is None else [joint]
        picture = self._enlarged(plots._glow(image, maps[joints].max(0)))
        for x, y in self._truth[frame, joints]:
            if np.isfinite([x, y]).all():
                cv2.circle(picture, (round(16 * x), round(16 * y)), 9 * 16, (255, 255, 255), 2, cv2.LINE_AA, 4)
        least = int(maps.max((1, 2)).argmin())
        what = f"least certain: {LABELS[least]}" if joint is None else LABELS[joint]
        return picture, f"Heatmaps, &#9675; truth<br>{what}, peak {maps[least if joint is None else joint].max():.2f}"

    @staticmethod
    def _enlarged(image):
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return cv2.resize(bgr, (PICTURE, PICTURE), interpolation=cv2.INTER_LINEAR)

    def _changes(self, frame, joint, layer):
        """What changes in the figure -> ({panel: dicts of trace properties, in order}, {panel: title})."""
        r, number = self.recording, int(self.recording.sequence.frame_numbers[frame])
        changes = {
            "pose": _places(r.sequence.joints_3d[frame], r.poses[frame]),
            "time": [{}, {}, {"x": [number, number]}],
            "joints": [{"y": r.errors.distance[frame]}],
        }
        worst = int(r.errors.distance[frame].argmax())
        titles = {
            "pose": f"Pose, in the camera's frame<br>{LABELS[worst]} is {r.errors.distance[frame, worst]:.0f} mm off",
            "time": f"Error over time: {_coloured(0, 'MPJPE')} and {_coloured(1, 'PA-MPJPE')}<br>"
            "a click goes to that frame",
            "joints": "Error by joint of this frame<br>lines: the sequence's mean",
            "cross": "Cross-attention",
            "motion": "Motion blocks' attention over time",
        }
        if r.cross is not None:
            weights = r.cross[frame].mean(0) if layer is None else r.cross[frame, layer]
            changes["cross"] = [{"z": weights}]
            titles["cross"] += "<br>" + _cross_title(weights, joint)
        if r.motion is not None:
            frames, weights = r.motion_at(frame)
            numbers = r.sequence.frame_numbers[frames]
            windows, blocks, _ = weights.shape
            # A strip a window within each block's band.
            strips = (np.arange(blocks)[:, None] + (np.arange(windows) + 0.5) / windows - 0.5).ravel()
            z = weights.swapaxes(0, 1).reshape(blocks * windows, -1)
            text = [[f"{kind}, window {w + 1}"] * len(numbers) for kind in self._blocks for w in range(windows)]
            changes["motion"] = [
                {"x": numbers, "y": strips, "z": z, "text": text},
                {"x": [number] * 2, "y": [-0.5, blocks - 0.5]},
            ]
            titles["motion"] += "<br>" + _motion_title(numbers, weights, number, r.local_blocks)
        return changes, titles

    def show(self, frame, joint=None, layer=None):
        """Draw a frame. joint: index of the one whose heatmap and query are looked at; layer: of the decoder's
        cross-attention; None means all joints and the mean of the layers."""
        r = self.recording
        error, aligned = r.errors.mpjpe[frame], r.errors.pa_mpjpe[frame]
        name = html.escape(r.sequence.name)
        title = f"{name}, frame {frame + 1} of {len(self)}<br>MPJPE {error:.0f} mm, PA-MPJPE {aligned:.0f} mm"
        # Decoded when it is looked at: a sequence of thousands of frames would fill the memory.
        (image,) = r.sequence.images([frame])
        drawn = {
            "frame": self._frame_picture(frame, image),
            "heatmaps": self._heatmap_picture(frame, image, joint),
        }
        columns = "".join(
            _COLUMN.format(name=name, text=text, source=plots.data_uri(bgr, 85)) for name, (bgr, text) in drawn.items()
        )
        self.pictures.value = _PICTURES.format(title=title, columns=columns, key=_KEY)
        changes, titles = self._changes(frame, joint, layer)
        with self.figure.batch_update():
            for panel, updates in changes.items():
                traces = self.figure.data[self._traces[panel].start : self._traces[panel].stop]
                for trace, update in zip(traces, updates, strict=False):
                    trace.update({key: _plain(value) for key, value in update.items()}, overwrite=True)
            for panel, title in titles.items():
                self.figure.layout.annotations[self._titles[panel]].text = title


def _plain(values):
    """As a list, with None for NaN. A FigureWidget that is given arrays fails over what the browser answers to them."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), None, values.round(5))
    return values.tolist()


def _places(truth, prediction):
    """The coordinates of what `_pose_traces` of plots draws of two skeletons, trace by trace."""
    lines = [
        points
        for joints, neutral in ((truth, True), (prediction, False))
        for points in (*(plots._lines(joints, bones) for bones in plots._parts(neutral).values()), joints)
    ]
    return [dict(zip("xyz", points.T, strict=True)) for points in lines]
