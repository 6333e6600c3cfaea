"""Merge: the runs of another results folder, taken into this one."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from sidbench.commands.results import readable
from sidbench.errors import DataError, StorageError
from sidbench.record import RunRecord, Store, atomically


def take(store: Store, other: Store) -> list[str]:
    """Copy what another results folder holds into this one; a line on every run that both have.

    Of two records of the same run the one that ran stands, else the newer one.
    """
    said = []
    here = {r.id: r for r in readable(store)}
    new = 0
    for path, record in other.all():
        if isinstance(record, DataError):
            sys.stderr.write(f"left out: {record}\n")
            continue
        mine = here.get(record.id)
        if mine is not None:
            if asdict(mine) == asdict(record):
                continue
            stands = max(mine, record, key=_stands)
            name = f"{record.label}, seed {record.key['seed']} ({record.id})"
            said.append(
                f"{name} is in both; {'theirs' if stands is record else 'ours'} stands: {_why(mine, record)}"
            )
            if stands is mine:
                continue
        _copy(store, other, record, path)
        new += mine is None
    return [f"{other.root}: {new} runs taken in", *said]


def _stands(record: RunRecord) -> tuple[bool, str]:
    return record.status == "ok", str(record.measured.get("finished", ""))


def _why(mine: RunRecord, theirs: RunRecord) -> str:
    if mine.status != theirs.status:
        return "the other one failed"
    return (
        "it is newer" if mine.measured.get("finished") != theirs.measured.get("finished") else "alike in time"
    )


def _copy(store: Store, other: Store, record: RunRecord, path: Path) -> None:
    """Artifact and vectors first, then the record that vouches for them."""
    target = store.path(record.key)
    beside, theirs, ours = path.with_suffix(".npz"), other.artifact(record.key), store.artifact(record.key)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if theirs.is_dir():
            shutil.copytree(theirs, ours, dirs_exist_ok=True)
        if beside.is_file():
            atomically(target.with_suffix(".npz"), lambda f: f.write(beside.read_bytes()))
        atomically(target, lambda f: f.write(path.read_bytes()))
    except OSError as e:
        raise StorageError(
            f"{path} cannot be copied to {store.root} ({e.strerror}); nothing is half there"
        ) from None
