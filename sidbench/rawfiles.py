"""Raw files as datasets are published: JSON lines, lines of Python literals, CSV; gzip or not. Never eval."""

from __future__ import annotations

import ast
import codecs
import gzip
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from sidbench import delimited
from sidbench.errors import DataError, nearest
from sidbench.progress import report

#: A longer line is no record of any of these files.
LONGEST_LINE = 32 << 20
GZIP = b"\x1f\x8b"
REMEDY = "get it again from where it is published"

_STRING = r"""[uU]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PAIR = re.compile(rf"""\s*({_STRING})\s*:\s*({_STRING}|[^'"\[{{(,}}\s]+)\s*([,}}])""", re.DOTALL)
_TAG, _SPACE = re.compile(r"<[^>]*>"), re.compile(r"\s+")


class _Watched(io.RawIOBase):
    """A stream that reports how far into its file it is; what arrow reads, unpacked."""

    def __init__(self, stream: IO[bytes], raw: IO[bytes], name: str, size: int) -> None:
        self.stream, self.raw, self.name, self.size = stream, raw, name, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.stream.read(len(buffer))
        buffer[: len(piece)] = piece
        report(f"read {self.name}", self.raw.tell(), self.size)
        return len(piece)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where it is gzip; what is wrong with them names the file."""
    with told(path), path.open("rb") as raw:
        packed = raw.read(2) == GZIP
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        watched = _Watched(stream, raw, path.name, path.stat().st_size)
        stream = io.BufferedReader(watched, 1 << 20)
        if stream.peek(3)[:3] == codecs.BOM_UTF8:
            stream.read(3)
        yield stream


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Errors of reading as errors for people."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise DataError(f"{path} is cut off or damaged ({e}); {REMEDY}") from None
    except pa.ArrowException as e:
        raise DataError(f"{path} does not read as it should ({delimited.why(e)}); {REMEDY}") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not text in {e.encoding} ({e.reason}); {REMEDY}") from None
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e})") from None


def json_columns(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    """These fields of a file of JSON lines; the others are not kept, and a missing value is an error."""
    with opened(path) as file:
        found = list(delimited.json_rows(file, pa.schema(list(columns.items()))))
    if not found:
        raise DataError(f"{path} holds no rows; {REMEDY}")
    return complete(pa.Table.from_batches(found).select(list(columns)), path)


def csv_columns(
    path: Path,
    columns: dict[str, pa.DataType],
    *,
    header: bool,
    between: str = ",",
    file: IO[bytes] | None = None,
    quoted: bool = True,
    wanted: tuple[str, ...] = (),
) -> pa.Table:
    """A CSV's columns, typed; with `header` they are looked up by name, else they are all that there are.

    With `wanted` only those of them are kept; `file` is where a member of an archive is read from.
    """
    with told(path), opened(path) if file is None else nullcontext(file) as stream:
        layout = delimited.head(stream, between) if header else None
        layout = layout or delimited.Layout(tuple(columns), between, False, quoted)
        if lacking := [c for c in columns if c not in layout.names]:
            raise DataError(
                f"{path} has no column {lacking[0]!r}{nearest(lacking[0], layout.names)} Expected "
                f"{', '.join(columns)}; columns: {', '.join(layout.names)}."
            )
        found = list(delimited.rows(stream, layout, wanted or tuple(columns), columns, gaps=False))
        table = pa.Table.from_batches(found) if found else None
    if table is None or not len(table):
        raise DataError(f"{path} holds no rows; {REMEDY}")
    return complete(table, path)


def complete(table: pa.Table, path: Path) -> pa.Table:
    """The table, if no cell is empty."""
    for name in table.column_names:
        if empty := table.column(name).null_count:
            raise DataError(f"{path}: {empty:,} of {len(table):,} rows have no {name!r}; {REMEDY}")
    return table


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of text that hold something."""
    with opened(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; {REMEDY}")
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError as e:
                raise DataError(f"{path}, line {number}: {e.reason} in UTF-8; {REMEDY}") from None
            if text:
                yield number, text


def records(path: Path, wanted: Callable[[str], bool] | None = None) -> Iterator[dict[str, Any]]:
    """Objects, one a line, JSON or Python literals; lines that `wanted` refuses are not parsed."""
    for number, line in lines(path):
        if wanted is None or wanted(line):
            yield parsed(line, path, number)


def parsed(line: str, path: Path, number: int) -> dict[str, Any]:
    """One object: JSON, else a Python literal, which holds values alone and calls nothing."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            found = None
    if not isinstance(found, dict):
        raise DataError(
            f"{path}, line {number}: neither a JSON object nor a Python dict: {line[:60]!r}; {REMEDY}"
        )
    return found


def is_json(path: Path) -> bool:
    """Whether a file's first line is a JSON object; the others are read alike."""
    for _, line in lines(path):
        try:
            return isinstance(json.loads(line), dict)
        except ValueError:
            return False
    return False


def flat(line: str, names: tuple[str, ...], path: Path, number: int) -> list[Any]:
    """These fields of a Python dict of plain values, without making the others; None where one is missing.

    Read pair by pair from the start, so that a text which quotes a field is no field. A dict with lists in
    it is read whole.
    """
    found: dict[str, str] = {}
    at, end = 1, ""
    if line.startswith("{"):
        while pair := _PAIR.match(line, at):
            found[_value(pair[1], path, number)] = pair[2]
            at, end = pair.end(), pair[3]
            if end == "}" and at == len(line):
                return [None if (v := found.get(n)) is None else _value(v, path, number) for n in names]
    whole = parsed(line, path, number)
    return [whole.get(n) for n in names]


def first_string(line: str, name: str) -> str | None:
    """The value of the first pair, if it has this name and is plain text: a look before the whole is made."""
    pair = _PAIR.match(line, 1)
    if pair is None or pair[1].lstrip("uU")[1:-1] != name or pair[2][-1] not in "'\"" or "\\" in pair[2]:
        return None
    return pair[2].lstrip("uU")[1:-1]


def _value(text: str, path: Path, number: int) -> Any:
    if text[-1] in "'\"" and "\\" not in text:
        return text.lstrip("uU")[1:-1]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise DataError(f"{path}, line {number}: {text[:60]!r} is no value; {REMEDY}") from None


def leaves(value: Any) -> Iterator[Any]:
    """What stands in lists of any depth, in order."""
    if isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def clean(value: Any, joined: str = ", ") -> str:
    """Text for people and models: lists joined, HTML resolved, one space between words."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return joined.join(dict.fromkeys(t for t in map(clean, leaves(value)) if t))
    # Twice: what was escaped twice is found in these files.
    text = html.unescape(html.unescape(str(value)))
    return _SPACE.sub(" ", _TAG.sub(" ", text)).strip()
