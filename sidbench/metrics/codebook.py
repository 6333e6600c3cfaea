"""Codebooks: how much of each level is used, how evenly, and how much of the embedding the codes keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.metrics.metric import Metric
from sidbench.sids import Codes


def utilization(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: codes that some item has / size of the level."""
    return [
        float(np.count_nonzero(_counts(codes[:, level], size)) / size) for level, size in enumerate(sizes)
    ]


def perplexity(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: exp of the entropy of the code frequencies, an effective number of codes."""
    out = []
    for level, size in enumerate(sizes):
        counts = _counts(codes[:, level], size)
        p = counts[counts > 0] / max(1, counts.sum())
        out.append(float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0)
    return out


def gini(counts: NDArray[Any]) -> float:
    """How unevenly a whole is shared out: 0 evenly, (K - 1) / K where one of K has it all."""
    total, k = float(counts.sum()), len(counts)
    if not total:
        return 0.0
    rank = np.arange(1, k + 1)
    return max(0.0, float(2 * (rank @ np.sort(counts)) / (k * total) - (k + 1) / k))


def usage(codes: Codes, sizes: tuple[int, ...]) -> dict[str, NDArray[np.int32]]:
    """Per level, counted from 1: items on each code, the fullest first. Kept beside the record."""
    return {
        f"usage_{level}": np.sort(_counts(codes[:, level - 1], size)).astype(np.int32)[::-1]
        for level, size in enumerate(sizes, 1)
    }


def codebook_metrics(codes: Codes, sizes: tuple[int, ...]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scalars for the board and the per-level vectors behind them. Ends of short SIDs (-1) do not count."""
    counts = [_counts(column, size) for column, size in zip(codes.T, sizes, strict=True)]
    levels = {
        "utilization": utilization(codes, sizes),
        "perplexity": perplexity(codes, sizes),
        "gini": [gini(c) for c in counts],
        "dead_codes": [float((c == 0).sum()) for c in counts],
    }
    scalars = {
        "utilization": float(np.mean(levels["utilization"])),
        "utilization_min": float(min(levels["utilization"])),
        "perplexity": float(np.mean(levels["perplexity"])),
        "perplexity_min": float(min(levels["perplexity"])),
        "gini": float(np.mean(levels["gini"])),
        "dead_codes": float(sum(levels["dead_codes"])),
    }
    return scalars, levels


def reconstruction_metrics(
    x: Embeddings, codes: Codes, reconstruct: Callable[[Codes], NDArray[np.float32]], *, chunk: int = 65_536
) -> dict[str, float]:
    """The relative error, read and rebuilt in chunks. Empty where all embeddings are equal: 0 / 0."""
    pieces = [slice(s, s + chunk) for s in range(0, len(x), chunk)]
    total = np.zeros(x.shape[1])
    for p in pieces:
        total += x[p].sum(axis=0, dtype=np.float64)
    mean = total / len(x)
    lost = spread = 0.0
    for p in pieces:
        rows = x[p].astype(np.float64)
        lost += float(np.square(rows - reconstruct(codes[p])).sum())
        spread += float(np.square(rows - mean).sum())
    # Equal rows leave only the rounding of their mean.
    negligible = 1e-24 * len(x) * float(np.square(mean).sum())
    return {"reconstruction_error": lost / spread} if spread > negligible else {}


def _counts(column: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    return np.bincount(column[column >= 0], minlength=size)


METRICS: tuple[Metric, ...] = (
    Metric(
        name="utilization", label="Utilization", source="sids", direction="higher", format=".1%",
        secondary=True,
        legend="Codes that some item has / codes there are, mean over the tokenizer's levels. Full use says "
        "nothing about quality, random codes reach it; a low value does say that capacity is wasted.",
    ),
    Metric(
        name="utilization_min", label="Utilization, worst level", source="sids", direction="higher",
        format=".1%", secondary=True,
        legend="The same share at the level that uses least of its codes.",
    ),
    Metric(
        name="perplexity", label="Perplexity", source="sids", direction="higher", format=",.1f",
        secondary=True,
        legend="exp(−Σ p ln p) of the code frequencies over items: the codes in effective use, mean over the "
        "tokenizer's levels (so it grows with the size of the levels). Even use is not good use: "
        "random codes come near the maximum.",
    ),
    Metric(
        name="perplexity_min", label="Perplexity, worst level", source="sids", direction="higher",
        format=",.1f", secondary=True,
        legend="The same at the level that is used least evenly.",
    ),
    Metric(
        name="gini", label="Gini", source="sids", direction="lower", format=".3f", secondary=True,
        legend="Gini coefficient of the items over the codes of a level, mean over the tokenizer's levels: 0 "
        "where all codes hold equally many, near 1 where few hold all. Even use is not good use: random "
        "codes come near 0, and catalogues are uneven by themselves.",
    ),
    Metric(
        name="dead_codes", label="Dead codes", source="sids", direction="lower", format=",.0f",
        secondary=True,
        legend="Codes that no item has, summed over the tokenizer's levels: capacity paid for and "
        "not used. It says nothing about the codes that are used, and larger codebooks have more of them.",
    ),
    Metric(
        name="reconstruction_error", label="Reconstruction error", source="tokenizer", direction="lower",
        legend="Σ|x − x̂|² / Σ|x − mean(x)|² over all items: 0 is perfect, 1 is no better than always the "
        "mean. Only for tokenizers that declare `reconstruct`, on the codes before the resolver. A small "
        "error does not promise good recommendations.",
    ),
    Metric(
        name="encode_agreement", label="Encode agreement", source="tokenizer", direction="higher",
        format=".1%", secondary=True,
        legend="Share of items to which `encode` gives the codes that fitting gave them. Below 100% for "
        "methods that place the catalogue jointly (balanced ones): how differently new items are "
        "treated, no error.",
    ),
)  # fmt: skip
