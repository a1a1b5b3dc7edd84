"""Write reports/results.html from the executed 04 and 05: python scripts/report.py (or `make report`)

One page with all it needs inside: tables, interactive figures, formulas as MathML, the code folded away, and how the
run was made. It opens from disk without a network.
"""

import argparse
import base64
import html
import json
import re
import sys
from pathlib import Path

import bleach
import jinja2
import nbformat
from latex2mathml.converter import convert
from nbconvert.filters.ansi import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from plotly.offline import get_plotlyjs
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers.python import PythonLexer

from agego_lib import params
from agego_view.tables import measured_on, windows

ROOT = Path(__file__).resolve().parents[1]
# Executed notebook -> the stage's record of its run, beside its metrics.
PARTS = {"04_evaluation": "evaluation", "05_ablations": "ablations"}
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p", "br", "b", "i", "em", "strong", "code", "sub", "sup"}
NUMBER = re.compile(r"<td>(\s*[-+–]?[\d.,]*\s*%?\s*)</td>")


class Renderer(IPythonRenderer):
    """Markdown as HTML: formulas as MathML, headings with anchors of their own, which are kept in `contents`."""

    def __init__(self, part, contents):
        super().__init__(exclude_anchor_links=True)
        self.part, self.contents = part, contents

    def heading(self, text, level, **attrs):
        plain = re.sub("<[^>]+>", "", text)
        anchor = f"{self.part}-{re.sub(r'[^a-z0-9]+', '-', html.unescape(plain).lower()).strip('-')}"
        self.contents.append({"anchor": anchor, "text": html.unescape(plain)})
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def inline_math(self, body):
        return convert(body)

    def block_math(self, body):
        return convert(body, display="block")

    def latex_environment(self, name, body):
        return convert(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")


def _text(value):
    return "".join(value) if isinstance(value, list) else str(value)


def table(source):
    """An HTML table with nothing in it but rows and text, numbers to the right, in a frame that scrolls sideways."""
    source = re.sub(r"<style.*?</style>", "", source, flags=re.DOTALL)
    clean = bleach.clean(source, TABLE_TAGS, {"*": ["colspan", "rowspan"]}, strip=True, strip_comments=True)
    clean = NUMBER.sub(r'<td class="number">\1</td>', clean)
    return f'<div class="wide">{clean}</div>'


def figure(content, name):
    """A Plotly figure (its JSON as a dict): a place of its height, and the data that the page's script draws there."""
    height = content.get("layout", {}).get("height", 450)
    # No text of the figure may end the script element.
    kept = {key: content.get(key, {}) for key in ("data", "layout")}
    data = json.dumps(kept, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="wide"><div class="figure" data-figure="{name}" style="height:{height}px"></div></div>\n'
        f'<script type="application/json" id="{name}">{data}</script>'
    )


def output(item, name, markdown):
    """One output of a cell as HTML, what says most first; progress bars and warnings (see `messages`) give None."""
    if item.output_type == "error":
        return f'<pre class="error">{html.escape(strip_ansi(chr(10).join(item.traceback) or item.evalue))}</pre>'
    if item.output_type == "stream":
        return f"<pre>{html.escape(strip_ansi(_text(item.text)))}</pre>" if item.name == "stdout" else None
    data = item.data
    # A live progress bar, which holds the text of its start.
    if WIDGET in data:
        return None
    if PLOTLY in data:
        return figure(data[PLOTLY], name)
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<p><img alt="{html.escape(name)}" src="data:{kind};base64,{_text(data[kind]).strip()}"></p>'
    if "image/svg+xml" in data:
        # As an image its scripts and links are dead.
        code = base64.b64encode(_text(data["image/svg+xml"]).encode()).decode()
        return f'<p><img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{code}"></p>'
    if "<table" in _text(data.get("text/html", "")):
        return table(_text(data["text/html"]))
    for kind in ("text/markdown", "text/latex"):
        if kind in data:
            return markdown.render(_text(data[kind]))
    return f"<pre>{html.escape(_text(data.get('text/plain', '')))}</pre>"


def messages(item):
    """What a cell said on the way, its bars as they ended."""
    if item.output_type == "stream" and item.name == "stderr":
        return "\n".join(line.split("\r")[-1] for line in strip_ansi(_text(item.text)).split("\n")).strip()
    return ""


def cell_html(cell, name, markdown):
    """A cell of an executed notebook. name: unique in the page, for its figures."""
    if cell.cell_type == "markdown":
        return markdown.render(cell.source)
    if cell.cell_type != "code":
        return ""
    shown = [output(item, f"{name}-{i}", markdown) for i, item in enumerate(cell.outputs)]
    code = highlight(cell.source, PythonLexer(), HtmlFormatter())
    said = "\n".join(filter(None, map(messages, cell.outputs)))
    said = f"<pre>{html.escape(said)}</pre>" if said else ""
    return f'<details class="code"><summary>code</summary>{code}{said}</details>' + "\n".join(filter(None, shown))


def entries(tree):
    """A tree of dicts and lists as nested tables."""
    if isinstance(tree, dict):
        rows = (f"<tr><th>{html.escape(str(key))}</th><td>{entries(value)}</td></tr>" for key, value in tree.items())
        return f"<table>{''.join(rows)}</table>"
    if isinstance(tree, list) and any(isinstance(value, dict | list) for value in tree):
        return "<br>".join(map(entries, tree))
    return html.escape(", ".join(map(str, tree)) if isinstance(tree, list) else str(tree))


def manifest(root, name):
    """How the run of a stage was made, from metrics/<name>.run.json."""
    path = Path("metrics") / f"{name}.run.json"
    if not (root / path).is_file():
        return f"<p>How this run was made is not recorded: <code>{path}</code>, which a run leaves, is missing.</p>"
    try:
        tree = json.loads((root / path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run `dvc repro`") from None
    return (
        f'<details class="manifest"><summary>how this run was made (<code>{path}</code>)</summary>'
        f'<div class="wide">{entries(tree)}</div></details>'
    )


def section(root, part, contents):
    """An executed notebook of reports/ as HTML; where it is missing, a line that says what to run."""
    path = Path("reports") / f"{part}.ipynb"
    if not (root / path).is_file():
        anchor = f"{part}-missing"
        contents.append({"anchor": anchor, "text": f"{part} (not run)"})
        line = f"<p><code>{path}</code> is not there: run <code>dvc repro</code> first.</p>"
        return f'<h1 id="{anchor}">{part}</h1>\n{line}'
    try:
        notebook = nbformat.read(root / path, as_version=4)
    except ValueError as error:
        raise ValueError(f"{path} is no notebook ({error}); delete it and run `dvc repro`") from None
    markdown = MarkdownWithMath(renderer=Renderer(part, contents))
    cells = [cell_html(cell, f"{part}-{i}", markdown) for i, cell in enumerate(notebook.cells)]
    ended = notebook.metadata.get("papermill", {}).get("end_time", "")
    when = f"<p>Executed {html.escape(ended[:16].replace('T', ' '))} UTC.</p>" if ended else ""
    return "\n".join([cells[0] if cells else "", when, manifest(root, PARTS[part]), *cells[1:]])


def page(root):
    """The page of the run in the project folder `root` -> HTML.

    Raises FileNotFoundError where neither notebook was executed, ValueError where one cannot be read.
    """
    if not any((root / "reports" / f"{part}.ipynb").is_file() for part in PARTS):
        missing = " nor ".join(f"reports/{part}.ipynb" for part in PARTS)
        raise FileNotFoundError(f"neither {missing} is there: run `dvc repro` first")
    settings = params.load(root / "params.yaml")
    embedded = settings.dataset.source == "synthetic"
    data, *sets = measured_on(settings, root / "artifacts/prepared")
    size = settings.prepare.size
    summary = (
        f"Measured on {data} ({'; '.join(sets)}). Frames of {size}×{size}, {windows(settings.window)}, "
        f"{settings.visual.backbone}, seed {settings.seed}. These are the settings that params.yaml holds now; those "
        "of the run stand with each part, where it recorded them."
    )
    contents = []
    sections = [section(root, part, contents) for part in PARTS]
    template = jinja2.Template((Path(__file__).with_suffix(".html")).read_text(), undefined=jinja2.StrictUndefined)
    return template.render(
        summary=html.escape(summary),
        embedded=embedded,
        contents=[{"anchor": entry["anchor"], "text": html.escape(entry["text"])} for entry in contents],
        sections=sections,
        highlight_css=HtmlFormatter().get_style_defs(".highlight"),
        plotly_js=get_plotlyjs(),
    )


def main():
    target = ROOT / "reports/results.html"
    try:
        target.write_text(page(ROOT), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print("wrote", target.relative_to(ROOT))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
