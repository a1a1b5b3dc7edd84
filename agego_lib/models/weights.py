"""The suite's own weights: a safetensors file, and a JSON of the settings it was made with beside it."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from agego_lib.files import read_json, replacing
from agego_lib.models.backbone import WeightsError, read_checkpoint


def save(path, module: nn.Module, info: dict) -> None:
    """Write the module's state to `path` (.safetensors) and `info`, a JSON-able dict, to the .json beside it.

    Whole or not at all, and weights never stand beside the settings of others. Raises OSError where they cannot be
    written; what was there before is then still there.
    """
    path = Path(path)
    settings = path.with_suffix(".json")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with replacing(settings) as partial_settings:
        partial_settings.write_text(json.dumps(info, indent=2, sort_keys=True) + "\n")
        with replacing(path) as partial:
            try:
                save_file(state, partial)
            except SafetensorError as error:
                raise OSError(str(error)) from error
            # `load` refuses weights without settings, which come back in a moment.
            settings.unlink(missing_ok=True)


def load(path) -> tuple[dict[str, Tensor], dict]:
    """(state dict on the CPU, info dict) of a file that `save` wrote.

    Raises WeightsError where either file is missing or unreadable.
    """
    path = Path(path)
    state = read_checkpoint(path)
    try:
        info = read_json(path.with_suffix(".json"))
        if not isinstance(info, dict):
            raise ValueError(f"a {type(info).__name__}, expected a dict")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path.with_suffix('.json')}, the settings of {path.name}, cannot be read: {error}"
        ) from None
    return state, info
