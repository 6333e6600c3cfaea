"""Writing and reading the SIDs of a million items in every format, with memory, beside Python's own json.

    OMP_NUM_THREADS=2 .venv/bin/python tests/benchmarks/bench_formats.py [--items N] [--formats json,grid]

Every figure is the least of three; sides alternate. Files lie in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sidbench.format import Export
from sidbench.formats import manifest, reading
from sidbench.sids import SIDs


def least(rounds: int, *sides: Callable[[], object]) -> list[float]:
    """The shortest time of each side, taken in turn."""
    out = [float("inf")] * len(sides)
    for _ in range(rounds):
        for at, side in enumerate(sides):
            start = time.perf_counter()
            side()
            out[at] = min(out[at], time.perf_counter() - start)
    return out


def peak(side: Callable[[], object]) -> float:
    """Megabytes that a child of this process needed more than it had, while it did this once."""
    into, out = os.pipe()
    child = os.fork()
    if not child:
        before = resident()
        side()
        os.write(out, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(out)
    with os.fdopen(into) as said:
        return float(said.read())


def resident() -> float:
    """Megabytes in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--formats", default="")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (given.items, 4)).astype(np.int32)
    codes[0] = 0
    export = Export(SIDs(codes, (256,) * 4, np.arange(given.items)), 4)
    names = given.formats.split(",") if given.formats else sorted(reading.known())
    say = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            cls = reading.known()[name]
            if not cls.supports("write") or cls.needs_tokenizer or cls.needs_corpus:
                continue
            form, path = cls(), Path(folder) / f"x.{cls.file}"

            def write() -> object:
                return reading.write(form, export, path)  # noqa: B023

            def bare() -> None:
                form.write(export, path)  # noqa: B023

            def by_json() -> object:
                rows = zip(export.names, codes.tolist(), strict=True)
                held = {i: [f"<{x}_{c}>" for x, c in zip("abcd", s, strict=True)] for i, s in rows}
                with (Path(folder) / "plain.json").open("w") as file:
                    json.dump(held, file)
                return held

            sides = [write, bare, *([by_json] if name == "minionerec" else [])]
            times = least(given.rounds, *sides)
            write()
            size = path.stat().st_size / 1e6
            (read,) = least(given.rounds, lambda: reading.read(path, "bench"))  # noqa: B023
            manifest.beside(path).unlink()
            other = f", json.dump of the same {times[2]:.2f} s" if len(times) > 2 else ""
            grown = peak(lambda: reading.read(path, "bench"))  # noqa: B023
            parsed = ""
            if path.suffix == ".json":  # what Python's own parser takes, before anything is made of it
                load = lambda: json.loads(path.read_text())  # noqa: B023, E731
                (alone,) = least(given.rounds, load)
                parsed = f"; json.loads alone {alone:.2f} s, {peak(load):,.0f} MB"
            say(
                f"{name:16} {size:7.1f} MB  write {times[0]:.2f} s (text alone {times[1]:.2f} s{other})  "
                f"read {read:.2f} s, {grown:,.0f} MB{parsed}\n"
            )


if __name__ == "__main__":
    main()
