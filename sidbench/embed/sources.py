"""Sources of vectors for a table of items: its text, a file of vectors, the users' sequences."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sidbench import embed
from sidbench.dataset import check_finite
from sidbench.embed import collaborative, model, output, text
from sidbench.embed.tfidf import DIM, Tfidf
from sidbench.errors import DataError, UsageError, nearest
from sidbench.files.columns import Columns
from sidbench.vectors import Vectors

Floats = NDArray[np.float32]
Held = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items' file: which columns it has, and those that were read."""

    path: Path
    columns: tuple[str, ...]
    table: pa.Table
    ids: pa.Array | None

    def __len__(self) -> int:
        return len(self.table)

    def unique_ids(self, why: str) -> pa.Array:
        """Ids by which rows of another file are found."""
        from sidbench.files.ids import repeats

        if self.ids is None:
            raise UsageError(
                f"{why}: {self.path.name} has no column of ids (item, item_id, asin, …) to join by; name it "
                f"with --columns item=COLUMN. It has: {', '.join(self.columns)}"
            )
        if (again := repeats(self.ids)).any():
            first = int(again.argmax())
            raise DataError(
                f"{why}: ids of {self.path.name} repeat, first {self.ids[first].as_py()!r} in row {first:,}; "
                "every item must stand once"
            )
        return self.ids


@dataclass(eq=False)
class Made:
    """Vectors, what to record of them, and what new items need."""

    rows: Floats
    facts: dict[str, Any]
    #: Arrays by name (NumPy or arrow): what was learned.
    held: Held = field(default_factory=dict)


@dataclass(frozen=True)
class Source(ABC):
    """One source. `about` decides its vectors, and so is part of their name."""

    kind: ClassVar[str]

    @abstractmethod
    def columns(self, names: tuple[str, ...], where: str) -> list[str]:
        """The items' columns that are read."""

    @abstractmethod
    def about(self, items: Catalogue) -> dict[str, Any]:
        """Everything that decides the vectors, files by their content."""

    @abstractmethod
    def make(self, items: Catalogue, work: Path) -> Made:
        """Learn from these items."""

    @abstractmethod
    def again(self, items: Catalogue, work: Path, held: Held, facts: dict[str, Any]) -> Made:
        """Vectors of other items by what was learned."""


@dataclass(frozen=True)
class Text(Source):
    """What stands in the items' columns, by TF-IDF or a language model."""

    kind = "text"
    #: Columns one behind the other; none of both: those that are known by their names.
    names: tuple[str, ...] = ()
    template: str = ""
    #: None for TF-IDF.
    encoder: model.Encoder | None = None
    dim: int | None = None
    seed: int = 0
    machines: model.Machines = field(default_factory=model.Machines)

    def columns(self, names: tuple[str, ...], where: str) -> list[str]:
        asked = text.fields(self.template) if self.template else list(self.names)
        text.check_columns(asked, names, where)
        return asked or text.default_columns(names, where)

    def texts(self, items: Catalogue) -> pa.Array:
        if self.template:
            return text.filled(items.table, self.template)
        return text.joined(items.table, self.columns(items.columns, items.path.name))

    def about(self, items: Catalogue) -> dict[str, Any]:
        h = hashlib.sha256()
        embed.update_with_texts(h, self.texts(items))
        learned = {"method": "tfidf", "dim": self.dim, "seed": self.seed}
        return {
            "kind": self.kind,
            "columns": self.columns(items.columns, items.path.name),
            "template": self.template or None,
            "texts_sha256": h.hexdigest(),
            **(learned if self.encoder is None else self.encoder.facts() | {"dim": self.dim}),
        }

    def make(self, items: Catalogue, work: Path) -> Made:
        texts = self.texts(items)
        if self.encoder is not None:
            return self._read(texts, work)
        learned = Tfidf.fit(texts, self.dim or DIM, self.seed)
        held = {"words": learned.words, "idf": learned.idf, "axes": learned.axes}
        facts = {**learned.facts(), "notes": learned.notes()}
        return self._counted(learned.transform(texts), texts, facts, held)

    def again(self, items: Catalogue, work: Path, held: Held, facts: dict[str, Any]) -> Made:
        texts = self.texts(items)
        if self.encoder is not None:
            return self._read(texts, work)
        learned = Tfidf(held["words"].cast(pa.large_string()), held["idf"], held["axes"])
        about = {"method": facts.get("method"), "dim": learned.axes.shape[1], "notes": []}
        return self._counted(learned.transform(texts), texts, about, {})

    def _read(self, texts: pa.Array, work: Path) -> Made:
        assert self.encoder is not None
        x = model.encode(texts, self.encoder, work, self.machines)
        if self.dim is not None and self.dim > x.shape[1]:
            raise UsageError(f"--dim {self.dim}: {self.encoder.name} gives {x.shape[1]} numbers")
        return self._counted(x[:, : self.dim], texts, {"dim": self.dim or x.shape[1], "notes": []}, {})

    def _counted(self, x: Floats, texts: pa.Array, facts: dict[str, Any], held: Held) -> Made:
        return Made(x, facts | embed.count_zeros(x, texts, facts["notes"]), held)


@dataclass(frozen=True)
class File(Source):
    """Vectors that somebody made (of images, say), joined by id where the file has ids, else row by row."""

    kind = "vectors"
    path: Path = Path()
    #: Which column is what, where it is not recognised.
    roles: Columns = field(default_factory=Columns)

    def columns(self, names: tuple[str, ...], where: str) -> list[str]:
        return []

    def about(self, items: Catalogue) -> dict[str, Any]:
        vectors = self._open()
        files = [output.sha256(path) for path in vectors.files()]
        about = {"kind": self.kind, "file": self.path.name, "sha256": files, "layout": vectors.layout()}
        if vectors.named:  # which row is whose
            about["ids_sha256"] = _digest(items.unique_ids(f"--source vectors:{self.path.name}"))
        return about

    def make(self, items: Catalogue, work: Path) -> Made:
        from sidbench.files.join import gathered, rows_by_id

        vectors, where = self._open(), f"--source vectors:{self.path.name}"
        facts: dict[str, Any] = {"dim": vectors.dim, "rows": vectors.rows, "notes": []}
        facts |= embed.facts_of(embed.learned_beside(self.path))  # what was learned of interactions stays so
        if not vectors.named and vectors.rows != len(items):
            raise DataError(
                f"{where} has {vectors.rows:,} rows and no ids, {items.path.name} has {len(items):,} items; "
                "give a file with an id column, or with row i for item i"
            )
        row = (
            rows_by_id(items.unique_ids(where), vectors, where, "--source vectors:FILE:item=COLUMN")
            if vectors.named
            else np.arange(len(items))
        )
        x = gathered(vectors, row)
        check_finite(x, f"{where} (rows as in {items.path.name})")
        facts |= {"joined_by": "id" if vectors.named else "row"}
        if vectors.named and (missing := int((row < 0).sum())):
            facts["notes"].append(
                f"{missing:,} of {len(items):,} items are not in {self.path.name}: zeros stand there"
            )
        return Made(x, facts)

    def again(self, items: Catalogue, work: Path, held: Held, facts: dict[str, Any]) -> Made:
        return self.make(items, work)

    def _open(self) -> Vectors:
        from sidbench.files.items import asked_of
        from sidbench.vectors import open_vectors

        return open_vectors(self.path, **asked_of(self.path, self.roles))


@dataclass(frozen=True)
class Sequences(Source):
    """What stands near an item in the users' training interactions."""

    kind = "sequences"
    #: None where vectors that were learned before are looked up.
    path: Path | None = None
    #: Which column is what, where it is not recognised.
    roles: Columns = field(default_factory=Columns)
    dim: int | None = None
    seed: int = 0

    def columns(self, names: tuple[str, ...], where: str) -> list[str]:
        return []

    def about(self, items: Catalogue) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "file": None if self.path is None else self.path.name,
            "sha256": None if self.path is None else self._hash(self.path),
            "ids_sha256": _digest(items.unique_ids(self._where)),
            "dim": self.dim,
            "seed": self.seed,
            **({"columns": self.roles.text} if self.roles.given else {}),
        }

    def _hash(self, path: Path) -> str | list[str]:
        from sidbench.files import tables

        return [output.sha256(p) for p in tables.parts(path)] if path.is_dir() else output.sha256(path)

    def make(self, items: Catalogue, work: Path) -> Made:
        from sidbench.files.events import read_events
        from sidbench.files.ids import as_numpy

        assert self.path is not None
        ids = items.unique_ids(self._where)
        events = read_events(self.path, ids, self.roles, drop=True, timeless=True, whole=len(ids))
        sequences, _, notes = events.ordered("file")
        x, facts = collaborative.of_sequences(sequences, len(ids), dim=self.dim, seed=self.seed)
        facts["notes"] += [*events.notes, *notes]
        facts["interactions_sha256"] = [collaborative.training_part(sequences).digest(as_numpy(ids))]
        return Made(x, facts, {"ids": ids, "rows": x})

    def again(self, items: Catalogue, work: Path, held: Held, facts: dict[str, Any]) -> Made:
        from sidbench.files.ids import rows_of

        row = rows_of(items.unique_ids(self._where), held["ids"])
        x = np.where((row >= 0)[:, None], held["rows"][row], np.float32(0))
        new = int((row < 0).sum())
        notes = (
            [f"{new:,} of {len(items):,} items were not there when sequences were learned: zeros"]
            if new
            else []
        )
        known = embed.facts_of(embed.learned_as(facts))
        return Made(x, {"dim": x.shape[1], "unknown": new, "notes": notes, **known})

    @property
    def _where(self) -> str:
        return f"--source sequences:{'' if self.path is None else self.path.name}"


def parse(spec: str, **text_options: Any) -> Source:
    """A source as it is typed: text, text:title,brand, vectors:FILE, sequences:FILE:user=buyer,item=sku."""
    kind, _, what = spec.partition(":")
    if kind == "text":
        columns = tuple(c.strip() for c in what.split(",") if c.strip())
        if columns:
            text_options |= {"names": columns, "template": ""}
        return Text(**text_options)
    if kind not in ("vectors", "sequences"):
        raise UsageError(
            f"--source {spec!r}: expected text, text:COLUMN,COLUMN, vectors:FILE or sequences:FILE"
            f"{nearest(kind, ('text', 'vectors', 'sequences'))}"
        )
    path, roles = Path(what).expanduser(), Columns(how=f"--source {kind}:FILE:")
    if not path.exists() and "=" in what.rpartition(":")[2]:
        what, _, named = what.rpartition(":")
        path, file = Path(what).expanduser(), "embeddings" if kind == "vectors" else "sequences"
        given = {(file, role): name for (_, role), name in Columns.parse(named).given.items()}
        roles = replace(roles, given=given)
    if not what or not path.exists():
        raise UsageError(f"--source {spec!r}: there is no file {what or '(none is named)'}")
    if kind == "vectors":
        return File(path, roles)
    return Sequences(path, roles, text_options.get("dim"), text_options.get("seed", 0))


def _digest(ids: pa.Array) -> str:
    h = hashlib.sha256()
    embed.update_with_texts(h, ids.cast(pa.large_string()))
    return h.hexdigest()
