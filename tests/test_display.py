"""The live display: the numbers of a training at any width, time left, quiet where nobody watches."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from sidbench import display as display_module
from sidbench import plan, progress
from sidbench.bench import warm_up
from sidbench.decoder import Decoder
from sidbench.display import Display
from sidbench.record import RunRecord
from sidbench.settings import read_settings
from sidbench.task import Task

OK = RunRecord("id", "ok", {}, "", metrics={"recall@10": 0.0712})
NUMBERS = {"ndcg@10": 0.0412, "recall@10": 0.0731, "step": 70.0, "loss": 3.2145}


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(display_module, "now", made)
    return made


@pytest.fixture(scope="module")
def rows() -> Callable[..., tuple[Task, ...]]:
    def make(**given: str) -> tuple[Task, ...]:
        given = {"dataset": "synthetic:tiny", "methods": "popularity,random", **given}
        return plan.make_plan(read_settings(None, given, []), dry=True).tasks

    return make


def seen(console: Console, display: Display) -> list[str]:
    """The live lines as they stand now."""
    with console.capture() as captured:
        console.print(display)
    return [line.rstrip() for line in captured.get().splitlines()]


def quiet(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, color_system=None)


Rows = Callable[..., tuple[Task, ...]]


@pytest.mark.parametrize("width", [80, 120])
def test_a_training_shows_its_numbers_and_the_time_left(clock: Clock, rows: Rows, width: int) -> None:
    console = quiet(width)
    with Display(console, rows(budget="5m")) as display:
        display.started(1, display.tasks[1])
        for part, recall in enumerate((0.01, 0.05, 0.0731)):
            clock.at += 30
            numbers = {**NUMBERS, "recall@10": recall, "sequences": 1234.0 * clock.at}
            progress.report("train", 90 + 30 * part, 300, **numbers)
        clock.at += 10
        first, second, third = seen(console, display)
    assert first.split() == [
        "random",
        "+",
        "suffix",
        "train",
        first.split()[4],
        "50%",
        "1:40,",
        "2:20",
        "left",
    ]
    assert second.split()[:4] == ["row", "2", "of", "2"]
    assert second.endswith("1:40, 2:20 left")
    assert first.index("━") == second.index("━")
    assert third == "loss 3.2145   NDCG@10 0.0412   Recall@10 0.0731 ▁▅█   1,234 sequences/s"


def test_numbers_that_do_not_fit_are_left_out_whole(clock: Clock, rows: Rows) -> None:
    for width in (1, 5, 12, 20, 27, 40, 60, 74, 75, 129):
        console = quiet(width)
        with Display(console, rows()) as display:
            display.started(1, display.tasks[1])
            for at in (0, 1):
                clock.at += 1
                progress.report("train", at, 2, **NUMBERS, sequences=1234.0 * clock.at)
            lines = seen(console, display)
        assert all(len(line) <= width for line in lines)
        shown = lines[-1].split("   ") if width >= 12 else []
        whole = ["loss 3.2145", "NDCG@10 0.0412", "Recall@10 0.0731 ▁", "1,234 sequences/s"]
        assert shown == whole[: len(shown)]
        assert len("   ".join(shown)) <= width


def test_the_time_left_of_a_run_counts_every_budget(clock: Clock, rows: Rows) -> None:
    tasks = rows(budget="5m", seeds="0,1,2")
    console = quiet(100)
    with Display(console, tasks, done={2}) as display:
        display.finished(2, tasks[2], OK, reused=True)
        display.started(1, tasks[1])
        clock.at += 20  # its fit
        progress.report("fit", 1, 2)
        assert seen(console, display)[1].endswith("0:20, 10:00 left")
        clock.at += 300
        display.finished(1, tasks[1], OK, reused=False)
        display.started(3, tasks[3])
        progress.report("train", 0, 1)
        progress.report("train", 100, 300)  # it goes on from a checkpoint
        clock.at += 8
        progress.report("train", 108, 300)
        clock.at += 2
        row, whole, _ = seen(console, display)
        assert row.endswith("0:10, 3:10 left")
        assert whole.endswith("5:30, 3:10 left")


def test_without_budgets_the_time_left_is_told_once_there_is_something_to_go_by(
    clock: Clock, rows: Rows
) -> None:
    tasks = rows()
    console = quiet(100)
    with Display(console, tasks) as display:
        display.started(1, tasks[1])
        clock.at += 5
        assert seen(console, display)[1].endswith(" 0:05")
        progress.report("train", 0, 100)
        clock.at += 40
        progress.report("train", 50, 100)
        row, whole, _ = seen(console, display)
        assert row.endswith("0:45, 0:40 left")
        assert " left" in whole


def test_where_nobody_watches_it_is_quiet(rows: Rows) -> None:
    tasks = rows()
    screen = io.StringIO()
    with Display(Console(file=screen, width=80), tasks) as display:
        display.started(1, tasks[1])
        for step in range(50):
            progress.report("train", step, 50, **NUMBERS)
        display.finished(1, tasks[1], OK, reused=False)
    assert screen.getvalue().splitlines() == [
        "… random + suffix",
        "✓ random + suffix          recall@10 0.0712   0.0 s",
    ]


def test_it_takes_any_name_and_any_width(rows: Rows) -> None:
    row = replace(rows()[0], label="odd [/name] of [bold]someone")
    record = RunRecord(
        "id", "failed", {}, "", error={"type": "E", "stage": "fit", "message": "[/x] happened"}
    )
    for width in (200, 30, 5):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=width)
        with Display(console, [row, row]) as display:
            progress.report("train", 1, 2, loss=0.5)  # of a warm-up: no row runs
            display.started(0, row)
            progress.report("fit [1/2]", 1, 2, loss=0.5)
            progress.report("train", 1, 2, loss=0.5)
            display.live.refresh()  # type: ignore[union-attr]
            display.finished(0, row, record, reused=False)
        progress.report("train", 2, 2)  # nobody listens any more
        assert "odd [/name] of [bold]someone" in screen.getvalue()
        assert "failed in fit: [/x] happened" in screen.getvalue()


def test_who_is_interrupted_gets_the_terminal_back(rows: Rows) -> None:
    screen = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Display(Console(file=screen, force_terminal=True), rows()):
        raise KeyboardInterrupt
    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l")  # the cursor is back


def test_all_who_listen_are_told() -> None:
    heard: list[tuple[str, str]] = []

    def listener(who: str) -> progress.Listener:
        return lambda stage, *_: heard.append((who, stage))

    with progress.listening(listener("outer")):
        with progress.listening(listener("inner")):
            progress.report("fit", 1, 2)
        progress.report("train", 1, 2)
    progress.report("search", 1, 2)
    assert heard == [("outer", "fit"), ("inner", "fit"), ("outer", "train")]


def test_what_is_paid_before_the_first_row_is_no_rows_progress() -> None:
    heard: list[str] = []
    with progress.listening(lambda stage, *_: heard.append(stage)):
        warm_up(Decoder(device="cpu"))
        assert heard == []
        progress.report("fit", 0, 1)
    assert heard == ["fit"]
