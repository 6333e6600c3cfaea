"""sidbench compare: what moved beyond noise between two runs, methods, results folders or commits."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidbench.commands.results import open_store, readable, runs_named
from sidbench.errors import UsageError, nearest
from sidbench.metrics import ABSENT
from sidbench.record import Store
from sidbench.report.compare import Change, Comparison, Side, numbers, shown
from sidbench.report.compare import compare as compared
from sidbench.report.files import MARKDOWN, PAGE

#: Characters from which intervals have room.
WIDE = 100
_STYLES = {"better": "bold green", "worse": "bold red", "same": "dim", "unknown": "yellow"}


def compare(a: str, b: str, root: Path, *, as_json: bool) -> int:
    """Print what moved; 1 where something got worse beyond noise."""
    with ExitStack() as open_:  # what is read of a commit lies in a folder for a while
        found = compared(_side(a, root, open_), _side(b, root, open_))
    if as_json:
        sys.stdout.write(json.dumps(numbers(found), indent=2) + "\n")
    else:
        _print(found, a, b)
    return 1 if found.failed else 0


def _side(name: str, root: Path, open_: ExitStack) -> Side:
    """A results folder (or a board in one), else runs of ours: by id, by method, or method+resolver.

    Else a commit of the checkout that the results folder is in: that folder as it was then.
    """
    path = Path(name)
    if path.is_file() and path.name in (MARKDOWN, PAGE):
        path = path.parent
    if path.is_dir():
        if not (path / "records").is_dir():
            raise UsageError(f"{path} holds no records/: name a results folder, a run's id or a method")
        store = Store(path)
        return Side(name, tuple(readable(store)), store.vectors, named=False)
    store = open_store(root)
    records = readable(store)
    runs = runs_named(records, name) or [r for r in records if r.id.startswith(name)]
    if not runs and (commit := _commit(name, root)):
        store = Store(_as_of(commit, name, root, open_))
        return Side(name, tuple(readable(store)), store.vectors, named=False)
    if not runs:
        known = sorted({r.label for r in records})
        raise UsageError(
            f"{name!r} is neither a folder, nor a run in {root}, nor a commit"
            f"{nearest(name.partition('+')[0], known)} "
            f"There are: {', '.join(known) or 'none'}; a run's id or method+resolver names one more closely"
        )
    if len({r.label for r in runs}) > 1:
        raise UsageError(f"{name!r} is the start of {len(runs)} runs: {', '.join(r.id for r in runs)}")
    return Side(name, tuple(runs), store.vectors, named=True)


def _commit(name: str, root: Path) -> str:
    """The full name of a commit; nothing where there is none, or no checkout, or no git."""
    if not name or name.startswith("-") or shutil.which("git") is None:
        return ""
    return _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()


def _as_of(commit: str, name: str, root: Path, open_: ExitStack) -> Path:
    """The results folder as it was at a commit, below a folder that goes when all is compared."""
    packed = _git(root, "archive", "--format=zip", commit, "records")
    if not packed:
        raise UsageError(
            f"commit {name} holds no {root / 'records'}: --results names the folder that it holds"
        )
    folder = Path(open_.enter_context(TemporaryDirectory(prefix="sidbench-compare-")))
    with zipfile.ZipFile(io.BytesIO(packed)) as z:
        z.extractall(folder)
    return folder


def _git(root: Path, *words: str) -> bytes:
    """What git says; nothing where it fails."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    return b"" if done.returncode else done.stdout


def _print(found: Comparison, a: str, b: str) -> None:
    console = Console(highlight=False, width=max(60, min(shutil.get_terminal_size((80, 24)).columns, 120)))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    changes = shown(found)
    several, wide = len({c.row for c in changes}) > 1, console.width >= WIDE
    heads = [
        *(["Row"] if several else []),
        "Number",
        "A",
        "B",
        "Change",
        *(["95% interval", "p"] if wide else []),
    ]
    for head in [*heads, ""]:
        left = head in ("Row", "Number", "")
        table.add_column(head, justify="left" if left else "right", no_wrap=not left or not head)
    row = ""
    for c in changes:
        cells = [*([c.row if c.row != row else ""] if several else []), c.metric.label]
        cells += [c.metric.show(c.a.mean), c.metric.show(c.b.mean), _signed(c, c.delta)]
        if wide:
            cells += [f"{_signed(c, c.low)} to {_signed(c, c.high)}" if c.low is not None else ABSENT]
            cells += [ABSENT if c.p is None else f"{c.p:.4f}"]
        said = {"unknown": "?", "same": "within noise"}.get(c.verdict, c.verdict)
        table.add_row(*cells, said if c.decides else f"{said}, time", style=_STYLES[c.verdict])
        row = c.row
    console.print(Text(f"A: {a}   B: {b}", style="bold"))
    console.print(table)
    for row, differs in found.given.items():
        some = [*differs[:6], *([f"{len(differs) - 6} more"] if len(differs) > 6 else [])]
        console.print(Text(f"{row} was given otherwise: {'; '.join(some)}", style="yellow"))
    for line in found.broken:
        console.print(Text(f"ran in A, failed in B: {line}", style="bold red"))
    for side, rows in (("A", found.only_a), ("B", found.only_b)):
        if rows:
            console.print(Text(f"in {side} alone: {', '.join(rows)}", style="dim"))
    if any(c.verdict == "unknown" for c in changes):
        console.print(Text("? One seed on a side: the noise is unknown (run --seeds 0,1,2).", "yellow"))
    if wide and any(c.low is not None and c.row in found.single for c in changes):
        console.print(Text("With one seed the 95% interval is of users alone.", style="dim"))
    console.print(Text(_summary(found), style="bold red" if found.failed else "bold"))


def _signed(c: Change, value: float | None) -> str:
    if value is None:
        return ABSENT
    said = c.metric.show(value)
    return said if said[0] in "+-" or value <= 0 else f"+{said}"


def _summary(found: Comparison) -> str:
    decided = [c for c in found.changes if c.decides]
    better = sum(c.verdict == "better" for c in decided)
    rows = len({c.row for c in found.changes})
    said = f"{len(decided)} numbers of {rows} {'row' if rows == 1 else 'rows'} compared: "
    if not (better or found.worse):
        unknown = sum(c.verdict == "unknown" for c in decided)
        if unknown:
            return f"{said}nothing moved that can be judged, of {unknown} the noise is unknown."
        return f"{said}none moved beyond noise, at 5%, corrected for all of them."
    return f"{said}beyond noise, at 5%, {better} got better and {len(found.worse)} worse."
