"""Quantizers: small ones in double precision, their rows, and gradients by difference, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidbench.kit import vq
from sidbench.kit.nearest import Floats

END = torch.ones(())


def rows(n: int, d: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def quantizer(
    sizes: tuple[int, ...] = (5, 4, 3), dim: int = 6, seed: int = 0, **choices: Any
) -> vq.ResidualVQ:
    rng = torch.Generator().manual_seed(seed)
    return vq.ResidualVQ(sizes, dim, vq.Choices(**choices), rng).double()


def latents(n: int = 40, d: int = 6, seed: int = 0) -> Tensor:
    return torch.from_numpy(rows(n, d, seed)).double().requires_grad_()


def losses(q: vq.ResidualVQ, z: Tensor) -> vq.Quantized:
    # Double precision throughout, for differences; `forward` would bring latents to float32.
    return q._forward(z, END)


def by_difference(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a scalar by central differences."""
    found = torch.zeros_like(at)
    for i in range(at.numel()):
        ends = []
        for side in (step, -step):
            moved = at.detach().clone()
            moved.view(-1)[i] += side
            ends.append(float(f(moved)))
        found.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
    return found
