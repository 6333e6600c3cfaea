"""Cross-entropy of a softmax over a whole table, by pieces: its scores are never held at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: bf16 products have so many rows or a multiple: what is compiled for a shape is kept, for every shape.
GRAIN = 64
#: Pieces whose gradients add up within their products, in bf16; all beyond add up in single precision.
TOGETHER = 2


def cross_entropy(
    states: Tensor, table: Tensor, goals: Tensor, cells: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The sum over rows of -log softmax(states @ table.T)[goals], to be trained.

    `cells` bounds the scores that are held at one time; they and the products are made in `dtype`, sums in
    the precision of the states. The gradients are made on the way: a piece of scores is read three times
    while it is at hand, and nothing of it is kept for the backward pass.
    """
    return _CrossEntropy.apply(states, table, goals, cells, dtype)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, table: Tensor, goals: Tensor, cells: int, dtype: torch.dtype
    ) -> Tensor:
        low, entries, count = states.to(dtype), table.to(dtype), len(states)
        rows = max(1, min(count, cells // len(table)))
        if dtype != torch.float32:
            # Rows of zeros add nothing to a gradient, and their loss is left out.
            low, goals = F.pad(low, (0, 0, 0, -count % GRAIN)), F.pad(goals, (0, -count % GRAIN))
            rows = -(-rows // GRAIN) * GRAIN
        to_states, of_few = states.new_empty(low.shape), torch.zeros_like(entries)
        to_table = of_few if dtype == table.dtype else torch.zeros_like(table)
        piece = low.new_empty(min(rows, len(low)), len(table))
        loss = states.new_zeros(())
        for number, start in enumerate(range(0, len(low), rows), start=1):
            part = slice(start, start + rows)
            x, goal = low[part], goals[part, None]
            scores = torch.mm(x, entries.T, out=piece[: len(x)])
            top, own = scores.amax(1, keepdim=True), scores.gather(1, goal)
            whole = scores.sub_(top).exp_().sum(1, keepdim=True, dtype=states.dtype)
            loss += (whole.log() + top - own)[: count - start].sum()
            # What the softmax gives the goal, less one; all else is divided by `whole` where that is smaller.
            scores.scatter_add_(1, goal, -whole.to(dtype))
            torch.div(torch.mm(scores, entries), whole, out=to_states[part])
            of_few.addmm_(scores.T, (x / whole).to(dtype))
            if of_few is not to_table and (number % TOGETHER == 0 or start + rows >= len(low)):
                to_table += of_few
                of_few.zero_()
        ctx.save_for_backward(to_states[:count], to_table)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        to_states, to_table = ctx.saved_tensors
        return to_states * gradient, to_table * gradient, None, None, None
