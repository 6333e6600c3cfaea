"""Behaviour: whether SIDs follow what users do, by the interactions that train and no others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Ints, Sequences
from sidbench.metrics.codebook import gini
from sidbench.metrics.metric import Metric
from sidbench.metrics.prefixes import Prefixes
from sidbench.sids import Codes

Found = tuple[dict[str, float], dict[str, list[float]]]


def steps(sequences: Sequences) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Every item with the one right after it in the same sequence; a repeat of itself is no step."""
    at = np.ones(len(sequences.items), dtype=bool)
    at[(sequences.offsets[1:] - 1)[sequences.lengths > 0]] = False
    here = np.flatnonzero(at)
    before, after = sequences.items[here], sequences.items[here + 1]
    moved = before != after
    return before[moved], after[moved]


def alignment_metrics(prefixes: Prefixes, train: Sequences) -> Found:
    """Steps inside a prefix beyond what the popularity of its items gives by itself."""
    before, after = steps(train)
    if not len(before):
        return {}, {}
    itself = _meet(before, after, len(prefixes))
    aligned = []
    for group in prefixes.group:
        a, b = group[before], group[after]
        stayed = float((a == b).mean())
        # Two independent draws of other items; the same item twice is no step.
        chance = (_meet(a, b, int(group.max()) + 1) - itself) / (1 - itself) if itself < 1 else 1.0
        aligned.append((stayed - chance) / (1 - chance) if chance < 1 - 1e-12 else 0.0)
    return {"sequence_alignment": float(np.mean(aligned))}, {"sequence_alignment": aligned}


def _meet(a: Ints, b: Ints, count: int) -> float:
    """The chance that independent draws from two lists of numbers are equal."""
    return float(np.bincount(a, minlength=count) / len(a) @ (np.bincount(b, minlength=count) / len(b)))


def popularity_metrics(codes: Codes, sizes: tuple[int, ...], prefixes: Prefixes, train: Sequences) -> Found:
    """How the catalogue's head and tail share the codes."""
    counts = np.bincount(train.items, minlength=len(codes))
    if not counts.any():
        return {}, {}
    told_apart = 1 / prefixes.shared()
    head = popular(counts)
    scalars = {"head_resolution": float(told_apart[head].mean())}
    if not head.all():
        scalars["tail_resolution"] = float(told_apart[~head].mean())
    uneven = [
        gini(np.bincount(column[column >= 0], weights=counts[column >= 0], minlength=size))
        for column, size in zip(codes.T, sizes, strict=True)
    ]
    scalars["traffic_gini"] = float(np.mean(uneven))
    return scalars, {"traffic_gini": uneven}


def popular(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The fewest most popular items that have half of all interactions; equally popular ones together."""
    ordered = np.sort(counts)[::-1]
    last = int(np.searchsorted(np.cumsum(ordered), counts.sum() / 2))
    return np.asarray(counts >= max(1, ordered[last]))


METRICS: tuple[Metric, ...] = (
    Metric(
        name="sequence_alignment", label="Sequence alignment", source="sids", direction="higher",
        format=".1%", secondary=True,
        legend="How far prefixes follow what users do: the share of steps in training sequences that stay "
        "inside a prefix, above what independent draws of equally popular items give, over what there is "
        "above it; mean over depths, 0 is chance and 1 is all steps. It does not show whether the next item "
        "can be named inside the prefix; one SID for all items scores 0, as does a SID for each.",
    ),
    Metric(
        name="head_resolution", label="Resolution, head", source="sids", direction="higher", format=".1%",
        secondary=True,
        legend="Mean of 1 / items on the SID over the most popular items that have half of the training "
        "interactions: the chance of naming such an item once its SID is known, before the resolver. Unique "
        "SIDs of any kind reach 1, random ones too.",
    ),
    Metric(
        name="tail_resolution", label="Resolution, tail", source="sids", direction="higher", format=".1%",
        secondary=True,
        legend="The same over all other items. Far from the head's, codes are not given out fairly; it does "
        "not show whether tail items are ever found.",
    ),
    Metric(
        name="traffic_gini", label="Traffic Gini", source="sids", direction="none", format=".3f",
        secondary=True,
        legend="Gini coefficient of training interactions over the codes of a level, mean over levels: 0 "
        "where a decoder sees every code equally often. Popular items make it high whatever the codes are, "
        "so compare it on one dataset; even traffic is no quality by itself, random codes have it.",
    ),
)  # fmt: skip
