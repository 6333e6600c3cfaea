"""Own files: whatever kind they are of, the same corpus; what is understood is said, what is wrong too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sidbench.cli import main
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.files import items as items_module
from sidbench.files import survey as survey_module
from sidbench.files import tables
from sidbench.files.columns import KNOWN, Columns, plain, recognise
from sidbench.files.ids import from_text, identifiers, repeats, rows_of
from sidbench.files.survey import Held, survey
from sidbench.files.text import numbered
from sidbench.registry import load_dataset, make_dataset
from sidbench.settings import read_settings
from sidbench.vectors import open_vectors

N, D = 12, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float16).astype(np.float32)
IDS = [f"B{i:02d}" for i in RNG.permutation(N)]
TITLES = [f"thing {i}" for i in range(N)]
#: user, item, time: in the order of time for every user.
EVENTS = [
    (f"u{u}", IDS[(3 * u + 5 * t) % N], 1_700_000_000 + 60 * t) for u in range(6) for t in range(3 + u % 3)
]


def corpus(folder: Path, **options: Any) -> Corpus:
    given = {"items": folder / "items.parquet", "sequences": folder / "events.parquet", **options}
    return make_dataset("files", {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}).load()


def said(c: Corpus) -> str:
    return "\n".join(c.notes)


def vectors_of(c: Corpus) -> dict[Any, Any]:
    return {i: v.tolist() for i, v in zip(c.item_ids.tolist(), c.embeddings, strict=True)}


def history(c: Corpus) -> dict[Any, list[Any]]:
    ids = c.item_ids
    return {u: ids[s].tolist() for u, s in zip(c.user_ids.tolist(), c.sequences, strict=True)}


def columns(**more: Any) -> pa.Table:
    return pa.table({"item_id": IDS, "title": TITLES, **more})


def listed() -> pa.Table:
    return columns(embedding=pa.array(X.tolist(), pa.list_(pa.float32())))


def events() -> pa.Table:
    user, item, time = zip(*EVENTS, strict=True)
    return pa.table({"user": list(user), "item": list(item), "time": list(time)})


def lists() -> pa.Table:
    users = list(dict.fromkeys(u for u, _, _ in EVENTS))
    return pa.table(
        {
            "user": users,
            "items": [[i for v, i, _ in EVENTS if v == u] for u in users],
            "timestamps": [[t for v, _, t in EVENTS if v == u] for u in users],
        }
    )


def as_csv(table: pa.Table, path: Path, sep: str = ",") -> Path:
    """Lists are written as people write them: in brackets, in quotes."""
    rows = [table.column_names]
    for row in table.to_pylist():
        rows.append(
            ['"' + str(v) + '"' if isinstance(v, list) else "" if v is None else str(v) for v in row.values()]
        )
    path.write_text("\n".join(sep.join(r) for r in rows) + "\n")
    return path


def as_json(value: Any, path: Path) -> Path:
    path.write_text(json.dumps(value))
    return path


def as_npz(table: pa.Table, path: Path) -> Path:
    columns: dict[str, Any] = {k: np.asarray(table[k].to_pylist()) for k in table.column_names}
    np.savez(path, **columns)
    return path


def as_jsonl(table: pa.Table, path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    pq.write_table(listed(), tmp_path / "items.parquet")
    pq.write_table(events(), tmp_path / "events.parquet")
    return tmp_path


def parquet_parts(home: Path) -> dict[str, Any]:
    (home / "parts").mkdir()
    for i in range(3):
        pq.write_table(listed().slice(4 * i, 4), home / "parts" / f"part-{i}.parquet")
    return {"items": home / "parts"}


def beside(name: str, write: Callable[[Path], Any], **more: Any) -> Callable[[Path], dict[str, Any]]:
    def make(home: Path) -> dict[str, Any]:
        pq.write_table(columns(), home / "words.parquet")
        write(home / name)
        return {"items": home / "words.parquet", "embeddings": home / name, **more}

    return make


def in_other_order(path: Path) -> None:
    order = RNG.permutation(N)
    pq.write_table(pa.table({"asin": [IDS[i] for i in order], "vec": X[order].tolist()}), path)


def fbin(path: Path, cut: int = 0, more: bytes = b"") -> None:
    whole = np.array([N, D], "<u4").tobytes() + X.tobytes()
    path.write_bytes(whole[: len(whole) - cut] + more)


ITEMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "parquet": lambda home: {},
    "fixed lists of halves": lambda home: pq.write_table(
        columns(emb=pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float16).reshape(-1)), D)),
        home / "items.parquet",
    )
    or {},
    "parquet parts": parquet_parts,
    "csv": lambda home: {"items": as_csv(listed(), home / "items.csv")},
    "semicolons": lambda home: {"items": as_csv(listed(), home / "things.csv", ";")},
    "tsv": lambda home: {"items": as_csv(listed(), home / "items.tsv", "\t")},
    "numbered columns": lambda home: {
        "items": as_csv(columns(**{f"emb_{i}": X[:, i] for i in range(D)}), home / "items.csv")
    },
    "jsonl": lambda home: {"items": as_jsonl(listed(), home / "items.jsonl")},
    "json": lambda home: {"items": as_json(listed().to_pylist(), home / "items.json")},
    "feather": lambda home: pyarrow.feather.write_feather(listed(), home / "items.feather")
    or {"items": home / "items.feather"},
    "npy beside": beside("x.npy", lambda p: np.save(p, X.astype(np.float16))),
    "npz beside": beside("x.npz", lambda p: np.savez_compressed(p, vectors=X, other=np.arange(4))),
    "npz with ids": beside("x.npz", lambda p: np.savez(p, emb=X[::-1].copy(), ids=np.array(IDS[::-1]))),
    "safetensors beside": beside("x.safetensors", lambda p: save_file({"emb": X}, p)),
    "fbin beside": beside("x.fbin", fbin),
    "dump beside": beside("x.bin", lambda p: p.write_bytes(X.tobytes()), dim=D, dtype="float32"),
    "parquet beside, by id": beside("x.parquet", in_other_order),
    "csv beside, by id": beside("x.csv", lambda p: as_csv(listed().take(list(range(N))[::-1]), p)),
}  # fmt: skip
SEQUENCES: dict[str, Callable[[Path], Path]] = {
    "parquet": lambda home: home / "events.parquet",
    "csv": lambda home: as_csv(events(), home / "log.csv"),
    "jsonl": lambda home: as_jsonl(events(), home / "log.jsonl"),
    "feather": lambda home: pyarrow.feather.write_feather(events(), home / "log.feather")
    or home / "log.feather",
    "npz": lambda home: as_npz(events(), home / "log.npz"),
    "shuffled": lambda home: pq.write_table(events().take(RNG.permutation(len(EVENTS))), home / "log.parquet")
    or home / "log.parquet",
    "lists": lambda home: pq.write_table(lists(), home / "lists.parquet") or home / "lists.parquet",
    "lists in csv": lambda home: as_csv(lists(), home / "lists.csv", ";"),
    "lists in json": lambda home: as_json(
        dict(zip(lists()["user"].to_pylist(), lists()["items"].to_pylist(), strict=True)), home / "lists.json"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ITEMS)
def test_items_of_any_kind_are_the_same_items(home: Path, kind: str) -> None:
    whole = corpus(home)
    c = corpus(home, **ITEMS[kind](home))
    assert c.embeddings.dtype == np.float32
    assert vectors_of(c) == dict(zip(IDS, X.tolist(), strict=True))
    assert c.titles is not None
    assert c.titles.tolist() == TITLES
    assert c.fingerprint == whole.fingerprint
    assert c.catalogue == whole.catalogue


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_of_any_kind_are_the_same_sequences(home: Path, kind: str) -> None:
    expected: dict[str, list[str]] = {}
    for user, item, _ in EVENTS:
        expected.setdefault(user, []).append(item)
    c = corpus(home, sequences=SEQUENCES[kind](home))
    assert history(c) == expected
    if kind != "lists in json":
        assert c.times is not None
        assert c.times.min() == 1_700_000_000


def test_vectors_alone_are_a_catalogue_of_row_numbers(home: Path) -> None:
    np.save(home / "x.npy", X)
    numbers = events().set_column(1, "item", pa.array([IDS.index(i) for _, i, _ in EVENTS]))
    pq.write_table(numbers, home / "events.parquet")
    c = corpus(home, items=home / "x.npy")
    assert c.item_ids.tolist() == list(range(N))
    assert (c.embeddings == X).all()


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
    "text": (pa.array(["007", "x", ""]), ["007", "x", ""]),
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


# -- what cannot be used -----------------------------------------------------------------------------------


def rewritten(home: Path, x: Any = X, ids: Any = None) -> None:
    vectors = pa.array([None if v is None else list(map(float, v)) for v in x], pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"item_id": IDS if ids is None else ids, "title": TITLES, "embedding": vectors}),
        home / "items.parquet",
    )


def test_items_without_vectors_and_their_events_are_left_out_and_counted(home: Path) -> None:
    gone = IDS[4]
    rewritten(home, [None if i == 4 else v for i, v in enumerate(X)])
    c = corpus(home)
    assert gone not in c.item_ids.tolist()
    assert len(c) == N - 1
    kept = dict(zip(IDS, X.tolist(), strict=True))
    del kept[gone]
    assert vectors_of(c) == kept
    lost = sum(i == gone for _, i, _ in EVENTS)
    assert f"1 of 12 items have no vector, first '{gone}': left out" in said(c)
    assert f"{lost} of {len(EVENTS)} events name 1 items that the catalogue of 11 (left of 12)" in said(c)
    with pytest.raises(DataError, match="1 of 12 items have no vector"):
        corpus(home, unusable="error")


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_nan_is_an_error_or_becomes_zero_and_is_counted(home: Path, broken: float) -> None:
    x = X.copy()
    x[3, 1] = x[7, 0] = broken
    rewritten(home, x)
    with pytest.raises(
        DataError, match=r"2 items have a vector with NaN or infinity, first in row 3.*nan=zero"
    ):
        corpus(home)
    c = corpus(home, nan="zero")
    assert np.isfinite(c.embeddings).all()
    assert (c.embeddings == np.where(np.isfinite(x), x, 0)).all()
    assert "2 items have a vector with NaN or infinity, first in row 3: such numbers became zero" in said(c)


def test_repeated_items_are_an_error_or_the_first_stands(home: Path) -> None:
    ids = list(IDS)
    ids[5] = ids[2]
    rewritten(home, X, ids)
    with pytest.raises(DataError, match=rf"1 of 12 items repeat an earlier id, first '{ids[2]}'"):
        corpus(home)
    c = corpus(home, repeated="first")
    assert vectors_of(c)[ids[2]] == X[2].tolist()


def test_events_without_user_item_or_time_are_left_out_and_counted(home: Path) -> None:
    table = events().to_pylist()
    table += [
        {"user": None, "item": IDS[0], "time": 1},
        {"user": "u0", "item": None, "time": 1},
        {"user": "u0", "item": IDS[0], "time": None},
        {"user": "ghost", "item": "unknown", "time": 1},
    ]
    pq.write_table(pa.Table.from_pylist(table), home / "events.parquet")
    c = corpus(home)
    assert len(c.sequences.items) == len(EVENTS)
    assert "ghost" not in c.user_ids.tolist()
    for what in ("events have no user", "events have no item", "events have no time", "events name 1 items"):
        assert f"1 of {len(table)} {what}" in said(c)
    assert "1 of 7 users are left without any event: left out" in said(c)
    with pytest.raises(DataError, match="column user has 1 empty cells"):
        corpus(home, unusable="error")


def test_ids_that_never_meet_are_an_error_that_shows_both(home: Path) -> None:
    table = events().set_column(1, "item", pa.array([f"other-{i}" for _, i, _ in EVENTS]))
    pq.write_table(table, home / "events.parquet")
    with pytest.raises(DataError, match=rf"there ids are such as 'other-.*in the catalogue '{IDS[0]}'"):
        corpus(home)


def test_titles_are_cut_where_they_would_take_gigabytes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "TITLES", 4 * 20 * N)
    long = "w" * 1000
    pq.write_table(listed().set_column(1, "title", pa.array([long] * N)), home / "items.parquet")
    c = corpus(home)
    assert c.titles is not None
    assert set(c.titles.tolist()) == {"w" * 20}
    assert "titles are cut to 20 characters, the longest has 1,000" in said(c)


def test_words_without_vectors_name_the_remedy(home: Path) -> None:
    pq.write_table(columns(), home / "items.parquet")
    with pytest.raises(DataError, match=r"but words \(title\): --embedding tfidf .*sidbench embed"):
        corpus(home)
    c = corpus(home, embedding="tfidf")
    assert len(c.embeddings) == N
    assert "vectors are made by tfidf of title" in said(c)


# -- vectors in pieces -------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6))
@pytest.mark.parametrize("kind", ["npz", "csv", "fbin"])
def test_pieces_in_any_order_are_the_rows(
    kind: str, spans: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    x = np.arange(90, dtype=np.float32).reshape(30, 3)
    path = tmp_path_factory.mktemp("x") / f"x.{kind}"
    if kind == "npz":
        np.savez_compressed(path, x=x)
    elif kind == "csv":
        np.savetxt(path, x, delimiter=",")
    else:
        path.write_bytes(np.array(x.shape, "<u4").tobytes() + x.tobytes())
    vectors = open_vectors(path)
    assert (vectors.rows, vectors.dim) == x.shape
    for a, b in spans:
        start, stop = sorted((a, b))
        assert (vectors.read(start, stop) == x[start:stop]).all()


@pytest.mark.parametrize("in_memory", [True, False])
def test_large_vectors_live_in_the_cache(
    home: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    x = X.copy()
    x[3, 1] = np.nan
    rewritten(home, [None if i == 4 else v for i, v in enumerate(x)])
    monkeypatch.setattr(survey_module, "PIECE", 2 * D)
    if not in_memory:
        monkeypatch.setattr(items_module, "IN_MEMORY", 1)
    for _ in range(2):  # made, then found
        c = corpus(home, nan="zero")
        assert isinstance(c.embeddings, np.memmap) is not in_memory
        assert (c.embeddings == np.delete(np.nan_to_num(x), 4, axis=0)).all()
        assert "1 items have a vector with NaN" in said(c)
        assert (c.permuted().embeddings[0] == c.embeddings).all(axis=1).any()


def test_a_large_file_of_float32_is_mapped_and_not_copied(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_module, "IN_MEMORY", 1)
    pq.write_table(columns(), home / "words.parquet")
    np.save(home / "x.npy", X)
    c = corpus(home, items=home / "words.parquet", embeddings=home / "x.npy")
    assert isinstance(c.embeddings, np.memmap)
    assert not (home / "cache").exists()


@pytest.mark.parametrize("dim", [3, 4])
def test_a_survey_counts_what_a_loop_would(monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    x = RNG.integers(-1, 2, (300, dim)).astype(np.float32)
    x[5], x[9, 1], x[11] = np.nan, np.inf, 3.4e38
    monkeypatch.setattr(survey_module, "PIECE", 3 * 7)
    found, without = survey(Held(x), gaps=True)
    whole = x[np.isfinite(x).all(axis=1)]
    assert (found.rows, found.not_finite, found.first_not_finite) == (299, 1, 9)
    assert without.nonzero()[0].tolist() == [5]
    assert found.zero == (whole == 0).all(axis=1).sum()
    assert found.constant == ((whole == whole[:, :1]).all(axis=1) & (whole != 0).any(axis=1)).sum()
    assert found.repeated == len(whole) - len(np.unique(whole, axis=0))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "torn npz": ("x.npz", lambda p: p.write_bytes(p.read_bytes()[:-30]), "no readable .npz"),
    "npz of objects": ("x.npz", lambda p: np.savez(p, x=np.array([{}], object)), "which array"),
    "npz of two": ("x.npz", lambda p: np.savez(p, a=X, b=X), "2 fit"),
    "npz, one axis": ("x.npz", lambda p: np.savez(p, x=X[0]), "which array"),
    "npz of text": ("x.npz", lambda p: np.savez(p, x=X.astype(str)), "expected rows of numbers"),
    "short fbin": ("x.fbin", lambda p: p.write_bytes(b"\x01"), "expected rows and dimensions"),
    "torn fbin": ("x.fbin", lambda p: fbin(p, 4), "cut short"),
    "long fbin": ("x.fbin", lambda p: fbin(p, 0, b"1234"), "4 bytes follow"),
    "csv of words": ("x.csv", lambda p: p.write_text("item,embedding\n1,a b\n2,c d\n"), "is no number"),
    "ragged csv": ("x.csv", lambda p: p.write_text("item,embedding\n1,1 2\n2,1\n"), "row 1 has 1 numbers"),
    "torn csv": ("x.csv", lambda p: p.write_text("item,emb\n1,2,3\n"), "cannot be read as csv"),
    "empty csv": ("x.csv", lambda p: p.write_text(""), "cannot be read as csv"),
    "torn jsonl": ("x.jsonl", lambda p: p.write_text('{"item": 1, "emb": [1, 2'), "cannot be read as jsonl"),
}  # fmt: skip


def read_all(path: Path) -> None:
    vectors = open_vectors(path)
    vectors.read(0, vectors.rows)


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_vectors_are_one_clear_message(tmp_path: Path, what: str) -> None:
    name, spoil, message = DAMAGE[what]
    path = tmp_path / name
    np.savez(tmp_path / "x.npz", x=X)
    spoil(path)
    with pytest.raises(SidbenchError, match=message) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((17_000, 1000), np.float32))
    with pytest.raises(DataError, match="refused"):
        open_vectors(tmp_path / "x.npz")


def test_tables_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.xls").write_text("")
    with pytest.raises(UsageError, match=r"'\.xls' are not known.*\.csv"):
        tables.names(tmp_path / "x.xls")


# -- the command line --------------------------------------------------------------------------------------


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_the_check_says_everything_before_any_training(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = X.copy()
    x[1], x[2], x[6] = 0, 1, x[5]
    rewritten(home, x)
    assert call("data", "check", "--items", "items.parquet", "--sequences", "events.parquet", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ready"]
    assert facts["items"]["items"] == N
    assert facts["items"]["columns"] == {"item": "item_id", "title": "title", "embedding": "embedding"}
    assert [facts["vectors"][k] for k in ("zero", "constant", "repeated", "not_finite")] == [1, 1, 1, 0]
    assert facts["sequences"]["users"] == 6
    assert facts["sequences"]["kept"] == len(EVENTS)
    assert facts["sequences"]["times"]["first"] == "2023-11-14T22:13:20"
    assert any("fewer than the 256 codes" in note for note in facts["notes"])


def test_the_check_names_every_fault_and_exits_with_1(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = X.copy()
    x[0] = np.inf
    rewritten(home, x)
    pq.write_table(events().slice(0, 2), home / "events.parquet")
    assert call("data", "check", "--items", "items.parquet", "--sequences", "events.parquet", "--json") == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert len(errors) == 2
    assert "NaN or infinity" in errors[0]
    assert "no user has 3 events" in errors[1]


def test_the_check_of_words_alone_names_the_remedy(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(columns(), home / "items.parquet")
    arguments = ("data", "check", "--items", "items.parquet", "--sequences", "events.parquet")
    assert call(*arguments) == 1
    assert "--embedding tfidf" in capsys.readouterr().out
    assert call(*arguments, "--embedding", "tfidf") == 0


def test_the_check_reads_any_dataset(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "check", "synthetic:tiny") == 0
    assert "✓ ready for sidbench run" in capsys.readouterr().out
    assert call("data", "check") == 2
    assert call("data", "check", "synthetic", "--items", "x") == 2
    assert call("data", "check", "--items", "nowhere.parquet") == 2


def test_a_run_takes_files_and_keeps_their_folders_to_itself(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "somebody's secret folder"
    folder.mkdir()
    for name in ("items.parquet", "events.parquet"):
        (home / name).rename(folder / name)
    files = ["--items", str(folder / "items.parquet"), "--sequences", str(folder / "events.parquet")]
    small = ["--set", "dataset.called=mine", "--methods", "popularity", "--cutoffs", "1,2"]
    assert call("run", *files, *small) == 0
    printed = capsys.readouterr().out
    assert "mine: 12 items of 3 dimensions, 6 users" in printed
    assert "note: items.parquet: item = item_id, title = title, embedding = embedding" in printed
    (record,) = Path("results/records/mine/popularity").glob("*.json")
    assert "secret" not in record.read_text()
    key = json.loads(record.read_text())["key"]["dataset"]
    assert key["plugin"] == "files"
    assert "items" not in key["params"]


def test_files_and_a_dataset_exclude_each_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--items", "items.parquet", "--dataset", "synthetic") == 2
    assert "not both" in capsys.readouterr().err
    assert call("run", "--columns", "item=x") == 2
    assert "--columns belongs to data" in capsys.readouterr().err


def test_a_run_file_names_files_as_the_options_do(home: Path) -> None:
    (home / "runs.toml").write_text(
        'items = "items.parquet"\ncolumns = "item=item_id"\nembedding = "tfidf"\n'
    )
    found = read_settings(home / "runs.toml", {"sequences": "events.parquet"}, ["dataset.ties=shuffle"])
    assert found.dataset == "files"
    assert found.set["dataset"] == {
        "items": "items.parquet",
        "sequences": "events.parquet",
        "embedding": "tfidf",
        "columns": "item=item_id",
        "ties": "shuffle",
    }
    assert read_settings(None, {"dataset": "x", "embedding": "tfidf"}, []).set["dataset"] == {
        "embedding": "tfidf"
    }


def test_sequences_are_found_beside_the_items(home: Path) -> None:
    assert len(load_dataset("files:items.parquet").sequences) == 6
    (home / "ratings.csv").write_text("user,item,time\n")
    with pytest.raises(DataError, match=r"events\.parquet and ratings\.csv: which one"):
        load_dataset("files:items.parquet")


# -- what a reviewer tried -----------------------------------------------------------------------------------


def test_a_title_that_begins_with_a_quote_swallows_no_rows_between_tabs(home: Path) -> None:
    rows = [f'{i}\t"{t}\t{" ".join(map(str, v))}' for i, t, v in zip(IDS, TITLES, X.tolist(), strict=True)]
    (home / "items.tsv").write_text("\n".join(["item\ttitle\temb", *rows]) + "\n")
    c = corpus(home, items=home / "items.tsv")
    assert vectors_of(c) == vectors_of(corpus(home))
    assert c.titles is not None
    assert c.titles[0] == '"thing 0'
    quoted = as_csv(listed(), home / "items.tsv", "\t").read_text().replace("item_id", '"item_id"', 1)
    quoted = quoted.replace("\nB", '\n"B').replace("\tthing", '"\tthing')  # all is quoted, as R writes it
    (home / "items.tsv").write_text(quoted)
    assert vectors_of(corpus(home, items=home / "items.tsv")) == vectors_of(c)


def test_two_columns_of_one_name_are_asked_about(home: Path) -> None:
    twice = pa.table([pa.array(IDS), pa.array(TITLES), pa.array(X.tolist())], names=["item", "item", "emb"])
    pq.write_table(twice, home / "twice.parquet")
    as_csv(twice, home / "twice.csv")
    for kind in ("parquet", "csv"):
        with pytest.raises(DataError, match="several columns called 'item': which one is meant"):
            corpus(home, items=home / f"twice.{kind}")


def test_a_header_without_rows_is_no_catalogue(home: Path) -> None:
    (home / "none.csv").write_text("item,title,embedding\n")
    with pytest.raises(DataError, match="no rows; expected at least one item"):
        corpus(home, items=home / "none.csv")
    with pytest.raises(SystemExit) as e:
        main(
            ["data", "check", "--items", "none.csv", "--sequences", "events.parquet", "--embedding", "tfidf"]
        )
    assert e.value.code == 1


def test_columns_that_some_objects_lack_are_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = listed().to_pylist()
    for row in rows[:1] + rows[-3:]:
        del row["title"]
    found = corpus(home, items=as_json(rows, home / "i.json"))
    assert found.titles is not None
    assert found.titles.tolist() == ["", *TITLES[1:-3], "", "", ""]
    (home / "i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(tables, "BLOCK", 64)  # every object is a piece of its own
    lines = corpus(home, items=home / "i.jsonl")
    assert lines.titles is not None
    assert lines.titles.tolist() == found.titles.tolist()
    assert vectors_of(lines) == vectors_of(found) == vectors_of(corpus(home))


def test_a_part_without_a_column_and_numbers_beyond_all_are_one_message(home: Path) -> None:
    given = parquet_parts(home)
    pq.write_table(listed().slice(4, 4).drop_columns(["embedding"]), home / "parts" / "part-1.parquet")
    with pytest.raises(DataError, match=r"part-1.parquet has no column embedding"):
        corpus(home, **given)
    with pytest.raises(DataError, match="too large"):
        corpus(home, items=as_json([{"item": 10**20, "embedding": [1.0]}], home / "huge.json"))


def test_a_number_beside_an_item_is_no_list_of_items(home: Path) -> None:
    numbered_events = events().append_column("seq", pa.array(range(len(EVENTS))))
    c = corpus(home, sequences=as_csv(numbered_events, home / "e.csv"))
    assert history(c) == history(corpus(home))


def test_nan_is_a_gap_in_ids_and_infinity_is_none() -> None:
    assert identifiers(pa.array([1.0, float("nan"), 3.0]), "f").to_pylist() == [1, None, 3]
    with pytest.raises(DataError, match="expected integers or text"):
        identifiers(pa.array([1.0, float("inf")]), "f")


def test_a_word_among_numbers_is_told_with_its_row(home: Path) -> None:
    rows = [f'{i},"{v}"' for i, v in zip(IDS, X.tolist(), strict=True)]
    rows[7] = f'{IDS[7]},"[1, many, 3]"'
    (home / "i.csv").write_text("\n".join(["item,embedding", *rows]) + "\n")
    with pytest.raises(DataError, match="no number, 'many' in row 7"):
        corpus(home, items=home / "i.csv")


def test_a_name_that_no_file_has_stops_a_run_too(home: Path) -> None:
    with pytest.raises(DataError, match="no file has a column 'nope'"):
        corpus(home, columns="user=nope")
    np.savez(home / "v.npz", x=X)
    assert len(corpus(home, embeddings=home / "v.npz", columns="user=user")) == N


def test_ids_that_differ_by_spaces_alone_are_pointed_out(home: Path) -> None:
    spaced = [f" {i}" if i == IDS[0] else i for _, i, _ in EVENTS]
    pq.write_table(events().set_column(1, "item", pa.array(spaced)), home / "events.parquet")
    gone = sum(i == IDS[0] for _, i, _ in EVENTS)
    assert f"({gone} of these ids it holds without the spaces around them)" in said(corpus(home))
