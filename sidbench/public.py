"""Public: what datasets that others publish share: fetched or by hand, parsed once, prepared, compared."""

from __future__ import annotations

import hashlib
import json
import string
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field

from sidbench import prepare, rawfiles
from sidbench.dataset import Corpus, Dataset, Embeddings, cache_folder
from sidbench.download import Remote, fingerprint, obtain
from sidbench.embed import learned_as, learned_beside, vectors_for
from sidbench.errors import DataError, UsageError
from sidbench.files.columns import Columns
from sidbench.files.ids import as_numpy, identifiers
from sidbench.files.items import asked_of
from sidbench.files.join import gathered, rows_by_id
from sidbench.prepare import Log, Mask, Steps
from sidbench.vectors import open_vectors

#: A date as text; TOML's own dates are taken too.
Moment = Annotated[str, BeforeValidator(lambda v: v.isoformat() if isinstance(v, date) else v)]
Core = Annotated[int, Field(ge=1)]
COUNTED = ("users", "items", "interactions")


@dataclass(frozen=True)
class Figures:
    """What somebody says a log holds; None where nothing is said."""

    users: int | None
    items: int | None
    interactions: int | None
    said_by: str
    #: Whether another number can only mean another file (or a torn one).
    exact: bool = True

    def differs(self, counts: tuple[int, int, int]) -> str:
        """Both numbers where they differ; empty where they do not."""
        said = (self.users, self.items, self.interactions)
        odd = [
            f"{found:,} {what} where {self.said_by} has {expected:,}"
            for what, found, expected in zip(COUNTED, counts, said, strict=True)
            if expected is not None and found != expected
        ]
        return ", ".join(odd)


class Public(Dataset):
    """A published log and catalogue, with the steps of the paper that most others follow as defaults."""

    group: ClassVar[str] = "what is done with the files"
    verified: ClassVar[bool] = False
    incidental: ClassVar[tuple[str, ...]] = ("files", "statistics")
    #: What the text template may name.
    fields: ClassVar[tuple[str, ...]] = ("title",)

    #: A folder with the published files, put there by hand; without it they are fetched into the cache.
    files: Path | None = None
    #: Events from this moment on (ISO date in UTC; empty: all).
    start: Moment = ""
    #: Events up to this moment, included (ISO date in UTC; empty: all).
    end: Moment = ""
    #: Events rated lower are dropped (0: none).
    rating: Annotated[float, Field(ge=0)] = 0.0
    #: A user's several events with one item: all stay, or the first or last alone.
    repeats: Literal["published", "keep", "first", "last"] = "keep"
    #: Users with fewer events are dropped, again and again with the items (1: none).
    user_core: Core = 5
    #: Items with fewer events are dropped, again and again with the users (1: none).
    item_core: Core = 5
    #: Users with fewer events are dropped at the end; leave-one-out evaluates from three on.
    shortest: Core = 3
    #: Items that are read before a target that selects or tests, the newest ones (0: all); all events train.
    history: Annotated[int, Field(ge=0)] = 20
    #: What is said of an item, as text for embeddings; names of fields in braces.
    text: str = "{title}"
    #: Where vectors come from: tfidf, collaborative, sentence-transformers/NAME, or a file with ids.
    embedding: str = "tfidf"
    #: Numbers in the vectors that are none (NaN, infinite): an error, or zeros, counted.
    nan: Literal["error", "zero"] = "error"
    #: Counts other than the published ones: an error where the files are fixed, or a note in any case.
    statistics: Literal["error", "note"] = "error"

    @abstractmethod
    def remotes(self) -> dict[str, Remote]:
        """The files that `events` and `items` are read from, by these names."""

    @abstractmethod
    def read_events(self, path: Path) -> Log:
        """The whole log, in the order of the file."""

    @abstractmethod
    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        """Column `item` and one of text for each of `fields`; only these ids are needed, or all."""

    def label(self) -> str:
        """The corpus's name."""
        return f"{self.name}-{getattr(self, self.variant)}" if self.variant else self.name

    def steps(self) -> Steps:
        """What is done with the log before it is split."""
        repeats = "keep" if self.repeats == "published" else self.repeats
        return Steps(
            self.start, self.end, self.rating, repeats, self.user_core, self.item_core, self.shortest
        )

    def raw_figures(self) -> Figures | None:
        """What the file of events holds, according to who publishes it."""
        return None

    def figures(self) -> Figures | None:
        """What is left after the published steps, according to a paper."""
        return None

    def known(self, log: Log, items: Callable[[], pa.Table]) -> tuple[Mask, str] | None:
        """Which items may stay because of what the catalogue says of them, and why others may not."""
        return None

    def load(self) -> Corpus:
        self._check_template()
        files = self._files()
        log = self._prepared(files)
        prepared = log.sequences()
        about, notes = self._about(files["items"], prepared.item_ids)
        texts = filled(self.text, about)
        own = Path(self.embedding).expanduser()
        if own.is_file():
            x, said, learned = by_id(own, prepared.item_ids), (), learned_beside(own)
        else:
            x, facts = vectors_for(
                self.embedding,
                texts=texts,
                sequences=prepared.sequences,
                items=len(prepared.item_ids),
                where=f"dataset {self.label()!r}",
            )
            said, learned = tuple(facts.get("notes", ())), learned_as(facts)
        x, odd = self._finite(x, prepared.item_ids)
        return Corpus(
            name=self.label(),
            embeddings=x,
            item_ids=as_numpy(prepared.item_ids),
            sequences=prepared.sequences,
            user_ids=as_numpy(prepared.user_ids),
            titles=as_numpy(about.column("title")),
            times=prepared.times,
            learned_under=learned.under,
            learned_from=learned.digests,
            window=self.history,
            notes=(*prepared.notes, *notes, *said, *odd),
        )

    def _files(self) -> dict[str, Path]:
        """Where the files are; where one is not to be had, all that are needed are named at once."""
        remotes = self.remotes()
        try:
            return {name: obtain(remote, self.files) for name, remote in remotes.items()}
        except DataError as e:
            needed = " and ".join(dict.fromkeys(r.name for r in remotes.values()))
            raise DataError(
                f"{e}. {self.label()} is read from {needed}; --set dataset.files=FOLDER takes them from a "
                "folder of yours"
            ) from None

    # -------------------------------------------------------------------------------------- the log

    def _prepared(self, files: dict[str, Path]) -> Log:
        """The log after all steps, from the cache where the same was done before."""
        steps = self.steps()

        def make() -> pa.Table:
            raw = from_table(self._raw(files["events"]))
            log = self._compared(raw, raw.counts, self.raw_figures())
            catalogue: list[pa.Table] = []

            def items() -> pa.Table:
                if not catalogue:
                    catalogue.append(self._items(files["items"], None))
                return catalogue[0]

            log = steps(log, lambda log: self.known(log, items))
            if self._as_published():
                log = self._compared(log, log.counts, self.figures())
            return to_table(log)

        same = {k: v for k, v in self.deciding().items() if k not in ("text", "embedding", "nan", "history")}
        made_from = (asdict(steps), same, self.statistics, *(fingerprint(p) for p in files.values()))
        return from_table(self._kept("prepared", make, *made_from))

    def _raw(self, path: Path) -> pa.Table:
        """The whole log as the file has it."""
        part = getattr(self, self.variant) if self.variant else ""
        return self._kept(
            "events", lambda: to_table(self.read_events(path)), fingerprint(path), path.name, part
        )

    def _as_published(self) -> bool:
        """Whether the steps are those that the published counts are of."""
        changes = {"files", "statistics", "history", "text", "embedding", "nan", self.variant}
        return self.steps() == type(self)(**{k: v for k, v in self.params().items() if k in changes}).steps()

    def _compared(self, log: Log, counts: tuple[int, int, int], figures: Figures | None) -> Log:
        """The log with a note, or an error, where it is not what was published."""
        if figures is None or not (odd := figures.differs(counts)):
            return log
        said = f"{self.label()} holds {odd}"
        if figures.exact and self.statistics == "error":
            raise DataError(
                f"{said}: the file is another one or not whole. Get it again (delete it from the cache), or "
                "go on with --set dataset.statistics=note"
            )
        return log.noted(said)

    # -------------------------------------------------------------------------------------- the items

    def _items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        """What the catalogue says of these items (or of all), from the cache where it was read before."""
        h = hashlib.blake2b(digest_size=8)
        if ids is not None:
            for start in range(0, len(ids), 65_536):
                h.update(repr(ids[start : start + 65_536].to_pylist()).encode())
        part = getattr(self, self.variant) if self.variant else ""
        return self._kept(
            "items", lambda: self.read_items(path, ids), fingerprint(path), path.name, part, h.hexdigest()
        )

    def _about(self, path: Path, ids: pa.Array) -> tuple[pa.Table, list[str]]:
        """A row an item in the order of `ids`, empty where nothing is known, and how many those are."""
        items = self._items(path, ids)
        at = pc.index_in(ids, value_set=items.column("item").combine_chunks().cast(ids.type))
        notes = []
        if at.null_count:
            first = ids[int(np.asarray(at.is_null()).argmax())].as_py()
            notes.append(
                f"{at.null_count:,} of {len(ids):,} items are not in {path.name} (first {first!r}): "
                "nothing is said of them"
            )
        columns = {f: pc.fill_null(items.column(f).take(at), "") for f in self.fields}
        return pa.table(columns), notes

    def _check_template(self) -> None:
        """Only fields, by name alone."""
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as e:
            raise UsageError(f"{self.name}.text = {self.text!r} is no template ({e})") from None
        named = [name for _, name, spec, conversion in parts if name is not None]
        odd = [n for n in named if n not in self.fields]
        if odd or not named or any(spec or conversion for _, _, spec, conversion in parts):
            raise UsageError(
                f"{self.name}.text = {self.text!r}: expected at least one of "
                f"{', '.join('{' + f + '}' for f in self.fields)} and plain words"
            )

    def _finite(self, x: Embeddings, ids: pa.Array) -> tuple[Embeddings, list[str]]:
        """The vectors without what is no number."""
        bad = ~np.isfinite(x)
        if not bad.any():
            return x, []
        rows = bad.any(axis=1)
        said = f"{rows.sum():,} of {len(x):,} items have NaN or infinity among their numbers"
        if self.nan == "error":
            raise DataError(
                f"embedding {self.embedding!r}: {said}, first {ids[int(rows.argmax())].as_py()!r}; repair "
                "them, or --set dataset.nan=zero takes zeros for these numbers"
            )
        return np.where(bad, np.float32(0), x), [f"{said}: zeros were taken for {bad.sum():,} numbers"]

    # -------------------------------------------------------------------------------------- the cache

    def _kept(self, what: str, make: Callable[[], pa.Table], *made_from: object) -> pa.Table:
        """A table from the cache, under a name made of all it comes from, the code that reads included."""
        h = hashlib.blake2b(digest_size=10)
        for part in (self.name, what, *made_from):
            h.update(repr(part).encode() + b"\0")
        for module in (type(self).__module__, __name__, prepare.__name__, rawfiles.__name__):
            h.update(Path(str(sys.modules[module].__file__)).read_bytes())
        path = cache_folder() / "parsed" / f"{self.name}-{what}-{h.hexdigest()}.parquet"
        try:
            return pq.read_table(path)
        except (FileNotFoundError, pa.ArrowException):  # absent, or torn by something other than this program
            table = make()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as parts:
                part = Path(parts) / path.name
                pq.write_table(table, part, compression="zstd")
                part.replace(path)
        except OSError as e:
            raise DataError(
                f"cannot keep what was read in {path} ({e.strerror or e}); set SIDBENCH_CACHE to a folder "
                "with room that can be written"
            ) from None
        return table


def by_id(path: Path, ids: pa.Array) -> Embeddings:
    """Vectors of these items from a file that says whose each row is.

    A row's number would not do: which items there are, and in which order, follows from the steps.
    """
    vectors = open_vectors(path, **asked_of(path, Columns()))
    if not vectors.named:
        raise DataError(
            f"{path}: rows of vectors have no ids, and which items there are follows from the steps; write a "
            "parquet file with columns `item` and `embedding`"
        )
    row = rows_by_id(identifiers(ids, path), vectors, f"{path}", "the name `item`")
    if (row < 0).any():
        raise DataError(
            f"{path} has vectors of {vectors.rows:,} items, but not of {int((row < 0).sum()):,} of these "
            f"{len(ids):,}, first {ids[int((row < 0).argmax())].as_py()!r}; add them"
        )
    return gathered(vectors, row)


def to_table(log: Log) -> pa.Table:
    """A log as columns, its notes beside them."""
    columns = {
        "user": log.user_ids.take(pa.array(log.users)),
        "item": log.item_ids.take(pa.array(log.items)),
        "time": pa.array(log.times),
    }
    if log.ratings is not None:
        columns["rating"] = pa.array(log.ratings)
    return pa.table(columns).replace_schema_metadata({"notes": json.dumps(log.notes)})


def from_table(table: pa.Table) -> Log:
    """The log that was kept so."""
    ratings = table.column("rating") if "rating" in table.column_names else None
    log = Log.of(table.column("user"), table.column("item"), table.column("time"), ratings)
    return replace(log, notes=tuple(json.loads(table.schema.metadata[b"notes"])))


def filled(template: str, about: pa.Table) -> pa.Array:
    """The template with each item's fields, one space between words."""
    parts: list[Any] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(pa.scalar(literal, pa.large_string()))
        if name is not None:
            parts.append(about.column(name).combine_chunks().cast(pa.large_string()))
    text = pc.binary_join_element_wise(*parts, pa.scalar("", pa.large_string()))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"\s+", " "))
