"""Choose what this working copy runs: python scripts/configure.py dataset=egopw profile=paper [pose.epochs=10 ...]

params.yaml is the one place that says it, and every command keeps it. This composes it anew from conf/ (Hydra): what is
not named stays as it is, and values that were changed by hand or by `dvc exp run -S` go on to hold, but for those of a
data set that is left. Another profile has its own tables, unless tables= names others. Without arguments it only says
what is there.
"""

import argparse
import difflib
import re
import sys
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from agego_lib import params

ROOT = Path(__file__).resolve().parents[1]


def composed(root, choices, overrides=()):
    """params.yaml as conf/ gives it for `choices`, {group: name}, and further overrides -> dict."""
    chosen = [f"{group}={name}" for group, name in choices.items()]
    with initialize_config_dir(str(root / "conf"), version_base=None):
        settings = compose("config", overrides=[*chosen, *overrides], return_hydra_config=True)
    choices = {group: settings.hydra.runtime.choices[group] for group in params.GROUPS}
    del settings.hydra
    return {"run": choices, **OmegaConf.to_container(settings, resolve=True)}


def leaves(tree, key=()):
    """(dotted key, value) of every setting that is no section."""
    for name, value in tree.items():
        yield from leaves(value, (*key, name)) if isinstance(value, dict) else [(".".join((*key, name)), value)]


def own_changes(raw, composed):
    """What a params.yaml holds that its data set and profile do not give -> {dotted key: value}."""
    given = dict(leaves(composed))
    return {key: value for key, value in leaves(raw) if key in given and given[key] != value}


def put(tree, key, value):
    """Set a dotted key that is there."""
    *parents, last = key.split(".")
    for name in parents:
        tree = tree[name]
    tree[last] = value


def nearest(root, choices, why):
    """Which settings may have been meant where Hydra does not know one, as the end of its message."""
    if not (unknown := re.match(r"Could not override '([^']+)'", why)):
        return ""
    known = [key for key, _ in leaves(composed(root, choices))]
    # With its section left out, as in egopw.root, or by a slip.
    meant = [key for key in known if key.endswith(f".{unknown[1]}")] or difflib.get_close_matches(unknown[1], known)
    return f" There is {', '.join(meant)}" if meant else " params.yaml has every setting there is"


def configured(root, raw, overrides, fresh=False):
    """The params.yaml that follows from the one that is there and `overrides` -> (dict, own changes that it keeps).

    raw: the present content, or None. fresh: keep nothing of it but its choices.
    Raises params.SettingsError for a choice or value that there is not.
    """
    now = raw["run"] if isinstance(raw, dict) and isinstance(raw.get("run"), dict) else {}
    groups = {key: value for key, _, value in (o.partition("=") for o in overrides) if key in params.GROUPS}
    choices = {group: now[group] for group in params.GROUPS if group in now}
    if groups.get("profile", choices.get("profile")) != choices.get("profile"):
        # Rows chosen for one profile are no answer to what another is there for.
        choices.pop("tables", None)
    choices |= groups
    try:
        result = composed(root, choices, [o for o in overrides if o.partition("=")[0] not in params.GROUPS])
        kept = {} if fresh or not now else own_changes(raw, composed(root, now))
    except HydraException as error:
        # Without its advice, which is for Hydra's own command line.
        why = re.split(r"Config search path|To append to your config", " ".join(str(error).split()))[0].strip()
        raise params.SettingsError(f"{' '.join(overrides)}: {why}{nearest(root, choices, why)}") from None
    named = [o.partition("=")[0].lstrip("+") for o in overrides]
    left = choices.get("dataset") != now.get("dataset")
    for key, value in [*kept.items()]:
        if (left and key.startswith("dataset.")) or any(key == n or key.startswith(f"{n}.") for n in named):
            del kept[key]
        else:
            put(result, key, value)
    params.from_dict(result)
    return result, kept


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="dataset=, profile=, tables= or a setting")
    parser.add_argument("--fresh", action="store_true", help="drop your own changes")
    options = parser.parse_args(arguments)
    path = ROOT / "params.yaml"
    raw = yaml.safe_load(path.read_text()) if path.is_file() else None
    if bad := [o for o in options.overrides if "=" not in o]:
        parser.error(f"{bad[0]!r} is not of the form NAME=VALUE")
    try:
        result, kept = configured(ROOT, raw, options.overrides, options.fresh)
    except params.SettingsError as error:
        sys.exit(f"error: {error}; params.yaml stays as it was")
    if options.overrides or options.fresh:
        path.write_text(yaml.safe_dump(result, sort_keys=False))
    print("this working copy runs " + ", ".join(f"{group}={name}" for group, name in result["run"].items()))
    for key, value in kept.items():
        print(f"with your own {key}={value}")


if __name__ == "__main__":
    main()
