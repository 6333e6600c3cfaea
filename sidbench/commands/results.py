"""A results folder as commands look at it: its records, the runs that a person names, its board."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sidbench.errors import StorageError, UsageError
from sidbench.record import RunRecord, Store, atomically
from sidbench.report.drawing import drawn_here


def open_store(root: Path) -> Store:
    if not root.is_dir():
        raise UsageError(
            f"there is no results folder {root}; `sidbench run` makes one, --results names another"
        )
    return Store(root)


def readable(store: Store) -> list[RunRecord]:
    """Every record that can be read, in order of path."""
    return [r for _, r in store.all() if isinstance(r, RunRecord)]


def read_board(store: Store, name: str) -> str | None:
    """The text of one file of a board; none where there is no such file."""
    try:
        return (store.root / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write_files(store: Store, files: Mapping[str, str], pictures: str | None, otherwise: str) -> None:
    """The files of a board, each whole; of this folder's pictures those of ours that are none of them go.

    `otherwise` is what a person can do where they cannot be written.
    """
    try:
        for name, text in files.items():
            path = store.root / name
            path.parent.mkdir(exist_ok=True)
            atomically(path, partial(_put, text))
        for path in (store.root / pictures).glob("*.svg") if pictures else ():
            if f"{pictures}/{path.name}" not in files and drawn_here(path.read_text()):
                path.unlink()
    except OSError as e:
        raise StorageError(
            f"{store.root / list(files)[-1]} cannot be written ({e.strerror}); the records stand. "
            f"Free space or change permissions, {otherwise}"
        ) from None


def _put(text: str, file: Any) -> None:
    file.write(text.encode())


def runs_named(records: Sequence[RunRecord], name: str) -> list[RunRecord]:
    """Those of a label, or of method+resolver; a label may have a plus of its own."""
    method, plus, resolver = (part.strip() for part in name.rpartition("+"))
    return [r for r in records if r.label == name] or [
        r for r in records if plus and r.label == method and _resolver_of(r) == resolver
    ]


def _resolver_of(record: RunRecord) -> str:
    return str((record.key["resolver"] or {}).get("name", ""))


def find_run(store: Store, run: str) -> RunRecord:
    """By id or its start, else the newest of a label or of method+resolver."""
    records = readable(store)
    by_id = [r for r in records if run and r.id.startswith(run)]
    named = runs_named(records, run)
    if not named and len(by_id) > 1:
        raise UsageError(f"{run!r} is the start of {len(by_id)} runs: {', '.join(r.id for r in by_id)}")
    found = named or by_id
    if not found:
        known = ", ".join(
            f"{r.id} ({r.label}{'+' * bool(_resolver_of(r))}{_resolver_of(r)})" for r in records[:8]
        )
        raise UsageError(f"there is no run {run!r} in {store.root}; there are: {known or 'none'}")
    newest = max(found, key=lambda r: str(r.measured.get("finished", "")))
    if newest.error is not None:
        raise UsageError(
            f"run {newest.id} ({newest.label}) failed in {newest.error['stage']}: {newest.error['message']}"
        )
    return newest


def say(what: Any) -> None:
    sys.stdout.write((what if isinstance(what, str) else json.dumps(what, indent=2)) + "\n")
