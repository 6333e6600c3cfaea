"""Own files on the command line: the check before any training, and a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sidbench.errors import DataError
from sidbench.registry import load_dataset
from sidbench.settings import read_settings
from tests.own_files import EVENTS, N, X, at_home, call, columns, events, rewritten


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


def test_the_check_says_everything_before_any_training(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = X.copy()
    x[1], x[2], x[6] = 0, 1, x[5]
    rewritten(home, x)
    assert call("data", "check", "--items", "items.parquet", "--sequences", "events.parquet", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ready"]
    assert facts["items"]["items"] == N
    assert facts["items"]["columns"] == {"item": "item_id", "title": "title", "embedding": "embedding"}
    assert [facts["vectors"][k] for k in ("zero", "constant", "repeated", "not_finite")] == [1, 1, 1, 0]
    assert facts["sequences"]["users"] == 6
    assert facts["sequences"]["kept"] == len(EVENTS)
    assert facts["sequences"]["times"]["first"] == "2023-11-14T22:13:20"
    assert any("fewer than the 256 codes" in note for note in facts["notes"])


def test_the_check_names_every_fault_and_exits_with_1(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = X.copy()
    x[0] = np.inf
    rewritten(home, x)
    pq.write_table(events().slice(0, 2), home / "events.parquet")
    assert call("data", "check", "--items", "items.parquet", "--sequences", "events.parquet", "--json") == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert len(errors) == 2
    assert "NaN or infinity" in errors[0]
    assert "no user has 3 events" in errors[1]


def test_the_check_of_words_alone_names_the_remedy(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(columns(), home / "items.parquet")
    arguments = ("data", "check", "--items", "items.parquet", "--sequences", "events.parquet")
    assert call(*arguments) == 1
    assert "--embedding tfidf" in capsys.readouterr().out
    assert call(*arguments, "--embedding", "tfidf") == 0


def test_the_check_reads_any_dataset(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "check", "synthetic:tiny") == 0
    assert "✓ ready for sidbench run" in capsys.readouterr().out
    assert call("data", "check") == 2
    assert call("data", "check", "synthetic", "--items", "x") == 2
    assert call("data", "check", "--items", "nowhere.parquet") == 2


def test_a_run_takes_files_and_keeps_their_folders_to_itself(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "somebody's secret folder"
    folder.mkdir()
    for name in ("items.parquet", "events.parquet"):
        (home / name).rename(folder / name)
    files = ["--items", str(folder / "items.parquet"), "--sequences", str(folder / "events.parquet")]
    small = ["--set", "dataset.called=mine", "--methods", "popularity", "--cutoffs", "1,2"]
    assert call("run", *files, *small) == 0
    printed = capsys.readouterr().out
    assert "mine: 12 items of 3 dimensions, 6 users" in printed
    assert "note: items.parquet: item = item_id, title = title, embedding = embedding" in printed
    (record,) = Path("results/records/mine/popularity").glob("*.json")
    assert "secret" not in record.read_text()
    key = json.loads(record.read_text())["key"]["dataset"]
    assert key["plugin"] == "files"
    assert "items" not in key["params"]


def test_files_and_a_dataset_exclude_each_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--items", "items.parquet", "--dataset", "synthetic") == 2
    assert "not both" in capsys.readouterr().err
    assert call("run", "--columns", "item=x") == 2
    assert "--columns belongs to data" in capsys.readouterr().err


def test_a_run_file_names_files_as_the_options_do(home: Path) -> None:
    (home / "runs.toml").write_text(
        'items = "items.parquet"\ncolumns = "item=item_id"\nembedding = "tfidf"\n'
    )
    found = read_settings(home / "runs.toml", {"sequences": "events.parquet"}, ["dataset.ties=shuffle"])
    assert found.dataset == "files"
    assert found.set["dataset"] == {
        "items": "items.parquet",
        "sequences": "events.parquet",
        "embedding": "tfidf",
        "columns": "item=item_id",
        "ties": "shuffle",
    }
    assert read_settings(None, {"dataset": "x", "embedding": "tfidf"}, []).set["dataset"] == {
        "embedding": "tfidf"
    }


def test_sequences_are_found_beside_the_items(home: Path) -> None:
    assert len(load_dataset("files:items.parquet").sequences) == 6
    (home / "ratings.csv").write_text("user,item,time\n")
    with pytest.raises(DataError, match=r"events\.parquet and ratings\.csv: which one"):
        load_dataset("files:items.parquet")
