"""Own files: of whatever kind they are, the same corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tests.own_files import (
    EVENTS,
    IDS,
    RNG,
    TITLES,
    D,
    N,
    X,
    as_csv,
    as_json,
    as_jsonl,
    as_npz,
    at_home,
    columns,
    corpus,
    events,
    fbin,
    history,
    listed,
    lists,
    parquet_parts,
    vectors_of,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


def beside(name: str, write: Callable[[Path], Any], **more: Any) -> Callable[[Path], dict[str, Any]]:
    def make(home: Path) -> dict[str, Any]:
        pq.write_table(columns(), home / "words.parquet")
        write(home / name)
        return {"items": home / "words.parquet", "embeddings": home / name, **more}

    return make


def in_other_order(path: Path) -> None:
    order = RNG.permutation(N)
    pq.write_table(pa.table({"asin": [IDS[i] for i in order], "vec": X[order].tolist()}), path)


ITEMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "parquet": lambda home: {},
    "fixed lists of halves": lambda home: pq.write_table(
        columns(emb=pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float16).reshape(-1)), D)),
        home / "items.parquet",
    )
    or {},
    "parquet parts": parquet_parts,
    "csv": lambda home: {"items": as_csv(listed(), home / "items.csv")},
    "semicolons": lambda home: {"items": as_csv(listed(), home / "things.csv", ";")},
    "tsv": lambda home: {"items": as_csv(listed(), home / "items.tsv", "\t")},
    "numbered columns": lambda home: {
        "items": as_csv(columns(**{f"emb_{i}": X[:, i] for i in range(D)}), home / "items.csv")
    },
    "jsonl": lambda home: {"items": as_jsonl(listed(), home / "items.jsonl")},
    "json": lambda home: {"items": as_json(listed().to_pylist(), home / "items.json")},
    "feather": lambda home: pyarrow.feather.write_feather(listed(), home / "items.feather")
    or {"items": home / "items.feather"},
    "npy beside": beside("x.npy", lambda p: np.save(p, X.astype(np.float16))),
    "npz beside": beside("x.npz", lambda p: np.savez_compressed(p, vectors=X, other=np.arange(4))),
    "npz with ids": beside("x.npz", lambda p: np.savez(p, emb=X[::-1].copy(), ids=np.array(IDS[::-1]))),
    "safetensors beside": beside("x.safetensors", lambda p: save_file({"emb": X}, p)),
    "fbin beside": beside("x.fbin", fbin),
    "dump beside": beside("x.bin", lambda p: p.write_bytes(X.tobytes()), dim=D, dtype="float32"),
    "parquet beside, by id": beside("x.parquet", in_other_order),
    "csv beside, by id": beside("x.csv", lambda p: as_csv(listed().take(list(range(N))[::-1]), p)),
}  # fmt: skip
SEQUENCES: dict[str, Callable[[Path], Path]] = {
    "parquet": lambda home: home / "events.parquet",
    "csv": lambda home: as_csv(events(), home / "log.csv"),
    "jsonl": lambda home: as_jsonl(events(), home / "log.jsonl"),
    "feather": lambda home: pyarrow.feather.write_feather(events(), home / "log.feather")
    or home / "log.feather",
    "npz": lambda home: as_npz(events(), home / "log.npz"),
    "shuffled": lambda home: pq.write_table(events().take(RNG.permutation(len(EVENTS))), home / "log.parquet")
    or home / "log.parquet",
    "lists": lambda home: pq.write_table(lists(), home / "lists.parquet") or home / "lists.parquet",
    "lists in csv": lambda home: as_csv(lists(), home / "lists.csv", ";"),
    "lists in json": lambda home: as_json(
        dict(zip(lists()["user"].to_pylist(), lists()["items"].to_pylist(), strict=True)), home / "lists.json"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ITEMS)
def test_items_of_any_kind_are_the_same_items(home: Path, kind: str) -> None:
    whole = corpus(home)
    c = corpus(home, **ITEMS[kind](home))
    assert c.embeddings.dtype == np.float32
    assert vectors_of(c) == dict(zip(IDS, X.tolist(), strict=True))
    assert c.titles is not None
    assert c.titles.tolist() == TITLES
    assert c.fingerprint == whole.fingerprint
    assert c.catalogue == whole.catalogue


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_of_any_kind_are_the_same_sequences(home: Path, kind: str) -> None:
    expected: dict[str, list[str]] = {}
    for user, item, _ in EVENTS:
        expected.setdefault(user, []).append(item)
    c = corpus(home, sequences=SEQUENCES[kind](home))
    assert history(c) == expected
    if kind != "lists in json":
        assert c.times is not None
        assert c.times.min() == 1_700_000_000


def test_vectors_alone_are_a_catalogue_of_row_numbers(home: Path) -> None:
    np.save(home / "x.npy", X)
    numbers = events().set_column(1, "item", pa.array([IDS.index(i) for _, i, _ in EVENTS]))
    pq.write_table(numbers, home / "events.parquet")
    c = corpus(home, items=home / "x.npy")
    assert c.item_ids.tolist() == list(range(N))
    assert (c.embeddings == X).all()
