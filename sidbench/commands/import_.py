"""sidbench import: SIDs of another system as an artifact of ours: sids.parquet and its manifest."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from sidbench.commands.export import of_file
from sidbench.errors import StorageError, UsageError
from sidbench.format import How
from sidbench.formats import safe
from sidbench.sids import FILES, distinct_rows


def _check_place(out: Path, redo: bool) -> None:
    """An import goes to a folder of its own; with --redo to one that an import left."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder for {' and '.join(FILES)}")
    if not out.exists() or not any(out.iterdir()):
        return
    if not redo:
        raise UsageError(f"{out} is there already; name another folder, or replace its SIDs with --redo")
    place = out / "manifest.json"
    stated = safe.read_json(place) if place.is_file() else {}
    if place.is_file() and not (isinstance(stated, dict) and stated.get("method") == "import"):
        raise UsageError(
            f"{out} holds what no import left (its manifest.json says so); --redo replaces SIDs of an "
            "earlier import alone: name another folder"
        )


def import_(
    path: Path, out: Path, *, how: How, sizes: tuple[int, ...] | None, redo: bool, as_json: bool
) -> int:
    """Read, settle, write; say what was understood."""
    _check_place(out, redo)
    found = of_file(path, how, sizes)
    sids = found.sids.replace(
        manifest={"method": "import", "tokenizer_levels": found.own, "source": found.source}
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as part:
            sids.save(Path(part), found.titles)
            out.mkdir(exist_ok=True)
            for name in FILES:  # the manifest vouches for the table, so it comes last
                (Path(part) / name).replace(out / name)
    except OSError as e:
        raise StorageError(f"{out} cannot be written ({e.strerror or e}); name another folder") from None
    shared = len(sids) - len(distinct_rows(sids.codes)[0])
    about = {
        "out": str(out),
        "items": len(sids),
        "levels": sids.levels,
        "sizes": list(sids.sizes),
        "base": found.source["counted_from"],
        "suffix": found.has_suffix,
        "surplus_items": shared,
    }
    if as_json:
        sys.stdout.write(json.dumps(about, indent=2) + "\n")
        return 0
    console = Console(highlight=False, soft_wrap=True)
    last = ", the last a suffix" if found.has_suffix else ""
    console.print(
        f"{out}: {len(sids):,} items, {sids.levels} codes{last}, sizes {' x '.join(map(str, sids.sizes))}; "
        f"the file counts from {about['base']}, {shared:,} items repeat another's SID"
    )
    console.print(
        f"Next: sidbench inspect {out}   or   sidbench run --methods precomputed --resolvers keep "
        f"--set precomputed.path={out / 'sids.parquet'} --dataset …",
        style="dim",
    )
    return 0
