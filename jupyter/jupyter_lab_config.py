"""JupyterLab as `make lab` starts it, which puts this folder on JUPYTER_CONFIG_PATH."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

from notebook_filter import settle  # noqa: E402


def after_saving(os_path, model, **_):
    """Keep `git status` empty where only what the filter takes out has changed."""
    if model["type"] == "notebook":
        settle(os_path)


c = get_config()  # noqa: F821
c.FileContentsManager.post_save_hook = after_saving
c.ServerApp.root_dir = str(ROOT)
c.LabApp.default_url = "/lab/tree/notebooks"
