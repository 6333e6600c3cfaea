"""The JSON beside a file of SIDs that says what the file itself cannot: base, orientation, suffix, sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidbench import __version__
from sidbench.errors import DataError
from sidbench.formats import safe

SCHEMA = 1
ENDING = ".manifest.json"
MOST = 1 << 20
#: What is read of a folder.
READ = (".index.json", ".item2id")


def beside(path: Path) -> Path:
    """Where the manifest of a file (or folder) lies."""
    return path.with_name(path.name + ENDING)


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    h = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            h.update(piece)
    return h.hexdigest()


def text(**stated: Any) -> str:
    return json.dumps({"sidbench": __version__, "schema": SCHEMA, **stated}, indent=2, sort_keys=True) + "\n"


def read(path: Path) -> dict[str, Any]:
    """What the manifest beside a file states; empty where there is none, an error where the file is another.

    The table of a run (`sids.parquet`) has its `manifest.json`.
    """
    own = path.with_name("manifest.json")
    if path.name == "sids.parquet" and own.is_file():
        stated = _load(own)
        check(path.parent, path.name)
        levels = stated.get("tokenizer_levels")
        suffixed = levels is not None and levels < len(stated.get("sizes") or [])
        return {
            "base": stated.get("base", 0),
            "orientation": "items",
            "suffix": {"base": 0} if suffixed else None,
            "sizes": stated.get("sizes"),
            "source": {k: stated[k] for k in ("method", "dataset", "resolver", "seed") if k in stated},
        }
    place = beside(path)
    if not place.is_file():
        return {}
    stated = _load(place)
    for name, digest in files(path).items() if path.is_dir() else ():
        if name.endswith(READ) and (path.parent / name).is_file() and checksum(path.parent / name) != digest:
            raise DataError(
                f"{name} is not the file that {place.name} describes; export it again, or remove the "
                "manifest and say base and suffix yourself"
            )
    if path.is_file() and stated.get("sha256") not in (None, found := checksum(path)):
        raise DataError(
            f"{path.name} is not the file that {place.name} describes: its SHA-256 begins {found[:12]}, the "
            f"manifest says {str(stated['sha256'])[:12]}; export it again, or remove the manifest and say "
            "base and suffix yourself"
        )
    return stated


def check(folder: Path, *names: str) -> None:
    """These files of a folder are those whose checksums its `manifest.json` has, as far as it has any."""
    place = folder / "manifest.json"
    stated = safe.read_json(place) if place.is_file() else None
    files = stated.get("files") if isinstance(stated, dict) else None
    for entry in files if isinstance(files, list) else []:
        if not isinstance(entry, dict) or entry.get("file") not in names or "sha256" not in entry:
            continue
        path = folder / str(entry["file"])
        if not path.is_file():
            raise DataError(f"there is no {path}, which {place.name} beside it describes; make both again")
        if (found := checksum(path)) != entry["sha256"]:
            raise DataError(
                f"{path} is not the file that {place.name} beside it describes: its SHA-256 begins "
                f"{found[:12]}, the manifest says {str(entry['sha256'])[:12]}; it was changed or exchanged: "
                "fetch or make the folder again, with the same command and --redo"
            )


def files(path: Path) -> dict[str, str]:
    """What an earlier export left below a folder, or beside a file, with checksums; only names of its own."""
    place = beside(path)
    if not place.is_file():
        return {}
    try:
        held = _load(place).get("files")
    except DataError:
        return {}
    return {
        name: digest
        for name, digest in (held.items() if isinstance(held, dict) else ())
        if name.startswith((f"{path.name}/", f"{path.name}.")) and ".." not in Path(name).parts
    }


def speaks_of(path: Path) -> bool:
    """Whether the manifest beside a file is of this very file, as an export left both."""
    place = beside(path)
    if not place.is_file():
        return False
    stated = _load(place)
    return bool(stated.get("sha256") == checksum(path))


def _load(place: Path) -> dict[str, Any]:
    try:
        stated = safe.read_json(place, MOST)
    except DataError as e:
        said = str(e).partition(";")[0]
        raise DataError(f"{said}; remove the manifest, and say base and suffix yourself") from None
    checks: dict[str, Callable[[Any], bool]] = {
        "format": lambda v: isinstance(v, str),
        "schema": lambda v: type(v) is int,
        "items": lambda v: type(v) is int and v >= 0,
        "tokenizer_levels": lambda v: type(v) is int and v > 0,
        "ids": lambda v: isinstance(v, str),
        "base": lambda v: v in (0, 1) and type(v) is int,
        "orientation": lambda v: v in ("items", "levels"),
        "suffix": lambda v: v is None or (isinstance(v, dict) and v.get("base") in (0, 1)),
        "sizes": lambda v: v is None or (isinstance(v, list) and all(type(n) is int and n > 0 for n in v)),
    }
    if not isinstance(stated, dict):
        raise DataError(f"{place} is no manifest; remove it, and say base and suffix yourself")
    for key, fits in checks.items():
        if key in stated and not fits(stated[key]):
            raise DataError(f"{place}: {key} does not fit; remove the manifest, and say it yourself")
    if stated.get("schema", SCHEMA) > SCHEMA:
        raise DataError(f"{place} was written by a newer sidbench; this one reads up to schema {SCHEMA}")
    return stated
