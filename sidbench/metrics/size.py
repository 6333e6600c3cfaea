"""Size: how long SIDs are, and how large the decoder that learned them: read from what a record says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sidbench.metrics.metric import Metric


def size_metrics(facts: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, float]:
    """The sizes of a record: from its facts, and from its decoder's parameters (a reference's own).

    A reference that trains says the same of itself.
    """
    out: dict[str, float] = {}
    own, final = facts.get("sizes"), facts.get("sid_sizes")
    if own:
        out |= {"sid_length": float(len(own)), "sid_bits": _bits(own)}
        if final:
            out["sid_bits_added"] = _bits(final) - _bits(own)
    # A tokenizer's own facts are not its decoder's.
    trained = facts.get("decoder", {} if own else facts)
    for name in ("parameters", "tokens_per_item", "tokens_per_target", "sequences_seen", "targets_seen"):
        if isinstance(found := trained.get(name), (int, float)):
            out[f"decoder_{name}"] = float(found)
    if isinstance(budget := params.get("budget"), (int, float)) and budget > 0:
        out["decoder_budget"] = float(budget)
    return out


def _bits(sizes: list[int]) -> float:
    return sum(math.log2(size) for size in sizes)


METRICS: tuple[Metric, ...] = (
    Metric(
        name="sid_length", label="Levels", source="sids", direction="none", format=".0f", secondary=True,
        legend="Codes that the tokenizer gives an item; a level that the resolver adds is apart. Does not "
        "show how many tokens the decoder reads or writes for it.",
    ),
    Metric(
        name="sid_bits", label="Bits", source="sids", direction="none", format=".4g", secondary=True,
        unit="an item",
        legend="Σ over the tokenizer's levels of log2 of the level's size: what a SID could say at most. "
        "Compare methods of equal bits; does not show how much of it is in use (perplexity does).",
    ),
    Metric(
        name="sid_bits_added", label="Bits added", source="sids", direction="none", format=".2f",
        secondary=True, unit="an item",
        legend="The same of what the resolver adds to every SID: log2 of its level's size, 0 where it adds "
        "none. The level is as large as the largest group needs, so it does not show how many items use it.",
    ),
    Metric(
        name="decoder_parameters", label="Parameters", source="decoder", direction="none", format=",.0f",
        secondary=True,
        legend="Numbers that the decoder (or a reference that trains) learned. Does not show what it does "
        "with them: tables that are looked up count like layers that compute.",
    ),
    Metric(
        name="decoder_tokens_per_item", label="Tokens read", source="decoder", direction="none",
        format=".3g", secondary=True, unit="an item",
        legend="Tokens that an item takes in the histories that the decoder reads. Attention grows with its "
        "square; does not show what is written for one (tokens written).",
    ),
    Metric(
        name="decoder_tokens_per_target", label="Tokens written", source="decoder", direction="none",
        format=".3g", secondary=True, unit="an item",
        legend="Tokens that the decoder predicts for an item, mean over the catalogue: a step of the search "
        "each. Codes that follow from those before them are not predicted, and do not count.",
    ),
    Metric(
        name="decoder_sequences_seen", label="Sequences seen", source="decoder", direction="none",
        format=",.0f", secondary=True,
        legend="Training sequences that were taken, repeated ones counted each time. With equal numbers rows "
        "of one decoder saw equally much; does not show how many targets a sequence holds (targets seen).",
    ),
    Metric(
        name="decoder_targets_seen", label="Targets seen", source="decoder", direction="none",
        format=",.0f", secondary=True,
        legend="Items that training had to predict, repeated ones counted each time: a sequence holds one, "
        "or up to as many as a history is long. Does not show which step was kept in the end.",
    ),
    Metric(
        name="decoder_budget", label="Budget", source="decoder", direction="none", format=",.0f",
        secondary=True, unit="s",
        legend="Seconds that training and the search of all test users were given together, where a time was "
        "given. Does not contain the tokenizer's fit, which has its own column.",
    ),
)  # fmt: skip
