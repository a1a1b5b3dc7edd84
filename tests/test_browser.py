"""06_explore in JupyterLab in a real browser, on the copy in which the smoke pipeline has run."""

import json
import re

import pytest
from browser import PATIENCE, jupyterlab, until
from playwright.sync_api import TimeoutError as NotYet

pytest_plugins = ("browser", "clone")

NAME = "notebooks/06_explore.ipynb"
# The notebook as JupyterLab holds it: its page draws what is in sight, and a prompt is empty for more than one reason.
STATE = """() => {
    const panel = window.jupyterapp && jupyterapp.shell.currentWidget, session = panel && panel.sessionContext;
    const kernel = session && session.session && session.session.kernel;
    const cells = session ? panel.content.widgets.filter(cell => cell.model.type === 'code') : [];
    return {
        kernel: kernel && session.isReady && kernel.connectionStatus === 'connected' ? kernel.status : null,
        asks: [...document.querySelectorAll('.jp-Dialog, .Toastify__toast')].map(box => box.innerText),
        runs: cells.map(cell => cell.model.executionState === 'running'),
        numbers: cells.map(cell => cell.model.executionCount),
        errors: cells.flatMap(cell => cell.model.outputs.toJSON()).filter(o => o.output_type === 'error'),
    };
}"""
# The explorer's graph among those of the page, and what of it a viewer sees.
GRAPH = "[...document.querySelectorAll('.js-plotly-plot')].find(g => g.layout && g.layout.uirevision === 'kept')"
SEEN = f"""() => {{
    const g = {GRAPH}, scene = g._fullLayout.scene._scene, pose = g.data.filter(t => t.type === 'scatter3d');
    const pictures = [...document.querySelectorAll('img[alt="frame"], img[alt="heatmaps"]')];
    return {{
        title: pictures[0].parentElement.parentElement.parentElement.innerText,
        pictures: pictures.map(p => p.complete && p.naturalWidth && p.src),
        pose: JSON.stringify(pose.map(t => [...t._input ? t._input.x : t.x])),
        camera: scene.getCamera().eye,
        cursor: [...g.data.find(t => t.name === 'this frame').x],
    }};
}}"""


# The drag has ended. (The drawing glides on a little; the figure keeps where the mouse was let go.)
TURNED = f"""before => {{
    const kept = ({GRAPH}).layout.scene.camera.eye;
    return Math.hypot(kept.x - before.x, kept.y - before.y, kept.z - before.z) > 0.1 && kept;
}}"""


# Another frame than before is shown, in pictures and figure.
MOVED = f"""before => {{
    const now = ({SEEN})();
    return now.title !== before.title && now.cursor[0] !== before.cursor[0] && now;
}}"""


def done(page, act, expression, before):
    """Do something, again as a person would where nothing comes of it, until the page says so -> what it says.

    On a busy machine the page draws before it listens. act: may be done twice to the same end.
    """

    def tried():
        act()
        try:
            return page.wait_for_function(expression, arg=before, timeout=10_000).json_value()
        except NotYet:
            return None

    return until(tried, f"what {act.__name__} does")


def same(angle):
    return {axis: pytest.approx(value, abs=1e-3) for axis, value in angle.items()}


def state_when(page, wanted, what):
    """Wait for a state of the notebook. Raises AssertionError where JupyterLab asks something or a cell failed."""
    now = {}

    def reached():
        now.update(page.evaluate(STATE))
        assert not now["asks"] and not now["errors"], now
        return wanted(now)

    try:
        until(reached, what)
    except TimeoutError as error:
        error.add_note(f"the notebook: {now}")
        raise


def open_and_run(page, url, token):
    """06_explore, opened and run to its end."""
    page.goto(f"{url}lab/tree/{NAME}?token={token}")
    # Before that the menu knows no notebook, or runs its cells on no kernel.
    state_when(page, lambda now: now["kernel"] == "idle" and len(now["numbers"]) >= 5, "a kernel that is ready")
    page.get_by_role("menuitem", name="Run", exact=True).first.click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).first.click()
    # Cells whose outputs are stored have a number from the start, but not the others.
    state_when(page, lambda now: all(now["numbers"]) and not any(now["runs"]), "the end of all cells")
    page.wait_for_function(f"() => ({GRAPH}) && ({GRAPH})._fullLayout.scene._scene")


def test_explore_in_jupyterlab(chromium, clone, tmp_path):
    clone.run("python", "scripts/notebook_filter.py", "install")
    # High enough for all cells, since JupyterLab draws none outside the window.
    page = chromium.new_page(viewport={"width": 1280, "height": 4000})
    page.set_default_timeout(PATIENCE)
    try:
        with jupyterlab(clone.folder, clone.environment, tmp_path) as (url, token):
            open_and_run(page, url, token)
            explore(page)
            page.screenshot(path=tmp_path / "explore.png")
            assert (tmp_path / "explore.png").stat().st_size > 50_000
            save(page, clone)
    finally:
        page.close()
        # The server saves on its own, too, and tells git so: its last `git add` may outlive it.
        until(lambda: not (clone.folder / ".git/index.lock").exists(), "the end of git's work")
        clone.run("git", "config", "--remove-section", "filter.agego-notebook")


def explore(page):
    """Turn the skeleton, move the slider, click on the error curve."""
    start = page.evaluate(SEEN)
    x, y = page.evaluate(
        f"() => {{ const r = ({GRAPH}).querySelector('.gl-container canvas').getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; }"
    )

    def drag():
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 70, y + 20, steps=5)
        page.mouse.up()

    done(page, drag, TURNED, start["camera"])
    turned = page.evaluate(SEEN)
    # A drag that came late may have turned it once more.
    angle = page.evaluate(f"({GRAPH}).layout.scene.camera.eye")

    def second_frame():
        page.locator(".widget-hslider .noUi-handle").first.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")

    moved = done(page, second_frame, MOVED, turned)
    assert re.search(r"frame 2 of 24", moved["title"])
    assert moved["pose"] != turned["pose"] and moved["cursor"] != turned["cursor"]
    assert len(moved["pictures"]) == 2 and all(moved["pictures"])
    assert all(a != b for a, b in zip(moved["pictures"], turned["pictures"], strict=True))
    assert moved["camera"] == same(angle)

    # The peak of the error curve.
    at = page.evaluate(f"""() => {{
        const g = {GRAPH}, curve = g.data.find(t => t.name === 'MPJPE'), layout = g._fullLayout;
        const y = [...curve.y], peak = y.indexOf(Math.max(...y)), box = g.getBoundingClientRect();
        const [h, v] = [layout[curve.xaxis.replace('x', 'xaxis')], layout[curve.yaxis.replace('y', 'yaxis')]];
        return [peak, box.x + h._offset + h.l2p(curve.x[peak]), box.y + v._offset + v.l2p(y[peak])];
    }}""")

    def click_on_the_peak():
        page.mouse.move(at[1], at[2] + 3)
        page.mouse.click(at[1], at[2] + 3)

    clicked = done(page, click_on_the_peak, MOVED, moved)
    assert f"frame {at[0] + 1} of 24" in clicked["title"]
    assert clicked["pose"] != moved["pose"] and clicked["camera"] == same(angle)


def save(page, clone):
    """Save the notebook with all its outputs: a change for nobody."""
    page.keyboard.press("Control+s")
    path = clone.folder / NAME

    def saved():
        try:
            cells = json.loads(path.read_text())["cells"]
        except ValueError:  # half written
            return False
        return all(c["execution_count"] for c in cells if c["cell_type"] == "code")

    until(saved, "the saved notebook")
    until(lambda: clone.run("git", "status", "--porcelain").stdout == "", "a clean `git status`")
