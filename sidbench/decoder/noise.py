"""Cheap dropout masks: eight random bits an element, drawn in large pieces from a generator of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PIECE = 1 << 20


class Noise:
    """Hands out masks of zeros and ones. The rate is rounded to 1/256; the scale is that of the rounded rate.

    torch's own dropout spends on random numbers as much as all else in a step on a processor: it draws more
    bits and one element at a time.
    """

    def __init__(self, rate: float, seed: int, device: torch.device) -> None:
        self._below = round(rate * 256)
        self.scale = 256 / (256 - self._below)
        self._device = device
        self._host = np.random.Generator(np.random.SFC64(seed))
        self._pool = torch.empty(0, dtype=torch.uint8, device=device)
        self._next = 0
        if device.type == "cuda":
            self._generator = torch.Generator(device).manual_seed(seed)

    def kept(self, like: Tensor) -> Tensor:
        """A mask of the shape of `like`: 1 where the element stays. Multiply by `scale` afterwards."""
        count = like.numel()
        if self._next + count > len(self._pool):
            # A new piece, never the old memory again: masks handed out live on until the backward pass.
            self._pool = self._draw(max(_PIECE, count))
            self._next = 0
        self._next += count
        return self._pool[self._next - count : self._next].view(like.shape)

    def _draw(self, count: int) -> Tensor:
        if self._device.type == "cuda":
            size = (count,)
            bits = torch.randint(256, size, dtype=torch.uint8, device=self._device, generator=self._generator)
        else:
            words = self._host.integers(0, 2**64 - 1, -(-count // 8), dtype=np.uint64, endpoint=True)
            bits = torch.from_numpy(words.view(np.uint8))
        return bits.ge_(self._below)
