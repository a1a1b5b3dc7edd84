"""One papermill run of one notebook: python scripts/run_notebook.py 03_pose_training REPORT [NAME=VALUE ...]

Executes notebooks/<name>.ipynb from the project's folder in the project's own environment, whatever kernel it was saved
with, and writes reports/<REPORT>.ipynb while it runs. Progress goes to the terminal; of each bar the report keeps the
last state. NAME=VALUE sets a parameter.
"""

import argparse
import os
import sys
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("notebook", help="its name without the ending")
    parser.add_argument("report", help="name of the executed notebook")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args()
    os.environ["AGEGO_REPORT"] = given.report  # for agego_lib.progress
    parameters = dict(text.split("=", 1) for text in given.parameters)
    try:
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{given.notebook}.ipynb",
            ROOT / "reports" / f"{given.report}.ipynb",
            {name: int(value) if value.isdecimal() else value for name, value in parameters.items()},
            kernel_name="python3",
            cwd=ROOT,
            progress_bar=False,
            stderr_file=sys.stderr,
            coalesce_streams=True,
            # A kernel that is asked to end says "KeyboardInterrupt" as its last word.
            shutdown_kernel="immediate",
        )
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}\n[traceback: reports/{given.report}.ipynb]")
    except DeadKernelError:
        sys.exit(f"the process died, perhaps for want of memory [what it had done: reports/{given.report}.ipynb]")


if __name__ == "__main__":
    main()
