"""Other systems' code beside ours: clones are found through SIDBENCH_PEERS, what is missing is said."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class MissingPeerError(Exception):
    """A peer cannot be run here; the text says why and what to do."""


def folder(clone: str) -> Path:
    """Where a system's clone lies."""
    root = os.environ.get("SIDBENCH_PEERS")
    if not root:
        raise MissingPeerError(f"{clone}: set SIDBENCH_PEERS to the folder that holds its clone")
    path = Path(root) / clone
    if not path.is_dir():
        raise MissingPeerError(f"{clone}: {path} is missing; clone the system into {root}")
    return path


def load(clone: str, file: str) -> ModuleType:
    """A Python file of a clone, as a module: `load("MiniOneRec", "rq/rqkmeans_faiss.py")`."""
    path = folder(clone) / file
    if not path.is_file():
        raise MissingPeerError(f"{clone}: {path} is missing; clone the system again")
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as e:
        raise _needs(clone, e) from None
    return module


def together(clone: str, where: str, names: Sequence[str]) -> list[ModuleType]:
    """Modules of a clone that import one another as its scripts do, from the folder `where`.

    What they imported from there is then forgotten: names such as `utils` and `models` are everyone's.
    """
    root = folder(clone) / where
    own = {path.stem for path in root.iterdir() if path.suffix == ".py" or path.is_dir()}

    def taken() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in own]

    before = {name: sys.modules.pop(name) for name in taken()}
    sys.path.insert(0, str(root))
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as e:
        raise _needs(clone, e) from None
    finally:
        sys.path.remove(str(root))
        for name in taken():
            del sys.modules[name]
        sys.modules.update(before)


def _needs(clone: str, error: ImportError) -> MissingPeerError:
    return MissingPeerError(f"{clone}: {error}; install what it needs (pip install -e '.[bench]')")
