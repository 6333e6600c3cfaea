"""Cheap dropout: sixteen random bits an element, drawn in large pieces; masks applied bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_PIECE = 1 << 20


class Noise:
    """Hands out masks from a generator of its own: all bits set where an element stays, none where it goes.

    torch's own dropout on a processor spends on random numbers as much as all else in a step takes. These
    masks cost a fraction of it, and `x & mask` no conversion. What stays is to be multiplied by `scale`.
    """

    def __init__(
        self,
        rate: float,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        step: int = 0,
        part: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Every step and every part of a batch may have its own. `generator` draws in place of all three."""
        drop = round(rate * 65_536)
        self._below = drop - 32_768
        self.scale = 65_536 / (65_536 - drop)
        self._device = device
        # An integer as wide as the numbers that it masks.
        self._integer = torch.int16 if dtype == torch.bfloat16 else torch.int32
        # SFC64 of [seed, step] is not that of [seed, step, 0]: where there is one part, it goes unnamed.
        self._host = np.random.Generator(np.random.SFC64([seed, step, part] if part else [seed, step]))
        self._pool = torch.empty(0, dtype=self._integer, device=device)
        self._next = 0
        if generator is not None:
            self._generator = generator
        elif device.type == "cuda":
            self._generator = torch.Generator(device).manual_seed((part << 24 | step) << 32 | seed)

    def mask(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """A mask of its own for every call."""
        count = int(np.prod(shape))
        if self._next + count > len(self._pool):
            # A new piece, never the old memory again: masks handed out live on until the backward pass.
            self._pool = self._draw(max(_PIECE, count))
            self._next = 0
        self._next += count
        return self._pool[self._next - count : self._next].view(shape)

    def _draw(self, count: int) -> Tensor:
        if self._device.type == "cuda":
            bits = torch.empty(count, dtype=torch.int16, device=self._device)
            bits.random_(-32_768, 32_768, generator=self._generator)
        else:
            words = self._host.integers(0, 2**64 - 1, -(-count // 4), dtype=np.uint64, endpoint=True)
            bits = torch.from_numpy(words.view(np.int16))
        return bits.ge_(self._below).neg_().to(self._integer)


def drop(x: Tensor, noise: Noise | None) -> Tensor:
    """x with some elements set to zero; the scale is left to the caller, who can often fold it in."""
    return x if noise is None else _Drop.apply(x, noise.mask(x.shape))  # type: ignore[no-untyped-call]


def relu_drop(x: Tensor, noise: Noise | None) -> Tensor:
    """`drop(relu(x))` in the memory of x."""
    if noise is None:
        return x.relu_()
    return _ReluDrop.apply(x, noise.mask(x.shape))  # type: ignore[no-any-return, no-untyped-call]


def masked_(x: Tensor, mask: Tensor) -> Tensor:
    """x, in place, with zeros where the mask has no bits."""
    x.view(mask.dtype).bitwise_and_(mask)
    return x


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return (x.view(mask.dtype) & mask).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (gradient.view(mask.dtype) & mask).view(gradient.dtype), None


class _ReluDrop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        masked_(x.relu_(), mask)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # What was dropped is zero as what was negative is: the result alone says where gradients flow.
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0), None
