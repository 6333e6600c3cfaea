"""sidbench leaderboard, clean and show: what lies in a results folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from sidbench import registry
from sidbench.bench import code_of
from sidbench.decoder import Decoder
from sidbench.errors import DataError, SidbenchError, StorageError, UsageError, nearest
from sidbench.metrics import metric
from sidbench.record import RunRecord, Store, atomically, canonical
from sidbench.report import Boards, tables
from sidbench.report.board import ALL, known_columns
from sidbench.report.charts import CHARTS
from sidbench.report.drawing import drawn_here
from sidbench.report.files import MARKDOWN, PAGE
from sidbench.report.markdown import chosen
from sidbench.sids import SIDs

#: What loggers that write files leave of a run, whose id is the last part.
LOGS = f"logs/*/*/*/{'[0-9a-f]' * 12}"
#: How many items of a group `show` prints before it counts the rest.
SHOWN = 12


def readable(store: Store) -> list[RunRecord]:
    """Every record that can be read, in order of path."""
    return [r for _, r in store.all() if isinstance(r, RunRecord)]


def write_board(store: Store, *, pictures: bool = True) -> Path:
    """The board from all records of a results folder; without pictures, for between rows, Markdown alone.

    Columns that were chosen for it stay.
    """
    return _write_board(store, Boards(readable(store), store.vectors, _columns(store)), pictures=pictures)


def _columns(store: Store) -> tuple[str, ...]:
    """Those that the board which is there was written with."""
    return chosen(read_board(store, MARKDOWN) or "")


def _write_board(store: Store, made: Boards, *, pictures: bool = True) -> Path:
    files = made.files(partial(read_board, store)) if pictures else {MARKDOWN: made.markdown}
    try:
        for name, text in files.items():
            path = store.root / name
            path.parent.mkdir(exist_ok=True)
            atomically(path, partial(_write, text))
        for path in (store.root / CHARTS).glob("*.svg") if pictures else ():
            if f"{CHARTS}/{path.name}" not in files and drawn_here(path.read_text()):
                path.unlink()
    except OSError as e:
        raise StorageError(
            f"the board {store.board} cannot be written ({e.strerror}); the records stand. "
            "Free space or change permissions, then run `sidbench leaderboard`"
        ) from None
    return store.board


def _write(text: str, file: Any) -> None:
    file.write(text.encode())


def read_board(store: Store, name: str) -> str | None:
    """The text of one file of a board; none where there is no such file."""
    try:
        return (store.root / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def leaderboard(
    root: Path,
    *,
    check: bool,
    as_json: bool,
    columns: Sequence[str] = (),
    sort: str | None = None,
    matrix: bool = False,
    merge: Sequence[Path] = (),
) -> int:
    """Write the board anew and print it, or compare it with its records."""
    if check and (columns or sort or matrix or merge):
        raise UsageError(
            "--check compares what is there: --columns, --sort, --matrix and --merge write or print"
        )
    columns = known_columns(columns)
    if sort is not None:
        metric(sort)
    store = open_store(root)
    others = [open_store(other) for other in merge]
    taken = [line for other in others for line in take(store, other)]
    broken = [e for _, e in store.all() if isinstance(e, DataError)]
    for error in broken:
        sys.stderr.write(f"left out: {error}\n")
    records = readable(store)
    if not check:
        made = Boards(records, store.vectors, columns)
        _refuse_absent(made, [*columns, *([sort] if sort else [])])
        path = _write_board(store, made)
        page = store.root / PAGE
        if as_json:
            counts = {"records": len(records), "unreadable": len(broken), "merged": taken}
            _say({"board": str(path), "page": str(page), **counts})
            return 1 if broken else 0
        console = Console(highlight=False)
        for line in taken:
            _say(line)
        for table in tables(
            records, groups=made.tables, width=console.width, columns=columns, sort=sort, matrix=matrix
        ):
            console.print(table)
        _say(f"{path} and {page}: {len(records)} records")
        return 1 if broken else 0
    if not store.board.is_file():
        raise SidbenchError(f"there is no board {store.board}; `sidbench leaderboard` writes it")
    made = Boards(records, store.vectors, _columns(store))
    differences = made.check(partial(read_board, store)) + [str(e) for e in broken]
    if as_json:
        _say({"current": not differences, "differences": differences})
    else:
        for line in differences:
            _say(line)
        _say(f"{store.board} {'differs from' if differences else 'agrees with'} its {len(records)} records")
    return 1 if differences else 0


def _refuse_absent(made: Boards, names: Sequence[str]) -> None:
    """A number that no row has would be a column of nothing."""
    for name in names:
        if name != ALL and made.tables and not any(t.chosen([name])[0].filled for t in made.tables):
            there = sorted({n for t in made.tables for r in t.rows for n in (*r.values, *r.levels)})
            raise UsageError(f"no row has {name!r}{nearest(name, there)} --columns all shows what there is")


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
        _say({"removed": yes, "stale": stale, "unknown": [str(p) for p in unknown]})
        return 0
    for path, why in found:
        _say(f"{path}: {why}")
    for path in unknown:
        _say(f"{path}: kept, since its method or resolver is not found here (SIDBENCH_PLUGIN_PATH?)")
    done = "removed" if yes else "stale; --yes removes them" if found else "stale"
    _say(f"{len(found)} {done}")
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
    ]
    found += [
        (p, "its record is gone or stale")
        for p in store.root.glob(LOGS)
        if p.is_dir() and p.name not in alive
    ]
    for pattern in ("records/*/*/.*", f".{MARKDOWN}-*", f".{PAGE}-*", f"{CHARTS}/.*"):
        found += [(p, "left over from a run that was killed") for p in store.root.glob(pattern)]
    return sorted(found), unknown


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
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as e:
        raise SidbenchError(f"{path} cannot be removed ({e.strerror})") from None


def show(run: str, item: str | None, root: Path, *, as_json: bool) -> int:
    """One run's SIDs, or one item among them."""
    store = open_store(root)
    record = find_run(store, run)
    folder = store.artifact(record.key)
    if record.key["kind"] != "tokenizer":
        raise UsageError(f"{record.label} has no SIDs: it is a {record.key['kind']}")
    sids = SIDs.load(folder)
    titles = SIDs.titles(folder)
    if item is None:
        return _show_run(record, sids, titles, folder, as_json)
    return _show_item(item, sids, titles, as_json)


def _show_run(record: RunRecord, sids: SIDs, titles: Any, folder: Path, as_json: bool) -> int:
    own = int(sids.manifest["tokenizer_levels"])
    group = SIDs(sids.codes[:, :own], sids.sizes[:own], sids.item_ids).groups()[1]
    sizes = np.bincount(group)
    largest = np.argsort(-sizes, kind="stable")[:3]
    if as_json:
        _say(
            {
                "record": asdict(record),
                "artifact": str(folder),
                "items": len(sids),
                "sizes": list(sids.sizes),
                "sids": len(sizes),
                "largest_group": int(sizes.max()),
            }
        )
        return 0
    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(record.label)}[/bold] {record.id}  "
        f"{escape(record.key['dataset']['name'])}, seed {record.key['seed']}"
    )
    console.print(
        f"{len(sids):,} items, {len(sizes):,} distinct codes of {own} levels "
        f"({' x '.join(map(str, sids.sizes[:own]))}); "
        f"resolver {sids.resolver}: sizes {' x '.join(map(str, sids.sizes))}"
    )
    for k, v in sorted(record.metrics.items()):
        console.print(f"  {k:<28} {v:.6g}")
    console.print("Most shared codes:")
    for g in largest[sizes[largest] > 1]:
        tree = Tree(
            f"[cyan]{_spell(sids.codes[np.flatnonzero(group == g)[0], :own])}[/cyan]  {sizes[g]} items"
        )
        _hang(tree, sids, titles, np.flatnonzero(group == g))
        console.print(tree)
    where = f"SIDs: {folder / 'sids.parquet'}   "
    where += f"An item: sidbench show {record.id} --item {sids.item_ids[0]}"
    console.print(Text(where, style="dim"), soft_wrap=True)
    return 0


def _show_item(item: str, sids: SIDs, titles: Any, as_json: bool) -> int:
    names = sids.item_ids.astype(str)
    at = np.flatnonzero(names == item)
    if not len(at):
        some = ", ".join(names[:3])
        raise UsageError(f"there is no item {item!r} in this run; its ids look like {some}")
    row, own = int(at[0]), int(sids.manifest["tokenizer_levels"])
    same = np.flatnonzero((sids.codes[:, :own] == sids.codes[row, :own]).all(axis=1))
    by_depth = []
    inside = np.ones(len(sids), dtype=bool)
    for depth in range(1, own + 1):
        inside &= sids.codes[:, depth - 1] == sids.codes[row, depth - 1]
        by_depth.append(np.flatnonzero(inside))
    if as_json:
        _say(
            {
                "item": item,
                "sid": sids.codes[row].tolist(),
                "title": None if titles is None else str(titles[row]),
                "shares": names[same[same != row]].tolist(),
                "neighbours": [
                    {"prefix": sids.codes[row, :d].tolist(), "items": len(rows)}
                    for d, rows in enumerate(by_depth, 1)
                ],
            }
        )
        return 0
    console = Console(highlight=False)
    console.print(f"[bold]{escape(item)}[/bold] {'' if titles is None else escape(titles[row])}")
    console.print(f"SID [cyan]{_spell(sids.codes[row])}[/cyan]")
    branch = tree = Tree("in the tree")
    for depth, rows in enumerate(by_depth, 1):
        branch = branch.add(f"[cyan]{_spell(sids.codes[row, :depth])}[/cyan]  {len(rows):,} items")
        deeper = by_depth[depth] if depth < own else same
        near = np.setdiff1d(rows, deeper if depth < own else [row])
        _hang(branch, sids, titles, near[:SHOWN], rest=len(near) - SHOWN)
    console.print(tree)
    if len(same) == 1:
        console.print("nobody shares its code")
    else:
        console.print(f"{len(same) - 1} share its code (the last level above)")
    return 0


def _hang(tree: Tree, sids: SIDs, titles: Any, rows: Any, rest: int = 0) -> None:
    rest = max(rest, len(rows) - SHOWN)
    for r in rows[:SHOWN]:
        title = "" if titles is None else titles[r]
        tree.add(f"{escape(str(sids.item_ids[r]))}  [dim]{_spell(sids.codes[r])}  {escape(title)}[/dim]")
    if rest > 0:
        tree.add(f"[dim]and {rest:,} more[/dim]")


def _spell(codes: Any) -> str:
    return "-".join(str(c) for c in codes if c >= 0)


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


def open_store(root: Path) -> Store:
    if not root.is_dir():
        raise UsageError(
            f"there is no results folder {root}; `sidbench run` makes one, --results names another"
        )
    return Store(root)


def _say(what: Any) -> None:
    sys.stdout.write((what if isinstance(what, str) else json.dumps(what, indent=2)) + "\n")
