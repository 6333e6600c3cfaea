"""Where tensors live: `auto` becomes a concrete device, and a device that is not there is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidbench.errors import UsageError


def resolve(device: str) -> torch.device:
    """The device a name stands for: `auto` takes CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device = {device!r} is not known; expected auto, cpu, cuda or cuda:0") from None
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"device = {device!r} is not supported; expected auto, cpu, cuda or cuda:0")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device = {device!r} is not there (CUDA devices: {torch.cuda.device_count()}); "
            "use device = auto or cpu, or install a torch build with CUDA"
        )
    return found


def describe(device: torch.device) -> str:
    """The device as a record keeps it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class _Alias:
    """The same memory, announced as writable: torch warns about read-only arrays, even where none writes."""

    def __init__(self, x: NDArray[Any]) -> None:
        self.__array_interface__ = {
            **x.__array_interface__,
            "data": (x.__array_interface__["data"][0], False),
        }
        self.owner = x  # keeps the memory alive


def tensor(x: NDArray[Any]) -> torch.Tensor:
    """A CPU tensor over the array's own memory. Nobody may write to it."""
    return torch.from_numpy(np.asarray(_Alias(x)))


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products as float32: a caller's TF32 or bfloat16 setting is put aside and put back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
