"""RunRecord: one JSON a run, named by its inputs, and the vectors beside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sidbench import parts
from sidbench.errors import DataError, StorageError

SCHEMA = 1
#: How to read an older record: schema number -> what turns its JSON into the next schema's.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class RunRecord:
    """What one run was given (`key`), found (`metrics`, `levels`, `facts`) and took (`measured`).

    Everything but `measured` and `env` is a function of the key and the code: two runs agree in every byte.
    """

    id: str
    status: str  # "ok" or "failed"
    key: dict[str, Any]
    code: str
    error: dict[str, str] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    levels: dict[str, list[float]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def label(self) -> str:
        return str(self.key["label"])


def run_id(key: dict[str, Any]) -> str:
    """The name of a run: a hash of everything that was given to it."""
    return hashlib.sha256(canonical(key).encode()).hexdigest()[:12]


def canonical(value: Any) -> str:
    """One text for one value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


#: What every key names; a record without one of them is not whole.
KEY = {"kind", "method", "label", "params", "seed", "dataset", "protocol", "resolver", "decoder", "hardware"}


class Store:
    """One results folder: records/<dataset>/<label>/<id>.json, .npz beside, artifacts apart."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def board(self) -> Path:
        return self.root / "LEADERBOARD.md"

    def path(self, key: dict[str, Any]) -> Path:
        return (
            self.root / "records" / slug(key["dataset"]["name"]) / slug(key["label"]) / f"{run_id(key)}.json"
        )

    def artifact(self, key: dict[str, Any]) -> Path:
        """Where the SIDs and the fitted tokenizer of a run lie."""
        return self.root / "artifacts" / slug(key["dataset"]["name"]) / slug(key["label"]) / run_id(key)

    def unfinished(self, key: dict[str, Any]) -> Path:
        """Where a run that is not done leaves what it will go on from."""
        return self.root / "unfinished" / run_id(key)

    def claim(self, key: dict[str, Any]) -> Path:
        """The file that the process which runs this row holds a lock on."""
        return self.root / "unfinished" / f".{run_id(key)}.lock"

    def sweep(self, key: dict[str, Any]) -> None:
        """Remove what processes that were killed left half written of this run."""
        for path in (self.path(key), self.path(key).with_suffix(".npz"), self.artifact(key)):
            parts.sweep(path)

    def check_writable(self) -> None:
        """Fail before the work, not after it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as f:
                f.write(b"x")
        except OSError as e:
            raise StorageError(
                f"results cannot be written to {self.root} ({e.strerror}); "
                "free space, change its permissions or name another folder with --results"
            ) from None

    def save(self, record: RunRecord, vectors: dict[str, NDArray[Any]]) -> Path:
        """Write the vectors, then the record that vouches for them; each appears whole or not at all.

        The record keeps the size of every file that belongs to it, so that a torn one is found out.
        """
        path = self.path(record.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if vectors:
                arrays: dict[str, Any] = dict(vectors)
                atomically(path.with_suffix(".npz"), lambda f: np.savez_compressed(f, **arrays))
                record.measured["files"] = self.sizes(record.key)
            text = json.dumps(asdict(record), indent=2, sort_keys=True, allow_nan=False) + "\n"
            atomically(path, lambda f: f.write(text.encode()))
            if not vectors:  # what an earlier, better run left must not pass for this one's
                path.with_suffix(".npz").unlink(missing_ok=True)
        except OSError as e:
            raise StorageError(
                f"the record {path} cannot be written ({e.strerror}); records already written stand. "
                "Free space or change permissions, then run the same command again"
            ) from None
        return path

    def sizes(self, key: dict[str, Any]) -> dict[str, int]:
        """The bytes of what lies beside the record of this run: its vectors and its artifact's files."""
        beside = [self.path(key).with_suffix(".npz"), *self.artifact(key).rglob("*")]
        return {p.name: p.stat().st_size for p in sorted(beside) if p.is_file()}

    def find(self, key: dict[str, Any]) -> RunRecord | None:
        """The record of this very run; None where there is none or it cannot be read (it is redone)."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            return read(path)
        except DataError:
            return None

    def all(self) -> Iterator[tuple[Path, RunRecord | DataError]]:
        """Every record with its path, in order of path; an unreadable one as the error that says why."""
        first: dict[str, Path] = {}
        for path in sorted((self.root / "records").glob("*/*/*.json")):
            try:
                record = read(path)
                if (other := first.setdefault(record.id, path)) != path:
                    raise DataError(f"{path} is the run of {other} again; remove one of the two")
                yield path, record
            except DataError as e:
                yield path, e

    def vectors(self, record: RunRecord) -> dict[str, NDArray[Any]]:
        """The vectors beside a record: rank of the target per user, learning curves."""
        path = self.path(record.key).with_suffix(".npz")
        try:
            # A file of our own, since np.load leaves the one it opens open when it is torn.
            with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
                return {k: z[k] for k in z.files}
        except (OSError, ValueError, EOFError, BadZipFile) as e:
            raise DataError(f"{path} cannot be read ({e}); run the method again, with --redo") from None


def read(path: Path) -> RunRecord:
    """One record, of this schema or an older one."""
    try:
        raw = json.loads(path.read_text())
        schema = raw["schema"]
        for older in range(schema, SCHEMA):
            raw = UPGRADES[older](raw)
        if schema > SCHEMA:
            raise DataError(
                f"{path} has schema {schema}, written by a newer sidbench; this one reads up to {SCHEMA}"
            )
        record = RunRecord(**{**raw, "schema": SCHEMA})
        if missing := sorted(KEY - set(record.key)):
            raise ValueError(f"its key lacks {', '.join(missing)}")
        return record
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{path} is no whole record ({type(e).__name__}: {e}); run the method again, or `sidbench clean`"
        ) from None


def slug(name: str) -> str:
    """A name as a folder that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._@+-]", "-", name)


def atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a file that appears whole or not at all, whatever happens in between."""
    with parts.file_beside(path) as (handle, part):
        with os.fdopen(handle, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        part.chmod(0o644)
        part.replace(path)
