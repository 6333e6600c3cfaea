"""sidbench.load: a run's SIDs and tokenizer in Python: encode, look up, iterate sequences."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidbench import registry
from sidbench.dataset import Corpus
from sidbench.errors import DataError, UsageError
from sidbench.formats import manifest
from sidbench.plugin import configure
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs
from sidbench.tokenizer import Tokenizer, as_embeddings

if TYPE_CHECKING:
    from sidbench.sidsets import SidSequences

#: Rows that are encoded at a time.
CHUNK = 65_536
Ids = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Handle:
    """A run as something to work with. Nothing is read before it is asked for; nothing is changed."""

    folder: Path
    device: str = "auto"
    #: The resolver with the parameters that the run had, where they are known or given.
    resolver_: Resolver | None = None
    _sids: SIDs | None = None
    #: What is read once, for a run and what it is extended to.
    _held: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Handle({str(self.folder)!r})"

    @cached_property
    def sids(self) -> SIDs:
        """Every item's SID with its id: `sids.codes[i]` is that of `sids.item_ids[i]`."""
        if self._sids is None:
            manifest.check(self.folder, "sids.parquet")
        return self._sids if self._sids is not None else SIDs.load(self.folder)

    @cached_property
    def titles(self) -> NDArray[np.str_] | None:
        """What the items are called, in the order of `sids`, where that is known."""
        return None if self._sids is not None else SIDs.titles(self.folder)

    @property
    def tokenizer(self) -> Tokenizer:
        """The fitted tokenizer."""
        if "tokenizer" not in self._held:
            manifest.check(self.folder, "tokenizer.json", "tokenizer.safetensors")
            self._held["tokenizer"] = registry.load_tokenizer(self.folder, self.device)
        found: Tokenizer = self._held["tokenizer"]
        return found

    @cached_property
    def resolver(self) -> Resolver:
        """What gave SIDs their last form, as the run had it."""
        if self.resolver_ is not None:
            return self.resolver_
        name, params = self.sids.resolver, _resolver_params(self.folder, self.sids.manifest)
        if not name:
            raise UsageError(
                f"the SIDs in {self.folder} name no resolver: they are codes as the tokenizer gave them; "
                "load(..., resolver='suffix') chooses one"
            )
        return _resolver(name, params)

    def encode(self, x: Any) -> Codes:
        """The codes of any vectors, (items, levels) from 0: the tokenizer's own, items may share them."""
        rows, tokenizer = np.asanyarray(x), self.tokenizer
        starts = range(0, max(1, len(rows)), CHUNK)
        return np.concatenate([tokenizer.encode(rows[at : at + CHUNK]) for at in starts])

    def extended(self, x: Any, item_ids: Any) -> Handle:
        """The same run with new items after the old ones, whose SIDs stay; the resolver keeps them apart."""
        resolver = self.resolver
        x, given = as_embeddings(x, "extended"), np.asarray(item_ids)
        ids, unlike = self._like(given)
        if unlike.any():
            raise DataError(
                f"the new item id {given[unlike][:1].tolist()[0]!r} is no whole number, and this run's ids "
                f"are, such as {self.sids.item_ids[0]}; give new items such ids too"
            )
        if len(ids) != len(x):
            raise UsageError(f"{len(ids):,} item ids for {len(x):,} vectors; every item needs both")
        if len(np.unique(ids)) < len(ids):
            raise DataError("some of the new item ids stand twice; every item has one SID")
        both = resolver.replace().extend(self.sids, self.encode(x), ids, self.tokenizer, x)
        return replace(self, resolver_=resolver, _sids=both)

    def extend(self, x: Any, item_ids: Any) -> SIDs:
        """SIDs of new items, unique beside the catalogue's as far as the resolver can."""
        both = self.extended(x, item_ids).sids
        old = len(self.sids)
        return both.replace(codes=both.codes[old:], item_ids=both.item_ids[old:])

    def sid_of(self, item: Any) -> Codes:
        """The SID of an item by its id, or a row for each of several; -1 beyond the end of a shorter SID."""
        wanted = np.asarray(item)
        found = self.sids.codes[self.rows_of(wanted.reshape(-1))]
        return found[0] if wanted.ndim == 0 else found

    def rows_of(self, items: Any) -> NDArray[np.int64]:
        """Where items stand in `sids`, by their ids."""
        asked, (ids, order) = np.asarray(items).reshape(-1), self._by_id
        wanted, unlike = self._like(asked)
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        missing = np.flatnonzero((ids[at] != wanted) | unlike)
        if len(missing):
            raise DataError(
                f"{len(missing):,} of {len(asked):,} items have no SID in this run, first "
                f"{asked[missing[:1]].tolist()[0]!r}; its ids are such as {self.sids.item_ids[0].item()!r}"
            )
        return order[at]

    def items_of(self, sid: Any) -> Ids:
        """The ids of all items that have this SID or, of the beginning of one, that are below it."""
        return self.items_of_each(np.asarray(sid)[None])[0]

    def items_of_each(self, sids: Any) -> list[Ids]:
        """The same for many SIDs, or beginnings, of one length: an array of ids for each."""
        asked = np.asarray(sids)
        asked = asked.astype(np.int64) if not asked.size else asked
        if asked.dtype.kind not in "iu" or asked.ndim != 2 or asked.shape[1] > self.sids.levels:
            raise UsageError(
                f"a SID is up to {self.sids.levels} codes, such as {self.sids.codes[0].tolist()}; given "
                f"{asked.dtype} of shape {asked.shape[1:]}"
            )
        index = self._index
        begin, end = index.find(asked.astype(np.int64))
        return [self.sids.item_ids[index.order[a:b]] for a, b in zip(begin, end, strict=True)]

    def codebooks(self) -> list[NDArray[np.float32]]:
        """The vectors of each level's codes, where the method has such."""
        from sidbench.formats.codebooks import codebooks_of

        return list(codebooks_of(self.tokenizer).values())

    def sequences(
        self,
        data: Corpus | str,
        *,
        part: str = "train",
        protocol: str = "leave-one-out",
        max_length: int = 50,
        params: dict[str, Any] | None = None,
    ) -> SidSequences:
        """Users' sequences as SIDs, a PyTorch dataset: what trains, selects or tests, or `all` as it is.

        `data` is a corpus, or what --dataset takes with `params` of it. Histories keep their last
        `max_length` items.
        """
        from sidbench.sidsets import make

        corpus = data if isinstance(data, Corpus) else registry.load_dataset(data, params)
        return make(self.sids, self.rows_of(corpus.item_ids), corpus, part, protocol, max_length)

    def to_hf(self) -> Any:
        """The catalogue as a Hugging Face dataset: item_id, sid and, where known, title."""
        import pyarrow as pa

        from sidbench.sidsets import as_hf

        flat = pa.array(self.sids.codes.reshape(-1))
        columns = {
            "item_id": pa.array(self.sids.item_ids),
            "sid": pa.FixedSizeListArray.from_arrays(flat, self.sids.levels),
        }
        if self.titles is not None:
            columns["title"] = pa.array(self.titles)
        return as_hf(pa.table(columns))

    def _like(self, ids: Ids) -> tuple[Ids, NDArray[np.bool_]]:
        """Ids of the kind that this run has, numbers or text, and which of them cannot be."""
        text = np.char.decode(ids, "utf-8", "replace") if ids.dtype.kind == "S" else ids.astype(np.str_)
        if self.sids.item_ids.dtype.kind == "U":
            return text, np.zeros(ids.shape, np.bool_)
        if ids.dtype.kind == "i":
            return ids.astype(np.int64), np.zeros(ids.shape, np.bool_)
        digits = np.char.isdecimal(text) & (np.char.str_len(text) < 19)
        numbers = np.where(digits, text, "0").astype(np.int64)
        return numbers, np.not_equal(numbers.astype(np.str_), text)

    @cached_property
    def _by_id(self) -> tuple[Ids, NDArray[np.int64]]:
        order = np.argsort(self.sids.item_ids, kind="stable")
        return self.sids.item_ids[order], order

    @cached_property
    def _index(self) -> _Index:
        return _Index.of(self.sids)


@dataclass(frozen=True, eq=False)
class _Index:
    """Items in the order of their SIDs, and at each depth the prefixes with where their items begin."""

    order: NDArray[np.int64]
    #: Of every depth: parent prefix and code as one number, ascending; and where each one's items begin.
    keys: list[NDArray[np.int64]]
    begins: list[NDArray[np.int64]]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, sids: SIDs) -> _Index:
        order = np.lexsort(sids.codes.T[::-1])
        codes = sids.codes[order].astype(np.int64)
        parent = np.zeros(len(codes), np.int64)
        keys, begins = [], []
        for level, size in enumerate(sids.sizes):
            key = parent * (size + 1) + codes[:, level] + 1
            found, first, parent = np.unique(key, return_index=True, return_inverse=True)
            parent = parent.reshape(-1)
            keys.append(found)
            begins.append(np.append(first, len(codes)))
        return cls(order, keys, begins, sids.sizes)

    def find(self, prefixes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the items of each prefix begin and end in `order`; the same place where there are none."""
        at, there = np.zeros(len(prefixes), np.int64), np.ones(len(prefixes), np.bool_)
        depth = prefixes.shape[1]
        if not depth:
            return at, at + len(self.order)
        for level in range(depth):
            code, keys = prefixes[:, level], self.keys[level]
            key = at * (self.sizes[level] + 1) + code + 1
            at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            there &= (code >= -1) & (code < self.sizes[level]) & (keys[at] == key)
        begins = self.begins[depth - 1]
        return np.where(there, begins[at], 0), np.where(there, begins[at + 1], 0)


def load(
    run: str | Path,
    *,
    results: str | Path = "results",
    resolver: str | Resolver | None = None,
    device: str = "auto",
) -> Handle:
    """A run: the folder of its artifact, or its id or method's name in a results folder (the newest one).

    A folder that `sidbench fit` left encodes; it has no SIDs to look up.
    `resolver` overrides what gave the SIDs their last form, for items that come later.
    """
    folder = Path(run).expanduser()
    if not any((folder / name).is_file() for name in ("manifest.json", "tokenizer.json")):
        if folder.is_dir():
            raise UsageError(f"{folder} holds neither SIDs nor a fitted tokenizer; a run's artifact does")
        from sidbench.commands.results import find_run, open_store

        store = open_store(Path(results).expanduser())
        record = find_run(store, str(run))
        if record.key["kind"] != "tokenizer":
            raise UsageError(f"{record.label} has no SIDs: it is a {record.key['kind']}")
        folder = store.artifact(record.key)
    return Handle(folder, device, _resolver(resolver, {}) if isinstance(resolver, str) else resolver)


def _resolver(name: str, params: dict[str, Any]) -> Resolver:
    found: Resolver = configure(registry.find("resolver", name), params)
    return found


def _resolver_params(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Those in the manifest; of an older run those in the record beside, else the defaults."""
    if "resolver_params" in manifest:
        return dict(manifest["resolver_params"])
    place = folder.resolve()
    if len(place.parents) < 4:
        return {}
    record = place.parents[3].joinpath("records", *place.parts[-3:]).with_suffix(".json")
    try:
        return dict(json.loads(record.read_text())["key"]["resolver"]["params"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
