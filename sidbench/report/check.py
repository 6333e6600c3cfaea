"""Check: does a board say what its records say? Compares cell by cell and names what differs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING

from sidbench.report.board import Vectors
from sidbench.report.markdown import STAMP, leaderboard

if TYPE_CHECKING:
    from sidbench.record import RunRecord

#: (section, table, row) of every row, and its cells by column.
Cells = dict[tuple[str, str, str], dict[str, str]]


def check(
    board: str,
    records: Iterable[RunRecord],
    vectors: Vectors | None = None,
    expected: str | None = None,
) -> list[str]:
    """What differs between a board and its records, a line each; empty where they agree."""
    expected = leaderboard(records, vectors) if expected is None else expected
    if board == expected:
        return []
    found = _stamped(board, expected) + _rows(_cells(board), _cells(expected))
    return found or [_first_line(board, expected)]


def _stamped(board: str, expected: str) -> list[str]:
    there, here = _ids(board), _ids(expected)
    if there is None:
        return [
            "the board does not list the records it was made of: it was cut short or not made by sidbench"
        ]
    out = [f"record {i} is not on the board" for i in sorted((here or set()) - there)]
    return out + [
        f"the board was made with record {i}, which is not here" for i in sorted(there - (here or set()))
    ]


def _ids(text: str) -> set[str] | None:
    _, stamp, rest = text.partition(STAMP)
    return set(rest.partition("-->")[0].split()) if stamp else None


def _rows(there: Cells, here: Cells) -> list[str]:
    out = []
    for where in [*here, *(w for w in there if w not in here)]:
        section, table, row = where
        place = f"{section}, {table}, row {row}"
        if where not in there:
            out.append(f"{place}: missing on the board")
        elif where not in here:
            out.append(f"{place}: on the board, but no record gives it")
        else:
            a, b = there[where], here[where]
            columns = [*b, *(c for c in a if c not in b)]
            out += [
                f"{place}, {c}: the board says {a.get(c, 'nothing')}, the records say {b.get(c, 'nothing')}"
                for c in columns
                if a.get(c) != b.get(c)
            ]
    return out


def _cells(text: str) -> Cells:
    """The tables of a page: a header line, a line of dashes, then rows."""
    cells: Cells = {}
    section = table = ""
    head: list[str] = []
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("### "):
            table = line[4:]
        if not line.startswith("|"):
            head = []
        elif not head:
            head = _split(line)
        elif not line.startswith("| :--"):
            row = _split(line)
            cells[section, table, _bare(row[0])] = dict(zip_longest(head[1:], row[1:], fillvalue="nothing"))
    return cells


def _split(line: str) -> list[str]:
    # An escaped bar is part of a cell.
    return [c.replace("\0", r"\|").strip() for c in line.strip().strip("|").replace(r"\|", "\0").split("|")]


def _bare(name: str) -> str:
    return name.strip("*")


def _first_line(board: str, expected: str) -> str:
    pairs = zip_longest(board.splitlines(), expected.splitlines())
    for number, (a, b) in enumerate(pairs, start=1):
        if a != b:
            return f"line {number}: the board says {a!r}, the records say {b!r}"
    return "the board does not end with a newline as its records' board does"
