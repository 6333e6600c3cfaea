"""Callbacks: what is reported while a run goes on, handed to loggers without a row waiting for them."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sidbench import progress
from sidbench.display import row_name
from sidbench.errors import SidbenchError, UsageError
from sidbench.logger import Logger, Row
from sidbench.record import RunRecord, run_id
from sidbench.task import Bench, Task

#: Seconds between two values of one number; what lies between is left out, but for the last.
APART = 0.1
#: Seconds that loggers have to write what is left when a run ends.
LAST_WORDS = 30.0

now = time.monotonic


class Callbacks:
    """Tells loggers of started rows, their numbers and their records, in order, from one thread."""

    def __init__(
        self, loggers: Sequence[Logger], bench: Bench, folder: Path, warn: Callable[[str], None]
    ) -> None:
        self.loggers, self.bench, self.folder, self.warn = list(loggers), bench, folder, warn
        self.row: Row | None = None
        self.stage = ""
        self.told: dict[str, tuple[float, float]] = {}  # of each number: the value told last, and when
        self.held: dict[str, tuple[int, float]] = {}  # and what came too soon after it
        self.seen = progress.Rate()
        self.queue: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Callbacks:
        if not self.loggers:
            return self
        for logger in self.loggers:
            try:
                logger.opened(self.folder)
            except SidbenchError:
                raise
            except Exception as e:  # nothing has run yet: better told now than after the first row
                raise UsageError(f"--log {logger.name} cannot begin: {type(e).__name__}: {e}") from e
        self._listening = progress.listening(self.report)
        self._listening.__enter__()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self.thread.is_alive():
            return
        self._listening.__exit__(kind, error, tb)
        self._flush()
        self._tell("closed")
        self.queue.put(None)
        self.thread.join(LAST_WORDS)
        if self.thread.is_alive():
            names = ", ".join(logger.name for logger in self.loggers)
            self.warn(f"{names} did not finish writing within {LAST_WORDS:.0f} s; the rest is lost")

    def started(self, task: Task) -> None:
        if not self.loggers:
            return
        key = task.key(self.bench)
        self.row = Row(run_id(key), row_name(task), task.label, str(key["dataset"]["name"]), _flat(key))
        self.stage, self.told, self.held = "", {}, {}
        self._tell("started", self.row)

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        """What a stage reports, at every step: only what is new goes on, and each number not too often."""
        if self.row is None:
            return
        if stage != self.stage:
            self._flush()
            self.stage, self.told, self.seen = stage, {}, progress.Rate()
        step, moment = int(numbers.get("step", done)), now()
        fresh: dict[int, dict[str, float]] = {}
        if "sequences" in numbers:
            self.seen.add(numbers["sequences"], moment)
        for key, value in numbers.items():
            last, at = self.told.get(key, (None, -math.inf))
            if key in progress.COUNTS or value == last:
                continue
            # A validation is repeated at every step that follows it: the first of them is its own.
            before = self.held.pop(key, None)
            own = step if before is None or before[1] != value else before[0]
            if moment - at < APART:
                self.held[key] = own, value
            else:
                self.told[key] = value, moment
                fresh.setdefault(own, {})[key] = float(value)
        if fresh and (rate := self.seen.a_second) is not None:  # beside what is told anyway
            fresh.setdefault(step, {})["sequences/s"] = rate
        for own, values in fresh.items():
            self._tell("numbers", self.row, stage, own, values)

    def finished(self, record: RunRecord) -> None:
        if self.row is not None:
            self._flush()
            self._tell("finished", self.row, record)
            self.row = None

    def _flush(self) -> None:
        """The last values of a stage that came too soon to be told."""
        for key, (step, value) in self.held.items():
            self._tell("numbers", self.row, self.stage, step, {key: float(value)})
        self.held = {}

    def _tell(self, what: str, *about: Any) -> None:
        self.queue.put((what, about))

    def _work(self) -> None:
        resting: list[Logger] = []  # what has failed in this row
        while (message := self.queue.get()) is not None:
            what, about = message
            if what == "started":
                resting = []
            for logger in self.loggers:
                if logger in resting:
                    continue
                try:
                    getattr(logger, what)(*about)
                except (Exception, SystemExit) as e:  # a service away, a full disk: no reason to lose a row
                    resting.append(logger)
                    until = "" if what == "closed" else " until the next row"
                    self.warn(f"--log {logger.name} ends{until}, the rows go on: {type(e).__name__}: {e}")
                    if what != "closed":
                        with suppress(Exception, SystemExit):  # has failed, and that has been said
                            logger.closed()


def _flat(key: dict[str, Any], prefix: str = "") -> dict[str, str | float | bool]:
    """A record's key with one name a value."""
    out: dict[str, str | float | bool] = {}
    for name, value in key.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value if isinstance(value, (str, int, float)) else str(value)
    return out
