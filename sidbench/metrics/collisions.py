"""Collisions: items that share a SID, in every definition in use, and the floor that the data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.metrics.duplicates import identical
from sidbench.metrics.metric import Metric
from sidbench.sids import Codes, distinct_rows

V = TypeVar("V")
Costs = Callable[[Embeddings, Codes], NDArray[np.float32]]
#: Ends the legends of what is taken before the resolver; `inspect` says otherwise where that is not so.
BEFORE = "Taken on the tokenizer's codes, before the resolver."
_VALUES = 1 << 21  # numbers at one time: of embeddings or, where there are more, of costs


def collision_metrics(
    codes: Codes,
    targets: NDArray[Any],
    *,
    floor: Mapping[str, float] = MappingProxyType({}),
    resolved: bool = False,
) -> dict[str, float]:
    """Every collision number of one set of SIDs; `targets` are the item numbers that the test asks for.

    With the data's `floor` also what exceeds it.
    """
    group = distinct_rows(codes)[1]
    sizes = np.bincount(group)
    values = {
        "collision_items": _in_groups(sizes),
        "collision_distinct": _surplus(sizes),
        "collision_largest": float(sizes.max()),
    }
    if len(targets):
        values["collision_traffic"] = float((sizes[group[targets]] > 1).mean())
    for kind in ("items", "distinct"):
        if f"floor_{kind}" in floor:
            values[f"collision_{kind}_excess"] = values[f"collision_{kind}"] - floor[f"floor_{kind}"]
    return _named(values, resolved)


def prefix_collisions(codes: Codes, *, resolved: bool = False) -> dict[str, list[float]]:
    """The same shares among the prefixes of each length: what a search has told apart after so many codes."""
    ordered = codes[np.lexsort(codes.T[::-1])]
    new = np.zeros(len(codes), dtype=bool)
    new[:1] = True
    items, distinct = [], []
    for level in range(codes.shape[1]):
        new[1:] |= ordered[1:, level] != ordered[:-1, level]
        sizes = np.diff(np.flatnonzero(new), append=len(codes))
        items.append(_in_groups(sizes))
        distinct.append(_surplus(sizes))
    return _named({"collision_items": items, "collision_distinct": distinct}, resolved)


def floor_metrics(x: NDArray[np.float32], texts: NDArray[np.str_] | None = None) -> dict[str, float]:
    """The collisions that identical embeddings force on any tokenizer that sees nothing else; those of texts.

    An item without text is identical to none.
    """
    sizes = np.unique(identical(x), return_counts=True)[1]
    values = {"floor_items": _in_groups(sizes), "floor_distinct": _surplus(sizes)}
    if texts is not None:
        found, counts = np.unique(texts, return_counts=True)
        sizes = np.concatenate([counts[found != ""], np.ones(counts[found == ""].sum(), dtype=np.int64)])
        values.update(floor_text_items=_in_groups(sizes), floor_text_distinct=_surplus(sizes))
    return values


def resolution_metrics(
    before: Codes, after: Codes, size: int, x: Embeddings, costs: Costs | None
) -> dict[str, float]:
    """What a resolver did to the tokenizer's codes: how many items it moved, and how much farther they are.

    Costs are those of the last of `size` codes, of all items before and of the moved ones after. SIDs that
    became longer or shorter than the tokenizer's have no costs there.
    """
    levels = before.shape[1]
    moved = np.flatnonzero((after[:, :levels] != before).any(axis=1))
    values = {"resolve_moved": len(moved) / len(before)}
    if costs is None or (before < 0).any() or (after[moved, :levels] < 0).any():
        return values
    was = _costs(before, size, x, np.arange(len(before)), costs)
    total = float(was.sum())
    added = float(_costs(after[:, :levels], size, x, moved, costs).sum() - was[moved].sum())
    # Where codes hit the items themselves, what is left over is rounding, and nothing is relative to that.
    if total > 1e-6 * abs(added):
        values["resolve_added_cost"] = added / total
    return values


def placing_metrics(facts: Mapping[str, Any]) -> dict[str, float]:
    """Whom a resolver found no place for, as it says of itself in a record."""
    told = facts.get("resolver") or {}
    names = {"unplaced": "resolve_unplaced", "unfit_groups": "resolve_unfit_groups"}
    return {name: float(told[own]) for own, name in names.items() if isinstance(told.get(own), int)}


def _costs(
    codes: Codes, size: int, x: Embeddings, which: NDArray[np.int64], costs: Costs
) -> NDArray[np.float64]:
    """The cost of each item's last code after those before it, a piece at a time."""
    out = np.empty(len(which))
    step = max(1, _VALUES // max(size, x.shape[1]))
    for at in range(0, len(which), step):
        some = which[at : at + step]
        found = costs(x[some], codes[some, :-1])
        out[at : at + step] = found[np.arange(len(some)), codes[some, -1]]
    return out


def _named(values: dict[str, V], resolved: bool) -> dict[str, V]:
    return {f"{name}_resolved": v for name, v in values.items()} if resolved else values


def _in_groups(sizes: NDArray[np.int64]) -> float:
    return float(sizes[sizes > 1].sum() / sizes.sum())


def _surplus(sizes: NDArray[np.int64]) -> float:
    return float((sizes.sum() - len(sizes)) / sizes.sum())


def _both(name: str, label: str, legend: str, format: str = ".2%") -> tuple[Metric, ...]:
    """One number before the resolver and the same number after it."""
    before = Metric(
        name=name, label=label, source="sids", direction="lower", format=format,
        legend=f"{legend} {BEFORE}",
    )  # fmt: skip
    after = Metric(
        name=f"{name}_resolved", label=f"{label}, resolved", source="sids", direction="lower", format=format,
        secondary=True,
        legend=f"{label} after the resolver: trivial by construction where it makes SIDs unique, so this "
        "describes the resolver, not the tokenizer.",
    )  # fmt: skip
    return before, after


METRICS: tuple[Metric, ...] = (
    *_both(
        "collision_items",
        "Colliding items",
        "Share of items that share their SID with another item: Σ group sizes above 1 / N. Does not show how "
        "large the groups are, nor whether anybody asks for these items. By level: of items that share their "
        "prefix of that length.",
    ),
    *_both(
        "collision_distinct",
        "Surplus items",
        "(N − distinct SIDs) / N, the 'collision rate' of RQ-VAE code bases. At most, and usually about half "
        "of, the share of colliding items; never compare one with the other. Does not show whether many "
        "small groups or one large one make it. By level: of prefixes of that length.",
    ),
    *_both(
        "collision_largest",
        "Largest group",
        "The most items on one SID. Does not show how many others share theirs; often it is the data's "
        "largest block of identical items.",
        ",.0f",
    ),
    *_both(
        "collision_traffic",
        "Colliding targets",
        "Share of test targets whose SID is shared: collisions weighted by what users do. Depends on the "
        "split, so it compares tokenizers on one dataset, not datasets; does not show how many share each.",
    ),
    *_both(
        "collision_items_excess",
        "Excess over the floor",
        "Colliding items less the duplicate floor: what the tokenizer adds to what the data forces. Does not "
        "show which items: a tokenizer may part near duplicates and merge others; below 0 it parts items "
        "whose embeddings differ by less than the floor's tolerance.",
        "+.2%",
    ),
    *_both(
        "collision_distinct_excess",
        "Excess over the floor, surplus",
        "Surplus items less the duplicate floor of surplus items. Does not show which items they are.",
        "+.2%",
    ),
    Metric(
        name="floor_items", label="Duplicate floor", source="data", direction="none", format=".2%",
        secondary=True,
        legend="Share of items whose embedding is identical to another item's: every coordinate within 0.001 "
        "of the root mean square of all values, linked transitively. A property of the data: what collides "
        "beyond it is the tokenizer's doing, since identical embeddings get one SID. Does not show near "
        "duplicates.",
    ),
    Metric(
        name="floor_distinct", label="Duplicate floor, surplus", source="data", direction="none",
        format=".2%", secondary=True,
        legend="(N − distinct embeddings) / N, identical ones counted once: the floor of surplus items. Does "
        "not show near duplicates.",
    ),
    Metric(
        name="floor_text_items", label="Duplicate floor by text", source="data", direction="none",
        format=".2%", secondary=True,
        legend="Share of items whose title is, letter by letter, another item's; no title is no duplicate. "
        "Does not show what else the embeddings were made from: it may be above or below the floor of "
        "embeddings.",
    ),
    Metric(
        name="floor_text_distinct", label="Duplicate floor by text, surplus", source="data", direction="none",
        format=".2%", secondary=True,
        legend="(N − distinct titles) / N. Does not show what else the embeddings were made from.",
    ),
    Metric(
        name="resolve_moved", label="Moved by the resolver", source="sids", direction="none", format=".2%",
        secondary=True,
        legend="Share of items whose codes the resolver changed; a level that it adds is no change. Does not "
        "show how far they moved, nor whether those that stay were well placed.",
    ),
    Metric(
        name="resolve_added_cost", label="Distance added", source="sids", direction="lower", format="+.2%",
        secondary=True,
        legend="How much larger the resolver made the tokenizer's cost of last codes (for residual methods "
        "the squared error of the whole SID), summed over all items, relative to before. Costs are each "
        "tokenizer's own, so it compares resolvers on one tokenizer, and does not show what a level that was "
        "added costs the decoder.",
    ),
    Metric(
        name="resolve_unplaced", label="Without a place", source="sids", direction="lower", format=",.0f",
        secondary=True, unit="items",
        legend="Items beyond what their SID is meant to have that the resolver found no free place for, so "
        "they stay where they are; absent where it moves nobody. Does not show whether another rule would "
        "have found one.",
    ),
    Metric(
        name="resolve_unfit_groups", label="Groups that do not fit", source="sids", direction="lower",
        format=",.0f", secondary=True, unit="SIDs",
        legend="SIDs that go on having more items than they are meant to. Does not show how many more: the "
        "items without a place are these.",
    ),
)  # fmt: skip
