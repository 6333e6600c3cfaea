"""Laws of differences: real ones are found, none is made up, and the bootstrap is the one it claims to be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sidbench.report.differences import ALPHA, Difference, differences, letters, pairs

Floats = NDArray[np.float64]


def hits(rng: np.random.Generator, rate: float, users: int = 2000) -> Floats:
    return (rng.random(users) < rate).astype(float)


def test_a_clear_difference_is_real_and_a_row_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(0)
    a = {s: hits(rng, 0.5) for s in range(3)}
    b = {s: hits(rng, 0.3) for s in range(3)}
    ab, aa, ba = differences({"a": a, "b": b, "again": a})
    assert (ab.a, ab.b, aa.b) == ("a", "b", "again")
    assert ab.real
    assert ba.real
    assert ab.low < ab.mean < ab.high
    assert abs(ab.mean - (np.mean([*a.values()]) - np.mean([*b.values()]))) < 1e-12
    assert not aa.real
    assert (aa.mean, aa.p) == (0, 1)
    assert letters([ab, aa, ba], ["a", "again", "b"]) == {"a": "a", "again": "a", "b": "b"}


def test_drawing_patterns_is_drawing_users() -> None:
    rng = np.random.default_rng(1)
    one, two = hits(rng, 0.4, 500) * rng.choice([0.5, 1.0], 500), hits(rng, 0.45, 500)
    (found,) = differences({"a": {0: one}, "b": {0: two}}, draws=20_000)
    gap = one - two
    plain = np.array([gap[rng.integers(500, size=500)].mean() for _ in range(20_000)])
    assert found.low == pytest.approx(np.quantile(plain, 0.025), abs=0.003)
    assert found.high == pytest.approx(np.quantile(plain, 0.975), abs=0.003)


def test_a_user_is_drawn_with_all_targets() -> None:
    rng = np.random.default_rng(7)
    users = np.repeat(np.arange(120), rng.integers(1, 9, 120))
    order = rng.permutation(len(users))
    taste = rng.random((2, 120))[:, users]
    one, two = (rng.random((2, len(users))) < taste).astype(float)
    (found,) = differences({"a": {0: one[order]}, "b": {0: two[order]}}, draws=20_000, users=users[order])
    assert found.mean == pytest.approx((one - two).mean())
    ends = np.cumsum(np.bincount(users))
    rows = [np.arange(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
    plain = []
    for _ in range(4000):
        drawn = np.concatenate([rows[u] for u in rng.integers(120, size=120)])
        plain.append((one - two)[drawn].mean())
    assert found.low == pytest.approx(np.quantile(plain, 0.025), abs=0.012)
    assert found.high == pytest.approx(np.quantile(plain, 0.975), abs=0.012)
    # Were targets drawn one by one, the interval would promise too much.
    (alone,) = differences({"a": {0: one}, "b": {0: two}})
    assert found.high - found.low > 1.3 * (alone.high - alone.low)


def test_users_with_one_target_each_are_drawn_as_targets_are() -> None:
    rng = np.random.default_rng(8)
    samples = {name: {s: hits(rng, 0.4, 300) for s in range(2)} for name in "ab"}
    assert differences(samples, users=rng.permutation(300)) == differences(samples)


def test_what_is_drawn_does_not_hang_on_how_much_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    samples = {name: {0: rng.random(200)} for name in "ab"}
    (whole,) = differences(samples, draws=500)
    monkeypatch.setattr("sidbench.report.differences.CELLS", 10_000)
    (parts,) = differences(samples, draws=500)
    assert (parts.low, parts.high, parts.p) == pytest.approx((whole.low, whole.high, whole.p))


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    base = {s: hits(rng, 0.4) for s in range(3)}
    steady = {s: hits(rng, 0.44) for s in range(3)}
    wild = {s: hits(rng, rate) for s, rate in enumerate((0.34, 0.44, 0.54))}
    small, large = (differences({"a": base, "b": other})[0] for other in (steady, wild))
    assert large.high - large.low > 2 * (small.high - small.low)


def test_other_seeds_and_single_rows_are_compared_too() -> None:
    rng = np.random.default_rng(3)
    (found,) = differences({"a": {0: hits(rng, 0.6), 1: hits(rng, 0.6)}, "reference": {0: hits(rng, 0.3)}})
    assert found.real
    assert 0.25 < found.mean < 0.35


def test_pure_chance_is_rarely_called_real() -> None:
    rng = np.random.default_rng(4)
    called = 0
    for _ in range(40):
        rows = {str(i): {s: hits(rng, 0.3, 400) for s in range(3)} for i in range(4)}
        called += any(d.real for d in differences(rows, draws=1000))
    assert called <= 8


def test_holm_never_lowers_and_keeps_the_order() -> None:
    rng = np.random.default_rng(5)
    rows = {str(i): {0: hits(rng, 0.3 + 0.015 * i, 900)} for i in range(5)}
    together = differences(rows, draws=2000)
    assert len(together) == 10
    for d in together:
        (alone,) = differences({k: rows[k] for k in (d.a, d.b)}, draws=2000)
        assert d.p >= alone.p
    assert differences(rows, draws=2000) == together


@pytest.mark.parametrize("count", [1, 125, 300, 2000])
def test_however_many_are_compared_what_is_clear_stays_so(count: int) -> None:
    """The least p that draws can give, times as many as Holm corrects for, is below the level."""
    rng = np.random.default_rng(6)
    samples = {"good": {0: hits(rng, 0.9, 100)}, "bad": {0: hits(rng, 0.1, 100)}}
    (found,) = pairs(samples, [("good", "bad")], together=count)
    assert found.p * count < ALPHA


@pytest.mark.parametrize("seed", range(20))
def test_two_rows_share_a_letter_if_and_only_if_they_are_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [str(i) for i in range(7)]
    found = [
        Difference(a, b, 0.0, 0.0, 0.0, float(rng.random() < 0.5))
        for i, a in enumerate(rows)
        for b in rows[i + 1 :]
    ]
    marks = letters(found, rows)
    assert all(marks.values())
    for d in found:
        assert bool(set(marks[d.a]) & set(marks[d.b])) is not d.real


def test_rows_without_a_comparison_have_no_letter() -> None:
    assert letters([Difference("a", "b", 1, 1, 1, 0)], ["a", "b", "failed"]) == {
        "a": "a",
        "b": "b",
        "failed": "",
    }
