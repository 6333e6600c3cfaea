"""Fit a tokenizer to vectors of any size: all rows or a sample, resumable, with what the sample cost."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from sidbench import __version__, checkpoints, provenance
from sidbench.catalogue.contents import by_content
from sidbench.catalogue.encode import MANIFEST, all_rows, same
from sidbench.catalogue.files import (
    Digest,
    content_sha256,
    locked,
    read_json,
    refused,
    sha256,
    stamp,
    write_json,
)
from sidbench.catalogue.job import Source, piece_rows
from sidbench.dataset import check_finite
from sidbench.errors import DataError, UnsupportedError, UsageError
from sidbench.progress import report
from sidbench.tokenizer import Tokenizer
from sidbench.vectors import Floats, Vectors

SCHEMA = 1
FILES = ("tokenizer.safetensors", "tokenizer.json")
#: Rows by which the error on what was fitted is compared with that on the rest.
PROBE = 100_000


@dataclass
class Fitted:
    """What a fit left in its folder; `fresh` is false where it was there already."""

    manifest: dict[str, Any]
    fresh: bool


def fit(
    tokenizer: Tokenizer, source: Source, out: Path, *, sample: int | None = None, redo: bool = False
) -> Fitted:
    """Fit to all rows, or to so many drawn at random, and leave the tokenizer in this folder.

    What is there already is kept where it is of the same tokenizer, rows and code, and refused where not.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    source.refuse(out)
    with locked(out / ".lock", str(out)):
        vectors = source.open()
        about = _about(tokenizer, vectors, sample)
        if redo:  # what is there stays until another takes its place
            shutil.rmtree(out / ".unfinished", ignore_errors=True)
        elif (known := _known(out, about, vectors)) is not None:
            return Fitted(known, fresh=False)
        return Fitted(_fit(tokenizer, vectors, out, about), fresh=True)


def _about(tokenizer: Tokenizer, vectors: Vectors, sample: int | None) -> dict[str, Any]:
    """What decides the result, but for the rows' own content."""
    if sample is not None and not 1 <= sample <= vectors.rows:
        raise UsageError(f"--sample {sample}: {vectors.path} has {vectors.rows:,} rows")
    if sample is not None and sample < tokenizer.fewest:
        raise UsageError(f"--sample {sample}: {tokenizer.name} needs {tokenizer.fewest:,} rows at least")
    return {
        "kind": "fit",
        "schema": SCHEMA,
        "sidbench": __version__,
        "code": provenance.code_fingerprint([type(tokenizer).__module__]),
        "method": tokenizer.name,
        "params": by_content(tokenizer.deciding()),
        "input": vectors.layout(),
        "sample": None if sample in (None, vectors.rows) else sample,
    }


def _known(out: Path, about: dict[str, Any], vectors: Vectors) -> dict[str, Any] | None:
    """The manifest of this very fit, if it is complete here; another one is refused."""
    whole = read_json(out / MANIFEST)
    if whole is None:
        if (out / "tokenizer.json").exists() and not (out / ".unfinished").is_dir():
            raise UsageError(
                f"{out} holds a tokenizer that `sidbench fit` did not leave; name another folder"
            )
        begun = read_json(out / ".unfinished" / MANIFEST)
        if begun is not None and (out / ".unfinished" / "checkpoints").is_dir():
            same(begun, about, out)
        return None
    same(whole, about, out)
    now = stamp(vectors)
    if whole["input_files"] != now and whole["input_sha256"] != content_sha256(vectors):
        raise UsageError(
            f"{out} was fitted to other rows than {vectors.path} holds now; name another folder, or fit "
            "again with --redo"
        )
    intact = all(
        (out / f["file"]).is_file() and sha256(out / f["file"]) == f["sha256"] for f in whole["files"]
    )
    if not intact:
        return None
    shutil.rmtree(out / ".unfinished", ignore_errors=True)  # of a process that ended just before this
    return whole


def _fit(tokenizer: Tokenizer, vectors: Vectors, out: Path, about: dict[str, Any]) -> dict[str, Any]:
    unfinished = out / ".unfinished"
    before = stamp(vectors)
    write_json(unfinished / MANIFEST, {**about, "input_files": before})
    began = time.perf_counter()
    rows, probe, outside, digest = _rows(vectors, about["sample"], int(about["params"].get("seed", 0)))
    read = time.perf_counter()
    with checkpoints.kept_in(unfinished / "checkpoints") as kept:
        tokenizer.fit(rows)
    fitted = time.perf_counter()
    if stamp(vectors) != before:
        raise DataError(f"{vectors.path} was changed while it was read; run the same command again")
    held = {
        **about,
        "complete": True,
        "input_files": before,
        "input_sha256": digest,
        "rows": len(rows),
        "error": _errors(tokenizer, probe, outside),
        "facts": tokenizer.facts(),
        "seconds": {"read": round(read - began, 3), "fit": round(fitted - read + kept.spent, 3)},
    }
    try:
        whole = unfinished / "whole"
        tokenizer.save(whole)
        held["files"] = [{"file": f, "sha256": sha256(whole / f)} for f in FILES]
        for f in FILES:
            (whole / f).chmod(0o644)
            (whole / f).replace(out / f)
    except OSError as e:
        raise refused(out, e) from None
    except SafetensorError as e:  # what its writer makes of a full disk
        raise refused(out, OSError(str(e))) from None
    write_json(out / MANIFEST, held)
    shutil.rmtree(unfinished)
    return held


def _rows(vectors: Vectors, sample: int | None, seed: int) -> tuple[Floats, Floats, Floats | None, str]:
    """What to fit to, some of it, some rows outside it, and the hash of all rows."""
    n = vectors.rows
    rng = np.random.default_rng([seed, 0x51D])
    digest = Digest()
    if sample is None:
        some = np.sort(rng.choice(n, min(PROBE, n), replace=False, shuffle=False))
        probe = _gather(vectors, some, digest)
        return all_rows(vectors, stamp(vectors)), probe, None, digest.hex()
    drawn = rng.choice(n, min(n, sample + PROBE), replace=False)  # in random order: any part is a sample
    inside, outside = np.sort(drawn[:sample]), np.sort(drawn[sample:])
    both = np.concatenate([inside, outside])
    order = np.argsort(both, kind="stable")
    place = np.empty(len(both), np.int64)
    place[order] = np.arange(len(both))
    found = _gather(vectors, both[order], digest)
    rows = found[place[:sample]]
    step = max(1, sample // PROBE)
    return rows, rows[::step][:PROBE], found[place[sample:]] if len(outside) else None, digest.hex()


def _gather(vectors: Vectors, rows: NDArray[np.int64], digest: Digest) -> Floats:
    """These rows, in rising order, on one way through all of them, which are hashed as they pass."""
    out = np.empty((len(rows), vectors.dim), np.float32)
    done = 0
    for start, piece in vectors.pieces(piece_rows(vectors.dim)):
        check_finite(piece, f"{vectors.path}", start)
        digest.add(piece, vectors.ids(start, start + len(piece)))
        end = int(np.searchsorted(rows, start + len(piece)))
        out[done:end] = piece[rows[done:end] - start]
        done = end
        report("read", start + len(piece), vectors.rows)
    return out


def _errors(tokenizer: Tokenizer, fitted: Floats, outside: Floats | None) -> dict[str, float] | None:
    """The squared error of reconstruction as a share of the rows' variance: on fitted rows and on others."""
    try:
        held = {"fitted": _error(tokenizer, fitted)}
        if outside is not None:
            held["outside"] = _error(tokenizer, outside)
    except UnsupportedError:
        return None
    return held


def _error(tokenizer: Tokenizer, x: Floats) -> float:
    error, mean = 0.0, x.mean(axis=0, dtype=np.float64)
    spread = float(sum(np.square(x[at : at + 8192] - mean).sum() for at in range(0, len(x), 8192)))
    for at in range(0, len(x), 8192):
        piece = x[at : at + 8192]
        told = tokenizer.reconstruct(tokenizer.encode(piece))
        error += float(np.square(piece.astype(np.float64) - told).sum())
    return error / spread if spread else 0.0
