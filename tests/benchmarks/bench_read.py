"""Peak memory of a large catalogue: a parquet file of float16 vectors is checked, loaded and encoded.

    python tests/benchmarks/bench_read.py            # 1,000,000 x 768: 1.5 GB, 6 GB of cache
    python tests/benchmarks/bench_read.py --rows 100000 --steps check,encode

The file is made in pieces in a temporary folder (TMPDIR) and removed; each step is a process of its own,
whose peak resident memory the system counts. Exits with 1 where a step needs more than --bound.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

STEPS = ("check", "plan", "encode")
GB = 1 << 30

FIT = """
import sys, numpy as np
from sidbench.registry import find
from sidbench.vectors import open_vectors
rows = open_vectors(sys.argv[1]).read(0, 20_000)
find("tokenizer", "rq-kmeans")(codebook_size=256, iters=5).fit(rows).save(sys.argv[2])
"""
PLAN = """
import sys
from pathlib import Path
from sidbench.plan import make_plan
from sidbench.settings import read_settings
given = {"items": sys.argv[1], "sequences": sys.argv[2], "methods": "rq-kmeans", "threads": 1}
corpus = make_plan(read_settings(None, given, []), dry=True).bench.corpus
print(f"{len(corpus):,} items, {type(corpus.embeddings).__name__}, {len(corpus.sequences):,} users")
"""


def make(folder: Path, rows: int, dim: int, piece: int) -> None:
    """Items with text ids, titles and vectors around 512 centres; events of a fifth as many users."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((512, dim), np.float32)
    noise = rng.standard_normal((piece, dim), np.float32) * 0.5
    vectors = pa.list_(pa.float16(), dim)
    schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("embedding", vectors)])
    with pq.ParquetWriter(folder / "items.parquet", schema, compression="none", use_dictionary=False) as out:
        for at in range(0, rows, piece):
            n = min(piece, rows - at)
            x = centres[rng.integers(len(centres), size=n)] + noise[rng.permutation(piece)[:n]]
            flat = pa.array(x.astype(np.float16).reshape(-1))
            ids = [f"B{i:08d}" for i in range(at, at + n)]
            table = [pa.array(ids), pa.array([f"Item {i}" for i in ids])]
            table.append(pa.FixedSizeListArray.from_arrays(flat, dim))
            out.write_table(pa.table(table, schema=schema), row_group_size=piece)
    users = max(10, rows // 5)
    user = np.repeat(np.arange(users), 8)
    item = rng.integers(rows, size=len(user))
    names = pa.array([f"B{i:08d}" for i in range(rows)]).take(pa.array(item))
    times = pa.array(1_700_000_000 + rng.integers(10**7, size=len(user)))
    pq.write_table(
        pa.table({"user": pa.array(user), "item": names, "time": times}), folder / "events.parquet"
    )


def child(command: list[str], environment: dict[str, str]) -> tuple[int, float, float]:
    """Run it; exit code, seconds, peak resident gigabytes."""
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, {**os.environ, **environment})
    _, status, usage = os.wait4(pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return os.waitstatus_to_exitcode(status), time.perf_counter() - began, usage.ru_maxrss * unit / GB


def main() -> int:
    """Make the files, run each step, say what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--piece", type=int, default=50_000, help="rows that are made and written at a time")
    parser.add_argument("--bound", type=float, default=4.0, help="GB that no step may exceed")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make is not None:
        make(asked.make, asked.rows, asked.dim, asked.piece)
        return 0
    need = asked.rows * asked.dim * (2 + 4 + 4) * 1.1
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < need:
        sys.exit(f"{free / GB:.1f} GB free in {tempfile.gettempdir()}, {need / GB:.1f} GB needed (TMPDIR)")
    python, tool = sys.executable, "from sidbench.cli import main; main()"
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-read-") as held:
        folder = Path(held)
        began = time.perf_counter()
        # In a process of its own: what this one has held would count as its children's.
        size = [f"--{k}={getattr(asked, k)}" for k in ("rows", "dim", "piece")]
        if child([python, __file__, f"--make={folder}", *size], {})[0]:
            return 1
        items, events, model = folder / "items.parquet", folder / "events.parquet", folder / "model"
        print(f"made {items.stat().st_size / GB:.2f} GB in {time.perf_counter() - began:.0f} s", flush=True)
        files = ["--items", str(items), "--sequences", str(events)]
        cache = {"SIDBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        out = str(folder / "sids.parquet")
        commands = {
            "check": [python, "-c", tool, "data", "check", *files],
            "plan": [python, "-c", PLAN, str(items), str(events)],
            "encode": [python, "-c", tool, "encode", str(model), str(items), "--out", out, "--threads", "1"],
        }
        for step in asked.steps.split(","):
            if step == "encode" and child([python, "-c", FIT, str(items), str(model)], cache)[0]:
                return 1
            code, seconds, peak = child(commands[step], cache)
            print(f"{step}: {seconds:.0f} s, {peak:.2f} GB at most", flush=True)
            worst = max(worst, peak)
            if code:
                return 1
    return 1 if worst > asked.bound else 0


if __name__ == "__main__":
    sys.exit(main())
