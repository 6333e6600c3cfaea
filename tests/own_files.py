"""A small world in a person's own files, in every layout: what tests of own files share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidbench.cli import main
from sidbench.dataset import Corpus
from sidbench.registry import make_dataset

N, D = 12, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float16).astype(np.float32)
IDS = [f"B{i:02d}" for i in RNG.permutation(N)]
TITLES = [f"thing {i}" for i in range(N)]
#: user, item, time: in the order of time for every user.
EVENTS = [
    (f"u{u}", IDS[(3 * u + 5 * t) % N], 1_700_000_000 + 60 * t) for u in range(6) for t in range(3 + u % 3)
]


def corpus(folder: Path, **options: Any) -> Corpus:
    given = {"items": folder / "items.parquet", "sequences": folder / "events.parquet", **options}
    return make_dataset("files", {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}).load()


def said(c: Corpus) -> str:
    return "\n".join(c.notes)


def vectors_of(c: Corpus) -> dict[Any, Any]:
    return {i: v.tolist() for i, v in zip(c.item_ids.tolist(), c.embeddings, strict=True)}


def history(c: Corpus) -> dict[Any, list[Any]]:
    ids = c.item_ids
    return {u: ids[s].tolist() for u, s in zip(c.user_ids.tolist(), c.sequences, strict=True)}


def columns(**more: Any) -> pa.Table:
    return pa.table({"item_id": IDS, "title": TITLES, **more})


def listed() -> pa.Table:
    return columns(embedding=pa.array(X.tolist(), pa.list_(pa.float32())))


def events() -> pa.Table:
    user, item, time = zip(*EVENTS, strict=True)
    return pa.table({"user": list(user), "item": list(item), "time": list(time)})


def lists() -> pa.Table:
    users = list(dict.fromkeys(u for u, _, _ in EVENTS))
    return pa.table(
        {
            "user": users,
            "items": [[i for v, i, _ in EVENTS if v == u] for u in users],
            "timestamps": [[t for v, _, t in EVENTS if v == u] for u in users],
        }
    )


def as_csv(table: pa.Table, path: Path, sep: str = ",") -> Path:
    """Lists are written as people write them: in brackets, in quotes."""
    rows = [table.column_names]
    for row in table.to_pylist():
        rows.append(
            ['"' + str(v) + '"' if isinstance(v, list) else "" if v is None else str(v) for v in row.values()]
        )
    path.write_text("\n".join(sep.join(r) for r in rows) + "\n")
    return path


def as_json(value: Any, path: Path) -> Path:
    path.write_text(json.dumps(value))
    return path


def as_npz(table: pa.Table, path: Path) -> Path:
    columns: dict[str, Any] = {k: np.asarray(table[k].to_pylist()) for k in table.column_names}
    np.savez(path, **columns)
    return path


def as_jsonl(table: pa.Table, path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This folder with items.parquet and events.parquet, a cache of its own, and where one stands."""
    monkeypatch.setenv("SIDBENCH_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    pq.write_table(listed(), folder / "items.parquet")
    pq.write_table(events(), folder / "events.parquet")
    return folder


def parquet_parts(home: Path) -> dict[str, Any]:
    (home / "parts").mkdir()
    for i in range(3):
        pq.write_table(listed().slice(4 * i, 4), home / "parts" / f"part-{i}.parquet")
    return {"items": home / "parts"}


def fbin(path: Path, cut: int = 0, more: bytes = b"") -> None:
    whole = np.array([N, D], "<u4").tobytes() + X.tobytes()
    path.write_bytes(whole[: len(whole) - cut] + more)


def rewritten(home: Path, x: Any = X, ids: Any = None) -> None:
    vectors = pa.array([None if v is None else list(map(float, v)) for v in x], pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"item_id": IDS if ids is None else ids, "title": TITLES, "embedding": vectors}),
        home / "items.parquet",
    )


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)
