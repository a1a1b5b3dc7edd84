"""The suite's own weights: a safetensors file, and a JSON of the settings it was made with beside it."""

import json
from pathlib import Path

from safetensors.torch import save_file

from agego_lib.models.backbone import WeightsError, read_checkpoint


def save(path, module, info):
    """Write the module's state to `path` (.safetensors) and `info`, a JSON-able dict, to the .json beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    partial.replace(path)
    path.with_suffix(".json").write_text(json.dumps(info, indent=2, sort_keys=True) + "\n")


def load(path):
    """(state dict on the CPU, info dict) of a file that `save` wrote.

    Raises WeightsError where either file is missing or unreadable.
    """
    path = Path(path)
    state = read_checkpoint(path)
    try:
        return state, json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path.with_suffix('.json')}, the settings of {path.name}, cannot be read: {error}"
        ) from None
