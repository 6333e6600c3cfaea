"""Vectors that were learned from interactions meet a run that trains on just these, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.cli import main
from sidbench.dataset import Corpus, Sequences
from sidbench.errors import UsageError
from sidbench.protocol import split
from sidbench.registry import make_dataset

rows = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_a_digest_knows_who_did_what_in_which_order_and_nothing_else(
    lists: list[list[int]], rng: Any
) -> None:
    ids = np.array([f"i{i}" for i in range(10)])
    digest = Sequences.of(lists).digest(ids)
    new = list(range(10))
    rng.shuffle(new)
    other = [[new[i] for i in row] for row in lists] + [[]]
    rng.shuffle(other)
    assert Sequences.of(other).digest(ids[np.argsort(new)]) == digest
    for at, row in enumerate(lists):
        for changed in ([*row, 3], row[:-1], row[::-1], [9 - i for i in row]):
            if sorted([*lists[:at], changed, *lists[at + 1 :], []]) != sorted([*lists, []]) and (
                row or changed
            ):
                assert Sequences.of([*lists[:at], changed, *lists[at + 1 :]]).digest(ids) != digest


def test_numbers_and_text_of_one_id_are_one() -> None:
    found = Sequences.of([[0, 2], [1]])
    assert found.digest(np.array([10, 20, 30])) == found.digest(np.array(["10", "20", "30"]))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pq.write_table(
        pa.table({"item": [f"i{i}" for i in range(40)], "title": [f"t{i % 7} w{i}" for i in range(40)]}),
        tmp_path / "items.parquet",
    )
    write(tmp_path / "seq.parquet", [rng.choice(40, rng.integers(4, 9), replace=False) for _ in range(60)])
    return tmp_path


def write(path: Path, lists: list[Any]) -> None:
    items = [[f"i{i}" for i in row] for row in lists]
    pq.write_table(pa.table({"user": range(len(items)), "items": items}), path)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def learned(shop: Path, *more: str, sequences: str = "seq.parquet", out: str = "cf.npy") -> Path:
    source = ("--source", f"sequences:{shop / sequences}")
    assert command("embed", shop / "items.parquet", *source, *more, "--out", shop / out) == 0
    return shop / out


def own(shop: Path, **given: object) -> Corpus:
    held = {"items": shop / "items.parquet", "sequences": shop / "seq.parquet", **given}
    return make_dataset("files", {k: str(v) for k, v in held.items()}).load().permuted()


def test_a_run_on_the_sequences_that_were_learned_from_goes(shop: Path) -> None:
    corpus = own(shop, embeddings=learned(shop))
    assert corpus.learned_from
    assert len(split(corpus, "leave-one-out").test) == 60
    # Users in another order, and one more who does nothing, are the same interactions.
    table = pq.read_table(shop / "seq.parquet")
    pq.write_table(table.take(np.arange(60)[::-1].tolist()), shop / "turned.parquet")
    assert len(
        split(own(shop, embeddings=shop / "cf.npy", sequences=shop / "turned.parquet"), "leave-one-out").test
    )


@pytest.mark.parametrize("change", ["longer", "whole", "one user", "order"])
def test_vectors_of_other_interactions_than_those_that_train_are_refused(
    shop: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two more items a user the vectors hold the targets of this run."""
    lists = [[int(i[1:]) for i in row] for row in pq.read_table(shop / "seq.parquet")["items"].to_pylist()]
    if change == "longer":
        lists = [[*row, 0, 1] for row in lists]
    elif change == "whole":  # users too short to be evaluated train with all they have
        lists = [part for row in lists for part in (row[:2], row[2:4], row[4:6], row[6:])]
    elif change == "one user":
        lists[3] = lists[3][1:]
    else:
        lists[3] = [*lists[3][1::-1], *lists[3][2:]]
    write(shop / "other.parquet", lists)
    cf = learned(shop, sequences="other.parquet")
    with pytest.raises(UsageError, match="learned from other interactions than those that train here"):
        split(own(shop, embeddings=cf), "leave-one-out")
    capsys.readouterr()
    files = ("--items", shop / "items.parquet", "--sequences", shop / "seq.parquet", "--embeddings", cf)
    assert command("data", "check", *files) == 1
    assert "learned from other interactions" in " ".join(capsys.readouterr().out.split())
    assert command("run", *files, "--methods", "random", "--dry-run") == 2
    assert "sidbench embed ITEMS --source sequences:FILE --redo" in " ".join(capsys.readouterr().err.split())


def test_a_join_and_new_items_remember_what_was_learned_from(shop: Path) -> None:
    cf = learned(shop)
    vectors = ("--source", "text", "--source", f"vectors:{cf}")
    assert command("embed", shop / "items.parquet", *vectors, "--out", shop / "both.npy") == 0
    assert own(shop, embeddings=shop / "both.npy").learned_from == own(shop, embeddings=cf).learned_from
    again = ("--like", cf, "--out", shop / "again.npy")
    assert command("embed", shop / "items.parquet", *again) == 0
    corpus = own(shop, embeddings=shop / "again.npy")
    assert len(split(corpus, "leave-one-out").test)
    write(shop / "other.parquet", [[1, 2, 3, 4], [3, 4, 5, 6]])
    with pytest.raises(UsageError, match="other interactions"):
        split(own(shop, embeddings=shop / "both.npy", sequences=shop / "other.parquet"), "leave-one-out")


def test_where_no_digest_was_kept_a_note_says_so(shop: Path) -> None:
    cf = learned(shop)
    manifest = shop / "cf.embedding" / "manifest.json"
    held = json.loads(manifest.read_text())
    for facts in held["found"]:
        del facts["interactions_sha256"]
    manifest.write_text(json.dumps(held))
    found = split(own(shop, embeddings=cf), "leave-one-out")
    assert any("from which interactions its vectors were learned is not recorded" in n for n in found.notes)


def test_columns_of_a_source_are_named_behind_its_file(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that call nothing as it is known, and what a wrong name says."""
    table = pq.read_table(shop / "items.parquet").rename_columns(["ware", "title"])
    pq.write_table(table, shop / "wares.parquet")
    events = [f"{u},i{i},{t}" for u in range(9) for t, i in enumerate(range(u, u + 6))]
    (shop / "log.csv").write_text("\n".join(["wer,was,wann", *events]) + "\n")
    named = f"sequences:{shop / 'log.csv'}:user=wer,item=was,time=wann"
    wares = ("embed", shop / "wares.parquet", "--columns", "item=ware")
    assert command(*wares, "--source", named, "--out", shop / "a.npy") == 0
    assert np.load(shop / "a.npy").any()
    assert command(*wares, "--source", named.replace("wann", "when"), "--out", shop / "b.npy") == 1
    assert "has no column 'when'" in capsys.readouterr().err
    assert command(*wares, "--source", f"sequences:{shop / 'log.csv'}", "--out", shop / "b.npy") == 1
    assert "name it with --source sequences:FILE:user=COLUMN" in " ".join(capsys.readouterr().err.split())
    assert command("embed", shop / "wares.parquet", "--source", named, "--out", shop / "b.npy") == 2
    assert "--columns item=COLUMN" in capsys.readouterr().err
    assert command("embed", shop / "wares.parquet", "--columns", "user=wer", "--out", shop / "b.npy") == 2
    assert "item=COLUMN alone names a column by its role" in " ".join(capsys.readouterr().err.split())
