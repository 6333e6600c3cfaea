"""Laws of balanced assignment: bounds and the optimum, by brute force, by a flow and by its own proof."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import registry
from sidbench.errors import UsageError
from sidbench.kit import balanced
from sidbench.kit.balanced import balanced_assign, balanced_kmeans, bounds, sinkhorn_assign
from sidbench.kit.sinkhorn import sinkhorn
from sidbench.testing import catalogue, tokenizer_checks

Floats = NDArray[np.float32]
Tokenizer = registry.find("tokenizer", "rq-kmeans-balanced")
SOLVERS = ("fast", "flow", "sinkhorn")


def rows(n: int, d: int = 4, seed: int = 0, distinct: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(max(distinct or n, 1), d)) ** 3).astype(
        np.float32
    )  # heavy tails: far from balanced
    return x[rng.integers(len(x), size=n)] if distinct else x


def squares(x: Floats, centers: Floats) -> NDArray[np.float64]:
    gaps = x[:, None].astype(np.float64) - centers
    return np.asarray(np.square(gaps).sum(axis=2))


def by_flow(costs: NDArray[np.float64], lo: int, hi: int) -> float:
    """The cost of a min-cost flow on costs that are scaled to integers of forty bits."""
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    n, k = costs.shape
    scale = 2.0**40 / max(costs.max(), 1e-30) / n
    flow = SimpleMinCostFlow()
    row, code = np.divmod(np.arange(n * k), k)
    arcs = flow.add_arcs_with_capacity_and_unit_cost(
        row, n + code, np.ones(n * k, np.int64), np.rint(scale * costs).astype(np.int64).ravel()
    )
    codes = n + np.arange(k)
    flow.add_arcs_with_capacity_and_unit_cost(
        codes, np.full(k, n + k), np.full(k, hi - lo), np.zeros(k, np.int64)
    )
    supplies = np.concatenate([np.ones(n), np.full(k, -lo), [lo * k - n]]).astype(np.int64)
    flow.set_nodes_supplies(np.arange(n + k + 1), supplies)
    assert flow.solve() == flow.OPTIMAL
    return float(costs.ravel()[flow.flows(arcs) > 0].sum())


def check(x: Floats, centers: Floats, lo: int, hi: int, **options: Any) -> balanced.Assignment:
    """Bounds, the cost that is stated, the proof, and slack: a price above nothing has a full code."""
    found = balanced_assign(x, centers, lo, hi, **options)
    sizes = np.bincount(found.labels, minlength=len(centers))
    assert len(found.labels) == len(x)
    assert sizes.min() >= lo
    assert sizes.max() <= hi
    costs = squares(x, centers)
    cost = costs[np.arange(len(x)), found.labels].sum()
    scale = np.square(x.astype(np.float64)).sum() + 1e-30
    assert abs(found.cost - cost) <= 1e-9 * scale
    bound = (costs + found.prices).min(axis=1).sum() - np.where(found.prices > 0, hi, lo) @ found.prices
    assert bound <= cost + 1e-9 * scale
    assert cost - bound <= 1e-9 * cost + 1e-9 * scale
    assert found.gap <= 1e-9
    return found


@pytest.mark.parametrize(
    ("n", "k", "distinct"),
    [(3, 7, 0), (1, 2, 0), (7, 7, 0), (100, 7, 0), (101, 10, 3), (60, 9, 1), (640, 64, 40), (200, 2, 0)],
)
@pytest.mark.parametrize("parts", [(1.0, 1.0), (0.5, 1.5), (0.0, 3.0)])
def test_sizes_are_within_bounds_and_the_cost_is_proved(
    n: int, k: int, distinct: int, parts: tuple[float, float]
) -> None:
    """Fewer rows than codes, as many, no multiple, duplicates, all rows equal; tight and loose bounds."""
    x = rows(n, distinct=distinct)
    check(x, rows(k, seed=1), *bounds(n, k, *parts))
    check(x, x[np.arange(k) % n], *bounds(n, k, *parts))  # centres that are rows, and repeat


@pytest.mark.parametrize("seed", range(6))
def test_the_cost_is_brute_forces(seed: int) -> None:
    n, k = 7, 3
    x, centers = rows(n, 2, seed), rows(k, 2, seed + 100)
    costs = squares(x, centers)
    every = np.array(list(product(range(k), repeat=n)))
    paid = costs[np.arange(n), every].sum(axis=1)
    sizes = (every[:, :, None] == np.arange(k)).sum(axis=1)
    for lo, hi in ((2, 3), (1, 4), (0, 3), (0, 7), (2, 5)):
        allowed = ((sizes >= lo) & (sizes <= hi)).all(axis=1)
        assert check(x, centers, lo, hi).cost == pytest.approx(paid[allowed].min(), rel=1e-9)


@pytest.mark.parametrize(("n", "k", "lo", "hi"), [(500, 16, 31, 32), (500, 16, 20, 40), (300, 40, 0, 12)])
def test_the_cost_is_that_of_a_flow_on_squared_costs(n: int, k: int, lo: int, hi: int) -> None:
    x, centers = rows(n), rows(k, seed=1)
    assert check(x, centers, lo, hi).cost == pytest.approx(by_flow(squares(x, centers), lo, hi), rel=1e-7)


def test_more_rows_than_are_held_get_the_optimum_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x, centers = rows(3000, 5), rows(12, 5, seed=1)
    whole = check(x, centers, 240, 260)
    zeros = np.where(np.arange(3000)[:, None] % 3, x, np.float32(0))  # a third of all rows are one row
    alike = check(zeros, centers, 250, 250)
    monkeypatch.setattr(balanced, "HELD", 12 * 400)
    assert check(x, centers, 240, 260).cost == pytest.approx(whole.cost, rel=1e-9)
    assert check(x, centers, 240, 260, prices=whole.prices).cost == pytest.approx(whole.cost, rel=1e-9)
    assert check(zeros, centers, 250, 250).cost == pytest.approx(alike.cost, rel=1e-9)
    lone = x.copy()
    lone[:400] += 100  # far from all others: most must leave their code, whatever it costs
    centers[0] += 100
    check(lone, centers, 250, 250)


def test_the_order_of_rows_does_not_change_the_cost() -> None:
    x, centers = rows(400), rows(11, seed=1)
    costs = {check(x[order], centers, 36, 37).cost for order in (np.arange(400), np.arange(400)[::-1])}
    assert max(costs) == pytest.approx(min(costs), rel=1e-12)


def test_bounds_that_cannot_be_kept_are_refused() -> None:
    x, centers = rows(10), rows(4, seed=1)
    for lo, hi in ((3, 5), (0, 2), (3, 2), (-1, 5)):
        with pytest.raises(UsageError, match="lower bound to at most 2 and the upper one to at least 3"):
            balanced_assign(x, centers, lo, hi)
    with pytest.raises(UsageError, match="fewer codes"):
        balanced_kmeans(rows(5000), 4097, 1, 2)


# ------------------------------------------------------------------------------------------------- k-means


@pytest.mark.parametrize("held", [None, 16 * 100])
def test_balanced_kmeans_ends_with_the_optimum_for_its_centres(
    held: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if held:
        monkeypatch.setattr(balanced, "HELD", held)
    x = catalogue(1000, 8)
    found = balanced_kmeans(x, 16, 62, 63, iters=15)
    check(x, found.centers, 62, 63)
    assert found.assignment.cost == pytest.approx(check(x, found.centers, 62, 63).cost, rel=1e-9)
    again = balanced_kmeans(x, 16, 62, 63, iters=15)
    assert (again.labels == found.labels).all()
    assert (again.centers == found.centers).all()


def test_more_starts_are_never_worse() -> None:
    x = catalogue(400, 8)
    costs = [balanced_kmeans(x, 16, 25, 25, starts=starts).assignment.cost for starts in (1, 3)]
    assert costs[1] <= costs[0]


def test_the_squared_error_is_no_higher_than_k_means_constraineds() -> None:
    from k_means_constrained import KMeansConstrained

    x, ours, theirs = catalogue(300, 8), [], []
    for seed in range(3):
        ours.append(balanced_kmeans(x, 12, 25, 25, seed=seed).assignment.cost)
        peer = KMeansConstrained(12, size_min=25, size_max=25, n_init=1, random_state=seed).fit(1000 * x)
        theirs.append(np.square(x - peer.cluster_centers_[peer.labels_] / 1000).sum())
    assert np.median(ours) <= 1.01 * np.median(theirs)


# ------------------------------------------------------------------------------------------------ Sinkhorn


def test_sinkhorns_plan_has_uniform_marginals_and_its_form() -> None:
    costs = torch.from_numpy(squares(rows(50), rows(10, seed=1)))
    plan = sinkhorn(costs, 30.0, 100)
    assert torch.allclose(plan.sum(dim=1), torch.full((50,), 1 / 50, dtype=plan.dtype))
    assert torch.allclose(plan.sum(dim=0), torch.full((10,), 1 / 10, dtype=plan.dtype), rtol=1e-4)
    logs = (plan.log() + costs / 30.0).numpy()  # a number of the row plus one of the code
    assert np.ptp(logs - logs[:1] - logs[:, :1] + logs[0, 0]) < 1e-8


def test_a_plan_of_tiny_epsilon_is_finite() -> None:
    plan = sinkhorn(torch.from_numpy(squares(rows(50), rows(10, seed=1))).float(), 1e-6, 50)
    assert torch.isfinite(plan).all()


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 1.0])
def test_sinkhorn_keeps_capacities(epsilon: float) -> None:
    x, centers = rows(203), rows(10, seed=1)
    for lo, hi in ((20, 21), (10, 25)):
        found = sinkhorn_assign(x, centers, lo, hi, epsilon=epsilon, iters=50)
        sizes = np.bincount(found.labels, minlength=10)
        assert sizes.min() >= lo
        assert sizes.max() <= hi
        assert found.gap <= 1e-9


# ----------------------------------------------------------------------------------------------- the plugin


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_level_of_the_catalogue_is_balanced(solver: str) -> None:
    x = catalogue(130, 8)
    for data in (x, x * np.float32(1e-15), np.repeat(x[:5], 26, axis=0), np.ones_like(x)):
        t = Tokenizer(solver=solver, levels=2, codebook_size=(4, 7), iters=3)
        codes = t.fit_encode(data)
        for level, size in enumerate(t.sizes):
            sizes = np.bincount(codes[:, level], minlength=size)
            assert sizes.min() >= 130 // size
            assert sizes.max() <= -(-130 // size)
        assert np.isfinite(t.reconstruct(codes)).all()
        assert t.facts()["least_and_most"][0] == [32, 33]
    assert (codes == Tokenizer(solver=solver, levels=2, codebook_size=(4, 7), iters=3).fit_encode(data)).all()


@pytest.mark.parametrize("solver", ["fast", "sinkhorn"])
def test_more_codes_than_a_solver_takes_are_refused_at_once(solver: str) -> None:
    with pytest.raises(UsageError, match=f"balanced.solver = {solver} .* at most 4096, or solver = flow"):
        Tokenizer(solver=solver, codebook_size=(4096, 4097, 2))
    assert Tokenizer(solver="flow", codebook_size=4097).sizes[0] == 4097


@pytest.mark.parametrize(
    "check_", tokenizer_checks(Tokenizer, solver="sinkhorn", iters=2), ids=lambda c: c.name
)
def test_sinkhorn_keeps_the_laws_of_a_tokenizer(check_: Any) -> None:
    check_()


@pytest.mark.parametrize(
    "check_",
    tokenizer_checks(Tokenizer, solver="flow", iters=1, levels=2, codebook_size=4),
    ids=lambda c: c.name,
)
def test_flow_keeps_the_laws_of_a_tokenizer(check_: Any) -> None:
    check_()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_optimum_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x, centers = rows(3000), rows(12, seed=1)
    here = check(x, centers, 250, 250).cost
    for held in (balanced.HELD, 12 * 400):
        monkeypatch.setattr(balanced, "HELD", held)
        assert check(x, centers, 250, 250, device="cuda").cost == pytest.approx(here, rel=1e-9)


def test_a_level_with_next_to_nothing_left_over_is_fitted_too() -> None:
    x = rows(300, 16)  # nearly every row is a codeword of its own: what is left over is zero, or rounding
    t = registry.find("tokenizer", "rq-kmeans-balanced")(codebook_size=256)
    codes = t.fit_encode(x)
    assert all(np.bincount(level, minlength=256).max() <= 2 for level in codes.T)
