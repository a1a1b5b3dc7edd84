"""What several processes must share for their step to be that of one process with the whole batch."""

from contextlib import contextmanager

import torch
import torch.distributed
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """Sum over all processes. Every process's loss depends on it, so that its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, tensor):
        tensor = tensor.clone()
        torch.distributed.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore
        return _Sum.apply(gradient.contiguous())


class _SyncedBatchNorm(_BatchNorm):
    """BatchNorm over the samples of all processes, however many each has (torch's SyncBatchNorm knows only GPUs)."""

    def _check_input_dim(self, x):
        if x.ndim < 2:
            raise ValueError(f"{x.ndim} dimensions, expected (N, C, ...)")

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        over, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        # Statistics and the normalisation itself are in float32, as torch has them in mixed precision.
        wide = x.float()
        sums = _Sum.apply(torch.cat([wide.sum(over), wide.new_tensor([x.numel() / x.shape[1]])]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


@contextmanager
def synced_batch_norm(objective, ranks):
    """While it lasts, every BatchNorm of `objective` that trains works over all processes."""
    layers = [m for m in objective.modules() if isinstance(m, _BatchNorm)] if ranks > 1 else []
    classes = [type(layer) for layer in layers]
    try:
        for layer in layers:
            layer.__class__ = _SyncedBatchNorm
        yield
    finally:
        for layer, kind in zip(layers, classes, strict=True):
            layer.__class__ = kind


def share_step(loss, values, weight, flags, fabric):
    """Put one step of all processes together -> (loss for this process's backward pass, values, flags).

    loss, values: this process's means over `weight` terms (frames, labels); the loss that comes back is scaled so that
    the mean of all processes' gradients is the gradient of the mean over all terms; values are means over all terms.
    flags: numbers of which each is summed over the processes.
    """
    weight = torch.as_tensor(weight, dtype=torch.float64, device=loss.device)
    parts = [weight, *(weight * value.double() for value in values.values())]
    parts += [torch.tensor(float(flag), dtype=torch.float64, device=loss.device) for flag in flags]
    sums = torch.stack(parts)
    torch.distributed.all_reduce(sums)
    total = sums[0].clamp(min=1)
    means = dict(zip(values, sums[1 : 1 + len(values)] / total, strict=True))
    return loss * (weight / total * fabric.world_size).to(loss.dtype), means, sums[1 + len(values) :].tolist()


def gather(value, fabric):
    """[value of every process] on process 0, None on the others; on one process, [value]."""
    if fabric.world_size == 1:
        return [value]
    values = [None] * fabric.world_size if fabric.is_global_zero else None
    torch.distributed.gather_object(value, values)
    return values
