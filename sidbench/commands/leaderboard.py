"""sidbench leaderboard: the board of a results folder, written anew, printed, or held against its records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from sidbench.commands.merge import take
from sidbench.commands.results import open_store, read_board, readable, say, write_files
from sidbench.errors import DataError, SidbenchError, UsageError, nearest
from sidbench.metrics import metric
from sidbench.record import Store
from sidbench.report import Boards, tables
from sidbench.report.charts import CHARTS
from sidbench.report.columns import ALL, known_columns
from sidbench.report.files import MARKDOWN, PAGE
from sidbench.report.markdown import chosen


def write_board(store: Store, *, pictures: bool = True) -> Path:
    """The board from all records of a results folder; without pictures, for between rows, Markdown alone.

    Columns that were chosen for it stay.
    """
    return _write_board(store, Boards(readable(store), store.vectors, _columns(store)), pictures=pictures)


def _columns(store: Store) -> tuple[str, ...]:
    """Those that the board which is there was written with."""
    return chosen(read_board(store, MARKDOWN) or "")


def _write_board(store: Store, made: Boards, *, pictures: bool = True) -> Path:
    files = made.files(partial(read_board, store)) if pictures else {MARKDOWN: made.markdown}
    write_files(store, files, CHARTS if pictures else None, "then run `sidbench leaderboard`")
    return store.board


def leaderboard(
    root: Path,
    *,
    check: bool,
    as_json: bool,
    columns: Sequence[str] = (),
    sort: str | None = None,
    matrix: bool = False,
    merge: Sequence[Path] = (),
) -> int:
    """Write the board anew and print it, or compare it with its records."""
    if check and (columns or sort or matrix or merge):
        raise UsageError(
            "--check compares what is there: --columns, --sort, --matrix and --merge write or print"
        )
    columns = known_columns(columns)
    if sort is not None:
        metric(sort)
    store = open_store(root)
    others = [open_store(other) for other in merge]
    taken = [line for other in others for line in take(store, other)]
    broken = [e for _, e in store.all() if isinstance(e, DataError)]
    for error in broken:
        sys.stderr.write(f"left out: {error}\n")
    records = readable(store)
    if not check:
        made = Boards(records, store.vectors, columns)
        _refuse_absent(made, [*columns, *([sort] if sort else [])])
        path = _write_board(store, made)
        page = store.root / PAGE
        if as_json:
            counts = {"records": len(records), "unreadable": len(broken), "merged": taken}
            say({"board": str(path), "page": str(page), **counts})
            return 1 if broken else 0
        console = Console(highlight=False)
        for line in taken:
            say(line)
        for table in tables(
            records, groups=made.tables, width=console.width, columns=columns, sort=sort, matrix=matrix
        ):
            console.print(table)
        say(f"{path} and {page}: {len(records)} records")
        return 1 if broken else 0
    if not store.board.is_file():
        raise SidbenchError(f"there is no board {store.board}; `sidbench leaderboard` writes it")
    made = Boards(records, store.vectors, _columns(store))
    differences = made.check(partial(read_board, store)) + [str(e) for e in broken]
    if as_json:
        say({"current": not differences, "differences": differences})
    else:
        for line in differences:
            say(line)
        say(f"{store.board} {'differs from' if differences else 'agrees with'} its {len(records)} records")
    return 1 if differences else 0


def _refuse_absent(made: Boards, names: Sequence[str]) -> None:
    """A number that no row has would be a column of nothing."""
    for name in names:
        if name != ALL and made.tables and not any(t.chosen([name])[0].filled for t in made.tables):
            there = sorted({n for t in made.tables for r in t.rows for n in (*r.values, *r.levels)})
            raise UsageError(f"no row has {name!r}{nearest(name, there)} --columns all shows what there is")
