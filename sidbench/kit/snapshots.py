"""Checkpoints on disk: tensors and JSON in a folder each, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidbench.errors import DataError, StorageError, UsageError
from sidbench.kit.nearest import Floats

TENSORS, ABOUT = "state.safetensors", "about.json"


def write(folder: Path, epoch: int, tensors: dict[str, Tensor], about: dict[str, Any], keep: int) -> None:
    """A checkpoint after this many epochs; only the newest `keep` stay."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    final = folder / f"epoch-{epoch:06d}"
    partial = final.with_suffix(".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        arrays = {name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}
        save_file(arrays, partial / TENSORS)
        (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        for path in (partial / TENSORS, partial / ABOUT, partial):
            _settle(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)  # at once: a kill leaves the folder whole or not there
        _settle(folder)
        for old in _whole(folder)[:-keep]:
            shutil.rmtree(old)
    except (OSError, SafetensorError) as e:  # the latter is what its writer makes of a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"the checkpoint {final} cannot be written ({e}); make room there, then run the same command "
            "again: it goes on from the checkpoint before"
        ) from None


def latest(folder: Path, owner: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint, if there is one; one of another owner (parameters, data) is an error."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found = _whole(folder)
    if not found:
        return None
    path = found[-1]
    try:
        about = json.loads((path / ABOUT).read_text())
        other = about["owner"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise _unreadable(path, e) from None
    if other != owner:
        raise UsageError(
            f"the checkpoint {path} is of another fit ({_difference(other, owner)}); name another folder "
            f"for checkpoints, or remove {folder} to begin anew"
        )
    try:
        tensors = {name: torch.from_numpy(a) for name, a in load_file(path / TENSORS).items()}
    except (OSError, SafetensorError) as e:
        raise _unreadable(path, e) from None
    return tensors, about


def fingerprint(x: Floats) -> str:
    """A hash of every row, read a piece at a time."""
    digest = hashlib.blake2b(repr(x.shape).encode(), digest_size=16)
    step = max(1, (1 << 24) // x.shape[1])
    for at in range(0, len(x), step):
        digest.update(np.ascontiguousarray(x[at : at + step]).data)
    return digest.hexdigest()


def _whole(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("epoch-*") if not p.suffix)


def _settle(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"the checkpoint {path} cannot be read ({error}); remove it to begin from one before it")


def _difference(other: dict[str, Any], owner: dict[str, Any]) -> str:
    """The first entries that differ, as a person reads them."""
    told = [
        f"{key}: {other.get(key)!r} there, {owner.get(key)!r} here"
        for key in {**owner, **other}
        if other.get(key) != owner.get(key)
    ]
    return "; ".join(told[:3])
