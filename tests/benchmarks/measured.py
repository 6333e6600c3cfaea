"""A piece of work in a process of its own: its seconds, those of the processor, its memory at the most."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PIECE = 1 << 18  # rows made at one time
LOOK = 0.02  # seconds between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """What the work took, without the start of its process."""

    seconds: float
    processor: float
    #: Gigabytes of its own at the most: anonymous pages, as those of a mapped file can be given back.
    memory: float
    #: What of these it had before the work began: Python, libraries, what it was given.
    before: float


def measured(work: Callable[..., Any], *given: Any) -> tuple[Any, Cost]:
    """What `work(*given)` returns, and its cost. A function of a module, given what can be pickled.

    Where it returns a function, that is the work, and what came before it is not counted.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_run, args=(theirs, work, given))
    child.start()
    theirs.close()
    status = Path(f"/proc/{child.pid}/status")
    most = 0.0
    before = 0.0
    try:
        while not ours.poll(LOOK):
            most = max(most, _anonymous(status))
        said = ours.recv()
        while said == "ready":
            before = most = _anonymous(status)
            ours.send("go")
            while not ours.poll(LOOK):
                most = max(most, _anonymous(status))
            said = ours.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the process of {work.__name__} ended with {child.exitcode}") from None
    child.join()
    if isinstance(said, BaseException):
        raise said
    result, seconds, processor = said
    return result, Cost(seconds, processor, max(most, before), before)


def _run(pipe: Any, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work(*given)
        if callable(found):
            pipe.send("ready")
            pipe.recv()
            wall, cpu = time.perf_counter(), time.process_time()
            found = found()
        pipe.send((found, time.perf_counter() - wall, time.process_time() - cpu))
    except BaseException as e:  # the other side raises it
        pipe.send(e)


def _anonymous(status: Path) -> float:
    try:
        text = status.read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")), 0) / 2**20


def world(path: Path, n: int, d: int = 32) -> Any:
    """Items around centres of centres, 2% of them copies of others, in a file that is mapped, not read.

    The first rows of a larger world are those of a smaller one.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        x = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(n, d))
        rng = np.random.default_rng(0)
        kinds = rng.standard_normal((300, d), dtype=np.float32)
        sorts = 1.5 * kinds[rng.integers(300, size=60_000)]
        sorts += 0.5 * rng.standard_normal(sorts.shape, dtype=np.float32)
        for at in range(0, n, PIECE):
            rng = np.random.default_rng(1 + at)
            rows = sorts[rng.integers(len(sorts), size=PIECE)]
            rows += np.float32(0.45) * rng.standard_normal(rows.shape, dtype=np.float32)
            rows[rng.integers(PIECE, size=PIECE // 50)] = rows[rng.integers(PIECE, size=PIECE // 50)]
            x[at : at + PIECE] = rows[: n - at]
        x.flush()
        del x
        part.rename(path)
    return mapped(path)


def mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)
