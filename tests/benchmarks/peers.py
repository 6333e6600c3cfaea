"""Other systems' code beside ours: clones are found through SIDBENCH_PEERS, what is missing is said."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType


class MissingPeerError(Exception):
    """A peer cannot be run here; the text says why and what to do."""


def load(clone: str, file: str) -> ModuleType:
    """A Python file of a clone, as a module: `load("MiniOneRec", "rq/rqkmeans_faiss.py")`."""
    root = os.environ.get("SIDBENCH_PEERS")
    if not root:
        raise MissingPeerError(f"{clone}: set SIDBENCH_PEERS to the folder that holds its clone")
    path = Path(root) / clone / file
    if not path.is_file():
        raise MissingPeerError(f"{clone}: {path} is missing; clone the system into {root}")
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as e:
        raise MissingPeerError(f"{clone}: {e}; install what it needs (pip install -e '.[bench]')") from None
    return module
