"""A run's rows as pieces of work: one by one in this process, or spread over a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cache

from sidbench import provenance
from sidbench.bench import fresh, run_one, warm_up
from sidbench.callbacks import Callbacks
from sidbench.catalogue.files import NoLocks, locked
from sidbench.decoder import Decoder
from sidbench.engines import Engine, Local, Lost, Needs
from sidbench.errors import StorageError, UsageError
from sidbench.logger import Logger
from sidbench.plan import Plan, limit_threads
from sidbench.record import RunRecord, Store, run_id
from sidbench.task import Bench, Task

#: Seconds after which a file server gives back the locks of a node that has died, and some more.
LEASE = 150.0


@dataclass(frozen=True, eq=False)
class Rows:
    """What every row is given, wherever it runs."""

    bench: Bench
    tasks: tuple[Task, ...]
    store: Store
    env: dict[str, str]
    #: The code that the rows go through, as the process that planned them sees it.
    codes: tuple[str, ...] = ()
    loggers: tuple[Logger, ...] = ()
    redo: bool = False


@dataclass(frozen=True, eq=False)
class Done:
    """A row that has run, well or not."""

    record: RunRecord
    seconds: float
    reused: bool = False
    notes: list[str] = field(default_factory=list)


def needs(bench: Bench) -> Needs:
    """What one row takes."""
    return Needs(bench.threads, int(bench.device.startswith("cuda")))


def run_plan(
    plan: Plan,
    engine: Engine,
    started: Callable[[int, Task], None],
    finished: Callable[[int, Task, Done], None],
    command: str,
    *,
    redo: bool = False,
) -> list[RunRecord]:
    """Run what is not done, telling of each row as it starts and ends; every row's record, in order."""
    env = {**provenance.versions(), "command": command}
    rows = Rows(plan.bench, plan.tasks, plan.store, env)
    work: Callable[[Rows, int], Done] = run_row
    decoder = _decoder(plan.todo)
    if not isinstance(engine, Local):
        work = run_row_there
        codes = tuple(t.code() for t in plan.tasks)
        rows = replace(
            rows, codes=codes, loggers=plan.loggers, redo=redo, store=Store(plan.store.root.absolute())
        )
    elif decoder is not None:
        warm_up(decoder)
    records: dict[int, RunRecord] = {}

    def end(i: int, done: Done) -> None:
        records[i] = done.record
        finished(i, plan.tasks[i], done)

    for i, record in plan.done.items():
        plan.store.sweep(record.key)
        end(i, Done(record, 0.0, reused=True))
    todo = [i for i in range(len(plan.tasks)) if i not in plan.done]
    if todo:
        each = engine.each(
            work,
            rows,
            todo,
            needs(plan.bench),
            plan.store.root,
            lambda i: started(i, plan.tasks[i]),
        )
        for i, outcome in each:
            end(i, _noted(engine, rows, i, outcome) if isinstance(outcome, Lost) else outcome)
    return [records[i] for i in range(len(plan.tasks))]


def run_row(rows: Rows, i: int, patience: float = 0.0) -> Done:
    """One row, in a process that is ready for it."""
    begun = time.perf_counter()
    with _alone(rows, i, patience):
        record = run_one(rows.tasks[i], rows.bench, rows.store, rows.env)
    return Done(record, time.perf_counter() - begun)


@contextmanager
def _alone(rows: Rows, i: int, patience: float) -> Iterator[None]:
    """One process a row: two would write over each other's checkpoints. What dead ones left goes first."""
    task, store = rows.tasks[i], rows.store
    key = task.key(rows.bench)
    with ExitStack() as stack:
        with suppress(NoLocks):  # such a file system leaves it to whoever starts runs
            row = f"{task.label} (seed {task.seed}) in {store.root}"
            stack.enter_context(locked(store.claim(key), row, patience))
        store.sweep(key)
        yield


def run_row_there(rows: Rows, i: int) -> Done:
    """One row in a worker, which may have been begun, or even done, by one that died."""
    task = rows.tasks[i]
    _ready(rows.bench.threads, _decoder(rows.tasks))
    if task.code() != rows.codes[i]:
        raise UsageError(
            f"{task.label}: a node of the cluster has other code than the one that planned the run; install "
            "the same version of sidbench and of its plugins on every node"
        )
    if not rows.redo and (record := fresh(task, rows.bench, rows.store)) is not None:
        return Done(record, 0.0, reused=True)
    notes: list[str] = []
    # Loggers live where the numbers are reported.
    with Callbacks(rows.loggers, rows.bench, rows.store.root / "logs", notes.append) as callbacks:
        callbacks.started(task)
        done = run_row(rows, i, LEASE)
        callbacks.finished(done.record)
    return replace(done, notes=notes)


def note_lost(rows: tuple[Rows, str], i: int) -> Done:
    """The record of a row whose worker died whenever it ran; a worker writes it, and so names its machine."""
    every, said = rows
    task = every.tasks[i]
    key = task.key(every.bench)
    record = RunRecord(
        id=run_id(key),
        status="failed",
        key=key,
        code=task.code(),
        error={"type": "WorkerDied", "stage": "worker", "message": provenance.without_folders(said)},
        measured={"finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds")},
        env=every.env,
    )
    every.store.save(record, {})
    return Done(record, 0.0)


def _noted(engine: Engine, rows: Rows, i: int, lost: Lost) -> Done:
    """A row that was lost is a failed row like any other: the others go on."""
    for _, outcome in engine.each(note_lost, (rows, lost.said), [i], needs(rows.bench), rows.store.root):
        if isinstance(outcome, Done):
            return outcome
    raise StorageError(
        f"{rows.tasks[i].label}: {lost.said}; nor could that be noted. Records already written stand: when "
        "the cluster is well again, the same command goes on"
    )


@cache
def _ready(threads: int, decoder: Decoder | None) -> None:
    """What a worker pays once, before any clock runs."""
    limit_threads(threads)
    if decoder is not None:
        warm_up(decoder)


def _decoder(tasks: Sequence[Task]) -> Decoder | None:
    return next((t.decoder for t in tasks if t.decoder is not None), None)
