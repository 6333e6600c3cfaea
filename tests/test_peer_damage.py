"""Damaged or hostile files of other systems: a fault is named with its place, and nothing is run."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench.errors import SidbenchError
from tests.peer_folders import FOLDERS, N, X, load, record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "pens"
    home.mkdir()
    return home


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def text(file: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        held = (home / file).read_text()
        assert old in held
        (home / file).write_text(held.replace(old, new, count))

    return change


def cut(file: str, by: int = 30) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        (home / file).write_bytes((home / file).read_bytes()[:-by])

    return change


def gone(file: str) -> Callable[[Path], None]:
    return lambda home: (home / file).unlink()


def held(file: str, value: bytes | str) -> Callable[[Path], Any]:
    return lambda home: (home / file).write_bytes(value.encode() if isinstance(value, str) else value)


def pickled(file: str, value: Any) -> Callable[[Path], Any]:
    return held(file, pickle.dumps(value))


def arrays(file: str, **named: Any) -> Callable[[Path], None]:
    return lambda home: np.savez(home / file, **named)


def saved(file: str, value: Any) -> Callable[[Path], None]:
    return lambda home: np.save(home / file, value)


def tensor(file: str, value: Any) -> Callable[[Path], None]:
    return lambda home: torch.save(value, home / file)


def records(part: str, *rows: bytes) -> Callable[[Path], None]:
    return held(f"{part}/0.tfrecord.gz", gzip.compress(b"".join(rows)))


NAN = np.where(np.arange(N)[:, None] == 4, np.nan, X)
VECTORS = "Pens.emb-llama-td.npy"
WRONG: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "lc-rec: cut off": ("lc-rec", cut("Pens.inter.json"), r"Pens\.inter\.json cannot be read as JSON"),
    "lc-rec: no object": (
        "lc-rec",
        held("Pens.inter.json", "[1]"),
        r"Pens\.inter\.json is no object of lists",
    ),
    "lc-rec: text for an item": (
        "lc-rec",
        text("Pens.inter.json", "[4,", '["4",'),
        "user 1: the value '4' is no",
    ),
    "lc-rec: a number for a list": (
        "lc-rec",
        text("Pens.inter.json", "[4, 5, 0]", "4"),
        "user 1: expected a list",
    ),
    "lc-rec: negative": ("lc-rec", text("Pens.inter.json", "[4,", "[-4,"), "user 1: the value -4 is no item"),
    "lc-rec: no whole number": ("lc-rec", text("Pens.inter.json", "[4,", "[4.5,"), "user 1: the value 4.5"),
    "lc-rec: unknown item": (
        "lc-rec",
        text("Pens.inter.json", "[4,", "[9,"),
        "user 1: item 9 is not in the cat",
    ),
    "lc-rec: a user twice": ("lc-rec", text("Pens.inter.json", '"1"', '"0"'), "user '0' stands twice"),
    "lc-rec: NaN vector": ("lc-rec", saved(VECTORS, NAN), r"emb-llama-td\.npy.*row 4.*dataset\.nan=zero"),
    "lc-rec: too few vectors": ("lc-rec", saved(VECTORS, X[:4]), "has 4 rows, the catalogue 6 items"),
    "lc-rec: vectors of objects": ("lc-rec", held(VECTORS, pickle.dumps(Evil())), r"td\.npy cannot be read"),
    "lc-rec: text vectors": ("lc-rec", saved(VECTORS, X.astype(str)), "holds <U.*expected numbers"),
    "lc-rec: torn vectors": ("lc-rec", cut(VECTORS), r"td\.npy cannot be read as a \.npy file"),
    "lc-rec: two files of vectors": (
        "lc-rec",
        saved("Pens.emb-b.npy", X),
        "several files hold vectors.*embedding=",
    ),
    "lc-rec: an item is missing": ("lc-rec", text("Pens.item.json", '"3": ', '"7": '), "item 3 is missing"),
    "lc-rec: a key of text": (
        "lc-rec",
        text("Pens.item.json", '"3": ', '"x": '),
        "key 'x' is no item number",
    ),
    "lc-rec: an item twice": ("lc-rec", text("Pens.item.json", '"3": ', '"2": '), "item 2 stands twice"),
    "lc-rec: a title of numbers": (
        "lc-rec",
        text("Pens.item.json", '"paper"', "7"),
        r"Pens\.item\.json, item 2: title is the value 7",
    ),
    "p5: item 0": ("p5", text("sequential_data.txt", "2 5 6 1", "2 0 6 1"), "row 1 .* names item 0"),
    "p5: text": (
        "p5",
        text("sequential_data.txt", "2 5 6", "2 5 __import__('os')"),
        "row 1: a line holds .__imp",
    ),
    "p5: a user alone": ("p5", text("sequential_data.txt", "2 5 6 1", "2"), "row 1 .*'2' has no items"),
    "p5: a user twice": (
        "p5",
        text("sequential_data.txt", "2 5 6 1", "1 5 6 1"),
        "user 1 stands on two rows",
    ),
    "p5: empty": ("p5", held("sequential_data.txt", ""), r"sequential_data\.txt is empty"),
    "p5: unknown item": (
        "p5",
        text("sequential_data.txt", "2 5 6", "2 5 77"),
        "names item 77, datamaps.json knows 6",
    ),
    "p5: no map": ("p5", held("datamaps.json", "{}"), r"datamaps\.json has no object item2id"),
    "p5: a hole in the map": ("p5", text("datamaps.json", "3", "9"), r"must number the items 1\.\.6"),
    "p5: code in the metadata": (
        "p5",
        held(
            "meta.json.gz", gzip.compress(b"{'asin': 'B0', 'title': __import__('os').system('touch pwned')}")
        ),
        r"meta\.json\.gz, row 0 .* is no dict of text and numbers",
    ),
    "p5: not gzip": (
        "p5",
        held("meta.json.gz", b"\x1f\x8bxxxxxxxxxxxxxxxxxxxx"),
        r"meta\.json\.gz cannot be read",
    ),
    "recbole: no types": ("recbole", text("pens.inter", "user_id:token", "user_id"), "header says 'user_id'"),
    "recbole: an unknown type": (
        "recbole",
        text("pens.inter", "id:token", "id:eval"),
        "header says 'user_id:eval'",
    ),
    "recbole: no users": ("recbole", text("pens.inter", "user_id:", "uid:"), "no column 'user_id'"),
    "recbole: no times": ("recbole", text("pens.inter", "timestamp:", "when:"), "time_field=COLUMN"),
    "recbole: a time of text": (
        "recbole",
        text("pens.inter", "\t24\t", "\tlate\t"),
        r"row 0 .*timestamp is 'late'",
    ),
    "recbole: no token": (
        "recbole",
        text("pens.inter", "u2\t", "\t"),
        r"row 0 .*user_id is ''.*expected a value",
    ),
    "recbole: a row cut off": (
        "recbole",
        cut("pens.inter", 14),
        r"pens\.inter.*(cannot be read|expected a number)",
    ),
    "recbole: no rows": (
        "recbole",
        held("pens.inter", "user_id:token\titem_id:token\n"),
        "has a header and no rows",
    ),
    "recbole: empty": ("recbole", held("pens.inter", ""), r"pens\.inter .*first line is empty"),
    "recbole: unknown item": (
        "recbole",
        text("pens.item", "i4\t", "i9\t"),
        r"item 'i4' is not in pens\.item.*unknown=drop",
    ),
    "recbole: an item twice": ("recbole", text("pens.item", "i4\t", "i3\t"), "item 'i3' stands twice"),
    "recbole: unequal vectors": (
        "recbole",
        text("pens.item", "red ink\t", "red ink\t1 "),
        "row 4 .*emb has 4 numbers",
    ),
    "recbole: a vector of text": (
        "recbole",
        text("pens.item", "red ink\t", "red ink\tx"),
        "emb holds what is no num",
    ),
    "recbole: not UTF-8": (
        "recbole",
        held("pens.item", b"item_id:token\xff\n"),
        r"pens\.item is not text in UTF-8",
    ),
    "grid: cut off": (
        "grid",
        cut("testing/0.tfrecord.gz", 20),
        r"0\.tfrecord\.gz, record \d .*is it cut off",
    ),
    "grid: no TFRecord": ("grid", records("testing", b"x" * 60), "record 0 .* this is no TFRecord file"),
    "grid: other features": (
        "grid",
        records("testing", record(user=[1])),
        "record 0 .*has the features user",
    ),
    "grid: negative": (
        "grid",
        records("testing", record(user_id=[1], sequence_data=[2**64 - 2, 1])),
        "record 0 .*no item numbers",
    ),
    "grid: a user twice": (
        "grid",
        records("testing", *[record(user_id=[1], sequence_data=[1, 2, 3])] * 2),
        "some user has several",
    ),
    "grid: another training": (
        "grid",
        records("training", record(user_id=[1], sequence_data=[3])),
        "user 1's sequence in training",
    ),
    "grid: an item is missing": ("grid", records("items", record(id=[1], text=b"x")), "item 0 is missing"),
    "grid: a pickle of code": (
        "grid",
        tensor("merged_predictions_tensor.pt", Evil()),
        "nothing that runs code",
    ),
    "grid: no tensor": (
        "grid",
        tensor("merged_predictions_tensor.pt", {"x": 1}),
        "holds dict; expected one tensor",
    ),
    "grid: too few vectors": (
        "grid",
        tensor("merged_predictions_tensor.pt", torch.zeros(4, 3)),
        "has 4 rows",
    ),
    "taac: no JSON": ("taac", cut("seq.jsonl", 5), r"seq\.jsonl, row 2 .*is no JSON"),
    "taac: other rows": (
        "taac",
        held("seq.jsonl", "[[1, 2, 3]]\n"),
        r"seq\.jsonl, row 0 .*expected a list of",
    ),
    "taac: unknown item": (
        "taac",
        text("seq.jsonl", '"user_1", 5,', '"user_1", 50,'),
        "row 1 .*item 50 is not in",
    ),
    "taac: a time of text": (
        "taac",
        text("seq.jsonl", "0, 100]", '0, "now"]'),
        "row 0 .*time 'now' is no number",
    ),
    "taac: no events": ("taac", held("seq.jsonl", "[]\n"), "holds no event with an item"),
    "taac: an evil indexer": ("taac", pickled("indexer.pkl", Evil()), r"indexer\.pkl is refused"),
    "taac: an indexer without items": ("taac", pickled("indexer.pkl", {"u": 1}), 'has no dict "i"'),
    "taac: an indexer with holes": (
        "taac",
        pickled("indexer.pkl", {"i": {"a": 1, "b": 3}}),
        r"numbers are not 1\.\.2, each once",
    ),
    "taac: evil vectors": (
        "taac",
        pickled("creative_emb/emb_81_32.pkl", {"900": Evil()}),
        r"emb_81_32\.pkl is refused",
    ),
    "taac: unequal vectors": (
        "taac",
        pickled("creative_emb/emb_81_32.pkl", {"900": X[0], "901": X[0, :2]}),
        "item '901': 2 numbers, the first item has 3",
    ),
    "taac: no vector": (
        "taac",
        pickled("creative_emb/emb_81_32.pkl", {"900": "x"}),
        "item '900': expected a vector",
    ),
    "taac: no file": ("taac", gone("creative_emb/emb_81_32.pkl"), r"there is no file .*emb_81_32\.pkl"),
    "forge: no ids": ("forge", arrays("reconstruct.npz", embeds=X), "found 0 with ids and embeds"),
    "forge: no pairs": ("forge", gone("contrastive.npz"), "0 with pairs"),
    "forge: ids in a pickle": (
        "forge",
        arrays("reconstruct.npz", itemEncID=np.array({1: 0}, dtype=object), embeds=X),
        "ids in a pickled dict, which is not read",
    ),
    "forge: ids twice": (
        "forge",
        arrays("reconstruct.npz", ids=np.zeros(N, int), embeds=X),
        "5 ids stand several",
    ),
    "forge: unequal rows": (
        "forge",
        arrays("reconstruct.npz", ids=np.arange(4), embeds=X),
        "ids",
    ),
    "forge: NaN": (
        "forge",
        arrays("reconstruct.npz", ids=np.arange(N) * 7 + 10**12, embeds=NAN),
        "row 4",
    ),
    "forge: pairs of three": (
        "forge",
        arrays("contrastive.npz", pairs=np.zeros((2, 3), int)),
        r"expected integers \(pairs",
    ),
    "forge: pairs of others": (
        "forge",
        arrays("contrastive.npz", pairs=np.zeros((2, 2), int)),
        "no pair names two items",
    ),
    "forge: cut off": ("forge", cut("reconstruct.npz"), r"reconstruct\.npz is no \.npz file"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_named_with_its_place(home: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, damage, said = WRONG[fault]
    FOLDERS[name](home)
    damage(home)
    monkeypatch.chdir(home)
    with pytest.raises(SidbenchError, match=said):
        load(name, home)
    assert not (home / "pwned").exists()
