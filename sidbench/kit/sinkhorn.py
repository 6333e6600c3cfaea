"""Sinkhorn's iterations: the entropic transport plan between rows and codes, both with uniform marginals."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(costs: Tensor, epsilon: float, iters: int) -> Tensor:
    """The (rows, codes) plan after `iters` iterations: every row sums to 1/rows, a code to nearly 1/codes.

    In the log domain, so that no small `epsilon` under- or overflows. `epsilon` is in the unit of the costs.
    A fixed number of iterations and nothing read back: it can be captured in a CUDA graph.
    """
    plan = costs / -epsilon
    # After each pair of steps codes are nearly, rows exactly uniform.
    rows = torch.logsumexp(plan, dim=1, keepdim=True)
    codes = torch.zeros_like(plan[:1])
    for _ in range(iters):
        codes = -torch.logsumexp(plan - rows, dim=0, keepdim=True)
        rows = torch.logsumexp(plan + codes, dim=1, keepdim=True)
    return (plan + codes - rows).exp_() / len(costs)
