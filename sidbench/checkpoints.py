"""Where a long fit may leave its unfinished work: whoever runs it names a folder, the training loop asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_place: ContextVar[Path | None] = ContextVar("sidbench_checkpoints", default=None)


def place() -> Path | None:
    """The folder for checkpoints, which may not exist yet; None where nobody asked for any."""
    return _place.get()


@contextmanager
def kept_in(folder: Path | str) -> Iterator[None]:
    """Inside, a fit leaves checkpoints in this folder, and goes on from those it finds there."""
    token = _place.set(Path(folder))
    try:
        yield
    finally:
        _place.reset(token)
