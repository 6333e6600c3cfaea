"""SIDs: the one check of codes, and the artifact that comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.errors import DataError
from sidbench.sids import SIDs, check_codes, distinct_rows

SIZES = (4, 3, 2)


def some_codes(n: int = 20, seed: int = 0) -> np.typing.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(SIZES, size=(n, 3)).astype(np.int32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.uint32, np.uint64, np.int64])
def test_any_integer_type_becomes_int32_in_c_order(dtype: Any) -> None:
    codes = check_codes(np.asfortranarray(some_codes().astype(dtype)), SIZES, "here")
    assert codes.dtype == np.int32
    assert codes.flags.c_contiguous
    assert (codes == some_codes()).all()


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (some_codes().astype(float), "codes are float64; expected integers"),
        (some_codes() > 0, "codes are bool"),
        (some_codes()[:, :2], r"shape \(20, 2\); expected \(items, 3\)"),
        (some_codes()[:, 0], r"shape \(20,\)"),
        (some_codes().tolist(), "shape list"),
        (some_codes() + 2, r"level 0 holds codes 2..5; expected 0..3"),
        (some_codes() - 1, r"level 0 holds codes -1..2; expected 0..3"),
        (np.full((5, 3), 2**40), "level 0 holds codes 1099511627776"),
        (np.full((5, 3), 2**64 - 1, dtype=np.uint64), "level 0 holds codes 18446744073709551615"),
    ],
)
def test_what_is_wrong_is_said(codes: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{said}"):
        check_codes(codes, SIZES, "here")


def test_no_items_are_no_error() -> None:
    for dtype in (np.int32, np.uint8):
        assert check_codes(np.zeros((0, 3), dtype), SIZES, "here").shape == (0, 3)
    assert len(distinct_rows(np.zeros((0, 3), np.int32))[0]) == 0


@pytest.mark.parametrize("n", [0, 1, 5])
def test_rows_without_columns_are_all_one(n: int) -> None:
    rows, place = distinct_rows(np.zeros((n, 0), np.int32))
    assert rows.shape == (min(n, 1), 0)
    assert place.tolist() == [0] * n


def test_a_shorter_sid_ends_in_minus_one_and_stays_ended() -> None:
    ok = np.array([[1, 2, -1], [1, -1, -1], [0, 0, 0]])
    assert (check_codes(ok, SIZES, "here", variable=True) == ok).all()
    for row, said in (([-1, -1, -1], "no code at the first level"), ([1, -1, 0], "follows the end")):
        with pytest.raises(DataError, match=said):
            check_codes(np.array([row]), SIZES, "here", variable=True)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=30))
def test_distinct_rows_are_those_of_numpy(rows: list[tuple[int, int]]) -> None:
    codes = np.array(rows, dtype=np.int32).reshape(-1, 2)
    distinct, place = distinct_rows(codes)
    assert (distinct == np.unique(codes, axis=0)).all()
    assert (distinct[place] == codes).all()


@pytest.mark.parametrize("ids", [np.arange(20) * 7, np.array([f"item [{i}]é" for i in range(20)])])
@pytest.mark.parametrize("variable", [False, True])
def test_save_and_load_give_the_same(tmp_path: Path, ids: Any, variable: bool) -> None:
    codes = some_codes()
    if variable:
        codes[::3, 2] = -1
    titles = np.array([f"title {i}" for i in range(20)])
    sids = SIDs(codes, SIZES, ids, "suffix", {"method": "m", "seed": 3})
    sids.save(tmp_path / "a", titles)
    back = SIDs.load(tmp_path / "a")
    assert (back.codes == codes).all()
    assert (back.item_ids == ids).all()
    assert back.item_ids.dtype == ids.dtype
    assert (back.sizes, back.resolver, back.manifest) == (SIZES, "suffix", {"method": "m", "seed": 3})
    found = SIDs.titles(tmp_path / "a")
    assert found is not None
    assert (found == titles).all()
    back.save(tmp_path / "b", titles)
    for name in ("sids.parquet", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_without_titles_there_are_none(tmp_path: Path) -> None:
    SIDs(some_codes(), SIZES, np.arange(20)).save(tmp_path)
    assert SIDs.titles(tmp_path) is None


def test_as_many_ids_as_rows() -> None:
    with pytest.raises(DataError, match="3 item ids for 20 rows"):
        SIDs(some_codes(), SIZES, np.arange(3))


@pytest.mark.parametrize("name", ["sids.parquet", "manifest.json"])
@pytest.mark.parametrize("harm", ["gone", "cut", "empty"])
def test_a_torn_artifact_is_one_message(tmp_path: Path, name: str, harm: str) -> None:
    SIDs(some_codes(), SIZES, np.arange(20)).save(tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"")
    with pytest.raises(
        DataError, match=f"no SIDs in .*{name} missing" if harm == "gone" else "cannot be read"
    ):
        SIDs.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"items": 21}, "says 21 items"), ({"sizes": [1, 3, 2]}, "level 0"), ({"schema": 99}, "newer sidbench")],
)
def test_a_manifest_of_something_else_is_noticed(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    SIDs(some_codes(), SIZES, np.arange(20)).save(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(DataError, match=said):
        SIDs.load(tmp_path)
