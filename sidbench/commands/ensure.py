"""sidbench ensure: SIDs that are there and fresh, in one line of a pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sidbench.catalogue.ensure import ensure as ensure_at
from sidbench.errors import UsageError
from sidbench.settings import parse_set


def ensure(
    out: Path,
    embeddings: Path,
    *,
    method: str,
    resolver: str | None,
    sets: list[str],
    as_json: bool,
    **asked: Any,
) -> int:
    """See that the SIDs are there, and say what was done for it."""
    params: dict[str, dict[str, Any]] = {method: {}, resolver or "": {}}
    for text in sets:
        target, key, value = parse_set(text)
        if target not in params or not target:
            raise UsageError(f"--set {text}: expected {method}.{key}=… or a parameter of the resolver")
        params[target][key] = value
    done = ensure_at(
        out,
        embeddings=embeddings,
        method=method,
        params=params[method],
        resolver=resolver,
        resolver_params=params[resolver or ""],
        **asked,
    )
    if as_json:
        said = {"out": str(out), "written": done.written, "why": done.why, "items": done.items}
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    elif done.written:
        sys.stdout.write(f"{out}: {done.items:,} items written ({done.why})\n")
    else:
        sys.stdout.write(f"{out} is fresh: {done.items:,} items\n")
    return 0
