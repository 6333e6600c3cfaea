"""Stability: whether an item that is embedded a little differently keeps its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidbench.dataset import Embeddings
from sidbench.metrics.metric import Metric
from sidbench.metrics.prefixes import sample

if TYPE_CHECKING:
    from sidbench.tokenizer import Tokenizer

ITEMS = 1000
#: Length of the step by which every vector is moved, relative to the spread of the vectors.
STEP = 0.1


def stability_metrics(tokenizer: Tokenizer, x: Embeddings) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Encode a sample of items as they are and again after a small step in a random direction."""
    rows = x[sample(len(x), ITEMS)]
    spread = np.sqrt(np.square(rows - rows.mean(axis=0, dtype=np.float64)).sum(axis=1).mean())
    step = np.random.default_rng(0).standard_normal(rows.shape)
    step *= STEP * spread / np.sqrt(np.square(step).sum(axis=1, keepdims=True))
    same = tokenizer.encode(rows) == tokenizer.encode((rows + step).astype(np.float32))
    return {"stability": float(same.all(axis=1).mean())}, {"stability": same.mean(axis=0).tolist()}


METRICS: tuple[Metric, ...] = (
    Metric(
        name="stability", label="Stability", source="tokenizer", direction="higher", format=".1%",
        secondary=True,
        legend=f"Share of items ({ITEMS:,} sampled) whose whole SID `encode` leaves as it is when the "
        f"embedding moves by {STEP:.0%} of the vectors' spread in a random direction; by level, the share "
        "whose code survives. After the confusion under perturbation of arXiv 2606.01844. Coarse codes win "
        "it; real changes of an item's text have a direction, which random ones do not show.",
    ),
)  # fmt: skip
