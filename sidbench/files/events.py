"""What users did, in a person's files: a row an event, or a row a user with a list of items."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench.dataset import Sequences, scramble
from sidbench.errors import DataError, UsageError
from sidbench.files import tables
from sidbench.files.columns import Columns
from sidbench.files.ids import alike, empty, from_text, identifiers, repeats, rows_of
from sidbench.files.times import LATEST, Clock, clock

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

LAYOUT = "`user` and `items` (lists), or `user`, `item` and `timestamp`"
#: Shorter sequences are not evaluated under leave-one-out.
FEWEST = 3


@dataclass(eq=False)
class Events:
    """Who did what: row e is item `items[e]` by user number `users[e]`, in the order of the file."""

    file: Path
    users: Rows
    items: Rows
    times: Clock | None
    user_ids: pa.Array
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def ordered(self, ties: str) -> tuple[Sequences, NDArray[np.int64] | None, tuple[str, ...]]:
        """Each user's items by time, their seconds, and what people should know about equal times."""
        if self.times is None:
            if ties == "shuffle":
                raise UsageError(
                    f"ties = 'shuffle' needs timestamps, and {self.file} has none; "
                    "add a column `timestamps` or leave ties = 'file'"
                )
            order = np.argsort(self.users, kind="stable")
            return self._rows(order), None, ("no timestamps: the order of the file stands for time",)
        # Mixed with the user: were it a hash of the item alone, one order would hold for everybody.
        mixed = scramble(self.items.astype(np.uint64) ^ scramble(self.users.astype(np.uint64), 1), 2)
        ticks = self.times.ticks
        order = np.lexsort((mixed, ticks, self.users) if ties == "shuffle" else (ticks, self.users))
        users, times = self.users[order], ticks[order]
        tied = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
        is_last = np.append(users[1:] != users[:-1], True)[1:]
        self.facts["ties"] = {"neighbours": int(tied.sum()), "last_two": int((tied & is_last).sum())}
        found = [self.times.note] if self.times.note else []
        if self.times.a_second == 1 and len(ticks) and np.abs(ticks).max() > LATEST:
            found.append(
                f"timestamps up to {ticks.max():.0f} are taken for seconds, but look like milliseconds: "
                "order and cuts do not depend on it; for true moments divide them, or write dates"
            )
        note = (
            f"{tied.sum():,} of {max(len(users) - 1, 0):,} neighbouring events share user and timestamp, and "
            f"{(tied & is_last).sum():,} users' last two do; inside a tie the order is "
            + ("that of the file (ties = 'file')" if ties == "file" else "a hash (ties = 'shuffle')")
        )
        if tied.any():
            found.append(note)
        return self._rows(order), self.times.seconds(order), tuple(found)

    def _rows(self, order: Rows) -> Sequences:
        offsets = np.zeros(len(self.user_ids) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.users, minlength=len(self.user_ids)), out=offsets[1:])
        return Sequences(self.items[order].astype(np.int32), offsets)

    def again(self) -> int:
        """Events that say what another one says: user, item and time alike."""
        columns = [self.users, self.items] + ([] if self.times is None else [self.times.ticks])
        order = np.lexsort(columns)
        alike = np.ones(max(len(order) - 1, 0), np.bool_)
        for c in columns:
            alike &= c[order][1:] == c[order][:-1]
        return int(alike.sum())


def read_events(
    path: Path, ids: pa.Array, columns: Columns, *, drop: bool, timeless: bool = False, whole: int = 0
) -> Events:
    """Either layout, its items as rows of the catalogue `ids`.

    `drop` leaves out what cannot be used, counted and said; else that is an error. `timeless` takes a row an
    event without a column of times, in the order of the file. `whole` is how many items the catalogue had.
    """
    names = tables.names(path)
    text = tables.kind_of(path) in (".csv", ".tsv")
    user_column = columns.need(names, "sequences", "user", str(path))
    item_column = columns.find(names, "sequences", "item")
    list_column = columns.find(
        [n for n in names if n not in (user_column, item_column)], "sequences", "items"
    )
    if list_column is not None and columns.named("sequences", "items") is None and item_column is not None:
        list_column = list_column if _holds_lists(path, list_column) else None
    known: dict[str, str] = {"user": user_column}
    if list_column is not None:
        known["items"] = list_column
        rest = [n for n in names if n not in known.values()]
        times_column = columns.find(rest, "sequences", "times")
        if times_column is None and (single := columns.find(rest, "sequences", "time")) is not None:
            times_column = single if text or _holds_lists(path, single) else None
    elif item_column is not None:
        known["item"] = item_column
        rest = [n for n in names if n not in known.values()]
        times_column = columns.find(rest, "sequences", "time")
        if times_column is None and not timeless:
            columns.need(names, "sequences", "time", str(path), known.values())
    else:
        raise DataError(
            f"{path} has columns {', '.join(names)}; expected {LAYOUT}. Others are named with {columns.how}"
            "user=COLUMN,item=COLUMN,time=COLUMN"
        )
    if times_column is not None:
        known["times" if list_column is not None else "time"] = times_column
    table = tables.read(path, list(known.values()))
    facts: dict[str, Any] = {
        "file": path.name,
        "kind": tables.kind_of(path).lstrip(".") or "folder of parquet",
        "layout": "a list for every user" if list_column is not None else "a row an event",
        "columns": known,
        "others": [n for n in names if n not in known.values()],
        "dropped": {},
    }
    user = identifiers(tables.whole(table.column(user_column)), path)
    user = from_text(user) if text else user
    if list_column is not None:
        events = _lists(path, table, user, list_column, times_column, drop)
    else:
        assert item_column is not None
        encoded = user.dictionary_encode()
        users = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
        times = None if times_column is None else tables.whole(table.column(times_column))
        events = _Found(users, encoded.dictionary, tables.whole(table.column(item_column)), times)
    if not len(events.items):
        raise DataError(f"{path} holds no events; expected {LAYOUT}")
    facts["events"] = len(events.items)
    items = identifiers(events.items, path)
    items = from_text(items) if text or events.spelled else items
    return _joined(path, events, items, ids, facts, drop, whole, columns.how)


@dataclass
class _Found:
    """Events as the file spells them: items as ids, -1 for no user."""

    users: Rows
    user_ids: pa.Array
    items: pa.Array
    times: pa.Array | None
    #: Whether lists were spelled as text, numbers too.
    spelled: bool = False


def _lists(
    path: Path, table: pa.Table, user: pa.Array, items_column: str, times_column: str | None, drop: bool
) -> _Found:
    """Rows of lists as events."""
    if repeats(user).any():
        raise DataError(f"{path}: a user stands on two rows; expected one list a user, or one row an event")
    lists = _as_lists(path, table, items_column, drop)
    spelled = tables.is_text(tables.whole(table.column(items_column)).type)
    lengths = np.asarray(pc.list_value_length(lists).fill_null(0), dtype=np.int64)
    number = np.where(empty(user), -1, np.arange(len(user)))
    times = None
    if times_column is not None:
        stamps = _as_lists(path, table, times_column, drop)
        odd = np.flatnonzero(np.asarray(pc.list_value_length(stamps).fill_null(0)) != lengths)
        if len(odd):
            raise DataError(
                f"{path}: {len(odd):,} users have unequally many items and timestamps, "
                f"first user {user[int(odd[0])].as_py()!r}; every item needs its time"
            )
        times = stamps.flatten()
    return _Found(np.repeat(number, lengths), user, lists.flatten(), times, spelled)


def _as_lists(path: Path, table: pa.Table, name: str, drop: bool) -> pa.Array:
    array = tables.whole(table.column(name))
    if array.null_count and not drop:
        raise DataError(
            f"{path}: column {name} has {array.null_count:,} empty cells, first in row "
            f"{int(empty(array).argmax())}; fill or drop them"
        )
    lists = tables.as_lists(array)
    if lists is None:
        raise DataError(f"{path}: column {name} holds {array.type}; expected a list in each row")
    return lists


def _joined(
    path: Path,
    found: _Found,
    items: pa.Array,
    ids: pa.Array,
    facts: dict[str, Any],
    drop: bool,
    whole: int,
    how: str,
) -> Events:
    """Events with items as rows of the catalogue; what cannot be used is left out or refused."""
    notes: list[str] = []
    count = len(items)
    if items.type != ids.type:
        if not drop:
            raise DataError(
                f"{path}: items are {items.type}, but the ids of the catalogue are {ids.type} "
                f"(such as {ids[0].as_py()!r}); write both as the same type"
            )
        notes.append(f"items are {items.type} in {path.name}, {ids.type} in the catalogue: joined as text")
    no_user, no_item = found.users < 0, empty(items)
    ticks = None if found.times is None else clock(found.times, path)
    no_time = np.zeros(count, np.bool_) if ticks is None else ticks.missing
    if not drop:
        for mask, what in ((no_user, "user"), (no_item, "item"), (no_time, "timestamp")):
            if mask.any():
                raise DataError(_empty_cells(path, facts, mask, what))
    rows = rows_of(items, ids)
    unknown = (rows < 0) & ~no_item
    if unknown.any():
        said = _unknown(path, found, items, ids, unknown, whole)
        if not drop or unknown.mean() > 0.5:
            wanted, have = alike(items.filter(pa.array(unknown))[:1], ids[:1])
            raise DataError(
                said
                + f" (there ids are such as {wanted[0].as_py()!r}, in the catalogue {have[0].as_py()!r}; "
                f"are these the same columns? {how}item=COLUMN)"
                if drop
                else said
            )
        facts["dropped"]["item is not in the catalogue"] = int(unknown.sum())
        notes.append(said.rpartition(";")[0].removeprefix(f"{path}: ") + ": left out")
    for mask, what in ((no_user, "no user"), (no_item, "no item"), (no_time, "no time")):
        if mask.any():
            facts["dropped"][what] = int(mask.sum())
            notes.append(f"{int(mask.sum()):,} of {count:,} events have {what}: left out")
    kept = np.flatnonzero(~(no_user | unknown | no_item | no_time))
    if not len(kept):
        raise DataError(f"{path}: none of {count:,} events can be used ({'; '.join(notes)})")
    users = found.users[kept]
    number = np.zeros(len(found.user_ids), np.int64)
    present = np.zeros(len(found.user_ids), np.bool_)
    present[users] = True
    # A user of a list that is empty is one all the same, unless something was left out.
    if len(kept) == count and not no_user.any():
        present[:] = ~empty(found.user_ids)
    gone = len(found.user_ids) - int(present.sum())
    if gone:
        facts["dropped users"] = gone
        notes.append(f"{gone:,} of {len(present):,} users are left without any event: left out")
    number[present] = np.arange(int(present.sum()))
    kept_ids = found.user_ids.filter(pa.array(present))
    times = None if ticks is None else ticks.take(kept)
    return Events(path, number[users], rows[kept], times, kept_ids, notes, facts)


def _unknown(path: Path, found: _Found, items: pa.Array, ids: pa.Array, unknown: Mask, whole: int) -> str:
    bad = np.flatnonzero(unknown)
    distinct = len(pc.unique(items.take(pa.array(bad))))
    user = int(found.users[bad[0]])
    owner = None if user < 0 else found.user_ids[user].as_py()
    named = f"{len(bad):,} of {len(items):,} events name {distinct:,} {'item' if distinct == 1 else 'items'}"
    kept = f" (left of {whole:,})" if whole > len(ids) else ""
    near = 0
    if tables.is_text(items.type):
        near = int((rows_of(pc.utf8_trim_whitespace(items.take(pa.array(bad))), ids) >= 0).sum())
    spaces = f" ({near:,} of these ids it holds without the spaces around them)" if near else ""
    return (
        f"{path}: {named} that the catalogue of "
        f"{len(ids):,}{kept} does not hold{spaces}, first item {items[int(bad[0])].as_py()!r} of user "
        f"{owner!r}; "
        "add these items or drop the events"
    )


def _empty_cells(path: Path, facts: dict[str, Any], mask: Mask, what: str) -> str:
    if what == "timestamp":
        return f"{path}: some timestamps are empty or infinite; fill or drop these events"
    if what == "user" or facts["layout"] == "a row an event":
        column = facts["columns"][what]
        return (
            f"{path}: column {column} has {int(mask.sum()):,} empty cells, first in row "
            f"{int(mask.argmax())}; fill or drop them"
        )
    return f"{path}: {int(mask.sum()):,} ids are empty; fill or drop them"


def _holds_lists(path: Path, column: str) -> bool:
    """Whether a column holds lists, or text that spells them: `seq` beside an item may be a number."""
    for batch in tables.batches(path, [column]):
        lists = tables.as_lists(batch.column(0))
        return lists is not None and bool((pc.max(pc.list_value_length(lists)).as_py() or 0) > 1)
    return False
