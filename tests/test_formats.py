"""Formats: what is written is read back; what is damaged is refused with file, row and remedy."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.format import Export, Format, How
from sidbench.formats import manifest, reading
from sidbench.sids import SIDs

N, SIZES = 40, (64, 64, 64, 50)
CODES = np.random.default_rng(0).integers(0, 50, (N, 4)).astype(np.int32)
CODES[0, 0] = 0
KNOWN: dict[str, Any] = reading.known()
BOTH = sorted(
    n for n, c in KNOWN.items() if c.supports("read") and c.supports("write") and not c.needs_corpus
)
IDS: dict[str, Any] = {
    "numbers": np.random.default_rng(1).permutation(N),
    "text": np.array([f'B{i:03d}é"\\' for i in range(N)]),
    "sparse": np.arange(N) * 7 + 5,
}


def export(ids: str = "numbers", *, own: int = 3, short: bool = False, items: Any = None) -> Export:
    codes = CODES.copy()
    if short:
        codes[1::2, -1] = -1
    return Export(SIDs(codes, SIZES, IDS[ids] if items is None else items), own)


def by_id(ids: list[str] | None, codes: Any, first: int = 0) -> dict[str, list[int]]:
    names = [str(i + first) for i in range(len(codes))] if ids is None else ids
    return dict(zip(names, codes.tolist(), strict=True))


def place(folder: Path, form: type[Format]) -> Path:
    return folder / f"x.{form.file}".replace("x.NAME", "x")


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", BOTH)
def test_what_is_written_is_read_back_with_its_manifest(tmp_path: Path, name: str, ids: str) -> None:
    form = KNOWN[name]
    for base in form.bases:
        made = form(base=base) if len(form.bases) > 1 and "base" in form.__annotations__ else form()
        path = place(tmp_path, form)
        sent = export(ids)
        files = reading.write(made, sent, path)
        assert all(f.is_file() for f in files)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f.name for f in files)
        table = reading.read(path, "test")
        assert by_id(table.ids, table.codes) == by_id(sent.names, CODES)
        assert (table.base, table.suffix, table.own, table.sizes) == (made.first, made.first, 3, SIZES)
        stated = json.loads(manifest.beside(path).read_text())
        assert stated["format"] == name
        assert (stated["base"], stated["suffix"]) == (made.first, {"base": made.first, "column": 3})
        assert (stated["orientation"], stated["items"], stated["levels"]) == (form.rows, N, 4)
        # What came in goes out again as it was, byte by byte.
        back = Export(SIDs(table.codes, SIZES, sent.sids.item_ids), 3)
        if form.by_row and table.ids is None:
            back = Export(SIDs(table.codes, SIZES, np.arange(N)), 3)
        again = tmp_path / "again" / path.name
        reading.write(made, back, again)
        assert again.read_bytes() == path.read_bytes()
        for file in files:
            file.unlink()
        for file in again.parent.iterdir():
            file.unlink()
        again.parent.rmdir()


@pytest.mark.parametrize("name", BOTH)
def test_a_suffix_of_some_items_alone(tmp_path: Path, name: str) -> None:
    form = KNOWN[name]
    path = place(tmp_path, form)
    if not form.lengths_differ:
        with pytest.raises(UsageError, match=r"20 items have shorter ones.*--suffix drop"):
            reading.write(form(), export(short=True), path)
        assert not list(tmp_path.iterdir())
        reading.write(form(suffix="drop"), export(short=True), path)
        table = reading.read(path, "test")
        assert by_id(table.ids, table.codes).keys() == set(export().names) or name == "liger"
        assert table.codes.shape[1] == 3
        return
    sent = export(short=True)
    reading.write(form(), sent, path)
    table = reading.read(path, "test")
    assert by_id(table.ids, table.codes) == by_id(sent.names, sent.sids.codes)
    manifest.beside(path).unlink()
    if name != "npy":
        alone = reading.read(path, "test", How(name))
        assert (alone.suffix, alone.own) == (0, 3)
        assert by_id(alone.ids, alone.codes) == by_id(sent.names, sent.sids.codes)


def spelled(row: Any, spell: Callable[[int, Any], Any]) -> Any:
    return [spell(level, code) for level, code in enumerate(row)] if isinstance(row, list) else row


def token(before: str = "<", after: str = ">") -> Callable[[int, Any], Any]:
    return lambda level, code: f"{before}{'abcdefgh'[min(level, 7)]}_{code}{after}"


def put(name: str, path: Path, ids: list[Any], sids: list[Any]) -> None:
    """The same files written by the plainest means there are, whatever stands in them."""
    tokens = [spelled(row, token()) for row in sids]
    if name in ("json", "tiger", "taac", "minionerec", "lc-rec", "letter"):
        rows = tokens if name in ("minionerec", "lc-rec", "letter") else sids
        inside = ", ".join(f"{json.dumps(str(i))}: {json.dumps(r)}" for i, r in zip(ids, rows, strict=True))
        path.write_text("{" + inside + "}")
    elif name == "hf-tokens":
        added = json.dumps(sorted({t for row in tokens if isinstance(row, list) for t in row}))
        inside = ", ".join(f"{json.dumps(str(i))}: {json.dumps(r)}" for i, r in zip(ids, tokens, strict=True))
        path.write_text(f'{{"added_tokens": {added}, "items": {{{inside}}}}}')
    elif name in ("parquet", "openonerec"):
        key, column = ("item_id", "sid") if name == "parquet" else ("pid", "codes")
        pq.write_table(pa.table({key: ids, column: pa.array(sids)}), path)
    elif name == "openonerec-text":
        flat = [
            f"<|sid_begin|>{''.join(spelled(row, token('<s_')))}<|sid_end|>" if isinstance(row, list) else row
            for row in sids
        ]
        pq.write_table(pa.table({"pid": ids, "sid": flat}), path)
    elif name == "npz":
        np.savez(path, codes=np.array(sids), item_id=np.array(ids))
    elif name == "npy":
        np.save(path, np.array(sids))
    elif name == "grid":
        torch.save(torch.tensor(sids).T.contiguous(), path)
    elif name == "grid-pickle":
        rows = [{"item_id": i, "cluster_ids": s} for i, s in zip(ids, sids, strict=True)]
        path.write_bytes(pickle.dumps(rows))
    elif name == "liger":
        path.write_bytes(pickle.dumps(np.array(sids)))
    else:
        lines = [
            f"{i}\t{' '.join(spelled(r, token('', ''))) if isinstance(r, list) else r}"
            for i, r in zip(ids, sids, strict=True)
        ]
        path.write_text("\n".join(["item_id:token\tsid:token_seq", *lines]) + "\n")


@pytest.mark.parametrize("name", BOTH)
def test_files_made_by_hand_are_read_without_a_manifest(tmp_path: Path, name: str) -> None:
    form = KNOWN[name]
    path = place(tmp_path, form)
    put(name, path, list(range(N)), CODES.tolist())
    table = reading.read(path, "test", How(name))
    assert by_id(table.ids, table.codes) == by_id(None, CODES, form.first_id)
    assert (table.base, table.suffix) == (0, 0 if name == "grid" else None)
    by_ending = reading.by_ending(path)
    assert by_ending is None or name == "liger" or by_ending.name in (name, "json", "parquet")


@pytest.mark.parametrize("name", BOTH)
def test_a_file_without_code_0_is_refused_with_what_to_say(tmp_path: Path, name: str) -> None:
    form = KNOWN[name]
    path = place(tmp_path, form)
    put(name, path, list(range(N)), (CODES + 1).tolist())
    with pytest.raises(DataError, match=r"has no code 0.*--base 0 if") as e:
        reading.read(path, "test", How(name))
    assert path.name in str(e.value)
    assert reading.read(path, "test", How(name, base=0)).codes.tolist() == (CODES + 1).tolist()
    if 1 in form.bases:
        assert reading.read(path, "test", How(name, base=1)).codes.tolist() == CODES.tolist()
    else:
        with pytest.raises(DataError, match=f"{name} counts from 0 always"):
            reading.read(path, "test", How(name, base=1))


def test_a_suffix_of_some_items_proves_nothing_of_the_levels(tmp_path: Path) -> None:
    """Levels from 1 and a suffix from 0: the only 0 stands in the suffix."""
    path = tmp_path / "sids.json"
    path.write_text('{"0": [1, 2], "1": [1, 1, 0], "2": [1, 1, 1]}')
    with pytest.raises(DataError, match=r"0 in its last column alone.*--base 1.*--suffix 0"):
        reading.read(path, "test")
    table = reading.read(path, "test", How(base=1, suffix=0))
    assert table.codes.tolist() == [[0, 1, -1], [0, 0, 0], [0, 0, 1]]


def test_json_with_a_list_for_each_level_names_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "sids.json"
    path.write_text(json.dumps(CODES.T.tolist()))
    with pytest.raises(DataError, match="--orientation levels if each row is a level"):
        reading.read(path, "test")
    assert (reading.read(path, "test", How(orientation="levels")).codes == CODES).all()


@pytest.mark.parametrize("odd", ["\ud800", "a\0"])
def test_ids_that_no_file_can_hold(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "sids.json"
    path.write_text(json.dumps({"b": [0, 1], odd: [1, 0]}))
    with pytest.raises(DataError, match=r"row 1 has the id .* repair"):
        reading.read(path, "test")


def test_unsigned_codes_do_not_wrap_round(tmp_path: Path) -> None:
    codes = CODES.astype(np.uint64)
    codes[3, -1] = 2**64 - 1  # -1 as a signed number
    np.save(tmp_path / "sids.npy", codes)
    with pytest.raises(DataError, match="row 3 has the code 9"):
        reading.read(tmp_path / "sids.npy", "test")


REMEDIES = ("repair", "write", "export", "give", "remove", "get the file", "expected", "save it", "say ")


def refused(name: str, path: Path, *said: str) -> str:
    """The error of a damaged file: it names the file and what to do."""
    with pytest.raises(SidbenchError) as e:
        reading.read(path, "test", How(name))
    text = str(e.value)
    assert path.name in text, text
    assert any(r in text for r in REMEDIES), text
    for part in said:
        assert part in text, text
    return text


def bad_rows(kind: str) -> list[Any]:
    """The codes with row 7 damaged."""
    rows: list[Any] = CODES.tolist()
    rows[7] = {
        "negative": [1, -5, 2, 3],
        "huge": [1, 70_000, 2, 3],
        "vast": [1, 2**40, 2, 3],
        "nan": [1.0, float("nan"), 2.0, 3.0],
        "word": "word",
        "null": None,
        "none": [],
        "long": list(range(20)),
    }[kind]
    return rows


MATRIX = ("npz", "npy", "grid", "liger")


def ways(name: str) -> dict[str, tuple[Callable[[Path], object], str]]:
    """Ten ways and more to damage such a file, and what an error must say of the place."""
    whole, matrix = list(range(N)), name in MATRIX

    def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
        def damage(path: Path) -> None:
            put(name, path, whole, CODES.tolist())
            path.write_bytes(change(path.read_bytes()))

        return damage

    def stated(rows: int = N, **says: Any) -> Callable[[Path], object]:
        def damage(path: Path) -> None:
            put(name, path, whole[:rows], CODES[:rows].tolist())
            said = manifest.text(format=name, base=0, **says) if says else "{"
            manifest.beside(path).write_text(said)

        return damage

    def with_ids(ids: list[Any]) -> Callable[[Path], object]:
        return lambda path: put(name, path, ids, CODES.tolist())

    def with_row(kind: str) -> Callable[[Path], object]:
        return lambda path: put(name, path, whole, bad_rows(kind))

    half = (lambda b: b[: b.rindex(b"\t") + 1]) if name == "recbole" else (lambda b: b[: len(b) // 2 + 1])
    found = {
        "cut in the middle": (changed(half), ""),
        "empty": (changed(lambda b: b""), ""),
        "garbage": (changed(lambda b: b"\x00\x01garbage\xff" * 9), ""),
        "another encoding": (changed(lambda b: b"\xff\xfe{"), ""),
        "a folder": (Path.mkdir, ""),
        "of another manifest": (stated(sha256="0" * 64), "is not the file that"),
        "beside a torn manifest": (stated(), "remove the manifest"),
        "an item lost": (stated(N - 1, items=N), "39 items where 40 are stated beside it: row 39"),
    }
    for kind in ("negative", "huge", "vast", "nan"):
        found[kind] = (with_row(kind), "column 7" if (name, kind) == ("grid", "nan") else "row 7")
    for kind in () if matrix else ("word", "none", "long"):
        odd = "null" if name in ("parquet", "openonerec") and kind == "word" else kind
        found[kind] = (with_row(odd), "row 7")
    if not KNOWN[name].by_row:
        text = list(map(str, whole))
        twice = "several SIDs for the same item: 3, the second in row 7"
        found["an item twice"] = (with_ids([3 if i == 7 else i for i in whole]), twice)
        found["an item without a name"] = (with_ids([*text[:7], " ", *text[8:]]), "row 7 has the id ' '")
    arrays: dict[str, Any] = {
        "flat": CODES[0], "in a box": CODES[None], "flags": CODES.astype(bool), "fractions": CODES + 0.5,
        "no columns": CODES[:, :0],
    }  # fmt: skip
    for kind, held in arrays.items() if matrix else ():
        found[kind] = (lambda path, held=held: put_array(name, path, held), "")  # type: ignore[misc]
    return found


def put_array(name: str, path: Path, held: Any) -> None:
    if name == "grid":
        torch.save(torch.from_numpy(held.copy()), path)
    elif name == "npz":
        np.savez(path, codes=held)
    elif name == "npy":
        np.save(path, held)
    else:
        path.write_bytes(pickle.dumps(held))


@pytest.mark.parametrize("name", BOTH)
def test_a_file_of_each_kind_damaged_in_ten_ways(tmp_path: Path, name: str) -> None:
    """Every error names the file, the row where one is damaged, and what to do."""
    assert len(ways(name)) >= 10
    for number, (damage, said) in enumerate(ways(name).values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        damage(place(folder, KNOWN[name]))
        refused(name, place(folder, KNOWN[name]), said)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in BOTH:
        with pytest.raises(UsageError, match="there is no file"):
            reading.read(tmp_path / "x", "test", How(name))


@pytest.mark.parametrize("name", ["json", "lc-rec", "taac", "hf-tokens"])
def test_json_that_is_no_index(tmp_path: Path, name: str) -> None:
    path = place(tmp_path, KNOWN[name])
    for text in (
        "3",
        '"text"',
        "[" * 99_999,
        '{"0": {"a": 1}}',
        '{"0": [[1], [2]]}',
        '{"0": null}',
        "{}",
        "[]",
    ):
        path.write_text(text)
        refused(name, path)


@pytest.mark.parametrize("name", ["minionerec", "tiger"])
def test_one_spelling_is_not_taken_for_the_other(tmp_path: Path, name: str) -> None:
    other = {"minionerec": "tiger", "tiger": "minionerec"}[name]
    path = tmp_path / "x.index.json"
    put(other, path, list(range(N)), CODES.tolist())
    refused(name, path, "row 0 holds", "Read it as json")


def test_recbole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    for text, said in (
        ("item_id:token\ttitle:token\n1\ta\n", "its first line is"),
        ("item_id:token\tsid:token_seq\n1\ta_0\n2\n", "row 1 (line 3) has 1 columns"),
        ("item_id:token\tsid:token_seq\n1\ta_0 b_1\n2\tb_1 a_0\n", "row 1"),
        ("item_id:token\tsid:token_seq\n", "holds no SIDs"),
    ):
        path.write_text(text)
        refused("recbole", path, said)
    odd = export(items=np.array([f"a\t{i}" for i in range(N)]))
    with pytest.raises(UsageError, match="takes no tab"):
        reading.write(KNOWN["recbole"](), odd, path, redo=True)


def test_rows_of_liger_are_items_from_1(tmp_path: Path) -> None:
    path = tmp_path / "ids.pkl"
    liger = KNOWN["liger"]()
    reading.write(liger, export(items=np.random.default_rng(0).permutation(N) + 1), path)
    held = pickle.loads(path.read_bytes())
    order = np.argsort(np.random.default_rng(0).permutation(N))
    np.testing.assert_array_equal(held, CODES[order])
    manifest.beside(path).unlink()
    assert reading.read(path, "test", How("liger")).ids == [str(i) for i in range(1, N + 1)]


def test_grid_has_a_row_for_each_level_and_a_column_for_each_item(tmp_path: Path) -> None:
    path = tmp_path / "merged_predictions_tensor.pt"
    sent = export()
    reading.write(KNOWN["grid"](), sent, path)
    held = torch.load(path, weights_only=True)
    assert (held.dtype, tuple(held.shape)) == (torch.int64, (4, N))
    np.testing.assert_array_equal(held.numpy()[:, sent.sids.item_ids].T, CODES)


def test_a_small_tensor_could_stand_either_way(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.from_numpy(CODES[:9].T.copy()), path)
    refused(
        "grid", path, "4 x 9, which does not say whether a row is an item or a level", "--orientation levels"
    )
    table = reading.read(path, "test", How("grid", orientation="levels"))
    np.testing.assert_array_equal(table.codes, CODES[:9])


def test_a_manifest_of_another_file_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.index.json"
    form = KNOWN["minionerec"]
    reading.write(form(base=1), export(), path)
    assert reading.read(path, "test").base == 1
    path.write_text(path.read_text().replace("<a_", "<a_0", 1))
    with pytest.raises(
        DataError, match=r"is not the file that x\.index\.json\.manifest\.json describes.*export it"
    ):
        reading.read(path, "test")
    for text in ("[]", '{"base": 2}', '{"sizes": [0]}', '{"suffix": 3}', '{"schema": 99}', "{"):
        manifest.beside(path).write_text(text)
        with pytest.raises(DataError, match="manifest"):
            reading.read(path, "test")


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    form = KNOWN["json"]
    reading.write(form(), export(), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def broken(self: Any, export: Any, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(form, "write", broken)
    with pytest.raises(SidbenchError, match="cannot be written"):
        reading.write(form(), export(), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_letters_run_out_where_the_system_has_none(tmp_path: Path) -> None:
    sids = SIDs(np.zeros((20, 6), np.int32), (2,) * 6, np.arange(20))
    with pytest.raises(UsageError, match="letters for 5 codes"):
        reading.write(KNOWN["lc-rec"](), Export(sids, 6), tmp_path / "x.json")
    reading.write(KNOWN["letter"](), Export(sids, 6), tmp_path / "x.json")


def test_added_tokens_are_tokens_of_a_real_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "tokens.json"
    reading.write(KNOWN["hf-tokens"](), export(), path)
    held = json.loads(path.read_text())
    assert len(held["added_tokens"]) == sum(SIZES)
    model = tokenizers.models.WordLevel({"[UNK]": 0, "item": 1}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    assert tokenizer.add_tokens(held["added_tokens"]) == sum(SIZES)
    for sid in held["items"].values():
        assert tokenizer.encode("item " + "".join(sid)).tokens == ["item", *sid]
    used = tmp_path / "used" / "tokens.json"
    reading.write(KNOWN["hf-tokens"](tokens="used"), export(), used)
    there = {t for sid in held["items"].values() for t in sid}
    assert set(json.loads(used.read_text())["added_tokens"]) == there


def test_codebooks_of_a_fitted_tokenizer(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from sidbench import registry

    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    sids = SIDs(CODES, SIZES, np.arange(N))
    for method, width in (("rq-kmeans", 8), ("rq-vae", None)):
        cls = registry.find("tokenizer", method)
        few = {"epochs": 1} if method == "rq-vae" else {}
        fitted = cls(**{**cls.quick, **few, "levels": 2, "codebook_size": 16}).fit(x)
        made = Export(sids, 4, tokenizer=fitted)
        reading.write(KNOWN["codebooks-npz"](), made, tmp_path / "c.npz")
        reading.write(KNOWN["codebooks-safetensors"](), made, tmp_path / "c.safetensors")
        with np.load(tmp_path / "c.npz") as held:
            assert list(held) == ["codebook_0", "codebook_1"]
            assert held["codebook_0"].shape[0] == 16
            assert width in (None, held["codebook_0"].shape[1])
            same = load_file(tmp_path / "c.safetensors")
            for key in held:
                np.testing.assert_array_equal(held[key], same[key])
    cls = registry.find("tokenizer", "lsh")
    made = Export(sids, 4, tokenizer=cls(**cls.quick).fit(x))
    with pytest.raises(UsageError, match="lsh has no codebooks"):
        reading.write(KNOWN["codebooks-npz"](), made, tmp_path / "c.npz")


def test_a_zip_that_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("codes.txt", "1 2")
    refused("npz", path, "no array")
    np.savez(path, other=CODES)
    refused("npz", path, "has the arrays other")
    np.savez(path, codes=CODES, item_id=np.arange(3))
    refused("npz", path, "3 ids for 40 rows")


def test_a_mark_of_byte_order_is_no_damage(tmp_path: Path) -> None:
    for name in ("json", "minionerec", "taac", "hf-tokens", "recbole"):
        path = place(tmp_path, KNOWN[name])
        put(name, path, list(range(N)), CODES.tolist())
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert reading.read(path, "test", How(name)).codes.tolist() == CODES.tolist()


def test_torn_json_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    whole = json.dumps({f"item {i}": row for i, row in enumerate(CODES.tolist())})
    at = whole.index('"item 9"') + 12
    path.write_text(whole[:at])
    refused("json", path, f"char {at}", "after the name 'item 9', where the file ends: it is torn")
    path.write_text(whole[:at] + "?" + whole[at:])
    text = refused("json", path, "line 1 column", "after the name 'item 9'")
    assert "torn" not in text


def test_an_archive_keeps_the_sizes_of_its_levels(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    reading.write(KNOWN["npz"](), export(), path)
    manifest.beside(path).unlink()
    assert reading.read(path, "test").sizes == SIZES
    for sizes, said in (((64, 64), "of 4 levels"), ((9, 9, 9, 9), "it states sizes 9, 9, 9, 9")):
        np.savez(path, codes=CODES, item_id=np.arange(N), sizes=np.array(sizes))
        refused("npz", path, said)


def test_parts_that_a_pickle_shares_do_not_grow_without_end(tmp_path: Path) -> None:
    """A few kilobytes that stand for gigabytes: lists of one list, rows of one row."""
    path = tmp_path / "merged_predictions.pkl"
    deep: Any = [1] * 16
    for _ in range(12):
        deep = [deep] * 16
    for codes in ([1] * 100_000, deep):
        path.write_bytes(pickle.dumps([{"item_id": i, "cluster_ids": codes} for i in range(9_000)]))
        assert path.stat().st_size < 1 << 20
        refused("grid-pickle", path, "row 0")
    path.write_bytes(pickle.dumps([{"item_id": 10**6000, "cluster_ids": [1]}], protocol=4))
    refused("grid-pickle", path, "row 0 has an item_id")


@pytest.mark.parametrize("kind", ["bfloat16", "complex64", "meta", "huge"])
def test_tensors_that_are_no_codes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pt"
    if kind == "meta":
        torch.save(torch.zeros(4, N, dtype=torch.int64, device="meta"), path)
    elif kind == "huge":
        torch.save(torch.full((4, N), 1e300, dtype=torch.float64), path)
    else:
        torch.save(torch.zeros(4, N, dtype=getattr(torch, kind)), path)
    refused("grid", path)


@pytest.mark.parametrize(
    "says", ['{"schema": "x"}', '{"format": []}', '{"items": "many"}', '{"ids": 3}', '{"sizes": 3}', "[1]"]
)
def test_a_manifest_of_odd_values_is_refused(tmp_path: Path, says: str) -> None:
    path = tmp_path / "x.json"
    put("json", path, list(range(N)), CODES.tolist())
    manifest.beside(path).write_text(says)
    refused("json", path, "manifest")
    if says != "[1]":
        SIDs(CODES, SIZES, np.arange(N)).save(tmp_path)
        (tmp_path / "manifest.json").write_text(says.replace("items", "tokenizer_levels"))
        with pytest.raises(DataError, match="remove the manifest"):
            reading.read(tmp_path, "test")


def test_bytes_that_only_look_like_a_file(tmp_path: Path) -> None:
    """What was found by changing bytes at random."""
    path = tmp_path / "x.parquet"
    for column, held in (
        ("item_id", {"item_id": pa.array([b"a", b"\xa9"]).view(pa.string()), "sid": pa.array([[0], [1]])}),
        ("sid", {"item_id": ["a", "b"], "sid": pa.array([b"<a_0>", b"\xa9"]).view(pa.string())}),
    ):
        pq.write_table(pa.table(held), path)
        refused("parquet", path, f"row 1 of {column} cannot be read")
    path = tmp_path / "x.npy"
    np.save(path, CODES)
    path.write_bytes(path.read_bytes().replace(b"), }", b"(, }"))
    refused("npy", path, "cannot be read as a .npy file")
    path = tmp_path / "x.pt"
    torch.save(torch.from_numpy(CODES.T.copy()), path)
    whole = path.read_bytes()
    at = whole.rindex(b"PK\x01\x02")
    path.write_bytes(whole[:at] + b"PX" + whole[at + 2 :])
    refused("grid", path, "cannot be read as a tensor")
