"""Writing and reading the SIDs of a million items in every format, with memory, beside Python's own json.

    OMP_NUM_THREADS=2 .venv/bin/python tests/benchmarks/bench_formats.py [--items N] [--formats json,grid]

Every figure is the least of three; sides alternate. Files lie in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
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


#: Reads a file in a process of its own, without the blocks where `json` is said, and tells what that took.
ALONE = """
import re, sys, time
from pathlib import Path
import pyarrow.compute
from sidbench.formats import lists, reading
reading.known()
if sys.argv[2] == "json":
    lists.of_file = lambda *a, **k: None
def megabytes(what):  # of this program alone, as what getrusage tells is not
    return int(re.search(what + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3
before = megabytes("VmRSS")
start = time.process_time()
reading.read(Path(sys.argv[1]), "bench")
grown = megabytes("VmHWM") - before
sys.stdout.write(f"{time.process_time() - start:.2f} s of processor time, {grown:,.0f} MB")
"""


def alone(path: Path, way: str = "") -> str:
    """Processor time and memory of one reading."""
    line = [sys.executable, "-c", ALONE, str(path), way]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


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
            took = alone(path)
            if path.suffix == ".json":
                took += f"; by Python's parser {alone(path, 'json')}"
            say(
                f"{name:16} {size:7.1f} MB  write {times[0]:.2f} s (text alone {times[1]:.2f} s{other})  "
                f"read {read:.2f} s ({took})\n"
            )


if __name__ == "__main__":
    main()
