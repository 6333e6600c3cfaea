"""What inspect looks at: a run's SIDs, an artifact's or another system's, with the data that they are of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench import metrics, registry
from sidbench.commands.results import find_run, open_store
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.format import How
from sidbench.formats import reading
from sidbench.formats.codes import rows_of
from sidbench.metrics import Metric
from sidbench.metrics.collisions import BEFORE
from sidbench.plugin import parameter_types
from sidbench.protocol import PROTOCOLS, Split, split
from sidbench.record import RunRecord, Store
from sidbench.sids import Codes, SIDs, distinct_rows
from sidbench.tokenizer import Tokenizer

#: What legends say of codes that are the tokenizer's own, and what is true of others.
FOUND = (
    (BEFORE, "Taken on the codes as they are in the file, whatever a resolver did before."),
    (", before the resolver", ", as it is in the file"),
    ("codes before the resolver", "codes as they are in the file"),
)


@dataclass(frozen=True, eq=False)
class Subject:
    """SIDs with what is at hand beside them; row i of everything is one item."""

    title: str
    sids: SIDs
    #: The tokenizer's own levels; what a resolver added after them says nothing of the items.
    own: int
    corpus: Corpus | None = None
    split: Split | None = None
    tokenizer: Tokenizer | None = None
    #: Why something is not at hand.
    notes: tuple[str, ...] = ()
    #: What a person says of each item, in place of the dataset's categories; -1 where nothing.
    attribute: NDArray[np.int32] | None = None
    #: Whether a resolver may have changed the codes before: those of a file, or known to be moved.
    as_found: bool = False

    def legend(self, metric: Metric) -> str:
        """What a number says of these codes, and what it does not."""
        said = metric.legend
        for own, found in FOUND if self.as_found else ():
            said = said.replace(own, found)
        return said

    @property
    def ids(self) -> NDArray[Any]:
        return self.sids.item_ids if self.corpus is None else self.corpus.item_ids

    @property
    def codes(self) -> Codes:
        return self.sids.codes[:, : self.own]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.sids.sizes[: self.own]


@dataclass
class Loader:
    """Datasets and splits, each read once however many SIDs are looked at."""

    #: A dataset that a person named; else each run's own.
    dataset: str | None = None
    protocol: str = "leave-one-out"
    device: str = "auto"
    corpora: dict[str, Corpus] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    near: dict[str, metrics.Neighbours] = field(default_factory=dict)

    def corpus(self, spec: str, params: dict[str, Any]) -> Corpus:
        name = json.dumps([spec, params], sort_keys=True)
        if name not in self.corpora:
            self.corpora[name] = registry.load_dataset(spec, params)
        return self.corpora[name]

    def split(self, corpus: Corpus, protocol: str, params: dict[str, Any]) -> Split:
        name = json.dumps([corpus.fingerprint, protocol, params], sort_keys=True)
        if name not in self.splits:
            self.splits[name] = split(corpus, protocol, params)
        return self.splits[name]

    def neighbours(self, corpus: Corpus) -> metrics.Neighbours:
        if corpus.fingerprint not in self.near:
            self.near[corpus.fingerprint] = metrics.nearest_items(corpus.embeddings.view(np.ndarray))
        return self.near[corpus.fingerprint]

    def of_run(self, record: RunRecord, store: Store) -> Subject:
        """A run's SIDs, on the data and the split that the run had."""
        if record.key["kind"] != "tokenizer":
            raise UsageError(f"{record.label} has no SIDs: it is a {record.key['kind']}")
        about, protocol = record.key["dataset"], record.key["protocol"]
        known = parameter_types(PROTOCOLS[protocol["name"]]) if protocol["name"] in PROTOCOLS else {}
        params = {k: v for k, v in protocol.get("params", {}).items() if k in known}
        plugin = about.get("plugin")
        spec = about["name"] if plugin in (None, "folder") else plugin
        return self._of_artifact(
            store.artifact(record.key),
            f"{record.label}, run {record.id}",
            [(spec, about.get("params", {}))],
            (protocol["name"], params),
        )

    def of_folder(self, folder: Path) -> Subject:
        """An artifact wherever it lies; its manifest names the dataset, not how it was loaded."""
        manifest = SIDs.load(folder).manifest
        name = str(manifest.get("dataset", ""))
        specs = dict.fromkeys([name, name.replace("-", ":", 1)]) if name else {}
        title = f"{manifest.get('method', 'SIDs')}, {folder.name}"
        return self._of_artifact(folder, title, [(s, {}) for s in specs], (self.protocol, {}))

    def of_file(self, path: Path, sizes: tuple[int, ...] | None, how: How) -> Subject:
        """SIDs that any system wrote, in the order of the dataset's items where one is named."""
        table = reading.read(path, "inspect", how)
        ids, codes = table.ids, table.codes
        largest = tuple(int(c) + 1 for c in codes.max(axis=0))
        if sizes is not None and (len(sizes) != len(largest) or any(map(int.__lt__, sizes, largest))):
            raise UsageError(
                f"--sizes {','.join(map(str, sizes))} does not fit {path.name}: its levels hold codes up to "
                f"{', '.join(str(size - 1) for size in largest)} (counted from 0)"
            )
        notes = list(table.notes)
        if sizes is None and table.sizes is None:
            notes.append("a level's size is its largest code and one (--sizes says otherwise)")
        if table.suffix is None and len(largest) > 1 and len(distinct_rows(codes)[0]) == len(codes):
            notes.append("every SID is unique: the last level may be a suffix, apart from the items")
        corpus, divided, why = self._data([], (self.protocol, {}), "")
        rows = np.arange(len(codes))
        if corpus is not None:
            rows = rows_of(ids, len(codes), corpus.item_ids, path.name)
            left_out = len(codes) - len(np.unique(rows))
            notes += [f"{left_out:,} items of the file are not in the dataset"] if left_out else []
        own_ids = np.array(ids, dtype=np.str_) if ids is not None else np.arange(len(codes))
        found = SIDs(codes[rows], sizes or table.sizes or largest, own_ids[rows])
        said = (*notes, *why)
        return Subject(path.name, found, table.own, corpus, divided, None, said, as_found=True)

    def _of_artifact(
        self,
        folder: Path,
        title: str,
        specs: list[tuple[str, dict[str, Any]]],
        protocol: tuple[str, dict[str, Any]],
    ) -> Subject:
        sids = SIDs.load(folder)
        corpus, divided, why = self._data(specs, protocol, str(sids.manifest.get("fingerprint", "")))
        if corpus is not None:
            names = sids.item_ids.astype(str).tolist()
            rows = rows_of(names, len(names), corpus.item_ids, folder.name)
            sids = sids.replace(codes=sids.codes[rows], item_ids=sids.item_ids[rows])
        tokenizer = None
        try:
            tokenizer = registry.load_tokenizer(folder, self.device)
        except SidbenchError as e:
            why = (*why, f"no fitted tokenizer: {e}")
        own = int(sids.manifest.get("tokenizer_levels", sids.levels))
        if moved(sids, own):
            why = (*why, f"the resolver {sids.resolver} moves codes: all numbers are of what came out of it")
        return Subject(title, sids, own, corpus, divided, tokenizer, why, as_found=moved(sids, own))

    def _data(
        self, specs: list[tuple[str, dict[str, Any]]], protocol: tuple[str, dict[str, Any]], fingerprint: str
    ) -> tuple[Corpus | None, Split | None, tuple[str, ...]]:
        """The dataset that was named, which must be the right one, else the first that is."""
        if self.dataset is not None:
            corpus = self.corpus(self.dataset, {})
            if fingerprint and corpus.fingerprint != fingerprint:
                raise UsageError(
                    f"--dataset {self.dataset} is not what these SIDs were made on: its fingerprint is "
                    f"{corpus.fingerprint}, theirs {fingerprint}; leave --dataset out, or name the right one"
                )
            return corpus, self.split(corpus, *protocol), ()
        why: tuple[str, ...] = ("no dataset: --dataset names one",)
        for spec, params in specs:
            try:
                corpus = self.corpus(spec, params)
            except SidbenchError:
                why = (f"dataset {spec!r} is not found here: --dataset {place_of(spec)}names it",)
                continue
            if not fingerprint or corpus.fingerprint == fingerprint:
                return corpus, self.split(corpus, *protocol), ()
            why = (f"dataset {spec!r} is another one today (its fingerprint differs): --dataset names it",)
        return None, None, why


def moved(sids: SIDs, own: int) -> bool:
    """Whether codes are the resolver's: one that adds no level changes those that there are."""
    return own == sids.levels and sids.resolver not in ("", "keep")


def with_attribute(subject: Subject, given: str) -> Subject:
    """The values of one column of a parquet table, joined by item id: `items.parquet:brand`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, colon, column = given.rpartition(":")
    path = Path(file).expanduser()
    if not colon or not path.is_file():
        raise UsageError(
            f"--attribute {given}: expected FILE:COLUMN, a parquet table such as items.parquet:brand"
        )
    try:
        names = pq.read_schema(path).names
        key = next((n for n in ("item_id", "item", "id") if n in names), None)
        if key is None or column not in names:
            raise UsageError(
                f"--attribute {given}: the columns of {path.name} are {', '.join(names)}; expected item_id "
                f"(or item, or id) and {column}"
            )
        table = pq.read_table(path, columns=[key, column])
        ids = table[key].cast(pa.string()).to_pylist()
        values = table[column].combine_chunks().cast(pa.string()).fill_null("")
    except (OSError, pa.ArrowException) as e:
        raise DataError(f"{path.name}:{column} cannot be read as one text or number an item ({e})") from None
    found = values.dictionary_encode()
    numbers = found.indices.to_numpy().astype(np.int32)
    empty = np.array([v == "" for v in found.dictionary.to_pylist()], dtype=bool)
    numbers = np.where(empty[numbers], -1, numbers).astype(np.int32)
    rows = rows_of(ids, len(ids), subject.ids, path.name)
    known = int((numbers[rows] >= 0).sum())
    note = f"categories: {column} of {path.name}, known of {known:,} items, the same at every depth"
    return replace(subject, attribute=numbers[rows], notes=(*subject.notes, note))


def find_subject(what: str, root: Path, loader: Loader, sizes: tuple[int, ...] | None, how: How) -> Subject:
    """A file of SIDs, a folder with an artifact, else a run of the results folder."""
    path = Path(what).expanduser()
    if reading.is_foreign(path, how):
        return loader.of_file(path, sizes, how)
    if not how.silent:
        raise UsageError(
            "--format, --base, --orientation and --suffix are for a file of SIDs; runs know theirs"
        )
    if sizes is not None:
        raise UsageError("--sizes is for a file of SIDs; a run and an artifact know their own")
    if path.is_dir() and (path / "manifest.json").exists():
        return loader.of_folder(path)
    if path.is_dir() and path.name != what:
        raise UsageError(f"{what} holds no artifact (manifest.json and sids.parquet)")
    store = open_store(root)
    return loader.of_run(find_run(store, what), store)


def numbers(sizes: str | None) -> tuple[int, ...] | None:
    try:
        return None if sizes is None else tuple(int(s) for s in sizes.split(","))
    except ValueError:
        raise UsageError(f"--sizes {sizes}: expected one number a level, such as 256,256,256") from None


def place_of(spec: str) -> str:
    """`files:ITEMS `, of a plugin that must be told where its data lie: records keep no folders."""
    cls = registry.datasets().get(spec)
    if cls is None or not cls.variant or "Path" not in str(parameter_types(cls)[cls.variant]):
        return ""
    return f"{spec}:{cls.variant.upper()} "
