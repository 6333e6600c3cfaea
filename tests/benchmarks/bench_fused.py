"""Codes of a catalogue on a CUDA device: `python tests/benchmarks/bench_fused.py [--tune | --compile]`.

The fused kernel (three TF32 products, and float32 itself), torch as the fallback does it, and a plain torch
loop of `addmm` and `argmin`: milliseconds for rows that are on the device already, the median of the rounds,
sides alternating; the share of rows whose proposed codes are float32's, as the processor finds them, and of
those in doubt, which are decided there; then `residual.encode` from host to host, beside what the copies
alone take. The rows are 5,689,519 of 32 dimensions, 4 x 256 codes.

--tune     tries how the kernel may cut its work
--compile  needs no device: registers, spills and shared memory of each cut, for --capability (90: H100)
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import bench_kmeans
import numpy as np
import torch
from bench_kmeans import Floats, mixture, seconds

from sidbench.kit import device as devices
from sidbench.kit import fused, residual
from sidbench.kit.device import full_precision, tensor
from sidbench.kit.nearest import Codewords

ROWS, COLUMNS, LEVELS, FITTED = 5_689_519, 32, 4, 200_000
Found = tuple[torch.Tensor, torch.Tensor | None]
Side = Callable[[torch.Tensor], Found]


def plain(books: list[Floats]) -> Side:
    """What one writes first: products, argmin, subtract; a million rows at a time."""
    centers = [torch.from_numpy(book).cuda() for book in books]
    halves = [0.5 * c.square().sum(dim=1) for c in centers]

    def run(rows: torch.Tensor) -> Found:
        codes = torch.empty(len(rows), len(centers), dtype=torch.int32, device=rows.device)
        for at in range(0, len(rows), 1 << 20):
            left = rows[at : at + (1 << 20)].clone()
            for level, (book, half) in enumerate(zip(centers, halves, strict=True)):
                found = torch.addmm(half, left, book.T, alpha=-1).argmin(dim=1)
                codes[at : at + len(left), level] = found
                left -= book[found]
        return codes, None

    return run


def milliseconds(side: Side, rows: torch.Tensor) -> tuple[float, Found]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    found = side(rows)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end), found


def compare(n: int, rounds: int) -> None:
    x = mixture(n, COLUMNS)
    books = bench_kmeans.ours(x[:FITTED], LEVELS)
    words, cuda = [Codewords(book) for book in books], torch.device("cuda")
    rows = tensor(x).to(cuda)
    sides: dict[str, Side] = {
        f"fused, {precision}": fused.Fused(words, cuda, precision) for precision in ("tf32x3", "ieee")
    }
    sides |= {"torch, the fallback": fused.Plain(words, cuda), "torch, addmm and argmin": plain(books)}
    took, exact = seconds(lambda: residual.encode(x, books))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {n:,} x {COLUMNS}, {LEVELS} x 256")
    print(f"the processor: {took:.1f} s\n")
    times: dict[str, list[float]] = {name: [] for name in sides}
    shares = {}
    with full_precision():
        for turn in range(rounds + 1):
            for name, side in sides.items():
                ms, (codes, doubt) = milliseconds(side, rows)
                if turn:
                    times[name].append(ms)
                    continue
                same = float((codes.cpu().numpy() == exact).all(axis=1).mean())
                shares[name] = f"{same:.6%} | {'-' if doubt is None else f'{doubt.float().mean():.4%}'}"
    print("| on the device | ms | rows as float32's | in doubt |\n|---|---|---|---|")
    for name in sides:
        print(f"| {name} | {median(times[name]):.2f} | {shares[name]} |")

    # Host to host, what is in doubt decided.
    def copies() -> None:
        for _ in devices.through(x, cuda, lambda part: (part[:, :LEVELS].int(),)):
            pass

    def encode() -> None:
        np.testing.assert_array_equal(residual.encode(x, books, device="cuda"), exact)

    for name, call in {"copies alone": copies, "encode, compared": encode}.items():
        call()
        print(f"{name}: {median(seconds(call)[0] for _ in range(rounds)):.3f} s")


def cuts() -> list[fused.Tiling]:
    every = itertools.product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3))
    return [fused.Tiling(*cut) for cut in every]


def tune(n: int, rounds: int) -> None:
    x = mixture(n, COLUMNS)
    words = [Codewords(book) for book in bench_kmeans.ours(x[:FITTED], LEVELS)]
    rows = tensor(x).cuda()
    for cut in cuts():
        side = fused.Fused(words, rows.device, "tf32x3", cut)
        try:
            took = [milliseconds(side, rows)[0] for _ in range(rounds + 1)][1:]
        except Exception as e:  # more shared memory than there is
            print(f"{cut}: {type(e).__name__}")
            continue
        print(f"{cut}: {median(took):.2f} ms")


def compiled(columns: int, capability: int, precision: str) -> None:
    import triton.backends.nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from sidbench.kit.fused_kernel import kernel

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    types = {"n": "i32", "d": "i32", "starts": "*i32", "codes": "*i32", "doubt": "*i8"}
    for cut in dict.fromkeys([fused.Tiling.of(columns), *cuts()]):
        fixed = {
            "LEVELS": LEVELS,
            "D": columns,
            "ROWS": cut.rows,
            "WORDS": cut.words,
            "PRECISION": precision,
        }
        names = [p.name for p in kernel.params]
        signature = {name: "constexpr" if name in fixed else types.get(name, "*fp32") for name in names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in fixed}
        made = compile(
            ASTSource(kernel, signature, fixed, aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": cut.warps, "num_stages": cut.stages, "enable_fp_fusion": True},
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            asked = [str(tool), "--dump-resource-usage", file.name]
            said = subprocess.run(asked, capture_output=True, text=True, check=True)
        used = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout)
        registers, spilled = used.groups() if used else ("?", "?")
        print(f"{cut}: {registers} registers, {spilled} bytes spilled, {made.metadata.shared} bytes shared")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--precision", default="tf32x3", choices=["tf32x3", "ieee"])
    given = parser.parse_args()
    if given.compile:
        compiled(given.columns, given.capability, given.precision)
    elif not torch.cuda.is_available():
        parser.error("needs a CUDA device; --compile needs none")
    elif given.tune:
        tune(given.rows, given.rounds)
    else:
        compare(given.rows, given.rounds)


if __name__ == "__main__":
    main()
