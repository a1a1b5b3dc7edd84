"""What a run needs, checked before its first stage and all of it at once: `python -m agego_lib.preflight`.

What stages read from outside the project is left in artifacts/inputs/ as fingerprints that they depend on, so that
other lists, calibrations, annotations, frames or weights make them run again.
"""

import argparse
import sys

from agego_lib import params
from agego_lib.files import write_json
from agego_lib.preflight.checks import check


def main():
    """Check, leave the fingerprints, and say what was found -> exit status."""
    try:
        root = params.find_root()
        settings = params.load(root / "params.yaml")
    except params.SettingsError as error:
        print(f"SettingsError: {error}", file=sys.stderr)
        return 1
    run = settings.run
    print(f"this working copy runs dataset={run.dataset}, profile={run.profile}, tables={run.tables}")
    found = check(settings, root)
    for note in found.notes:
        print(f"- {note}")
    if found.problems:
        print(f"missing or wrong, so that nothing has been run ({len(found.problems)}):", file=sys.stderr)
        for number, problem in enumerate(found.problems, 1):
            print(f"{number}. {problem}", file=sys.stderr)
        return 1
    for name, value in found.inputs.items():
        write_json(root / "artifacts/inputs" / name, value)
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m agego_lib.preflight", description=__doc__).parse_args()
    sys.exit(main())
