"""Resolvers: the laws of all of them, and what each promises beyond, against brute force on small cases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typing_extensions import Self

from sidbench import registry
from sidbench.dataset import Embeddings
from sidbench.decoder import Decoder
from sidbench.errors import DataError, UnsupportedError, UsageError
from sidbench.kit import groups, places
from sidbench.resolve import min_cost_last, sinkhorn_group
from sidbench.resolve.exhaustive_candidates import ExhaustiveCandidates
from sidbench.resolve.keep import Keep
from sidbench.resolve.min_cost_last import MinCostLast
from sidbench.resolve.nearest_free import NearestFree
from sidbench.resolve.random_free import RandomFree
from sidbench.resolve.recursive_residual import RecursiveResidual
from sidbench.resolve.sinkhorn_group import SinkhornGroup
from sidbench.resolve.suffix import Suffix
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs, distinct_rows
from sidbench.task import Task, with_seed
from sidbench.testing import Check, catalogue
from sidbench.testing.resolver import Coarse, Costless, resolver_checks
from sidbench.tokenizer import Tokenizer
from tests.conftest import Said

Rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40)

VARIANTS: list[Resolver] = [
    *(cls() for cls in registry.resolvers().values()),
    *(Suffix(items=items, base=base) for items in ("all", "colliding") for base in (0, 1)),
    ExhaustiveCandidates(candidates=12),
    RecursiveResidual(candidates=12),
    RandomFree(seed=5),
    SinkhornGroup(rounds=2, epsilon=0.1),
]


def sids(rows: list[tuple[int, int]], size: int = 4) -> SIDs:
    codes = np.array(rows, dtype=np.int32).reshape(-1, 2)
    return SIDs(codes, (3, size), np.arange(len(rows)) + 100, manifest={"method": "m"})


class Written(Tokenizer):
    """Two levels whose costs are written in the embeddings: the first three columns, then the rest."""

    name = "written"
    levels: int = 2
    codebook_size: int | tuple[int, ...] = (3, 4)

    def fit(self, x: Embeddings) -> Self:
        return self

    def encode(self, x: Embeddings) -> Codes:
        return np.stack([x[:, :3].argmin(axis=1), x[:, 3:].argmin(axis=1)], axis=1).astype(np.int32)

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        return x[:, 3:] if prefix.shape[1] else x[:, :3]


def written(seed: int, n: int, size: int = 4) -> Embeddings:
    return np.random.default_rng(seed).permutation(n * (3 + size)).reshape(n, -1).astype(np.float32)


def surplus(codes: Codes) -> int:
    return len(codes) - len(distinct_rows(codes)[0])


CHECKS = [check for resolver in VARIANTS for check in resolver_checks(resolver)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.plugin}-{c}")
def test_laws(check: Check) -> None:
    check()


# suffix and keep


@given(Rows)
def test_suffix_makes_sids_unique_and_no_longer_than_needed(rows: list[tuple[int, int]]) -> None:
    before = sids(rows)
    after = Suffix().resolve(before, None, None)
    assert surplus(after.codes) == 0
    assert (after.codes[:, :2] == before.codes).all()
    assert (after.codes >= 0).all()  # the same length for all
    assert after.sizes[:2] == before.sizes
    largest = int(np.unique(before.codes, axis=0, return_counts=True)[1].max())
    assert after.sizes[2] == largest == after.codes[:, 2].max() + 1
    assert (after.item_ids == before.item_ids).all()
    assert (after.manifest, after.resolver) == (before.manifest, "suffix")


@given(Rows, st.sampled_from(["all", "colliding"]), st.sampled_from([0, 1]))
def test_suffix_counts_inside_each_group(rows: list[tuple[int, int]], items: Any, base: Any) -> None:
    after = Suffix(items=items, base=base).resolve(sids(rows), None, None)
    for row, count in Counter(rows).items():
        inside = after.codes[(after.codes[:, :2] == row).all(axis=1), 2]
        alone = -1 if items == "colliding" else 0
        assert sorted(inside) == ([alone] if count == 1 else list(range(base, base + count)))


@given(Rows, Rows, Rows, st.sampled_from(["all", "colliding"]), st.sampled_from([0, 1]))
def test_suffix_goes_on_counting_for_items_that_come_later(
    rows: list[tuple[int, int]],
    more: list[tuple[int, int]],
    last: list[tuple[int, int]],
    items: Any,
    base: Any,
) -> None:
    resolver = Suffix(items=items, base=base)
    now = resolver.resolve(sids(rows), None, None)
    for later in (more, last):
        codes = np.array(later, dtype=np.int32)
        ids = 1000 + len(now) + np.arange(len(later))
        grown = resolver.extend(now, codes, ids, None, None)
        assert (grown.codes[: len(now)] == now.codes).all()
        assert (grown.codes[len(now) :, :2] == codes).all()
        now = grown
    assert surplus(now.codes) == 0
    # A group has each number once, with no gap but that of an item that was alone when it came.
    for row, count in Counter([*rows, *more, *last]).items():
        inside = now.codes[(now.codes[:, :2] == row).all(axis=1), 2]
        assert inside.max() <= base + count - 1


def test_parameters_that_came_later_change_no_record_of_before() -> None:
    assert Suffix().deciding() == {}
    assert Suffix(items="colliding").deciding() == {"items": "colliding"}
    assert Keep().deciding() == {}


@given(Rows)
def test_keep_changes_nothing(rows: list[tuple[int, int]]) -> None:
    before = sids(rows)
    after = Keep().resolve(before, None, None)
    assert (after.codes == before.codes).all()
    assert (after.sizes, after.resolver) == (before.sizes, "keep")


def test_suffix_refuses_sids_that_end_in_one() -> None:
    ended = Suffix(items="colliding").resolve(sids([(0, 1), (0, 1), (2, 3)]), None, None)
    for resolver in (Suffix(), RandomFree()):
        with pytest.raises(DataError, match="differ in length"):
            resolver.resolve(ended, None, None)


# min-cost-last


def fewest_then_least(codes: list[int], costs: NDArray[np.float32], taken: set[int]) -> tuple[int, float]:
    """Every way to give the items of one prefix distinct codes that are not taken: moves, then distance."""
    n, size = costs.shape
    ways = permutations([c for c in range(size) if c not in taken], n)
    return min(
        (sum(a != b for a, b in zip(way, codes, strict=True)), float(costs[range(n), way].sum()))
        for way in ways
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(0, 2))
def test_min_cost_last_moves_the_fewest_and_of_these_the_least(seed: int, n: int, frozen: int) -> None:
    rng, size = np.random.default_rng(seed), 7
    x, t = written(seed, n, size), Written(codebook_size=(3, size))
    last = rng.integers(0, 3, n)
    before = sids([(1, int(c)) for c in last], size)
    if frozen:
        there = sids([(1, int(c)) for c in range(frozen)], size).replace(item_ids=np.arange(frozen))
        after = MinCostLast().extend(there, before.codes, before.item_ids, t, x).codes[frozen:]
    else:
        after = MinCostLast().resolve(before, t, x).codes
    # Who was alone stays by the rule of fewest moves already.
    expected = fewest_then_least(last.tolist(), x[:, 3:], set(range(frozen)))
    assert (after[:, 0] == 1).all()
    moved = int((after[:, 1] != last).sum())
    assert (moved, float(x[np.arange(n), 3 + after[:, 1]].sum())) == expected


@settings(max_examples=40, deadline=None)
@given(Rows, st.integers(0, 2**32 - 1))
def test_min_cost_last_moves_no_more_than_it_must(rows: list[tuple[int, int]], seed: int) -> None:
    before, x = sids(rows), written(seed, len(rows))
    resolver = MinCostLast()
    after = resolver.resolve(before, Written(), x)
    moved = int((after.codes != before.codes).any(axis=1).sum())
    # Below a prefix: as many as are too many, or as many as there are free codes.
    must = left = 0
    for prefix in range(3):
        own = [b for a, b in rows if a == prefix]
        free, extra = 4 - len(set(own)), len(own) - len(set(own))
        must += min(free, extra)
        left += max(0, extra - free)
    assert moved == must
    assert surplus(after.codes) == left == resolver.facts()["unplaced"]
    assert (after.codes[:, 0] == before.codes[:, 0]).all()


def test_min_cost_last_says_what_is_too_large_to_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(min_cost_last, "CELLS", 5)
    with pytest.raises(DataError, match=r"3 items .* 3 free codes .* use nearest-free"):
        MinCostLast().resolve(sids([(0, 1)] * 3), Written(), written(0, 3))


# nearest-free and random-free


@settings(max_examples=60, deadline=None)
@given(Rows, st.integers(1, 3), st.sampled_from([NearestFree, RandomFree]))
def test_no_sid_has_more_than_the_cap_while_there_is_room(
    rows: list[tuple[int, int]], cap: int, kind: Callable[..., Resolver]
) -> None:
    before, resolver = sids(rows), kind(cap=cap)
    after = resolver.resolve(before, Written(), written(1, len(rows)))
    left = 0
    for prefix in range(3):
        counts = np.bincount(after.codes[after.codes[:, 0] == prefix, 1], minlength=4)
        over = counts[counts > cap] - cap
        left += int(over.sum())
        assert not len(over) or (counts >= cap).all()
    assert resolver.facts()["unplaced"] == left
    # Nobody below the cap moved, and a SID above it lost no more than it had to.
    had, has = Counter(rows), Counter(map(tuple, after.codes.tolist()))
    assert all(has[sid] >= min(count, cap) for sid, count in had.items())


def test_nearest_free_keeps_the_nearest_and_sends_the_next_to_the_next_place() -> None:
    x = np.zeros((4, 7), dtype=np.float32)
    x[:, 3:] = [[1, 2, 9, 5], [3, 4, 9, 6], [2, 3, 9, 5], [0, 0, 0, 0]]
    before = sids([(0, 0), (0, 0), (0, 0), (2, 2)])
    after = NearestFree().resolve(before, Written(), x).codes
    # Item 0 stays; item 2 wants code 1 more than item 1 does, which looks on.
    assert after.tolist() == [[0, 0], [0, 3], [0, 1], [2, 2]]


def test_random_free_follows_its_seed_and_the_ids_alone() -> None:
    codes = np.tile(np.array([[0, 0], [1, 1]], dtype=np.int32), (20, 1))
    before = SIDs(codes, (3, 64), np.array([f"i{i}" for i in range(40)]))
    one, two = (RandomFree(seed=s).resolve(before, None, None).codes for s in (0, 1))
    assert surplus(one) == surplus(two) == 0
    assert (one != two).any()
    assert len(np.unique(one[:, 1])) > 20  # each prefix has places of its own


# exhaustive-candidates and recursive-residual


def in_order_of_total(own: tuple[int, int], row: NDArray[np.float32]) -> list[tuple[int, int]]:
    return sorted(product(range(3), range(4)), key=lambda c: (row[c[0]] + row[3 + c[1]], c))


def depth_first(own: tuple[int, int], row: NDArray[np.float32]) -> list[tuple[int, int]]:
    first, last = np.argsort(row[:3], kind="stable"), np.argsort(row[3:], kind="stable")
    return [(int(a), int(b)) for a in first for b in last]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=11, unique=True),
    st.sampled_from([(ExhaustiveCandidates, in_order_of_total), (RecursiveResidual, depth_first)]),
)
def test_one_item_gets_the_first_free_sid_of_its_order(
    seed: int, taken: list[tuple[int, int]], rule: tuple[Callable[..., Resolver], Any]
) -> None:
    kind, order = rule
    x = written(seed, 1)
    x[:, :3] *= 16  # no two totals are equal
    own = taken[0] if taken else (0, 0)
    frozen = sids(taken)
    grown = kind().extend(frozen, np.array([own], dtype=np.int32), np.array([5]), Written(), x)
    expected = own if own not in taken else next(c for c in order(own, x[0]) if c not in taken)
    assert tuple(grown.codes[-1]) == expected


@pytest.mark.parametrize("kind", [ExhaustiveCandidates, RecursiveResidual])
def test_few_candidates_leave_items_where_they_are_and_say_so(kind: Callable[..., Resolver]) -> None:
    before, x = sids([(0, 0)] * 7), np.tile(written(0, 1), (7, 1))
    resolver = kind(candidates=2)
    after = resolver.resolve(before, Written(), x)
    # Two codes a level: four SIDs, of which the own may be one.
    assert surplus(after.codes) == resolver.facts()["unplaced"] in (2, 3)
    with pytest.raises(UsageError, match="set fewer"):
        kind(candidates=2000).resolve(before, Written(), x)


def test_candidates_come_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidbench.resolve import exhaustive_candidates

    x = catalogue(150, 8)
    t = Coarse(codebook_size=(4, 60)).fit(x)
    before = SIDs(t.encode(x), t.sizes, np.arange(150))
    whole = ExhaustiveCandidates().resolve(before, t, x).codes
    monkeypatch.setattr(exhaustive_candidates, "WINDOW", 3)
    assert (ExhaustiveCandidates().resolve(before, t, x).codes == whole).all()


# sinkhorn-group


def test_sinkhorn_group_parts_items_that_differ_and_never_those_that_do_not() -> None:
    x = catalogue(120, 8)
    t = Coarse(codebook_size=(2, 120)).fit(x)
    x = np.concatenate([x[:1]] * 4 + [x[:5]])
    # Eight that share one SID, five of them equal, and one alone.
    codes = np.array([[0, 0]] * 8 + [[1, 0]], dtype=np.int32)
    after = SinkhornGroup().resolve(SIDs(codes, t.sizes, np.arange(9)), t, x).codes
    assert len(np.unique(after[:5], axis=0)) == 1
    assert len(np.unique(after[4:], axis=0)) == 5


@pytest.mark.parametrize("seed", range(4))
def test_sinkhorn_group_goes_on_until_groups_stay(seed: int) -> None:
    """With room, what has settled is settled: one round more moves nobody. Without, no SID is lost."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    x[rng.integers(60, size=9)] = x[rng.integers(60, size=9)]
    for size in (100, 24):
        t = Coarse(levels=1, codebook_size=size).fit(np.concatenate([x] * 2) if size > 60 else x)
        codes = rng.integers(size // 4, size=(60, 1)).astype(np.int32)
        before = SIDs(codes, t.sizes, np.arange(60))
        after, later = (SinkhornGroup(rounds=r).resolve(before, t, x) for r in (20, 21))
        if (after.codes == later.codes).all() and size == 100:
            assert (SinkhornGroup(rounds=1).resolve(after, t, x).codes == after.codes).all()
        assert len(after.groups()[0]) >= len(before.groups()[0])


@pytest.mark.parametrize("seed", range(3))
def test_sinkhorn_group_below_one_prefix_is_nothing_to_the_others(seed: int) -> None:
    """Crowded prefixes go in circles: each ends at its own best round, whatever the others do meanwhile."""
    rng = np.random.default_rng(seed)
    rows = [(int(a), int(b)) for a, b in zip(rng.integers(3, size=40), rng.integers(6, size=40), strict=True)]
    x, t = written(seed, 40, 8), Written(codebook_size=(3, 8))
    whole = SinkhornGroup().resolve(sids(rows, 8), t, x).codes
    for prefix in range(3):
        own = [i for i, (a, _) in enumerate(rows) if a == prefix]
        before = sids([rows[i] for i in own], 8)
        alone = SinkhornGroup().resolve(before, t, x[own]).codes
        assert (alone == whole[own]).all()
        assert len(np.unique(alone, axis=0)) >= len(np.unique(before.codes, axis=0))


def test_sinkhorn_group_leaves_groups_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn_group, "VALUES", 15)
    before = sids([(0, 0)] * 4 + [(1, 1)] * 2)
    resolver = SinkhornGroup()
    after = resolver.resolve(before, Written(), written(3, 6))
    assert (after.codes[:4] == before.codes[:4]).all()
    assert resolver.facts()["unplaced"] >= 3


# all that move


MOVERS = [NearestFree, MinCostLast, ExhaustiveCandidates, RecursiveResidual, SinkhornGroup]


@pytest.mark.parametrize("kind", [*MOVERS, RandomFree])
def test_pieces_change_nothing(kind: Callable[..., Resolver], monkeypatch: pytest.MonkeyPatch) -> None:
    x = catalogue(300, 8)
    t = Coarse(codebook_size=(16, 40)).fit(x)
    before = SIDs(t.encode(x), t.sizes, np.arange(300))
    whole = kind().resolve(before, t, x).codes
    monkeypatch.setattr(places, "VALUES", 1500)
    assert (kind().resolve(before, t, x).codes == whole).all()


@pytest.mark.parametrize("kind", [*MOVERS, RandomFree])
def test_all_items_alike_end_soon_and_are_counted(kind: Callable[..., Resolver]) -> None:
    x = np.ones((500, 4), dtype=np.float32)
    t = Coarse(codebook_size=4).fit(x)
    before = SIDs(t.encode(x), t.sizes, np.arange(500))
    resolver = kind()
    after = resolver.resolve(before, t, x)
    assert surplus(after.codes) == resolver.facts()["unplaced"]


@pytest.mark.parametrize("kind", MOVERS)
def test_who_needs_distances_refuses_clearly(kind: Callable[..., Resolver]) -> None:
    before, x = sids([(0, 0)] * 3), written(0, 3)
    with pytest.raises(UnsupportedError, match=r"needs distances, and costless has none .* suffix"):
        kind().resolve(before, Costless(), x)
    with pytest.raises(DataError, match="give the fitted tokenizer and the embeddings"):
        kind().resolve(before, None, None)
    with pytest.raises(DataError, match="levels of"):
        kind().resolve(before, Written(codebook_size=(3, 5)), x)


@pytest.mark.parametrize("name", ["rq-kmeans", "tree-kmeans", "opq", "lsh", "fsq"])
def test_the_methods_give_what_resolvers_need(name: str) -> None:
    cls = registry.tokenizers()[name]
    x = catalogue(150, 8)
    quick = {k: v for k, v in cls.quick.items() if k not in ("levels", "codebook_size")}
    t = cls(levels=2, codebook_size=(4, 128), device="cpu", **quick).fit(x)
    before = SIDs(t.encode(x), t.sizes, np.arange(150))
    for kind in MOVERS:
        resolver = kind()
        after = resolver.resolve(before, t, x)
        assert surplus(after.codes) == resolver.facts()["unplaced"] <= surplus(before.codes)


def test_keys_are_their_sids_own_or_a_hash() -> None:
    rng = np.random.default_rng(0)
    for sizes in ((5, 7, 3), (65_536,) * 6):
        codes = np.stack([rng.integers(0, min(s, 9), 400) for s in sizes], axis=1).astype(np.int32)
        codes = np.minimum(codes, np.array(sizes) - 1).astype(np.int32)
        keys = groups.keys(codes, sizes)
        assert (np.unique(keys, return_inverse=True)[1].argsort() >= 0).all()
        same = groups.ranks(np.unique(keys, return_inverse=True)[1]) == 0
        assert same.sum() == len(distinct_rows(codes)[0])


# in a run


def test_a_resolver_that_draws_follows_the_seed_of_its_row() -> None:
    row = with_seed(Task("coarse", Coarse(), 0, RandomFree(), Decoder()), 7, "cpu")
    assert row.resolver == RandomFree(seed=7)
    assert with_seed(Task("coarse", Coarse(), 0, Keep(), Decoder()), 7, "cpu").resolver == Keep()


def test_a_record_says_what_the_resolver_did(sidbench_cli: Callable[..., Said], tmp_path: Path) -> None:
    line = ("run", "--dataset", "synthetic:tiny", "--methods", "rq-kmeans", "--resolvers", "min-cost-last")
    few = ("--set", "rq-kmeans.iters=2", "--set", "rq-kmeans.codebook_size=8", "--set", "decoder.steps=2")
    assert sidbench_cli(*line, *few, "--results", tmp_path).code == 0
    (file,) = (tmp_path / "records").rglob("*.json")
    record = json.loads(file.read_text())
    found, facts, levels = record["metrics"], record["facts"]["resolver"], record["levels"]
    assert set(facts) == {"unplaced", "unfit_groups"}
    assert 0 < found["resolve_moved"] < found["collision_items"]
    assert found["resolve_added_cost"] > 0
    n = record["key"]["dataset"]["items"]
    assert round(n * found["collision_distinct_resolved"]) == facts["unplaced"]
    assert levels["collision_distinct"][-1] == found["collision_distinct"]
    assert levels["collision_items_resolved"][-1] == found["collision_items_resolved"]
    assert found["collision_items_excess"] == pytest.approx(found["collision_items"] - found["floor_items"])


def test_pairs_that_cannot_be_are_left_out_with_a_note_or_refused(
    sidbench_cli: Callable[..., Said], tmp_path: Path
) -> None:
    line = ("run", "--dataset", "synthetic:tiny", "--methods", "random", "--dry-run", "--results", tmp_path)
    said = sidbench_cli(*line, "--resolvers", "all")
    assert said.code == 0
    assert "random: left out with" in " ".join(said.out.split())
    assert "random + random-free" in said.out
    assert "random + min-cost-last" not in said.out
    # So are those of a product; what has no row left is refused, whatever else has some.
    said = sidbench_cli(*line, "--methods", "rq-kmeans,lsh,random", "--resolvers", "keep,min-cost-last")
    assert said.code == 0
    assert "random: left out with min-cost-last" in " ".join(said.out.split())
    assert [f"random + {r}" in said.out for r in ("keep", "min-cost-last")] == [True, False]
    assert "rq-kmeans + min-cost-last" in said.out
    said = sidbench_cli(*line, "--methods", "rq-kmeans,random", "--resolvers", "min-cost-last")
    assert said.code == 2
    assert "random gives no distances" in " ".join((said.out + said.err).split())
    said = sidbench_cli(*line, "--resolvers", "min-cost-last")
    assert said.code == 2
    assert "random gives no distances (costs)" in " ".join((said.out + said.err).split())
