"""k-means++: first centres drawn by squared distance to those there already, the best of many candidates.

Candidates are drawn for several centres at once, as many for each as scikit-learn draws, and all of them
stand for every centre of the round. One product a round serves them all, and what a chosen centre changes
for the others concerns only the rows that it is now nearest to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.streamed import Residuals
from sidbench.kit.workers import Run

SAMPLE = 1 << 14  # rows that take part in the seeding (or 64 a centre; Lloyd's iterations always see all)
ROUND, POOL = 16, 1 << 23  # centres a round at most, distances held at once
STEP = 1024  # rows of one product

Wide = NDArray[np.float64]


def plus_plus(x: Floats | Residuals, k: int, rng: np.random.Generator, run: Run | None = None) -> Index:
    """The rows of k first centres, drawn from at most 16,384 rows (64 a centre where that is more)."""
    sample = max(SAMPLE, 64 * k)
    rows = rng.choice(len(x), sample, replace=False) if len(x) > sample else np.arange(len(x))
    z = x[rows] if len(x) > sample else x[:]
    n = len(z)
    squares = np.einsum("ij,ij->i", z, z)
    tries = 2 + int(np.log(k))
    centers = int(np.clip(POOL // (n * tries), 1, ROUND))
    held = torch.empty(n, tries * centers)
    # Squared distances less the row's own square, |b|^2 - 2ab; `near` has the least of them so far.
    picked = [int(rng.integers(n))]
    to, _ = _distances(z, picked, squares, None, held, run)
    near = to[:, 0].copy()
    while len(picked) < k:
        # Few at first, when every choice changes most of what the next should be.
        left = min(centers, len(picked), k - len(picked))
        drawn = _draw(near + squares, rng, tries * left)
        if drawn is None:  # fewer distinct rows than centres: any row will do, and some clusters start empty
            picked += [int(i) for i in rng.integers(n, size=k - len(picked))]
            break
        to, sums = _distances(z, drawn, squares, near, held, run)
        for turn in range(left):
            best = int(sums.argmin())
            nearer = np.flatnonzero(to[:, best] < near)
            if turn and not len(nearer):  # the others have taken all that was to gain
                break
            before, others = near[nearer, None], to[nearer]
            now = others[:, [best]]
            sums += (np.minimum(others, now) - np.minimum(others, before)).sum(axis=0, dtype=np.float64)
            sums[best] = np.inf
            near[nearer] = now[:, 0]
            picked.append(int(drawn[best]))
            near[picked[-1]] = -squares[picked[-1]]
    return np.asarray(rows[picked], dtype=np.int64)


def _distances(
    z: Floats,
    to: Sequence[int] | Index,
    squares: Floats,
    near: Floats | None,
    held: torch.Tensor,
    run: Run | None,
) -> tuple[Floats, Wide]:
    """From every row to some rows, in `held`; and each one's sum, were it a centre beside those there."""
    bias, products = tensor(squares[to]), tensor(np.ascontiguousarray(z[to].T))
    out = held.view(-1)[: len(z) * len(to)].view(len(z), len(to))
    sums = np.zeros((-(-len(z) // STEP), len(to)))

    def work(start: int, stop: int) -> None:
        for at in range(start, stop, STEP):
            part = slice(at, min(at + STEP, stop))
            torch.addmm(bias, tensor(z[part]), products, alpha=-2, out=out[part])
            if near is not None:
                sums[at // STEP] = torch.minimum(out[part], tensor(near[part, None])).sum(dim=0).numpy()

    if run:
        run(work, len(z), 4 * STEP)
    else:
        work(0, len(z))
    return out.numpy(), sums.sum(axis=0)


def _draw(weight: Floats, rng: np.random.Generator, count: int) -> Index | None:
    """Rows drawn in proportion to a weight; None if all weights are zero."""
    np.maximum(weight, 0.0, out=weight)  # rounding may leave less than nothing
    total = np.cumsum(weight, dtype=np.float64)
    if not total[-1] > 0:
        return None
    at = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    return np.unique(np.minimum(at, len(weight) - 1))
