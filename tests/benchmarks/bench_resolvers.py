"""Resolvers on a large catalogue: `python tests/benchmarks/bench_resolvers.py [--items N] [NAME ...]`.

A million items of 32 dimensions around centres of centres, 2% of them duplicates, and the codes of rq-kmeans
(3 x 256, fitted on a sample): about a third of the items share their SID. Each resolver resolves them all;
then the last tenth comes to the others, resolved without it. Seconds are of the wall and of the processor,
which differ on a busy machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sidbench import metrics, registry
from sidbench.sids import SIDs


def world(n: int, d: int = 32) -> Any:
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(300, d))
    sorts = 1.5 * kinds[rng.integers(300, size=6000)] + 0.5 * rng.normal(size=(6000, d))
    x = (sorts[rng.integers(6000, size=n)] + 0.7 * rng.normal(size=(n, d))).astype(np.float32)
    x[rng.integers(n, size=n // 50)] = x[rng.integers(n, size=n // 50)]
    return x


def took(work: Callable[[], SIDs]) -> tuple[SIDs, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--items", type=int, default=1_000_000)
    given = parser.parse_args()
    x, n = world(given.items), given.items
    t = registry.find("tokenizer", "rq-kmeans")(device="cpu").fit(x[: min(n, 60_000)])
    codes = t.encode(x)
    sids = SIDs(codes, t.sizes, np.arange(n))
    before = metrics.collision_metrics(codes, np.zeros(0, dtype=np.int64))
    print({k: round(v, 4) for k, v in before.items()})
    known = n - n // 10
    late = (codes[known:], sids.item_ids[known:], t, x[known:])
    for name in given.names or registry.resolvers():
        resolver = registry.find("resolver", name)()
        done, wall, cpu = took(partial(resolver.resolve, sids, t, x))
        print(
            f"{name:22s} resolve {wall:7.1f} s ({cpu:6.1f} s of the processor), {n / wall:10,.0f} items/s, "
            f"moved {(done.codes[:, :3] != codes).any(axis=1).mean():.2%} {resolver.facts()}",
            flush=True,
        )
        few = sids.replace(codes=codes[:known], item_ids=sids.item_ids[:known])
        frozen = resolver.resolve(few, t, x[:known])
        _, wall, cpu = took(partial(resolver.extend, frozen, *late))
        print(
            f"{'':22s} extend  {wall:7.1f} s ({cpu:6.1f} s of the processor), {len(late[0]) / wall:10,.0f} "
            "items/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
