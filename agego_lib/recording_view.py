"""One Recording as a figure of panels, drawn frame by frame: another frame changes traces' data, in one batch."""

import numpy as np
import plotly.graph_objects as go

from . import plots
from .plots import LABELS, PALETTE
from .recording import NEIGHBOURS
from .skeleton import NUM_JOINTS, SIDE_COLOURS, side

# Each panel's axes and where it is, in shares of the figure: from left to right, from bottom to top.
PANELS = {
    "frame": ("", (0.0, 0.28), (0.71, 1.0)),
    "heatmap": ("2", (0.30, 0.58), (0.71, 1.0)),
    "pose": ("scene", (0.59, 1.0), (0.65, 1.0)),
    "time": ("3", (0.06, 0.55), (0.44, 0.58)),
    "joints": ("4", (0.64, 1.0), (0.44, 0.58)),
    "cross": ("5", (0.11, 0.43), (0.05, 0.27)),
    "motion": ("6", (0.64, 0.94), (0.05, 0.27)),
}
HEIGHT = 1100


def _axes(panel):
    suffix = PANELS[panel][0]
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


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
    """A FigureWidget of a Recording. figure: the widget. on_click: called with the frame clicked in the error curve.

    chosen: arguments of `show` for what is drawn first.
    """

    def __init__(self, recording, on_click=None, chosen=(0,)):
        self.recording, sequence = recording, recording.sequence
        self._size = sequence.view.size
        self._picture = min(self._size, 256)  # side of what plots draws heatmaps on
        self._images = sequence.images(slice(None))
        self._sources = [plots._image(image).source for image in self._images]
        self._truth = sequence.joints_view()
        self._pixels = sequence.view.to_view(sequence.camera.project(recording.poses))
        self._rings = sequence.joints_view(self._picture)
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
        self.figure._config = self.figure._config | {"responsive": True, "displaylogo": False}
        for trace in self.figure.data[self._traces["time"].start :][:2]:
            trace.on_click(lambda _, points, __: on_click and points.point_inds and on_click(points.point_inds[0]))

    def __len__(self):
        return len(self.recording)

    def _layout(self, figure):
        r, sequence = self.recording, self.recording.sequence
        layout = {
            "template": "plotly_white",
            "height": HEIGHT,
            "margin": {"t": 90, "b": 60, "l": 10, "r": 30},
            "hoverdistance": -1,  # a click in the error curve's panel goes to the nearest frame, however far
            # What the viewer turned, zoomed or switched off stays so when the data change.
            "uirevision": "kept",
            "title": {"x": 0.5, "y": 0.985, "yanchor": "top"},
            "legend": {"orientation": "h", "x": 0.3, "xanchor": "center", "y": 0.69, "yanchor": "top"},
            "legend2": {"orientation": "h", "x": 0.06, "y": 0.585, "yanchor": "bottom"},
            "legend3": {"orientation": "h", "x": 0.65, "y": 0.585, "yanchor": "bottom"},
            "scene": plots._scene([r.poses.reshape(-1, 3), sequence.joints_3d.reshape(-1, 3)]),
            "bargap": 0.25,
            "modebar": {"orientation": "v", "remove": ["select", "lasso", "zoomin", "zoomout", "pan", "tableRotation"]},
        }
        # From a little farther off than usual: the panel is small, and axes' titles need room.
        layout["scene"]["camera"]["eye"] = {"x": 1.2, "y": 2.06, "z": 0.34}
        layout["scene"]["domain"] = dict(zip("xy", PANELS["pose"][1:], strict=True))
        axes = {}
        for name, side_px in (("frame", self._size), ("heatmap", self._picture)):
            hidden = {"visible": False, "constrain": "domain", "constraintoward": "top"}
            axes[name] = (
                {"range": [-0.5, side_px - 0.5], **hidden | {"constraintoward": "center"}},
                {
                    "range": [side_px - 0.5, -0.5],
                    "scaleanchor": _axes(name)["xaxis"],
                    "constraintoward": "top",
                    **hidden,
                },
            )
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
        joints["visible"] = r.cross is not None
        axes["cross"] = (
            {"title": "memory's joint", "tickangle": -45, **joints},
            {"title": "query's joint", "autorange": "reversed", **joints},
        )
        axes["motion"] = (
            {"title": "frame number (a strip for each window)", "visible": bool(blocks)},
            {"title": "block", "range": [blocks - 0.5, -0.5], "tickvals": list(range(blocks)), "ticktext": self._blocks,
             "visible": bool(blocks)},
        )  # fmt: skip
        for name, (x, y) in axes.items():
            suffix, across, up = PANELS[name]
            layout[f"xaxis{suffix}"] = {"domain": across, "anchor": f"y{suffix}", **x}
            layout[f"yaxis{suffix}"] = {"domain": up, "anchor": f"x{suffix}", **y}
        figure.update_layout(layout)
        for name, (_, across, up) in PANELS.items():
            self._titles[name] = len(figure.layout.annotations)
            lift = 26 if name in ("time", "joints") else 4
            where = {"xref": "paper", "yref": "paper", "x": sum(across) / 2, "y": up[1], "showarrow": False}
            figure.add_annotation(text=" ", xanchor="center", yanchor="bottom", yshift=lift, align="center", **where)
        missing = {"heatmap": (r.heatmaps, "spatial stream"), "cross": (r.cross, "cross-attention"),
                   "motion": (r.motion, "motion stream")}  # fmt: skip
        for name, (part, what) in missing.items():
            if part is None:
                _, across, up = PANELS[name]
                where = {"xref": "paper", "yref": "paper", "x": sum(across) / 2, "y": sum(up) / 2, "showarrow": False}
                figure.add_annotation(text=f"this model has no {what}", **where)

    def _frame_traces(self):
        skeletons = plots._skeletons(self._truth[0], self._pixels[0], 2)
        return [go.Image(source=self._sources[0], hoverinfo="skip"), *skeletons]

    def _heatmap_traces(self):
        if self.recording.heatmaps is None:
            return []
        ring = {"symbol": "circle-open", "size": 11, "color": "white", "line": {"width": 2}}
        style = {"mode": "markers", "marker": ring, "name": "true joint", "showlegend": False, "text": LABELS}
        hover = "true %{text}<extra></extra>"
        return [
            go.Image(source=self._sources[0], hoverinfo="skip", **_axes("heatmap")),
            go.Scatter(x=[], y=[], hovertemplate=hover, **style, **_axes("heatmap")),
        ]

    def _pose_traces(self):
        traces = plots._pose_traces(self.recording.sequence.joints_3d[0], self.recording.poses[0])
        return [trace.update(showlegend=False) for trace in traces]

    def _time_traces(self):
        numbers, errors = self.recording.sequence.frame_numbers, self.recording.errors
        lines = (("MPJPE", errors.mpjpe, "solid"), ("PA-MPJPE", errors.pa_mpjpe, "dash"))
        traces = [
            go.Scatter(x=numbers, y=values, name=name, mode="lines", line={"color": PALETTE[i], "dash": dash},
                       hovertemplate="%{y:.0f} mm", legend="legend2", **_axes("time"))
            for i, (name, values, dash) in enumerate(lines)
        ]  # fmt: skip
        cursor = {"color": "black", "width": 1.5}
        return [*traces, go.Scatter(name="this frame", line=cursor, y=[0, self._limit], mode="lines",
                                    hoverinfo="skip", legend="legend2", **_axes("time"))]  # fmt: skip

    def _joints_traces(self):
        colours = [SIDE_COLOURS[side(j)] for j in range(NUM_JOINTS)]
        mean = {"symbol": "line-ew", "size": 14, "line": {"color": "black", "width": 2.5}}
        hover, joints = "%{hovertext}: %{y:.0f} mm", {"x": list(range(NUM_JOINTS)), "hovertext": LABELS}
        return [
            go.Bar(**joints, marker_color=colours, name="this frame", hovertemplate=hover,
                   legend="legend3", **_axes("joints")),
            go.Scatter(**joints, y=self.recording.errors.per_joint, mode="markers", marker=mean, hovertemplate=hover,
                       name="sequence's mean", legend="legend3", **_axes("joints")),
        ]  # fmt: skip

    def _attention(self, name, limit, where, **more):
        across, up = PANELS[name][1:]
        bar = {"x": across[1] + 0.005, "y": sum(up) / 2, "len": up[1] - up[0], "lenmode": "fraction", "thickness": 10,
               "title": {"text": "weight", "side": "top"}}  # fmt: skip
        scale = {"colorscale": "Cividis", "zmin": 0, "zmax": limit, "colorbar": bar}
        return go.Heatmap(**scale, hovertemplate=f"{where}: %{{z:.3f}}<extra></extra>", **more, **_axes(name))

    def _cross_traces(self):
        if self.recording.cross is None:
            return []
        limit = float(self.recording.cross.max())
        text = [[f"{query} looks at {joint}" for joint in LABELS] for query in LABELS]
        return [self._attention("cross", limit, "%{text}", text=text)]

    def _motion_traces(self):
        if self.recording.motion is None:
            return []
        limit = max(float(w.max()) for w in self.recording.motion)
        return [
            self._attention("motion", limit, "%{text}, frame %{x}"),
            go.Scatter(mode="lines", line={"color": "white", "width": 2, "dash": "dot"}, hoverinfo="skip",
                       showlegend=False, **_axes("motion")),
        ]  # fmt: skip

    def _changes(self, frame, joint, layer):
        """What another choice changes -> ({panel: dicts of trace properties, in order}, {panel: title})."""
        r, number = self.recording, int(self.recording.sequence.frame_numbers[frame])
        changes = {
            "frame": [{"source": self._sources[frame]}, *_places(self._truth[frame], self._pixels[frame])],
            "pose": _places(r.sequence.joints_3d[frame], r.poses[frame]),
            "time": [{}, {}, {"x": [number, number]}],
            "joints": [{"y": r.errors.distance[frame]}],
        }
        worst = int(r.errors.distance[frame].argmax())
        titles = {
            "frame": f"Frame {number}<br>truth and prediction",
            "heatmap": "Heatmaps",
            "pose": f"Pose, in the camera's frame<br>{LABELS[worst]} is {r.errors.distance[frame, worst]:.0f} mm off",
            "time": "Error over time: a click goes to that frame",
            "joints": "Error by joint",
            "cross": "Cross-attention",
            "motion": "Motion blocks' attention over time",
        }
        if r.heatmaps is not None:
            maps, rings = r.heatmaps[frame].astype(np.float32), self._rings[frame].copy()
            seen = maps.max(0) if joint is None else maps[joint]
            if joint is not None:
                rings[np.arange(NUM_JOINTS) != joint] = np.nan
            picture = plots._image(plots._glow(self._images[frame], seen)).source
            changes["heatmap"] = [{"source": picture}, {"x": rings[:, 0], "y": rings[:, 1]}]
            what = f"least certain: {LABELS[int(maps.max((1, 2)).argmin())]}" if joint is None else LABELS[joint]
            peak = maps.max((1, 2)).min() if joint is None else seen.max()
            titles["heatmap"] = f"Heatmaps, ○ truth<br>{what}, peak {peak:.2f}"
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
        changes, titles = self._changes(frame, joint, layer)
        error, aligned = r.errors.mpjpe[frame], r.errors.pa_mpjpe[frame]
        name = f"{r.sequence.name}, frame {frame + 1} of {len(self)}"
        with self.figure.batch_update():
            for panel, updates in changes.items():
                traces = self.figure.data[self._traces[panel].start : self._traces[panel].stop]
                for trace, update in zip(traces, updates, strict=False):
                    trace.update(update)
            for panel, title in titles.items():
                self.figure.layout.annotations[self._titles[panel]].text = title
            self.figure.layout.title.text = f"{name}: MPJPE {error:.0f} mm, PA-MPJPE {aligned:.0f} mm"


def _places(truth, prediction):
    """The coordinates that `plots._skeletons` gives its traces."""
    traces = plots._skeletons(truth, prediction, truth.shape[-1])
    return [{axis: trace[axis] for axis in "xyz"[: truth.shape[-1]]} for trace in traces]
