"""The motion stream (Sec. 3.2): frame features from a ResNet, then a local-to-global temporal encoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .backbone import Freezable, Image, ResNetStages, Stride16, WeightsError, fitted, read_checkpoint

# ActionFormer's blocks in the order in which data passes them; its first stem block is left out to make eight.
ACTIONFORMER_BLOCKS = ("stem.1", *(f"branch.{i}" for i in range(7)))

Frames = Float[Tensor, "B T C"]
# Which frames are valid, where some are padding.
Mask = Bool[Tensor, "B T"] | None
# Which frame (row) may attend to which (column), or all to all.
Pairs = Bool[Tensor, "T T"] | Bool[Tensor, "B 1 T T"] | None


def check_mask(mask: Tensor | None, batch: int, frames: int) -> None:
    """Raise ValueError unless `mask` is None or bool (B, T)."""
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (batch, frames)):
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}, expected torch.bool ({batch}, {frames})")


class FrameEncoder(nn.Module):
    """Images -> static features F_s, Eq. 3.

    conv1..layer3, the trunk, never train: no gradients, and their BatchNorm keeps its statistics after `.train()` too.
    layer4, the linear layer and the last BatchNorm train.

    backbone: "resnet50" (the paper) or "resnet18".
    init: "scratch", "imagenet", a file (see `ResNetStages`), or "heatmap_encoder", which copies the encoder of a
        trained HeatmapNet from `heatmap_state`, its state dict (resnet18 only).
    """

    def __init__(
        self, backbone: str = "resnet50", init: str = "scratch", dim: int = 384, heatmap_state: dict | None = None
    ):
        super().__init__()
        from_heatmaps = str(init) == "heatmap_encoder"
        if from_heatmaps and backbone != "resnet18":
            raise ValueError(f'init="heatmap_encoder" needs backbone="resnet18", not {backbone!r}')
        if from_heatmaps != (heatmap_state is not None):
            raise ValueError('heatmap_state goes with init="heatmap_encoder", and only with it')
        self.encoder = ResNetStages(backbone, "scratch" if from_heatmaps else init)
        if from_heatmaps:
            prefix = "encoder."
            state = {key.removeprefix(prefix): v for key, v in heatmap_state.items() if key.startswith(prefix)}
            self.encoder.load_state_dict(fitted(self.encoder, state, source="heatmap_state", prefix=prefix))
        self.backbone, self.dim = backbone, dim
        self.project = nn.Linear(self.encoder.channels[-1], dim, bias=False)  # the norm that follows has a bias
        self.norm = nn.BatchNorm1d(dim)
        for module in self.frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def frozen_modules(self):
        """The parts of the trunk that hold parameters."""
        e = self.encoder
        return e.conv1, e.bn1, e.layer1, e.layer2, e.layer3

    def train(self, mode=True):
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self

    def trunk(self, images: Image) -> Stride16:
        """Features of layer3, without gradients."""
        with torch.no_grad():
            return self.encoder.stages(images)[-1]

    def head(self, features: Float[Tensor, "B T C16 h w"], mask: Mask = None) -> Float[Tensor, "B T dim"]:
        """Trunk features -> F_s; frames whose mask is False give 0.

        Such frames do not enter any BatchNorm's statistics. Raises ValueError when no frame is valid.
        """
        check_mask(mask, *features.shape[:2])
        valid = features.flatten(0, 1) if mask is None else features[mask]
        if len(valid) == 0:
            raise ValueError("the mask leaves no valid frame")
        x = self.norm(self.project(self.encoder.layer4(valid).mean(dim=(2, 3))))
        if mask is None:
            return x.unflatten(0, features.shape[:2])
        out = x.new_zeros(*mask.shape, self.dim)
        out[mask] = x
        return out

    def forward(self, images: Float[Tensor, "B T 3 H W"], mask: Mask = None) -> Float[Tensor, "B T dim"]:
        return self.head(self.trunk(images.flatten(0, 1)).unflatten(0, images.shape[:2]), mask)


# The modules below name and shape their parameters as ActionFormer's checkpoints do, which hold convolutions over
# (B, C, T). They compute on (B, T, C), where the same operations are plain matrix products and shifts: torch's own
# convolution over time is several times slower on a CPU at these sizes.


class ChannelNorm(nn.Module):
    """LayerNorm over the channels."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dim, 1))
        self.bias = nn.Parameter(torch.zeros(1, dim, 1))

    def forward(self, x: Frames) -> Frames:
        return F.layer_norm(x, x.shape[-1:], self.weight.flatten(), self.bias.flatten(), 1e-5)


class PointwiseConv(nn.Conv1d):
    """Convolution over one frame."""

    def __init__(self, channels: int, channels_out: int):
        super().__init__(channels, channels_out, 1)

    def forward(self, x: Frames) -> Float[Tensor, "B T C_out"]:
        return F.linear(x, self.weight.squeeze(-1), self.bias)


class DepthwiseConv(nn.Module):
    """Depthwise convolution over three frames, with zeros before the first and after the last.

    ActionFormer masks its output. Here no frame attends to a padded one, which comes to the same.
    """

    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim, bias=False)

    def forward(self, x: Frames) -> Frames:
        before, here, after = self.conv.weight.squeeze(1).T
        padded = F.pad(x, (0, 0, 1, 1))
        return torch.addcmul(torch.addcmul(padded[:, :-2] * before, x, here), padded[:, 2:], after)


class ScaledDropPath(nn.Module):
    """A residual branch's learned scale per channel, then stochastic depth: whole samples dropped while training."""

    def __init__(self, dim, rate, scale_init):
        super().__init__()
        self.rate = rate
        self.scale = nn.Parameter(torch.full((1, dim, 1), scale_init))

    def forward(self, x: Frames) -> Frames:
        x = self.scale.flatten() * x
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty(len(x), 1, 1).bernoulli_(keep) / keep)


class MaskedAttention(nn.Module):
    """Multi-head attention whose queries, keys and values first pass a depthwise convolution and a norm."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        for name in ("query", "key", "value"):
            setattr(self, f"{name}_conv", DepthwiseConv(dim))
            setattr(self, f"{name}_norm", ChannelNorm(dim))
            setattr(self, name, PointwiseConv(dim, dim))
        self.proj = PointwiseConv(dim, dim)

    def forward(self, x: Frames, mask: Bool[Tensor, "B T 1"] | None, allowed: Pairs) -> Frames:
        q = self.query(self.query_norm(self.query_conv(x)))
        k = self.key(self.key_norm(self.key_conv(x)))
        v = self.value(self.value_norm(self.value_conv(x)))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, T, C/heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return out if mask is None else out * mask


class TemporalBlock(nn.Module):
    """One pre-norm transformer block at stride 1; local or global according to the pairs it is given."""

    def __init__(self, dim, heads, mlp_ratio, drop_path, scale_init):
        super().__init__()
        self.ln1, self.ln2 = ChannelNorm(dim), ChannelNorm(dim)
        self.attn = MaskedAttention(dim, heads)
        hidden = mlp_ratio * dim
        # Identity stands where checkpoints count a dropout of rate 0, so that the second convolution is number 3.
        self.mlp = nn.Sequential(PointwiseConv(dim, hidden), nn.GELU(), nn.Identity(), PointwiseConv(hidden, dim))
        self.drop_path_attn = ScaledDropPath(dim, drop_path, scale_init)
        self.drop_path_mlp = ScaledDropPath(dim, drop_path, scale_init)

    def forward(self, x: Frames, mask: Bool[Tensor, "B T 1"] | None, allowed: Pairs) -> Frames:
        attention = self.drop_path_attn(self.attn(self.ln1(x), mask, allowed))
        x = (x if mask is None else x * mask) + attention
        update = self.mlp(self.ln2(x))
        return x + self.drop_path_mlp(update if mask is None else update * mask)


def allowed_pairs(frames: int, half_window: int | None = None, mask: Mask = None, device=None) -> Pairs:
    """Which frame (row) may attend to which (column), or None for all pairs.

    half_window: at most this many frames apart. mask: only its True frames are attended to.
    """
    if half_window is None and mask is None:
        return None
    time = torch.arange(frames, device=device)
    distance = (time[:, None] - time).abs()
    near = distance >= 0 if half_window is None else distance <= half_window
    if mask is None:
        return near
    # A padded frame may see itself: no softmax runs over nothing, and its output is masked away afterwards.
    return (near & mask[:, None, None, :]) | (distance == 0)


class MotionEncoder(Freezable):
    """Static features F_s -> motion features F_m, aligned in time (Sec. 3.2).

    `depth` ActionFormer blocks at stride 1: the first `local_blocks` see frames at most window // 2 away,
    the others the whole sequence. The paper's w = 8 and ActionFormer's window 9 both mean 4 frames each side.

    drop_path: rate of stochastic depth while training. scale_init: first scale of the residual branches.
    """

    def __init__(
        self,
        dim: int = 384,
        heads: int = 4,
        depth: int = 8,
        local_blocks: int = 4,
        window: int = 9,
        drop_path: float = 0.1,
        mlp_ratio: int = 4,
        scale_init: float = 1e-4,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        if not 0 <= local_blocks <= depth:
            raise ValueError(f"local_blocks is {local_blocks}, expected 0 to depth = {depth}")
        if window < 1:
            raise ValueError(f"window is {window}, expected at least 1")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}, expected 0 <= drop_path < 1")
        self.dim, self.local_blocks, self.half_window = dim, local_blocks, window // 2
        self.blocks = nn.ModuleList(TemporalBlock(dim, heads, mlp_ratio, drop_path, scale_init) for _ in range(depth))
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Frames, mask: Mask = None) -> Frames:
        """F_s -> F_m, 0 where the mask says that a frame is not valid.

        What padded frames hold never matters. (The ends of a padded sequence still differ a little from those of
        the same sequence without padding: a block's convolutions meet its norm's bias there instead of zeros.)
        """
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"x is {tuple(x.shape)}, expected (B, T, {self.dim})")
        check_mask(mask, *x.shape[:2])
        local_pairs = allowed_pairs(x.shape[1], self.half_window, mask, x.device)
        global_pairs = allowed_pairs(x.shape[1], None, mask, x.device)
        if mask is not None:
            mask = mask.unsqueeze(-1)
            x = x.masked_fill(~mask, 0)
        for i, block in enumerate(self.blocks):
            x = block(x, mask, local_pairs if i < self.local_blocks else global_pairs)
        return x

    def load_actionformer(self, path, mapping: tuple[str, ...] = ACTIONFORMER_BLOCKS, use_ema: bool = False) -> None:
        """Fill the blocks, in order, from the backbone blocks `mapping` of an ActionFormer checkpoint (`*.pth.tar`).

        use_ema: take the running average of the weights (`state_dict_ema`) instead of the weights.
        Raises ValueError when `mapping` does not name one block for each of ours, and WeightsError when the file is
        no such checkpoint or a weight is missing or has another shape. Nothing is loaded then.
        """
        if len(mapping) != len(self.blocks):
            raise ValueError(f"mapping names {len(mapping)} blocks, the encoder has {len(self.blocks)}")
        entry = "state_dict_ema" if use_ema else "state_dict"
        checkpoint = read_checkpoint(path)
        if not isinstance(checkpoint.get(entry), dict):
            raise WeightsError(f"{path} has no {entry!r}: found {sorted(map(str, checkpoint))[:8]}")
        weights, states = checkpoint[entry], []
        for block, name in zip(self.blocks, mapping, strict=True):
            prefix = f"module.backbone.{name}."
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            if not state:
                raise WeightsError(f"{path} has no {prefix}*; its keys look like {list(weights)[:3]}")
            states.append(fitted(block, state, source=path, prefix=prefix))
        for block, state in zip(self.blocks, states, strict=True):
            block.load_state_dict(state)


class ActionHead(nn.Module):
    """Motion features -> action logits, to train a MotionEncoder on action labels."""

    def __init__(self, dim: int, num_actions: int):
        super().__init__()
        self.linear = nn.Linear(dim, num_actions)

    def forward(self, motion: Frames) -> Float[Tensor, "B T num_actions"]:
        return self.linear(motion)
