"""Laws of the references: they see training alone, rank exactly, and break ties by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.dataset import Corpus, Sequences
from sidbench.protocol import Split, leave_one_out
from sidbench.ranking import Ranking
from sidbench.reference import Reference, best
from sidbench.references import co_occurrence, item_knn, transitions
from sidbench.references.co_occurrence import CoOccurrence
from sidbench.references.item_knn import ItemKNN
from sidbench.references.popularity import Popularity
from sidbench.references.transitions import Transitions

REFERENCES: list[Reference] = [
    Popularity(),
    ItemKNN(),
    ItemKNN(last=3),
    Transitions(),
    Transitions(window=3),
    CoOccurrence(),
    CoOccurrence(last=2),
    CoOccurrence(last=0),
]
each = pytest.mark.parametrize("reference", REFERENCES, ids=repr)


def corpus(tail: int = 0) -> Corpus:
    """Some data; `tail` changes what is tested and nothing else."""
    rng = np.random.default_rng(3)
    lists = [rng.integers(0, 30, rng.integers(3, 9)).tolist() for _ in range(50)]
    if tail:
        lists = [[*r[:-2], *rng.integers(0, 30, 2).tolist()] for r in lists]
    return Corpus(
        name="small",
        embeddings=rng.standard_normal((30, 4)).astype(np.float32) if not tail else corpus().embeddings,
        item_ids=np.arange(30),
        sequences=Sequences.of(lists),
        user_ids=np.arange(50),
    )


def fitted(reference: Reference, data: Corpus) -> tuple[Reference, Split]:
    split = leave_one_out(data)
    fresh = reference.replace()
    assert fresh.fit(split, data.embeddings) is fresh
    return fresh, split


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_best_is_a_stable_sort(row: list[int], k: int) -> None:
    scores = np.array([row, row[::-1]], dtype=np.float32)
    items, kept = best(scores, k)
    for r in range(2):
        expected = np.argsort(-scores[r], kind="stable")[:k]
        assert items[r].tolist() == expected.tolist()
        assert kept[r].tolist() == scores[r][expected].tolist()


@each
@pytest.mark.parametrize("k", [1, 7, 30, 99])
def test_a_list_holds_k_different_items_best_first(reference: Reference, k: int) -> None:
    model, split = fitted(reference, corpus())
    ranking = model.recommend(split.test.histories, k)
    assert isinstance(ranking, Ranking)
    assert ranking.groups.shape == (50, min(k, 30))
    assert (np.diff(ranking.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == len(row) for row in ranking.groups.tolist())
    assert ranking.items(0, k).tolist() == ranking.groups[0].tolist()


@each
def test_what_is_tested_changes_no_list(reference: Reference) -> None:
    one, split = fitted(reference, corpus())
    two, _ = fitted(reference, corpus(tail=1))
    histories = split.test.histories
    assert (one.recommend(histories, 30).groups == two.recommend(histories, 30).groups).all()


@each
def test_lists_do_not_depend_on_the_block_or_company(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, split = fitted(reference, corpus())
    histories = split.test.histories
    whole = model.recommend(histories, 5).groups
    monkeypatch.setattr(item_knn, "CELLS", 90)
    monkeypatch.setattr(transitions, "CELLS", 90)
    monkeypatch.setattr(co_occurrence, "CELLS", 90)
    assert (model.recommend(histories, 5).groups == whole).all()


def test_popularity_counts_training_and_breaks_ties_by_row() -> None:
    data = Corpus(
        name="small",
        embeddings=np.ones((5, 1), np.float32),
        item_ids=np.arange(5),
        sequences=Sequences.of([[3, 1, 0, 0], [3, 0, 0], [2, 0, 0]]),
        user_ids=np.arange(3),
    )
    model, split = fitted(Popularity(), data)
    assert model.recommend(split.test.histories, 4).groups.tolist() == [[3, 1, 2, 0]] * 3


def test_item_knn_is_the_cosine_to_the_last_items() -> None:
    data = corpus()
    model, split = fitted(ItemKNN(last=2, decay=0.5), data)
    x = data.embeddings / np.linalg.norm(data.embeddings, axis=1, keepdims=True)
    histories = split.test.histories
    got = model.recommend(histories, 30)
    for u, h in enumerate(histories):
        cosine = x @ (x[h[-1]] + (0.5 * x[h[-2]] if len(h) > 1 else 0))
        np.testing.assert_allclose(got.scores[u], cosine[got.groups[u]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.scores[u], -np.sort(-cosine), rtol=1e-4, atol=1e-5)


def test_item_knn_takes_zero_vectors_and_empty_histories() -> None:
    x = np.array([[0, 0], [3, 4], [0, 1]], np.float32)
    split = leave_one_out(Corpus("small", x, np.arange(3), Sequences.of([[0, 1, 2]]), np.arange(1)))
    ranking = ItemKNN().fit(split, x).recommend(Sequences.of([[], [0], [1]]), 3)
    assert ranking.groups.tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 0]]
    assert np.isfinite(ranking.scores).all()


@pytest.mark.parametrize("window", [1, 2, 9])
def test_transitions_are_counts_then_popularity_then_rows(window: int) -> None:
    data = corpus()
    model, split = fitted(Transitions(window=window), data)
    pairs = np.zeros((30, 30), dtype=int)
    seen = np.zeros(30, dtype=int)
    for row in split.train:
        np.add.at(seen, row, 1)
        for i, item in enumerate(row):
            np.add.at(pairs[item], row[i + 1 : i + 1 + window], 1)
    histories = Sequences.of([[], *([item] for item in range(30))])
    for k in (1, 4, 30):
        lists = model.recommend(histories, k).groups.tolist()
        for history, got in zip(histories, lists, strict=True):
            counts = pairs[history[-1]] if len(history) else np.zeros(30, dtype=int)
            assert got == np.lexsort((np.arange(30), -seen, -counts))[:k].tolist()


def test_transitions_of_single_items_are_popularity() -> None:
    x = np.ones((4, 1), np.float32)
    split = leave_one_out(Corpus("small", x, np.arange(4), Sequences.of([[2, 0, 1], [2]]), np.arange(2)))
    ranking = Transitions().fit(split, x).recommend(Sequences.of([[], [2]]), 4)
    assert ranking.groups.tolist() == [[2, 0, 1, 3]] * 2


@pytest.mark.parametrize("last", [0, 1, 2])
def test_co_occurrences_are_users_who_have_both_then_popularity_then_rows(last: int) -> None:
    data = corpus()
    model, split = fitted(CoOccurrence(last=last), data)
    has = np.zeros((50, 30), dtype=int)
    for user, row in enumerate(split.train):
        has[user, row] = 1
    together = has.T @ has
    np.fill_diagonal(together, 0)
    histories = Sequences.of([[], [4, 4], *split.test.histories])
    for k in (1, 4, 30):
        lists = model.recommend(histories, k).groups.tolist()
        for history, got in zip(histories, lists, strict=True):
            speak = np.unique(history[-last:])
            counts = together[speak].sum(axis=0)
            assert got == np.lexsort((np.arange(30), -has.sum(axis=0), -counts))[:k].tolist()
