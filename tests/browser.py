"""Chromium for tests, and JupyterLab as `make lab` starts it."""

import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# The 3D figures need WebGL, which Chromium then computes on the CPU.
FLAGS = """--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update
    --disable-sync --disable-dev-shm-usage --enable-unsafe-swiftshader""".split()
# Milliseconds, for a machine that is busy with something else; nothing waits longer than it must.
PATIENCE = 240_000


@contextmanager
def launched(path):
    """Headless Chromium -> playwright's Browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


# Closed before other tests fork processes: one that outlives its test would keep playwright's pipes open, whose other
# end then waits for ever.
@pytest.fixture(scope="module")
def chromium():
    """playwright's Browser; skips where no Chromium is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    with launched(path) as browser:
        yield browser


def until(check, what, seconds=PATIENCE / 1000):
    """The first true value of `check()`. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: nothing after {seconds:.0f} s")
        time.sleep(0.1)
    return value


@contextmanager
def jupyterlab(project, environment, folder):
    """JupyterLab on a project's folder, with nothing of the user's own settings -> (URL, token).

    folder: an empty one, for what the server writes besides notebooks.
    """
    places = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    own = {f"JUPYTER_{name}": str(folder / name.lower()) for name in places} | {"HOME": str(folder)}
    own["JUPYTER_CONFIG_PATH"] = str(project / "jupyter")
    # The page then has `jupyterapp`, in which tests read a notebook's state.
    options = ("--no-browser", "--allow-root", "--port=0", "--LabApp.expose_app_in_browser=True")
    command = ("jupyter", "lab", *options)
    with open(folder / "log", "w") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, cwd=project, env=environment | own, **output)
        try:

            def ready():
                assert server.poll() is None, (folder / "log").read_text()
                for path in (folder / "runtime_dir").glob("jpserver-*.json"):
                    # It writes its address down a moment before it listens there.
                    try:
                        info = json.loads(path.read_text())
                        urlopen(f"{info['url']}api?token={info['token']}", timeout=PATIENCE / 1000).close()
                    except (ValueError, URLError):
                        return None
                    return info

            info = until(ready, "JupyterLab's start")
            yield info["url"], info["token"]
        except Exception as error:
            error.add_note("The end of the server's log:\n" + (folder / "log").read_text()[-4000:])
            raise
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
