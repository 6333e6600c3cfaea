"""Churn: how many items change their SID when the tokenizer is fitted anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.metrics.metric import Metric
from sidbench.metrics.prefixes import Prefixes, sample
from sidbench.sids import Codes

if TYPE_CHECKING:
    from sidbench.tokenizer import Tokenizer

#: The catalogue is so many times as large as the one before.
GROWTH = 1.1

Report = Callable[[str], None]


def churn_metrics(
    tokenizer: Tokenizer, x: Embeddings, codes: Codes, say: Report = lambda what: None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Two fits beside the codes at hand: with another seed, and on the catalogue before a tenth joined it."""
    say("fitting with another seed")
    again = tokenizer.replace(seed=(tokenizer.seed + 1) % 2**32).fit_encode(x)
    scalars, levels = _changes("seed", codes, again)
    warm = sample(len(x), int(len(x) / GROWTH))
    say(f"fitting on {len(warm):,} of {len(x):,} items")
    smaller = tokenizer.replace().fit_encode(x[warm])
    more, by_level = _changes("growth", codes[warm], smaller)
    return scalars | more, levels | by_level


def _changes(what: str, a: Codes, b: Codes) -> tuple[dict[str, float], dict[str, list[float]]]:
    apart = pairs_apart(Prefixes(a), Prefixes(b))
    return (
        {f"churn_{what}": float((a != b).any(axis=1).mean()), f"churn_{what}_groups": float(np.mean(apart))},
        {f"churn_{what}": (a != b).mean(axis=0).tolist(), f"churn_{what}_groups": apart},
    )


def pairs_apart(a: Prefixes, b: Prefixes) -> list[float]:
    """Depth by depth: of the pairs that share a prefix in either, the share that does not in both."""
    out = []
    for one, other in zip(a.group, b.group, strict=True):
        both = np.unique(one * (int(other.max()) + 1) + other, return_counts=True)[1]
        together = _pairs(both)
        either = _pairs(np.bincount(one)) + _pairs(np.bincount(other)) - together
        out.append(1 - together / either if either else 0.0)
    return out


def _pairs(counts: NDArray[np.int64]) -> float:
    return float((counts.astype(np.float64) * (counts - 1) / 2).sum())


def _pair(what: str, label: str, when: str) -> tuple[Metric, ...]:
    return (
        Metric(
            name=f"churn_{what}", label=f"Churn, {label}", source="tokenizer", direction="lower",
            format=".1%", secondary=True,
            legend=f"Share of items whose SID reads otherwise {when}: what a decoder would have to learn "
            "anew. Codes are names: a method that finds the same groups under other numbers scores 100%.",
        ),
        Metric(
            name=f"churn_{what}_groups", label=f"Churn of groups, {label}", source="tokenizer",
            direction="lower", format=".1%", secondary=True,
            legend=f"Of the pairs of items that share a prefix before or after, the share that does not "
            f"share it in both, {when}; mean over depths, whatever codes are called. 0 where nobody shares "
            "anything, which is no achievement.",
        ),
    )  # fmt: skip


METRICS: tuple[Metric, ...] = (
    *_pair("seed", "seed", "after a fit with another seed"),
    *_pair("growth", "growth", "after a tenth more items joined the catalogue and all was fitted anew"),
)
