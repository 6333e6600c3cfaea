"""MovieLens 32M by size: an archive of made-up ratings in its layout, parsed, prepared; seconds and memory.

    python tests/benchmarks/bench_prepare.py --rows 32000000 --folder /somewhere/with/room

The archive is made once (in a process of its own, so that its memory is not counted) and stays in the folder.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

USERS, FILMS, PIECE = 200_948, 84_000, 1_000_000


def make(path: Path, rows: int) -> None:
    """Users in order, as published; each user's ratings in no order of time."""
    rng = np.random.default_rng(0)
    per_piece = max(1, USERS * PIECE // rows)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("ml-32m/ratings.csv", "w", force_zip64=True) as out:
            for start in range(0, rows, PIECE):
                n = min(PIECE, rows - start)
                first = start // PIECE * per_piece
                table = pa.table(
                    {
                        "userId": np.sort(rng.integers(first, first + per_piece, n)) + 1,
                        "movieId": (rng.random(n) ** 3 * FILMS).astype(np.int64) + 1,
                        "rating": rng.integers(1, 11, n) / 2,
                        "timestamp": rng.integers(789_000_000, 1_697_000_000, n),
                    }
                )
                held = io.BytesIO()
                pacsv.write_csv(table, held, pacsv.WriteOptions(include_header=start == 0))
                out.write(held.getvalue())
        films = "movieId,title,genres\n" + "".join(
            f'{i + 1},"Film, the {i}th (1999)",Action|Drama\n' for i in range(FILMS)
        )
        archive.writestr("ml-32m/movies.csv", films)
    path.with_suffix(".done").touch()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=32_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--make", action="store_true")
    asked = parser.parse_args()
    path = asked.folder / "ml-32m.zip"
    if asked.make:
        make(path, asked.rows)
        return
    if not path.with_suffix(".done").exists():
        asked.folder.mkdir(parents=True, exist_ok=True)
        again = [sys.executable, __file__, "--make", "--rows", str(asked.rows), "--folder", str(asked.folder)]
        subprocess.run(again, check=True)
    os.environ["SIDBENCH_CACHE"] = str(asked.folder / "cache")

    from sidbench import registry

    for what in ("parsed and prepared", "from the cache"):
        start = time.perf_counter()
        dataset = registry.make_dataset(
            "movielens:32m", {"files": str(asked.folder), "statistics": "note", "embedding": "tfidf"}
        )
        corpus = dataset.load()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{what}: {seconds:.0f} s, peak {peak:.1f} GB; {len(corpus.sequences.items):,} interactions, "
            f"{len(corpus):,} items, {len(corpus.sequences):,} users"
        )


if __name__ == "__main__":
    main()
