"""Hits: how often what users do next lies near by, in the space that the codes rebuild."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings, Ints, Sequences
from sidbench.metrics.behaviour import steps
from sidbench.metrics.metric import Metric
from sidbench.metrics.neighbours import BLOCK, NEAREST
from sidbench.metrics.prefixes import Prefixes, sample
from sidbench.sids import Codes

#: Steps of training sequences that are looked at; all, where there are fewer.
STEPS = 1000
#: Distances this near, relative to the squares about the middle, are one: what float32 leaves of equal ones.
_EQUAL = 2e-6


def rebuilt_hit_metrics(
    codes: Codes,
    prefixes: Prefixes,
    reconstruct: Callable[[Codes], NDArray[np.float32]],
    train: Sequences,
) -> dict[str, float]:
    """The hit rate in the rebuilt space, where the items of one SID are one place."""
    first = codes[prefixes.order[prefixes.starts[-1]]]

    def rows(at: slice | Ints) -> Embeddings:
        return np.asarray(reconstruct(first[at]), dtype=np.float32)

    rate = _rate(rows, prefixes.sizes[-1], prefixes.group[-1], train)
    return {} if rate is None else {"next_item_hit": rate}


def embedding_hit_metrics(x: Embeddings, train: Sequences) -> dict[str, float]:
    """The hit rate in the space of the embeddings themselves: the same for every tokenizer."""
    rate = _rate(lambda at: x[at], np.ones(len(x), dtype=np.int64), np.arange(len(x)), train)
    return {} if rate is None else {"next_item_hit_embedding": rate}


def _rate(
    rows: Callable[[slice | Ints], Embeddings],
    sizes: NDArray[np.int64],
    place: NDArray[np.int64],
    train: Sequences,
    *,
    nearest: int = NEAREST,
) -> float | None:
    """Chance that the next item is among the nearest of the last, equally near ones in any order."""
    before, after = steps(train)
    chosen = sample(len(before), STEPS)
    if not len(chosen):
        return None
    last, target = place[before[chosen]], place[after[chosen]]
    wanted = rows(target)
    middle = wanted.mean(axis=0)
    asked, wanted = rows(last) - middle, wanted - middle
    square = np.square(asked).sum(axis=1)
    # Distances without the asked row's own square, which orders nothing.
    goal = np.square(wanted).sum(axis=1) - 2 * np.einsum("ij,ij->i", asked, wanted)
    slack = _EQUAL * (square + np.square(wanted).sum(axis=1)) + np.finfo(np.float32).tiny
    low, high = (goal - slack)[:, None], (goal + slack)[:, None]
    nearer, upto = np.zeros(len(chosen)), np.zeros(len(chosen))
    for start in range(0, len(sizes), BLOCK):
        # So many nearer ones, the last item perhaps among them, are a miss whatever comes.
        on = np.flatnonzero(nearer <= nearest)
        block = rows(slice(start, start + BLOCK)) - middle
        far = asked[on] @ (-2 * block.T)
        far += np.square(block).sum(axis=1)
        weight = sizes[start : start + BLOCK]
        nearer[on] += _count(far < low[on], weight)
        upto[on] += _count(far <= high[on], weight)
        # The last item itself is nobody's next.
        here = np.flatnonzero((last[on] >= start) & (last[on] < start + len(block)))
        own, at = far[here, last[on[here]] - start], on[here]
        nearer[at] -= own < low[at, 0]
        upto[at] -= own <= high[at, 0]
    equal = np.maximum(upto - nearer, 1)
    return float((np.clip(nearest - nearer, 0, equal) / equal).mean())


def _count(there: NDArray[np.bool_], weight: NDArray[np.int64]) -> NDArray[np.float64]:
    """Items at the places that are there, row by row."""
    if (weight == 1).all():
        return np.asarray(np.count_nonzero(there, axis=1), dtype=np.float64)
    return np.asarray(there.astype(np.float32) @ weight.astype(np.float32), dtype=np.float64)


_WHAT = (
    f"Chance that the next item of a training sequence is among the {NEAREST} items nearest to the one "
    f"before it (a sample of {STEPS:,} steps, equally near items in random order)"
)

METRICS: tuple[Metric, ...] = (
    Metric(
        name="next_item_hit", label="Next-item hit", source="tokenizer", direction="higher", format=".2%",
        secondary=True,
        legend=f"{_WHAT}, in the space that the codes rebuild; after the hit rate of FORGE (arXiv "
        "2509.20904), with one item for a history. Only for tokenizers that declare `reconstruct`. It does "
        "not show what a decoder makes of the order of codes, nor of longer histories.",
    ),
    Metric(
        name="next_item_hit_embedding", label="Next-item hit, embedding", source="data", direction="none",
        format=".2%", secondary=True,
        legend=f"{_WHAT}, in the space of the embeddings: what the codes could keep. A property of the "
        "data, not of a tokenizer; codes may be above it where what they drop was noise.",
    ),
)  # fmt: skip
