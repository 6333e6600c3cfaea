"""precomputed: every form of file gives the same SIDs, joined by id; what does not fit says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidbench import registry
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UnsupportedError, UsageError
from sidbench.plugin import required
from sidbench.sids import SIDs

Precomputed = registry.find("tokenizer", "precomputed")
CODES = np.array([[0, 3, 2], [1, 0, 0], [0, 3, 1], [4, 4, 0]], dtype=np.int32)


def tokens(codes: Any, base: int = 0) -> list[list[str]]:
    return [[f"<{'abcdef'[i]}_{code + base}>" for i, code in enumerate(row)] for row in codes]


def write(folder: Path, form: str) -> Path:
    """The same SIDs of the items 0 to 3, in every form there is."""
    path = folder / f"sids.{'json' if form.startswith('json') else form.partition(' ')[0]}"
    if form == "npy":
        np.save(path, CODES.astype(np.int16))
    elif form.startswith("json"):
        held: Any = tokens(CODES, 1) if "base 1" in form else tokens(CODES)
        held = CODES.tolist() if "integers" in form else held
        order = [2, 0, 3, 1]
        path.write_text(json.dumps(held if "list" in form else {str(i): held[i] for i in order}))
    else:
        sid = pa.array(tokens(CODES) if "tokens" in form else CODES.tolist())
        key = "item" if "item" in form else "item_id"
        ids = pa.array(["0", "1", "2", "3"] if "text" in form else [0, 1, 2, 3])
        pq.write_table(pa.table({key: ids, "sid": sid, "title": ["a"] * 4}), path)
    return path


def told(form: str) -> dict[str, Any]:
    """What a small file cannot say by itself: which way round it stands, what it counts from."""
    matrix = {"orientation": "items"} if form in ("npy", "json list of integers") else {}
    return {**matrix, **({"base": 1} if "base 1" in form else {})}


FORMS = [
    "npy", "json tokens", "json tokens base 1", "json integers", "json list of integers",
    "json list of tokens", "parquet", "parquet text ids", "parquet item", "parquet tokens",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.str_, object])
def test_every_form_gives_the_same_sids_whatever_the_order_and_type_of_ids(
    tmp_path: Path, form: str, kind: Any
) -> None:
    t = Precomputed(path=write(tmp_path, form), **told(form))
    ids = np.array([3, 1, 0, 2])
    ids = np.array([str(i) for i in ids], dtype=kind) if kind in (np.str_, object) else ids.astype(kind)
    np.testing.assert_array_equal(t.codes_of(ids), CODES[[3, 1, 0, 2]])
    assert t.sizes == (5, 5, 3)
    assert t.facts()["base"] == int("base 1" in form)
    assert t.facts()["items_not_in_dataset"] == 0


def test_what_this_suite_wrote_is_read_again(tmp_path: Path) -> None:
    SIDs(CODES, (5, 5, 3), np.array(["b", "a", "d", "c"])).save(tmp_path)
    t = Precomputed(path=tmp_path / "sids.parquet", codebook_size=8)
    np.testing.assert_array_equal(t.codes_of(np.array(["a", "b"])), CODES[[1, 0]])
    assert t.sizes == (8, 8, 8)
    assert t.facts()["items_not_in_dataset"] == 2


def test_a_suffix_that_only_some_items_have_makes_sids_of_different_lengths(tmp_path: Path) -> None:
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps({"a": ["<a_1>", "<b_2>"], "b": ["<a_3>", "<b_3>", "<c_1>"]}))
    t = Precomputed(path=path, base=1)
    np.testing.assert_array_equal(t.codes_of(np.array(["b", "a"])), [[2, 2, 0], [0, 1, -1]])
    assert t.facts()["shortest_sid"] == 2
    sids = SIDs(t.codes_of(np.array(["a", "b"])), t.sizes, np.array(["a", "b"]))
    with pytest.raises(DataError, match="use the resolver keep"):
        registry.find("resolver", "suffix")().resolve(sids, None, None)
    kept = registry.find("resolver", "keep")().resolve(sids, None, None)
    kept.save(tmp_path)
    again = Precomputed(path=tmp_path / "sids.parquet")
    np.testing.assert_array_equal(again.codes_of(np.array(["a", "b"])), kept.codes)


def test_a_base_that_the_file_does_not_prove_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    items = {"path": path, "orientation": "items"}
    path.write_text("[[1, 2], [2, 1], [1, 1]]")
    with pytest.raises(
        DataError, match=r"has no code 0.*--set precomputed\.base=1 if its codes are 1 to K"
    ) as e:
        Precomputed(**items).codes_of(np.arange(3))
    assert "x.json" in str(e.value)
    assert Precomputed(**items, base=1).codes_of(np.arange(3)).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert Precomputed(**items, base=0).codes_of(np.arange(3)).tolist() == [[1, 2], [2, 1], [1, 1]]
    path.write_text("[[0, 2], [2, 1], [1, 1]]")
    assert Precomputed(**items).codes_of(np.arange(3)).tolist() == [[0, 2], [2, 1], [1, 1]]
    with pytest.raises(
        DataError, match=r"row 0 holds the code 0 at level 0, so its codes do not count from 1"
    ):
        Precomputed(**items, base=1).codes_of(np.arange(3))


def test_a_zero_in_the_last_column_alone_proves_nothing_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [1, 4, 0], "b": [1, 4, 1], "c": [2, 2, 0]}))
    with pytest.raises(DataError, match="in its last column alone, which may be a suffix"):
        Precomputed(path=path).codes_of(np.array(["a"]))
    assert Precomputed(path=path, base=0).codes_of(np.array(["a"])).tolist() == [[1, 4, 0]]
    assert Precomputed(path=path, base=1, suffix=0).codes_of(np.array(["a"])).tolist() == [[0, 3, 0]]


@pytest.mark.parametrize("items", [4, 5])
def test_a_matrix_that_could_stand_either_way_is_refused(tmp_path: Path, items: int) -> None:
    """The trap of a list for each level and a list for each item, which the numbers alone do not show."""
    codes = np.arange(4 * items).reshape(items, 4) % 7
    ids = np.arange(items)
    for name, held in (("npy", codes), ("json", codes.tolist())):
        path = tmp_path / f"x.{name}"
        np.save(path, held) if name == "npy" else path.write_text(json.dumps(held))
        with pytest.raises(
            DataError, match=r"does not say whether a row is an item or a level.*orientation=level"
        ):
            Precomputed(path=path).codes_of(ids)
        assert Precomputed(path=path, orientation="items").codes_of(ids).tolist() == codes.tolist()
        turned = np.ascontiguousarray(codes.T)
        np.save(path, turned) if name == "npy" else path.write_text(json.dumps(turned.tolist()))
        assert Precomputed(path=path, orientation="levels").codes_of(ids).tolist() == codes.tolist()


def test_a_matrix_that_is_turned_round_is_not_read_as_if_it_were_not(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 9, (300, 4))
    np.save(tmp_path / "x.npy", codes.T)
    with pytest.raises(
        DataError, match=r"4 x 300; npy has a row for each item, so this one is turned or torn"
    ):
        Precomputed(path=tmp_path / "x.npy").codes_of(np.arange(300))
    with pytest.raises(DataError, match="an item would have 300 codes"):
        Precomputed(path=tmp_path / "x.npy", orientation="items").codes_of(np.arange(300))
    turned = Precomputed(path=tmp_path / "x.npy", orientation="levels")
    assert turned.codes_of(np.arange(300)).tolist() == codes.tolist()


def test_saved_it_needs_the_file_no_more(tmp_path: Path) -> None:
    path = write(tmp_path, "json tokens base 1")
    t = Precomputed(path=path, base=1)
    codes = t.codes_of(np.arange(4))
    t.save(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "tokenizer.json").read_text()
    path.unlink()
    loaded = registry.load_tokenizer(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.codes_of(np.arange(4)), codes)
    assert (loaded.sizes, loaded.facts()) == (t.sizes, t.facts())


def test_a_constructor_reads_nothing_and_a_path_is_needed(tmp_path: Path) -> None:
    assert required(Precomputed) == ["path"]
    assert not Precomputed(path=tmp_path / "nowhere.npy").state()
    with pytest.raises(UsageError, match=r"there is no file .*nowhere\.npy"):
        Precomputed(path=tmp_path / "nowhere.npy").codes_of(np.arange(2))


def test_there_is_no_encoder(tmp_path: Path) -> None:
    t = Precomputed(path=write(tmp_path, "npy"), orientation="items")
    x = np.zeros((9, 4), dtype=np.float32)
    uses: list[Callable[[Any], Any]] = [t.fit, t.encode, t.fit_encode, lambda x: t.costs(x, CODES)]
    for use in uses:
        with pytest.raises(UnsupportedError, match=r"no encoder|no costs"):
            use(x)


def test_items_without_a_sid_are_counted_and_named(tmp_path: Path) -> None:
    t = Precomputed(path=write(tmp_path, "json tokens"))
    with pytest.raises(
        DataError, match=r"2 of 3 items .* such as B00X, B00Y; its ids are such as 2, 0, 3, 1\. "
    ):
        t.codes_of(np.array(["1", "B00X", "B00Y"]))
    t = Precomputed(path=write(tmp_path, "npy"), orientation="items")
    with pytest.raises(DataError, match=r"1 of 2 items .* such as 4; its rows are the items 0, 1, 2, 3"):
        t.codes_of(np.array([3, 4]))


BAD: dict[str, tuple[Any, str]] = {
    "cut.json": ('{"0": ["<a_1>"', "cannot be read as JSON"),
    "number.json": ("3", "holds int"),
    "nan.json": ('{"0": [1, NaN]}', r"row 0 .* has nan, which is float"),
    "deep.json": ("[" * 100_000, "nested without end"),
    "strings.json": ('{"0": "<a_1><b_2>"}', r"row 0 \(item '0'\) is '<a_1><b_2>', not a list of codes"),
    "floats.json": ('{"x": [1.5, 2.0]}', r"row 0 \(item 'x'\) has 1.5, which is float, not integers"),
    "mixed.json": ('{"0": [1, 2], "1": [1, "<b_2>"]}', r"row 1 \(item '1'\).*do not mix"),
    "flags.json": ('{"0": [0, 1], "1": [true, 2]}', r"row 1 \(item '1'\) has True, which is bool"),
    "null.json": ('{"0": null}', "row 0 .* is None, not a list of codes"),
    "nulls.json": ('{"0": [1, null]}', "has a code that is null"),
    "empty.json": ("{}", "holds no SIDs"),
    "none.json": ('{"0": [1], "1": []}', r"row 1 \(item '1'\) has no codes"),
    "words.json": ('{"0": ["red", "blue"]}', r"row 0 \(item '0'\) has 'red', which is no token"),
    "turned.json": ('{"0": ["<a_1>", "<b_1>"], "1": ["<b_1>", "<a_1>"]}', "row 1 .*<a_ and <b_"),
    "twice.json": ('{"7": [1, 2], "7": [2, 1]}', "several SIDs for the same item: 7, the second in row 1"),
    "negative.json": ('{"0": [1, 1], "8": [1, -2]}', r"row 1 \(item '8'\) has the code -2 at level 1"),
    "start.json": ('{"0": [-1, 2]}', "code -1 at level 0"),
    "hole.json": ('{"0": [1, -1, 2]}', r"\[1, -1, 2\]: a code follows -1"),
    "large.json": ('{"0": [0, 65536]}', "beyond the most that a level can have = 65536"),
    "huge.json": (
        '{"0": [0, 1], "1": [0, 99999999999999999999]}',
        r"row 1 \(item '1'\) has the code a number of",
    ),
    "long.json": (json.dumps({"0": list(range(20))}), "has 20 codes, and 16 is the most"),
    "list.txt": ("1 2", "of no known form"),
    "not.npy": ("1 2", "cannot be read as a .npy file"),
    "floats.npy": (np.zeros((20, 2)), "float64, not integers"),
    "nan.npy": (np.array([[1.0, 2.0], [1.0, np.nan]] * 9), "row 1, column 1 has nan"),
    "flat.npy": (np.zeros(4, dtype=np.int64), "shape"),
    "objects.npy": (np.array([[{}]]), "holds Python objects, which may be code"),
    "not.parquet": ("1 2", "cannot be read"),
    "columns.parquet": (pa.table({"item": [1], "code": [[1]]}), "its columns are item, code"),
    "nullid.parquet": (
        pa.table({"item": [1, None], "sid": [[1], [2]]}),
        "1 of its rows have no item, the first",
    ),
    "nullsid.parquet": (pa.table({"item": [1, 2], "sid": [[1], None]}), r"row 1 \(item '2'\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_do_not_fit_say_so(tmp_path: Path, name: str) -> None:
    held, message = BAD[name]
    path = tmp_path / name
    if isinstance(held, str):
        path.write_text(held)
    elif isinstance(held, np.ndarray):
        np.save(path, held, allow_pickle=True)
    else:
        pq.write_table(held, path)
    with pytest.raises(SidbenchError, match=message) as e:
        Precomputed(path=path).codes_of(np.arange(1))
    assert path.name in str(e.value)


def test_sizes_and_levels_that_the_file_does_not_have(tmp_path: Path) -> None:
    path = write(tmp_path, "json tokens")
    assert Precomputed(path=path, levels=3, codebook_size=(5, 5, 4)).sizes == (5, 5, 4)
    with pytest.raises(DataError, match=r"up to 3 codes, precomputed\.levels says 4"):
        _ = Precomputed(path=path, levels=4).sizes
    with pytest.raises(DataError, match=r"level 0 holds code 4 .* beyond codebook_size = 4"):
        _ = Precomputed(path=path, codebook_size=4).sizes
    with pytest.raises(UsageError, match="2 sizes for levels = 3"):
        Precomputed(path=path, levels=3, codebook_size=(4, 4))


def test_a_run_scores_a_file(tmp_path: Path, sidbench_cli: Callable[..., Any]) -> None:
    """Another system's SIDs, end to end; of another length for some, and none of them unknown."""
    corpus: Corpus = registry.load_dataset("synthetic:tiny")
    ids = [str(i) for i in corpus.item_ids]
    held = {i: [n % 7, n // 7] + ([1] if n % 3 else []) for n, i in enumerate(sorted(ids))}
    path = tmp_path / "other.index.json"
    path.write_text(json.dumps({i: tokens([sid], 1)[0] for i, sid in held.items()}))
    options = f"--dataset synthetic:tiny --methods precomputed --resolvers keep --results {tmp_path / 'r'}"
    line = ["run", *options.split(), "--set", f"precomputed.path={path}", "--set", "decoder.steps=2"]
    line += ["--set", "precomputed.base=1"]
    said = sidbench_cli(*line)
    assert said.code == 0, said.err
    (file,) = (tmp_path / "r" / "records").rglob("*.json")
    record = json.loads(file.read_text())
    assert record["metrics"]["collision_items"] == 0
    assert record["key"]["params"]["path"].startswith("other.index.json#")
    assert str(tmp_path) not in file.read_text().replace(record["env"]["command"], "")
    assert record["facts"]["sizes"][0] == 7
