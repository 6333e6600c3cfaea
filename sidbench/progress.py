"""Progress without plumbing: long loops report, and whoever listens (a live display, loggers) is told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# (stage, done, total, numbers such as loss or recall)
Listener = Callable[[str, float, float, dict[str, float]], None]

#: Numbers that only count: where a training is (its step), and how many sequences it has seen.
COUNTS = ("step", "sequences")

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


@contextmanager
def unheard() -> Iterator[None]:
    """What is reported inside this block is nobody's business."""
    token = _listener.set(None)
    try:
        yield
    finally:
        _listener.reset(token)


class Rate:
    """How fast a count has grown over the last seconds; a pause within them (a validation) counts."""

    def __init__(self, over: float = 5.0) -> None:
        self.over = over
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, count: float, at: float | None = None) -> None:
        """Note the count now; at most some twenty of the last seconds are kept."""
        at = time.perf_counter() if at is None else at
        seen = self._seen
        if len(seen) > 1 and at - seen[-2][0] < self.over / 20:
            seen.pop()
        seen.append((at, count))
        while len(seen) > 2 and at - seen[1][0] >= self.over:
            seen.popleft()

    @property
    def a_second(self) -> float | None:
        """None until there is something to go by."""
        seen = tuple(self._seen)  # one thread adds, another may ask
        if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
            return None
        (start, before), (end, count) = seen[0], seen[-1]
        return (count - before) / (end - start)
