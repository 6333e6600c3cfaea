"""Laws of sequences, corpora and their permutation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.dataset import Corpus, Embeddings, Sequences, cached_rows, scramble, some_rows
from sidbench.errors import DataError
from sidbench.protocol import leave_one_out
from sidbench.references.item_knn import ItemKNN

rows = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)


@given(rows, st.integers(0, 4), st.data())
def test_ragged_rows_behave_like_lists(lists: list[list[int]], count: int, data: st.DataObject) -> None:
    s = Sequences.of(lists)
    assert [r.tolist() for r in s] == lists
    assert [r.tolist() for r in s.drop_last(count)] == [r[: max(len(r) - count, 0)] for r in lists]
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9)) if lists else []
    assert [r.tolist() for r in s.take(np.array(chosen, dtype=np.int64))] == [lists[u] for u in chosen]
    long = [r for r in lists if len(r) >= max(count, 1)]
    assert Sequences.of(long).last(max(count, 1)).tolist() == [r[-max(count, 1)] for r in long]


@given(rows, st.data())
def test_rows_can_be_filtered_and_cut_anywhere(lists: list[list[int]], data: st.DataObject) -> None:
    s = Sequences.of(lists)
    flat = [(u, at) for u, row in enumerate(lists) for at in range(len(row))]
    kept = data.draw(st.lists(st.booleans(), min_size=len(flat), max_size=len(flat)))
    there = {place for place, keep in zip(flat, kept, strict=True) if keep}
    expected = [[i for at, i in enumerate(row) if (u, at) in there] for u, row in enumerate(lists)]
    assert [r.tolist() for r in s.where(np.array(kept, dtype=bool))] == expected
    at = np.flatnonzero(np.array(kept, dtype=bool))
    assert s.row_of(at).tolist() == [flat[i][0] for i in at]
    assert [r.tolist() for r in s.before(at)] == [lists[flat[i][0]][: flat[i][1]] for i in at]


def chain(n: int = 400, users: int = 600) -> Corpus:
    """Items numbered by first appearance: the id after the last one finds the target."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, n - 8, users)
    return Corpus(
        name="chain",
        embeddings=rng.standard_normal((n, 8)).astype(np.float32),
        item_ids=np.array([f"item-{i}" for i in range(n)]),
        sequences=Sequences.of(range(s, s + 7) for s in starts),
        user_ids=np.arange(users),
        titles=np.array([f"title {i}" for i in range(n)]),
        categories=np.stack([np.arange(n) // 100, np.arange(n)], axis=1).astype(np.int32),
    )


def test_following_the_id_gains_nothing_after_permutation() -> None:
    corpus = chain()
    for permuted, low, high in ((False, 1.0, 1.0), (True, 0.0, 0.03)):
        test = leave_one_out(corpus.permuted() if permuted else corpus).test
        hits = float((test.histories.last() + 1 == test.items).mean())
        assert low <= hits <= high


def test_permutation_keeps_every_row_together_and_maps_ids_back() -> None:
    before = chain()
    after = before.permuted()
    old_row = {item: row for row, item in enumerate(before.item_ids)}
    back = np.array([old_row[item] for item in after.item_ids])
    assert sorted(back.tolist()) == list(range(len(before)))
    assert back.tolist() != list(range(len(before)))
    assert (after.embeddings == before.embeddings[back]).all()
    assert after.titles is not None
    assert before.titles is not None
    assert (after.titles == before.titles[back]).all()
    assert after.categories is not None
    assert before.categories is not None
    assert (after.categories == before.categories[back]).all()
    assert (back[after.sequences.items] == before.sequences.items).all()


def test_permutation_is_fixed_by_the_data_alone() -> None:
    first, second = chain().permuted(), chain().permuted()
    assert (first.item_ids == second.item_ids).all()
    assert first.fingerprint == second.fingerprint == chain().fingerprint
    other = chain(users=599)
    assert other.fingerprint != first.fingerprint
    assert (other.permuted().item_ids != first.item_ids).any()


def test_scores_do_not_change_with_the_permutation() -> None:
    corpus = chain()
    recalls = []
    for c in (corpus, corpus.permuted()):
        split = leave_one_out(c)
        ranking = ItemKNN().fit(split, c.embeddings).recommend(split.test.histories, 10)
        recalls.append((ranking.groups == split.test.items[:, None]).any(axis=1).mean())
    assert recalls[0] == recalls[1]


def test_rows_on_disk_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))
    plain = chain()
    calls = []

    def fill(out: Embeddings) -> None:
        calls.append(1)
        out[:] = plain.embeddings

    for _ in range(2):
        x = cached_rows("x", plain.embeddings.shape, fill)
        assert isinstance(x, np.memmap)
        assert not x.flags.writeable
    assert len(calls) == 1
    on_disk = Corpus("chain", x, plain.item_ids, plain.sequences, plain.user_ids)
    assert on_disk.fingerprint == plain.fingerprint
    permuted = on_disk.permuted().embeddings
    assert isinstance(permuted, np.memmap)
    assert (permuted == plain.permuted().embeddings).all()


def test_a_broken_or_unfinished_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path))

    def fails(out: Embeddings) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_rows("x", (3, 2), fails)
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float32))
    (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-4])
    for key in ("x", "y"):
        assert (cached_rows(key, (3, 2), lambda out: out.fill(7)) == 7).all()


def test_a_cache_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="SIDBENCH_CACHE"):
        cached_rows("x", (3, 2), lambda out: out.fill(7))


def test_scramble_is_a_permutation_of_integers_that_a_seed_changes() -> None:
    values = np.arange(10_000, dtype=np.uint64)
    one, two = scramble(values, 1), scramble(values, 2)
    assert len(np.unique(one)) == len(values)
    assert (one != two).all()
    # Known value: the first output of splitmix64 seeded with 0.
    assert int(scramble(np.zeros(1, np.uint64), 0)[0]) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 2)), "float64; expected float32"),
        (np.zeros(3, np.float32), r"shape \(3,\)"),
        (np.zeros((0, 2), np.float32), "at least one row"),
        (np.array([[0, 1], [np.nan, 1], [0, 0]], np.float32), "row 1"),
        (np.array([[0, 1], [1, 1], [0, -np.inf]], np.float32), "row 2"),
        (np.array([["a", "b"]] * 3, dtype=object), "object"),
        ([[0.0]], "list"),
    ],
)
def test_bad_embeddings_are_refused(x: Embeddings, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Corpus("bad", x, np.arange(3), Sequences.of([[0, 1, 2]]), np.arange(1))


def test_large_finite_values_are_not_taken_for_infinite() -> None:
    x = np.full((4, 3), 3e38, np.float32)
    assert len(Corpus("big", x, np.arange(4), Sequences.of([[0, 1, 2]]), np.arange(1))) == 4


def test_parts_that_do_not_fit_together_are_refused() -> None:
    x = np.ones((3, 2), np.float32)
    with pytest.raises(DataError, match="2 item ids for 3 rows"):
        Corpus("bad", x, np.arange(2), Sequences.of([[0]]), np.arange(1))
    with pytest.raises(DataError, match="2 user ids for 1"):
        Corpus("bad", x, np.arange(3), Sequences.of([[0]]), np.arange(2))
    for outside in (3, -1):
        with pytest.raises(DataError, match=r"outside 0\.\.2"):
            Corpus("bad", x, np.arange(3), Sequences.of([[0, outside]]), np.arange(1))


def test_permutation_leaves_times_where_they_are() -> None:
    before = chain(users=50)
    times = np.tile(np.arange(7), 50)
    timed = replace(before, times=times)
    assert timed.fingerprint == before.fingerprint
    assert timed.times_digest != before.times_digest
    after = timed.permuted()
    assert after.times is not None
    assert (after.times == times).all()
    assert after.times_digest == timed.times_digest


def test_some_rows_of_vectors_on_disk_are_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path))
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    disk = cached_rows("all", x.shape, lambda out: out.__setitem__(slice(None), x))
    rows = np.array([4, 2, 30])
    some = some_rows(disk, rows, "some")
    assert isinstance(some, np.memmap)
    assert (some == x[rows]).all()
    assert not isinstance(some_rows(x, rows, "some"), np.memmap)
