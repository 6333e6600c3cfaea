"""sidbench export: the SIDs of a run, an artifact or another system's file, in another system's format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sidbench import registry
from sidbench.commands.results import find_run, open_store
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.format import Export, Format, How
from sidbench.formats import manifest, reading, safe
from sidbench.plugin import configure
from sidbench.settings import parse_set
from sidbench.sids import SIDs

#: What a source's manifest tells of where its SIDs come from.
TOLD = ("run", "method", "params", "seed", "dataset", "fingerprint", "file", "format", "sha256", "source")


def export(
    what: str,
    to: str,
    out: Path,
    root: Path,
    *,
    how: How,
    sets: list[str],
    dataset: str | None,
    redo: bool,
    as_json: bool,
) -> int:
    """Find the SIDs, write them, say where they lie."""
    form = make_format(to, sets)
    reading.check_place(form, out, redo=redo)
    made = of_anything(what, root, how, form, dataset)
    files = reading.write(form, made, out, redo=redo)
    if as_json:
        stated = json.loads(manifest.beside(out).read_text(encoding="utf-8"))
        sys.stdout.write(json.dumps({**stated, "paths": [str(f) for f in files]}, indent=2) + "\n")
        return 0
    kept = form.prepared(made)
    console = Console(highlight=False, soft_wrap=True)
    last = f", the last a suffix from {form.first}" if kept.has_suffix else ""
    console.print(
        f"{out}: {len(kept.sids):,} items, {kept.sids.levels} codes each from {form.first}{last}"
        if not form.needs_tokenizer
        else f"{out}: the codebooks of {made.source.get('method', 'the tokenizer')}"
    )
    for file in files[1:]:
        console.print(f"  beside it {file}")
    if form.loses:
        console.print(f"  such a file does not keep: {form.loses}; the manifest does")
    return 0


def make_format(name: str, sets: list[str]) -> Format:
    """A format to write by name, with the parameters that were set for it."""
    cls = reading.find(name, "write")
    values: dict[str, Any] = {}
    for text in sets:
        target, key, value = parse_set(text if "." in text.partition("=")[0] else f"{name}.{text}")
        if target != name:
            raise UsageError(f"--set {text}: {target!r} is not the format that is written ({name})")
        values[key] = value
    fixed = cls.bases[0]
    if "base" in values and "base" not in cls.__dataclass_fields__ and values["base"] == fixed:
        del values["base"]  # what it is anyway
    if "base" in values and values["base"] not in cls.bases:
        if len(cls.bases) > 1:
            raise UsageError(f"--base {values['base']}: {name} is written from 0 or from 1")
        raise UsageError(
            f"{name} counts from {fixed} always, and not from {values['base']}; leave --base out, or choose "
            "another format (json and minionerec count from either)"
        )
    if "base" in values and "base" not in cls.__dataclass_fields__:
        raise UsageError(
            f"{name} is written from {fixed} alone, though one from {values['base']} can be read; leave "
            "--base out, or choose json or minionerec"
        )
    made: Format = configure(cls, values)
    return made


def of_anything(what: str, root: Path, how: How, form: Format, dataset: str | None) -> Export:
    """A file of another system, a folder with an artifact, else a run of the results folder."""
    path = Path(what).expanduser()
    if reading.is_foreign(path, how):
        made = of_file(path, how)
        return _with_corpus(made, form, dataset, [])
    if not how.silent:
        raise UsageError("--from and its base, orientation and suffix are for a file; a run knows its own")
    if path.is_dir() and any((path / n).is_file() for n in reading.OURS):
        return _with_corpus(_of_folder(path, form), form, dataset, [])
    if path.is_dir() and path.name != what:
        raise UsageError(f"{what} holds no artifact (manifest.json and sids.parquet)")
    store = open_store(root)
    record = find_run(store, what)
    if record.key["kind"] != "tokenizer":
        raise UsageError(f"{record.label} has no SIDs: it is a {record.key['kind']}")
    about = record.key["dataset"]
    plugin = about.get("plugin")
    spec = about["name"] if plugin in (None, "folder") else plugin
    made = _of_folder(store.artifact(record.key), form)
    return _with_corpus(made, form, dataset, [(str(spec), about.get("params", {}))])


def of_file(path: Path, how: How, sizes: tuple[int, ...] | None = None) -> Export:
    """Another system's SIDs as ours: codes from 0, ids as numbers where they are numbers."""
    table = reading.read(path, "file", how)
    needed = tuple(int(c) + 1 for c in table.codes.max(axis=0))
    if sizes is not None and (len(sizes) != len(needed) or any(map(int.__lt__, sizes, needed))):
        raise UsageError(
            f"--sizes {','.join(map(str, sizes))} does not fit {path.name}: its levels need at least "
            f"{','.join(map(str, needed))}"
        )
    source: dict[str, Any] = {"file": path.name, "counted_from": table.base}
    if path.is_file():
        source["sha256"] = manifest.checksum(path)
    if "source" in table.manifest:
        source["source"] = table.manifest["source"]
    ids: Any = np.arange(len(table.codes)) if table.ids is None else item_ids(table.ids)
    titles = None if table.titles is None else np.array(table.titles, dtype=np.str_)
    sids = SIDs(table.codes, sizes or table.sizes or needed, ids)
    return Export(sids, table.own, titles, source=source)


def item_ids(names: list[str]) -> Any:
    """Ids as numbers where all are numbers as one writes them, else as text."""
    plain = all(n.isascii() and n.isdigit() and len(n) < 19 and (n[0] != "0" or n == "0") for n in names)
    return np.array([int(n) for n in names]) if plain else np.array(names, dtype=np.str_)


def _of_folder(folder: Path, form: Format) -> Export:
    """The artifact of a run or an import, what `sidbench encode` left, or a fitted tokenizer alone."""
    tokenizer = None
    if form.needs_tokenizer:
        manifest.check(folder, "tokenizer.json", "tokenizer.safetensors")
        tokenizer = registry.load_tokenizer(folder, "cpu")
    if tokenizer is not None and not (folder / "sids.parquet").is_file():
        none = np.zeros((0, len(tokenizer.sizes)), dtype=np.int32)
        sids = SIDs(none, tokenizer.sizes, np.arange(0))
        return Export(sids, sids.levels, tokenizer=tokenizer, source={"method": tokenizer.name})
    manifest.check(folder, "sids.parquet")
    sids = _of_shards(folder) if not (folder / "sids.parquet").is_file() else SIDs.load(folder)
    own = int(sids.manifest.get("tokenizer_levels", len(sids.manifest.get("own_sizes", sids.sizes))))
    source = {k: sids.manifest[k] for k in TOLD if k in sids.manifest}
    if sids.resolver:
        source["resolver"] = sids.resolver
    titles = SIDs.titles(folder) if (folder / "sids.parquet").is_file() else None
    return Export(sids, own, titles, None, tokenizer, source)


def _of_shards(folder: Path) -> SIDs:
    """The SIDs that `sidbench encode --shard-rows` left, shard by shard."""
    import pyarrow as pa

    from sidbench.catalogue.output import codes_of, read_tables

    stated: Any = safe.read_json(folder / "manifest.json")
    if not isinstance(stated, dict) or "shards" not in stated:
        raise UsageError(f"{folder} holds no SIDs: neither sids.parquet nor shards of `sidbench encode`")
    if not stated.get("complete"):
        raise DataError(f"{folder} is not whole: encoding was stopped; the same `sidbench encode` goes on")
    files = [folder / Path(str(shard["file"])).name for shard in stated["shards"]]
    tables = [t for file in files for t in read_tables(file, file.suffix)]
    codes = np.concatenate([codes_of(t) for t in tables]).astype(np.int32)
    ids: Any = pa.chunked_array([c for t in tables for c in t["item_id"].chunks]).to_numpy()
    if ids.dtype == object:
        ids = ids.astype(np.str_)
    sizes = tuple(int(n) for n in stated["sizes"])
    return SIDs(codes, sizes, ids, str(stated.get("resolver") or ""), stated)


def _with_corpus(made: Export, form: Format, dataset: str | None, own: list[tuple[str, Any]]) -> Export:
    """With the sequences, where the format writes them: the dataset that was named, else the run's own."""
    if not form.needs_corpus:
        if dataset is not None:
            raise UsageError(f"{form.name} writes no sequences; leave --dataset out")
        return made
    specs = [(dataset, {})] if dataset is not None else own
    if not specs:
        raise UsageError(f"{form.name} writes sequences too: name the data with --dataset")
    try:
        corpus: Corpus = registry.load_dataset(*specs[0])
    except SidbenchError as e:
        if dataset is not None:
            raise
        raise UsageError(
            f"the data of this run are not found by themselves ({e}); name them with --dataset"
        ) from None
    fingerprint = str(made.source.get("fingerprint", ""))
    if fingerprint and corpus.fingerprint != fingerprint:
        raise DataError(
            f"dataset {specs[0][0]!r} is not what these SIDs were made on: its fingerprint is "
            f"{corpus.fingerprint}, theirs {fingerprint}; name the right one with --dataset"
        )
    return Export(made.sids, made.own, made.titles, corpus, made.tokenizer, made.source)
