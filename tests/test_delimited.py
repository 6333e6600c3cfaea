"""Text with commas and tabs: own files, peers' and published ones are read by one set of rules."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidbench import rawfiles
from sidbench.errors import DataError
from sidbench.files import tables
from sidbench.peers import cells

NAMES = ["user", "item", "said"]


def by_published(path: Path) -> pa.Table:
    return rawfiles.csv_columns(path, dict.fromkeys(NAMES, pa.string()), header=True)


READERS: dict[str, Callable[[Path], pa.Table]] = {
    "own": lambda path: tables.read(path, tables.names(path)),
    "peers": cells.read_table,
    "published": by_published,
}
#: Anything but what no text file holds, and a line end that is half of one.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=6)


def lists(table: pa.Table) -> list[list[str]]:
    columns = [[v or "" for v in c.to_pylist()] for c in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(words, min_size=3, max_size=3), min_size=1, max_size=6))
def test_every_reader_reads_what_was_written(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([NAMES, *rows])
    for name, read in READERS.items():
        assert lists(read(path)) == rows, name


def csv_of(*rows: list[str], end: str = "\n") -> str:
    return "".join(",".join(row) + end for row in (NAMES, *rows))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "text",
    [
        csv_of(["a", "1", "x"], ["b", "2", ""]).encode("utf-8-sig"),
        csv_of(["a", "1", "x"], ["b", "2", ""], end="\r\n").encode(),
        csv_of(["a", "1", "x"], ["b", "2", ""]).rstrip("\n").encode(),
        csv_of(['"a"', "1", '"x"'], ["b", "2", '""']).replace("user", '"user"').encode(),
    ],
    ids=["BOM", "CRLF", "no end", "quotes"],
)
def test_marks_line_ends_and_quotes_are_no_content(tmp_path: Path, text: bytes, reader: str) -> None:
    (tmp_path / "x.csv").write_bytes(text)
    table = READERS[reader](tmp_path / "x.csv")
    assert table.column_names == NAMES
    assert lists(table) == [["a", "1", "x"], ["b", "2", ""]]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            csv_of(["a", "1", "x"], ["b", "2"]),
            r"row 1 \(from 0, below the header\).*[Ee]xpected 3 columns, got 2",
        ),
        (csv_of(["a", "1", "x", "y"]), r"row 0 \(from 0, below the header\).*[Ee]xpected 3 columns, got 4"),
        (csv_of(["a", "1", "caf\xe9"]), r"UTF-?8"),
        ("", "first line is empty"),
    ],
    ids=["short", "long", "latin-1", "empty"],
)
def test_a_torn_row_is_named_by_every_reader(tmp_path: Path, body: str, said: str, reader: str) -> None:
    (tmp_path / "x.csv").write_bytes(body.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        READERS[reader](tmp_path / "x.csv")


def test_rows_are_counted_through_all_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidbench.delimited.BLOCK", 4096)
    rows = [[f"u{i}", str(i), "x" * 20] for i in range(1000)]
    path = tmp_path / "x.csv"
    path.write_text(csv_of(*rows[:700], ["broken"], *rows[700:]))
    for read in READERS.values():
        with pytest.raises(DataError, match="row 700 "):
            read(path)


def test_the_header_is_read_as_the_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b'"user, known",item\na,1\n'))
    assert tables.names(path) == ["user, known", "item"]
    assert tables.read(path, ["user, known"]).to_pylist() == [{"user, known": "a"}]


def test_numbers_of_a_published_file_are_typed_or_named_with_their_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("user,time\na,5\nb,six\n")
    columns: dict[str, Any] = {"user": pa.string(), "time": pa.int64()}
    with pytest.raises(DataError, match=r"row 1 .*'six'"):
        rawfiles.csv_columns(path, columns, header=True)
    bare = io.BytesIO(b"a:5\nb:6\n")
    table = rawfiles.csv_columns(path, columns, header=False, between=":", file=bare, wanted=("time",))
    assert table.to_pydict() == {"time": [5, 6]}
    with pytest.raises(DataError, match="no column 'rating'"):
        rawfiles.csv_columns(path, {**columns, "rating": pa.float32()}, header=True)
