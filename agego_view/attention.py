"""The attention weights of a model at work, read beside its forward pass and without changing it.

torch computes the pose decoder's and the motion blocks' attention in one fused step that keeps no weights. They are
computed a second time here, from the very inputs that each module was given.
"""

import math
from contextlib import contextmanager

import torch
from torch import nn

from agego_lib.models.motion import MaskedAttention


def temporal_weights(attention, x, allowed=None):
    """Weights of one motion block's MaskedAttention for its input x (B, T, C) -> (B, heads, T, T), rows sum to 1.

    allowed: which frame may attend to which, as `MaskedAttention.forward` takes it; a forbidden pair has weight 0.
    """
    q = attention.query(attention.query_norm(attention.query_conv(x)))
    k = attention.key(attention.key_norm(attention.key_conv(x)))
    q, k = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in (q, k))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return scores.softmax(-1)


def cross_weights(attention, queries, memory):
    """Weights of one decoder layer's nn.MultiheadAttention -> (B, heads, queries, memory tokens), rows sum to 1."""
    # The module's own forward, and not the module, whose hook would call this again.
    options = {"need_weights": True, "average_attn_weights": False}
    return nn.MultiheadAttention.forward(attention, queries, memory, memory, **options)[1]


@contextmanager
def watched(model):
    """While the context lasts, each call of an AGEgoPose's parts is noted -> dict of lists, in the order of calls.

    `heatmaps`: what the heatmap embedding was given, (n, J, h, w) float16 NumPy, one entry a chunk of frames.
    `motion`: one entry a window: (blocks, T, T), mean over heads, queries in rows.
    `cross`: one entry a window: (layers, T, J, J), mean over heads, joint queries in rows, memory's joints in columns.
    A part that the model does not have leaves its list empty. Windows must come one at a time, as
    `inference.predict_sequence` gives them.
    """
    notes, hooks, blocks, layers = {"heatmaps": [], "motion": [], "cross": []}, [], [], []

    def on_heatmaps(_, inputs):
        notes["heatmaps"].append(inputs[0][0].half().cpu().numpy())

    def on_block(attention, inputs):
        x, _, allowed = inputs
        blocks.append(temporal_weights(attention, x, allowed)[0].mean(0))

    def on_layer(attention, inputs):
        layers.append(cross_weights(attention, *inputs[:2]).mean(1))

    def gather(parts, into):
        def after(*_):
            if parts:
                notes[into].append(torch.stack(parts).float().cpu().numpy())
                parts.clear()

        return after

    try:
        if model.use_spatial:
            hooks.append(model.embedding.register_forward_pre_hook(on_heatmaps))
        if model.use_motion:
            attentions = [m for m in model.motion_encoder.modules() if isinstance(m, MaskedAttention)]
            hooks += [m.register_forward_pre_hook(on_block) for m in attentions]
            hooks.append(model.motion_encoder.register_forward_hook(gather(blocks, "motion")))
        if model.use_cross_attention:
            hooks += [m.multihead_attn.register_forward_pre_hook(on_layer) for m in model.decoder.decoder.layers]
            hooks.append(model.decoder.register_forward_hook(gather(layers, "cross")))
        yield notes
    finally:
        for hook in hooks:
            hook.remove()
