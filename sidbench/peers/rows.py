"""Rows of (user, history, target) as files publish them: the split they are, the sequences behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Published, Sequences, Targets
from sidbench.errors import DataError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Rows:
    """Row r: after `histories[r]`, user number `users[r]` took `items[r]`; `parts[r]` is 0, 1 or 2."""

    users: NDArray[np.int64]
    histories: Sequences
    items: NDArray[np.int32]
    parts: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.integer[Any]]) -> Rows:
        return Rows(self.users[rows], self.histories.take(rows), self.items[rows], self.parts[rows])

    def targets(self, part: int) -> Targets:
        """The rows of one part, in the order of the file."""
        at = np.flatnonzero(self.parts == part)
        return Targets(self.users[at], self.histories.take(at), self.items[at])


def joined(parts: list[Rows]) -> Rows:
    """Several files' rows, one after the other."""
    starts = np.cumsum([0, *(len(p.histories.items) for p in parts)])
    offsets = [p.histories.offsets[(0 if i == 0 else 1) :] + starts[i] for i, p in enumerate(parts)]
    return Rows(
        np.concatenate([p.users for p in parts]),
        Sequences(np.concatenate([p.histories.items for p in parts]), np.concatenate(offsets)),
        np.concatenate([p.items for p in parts]),
        np.concatenate([p.parts for p in parts]),
    )


def check_items(rows: Rows, count: int, files: dict[int, str], known: str) -> None:
    """Every row names items of the catalogue; the first that does not is told with its file and row."""
    end = np.repeat(np.arange(len(rows)), rows.histories.lengths)
    row = np.concatenate([end, np.arange(len(rows))])
    item = np.concatenate([rows.histories.items, rows.items])
    bad = np.flatnonzero(item >= count)
    if len(bad):
        first = bad[np.argmin(row[bad])]
        part = rows.parts[row[first]]
        own = row[first] - int(np.flatnonzero(rows.parts == part)[0])
        raise DataError(
            f"{files[int(part)]}, row {own}: item {item[first]} is not in the catalogue ({known} has items "
            f"0..{count - 1}); {len(np.unique(row[bad])):,} rows do so. Are the files of one dataset?"
        )


def assembled(rows: Rows, users: int) -> tuple[Sequences, Published, tuple[str, ...]]:
    """What every user did, put together from windows that overlap, and the split that the rows are.

    Where no file of training rows is there, what the histories show of the time before a user's first target
    trains. Rows of a user go on from one another; where they do not (rows were left out), the longest overlap
    joins them.
    """
    rows_in_time, overlap, broken = _in_time(rows)
    full = _with_targets(rows_in_time)
    fresh = full.lengths - overlap
    position = np.arange(len(full.items)) - np.repeat(full.offsets[:-1], full.lengths)
    kept = position >= np.repeat(overlap, full.lengths)
    user = np.repeat(rows_in_time.users, fresh)
    offsets = np.zeros(users + 1, dtype=np.int64)
    np.cumsum(np.bincount(user, minlength=users), out=offsets[1:])
    sequences = Sequences(full.items[kept], offsets)

    # From a user's first target that selects or tests on, nothing trains.
    late = np.zeros(len(user), dtype=np.int64)
    late[np.cumsum(fresh) - 1] = rows_in_time.parts > 0
    seen = np.concatenate([np.zeros(1, np.int64), np.cumsum(late)])
    trains = seen[1:] - np.repeat(seen[offsets[:-1]], np.diff(offsets)) == 0
    train = sequences.where(trains)
    notes = []
    if broken:
        notes.append(
            f"{broken:,} of {len(rows):,} rows do not go on from the one before (some were left out); "
            "the longest overlap joins them"
        )
    if not (rows.parts == 0).any():
        singles, active = int((train.lengths == 1).sum()), int((train.lengths > 0).sum())
        notes.append(
            f"no training rows are at hand: what the validation and test rows show of the time before them "
            f"trains, {len(train.items):,} interactions of {active:,} users ({singles:,} "
            "with one, whose date no row tells), so recall is not comparable with figures of the whole set"
        )
    return sequences, Published(train, rows.targets(1), rows.targets(2)), tuple(notes)


def _in_time(rows: Rows) -> tuple[Rows, NDArray[np.int64], int]:
    """Rows by user, oldest first, and how much of each stands in the row before.

    Some files hold a user's rows latest first; of each file the order in which more rows go on is taken.
    """
    turn = np.arange(len(rows))
    ordered = rows.take(np.lexsort((turn, rows.parts, rows.users)))
    goes_on = _goes_on(ordered)
    for part in range(len(PARTS)) if not goes_on.all() else ():
        turned = np.where(rows.parts == part, -turn, turn)
        other = rows.take(np.lexsort((turned, rows.parts, rows.users)))
        better = _goes_on(other)
        if better.sum() > goes_on.sum():
            turn, ordered, goes_on = turned, other, better
    overlap = np.where(goes_on, ordered.histories.lengths, 0)
    first = np.diff(ordered.users, prepend=-1) != 0
    overlap[first] = 0
    open_rows = np.flatnonzero(~goes_on)
    full = _with_targets(ordered)
    for k in range(int(ordered.histories.lengths.max(initial=0)), 0, -1):
        at = open_rows[(overlap[open_rows] == 0) & (ordered.histories.lengths[open_rows] >= k)]
        at = at[full.lengths[at - 1] >= k]
        here = ordered.histories.offsets[at, None] + np.arange(k)
        before = full.offsets[at, None] - k + np.arange(k)
        overlap[at[(ordered.histories.items[here] == full.items[before]).all(axis=1)]] = k
    return ordered, overlap, len(open_rows)


def _goes_on(rows: Rows) -> NDArray[np.bool_]:
    """Whether each row's history is the end of the row before with its target; a user's first row does."""
    full, lengths = _with_targets(rows), rows.histories.lengths
    first = np.diff(rows.users, prepend=-1) != 0
    previous = np.concatenate([np.zeros(1, np.int64), full.lengths[:-1]])
    fits = (lengths <= previous) & (lengths > 0) & ~first
    row = np.repeat(np.arange(len(rows)), lengths)
    position = np.arange(len(row)) - np.repeat(rows.histories.offsets[:-1], lengths)
    partner = np.repeat(full.offsets[:-1] - lengths, lengths) + position
    differs = np.zeros(len(row), dtype=bool)
    compared = fits[row]
    differs[compared] = rows.histories.items[compared] != full.items[partner[compared]]
    wrong = np.bincount(row, weights=differs, minlength=len(rows)) > 0
    goes_on: NDArray[np.bool_] = first | (fits & ~wrong)
    return goes_on


def _with_targets(rows: Rows) -> Sequences:
    """Every history with its target behind it."""
    offsets = rows.histories.offsets + np.arange(len(rows) + 1)
    items = np.empty(offsets[-1], dtype=np.int32)
    is_target = np.zeros(len(items), dtype=bool)
    is_target[offsets[1:] - 1] = True
    items[is_target] = rows.items
    items[~is_target] = rows.histories.items
    return Sequences(items, offsets)
