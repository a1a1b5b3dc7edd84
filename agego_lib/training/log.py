"""Training curves that DVC plots: dvclive writes them while a run goes on."""

from pathlib import Path


class TrainingLog:
    """Called with (step, values), writes each value to `folder`/plots/metrics/<name>.tsv; `series` keeps them too."""

    def __init__(self, folder):
        # Imported here, so that training itself runs without DVC.
        from dvclive import Live

        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        self._live = Live(dir=str(folder), report=None, dvcyaml=None, save_dvc_exp=False, monitor_system=False)
        self.series = {}

    def __call__(self, step, values):
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
            steps, curve = self.series.setdefault(name, ([], []))
            steps.append(step)
            curve.append(value)
