"""One progress bar for the terminal and the notebook."""

import os


def bar(total, label, unit="it", show=True):
    """A tqdm bar: text on standard error in a notebook that scripts/run_notebook.py executes, which passes it to the
    terminal; elsewhere tqdm's own choice (a widget in JupyterLab). show: False for no bar."""
    if "AGEGO_REPORT" in os.environ:
        from tqdm.std import tqdm

        return tqdm(total=total, desc=label, unit=unit, disable=not show, mininterval=2.0, ascii=" =", ncols=88)
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, unit=unit, disable=not show)
