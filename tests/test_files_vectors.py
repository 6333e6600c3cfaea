"""Own files: vectors of any kind and size, read in pieces; damage is one clear message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.files import items as items_module
from sidbench.files import survey as survey_module
from sidbench.files import tables
from sidbench.files.survey import Held, survey
from sidbench.vectors import open_vectors
from tests.own_files import RNG, D, X, at_home, columns, corpus, fbin, rewritten, said


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


@settings(max_examples=15, deadline=None)
@given(spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6))
@pytest.mark.parametrize("kind", ["npz", "csv", "fbin"])
def test_pieces_in_any_order_are_the_rows(
    kind: str, spans: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    x = np.arange(90, dtype=np.float32).reshape(30, 3)
    path = tmp_path_factory.mktemp("x") / f"x.{kind}"
    if kind == "npz":
        np.savez_compressed(path, x=x)
    elif kind == "csv":
        np.savetxt(path, x, delimiter=",")
    else:
        path.write_bytes(np.array(x.shape, "<u4").tobytes() + x.tobytes())
    vectors = open_vectors(path)
    assert (vectors.rows, vectors.dim) == x.shape
    for a, b in spans:
        start, stop = sorted((a, b))
        assert (vectors.read(start, stop) == x[start:stop]).all()


@pytest.mark.parametrize("in_memory", [True, False])
def test_large_vectors_live_in_the_cache(
    home: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    x = X.copy()
    x[3, 1] = np.nan
    rewritten(home, [None if i == 4 else v for i, v in enumerate(x)])
    monkeypatch.setattr(survey_module, "PIECE", 2 * D)
    if not in_memory:
        monkeypatch.setattr(items_module, "IN_MEMORY", 1)
    for _ in range(2):  # made, then found
        c = corpus(home, nan="zero")
        assert isinstance(c.embeddings, np.memmap) is not in_memory
        assert (c.embeddings == np.delete(np.nan_to_num(x), 4, axis=0)).all()
        assert "1 items have a vector with NaN" in said(c)
        assert (c.permuted().embeddings[0] == c.embeddings).all(axis=1).any()


def test_a_large_file_of_float32_is_mapped_and_not_copied(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_module, "IN_MEMORY", 1)
    pq.write_table(columns(), home / "words.parquet")
    np.save(home / "x.npy", X)
    c = corpus(home, items=home / "words.parquet", embeddings=home / "x.npy")
    assert isinstance(c.embeddings, np.memmap)
    assert not (home / "cache").exists()


@pytest.mark.parametrize("dim", [3, 4])
def test_a_survey_counts_what_a_loop_would(monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    x = RNG.integers(-1, 2, (300, dim)).astype(np.float32)
    x[5], x[9, 1], x[11] = np.nan, np.inf, 3.4e38
    monkeypatch.setattr(survey_module, "PIECE", 3 * 7)
    found, without = survey(Held(x), gaps=True)
    whole = x[np.isfinite(x).all(axis=1)]
    assert (found.rows, found.not_finite, found.first_not_finite) == (299, 1, 9)
    assert without.nonzero()[0].tolist() == [5]
    assert found.zero == (whole == 0).all(axis=1).sum()
    assert found.constant == ((whole == whole[:, :1]).all(axis=1) & (whole != 0).any(axis=1)).sum()
    assert found.repeated == len(whole) - len(np.unique(whole, axis=0))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "torn npz": ("x.npz", lambda p: p.write_bytes(p.read_bytes()[:-30]), "no readable .npz"),
    "npz of objects": ("x.npz", lambda p: np.savez(p, x=np.array([{}], object)), "which array"),
    "npz of two": ("x.npz", lambda p: np.savez(p, a=X, b=X), "2 fit"),
    "npz, one axis": ("x.npz", lambda p: np.savez(p, x=X[0]), "which array"),
    "npz of text": ("x.npz", lambda p: np.savez(p, x=X.astype(str)), "expected rows of numbers"),
    "short fbin": ("x.fbin", lambda p: p.write_bytes(b"\x01"), "expected rows and dimensions"),
    "torn fbin": ("x.fbin", lambda p: fbin(p, 4), "cut short"),
    "long fbin": ("x.fbin", lambda p: fbin(p, 0, b"1234"), "4 bytes follow"),
    "csv of words": ("x.csv", lambda p: p.write_text("item,embedding\n1,a b\n2,c d\n"), "is no number"),
    "ragged csv": ("x.csv", lambda p: p.write_text("item,embedding\n1,1 2\n2,1\n"), "row 1 has 1 numbers"),
    "torn csv": ("x.csv", lambda p: p.write_text("item,emb\n1,2,3\n"), "cannot be read as csv"),
    "empty csv": ("x.csv", lambda p: p.write_text(""), "cannot be read as csv"),
    "torn jsonl": ("x.jsonl", lambda p: p.write_text('{"item": 1, "emb": [1, 2'), "cannot be read as jsonl"),
}  # fmt: skip


def read_all(path: Path) -> None:
    vectors = open_vectors(path)
    vectors.read(0, vectors.rows)


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_vectors_are_one_clear_message(tmp_path: Path, what: str) -> None:
    name, spoil, message = DAMAGE[what]
    path = tmp_path / name
    np.savez(tmp_path / "x.npz", x=X)
    spoil(path)
    with pytest.raises(SidbenchError, match=message) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((17_000, 1000), np.float32))
    with pytest.raises(DataError, match="refused"):
        open_vectors(tmp_path / "x.npz")


def test_tables_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.xls").write_text("")
    with pytest.raises(UsageError, match=r"'\.xls' are not known.*\.csv"):
        tables.names(tmp_path / "x.xls")
