"""However a command ends, and whoever else writes there: nothing is lost, and nothing half written stays."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from sidbench import matrix, parts, plan, registry
from sidbench.catalogue import files, ids
from sidbench.catalogue.encode import encode
from sidbench.catalogue.files import NoLocks, locked
from sidbench.catalogue.fit import fit
from sidbench.catalogue.job import Source
from sidbench.commands import watch
from sidbench.commands.encode import find_model
from sidbench.engines import Local
from sidbench.engines.cluster import Mark
from sidbench.errors import DataError, StorageError, UsageError
from sidbench.progress import report
from sidbench.record import Store, atomically
from sidbench.settings import read_settings

RUN = [
    *("run", "--dataset", "synthetic:tiny", "--threads", "1", "--methods", "random"),
    *("--set", "random.levels=2", "--set", "random.codebook_size=16", "--set", "decoder.steps=2"),
]
X = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """A run limits the threads of its process; the tests that follow have theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(results: Path, *, redo: bool = False, **given: str) -> list[matrix.Done]:
    """What the command line does, without the board."""
    asked = dict(zip((o[2:] for o in RUN[1:7:2]), RUN[2:8:2], strict=True))
    made = plan.make_plan(
        read_settings(None, {**asked, "results": str(results), **given}, RUN[8::2]), redo=redo
    )
    told: list[matrix.Done] = []
    matrix.run_plan(
        made, Local(), lambda *_: None, lambda i, task, done: told.append(done), "sidbench run", redo=redo
    )
    return told


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# ------------------------------------------------------------------------------------- half written


def test_what_the_dead_left_goes_and_what_the_living_hold_stays(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f".a.json-deadone{n}").write_text("half")
        (tmp_path / f".a-deadone{n}" / "a").mkdir(parents=True)
        (tmp_path / f".a-deadone{n}" / parts.HELD).write_text("")
    shutil.rmtree(tmp_path / ".a-deadone1")
    (tmp_path / ".a-deadone1").mkdir()  # killed before it could hold it
    (tmp_path / ".b.json-dead").write_text("another's")
    (tmp_path / ".a-of.mine").write_text("a person's")
    with (
        parts.file_beside(tmp_path / "a.json") as (handle, file),
        parts.folder_beside(tmp_path / "a") as part,
    ):
        assert names(tmp_path) == {file.name, part.name, f"{part.name}/held", ".b.json-dead", ".a-of.mine"}
        os.close(handle)  # the lock outlives what is written: until the file has its name
        for path in ("a", "a.json"):
            parts.sweep(tmp_path / path)
        assert file.exists()
        assert part.exists()
    assert names(tmp_path) == {".b.json-dead", ".a-of.mine"}


def test_a_folder_that_somebody_holds_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PATIENCE", 0.05)
    (tmp_path / ".a-deadone1").write_text("half")
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)  # as flock(1) does around a command
        atomically(tmp_path / "a", lambda f: f.write(b"whole"))
    finally:
        os.close(holder)
    assert names(tmp_path) == {"a", ".a-deadone1"}


def test_where_nothing_can_be_locked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".a-deadone1").write_text("half")
    atomically(tmp_path / "a", lambda f: f.write(b"whole"))
    assert names(tmp_path) == {"a", ".a-deadone1"}
    with pytest.raises(NoLocks, match="file system without locks"), locked(tmp_path / "lock", "a"):
        pass


def test_the_mark_of_a_dead_driver_goes(tmp_path: Path) -> None:
    (tmp_path / ".shared-deadone1").write_text("token")
    with Mark.laid(tmp_path) as mark:
        mark.check("here")
        assert names(tmp_path) == {mark.path.name}
        with Mark.laid(tmp_path):
            assert len(names(tmp_path)) == 2
    assert not names(tmp_path)


KILLED = """
import os, sys
from sidbench.cli import main
from sidbench.sids import SIDs
SIDs.save = lambda *_, **__: os.kill(os.getpid(), 9)
main(sys.argv[1:])
"""


def test_a_run_that_was_killed_while_it_saved_leaves_nothing(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert not rows(whole)[0].reused
    line = [sys.executable, "-c", KILLED, *RUN, "--results", str(torn)]
    ended = subprocess.run(line, capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr
    [left] = (torn / "artifacts").rglob("tokenizer.json")
    assert left.parents[1].name.startswith(".")
    artifact = left.parents[2] / left.parent.name
    with parts.folder_beside(artifact) as living:  # another process writes it too
        assert not left.exists()
        assert not rows(torn)[0].reused
        assert living.exists()
    assert names(torn) == names(whole)
    # What is done is not done again; what a later --redo left goes all the same.
    artifact.with_name(f".{artifact.name}-deadone1").mkdir()
    assert rows(torn)[0].reused
    assert names(torn) == names(whole)


# ------------------------------------------------------------------------------------- two commands


def test_two_commands_with_one_row_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [done] = rows(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with locked(Store(tmp_path).claim(done.record.key), "it"):
        with pytest.raises(
            UsageError, match=rf"another sidbench \(process {os.getpid()}\) .* random \(seed 0\)"
        ):
            rows(tmp_path, redo=True)
        assert {p: p.read_bytes() for p in before} == before
        assert not rows(tmp_path, seeds="1")[0].reused  # another row
    monkeypatch.setattr(files, "_taken", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks")))
    assert not rows(tmp_path, redo=True)[0].reused


def test_a_lock_is_waited_for_where_a_node_may_have_died(tmp_path: Path) -> None:
    assert matrix.LEASE > 90  # what NFS gives a client that is silent
    began = time.monotonic()
    with (
        locked(tmp_path / "lock", "it"),
        pytest.raises(UsageError, match="another sidbench"),
        locked(tmp_path / "lock", "it", 0.3),
    ):
        pass
    assert time.monotonic() - began > 0.3


# ------------------------------------------------------------------------------------- redo and ids


def test_a_redo_that_fails_leaves_the_tokenizer_that_was_there(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    source, out = Source(str(tmp_path / "x.npy")), tmp_path / "model"
    kmeans = registry.find("tokenizer", "rq-kmeans")(levels=2, codebook_size=8, iters=1)
    fit(kmeans, source, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    np.save(tmp_path / "x.npy", np.where(np.arange(len(X))[:, None] == 7, np.nan, X).astype(np.float32))
    with pytest.raises(DataError, match="first in row 7"):
        fit(kmeans, source, out, redo=True)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    np.save(tmp_path / "x.npy", X)
    assert not fit(kmeans, source, out).fresh
    assert fit(kmeans.replace(iters=2), source, out, redo=True).fresh
    assert not fit(kmeans.replace(iters=2), source, out).fresh


def test_a_checkpoint_on_a_full_disk_is_an_error_from_which_the_fit_goes_on(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    source = Source(str(tmp_path / "x.npy"))
    small = {"levels": 2, "codebook_size": 8, "epochs": 2, "hidden": (8,), "latent": 4, "checkpoint_every": 0}
    vae = registry.find("tokenizer", "rq-vae")(**small, device="cpu")
    fit(vae, source, tmp_path / "whole")
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(StorageError, match=r"checkpoint .* cannot be written .*File too large"):
            fit(vae, source, tmp_path / "torn")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.rglob("*.partial"))
    assert fit(vae, source, tmp_path / "torn").fresh
    for name in ("tokenizer.json", "tokenizer.safetensors"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_disk_without_a_byte_keeps_no_part_of_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="No space left"):
        files.write_json(tmp_path / "manifest.json", {})
    assert not names(tmp_path)


def test_a_model_that_is_not_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .* with a fitted tokenizer"):
        find_model(str(tmp_path / "gone"), tmp_path)


@pytest.mark.parametrize("kind", ["numbers", "texts", "signed"])
@pytest.mark.parametrize("held", [1 << 26, 100])
def test_an_id_of_two_rows_is_found_whatever_is_held(
    tmp_path: Path, kind: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "HELD", held)
    monkeypatch.setattr(ids, "TEXTS", 64)
    named: list[object] = list(range(-150, 150) if kind == "signed" else range(300))
    if kind == "texts":
        named = ["x", *("ü" * (n % 7) + str(n) for n in range(299))]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 4)
    pq.write_table(pa.table({"item_id": named, "embedding": flat}), tmp_path / "x.parquet", row_group_size=70)
    ids.check_ids(Source(str(tmp_path / "x.parquet")).open())
    named[222] = named[31]
    pq.write_table(pa.table({"item_id": named, "embedding": flat}), tmp_path / "x.parquet", row_group_size=70)
    made = registry.find("tokenizer", "rq-kmeans")(levels=2, codebook_size=8, iters=1).fit(X)
    made.save(tmp_path / "model")
    with pytest.raises(DataError, match=r"1 ids stand for more than one row, such as .* in rows 31 and 222"):
        encode(tmp_path / "model", Source(str(tmp_path / "x.parquet")), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_hashes_that_meet_are_told_from_ids_that_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "hashes", lambda found: np.arange(len(found), dtype=np.uint64) // np.uint64(2))
    monkeypatch.setattr(ids, "LOOKED", 9)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 4)
    pq.write_table(pa.table({"item_id": list(range(300)), "embedding": flat}), tmp_path / "x.parquet")
    ids.check_ids(Source(str(tmp_path / "x.parquet")).open())


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=60)
    monkeypatch.setattr(watch, "EVERY", 0.0)
    with watch.watching(console):
        report("encode", 0, 1000)
        time.sleep(0.01)
        report("encode", 250, 1000)
    assert isinstance(console.file, io.StringIO)
    assert re.search(r"encode: 25%, [\d,]+ items/s, 0:00, 0:00 left", console.file.getvalue())
