"""sidbench clean: what is stale in a results folder, with the reason; removed when told to."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidbench import parts, registry
from sidbench.commands.leaderboard import write_board
from sidbench.commands.results import open_store, readable, say
from sidbench.decoder import Decoder
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.record import RunRecord, Store, canonical
from sidbench.report.charts import CHARTS
from sidbench.report.files import MARKDOWN, PAGE
from sidbench.task import code_of

#: What loggers that write files leave of a run, whose id is the last part.
LOGS = f"logs/*/*/*/{'[0-9a-f]' * 12}"


def clean(root: Path, *, yes: bool, as_json: bool) -> int:
    """List what is stale, with the reason; remove it when told to."""
    store = open_store(root)
    found, unknown = _stale(store)
    if yes:
        for path, _ in found:
            _remove(path)
        _remove_empty(store)
        write_board(store)
    if as_json:
        stale = [{"path": str(p), "reason": why} for p, why in found]
        say({"removed": yes, "stale": stale, "unknown": [str(p) for p in unknown]})
        return 0
    for path, why in found:
        say(f"{path}: {why}")
    for path in unknown:
        say(f"{path}: kept, since its method or resolver is not found here (SIDBENCH_PLUGIN_PATH?)")
    done = "removed" if yes else "stale; --yes removes them" if found else "stale"
    say(f"{len(found)} {done}")
    return 0


def _stale(store: Store) -> tuple[list[tuple[Path, str]], list[Path]]:
    """What is stale and why, and the records that cannot be judged: whose plugin is not found today."""
    found: list[tuple[Path, str]] = []
    unknown: list[Path] = []
    kept: set[Path] = set()
    alive = {p.name for p in (store.root / "unfinished").glob("*")}  # what goes on, and what is whole
    present = _present_data(store)
    for path, record in store.all():
        if isinstance(record, DataError):
            found.append((path, "cannot be read"))
        elif record.status != "ok":
            found.append((path, "failed"))
        elif record.code != (today := _code_today(record)) and today:
            found.append((path, "made by older code"))
        elif _data(record) != present[_data_name(record)]:
            found.append((path, "made on older data"))
        else:
            kept |= {path.with_suffix(".npz"), store.artifact(record.key)}
            alive.add(record.id)
            unknown += [] if today else [path]
    found += [
        (p, "its record is gone or stale")
        for p in (store.root / "records").glob("*/*/*.npz")
        if p not in kept
    ]
    found += [
        (p, "its record is gone or stale") for p in (store.root / "artifacts").glob("*/*/*") if p not in kept
    ]
    found += [
        (p, "checkpoints of a run that did not finish: the same command would go on from here")
        for p in (store.root / "unfinished").glob("*")
        if not p.name.startswith(".")
    ]
    found += [
        (p, "its record is gone or stale")
        for p in store.root.glob(LOGS)
        if p.is_dir() and p.name not in alive
    ]
    for pattern in ("unfinished/.*", "records/*/*/.*", f".{MARKDOWN}-*", f".{PAGE}-*", f"{CHARTS}/.*"):
        found += [(p, "left over from a run that was killed") for p in store.root.glob(pattern)]
    return sorted((p, why) for p, why in found if not _in_hand(store, p)), unknown


def _in_hand(store: Store, path: Path) -> bool:
    """Whether a living process writes this, or runs the row whose checkpoints these are."""
    if path.parent == store.root / "unfinished" and path.is_dir():
        path = path.with_name(f".{path.name}.lock")
    return parts.is_held(path)


def _data_name(record: RunRecord) -> str:
    """What a person calls the data of a record."""
    dataset = record.key["dataset"]
    return canonical([dataset.get(k) for k in ("name", "plugin", "params")])


def _data(record: RunRecord) -> tuple[Any, ...]:
    """What the data of a record held."""
    dataset = record.key["dataset"]
    return dataset.get("fingerprint"), dataset.get("catalogue")


def _present_data(store: Store) -> dict[str, tuple[Any, ...]]:
    """By name, the data of the newest record that ran."""
    whole = [r for r in readable(store) if r.status == "ok"]
    newest_last = sorted(whole, key=lambda r: str(r.measured.get("finished", "")))
    return {_data_name(r): _data(r) for r in newest_last}


def _code_today(record: RunRecord) -> str:
    """The fingerprint that the record's code has now; empty where a plugin is gone."""
    key = record.key
    try:
        own = [registry.find(key["kind"], key["method"])]
        if key["resolver"] is not None:
            own += [registry.find("resolver", key["resolver"]["name"]), Decoder]
    except UsageError:
        return ""
    return code_of(*own)


def _remove_empty(store: Store) -> None:
    """Folders below records/, artifacts/, unfinished/ and logs/ that hold nothing any more."""
    for kind in ("records", "artifacts", "unfinished", "logs"):
        for folder in sorted(store.root.glob(f"{kind}/**/"), reverse=True):  # the deepest first
            if any(_in_hand(store, p) for p in (folder, *folder.parents)):
                continue  # what is empty now may be written to
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as e:
        raise SidbenchError(f"{path} cannot be removed ({e.strerror})") from None
