"""Files of strangers: no code is run, nothing unpacks without end, and numbers come out as they went in."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sidbench.errors import DataError, UsageError
from sidbench.format import How
from sidbench.formats import reading, safe

HELD: list[Any] = [
    {"a": np.arange(6).reshape(2, 3), "b": [np.float32(3), np.int64(4)]},
    np.arange(6, dtype=">i4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(["ab", "c"]),
    np.zeros((0, 3)),
    OrderedDict(a=1),
    [1, 2.5, None, True, "text", b"bytes", (1, 2), 2**100, -5],
    [{"item_id": np.int64(3), "cluster_ids": [1, 2]}],
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(
            isinstance(b, np.ndarray)
            and a.shape == b.shape
            and a.dtype.kind == b.dtype.kind
            and (a == b).all()
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_text_lists_and_arrays_come_out_of_a_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    for held in HELD:
        path.write_bytes(pickle.dumps(held, protocol=protocol))
        assert same(held, safe.unpickle(path)), held


class Runs:
    """What an attack looks like: reading it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"echo > '{self.path}'",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["liger", "grid-pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(
    tmp_path: Path, name: str, protocol: int
) -> None:
    path, mark = tmp_path / "x.pkl", tmp_path / "ran"
    for held in (Runs(mark), [Runs(mark)], {"item_id": 1, "cluster_ids": Runs(mark)}, np.array([Runs(mark)])):
        path.write_bytes(pickle.dumps(held, protocol=protocol))
        with pytest.raises(
            DataError, match=r"x\.pkl is refused: .*(may run code|only numbers and text|something)"
        ):
            reading.read(path, "test", How(name))
        assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark)))  # that it is an attack
    assert mark.exists()


def test_a_tensor_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "x.pt", tmp_path / "ran"
    for held in (Runs(mark), {"codes": torch.zeros(3, 40), "args": Runs(mark)}):
        torch.save(held, path)
        with pytest.raises(DataError, match=r"x\.pt is refused: it holds more than tensors"):
            reading.read(path, "test", How("grid"))
    path.write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(DataError, match=r"x\.pt"):
        reading.read(path, "test", How("grid"))
    assert not mark.exists()


ATTACKS = {
    "memo of gigabytes": b"\x80\x02Kr\x05r\xff\xff\xff\xff.",
    "memo of gigabytes in text": b"\x80\x02]p999999999999\n.",
    "length beyond the end": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "ends in the middle": pickle.dumps(np.arange(1000))[:-50],
    "no pickle": b"garbage",
    "nothing": b"",
    "a function by its old name": b"cos\nsystem\n(S'ls'\ntR.",
    "extension registry": b"\x80\x02\x82\x01.",
    "an object outside": b"Pid\n.",
    "a class of its own choice": b"(i__main__\nA\n.",
    "changes what it may only use": b"cnumpy\ndtype\n(Vf4\ntR(V__doc__\nI1\ntb.",
    "an array larger than its bytes": pickle.dumps(np.arange(4), protocol=2).replace(
        b"K\x04\x85", b"M\xff\xff\x85"
    ),
    "arrays of objects": pickle.dumps(np.array([{}])),
    "a type of many fields": pickle.dumps(np.zeros(2, dtype=[("a", "i4"), ("b", "O")])),
    "partial": b"cfunctools\npartial\n(cbuiltins\nprint\ntR.",
    "eval": b"cbuiltins\neval\n(V1\ntR.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "numpy's own loader": b"cnumpy\nload\n.",
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_pickles_that_are_attacks_or_torn(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(ATTACKS[kind])
    with pytest.raises(DataError, match=r"x\.pkl (is refused|cannot be read)"):
        safe.unpickle(path)


def test_text_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe, "SMALL", 1 << 20)
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(DataError, match=r"x\.json\.gz is refused: it unpacks to over 200 times its size"):
        safe.read_json(path)
    path.write_bytes(gzip.compress(b'{"0": [0, 1]}'))
    assert safe.read_json(path) == {"0": [0, 1]}
    assert reading.read(path, "test").codes.tolist() == [[0, 1]]
    with pytest.raises(DataError, match="is the most that is read"):
        safe.read_json(path, most=10)
    path.write_bytes(gzip.compress(b'{"0": [0, 1]}')[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        safe.read_json(path)


def bomb(path: Path, member: str, size: int) -> None:
    """A zip whose member unpacks to zeros without end."""
    header = io.BytesIO()
    about = {"descr": "|i1", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        z.writestr(member, header.getvalue() + bytes(size))


@pytest.mark.parametrize("name", ["npz", "grid"])
def test_archives_that_unpack_without_end_are_refused_unread(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe, "SMALL", 1 << 20)
    path = tmp_path / ("x.npz" if name == "npz" else "x.pt")
    bomb(path, "codes.npy" if name == "npz" else "x/data/0", 32 << 20)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"unpacks to over 200 times its size, as a zip bomb does"):
        reading.read(path, "test", How(name))


def test_archives_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, codes=np.zeros((30, 2), np.int64))
    whole = path.read_bytes()
    small, large = struct.pack("<I", 608), struct.pack("<I", 1 << 31)
    assert small in whole
    path.write_bytes(whole.replace(small, large))
    with pytest.raises(DataError, match=r"x\.npz"):
        reading.read(path, "test")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("codes.npy", whole[:50])
    with pytest.raises(DataError, match=r"x\.npz"):
        reading.read(path, "test")
    np.savez(path, codes=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="Python objects, which may be code"):
        reading.read(path, "test")
    assert safe.read_npz(_saved(path), ("codes",))["codes"].tolist() == [[0, 1]]
    with pytest.raises(DataError, match="has no array 'other'; it has codes"):
        safe.read_npz(path, ("other",))


def _saved(path: Path) -> Path:
    np.savez(path, codes=np.array([[0, 1]]))
    return path


@pytest.mark.parametrize("shape", [(1 << 40, 4), (-1, 4), (3, 4)])
def test_a_header_that_claims_other_bytes_than_there_are(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
        file.write(bytes(64))
    with pytest.raises(DataError, match=r"x\.npy cannot be read as a \.npy file \(its header claims"):
        safe.read_npy(path)


def test_a_tensor_of_one_number_that_claims_a_billion(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.zeros(1, dtype=torch.int64).expand(1 << 30, 4), path)
    with pytest.raises(DataError, match="is not all there"):
        reading.read(path, "test", How("grid"))


def test_what_is_no_file(tmp_path: Path) -> None:
    for read in (safe.unpickle, safe.read_json, safe.read_npy, safe.read_npz):
        with pytest.raises(UsageError, match="there is no file"):
            read(tmp_path / "none")
        with pytest.raises(UsageError, match="is a folder"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["parquet", "openonerec"])
def test_a_table_whose_values_repeat_without_end_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kilobyte of run lengths that stands for a list of millions of codes."""
    monkeypatch.setattr(safe, "SMALL", 1 << 20)
    path, many = tmp_path / "x.parquet", 4 << 20
    key, column = ("item_id", "sid") if name == "parquet" else ("pid", "codes")
    codes = pa.ListArray.from_arrays(pa.array([0, many], pa.int32()), pa.array(np.zeros(many, np.int8)))
    pq.write_table(pa.table({key: ["a"], column: codes}), path)
    assert path.stat().st_size < 2000
    with pytest.raises(DataError, match=r"unpacks to over 200 times its size, as a zip bomb does"):
        reading.read(path, "test", How(name))
