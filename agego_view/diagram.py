"""A drawing of the whole method, with the part at hand marked: the suite's own picture of the paper's Fig. 1."""

import plotly.graph_objects as go

# Box -> (column, row, its lines: what it is, what comes out, where the paper has it). Row 1 is above, 0 below.
BOXES = {
    "frames": (0, 0.5, ("Frames", "T fisheye images", "Sec. 4.1")),
    "heatmap network": (1, 1, ("Heatmap network", "15 maps a frame", "Eq. 1, 7")),
    "heatmap embedding": (2, 1, ("Heatmap embedding", "H<sub>e</sub>: 15 × 128", "Eq. 2")),
    "ResNet": (1, 0, ("ResNet, projection", "F<sub>s</sub>: T × 384", "Eq. 3")),
    "temporal blocks": (2, 0, ("Temporal blocks", "F<sub>m</sub>: T × 384", "Sec. 3.2")),
    "memory": (3, 0.5, ("Memory", "M: 15 × 128 a frame", "Eq. 4")),
    "decoder": (4, 0.5, ("Decoder", "15 queries read M", "Eq. 5")),
    "head": (5, 0.5, ("Head", "an MLP a joint", "Eq. 6")),
    "pose": (6, 0.5, ("3D pose", "15 joints (m)", "Sec. 3.4, 4.3")),
}
ARROWS = (
    ("frames", "heatmap network"),
    ("frames", "ResNet"),
    ("heatmap network", "heatmap embedding"),
    ("ResNet", "temporal blocks"),
    ("heatmap embedding", "memory"),
    ("temporal blocks", "memory"),
    ("memory", "decoder"),
    ("decoder", "head"),
    ("head", "pose"),
)
WIDTH, HEIGHT = 0.86, 0.62
MARKED = {"fillcolor": "#FFD580", "line": {"color": "#A65E00", "width": 3}}
PLAIN = {"fillcolor": "#F3F5F7", "line": {"color": "#8C959F", "width": 1}}


def pipeline_figure(*marked, title=""):
    """The boxes of Fig. 1 from frames to pose, those named in `marked` (keys of BOXES) in colour.

    Raises ValueError for a box that is not there.
    """
    if unknown := set(marked) - set(BOXES):
        raise ValueError(f"no box {', '.join(map(repr, sorted(unknown)))}; the boxes are {', '.join(BOXES)}")
    figure = go.Figure()
    for name, (column, row, (what, shape, source)) in BOXES.items():
        sides = {"x0": column - WIDTH / 2, "x1": column + WIDTH / 2, "y0": row - HEIGHT / 2, "y1": row + HEIGHT / 2}
        figure.add_shape(type="rect", name=name, **sides, **(MARKED if name in marked else PLAIN))
        text = f"<b>{what}</b><br>{shape}<br><i>{source}</i>"
        figure.add_annotation(x=column, y=row, text=text, showarrow=False, font={"size": 10, "color": "black"})
    for start, end in ARROWS:
        (x0, y0, _), (x1, y1, _) = BOXES[start], BOXES[end]
        places = {"ax": x0 + WIDTH / 2, "ay": y0, "x": x1 - WIDTH / 2, "y": y1, "axref": "x", "ayref": "y"}
        figure.add_annotation(**places, text="", showarrow=True, arrowhead=2, arrowcolor="#57606A", arrowwidth=1.5)
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[-0.45, 6.45], **hidden)
    figure.update_yaxes(range=[-0.4, 1.4], **hidden)
    figure.update_layout(template="plotly_white", title_text=title, title_x=0.5, title_font_size=15)
    return figure.update_layout(height=260, dragmode=False, margin={"t": 45, "b": 5, "l": 5, "r": 5})
