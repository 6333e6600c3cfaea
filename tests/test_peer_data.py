"""Datasets in other systems' layouts: small files are read whole, and a fault is named with its place."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench import registry
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.peers.tfrecord import examples
from sidbench.protocol import split

N = 6
X = np.random.default_rng(0).standard_normal((N, 3)).astype(np.float32)
ROWS = [[0, 1, 2, 3], [4, 5, 0], [2, 3, 1, 0, 5]]
TITLES = ["red pen", "blue pen", "paper", "green pen", "red ink", "blue ink"]


def load(name: str, home: Path, **options: Any) -> Corpus:
    return registry.make_dataset(f"{name}:{home}", options).load()


def lists(corpus: Corpus) -> list[list[int]]:
    return [r.tolist() for r in corpus.sequences]


# -- small folders, written as each system writes them ---------------------------------------------------


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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "pens"
    home.mkdir()
    return home


# -- what they hold ----------------------------------------------------------------------------------------


def test_lc_rec_holds_lists_vectors_and_titles(home: Path) -> None:
    lc_rec(home)
    corpus = load("lc-rec", home)
    assert (corpus.name, lists(corpus)) == ("Pens", ROWS)
    assert (corpus.embeddings == X).all()
    assert corpus.titles is not None
    assert corpus.titles.tolist() == TITLES
    assert corpus.user_ids.tolist() == [0, 1, 2]
    assert (load("lc-rec", home, embedding="Pens-32d-sasrec.pt").embeddings == X[:, :2]).all()


def test_vectors_come_from_text_or_sequences_where_there_are_none(home: Path) -> None:
    lc_rec(home)
    (home / "Pens.emb-llama-td.npy").unlink()
    corpus = load("lc-rec", home)
    assert any("made from the items' text (tfidf)" in n for n in corpus.notes)
    assert len(corpus.embeddings) == N
    (home / "Pens.item.json").unlink()
    (home / "Pens.index.json").write_text(json.dumps({str(i): ["<a_1>", "<b_0>"] for i in range(N)}))
    corpus = load("lc-rec", home)
    assert any("(collaborative), and say nothing of content" in n for n in corpus.notes)
    assert corpus.titles is None


def test_p5_counts_from_one(home: Path) -> None:
    p5(home)
    np.save(home / "vectors.npy", X)
    corpus = load("p5", home)
    assert lists(corpus) == ROWS
    assert corpus.item_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert (corpus.name, corpus.user_ids.tolist()) == ("pens", [1, 2, 3])
    assert corpus.titles is not None
    assert corpus.titles.tolist() == TITLES
    (home / "sequential_data.txt").rename(home / "Beauty.txt")
    (home / "datamaps.json").unlink()
    assert load("p5", home).name == "Beauty"


def test_recbole_orders_events_by_time_and_joins_by_token(home: Path) -> None:
    recbole(home)
    corpus = load("recbole", home)
    by_user = dict(zip(corpus.user_ids.tolist(), corpus.sequences, strict=True))
    found = [corpus.item_ids[by_user[f"u{u}"]].tolist() for u in range(3)]
    assert found == [[f"i{i}" for i in r] for r in ROWS]
    assert corpus.titles is not None
    for i, title in enumerate(TITLES):
        row = corpus.item_ids.tolist().index(f"i{i}")
        assert corpus.titles[row] == title
        assert (corpus.embeddings[row] == X[i]).all()
    assert corpus.times is not None
    assert len(load("recbole", home, rating=2.0).sequences.items) == 9
    assert split(corpus, "time-split").notes


def test_grid_is_read_without_tensorflow(home: Path) -> None:
    grid(home)
    corpus = load("grid", home)
    assert lists(corpus) == ROWS
    assert (corpus.embeddings == X).all()
    (home / "merged_predictions_tensor.pt").unlink()
    assert any("tfidf" in n for n in load("grid", home).notes)
    records = [record(id=[i], text=b"x", embedding=[float(v) for v in X[i]]) for i in range(N)]
    (home / "items" / "0.tfrecord.gz").write_bytes(b"".join(records))  # not packed
    assert (load("grid", home).embeddings == X).all()


def test_records_hold_negative_unpacked_and_single_numbers(tmp_path: Path) -> None:
    unpacked = field(3, varint(1 << 3) + varint(5) + varint(1 << 3) + varint(2**64 - 3))
    single = field(2, varint(1 << 3 | 5) + struct.pack("<f", 1.5))
    pairs = field(1, field(1, b"n") + field(2, unpacked)) + field(1, field(1, b"f") + field(2, single))
    data = field(1, pairs)
    path = tmp_path / "one.tfrecord"
    path.write_bytes(struct.pack("<Q", len(data)) + b"\0" * 4 + data + b"\0" * 4)
    (found,) = examples(path)
    assert np.asarray(found["n"]).tolist() == [5, -3]
    assert np.asarray(found["f"]).tolist() == [1.5]


@pytest.mark.parametrize("emb", [81, 82])
def test_taac_keeps_creative_ids_times_and_order(home: Path, emb: int) -> None:
    taac(home)
    corpus = load("taac", home, emb=emb)
    kept = [[i for i in r if emb == 82 or i != 5] for r in ROWS]
    found = [corpus.item_ids[r].tolist() for r in corpus.sequences]
    assert found == [[f"{900 + i}" for i in r] for r in kept]
    assert corpus.user_ids.tolist() == ["user_0", "user_1", "user_2"]
    for row, name in enumerate(corpus.item_ids.tolist()):
        assert (corpus.embeddings[row] == X[int(name) - 900]).all()
    assert any("of items without vector in emb_81" in n for n in corpus.notes) == (emb == 81)
    assert corpus.times is not None


def test_taac_says_what_items_without_vector_become(home: Path) -> None:
    taac(home)
    corpus = load("taac", home, missing="zero")
    assert any("1 items have no vector in emb_81; zero stands there" in n for n in corpus.notes)
    assert not corpus.embeddings[corpus.item_ids.tolist().index("905")].any()
    with pytest.raises(DataError, match=r"emb_81: 1 of 6 items of seq\.jsonl have no vector, first '905'"):
        load("taac", home, missing="error")
    clicks = load("taac", home, emb=82, actions=[1])
    assert len(clicks.sequences.items) == sum(len(r) // 2 for r in ROWS)


def test_forge_asks_for_the_second_of_a_pair(home: Path) -> None:
    forge(home)
    corpus = load("forge", home, held=0.2)
    assert corpus.item_ids.tolist() == [i * 7 + 10**12 for i in range(N)]
    assert any("2 of 402 pairs name an item without vector" in n for n in corpus.notes)
    made = split(corpus, "published")
    parts = [
        {tuple(p) for p in np.stack([t.histories.items, t.items], axis=1).tolist()}
        for t in (made.valid, made.test)
    ]
    train = {tuple(r.tolist()) for r in made.train if len(r)}
    # A pair that is repeated stands in one part only.
    assert not parts[0] & parts[1]
    assert not train & (parts[0] | parts[1])
    assert len(made.valid) + len(made.test) + (made.train.lengths > 0).sum() == 400


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder_keeps_the_laws_of_a_dataset(home: Path, name: str) -> None:
    from sidbench.testing import check_dataset

    FOLDERS[name](home)
    check_dataset(registry.find("dataset", name), path=home)


@pytest.mark.parametrize("name", [*FOLDERS, "minionerec"])
def test_a_folder_that_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: there is no folder .*nothing; expected one with"):
        load(name, tmp_path / "nothing")
    with pytest.raises(UsageError, match="expected"):
        load(name, tmp_path)
    with pytest.raises(UsageError, match=f"dataset '{name}' needs its path: give {name}:PATH"):
        registry.make_dataset(name)


# -- what is damaged ---------------------------------------------------------------------------------------


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
        r"row 0 .*user_id is ''.*expected a token",
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
    "recbole: empty": ("recbole", held("pens.inter", ""), r"pens\.inter is empty"),
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


def test_zero_may_stand_where_numbers_are_none(home: Path) -> None:
    lc_rec(home)
    bad = X.copy()
    bad[4, 1], bad[5] = np.nan, np.inf
    np.save(home / VECTORS, bad)
    corpus = load("lc-rec", home, nan="zero")
    assert (corpus.embeddings == np.where(np.isfinite(bad), bad, 0)).all()
    assert f"4 numbers in 2 rows of {VECTORS} are NaN or infinite; zero stands there" in corpus.notes


def test_every_dataset_says_what_its_parameters_are() -> None:
    from sidbench.plugin import parameter_docs

    for name in (*FOLDERS, "minionerec"):
        cls = registry.find("dataset", name)
        assert all(said for _, said in parameter_docs(cls).values()), name
        assert cls.variant == "path"


DATA = Path(os.environ.get("SIDBENCH_DATA", "/nowhere").split(os.pathsep)[0]) / "formats"


@pytest.mark.skipif(not (DATA / "lc-rec").is_dir(), reason="SIDBENCH_DATA/formats/lc-rec is not there")
def test_letters_own_beauty_is_read() -> None:
    corpus = load("lc-rec", DATA / "lc-rec")
    assert (len(corpus), len(corpus.sequences), len(corpus.sequences.items)) == (12_101, 22_363, 198_502)


@pytest.mark.parametrize("write", [lc_rec, p5, recbole, grid, taac])
def test_vectors_learned_of_sequences_run_under_no_other_protocol(
    write: Callable[[Path], None], home: Path
) -> None:
    write(home)
    corpus = load(write.__name__.replace("_", "-"), home, embedding="collaborative").permuted()
    assert len(split(corpus, "leave-one-out").train)
    with pytest.raises(UsageError, match="would know what cold-start tests"):
        split(corpus, "cold-start")
