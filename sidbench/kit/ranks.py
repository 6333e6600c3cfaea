"""Several processes that train one model: each takes its share of a batch, the first decides the rest."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from sidbench.errors import ContractError, RanksError

CPU = torch.device("cpu")
#: What follows is an exchange of the step that all are in.
WITHIN = -1.0


class Dismissed(Exception):
    """The first has ended the training that this process is in the middle of."""


class Ranks:
    """The processes as one of them sees them; one alone says nothing to anybody.

    The first (`rank` 0) runs everything as if it were alone: data, starts, validation, search, records. The
    others wait for what is to be trained, then for word after word. They decide nothing, so no clock and no
    rounding can part them. Nothing is exchanged without the first's word before it: wherever the first's
    training ends, the others wait for a word, and that it has ended is one.
    """

    def __init__(self, rank: int = 0, count: int = 1, place: int = 0) -> None:
        self.rank, self.count = rank, count
        #: Which of its machine's devices is this process's own.
        self.place = place
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
    def leading(self, work: Any) -> Iterator[None]:
        """A training that the first leads; however it ends, the others are told that it has ended."""
        try:
            with self._undivided():
                self.send(work)
                self._leads = self.count > 1
            yield
            self._dismiss()
        except RanksError:  # there is nobody left to tell
            raise
        except BaseException:
            self._dismiss()
            raise

    def go(self, what: float, number: int) -> None:
        """The first's word: what is to be done, and a number that belongs to it."""
        with self._undivided():
            self._tell(what, number)

    def told(self) -> tuple[float, int] | None:
        """The first's word; None where the training has ended."""
        what, number = self._first(torch.empty(2, dtype=torch.float64)).tolist()
        return None if math.isnan(what) else (what, int(number))

    def sum(self, *parts: Tensor) -> list[Tensor]:
        """The sum of every process's part, of each of these, everywhere the same; within a step."""
        if self.count == 1:
            return list(parts)
        flat = torch.cat([part.reshape(-1) for part in parts])  # a new one, which the sum is written to
        with self._undivided():
            if self.rank == 0:
                self._tell(WITHIN, 0)
            else:
                self._heard()
            flat = self._added(flat)
        pieces = torch.split(flat, [part.numel() for part in parts])
        return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]

    def deal(self, what: float, number: int, parts: list[Tensor]) -> Tensor:
        """A word with a part of its own for each process, all of one shape; the first's part."""
        with self._undivided():
            self._tell(what, number)
            return self._parted(parts, torch.empty_like(parts[0]))

    def dealt(self, mine: Tensor) -> Tensor:
        """This process's part of what the first deals out, in a tensor of its shape."""
        return self._parted([], mine)

    def align(self, what: float, tensors: Iterable[Tensor]) -> None:
        """A word, and after it the first's tensors."""
        with self._undivided():
            self._tell(what, 0)
            self.aligned(tensors)

    def aligned(self, tensors: Iterable[Tensor]) -> None:
        """Make these tensors what the first's are."""
        if self.count > 1:
            for held in tensors:
                self._first(held)

    def _heard(self) -> None:
        word = self.told()
        if word is None:
            raise Dismissed
        if word[0] != WITHIN:
            raise ContractError(
                f"process {self.rank} exchanges something where the first does not; what a step exchanges "
                "must not depend on its rows"
            )

    def _dismiss(self) -> None:
        """Nothing more comes of this training."""
        with self._undivided():
            if self._leads:
                self._tell(math.nan, 0)
                self._leads = False

    def _tell(self, what: float, number: int) -> None:
        if self.count > 1:
            self._first(torch.tensor([what, number], dtype=torch.float64))

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

    def _parted(self, parts: list[Tensor], mine: Tensor) -> Tensor:
        """This process's part of what the first has; of the others nobody looks at `parts`."""
        with self._reaching():
            dist.scatter(mine, parts or None, src=0)
        return mine

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
    """Inside, these processes train together what can be."""
    token = _ranks.set(to)
    try:
        yield
    finally:
        _ranks.reset(token)
