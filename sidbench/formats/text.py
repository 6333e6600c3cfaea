"""Text of a million SIDs in blocks of Arrow: no Python object an item."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sidbench.sids import Codes

BLOCK = 100_000  # rows of text held at once
PLAIN = r"^[ !#-\[\]-~]*$"  # what stands in JSON as it is


def letters(levels: int) -> list[str]:
    """a, b, c… for the levels."""
    return [chr(ord("a") + level) for level in range(levels)]


def spelled(codes: Codes, spell: list[Any]) -> list[Any]:
    """Each level's codes as text, null beyond the end of a SID. `spell[l]` is a text for each code."""
    import pyarrow as pa

    out = []
    for level, words in enumerate(spell):
        column = codes[:, level]
        out.append(words.take(pa.array(column, mask=column < 0)))
    return out


def words(sizes: tuple[int, ...], before: list[str], after: str, base: int) -> list[Any]:
    """For each level the text of every code, such as <a_0>, <a_1>…"""
    import pyarrow as pa

    return [
        pa.array([f"{start}{code + base}{after}" for code in range(size)])
        for start, size in zip(before, sizes, strict=True)
    ]


def joined(columns: list[Any], between: str) -> Any:
    """A row's texts with something between; nulls are left out."""
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(*columns, between, null_handling="skip")


def quoted(names: list[str]) -> Any:
    """Ids as JSON strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = pa.array(names, pa.string())
    if pc.all(pc.match_substring_regex(array, PLAIN)).as_py() is not False:
        return pc.binary_join_element_wise('"', array, '"', "")
    return pa.array([json.dumps(n) for n in names])


def write_json_lists(
    path: Path, names: list[str], codes: Codes, spell: list[Any], *, indent: int = 0
) -> None:
    """{"id": [code, code], …} as `json.dump` writes it, with this indent or none."""
    import pyarrow.compute as pc

    pad, deep = (" " * indent, " " * (2 * indent)) if indent else ("", "")
    line = "\n" if indent else ""
    comma = f",{line}{deep}" if indent else ", "
    with path.open("wb") as file:
        file.write(b"{" + line.encode())
        for start in range(0, len(codes), BLOCK):
            part = slice(start, start + BLOCK)
            sid = joined(spelled(codes[part], spell), comma)
            rows = pc.binary_join_element_wise(
                pad, quoted(names[part]), f": [{line}{deep}", sid, f"{line}{pad}]", ""
            )
            separator = f",{line}" if indent else ", "
            if start:
                file.write(separator.encode())
            _write_rows(file, rows, separator)
        file.write(line.encode() + b"}")


def write_lines(path: Path, header: str, columns: list[Any], between: str = "\t") -> None:
    """A header and a line for each row."""
    with path.open("wb") as file:
        file.write(header.encode() + b"\n")
        rows = len(columns[0])
        for start in range(0, rows, BLOCK):
            part = [c.slice(start, BLOCK) for c in columns]
            _write_rows(file, joined(part, between), "\n")
            file.write(b"\n")


def _write_rows(file: IO[bytes], rows: Any, separator: str) -> None:
    """Texts one after the other, with something between: Arrow keeps them so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(rows, pa.ChunkedArray):
        rows = rows.combine_chunks()
    rows = pc.binary_join_element_wise(rows, "", separator)
    data = rows.buffers()[2]
    offsets: NDArray[np.int32] = np.frombuffer(rows.buffers()[1], dtype=np.int32)
    start, end = int(offsets[rows.offset]), int(offsets[rows.offset + len(rows)])
    file.write(memoryview(data)[start : end - len(separator.encode())])


def odd_name(names: list[str], forbidden: str) -> str | None:
    """The first id that cannot stand in such a file."""
    find = re.compile(forbidden).search
    return next((n for n in names if find(n)), None)
