"""Fit and encode a catalogue by the command line: seconds, items a second, memory at the most.

    python tests/benchmarks/bench_catalogue.py                     # 5,689,519 x 32, 4 x 256
    python tests/benchmarks/bench_catalogue.py --linear            # 100 thousand, 1 and 10 million items
    python tests/benchmarks/bench_catalogue.py --half              # 1,000,000 x 768 float16, one parquet file

Every command runs in a process of its own; its seconds are those a person waits, imports and all. Memory is
the peak of resident pages as the system counts it. `--json FILE` keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, DIM, STEP = 5_689_519, 32, 500_000


def mixture(n: int, dim: int, seed: int = 0) -> Any:
    """Rows of a mixture in two levels, as catalogues have them, some at a time."""
    rng = np.random.default_rng(seed)
    coarse = 2 * rng.standard_normal((64, dim)).astype(np.float32)
    fine = rng.standard_normal((4096, dim)).astype(np.float32)
    step = max(1, STEP * 32 // dim)
    for start in range(0, n, step):
        m = min(step, n - start)
        group = rng.integers(0, len(fine), m)
        yield coarse[group % 64] + fine[group] + 0.6 * rng.standard_normal((m, dim), dtype=np.float32)


def write_npy(path: Path, n: int, dim: int) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, dim))
    at = 0
    for rows in mixture(n, dim):
        out[at : at + len(rows)] = rows
        at += len(rows)
    out.flush()


def write_parquet(path: Path, n: int, dim: int) -> None:
    """Lists of float16 in row groups as pandas would write them, with ids."""
    schema = pa.schema([("item_id", pa.int64()), ("embedding", pa.list_(pa.float16()))])
    with pq.ParquetWriter(path, schema) as writer:
        at = 0
        for rows in mixture(n, dim):
            flat = pa.array(rows.astype(np.float16).reshape(-1))
            ends = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * dim)
            ids = pa.array(np.arange(at, at + len(rows)))
            at += len(rows)
            writer.write_table(pa.table([ids, pa.ListArray.from_arrays(ends, flat)], schema=schema))


def timed(*arguments: str) -> dict[str, float]:
    """A sidbench command: seconds on the clock and of the processor, gigabytes at the most."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "sidbench.cli", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"sidbench {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    # Linux counts kilobytes, macOS bytes.
    unit = 2**20 if sys.platform == "linux" else 2**30
    return {
        "seconds": seconds,
        "processor": used.ru_utime + used.ru_stime,
        "memory_gb": used.ru_maxrss / unit,
    }


def measure(root: Path, x: Path, rows: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit once, then encode several times; each as a line."""
    model, found = root / f"model-{rows}", []
    sets = ["--set", f"rq-kmeans.levels={args.levels}", "--set", f"rq-kmeans.iters={args.iters}"]
    threads = ["--threads", str(args.threads)]
    sample = min(args.sample, rows)
    cost = timed(*("fit", "rq-kmeans", str(x), "--out", str(model), "--sample", str(sample), *sets, *threads))
    found.append({"what": "fit", "rows": rows, "sample": sample, **cost})
    said(found[-1])
    best: list[float] = []
    for _ in range(args.rounds):
        out = root / f"sids-{rows}.parquet"
        cost = timed("encode", str(model), str(x), "--out", str(out), "--redo", *threads)
        found.append({"what": "encode", "rows": rows, **cost})
        said(found[-1])
        best.append(cost["seconds"])
    print(f"  fit and encode {found[0]['seconds'] + min(best):.1f} s")
    resolved = root / f"resolved-{rows}"
    cost = timed(
        *("encode", str(model), str(x), "--out", str(resolved), "--resolver", "suffix", "--redo", *threads)
    )
    found.append({"what": "encode with suffix", "rows": rows, **cost})
    said(found[-1])
    return found


def said(cost: dict[str, Any]) -> None:
    speed = cost["rows"] / cost["seconds"]
    print(
        f"{cost['rows']:>12,} {cost['what']:<20} {cost['seconds']:7.1f} s {speed:>12,.0f} items/s "
        f"{cost['processor']:7.1f} s of processor {cost['memory_gb']:6.2f} GB at the most",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--iters", type=int, default=25)
    parser.add_argument("--sample", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the generated files, used again")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        keep = args.keep or root
        keep.mkdir(parents=True, exist_ok=True)
        if args.half:
            x = keep / "half.parquet"
            if not x.exists():
                write_parquet(x, 1_000_000, 768)
            found += measure(root, x, 1_000_000, args)
        for rows in (100_000, 1_000_000, 10_000_000) if args.linear else () if args.half else (args.rows,):
            x = keep / f"x-{rows}.npy"
            if not x.exists():
                write_npy(x, rows, DIM)
            found += measure(root, x, rows, args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
