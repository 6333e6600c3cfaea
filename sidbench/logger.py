"""Logger: told of rows while they run, it writes what it is told where a person already looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from sidbench.errors import UsageError
from sidbench.plugin import Plugin
from sidbench.record import RunRecord, slug


@dataclass(frozen=True)
class Row:
    """A row that runs, as a logger names it."""

    #: The record's id; a row that was stopped and goes on has the same.
    run: str
    name: str
    label: str
    dataset: str
    #: Everything that decides the result, as `decoder.params.width`.
    params: dict[str, str | float | bool]

    @property
    def place(self) -> Path:
        """Where files of this row lie, below a folder of the logger's name: `sidbench clean` knows it."""
        return Path(slug(self.dataset), slug(self.label), self.run)


class Logger(Plugin, ABC):
    """Called in the order of the methods here, from a thread of its own: slow calls cost a row nothing.

    What a logger raises ends no row: it is closed, and started again with the next one. The built-in ones
    live in sidbench/loggers/.
    """

    kind: ClassVar[str] = "logger"
    #: Packages that it imports, which come with the extra of its name.
    needs: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Whether it can be used at all, before anything is read."""
        if missing := [package for package in self.needs if find_spec(package) is None]:
            raise UsageError(
                f"--log {self.name} needs {' and '.join(missing)}: pip install 'sidbench[{self.name}]'"
            )

    def opened(self, folder: Path) -> None:
        """Once, before the first row, in the main thread; `folder` is where files of one's own may lie."""

    @abstractmethod
    def started(self, row: Row) -> None:
        """A row begins, or goes on from its checkpoint."""

    @abstractmethod
    def numbers(self, row: Row, stage: str, step: int, numbers: dict[str, float]) -> None:
        """What is new of a stage (`fit`, `train`): losses, validations, speeds."""

    @abstractmethod
    def finished(self, row: Row, record: RunRecord) -> None:
        """A row ended, well or not: `record.status`."""

    def closed(self) -> None:
        """The run ends, or a call has raised; a row that was started and has not finished was stopped."""
