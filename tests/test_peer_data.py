"""Datasets in other systems' layouts: small files are read whole."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sidbench import registry
from sidbench.errors import DataError, UsageError
from sidbench.peers.tfrecord import examples
from sidbench.protocol import split
from tests.peer_folders import (
    FOLDERS,
    ROWS,
    TITLES,
    N,
    X,
    field,
    forge,
    grid,
    lc_rec,
    lists,
    load,
    p5,
    recbole,
    record,
    taac,
    varint,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "pens"
    home.mkdir()
    return home


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


def test_zero_may_stand_where_numbers_are_none(home: Path) -> None:
    lc_rec(home)
    bad = X.copy()
    bad[4, 1], bad[5] = np.nan, np.inf
    np.save(home / "Pens.emb-llama-td.npy", bad)
    corpus = load("lc-rec", home, nan="zero")
    assert (corpus.embeddings == np.where(np.isfinite(bad), bad, 0)).all()
    assert (
        "4 numbers in 2 rows of Pens.emb-llama-td.npy are NaN or infinite; zero stands there" in corpus.notes
    )


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
