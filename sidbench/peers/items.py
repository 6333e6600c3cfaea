"""What a catalogue of another system says of its items: ids, titles, the text to make vectors of."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sidbench.dataset import Sequences
from sidbench.errors import DataError
from sidbench.formats import safe


@dataclass(frozen=True, eq=False)
class Texts:
    """Row i of everything is item i."""

    titles: NDArray[np.str_]
    texts: list[str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


def read_item_json(path: Path, fields: tuple[str, ...]) -> Texts:
    """`{"0": {"title": …, "description": …}}`: keys 0..n-1 in any order, text made of these fields."""
    held = safe.read_json(path, pairs=True)
    if not isinstance(held, safe.Pairs) or not held:
        raise DataError(f'{path.name} is no object of items; expected {{"0": {{"title": "…"}}, "1": …}}')
    order = numbered([key for key, _ in held], path)
    about: list[dict[str, Any]] = []
    for i in order:
        key, value = held[i]
        if not isinstance(value, safe.Pairs):
            raise DataError(
                f'{path.name}, item {key}: expected an object such as {{"title": …}}, found {_kind(value)}'
            )
        row = dict(value)
        for name in ("title", *fields):
            if not isinstance(row.get(name, ""), str):
                raise DataError(f"{path.name}, item {key}: {name} is {_kind(row[name])}; expected text")
        about.append(row)
    known = {name for row in about for name in row}
    if not known & set(fields):
        raise DataError(
            f"{path.name} has none of the fields {', '.join(fields)}; it has "
            f"{', '.join(sorted(known)) or 'none'}. Name some with --set 'dataset.text=[\"title\"]'"
        )
    titles = [row.get("title", "") for row in about]
    texts = [" ".join(filter(None, (row.get(name, "").strip() for name in fields))) for row in about]
    return Texts(np.array(titles, dtype=np.str_), texts, _empty(texts, path))


def _empty(texts: list[str], path: Path) -> tuple[str, ...]:
    empty = sum(not t for t in texts)
    return (f"{empty:,} of {len(texts):,} items of {path.name} have no text",) if empty else ()


def numbered(keys: list[str], path: Path) -> list[int]:
    """The places of keys "0".."n-1", in the order of their numbers; anything else is told."""
    try:
        numbers = np.array([int(k) for k in keys], dtype=np.int64)
    except (ValueError, OverflowError):
        odd = next(k for k in keys if not (k.isascii() and k.isdigit()))
        raise DataError(
            f'{path.name}: the key {odd[:40]!r} is no item number; expected "0", "1", … as in the other files'
        ) from None
    order = np.argsort(numbers, kind="stable")
    wrong = np.flatnonzero(numbers[order] != np.arange(len(keys)))
    if len(wrong):
        first, there = int(wrong[0]), int(numbers[order[wrong[0]]])
        said = f"item {there} stands twice" if there < first else f"item {first} is missing"
        raise DataError(
            f"{path.name}: {said}; expected the items 0..{len(keys) - 1}, each once: row i of the vectors is "
            "item i. Is the file cut off, or of another dataset?"
        )
    return [int(i) for i in order]


def _kind(value: Any) -> str:
    return {safe.Pairs: "an object", list: "a list", type(None): "null", bool: "true or false"}.get(
        type(value), f"the value {value!r:.40}"
    )


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, gzip or not, without empty ones at the end."""
    try:
        return safe.read_text(path).rstrip().splitlines()
    except gzip.BadGzipFile as e:
        raise DataError(f"{path.name} is no gzip file ({e})") from None


def listed(lists: list[Any], names: list[str], path: Path) -> Sequences:
    """Lists of item numbers, one a user, as rows; what is no such list is told with its user."""
    try:
        # The type is found, not asked for: Arrow would cut 4.5 down to an asked-for 4.
        array = pa.array(lists)
        flat = array.flatten()
        if array.null_count or flat.null_count or not (pa.types.is_integer(flat.type) or not len(flat)):
            raise ValueError
        items = flat.to_numpy(zero_copy_only=False)
        if len(items) and not 0 <= items.min() <= items.max() < 2**31:
            raise ValueError
    except (pa.ArrowException, AttributeError, ValueError, TypeError, OverflowError):
        for name, row in zip(names, lists, strict=True):
            if not isinstance(row, list):
                raise DataError(
                    f"{path.name}, user {name}: expected a list of items, found {_kind(row)}"
                ) from None
            for item in row:
                if type(item) is not int or not 0 <= item < 2**31:
                    raise DataError(
                        f"{path.name}, user {name}: {_kind(item)} is no item; expected whole numbers from 0"
                    ) from None
        raise
    return Sequences(items.astype(np.int32), array.offsets.to_numpy().astype(np.int64))
