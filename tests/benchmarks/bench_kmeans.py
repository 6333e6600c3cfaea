"""Residual k-means and encode beside their peers: `python tests/benchmarks/bench_kmeans.py [--big]`.

Every side gets the same rows, iterations (25), starts (1) and threads; Lloyd's iterations see all rows.
Sides alternate within a round; medians over the rounds are printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# One core's product must not wait actively for another's: pools of torch, faiss and OpenBLAS share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a bare checkout

import numpy as np
import peers
from numpy.typing import NDArray

from sidbench import registry
from sidbench.kit import residual

Floats = NDArray[np.float32]
Fit = Callable[[Floats, int], list[Floats]]
K, ITERS = 256, 25


def mixture(n: int, d: int, seed: int = 0) -> Floats:
    """A hierarchical mixture of 2,000 leaves with a decaying spectrum, as text embeddings have."""
    rng = np.random.default_rng(seed)
    scale = (1.0 + np.arange(d)) ** -0.5
    top = rng.normal(size=(40, d)) * scale
    leaves = top[rng.integers(40, size=2000)] + 0.6 * rng.normal(size=(2000, d)) * scale
    x = np.empty((n, d), dtype=np.float32)
    for at in range(0, n, 20_000):
        m = min(20_000, n - at)
        x[at : at + m] = leaves[rng.integers(2000, size=m)] + 0.25 * rng.normal(size=(m, d)) * scale
    return x


def ours(x: Floats, levels: int) -> list[Floats]:
    fitted: Any = registry.find("tokenizer", "rq-kmeans")(levels=levels, codebook_size=K, iters=ITERS).fit(x)
    return list(fitted.codebooks_)


def faiss_per_level(x: Floats, levels: int) -> list[Floats]:
    import faiss

    left, books = x.copy(), []
    for level in range(levels):
        m: Any = faiss.Kmeans(
            x.shape[1], K, niter=ITERS, seed=level, min_points_per_centroid=1, max_points_per_centroid=len(x)
        )
        m.train(left)
        left -= m.centroids[m.index.search(left, 1)[1][:, 0]]
        books.append(m.centroids.copy())
    return books


def sklearn_per_level(x: Floats, levels: int) -> list[Floats]:
    from sklearn.cluster import KMeans

    left, books = x.copy(), []
    for level in range(levels):
        m = KMeans(K, n_init=1, max_iter=ITERS, tol=0, random_state=level).fit(left)
        left -= m.cluster_centers_[m.labels_]
        books.append(m.cluster_centers_.astype(np.float32))
    return books


def minionerec() -> Fit:
    """MiniOneRec's residual quantizer, from its clone below SIDBENCH_PEERS."""
    peer = peers.load("MiniOneRec", "rq/rqkmeans_faiss.py")

    def fit(x: Floats, levels: int) -> list[Floats]:
        return list(peer.get_rq_codebooks(peer.train_faiss_rq(x, levels, K, verbose=False)))

    return fit


def faiss_encode(x: Floats, books: list[Floats]) -> Any:
    import faiss

    left, codes = x.copy(), []
    for book in books:
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(book)
        codes.append(index.search(left, 1)[1][:, 0])
        left -= book[codes[-1]]
    return np.stack(codes, axis=1)


def relative_error(x: Floats, books: list[Floats]) -> float:
    y = residual.reconstruct(residual.encode(x, books), books)
    return float(
        np.square(x - y, dtype=np.float64).sum() / np.square(x - x.mean(axis=0), dtype=np.float64).sum()
    )


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def bench_fit(n: int, d: int, rounds: int, sides: dict[str, Fit]) -> None:
    x = mixture(n, d)
    times: dict[str, list[float]] = {name: [] for name in sides}
    errors: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, fit in sides.items():
            took, books = seconds(partial(fit, x, 3))
            times[name].append(took)
            errors[name].append(relative_error(x, books))
    for name in sides:
        # The median of pairs taken side by side, not the ratio of medians: the machine may be shared.
        ratio = median(t / o for t, o in zip(times[name], times["ours"], strict=True))
        took, error = median(times[name]), median(errors[name])
        print(f"| {n:,} x {d} | {name} | {took:.2f} s | {error:.4f} | {ratio:.2f} |", flush=True)


def bench_encode(n: int, d: int, rounds: int) -> None:
    import torch

    x = mixture(n, d)
    books = ours(x[:20_000], 4)
    product = torch.from_numpy(books[0].T.copy())
    rows = torch.from_numpy(x)

    def gemm() -> None:
        out = torch.empty(min(n, 4096), K)
        for _ in books:
            for at in range(0, n, 4096):
                torch.mm(rows[at : at + 4096], product, out=out[: len(rows[at : at + 4096])])

    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: residual.encode(x, books),
        "faiss flat per level": lambda: faiss_encode(x, books),
        "matrix products alone": gemm,
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in list(calls) * (rounds + 1):
        times[name].append(seconds(calls[name])[0])
    for name, t in times.items():
        t = t[1:]  # the first is a warm-up
        ratio = median(a / b for a, b in zip(t, times["ours"][1:], strict=True))
        print(f"| {n:,} x {d} | {name} | {n / median(t):,.0f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--big", action="store_true", help="200,000 rows too (minutes)")
    parser.add_argument("--no-sklearn", action="store_true", help="leave out the slowest side")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sides: dict[str, Fit] = {"ours": ours, "faiss.Kmeans per level": faiss_per_level}
    slow: dict[str, Fit] = {} if args.no_sklearn else {"scikit-learn KMeans per level": sklearn_per_level}
    try:
        sides["MiniOneRec (faiss ResidualQuantizer, its own settings)"] = minionerec()
    except peers.MissingPeerError as e:
        print(f"skipped: {e}\n")
    ours(mixture(2000, 8), 1)  # imports
    faiss_per_level(mixture(2000, 8), 1)
    print("| fit, 3 x 256, 25 iterations | side | median | relative MSE | time / ours |")
    print("| --- | --- | ---: | ---: | ---: |")
    for d in (32, 768):
        bench_fit(20_000, d, args.rounds, {**sides, **slow})
        if args.big:
            bench_fit(200_000, d, args.rounds, sides)
    print("\n| encode, 4 x 256 | side | items/s | time / ours |")
    print("| --- | --- | ---: | ---: |")
    bench_encode(20_000, 768, args.rounds)
    bench_encode(200_000, 32, args.rounds)


if __name__ == "__main__":
    main()
