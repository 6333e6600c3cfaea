"""Attention: two products and a softmax, in the form that costs least where it is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sidbench.decoder.noise import Noise, drop, masked_


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(rows, heads, places, head width) queries on keys and values; out (rows, places, all heads)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores += bias
    out: Tensor = scores.softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


def attend_few(q: Tensor, joint: Tensor, heads: int) -> Tensor:
    """One query a row (rows, all heads) on a few keys and values (rows, places, 2 x all heads).

    Summed element by element: products of one row with a handful are too small to be worth a call each.
    """
    rows, places, _ = joint.shape
    k, v = joint.view(rows, places, 2, heads, -1).unbind(2)
    q = q.view(rows, 1, heads, -1)
    weights = ((q * k).sum(-1) * q.shape[-1] ** -0.5).softmax(1)
    out: Tensor = (weights.unsqueeze(-1) * v).sum(1)
    return out.flatten(1)


def attend_stream(q: Tensor, k: Tensor, v: Tensor, own_k: Tensor, own_v: Tensor, bias: Tensor) -> Tensor:
    """q (users, heads, beams, head width) on a user's keys and values, and on a few that each beam has alone.

    Those, (users, heads, beams, few, head width), are summed element by element, as in `attend_few`.
    """
    q = q * q.shape[-1] ** -0.5
    scores = torch.cat((q @ k.transpose(-1, -2) + bias, (q.unsqueeze(3) * own_k).sum(-1)), -1)
    weights, own = scores.softmax(-1).split_with_sizes([k.shape[2], own_k.shape[3]], -1)
    out: Tensor = weights @ v + (own.unsqueeze(-1) * own_v).sum(3)
    return out.transpose(1, 2).flatten(2)


def self_attention(joint: Tensor, heads: int, bias: Tensor | None, noise: Noise | None) -> Tensor:
    """`attend` of queries, keys and values from one tensor (rows, places, 3 x all heads), to be trained."""
    mask = None if noise is None else noise.mask((len(joint) * heads, joint.shape[1], joint.shape[1]))
    return _SelfAttention.apply(joint, heads, bias, mask)  # type: ignore[no-any-return, no-untyped-call]


def cross_attention(
    q: Tensor, memory: Tensor, keys_values: Tensor, bias: Tensor | None, noise: Noise | None
) -> Tensor:
    """`attend` of q (rows, heads, queries, head width) on `memory @ keys_values.T`, which is never made.

    With few queries a row it is cheaper to take each query (and each answer) through the weights than the
    whole memory: q (W m) = (W' q) m. The same numbers, an eighth of the work for 4 queries on 80 places.
    """
    rows, heads, queries, head_width = q.shape
    width = memory.shape[-1]
    key, value = keys_values.view(2, heads, head_width, width).unbind(0)
    q = (q * head_width**-0.5).transpose(0, 1).reshape(heads, rows * queries, head_width)
    q = (q @ key).view(heads, rows, queries, width).transpose(0, 1).reshape(rows, heads * queries, width)
    scores = q @ memory.transpose(1, 2)
    if bias is not None:
        scores += bias[:, 0]
    seen = drop(scores.softmax(-1), noise) @ memory
    seen = seen.view(rows, heads, queries, width).transpose(0, 1).reshape(heads, rows * queries, width)
    out: Tensor = (seen @ value.transpose(1, 2)).view(heads, rows, queries, head_width)
    return out.permute(1, 2, 0, 3).flatten(2)


class _SelfAttention(torch.autograd.Function):
    """Written out: on a processor, at these lengths, two products beat the fused kernel, backward most.

    The gradients of queries, keys and values land in one tensor, which plain operations would concatenate.
    """

    @staticmethod
    def forward(ctx: Any, joint: Tensor, heads: int, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        rows, places, inner = joint.shape
        head_width = inner // (3 * heads)
        # A copy even where one row of one place needs none: it is written to below.
        parts = joint.view(rows, places, 3, heads, head_width).permute(2, 0, 3, 1, 4)
        parts = parts.clone(memory_format=torch.contiguous_format)
        q, k, v = parts.flatten(1, 2)
        q *= head_width**-0.5
        scores = torch.bmm(q, k.transpose(1, 2))
        if bias is not None:
            scores.view(rows, heads, places, places).add_(bias)
        weights = scores.softmax(-1)
        kept = weights if mask is None else (weights.view(mask.dtype) & mask).view(weights.dtype)
        ctx.save_for_backward(parts, weights, kept, mask)
        out = torch.bmm(kept, v).view(rows, heads, places, head_width)
        return out.transpose(1, 2).reshape(rows, places, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        parts, weights, kept, mask = ctx.saved_tensors
        _, rows, heads, places, head_width = parts.shape
        q, k, v = parts.flatten(1, 2)
        gradient = gradient.view(rows, places, heads, head_width).transpose(1, 2).flatten(0, 1)
        out = torch.empty_like(parts)
        to_q, to_k, to_v = out.flatten(1, 2)
        torch.bmm(kept.transpose(1, 2), gradient, out=to_v)
        scores = torch.bmm(gradient, v.transpose(1, 2))
        if mask is not None:
            masked_(scores, mask)
        scores = torch._softmax_backward_data(scores, weights, -1, scores.dtype)
        torch.bmm(scores, k, out=to_q)
        torch.bmm(scores.transpose(1, 2), q, out=to_k)
        to_q *= head_width**-0.5
        return out.permute(1, 3, 0, 2, 4).reshape(rows, places, -1), None, None, None
