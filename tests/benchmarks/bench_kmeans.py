"""Fitting residual k-means beside its peers: `python tests/benchmarks/bench_kmeans.py [--big]`.

Every side gets the same rows, iterations (25), starts (1) and threads; Lloyd's iterations see all rows.
Sides alternate within a round; medians over the rounds are printed as a Markdown table. Peak memory is that
of a process of its own above what it had before the rows were loaded (Linux), in sizes of the data.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
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


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(file: str, side: str) -> float:
    """The peak of one fit above the interpreter, its input included; for a process of its own."""
    fit = FITS[side]
    fit(mixture(2000, 8), 1)
    before = resident("VmRSS")
    x = np.load(file)
    fit(x, 3)
    return float((resident("VmHWM") - before) / x.nbytes)


def bench_memory(n: int, d: int, sides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "x.npy")
        np.save(file, mixture(n, d))
        for side in sides:
            command = [sys.executable, __file__, "--peak", file, side]
            took = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"| {n:,} x {d} | {side} | {float(took):.2f} |", flush=True)


FITS: dict[str, Fit] = {
    "ours": ours,
    "faiss.Kmeans per level": faiss_per_level,
    "scikit-learn KMeans per level": sklearn_per_level,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--big", action="store_true", help="200,000 rows too (minutes)")
    parser.add_argument("--no-sklearn", action="store_true", help="leave out the slowest side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dims", type=int, nargs="+", default=[32, 768])
    parser.add_argument(
        "--peak", nargs=2, metavar=("FILE", "SIDE"), help="one side's peak memory, and no more"
    )
    args = parser.parse_args()
    if args.peak:
        print(peak(*args.peak))
        return
    quick = ["ours", "faiss.Kmeans per level"]
    names = quick if args.no_sklearn else list(FITS)
    extra: dict[str, Fit] = {}
    try:
        extra["MiniOneRec (faiss ResidualQuantizer, its own settings)"] = minionerec()
    except peers.MissingPeerError as e:
        print(f"skipped: {e}\n")
    for name in names:
        FITS[name](mixture(2000, 8), 1)  # imports
    print("| fit, 3 x 256, 25 iterations | side | median | relative MSE | time / ours |")
    print("| --- | --- | ---: | ---: | ---: |")
    for d in args.dims:
        bench_fit(20_000, d, args.rounds, {**{name: FITS[name] for name in names}, **extra})
        if args.big:
            bench_fit(200_000, d, args.rounds, {**{name: FITS[name] for name in quick}, **extra})
    if not Path("/proc/self/status").exists():
        print("\nskipped: peak memory is read from /proc/self/status, which is not there")
        return
    print("\n| peak memory of a fit | side | times the data |")
    print("| --- | --- | ---: |")
    for d in args.dims:
        bench_memory(200_000 if args.big else 20_000, d, quick if args.big else names)


if __name__ == "__main__":
    main()
