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
    squares = np.einsum("ij,ij->i", z, z)[:, None]
    # One product gives squared distances: (1, |a|^2, a) . (|b|^2, 1, -2b).
    left = tensor(np.concatenate([np.ones_like(squares), squares, z], axis=1))
    right = tensor(np.ascontiguousarray(np.concatenate([squares, np.ones_like(squares), -2.0 * z], axis=1).T))
    tries = 2 + int(np.log(k))
    picked = [int(rng.integers(len(z)))]
    closest = torch.mm(left[picked], right).numpy()[0]
    while len(picked) < k:
        drawn = _draw(closest, rng, tries if k <= ROUNDS else min(-(-k // ROUNDS), k - len(picked)))
        if drawn is None:  # fewer distinct rows than centres: any row will do, and some clusters start empty
            picked += [int(i) for i in rng.integers(len(z), size=k - len(picked))]
            break
        # torch, not NumPy: its threads are the workers' to set, and small products spread over threads wait.
        to = torch.mm(left[tensor(drawn)], right).numpy()
        np.minimum(to, closest, out=to)
        if k <= ROUNDS:
            best = int(to.sum(axis=1).argmin())
            picked.append(int(drawn[best]))
            closest = to[best]
        else:
            picked += [int(i) for i in drawn]
            closest = to.min(axis=0)
    return np.asarray(rows[picked], dtype=np.int64)


def _draw(weight: Floats, rng: np.random.Generator, count: int) -> Index | None:
    """Rows drawn in proportion to a weight; None if all weights are zero."""
    np.maximum(weight, 0.0, out=weight)  # rounding may leave less than nothing
    total = np.cumsum(weight, dtype=np.float64)
    if not total[-1] > 0:
        return None
    at = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    return np.unique(np.minimum(at, len(weight) - 1))
