"""What a person watches while a run goes on: rows done, the stage at hand, its numbers, how long still."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sidbench import progress
from sidbench.budget import seconds_of
from sidbench.record import RunRecord
from sidbench.task import Task

#: How much of a row's time each stage tends to take; only the time left is drawn from it.
SHARE = {"fit": 0.15, "encode": 0.05, "resolve": 0.02, "train": 0.65, "search": 0.13}
COUNTED = {"fit": 0.87, "search": 0.13}  # a reference's
#: What a row without training takes, as a share of one with it.
LIGHT = 0.02
#: Numbers as a board calls them.
NAMES = {"ndcg@10": "NDCG@10", "recall@10": "Recall@10"}
#: Of these, the last that is reported has its course drawn.
DRAWN = ("ndcg@10", "recall@10")
BLOCKS = "▁▂▃▄▅▆▇█"
LOOKS = 20  # of the course that is drawn
BESIDE = 28  # cells of the percentage and the clock, and between the columns

now = time.perf_counter


class Display:
    """A line a finished row; on a terminal, live lines below them."""

    def __init__(self, console: Console, tasks: Sequence[Task], done: Collection[int] = ()) -> None:
        self.console = console
        self.tasks = tasks
        self.todo = [i for i in range(len(tasks)) if i not in done]
        names = [cell_len(row_name(t)) for t in tasks]
        self.names = max(24, *names)
        self.longest = max(names) + len(" resolve")
        self.at = -1  # the row that runs
        self.weights = {i: _weight(tasks[i]) for i in self.todo}
        self.gone = 0.0  # weight of what has run
        self.took: list[tuple[float, float]] = []  # budget and seconds of the rows that have one
        self.began = self.row_began = now()
        self.stage = _Stage("", 0.0)
        terminal = console.is_terminal and not console.is_dumb_terminal
        self.live = Live(self, console=console, transient=True, refresh_per_second=4) if terminal else None

    def __enter__(self) -> Display:
        if self.live is not None:
            self.live.start()
        self._listening = progress.listening(self.report)
        self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listening.__exit__(kind, error, tb)
        if self.live is not None:
            self.live.stop()

    def started(self, i: int, task: Task) -> None:
        self.at, self.row_began = i, now()
        self.stage = _Stage("", 0.0)
        if self.live is None:
            self.console.print(Text(f"… {row_name(task)}", style="dim"), soft_wrap=True)

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        """A stage's progress, from anywhere below; called at every step, so nothing is drawn here."""
        if self.at < 0:  # what is paid before the first row
            return
        if stage != self.stage.name:
            self.stage = _Stage(stage, done)
        self.stage.take(done, total, numbers)

    def finished(
        self, i: int, task: Task, record: RunRecord, reused: bool, seconds: float | None = None
    ) -> None:
        seconds = now() - self.row_began if seconds is None else seconds
        if not reused:
            self.gone += self.weights[i]
            self.at = -1
            if budget := _budget(task):
                self.took.append((budget, seconds))
        name = f"{row_name(task):<{self.names}}"
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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        row, stage, moment, width = self.at, self.stage, now(), options.max_width
        if row < 0:
            return
        name = Text.assemble(row_name(self.tasks[row]), (f" {stage.name}", "dim"))
        whole = Text(f"row {self.todo.index(row) + 1} of {len(self.todo)}")
        lines = [
            (name, stage.share, _clock(moment - self.row_began, self.stage_left(row, moment))),
            (whole, self.share(row), _clock(moment - self.began, self.left(row, moment))),
        ]
        # The same columns from the first row to the last: nothing jumps.
        bar = max(6, min(40, width - self.longest - BESIDE))
        label = max(6, min(self.longest, width - bar - BESIDE))
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(width=label, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=bar, no_wrap=True)
        grid.add_column(justify="right", width=4, no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for text, part, clock in lines:
            grid.add_row(text, ProgressBar(1.0, part, width=bar), f"{part:.0%}", Text(clock, style="cyan"))
        yield grid
        yield stage.line(width)

    def share(self, row: int) -> float:
        """How much of the whole run is done while this row runs."""
        running = self.weights[row] * self.stage.of_row(self.tasks[row])
        return min(1.0, (self.gone + running) / sum(self.weights.values()))

    def left(self, row: int, at: float) -> float | None:
        """Seconds until the last row is done, once there is something to go by; with budgets, at once."""
        task = self.tasks[row]
        budget = _budget(task)
        after = [_budget(self.tasks[i]) for i in self.todo if i > row]
        if not budget and not any(after):
            share = self.share(row)
            return None if share < 0.02 else (at - self.began) * (1 - share) / share
        trains = self.stage.name in (_training(task), "search")
        own = budget if budget and not trains else self.stage_left(row, at) or 0.0
        # What rows take beside their budget (fits, most of all) is as it was until now.
        beside = sum(took - b for b, took in self.took) / len(self.took) if self.took else 0.0
        return own + sum(b + beside for b in after if b)

    def stage_left(self, row: int, at: float) -> float | None:
        """Seconds until the stage is done: a budget's are known, others go by the pace until now."""
        stage, task = self.stage, self.tasks[row]
        if stage.name == _training(task) and stage.total == _budget(task):
            return max(0.0, stage.total - stage.done - (at - stage.told))
        return stage.left(at)


class Several(Display):
    """Rows that run elsewhere, several at a time: how many are done, and how long the others may take."""

    ended = 0

    def started(self, i: int, task: Task) -> None:
        """Which rows run is for the cluster to say."""

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        """What rows report is told where they run."""

    def finished(
        self, i: int, task: Task, record: RunRecord, reused: bool, seconds: float | None = None
    ) -> None:
        self.ended += i in self.todo
        super().finished(i, task, record, reused and i not in self.todo, seconds)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.ended == len(self.todo):
            return
        part = self.gone / sum(self.weights.values())
        gone = now() - self.began
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        clock = Text(_clock(gone, gone * (1 - part) / part if part else None), style="cyan")
        bar = ProgressBar(1.0, part, width=max(6, min(40, options.max_width - 52)))
        grid.add_row(f"{self.ended} of {len(self.todo)} rows done", bar, f"{part:.0%}", clock)
        yield grid


class _Stage:
    """One stage of the row that runs: how far, how fast, its numbers and their course."""

    def __init__(self, name: str, first: float) -> None:
        self.name, self.first, self.began = name, first, now()
        self.told, self.done, self.total = self.began, first, 1.0
        self.numbers: dict[str, float] = {}
        self.course: dict[str, list[float]] = {}
        self.seen = progress.Rate()

    def take(self, done: float, total: float, numbers: dict[str, float]) -> None:
        for key in DRAWN:
            if key in numbers and numbers[key] != self.course.setdefault(key, [float("nan")])[-1]:
                self.course[key].append(numbers[key])
        if "sequences" in numbers:
            self.seen.add(numbers["sequences"], now())
        if total != self.total:  # it is known only now, and a training that goes on begins in the middle
            self.first, self.began = done, now()
        # Last, since what draws does so from a thread of its own.
        self.told, self.done, self.total, self.numbers = now(), done, max(total, 1e-9), numbers

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total)

    def of_row(self, task: Task) -> float:
        """How much of the row is done: what comes before this stage, and of it what is done."""
        before = 0.0
        for name, share in (SHARE if task.decoder is not None else COUNTED).items():
            if name == self.name:
                return before + share * self.share
            before += share
        return 0.0

    def left(self, at: float) -> float | None:
        """Seconds that the stage still takes at the pace until now."""
        gained, spent = self.done - self.first, self.told - self.began
        if gained <= 0 or spent < 1:
            return None
        return max(0.0, (self.total - self.done) * spent / gained - (at - self.told))

    def line(self, width: int) -> Text:
        """The numbers, as many as there is room for; none is cut in two."""
        parts = []
        drawn = next((k for k in reversed(DRAWN) if k in self.numbers), None)
        # Losses first, whichever was reported first.
        for key, value in sorted(self.numbers.items(), key=lambda entry: entry[0] in DRAWN):
            if key not in progress.COUNTS:
                parts.append(Text.assemble((f"{NAMES.get(key, key)} ", "dim"), _short(value)))
            if key == drawn:
                parts[-1].append(f" {_drawn(self.course[drawn][1:])}", "green")
        if rate := self.seen.a_second:
            parts.append(Text.assemble(f"{rate:,.0f}", (" sequences/s", "dim")))
        out = Text(no_wrap=True, overflow="crop")
        for part in parts:
            if cell_len(out.plain) + 3 * bool(out.plain) + cell_len(part.plain) > width:
                break
            out.append("   " if out.plain else "").append_text(part)
        return out


def row_name(task: Task) -> str:
    """How a row is called on the screen."""
    parts = [task.label]
    if task.resolver is not None:
        parts.append(f"+ {task.resolver.name}")
    if task.seed:
        parts.append(f"seed {task.seed}")
    return " ".join(parts)


def _budget(task: Task) -> float:
    return seconds_of(task.decoder, task.method)


def _training(task: Task) -> str:
    """The stage in which what has the budget is trained."""
    return "fit" if task.decoder is None else "train"


def _weight(task: Task) -> float:
    """How long a row takes beside the others, roughly."""
    return 1.0 if task.decoder is not None or _budget(task) else LIGHT


def _drawn(course: list[float]) -> str:
    """The last values as bars, the lowest to the highest of them."""
    values = course[-LOOKS:]
    low, high = min(values), max(values)
    span = max(high - low, 1e-12)
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * (v - low) / span)] for v in values)


def _short(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def _clock(gone: float, left: float | None) -> str:
    return _minutes(gone) if left is None else f"{_minutes(gone)}, {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
