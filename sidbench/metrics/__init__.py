"""Every number on the board: declared once, with its source, direction, format and legend."""

from __future__ import annotations

from sidbench.errors import unknown
from sidbench.metrics import churn, clock, codebook, collisions, coverage, intrinsic, parts, ranks, size
from sidbench.metrics.churn import churn_metrics
from sidbench.metrics.codebook import codebook_metrics, reconstruction_metrics, usage
from sidbench.metrics.collisions import (
    collision_metrics,
    floor_metrics,
    placing_metrics,
    prefix_collisions,
    resolution_metrics,
)
from sidbench.metrics.coverage import coverage_metrics
from sidbench.metrics.hits import embedding_hit_metrics
from sidbench.metrics.intrinsic import Found, intrinsic_metrics
from sidbench.metrics.metric import ABSENT, Metric
from sidbench.metrics.neighbours import Neighbours, nearest_items
from sidbench.metrics.parts import cold_collisions, cold_metrics, decile_recall
from sidbench.metrics.prefixes import Prefixes
from sidbench.metrics.ranks import Places, places, ranking_metrics
from sidbench.metrics.size import size_metrics
from sidbench.metrics.trie import trie_metrics
from sidbench.metrics.truth import category_metrics

__all__ = [
    "ABSENT",
    "METRICS",
    "Found",
    "Metric",
    "Neighbours",
    "Places",
    "Prefixes",
    "category_metrics",
    "churn_metrics",
    "codebook_metrics",
    "cold_collisions",
    "cold_metrics",
    "collision_metrics",
    "coverage_metrics",
    "decile_recall",
    "embedding_hit_metrics",
    "floor_metrics",
    "intrinsic_metrics",
    "metric",
    "nearest_items",
    "places",
    "placing_metrics",
    "prefix_collisions",
    "ranking_metrics",
    "reconstruction_metrics",
    "resolution_metrics",
    "size_metrics",
    "trie_metrics",
    "usage",
]

#: In the order of the board's columns. Families stand under their name with @K.
METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        *ranks.METRICS,
        *coverage.METRICS,
        *parts.METRICS,
        *size.METRICS[:3],
        *collisions.METRICS,
        *codebook.METRICS,
        *intrinsic.METRICS,
        *churn.METRICS,
        *clock.METRICS,
        *size.METRICS[3:],
    )
}


def metric(name: str) -> Metric:
    """The metric of a name as records use it: `metric("recall@10")`, `metric("fit_seconds")`."""
    family, at, cutoff = name.partition("@")
    if at and cutoff.isdigit() and f"{family}@K" in METRICS:
        return METRICS[f"{family}@K"].at(int(cutoff))
    if name in METRICS:
        return METRICS[name]
    raise unknown("metric", name, METRICS)
