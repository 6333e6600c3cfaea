"""A small dataset in every other system's layout: what tests of them share."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sidbench import registry
from sidbench.dataset import Corpus

N = 6
X = np.random.default_rng(0).standard_normal((N, 3)).astype(np.float32)
ROWS = [[0, 1, 2, 3], [4, 5, 0], [2, 3, 1, 0, 5]]
TITLES = ["red pen", "blue pen", "paper", "green pen", "red ink", "blue ink"]


def load(name: str, home: Path, **options: Any) -> Corpus:
    return registry.make_dataset(f"{name}:{home}", options).load()


def lists(corpus: Corpus) -> list[list[int]]:
    return [r.tolist() for r in corpus.sequences]


def item_json(path: Path) -> None:
    about = {str(i): {"title": t, "description": f"['{t}, good']", "brand": ""} for i, t in enumerate(TITLES)}
    path.write_text(json.dumps(about))


def lc_rec(home: Path) -> None:
    (home / "Pens.inter.json").write_text(json.dumps({str(u): r for u, r in enumerate(ROWS)}))
    item_json(home / "Pens.item.json")
    np.save(home / "Pens.emb-llama-td.npy", X)
    torch.save(torch.tensor(X[:, :2])[None], home / "Pens-32d-sasrec.pt")


def p5(home: Path) -> None:
    lines = [f"{u + 1} " + " ".join(str(i + 1) for i in r) for u, r in enumerate(ROWS)]
    (home / "sequential_data.txt").write_text("\n".join(lines) + "\n")
    asins = {f"B{i}": i + 1 for i in range(N)}
    (home / "datamaps.json").write_text(json.dumps({"item2id": asins}))
    about = [{"asin": f"B{i}", "title": t, "categories": [["Office", "Pens"]]} for i, t in enumerate(TITLES)]
    meta = "\n".join(repr(a) for a in [*about, {"asin": "other"}])
    (home / "meta.json.gz").write_bytes(gzip.compress(meta.encode()))


def recbole(home: Path) -> None:
    events = [(f"u{u}", f"i{i}", 10 * u + at, 1 + i) for u, r in enumerate(ROWS) for at, i in enumerate(r)]
    events.sort(key=lambda e: -e[2])  # the file need not be in order
    head = "user_id:token\titem_id:token\ttimestamp:float\trating:float"
    (home / "pens.inter").write_text("\n".join([head, *("\t".join(map(str, e)) for e in events)]) + "\n")
    rows = [f"i{i}\t{t}\t{' '.join(map(str, X[i].tolist()))}" for i, t in enumerate(TITLES)]
    (home / "pens.item").write_text(
        "\n".join(["item_id:token\ttitle:token_seq\temb:float_seq", *rows]) + "\n"
    )


def varint(n: int) -> bytes:
    out = b""
    while n >= 128:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(value: Any) -> bytes:
    if isinstance(value, bytes):
        return field(1, field(1, value))
    if isinstance(value[0], float):
        return field(2, field(1, np.array(value, "<f4").tobytes()))
    return field(3, field(1, b"".join(varint(v) for v in value)))


def record(**features: Any) -> bytes:
    entries = [field(1, field(1, k.encode()) + field(2, feature(v))) for k, v in features.items()]
    data = field(1, b"".join(entries))
    return struct.pack("<Q", len(data)) + b"\0\0\0\0" + data + b"\0\0\0\0"


def grid(home: Path) -> None:
    parts = {
        "testing": [record(user_id=[u], sequence_data=r) for u, r in enumerate(ROWS)],
        "training": [record(user_id=[u], sequence_data=r[:-2]) for u, r in enumerate(ROWS)],
        "items": [record(id=[i], text=t.encode()) for i, t in enumerate(TITLES)],
    }
    for name, records in parts.items():
        (home / name).mkdir()
        (home / name / "0.tfrecord.gz").write_bytes(gzip.compress(b"".join(records)))
    torch.save(torch.tensor(X), home / "merged_predictions_tensor.pt")
    torch.save(torch.zeros(4, N, dtype=torch.int64), home / "sids.pt")


def taac(home: Path) -> None:
    events = [[[f"user_{u}", None, {"104": 1}, None, None, 5]]
              + [[f"user_{u}", i + 1, None, {"100": 2}, at % 2, 100 + at] for at, i in enumerate(r)]
              for u, r in enumerate(ROWS)]  # fmt: skip
    (home / "seq.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    indexer = {"i": {f"{900 + i}": i + 1 for i in range(N)}, "u": {"user_0": 1}, "f": {}}
    (home / "indexer.pkl").write_bytes(pickle.dumps(indexer))
    emb = home / "creative_emb"
    (emb / "emb_82_1024").mkdir(parents=True)
    vectors = {f"{900 + i}": X[i] for i in range(N - 1)}  # one item has none
    (emb / "emb_81_32.pkl").write_bytes(pickle.dumps(vectors))
    lines = [json.dumps({"anonymous_cid": f"{900 + i}", "emb": X[i].tolist()}) for i in range(N)]
    (emb / "emb_82_1024" / "part-0").write_text("\n".join(lines[:4]) + "\n")
    (emb / "emb_82_1024" / "part-1").write_text("\n".join(lines[4:]) + "\n")


def forge(home: Path) -> None:
    ids = np.arange(N) * 7 + 10**12
    np.savez(home / "reconstruct.npz", ids=ids, embeds=X.astype(np.float16))
    draw = np.random.default_rng(1).integers(N, size=(400, 2))
    pairs = np.concatenate([ids[draw], [[1, 2], [int(ids[0]), 3]]])
    np.savez_compressed(home / "contrastive.npz", pairs=pairs)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "lc-rec": lc_rec, "p5": p5, "recbole": recbole, "grid": grid, "taac": taac, "forge": forge,
}  # fmt: skip
