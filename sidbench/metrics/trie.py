"""Trie: what the tree of SIDs costs whoever searches it."""

from __future__ import annotations

import numpy as np

from sidbench.metrics.metric import Metric
from sidbench.metrics.prefixes import Prefixes


def trie_metrics(prefixes: Prefixes) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Fan-out by level: over nodes, and as an item meets it on the way down."""
    nodes = [1, *(len(sizes) for sizes in prefixes.sizes)]
    met = []
    parent = np.zeros(len(prefixes), dtype=np.int64)
    for depth in range(prefixes.levels):
        # A child knows its parent by any of its items: the first in order.
        children = np.bincount(parent[prefixes.order[prefixes.starts[depth]]], minlength=nodes[depth])
        met.append(float(children[parent].mean()))
        parent = prefixes.group[depth]
    levels = {
        "trie_fanout": [nodes[d + 1] / nodes[d] for d in range(prefixes.levels)],
        "trie_branching": met,
    }
    scalars = {"trie_branching": float(sum(met)), "trie_nodes": sum(nodes[1:]) / len(prefixes)}
    return scalars, levels


METRICS: tuple[Metric, ...] = (
    Metric(
        name="trie_branching", label="Branching", source="sids", direction="lower", format=",.1f",
        secondary=True,
        legend="Codes that a search meets on the way to an item: the children of every node on its path, "
        "summed over levels, mean over items, on the SIDs that the decoder learns (resolver included). A "
        "beam of B multiplies it. Does not show seconds, and little to choose from is no good choice.",
    ),
    Metric(
        name="trie_fanout", label="Fan-out", source="sids", direction="none", format=",.1f",
        secondary=True,
        legend="By level: nodes of the tree of SIDs over nodes of the level above. A mean over nodes: most "
        "items may lie below a few nodes of far more children, which Branching shows.",
    ),
    Metric(
        name="trie_nodes", label="Nodes an item", source="sids", direction="lower", format=".2f",
        secondary=True,
        legend="Nodes of the tree of SIDs over items: the memory that a constrained search needs. Does not "
        "show how they lie.",
    ),
)  # fmt: skip
