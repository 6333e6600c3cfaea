"""Laws of the charts: frontiers, ticks, labels that cover nothing, curves that keep their ends."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.report.charts import frontier
from sidbench.report.charts.pareto import _powers
from sidbench.report.drawing import place_labels, spread, thinned, width

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(points, st.booleans())
def test_the_frontier_is_what_no_other_beats(found: list[tuple[int, int]], lower: bool) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        x = a[0] <= b[0] if lower else a[0] >= b[0]
        return x and a[1] >= b[1] and a != b

    expected = [i for i, p in enumerate(found) if not any(beats(q, p) for q in found)]
    assert frontier(found, lower=lower) == expected


@given(st.floats(1e-3, 1e7), st.floats(1.1, 1e4))
def test_a_log_axis_has_a_few_round_ticks(low: float, ratio: float) -> None:
    ticks = _powers((low, low * ratio))
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= t <= low * ratio * 1.001 for t in ticks)
    assert all(float(f"{t:.3g}") == pytest.approx(t) for t in ticks)


@given(st.lists(st.tuples(st.floats(0, 330), st.floats(0, 250)), max_size=15))
def test_no_label_covers_another(at: list[tuple[float, float]]) -> None:
    named = [(x, y, f"method-{i}") for i, (x, y) in enumerate(at)]
    boxes = [
        (x, y - 6, x + width(name), y + 6)
        for (_, _, name), place in zip(named, place_labels(named, (330, 250)), strict=True)
        if place is not None
        for x, y in [place]
    ]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@given(st.floats(20, 300), st.floats(20, 230), st.booleans())
def test_no_line_runs_through_a_label(x: float, y: float, across: bool) -> None:
    line = [(0, y), (330, y)] if across else [(x, 0), (x, 250)]
    (place,) = place_labels([(x, y, "method")], (330, 250), line)
    assert place is not None
    left, top, right, bottom = place[0], place[1] - 6, place[0] + width("method"), place[1] + 6
    assert (bottom <= y or top >= y) if across else (right <= x or left >= x)


@given(st.lists(st.floats(0, 250), max_size=15))
def test_spread_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    placed = spread(wanted, 13, 250)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    assert all(placed[b] - placed[a] >= 13 - 1e-9 for a, b in itertools.pairwise(order))
    assert all(p <= 250 for p in placed)


@given(st.integers(1, 500), st.integers(2, 80))
def test_thinned_curves_keep_their_ends(n: int, most: int) -> None:
    kept = thinned(range(n), most)
    assert kept[0] == 0
    assert kept[-1] == n - 1
    assert len(kept) <= max(most, 1)
    assert kept == sorted(set(kept))
