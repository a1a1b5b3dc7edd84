"""Run a command of DVC and, should it fail, end with one line that says where: python scripts/pipeline.py dvc repro

The line names the stage, the error, and the executed notebook, which holds the traceback.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]


def stage_of(report, stages):
    """Name, as DVC shows it, of the stage whose command writes `report`, a path relative to the project."""
    found = []
    for name, stage in stages.items():
        # A stage of a matrix: ${item.row} in its command stands for a part of the name.
        words = [re.escape(word) for word in re.split(r"\$\{item\.\w+\}", stage["cmd"].split()[2])]
        if match := re.fullmatch("([^/]+?)".join(words), report):
            items = "-".join(match.groups())
            found.append((len("".join(match.groups())), f"{name}@{items}" if items else name))
    return min(found)[1] if found else "unknown"  # the fewest letters left open


def failure(report):
    """What went wrong in an executed notebook, in a few words, or None where all of it ran."""
    notebook = nbformat.read(report, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                return " ".join(f"{output.ename}: {output.evalue}".split())
    ended = all(cell.metadata.get("papermill", {}).get("status") == "completed" for cell in cells)
    return None if ended else "it was killed before it ended"


def last_failure(root, since):
    """The line about the newest report, written after `since` (seconds of the epoch), that did not end; or None."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    for path in sorted((root / "reports").glob("*.ipynb"), key=lambda p: p.stat().st_mtime, reverse=True):
        if path.stat().st_mtime >= since and (error := failure(path)):
            report = path.relative_to(root).as_posix()
            return f"stage '{stage_of(report, stages)}' failed: {error} [traceback: {report}]"
    return None


def main():
    since = time.time() - 1  # file systems may round down
    code = subprocess.run(sys.argv[1:], cwd=ROOT, check=False).returncode
    if code and (line := last_failure(ROOT, since)):
        print(line, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
