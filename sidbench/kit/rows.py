"""What methods ask of rows before they learn: the mean, a scale that keeps squares in range, equal rows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.kit.nearest import Floats
from sidbench.sids import Codes

PIECE = 1 << 22  # numbers looked at at once: rows may be a memmap


class Sliced(Protocol):
    """Rows that are read a piece at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def mean_row(x: Sliced) -> Floats:
    """The mean in float64, a piece at a time, as float32."""
    step = max(1, PIECE // x.shape[1])
    total: Any = sum(x[at : at + step].sum(axis=0, dtype=np.float64) for at in range(0, len(x), step))
    return np.asarray(total / len(x), dtype=np.float32)


def spread(x: Floats, mean: Floats) -> float:
    """The mean squared distance from the mean."""
    step = max(1, PIECE // x.shape[1])
    parts = (np.square(x[at : at + step] - mean.astype(np.float64)).sum() for at in range(0, len(x), step))
    return float(sum(parts) / len(x))


def power_of_two(x: Floats, mean: Floats) -> np.float32:
    """1, or the power of two (no digit changes) that brings extreme distances from the mean near 1."""
    step = max(1, PIECE // x.shape[1])
    largest = max(float(np.abs(x[at : at + step] - mean).max()) for at in range(0, len(x), step))
    extreme = largest > 0 and not 1e-12 < largest < 1e12
    return to_one(largest) if extreme else np.float32(1)


def to_one(largest: float) -> np.float32:
    """The power of two (no digit changes) that brings numbers up to `largest` near 1."""
    return np.float32(2.0 ** -np.clip(np.frexp(largest)[1], -126, 126))


def keys(x: Floats) -> NDArray[np.uint64]:
    """A 64-bit hash of every row's values: equal for equal rows (0.0 and -0.0 are one value)."""
    factors = np.random.default_rng(0).integers(1 << 63, size=x.shape[1], dtype=np.uint64) * np.uint64(2)
    out = np.empty(len(x), dtype=np.uint64)
    step = max(1, PIECE // x.shape[1])
    for at in range(0, len(x), step):
        bits = (x[at : at + step] + np.float32(0)).view(np.uint32).astype(np.uint64)
        # Unsigned arrays wrap around in silence, which is what the arithmetic wants.
        out[at : at + step] = (bits * (factors + np.uint64(1))).sum(axis=1, dtype=np.uint64)
    return out


def next_level(x: Floats, prefix: Codes, levels: int) -> int:
    """The level that `costs` is asked about: as many as the prefix has codes."""
    if prefix.ndim != 2 or len(prefix) != len(x) or prefix.shape[1] >= levels:
        raise DataError(
            f"costs: the prefix has shape {prefix.shape}; expected ({len(x)}, 0 to {levels - 1} codes)"
        )
    return int(prefix.shape[1])
