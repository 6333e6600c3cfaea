"""Spans: wall-clock seconds and the highest memory inside a block, the device waited for."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TICK = 0.01  # seconds between two looks at the memory in use


class Span:
    """What one timed block took."""

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def span(device: str = "cpu") -> Iterator[Span]:
    """Time a block. Memory is the highest in use above what was in use at the start; GPU memory too."""
    out = Span()
    cuda = _cuda(device)
    give_back()
    if cuda is not None:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        floor = cuda.memory_allocated()
    with _Watch() as watch:
        start = time.perf_counter()
        try:
            yield out
        finally:
            if cuda is not None:
                cuda.synchronize()
            out.seconds = time.perf_counter() - start
    out.peak_mb = watch.peak / 2**20
    if cuda is not None:
        out.peak_mb = max(out.peak_mb, (cuda.max_memory_allocated() - floor) / 2**20)


def items_per_second(work: Any, items: int, device: str = "cpu", at_least: float = 0.2) -> float:
    """The rate of `work()`, which handles `items`: the median over enough repeats. Warm up before."""
    cuda = _cuda(device)
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        start = time.perf_counter()
        work()
        if cuda is not None:
            cuda.synchronize()
        times.append(time.perf_counter() - start)
        if times[0] > 5:  # long enough to be believed at once
            break
    return float(items / max(sorted(times)[len(times) // 2], 1e-9))


def _cuda(device: str) -> Any:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda


class _Watch:
    """A thread that looks at the resident memory while the block runs."""

    def __enter__(self) -> _Watch:
        self.floor = resident()
        self.top = self.floor
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(TICK):
            self.top = max(self.top, resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.top = max(self.top, resident())

    @property
    def peak(self) -> int:
        return max(0, self.top - self.floor)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, NumPy's, torch's on a processor or on a GPU."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    told = str(error)
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and ("not enough memory" in told or "can't allocate memory" in told)
    )


def give_back() -> None:
    """Return freed memory to the system: a block that reuses it would seem to need none."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc has no such call
            ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of this process in memory now (where /proc is missing: the highest so far)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return high if sys.platform == "darwin" else high * 1024
