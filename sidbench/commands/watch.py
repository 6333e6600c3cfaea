"""What a person watches while one long piece of work goes on: stage, share done, speed, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sidbench import progress

#: Seconds between two lines in a log.
EVERY = 30.0
#: Stages whose counts are items.
ITEMS = ("read", "encode", "verify", "embed")


class Watch:
    """One line, drawn from the last report."""

    def __init__(self) -> None:
        self.stage, self.done, self.total = "", 0.0, 0.0
        self.first, self.began = 0.0, time.perf_counter()
        self.rate = progress.Rate()

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        if stage != self.stage:
            self.stage, self.first, self.began, self.rate = stage, done, time.perf_counter(), progress.Rate()
        self.done, self.total = done, total
        self.rate.add(done)

    def said(self) -> tuple[str, str, str]:
        """The share done, the speed, and the time: what there is of them."""
        seconds = time.perf_counter() - self.began
        gone = self.done - self.first
        left = seconds * (self.total - self.done) / gone if gone > 0 else None
        speed = self.rate.a_second
        return (
            f"{self.done / self.total:.0%}" if self.total else "",
            f"{speed:,.0f} items/s" if speed and self.stage in ITEMS else "",
            clock(seconds) + (f", {clock(left)} left" if left is not None else ""),
        )

    def __rich__(self) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        share, speed, spent = self.said()
        bar = ProgressBar(total=self.total or 1.0, completed=self.done, width=40)
        grid.add_row(Text(self.stage or "loading…"), bar, Text(share), Text(speed), Text(spent, style="dim"))
        return grid


class Log(Watch):
    """The same as a line now and then, for a pipe or a file."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console, self.told = console, time.perf_counter()

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        super().report(stage, done, total, numbers)
        if time.perf_counter() - self.told >= EVERY:
            self.told = time.perf_counter()
            told = ", ".join(word for word in self.said() if word)
            self.console.print(Text(f"{self.stage}: {told}", style="dim"), soft_wrap=True)


@contextmanager
def watching(console: Console) -> Iterator[None]:
    """Show what is reported inside: one line that changes, or in a log a line every half minute."""
    if not console.is_terminal or console.is_dumb_terminal:
        with progress.listening(Log(console).report):
            yield
        return
    watch = Watch()
    with (
        progress.listening(watch.report),
        Live(watch, console=console, transient=True, refresh_per_second=4),
    ):
        yield


def clock(seconds: float) -> str:
    """Seconds as a clock shows them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
