"""sidbench.load: what is encoded, looked up and iterated is what the run wrote."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import sidbench
from sidbench.cli import main
from sidbench.dataset import Corpus, Sequences
from sidbench.errors import DataError, UsageError
from sidbench.handle import Handle
from sidbench.protocol import split
from sidbench.registry import find
from sidbench.sids import SIDs
from sidbench.sidsets import SidSequences, pad

RNG = np.random.default_rng(0)
N, D = 40, 4
X = np.repeat(RNG.standard_normal((N // 2, D)).astype(np.float32), 2, axis=0)  # everybody has a twin
IDS = np.array([f"item {i:02d}" for i in RNG.permutation(N)])
NEW = np.concatenate([X[:3], RNG.standard_normal((5, D)).astype(np.float32), X[:2]])
NEW_IDS = [f"new {i}" for i in range(len(NEW))]
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data.md").read_text()


def artifact(folder: Path, resolver: str = "suffix", **params: Any) -> Path:
    tokenizer = find("tokenizer", "rq-kmeans")(levels=2, codebook_size=8, seed=1).fit(X)
    made = find("resolver", resolver)(**params)
    manifest = {"method": "rq-kmeans", "tokenizer_levels": 2, "resolver_params": made.params()}
    sids = SIDs(tokenizer.encode(X), tokenizer.sizes, IDS, manifest=manifest)
    tokenizer.save(folder)
    made.resolve(sids, tokenizer, X).save(folder, np.array([f"Title of {i}" for i in IDS]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(folder: Path) -> Handle:
    found: Handle = sidbench.load(folder)
    return found


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, sidbench; assert not {'numpy', 'torch', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        sidbench.laod  # noqa: B018


def test_encode_is_the_tokenizer_of_the_run(run: Handle) -> None:
    assert (run.encode(X) == run.sids.codes[:, :2]).all()
    assert (run.encode(X.astype(np.float64)) == run.encode(X)).all()
    assert (run.encode(torch.from_numpy(X)) == run.encode(X)).all()
    with pytest.raises(DataError, match="at least one row"):
        run.encode(X[:0])


@pytest.mark.parametrize("resolver", ["suffix", "nearest-free", "keep"])
def test_new_items_stand_beside_the_old_ones(tmp_path: Path, resolver: str) -> None:
    run = sidbench.load(artifact(tmp_path, resolver))
    before = run.sids.codes.copy()
    new = run.extend(NEW, NEW_IDS)
    assert new.item_ids.tolist() == NEW_IDS
    assert (run.sids.codes == before).all()
    bigger = run.extended(NEW, NEW_IDS)
    assert (bigger.sids.codes[:N] == before).all()
    assert (bigger.sids.codes[N:] == new.codes).all()
    if resolver == "suffix":
        assert (new.codes[:, :2] == run.encode(NEW)).all()
        both = np.concatenate([before, new.codes])
        assert len(np.unique(both, axis=0)) == len(both)
        # Twins of items that came later go on where those ended.
        last = bigger.extended(NEW[:1], ["newest"])
        assert last.items_of(last.sid_of("newest")).tolist() == ["newest"]


def test_new_items_need_ids_of_their_own(run: Handle) -> None:
    with pytest.raises(DataError, match="have SIDs already"):
        run.extend(NEW[:1], IDS[:1])
    with pytest.raises(DataError, match="stand twice"):
        run.extend(NEW[:2], ["a", "a"])
    with pytest.raises(UsageError, match="2 item ids for 1 vectors"):
        run.extend(NEW[:1], ["a", "b"])


def test_the_resolver_has_the_parameters_of_the_run(tmp_path: Path) -> None:
    run = sidbench.load(artifact(tmp_path, "suffix", base=1))
    assert run.resolver.params()["base"] == 1
    assert sidbench.load(tmp_path, resolver="keep").resolver.name == "keep"


def test_lookups_undo_each_other(run: Handle) -> None:
    for item in IDS:
        assert run.items_of(run.sid_of(item)).tolist() == [item]
    assert (run.sid_of(IDS[::-1]) == run.sids.codes[::-1]).all()
    assert run.sid_of(IDS[3]).shape == (3,)


def test_a_prefix_gives_all_that_is_below(run: Handle) -> None:
    codes = run.sids.codes
    assert sorted(run.items_of([])) == sorted(IDS)
    for depth in (1, 2, 3):
        prefixes = np.unique(codes[:, :depth], axis=0)
        found = run.items_of_each(prefixes)
        for prefix, items in zip(prefixes, found, strict=True):
            assert sorted(items) == sorted(IDS[(codes[:, :depth] == prefix).all(axis=1)])
        assert sum(map(len, found)) == N
    absent = next(c for c in range(9) if c not in set(codes[:, 0].tolist()) or c == 8)
    for nobody in ([absent], [-1], [-7], [10**6], [int(codes[0, 0]), 99], [2**31 + 5, 2]):
        assert run.items_of(nobody).tolist() == []


def test_shorter_sids_are_found_by_their_end(tmp_path: Path) -> None:
    codes = np.array([[0, 1, -1], [0, 2, 0], [0, 2, 1], [1, 1, -1]], np.int32)
    SIDs(codes, (2, 3, 2), np.arange(4) * 10, manifest={"method": "x"}).save(tmp_path)
    run = sidbench.load(tmp_path)
    assert run.items_of([0, 1]).tolist() == [0]
    assert run.items_of([0, 1, -1]).tolist() == [0]
    assert run.items_of([0, 2]).tolist() == [10, 20]
    assert run.sid_of("30").tolist() == [1, 1, -1]
    assert run.sid_of(np.array([30, 0])).tolist() == [[1, 1, -1], [0, 1, -1]]
    with pytest.raises(UsageError, match="name no resolver"):
        run.extend(NEW, NEW_IDS)


@pytest.mark.parametrize("sid", [[0, 1, 2, 3], [0.5], 3, "a"])
def test_what_is_no_sid_is_refused(run: Handle, sid: Any) -> None:
    with pytest.raises(UsageError, match="a SID is up to 3 codes"):
        run.items_of(sid)


def test_unknown_items_are_named(run: Handle) -> None:
    with pytest.raises(DataError, match="1 of 2 items have no SID in this run, first 'nobody'"):
        run.sid_of([IDS[0], "nobody"])


@pytest.mark.parametrize("odd", ["B00X", 3.5, 99, None, "3 ", "-0", "٣", 10**30, b"\xff", [20, "B00X"]])
def test_an_unknown_id_is_answered_with_ids_that_there_are(tmp_path: Path, odd: Any) -> None:
    codes = np.array([[0, 1], [1, 0], [1, 1]], np.int32)
    SIDs(codes, (2, 2), np.array([10, 20, 30]), manifest={"method": "x"}).save(tmp_path)
    run = sidbench.load(tmp_path)
    with pytest.raises(DataError, match=r"1 of [12] items have no SID in this run.*such as 10") as e:
        run.sid_of(odd)
    assert "dtype" not in str(e.value)
    assert "<U" not in str(e.value)
    assert run.sid_of(["30", "10"]).tolist() == [[1, 1], [0, 1]]
    with pytest.raises(DataError, match=r"new item id 'B9' is no whole number.*such as 10"):
        sidbench.load(tmp_path, resolver="keep").extended(NEW[:1], ["B9"])


def test_a_tokenizer_that_is_not_what_its_fit_left_is_refused(tmp_path: Path, sidbench_cli: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    line = ("fit", "rq-kmeans", tmp_path / "x.npy", "--out", tmp_path / "fitted", "--threads", 1)
    assert sidbench_cli(*line, "--set", "rq-kmeans.codebook_size=8").code == 0
    before = sidbench.load(tmp_path / "fitted").encode(X)
    goes = ("export", tmp_path / "fitted", "--to", "codebooks-npz", "--out", tmp_path / "c.npz")
    for name in ("tokenizer.safetensors", "tokenizer.json"):
        path, said = tmp_path / "fitted" / name, rf"{name} is not the file that manifest\.json .*--redo"
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"8", b"7") if name.endswith("json") else whole[:-1] + b"\x01")
        with pytest.raises(DataError, match=said):
            sidbench.load(tmp_path / "fitted").encode(X)
        assert "is not the file that" in sidbench_cli(*goes).err
        path.unlink()
        with pytest.raises(DataError, match=f"there is no .*{name}"):
            sidbench.load(tmp_path / "fitted").encode(X)
        path.write_bytes(whole)
    assert (sidbench.load(tmp_path / "fitted").encode(X) == before).all()


def test_a_fitted_tokenizer_alone_encodes(folder: Path, tmp_path: Path, run: Handle) -> None:
    for name in ("tokenizer.json", "tokenizer.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    alone = sidbench.load(tmp_path)
    assert (alone.encode(X) == run.encode(X)).all()
    assert str(tmp_path) in repr(alone)
    with pytest.raises(DataError, match="no SIDs in"):
        alone.sid_of("x")


def test_codebooks_rebuild_what_the_codes_stand_for(run: Handle) -> None:
    books, codes = run.codebooks(), run.encode(X)
    assert [b.shape for b in books] == [(8, D), (8, D)]
    rebuilt = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    np.testing.assert_allclose(rebuilt, run.tokenizer.reconstruct(codes), atol=1e-5)


def test_runs_are_found_by_method_and_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no results folder"):
        sidbench.load("rq-kmeans", results=tmp_path / "none")
    with pytest.raises(UsageError, match="holds neither SIDs nor a fitted tokenizer"):
        sidbench.load(tmp_path)


# -- sequences ---------------------------------------------------------------------------------------------


def world(order: Any = None) -> Corpus:
    """The same items in another order than the run's, as a dataset loaded anew may have them."""
    order = RNG.permutation(N) if order is None else order
    rows = [RNG.integers(N, size=n) for n in RNG.integers(1, 12, size=30)]
    users = np.array([f"user {i}" for i in range(30)])
    return Corpus("world", X[order], IDS[order], Sequences.of(rows), users)


@pytest.mark.parametrize("part", ["train", "valid", "test", "all"])
def test_sequences_are_the_protocols_as_sids(run: Handle, part: str) -> None:
    corpus = world()
    rows = run.sequences(corpus, part=part, max_length=4)
    divided = split(corpus, "leave-one-out")
    targets = {"valid": divided.valid, "test": divided.test}.get(part)
    if targets is None:
        whole = divided.train if part == "train" else corpus.sequences
        histories, users = [h for h in whole if len(h)], [u for u, h in enumerate(whole) if len(h)]
    else:
        histories, users = list(targets.histories), targets.users.tolist()
    assert len(rows) == len(histories)
    for i, history in enumerate(histories):
        row = rows[i]
        assert row["user"] == users[i]
        assert run.sids.item_ids[row["items"].numpy()].tolist() == corpus.item_ids[history][-4:].tolist()
        assert row["sids"].tolist() == run.sid_of(corpus.item_ids[history[-4:]]).tolist()
        assert ("target" in row) is (targets is not None)
        if targets is not None:
            assert row["target_sid"].tolist() == run.sid_of(corpus.item_ids[targets.items[i]]).tolist()


def test_wrong_wishes_are_refused(run: Handle) -> None:
    with pytest.raises(UsageError, match="part = 'tset'"):
        run.sequences(world(), part="tset")
    with pytest.raises(UsageError, match="max_length = 0"):
        run.sequences(world(), max_length=0)
    unknown = Corpus("x", X[:1], np.array(["nobody"]), Sequences.of([[0, 0, 0]]), np.arange(1))
    with pytest.raises(DataError, match="first 'nobody'"):
        run.sequences(unknown)


def seen(loader: Any) -> list[int]:
    return [int(u) for batch in loader for u in batch["user"]]


def rows_of(run: Handle) -> SidSequences:
    return run.sequences(world(), part="all")


#: Python from 3.12 on warns of what every DataLoader with workers does on Linux.
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")


#: torch thinks two workers too many for one core.
ONE_CORE = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@ONE_CORE
@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_comes_once_whatever_the_number_of_workers(run: Handle, workers: int) -> None:
    rows = rows_of(run)
    context = "fork" if workers else None
    loader = DataLoader(
        rows.stream(), batch_size=4, num_workers=workers, collate_fn=pad, multiprocessing_context=context
    )
    assert sorted(seen(loader)) == list(range(30))
    assert sorted(seen(DataLoader(rows, batch_size=7, shuffle=True, collate_fn=pad))) == list(range(30))


def test_processes_share_the_rows(run: Handle) -> None:
    rows = rows_of(run)
    parts = [[r["user"] for r in rows.stream(seed=3, rank=k, world=4)] for k in range(4)]
    assert Counter(u for p in parts for u in p) == Counter(range(30))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(UsageError, match="rank = 4 of world = 4"):
        rows.stream(rank=4, world=4)
    with pytest.raises(UsageError, match="give both"):
        rows.stream(rank=1)


def test_order_follows_from_seed_and_epoch(run: Handle) -> None:
    stream = rows_of(run).stream(seed=5)
    first = [r["user"] for r in stream]
    assert [r["user"] for r in stream] == first != sorted(first)
    stream.set_epoch(1)
    assert [r["user"] for r in stream] != first
    assert [r["user"] for r in rows_of(run).stream(shuffle=False)] == list(range(30))


@pytest.mark.parametrize("left", [False, True])
def test_padding_keeps_what_it_pads(run: Handle, left: bool) -> None:
    rows = run.sequences(world(), part="test", max_length=6)
    some = [rows[i] for i in range(5)]
    batch = pad(some, left=left)
    for b, row in enumerate(some):
        assert (batch["sids"][b][batch["mask"][b]] == row["sids"]).all()
        assert (batch["items"][b][~batch["mask"][b]] == -1).all()
        assert bool(batch["mask"][b][-1 if left else 0])
    assert batch["target_sid"].shape == (5, 3)


def test_arrow_and_hugging_face_say_the_same(run: Handle) -> None:
    rows = run.sequences(world(), part="test", max_length=6)
    table = rows.to_arrow().to_pylist()
    for i, row in enumerate(table):
        assert row["user"] == rows.user_ids[rows[i]["user"]]
        assert row["items"] == run.sids.item_ids[rows[i]["items"].numpy()].tolist()
        assert row["sids"] == rows[i]["sids"].tolist()
        assert row["target_sid"] == rows[i]["target_sid"].tolist()
    try:
        found = rows.to_hf()
    except UsageError as e:
        pytest.skip(str(e))
    assert [found[i] for i in range(len(found))] == table
    catalogue = run.to_hf()
    assert catalogue[3] == {
        "item_id": str(IDS[3]),
        "sid": run.sid_of(IDS[3]).tolist(),
        "title": f"Title of {IDS[3]}",
    }


def test_without_the_package_the_remedy_is_named(run: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'sidbench\[hf\]'"):
        run.to_hf()


# -- the page ----------------------------------------------------------------------------------------------


@ONE_CORE
@FORKS
def test_the_page_works_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    own = PAGE.partition("## In Python")
    make, *_ = re.findall(r"```python\n(.*?)```", own[0], flags=re.DOTALL)
    exec(make, {})

    check, _, _ = re.findall(r"```bash\n(sidbench .*?)\n```", own[0], flags=re.DOTALL)[:3]
    with pytest.raises(SystemExit) as left:
        main(shlex.split(check)[1:])
    assert not left.value.code
    printed = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    assert printed in own[0]

    files = ["--items", "items.parquet", "--sequences", "events.csv", "--methods", "rq-kmeans"]
    with pytest.raises(SystemExit) as left:
        main(["run", *files, "--set", "decoder.steps=2", "--threads", "1"])
    assert not left.value.code
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", own[2], flags=re.DOTALL)[:3]:
        exec(block, names)
    assert names["later"].item_ids.tolist() == ["N1", "N2", "N3", "N4"]
    assert len(names["bigger"].sids) == 304
    assert len(names["dataset"]) == len(names["test"]) == len(names["table"]) == 430
    listed = [names["ranking"].items(user, 10) for user in range(430)]
    assert all(len(items) == 10 and names["in_stock"][items].all() for items in listed)
