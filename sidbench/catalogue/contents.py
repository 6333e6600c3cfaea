"""Parameters that name files, by what these hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sidbench import provenance


def by_content(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as JSON keeps them: a file or folder by a hash of what it holds, wherever it lies."""
    out: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Path):
            value = f"sha256:{provenance.named_by_content(value).rpartition('#')[2]}"
        out[key] = list(value) if isinstance(value, tuple) else value
    return out
