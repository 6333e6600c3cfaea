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
from sidbench import registry
from sidbench.catalogue.ensure import Ensured, ensure
from sidbench.errors import DataError, SidbenchError, StorageError, UsageError
from sidbench.formats import reading

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
    ["rows", "method", "params", "seed", "sample", "resolver", "gone", "torn", "manifest", "hollow", "redo"],
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
    elif change == "manifest":
        place.with_name(f"{place.name}.manifest.json").unlink()
    elif change == "hollow":
        place.with_name(f"{place.name}.manifest.json").write_text('{"kind": "ensure", "stamps": {}}')
    else:
        how = {"redo": True}
    done = make(place, **how)
    assert done.written
    assert (place.read_bytes() == before) == (change in ("gone", "torn", "manifest", "hollow", "redo"))
    assert len(json.loads(place.read_text())) == 400
    assert not make(place, **{k: v for k, v in how.items() if k != "redo"}).written


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
    with pytest.raises(DataError, match="there is no file"):
        make(place)


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
