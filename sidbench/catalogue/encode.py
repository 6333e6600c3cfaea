"""Encode a catalogue: shards, a manifest that says which are whole, and going on where a process ended."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sidbench import __version__, parts, provenance, registry
from sidbench.catalogue.files import (
    Digest,
    locked,
    read_json,
    sha256,
    stamp,
    write_json,
)
from sidbench.catalogue.ids import check_ids
from sidbench.catalogue.job import (
    Entry,
    Job,
    Source,
    default_shard_rows,
    encode_shards,
    load_model,
    model_sha256,
    piece_rows,
)
from sidbench.catalogue.output import (
    SUFFIXES,
    Tables,
    codes_of,
    narrow,
    read_tables,
    remove_parts,
    table_of,
    write_whole,
)
from sidbench.dataset import cached_rows
from sidbench.errors import DataError, UsageError, unknown
from sidbench.progress import report
from sidbench.resolver import Resolver
from sidbench.sids import SIDs
from sidbench.tokenizer import read_about
from sidbench.vectors import OPENERS, Vectors

SCHEMA, MANIFEST = 1, "manifest.json"
#: Does these shards of a job, and says of each when it is finished.
Runner = Callable[[Job, list[int]], Iterator[tuple[int, Entry]]]


@dataclass(frozen=True)
class Place:
    """Where SIDs go: one file, or a folder of shards; and where what is not finished lies."""

    #: What the person named.
    out: Path
    #: The one file, if it is one; its shards lie apart and go when it is whole.
    final: Path | None
    parts: Path
    manifest: Path
    suffix: str

    @classmethod
    def of(cls, out: Path, shard_rows: int | None, form: str | None = None) -> Place:
        """`x.parquet`, `x.npz` or `x.json` is a file, any other name a folder.

        The folder takes shards of this form where their size is named, else sids.parquet.
        """
        suffix = out.suffix.lower()
        if suffix in SUFFIXES and not out.is_dir():
            if form not in (None, suffix[1:]):
                raise UsageError(f"{out} is {suffix[1:]} by its name, not {form}; leave --format out")
            parts = out.with_name(f".{out.name}.parts")
            return cls(out, out, parts, out.with_name(f"{out.name}.{MANIFEST}"), suffix)
        if suffix in OPENERS and not out.is_dir():
            raise UsageError(
                f"{out}: SIDs are not written as {suffix}; give a name that ends in {', '.join(SUFFIXES)}, "
                "or a folder (`sidbench export` writes the formats of other systems)"
            )
        form = form or "parquet"
        if f".{form}" not in SUFFIXES:
            raise unknown("format", form, [s[1:] for s in SUFFIXES])
        if out.is_file():
            raise UsageError(
                f"{out} is a file; give a new name that ends in {', '.join(SUFFIXES)}, or a folder"
            )
        if shard_rows is None:
            return cls(out, out / f"sids.{form}", out / ".parts", out / MANIFEST, f".{form}")
        return cls(out, None, out, out / MANIFEST, f".{form}")


@dataclass
class Encoded:
    """What an encode did."""

    manifest: dict[str, Any]
    #: Rows encoded now; the others were there.
    rows: int = 0
    notes: list[str] = field(default_factory=list)


def encode(
    model: Path,
    source: Source,
    out: Path,
    *,
    shard_rows: int | None = None,
    device: str = "auto",
    resolver: Resolver | None = None,
    form: str | None = None,
    redo: bool = False,
    run: Runner = encode_shards,
) -> Encoded:
    """The SIDs of all rows at `out`. What is finished there is checked and kept; the same call goes on."""
    place = Place.of(out, shard_rows, form)
    source.refuse(out)
    if out.resolve() == model.resolve():
        raise UsageError(f"{out} holds the fitted tokenizer; name another place for the SIDs")
    if resolver is not None and place.final is None:
        raise UsageError("a resolver needs all SIDs at once: leave out --shard-rows, or the resolver")
    with locked(place.parts / ".lock", str(out)):
        vectors = source.open()
        job = _job(model, source, vectors, place, shard_rows, device)
        if redo:
            _begin_anew(place)
        else:
            _not_anothers(place)
        return _encode(job, vectors, place, resolver, run)


def _job(
    model: Path, source: Source, vectors: Vectors, place: Place, shard_rows: int | None, device: str
) -> Job:
    digest = model_sha256(model)
    _as_fitted(model)
    tokenizer = load_model(model, device, digest)
    try:
        tokenizer.encode(vectors.read(0, 1))
    except DataError as e:
        raise DataError(f"{source.path}: {e}") from None  # said before anything is begun
    return Job(
        model=model.resolve(),
        source=source.resolved(),
        parts=place.parts,
        stem="sids",
        suffix=".parquet" if place.final is not None else place.suffix,
        rows=vectors.rows,
        dim=vectors.dim,
        sizes=tokenizer.sizes,
        shard_rows=shard_rows or default_shard_rows(vectors.dim),
        device=device,
        model_sha256=digest,
    )


def _as_fitted(model: Path) -> None:
    """A tokenizer that is no more what its fit left would give codes of its own."""
    held = read_json(model / MANIFEST) or {}
    if held.get("kind") != "fit":
        return
    for entry in held["files"]:
        if sha256(model / entry["file"]) != entry["sha256"]:
            raise DataError(
                f"{model / entry['file']} is not what the fit left there (another checksum); run the same "
                "`sidbench fit` again, which makes it anew"
            )


def _encode(job: Job, vectors: Vectors, place: Place, resolver: Resolver | None, run: Runner) -> Encoded:
    remove_parts(place.parts)
    parts.sweep(place.parts / "shared")  # by which workers elsewhere knew the folder
    if place.final is not None:
        remove_parts(place.final.parent, place.final.name)
    about = _about(job, vectors, place, resolver)
    before = stamp(vectors)
    encoded = Encoded({})
    done = _finished(job, vectors, place, about, before, encoded)
    if done is None:
        return encoded
    if not done:
        check_ids(vectors)
    todo = [i for i in range(job.shards) if i not in done]
    rows = sum(stop - start for start, stop in (job.bounds(i) for i in done))
    held = {**about, "complete": False, "input_files": before, "shards": _entries(done)}
    write_json(place.parts / MANIFEST, held)
    report("encode", rows, job.rows)
    for i, entry in run(job, todo):
        done[i] = entry
        start, stop = job.bounds(i)
        encoded.rows += stop - start
        held["shards"] = _entries(done)
        write_json(place.parts / MANIFEST, held)
    if stamp(vectors) != before:
        raise DataError(
            f"{job.source.path} was changed while it was read; run the same command again: shards whose rows "
            "are still the same are kept"
        )
    encoded.manifest = _complete(job, vectors, place, resolver, held)
    return encoded


def _about(job: Job, vectors: Vectors, place: Place, resolver: Resolver | None) -> dict[str, Any]:
    """What all shards have in common; another answer to any of it is another encode."""
    about = read_about(job.model)
    cls = registry.find("tokenizer", str(about["name"]))
    return {
        "schema": SCHEMA,
        "items": job.rows,
        "own_sizes": list(job.sizes),
        "base": 0,
        "beyond_end": -1,
        "resolver": "" if resolver is None else resolver.name,
        "resolver_params": {} if resolver is None else resolver.params(),
        "sidbench": __version__,
        "code": provenance.code_fingerprint(
            [cls.__module__, *([] if resolver is None else [type(resolver).__module__])]
        ),
        "model": {"name": about["name"], "params": about["params"], "sha256": job.model_sha256},
        "input": vectors.layout(),
        "format": place.suffix[1:],
        "shard_rows": job.shard_rows,
    }


def _finished(
    job: Job,
    vectors: Vectors,
    place: Place,
    about: dict[str, Any],
    now: list[dict[str, Any]],
    encoded: Encoded,
) -> dict[int, Entry] | None:
    """The shards that are there and whole; None where all is, the last file included."""
    whole = _manifest(place.manifest, place)
    if whole is not None and place.final is not None:
        same(whole, about, place.out)
        [entry] = whole["files"]
        if place.final.is_file() and sha256(place.final) == entry["sha256"]:
            _same_rows(job, vectors, place, whole, now, whole["shards"])
            encoded.manifest = whole
            shutil.rmtree(place.parts)  # what a process left that ended just before this
            return None
        encoded.notes.append(f"{place.final} is damaged or gone, so it is made again")
    held = _manifest(place.parts / MANIFEST, place)
    if held is None:
        return {}
    same(held, about, place.out)
    done: dict[int, Entry] = {}
    for i, entry in enumerate(held["shards"]):
        if entry is None:
            continue
        path = job.file(i)
        if path.is_file() and sha256(path) == entry["sha256"]:
            done[i] = entry
        else:
            encoded.notes.append(f"{path} is damaged or gone, so it is made again")
    _same_rows(job, vectors, place, held, now, [done.get(i) for i in range(job.shards)])
    if place.final is None and held.get("complete") and len(done) == job.shards:
        encoded.manifest = held
        return None
    return done


def _manifest(path: Path, place: Place) -> dict[str, Any] | None:
    """The manifest of an encode to this place; an error where it is of something else."""
    held = read_json(path)
    if held is None:
        return None
    if not isinstance(held.get("shards"), list) or not isinstance(held.get("input_files"), list):
        raise DataError(
            f"{path} is damaged, or not of an encode; name another place, or begin anew with --redo"
        )
    if path == place.manifest and ("files" in held) != (place.final is not None):
        there = "one file" if "files" in held else "shards"
        raise UsageError(f"{place.out} holds {there}; name another place, or begin anew with --redo")
    return held


def same(held: dict[str, Any], about: dict[str, Any], out: Path) -> None:
    """Refuse to go on with anything else."""
    there, now = _flat(held), _flat(about)
    keys = [
        k
        for k in {**now, **{k: 0 for k in there if k.partition(".")[0] in about}}
        if there.get(k) != now.get(k)
    ]
    if keys:
        said = "; ".join(f"{k}: {_short(there.get(k))} there, {_short(now.get(k))} now" for k in keys[:3])
        raise UsageError(
            f"{out} was begun from something else ({said}); name another place, or begin anew with --redo"
        )


def _same_rows(
    job: Job,
    vectors: Vectors,
    place: Place,
    held: dict[str, Any],
    now: list[dict[str, Any]],
    entries: list[Entry | None],
) -> None:
    """Files as they were then, or at least the same rows: a copy is as good, a change is refused."""
    if held["input_files"] == now:
        return
    for i, entry in enumerate(entries):
        if entry is None:
            continue
        digest = Digest()
        for start, rows in vectors.pieces(piece_rows(job.dim), *job.bounds(i)):
            digest.add(rows, vectors.ids(start, start + len(rows)))
        if digest.hex() != entry["input_sha256"]:
            start, stop = job.bounds(i)
            raise UsageError(
                f"{job.source.path} is not what {place.out} was begun from: rows {start:,} to {stop - 1:,} "
                "differ; name another place, or begin anew with --redo"
            )


def _complete(
    job: Job, vectors: Vectors, place: Place, resolver: Resolver | None, held: dict[str, Any]
) -> dict[str, Any]:
    """The last step: one file of all shards where one was asked for, and the manifest that vouches for it."""
    held = {**held, "complete": True, "levels": len(job.sizes), "sizes": list(job.sizes)}
    # What readers of SID files ask: is a row an item, is the last code a resolver's.
    held |= {"orientation": "items", "suffix": None, "tokenizer_levels": len(job.sizes)}
    if place.final is None:
        write_json(place.manifest, held)
        return held

    def tables() -> Iterator[pa.Table]:
        for i in range(job.shards):
            yield from read_tables(job.file(i), job.suffix)

    if resolver is not None:
        tables, sizes = _resolved(job, vectors, resolver, tables)
        held |= {"sizes": list(sizes), "levels": len(sizes), "facts": resolver.facts()}
        if len(sizes) > len(job.sizes):
            held["suffix"] = {"base": int(resolver.params().get("base", 0))}
    write_whole(place.final, place.suffix, tables, job.rows, tuple(held["sizes"]))
    held["files"] = [
        {"file": place.final.name, "bytes": place.final.stat().st_size, "sha256": sha256(place.final)}
    ]
    held["sha256"] = held["files"][0]["sha256"]
    write_json(place.manifest, held)
    shutil.rmtree(place.parts)
    return held


def _resolved(
    job: Job, vectors: Vectors, resolver: Resolver, tables: Tables
) -> tuple[Tables, tuple[int, ...]]:
    """All SIDs at once through a resolver: codes take a few bytes an item, embeddings stay on disk."""
    whole = pa.concat_tables(tables())
    ids = whole.column("item_id").to_numpy()
    report("resolve", 0, 1)
    sids = SIDs(codes_of(whole), job.sizes, ids.astype(np.str_) if ids.dtype == object else ids)
    x = all_rows(vectors, stamp(vectors)) if resolver.needs_costs else None
    found = resolver.resolve(sids, load_model(job.model, job.device, job.model_sha256), x)
    report("resolve", 1, 1)
    table = table_of(narrow(found.codes, found.sizes), whole.column("item_id").chunks, 0)
    step = default_shard_rows(job.dim)
    return lambda: (table.slice(at, step) for at in range(0, len(table), step)), found.sizes


def all_rows(vectors: Vectors, stamps: list[dict[str, Any]]) -> Any:
    """All rows as one array on disk: the file itself where it is float32, else a copy in the cache."""
    if (array := vectors.array()) is not None:
        return array
    key = Digest.of_json([vectors.layout(), stamps, str(vectors.path.resolve())])

    def fill(out: Any) -> None:
        _take_room(Path(out.filename))
        for start, rows in vectors.pieces(piece_rows(vectors.dim)):
            out[start : start + len(rows)] = rows
            report("read", start + len(rows), vectors.rows)

    return cached_rows(f"vectors-{key[:16]}", (vectors.rows, vectors.dim), fill)


def _take_room(path: Path) -> None:
    """A full disk is an error now, not the end of the process (SIGBUS) when a page of the map is written."""
    if sys.platform == "linux":
        with path.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, path.stat().st_size)


def verify(model: Path, source: Source, out: Path, rows: int, device: str = "auto") -> tuple[int, int]:
    """Encode about so many rows of a finished output again, in other pieces: how many, how many differ."""
    folder = out if out.is_dir() else out.parent
    manifest = read_json(out / MANIFEST if out.is_dir() else out.with_name(f"{out.name}.{MANIFEST}")) or {}
    if not manifest.get("complete"):
        raise UsageError(f"{out} is not complete; run the same command without --verify first")
    if manifest["model"]["sha256"] != model_sha256(model):
        raise UsageError(f"{out} was made by another model than the one in {model}")
    check_comparable(manifest["resolver"])
    own = len(manifest["own_sizes"])
    vectors, tokenizer = source.open(), load_model(model, device, manifest["model"]["sha256"])
    files = [f["file"] for f in manifest.get("files") or manifest["shards"]]
    chosen = _blocks(vectors.rows, min(rows, vectors.rows), manifest["model"]["sha256"])
    wrong = at = checked = 0
    for name in files:
        for table in read_tables(folder / name, Path(name).suffix):
            codes, end = codes_of(table), at + len(table)
            for start, stop in chosen:
                a, b = max(start, at), min(stop, end)
                if a < b:
                    again = tokenizer.encode(vectors.read(a, b))
                    wrong += int((again != codes[a - at : b - at, :own]).any(axis=1).sum())
                    checked += b - a
                    report("verify", checked, rows)
            at = end
    return checked, wrong


def check_comparable(resolver: str) -> None:
    """Codes can be encoded again and compared only where the resolver left them alone."""
    if resolver not in ("", "keep", "suffix"):
        raise UsageError(f"--verify: the resolver {resolver} moves items, so codes cannot be compared")


def _blocks(rows: int, count: int, seed: str) -> list[tuple[int, int]]:
    """Spans of rows in order, some sixty, that make up this many; the same for the same seed."""
    size = max(1, count // 64)
    starts = np.arange(0, rows, size)
    picked = np.random.default_rng(int(seed[:8], 16)).permutation(len(starts))[: -(-count // size)]
    return [(int(starts[i]), min(int(starts[i]) + size, rows)) for i in np.sort(picked)]


def _not_anothers(place: Place) -> None:
    """Files that no manifest of ours speaks of are somebody's."""
    if place.manifest.exists() or (place.parts / MANIFEST).exists():
        return
    found = [place.final] if place.final is not None else sorted(place.parts.glob("sids-[0-9]*"))[:1]
    if found and found[0].exists():
        raise UsageError(
            f"{found[0]} is there, and nothing says what it was made from; name another place, or write over "
            "it with --redo"
        )


def _begin_anew(place: Place) -> None:
    """Take away what an encode left here, and nothing else; one file stays until another takes its place."""
    if place.final is None:
        with suppress(DataError):
            for entry in (read_json(place.manifest) or {}).get("files", []):
                (place.out / entry["file"]).unlink(missing_ok=True)
    for path in (place.manifest, place.parts / MANIFEST):
        path.unlink(missing_ok=True)
    for path in place.parts.glob("sids-[0-9]*"):
        path.unlink()


def _entries(done: dict[int, Entry]) -> list[Entry | None]:
    return [done.get(i) for i in range(max(done, default=-1) + 1)]


def _flat(held: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Entries of tables in tables by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in held.items():
        out |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return out


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
