"""Folder: any data on disk as `items.npy` and/or `items.parquet` beside `sequences.parquet`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sidbench.dataset import Corpus, Dataset, Embeddings, Sequences, check_embeddings, open_rows, scramble
from sidbench.errors import DataError, UsageError, nearest

Rows = NDArray[np.int64]

# A larger file of vectors stays on disk and is read through a memmap.
IN_MEMORY = 1 << 30
# Numbers beyond are no seconds that a log of today could hold (the year 5138): milliseconds or finer.
LATEST = 10**11
LAYOUT = "`user` and `items` (lists), or `user`, `item` and `timestamp`"
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ITEM, USER, TIME = ("item", "item_id", "id"), ("user", "user_id"), ("timestamp", "time")


class Folder(Dataset):
    """A folder of your own: items.npy and/or items.parquet, and sequences.parquet.

    - items.npy: (items, dimensions) numbers, read as float32; row i is row i of items.parquet.
    - items.parquet: `item` (integers or text; 0..n-1 without this file) and, where known, `title`,
      `embedding` (lists; used without items.npy), `categories` (equally long lists, broad to narrow).
    - sequences.parquet: a row a user with `user`, `items` and perhaps `timestamps`, both lists, oldest
      first; or a row an event with `user`, `item`, `timestamp`.

    Events are ordered by time: dates, or numbers that are taken for seconds. Where times are equal, `ties`
    decides: `file` keeps the order of the file, `shuffle` orders by a fixed hash of user and item, so that
    the order inside a tie carries nothing.
    """

    name = "folder"
    variant = "path"

    #: The folder.
    path: Path = Path()
    #: Events of equal time: in the file's order, or shuffled by a fixed hash.
    ties: Literal["file", "shuffle"] = "file"

    def load(self) -> Corpus:
        folder = self.path.expanduser()
        if not folder.is_dir():
            raise DataError(
                f"no folder {folder}: expected one with sequences.parquet and items.npy or items.parquet"
            )
        items = read_items(folder)
        events = read_events(folder / "sequences.parquet", items.ids)
        sequences, times, notes = events.ordered(self.ties)
        return Corpus(
            name=folder.resolve().name,
            embeddings=items.embeddings,
            item_ids=as_numpy(items.ids),
            sequences=sequences,
            user_ids=as_numpy(events.user_ids),
            titles=items.titles,
            categories=items.categories,
            times=times,
            notes=(*items.notes, *notes),
        )


def find_folder(spec: str) -> Path | None:
    """The folder that a dataset's name on the command line means, if any.

    A bare name is looked up in the folders of SIDBENCH_DATA, then here; anything else is a path.
    """
    given = Path(spec).expanduser()
    places = [Path(p).expanduser() for p in os.environ.get("SIDBENCH_DATA", "").split(os.pathsep) if p]
    bare = spec not in ("", ".", "..") and given.name == spec
    for folder in [place / spec for place in places if bare] + [given]:
        if spec and folder.is_dir():
            return folder
    return None


@dataclass(frozen=True, eq=False)
class Items:
    """The catalogue as the files hold it; `ids` is an arrow array of integers or text."""

    ids: pa.Array
    embeddings: Embeddings
    titles: NDArray[np.str_] | None
    categories: NDArray[np.int32] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Clock:
    """Times as the file counts them, and how many of its ticks are a second."""

    ticks: NDArray[Any]
    a_second: int = 1

    def seconds(self, order: Rows) -> NDArray[np.int64]:
        """Whole seconds, rounded down, so that their order is the ticks'."""
        return (self.ticks[order] // self.a_second).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Events:
    """Who did what: row e is item `items[e]` by user number `users[e]`, in the order of the file."""

    file: Path
    users: Rows
    items: Rows
    times: Clock | None
    user_ids: pa.Array

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
        found = []
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


def read_items(folder: Path) -> Items:
    """items.npy and items.parquet, whichever there are."""
    vectors, about = folder / "items.npy", folder / "items.parquet"
    if not vectors.is_file() and not about.is_file():
        raise DataError(f"{folder} holds neither items.npy nor items.parquet: item embeddings are missing")
    table = read_parquet(about) if about.is_file() else None
    notes: list[str] = []
    if vectors.is_file():
        x = read_vectors(vectors)
    elif table is not None and "embedding" in table.column_names:
        x = as_float32(matrix(list_column(table, "embedding", about), about), str(about))
    else:
        raise DataError(
            f"{about} has no column `embedding` and there is no items.npy beside it; add one of the two. "
            f"Columns: {', '.join(table.column_names) if table is not None else 'none'}."
        )
    if table is None:
        return Items(pa.array(np.arange(len(x))), x, None, None, ())
    if len(table) != len(x):
        raise DataError(
            f"{about} has {len(table):,} rows, items.npy has {len(x):,}; row i of both must be one item"
        )
    ids = identifiers(column(table, ITEM, about), about)
    counts = pc.value_counts(ids)
    repeats = np.asarray(counts.field("counts")) > 1
    if repeats.any():
        first = counts.field("values")[int(repeats.argmax())].as_py()
        raise DataError(
            f"{about}: {len(ids) - len(counts):,} of {len(ids):,} item ids repeat an earlier one, "
            f"first {first!r}; every item must stand once"
        )
    if vectors.is_file() and pa.types.is_integer(ids.type) and (np.diff(np.asarray(ids)) < 0).any():
        notes.append("item ids do not ascend in items.parquet; row i of items.npy is taken for its row i")
    titles = None
    if "title" in table.column_names:
        titles = as_numpy(pc.fill_null(table.column("title").cast(pa.string()), ""))
    return Items(ids, x, titles, read_categories(table, notes), tuple(notes))


def read_vectors(path: Path) -> Embeddings:
    """items.npy as float32; a large float32 file stays on disk."""
    large = path.stat().st_size > IN_MEMORY
    try:
        x = open_rows(path) if large else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        if "object" in str(e).lower():  # NumPy's word for what only pickle could read
            raise DataError(
                f"{path} holds Python objects; expected float16, float32 or float64: "
                "save it with np.save(path, x.astype('float32'))"
            ) from None
        raise DataError(
            f"{path} cannot be read as an array of numbers ({e}); write it with np.save"
        ) from None
    return as_float32(x, str(path))


def as_float32(x: NDArray[Any], where: str) -> Embeddings:
    """Numbers of any width as float32, checked."""
    if x.dtype.kind not in "fiu":
        raise DataError(f"{where}: embeddings are {x.dtype}; expected float16, float32 or float64 numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused next
        y: Embeddings = x.astype(np.float32, copy=False)
    check_embeddings(y, where)
    return y


def read_categories(table: pa.Table, notes: list[str]) -> NDArray[np.int32] | None:
    """Column `categories` as numbers: at each level one for each distinct path from the root."""
    # Text in this column is somebody's free-form label; only lists say what is above what.
    if "categories" not in table.column_names or not is_list(table.column("categories").type):
        return None
    lists = table.column("categories").combine_chunks()
    depths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(depths) != 1 or not depths[0]:
        notes.append("the lists of column categories differ in length: no category tree is known")
        return None
    names = pc.fill_null(lists.flatten().cast(pa.string()), "").dictionary_encode().indices
    codes = np.asarray(names, dtype=np.int64).reshape(len(lists), -1)
    levels = [np.unique(codes[:, : depth + 1], axis=0, return_inverse=True)[1] for depth in range(depths[0])]
    return np.stack([level.reshape(-1) for level in levels], axis=1).astype(np.int32)


def read_events(path: Path, ids: pa.Array) -> Events:
    """sequences.parquet in either layout, its items as rows of the catalogue."""
    table = read_parquet(path)
    names = table.column_names
    user = identifiers(column(table, USER, path), path)
    if "items" in names:
        lists = list_column(table, "items", path)
        lengths = np.asarray(pc.list_value_length(lists))
        users, user_ids = np.repeat(np.arange(len(user)), lengths), user
        if len(pc.unique(user)) < len(user):
            raise DataError(
                f"{path}: a user stands on two rows; expected one list a user, or one row an event"
            )
        items, times = lists.flatten(), None
        if "timestamps" in names:
            stamps = list_column(table, "timestamps", path)
            odd = np.flatnonzero(np.asarray(pc.list_value_length(stamps)) != lengths)
            if len(odd):
                raise DataError(
                    f"{path}: {len(odd):,} users have unequally many items and timestamps, "
                    f"first user {user[int(odd[0])].as_py()!r}; every item needs its time"
                )
            times = clock(stamps.flatten(), path)
    elif any(name in names for name in ITEM):
        items, times = column(table, ITEM, path), clock(column(table, TIME, path), path)
        encoded = user.dictionary_encode()
        users, user_ids = np.asarray(encoded.indices, dtype=np.int64), encoded.dictionary
    else:
        raise DataError(f"{path} has columns {', '.join(names)}; expected {LAYOUT}")
    if not len(items):
        raise DataError(f"{path} holds no events; expected {LAYOUT}")
    return Events(path, users, rows_of(identifiers(items, path), ids, path, user_ids, users), times, user_ids)


def rows_of(items: pa.Array, ids: pa.Array, path: Path, user_ids: pa.Array, users: Rows) -> Rows:
    """The catalogue row of every event; an item that is not there is an error that says where."""
    if items.type != ids.type:
        raise DataError(
            f"{path}: items are {items.type}, but the ids of the catalogue are {ids.type} "
            f"(such as {ids[0].as_py()!r}); write both as the same type"
        )
    found = pc.index_in(items, value_set=ids)
    if found.null_count:
        bad = np.flatnonzero(np.asarray(found.is_null()))
        distinct = len(pc.unique(items.take(pa.array(bad))))
        first, owner = items[int(bad[0])].as_py(), user_ids[int(users[bad[0]])].as_py()
        raise DataError(
            f"{path}: {len(bad):,} of {len(items):,} events name {distinct:,} items that the catalogue of "
            f"{len(ids):,} does not hold, first item {first!r} of user {owner!r}; "
            "add these items or drop the events"
        )
    return np.asarray(found, dtype=np.int64)


def read_parquet(path: Path) -> pa.Table:
    """A whole table, or one line that says why not."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected a parquet file with {LAYOUT}") from None
    except (OSError, pa.ArrowException) as e:
        raise DataError(
            f"{path} cannot be read as parquet ({str(e).splitlines()[0]}); write it again"
        ) from None


def column(table: pa.Table, names: tuple[str, ...], path: Path) -> pa.Array:
    """The column of this name, without gaps."""
    for name in names:
        if name in table.column_names:
            array = table.column(name).combine_chunks()
            if array.null_count:
                raise DataError(
                    f"{path}: column {name} has {array.null_count:,} empty cells, first in row "
                    f"{int(np.asarray(array.is_null()).argmax())}; fill or drop them"
                )
            return array
    raise DataError(
        f"{path} has no column {names[0]!r}{nearest(names[0], table.column_names)} "
        f"Columns: {', '.join(table.column_names)}."
    )


def identifiers(array: pa.Array, path: Path) -> pa.Array:
    """Ids as int64 or text, whatever width or encoding the file has."""
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if array.null_count:
        raise DataError(f"{path}: {array.null_count:,} ids are empty; fill or drop them")
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid as e:
            raise DataError(f"{path}: ids do not fit 64-bit integers ({e}); write them as text") from None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array.cast(pa.string())
    raise DataError(f"{path}: ids are {kind}; expected integers or text")


def clock(array: pa.Array, path: Path) -> Clock:
    """Times as numbers that sort."""
    a_second = 1
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    kind = array.type
    if pa.types.is_timestamp(kind):
        array, a_second = array.cast(pa.int64()), TICKS[kind.unit]
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{path}: timestamps are {kind}; expected numbers or dates")
    ticks = array.to_numpy(zero_copy_only=False)
    if array.null_count or (ticks.dtype.kind == "f" and not np.isfinite(ticks).all()):
        raise DataError(f"{path}: some timestamps are empty or infinite; fill or drop these events")
    return Clock(np.asarray(ticks), a_second)


def list_column(table: pa.Table, name: str, path: Path) -> pa.Array:
    """A column of lists, without gaps between them."""
    array = column(table, (name,), path)
    if not is_list(array.type):
        raise DataError(f"{path}: column {name} holds {array.type}; expected a list in each row")
    return array


def is_list(kind: pa.DataType) -> bool:
    """Lists of any width."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def matrix(lists: pa.Array, path: Path) -> NDArray[Any]:
    """Equally long lists of numbers as a matrix."""
    flat, lengths = lists.flatten(), pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) > 1 or flat.null_count:
        raise DataError(
            f"{path}: the lists of column embedding have {len(lengths)} different lengths and "
            f"{flat.null_count:,} empty cells; expected as many numbers for every item"
        )
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(lists), lengths[0] if lengths else 0)


def as_numpy(ids: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Ids or titles as a NumPy array: int64, or fixed-width text."""
    return (
        np.asarray(ids.to_numpy())
        if pa.types.is_integer(ids.type)
        else np.array(ids.to_pylist(), dtype=np.str_)
    )
