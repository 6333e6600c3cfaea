"""Balanced k-means beside k-means-constrained: `python tests/benchmarks/bench_balanced.py --rows 20000`.

One level of 256 codes on 32 dimensions; sizes n//256 to n//256 + 1 for both sides. `fit`: k-means-constrained
as it comes (tol 1e-4, at most 300 iterations), against ours to the end; `assign`: one assignment, against a
min-cost flow on squared costs; `level`: ours alone, where no flow can go. Squared errors are those of
the labels with their own means, for both sides.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a bare checkout

import numpy as np
from numpy.typing import NDArray

from sidbench.kit.balanced import balanced_assign, balanced_kmeans

Floats = NDArray[np.float32]
K, COLUMNS = 256, 32


def mixture(n: int, d: int, seed: int = 0) -> Floats:
    """A hierarchical mixture of 2,000 leaves with a decaying spectrum, as text embeddings have; centred."""
    rng = np.random.default_rng(seed)
    scale = (1.0 + np.arange(d)) ** -0.5
    top = rng.normal(size=(40, d)) * scale
    leaves = top[rng.integers(40, size=2000)] + 0.6 * rng.normal(size=(2000, d)) * scale
    x = leaves[rng.integers(2000, size=n)] + 0.25 * rng.normal(size=(n, d)) * scale
    return np.asarray(x - x.mean(axis=0), dtype=np.float32)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def error(x: Floats, labels: NDArray[np.int64]) -> float:
    """The sum of squared distances to the means of these labels, sizes being what was asked for."""
    sizes = np.bincount(labels, minlength=K)
    assert sizes.min() >= len(x) // K
    assert sizes.max() <= len(x) // K + 1
    sums = np.stack([np.bincount(labels, column, K) for column in x.T.astype(np.float64)], axis=1)
    return float(np.square(x - sums[labels] / sizes[labels, None]).sum())


def row(what: str, side: str, took: float, value: float, note: str = "") -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {what} | {side} | {took:.2f} s | {value:.2f} | {note} | {peak:.1f} GB |", flush=True)


def bench_fit(n: int, starts: int) -> None:
    from k_means_constrained import KMeansConstrained

    x, lo, hi = mixture(n, COLUMNS), n // K, n // K + 1
    took, ours = seconds(lambda: balanced_kmeans(x, K, lo, hi, iters=100, starts=starts))
    row(f"fit, {n:,}, starts {starts}", "ours", took, error(x, ours.labels), f"gap {ours.assignment.gap:.0e}")
    # Rescaled, so that its rounding to 1/1000 does no harm.
    peer = KMeansConstrained(K, size_min=lo, size_max=hi, n_init=starts, random_state=0)
    slow, theirs = seconds(lambda: peer.fit(1000 * x))
    row(
        f"fit, {n:,}, starts {starts}",
        "k-means-constrained",
        slow,
        error(x, theirs.labels_.astype(np.int64)),
        f"{slow / took:.1f} times ours, {theirs.n_iter_} iterations",
    )


def flow(costs: NDArray[np.float64], lo: int, hi: int) -> NDArray[np.int64]:
    """The labels of a min-cost flow on costs scaled to integers."""
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    n, k = costs.shape
    solver = SimpleMinCostFlow()
    at, code = np.divmod(np.arange(n * k), k)
    whole = np.rint(costs * (2.0**40 / costs.max() / n)).astype(np.int64).ravel()
    arcs = solver.add_arcs_with_capacity_and_unit_cost(at, n + code, np.ones(n * k, np.int64), whole)
    codes, none = n + np.arange(k), np.zeros(k, np.int64)
    solver.add_arcs_with_capacity_and_unit_cost(codes, np.full(k, n + k), np.full(k, hi - lo), none)
    supplies = np.concatenate([np.ones(n), np.full(k, -lo), [lo * k - n]]).astype(np.int64)
    solver.set_nodes_supplies(np.arange(n + k + 1), supplies)
    if solver.solve() != solver.OPTIMAL:
        raise SystemExit("the flow has no solution")
    return np.asarray(np.flatnonzero(solver.flows(arcs)) % k)


def bench_assign(n: int) -> None:
    x, lo, hi = mixture(n, COLUMNS), n // K, n // K + 1
    centers = x[np.random.default_rng(0).choice(n, K, replace=False)]
    took, ours = seconds(lambda: balanced_assign(x, centers, lo, hi))
    row(f"assign, {n:,}", "ours", took, ours.cost, f"gap {ours.gap:.0e}")
    if n <= 20_000:
        costs = np.square(x[:, None, :].astype(np.float64) - centers).sum(axis=2)
        slow, labels = seconds(lambda: flow(costs, lo, hi))
        cost = float(costs[np.arange(n), labels].sum())
        above = ours.cost / cost - 1
        row(f"assign, {n:,}", "min-cost flow", slow, cost, f"{slow / took:.1f} times ours; ours {above:+.0e}")


def bench_level(n: int) -> None:
    x = mixture(n, COLUMNS)
    took, ours = seconds(lambda: balanced_kmeans(x, K, n // K, n // K + 1))
    row(f"level, {n:,}", "ours", took, error(x, ours.labels), f"gap {ours.assignment.gap:.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", choices=("fit", "assign", "level"), default="fit")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--starts", type=int, default=1)
    args = parser.parse_args()
    balanced_kmeans(mixture(2000, COLUMNS), K, 7, 8, iters=2)  # imports
    print("| what | side | time | squared error | | peak so far |\n| --- | --- | ---: | ---: | --- | ---: |")
    if args.what == "fit":
        bench_fit(args.rows, args.starts)
    elif args.what == "assign":
        bench_assign(args.rows)
    else:
        bench_level(args.rows)


if __name__ == "__main__":
    main()
