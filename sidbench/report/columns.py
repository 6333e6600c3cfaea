"""Columns: which numbers a board shows, in which part, and at which cut-off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidbench.metrics import METRICS, metric

#: The cut-off of the headline, where it was evaluated; otherwise the largest one.
HEADLINE = 10

#: Stands for every column.
ALL = "all"
#: Every number by where it comes from.
PARTS = {
    "Quality": ("ranking",),
    "SIDs": ("sids", "tokenizer", "data"),
    "Cost": ("decoder", "clock"),
}

#: Recall and NDCG are one number at cut-off 1.
QUALITY = (
    "recall@K",
    "ndcg@M",
    "mrr@H",
    "recall_warm@H",
    "recall_cold@H",
    "ndcg_warm@H",
    "ndcg_cold@H",
    "sid_recall@H",
    "inflation@H",
    "coverage@H",
)
#: Of one cut-off, item level and SID level beside each other.
CUTOFF = (
    "recall",
    "ndcg",
    "mrr",
    "recall_warm",
    "recall_cold",
    "ndcg_warm",
    "ndcg_cold",
    "sid_recall",
    "sid_ndcg",
    "sid_mrr",
    "inflation",
    "coverage",
)
CODES = (
    "sid_bits_added",
    "collision_items",
    "collision_items_excess",
    "collision_items_resolved",
    "collision_distinct",
    "collision_traffic",
    "collision_largest",
    "collision_cold",
    "utilization",
    "perplexity",
    "reconstruction_error",
    "encode_agreement",
)
#: Of the same part, level by level.
LEVELS = ("utilization", "perplexity", "collision_items")
COST = (
    "fit_seconds",
    "encode_items_per_second",
    "peak_memory_mb",
    "resolve_moved",
    "resolve_added_cost",
    "resolve_seconds",
    "resolve_unplaced",
    "decoder_parameters",
    "decoder_tokens_per_item",
    "decoder_tokens_per_target",
    "decoder_sequences_seen",
    "decoder_targets_seen",
    "decoder_budget",
    "decoder_seconds",
    "decoder_sequences_per_second",
    "search_users_per_second",
)


def cutoffs_of(names: Iterable[str]) -> list[int]:
    return sorted(int(name.partition("@")[2]) for name in names if name.startswith("recall@"))


def headline_of(cutoffs: Sequence[int]) -> int:
    return HEADLINE if HEADLINE in cutoffs else cutoffs[-1]


def headline_cutoff(names: Iterable[str]) -> int | None:
    """The cut-off of the headline among some numbers; none where nothing was recommended."""
    found = cutoffs_of(names)
    return headline_of(found) if found else None


def known_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Names as a person gives them for columns: those of metrics, `recall@K` for every cut-off, or all."""
    for name in names:
        if name != ALL and name not in METRICS:
            metric(name)  # says what there is instead
    return tuple(dict.fromkeys(names))
