"""The time that 06_explore takes to show another frame: in the kernel, and from the slider's move to the drawn figure.

Run after `make repro`. The browser's part is left out where no Chromium is installed; 3D is drawn on the CPU there.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from agego_lib import params
from agego_view import explore
from benchmarks.common import arguments, report, target

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from browser import NAMES, PATIENCE, jupyterlab, launched  # noqa: E402
from test_browser import GRAPH, open_and_run  # noqa: E402

SCREEN = {"width": 1280, "height": 1200}
# Each move waits until the figure that shows another frame is drawn; resolves to milliseconds.
MOVES = f"""async moves => {{
    const g = {GRAPH}, handle = document.querySelector('.widget-hslider .noUi-handle'), times = [];
    const frame = () => g.data.find(t => t.name === 'this frame').x[0];
    const painted = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    handle.focus();
    for (let i = 0; i < moves; i++) {{
        const start = performance.now(), before = frame();
        const drawn = new Promise((done, fail) => {{
            const look = () => frame() !== before && (g.removeListener('plotly_afterplot', look), done());
            g.on('plotly_afterplot', look);
            setTimeout(() => fail(new Error('a move of the slider changed nothing')), 20000);
        }});
        handle.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowRight', bubbles: true}}));
        await drawn;
        await painted();
        times.push(performance.now() - start);
        await new Promise(done => setTimeout(done, 300));
    }}
    return times;
}}"""


def in_kernel(view, moves):
    """Milliseconds of each of `moves` changes of the frame, every other one with a chosen joint and layer."""
    times = []
    for i in range(moves):
        started = time.perf_counter()
        view.show((i + 1) % len(view), *((3, 0) if i % 2 else ()))
        times.append(1000 * (time.perf_counter() - started))
    return times


def in_browser(path, moves):
    """Milliseconds from the slider's move to the drawn figure, in JupyterLab in a Chromium at `path`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder, launched(path) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 4000})
        page.set_default_timeout(PATIENCE)
        with jupyterlab(ROOT, environment, Path(folder)) as (url, token):
            open_and_run(page, url, token)
            # As a screen shows it: what is drawn beyond its edge costs time that nobody has to wait for.
            page.set_viewport_size(SCREEN)
            page.evaluate(f"() => ({GRAPH}).scrollIntoView()")
            page.wait_for_timeout(3000)
            return page.evaluate(MOVES, moves)


def row(where, times):
    quantiles = dict(zip(("median", "95th percentile", "largest"), np.quantile(times, (0.5, 0.95, 1)), strict=True))
    milliseconds = {f"{name} (ms)": round(float(v), 1) for name, v in quantiles.items()}
    return {"measured": where, "moves": len(times), **milliseconds}


def main():
    options = arguments(__doc__.splitlines()[0])
    moves = 5 if options.quick else 40
    sequence = explore.test_sequences(ROOT, "sceneego")[0]
    recording = explore.recorded(ROOT, "finetune", sequence)
    rows = [row("in the kernel", in_kernel(explore.View(recording), moves))]
    if path := next(filter(None, map(shutil.which, NAMES)), None):
        rows.append(row("in the browser, slider to figure", in_browser(path, min(moves, len(recording) - 1))))
    window = params.load(ROOT / "params.yaml").window
    settings = {"frames": len(recording), "size": sequence.view.size, "window": [window.length, window.step]}
    per_second = 1000 / max(r["median (ms)"] for r in rows)
    report("redraw", options, settings, rows, [target("frames shown a second", round(per_second, 2), 5)])


if __name__ == "__main__":
    main()
