"""Intrinsic metrics of a large catalogue: `python tests/benchmarks/bench_metrics.py [--items N] [--dim D]`.

A million items of 128 dimensions on 4 levels of 256 codes, 200,000 users: seconds by family and in all.
Codes are those of rq-kmeans, fitted on a sample.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sidbench import metrics, registry
from sidbench.dataset import Sequences
from sidbench.metrics import behaviour, hits, neighbours, prefixes, stability, truth

LEVELS, K = 4, 256


def world(n: int, d: int, users: int) -> tuple[Any, Any, Any]:
    """Items around centres of centres, sequences that stay near by."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(32, d)).astype(np.float32)
    sorts = kinds[np.arange(1024) // 32] + 0.7 * rng.normal(size=(1024, d)).astype(np.float32)
    sort = np.sort(rng.integers(0, 1024, n))
    x = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, 100_000):
        part = sort[start : start + 100_000]
        x[start : start + 100_000] = sorts[part] + 0.6 * rng.standard_normal((len(part), d), dtype=np.float32)
    lengths = rng.integers(3, 12, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    first = np.repeat(rng.integers(0, n, users), lengths)
    items = (first + (rng.pareto(0.5, len(first)) * 3).astype(np.int64)) % n
    return (
        x,
        Sequences(items.astype(np.int32), offsets),
        np.stack([sort // 32, sort], axis=1).astype(np.int32),
    )


def fitted(x: Any) -> Any:
    """rq-kmeans of a sample: what it is measured on needs no better codebooks."""
    tokenizer = registry.find("tokenizer", "rq-kmeans")(levels=LEVELS, codebook_size=K, iters=4, device="cpu")
    return tokenizer.fit(x[np.random.default_rng(1).choice(len(x), 10_000, replace=False)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--users", type=int, default=200_000)
    given = parser.parse_args()
    x, train, categories = world(given.items, given.dim, given.users)
    tokenizer = fitted(x)
    codes = tokenizer.encode(x)
    sizes = tokenizer.sizes
    tree = metrics.Prefixes(codes)
    near = metrics.nearest_items(x[:1000])
    families: dict[str, Callable[[], Any]] = {
        "codebooks": lambda: metrics.codebook_metrics(codes, sizes),
        "collisions": lambda: metrics.collision_metrics(codes, train.items[:1000]),
        "prefixes": lambda: metrics.Prefixes(codes),
        "trie": lambda: metrics.trie_metrics(tree),
        "prefix cosine": lambda: prefixes.prefix_metrics(x, tree),
        "neighbours, search": lambda: metrics.nearest_items(x),
        "neighbours, agreement": lambda: neighbours.neighbour_metrics(near, tree),
        "alignment": lambda: behaviour.alignment_metrics(tree, train),
        "popularity": lambda: behaviour.popularity_metrics(codes, sizes, tree, train),
        "categories": lambda: truth.category_metrics(tree, categories),
        "hits, rebuilt": lambda: hits.rebuilt_hit_metrics(codes, tree, tokenizer.reconstruct, train),
        "hits, embedding": lambda: hits.embedding_hit_metrics(x, train),
        "stability": lambda: stability.stability_metrics(tokenizer, x),
        "reconstruction": lambda: metrics.reconstruction_metrics(x, codes, tokenizer.reconstruct),
    }
    whole = busy = 0.0
    for name, work in families.items():
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        taken, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        whole, busy = whole + taken, busy + cpu
        print(f"{name:<24}{taken:8.2f} s {cpu:8.2f} s of processor", flush=True)
    size = f"{given.items:,} items x {LEVELS} levels, {given.dim} dimensions"
    print(f"{'all':<24}{whole:8.2f} s {busy:8.2f} s of processor, for {size}")


if __name__ == "__main__":
    main()
