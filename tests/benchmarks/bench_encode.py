"""Codes beside peers: `python tests/benchmarks/bench_encode.py [--what products|flat|indices|all] [--big]`.

products  ours and the matrix products alone, in the best tile and threading found, at 768 dimensions
flat      ours and faiss flat search per level, at 32 dimensions
indices   ours with suffix and JSON written, and the generate_indices that MiniOneRec ships, on 20,000 x 768:
          its file as it is, but for the paths, the device and the checkpoint (trained here for a few epochs);
          without duplicate items, and with one item in twenty a copy of another, as catalogues have them

Sides alternate within a round; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import bench_kmeans  # first: it says how pools of threads wait, before any is made
import numpy as np
import peers
import torch
from bench_kmeans import Floats, K, mixture, seconds

from sidbench import registry
from sidbench.kit import residual
from sidbench.kit.workers import workers
from sidbench.resolve.suffix import Suffix
from sidbench.sids import SIDs

LEVELS = 4
Call = Callable[[], Any]


def faiss_flat(x: Floats, books: list[Floats]) -> Any:
    import faiss

    left, codes = x.copy(), []
    for book in books:
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(book)
        codes.append(index.search(left, 1)[1][:, 0])
        left -= book[codes[-1]]
    return np.stack(codes, axis=1)


def products(x: Floats, book: Floats) -> dict[str, Call]:
    """The products that encoding is made of and nothing else: by torch's threads, or a tile a core."""
    rows, words = torch.from_numpy(x), torch.from_numpy(book.T.copy())

    def together(step: int) -> None:
        out = torch.empty(step, K)
        for _ in range(LEVELS):
            for part in torch.split(rows, step):
                torch.mm(part, words, out=out[: part.shape[0]])

    def by_core(step: int) -> None:
        def work(start: int, stop: int) -> None:
            out = torch.empty(step, K)
            for part in torch.split(rows[start:stop], step):
                for _ in range(LEVELS):
                    torch.mm(part, words, out=out[: part.shape[0]])

        with workers() as run:
            run(work, len(x), 1 << 14 if len(x) > 1 << 16 else 1 << 12)

    ways: dict[str, Call] = {
        f"products, {n} rows at once": partial(together, n) for n in (1024, 4096, 16_384)
    }
    return ways | {f"products, {n} rows a core": partial(by_core, n) for n in (256, 512, 1024)}


def alternate(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, taken in turns after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(seconds(call)[0])
    return {name: taken[1:] for name, taken in times.items()}


def table(n: int, d: int, times: dict[str, list[float]], needed: str, against: str) -> None:
    ours = times["ours"]
    for name, taken in times.items():
        ratio = median(t / o for t, o in zip(taken, ours, strict=True))
        print(f"| {n:,} x {d} | {name} | {n / median(taken):,.0f} | {ratio:.2f} |", flush=True)
    ratio = median(t / o for t, o in zip(times[against], ours, strict=True))
    print(f"\nratio to {against}: **{ratio:.2f}** (needed: {needed})\n", flush=True)


def header() -> None:
    print(
        f"| encode, {LEVELS} x {K} | side | items/s | time / ours |\n| --- | --- | ---: | ---: |", flush=True
    )


def bench_products(n: int, rounds: int) -> None:
    x = mixture(n, 768)
    books = bench_kmeans.ours(x[:20_000], LEVELS)
    times = alternate({"ours": partial(residual.encode, x, books), **products(x, books[0])}, rounds)
    best = min(list(times)[1:], key=lambda name: median(times[name]))
    header()
    table(n, 768, times, "0.8", best)


def bench_flat(n: int, rounds: int) -> None:
    x = mixture(n, 32)
    books = bench_kmeans.ours(x[:20_000], LEVELS)
    calls: dict[str, Call] = {"ours": partial(residual.encode, x, books)}
    calls["faiss flat per level"] = partial(faiss_flat, x, books)
    times = alternate(calls | products(x, books[0]), rounds)
    header()
    table(n, 32, times, "1", "faiss flat per level")


TRAIN = """
import argparse, sys
import numpy as np, torch
from models.rqvae import RQVAE
data_path, checkpoint, levels, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
args = argparse.Namespace(data_path=data_path, num_workers=4, num_emb_list=[size] * levels, e_dim=32,
    layers=[512, 256, 128, 64], dropout_prob=0.0, bn=False, loss_type="mse", quant_loss_weight=1.0,
    kmeans_init=True, kmeans_iters=10, sk_epsilons=[0.0] * levels, sk_iters=50)
x = torch.from_numpy(np.load(data_path))
wanted = {k: v for k, v in vars(args).items() if k not in ("data_path", "num_workers")}
model = RQVAE(in_dim=x.shape[1], **wanted)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(5):
    for rows in torch.split(x[torch.randperm(len(x))], 1024):
        out, loss, _ = model(rows)
        optimizer.zero_grad()
        model.compute_loss(out, loss, xs=rows)[0].backward()
        optimizer.step()
torch.save({"args": args, "state_dict": model.state_dict()}, checkpoint)
"""

GENERATE = """
import collections, json, logging, os, sys, time
import numpy, torch, torch.optim, torch.utils.data, tqdm
code = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
sys.stdout = open(os.devnull, "w")
start = time.perf_counter()
exec(code, {"__name__": "__main__"})
sys.stderr.write(f"\\nseconds {time.perf_counter() - start}\\n")
"""


class MiniOneRec:
    """Its `generate_indices.py`, run as the program that it is; its imports are not counted."""

    def __init__(self, x: Floats, folder: Path) -> None:
        self.clone, self.folder = peers.folder("MiniOneRec") / "rq", folder
        data, checkpoint = folder / "x.npy", folder / "model.pth"
        np.save(data, x)
        self._python(TRAIN, str(data), str(checkpoint), str(LEVELS), str(K))
        text = (self.clone / "generate_indices.py").read_text()
        for find, put in (
            ('"xxx/index/output/Industrial_and_Scientific/Sep-20-2025_17-56-15/best_collision_model.pth"',
             repr(str(checkpoint))),
            ('f"../data/{dataset}/"', repr(str(folder))),
            ('torch.device("cuda:0")', 'torch.device("cpu")'),
        ):  # fmt: skip
            if find not in text:
                raise peers.MissingPeerError(f"MiniOneRec: {find} is no longer in generate_indices.py")
            text = text.replace(find, put)
        (folder / "generate.py").write_text(text)

    def _python(self, program: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.clone)}
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise peers.MissingPeerError(f"MiniOneRec: {done.stderr.strip().splitlines()[-1]}")
        return done.stderr

    def generate(self) -> float:
        """Seconds for the codes, its twenty rounds over duplicates and the JSON."""
        said = self._python(GENERATE, str(self.folder / "generate.py"))
        return float(said.rsplit("seconds", 1)[1])

    def colliding(self) -> float:
        found = json.loads((self.folder / "Industrial_and_Scientific.index.json").read_text())
        return 1 - len({tuple(codes) for codes in found.values()}) / len(found)


def write_indices(tokenizer: Any, x: Floats, path: Path) -> None:
    """Ours to the same end: codes, duplicates told apart, the same JSON."""
    sids = Suffix().resolve(SIDs(tokenizer.encode(x), tokenizer.sizes, np.arange(len(x))), tokenizer, x)
    names = [np.array([f"<{letter}_{code}>" for code in range(size)], dtype=object)
             for letter, size in zip("abcde", sids.sizes, strict=True)]  # fmt: skip
    columns = [name[sids.codes[:, level]] for level, name in enumerate(names)]
    path.write_text(json.dumps({str(i): row for i, row in enumerate(np.stack(columns, axis=1).tolist())}))


def bench_indices(n: int, rounds: int, copies: int) -> None:
    x = mixture(n, 768)
    x[:copies] = x[n - copies :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            theirs = MiniOneRec(x, folder)
        except peers.MissingPeerError as e:
            print(f"skipped: {e}\n")
            return
        sides: dict[str, Any] = {}
        for method, options in (("rq-kmeans", {}), ("rq-vae", {"epochs": 2})):
            cls: Any = registry.find("tokenizer", method)
            sides[method] = cls(levels=LEVELS, codebook_size=K, **options).fit(x)
            write_indices(sides[method], x, folder / "ours.json")  # a round that does not count
        ratios: dict[str, list[float]] = {method: [] for method in sides}
        taken: dict[str, list[float]] = {"MiniOneRec generate_indices": [], **{m: [] for m in sides}}
        for _ in range(rounds):
            took = theirs.generate()
            taken["MiniOneRec generate_indices"].append(took)
            for method, fitted in sides.items():
                mine = [seconds(partial(write_indices, fitted, x, folder / "ours.json"))[0] for _ in range(5)]
                taken[method].append(median(mine))
                ratios[method].append(took / median(mine))
        print(f"| indices, {LEVELS} x {K}, {n:,} x 768, {copies:,} copies | items/s | ratio (needed: 50) |")
        print("| --- | ---: | ---: |")
        for side, times in taken.items():
            ratio = f"**{median(ratios[side]):.0f}**" if side in ratios else ""
            print(f"| {side} | {n / median(times):,.0f} | {ratio} |")
        print(
            f"\nMiniOneRec leaves {theirs.colliding():.1%} of its SIDs without a name of their own\n",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("products", "flat", "indices", "all"), default="all")
    parser.add_argument("--big", action="store_true", help="products at 200,000 rows too")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.what in ("products", "all"):
        bench_products(20_000, args.rounds)
        if args.big:
            bench_products(200_000, args.rounds)
    if args.what in ("flat", "all"):
        bench_flat(200_000, args.rounds)
    if args.what in ("indices", "all"):
        for copies in (0, 1000):
            bench_indices(20_000, 1, copies)


if __name__ == "__main__":
    main()
