"""The catalogue in a person's files: ids, vectors in a column or beside, titles, categories."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench import delimited
from sidbench.dataset import Embeddings, cached_rows, forget
from sidbench.embed.text import WORDS, joined
from sidbench.errors import DataError, UsageError
from sidbench.files import tables
from sidbench.files.columns import Columns, recognise
from sidbench.files.ids import as_numpy, empty, from_text, identifiers, repeats
from sidbench.files.join import rows_by_id
from sidbench.files.survey import Survey, pieces, survey
from sidbench.files.text import TableVectors, numbered
from sidbench.vectors import Vectors, open_vectors
from sidbench.vectors_more import GappyParquet
from sidbench.vectors_parquet import ParquetVectors

Rows = NDArray[np.int64]
#: Larger vectors stay on disk and are read through a map.
IN_MEMORY = 1 << 30
#: Titles are for people: what they may take of memory together.
TITLES = 256 << 20


@dataclass(frozen=True)
class Policy:
    """What becomes of what cannot be used as it is."""

    #: Rows of vectors with NaN or infinity: an error, or such numbers become zero.
    nan: Literal["error", "zero"] = "error"
    #: Items whose id repeats an earlier one: an error, or the first stands.
    repeated: Literal["error", "first"] = "error"
    #: Items without id or vector, events without user, item or time, or of unknown items: left out, or an
    #: error.
    unusable: Literal["drop", "error"] = "drop"


@dataclass(eq=False)
class Items:
    """Items as the files hold them; vectors are read when they are asked for."""

    #: One id for every item that is kept, and the row of the vectors that is its own.
    ids: pa.Array
    row: Rows
    vectors: Vectors | None
    policy: Policy
    #: The rows of the table that are kept; None where there is no table.
    table: pa.Table | None = None
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    #: What the vectors look like, once they were looked at.
    survey: Survey | None = None
    _held: Embeddings | None = None

    def look(self, *, keep: bool) -> Survey | None:
        """One pass over the vectors: what they are, which items have none; `keep` what fits in memory."""
        if self.vectors is None or self.survey is not None:
            return self.survey
        vectors, used = self.vectors, np.zeros(self.vectors.rows, np.bool_)
        used[self.row] = True
        gaps = self.table is not None
        out: Embeddings | None = None
        if keep and 4 * vectors.rows * vectors.dim <= IN_MEMORY:
            out = np.empty((vectors.rows, vectors.dim), np.float32)

        def sink(at: int, rows: Embeddings) -> None:
            if out is not None:
                out[at : at + len(rows)] = rows

        self.survey, without = survey(vectors, used, gaps, sink)
        if without[self.row].any():
            self._drop(~without[self.row], "have no vector", self.policy.unusable == "error")
        if self.survey.not_finite:
            first = self.survey.first_not_finite
            said = (
                f"{self.survey.not_finite:,} items have a vector with NaN or infinity, first in row {first}"
            )
            if self.policy.nan == "error":
                raise DataError(
                    f"{vectors.path}: {said}; repair them, or give the files by --items with --set "
                    "dataset.nan=zero: such numbers then become zero"
                )
            self.notes.append(f"{said}: such numbers became zero (nan = zero)")
        self._held = out if out is None else self._clean(out[self.row])
        return self.survey

    def load(self) -> Embeddings:
        """The vectors of the kept items: in memory, or as a float32 map of a file."""
        assert self.vectors is not None
        self.look(keep=True)
        if self._held is not None:
            return self._held
        vectors, row, n = self.vectors, self.row, len(self.row)
        found = vectors.array()
        in_order = n == vectors.rows and bool((row == np.arange(n)).all())
        assert self.survey is not None
        if found is not None and in_order and not self.survey.not_finite:
            return found
        item = np.full(vectors.rows, -1, np.int64)
        item[row] = np.arange(n)

        def fill(out: Embeddings) -> None:
            for at, rows in pieces(vectors):
                to = item[at : at + len(rows)]
                out[to[to >= 0]] = self._clean(rows[to >= 0])
                forget(out)

        return cached_rows(self._key(), (n, vectors.dim), fill)

    @cached_property
    def titles(self) -> NDArray[np.str_] | None:
        """What people call the items; cut where they would take gigabytes."""
        name = None if self.table is None else self.facts["columns"].get("title")
        if name is None or self.table is None:
            return None
        texts = pc.fill_null(_as_text(self.table.column(name)), "")
        longest = pc.max(pc.utf8_length(texts)).as_py() or 0
        if (most := max(16, TITLES // (4 * max(1, len(texts))))) < longest:
            texts = pc.utf8_slice_codeunits(texts, 0, most)
            self.notes.append(f"titles are cut to {most} characters, the longest has {longest:,}")
        return as_numpy(texts)

    @cached_property
    def categories(self) -> NDArray[np.int32] | None:
        name = None if self.table is None else self.facts["columns"].get("categories")
        if name is None or self.table is None:
            return None
        return read_categories(tables.whole(self.table.column(name)), name, self.notes)

    @cached_property
    def texts(self) -> pa.Array | None:
        """All that is said of the items in words."""
        if self.table is None or not self.facts["words"]:
            return None
        return joined(self.table, self.facts["words"])

    def _drop(self, keep: NDArray[np.bool_], why: str, refuse: bool) -> None:
        """Leave items out, counted and said; or refuse them."""
        gone = np.flatnonzero(~keep)
        if not len(gone):
            return
        first = self.ids[int(gone[0])].as_py()
        said = f"{len(gone):,} of {len(keep):,} items {why}, first {'one' if first is None else repr(first)}"
        if refuse or len(gone) == len(keep):
            raise DataError(f"{self.facts['file']}: {said}; {REMEDIES.get(why, 'repair or remove them')}")
        self.notes.append(f"{said}: left out")
        self.facts["dropped"][why] = len(gone)
        kept = np.flatnonzero(keep)
        self.ids, self.row = self.ids.take(pa.array(kept)), self.row[kept] if len(self.row) else self.row
        if self.table is not None:
            self.table = self.table.take(pa.array(kept))

    def _clean(self, rows: Embeddings) -> Embeddings:
        if self.survey is not None and self.survey.not_finite and self.policy.nan == "zero":
            return np.nan_to_num(rows, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return rows

    def _key(self) -> str:
        """The name in the cache: everything that decides the rows, the files by what they hold."""
        assert self.vectors is not None
        h = hashlib.blake2b(digest_size=12)
        h.update(json.dumps([self.vectors.layout(), self.policy.nan], sort_keys=True, default=str).encode())
        h.update(np.ascontiguousarray(self.row).data)
        for path in self.vectors.files():
            with path.open("rb") as file:
                while piece := file.read(1 << 24):
                    h.update(piece)
        return f"files-{h.hexdigest()}"


REPEAT = "repeat an earlier id"
REMEDIES = {
    "have no vector": "give every item one, or leave such items out",
    REPEAT: "every item must stand once; or give the files by --items with --set dataset.repeated=first",
}


def open_items(
    path: Path,
    beside: Path | None,
    columns: Columns,
    policy: Policy,
    *,
    without_vectors: bool = False,
    dim: int | None = None,
    dtype: str | None = None,
) -> Items:
    """See what the files hold: ids and words are read, of vectors nothing but where they lie."""
    if not path.exists():
        raise UsageError(f"there is no file {path}; give the items' file")
    if not tables.is_table(path) or tables.kind_of(path) in (".npz", ".npy"):
        return _vectors_alone(path, beside, columns, policy, dim, dtype)
    schema = tables.types(path)
    names = schema.names
    known = {
        role: name
        for role in ("item", "embedding", "title", "categories")
        if (name := columns.find(names, "items", role)) is not None
    }
    inside = known.pop("embedding", None)
    wide = [] if inside is not None or tables.is_list(_type(schema, inside)) else numbered(names)
    if beside is not None or without_vectors:
        inside, wide = None, []
    if inside is not None and _is_words(schema, inside) and not _spells_numbers(path, inside):
        inside = None  # `features` of products are words
    words = [w for role in WORDS if (w := recognise(names, role)) is not None and _is_words(schema, w)]
    words = list(dict.fromkeys([*([known["title"]] if "title" in known else []), *words]))
    if "item" not in known:
        columns.need(names, "items", "item", str(path))
    text = tables.kind_of(path) in (".csv", ".tsv")
    table = tables.read(path, list(dict.fromkeys([known["item"], *known.values(), *words])))
    if not len(table):
        raise DataError(f"{path} has no rows; expected at least one item")
    ids = identifiers(tables.whole(table.column(known["item"])), path)
    ids = from_text(ids) if text else ids
    used = {*known.values(), inside, *wide, *(words if without_vectors else [])}
    facts: dict[str, Any] = {
        "file": path.name,
        "kind": tables.kind_of(path).lstrip(".") or "folder of parquet",
        "rows": len(table),
        "columns": known,
        "others": [n for n in names if n not in used],
        "words": words,
        "dropped": {},
    }
    items = Items(ids, np.arange(len(ids)), None, policy, table, facts=facts)
    if beside is not None:
        _join(items, open_vectors(beside, **asked_of(beside, columns, dim, dtype)), beside)
    elif not without_vectors:
        if inside is None and not wide:
            raise DataError(_no_vectors(path, items))
        facts["columns"] = {**known, "embedding": inside or f"{wide[0]} … {wide[-1]}"}
        items.vectors = _inside(path, inside, known["item"])
    items._drop(~empty(items.ids), "have no id", policy.unusable == "error")
    items._drop(~repeats(items.ids), REPEAT, policy.repeated == "error")
    return items


def _vectors_alone(
    path: Path, beside: Path | None, columns: Columns, policy: Policy, dim: int | None, dtype: str | None
) -> Items:
    """A file of vectors is the catalogue: its ids, or else the numbers of its rows."""
    if beside is not None:
        raise UsageError(f"{path.name} holds vectors itself; give --embeddings beside a table of items")
    vectors = open_vectors(path, **asked_of(path, columns, dim, dtype))
    own = vectors.ids(0, vectors.rows)
    ids = pa.array(np.arange(vectors.rows)) if own is None else identifiers(tables.whole(own), path)
    facts: dict[str, Any] = {
        "file": path.name,
        "kind": vectors.kind,
        "rows": vectors.rows,
        "columns": {"item": "number of the row"} if own is None else {"item": "ids in the file"},
        "others": [],
        "words": [],
        "dropped": {},
    }
    items = Items(ids, np.arange(vectors.rows), vectors, policy, facts=facts)
    items._drop(~empty(items.ids), "have no id", policy.unusable == "error")
    items._drop(~repeats(items.ids), REPEAT, policy.repeated == "error")
    return items


def _join(items: Items, vectors: Vectors, beside: Path) -> None:
    """Vectors beside a table: by their ids where they have any, else row by row."""
    items.vectors, items.facts["embeddings"] = vectors, beside.name
    if not vectors.named:
        if vectors.rows != len(items.ids):
            raise DataError(
                f"{items.facts['file']} has {len(items.ids):,} rows, {beside.name} has {vectors.rows:,}; "
                "row i of both must be one item, or the vectors need ids"
            )
        items.facts["joined"] = "row by row"
        if pa.types.is_integer(items.ids.type) and (np.diff(np.asarray(items.ids.drop_null())) < 0).any():
            items.notes.append(
                f"item ids do not ascend in {items.facts['file']}; row i of {beside.name} is taken for its "
                "row i"
            )
        return
    items.row = rows_by_id(items.ids, vectors, f"{beside}")
    items.facts["joined"] = "by id"
    over = vectors.rows - len(np.unique(items.row[items.row >= 0]))
    if over:
        items.notes.append(
            f"{over:,} of {vectors.rows:,} vectors in {beside.name} are of no item of the table"
        )
    items._drop(items.row >= 0, "have no vector", items.policy.unusable == "error")


def asked_of(
    path: Path, columns: Columns, dim: int | None = None, dtype: str | None = None
) -> dict[str, Any]:
    """What to ask a file of vectors for: only a table has columns to be recognised."""
    asked: dict[str, Any] = {"dim": dim, "dtype": dtype}
    if tables.is_table(path) and tables.kind_of(path) not in (".npz", ".npy") and not path.is_dir():
        names = tables.names(path)
        asked["column"] = columns.find(names, "embeddings", "embedding")
        asked["id_column"] = columns.find(names, "embeddings", "item")
    else:
        asked["column"] = columns.given.get(("embeddings", "embedding"))
        asked["id_column"] = columns.given.get(("embeddings", "item"))
    return asked


def _inside(path: Path, column: str | None, id_column: str) -> Vectors:
    """Vectors in the table itself; a gap in the column is an item without one."""
    plain = tables.kind_of(path) == ".parquet" and path.is_file()
    if plain and column is not None and tables.is_list(_type(tables.types(path), column)):
        found = open_vectors(path, column=column, id_column=id_column)
        assert isinstance(found, ParquetVectors)
        return GappyParquet(path, found.column, found.id_column, found.dim, found.dtype)
    return TableVectors(path, [column] if column is not None else numbered(tables.names(path)), None)


def _no_vectors(path: Path, items: Items) -> str:
    said = f"{path} has no column of vectors"
    if items.facts["words"]:
        return (
            f"{said}, but words ({', '.join(items.facts['words'])}): --embedding tfidf makes vectors of "
            "them, `sidbench embed` with a language model; or give --embeddings FILE"
        )
    return (
        f"{said}; give --embeddings FILE, or name the column with --columns embedding=COLUMN. "
        f"Columns: {', '.join(tables.names(path))}."
    )


def _type(schema: pa.Schema, name: str | None) -> pa.DataType:
    return pa.null() if name is None else schema.field(name).type


def _is_words(schema: pa.Schema, name: str) -> bool:
    kind = _type(schema, name)
    kind = kind.value_type if tables.is_list(kind) or pa.types.is_dictionary(kind) else kind
    return tables.is_text(kind)


def _spells_numbers(path: Path, name: str) -> bool:
    """Whether the first cell of a column of text is a list of numbers."""
    for batch in tables.batches(path, [name]):
        cells = batch.column(0).drop_null()
        if tables.is_list(cells.type):
            return False
        if len(cells):
            words = tables.split_text(cells[:1])[0].as_py()
            return bool(words) and all(delimited.NUMBER.fullmatch(w) for w in words)
    return False


def _as_text(column: Any) -> Any:
    """Cells as text, lists of words as one text."""
    column = tables.whole(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if tables.is_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), " ")
    return column.cast(pa.string())


def read_categories(column: pa.Array, name: str, notes: list[str]) -> NDArray[np.int32] | None:
    """A column of paths as numbers: at each level one for each distinct path from the root."""
    # Text in this column is somebody's free-form label; only lists say what is above what.
    if not tables.is_list(column.type):
        return None
    depths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(depths) != 1 or not depths[0]:
        notes.append(f"the lists of column {name} differ in length: no category tree is known")
        return None
    names = pc.fill_null(column.flatten().cast(pa.string()), "").dictionary_encode().indices
    codes = np.asarray(names, dtype=np.int64).reshape(len(column), -1)
    levels = [np.unique(codes[:, : depth + 1], axis=0, return_inverse=True)[1] for depth in range(depths[0])]
    return np.stack([level.reshape(-1) for level in levels], axis=1).astype(np.int32)
