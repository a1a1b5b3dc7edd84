"""The controls of 06_explore: one sequence as one model sees it, frame by frame, in JupyterLab.

Everything is computed once a sequence; what then changes with the frame, `recording_view.View` draws.
"""

from functools import lru_cache

import anywidget
import ipywidgets as widgets

from agego_lib.datasets import DatasetError, read_prepared
from agego_lib.datasets.features import FeatureError
from agego_lib.models.backbone import WeightsError
from agego_view.plots import LABELS
from agego_view.recording import find_models, record_run
from agego_view.recording_view import View

ALL, MEAN = "all joints", "mean of layers"


class NothingToExplore(Exception):
    """Something that the pipeline makes is missing; notebooks show the message without a traceback."""

    def _render_traceback_(self):
        return [str(self)]


def test_sequences(root, data_set):
    """The prepared test sequences of a data set. Raises NothingToExplore, which says what to run."""
    try:
        return read_prepared(root / "artifacts/prepared" / data_set, "test")
    except DatasetError as error:
        raise NothingToExplore(f"No data to look at: run `dvc repro`, then this cell again. ({error})") from None


def trained_models(root):
    """{run: weights file}, see `find_models`. Raises NothingToExplore, which says what to run, before any is ready."""
    found = find_models(root)
    if "finetune" not in found:
        raise NothingToExplore("No trained model to look through: run `dvc repro`, then this cell again.")
    return found


def recorded(root, run, sequence, device="cpu"):
    """`recording.record_run`. Raises NothingToExplore, which says what to run, where what it reads is missing."""
    try:
        return record_run(root, run, sequence, device)
    except (DatasetError, FeatureError, WeightsError) as error:
        raise NothingToExplore(f"{run} cannot be shown; run `dvc repro`, then this cell again. ({error})") from None


class Fit(anywidget.AnyWidget):
    """Keeps figures as wide as their cell: Plotly itself only looks when the window changes its size."""

    _esm = """export default { render({ model, el }) {
        const fit = () => window.dispatchEvent(new Event("resize"));
        const observer = new ResizeObserver(fit);
        observer.observe(el);
        model.on("msg:custom", fit);
        return () => observer.disconnect();
    } }"""


class Explorer(widgets.VBox):
    """Pick a data set, a test sequence and a model; slide or play through its frames; click on the error curve.

    root: the project's folder. device: where predictions are made. Raises NothingToExplore, which says what to run.
    """

    def __init__(self, root, device="cpu"):
        groups = {name: test_sequences(root, name) for name in ("sceneego", "egopw")}
        # The last few stay at hand.
        self._record = lru_cache(8)(lambda run, data_set, i: recorded(root, run, groups[data_set][i], device))
        self._groups, self.view = groups, None
        self.data_set = widgets.Dropdown(description="data set", options=list(groups))
        self.sequence = widgets.Dropdown(description="sequence")
        self.model = widgets.Dropdown(description="model", options=list(trained_models(root)))
        self.play = widgets.Play(interval=250, show_repeat=True)
        self.frame = widgets.IntSlider(description="frame", readout=False, layout={"width": "45%"})
        self.joint = widgets.Dropdown(description="joint", options=[ALL, *LABELS])
        self.layer = widgets.Dropdown(description="decoder", options=[MEAN])
        self.status = widgets.Output()
        self._place, self._fit = widgets.VBox(), Fit()
        # In the browser, so that playing needs no round trip to move the slider.
        self._link = widgets.jslink((self.play, "value"), (self.frame, "value"))
        for control in (self.sequence, self.model):
            control.observe(self._load, "value")
        # Of the two that are linked, play's value comes first.
        for control in (self.play, self.frame, self.joint, self.layer):
            control.observe(self._show, "value")
        self.data_set.observe(self._list, "value")
        rows = [(self.data_set, self.sequence, self.model), (self.play, self.frame, self.joint, self.layer)]
        super().__init__([*map(widgets.HBox, rows), self.status, self._place, self._fit])
        self._list()

    def _list(self, _=None):
        # The data set is part of the value: two sets may have a sequence of one name in one place.
        options = [(s.name, (self.data_set.value, i)) for i, s in enumerate(self._groups[self.data_set.value])]
        self.sequence.options, self.sequence.index = options, 0

    def _load(self, _=None):
        if self.sequence.value is None:
            return
        self.status.clear_output(wait=True)
        with self.status:
            try:
                recording = self._record(self.model.value, *self.sequence.value)
            except NothingToExplore as error:
                print(error)
                return
        old, frame = self.view, self.frame.value
        layers = 0 if recording.cross is None else recording.cross.shape[1]
        last = len(recording) - 1
        self.view = None  # while controls change, which else would draw
        self.play.max = self.frame.max = last
        self.frame.value = min(frame, last)
        self.layer.options = [MEAN, *(f"layer {i + 1}" for i in range(layers))]
        self._shown = self._chosen(self.frame.value)
        self.view = View(recording, self.go_to, self._shown)
        if old:
            self.view.figure.layout.scene.camera = old.figure.layout.scene.camera
        self.view.figure.observe(self._drawn, "_js2py_layoutDelta")
        self._place.children = [self.view.widget]
        self.status.clear_output()
        for part in (*old.widget.children, old.widget, old.figure) if old else ():
            part.close()

    def _drawn(self, change):
        # The figure's first word from the browser; later ones are about changes, which do not alter its width.
        change["owner"].unobserve(self._drawn, "_js2py_layoutDelta")
        self._fit.send({})

    def _chosen(self, frame):
        joint = None if self.joint.value == ALL else LABELS.index(self.joint.value)
        return frame, joint, self.layer.index - 1 if self.layer.index else None

    def _show(self, change):
        frame = change["new"] if change["owner"] in (self.play, self.frame) else self.frame.value
        if self.view and self._shown != (chosen := self._chosen(frame)):
            self.view.show(*chosen)
            self._shown = chosen

    def go_to(self, frame):
        """Show the frame at this index of the sequence."""
        self.frame.value = frame
