"""sidbench encode: SIDs for a catalogue of any size, interrupted and resumed."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sidbench import registry
from sidbench.catalogue.encode import check_comparable
from sidbench.catalogue.encode import encode as encode_to
from sidbench.catalogue.encode import verify as verify_at
from sidbench.catalogue.job import Source, encode_shards
from sidbench.catalogue.spread import needs, spread
from sidbench.commands.fit import set_threads
from sidbench.commands.watch import clock, watching
from sidbench.engines import opened
from sidbench.errors import DataError, UsageError
from sidbench.plugin import configure
from sidbench.resolver import Resolver
from sidbench.settings import parse_set


def find_model(spec: str, results: Path) -> Path:
    """A folder that holds a fitted tokenizer, or a run of a results folder by its method or id."""
    if (Path(spec) / "tokenizer.json").is_file():
        return Path(spec)
    if Path(spec).is_dir():
        raise UsageError(f"{spec} holds no fitted tokenizer (tokenizer.json); `sidbench fit` leaves one")
    from sidbench.commands.results import find_run, open_store

    if not results.is_dir() or os.sep in spec:
        raise UsageError(
            f"there is no folder {spec} with a fitted tokenizer, and no results folder {results} in which it "
            "could be a run; `sidbench fit` makes the one, `sidbench run` the other"
        )
    store = open_store(results)
    try:
        return store.artifact(find_run(store, spec).key)
    except UsageError as e:
        raise UsageError(f"there is no folder {spec} with a fitted tokenizer, and as a run: {e}") from None


def make_resolver(name: str | None, sets: list[str]) -> Resolver | None:
    """The resolver by name with its parameters; None where none is named."""
    params = {}
    for text in sets:
        target, key, value = parse_set(text)
        if target != name:
            raise UsageError(f"--set {text}: only the resolver has parameters here; write RESOLVER.{key}=…")
        params[key] = value
    if name is None:
        return None
    made: Resolver = configure(registry.find("resolver", name), params)
    return made


def encode(
    model: str,
    source: Source,
    out: Path,
    *,
    results: Path,
    shard_rows: int | None,
    form: str | None,
    resolver: str | None,
    sets: list[str],
    verify: int,
    device: str,
    threads: int,
    engine: str,
    address: str | None,
    redo: bool,
    as_json: bool,
) -> int:
    """Encode, and say how fast; then look at a sample again, where asked."""
    console = Console(stderr=as_json, highlight=False)
    set_threads(threads)
    folder, last = find_model(model, results), make_resolver(resolver, sets)
    if verify:
        check_comparable("" if last is None else last.name)
    began = time.perf_counter()
    with opened(engine, address) as where, watching(console):
        asked = needs(where, device, threads)
        where.warn = lambda said: console.print(Text(f"note: {said}", style="yellow"), soft_wrap=True)
        if words := where.said(asked):
            console.print(Text(words, style="dim"), soft_wrap=True)
        run = encode_shards if engine == "local" else spread(where, device, asked)
        device = device if engine == "local" else "auto"  # of what is left to do here
        done = encode_to(
            folder,
            source,
            out,
            shard_rows=shard_rows,
            form=form,
            device=device,
            resolver=last,
            redo=redo,
            run=run,
        )
    seconds = time.perf_counter() - began
    for note in done.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    total = done.manifest["items"]
    if done.rows:
        kept = f" ({total - done.rows:,} were there)" if done.rows < total else ""
        speed = f"{done.rows / seconds:,.0f} items/s"
        console.print(f"{done.rows:,} items{kept} in {clock(seconds)}, {speed}: {out}", soft_wrap=True)
    else:
        console.print(f"{out} is complete: {total:,} items of this model and input.", soft_wrap=True)
    checked, wrong = 0, 0
    if verify:
        with watching(console):
            checked, wrong = verify_at(folder, source, out, verify, device)
    if as_json:
        said = {"out": str(out), "items": total, "encoded": done.rows, "seconds": seconds}
        sys.stdout.write(
            json.dumps({**said, "verified": checked, "wrong": wrong, "notes": done.notes}, indent=2) + "\n"
        )
    if wrong:
        raise DataError(
            f"{wrong:,} of {checked:,} items have other codes when they are encoded again: "
            f"encode {out} anew with --redo"
        )
    if verify:
        console.print(f"{checked:,} items encoded again: the same codes.")
    return 0
