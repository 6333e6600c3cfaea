"""Where tensors live, how rows get there and back, and what ran there.

`auto` becomes a concrete device, and a device that is not there is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.errors import UsageError


def resolve(device: str) -> torch.device:
    """The device a name stands for: `auto` takes CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device = {device!r} is not known; expected auto, cpu, cuda or cuda:0") from None
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"device = {device!r} is not supported; expected auto, cpu, cuda or cuda:0")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device = {device!r} is not there (CUDA devices: {torch.cuda.device_count()}); "
            "use device = auto or cpu, or install a torch build with CUDA"
        )
    return found


def describe(device: torch.device) -> str:
    """The device as a record keeps it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class _Alias:
    """The same memory, announced as writable: torch warns about read-only arrays, even where none writes."""

    def __init__(self, x: NDArray[Any]) -> None:
        self.__array_interface__ = {
            **x.__array_interface__,
            "data": (x.__array_interface__["data"][0], False),
        }
        self.owner = x  # keeps the memory alive


def tensor(x: NDArray[Any]) -> torch.Tensor:
    """A CPU tensor over the array's own memory. Nobody may write to it."""
    return torch.from_numpy(np.asarray(_Alias(x)))


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products as float32: a caller's TF32 or bfloat16 setting is put aside and put back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# What was done -> by what.
_notes: ContextVar[dict[str, str] | None] = ContextVar("sidbench_backends", default=None)


def note(what: str, backend: str) -> None:
    """Say by what something is done on a device, where there is a choice: a record tells it."""
    if (notes := _notes.get()) is not None:
        notes[what] = backend


@contextmanager
def noting() -> Iterator[dict[str, str]]:
    """What is noted inside the block."""
    notes: dict[str, str] = {}
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


#: Bytes of rows that travel to a device at a time: few, so that a piece of a catalogue is several such loads;
#: but never so few rows that a device waits for its orders.
LOAD, FEWEST = 1 << 23, 1 << 15
# Rows on a device -> what is to come back of them, row by row.
Work = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def through(
    x: NDArray[np.float32], device: torch.device, work: Work
) -> Iterator[tuple[int, tuple[torch.Tensor, ...]]]:
    """Rows through a device, some at a time: where they begin, and what came back, to be used at once.

    On CUDA two loads are under way, each in pinned memory and a stream of its own: while one is computed the
    next is copied to the device, and the results of the one before come back.
    """
    step = max(FEWEST, LOAD // (4 * x.shape[1]))
    if device.type != "cuda":
        for at in range(0, len(x), step):
            out = work(tensor(x[at : at + step]).to(device))
            yield at, tuple(part.cpu() for part in out)
        return
    loads = [_Load(min(step, len(x)), x.shape[1], device) for _ in range(min(2, -(-len(x) // step)))]
    under_way: deque[tuple[int, _Load]] = deque()
    for number, at in enumerate(range(0, len(x), step)):
        if len(under_way) == len(loads):
            begun, load = under_way.popleft()
            yield begun, load.back()
        load = loads[number % len(loads)]
        load.send(tensor(x[at : at + step]), work)
        under_way.append((at, load))
    for begun, load in under_way:
        yield begun, load.back()


class _Load:
    """Pinned memory on the host, its place on the device, and the stream in which both are used."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pinned = torch.empty(rows, columns, pin_memory=True)
        self.rows = torch.empty(rows, columns, device=device)
        # What was prepared for the work (codebooks) is there before this stream begins.
        self.stream.wait_stream(torch.cuda.current_stream(device))
        self.out: tuple[torch.Tensor, ...] = ()

    def send(self, rows: torch.Tensor, work: Work) -> None:
        """Copy, compute and fetch, all of it only begun."""
        n = len(rows)
        self.pinned[:n].copy_(rows)
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            there = self.rows[:n]
            there.copy_(self.pinned[:n], non_blocking=True)
            found = work(there)
            if not self.out:
                self.out = tuple(_pinned(part, len(self.pinned)) for part in found)
            for mine, part in zip(self.out, found, strict=True):
                mine[:n].copy_(part, non_blocking=True)
        self.count = n

    def back(self) -> tuple[torch.Tensor, ...]:
        """Wait for the results; they are overwritten by the next load."""
        self.stream.synchronize()
        return tuple(part[: self.count] for part in self.out)


def _pinned(like: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.empty(rows, *like.shape[1:], dtype=like.dtype, pin_memory=True)
