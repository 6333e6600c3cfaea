"""Several processes that train one decoder: each takes its share of a batch, the first decides the rest."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from sidbench.errors import RanksError

CPU = torch.device("cpu")


class Ranks:
    """The processes as one of them sees them; one alone says nothing to anybody.

    The first (`rank` 0) runs everything as if it were alone: data, tokenizers, validation, search, records.
    The others wait for what is to be trained, then for each step's word. They decide nothing, so no clock and
    no rounding can part them; what each adds to a step is one sum over all.
    """

    def __init__(self, rank: int = 0, count: int = 1, place: int = 0) -> None:
        self.rank, self.count = rank, count
        #: Which of its machine's devices is this process's own.
        self.place = place
        #: Whether the others wait for this process's part of a sum.
        self._owes = False
        #: Whether the others wait for this process's word on a training.
        self._leads = False

    def device(self, asked: torch.device) -> torch.device:
        """The device that this process computes on, where one is asked for that several share."""
        return torch.device("cuda", self.place) if self.count > 1 and asked.type == "cuda" else asked

    def hardware(self) -> dict[str, int]:
        """What a record's key says of the processes; nothing of one alone."""
        return {"processes": self.count} if self.count > 1 else {}

    def send(self, message: Any) -> None:
        """From the first to the others, who are waiting in `receive`."""
        if self.count > 1:
            with self._undivided():
                self._shared(message)

    def receive(self) -> Any:
        """What the first sends."""
        return self._shared(None)

    @contextmanager
    def leading(self, work: Any, gradient: Tensor) -> Iterator[None]:
        """A training that the first leads; however it ends, the others are told that it has ended."""
        try:
            with self._undivided():
                self.send(work)
                self._leads = self.count > 1
            yield
            self._dismiss(gradient)
        except RanksError:  # there is nobody left to tell
            raise
        except BaseException:
            self._dismiss(gradient)
            raise

    def go(self, rate: float, begun: int) -> None:
        """The first's word to take a step at this rate, with the dropout of step `begun`."""
        with self._undivided():
            self._tell(rate, begun)
            self._owes = self.count > 1

    def told(self) -> tuple[float, int] | None:
        """The first's word; None where the training has ended."""
        rate, begun = self._first(torch.empty(2, dtype=torch.float64)).tolist()
        return None if math.isnan(rate) else (rate, int(begun))

    def sum(self, gradient: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient and the loss of the whole batch, from every process's share."""
        if self.count == 1:
            return gradient, loss
        with self._undivided():
            both = self._added(torch.cat((gradient, loss.float().view(1))))
            self._owes = False
        return both[:-1], both[-1]

    def _dismiss(self, gradient: Tensor) -> None:
        """Nothing more comes of this training."""
        with self._undivided():
            if self._owes:  # they wait for a sum, which nobody will use
                self.sum(torch.zeros_like(gradient, dtype=torch.float32), gradient.new_zeros(()))
            if self._leads:
                self._tell(math.nan, 0)
                self._leads = False

    def _tell(self, rate: float, begun: int) -> None:
        if self.count > 1:
            self._first(torch.tensor([rate, begun], dtype=torch.float64))

    def _shared(self, message: Any) -> Any:
        """The first's object, everywhere."""
        held = [message]
        with self._reaching():
            dist.broadcast_object_list(held, src=0, device=CPU)
        return held[0]

    def _first(self, word: Tensor) -> Tensor:
        """The first's tensor, everywhere."""
        with self._reaching():
            dist.broadcast(word, src=0)
        return word

    def _added(self, part: Tensor) -> Tensor:
        """The sum of all processes' tensors, everywhere the same."""
        with self._reaching():
            dist.all_reduce(part)
        return part

    @contextmanager
    def _undivided(self) -> Iterator[None]:
        """Ctrl-C waits inside: what the others have taken part in, this process also knows to be done.

        They ignore Ctrl-C, so it is only the first's that could part them.
        """
        before = signal.getsignal(signal.SIGINT)
        alone = self.count == 1 or self.rank > 0
        if alone or threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return
        came: list[FrameType | None] = []
        signal.signal(signal.SIGINT, lambda _, frame: came.append(frame))
        try:
            yield
        except RanksError:  # says more than an interruption, and there is nobody left to tell of it
            came.clear()
            raise
        finally:
            signal.signal(signal.SIGINT, before)
            if came:
                before(signal.SIGINT, came[0])

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:  # a connection that the other side's end has cut
            raise RanksError(
                f"process {self.rank} of {self.count} cannot reach the others: one has ended, and what it "
                "said stands above; the same command goes on from the last checkpoint "
                f"({str(e).partition(chr(10))[0]})"
            ) from e


_ranks: ContextVar[Ranks] = ContextVar("sidbench_ranks", default=Ranks())  # noqa: B039 - one that stays alone


def ranks() -> Ranks:
    """The processes that this one belongs to."""
    return _ranks.get()


@contextmanager
def belonging(to: Ranks) -> Iterator[None]:
    """Inside, decoders are trained by these processes together."""
    token = _ranks.set(to)
    try:
        yield
    finally:
        _ranks.reset(token)
