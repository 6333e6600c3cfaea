"""k-means++: first centres drawn by squared distance to those already there, each the best of a few tries."""

from __future__ import annotations

import numpy as np
import torch

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats, Index

ROUNDS = 1024  # beyond this many centres, several are drawn a round
SAMPLE = 32  # rows a centre that take part in the seeding (Lloyd's iterations always see all)


def plus_plus(x: Floats, k: int, rng: np.random.Generator) -> Index:
    """The rows of k first centres. Draws them from a sample of 32 rows a centre (8192 at least)."""
    sample = max(SAMPLE * k, 8192)
    rows = rng.choice(len(x), sample, replace=False) if len(x) > sample else np.arange(len(x))
    z = x[rows]
    squares = np.einsum("ij,ij->i", z, z)
    twice = tensor(np.ascontiguousarray(-2.0 * z.T))
    tries = 2 + int(np.log(k))
    picked = [int(rng.integers(len(z)))]
    closest = _distances(z[picked], squares[picked], twice, squares)[0]
    while len(picked) < k:
        drawn = _draw(closest, rng, tries if k <= ROUNDS else min(-(-k // ROUNDS), k - len(picked)))
        if drawn is None:  # fewer distinct rows than centres: any row will do, and some clusters start empty
            picked += [int(i) for i in rng.integers(len(z), size=k - len(picked))]
            break
        to = _distances(z[drawn], squares[drawn], twice, squares)
        np.minimum(to, closest, out=to)
        if k <= ROUNDS:
            best = int(to.sum(axis=1).argmin())
            picked.append(int(drawn[best]))
            closest = to[best]
        else:
            picked += [int(i) for i in drawn]
            closest = to.min(axis=0)
    return np.asarray(rows[picked], dtype=np.int64)


def _distances(to: Floats, to_squares: Floats, twice: torch.Tensor, squares: Floats) -> Floats:
    """Squared distances (centres, rows), never below zero."""
    # torch, not NumPy: its threads are the workers' to set, and small products spread over threads only wait.
    out: Floats = torch.mm(tensor(to), twice).numpy()
    out += squares
    out += to_squares[:, None]
    return np.maximum(out, 0.0, out=out)


def _draw(weight: Floats, rng: np.random.Generator, count: int) -> Index | None:
    """Rows drawn in proportion to a weight; None if all weights are zero."""
    total = np.cumsum(weight, dtype=np.float64)
    if not total[-1] > 0:
        return None
    at = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    return np.unique(np.minimum(at, len(weight) - 1))
