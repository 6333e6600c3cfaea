"""Runs: records of finished and failed runs, and the boards that are made of them, for tests."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from rich.console import Console

from sidbench.record import RunRecord
from sidbench.report import tables
from sidbench.report.board import tables as board_tables
from sidbench.report.table import Table

HARDWARE = {"cpu": "AMD EPYC", "cores": 2, "threads": 2, "device": "cpu", "gpu": None, "memory_gb": 24}
DATASET = {
    "name": "synthetic:default",
    "fingerprint": "0123456789abcdef",
    "items": 12_000,
    "users": 20_000,
    "interactions": 300_000,
    "dimensions": 64,
}
KEY: dict[str, Any] = {
    "kind": "tokenizer",
    "method": "rq-kmeans",
    "label": "rq-kmeans",
    "params": {"levels": 3, "codebook_size": 256, "iters": 25, "seed": 0},
    "seed": 0,
    "dataset": DATASET,
    "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [1, 5, 10, 20]},
    "resolver": {"name": "suffix", "params": {}},
    "decoder": {"preset": "quick", "name": "tiger", "params": {"width": 64, "layers": 2, "seed": 0}},
    "hardware": HARDWARE,
}


def run(
    label: str, recall: float, *, seed: int = 0, sizes: tuple[int, ...] = (256,) * 3, **changes: Any
) -> RunRecord:
    """One finished run; `changes` go to the key, dotted with two underscores."""
    key = copy.deepcopy(KEY)
    key |= {"method": label.partition("@")[0], "label": label, "seed": seed}
    key["params"]["seed"] = key["decoder"]["params"]["seed"] = seed
    for path, v in changes.items():
        *into, last = path.split("__")
        at = key
        for part in into:
            at = at[part]
        at[last] = v
    metrics = {f"recall@{k}": recall * f for k, f in ((1, 0.2), (5, 0.7), (10, 1.0), (20, 1.5))}
    metrics |= {f"ndcg@{k}": recall * f for k, f in ((1, 0.2), (5, 0.4), (10, 0.5), (20, 0.6))}
    facts: dict[str, Any] = {}
    levels = {}
    if key["kind"] == "tokenizer":
        metrics |= {"sid_recall@10": recall * 1.1, "inflation@10": 0.1, "collision_items": 0.02 + recall / 10}
        metrics |= {"collision_items_resolved": 0.0, "collision_largest": 7.0, "utilization": 0.98}
        metrics |= {"perplexity": 200.0, "floor_items": 0.01, "floor_distinct": 0.005}
        levels = {"perplexity": [250.0, 200.0, 150.0]}
        facts |= {"sizes": list(sizes), "floor": label == "random"}
    measured = {
        "fit_seconds": 1 + 10 * recall,
        "search_users_per_second": 1234.5,
        "finished": "2024-01-01T00:00:00",
    }
    return RunRecord(
        id=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12],
        status="ok",
        key=key,
        code="c0de",
        facts=facts,
        metrics=metrics,
        levels=levels,
        measured=measured,
        env={
            "torch": "2.6.0",
            "sidbench": "0.1.0",
            "python": "3.11.7",
            "command": "sidbench run --methods all",
        },
    )


def failed(label: str, message: str = "codes out of range", **changes: Any) -> RunRecord:
    whole = run(label, 0.0, **changes)
    return RunRecord(
        id=whole.id,
        status="failed",
        key=whole.key,
        code=whole.code,
        error={"type": "ContractError", "message": message, "stage": "fit"},
        facts={},
        env=whole.env,
    )


def reference(label: str, recall: float, **changes: Any) -> RunRecord:
    return run(label, recall, kind="reference", resolver=None, decoder=None, params={}, **changes)


def usual() -> list[RunRecord]:
    """What a first run leaves: methods over seeds, the floor, references, one failure."""
    out = [run("rq-kmeans", 0.050 + 0.002 * s, seed=s) for s in range(3)]
    out += [run("balanced", 0.070 + 0.001 * s, seed=s) for s in range(3)]
    out += [run("random", 0.010, seed=s) for s in range(3)]
    return [*out, reference("popularity", 0.02), reference("item-knn", 0.04), failed("rq-vae")]


def only(records: list[RunRecord]) -> Table:
    (table,) = board_tables(records)
    return table


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def rendered(records: list[RunRecord], width: int) -> str:
    console = Console(
        width=width, record=True, color_system=None, file=None, force_terminal=False, quiet=False
    )
    with console.capture() as got:
        for table in tables(records, width=width):
            console.print(table)
    return got.get()
