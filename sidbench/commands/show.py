"""sidbench show: one run's SIDs, or one item among them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from sidbench.commands.results import find_run, open_store, say
from sidbench.errors import UsageError
from sidbench.record import RunRecord
from sidbench.sids import SIDs

#: How many items of a group `show` prints before it counts the rest.
SHOWN = 12


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
        say(
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
        say(
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
