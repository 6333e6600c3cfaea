"""What a person watches while a run goes on: rows done, the stage at hand, how far, how long still."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from sidbench import progress
from sidbench.bench import Task as Row
from sidbench.record import RunRecord

#: How much of a row's time each stage tends to take; only the time left is drawn from it.
SHARE = {"fit": 0.15, "encode": 0.05, "resolve": 0.02, "train": 0.65, "search": 0.13}


class Display:
    """A line a finished row; on a terminal, live bars below them."""

    def __init__(self, console: Console, rows: int) -> None:
        self.console = console
        self.rows, self.row, self.part = rows, 0, 0.0
        self.began = self.row_began = time.perf_counter()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            _Clock(),
            TextColumn("{task.fields[numbers]}", style="dim"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.all = self.bars.add_task("all rows", total=float(max(rows, 1)), numbers="")
        self.now = self.bars.add_task("", total=1.0, numbers="", visible=False)
        self.name = ""

    def __enter__(self) -> Display:
        self.bars.start()
        self._listening = progress.listening(self.report)
        self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listening.__exit__(kind, error, tb)
        self.bars.stop()

    def started(self, i: int, task: Row) -> None:
        self.name = escape(row_name(task))
        self.row_began = time.perf_counter()
        self.bars.update(self.now, visible=True, description=self.name, numbers="")
        if not self.console.is_terminal:
            self.console.print(f"… {self.name}", style="dim", highlight=False)

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        """A stage's progress, from anywhere below."""
        before = 0.0
        for name, share in SHARE.items():
            if name == stage:
                self.part = before + share * min(1.0, done / max(total, 1e-9))
                break
            before += share
        shown = "  ".join(f"{k} {v:.4f}" for k, v in numbers.items())
        self.bars.update(
            self.now,
            description=f"{self.name} [dim]{escape(stage)}[/dim]",
            completed=done,
            total=max(total, 1e-9),
            numbers=shown,
        )
        self.bars.update(self.all, completed=self.row + self.part)

    def finished(self, i: int, task: Row, record: RunRecord, reused: bool) -> None:
        self.row, self.part = i + 1, 0.0
        self.bars.update(self.all, completed=self.row)
        seconds = time.perf_counter() - self.row_began
        name = f"{row_name(task):<32}"
        if record.error is not None:
            said = f"{record.error['stage']}: {record.error['message']}"
            line = Text.assemble(("✗ ", "red"), name, (f" failed in {said}", "red"))
        else:
            names = [k for k in record.metrics if k.startswith("recall@")]
            name_of = "recall@10" if "recall@10" in names else names[-1]
            recall = f"{name_of} {record.metrics[name_of]:.4f}"
            took = "kept from an earlier run" if reused else f"{seconds:.1f} s"
            line = Text.assemble(("✓ ", "green"), f"{name} {recall:<18} ", (took, "dim"))
        self.console.print(line, soft_wrap=True)


def row_name(task: Row) -> str:
    """How a row is called on the screen."""
    parts = [task.label]
    if task.resolver is not None:
        parts.append(f"+ {task.resolver.name}")
    if task.seed:
        parts.append(f"seed {task.seed}")
    return " ".join(parts)


class _Clock(ProgressColumn):
    """Time gone and, once there is something to go by, time left."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        gone = task.elapsed or 0.0
        text = _minutes(gone)
        if left is not None and task.percentage > 2:
            text += f", {_minutes(left)} left"
        return Text(text, style="cyan")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
