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
        levels = int(stated["tokenizer_levels"]) if "tokenizer_levels" in stated else None
        suffixed = levels is not None and levels < len(stated.get("sizes", []))
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
    if path.is_file() and stated.get("sha256") not in (None, found := checksum(path)):
        raise DataError(
            f"{path.name} is not the file that {place.name} describes: its SHA-256 begins {found[:12]}, the "
            f"manifest says {str(stated['sha256'])[:12]}; export it again, or remove the manifest and say "
            "base and suffix yourself"
        )
    return stated


def _load(place: Path) -> dict[str, Any]:
    stated = safe.read_json(place, MOST)
    checks: dict[str, Callable[[Any], bool]] = {
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
