"""Rows in parallel on a processor: one Python thread a core, each with single-threaded kernels.

A tile of rows goes through product, argmin and update while it is in the core's own cache, and cores never
wait for each other inside an operation. NumPy and torch release the interpreter's lock in all of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from sidbench.kit.device import full_precision

# Calls a function with (start, stop) over 0..n in steps.
Run = Callable[[Callable[[int, int], None], int, int], None]


@contextmanager
def workers() -> Iterator[Run]:
    """As many workers as torch has threads; torch itself has one meanwhile, and its own number afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with full_precision(), ThreadPoolExecutor(threads) as pool:

            def run(work: Callable[[int, int], None], n: int, step: int) -> None:
                spans = [(start, min(start + step, n)) for start in range(0, n, step)]
                if threads == 1 or len(spans) == 1:
                    for start, stop in spans:
                        work(start, stop)
                else:
                    for done in [pool.submit(work, start, stop) for start, stop in spans]:
                        done.result()

            yield run
    finally:
        torch.set_num_threads(threads)
