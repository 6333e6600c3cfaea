"""A batch that several processes share: each has some of its rows, what concerns all of them is exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.errors import UsageError
from sidbench.kit.ranks import Ranks

#: The first's words: an epoch begins, the first's tensors follow, rows of a step's batch follow.
EPOCH, STATE, STEP = 1.0, 2.0, 3.0


class Share:
    """This process's rows of every batch, and what it asks of the others.

    A loss that is a mean over rows asks nothing: those of the shares, weighted by their rows, add up to the
    batch's. What looks at all rows together (batch normalisation, Sinkhorn's assignment, counts) asks here.
    Of one process alone every answer is what was asked with.
    """

    def __init__(self, team: Ranks, rows: int) -> None:
        if rows < team.count:
            raise UsageError(
                f"a step of {rows} rows cannot be shared by {team.count} processes; raise batch_size, or "
                "start fewer"
            )
        self.team, self.rows = team, rows
        edges = [rows * i // team.count for i in range(team.count + 1)]
        self.start, self.stop = edges[team.rank], edges[team.rank + 1]
        self._starts = edges[:-1]
        #: Rows of the largest share: what is dealt out is of one shape.
        self.longest = -(-rows // team.count)

    @property
    def alone(self) -> bool:
        return self.team.count == 1

    @property
    def weight(self) -> float:
        """The share of the batch's rows."""
        return (self.stop - self.start) / self.rows

    def begin(self, epoch: int) -> None:
        """The first's: an epoch begins."""
        self.team.go(EPOCH, epoch)

    def align(self, tensors: Iterable[Tensor]) -> None:
        """The first's: the others' tensors become these."""
        self.team.align(STATE, tensors)

    def deal(self, step: int, batch: Tensor) -> Tensor:
        """The first's: every process gets its rows of the step's batch; the first's own."""
        if self.alone:
            return batch
        # A shorter share is dealt a row too many, of which nobody makes anything.
        parts = [batch.narrow(0, start, self.longest) for start in self._starts]
        return self.cut(self.team.deal(STEP, step, parts))

    def cut(self, dealt: Tensor) -> Tensor:
        """This share of what was dealt out."""
        return dealt[: self.stop - self.start]

    def of(self, count: int) -> int:
        """How many rows the whole batch has, where this share has so many."""
        return count if self.alone else self.rows

    def sum(self, *parts: Tensor) -> list[Tensor]:
        """The sums over all shares; no gradient passes."""
        return self.team.sum(*parts)

    def summed(self, x: Tensor) -> Tensor:
        """The sum over all shares; every share's loss has its gradient in it."""
        out: Tensor = x if self.alone else _Summed.apply(x, self.team)  # type: ignore[no-untyped-call]
        return out

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all rows of the batch; no gradient passes."""
        return x.mean() if self.alone else self.sum(x.sum())[0] / self.rows

    def whole(self, x: Tensor) -> Tensor:
        """The rows of all shares, with their gradient."""
        if self.alone:
            return x
        around = (0, 0) * (x.ndim - 1) + (self.start, self.rows - self.stop)
        return self.summed(F.pad(x, around))

    def mine(self, x: Tensor) -> Tensor:
        """Of the rows of all shares those of this one."""
        return x if self.alone else x[self.start : self.stop]

    def drawn(self, count: int, draw: Callable[[int], Tensor]) -> Tensor:
        """Random numbers for the `count` rows of this share.

        Every process draws those of the whole batch, from one seed: what a row gets does not depend on how
        many share it.
        """
        return self.mine(draw(self.of(count)))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Ranks) -> Tensor:
        ctx.team = team  # backward may run in a thread that knows no context
        return team.sum(x)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.team.sum(*gradients)[0], None


_share: ContextVar[Share] = ContextVar("sidbench_share", default=Share(Ranks(), 1))  # noqa: B039 - of one alone


def share() -> Share:
    """The share of a batch whose losses are being computed."""
    return _share.get()


@contextmanager
def taking(mine: Share) -> Iterator[None]:
    """Inside, rows are this share of a batch."""
    token = _share.set(mine)
    try:
        yield
    finally:
        _share.reset(token)
