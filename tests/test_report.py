"""The results page holds what two small executed notebooks hold, needs no network, and is drawn by a browser."""

import base64
import importlib.util
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytest_plugins = ("browser",)

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/report.py"
TABLE = (
    '<div><style scoped>.dataframe tbody tr th {vertical-align: top;}</style><table border="1" class="dataframe">'
    "<thead><tr><th></th><th>PA-MPJPE</th></tr></thead><tbody><tr><th>full</th><td>94.5</td></tr></tbody></table></div>"
)
PNG = base64.b64encode(b"not really a picture").decode()
# More 3D scenes than a browser keeps at a time.
SCENES = 17
VOID = {"meta", "link", "img", "br", "hr", "input"}


def load_script():
    spec = importlib.util.spec_from_file_location("report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report = load_script()


def bars(value):
    return go.Figure(go.Bar(x=["a </script> b", "c"], y=[value, 2.5]), layout={"title": {"text": f"bars {value}"}})


def scene(number):
    return go.Figure(go.Scatter3d(x=[0, 1], y=[0, number], z=np.array([0.0, 1.0])), layout={"height": 400})


def shown(figure):
    return new_output("display_data", {report.PLOTLY: json.loads(plotly.io.to_json(figure))})


@pytest.fixture(scope="module")
def root(project, tmp_path_factory):
    """A project folder with both notebooks and one of the two records of runs."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(project / "params.yaml", root)
    (root / "reports").mkdir()
    (root / "metrics").mkdir()
    error = new_output("error", ename="ValueError", evalue="bad", traceback=["\x1b[31mValueError\x1b[0m: bad <input>"])
    bar = new_output("stream", name="stderr", text="10%\r50%\rdone in 3 s")
    widget = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%| 0/9"})
    first = new_notebook(
        cells=[
            new_markdown_cell("# 4 · Evaluation\n\nFeatures $F_s$.\n\n$$\\rho = \\frac{1}{2} \\tag{7}$$"),
            new_markdown_cell("## Tables & more"),
            new_code_cell(
                "x = 'secret <code>'", outputs=[bar, widget, new_output("stream", name="stdout", text="1 < 2")]
            ),
            new_code_cell("a", outputs=[new_output("execute_result", {"text/html": TABLE, "text/plain": "t"})]),
            new_code_cell("b", outputs=[shown(bars(1.5)), new_output("display_data", {"image/png": PNG})]),
            new_code_cell("c", outputs=[error]),
        ]
    )
    first.metadata.papermill = {"end_time": "2026-01-02T03:04:05+00:00"}
    second = new_notebook(
        cells=[
            new_markdown_cell("# 5 · Ablations"),
            *(new_code_cell("d", outputs=[shown(scene(i))]) for i in range(SCENES)),
        ]
    )
    nbformat.write(first, root / "reports/04_evaluation.ipynb")
    nbformat.write(second, root / "reports/05_ablations.ipynb")
    record = {"git": {"commit": "abc123", "dirty": ["a.py", "<b>"]}, "packages": {"torch": "2.11"}}
    (root / "metrics/evaluation.run.json").write_text(json.dumps(record))
    return root


class Page(HTMLParser):
    """What a reader of the HTML sees, and what a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.fetched, self.scripts, self.places, self.text = [], [], {}, [], []
        self.ids, self.links, self.tags, self.folded = [], [], [], []
        self.feed(text)
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.stack.append((tag, attrs))
        self.fetched += [attrs[key] for key in ("src", "srcset", "poster", "data") if attrs.get(key)]
        if tag == "link":
            self.fetched.append(attrs["href"])
        if tag == "a":
            self.links.append(attrs["href"])
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if "data-figure" in attrs:
            self.places.append(attrs["data-figure"])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        opened, _ = self.stack.pop()
        assert opened == tag

    def handle_data(self, data):
        tag, attrs = self.stack[-1] if self.stack else ("", {})
        if tag == "script":
            key = attrs.get("id", f"script {len(self.scripts)}")
            self.scripts[key] = self.scripts.get(key, "") + data
        elif tag == "style":
            assert "url(" not in data and "@import" not in data
        else:
            folded = any(outer == "details" and "open" not in more for outer, more in self.stack)
            (self.folded if folded else self.text).append(data)


@pytest.fixture(scope="module")
def page(root):
    return Page(report.page(root))


def test_nothing_is_fetched(page):
    assert page.fetched and all(address.startswith("data:") for address in page.fetched)
    # Every link of the contents leads somewhere, and no anchor is there twice.
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids) and len(page.links) == 3
    libraries = [text for text in page.scripts.values() if len(text) > 100_000]
    assert len(libraries) == 1 and "plotly.js v" in libraries[0][:200]


def test_each_figure_has_its_data(page):
    assert len(page.places) == 1 + SCENES
    figures = [json.loads(page.scripts[place]) for place in page.places]
    # The text that would end a script element comes out as it went in.
    assert figures[0]["data"][0]["x"] == ["a </script> b", "c"]
    assert figures[0]["layout"]["title"]["text"] == "bars 1.5"
    for number, figure in enumerate(figures[1:]):
        want = json.loads(plotly.io.to_json(scene(number)))
        assert (figure["data"], figure["layout"]) == (want["data"], want["layout"])


def test_the_rest_of_the_outputs_is_there(page):
    text, folded = " ".join(page.text), " ".join(page.folded)
    assert "94.5" in text and "1 < 2" in text and "ValueError: bad <input>" in text and "\x1b" not in text
    assert ("td", {"class": "number"}) in page.tags and "vertical-align: top;}" not in text
    assert f"data:image/png;base64,{PNG}" in page.fetched
    # Code and progress bars, as they ended, are folded away.
    assert "secret <code>" in "".join(page.folded) and "secret" not in text
    assert "done in 3 s" in folded and "50%" not in folded + text and "0/9" not in text


def test_formulas_are_mathml(page):
    assert [attrs["display"] for tag, attrs in page.tags if tag == "math"] == ["inline", "block"]
    assert any(tag == "mfrac" for tag, _ in page.tags) and "ρ" in page.text
    assert not any("$" in text or "\\" in text for text in page.text)


def test_what_is_known_of_the_run_is_told(page):
    text, folded = " ".join(page.text), " ".join(page.folded)
    assert "Executed 2026-01-02 03:04 UTC" in text and "from the real data sets" in text and "embedded" in text
    assert "abc123" in folded and "a.py, <b>" in folded and "2.11" in folded
    assert "metrics/ablations.run.json" in text and "metrics/evaluation.run.json" not in text


def test_a_missing_notebook_is_told(root, tmp_path):
    shutil.copytree(root, tmp_path / "one")
    (tmp_path / "one/reports/05_ablations.ipynb").unlink()
    page = Page(report.page(tmp_path / "one"))
    assert "reports/05_ablations.ipynb" in page.text and "dvc repro" in page.text and "94.5" in page.text
    (tmp_path / "one/reports/04_evaluation.ipynb").write_text("{")
    with pytest.raises(ValueError, match=r"reports/04_evaluation\.ipynb is no notebook"):
        report.page(tmp_path / "one")
    (tmp_path / "one/reports/04_evaluation.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        report.page(tmp_path / "one")


def test_a_browser_draws_every_figure_without_a_network(chromium, root, tmp_path):
    file = tmp_path / "results.html"
    file.write_text(report.page(root), encoding="utf-8")
    context = chromium.new_context(offline=True, viewport={"width": 1100, "height": 900})
    context.set_default_timeout(120_000)
    tab, complaints, requests = context.new_page(), [], []
    tab.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(file.as_uri())
    figures = tab.query_selector_all("[data-figure]")
    for number, figure in enumerate(figures):
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector(".main-svg" if number == 0 else ".gl-container canvas", state="attached")
        if number:
            # The browser has not taken the scene's context away, as it does with the oldest when there are too many.
            lost = "f => { const c = f.querySelector('canvas'); return c.getContext('webgl').isContextLost(); }"
            assert not figure.evaluate(lost), f"scene {number} is not drawn"
            assert tab.locator(".gl-container canvas").count() <= 8
    assert len(figures[0].query_selector_all(".bars .point")) == 2
    picture = tab.screenshot(path=tmp_path / "results.png")
    assert len(picture) > 10_000
    # On paper there is a picture of every scene, also of those taken away; the bars are drawn as they are.
    tab.evaluate("window.print = () => { window.printed = true; }; 0")
    tab.click("#print")
    tab.wait_for_function("window.printed === true")
    widths = tab.eval_on_selector_all(".pictured + .picture", "all => all.map(picture => picture.naturalWidth)")
    assert len(widths) == len(figures) - 1 and min(widths) > 1000
    tab.emulate_media(media="print")
    assert [figure.is_visible() for figure in figures] == [True] + [False] * (len(figures) - 1)
    assert all(picture.is_visible() for picture in tab.query_selector_all(".picture"))
    tab.emulate_media(media="screen")
    assert not any(picture.is_visible() for picture in tab.query_selector_all(".picture"))
    # Back at the first scene, which was taken away: it is drawn again, and the bars never went.
    figures[1].scroll_into_view_if_needed()
    figures[1].wait_for_selector(".gl-container canvas", state="attached")
    assert not complaints
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    context.close()
