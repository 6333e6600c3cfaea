"""TF-IDF vectors of short texts against scikit-learn's own pipeline, both in this process, by turns.

python tests/benchmarks/bench_embed.py                     # 100,000 texts, 512 dimensions
python tests/benchmarks/bench_embed.py --rows 1000000 --alone
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from sidbench.embed import tfidf
from sidbench.embed.tfidf import Tfidf


def titles(count: int, seed: int = 0) -> pa.Array:
    """Texts of some 15 words whose frequencies fall as in product titles."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i:x}" for i in range(60_000)])
    share = 1 / (np.arange(len(words)) + 10.0)
    lengths = rng.integers(6, 25, count)
    drawn = words[rng.choice(len(words), lengths.sum(), p=share / share.sum())]
    lists = pa.LargeListArray.from_arrays(
        np.concatenate([[0], np.cumsum(lengths)]), pa.array(drawn, pa.large_string())
    )
    return pc.binary_join(lists, pa.scalar(" ", pa.large_string()))


def ours(texts: pa.Array, dim: int) -> dict[str, float]:
    start = time.perf_counter()
    learned = Tfidf.fit(texts, dim)
    middle = time.perf_counter()
    learned.transform(texts)
    return {"fit": middle - start, "transform": time.perf_counter() - middle}


def sklearns(texts: pa.Array, dim: int) -> dict[str, float]:
    rows = texts.to_pylist()
    start = time.perf_counter()
    x = TfidfVectorizer(
        sublinear_tf=True, min_df=2, dtype=np.float32, token_pattern=r"[^\W_]+"
    ).fit_transform(rows)
    middle = time.perf_counter()
    TruncatedSVD(dim, n_iter=tfidf.PASSES, n_oversamples=tfidf.SPARE, random_state=0).fit_transform(x)
    return {"words": middle - start, "svd": time.perf_counter() - middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=tfidf.DIM)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="leave scikit-learn out")
    args = parser.parse_args()
    texts = titles(args.rows)
    for _ in range(args.turns):
        for name, side in (("sidbench", ours), *(() if args.alone else (("scikit-learn", sklearns),))):
            cpu = time.process_time()
            took = side(texts, args.dim)
            total, cpu = sum(took.values()), time.process_time() - cpu
            said = ", ".join(f"{k} {v:.1f} s" for k, v in took.items())
            speed = f"{args.rows / total:9,.0f} texts/s"
            print(f"{name:<13} {total:7.1f} s, {speed} ({said}; {cpu:.1f} s of processor)", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
