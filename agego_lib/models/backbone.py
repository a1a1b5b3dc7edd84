"""What both streams stand on: ResNet stages, weight files, and parts that stay frozen."""

import errno
import re
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

# Output channels of layer1..layer4.
STAGE_CHANNELS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}
IMAGENET = {
    "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
}


Image = Float[Tensor, "N 3 H W"]
Stride4, Stride8 = Float[Tensor, "N C4 H/4 W/4"], Float[Tensor, "N C8 H/8 W/8"]
Stride16, Stride32 = Float[Tensor, "N C16 H/16 W/16"], Float[Tensor, "N C32 H/32 W/32"]


class WeightsError(RuntimeError):
    """Weights that cannot be fetched, read, or do not fit the network."""


def _unreadable(error):
    """What an error on reading weights says of the file. PyTorch's own words advise to run what it holds as code."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which PyTorch gives for a cut file
        return f"{error}. Look at the file's permissions and the disk"
    detail = next(iter(str(error).splitlines()), type(error).__name__)
    if "weights_only" in str(error) or "Weights only" in detail:
        if named := re.search(r"GLOBAL ([\w.]{1,200})", str(error)):
            return (
                f"beside tensors it holds a Python object ({named[1]}), which can run code and is never loaded. Save "
                "the state dict alone, where you trust the file, or use another one"
            )
        detail = "no pickle of plain data"
    return f"it is damaged, or of another kind ({detail:.300}). Copy or download it again"


def read_checkpoint(path: str | Path) -> dict:
    """The dict in a `.safetensors` file or in a file of `torch.save` (read with `weights_only=True`), on the CPU.

    Raises WeightsError when the file is missing, damaged, holds more than plain data, or holds no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise nearly anything
        raise WeightsError(f"{path} cannot be read as weights: {_unreadable(error)}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def fitted(module: nn.Module, state: dict, source: str, prefix: str = "") -> dict:
    """`state`, checked to fit `module` key by key and shape by shape.

    `source` and `prefix` (what stands before the keys in the source) only make the message.
    Raises WeightsError that lists missing, misshapen and unknown keys.
    """
    wanted = module.state_dict()
    # Files older than BatchNorm's step counter lack it, and nothing here reads it.
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    state = counters | state
    problems = [f"missing {prefix}{key} {tuple(value.shape)}" for key, value in wanted.items() if key not in state]
    problems += [
        f"{prefix}{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems += [f"unknown {prefix}{key}" for key in state if key not in wanted]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise WeightsError(f"{source} does not fit: {'; '.join(problems[:8])}{more}")
    return state


def imagenet_state_dict(backbone: str) -> dict[str, Tensor]:
    """ImageNet weights through torchvision, which keeps them in torch.hub's folder.

    Raises WeightsError that says where to put the file when it cannot be downloaded.
    """
    weights = IMAGENET[backbone]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
        raise WeightsError(
            f"the ImageNet weights of {backbone} could not be fetched from {weights.url} ({error}). "
            f"Download that file elsewhere and save it as {place}, "
            'or set `init` to the path of a weights file, or to "scratch".'
        ) from error


class ResNetStages(nn.Module):
    """A torchvision ResNet without its classifier; parameters keep torchvision's names.

    `init`: "scratch", "imagenet", or the path of a `.safetensors` or `.pth` state dict (its classifier is ignored).
    """

    def __init__(self, backbone: str = "resnet18", init: str | Path = "scratch"):
        super().__init__()
        if backbone not in STAGE_CHANNELS:
            raise ValueError(f"backbone is {backbone!r}, expected one of {sorted(STAGE_CHANNELS)}")
        net = getattr(torchvision.models, backbone)(weights=None)
        self.channels = STAGE_CHANNELS[backbone]
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        if str(init) != "scratch":
            state = imagenet_state_dict(backbone) if init == "imagenet" else read_checkpoint(init)
            state = {key: value for key, value in state.items() if not key.startswith("fc.")}
            self.load_state_dict(fitted(self, state, source=f"init={str(init)!r} for {backbone}"))

    def stages(self, images: Image) -> tuple[Stride4, Stride8, Stride16]:
        """The outputs of layer1, layer2 and layer3."""
        c1 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c2 = self.layer2(c1)
        return c1, c2, self.layer3(c2)

    def forward(self, images: Image) -> tuple[Stride4, Stride8, Stride16, Stride32]:
        """The outputs of layer1..layer4."""
        c1, c2, c3 = self.stages(images)
        return c1, c2, c3, self.layer4(c3)


class Freezable(nn.Module):
    """A part that can be frozen until it is thawed: no gradients, and eval mode even after `.train()`."""

    frozen = False

    def freeze(self):
        """Freeze the part and return it."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def thaw(self):
        """Let the part train again and return it."""
        self.frozen = False
        self.requires_grad_(True)
        return self.train()

    def train(self, mode=True):
        return super().train(mode and not self.frozen)
