"""Resolvers on a large catalogue: `python tests/benchmarks/bench_resolvers.py [--items N] [NAME ...]`.

Items of 32 dimensions around centres of centres, 2% of them copies, in a mapped file, and the codes of
rq-kmeans (4 x 256, fitted on a sample): of a million items 7% share their SID. Each resolver resolves them
all in a process of its own; with --extend the last tenth then comes to the others, resolved without it.
Seconds are of the wall and of the processor, which differ on a busy machine; memory is what the process has
beside the mapped file at the most, Python and libraries included.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measured import mapped, measured, world

from sidbench import metrics, registry
from sidbench.sids import SIDs

FITTED_ON = 100_000


def prepare(folder: Path, n: int) -> None:
    """The world, a tokenizer fitted on its first rows, and the codes of all."""
    x = world(folder / f"x{n}.npy", n)
    if not (folder / "tokenizer").exists():
        made = registry.find("tokenizer", "rq-kmeans")(device="cpu", levels=4)
        made.fit(np.array(x[:FITTED_ON])).save(folder / "tokenizer")
    if not (folder / f"codes{n}.npy").exists():
        np.save(folder / f"codes{n}.npy", registry.load_tokenizer(folder / "tokenizer", "cpu").encode(x))


def resolving(folder: Path, n: int, name: str, late: int = 0) -> Callable[[], Any]:
    """The work to be measured: all items, or the last ones beside the others."""
    x, codes = mapped(folder / f"x{n}.npy"), np.load(folder / f"codes{n}.npy")
    t = registry.load_tokenizer(folder / "tokenizer", "cpu")
    resolver = registry.find("resolver", name)()
    ids, first = np.arange(n), n - late
    sids = SIDs(codes[:first], t.sizes, ids[:first])
    if not late:
        return lambda: _told(resolver, resolver.resolve(sids, t, x), codes)
    frozen = resolver.resolve(sids, t, x[:first])
    return lambda: _told(resolver, resolver.extend(frozen, codes[first:], ids[first:], t, x[first:]), codes)


def _told(resolver: Any, found: SIDs, codes: Any) -> dict[str, Any]:
    levels = codes.shape[1]
    moved = (found.codes[:, :levels] != codes).any(axis=1)
    return {"moved": float(moved.mean()), **resolver.facts()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--extend", action="store_true")
    parser.add_argument("--folder", type=Path, help="Where the world is kept for the next time.")
    given = parser.parse_args()
    n = given.items
    with tempfile.TemporaryDirectory() as own:
        folder = given.folder or Path(own)
        prepare(folder, n)
        codes = np.load(folder / f"codes{n}.npy")
        before = metrics.collision_metrics(codes, np.zeros(0, dtype=np.int64))
        print({k: round(v, 4) for k, v in before.items()}, flush=True)
        for name in given.names or registry.resolvers():
            for late in [0, n // 10] if given.extend else [0]:
                told, cost = measured(resolving, folder, n, name, late)
                print(
                    f"{name:22s} {'extend ' if late else 'resolve'} {cost.seconds:7.1f} s "
                    f"({cost.processor:6.1f} s of the processor), {cost.memory:5.2f} GB "
                    f"({cost.before:.2f} before), {told}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
