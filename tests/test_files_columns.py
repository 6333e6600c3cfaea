"""Own files: which column is what, and ids of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.errors import DataError, UsageError
from sidbench.files.columns import KNOWN, Columns, plain, recognise
from sidbench.files.ids import from_text, identifiers, repeats, rows_of
from sidbench.files.text import numbered
from tests.own_files import EVENTS, IDS, N, X, as_csv, at_home, corpus, events, listed, vectors_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


# -- columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", KNOWN)
def test_every_known_name_is_recognised_however_it_is_written(role: str) -> None:
    for name in KNOWN[role]:
        for spelt in (name, name.upper(), name.replace("_", ""), f"{name}:token", name.replace("_", " ")):
            assert recognise(["price", spelt], role) == spelt
    assert recognise(["price", "colour"], role) is None


def test_known_names_mean_one_thing() -> None:
    names = [plain(n) for names in KNOWN.values() for n in names]
    assert len(set(names)) == len(names)


def test_the_surest_name_wins_and_the_others_are_said() -> None:
    assert recognise(["id", "asin", "parent_asin"], "item") == "parent_asin"
    assert recognise(["id", "title"], "item") == "id"
    assert numbered(["a", "emb_10", "emb_2", *(f"emb_{i}" for i in (0, 1, 3, 4, 5, 6, 7, 8, 9))]) == [
        f"emb_{i}" for i in range(11)
    ]
    assert numbered(["q1", "q3", "year2020"]) == []


def test_columns_can_be_named(home: Path) -> None:
    odd = listed().rename_columns(["ding", "wort", "zahlen"])
    pq.write_table(odd, home / "items.parquet")
    pq.write_table(events().rename_columns(["wer", "was", "wann"]), home / "events.parquet")
    with pytest.raises(
        DataError, match=r"no column 'item'.*Columns: ding, wort, zahlen.*--columns item=COLUMN"
    ):
        corpus(home)
    named = "items.item=ding,embedding=zahlen,title=wort,user=wer,sequences.item=was,time=wann"
    c = corpus(home, columns=named)
    assert vectors_of(c) == dict(zip(IDS, X.tolist(), strict=True))
    assert "items.parquet: item = ding, title = wort, embedding = zahlen" in c.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item", "WHAT=COLUMN"),
        ("titel=x", "no 'titel'; did you mean 'title'"),
        ("log.item=x", "before the dot stands one of items, sequences, embeddings"),
    ],
)
def test_names_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Columns.parse(text)


# -- ids ---------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[pa.Array, list[Any]]] = {
    "numbers": (pa.array([5, 3, 9], pa.int8()), [5, 3, 9]),
    "text": (pa.array(["007", "x", "", " "]), ["007", "x", None, None]),
    "large text": (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
    "categories": (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    "hashes": (pa.array([2**64 - 1, 1, 2], pa.uint64()), ["18446744073709551615", "1", "2"]),
    "whole floats": (pa.array([1.0, 2.0, None]), [1, 2, None]),
    "bytes": (pa.array([b"\x00\xff", b"a", b"b"]), ["00ff", "61", "62"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_any_kind_are_kept(kind: str) -> None:
    given, expected = KINDS[kind]
    assert identifiers(given, "file").to_pylist() == expected


def test_text_is_a_number_only_where_nothing_is_lost() -> None:
    assert from_text(pa.array(["0", "17", "-3", None])).to_pylist() == [0, 17, -3, None]
    for kept in (["007", "1"], ["1.0"], ["+1"], ["9" * 30], ["1", "x"]):
        assert from_text(pa.array(kept)).to_pylist() == kept


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3) | st.none(), max_size=30), st.lists(st.integers(-5, 5), max_size=20))
def test_repeats_and_rows_are_those_of_a_dictionary(ids: list[Any], wanted: list[int]) -> None:
    array = pa.array(ids, pa.int64())
    again = [v is not None and v in ids[:i] for i, v in enumerate(ids)]
    assert repeats(array).tolist() == again
    first = {v: i for i, v in reversed(list(enumerate(ids)))}
    assert rows_of(pa.array(wanted, pa.int64()), array).tolist() == [first.get(w, -1) for w in wanted]
    assert rows_of(pa.array([str(w) for w in wanted], pa.string()), array).tolist() == [
        first.get(w, -1) for w in wanted
    ]


def test_leading_zeros_survive_a_csv_file(home: Path) -> None:
    zeros = [f"{i:03d}" for i in range(N)]
    as_csv(listed().set_column(0, "item_id", pa.array(zeros)), home / "items.csv")
    table = events().set_column(1, "item", pa.array([zeros[IDS.index(i)] for _, i, _ in EVENTS]))
    c = corpus(home, items=home / "items.csv", sequences=as_csv(table, home / "log.csv"))
    assert c.item_ids.tolist() == zeros
