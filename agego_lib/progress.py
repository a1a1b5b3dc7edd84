"""One progress bar for the terminal and the notebook."""

import os


def bar(total, label, unit="it", show=True):
    """A tqdm bar: text on standard error inside a pipeline stage, which papermill passes to the terminal and keeps
    in the executed notebook; elsewhere tqdm's own choice (a widget in JupyterLab). show: False for no bar."""
    if "DVC_STAGE" in os.environ:
        from tqdm.std import tqdm

        return tqdm(total=total, desc=label, unit=unit, disable=not show, mininterval=2.0, ascii=" =", ncols=88)
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, unit=unit, disable=not show)
