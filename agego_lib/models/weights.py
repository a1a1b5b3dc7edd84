"""The suite's own weights: a safetensors file, and a JSON of the settings it was made with beside it.

A packed file, as weights are released, holds matrices and kernels in half precision and equal tensors once; the JSON's
"aliases" name the others. Both kinds are read alike.
"""

import json
from pathlib import Path
from reprlib import repr as short

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from agego_lib.files import read_json, replacing
from agego_lib.models.backbone import WeightsError, read_checkpoint

LOSS = 1e-3  # of a tensor's norm, that half precision may take: it takes 2e-4 where numbers are of usual sizes


def halved(parameter: Tensor) -> Tensor:
    """A parameter in float16 where that holds it: as it is where a number overflows or more than LOSS is lost.

    Vectors (biases, norms) stay as they are too: they take few bytes and are multiplied into everything.
    """
    half = parameter.half()
    lost = torch.linalg.vector_norm(half.float() - parameter)
    fits = parameter.ndim > 1 and bool(half.isfinite().all()) and lost <= LOSS * torch.linalg.vector_norm(parameter)
    return half if fits else parameter


def pack(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state of a module for release -> (tensors, name -> the equal tensor that stands for it).

    Buffers, such as BatchNorm's statistics, keep their precision; of equal tensors the first stays.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    state |= {name: halved(state[name]) for name, _ in module.named_parameters(remove_duplicate=False)}
    kept, aliases, known = {}, {}, {}
    for name, tensor in state.items():
        content = (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())
        if content in known:
            aliases[name] = known[content]
        else:
            known[content], kept[name] = name, tensor
    return kept, aliases


def save(path, module: nn.Module, info: dict, packed: bool = False) -> None:
    """Write the module's state to `path` (.safetensors) and `info`, a JSON-able dict, to the .json beside it.

    Whole or not at all, and weights never stand beside the settings of others. Raises OSError where they cannot be
    written; what was there before is then still there.
    """
    path = Path(path)
    settings = path.with_suffix(".json")
    if packed:
        state, aliases = pack(module)
        info = info | {"aliases": aliases}
    else:
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
    """(state dict on the CPU, info dict) of a file that `save` wrote, packed or not; half precision becomes float32.

    Raises WeightsError where either file is missing or unreadable, or the two do not belong together.
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
    state = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in state.items()}
    return _unaliased(path, state, info.pop("aliases", {})), info


def _unaliased(path, state, aliases):
    """The state dict with the tensors that others of it stand for."""
    table = f"{path.with_suffix('.json')}, 'aliases'"
    whole = f"copy or download {path.name} and its .json again, both"
    if not isinstance(aliases, dict) or not all(isinstance(other, str) for other in aliases.values()):
        raise WeightsError(f"{table}: {short(aliases)}; expected names of tensors by name; {whole}")
    for name, other in aliases.items():
        if name in state:
            raise WeightsError(f"{table}: {name!r}, which {path.name} holds itself; {whole}")
        if other not in state:
            raise WeightsError(f"{table}: {name!r} is to equal {other!r}, which {path.name} does not hold; {whole}")
    return state | {name: state[other] for name, other in aliases.items()}
