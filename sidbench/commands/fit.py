"""sidbench fit: a tokenizer fitted to vectors of any size, in a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from sidbench import registry
from sidbench.catalogue.fit import fit as fit_to
from sidbench.catalogue.job import Source
from sidbench.commands.watch import clock, watching
from sidbench.errors import UsageError
from sidbench.kit.together import joined
from sidbench.plugin import configure
from sidbench.settings import parse_set
from sidbench.tokenizer import Tokenizer


def make_tokenizer(method: str, sets: list[str], device: str = "auto") -> Tokenizer:
    """A method by name with the parameters that were set for it."""
    cls = registry.find("tokenizer", method)
    params: dict[str, Any] = {"device": device}
    for text in sets:
        target, key, value = parse_set(text)
        if target not in (method, "all"):
            raise UsageError(f"--set {text}: this fits {method}, so write {method}.{key}=…")
        params[key] = value
    made: Tokenizer = configure(cls, params)
    return made


def set_threads(threads: int) -> None:
    """How many threads torch and everything below it use; 0 leaves what the environment says."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def fit(
    method: str,
    source: Source,
    out: Path,
    *,
    sets: list[str],
    sample: int | None,
    device: str,
    threads: int,
    redo: bool,
    as_json: bool,
) -> int:
    """Fit, and say what it took and what a sample cost.

    Of several processes (torchrun) the first does it; the others help where something is trained.
    """
    console = Console(stderr=as_json, highlight=False)
    set_threads(threads)
    tokenizer = make_tokenizer(method, sets, device)
    with joined(device) as first:
        if not first:
            return 0
        with watching(console):
            fitted = fit_to(tokenizer, source, out, sample=sample, redo=redo)
    held = fitted.manifest
    if as_json:
        sys.stdout.write(json.dumps({**held, "fresh": fitted.fresh}, indent=2) + "\n")
        return 0
    rows, of = held["rows"], held["input"]["rows"]
    drawn = "all" if rows == of else f"{rows:,} of"
    seconds = held["seconds"]["read"] + held["seconds"]["fit"]
    verb = "fitted" if fitted.fresh else "was fitted already"
    console.print(f"{method} {verb} to {drawn} {of:,} rows in {clock(seconds)}: {out}", soft_wrap=True)
    if (error := held["error"]) is not None:
        beside = f"; on rows outside the sample {error['outside']:.4f}" if "outside" in error else ""
        console.print(
            f"Error of reconstruction (share of the variance): {error['fitted']:.4f} on fitted rows{beside}",
            soft_wrap=True,
        )
    console.print(
        f"Next: sidbench encode {out} {source.path} --out sids.parquet", style="dim", soft_wrap=True
    )
    return 0
