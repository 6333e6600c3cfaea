"""kill -9 at random moments of `encode`, `fit` and `run`: what is finished then equals an undisturbed run.

    python tests/benchmarks/bench_kills.py [encode] [shards] [fit] [run] [--kills 50] [--seed 0]

A process that has everything imported forks; its child is sidbench's command line and is killed at a moment
drawn evenly over what the undisturbed run took. The same command then goes on, until one ends by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sidbench import cli, registry
from sidbench.decoder import course

Contents = dict[str, object]


def start(arguments: list[str], log: Path) -> int:
    """The command line in a child; its process number."""
    pid = os.fork()
    if pid:
        return pid
    with log.open("ab") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    code = 1
    try:
        cli.main(arguments)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit status of a child that ends within so many seconds; None where it goes on."""
    until = time.perf_counter() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.perf_counter() >= until:
            return None
        time.sleep(0.001)


def files(folder: Path) -> Contents:
    """Every file below a folder by its bytes; times that a manifest keeps are left out."""
    out: Contents = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        held: object = path.read_bytes()
        if path.name == "manifest.json":
            held = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        out[str(path.relative_to(folder))] = held
    return out


def records(folder: Path) -> Contents:
    """Every file of a results folder, but for times and the machine; of boards, which show these, names."""
    out: Contents = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        within = path.relative_to(folder)
        held: object = "there"
        if within.parts[0] == "artifacts":
            held = path.read_bytes()
        elif within.parts[0] == "records" and path.suffix == ".json":
            kept = json.loads(path.read_text())
            held = {k: v for k, v in kept.items() if k not in ("measured", "env")}
        elif within.parts[0] == "records" and path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as z:
                held = {k: z[k].tobytes() for k in z.files}
        out[str(within)] = held
    return out


def survive(
    what: str,
    arguments: Callable[[Path], list[str]],
    contents: Callable[[Path], Contents],
    kills: int,
    seed: int,
    root: Path,
) -> bool:
    """Kill so many times; whether every end was the undisturbed one's."""
    log, whole, torn = root / f"{what}.log", root / what / "whole", root / what / "torn"
    for warm in (True, False):  # the first run pays for caches
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        began = time.perf_counter()
        if ended(start(arguments(whole), log), 600) != 0:
            sys.exit(f"{what} fails by itself:\n{log.read_text()}")
        took = time.perf_counter() - began
        expected = contents(whole)
        if not warm:
            break
    moments = random.Random(seed)
    killed = finished = wrong = 0
    shutil.rmtree(torn, ignore_errors=True)
    torn.mkdir(parents=True)
    began = time.perf_counter()
    while killed < kills or any(torn.iterdir()):
        pid = start(arguments(torn), log)
        status = ended(pid, moments.uniform(0, took) if killed < kills else 600)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
            continue
        found = contents(torn)
        finished += 1
        if status != 0 or found != expected:
            wrong += 1
            odd = sorted(k for k in {**found, **expected} if found.get(k) != expected.get(k))
            print(f"  exit {status}; other than undisturbed: {odd}\n{log.read_text()[-2000:]}")
        shutil.rmtree(torn)
        torn.mkdir()
    seconds = time.perf_counter() - began
    print(
        f"{what}: {killed} kills within {took:.2f} s each, {finished} ends, {wrong} of them other than the "
        f"undisturbed run's; {seconds:.0f} s in all",
        flush=True,
    )
    return wrong == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", default=["encode", "shards", "fit", "run"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=300_000)
    args = parser.parse_args()
    registry.tokenizers()  # imported once, before the forks
    course.CHECKPOINT_SECONDS = 0.0  # so short a training would leave none
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["SIDBENCH_CACHE"] = str(root / "cache")
        rng = np.random.default_rng(0)
        np.save(root / "x.npy", rng.standard_normal((args.rows, 32), dtype=np.float32))
        np.save(root / "small.npy", rng.standard_normal((4000, 16), dtype=np.float32))
        x, small, model = str(root / "x.npy"), str(root / "small.npy"), str(root / "model")
        sets = ["--set", "rq-kmeans.levels=4", "--set", "rq-kmeans.iters=3"]
        made = start(["fit", "rq-kmeans", x, "--out", model, "--sample", "20000", *sets], root / "fit.log")
        if ended(made, 600) != 0:
            sys.exit((root / "fit.log").read_text())
        few = str(args.rows // 30)
        vae = ["epochs=12", "batch_size=512", "levels=3", "codebook_size=64", "checkpoint_every=0"]
        commands: dict[str, tuple[Callable[[Path], list[str]], Callable[[Path], Contents]]] = {
            "encode": (
                lambda out: ["encode", model, x, "--out", str(out / "x.parquet"), "--shard-rows", few],
                files,
            ),
            "shards": (
                lambda out: ["encode", model, x, "--out", str(out / "x"), "--shard-rows", few],
                files,
            ),
            "fit": (
                lambda out: [
                    *("fit", "rq-vae", small, "--out", str(out / "model")),
                    *(part for v in vae for part in ("--set", f"rq-vae.{v}")),
                ],
                files,
            ),
            "run": (
                lambda out: [
                    *("run", "--dataset", "synthetic:tiny", "--methods", "rq-kmeans,rq-vae"),
                    *("--results", str(out), "--set", "decoder.steps=60", "--set", "decoder.eval_every=10"),
                    *("--set", "rq-vae.checkpoint_every=0", "--set", "rq-vae.epochs=40"),
                ],
                records,
            ),
        }
        good = [survive(w, *commands[w], args.kills, args.seed, root) for w in args.what]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
