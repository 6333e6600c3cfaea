"""Lists out of JSON in blocks: what json makes of a text, or nothing at all; never anything else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.errors import DataError
from sidbench.format import How
from sidbench.formats import lists, reading, safe

RNG = np.random.default_rng(0)
NAMES = ["0", "17", "B00é墨", "a]b", "c],[d", "{", "", "-1", "7"]


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    return (text[at : at + size] for at in range(0, len(text), size))


def quick(text: bytes, size: int = 1 << 20, **how: Any) -> Any:
    """What the fast way makes of a text: pairs or lists; None where it leaves it alone."""
    try:
        found = lists.read(pieces(text, size), **how)
    except lists.Odd:
        return None
    held = found.held.to_pylist()
    return held if found.ids is None else list(zip(found.ids, held, strict=True))


def slow(text: bytes) -> Any:
    try:
        held = json.loads(text.decode(), object_pairs_hook=safe.Pairs)
    except (ValueError, RecursionError):
        return None
    return list(held) if isinstance(held, safe.Pairs) else held


def value(kind: str) -> Any:
    if kind == "number":
        return int(RNG.choice([0, -1, 7, 255, 65_535, -30, 10**17]))
    return str(RNG.choice(["<a_12>", "<b_0>", "", "é", "x],[y", "1, 2"]))


def made(kind: str, named: bool, rows: int) -> Any:
    held = [[value(kind) for _ in range(RNG.integers(1, 5))] for _ in range(rows)]
    return {f"{RNG.choice(NAMES)}{i}": row for i, row in enumerate(held)} if named else held


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["number", "text"])
def test_the_fast_way_gives_what_json_gives(kind: str, named: bool) -> None:
    for form in ({}, {"indent": 2}, {"separators": (",", ":")}, {"indent": "\t"}):
        for rows in (1, 2, 30):
            text = json.dumps(made(kind, named, rows), ensure_ascii=False, **form).encode()
            for size in (len(text) + 1, 200, 61, 40):
                assert quick(b" \r\n" + text + b"\n", size) == slow(text)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["number", "text"])
def test_whatever_happens_to_a_byte_the_fast_way_makes_nothing_up(kind: str, named: bool) -> None:
    text = json.dumps(made(kind, named, 6), ensure_ascii=False).encode()
    others = b'"\\[]{},: \n0129-+.eE<_>a\x00\x1f\xff\xc3'
    for _ in range(300):
        at = int(RNG.integers(len(text)))
        new = bytes([others[RNG.integers(len(others))]])
        damaged = [text[:at] + new + text[at + 1 :], text[:at] + new + text[at:], text[:at] + text[at + 1 :]]
        for changed in [*damaged, text[:at], text[:at] + text[at + int(RNG.integers(9)) :]]:
            found = quick(changed, int(RNG.choice([30, 1 << 20])))
            assert found is None or found == slow(changed), changed


ODD = [
    "", "{}", "[]", "[[]]", "3", '"a"', "[1, 2]", '{"a": 1}', '{"a": []}', '{"a": [1, "b"]}', '{"a": [1.0]}',
    '{"a": [1e3]}', '{"a": [01]}', '{"a": [-]}', '{"a": [- 1]}', '{"a": [1 2]}', '{"a": [1,]}', '{"a": [1],}',
    '{"a": [[1]]}', '{"a": [true]}', '{"a": [null]}', '{"a\\u0041": [1]}', '{"a": ["\\n"]}', '{"a": ["\n"]}',
    '{"a": [1]} 1', '{"a": [1]', '{"a": [1]]', '[[1]}', '{"a" [1]}', '{: [1]}', '{"a": [1] "b": [2]}',
    '[[1], "a", [2]]', '{"a": [1], "b": ["c"]}', '{"a": [99999999999999999999]}', "[[1]]]", '{{"a": [1]}}',
    "[1], [2]",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_other_json_and_what_is_none_is_left_alone(text: str) -> None:
    assert quick(text.encode()) is None


def test_bytes_that_are_no_text_are_left_alone() -> None:
    assert quick(b'{"\xff": [1]}') is None
    assert quick(b"{ }") is None  # nothing but the space between two brackets
    assert quick(b"[\n]") is None
    assert quick(b'{"\xed\xa0\x80": [1]}') is None
    assert quick(b'\xef\xbb\xbf{"a": [1]}') is None  # the mark is for `safe.pieces` to take off


def test_a_space_that_json_does_not_know_is_none() -> None:
    text = b'{"added_tokens": ["<a_0>"], "items":%s{"x": ["<a_0>"]}}'
    assert lists.read([text % b" "], after_tokens=True).ids == ["x"]
    with pytest.raises(lists.Odd):
        lists.read([text % b"\x0b"], after_tokens=True)


def test_tokens_before_the_items() -> None:
    items = made("text", True, 9)
    for form in ({}, {"indent": 2}):
        text = json.dumps({"added_tokens": ["<a_0>", "<b_1>"], "items": items}, ensure_ascii=False, **form)  # type: ignore[arg-type]
        found = lists.read(pieces(text.encode(), 1 << 20), after_tokens=True)
        assert found.tokens == ["<a_0>", "<b_1>"]
        assert found.ids == list(items)
        assert found.held.to_pylist() == list(items.values())
        for torn in (text[:-1], text + "}", text.replace('"items"', '"other"')):
            assert quick(torn.encode(), after_tokens=True) is None


@pytest.mark.parametrize("packed", [False, True])
def test_files_packed_or_not_in_pieces_of_any_size(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {str(i): [i % 7, i % 5, i] for i in range(900)}
    text = b"\xef\xbb\xbf" + json.dumps(held).encode()
    path = tmp_path / ("x.json.gz" if packed else "x.json")
    path.write_bytes(gzip.compress(text) if packed else text)
    monkeypatch.setattr(safe, "read_json", None)  # which is not needed
    for size in (1 << 20, 4096, 512):
        monkeypatch.setattr(safe.pieces, "__defaults__", (safe.MOST, size))
        table = reading.read(path, "test", How("json"))
        assert dict(zip(table.ids or [], table.codes.tolist(), strict=True)) == held


@pytest.mark.parametrize("text", ['{"7": [0, 2], "7": [2, 1]}', '{"7": [0, -5]}', '{"7": ["<b_1>", "x"]}'])
def test_errors_are_the_same_both_ways(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    said = []
    for way in (lists.of_file, lambda path: None):
        monkeypatch.setattr(lists, "of_file", way)
        with pytest.raises(DataError) as e:
            reading.read(path, "test", How("json"))
        said.append(str(e.value))
    assert said[0] == said[1]
