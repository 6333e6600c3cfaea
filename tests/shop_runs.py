"""Runs on a small shop: several resolvers, lengths and datasets; the places of its users, for tests."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sidbench.record import RunRecord, Store
from sidbench.report import tables

DATASET = {
    "name": "shop",
    "fingerprint": "0123",
    "items": 90,
    "users": 50,
    "interactions": 400,
    "dimensions": 8,
}
KEY: dict[str, Any] = {
    "kind": "tokenizer",
    "params": {"levels": 3},
    "dataset": DATASET,
    "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [10]},
    "resolver": {"name": "suffix", "params": {}},
    "decoder": {"preset": "quick", "name": "causal", "params": {"width": 8, "budget": 300.0}},
    "hardware": {"cpu": "EPYC", "cores": 2, "threads": 2, "device": "cpu", "gpu": None, "memory_gb": 24},
}


def run(
    label: str,
    recall: float,
    *,
    seed: int = 0,
    sid: float | None = None,
    sizes: tuple[int, ...] = (256, 256, 256),
    numbers: dict[str, float] | None = None,
    finished: str = "2026-01-01T00:00:00",
    **changes: Any,
) -> RunRecord:
    """One finished run; `changes` replace parts of the key."""
    key = copy.deepcopy(KEY) | {"method": label, "label": label, "seed": seed} | changes
    if key["kind"] == "reference":
        key |= {"resolver": None, "decoder": None, "params": {}}
    metrics = {"recall@10": recall, "ndcg@10": recall / 2, **(numbers or {})}
    facts: dict[str, Any] = {}
    if key["kind"] == "tokenizer":
        added = [16] if key["resolver"]["name"] == "suffix" else []
        metrics |= {
            "sid_recall@10": recall if sid is None else sid,
            "collision_items": 0.1,
            "resolve_moved": 0.01,
        }
        facts = {"sizes": list(sizes), "sid_sizes": [*sizes, *added], "floor": label == "random"}
        facts["decoder"] = {
            "parameters": 1234,
            "tokens_per_item": 4,
            "sequences_seen": 51200,
            "targets_seen": 256000,
        }
    return RunRecord(
        id=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12],
        status="ok",
        key=key,
        code="c0de",
        facts=facts,
        metrics=metrics,
        levels={"prefix_cosine": [0.5, 0.7]},
        measured={"fit_seconds": 1.0, "finished": finished},
        env={"command": "sidbench run"},
    )


def reference(label: str, recall: float, **changes: Any) -> RunRecord:
    return run(label, recall, kind="reference", **changes)


def keep(label: str, recall: float, **more: Any) -> RunRecord:
    return run(label, recall, resolver={"name": "keep", "params": {}}, **more)


def dataset(name: str) -> dict[str, Any]:
    return DATASET | {"name": name, "fingerprint": name}


def printed(records: list[RunRecord], width: int = 100, **asked: Any) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as got:
        for table in tables(records, width=width, **asked):
            console.print(table)
    return got.get()


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def places(before: float, size: int, n: int = 400) -> Callable[[RunRecord], dict[str, Any]]:
    """Vectors by label: the share of users whose target is found, in a group of so many items."""

    def of(record: RunRecord) -> dict[str, Any]:
        rng = np.random.default_rng([record.key["seed"], len(record.label)])
        hit = rng.random(n) < (before if record.label == "crowded" else 0.5)
        group = size if record.label == "crowded" else 1
        at = np.where(hit, 0, -1)
        return {
            "user": np.arange(n),
            "target_before": at,
            "target_sid_rank": at,
            "target_size": np.where(hit, group, -1),
        }

    return of


def several() -> list[RunRecord]:
    """Two methods with two resolvers, one of them better with each, two seeds."""
    out = []
    for s in range(2):
        out += [run("a", 0.50 + s / 100, seed=s), keep("a", 0.40 + s / 100, seed=s)]
        out += [run("b", 0.30 + s / 100, seed=s), keep("b", 0.45 + s / 100, seed=s)]
    return [*out, reference("knn", 0.47)]


def saved(root: Path, records: list[RunRecord]) -> Path:
    store = Store(root)
    for r in records:
        store.save(r, places(0.5, 1)(r))
    return root


def cells(text: str, part: str, name: str) -> dict[str, str]:
    """The cells of a row by their column, in one part of a section."""
    here = text.partition(f"### {part}")[2]
    head, own = row(here, "| Method"), row(here, f"| {name} ")
    return dict(zip(head.strip("| ").split(" | "), own.strip("| ").split(" | "), strict=True))
