"""Intrinsic metrics: each against a plain count, at its ends, and unmoved by what must not move it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidbench import metrics, registry
from sidbench.dataset import Sequences
from sidbench.metrics import behaviour, churn, codebook, hits, neighbours, prefixes, stability, truth
from sidbench.metrics.prefixes import Prefixes
from sidbench.ranking import Ranking
from sidbench.sids import Codes

Seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


def some_codes(seed: int, n: int = 30, levels: int = 3, size: int = 3) -> Codes:
    return np.random.default_rng(seed).integers(0, size, (n, levels)).astype(np.int32)


def some_vectors(seed: int, n: int = 30, d: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(2, 1, (n, d)).astype(np.float32)


def some_sequences(seed: int, n: int = 30, users: int = 12) -> Sequences:
    rng = np.random.default_rng(seed)
    return Sequences.of([rng.integers(0, n, rng.integers(0, 7)).tolist() for _ in range(users)])


def relabelled(codes: Codes, seed: int) -> Codes:
    """The same groups under other numbers."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(int(c.max()) + 1)[c] for c in codes.T], axis=1).astype(np.int32)


ONE_SID = np.zeros((30, 3), dtype=np.int32)
ALL_UNIQUE = np.stack([np.arange(30), np.zeros(30, int), np.zeros(30, int)], axis=1).astype(np.int32)


class Own:
    """A tokenizer as the metrics see it: codes and what they stand for."""

    name = "own"

    def __init__(self, codes: Codes, x: NDArray[np.float32]) -> None:
        group = Prefixes(codes).group[-1]
        self.means = {
            tuple(codes[i].tolist()): x[group == group[i]].mean(axis=0).tolist() for i in range(len(codes))
        }

    def supports(self, ability: str) -> bool:
        return ability == "reconstruct"

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return np.array([self.means[tuple(c)] for c in codes.tolist()], dtype=np.float32)

    def encode(self, x: NDArray[np.float32]) -> Codes:
        return (x > 2).astype(np.int32)


def everything(codes: Codes, x: NDArray[np.float32], train: Sequences, truths: Any = None) -> dict[str, Any]:
    own: Any = Own(codes, x)
    sizes = tuple(int(s) + 1 for s in codes.max(axis=0))
    found = metrics.intrinsic_metrics(codes, sizes, x=x, train=train, categories=truths, tokenizer=own)
    trie = metrics.trie_metrics(Prefixes(codes))
    return {**found.values, **trie[0], **{f"{k} by level": v for k, v in (found.levels | trie[1]).items()}}


# What prefixes are.


@few
@given(Seeds)
def test_prefixes_are_numbered_and_counted(seed: int) -> None:
    codes = some_codes(seed)
    tree = Prefixes(codes)
    for depth in range(3):
        rows = [tuple(c) for c in codes[:, : depth + 1].tolist()]
        order = {row: i for i, row in enumerate(sorted(set(rows)))}
        assert tree.group[depth].tolist() == [order[r] for r in rows]
        assert tree.sizes[depth].tolist() == [Counter(rows)[row] for row in sorted(order)]
        firsts = codes[tree.order[tree.starts[depth]], : depth + 1]
        assert [tuple(f) for f in firsts.tolist()] == sorted(order)


# Each family against the plain definition.


@few
@given(Seeds, st.sampled_from([1, 3, 100]))
def test_the_prefix_cosine_is_the_mean_over_pairs(seed: int, rows: int) -> None:
    codes, x = some_codes(seed), some_vectors(seed)
    away = x - x.mean(axis=0, dtype=np.float64)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "PIECE", rows * x.shape[1])
        got = prefixes.prefix_metrics(x, Prefixes(codes))[1].get("prefix_cosine", [])
    expected = []
    for depth in (1, 2, 3):
        by_item = []
        for i in range(30):
            others = [j for j in range(30) if j != i and (codes[i, :depth] == codes[j, :depth]).all()]
            by_item += [np.mean([away[i] @ away[j] for j in others])] if others else []
        expected += [np.mean(by_item)] if by_item else []
    assert got == pytest.approx(expected, abs=1e-6)


def test_items_at_the_mean_point_nowhere() -> None:
    same = np.full((30, 4), 0.1, dtype=np.float32)
    assert prefixes.prefix_metrics(same, Prefixes(some_codes(0)))[0] == {"prefix_cosine": 0}


@few
@given(Seeds, st.sampled_from([1, 7, 1000]))
def test_nearest_items_are_those_of_the_full_matrix(seed: int, block: int) -> None:
    x = some_vectors(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        found = metrics.nearest_items(x, queries=12, nearest=5)
    far = np.square(x[:, None].astype(np.float64) - x).sum(axis=2)
    np.fill_diagonal(far, np.inf)
    assert len(found.queries) == len(set(found.queries.tolist())) == 12
    np.testing.assert_array_equal(np.argsort(far, axis=1)[found.queries, :5], found.items)


def test_nearest_items_of_few() -> None:
    assert metrics.nearest_items(some_vectors(0, n=1)).items.shape == (1, 0)
    assert metrics.nearest_items(some_vectors(0, n=2)).items.tolist() == [[1], [0]]


@few
@given(Seeds)
def test_neighbour_agreement_is_the_plain_count(seed: int) -> None:
    codes, x = some_codes(seed), some_vectors(seed)
    near = metrics.nearest_items(x, nearest=4)
    got = neighbours.neighbour_metrics(near, Prefixes(codes))[1]
    for depth in (1, 2, 3):
        recall, precision, dice = [], [], []
        for i, around in zip(near.queries.tolist(), near.items.tolist(), strict=True):
            same = set(np.flatnonzero((codes[:, :depth] == codes[i, :depth]).all(axis=1)).tolist()) - {i}
            both = len(same & set(around))
            recall.append(both / 4)
            precision.append(both / len(same) if same else 0.0)
            dice.append(2 * both / (4 + len(same)))
        assert got["neighbour_recall"][depth - 1] == pytest.approx(np.mean(recall))
        assert got["neighbour_precision"][depth - 1] == pytest.approx(np.mean(precision))
        assert got["neighbour_agreement"][depth - 1] == pytest.approx(np.mean(dice))


def test_steps_stay_inside_a_sequence_and_go_somewhere() -> None:
    before, after = behaviour.steps(Sequences.of([[], [0, 1, 1, 2], [5], [3, 0], []]))
    assert list(zip(before.tolist(), after.tolist(), strict=True)) == [(0, 1), (1, 2), (3, 0)]


@few
@given(Seeds)
def test_sequence_alignment_is_agreement_beyond_chance(seed: int) -> None:
    codes, train = some_codes(seed), some_sequences(seed)
    before, after = behaviour.steps(train)
    got = behaviour.alignment_metrics(Prefixes(codes), train)[1]
    if not len(before):
        assert got == {}
        return
    for depth in (1, 2, 3):
        rows = [tuple(c) for c in codes[:, :depth].tolist()]
        stayed = np.mean([rows[a] == rows[b] for a, b in zip(before, after, strict=True)])
        draws = [(rows[a] == rows[b]) for a in before for b in after if a != b]
        chance = np.mean(draws) if draws else 1.0
        expected = (stayed - chance) / (1 - chance) if chance < 1 else 0.0
        assert got["sequence_alignment"][depth - 1] == pytest.approx(expected, abs=1e-9)


def test_popularity_by_hand() -> None:
    # Item 0 has half of the 8 interactions; items 2 and 3 share a SID, item 4 is never met.
    codes = np.array([[0], [1], [2], [2], [3]], dtype=np.int32)
    train = Sequences.of([[0, 1, 0, 2], [0, 0, 3, 3]])
    got, levels = behaviour.popularity_metrics(codes, (4,), Prefixes(codes), train)
    assert got["head_resolution"] == 1
    assert got["tail_resolution"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert levels["traffic_gini"] == [codebook.gini(np.array([4, 1, 3, 0]))]
    assert behaviour.popular(np.array([2, 2, 2, 2])).all()
    everyone = Sequences.of([[0, 1, 2, 3, 4]])
    assert "tail_resolution" not in behaviour.popularity_metrics(codes, (4,), Prefixes(codes), everyone)[0]


@few
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_gini_is_the_mean_difference_of_pairs(counts: list[int]) -> None:
    total = sum(abs(a - b) for a in counts for b in counts)
    expected = total / (2 * len(counts) * sum(counts)) if sum(counts) else 0
    assert codebook.gini(np.array(counts)) == pytest.approx(expected, abs=1e-12)


def test_gini_and_dead_codes_at_their_ends() -> None:
    scalars, levels = metrics.codebook_metrics(np.arange(8, dtype=np.int32).reshape(8, 1), (8,))
    assert scalars["gini"] == pytest.approx(0)
    assert scalars["dead_codes"] == 0
    scalars, levels = metrics.codebook_metrics(np.zeros((8, 2), np.int32), (4, 2))
    assert levels["gini"] == pytest.approx([3 / 4, 1 / 2])
    assert (levels["dead_codes"], scalars["dead_codes"]) == ([3, 1], 4)


@few
@given(Seeds)
def test_the_trie_by_walking_it(seed: int) -> None:
    codes = some_codes(seed)
    scalars, levels = metrics.trie_metrics(Prefixes(codes))
    rows = [tuple(c) for c in codes.tolist()]
    met = [[len({r[: d + 1] for r in rows if r[:d] == row[:d]}) for row in rows] for d in range(3)]
    assert levels["trie_branching"] == pytest.approx([np.mean(m) for m in met])
    assert scalars["trie_branching"] == pytest.approx(np.sum(np.mean(met, axis=1)))
    nodes = [len({r[:d] for r in rows}) for d in range(4)]
    assert levels["trie_fanout"] == pytest.approx([nodes[d + 1] / nodes[d] for d in range(3)])
    assert scalars["trie_nodes"] == pytest.approx(sum(nodes[1:]) / 30)


@few
@given(Seeds)
def test_shared_information_is_what_scikit_learn_says(seed: int) -> None:
    from sklearn.metrics import normalized_mutual_info_score

    rng = np.random.default_rng(seed)
    a, b = (np.unique(rng.integers(0, 5, 40), return_inverse=True)[1] for _ in "ab")
    assert truth.shared_information(a, b) == pytest.approx(normalized_mutual_info_score(a, b))


def test_categories_that_are_the_tree_are_recovered_and_dealt_out_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    tree = rng.integers(0, 4, (2000, 3)).astype(np.int32)
    known = np.stack([tree[:, 0], tree[:, 0] * 4 + tree[:, 1]], axis=1)
    got = truth.category_metrics(Prefixes(tree), known)
    assert got[1]["category_recovery"] == pytest.approx([1, 1])
    dealt = truth.category_metrics(Prefixes(tree[rng.permutation(2000)]), known)[1]["category_recovery"]
    assert dealt == pytest.approx([0, 0], abs=0.02)


@few
@given(Seeds, st.sampled_from([1, 4, 1000]))
def test_the_next_item_hit_by_sorting_distances(seed: int, block: int) -> None:
    codes, x, train = some_codes(seed), some_vectors(seed), some_sequences(seed)
    own = Own(codes, x)
    rebuilt = own.reconstruct(codes).astype(np.float64)
    if not len(behaviour.steps(train)[0]):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hits, "BLOCK", block)
        got = hits.rebuilt_hit_metrics(codes, Prefixes(codes), own.reconstruct, train)
    chances = []
    away = np.square(rebuilt - rebuilt[behaviour.steps(train)[1]].mean(axis=0)).sum(axis=1)
    for a, b in zip(*behaviour.steps(train), strict=True):
        far = np.square(rebuilt - rebuilt[a]).sum(axis=1)
        others = np.delete(far, a)
        equal = np.abs(others - far[b]) <= hits._EQUAL * (away[a] + away[b])
        nearer = ((others < far[b]) & ~equal).sum()
        chances.append(np.clip(10 - nearer, 0, equal.sum()) / equal.sum())
    assert got == pytest.approx({"next_item_hit": np.mean(chances)})


def test_codes_that_keep_everything_hit_as_often_as_the_embeddings() -> None:
    x, train = some_vectors(0), some_sequences(0)
    own = Own(ALL_UNIQUE, x)
    rebuilt = hits.rebuilt_hit_metrics(ALL_UNIQUE, Prefixes(ALL_UNIQUE), own.reconstruct, train)
    assert rebuilt["next_item_hit"] == metrics.embedding_hit_metrics(x, train)["next_item_hit_embedding"]
    nobody = Sequences.of([[1], [2]])
    assert metrics.embedding_hit_metrics(x, nobody) == {}


def test_stability_counts_codes_that_survive_the_step() -> None:
    class Sign:
        def encode(self, x: NDArray[np.float32]) -> Codes:
            return np.stack([x[:, 0] > 0, np.zeros(len(x))], axis=1).astype(np.int32)

    on_the_edge: Any = Sign()
    x = np.zeros((4000, 2), dtype=np.float32)
    x[:, 1] = np.random.default_rng(0).normal(size=4000)
    scalars, levels = stability.stability_metrics(on_the_edge, x)
    assert levels["stability"][1] == 1
    assert scalars["stability"] == levels["stability"][0] == pytest.approx(0.5, abs=0.06)
    x[:, 0] = 5
    assert stability.stability_metrics(on_the_edge, x)[0]["stability"] == 1


@few
@given(Seeds)
def test_pairs_apart_by_looking_at_each(seed: int) -> None:
    a, b = some_codes(seed), some_codes(seed + 1)
    got = churn.pairs_apart(Prefixes(a), Prefixes(b))
    for depth in (1, 2, 3):
        together = [
            {p for p in combinations(range(30), 2) if (codes[p[0], :depth] == codes[p[1], :depth]).all()}
            for codes in (a, b)
        ]
        either = together[0] | together[1]
        expected = 1 - len(together[0] & together[1]) / len(either) if either else 0
        assert got[depth - 1] == pytest.approx(expected)
    assert churn.pairs_apart(Prefixes(a), Prefixes(relabelled(a, seed))) == [0, 0, 0]


def test_churn_fits_twice_and_leaves_the_tokenizer_alone() -> None:
    cls = registry.find("tokenizer", "rq-kmeans")
    x = some_vectors(0, n=200, d=6)
    tokenizer = cls(levels=2, codebook_size=8, iters=5)
    codes = tokenizer.fit_encode(x)
    said: list[str] = []
    scalars, levels = metrics.churn_metrics(tokenizer, x, codes, said.append)
    assert [s.split()[0] for s in said] == ["fitting", "fitting"]
    assert 0 < scalars["churn_seed_groups"] < 1
    assert 0 < scalars["churn_growth"] <= 1
    assert len(levels["churn_growth_groups"]) == 2
    np.testing.assert_array_equal(tokenizer.encode(x), codes)
    # A lookup table knows no seed: nothing churns.
    fixed = registry.find("tokenizer", "lsh")(levels=2, codebook_size=8)
    same = metrics.churn_metrics(fixed, x, fixed.fit_encode(x))[0]
    assert set(same) == set(scalars) <= set(metrics.METRICS)


# Ends and invariances of all of them.


def test_one_sid_for_all_and_a_sid_for_each() -> None:
    x, train = some_vectors(1), some_sequences(1)
    one, each = everything(ONE_SID, x, train), everything(ALL_UNIQUE, x, train)
    assert (one["neighbour_recall"], each["neighbour_recall"]) == (1, 0)
    assert one["neighbour_precision"] == pytest.approx(10 / 29)
    assert (one["neighbour_agreement"], each["neighbour_agreement"]) == (pytest.approx(20 / 39), 0)
    assert one["sequence_alignment"] == each["sequence_alignment"] == 0
    assert (one["head_resolution"], each["head_resolution"]) == (pytest.approx(1 / 30), 1)
    assert one["next_item_hit"] == pytest.approx(10 / 29)
    assert one["prefix_cosine"] == pytest.approx(0, abs=0.1)
    assert "prefix_cosine" not in each
    assert (one["trie_branching"], each["trie_branching"]) == (3, 32)


@few
@given(Seeds)
def test_shares_are_shares(seed: int) -> None:
    got = everything(some_codes(seed), some_vectors(seed), some_sequences(seed), some_codes(seed + 1))
    for name, value in got.items():
        for v in np.atleast_1d(value):
            assert np.isfinite(v)
            if not name.startswith("trie"):
                assert -1 - 1e-9 <= v <= 1 + 1e-9, name


@few
@given(Seeds)
def test_what_codes_are_called_changes_nothing(seed: int) -> None:
    codes, x, train, truths = some_codes(seed), some_vectors(seed), some_sequences(seed), some_codes(seed + 1)
    before, after = everything(codes, x, train, truths), everything(relabelled(codes, seed), x, train, truths)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, abs=1e-6), name


@few
@given(Seeds)
def test_the_order_of_items_changes_nothing(seed: int) -> None:
    codes, x, train = some_codes(seed), some_vectors(seed), some_sequences(seed)
    order = np.random.default_rng(seed).permutation(30)
    place = np.argsort(order).astype(np.int32)
    moved = Sequences(place[train.items], train.offsets)
    before, after = everything(codes, x, train), everything(codes[order], x[order], moved)
    before.pop("stability"), after.pop("stability")  # its steps are drawn by row
    before.pop("stability by level"), after.pop("stability by level")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, abs=1e-6), name


def test_a_short_sid_is_a_prefix_of_its_own() -> None:
    codes = np.array([[0, -1], [0, 0], [0, -1], [1, 0]], dtype=np.int32)
    found = metrics.intrinsic_metrics(codes, (2, 1), x=some_vectors(0, n=4), train=Sequences.of([[0, 2, 1]]))
    assert found.values["sequence_alignment"] > 0
    assert metrics.trie_metrics(Prefixes(codes))[1]["trie_fanout"] == [2, 1.5]


def test_what_cannot_be_said_is_named_with_its_reason() -> None:
    found = metrics.intrinsic_metrics(some_codes(0), (3, 3, 3))
    assert not found.values
    assert not found.levels
    said = {m.name for m in metrics.intrinsic.METRICS if m.source != "data"} - {
        "trie_branching", "trie_fanout", "trie_nodes",
    }  # fmt: skip
    assert set(found.missing) == said
    lookup: Any = registry.find("tokenizer", "precomputed")(path="sids.npy")
    found = metrics.intrinsic_metrics(
        some_codes(0), (3, 3, 3), x=some_vectors(0), train=some_sequences(0), tokenizer=lookup
    )
    assert found.missing == {
        "category_recovery": "no categories are known",
        "next_item_hit": "precomputed does not reconstruct embeddings",
        "stability": "precomputed looks codes up and encodes nothing",
    }
    assert found.values.keys() | found.missing.keys() == said


def test_a_large_catalogue_is_sampled_the_same_way_every_time() -> None:
    chosen = prefixes.sample(100_000, 1000)
    assert len(np.unique(chosen)) == 1000
    np.testing.assert_array_equal(chosen, prefixes.sample(100_000, 1000))
    assert abs(chosen.mean() - 50_000) < 4_000


# Coverage.


@few
@given(Seeds)
def test_coverage_is_what_random_orders_average_to(seed: int) -> None:
    rng = np.random.default_rng(seed)
    offsets = np.array([0, 1, 4, 6, 9, 10])
    members = rng.permutation(10).astype(np.int32)
    groups = np.stack([rng.permutation(5)[:3] for _ in range(3)]).astype(np.int64)
    groups[0, 2] = -1
    ranking = Ranking(groups, np.zeros((3, 3), np.float32), members, offsets)
    if seed % 2:
        ranking = ranking.without(Sequences.of([[members[0]], [members[2], members[2]], []]))
    got = metrics.coverage_metrics(ranking, [1, 2, 5])
    for k in (1, 2, 5):
        draws = []
        for _ in range(400):
            seen: set[int] = set()
            for user in range(3):
                listed: list[int] = []
                gone = ranking.hidden[user].tolist() if ranking.hidden is not None else []
                for g in groups[user]:
                    inside = members[offsets[g] : offsets[g + 1]].tolist() if g >= 0 else []
                    listed += rng.permutation([i for i in inside if i not in gone]).tolist()
                seen |= set(listed[:k])
            draws.append(len(seen) / 10)
        assert got[f"coverage@{k}"] == pytest.approx(np.mean(draws), abs=float(5 * np.std(draws) / 20 + 0.01))


def test_one_sid_for_all_covers_the_catalogue_for_nothing_and_is_no_headline() -> None:
    groups = np.zeros((500, 1), dtype=np.int64)
    ranking = Ranking(
        groups, np.zeros((500, 1), np.float32), np.arange(50, dtype=np.int32), np.array([0, 50])
    )
    assert metrics.coverage_metrics(ranking, [10])["coverage@10"] == pytest.approx(1)
    found = metrics.ranking_metrics(metrics.places(ranking, np.zeros(500, dtype=np.int32)), [10])
    assert found["recall@10"] == pytest.approx(0.2)
    assert found["sid_recall@10"] == 1
    assert metrics.metric("coverage@10").secondary


def test_every_intrinsic_number_is_no_headline_and_says_what_it_does_not_show() -> None:
    for m in (*metrics.intrinsic.METRICS, *churn.METRICS, *metrics.coverage.METRICS):
        assert m.secondary
        assert metrics.METRICS[m.name] is m
