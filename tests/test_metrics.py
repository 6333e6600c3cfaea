"""Metrics: declared once, shown one way; the ones on SIDs and vectors against the plain definition."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench import metrics
from sidbench.errors import UsageError
from sidbench.metrics import ABSENT, METRICS, duplicates, metric
from sidbench.sids import Codes


def some_codes(seed: int, n: int = 30, levels: int = 3, size: int = 3) -> Codes:
    return np.random.default_rng(seed).integers(0, size, (n, levels)).astype(np.int32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_collisions_equal_the_plain_count(seed: int) -> None:
    codes = some_codes(seed)
    targets = np.random.default_rng(seed + 1).integers(0, len(codes), 17)
    count = Counter(map(tuple, codes.tolist()))
    shared = [count[tuple(c)] > 1 for c in codes.tolist()]
    got = metrics.collision_metrics(codes, targets)
    assert got["collision_items"] == pytest.approx(np.mean(shared))
    assert got["collision_distinct"] == pytest.approx((len(codes) - len(count)) / len(codes))
    assert got["collision_largest"] == max(count.values())
    assert got["collision_traffic"] == pytest.approx(np.mean([shared[t] for t in targets]))
    # A group of g items has g colliding and g - 1 surplus items.
    assert got["collision_distinct"] <= got["collision_items"] <= 2 * got["collision_distinct"] + 1e-12


def test_unique_sids_do_not_collide_and_the_resolved_numbers_have_their_own_names() -> None:
    codes = np.arange(6, dtype=np.int32).reshape(6, 1)
    got = metrics.collision_metrics(codes, np.array([0, 5]), resolved=True)
    assert got == {
        "collision_items_resolved": 0,
        "collision_distinct_resolved": 0,
        "collision_largest_resolved": 1,
        "collision_traffic_resolved": 0,
    }
    assert set(got) <= set(METRICS)


def test_short_sids_collide_only_with_equal_ones() -> None:
    codes = np.array([[1, -1], [1, 0], [1, -1], [2, 0]], dtype=np.int32)
    assert metrics.collision_metrics(codes, np.array([1]))["collision_items"] == 0.5
    assert metrics.collision_metrics(codes, np.array([1]))["collision_traffic"] == 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_duplicate_floor_counts_identical_rows(scale: float) -> None:
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    x[1] = x[0]
    x[2] = x[0]
    x[9] = x[8]
    assert metrics.floor_metrics(x * np.float32(scale)) == {"floor_items": 5 / 50, "floor_distinct": 3 / 50}


@pytest.mark.parametrize("dimensions", [64, 384, 768])
@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4])
def test_what_batches_do_to_one_text_is_still_a_duplicate(dimensions: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.normal(size=(300, dimensions)), 2, axis=0)
    alone = rng.normal(size=(200, dimensions))
    x = np.concatenate([pairs + rng.normal(size=pairs.shape) * noise, alone]).astype(np.float32)
    assert metrics.floor_metrics(x) == {"floor_items": 600 / 800, "floor_distinct": 300 / 800}


def test_other_texts_are_no_duplicates() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(500, 64)), 2, axis=0)
    for near in (x[::2], x + rng.normal(size=x.shape) * 0.01):
        assert metrics.floor_metrics(near.astype(np.float32))["floor_items"] == 0


@pytest.mark.parametrize("small", [2, 48, 10_000])
@pytest.mark.parametrize(("n", "dimensions", "spread"), [(400, 2, 0.02), (300, 3, 0.02), (300, 8, 0.001)])
def test_identical_rows_are_linked_as_by_comparing_every_pair(
    monkeypatch: pytest.MonkeyPatch, small: int, n: int, dimensions: int, spread: float
) -> None:
    monkeypatch.setattr(duplicates, "_SMALL", small)
    x = (1 + spread * np.random.default_rng(n).normal(size=(n, dimensions))).astype(np.float32)
    tolerance = np.sqrt(np.square(x, dtype=np.float64).mean()) * duplicates.TOLERANCE
    close = np.abs(x[:, None] - x).max(axis=2) <= tolerance
    first = np.arange(n)
    while True:
        spread_on = np.where(close, first, n).min(axis=1)
        if (spread_on == first).all():
            break
        first = spread_on
    assert 1 < len(np.unique(first)) < n
    np.testing.assert_array_equal(duplicates.identical(x), first)


def test_a_large_group_of_almost_equal_rows_costs_no_more_than_others() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 16))
    x[:15_000] = x[0] + 1e-5 * x[:15_000]
    assert metrics.floor_metrics(x.astype(np.float32)) == {
        "floor_items": 0.75,
        "floor_distinct": 14_999 / 20_000,
    }


def test_the_floor_of_constant_rows_is_everything() -> None:
    expected = {"floor_items": 1.0, "floor_distinct": pytest.approx(0.9)}
    assert metrics.floor_metrics(np.zeros((10, 4), np.float32)) == expected
    assert metrics.floor_metrics(np.ones((10, 4), np.float32)) == expected


def test_no_tokenizer_that_sees_only_embeddings_is_below_the_floor() -> None:
    x = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    x[20:30] = x[:10]
    codes = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1, 1).astype(np.int32)
    got = metrics.collision_metrics(codes, np.arange(40))
    floor = metrics.floor_metrics(x)
    assert got["collision_items"] == floor["floor_items"]
    assert got["collision_distinct"] == floor["floor_distinct"]


def test_utilization_and_perplexity_at_their_ends() -> None:
    codes = np.stack([np.arange(8) % 4, np.zeros(8, int)], axis=1).astype(np.int32)
    scalars, levels = metrics.codebook_metrics(codes, (4, 5))
    assert levels["utilization"] == [1.0, 0.2]
    assert levels["perplexity"] == pytest.approx([4.0, 1.0])
    assert scalars["utilization"] == pytest.approx(0.6)
    assert scalars["utilization_min"] == 0.2
    assert scalars["perplexity_min"] == pytest.approx(1.0)
    assert set(scalars) <= set(METRICS)


def test_the_end_of_a_short_sid_is_no_code() -> None:
    codes = np.array([[0, -1], [1, -1]], dtype=np.int32)
    levels = metrics.codebook_metrics(codes, (2, 2))[1]
    assert levels["utilization"] == [1.0, 0.0]
    assert levels["perplexity"] == pytest.approx([2.0, 0.0])


def test_reconstruction_error_at_its_ends_whatever_the_chunk() -> None:
    x = np.random.default_rng(0).normal(3, 1, size=(20, 5)).astype(np.float32)
    codes = np.arange(20, dtype=np.int32).reshape(-1, 1)
    for chunk in (1, 7, 100):
        exact = metrics.reconstruction_metrics(x, codes, lambda c: x[c[:, 0]], chunk=chunk)
        mean = metrics.reconstruction_metrics(
            x, codes, lambda c: np.tile(x.mean(0), (len(c), 1)), chunk=chunk
        )
        assert exact["reconstruction_error"] == 0
        assert mean["reconstruction_error"] == pytest.approx(1, abs=1e-5)


def test_reconstruction_of_equal_rows_is_undefined_and_left_out() -> None:
    x = np.full((10, 3), 0.1, np.float32)
    assert metrics.reconstruction_metrics(x, np.zeros((10, 1), np.int32), lambda c: x[: len(c)]) == {}


def test_every_metric_is_declared_whole() -> None:
    for name, m in METRICS.items():
        assert m.name == name
        assert m.label
        assert len(m.legend) > 20
        assert m.family == name.endswith("@K")
        assert m.show(0.5) != ABSENT
        if m.source == "clock":
            assert "Not rankable across machines" in m.legend
    names = [(m.label, m.unit) for m in METRICS.values()]
    assert len(set(names)) == len(names), "two columns would read alike"


def test_a_family_gives_its_members_and_a_wrong_name_the_nearest() -> None:
    assert (metric("recall@7").name, metric("recall@7").label) == ("recall@7", "Recall@7")
    assert metric("fit_seconds") is METRICS["fit_seconds"]
    for wrong in ("recal@10", "fit_seconds@10", "recall@", "recall@x"):
        with pytest.raises(UsageError, match="unknown metric"):
            metric(wrong)


def test_a_value_that_is_none_is_shown_as_absent() -> None:
    m = metric("recall@10")
    assert [m.show(v) for v in (None, float("nan"), float("inf"))] == [ABSENT] * 3
    assert m.show(0.12345, float("nan")) == "0.1235" or m.show(0.12345) == "0.1234"
    assert m.show(0.5, 0.01) == "0.5000 ± 0.0100"
    assert metric("inflation@10").show(-1e-9) == "0.0%"


def test_the_declarations_are_light() -> None:
    code = (
        "import sys, sidbench.metrics; print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_collisions_of_prefixes_equal_the_plain_count(seed: int) -> None:
    codes = some_codes(seed)
    got = metrics.prefix_collisions(codes)
    for depth in (1, 2, 3):
        whole = metrics.collision_metrics(codes[:, :depth], np.zeros(0, np.int64))
        for name, levels in got.items():
            assert levels[depth - 1] == pytest.approx(whole[name])
    assert set(metrics.prefix_collisions(codes, resolved=True)) == {f"{name}_resolved" for name in got}


def test_excess_is_what_the_floor_does_not_explain() -> None:
    x = np.array([[0.0], [0.0], [1.0], [2.0]], dtype=np.float32)
    floor = metrics.floor_metrics(x, np.array(["a", "a", "a", ""]))
    assert floor == {
        "floor_items": 0.5,
        "floor_distinct": 0.25,
        "floor_text_items": 0.75,
        "floor_text_distinct": 0.5,
    }
    codes = np.zeros((4, 1), dtype=np.int32)
    got = metrics.collision_metrics(codes, np.zeros(0, np.int64), floor=floor)
    assert (got["collision_items_excess"], got["collision_distinct_excess"]) == (0.5, 0.5)
    apart = metrics.collision_metrics(
        np.arange(4, dtype=np.int32)[:, None], np.zeros(0, np.int64), floor=floor, resolved=True
    )
    assert apart["collision_items_excess_resolved"] == -0.5


def test_no_text_is_no_duplicate() -> None:
    x = np.arange(4, dtype=np.float32)[:, None]
    floor = metrics.floor_metrics(x, np.array(["", "", "a", "b"]))
    assert (floor["floor_text_items"], floor["floor_text_distinct"]) == (0, 0)
    assert set(floor) <= set(METRICS)


def test_what_a_resolver_moved_and_what_that_cost() -> None:
    x = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 9.0], [5.0, 2.0, 0.5]], dtype=np.float32)
    before = np.array([[0, 0], [0, 0], [0, 2]], dtype=np.int32)
    after = np.array([[0, 0, 7], [0, 1, 7], [0, 2, 7]], dtype=np.int32)  # one moved; a level was added to all

    def costs(rows: Codes, prefix: Codes) -> Codes:
        return rows

    got = metrics.resolution_metrics(before, after, 3, x, costs)  # type: ignore[arg-type]
    assert got == {"resolve_moved": pytest.approx(1 / 3), "resolve_added_cost": pytest.approx(2 / 2.5)}
    assert metrics.resolution_metrics(before, after, 3, x, None) == {"resolve_moved": pytest.approx(1 / 3)}
    assert metrics.resolution_metrics(before, before, 3, x, costs)["resolve_added_cost"] == 0  # type: ignore[arg-type]
    assert set(got) <= set(METRICS)
