"""Where independent pieces of work run: in this process one after another, or on a cluster by Ray.

A piece is `work(shared, i)`: a function of a module, what all pieces have in common, and a number. It leaves
what it makes in a folder, whole or not at all, so a piece that is done twice does no harm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench import provenance
from sidbench.errors import UsageError, unknown
from sidbench.kit.device import resolve

Work = Callable[[Any, int], Any]
NAMES = ("local", "ray")


@dataclass(frozen=True)
class Needs:
    """What one piece takes while it runs."""

    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Lost:
    """Instead of a result: the worker of this piece died as often as it is tried again."""

    said: str


class Engine(ABC):
    """Runs pieces, in whatever order and as many at a time as there is room for."""

    #: Who is told, in a line, of what goes wrong and is made good.
    warn: Callable[[str], None] = staticmethod(lambda said: None)

    @abstractmethod
    def device(self, asked: str) -> str:
        """The device that a piece will be given, where a person asked for this one."""

    @abstractmethod
    def threads(self, asked: int) -> int:
        """The threads of a piece; 0 asks for all cores."""

    @abstractmethod
    def each(
        self,
        work: Work,
        shared: Any,
        todo: Iterable[int],
        needs: Needs,
        folder: Path,
        started: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Every piece with its result, or `Lost`, as it ends; `started` is told where that is known.

        What a piece raises is raised here, and ends the others. `folder` must be the same one everywhere.
        """

    @abstractmethod
    def said(self, needs: Needs) -> str:
        """Where pieces run and how many at a time, in words; nothing of the usual case."""


class Local(Engine):
    """In this process, one after another."""

    def device(self, asked: str) -> str:
        return str(resolve(asked))

    def threads(self, asked: int) -> int:
        return asked or provenance.available_cores()

    def each(
        self,
        work: Work,
        shared: Any,
        todo: Iterable[int],
        needs: Needs,
        folder: Path,
        started: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        for i in todo:
            if started is not None:
                started(i)
            yield i, work(shared, i)

    def said(self, needs: Needs) -> str:
        return ""


@contextmanager
def opened(name: str, address: str | None = None) -> Iterator[Engine]:
    """The engine of this name; with an address, the cluster that runs there already."""
    if name not in NAMES:
        raise unknown("engine", name, NAMES)
    if name == "local":
        if address is not None:
            raise UsageError(f"--address {address} names a Ray cluster: it goes with --engine ray")
        yield Local()
        return
    from sidbench.engines.cluster import joined

    with joined(address) as engine:
        yield engine
