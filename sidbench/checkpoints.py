"""Where a long fit may leave its unfinished work: whoever runs it names a folder, the training loop asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Kept:
    """A folder of checkpoints, and the seconds that had gone into the one from which a fit went on."""

    folder: Path
    spent: float = 0.0


_kept: ContextVar[Kept | None] = ContextVar("sidbench_checkpoints", default=None)


def place() -> Path | None:
    """The folder for checkpoints, which may not exist yet; None where nobody asked for any."""
    kept = _kept.get()
    return None if kept is None else kept.folder


def went_on(spent: float) -> None:
    """Say that a fit goes on from a checkpoint into which these seconds went."""
    if (kept := _kept.get()) is not None:
        kept.spent = spent


@contextmanager
def kept_in(folder: Path | str) -> Iterator[Kept]:
    """Inside, a fit leaves checkpoints in this folder, and goes on from those it finds there."""
    kept = Kept(Path(folder))
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)
