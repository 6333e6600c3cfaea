"""A folder of one's own data: both layouts, the tie rule, one clear error for each fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.files import items as items_module
from sidbench.folder import Folder, find_folder
from sidbench.protocol import split

N = 6
X = np.random.default_rng(0).standard_normal((N, 3)).astype(np.float32)
LISTS: dict[str, Any] = {"user": [10, 11], "items": [[0, 1, 2, 3], [5, 4, 0]]}


def write(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that loads."""
    home = tmp_path / "mine"
    home.mkdir()
    np.save(home / "items.npy", X)
    write(home / "sequences.parquet", **LISTS)
    return home


def load(home: Path, **options: Any) -> Corpus:
    return Folder(path=home, **options).load()


def rows(corpus: Corpus) -> dict[Any, list[Any]]:
    """What each user did, in the owner's ids."""
    return {
        user: corpus.item_ids[items].tolist()
        for user, items in zip(corpus.user_ids.tolist(), corpus.sequences, strict=True)
    }


def test_vectors_and_lists_are_enough(home: Path) -> None:
    corpus = load(home)
    assert corpus.name == "mine"
    assert (corpus.embeddings == X).all()
    assert rows(corpus) == {10: [0, 1, 2, 3], 11: [5, 4, 0]}
    assert rows(corpus.permuted()) == rows(corpus)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_any_numbers_become_float32(home: Path, dtype: str) -> None:
    np.save(home / "items.npy", X.astype(dtype))
    x = load(home).embeddings
    assert x.dtype == np.float32
    assert (x == X.astype(dtype).astype(np.float32)).all()


def test_text_ids_titles_and_categories_are_kept(home: Path) -> None:
    ids = list("fedcba")
    tree = [["a", "x"], ["a", "y"], ["b", "x"], ["b", "x"], ["a", "x"], ["b", "y"]]
    write(home / "items.parquet", item=ids, title=["T", None, "U", "V", "W", "X"], categories=tree)
    write(home / "sequences.parquet", user=["u", "v"], items=[["a", "f", "b"], ["c", "d", "e"]])
    corpus = load(home)
    assert corpus.item_ids.tolist() == ids
    assert rows(corpus) == {"u": ["a", "f", "b"], "v": ["c", "d", "e"]}
    assert corpus.titles is not None
    assert corpus.titles.tolist() == ["T", "", "U", "V", "W", "X"]
    assert corpus.categories is not None
    assert corpus.categories[:, 0].tolist() == [0, 0, 1, 1, 0, 1]
    # The same word below another parent is another category.
    assert len(set(corpus.categories[:, 1].tolist())) == 4


def test_vectors_may_stand_in_the_parquet_file(home: Path) -> None:
    (home / "items.npy").unlink()
    for column in (pa.array(X.tolist()), pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)):
        write(home / "items.parquet", item_id=np.arange(N), embedding=column)
        np.testing.assert_array_equal(load(home).embeddings, X)


def test_a_large_file_stays_on_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "IN_MEMORY", 10)
    corpus = load(home)
    assert isinstance(corpus.embeddings, np.memmap)
    assert (corpus.embeddings == X).all()


@pytest.mark.parametrize("ties", ["file", "shuffle"])
def test_events_are_ordered_by_time(home: Path, ties: str) -> None:
    write(
        home / "sequences.parquet",
        user=["b", "a", "b", "a", "b", "a"],
        item=[1, 2, 3, 4, 5, 0],
        timestamp=[30, 10, 20, 5, 10, 7],
    )
    corpus = load(home, ties=ties)
    assert rows(corpus) == {"b": [5, 3, 1], "a": [4, 0, 2]}
    assert corpus.notes == ()


@pytest.mark.parametrize("unit", ["int", "float", "timestamp", "nanoseconds", "date32", "date64"])
def test_times_are_numbers_or_dates(home: Path, unit: str) -> None:
    days = pa.array([3, 1, 2], pa.int32())
    fine = pa.array([d * 10**9 + 999_999_999 for d in (3, 1, 2)], pa.int64())
    kinds = {
        "int": days,
        "float": pa.array([3.9, 1.0, 2.5]),
        "timestamp": days.cast(pa.int64()).cast(pa.timestamp("s")),
        "nanoseconds": fine.cast(pa.timestamp("ns", tz="UTC")),
        "date32": days.cast(pa.date32()),
        "date64": days.cast(pa.date32()).cast(pa.date64()),
    }
    write(home / "sequences.parquet", user=[1, 1, 1], item=[0, 1, 2], timestamp=kinds[unit])
    corpus = load(home)
    assert rows(corpus) == {1: [1, 2, 0]}
    # Whatever the file counts in, a corpus counts seconds.
    assert corpus.times is not None
    assert corpus.times.tolist() == [d * (86_400 if "date" in unit else 1) for d in (1, 2, 3)]


@pytest.mark.parametrize("unit", ["seconds", "dates", "milliseconds", "microseconds"])
def test_numbers_that_are_no_seconds_of_our_days_are_told_and_change_no_order(home: Path, unit: str) -> None:
    days = np.array([3, 1, 2]) + 1_700_000_000
    ticks = days * {"seconds": 1, "dates": 10**3, "milliseconds": 10**3, "microseconds": 10**6}[unit]
    times = pa.array(ticks, pa.int64())
    if unit == "dates":
        times = times.cast(pa.timestamp("ms"))
    write(home / "sequences.parquet", user=[1, 1, 1], item=[0, 1, 2], timestamp=times)
    corpus = load(home)
    assert rows(corpus) == {1: [1, 2, 0]}
    assert corpus.times is not None
    if unit in ("seconds", "dates"):
        assert corpus.times.tolist() == sorted(days)
        assert corpus.notes == ()
    else:  # nothing is guessed: what they say is taken for seconds, as it is of any number
        assert corpus.times.tolist() == sorted(ticks)
        [note] = corpus.notes
        assert note.startswith(f"timestamps up to {ticks.max()} are taken for seconds, but look like milli")
        assert "divide them, or write dates" in note


def test_both_layouts_give_the_same_corpus(home: Path) -> None:
    times = [[1, 2, 2, 3], [5, 4, 6]]
    write(home / "sequences.parquet", **LISTS, timestamps=times)
    lists = load(home)
    write(
        home / "sequences.parquet",
        user=[10] * 4 + [11] * 3,
        item=[0, 1, 2, 3, 5, 4, 0],
        timestamp=[1, 2, 2, 3, 5, 4, 6],
    )
    assert rows(lists) == rows(load(home)) == {10: [0, 1, 2, 3], 11: [4, 5, 0]}
    assert lists.fingerprint == load(home).fingerprint
    assert lists.times is not None
    assert lists.times.tolist() == [1, 2, 2, 3, 4, 5, 6]
    assert lists.times_digest == load(home).times_digest


def test_without_times_there_are_none(home: Path) -> None:
    assert load(home).times is None
    with pytest.raises(DataError, match=r"'mine' does not say when.*`timestamps`"):
        split(load(home), "time-split")


def test_equal_times_keep_the_order_of_the_file_and_are_counted(home: Path) -> None:
    write(home / "sequences.parquet", user=[1] * 4 + [2] * 3, item=[3, 2, 1, 0, 4, 5, 0],
          timestamp=[7, 7, 1, 7, 1, 2, 3])  # fmt: skip
    corpus = load(home)
    assert rows(corpus) == {1: [1, 3, 2, 0], 2: [4, 5, 0]}
    assert corpus.notes == (
        "2 of 6 neighbouring events share user and timestamp, and 1 users' last two do; "
        "inside a tie the order is that of the file (ties = 'file')",
    )


def test_shuffled_ties_forget_the_order_of_the_file(home: Path) -> None:
    users = np.repeat(np.arange(400), 4)
    items = np.tile([0, 1, 2, 3], 400)
    found = []
    for _ in range(2):
        write(home / "sequences.parquet", user=users, item=items, timestamp=np.zeros(1600))
        found.append(load(home, ties="shuffle"))
        items = items[::-1]
    one, two = found
    assert rows(one) == rows(two)
    # Each item comes last about equally often: no order holds across users.
    last = np.bincount(one.sequences.last(), minlength=4)[:4]
    assert (np.abs(last - 100) < 40).all()


def test_shuffled_ties_need_times(home: Path) -> None:
    with pytest.raises(UsageError, match="needs timestamps"):
        load(home, ties="shuffle")
    assert load(home).notes == ("no timestamps: the order of the file stands for time",)


def test_a_bare_name_is_looked_up_in_the_data_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_DATA", f"/nowhere:{home.parent}")
    assert find_folder("mine") == home
    assert find_folder(str(home)) == home
    assert find_folder("yours") is None
    assert find_folder("") is None
    monkeypatch.delenv("SIDBENCH_DATA")
    assert find_folder("mine") is None
    monkeypatch.chdir(home)
    corpus = Folder(path=Path()).load()
    assert corpus.name == "mine"


def bad_vectors(value: Any) -> Callable[[Path], None]:
    return lambda home: np.save(home / "items.npy", value)


def bad_sequences(**columns: Any) -> Callable[[Path], None]:
    return lambda home: write(home / "sequences.parquet", **columns)


def bad_items(**columns: Any) -> Callable[[Path], None]:
    return lambda home: write(home / "items.parquet", **columns)


def bad_bytes(name: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        whole = (home / name).read_bytes()
        (home / name).write_bytes(whole[: len(whole) - 20])

    return change


def only_parquet(**columns: Any) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        (home / "items.npy").unlink()
        write(home / "items.parquet", **columns)

    return change


NAN = X.copy()
NAN[4, 1] = np.nan
WRONG = {
    "not a number": (bad_vectors(NAN), r"items\.npy.*NaN or infinity, first in row 4"),
    "infinite": (bad_vectors(np.where(np.isnan(NAN), np.inf, NAN)), "first in row 4"),
    "too large for float32": (bad_vectors(np.full((N, 2), 1e300)), "first in row 0"),
    "one axis": (bad_vectors(X[0]), r"shape \(3,\); expected \(rows, dimensions\)"),
    "three axes": (bad_vectors(X[None]), r"shape \(1, 6, 3\)"),
    "no axis": (bad_vectors(np.float32(1)), r"shape \(\)"),
    "no rows": (bad_vectors(X[:0]), "expected at least one of each"),
    "no columns": (bad_vectors(X[:, :0]), "expected at least one of each"),
    "text vectors": (bad_vectors(X.astype(str)), r"holds <U.*expected numbers \(float32, float16"),
    "complex vectors": (bad_vectors(X.astype(complex)), "complex128"),
    "torn npy": (bad_bytes("items.npy"), r"items\.npy.*cut short; copy or write it again"),
    "empty npy": (lambda home: (home / "items.npy").write_bytes(b""), r"items\.npy is no readable \.npy"),
    "torn parquet": (bad_bytes("sequences.parquet"), r"sequences\.parquet cannot be read as parquet"),
    "no sequences": (lambda home: (home / "sequences.parquet").unlink(), r"sequences\.parquet is missing"),
    "no items": (lambda home: (home / "items.npy").unlink(), "neither items.npy nor items.parquet"),
    "unknown item": (
        bad_sequences(user=[7, 8], items=[[0, 1, 2], [3, 99, 98, 99]]),
        "3 of 7 events name 2 items that the catalogue of 6 does not hold, first item 99 of user 8",
    ),
    "text for numbers": (bad_sequences(user=[7], items=[["a", "b"]]), "items are string.*ids.*int64"),
    "empty item": (bad_sequences(user=[7], items=[[1, None]]), "1 ids are empty"),
    "float item": (bad_sequences(user=[7], items=[[1.5]]), "ids are double; expected integers or text"),
    "huge id": (
        bad_sequences(user=[7], items=pa.array([[2**64 - 1]], pa.list_(pa.uint64()))),
        "items are string",
    ),
    "items not lists": (bad_sequences(user=[7], items=[1]), "column items holds int64; expected a list"),
    "user twice": (bad_sequences(user=[7, 7], items=[[1], [2]]), "a user stands on two rows"),
    "no user": (bad_sequences(users=[7], items=[[1]]), "no column 'user'.*did you mean 'users'"),
    "no events": (bad_sequences(user=[7], items=pa.array([[]], pa.list_(pa.int64()))), "holds no events"),
    "no columns known": (bad_sequences(user=[7], basket=[1]), "has columns user, basket; expected `user`"),
    "no time": (bad_sequences(user=[7], item=[1]), "no column 'timestamp'.*Columns: user, item"),
    "empty user": (bad_sequences(user=[7, None], item=[1, 2], timestamp=[1, 2]), "column user has 1 empty"),
    "empty time": (bad_sequences(user=[7, 7], item=[1, 2], timestamp=[1.0, np.nan]), "timestamps are empty"),
    "text time": (bad_sequences(user=[7], item=[1], timestamp=["noon"]), "expected numbers or dates"),
    "times missing": (bad_sequences(**LISTS, timestamps=[[1], [2]]), "unequally many.*first user 10"),
    "times not lists": (bad_sequences(**LISTS, timestamps=[1, 2]), "timestamps holds int64; expected a list"),
    "other length": (bad_items(item=[1, 2]), "has 2 rows, items.npy has 6"),
    "id twice": (bad_items(item=[0, 1, 2, 3, 1, 1]), "2 of 6 items repeat an earlier id, first 1"),
    "no id": (bad_items(name=list("abcdef")), "no column 'item'"),
    "no vectors": (only_parquet(item=np.arange(N)), "no column of vectors; give --embeddings"),
    "ragged vectors": (only_parquet(item=[0, 1], embedding=[[1.0], [1.0, 2.0]]), "row 1 has 2 numbers"),
    "gap in vectors": (only_parquet(item=[0, 1], embedding=[[1.0], [None]]), "row 1 has a null"),
    "vectors not lists": (only_parquet(item=[0, 1], embedding=[1.0, 2.0]), "expected a list"),
    "no vectors inside": (
        only_parquet(item=pa.array([], pa.int64()), embedding=pa.array([], pa.list_(pa.float32()))),
        "at least one",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_clear_message(home: Path, what: str) -> None:
    spoil, message = WRONG[what]
    spoil(home)
    with pytest.raises(DataError, match=message) as caught:
        load(home)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_object_arrays_are_refused(home: Path) -> None:
    np.save(home / "items.npy", X.astype(object), allow_pickle=True)
    with pytest.raises(SidbenchError, match=r"items\.npy: holds object; expected numbers \(float32"):
        load(home)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        load(tmp_path / "nowhere")


def test_columns_that_cannot_be_a_tree_are_said_to_be_ignored(home: Path) -> None:
    write(home / "items.parquet", item=[5, 4, 3, 2, 1, 0], categories=[["a"], ["a", "b"]] * 3)
    corpus = load(home)
    assert corpus.categories is None
    assert any("differ in length" in note for note in corpus.notes)
    assert any("do not ascend" in note for note in corpus.notes)
