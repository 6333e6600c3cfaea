"""Dataset: where items, their embeddings and the users' sequences come from; Corpus: what it gives."""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.plugin import Plugin

Embeddings = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]


#: Rows of a map on disk that are read at once where they lie far from each other.
SCATTERED = 64


@dataclass(frozen=True, eq=False)
class Sequences:
    """Ragged rows of item numbers: `items[offsets[u]:offsets[u + 1]]` is row u, oldest first."""

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> Sequences:
        """From any rows of item numbers."""
        lists = [np.fromiter(r, dtype=np.int32) for r in rows]
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(r) for r in lists], out=offsets[1:])
        return cls(np.concatenate(lists) if lists else np.zeros(0, np.int32), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[u] for u in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, rows: Ints) -> Sequences:
        """Only these rows, in this order."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Sequences(self.items[at], offsets)

    def drop_last(self, count: int) -> Sequences:
        """Every row without its last `count` items (a shorter row becomes empty)."""
        kept = np.maximum(self.lengths - count, 0)
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(kept, out=offsets[1:])
        return Sequences(self.items[position < np.repeat(kept, self.lengths)], offsets)

    def newest(self, count: int) -> Sequences:
        """The last `count` items of every row (a shorter row stays as it is)."""
        behind = np.repeat(self.offsets[1:], self.lengths) - np.arange(len(self.items))
        return self.where(behind <= count)

    def where(self, kept: NDArray[np.bool_]) -> Sequences:
        """Only the items at which `kept` (one of `items` each) holds, in the rows where they stand."""
        upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return Sequences(self.items[kept], upto[self.offsets])

    def before(self, at: Ints) -> Sequences:
        """For every position `at` in `items`: what stands before it in its row, the position left out."""
        begin = self.offsets[:-1][self.row_of(at)]
        offsets = np.zeros(len(at) + 1, dtype=np.int64)
        np.cumsum(at - begin, out=offsets[1:])
        source = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], at - begin)
        return Sequences(self.items[source], offsets)

    def row_of(self, at: Ints) -> NDArray[np.int64]:
        """The row in which each position of `items` stands."""
        return np.searchsorted(self.offsets, at, side="right") - 1

    def last(self, back: int = 1) -> NDArray[np.int32]:
        """The item `back` places from the end of every row; every row must be that long."""
        return self.items[self.offsets[1:] - back]

    def digest(self, ids: NDArray[Any]) -> str:
        """A hash of the rows by their owner's ids (one for each item).

        It is the same however items are numbered, rows are ordered, and empty ones stand among them.
        """
        met = np.unique(self.items)
        names = ids[met].astype(np.str_)
        order = np.argsort(names, kind="stable")
        number = np.zeros(len(ids), dtype=np.uint64)
        number[met[order]] = np.arange(len(met), dtype=np.uint64)
        place = (np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)).astype(np.uint64)
        begin = self.offsets[:-1][self.lengths > 0]
        mixed = (scramble(scramble(number[self.items], seed) ^ place, seed + 1) for seed in (1, 3))
        sums = [np.add.reduceat(m, begin) if len(begin) else m for m in mixed]
        h = hashlib.sha256("\0".join(names[order].tolist()).encode())
        rows = np.lexsort(sums)
        for values in sums:
            h.update(np.ascontiguousarray(values[rows]).data)
        return h.hexdigest()


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted: row i is `items[i]` after `histories[i]`, by user `users[i]` of the corpus.

    A user may have several rows; each is a question of its own.
    """

    users: NDArray[np.int64]
    histories: Sequences
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.integer[Any]]) -> Targets:
        return Targets(self.users[rows], self.histories.take(rows), self.items[rows])


@dataclass(frozen=True, eq=False)
class Published:
    """A split that came with the data. Row u of `train` is user u; histories are as published."""

    train: Sequences
    valid: Targets
    test: Targets

    @property
    def digest(self) -> str:
        """A hash of every row: it names the split in a record, beside the fingerprint of the data."""
        h = hashlib.blake2b(digest_size=8)
        for s in (self.train, self.valid.histories, self.test.histories):
            h.update(np.ascontiguousarray(s.items).data)
            h.update(np.ascontiguousarray(s.offsets).data)
        for t in (self.valid, self.test):
            h.update(np.ascontiguousarray(t.users).data)
            h.update(np.ascontiguousarray(t.items).data)
        return h.hexdigest()

    def renumbered(self, new: NDArray[np.int32]) -> Published:
        """The same split of a catalogue in which item i has become `new[i]`."""
        train = Sequences(new[self.train.items], self.train.offsets)
        valid, test = (
            Targets(t.users, Sequences(new[t.histories.items], t.histories.offsets), new[t.items])
            for t in (self.valid, self.test)
        )
        return Published(train, valid, test)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A catalogue and what its users did. Row i of everything is item i; ids are the owner's."""

    name: str
    embeddings: Embeddings
    item_ids: NDArray[Any]
    sequences: Sequences
    user_ids: NDArray[Any]
    titles: NDArray[np.str_] | None = None
    #: Known truth, where there is any: (n, depth) category of each item at each level.
    categories: NDArray[np.int32] | None = None
    #: When each of `sequences.items` happened, in seconds (of Unix time, where dates are known); a protocol
    #: that cuts by time needs them, no other reads them.
    times: NDArray[np.int64] | None = None
    #: The split that was published with the data, where there is one; the protocol `published` applies it.
    published: Published | None = None
    #: The protocol from whose training interactions the vectors were learned, if from any: under another one
    #: they would know what it tests.
    learned_under: str = ""
    #: The digests (`Sequences.digest`) of those interactions, as files of vectors tell them; empty text where
    #: one does not tell, nothing at all where they were learned of these very sequences.
    learned_from: tuple[str, ...] = ()
    #: How many items before a target are read where it is asked, as was published with the data; 0: all.
    window: int = 0
    #: What was noticed on the way in, for people: ties, dropped rows.
    notes: tuple[str, ...] = ()
    #: A hash of what is learned from (vectors and sequences); decides the order of `permuted`.
    fingerprint: str = field(default="")
    #: A hash of what artifacts repeat (ids, titles, categories). Both hashes name the data in every record.
    catalogue: str = field(default="")

    def __post_init__(self) -> None:
        check_embeddings(self.embeddings, f"dataset {self.name!r}")
        n = len(self.embeddings)
        for what, rows in (
            ("item ids", self.item_ids),
            ("titles", self.titles),
            ("categories", self.categories),
        ):
            if rows is not None and len(rows) != n:
                raise DataError(f"dataset {self.name!r}: {len(rows)} {what} for {n} rows of embeddings")
        if len(self.user_ids) != len(self.sequences):
            raise DataError(
                f"dataset {self.name!r}: {len(self.user_ids)} user ids for {len(self.sequences)} sequences"
            )
        items = self.sequences.items
        if len(items) and (items.min() < 0 or items.max() >= n):
            raise DataError(f"dataset {self.name!r}: sequences name items outside 0..{n - 1}")
        if self.times is not None:
            _check_times(self.times, self.sequences, f"dataset {self.name!r}")
        if self.published is not None:
            _check_published(self.published, n, len(self.sequences), f"dataset {self.name!r}")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self))
        if not self.catalogue:
            object.__setattr__(self, "catalogue", _catalogue(self))

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def times_digest(self) -> str:
        """A hash of the times, apart from the fingerprint: it names the data where a protocol reads them."""
        times = np.zeros(0, np.int64) if self.times is None else self.times
        return hashlib.blake2b(np.ascontiguousarray(times).tobytes(), digest_size=8).hexdigest()

    def permuted(self) -> Corpus:
        """The same data with item rows in an order fixed by the content, so that nothing can profit from ids.

        Published sets often number items by first appearance, test items included; "last id + 1" then
        finds targets. The permutation depends on the data alone, never on the run. Embeddings on disk stay
        on disk: their reordered rows are another file in the cache.
        """
        # A hash and a stable sort, not a random generator's stream: the same under every NumPy.
        rows = scramble(np.arange(len(self), dtype=np.uint64), int(self.fingerprint, 16))
        order = np.argsort(rows, kind="stable")
        new_row = np.empty(len(self), dtype=np.int32)
        new_row[order] = np.arange(len(self), dtype=np.int32)
        return replace(
            self,
            embeddings=some_rows(self.embeddings, order, f"permuted-{self.fingerprint}"),
            item_ids=self.item_ids[order],
            titles=None if self.titles is None else self.titles[order],
            categories=None if self.categories is None else self.categories[order],
            sequences=Sequences(new_row[self.sequences.items], self.sequences.offsets),
            published=None if self.published is None else self.published.renumbered(new_row),
        )


class Dataset(Plugin, ABC):
    """A dataset plugin: `load` gives a Corpus. One file in datasets/ a dataset."""

    kind: ClassVar[str] = "dataset"
    #: The parameter that `name:value` on the command line sets (`synthetic:tiny`), if any.
    variant: ClassVar[str] = ""
    #: Whether somebody has run this on the real files; where nobody has, `sidbench list` says so.
    verified: ClassVar[bool] = True

    @abstractmethod
    def load(self) -> Corpus:
        """Read or make the data. The suite permutes the items afterwards; a dataset need not."""


def some_rows(x: Embeddings, rows: Ints, key: str) -> Embeddings:
    """These rows in this order; of vectors on disk, another file in the cache under this name."""
    if not isinstance(x, np.memmap):
        return x[rows]

    def fill(out: Embeddings) -> None:
        # Few at a time: with every row that is touched the system maps what lies around it, too.
        for start in range(0, len(rows), SCATTERED):
            out[start : start + SCATTERED] = x[rows[start : start + SCATTERED]]
            forget(out)
            forget(x)

    return cached_rows(key, (len(rows), x.shape[1]), fill)


def _check_published(split: Published, items: int, users: int, where: str) -> None:
    """Every part names items and users that there are, and every target has its history."""
    if len(split.train) != users:
        raise DataError(f"{where}: its published split trains on {len(split.train)} rows for {users} users")
    for part in (split.valid, split.test):
        if not len(part.users) == len(part.histories) == len(part.items):
            raise DataError(f"{where}: its published split has unequally many users, histories and targets")
        if len(part) and (part.users.min() < 0 or part.users.max() >= users):
            raise DataError(f"{where}: its published split names users outside 0..{users - 1}")
    for found in (
        split.train.items,
        *(x for t in (split.valid, split.test) for x in (t.items, t.histories.items)),
    ):
        if len(found) and (found.min() < 0 or found.max() >= items):
            raise DataError(f"{where}: its published split names items outside 0..{items - 1}")


def forget(x: NDArray[Any]) -> None:
    """Let the pages of a memmap leave this process's memory; what was written to them stays written.

    Whoever goes over a large map once would otherwise hold all of it. Other arrays are left alone.
    """
    if isinstance(x.base, mmap.mmap) and sys.platform != "win32":
        x.base.madvise(mmap.MADV_DONTNEED)


def _check_times(times: Any, sequences: Sequences, where: str) -> None:
    """A whole number of seconds for every item of the sequences, never falling inside a row."""
    kind, shape = getattr(times, "dtype", type(times).__name__), getattr(times, "shape", None)
    if not isinstance(times, np.ndarray) or kind != np.int64 or shape != sequences.items.shape:
        raise DataError(
            f"{where}: times are {kind} of shape {shape}; expected int64 of shape {sequences.items.shape}, "
            "the seconds of every item of the sequences"
        )
    falls = np.flatnonzero(times[1:] < times[:-1]) + 1
    inside = falls[~np.isin(falls, sequences.offsets)]
    if len(inside):
        row = int(sequences.row_of(inside[:1])[0])
        raise DataError(
            f"{where}: times fall inside {len(np.unique(sequences.row_of(inside))):,} sequences, first in "
            f"row {row}; expected every sequence oldest first"
        )


def check_embeddings(x: Any, where: str) -> None:
    """The one check of item vectors at the boundary: 2-D, float32, at least one row and column, finite."""
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        shape = getattr(x, "shape", type(x).__name__)
        raise DataError(f"{where}: embeddings have shape {shape}; expected (items, dimensions)")
    if x.dtype != np.float32:
        raise DataError(
            f"{where}: embeddings are {x.dtype}; expected float32 (convert with x.astype('float32'))"
        )
    if 0 in x.shape:
        raise DataError(f"{where}: embeddings have shape {x.shape}; expected at least one row and one column")
    check_finite(x, where)


def check_finite(x: NDArray[Any], where: str, first: int = 0) -> None:
    """NaN or infinity is an error that names the first bad row. Reads a memmap a piece at a time.

    `first` is the number of the first row, where `x` is a piece of something larger.
    """
    step = max(1, 4_000_000 // x.shape[1])
    for start in range(0, len(x), step):
        piece = np.asarray(x[start : start + step])
        # One sum is a cheap test: only a non-finite (or overflowing) sum needs the exact look.
        with np.errstate(all="ignore"):
            clean = np.isfinite(piece.sum(dtype=np.float64))
        if not clean:
            bad = np.flatnonzero(~np.isfinite(piece).all(axis=1))
            if len(bad):
                raise DataError(
                    f"{where}: embeddings hold NaN or infinity, first in row {first + start + bad[0]:,}; "
                    "remove or repair such rows (np.nan_to_num replaces them by zero)"
                )
        forget(x)


def scramble(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A seeded, invertible hash of 64-bit integers (the finalizer of splitmix64)."""
    z = values.astype(np.uint64) + np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
    # Unsigned arrays wrap around in silence, which is what the arithmetic wants.
    z = z * np.uint64(0x9E37_79B9_7F4A_7C15) + np.uint64(0x9E37_79B9_7F4A_7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))


def cache_folder() -> Path:
    """Where large arrays made on the way are kept: SIDBENCH_CACHE, else ~/.cache/sidbench. Safe to delete."""
    named = os.environ.get("SIDBENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "sidbench"


def cached_files() -> dict[Path, int]:
    """What lies in the cache, with its bytes."""
    try:
        return {p: p.stat().st_size for p in cache_folder().glob("*.npy")}
    except OSError:  # gone while it was looked at, or not to be read
        return {}


def cached_rows(key: str, shape: tuple[int, ...], fill: Callable[[Embeddings], None]) -> Embeddings:
    """A float32 memmap of this shape that `fill` wrote, once; the next caller reuses the file.

    The file gets its name only when it is whole, so that what is found is complete.
    """
    path = cache_folder() / f"{key}.npy"
    try:
        if (found := _whole(path, shape)) is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{key}-") as parts:
            part = Path(parts) / path.name
            rows = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            fill(rows)
            rows.flush()
            del rows
            part.replace(path)
        return open_rows(path)
    except OSError as e:
        size = 4 * np.prod(shape, dtype=np.int64) / 1e9
        raise DataError(
            f"cannot keep {size:.1f} GB of embeddings in {path} ({e}); "
            "set SIDBENCH_CACHE to a folder with room that can be written"
        ) from None


def _whole(path: Path, shape: tuple[int, ...]) -> Embeddings | None:
    """What the cache holds under this name, if it is what it should be."""
    try:
        found = open_rows(path)
    except (FileNotFoundError, ValueError):  # absent, or torn by something other than this program
        return None
    return found if found.shape == shape and found.dtype == np.float32 else None


def open_rows(path: Path) -> Embeddings:
    """A `.npy` file as a read-only memmap."""
    rows: Embeddings = np.load(path, mmap_mode="r")
    return rows


def code_fingerprint(file: str) -> str:
    """A short hash of a source file: part of the name of what that code wrote to the cache."""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=4).hexdigest()


def _fingerprint(corpus: Corpus) -> str:
    h = hashlib.blake2b(digest_size=8)
    h.update(repr((corpus.embeddings.shape, len(corpus.sequences))).encode())
    step = max(1, 16_000_000 // corpus.embeddings.shape[1])
    for start in range(0, len(corpus), step):
        h.update(np.ascontiguousarray(corpus.embeddings[start : start + step]).data)
        forget(corpus.embeddings)
    h.update(np.ascontiguousarray(corpus.sequences.items).data)
    h.update(np.ascontiguousarray(corpus.sequences.offsets).data)
    return h.hexdigest()


def _catalogue(corpus: Corpus) -> str:
    h = hashlib.blake2b(digest_size=8)
    for values in (corpus.item_ids, corpus.titles, corpus.categories):
        h.update(b"none\0" if values is None else b"some\0")
        for start in range(0, len(values) if values is not None else 0, 65_536):
            # By value: the same ids as int32 or int64, the same text in a wider array, are the same.
            h.update(repr(np.asarray(values[start : start + 65_536]).tolist()).encode())  # type: ignore[index]
    return h.hexdigest()
