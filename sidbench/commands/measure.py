"""Measure: every number that a set of SIDs allows without a decoder, and why the others are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidbench import metrics
from sidbench.commands.subject import Subject, moved
from sidbench.metrics import Found
from sidbench.sids import Codes

#: What is printed together, in the order in which people ask.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Use of codes": ("utilization", "perplexity", "gini", "dead_codes", "traffic_gini"),
    "Collisions": (
        "collision_items",
        "collision_distinct",
        "collision_largest",
        "floor_items",
        "collision_items_excess",
        "head_resolution",
        "tail_resolution",
    ),
    "Vectors": (
        "reconstruction_error",
        "prefix_cosine",
        "neighbour_agreement",
        "neighbour_recall",
        "neighbour_precision",
        "stability",
    ),
    "What users do": ("sequence_alignment", "next_item_hit", "next_item_hit_embedding"),
    "Known categories": ("category_recovery",),
    "Search": ("trie_branching", "trie_fanout", "trie_nodes"),
    "Churn": ("churn_seed", "churn_seed_groups", "churn_growth", "churn_growth_groups"),
}


def measure(
    subject: Subject,
    *,
    near: metrics.Neighbours | None = None,
    churn: Callable[[str], None] | None = None,
) -> Found:
    """All numbers that these SIDs allow; `churn` is told of each fit, None fits nothing."""
    codes, sizes, corpus = subject.codes, subject.sizes, subject.corpus
    x = None if corpus is None else corpus.embeddings.view(np.ndarray)
    train = None if subject.split is None else subject.split.train
    out = metrics.intrinsic_metrics(
        codes,
        sizes,
        x=x,
        train=train,
        categories=None if corpus is None else corpus.categories,
        tokenizer=subject.tokenizer,
        near=near,
    )
    if subject.attribute is not None:
        out.missing.pop("category_recovery", None)
        out.take(
            ("category_recovery",), _attributed(codes, subject.attribute), "fewer than two items have it"
        )
    use, by_level = metrics.codebook_metrics(codes, sizes)
    out.take((), (use, by_level), "")
    out.take(("floor_items", "collision_items_excess"), _collisions(codes, x), "needs the items' vectors")
    out.take((), metrics.trie_metrics(metrics.Prefixes(subject.sids.codes)), "")
    out.take(("reconstruction_error",), (_rebuilt(subject, x), {}), _why_not_rebuilt(subject, x))
    hits = metrics.embedding_hit_metrics(x, train) if x is not None and train is not None else {}
    out.take(("next_item_hit_embedding",), (hits, {}), "needs vectors and training sequences")
    churned: tuple[dict[str, float], dict[str, list[float]]] = ({}, {})
    why = _why_not_refitted(subject, x)
    if churn is not None and not why and subject.tokenizer is not None and x is not None:
        warm = subject.split.warm if subject.split is not None else np.arange(len(x))
        known = x if len(warm) == len(x) else x[warm]
        churned = metrics.churn_metrics(subject.tokenizer, known, codes[warm], churn)
    out.take(SECTIONS["Churn"], churned, why or "needs two more fits: --churn")
    return out


def _attributed(
    codes: Codes, attribute: NDArray[np.int32]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """One attribute beside the prefixes of every depth, over the items that have it."""
    known = np.flatnonzero(attribute >= 0)
    if len(known) < 2:
        return {}, {}
    every_depth = np.repeat(attribute[known, None], codes.shape[1], axis=1)
    return metrics.category_metrics(metrics.Prefixes(codes[known]), every_depth)


def _collisions(
    codes: Codes, x: NDArray[np.float32] | None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Shared SIDs and prefixes, beside what the data force; what the test asks for is no business here."""
    floor = {} if x is None else metrics.floor_metrics(x)
    nobody: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    found = floor | metrics.collision_metrics(codes, nobody, floor=floor)
    shown = {k: v for k, v in found.items() if k in SECTIONS["Collisions"]}
    return shown, metrics.prefix_collisions(codes)


def _rebuilt(subject: Subject, x: NDArray[np.float32] | None) -> dict[str, float]:
    tokenizer = subject.tokenizer
    if tokenizer is None or x is None or not tokenizer.supports("reconstruct"):
        return {}
    return metrics.reconstruction_metrics(x, subject.codes, tokenizer.reconstruct)


def _why_not_rebuilt(subject: Subject, x: NDArray[np.float32] | None) -> str:
    if subject.tokenizer is None:
        return "needs the fitted tokenizer"
    if not subject.tokenizer.supports("reconstruct"):
        return f"{subject.tokenizer.name} does not reconstruct embeddings"
    return "needs the items' vectors" if x is None else "all items have the same vector"


def _why_not_refitted(subject: Subject, x: NDArray[np.float32] | None) -> str:
    if subject.tokenizer is None:
        return "needs the fitted tokenizer"
    if subject.tokenizer.supports("codes_of"):
        return f"{subject.tokenizer.name} looks codes up and fits nothing"
    if moved(subject.sids, subject.own):
        return f"the resolver {subject.sids.resolver} moved codes, which no fit gives"
    gone = [
        k for k, v in subject.tokenizer.params().items() if isinstance(v, Path) and v.name and not v.exists()
    ]
    if gone:
        return f"{subject.tokenizer.name}.{gone[0]} is a file that is not here, so it cannot be fitted again"
    return "needs the items' vectors" if x is None else ""
