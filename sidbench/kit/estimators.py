"""Gradient estimators: how what comes after a choice of codewords teaches what came before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.kit.shares import share

Estimator = Literal["straight-through", "rotation", "gumbel"]

NOTHING = 1e-12  # a length without a direction


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """The value of q, the gradient of z (https://arxiv.org/abs/1308.3432)."""
    return z + (q - z).detach()


def rotation(z: Tensor, q: Tensor) -> Tensor:
    """The value of q as z turned and stretched onto it, both held constant (https://arxiv.org/abs/2410.06424).

    With e and f the directions of z and q and w that of e + f, the turn is z - 2 w (w.z) + 2 f (e.z), and
    |q| / |z| the stretch: the gradient keeps its angle to the codeword. A z of zeros has no direction that
    could be turned and goes straight through.
    """
    with torch.no_grad():
        length = _length(z)
        e, f = F.normalize(z, dim=1), F.normalize(q, dim=1)
        w = F.normalize(e + f, dim=1)
        stretch = _length(q) / length.clamp_min(NOTHING)
    turned: Tensor = z - 2 * w * (w * z).sum(dim=1, keepdim=True) + 2 * f * (e * z).sum(dim=1, keepdim=True)
    return torch.where(length > NOTHING, stretch * turned, straight_through(z, q))


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return length


def gumbel(squares: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
    """Weights of the codewords: softmax(noise - squares / (scale temperature)), noise of Gumbel(0, 1).

    The scale is the mean squared distance to the nearest codeword, so that a temperature means the same at
    every level and for any data; towards temperature 0 the nearest codeword takes all, as in `encode`
    (https://arxiv.org/abs/1611.01144).
    """
    scale = share().mean(squares.detach().amin(dim=1)).clamp_min(1e-12)
    return torch.softmax(noise - squares / (scale * temperature), dim=1)


def gumbel_noise(shape: torch.Size, like: Tensor) -> Tensor:
    """Gumbel(0, 1) numbers from the device's own generator, which the training loop seeds."""
    return -torch.empty(shape, dtype=like.dtype, device=like.device).exponential_().clamp_min_(1e-30).log_()


#: Those that act once on the sum of the levels; `gumbel` weighs the codewords at every level instead.
ON_SUM: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {
    "straight-through": straight_through,
    "rotation": rotation,
}
