"""Differences: which rows of a table differ by more than chance. Paired by user, seeds the outer cluster."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 10_000
#: Draws for each number that is compared, where that is more: the least p of so many, about 2 / draws, is
#: then half of what Holm asks of the first of so many.
DRAWS_EACH = 80
#: Numbers of users by pattern that are held at one time.
CELLS = 20_000_000
#: The chance of calling a difference real that is none, over all pairs of a table together.
ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """Row a less row b in the mean of one number."""

    a: str
    b: str
    mean: float
    #: The middle 95% of the bootstrap's draws, for this pair alone.
    low: float
    high: float
    #: Holm's correction over all pairs of the table.
    p: float

    @property
    def real(self) -> bool:
        return self.p < ALPHA


def differences(
    samples: Mapping[str, Mapping[int, Floats]],
    draws: int = DRAWS,
    users: NDArray[np.integer[Any]] | None = None,
) -> list[Difference]:
    """Every pair of rows, of each row a number a target by seed; all rows have the same targets in one order.

    A draw takes seeds anew, then users anew, with replacement, each with all targets that are theirs: `users`
    says whose a target is, where not every one is another user's. Two rows with the same seeds share the draw
    of seeds. The p-value is two-sided: twice the smaller share of draws on either side of zero.
    """
    return pairs(samples, list(itertools.combinations(samples, 2)), draws, users)


def pairs(
    samples: Mapping[str, Mapping[int, Floats]],
    which: Sequence[tuple[str, str]],
    draws: int = DRAWS,
    users: NDArray[np.integer[Any]] | None = None,
    *,
    together: int = 0,
) -> list[Difference]:
    """Some pairs of rows, corrected for as many; draws enough for a correction of `together` numbers."""
    draws = max(draws, DRAWS_EACH * max(together, len(which)))
    owner = None if users is None else np.unique(users, return_inverse=True)[1].reshape(-1)
    found = [_pair(a, b, samples[a], samples[b], draws, owner) for a, b in which]
    corrected = holm([d.p for d in found])
    return [replace(d, p=p) for d, p in zip(found, corrected, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for all of them together."""
    worst, corrected = 0.0, [0.0] * len(p)
    for place, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        worst = max(worst, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = worst
    return corrected


def _pair(
    a: str,
    b: str,
    one: Mapping[int, Floats],
    two: Mapping[int, Floats],
    draws: int,
    owner: NDArray[np.int64] | None,
) -> Difference:
    rng = np.random.default_rng(0)
    paired = sorted(one) == sorted(two)
    if paired:
        parts = [np.stack([one[seed] - two[seed] for seed in sorted(one)], axis=1)]
    else:
        parts = [np.stack([one[s] for s in sorted(one)], axis=1), -np.stack([two[s] for s in sorted(two)], 1)]
    values = np.concatenate(parts, axis=1)
    targets = np.ones(len(values))
    if owner is not None:
        targets = np.bincount(owner).astype(np.float64)
        values = np.stack([np.bincount(owner, weights=column) for column in values.T], axis=1)
    first, times = _patterns(np.concatenate([values, targets[:, None]], axis=1))
    sums, targets = values[first], targets[first]
    # Users with equal values are interchangeable: drawing how many of each there are is the same law.
    means = np.empty((draws, values.shape[1]))
    step = max(1, CELLS // len(times))
    for start in range(0, draws, step):
        drawn = rng.multinomial(len(values), times / len(values), size=min(step, draws - start))
        means[start : start + step] = drawn @ sums / (drawn @ targets)[:, None]
    gaps, column = np.zeros(draws), 0
    for part in parts:
        seeds = part.shape[1]
        chosen = column + rng.integers(seeds, size=(draws, seeds))
        gaps += np.take_along_axis(means, chosen, axis=1).mean(axis=1)
        column += seeds
    below, above = int((gaps <= 0).sum()), int((gaps >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (draws + 1))
    low, high = np.quantile(gaps, [0.025, 0.975])
    mean = sum(float(part.mean()) for part in parts)
    return Difference(a, b, mean, float(low), float(high), p)


def _patterns(values: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One row of each kind, and how many there are of it."""
    keys = np.zeros(len(values), dtype=np.int64)
    for column in values.T:
        level = np.unique(column, return_inverse=True)[1]
        # Numbered anew each time: the product of all columns' levels need not fit into a number.
        keys = np.unique(keys * (level.max() + 1) + level, return_inverse=True)[1]
    first, times = np.unique(keys, return_index=True, return_counts=True)[1:]
    return first, times


def letters(found: list[Difference], rows: list[str]) -> dict[str, str]:
    """Letters for rows, such that two rows share one if and only if they cannot be told apart.

    A letter is a largest set of rows of which no two differ (a maximal clique); in the order of the rows.
    """
    near: dict[str, set[str]] = {row: set() for row in rows}
    for d in found:
        if not d.real:
            near[d.a].add(d.b)
            near[d.b].add(d.a)
    cliques: list[set[str]] = []

    def grow(clique: set[str], more: set[str], seen: set[str]) -> None:
        if not more and not seen:
            cliques.append(clique)
        for row in sorted(more, key=rows.index):
            grow(clique | {row}, more & near[row], seen & near[row])
            more, seen = more - {row}, seen | {row}

    grow(set(), {row for row in rows if any(row in (d.a, d.b) for d in found)}, set())
    cliques.sort(key=lambda clique: sorted(map(rows.index, clique)))
    return {row: "".join(_letter(i) for i, clique in enumerate(cliques) if row in clique) for row in rows}


def _letter(i: int) -> str:
    """a to z, then A to Z; beyond them nobody could read it anyway."""
    return chr(ord("a") + i) if i < 26 else chr(ord("A") + (i - 26) % 26)
