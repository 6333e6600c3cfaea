"""Clock metrics: what the bench measures; declared here, since only a stopwatch can compute them."""

from __future__ import annotations

from sidbench.metrics.metric import Metric

_HERE = "Not rankable across machines."

METRICS: tuple[Metric, ...] = (
    Metric(
        name="fit_seconds", label="Fit", source="clock", direction="lower", format=",.2f", unit="s",
        legend=f"Wall-clock seconds to fit the tokenizer on the catalogue and give its codes. {_HERE}",
    ),
    Metric(
        name="encode_items_per_second", label="Encode", source="clock", direction="higher", format=",.0f",
        unit="items/s",
        legend=f"Items encoded a second by the fitted tokenizer, in chunks, after a warm-up. {_HERE}",
    ),
    Metric(
        name="peak_memory_mb", label="Peak memory", source="clock", direction="lower", format=",.0f",
        unit="MB",
        legend="Highest memory in use while the tokenizer was fitted and encoded, above what was in use "
        f"before. {_HERE}",
    ),
    Metric(
        name="resolve_seconds", label="Resolve", source="clock", direction="lower", format=",.2f", unit="s",
        legend=f"Wall-clock seconds of the resolver. {_HERE}",
    ),
    Metric(
        name="decoder_seconds", label="Decoder training", source="clock", direction="lower", format=",.1f",
        unit="s",
        legend="Wall-clock seconds to train the shared decoder on the row's SIDs, selection on validation "
        f"included. Early stopping may end it sooner, so it is not speed alone. {_HERE}",
    ),
    Metric(
        name="decoder_sequences_per_second", label="Decoder speed", source="clock", direction="higher",
        format=",.0f", unit="sequences/s",
        legend=f"Training sequences that the decoder took in a second. {_HERE}",
    ),
    Metric(
        name="search_users_per_second", label="Search", source="clock", direction="higher", format=",.0f",
        unit="users/s",
        legend="Users served a second: histories in, ranked groups with their items out, encoder and beam "
        f"search included. {_HERE}",
    ),
)  # fmt: skip
