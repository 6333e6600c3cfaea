"""Progress without plumbing: long loops report, and whoever listens (a live display, loggers) is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# (stage, done, total, numbers such as loss or recall)
Listener = Callable[[str, float, float, dict[str, float]], None]

#: Numbers that say where a stage is, and nothing of how good: its training step, and the seconds left to it.
WHERE = ("step", "left")

_listener: ContextVar[Listener | None] = ContextVar("sidbench_progress", default=None)


def report(stage: str, done: float, total: float, **numbers: float) -> None:
    """Say how far a stage is. Costs nothing when nobody listens."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total, numbers)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send what is reported inside this block to `listener`, too: who listened before hears it first."""
    before = _listener.get()

    def both(stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        assert before is not None
        before(stage, done, total, numbers)
        listener(stage, done, total, numbers)

    token = _listener.set(listener if before is None else both)
    try:
        yield
    finally:
        _listener.reset(token)
