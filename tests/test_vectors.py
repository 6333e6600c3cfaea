"""Vectors: every kind of file gives the same rows, whatever the pieces it is read in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.vectors import open_vectors

Rows = NDArray[np.float32]
X: Rows = np.random.default_rng(0).standard_normal((1000, 7)).astype(np.float16).astype(np.float32)


def lists(x: Rows, kind: Any, *, fixed: bool) -> Any:
    flat = (
        pa.array(x.reshape(-1)).cast(kind)
        if kind != pa.float16()
        else pa.array(x.reshape(-1).astype(np.float16))
    )
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(x) + 1, dtype=np.int32) * x.shape[1]), flat)


def npy(path: Path) -> dict[str, Any]:
    np.save(path / "x.npy", X)
    return {"path": path / "x.npy"}


def npy_half(path: Path) -> dict[str, Any]:
    np.save(path / "x.npy", X.astype(np.float16))
    return {"path": path / "x.npy"}


def npy_big_endian(path: Path) -> dict[str, Any]:
    np.save(path / "x.npy", X.astype(">f8"))
    return {"path": path / "x.npy"}


def npy_fortran(path: Path) -> dict[str, Any]:
    np.save(path / "x.npy", np.asfortranarray(X))
    return {"path": path / "x.npy"}


def parquet(path: Path) -> dict[str, Any]:
    table = pa.table({"item_id": np.arange(1000), "embedding": lists(X, pa.float32(), fixed=True)})
    pq.write_table(table, path / "x.parquet", row_group_size=130)
    return {"path": path / "x.parquet"}


def parquet_lists(path: Path) -> dict[str, Any]:
    table = pa.table({"v": lists(X, pa.float64(), fixed=False), "codes": [[1, 2]] * 1000})
    pq.write_table(table, path / "x.parquet")
    return {"path": path / "x.parquet"}


def parquet_half(path: Path) -> dict[str, Any]:
    table = pa.table({"v": lists(X, pa.float16(), fixed=True), "w": lists(X, pa.float16(), fixed=False)})
    pq.write_table(table, path / "x.parquet", row_group_size=300)
    return {"path": path / "x.parquet", "column": "w"}


def safetensors(path: Path) -> dict[str, Any]:
    save_file({"x": X, "length": np.ones(3)}, path / "x.safetensors")
    return {"path": path / "x.safetensors"}


def bfloat16(path: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file as save

    save({"a": torch.tensor(X), "b": torch.tensor(X).to(torch.bfloat16)}, path / "x.safetensors")
    return {"path": path / "x.safetensors", "column": "b"}


def raw(path: Path) -> dict[str, Any]:
    X.astype(np.float16).tofile(path / "x.bin")
    return {"path": path / "x.bin", "dim": 7, "dtype": "float16"}


def shards(path: Path) -> dict[str, Any]:
    for i in range(12):  # part-10 sorts before part-2 as text
        np.save(path / f"part-{i}.npy", X[i * 90 : 1000 if i == 11 else (i + 1) * 90])
    return {"path": path}


def parquet_shards(path: Path) -> dict[str, Any]:
    ids = pa.array([f"i{n}" for n in range(1000)])
    for i, at in enumerate(range(0, 1000, 400)):
        rows = slice(at, at + 400)
        table = pa.table({"asin": ids[rows], "emb": lists(X[rows], pa.float32(), fixed=i % 2 == 0)})
        pq.write_table(table, path / f"{i}.parquet", row_group_size=77)
    return {"path": path}


KINDS = (
    npy, npy_half, npy_big_endian, npy_fortran, parquet, parquet_lists, parquet_half, safetensors, raw,
    shards, parquet_shards,
)  # fmt: skip


@pytest.mark.parametrize("write", KINDS)
def test_every_kind_gives_the_same_rows_in_any_pieces(
    tmp_path: Path, write: Callable[[Path], dict[str, Any]]
) -> None:
    vectors = open_vectors(**write(tmp_path))
    assert (vectors.rows, vectors.dim) == X.shape
    whole = vectors.read(0, 1000)
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    np.testing.assert_array_equal(whole, X)
    rng = np.random.default_rng(1)
    for _ in range(20):  # forwards, backwards, across shards and row groups
        start, stop = sorted(rng.integers(0, 1001, 2).tolist())
        np.testing.assert_array_equal(vectors.read(start, stop), X[start:stop])
    pieces = [piece for _, piece in vectors.pieces(333)]
    np.testing.assert_array_equal(np.concatenate(pieces), X)
    parts = vectors.parts()
    assert [r for p in parts for r in p] == list(range(1000))
    if (array := vectors.array()) is not None:
        np.testing.assert_array_equal(array, X)


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    got = open_vectors(**bfloat16(tmp_path)).read(0, 1000)
    np.testing.assert_allclose(got, X, rtol=2**-8)


def test_ids_stand_in_the_file_or_beside(tmp_path: Path) -> None:
    vectors = open_vectors(**parquet_shards(tmp_path))
    expected = [f"i{n}" for n in range(350, 850)]
    ids = vectors.ids(350, 850)
    assert ids is not None
    assert ids.to_pylist() == expected  # before any row was read
    vectors.read(350, 850)
    ids = vectors.ids(350, 850)
    assert ids is not None
    assert ids.to_pylist() == expected
    beside = tmp_path / "beside"
    beside.mkdir()
    np.save(beside / "ids.npy", np.arange(1000) * 3)
    named = open_vectors(**raw(beside), ids=beside / "ids.npy")
    got = named.ids(5, 7)
    assert got is not None
    assert got.to_pylist() == [15, 18]
    np.save(beside / "ids.npy", np.arange(999))
    with pytest.raises(DataError, match=r"999 ids for 1,000 rows"):
        open_vectors(**raw(beside), ids=beside / "ids.npy")


def read_all(**how: Any) -> Rows:
    vectors = open_vectors(**how)
    return vectors.read(0, vectors.rows)


def damaged(path: Path, how: str) -> dict[str, Any]:
    """A file that cannot be meant, and what opens it."""
    x = path / "x.npy"
    if how == "cut":
        np.save(x, X)
        x.write_bytes(x.read_bytes()[:-5])
    elif how == "objects":
        np.save(x, np.array([[{}]], dtype=object), allow_pickle=True)
    elif how == "text":
        np.save(x, np.array([["a"]]))
    elif how == "flat":
        np.save(x, X[0])
    elif how == "empty":
        np.save(x, X[:0])
    elif how == "no file":
        pass
    elif how == "not npy":
        x.write_text("hello")
    elif how == "mixed":
        np.save(x, X)
        parquet(path)
        return {"path": path}
    elif how == "widths":
        np.save(x, X)
        np.save(path / "y.npy", X[:, 1:])
        return {"path": path}
    elif how == "nothing":
        return {"path": path}
    elif how == "ragged":
        pq.write_table(pa.table({"v": [[1.0, 2.0], [3.0]]}), path / "x.parquet")
        return {"path": path / "x.parquet"}
    elif how == "null":
        pq.write_table(pa.table({"v": [[1.0, 2.0], None]}), path / "x.parquet")
        return {"path": path / "x.parquet"}
    elif how == "null inside":
        pq.write_table(pa.table({"v": [[1.0, 2.0], [None, 1.0]]}), path / "x.parquet")
        return {"path": path / "x.parquet"}
    elif how == "two columns":
        pq.write_table(pa.table({"v": [[1.0]], "w": [[2.0]]}), path / "x.parquet")
        return {"path": path / "x.parquet"}
    elif how == "odd bytes":
        (path / "x.bin").write_bytes(b"1234567")
        return {"path": path / "x.bin", "dim": 2, "dtype": "float16"}
    elif how == "raw unsaid":
        (path / "x.bin").write_bytes(b"1234567")
        return {"path": path / "x.bin"}
    elif how == "header":
        (path / "x.safetensors").write_bytes(b"\xff" * 20)
        return {"path": path / "x.safetensors"}
    elif how == "ending":
        (path / "x.xyz").write_bytes(b"1")
        return {"path": path / "x.xyz"}
    return {"path": x}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "cut short"), ("objects", "holds object"), ("text", "holds"), ("flat", "shape"),
        ("empty", "at least one"), ("no file", "there is no file"), ("not npy", "no readable"),
        ("mixed", "several kinds"), ("widths", "6 dimensions"), ("nothing", "no file that ends"),
        ("ragged", "row 1 has 1 numbers"), ("null", "row 1 has no vector"),
        ("null inside", "row 1 has a null"), ("two columns", "v, w"), ("odd bytes", "whole rows"),
        ("raw unsaid", "dtype"), ("header", "no readable"), ("ending", "not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_says_so(tmp_path: Path, how: str, said: str) -> None:
    with pytest.raises(SidbenchError, match=said) as caught:
        read_all(**damaged(tmp_path, how))
    assert str(tmp_path) in str(caught.value)


def test_a_name_that_is_not_there_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no column 'embeding'; did you mean 'embedding'"):
        open_vectors(**{**parquet(tmp_path), "column": "embeding"})
    with pytest.raises(UsageError, match="no column 'nope'"):
        open_vectors(**{**parquet(tmp_path), "id_column": "nope"})
    with pytest.raises(DataError, match="7 dimensions, not the 8"):
        open_vectors(**{**npy(tmp_path), "dim": 8})


def test_a_file_that_shrinks_while_it_is_read_says_so(tmp_path: Path) -> None:
    vectors = open_vectors(**npy(tmp_path))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:500])
    with pytest.raises(DataError, match="cut short"):
        vectors.read(0, 1000)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataError, match="still there"):
        vectors.read(0, 1000)
