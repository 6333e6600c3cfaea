"""sidbench inspect: what SIDs look like without any decoder; a run's, an artifact's or another system's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidbench import metrics, registry
from sidbench.commands.results import find_run, open_store
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError, unknown
from sidbench.format import How
from sidbench.formats import reading
from sidbench.formats.codes import rows_of
from sidbench.metrics import ABSENT, METRICS, Found, Metric
from sidbench.metrics.collisions import BEFORE
from sidbench.plugin import parameter_types
from sidbench.protocol import PROTOCOLS, Split, split
from sidbench.record import RunRecord, Store
from sidbench.sids import Codes, SIDs, distinct_rows
from sidbench.tokenizer import Tokenizer

#: What is printed together, in the order in which people ask.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Use of codes": ("utilization", "perplexity", "gini", "dead_codes", "traffic_gini"),
    "Collisions": (
        "collision_items",
        "collision_distinct",
        "collision_largest",
        "floor_items",
        "collision_items_excess",
        "head_resolution",
        "tail_resolution",
    ),
    "Vectors": (
        "reconstruction_error",
        "prefix_cosine",
        "neighbour_agreement",
        "neighbour_recall",
        "neighbour_precision",
        "stability",
    ),
    "What users do": ("sequence_alignment", "next_item_hit", "next_item_hit_embedding"),
    "Known categories": ("category_recovery",),
    "Search": ("trie_branching", "trie_fanout", "trie_nodes"),
    "Churn": ("churn_seed", "churn_seed_groups", "churn_growth", "churn_growth_groups"),
}
#: What legends say of codes that are the tokenizer's own, and what is true of others.
FOUND = (
    (BEFORE, "Taken on the codes as they are in the file, whatever a resolver did before."),
    (", before the resolver", ", as it is in the file"),
    ("codes before the resolver", "codes as they are in the file"),
)
ARROWS = {"higher": "↑", "lower": "↓", "none": " "}


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
        if _moved(sids, own):
            why = (*why, f"the resolver {sids.resolver} moves codes: all numbers are of what came out of it")
        return Subject(title, sids, own, corpus, divided, tokenizer, why, as_found=_moved(sids, own))

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
                why = (f"dataset {spec!r} is not found here: --dataset names it",)
                continue
            if not fingerprint or corpus.fingerprint == fingerprint:
                return corpus, self.split(corpus, *protocol), ()
            why = (f"dataset {spec!r} is another one today (its fingerprint differs): --dataset names it",)
        return None, None, why


def _moved(sids: SIDs, own: int) -> bool:
    """Whether codes are the resolver's: one that adds no level changes those that there are."""
    return own == sids.levels and sids.resolver not in ("", "keep")


def measure(
    subject: Subject,
    *,
    near: metrics.Neighbours | None = None,
    churn: Callable[[str], None] | None = None,
) -> Found:
    """All numbers that these SIDs allow; `churn` is told of each fit, None fits nothing."""
    codes, sizes, corpus = subject.codes, subject.sizes, subject.corpus
    x = None if corpus is None else corpus.embeddings.view(np.ndarray)
    train = None if subject.split is None else subject.split.train
    out = metrics.intrinsic_metrics(
        codes,
        sizes,
        x=x,
        train=train,
        categories=None if corpus is None else corpus.categories,
        tokenizer=subject.tokenizer,
        near=near,
    )
    if subject.attribute is not None:
        out.missing.pop("category_recovery", None)
        out.take(
            ("category_recovery",), _attributed(codes, subject.attribute), "fewer than two items have it"
        )
    use, by_level = metrics.codebook_metrics(codes, sizes)
    out.take((), (use, by_level), "")
    out.take(("floor_items", "collision_items_excess"), _collisions(codes, x), "needs the items' vectors")
    out.take((), metrics.trie_metrics(metrics.Prefixes(subject.sids.codes)), "")
    out.take(("reconstruction_error",), (_rebuilt(subject, x), {}), _why_not_rebuilt(subject, x))
    hits = metrics.embedding_hit_metrics(x, train) if x is not None and train is not None else {}
    out.take(("next_item_hit_embedding",), (hits, {}), "needs vectors and training sequences")
    churned: tuple[dict[str, float], dict[str, list[float]]] = ({}, {})
    why = _why_not_refitted(subject, x)
    if churn is not None and not why and subject.tokenizer is not None and x is not None:
        warm = subject.split.warm if subject.split is not None else np.arange(len(x))
        known = x if len(warm) == len(x) else x[warm]
        churned = metrics.churn_metrics(subject.tokenizer, known, codes[warm], churn)
    out.take(SECTIONS["Churn"], churned, why or "needs two more fits: --churn")
    return out


def _attributed(
    codes: Codes, attribute: NDArray[np.int32]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """One attribute beside the prefixes of every depth, over the items that have it."""
    known = np.flatnonzero(attribute >= 0)
    if len(known) < 2:
        return {}, {}
    every_depth = np.repeat(attribute[known, None], codes.shape[1], axis=1)
    return metrics.category_metrics(metrics.Prefixes(codes[known]), every_depth)


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


def _collisions(
    codes: Codes, x: NDArray[np.float32] | None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Shared SIDs and prefixes, beside what the data force; what the test asks for is no business here."""
    floor = {} if x is None else metrics.floor_metrics(x)
    nobody: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    found = floor | metrics.collision_metrics(codes, nobody, floor=floor)
    shown = {k: v for k, v in found.items() if k in SECTIONS["Collisions"]}
    return shown, metrics.prefix_collisions(codes)


def _rebuilt(subject: Subject, x: NDArray[np.float32] | None) -> dict[str, float]:
    tokenizer = subject.tokenizer
    if tokenizer is None or x is None or not tokenizer.supports("reconstruct"):
        return {}
    return metrics.reconstruction_metrics(x, subject.codes, tokenizer.reconstruct)


def _why_not_rebuilt(subject: Subject, x: NDArray[np.float32] | None) -> str:
    if subject.tokenizer is None:
        return "needs the fitted tokenizer"
    if not subject.tokenizer.supports("reconstruct"):
        return f"{subject.tokenizer.name} does not reconstruct embeddings"
    return "needs the items' vectors" if x is None else "all items have the same vector"


def _why_not_refitted(subject: Subject, x: NDArray[np.float32] | None) -> str:
    if subject.tokenizer is None:
        return "needs the fitted tokenizer"
    if subject.tokenizer.supports("codes_of"):
        return f"{subject.tokenizer.name} looks codes up and fits nothing"
    if _moved(subject.sids, subject.own):
        return f"the resolver {subject.sids.resolver} moved codes, which no fit gives"
    gone = [
        k for k, v in subject.tokenizer.params().items() if isinstance(v, Path) and v.name and not v.exists()
    ]
    if gone:
        return f"{subject.tokenizer.name}.{gone[0]} is a file that is not here, so it cannot be fitted again"
    return "needs the items' vectors" if x is None else ""


def inspect(
    what: str,
    root: Path,
    *,
    dataset: str | None,
    protocol: str,
    sizes: str | None,
    attribute: str | None,
    churn: bool,
    legends: bool,
    device: str,
    as_json: bool,
    how: How | None = None,
) -> int:
    """Every number of one set of SIDs that needs no decoder, with what it does not show."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    loader = Loader(dataset, protocol, device)
    subject = _subject(what, root, loader, numbers(sizes), how or How())
    if attribute is not None:
        subject = with_attribute(subject, attribute)
    found = measure(subject, churn=(lambda said: _tell(f"churn: {said}")) if churn else None)
    if as_json:
        _print_json(subject, found)
    else:
        width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))
        _print(Console(highlight=False, width=width), subject, found, legends)
    return 0


def _subject(what: str, root: Path, loader: Loader, sizes: tuple[int, ...] | None, how: How) -> Subject:
    """A file of SIDs, a folder with an artifact, else a run of the results folder."""
    path = Path(what).expanduser()
    if path.is_file() or reading.by_ending(path) is not None:
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


def _print_json(subject: Subject, found: Found) -> None:
    text = {
        "what": subject.title,
        "dataset": None if subject.corpus is None else subject.corpus.name,
        "items": len(subject.sids),
        "sizes": list(subject.sizes),
        "sid_sizes": list(subject.sids.sizes),
        "resolver": subject.sids.resolver,
        "notes": list(subject.notes),
        "metrics": found.values,
        "levels": found.levels,
        "missing": found.missing,
    }
    sys.stdout.write(json.dumps(text, indent=2) + "\n")


def _print(console: Console, subject: Subject, found: Found, legends: bool) -> None:
    shape = " × ".join(map(str, subject.sizes))
    added = " × ".join(map(str, subject.sids.sizes[subject.own :]))
    data = "" if subject.corpus is None else f" of {subject.corpus.name}"
    console.print(f"[bold]{escape(subject.title)}[/bold]")
    resolver = f"; resolver {subject.sids.resolver}{f' adds {added}' if added else ''}"
    console.print(
        f"{len(subject.sids):,} items{escape(data)}, levels {shape}"
        f"{escape(resolver) if subject.sids.resolver else ''}"
    )
    for note in subject.notes:
        console.print(escape(note), style="yellow")
    shown: list[Metric] = []
    for title, names in SECTIONS.items():
        there = [METRICS[n] for n in names if n in found.values or n in found.levels]
        shown += there
        if there:
            console.print()
            console.print(_section(title, there, found, console.width))
    _print_missing(console, found)
    if legends:
        console.print("\n[bold]What these numbers say, and what they do not[/bold]")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, style="dim")
        for m in shown:
            table.add_row(m.label, escape(subject.legend(m)))
        console.print(table)
    else:
        console.print("\n--legends explains each number: what it says, and what it does not.", style="dim")


def _section(title: str, there: list[Metric], found: Found, width: int) -> Table:
    """A row a metric: all of it, then level by level; in columns where they fit, else in one line."""
    cells = {m.name: [m.show(v) for v in found.levels.get(m.name, [])] for m in there}
    levels = max(map(len, cells.values()))
    label = max(len(m.label) for m in METRICS.values() if any(m.name in s for s in SECTIONS.values()))
    widest = max((len(c) for row in cells.values() for c in row), default=0)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(title, min_width=label + 2, no_wrap=True, header_style="bold")
    table.add_column("all", justify="right", min_width=8, no_wrap=True)
    columns = label + 14 + levels * (max(widest, 6) + 2) <= width
    if columns:
        for level in range(1, levels + 1):
            table.add_column(f"{level}", justify="right", min_width=max(widest, 6), style="cyan")
    elif levels:
        table.add_column("by level", style="cyan")
    for m in there:
        row = cells[m.name]
        if columns:
            row = row + [""] * (levels - len(row))
        elif levels:
            row = ["  ".join(row)]
        value = m.show(found.values[m.name]) if m.name in found.values else ABSENT
        table.add_row(f"{m.label} {ARROWS[m.direction]}", value, *row)
    return table


def _print_missing(console: Console, found: Found) -> None:
    """What could not be said, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in found.missing.items():
        reasons.setdefault(why, []).append(METRICS[name].label)
    if not reasons:
        return
    console.print("\n[bold]Not computed[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="yellow", ratio=2)
    table.add_column(ratio=3)
    for why, labels in reasons.items():
        table.add_row(escape(why), escape(" · ".join(labels)))
    console.print(table)


def _tell(said: str) -> None:
    sys.stderr.write(said + "\n")
