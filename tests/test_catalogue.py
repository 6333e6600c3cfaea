"""A catalogue's SIDs are the tokenizer's, whatever the pieces, and whatever ended the process before."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from sidbench import progress, registry
from sidbench.catalogue import encode as encoding
from sidbench.catalogue import job as jobs
from sidbench.catalogue.encode import encode, verify
from sidbench.catalogue.fit import fit
from sidbench.catalogue.job import Entry, Job, Source, default_shard_rows, encode_shard, encode_shards
from sidbench.catalogue.output import codes_of, read_tables
from sidbench.cli import main
from sidbench.errors import DataError, StorageError, UsageError
from sidbench.formats import reading
from sidbench.sids import SIDs
from sidbench.tokenizer import Tokenizer

ROWS, DIM = 3000, 8
X = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
IDS = [f'item {n} "ü\\' for n in range(ROWS)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = registry.find("tokenizer", "rq-kmeans")(levels=3, codebook_size=16, iters=2)
    made.fit(X).save(folder)
    return folder


@pytest.fixture
def codes(model: Path) -> NDArray[np.int32]:
    return registry.load_tokenizer(model).encode(X)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    np.save(tmp_path / "x.npy", X)
    return Source(str(tmp_path / "x.npy"))


def small_kmeans() -> Tokenizer:
    made: Tokenizer = registry.find("tokenizer", "rq-kmeans")(levels=2, codebook_size=8, iters=2)
    return made


def with_ids(folder: Path) -> Source:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), DIM)
    pq.write_table(pa.table({"item_id": IDS, "embedding": flat}), folder / "x.parquet", row_group_size=700)
    return Source(str(folder / "x.parquet"))


def read_back(out: Path) -> tuple[list[object], NDArray[np.int64]]:
    files = sorted(out.glob("sids*")) if out.is_dir() else [out]
    tables = [t for f in files for t in read_tables(f, f.suffix)]
    ids = [i for t in tables for i in t.column("item_id").to_pylist()]
    return ids, np.concatenate([codes_of(t) for t in tables]).astype(np.int64)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of an output by its name, manifests as what they say of it."""
    files = sorted(out.iterdir()) if out.is_dir() else [out, out.with_name(f"{out.name}.manifest.json")]
    return {f.name: f.read_bytes() for f in files}


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.json", "folder", "shards"])
@pytest.mark.parametrize("ids", [False, True], ids=["numbers", "names"])
def test_codes_are_the_tokenizers_in_every_form(
    tmp_path: Path,
    model: Path,
    codes: NDArray[np.int32],
    source: Source,
    name: str,
    ids: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "PIECE", 1)  # 1,024 rows: pieces cross row groups, shards end inside them
    source = with_ids(tmp_path) if ids else source
    out = tmp_path / "out" / name
    done = encode(model, source, out, shard_rows=1100 if name != "folder" else None)
    assert done.rows == ROWS
    found_ids, found = read_back(out)
    np.testing.assert_array_equal(found, codes)
    expected: list[object] = list(IDS) if ids else list(range(ROWS))
    assert found_ids == (list(map(str, expected)) if name == "x.json" else expected)
    assert not list(out.parent.glob(".*"))
    assert encode(model, source, out, shard_rows=1100 if name != "folder" else None).rows == 0
    checked, wrong = verify(model, source, out, 300)
    assert checked >= 300
    assert wrong == 0
    if name == "folder":
        sids = SIDs.load(out)
        np.testing.assert_array_equal(sids.codes, codes)
        assert sids.sizes == (16, 16, 16)
    if name != "shards":  # what sidbench reads anywhere else, with what its manifest states
        table = reading.read(out, "file")
        np.testing.assert_array_equal(table.codes, codes)


def test_codes_take_the_fewest_bytes(tmp_path: Path, model: Path, source: Source) -> None:
    encode(model, source, tmp_path / "x.parquet")
    kind = pq.read_schema(tmp_path / "x.parquet").field("sid").type
    assert (kind.list_size, kind.value_type) == (3, pa.uint8())


def test_one_shard_alone_is_what_all_of_them_make(
    tmp_path: Path, model: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(model, source, tmp_path / "all", shard_rows=900)
    seen: list[Job] = []

    def alone(job: Job, todo: list[int]) -> Iterator[tuple[int, Entry]]:
        seen.append(job)
        for i in reversed(todo):  # in any order, each in a process of its own for all it knows
            yield i, encode_shard(job, i)

    monkeypatch.setattr(jobs, "PIECE", 1)
    encode(model, source, tmp_path / "one", shard_rows=900, run=alone)
    assert contents(tmp_path / "one") == contents(tmp_path / "all")
    assert (
        encode_shard(seen[0], 2) == json.loads((tmp_path / "one" / "manifest.json").read_text())["shards"][2]
    )


def ends_after(shards: int, error: BaseException) -> encoding.Runner:
    def run(job: Job, todo: list[int]) -> Iterator[tuple[int, Entry]]:
        yield from encode_shards(job, todo[:shards])
        raise error

    return run


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.json", "shards"])
def test_what_is_interrupted_goes_on_and_ends_at_the_same_bytes(
    tmp_path: Path, model: Path, source: Source, name: str
) -> None:
    whole, torn = tmp_path / "whole" / name, tmp_path / "torn" / name
    encode(model, source, whole, shard_rows=700)
    with pytest.raises(KeyboardInterrupt):
        encode(model, source, torn, shard_rows=700, run=ends_after(2, KeyboardInterrupt()))
    parts = torn if torn.is_dir() else torn.with_name(f".{name}.parts")
    (parts / ".sids-00002.parquet-abc.part").write_bytes(b"half")
    assert not torn.is_file()
    done = encode(model, source, torn, shard_rows=700)
    assert done.rows == ROWS - 2 * 700
    assert contents(torn) == contents(whole)
    assert {p.name for p in torn.parent.iterdir()} == {p.name for p in whole.parent.iterdir()}


def test_a_damaged_shard_is_made_again_and_said(tmp_path: Path, model: Path, source: Source) -> None:
    out = tmp_path / "out"
    encode(model, source, out, shard_rows=1000)
    before = contents(out)
    shard = out / "sids-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    (out / "sids-00002.parquet").unlink()
    done = encode(model, source, out, shard_rows=1000)
    assert done.rows == 2000
    assert ["00001" in done.notes[0], "00002" in done.notes[1]] == [True, True]
    assert contents(out) == before
    single = tmp_path / "x.npz"
    encode(model, source, single)
    single.write_bytes(b"torn")
    assert encode(model, source, single).notes
    assert read_back(single)[1].shape == (ROWS, 3)


def test_models_and_inputs_are_not_mixed(tmp_path: Path, model: Path, source: Source) -> None:
    out = tmp_path / "x.parquet"
    with pytest.raises(KeyboardInterrupt):
        encode(model, source, out, shard_rows=700, run=ends_after(2, KeyboardInterrupt()))
    other = tmp_path / "other"
    registry.find("tokenizer", "rq-kmeans")(levels=3, codebook_size=16, iters=1).fit(X).save(other)
    with pytest.raises(UsageError, match=r"model\.params\.iters: 2 there, 1 now"):
        encode(other, source, out, shard_rows=700)
    with pytest.raises(UsageError, match="shard_rows: 700 there, 800 now"):
        encode(model, source, out, shard_rows=800)
    changed = X.copy()
    changed[800] += 1
    np.save(source.path, changed)
    with pytest.raises(UsageError, match="rows 700 to 1,399 differ"):
        encode(model, source, out, shard_rows=700)
    np.save(source.path, X)  # another time, the same rows: as good as before
    assert encode(model, source, out, shard_rows=700).rows == ROWS - 1400
    np.save(source.path, changed)
    with pytest.raises(UsageError, match="differ"):
        encode(model, source, out, shard_rows=700)
    assert encode(model, source, out, shard_rows=700, redo=True).rows == ROWS
    with pytest.raises(UsageError, match="another model"):
        verify(other, source, out, 100)


def test_one_writer_at_a_time(tmp_path: Path, model: Path, source: Source) -> None:
    def while_another_tries(job: Job, todo: list[int]) -> Iterator[tuple[int, Entry]]:
        with pytest.raises(UsageError, match=rf"another sidbench \(process {os.getpid()}\) is writing"):
            encode(model, source, tmp_path / "x.parquet")
        yield from encode_shards(job, todo)

    assert encode(model, source, tmp_path / "x.parquet", run=while_another_tries).rows == ROWS


def test_a_full_disk_costs_the_shard_in_hand(tmp_path: Path, model: Path, source: Source) -> None:
    encode(model, source, tmp_path / "whole.npz", shard_rows=500)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "x.npz"
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # shards fit, the one file does not
    try:
        with pytest.raises(StorageError, match=r"cannot be written .*What is finished stands"):
            encode(model, source, out, shard_rows=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not out.exists()
    done = encode(model, source, out, shard_rows=500)
    assert done.rows == 0
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="room is taken beforehand on Linux")
def test_a_full_disk_is_an_error_where_rows_are_copied(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    np.save(source.path, X.astype(np.float64))
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"No space left.*SIDBENCH_CACHE"):
        fit(small_kmeans(), source, tmp_path / "fitted")


def test_a_full_disk_ends_a_fit_with_words(tmp_path: Path, source: Source) -> None:
    resource_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    big: Tokenizer = registry.find("tokenizer", "rq-kmeans")(levels=2, codebook_size=256, iters=1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource_limit[1]))
        with pytest.raises(StorageError, match="File too large"):
            fit(big, source, tmp_path / "fitted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resource_limit)
        signal.signal(signal.SIGXFSZ, before)
    assert fit(big, source, tmp_path / "fitted").fresh


def test_what_moves_items_is_not_verified(tmp_path: Path, model: Path, source: Source) -> None:
    with pytest.raises(UsageError, match="random-free moves items"):
        main(
            [
                *("encode", str(model), source.path, "--out", str(tmp_path / "y.parquet")),
                *("--resolver", "random-free", "--verify", "5"),
                "--debug",
            ]
        )
    assert not (tmp_path / "y.parquet").exists()


def test_a_place_that_takes_nothing_says_so(tmp_path: Path, model: Path, source: Source) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        encode(model, source, tmp_path / "file" / "x.parquet")
    with pytest.raises(UsageError, match="is a file"):
        encode(model, source, tmp_path / "file")


def test_an_input_that_vanishes_costs_nothing_that_is_finished(
    tmp_path: Path, model: Path, source: Source
) -> None:
    def vanishing(job: Job, todo: list[int]) -> Iterator[tuple[int, Entry]]:
        for n, i in enumerate(todo):
            if n == 2:
                Path(source.path).rename(tmp_path / "gone.npy")
            yield i, encode_shard(job, i)

    with pytest.raises(DataError, match=r"x\.npy"):
        encode(model, source, tmp_path / "out", shard_rows=700, run=vanishing)
    with pytest.raises(UsageError, match="there is no file"):
        encode(model, source, tmp_path / "out", shard_rows=700)
    (tmp_path / "gone.npy").rename(source.path)
    assert encode(model, source, tmp_path / "out", shard_rows=700).rows == ROWS - 1400


def test_a_row_that_is_no_number_is_named(tmp_path: Path, model: Path, source: Source) -> None:
    x = X.copy()
    x[1234, 3] = np.nan
    np.save(source.path, x)
    with pytest.raises(DataError, match=r"x\.npy.*NaN or infinity, first in row 1,234;"):
        encode(model, source, tmp_path / "x.parquet", shard_rows=500)
    for sample in (None, 1500):
        with pytest.raises(DataError, match=r"x\.npy.*NaN or infinity, first in row 1,234;"):
            fit(small_kmeans(), source, tmp_path / "fitted", sample=sample)  # no other fit was begun there
    np.save(source.path, X)
    assert encode(model, source, tmp_path / "x.parquet", shard_rows=500).rows <= ROWS


def test_what_is_not_ours_is_not_written_over(tmp_path: Path, model: Path, source: Source) -> None:
    (tmp_path / "y.parquet").write_bytes(b"precious")
    with pytest.raises(UsageError, match="nothing says what it was made from"):
        encode(model, source, tmp_path / "y.parquet")
    assert (tmp_path / "y.parquet").read_bytes() == b"precious"
    assert encode(model, source, tmp_path / "y.parquet", redo=True).rows == ROWS
    with pytest.raises(UsageError, match="where the input does"):
        encode(model, Source(str(tmp_path)), tmp_path / "new", shard_rows=100)
    (tmp_path / "y.parquet.manifest.json").write_text('{"kind": "ensure"}')
    with pytest.raises(DataError, match="not of an encode"):
        encode(model, source, tmp_path / "y.parquet")


def test_nothing_is_written_over_what_is_read(tmp_path: Path, model: Path, source: Source) -> None:
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    named = replace(source, ids=str(tmp_path / "ids.json"))
    with pytest.raises(UsageError, match="where the input does"):
        encode(model, named, tmp_path / "ids.json", redo=True)
    with pytest.raises(UsageError, match="holds the fitted tokenizer"):
        encode(model, source, model, redo=True)
    with pytest.raises(UsageError, match="where the input does"):
        fit(small_kmeans(), Source(str(tmp_path)), tmp_path)
    assert json.loads((tmp_path / "ids.json").read_text()) == IDS


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("y.npz", "json", "is npz by its name"),
        ("y.csv", None, "not written as"),
        ("y", "csv", "unknown format"),
    ],
)
def test_a_name_says_what_is_written(
    tmp_path: Path, model: Path, source: Source, name: str, form: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        encode(model, source, tmp_path / name, form=form)


def test_one_file_and_shards_do_not_mix(tmp_path: Path, model: Path, source: Source) -> None:
    usual = default_shard_rows(DIM)
    encode(model, source, tmp_path / "shards", shard_rows=usual)
    with pytest.raises(UsageError, match="holds shards"):
        encode(model, source, tmp_path / "shards")
    encode(model, source, tmp_path / "one")
    with pytest.raises(UsageError, match="holds one file"):
        encode(model, source, tmp_path / "one", shard_rows=usual)
    encode(model, source, tmp_path / "one", shard_rows=usual, redo=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "shards")


@pytest.mark.parametrize("without", ["shards", "input_files"])
def test_a_manifest_that_lacks_something_is_an_error(
    tmp_path: Path, model: Path, source: Source, without: str
) -> None:
    out = tmp_path / "out"
    held = encode(model, source, out, shard_rows=700).manifest
    (out / "manifest.json").write_text(json.dumps({k: v for k, v in held.items() if k != without}))
    with pytest.raises(DataError, match="damaged"):
        encode(model, source, out, shard_rows=700)


def test_a_damaged_tokenizer_gives_no_codes(tmp_path: Path, source: Source) -> None:
    fit(small_kmeans(), source, tmp_path / "fitted")
    file = tmp_path / "fitted" / "tokenizer.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="not what the fit left"):
        encode(tmp_path / "fitted", source, tmp_path / "x.parquet")
    assert fit(small_kmeans(), source, tmp_path / "fitted").fresh
    assert file.read_bytes() == whole


def test_rows_of_other_dimensions_begin_nothing(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "narrow.npy", X[:, :4])
    with pytest.raises(DataError, match=r"narrow\.npy.*4 dimensions; the tokenizer was fitted on 8"):
        encode(model, Source(str(tmp_path / "narrow.npy")), tmp_path / "x.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["narrow.npy"]


def test_shards_of_an_input_all_have_ids_or_none(tmp_path: Path, model: Path) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), DIM)
    pq.write_table(pa.table({"embedding": flat}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"item_id": IDS, "embedding": flat}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet has ids and 1\.parquet has none"):
        encode(model, Source(str(tmp_path)), tmp_path.with_name("out"), shard_rows=ROWS)


def test_what_a_kill_left_half_written_goes(tmp_path: Path, model: Path, source: Source) -> None:
    (tmp_path / ".x.parquet-abc.part").write_bytes(b"half")
    (tmp_path / ".other.parquet-abc.part").write_bytes(b"half")
    encode(model, source, tmp_path / "x.parquet")
    assert [p.name for p in tmp_path.glob(".*.part")] == [".other.parquet-abc.part"]
    fit(small_kmeans(), source, tmp_path / "fitted")
    (tmp_path / "fitted" / ".unfinished").mkdir()
    assert not fit(small_kmeans(), source, tmp_path / "fitted").fresh
    assert not (tmp_path / "fitted" / ".unfinished").exists()


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, model: Path, source: Source) -> None:
    encode(model, source, tmp_path / "x.parquet")
    at = Path(source.path).stat()
    np.save(source.path, X + 1)
    os.utime(source.path, ns=(at.st_atime_ns, at.st_mtime_ns))
    with pytest.raises(UsageError, match="is not what"):
        encode(model, source, tmp_path / "x.parquet")


def test_progress_counts_items_to_the_end(tmp_path: Path, model: Path, source: Source) -> None:
    seen: list[float] = []
    with progress.listening(lambda stage, done, total, numbers: seen.append(done / total)):
        encode(model, source, tmp_path / "x.parquet", shard_rows=500)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)


def test_an_id_that_stands_twice_is_named(tmp_path: Path, model: Path, source: Source) -> None:
    for ids in (np.arange(ROWS) % 2999, np.array([f"i{n % 2999}" for n in range(ROWS)])):
        np.save(tmp_path / "ids.npy", ids)
        with pytest.raises(DataError, match=r"1 ids stand .* such as '?i?0'? in rows 0 and 2,999"):
            encode(model, replace(source, ids=str(tmp_path / "ids.npy")), tmp_path / "x.parquet")


def test_a_resolver_is_the_last_step(tmp_path: Path, model: Path, source: Source) -> None:
    suffix = registry.find("resolver", "suffix")()
    out = tmp_path / "out"
    done = encode(model, source, out, resolver=suffix)
    sids = SIDs.load(out)
    assert len(np.unique(sids.codes, axis=0)) == ROWS
    assert sids.resolver == "suffix"
    assert done.manifest["suffix"] == {"base": 0}
    assert encode(model, source, out, resolver=suffix).rows == 0
    assert verify(model, source, out, 500)[1] == 0
    with pytest.raises(UsageError, match="resolver: suffix there"):
        encode(model, source, out)


def test_verify_finds_a_code_that_is_not_the_models(tmp_path: Path, model: Path, source: Source) -> None:
    out = tmp_path / "x.parquet"
    encode(model, source, out)
    table = pq.read_table(out)
    wrong = codes_of(table).copy()
    wrong[5] = (wrong[5] + 1) % 16
    sid = pa.FixedSizeListArray.from_arrays(pa.array(wrong.reshape(-1)), 3)
    pq.write_table(table.set_column(1, "sid", sid), out)
    assert verify(model, source, out, ROWS) == (ROWS, 1)


def test_fit_leaves_what_encode_takes(tmp_path: Path, source: Source) -> None:
    made = registry.find("tokenizer", "rq-kmeans")(levels=2, codebook_size=16, iters=2)
    out = tmp_path / "model"
    fitted = fit(made, source, out, sample=1000)
    assert fitted.fresh
    held = json.loads((out / "manifest.json").read_text())
    assert (held["sample"], held["rows"], held["method"]) == (1000, 1000, "rq-kmeans")
    assert 0 < held["error"]["fitted"] < held["error"]["outside"] < 1  # what a sample costs stands there
    codes = made.encode(X)
    np.testing.assert_array_equal(registry.load_tokenizer(out).encode(X), codes)
    encode(out, source, tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_back(tmp_path / "x.parquet")[1], codes)
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.json",
        "tokenizer.json",
        "tokenizer.safetensors",
    ]


def test_fit_keeps_what_is_there_and_mixes_nothing(tmp_path: Path, source: Source) -> None:
    cls, out = registry.find("tokenizer", "rq-kmeans"), tmp_path / "model"
    small = {"levels": 2, "codebook_size": 16, "iters": 2}
    fit(cls(**small), source, out)
    before = contents(out)
    assert not fit(cls(**small), source, out).fresh
    with pytest.raises(UsageError, match=r"params\.seed: 0 there, 1 now"):
        fit(cls(**small, seed=1), source, out)
    with pytest.raises(UsageError, match="sample: None there, 500 now"):
        fit(cls(**small), source, out, sample=500)
    np.save(source.path, X)  # touched
    assert not fit(cls(**small), source, out).fresh
    np.save(source.path, X + 1)
    with pytest.raises(UsageError, match="other rows"):
        fit(cls(**small), source, out)
    np.save(source.path, X)
    assert contents(out) == before
    (out / "tokenizer.safetensors").write_bytes(b"torn")
    assert fit(cls(**small), source, out).fresh
    assert contents(out)["tokenizer.safetensors"] == before["tokenizer.safetensors"]
    with pytest.raises(UsageError, match="--sample 5: rq-kmeans needs 16"):
        fit(cls(**small), source, tmp_path / "new", sample=5)
    with pytest.raises(UsageError, match="has 3,000 rows"):
        fit(cls(**small), source, tmp_path / "new", sample=5000)


def test_fit_takes_rows_of_any_file(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))
    cls, small = registry.find("tokenizer", "rq-kmeans"), {"levels": 2, "codebook_size": 16, "iters": 2}
    fit(cls(**small), source, tmp_path / "a")
    fit(cls(**small), with_ids(tmp_path), tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a["tokenizer.safetensors"] == b["tokenizer.safetensors"]


def test_a_fit_that_ends_goes_on_from_its_checkpoint(tmp_path: Path, source: Source) -> None:
    cls = registry.find("tokenizer", "rq-vae")
    small = {**cls.quick, "levels": 2, "codebook_size": 16, "checkpoint_every": 0, "epochs": 4}

    class Ended(Exception):
        pass

    def end(stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        if stage == "fit" and done > total / 2:
            raise Ended

    fit(cls(**small), source, tmp_path / "whole")
    with pytest.raises(Ended), progress.listening(end):
        fit(cls(**small), source, tmp_path / "torn")
    assert list((tmp_path / "torn" / ".unfinished" / "checkpoints").glob("epoch-*"))
    with pytest.raises(UsageError, match=r"params\.seed"):
        fit(cls(**small, seed=3), source, tmp_path / "torn")
    fit(cls(**small), source, tmp_path / "torn")
    whole, torn = contents(tmp_path / "whole"), contents(tmp_path / "torn")
    assert torn["tokenizer.safetensors"] == whole["tokenizer.safetensors"]
    assert torn.keys() == whole.keys()


def test_a_process_that_is_killed_costs_the_shard_in_hand(
    tmp_path: Path, model: Path, source: Source
) -> None:
    encode(model, source, tmp_path / "whole", shard_rows=20)
    command = [sys.executable, "-m", "sidbench.cli", "encode", str(model), source.path, "--shard-rows", "20"]
    run = subprocess.Popen([*command, "--out", str(tmp_path / "torn")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while len(list((tmp_path / "torn").glob("sids-*"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    known = json.loads((tmp_path / "torn" / "manifest.json").read_text())["shards"]
    there = len(list((tmp_path / "torn").glob("sids-*")))
    finished = sum(e is not None for e in known)
    assert there - finished <= 8  # those that one piece held, at most
    done = encode(model, source, tmp_path / "torn", shard_rows=20)
    assert done.rows == ROWS - 20 * finished
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_what_cannot_be_says_so(tmp_path: Path, model: Path, source: Source) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        encode(tmp_path, source, tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="leave out --shard-rows"):
        encode(model, source, tmp_path / "o", shard_rows=9, resolver=registry.find("resolver", "suffix")())
    with pytest.raises(UsageError, match="unknown format"):
        encode(model, source, tmp_path / "o", shard_rows=9, form="csv")
