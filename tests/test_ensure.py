"""ensure: SIDs are made where they are missing or stale, left alone where not, and never made up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sidbench
from sidbench import provenance, registry
from sidbench.catalogue import making
from sidbench.catalogue.ensure import Ensured, ensure
from sidbench.errors import SidbenchError, StorageError, UsageError
from sidbench.format import Export
from sidbench.formats import reading
from sidbench.sids import SIDs

X = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
SMALL = {"levels": 4, "codebook_size": 16, "iters": 2}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "semantic_id_dict.json"


def make(place: Path, **changes: Any) -> Ensured:
    return ensure(place, **{"embeddings": place.with_name("x.npy"), "params": SMALL, **changes})


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_taac_dictionary_holds_the_tokenizers_codes(place: Path) -> None:
    done = make(place)
    assert (done.written, done.items) == (True, 400)
    held = json.loads(place.read_text())
    codes = registry.find("tokenizer", "rq-kmeans")(**SMALL).fit_encode(X)
    assert held == {str(i): row for i, row in enumerate(codes.tolist())}
    assert sorted(p.name for p in place.parent.iterdir()) == [
        "semantic_id_dict.json",
        "semantic_id_dict.json.manifest.json",
        "x.npy",
    ]
    assert sidbench.ensure is ensure


def test_what_is_fresh_is_left_alone_at_once(place: Path) -> None:
    make(place)
    before, at = state(place.parent), place.stat().st_mtime_ns
    start = time.perf_counter()
    assert not make(place).written
    assert time.perf_counter() - start < 1
    assert (state(place.parent), place.stat().st_mtime_ns) == (before, at)


@pytest.mark.parametrize(
    "change",
    ["rows", "method", "params", "seed", "sample", "resolver", "gone", "torn", "redo"],
)
def test_what_is_stale_is_made_again(place: Path, change: str) -> None:
    make(place)
    before = place.read_bytes()
    how: dict[str, Any] = {}
    if change == "rows":
        np.save(place.with_name("x.npy"), X[::-1])
    elif change == "method":
        how = {"method": "lsh", "params": {"levels": 4, "codebook_size": 16}}
    elif change == "params":
        how = {"params": {**SMALL, "iters": 1}}
    elif change == "seed":
        how = {"params": {**SMALL, "seed": 1}}
    elif change == "sample":
        how = {"sample": 100}
    elif change == "resolver":
        how = {"resolver": "suffix"}
    elif change == "gone":
        place.unlink()
    elif change == "torn":
        place.write_text("{")
    else:
        how = {"redo": True}
    done = make(place, **how)
    assert done.written
    assert (place.read_bytes() == before) == (change in ("gone", "torn", "redo"))
    assert len(json.loads(place.read_text())) == 400
    assert not make(place, **{k: v for k, v in how.items() if k != "redo"}).written


@pytest.mark.parametrize("manifest", ["", "{", '{"kind": "ensure", "stamps": {}}', "an export's"])
def test_a_file_that_ensure_did_not_make_is_nobodys_to_lose(place: Path, manifest: str) -> None:
    place.write_text('{"0": [1, 2, 3, 4], "note": "by hand"}')
    beside = place.with_name(f"{place.name}.manifest.json")
    if manifest == "an export's":
        sids = SIDs(np.zeros((2, 4), np.int32), (1,) * 4, np.arange(2))
        reading.write(reading.find("taac", "write")(), Export(sids, 4), place, redo=True)
    elif manifest:
        beside.write_text(manifest)
    before = state(place.parent)
    with pytest.raises(UsageError, match=r"nothing beside it says that ensure made it.*--redo"):
        make(place)
    assert state(place.parent) == before
    assert make(place, redo=True).written
    assert not make(place).written


def test_what_was_changed_by_hand_is_kept_beside_what_is_made_again(place: Path) -> None:
    make(place)
    whole = place.read_bytes()
    for n in ("", "1"):
        place.write_text(f"by hand {n}")
        done = make(place)
        assert f"kept as {place.name}.changed{n}" in done.why
        assert place.read_bytes() == whole
        assert place.with_name(f"{place.name}.changed{n}").read_text() == f"by hand {n}"
    assert not make(place).written


def test_a_process_that_ends_before_its_manifest_leaves_a_file_of_ours(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "modules_behind", killed)
        with pytest.raises(Killed):
            make(place)
    assert place.exists()
    assert not place.with_name(f"{place.name}.manifest.json").exists()
    assert make(place).written
    assert sorted(p.name for p in place.parent.iterdir()) == [
        "semantic_id_dict.json",
        "semantic_id_dict.json.manifest.json",
        "x.npy",
    ]


def test_a_file_among_the_parameters_counts_by_what_it_holds(place: Path) -> None:
    books = place.with_name("books.npz")
    held = {f"codebook_{n}": X[16 * n : 16 * (n + 1)] for n in range(4)}
    np.savez(books, **held)  # type: ignore[arg-type]
    how: dict[str, Any] = {
        "method": "rq-kmeans-plus",
        "params": {"levels": 4, "codebook_size": 16, "epochs": 0, "codebooks": str(books)},
    }
    assert make(place, **how).written
    before = place.read_bytes()
    assert not make(place, **how).written
    moved = place.with_name("moved.npz")
    books.rename(moved)
    how["params"] = {**how["params"], "codebooks": str(moved)}
    assert not make(place, **how).written  # the same numbers under another name
    at = moved.stat()
    np.savez(moved, **{k: v[::-1] for k, v in held.items()})  # type: ignore[arg-type]
    os.utime(moved, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert make(place, **how).written
    assert place.read_bytes() != before


@pytest.mark.parametrize("name", ["merged_predictions_tensor.pt", "sids.npy"])
def test_ids_that_a_matrix_cannot_hold_lie_beside_it(place: Path, name: str) -> None:
    out, ids = place.with_name(name), place.with_name("ids.json")
    ids.write_text(json.dumps([f"i{n}" for n in range(400)]))
    make(out, ids=str(ids), resolver="suffix")
    table = reading.read(out, "test")
    assert table.ids == [f"i{n}" for n in range(400)]
    codes = registry.find("tokenizer", "rq-kmeans")(**SMALL).fit_encode(X)
    assert table.codes[:, :4].tolist() == codes.tolist()
    assert not make(out, ids=str(ids), resolver="suffix").written
    out.with_name(f"{name}.ids.parquet").unlink()
    done = make(out, ids=str(ids), resolver="suffix")
    assert "ids.parquet is missing" in done.why


def test_ids_of_somebody_beside_a_matrix_are_kept(place: Path) -> None:
    out, own = place.with_name("x.sids.npy"), place.with_name("x.sids.npy.ids.parquet")
    (place.with_name("ids.json")).write_text(json.dumps([f"i{n}" for n in range(400)]))
    how: dict[str, Any] = {"embeddings": place.with_name("x.npy"), "params": SMALL, "to": "npy"}
    how["ids"] = str(place.with_name("ids.json"))
    own.write_bytes(b"somebody's")
    assert "kept as x.sids.npy.ids.parquet.changed" in ensure(out, **how).why
    assert own.with_name(f"{own.name}.changed").read_bytes() == b"somebody's"
    np.save(place.with_name("x.npy"), X + 1)
    assert "kept" not in ensure(out, **how).why  # its own go


def test_a_folder_is_no_file_of_sids(place: Path) -> None:
    place.mkdir()
    with pytest.raises(UsageError, match="is a folder; name the file"):
        make(place)


def test_a_change_that_keeps_size_and_time_is_seen(place: Path) -> None:
    make(place)
    rows = place.with_name("x.npy")
    at, before = rows.stat(), place.read_bytes()
    np.save(rows, X[::-1])
    os.utime(rows, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert make(place).written
    assert place.read_bytes() != before


@pytest.mark.parametrize("change", ["touched", "copied", "default said"])
def test_what_only_looks_stale_is_looked_at_and_left(place: Path, change: str) -> None:
    make(place)
    at = place.stat().st_mtime_ns
    how: dict[str, Any] = {}
    if change == "touched":
        os.utime(place.with_name("x.npy"), ns=(1, 1))
    elif change == "copied":
        shutil.copy(place.with_name("x.npy"), place.with_name("y.npy"))
        how = {"embeddings": place.with_name("y.npy")}
    else:
        how = {"params": {**SMALL, "seed": 0}}
    assert not make(place, **how).written
    assert place.stat().st_mtime_ns == at
    assert not make(place, **how).written


@pytest.mark.parametrize("odd", ["no input", "nan", "too few", "parameter", "format", "option"])
def test_an_error_leaves_what_was_there(place: Path, odd: str) -> None:
    make(place)
    how: dict[str, Any] = {"params": {**SMALL, "seed": 5}}
    if odd == "no input":
        place.with_name("x.npy").unlink()
    elif odd == "nan":
        bad = X.copy()
        bad[7] = np.nan
        np.save(place.with_name("x.npy"), bad)
    elif odd == "too few":
        how = {"params": {"codebook_size": 1000}}
    elif odd == "parameter":
        how = {"params": {"iterations": 3}}
    elif odd == "format":
        how = {"to": "nothing"}
    else:
        how = {"shape": 3}
    before = place.read_bytes(), place.with_name(f"{place.name}.manifest.json").read_bytes()
    with pytest.raises(SidbenchError):
        make(place, **how)
    assert (place.read_bytes(), place.with_name(f"{place.name}.manifest.json").read_bytes()) == before


def test_the_format_follows_the_name_or_is_said(place: Path) -> None:
    out = place.with_name("sids.index")
    with pytest.raises(UsageError, match="--to"):
        make(out)
    make(out, to="minionerec")
    assert json.loads(out.read_text())["0"][0].startswith("<a_")
    make(place.with_name("sids.npz"))
    with np.load(place.with_name("sids.npz")) as held:
        assert held["codes"].shape == (400, 4)


def test_nothing_heavy_is_loaded_where_nothing_changed(place: Path) -> None:
    make(place)
    program = (
        "import sys, sidbench; "
        f"x = {str(place.with_name('x.npy'))!r}; "
        f"done = sidbench.ensure({str(place)!r}, embeddings=x, params={SMALL!r}); "
        "print(done.written, [m for m in ('torch', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split(maxsplit=1) == ["False", "[]\n"]


def test_the_vectors_must_be_there_even_where_the_sids_are(place: Path) -> None:
    make(place)
    place.with_name("x.npy").unlink()
    with pytest.raises(UsageError, match="there is no file"):
        make(place)


def test_what_another_process_has_just_made_is_fresh(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = making.Making.identity

    def slow(self: making.Making) -> dict[str, Any]:
        found = whole(self)
        monkeypatch.setattr(making.Making, "identity", whole)
        assert make(place).written  # while this one reads the rows
        return found

    monkeypatch.setattr(making.Making, "identity", slow)
    assert not make(place).written
    assert not list(place.parent.glob("*changed*"))


def test_embeddings_and_ids_are_never_written_over(place: Path) -> None:
    rows, ids = place.with_name("x.npy"), place.with_name("ids.json")
    ids.write_text(json.dumps([f"i{n}" for n in range(400)]))
    before = state(place.parent)
    asked: list[tuple[Path, dict[str, Any]]] = [(rows, {}), (ids, {"ids": str(ids)})]
    for out, how in asked:
        with pytest.raises(UsageError, match="where the input does"):
            ensure(out, embeddings=rows, params=SMALL, redo=True, **how)
    assert state(place.parent) == before


def test_a_full_disk_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reading.find("taac", "write"), "write", full)
    with pytest.raises(StorageError, match="No space left"):
        make(place)
    assert not place.exists()
