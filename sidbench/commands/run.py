"""sidbench run: plan, run, tabulate."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sidbench.budget import Budget
from sidbench.callbacks import Callbacks
from sidbench.commands.leaderboard import write_board
from sidbench.commands.loading import loading
from sidbench.commands.results import readable
from sidbench.decoder import Decoder
from sidbench.display import Display, Several, row_name
from sidbench.engines import Engine, opened
from sidbench.errors import UsageError
from sidbench.estimate import Estimate, Estimator
from sidbench.kit.together import joined
from sidbench.matrix import Done, needs, run_plan
from sidbench.plan import Plan, make_plan
from sidbench.report import tables
from sidbench.report.files import PAGE
from sidbench.settings import Settings
from sidbench.task import Task


def run(settings: Settings, *, redo: bool, dry_run: bool, as_json: bool, command: str) -> int:
    """Everything a run does; 0 when every row ran, 1 when one failed.

    Of several processes (torchrun) the first does it; the others help where something is trained.
    """
    if settings.engine == "ray" and "TORCHELASTIC_RUN_ID" in os.environ:
        raise UsageError("--engine ray starts its own processes: without torchrun, or leave --engine out")
    here = settings.address if settings.engine == "local" else None
    if dry_run or settings.engine == "local":  # a trial runs here
        with joined(settings.device) as first, opened("local", here) as engine:
            return _run(settings, engine, redo, dry_run, as_json, command) if first else 0
    with opened(settings.engine, settings.address) as engine:
        return _run(settings, engine, redo, dry_run, as_json, command)


def _run(settings: Settings, engine: Engine, redo: bool, dry_run: bool, as_json: bool, command: str) -> int:
    # With --json standard output is for the script: what a person watches goes to standard error.
    console = Console(stderr=as_json, highlight=False)
    with loading(console, "loading plugins and data…"):
        plan = make_plan(settings, redo=redo, dry=dry_run, engine=engine)
    _introduce(plan, settings, console)
    if dry_run:
        return _print_plan(plan, console, as_json)

    def warn(said: str) -> None:
        console.print(Text(f"note: {said}", style="yellow"), soft_wrap=True)

    engine.warn = warn
    elsewhere = settings.engine != "local"
    if elsewhere and plan.todo:
        console.print(Text(engine.said(needs(plan.bench)), style="dim"), soft_wrap=True)
    # Loggers are told where the rows run.
    loggers = () if elsewhere else plan.loggers
    callbacks = Callbacks(loggers, plan.bench, plan.store.root / "logs", warn)
    shown = Several if elsewhere else Display
    with shown(console, plan.tasks, plan.done) as display, callbacks:

        def started(i: int, task: Task) -> None:
            display.started(i, task)
            callbacks.started(task)

        def finished(i: int, task: Task, done: Done) -> None:
            display.finished(i, task, done.record, done.reused, done.seconds if elsewhere else None)
            for note in done.notes:
                warn(note)
            if not done.reused:  # a run that is stopped later leaves a board of what it did
                callbacks.finished(done.record)
                write_board(plan.store, pictures=False)

        # A plugin that prints must not print into a script's JSON.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            records = run_plan(plan, engine, started, finished, command, redo=redo)
    with console.status("drawing the board…"):
        board = write_board(plan.store)
    if as_json:
        sys.stdout.write(json.dumps([asdict(r) for r in records], indent=2) + "\n")
    else:
        console.print()
        for table in tables(records, width=console.width, vectors=plan.store.vectors):
            console.print(table)
        where = f"Board: {board}   Page: {board.with_name(PAGE)}   Records: {plan.store.root / 'records'}"
        console.print(Text(where, style="dim"), soft_wrap=True)
    failed = [r for r in records if r.status != "ok"]
    if failed:
        console.print(
            f"{len(failed)} of {len(records)} rows failed; the others stand. "
            "The same command runs only the failed ones again (--debug shows tracebacks).",
            style="red",
            soft_wrap=True,
        )
    return 1 if failed else 0


def _introduce(plan: Plan, settings: Settings, console: Console) -> None:
    corpus, bench = plan.bench.corpus, plan.bench
    whole = not console.is_terminal  # a terminal breaks words; a log has one line for one thing
    targets, users = len(bench.split.test), len(np.unique(bench.split.test.users))
    asked = f"{targets:,} test users" if users == targets else f"{targets:,} test targets of {users:,} users"
    console.print(
        f"[bold]{escape(corpus.name)}[/bold]: {len(corpus):,} items of {corpus.embeddings.shape[1]} "
        f"dimensions, {len(corpus.sequences):,} users, {len(corpus.sequences.items):,} interactions; "
        f"{bench.split.protocol}, {asked}, seen items "
        f"{'kept' if bench.seen == 'keep' else 'left out'}; {bench.device}, {bench.threads} "
        f"thread{'s' * (bench.threads > 1)}",
        soft_wrap=whole,
    )
    decoder = next((t.decoder for t in plan.tasks if t.decoder is not None), None)
    if decoder is not None:
        # With a budget, what it decides is said by it alone; a time decides when to validate too.
        bound = () if settings.budget is None else ("budget", "steps", "patience")
        bound = (*bound, "steps", "patience", "eval_every") if decoder.budget else bound
        hidden = ("seed", "device", *bound, *(() if decoder.budget else ("budget",)))
        said = ", ".join(f"{k} {v}" for k, v in decoder.params().items() if k not in hidden)
        console.print(f"decoder {settings.decoder}: {said}", style="dim", soft_wrap=whole)
    if settings.budget is not None:
        console.print(_said(settings.budget, decoder), soft_wrap=whole)
    for note in (*corpus.notes, *bench.split.notes, *plan.notes):
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=whole)


def _said(budget: Budget, decoder: Decoder | None) -> str:
    """A budget in words."""
    if budget.seconds:
        return f"budget {budget} a row: training and search; a tokenizer's fit is apart"
    steps = "" if decoder is None else f" ({decoder.steps:,} steps of {decoder.batch})"
    return f"budget {budget.sequences:,} sequences a row{steps}: no training stops sooner"


def _print_plan(plan: Plan, console: Console, as_json: bool) -> int:
    estimate = Estimator(plan.bench, readable(plan.store))
    rows: list[dict[str, Any]] = []
    # Trials run plugins, and those print what they like.
    with console.status("trying a few steps of each row…"), redirect_stdout(sys.stderr):
        for i, task in enumerate(plan.tasks):
            guess = Estimate(0, 0, 0, True) if i in plan.done else estimate(task)
            rows.append({"row": row_name(task), "done": i in plan.done, **asdict(guess)})
    todo = [r for r in rows if not r["done"]]
    total = {
        "rows": len(rows),
        "done": len(rows) - len(todo),
        "seconds": sum(r["seconds"] for r in todo),
        "memory_mb": max((r["memory_mb"] for r in todo), default=0.0),
        "disk_mb": sum(r["disk_mb"] for r in todo),
        "cached_mb": plan.cached_mb,
    }
    if as_json:
        sys.stdout.write(json.dumps({"rows": rows, "total": total}, indent=2) + "\n")
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("Row", "Time", "Memory", "Disk", "From"):
        table.add_column(name, justify="left" if name in ("Row", "From") else "right")
    for r in rows:
        if r["done"]:
            table.add_row(escape(r["row"]), "–", "–", "–", "done already", style="dim")
        else:
            origin = "an earlier run" if r["known"] else "a trial"
            table.add_row(
                escape(r["row"]), _time(r["seconds"]), _size(r["memory_mb"]), _size(r["disk_mb"]), origin
            )
    console.print(table)
    cached = f" The data took {_size(plan.cached_mb)} of cache." if plan.cached_mb else ""
    console.print(
        f"{len(todo)} of {len(rows)} rows to run: at most about {_time(total['seconds'])}, "
        f"{_size(total['memory_mb'])} of memory, {_size(total['disk_mb'])} of disk. "
        f"No row was run, and nothing written to {escape(str(plan.store.root))}.{cached}",
        soft_wrap=True,
    )
    return 0


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(mb: float) -> str:
    return f"{mb:.1f} MB" if mb < 10 else f"{mb:.0f} MB" if mb < 2000 else f"{mb / 1024:.1f} GB"
