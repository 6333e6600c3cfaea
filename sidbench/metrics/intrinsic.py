"""Intrinsic metrics together: all that can be said of SIDs without a decoder, and why some cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings, Sequences
from sidbench.metrics import behaviour, hits, neighbours, prefixes, stability, trie, truth
from sidbench.metrics.metric import Metric
from sidbench.metrics.neighbours import Neighbours
from sidbench.sids import Codes

if TYPE_CHECKING:
    from sidbench.tokenizer import Tokenizer


@dataclass
class Found:
    """Numbers for the record, the vectors by level behind them, and the reasons for what is not there."""

    values: dict[str, float] = field(default_factory=dict)
    levels: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def take(
        self, names: tuple[str, ...], found: tuple[dict[str, float], dict[str, list[float]]], reason: str
    ) -> None:
        """What a family found; its other names are missing for this reason."""
        self.values.update(found[0])
        self.levels.update(found[1])
        self.missing.update({name: reason for name in names if name not in found[0]})


#: In the order in which people read them.
METRICS: tuple[Metric, ...] = (
    *trie.METRICS,
    *prefixes.METRICS,
    *neighbours.METRICS,
    *behaviour.METRICS,
    *truth.METRICS,
    *hits.METRICS,
    *stability.METRICS,
)
NEIGHBOURS = ("neighbour_recall", "neighbour_precision", "neighbour_agreement")
RESOLUTION = ("head_resolution", "tail_resolution", "traffic_gini")
_NOTHING: tuple[dict[str, float], dict[str, list[float]]] = ({}, {})


def intrinsic_metrics(
    codes: Codes,
    sizes: tuple[int, ...],
    *,
    x: Embeddings | None = None,
    train: Sequences | None = None,
    categories: NDArray[np.int32] | None = None,
    tokenizer: Tokenizer | None = None,
    near: Neighbours | None = None,
) -> Found:
    """Every family whose needs are met. `train` holds training interactions alone; `near` saves a search."""
    out, tree = Found(), prefixes.Prefixes(codes)
    no_x, no_train = "needs the items' vectors", "needs training sequences"
    if x is None:
        out.take(("prefix_cosine", *NEIGHBOURS), _NOTHING, no_x)
    else:
        near = near if near is not None else neighbours.nearest_items(x)
        out.take(("prefix_cosine",), prefixes.prefix_metrics(x, tree), "no two items share a code")
        out.take(NEIGHBOURS, neighbours.neighbour_metrics(near, tree), "needs at least two items")
    if train is None:
        out.take(("sequence_alignment", *RESOLUTION), _NOTHING, no_train)
    else:
        aligned = behaviour.alignment_metrics(tree, train)
        out.take(("sequence_alignment",), aligned, "no training sequence goes from one item to another")
        told = behaviour.popularity_metrics(codes, sizes, tree, train)
        reason = "all items are equally popular" if told[0] else "there are no training interactions"
        out.take(RESOLUTION, told, reason)
    known = truth.category_metrics(tree, categories) if categories is not None else _NOTHING
    out.take(("category_recovery",), known, "no categories are known")
    if tokenizer is None:
        out.take(("next_item_hit", "stability"), _NOTHING, "needs the fitted tokenizer")
        return out
    lacks = f"{tokenizer.name} does not reconstruct embeddings"
    if tokenizer.supports("reconstruct") and train is not None:
        rate = hits.rebuilt_hit_metrics(codes, tree, tokenizer.reconstruct, train)
        out.take(("next_item_hit",), (rate, {}), "no training sequence goes from one item to another")
    else:
        out.take(("next_item_hit",), _NOTHING, no_train if tokenizer.supports("reconstruct") else lacks)
    looked_up = tokenizer.supports("codes_of")
    moved = stability.stability_metrics(tokenizer, x) if x is not None and not looked_up else _NOTHING
    out.take(
        ("stability",), moved, f"{tokenizer.name} looks codes up and encodes nothing" if looked_up else no_x
    )
    return out
