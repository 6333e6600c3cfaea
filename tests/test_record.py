"""Records: named by their inputs, whole or not there, readable by those who come later."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench import record as records
from sidbench.errors import DataError, StorageError
from sidbench.record import RunRecord, Store, canonical, run_id

KEY: dict[str, Any] = {
    "kind": "tokenizer",
    "method": "m",
    "label": "m@long",
    "params": {"levels": 3, "sizes": [1, 2]},
    "seed": 0,
    "dataset": {"name": "d", "fingerprint": "f", "items": 3, "users": 2, "interactions": 9, "dimensions": 4},
    "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [1]},
    "resolver": {"name": "suffix", "params": {}},
    "decoder": {"preset": "quick", "name": "tiger", "params": {"steps": 2}},
    "hardware": {"cpu": "c", "cores": 2, "threads": 2, "memory_gb": 8, "device": "cpu", "gpu": None},
}
VECTORS = {"target_before": np.arange(5, dtype=np.int32)}


def made(**changes: Any) -> RunRecord:
    key = {**KEY, **changes.pop("key", {})}
    return RunRecord(id=run_id(key), status="ok", key=key, code="c", metrics={"recall@1": 0.5}, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The place of every single value in a nested key."""
    if isinstance(value, dict) and value:
        return [p for k, v in value.items() for p in paths(v, (*before, k))]
    return [before]


@pytest.mark.parametrize("path", paths(KEY), ids=".".join)
def test_every_part_of_the_key_makes_another_run(path: tuple[str, ...]) -> None:
    key = json.loads(json.dumps(KEY))
    inner = key
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = "something else"
    assert run_id(key) != run_id(KEY)


def test_the_order_of_a_key_makes_no_other_run() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: turned(v) for k, v in reversed(value.items())}
        return value

    assert list(turned(KEY)) != list(KEY)
    assert canonical(turned(KEY)) == canonical(KEY)
    assert run_id(turned(KEY)) == run_id(KEY)


def test_what_is_saved_is_found(store: Store) -> None:
    path = store.save(made(facts={"a": [1, 2]}), VECTORS)
    assert path == store.root / "records" / "d" / "m@long" / f"{run_id(KEY)}.json"
    found = store.find(KEY)
    assert found == made(facts={"a": [1, 2]}, measured={"files": store.sizes(KEY)})
    assert store.sizes(KEY) == {path.with_suffix(".npz").name: path.with_suffix(".npz").stat().st_size}
    assert [p for p, _ in store.all()] == [path]
    assert (store.vectors(made())["target_before"] == VECTORS["target_before"]).all()


def test_names_become_folders_of_their_own(store: Store) -> None:
    key = {**KEY, "label": "../../up", "dataset": {**KEY["dataset"], "name": "a/b c"}}
    assert store.path(key).resolve().is_relative_to((store.root / "records" / "a-b-c").resolve())


def test_a_failed_run_leaves_no_vectors_of_a_better_one(store: Store) -> None:
    path = store.save(made(), VECTORS)
    error = {"type": "E", "stage": "fit", "message": "m"}
    store.save(RunRecord(run_id(KEY), "failed", KEY, "c", error=error), {})
    assert not path.with_suffix(".npz").exists()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_stops_in_the_middle_leaves_the_old_record_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch, fails: str, error: BaseException
) -> None:
    path = store.save(made(), VECTORS)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}

    def stop(*_: Any, **__: Any) -> None:
        raise error

    owner: Any = os if fails == "fsync" else Path
    monkeypatch.setattr(owner, fails, stop)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError
    with pytest.raises(expected) as said:
        store.save(made(facts={"new": True}), VECTORS)
    if expected is StorageError:
        assert "No space left on device" in str(said.value)
        assert "Free space" in str(said.value)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_folder_that_takes_no_files_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"results cannot be written to .*--results"):
            Store(root).check_writable()


def cut(text: str) -> str:
    return text[: len(text) // 2]


def without_label(text: str) -> str:
    raw = json.loads(text)
    del raw["key"]["label"]
    return json.dumps(raw)


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        lambda _: "",
        lambda _: "[]",
        lambda _: "{}",
        lambda _: '{"schema": 1}',
        lambda _: "null",
        without_label,
        lambda t: t.replace('"schema": 1', '"schema": "1"'),
        lambda t: t.replace('"status"', '"state"'),
    ],
)
def test_a_torn_record_is_listed_and_redone(store: Store, harm: Callable[[str], str]) -> None:
    path = store.save(made(), VECTORS)
    path.write_text(harm(path.read_text()))
    assert store.find(KEY) is None
    ((at, error),) = store.all()
    assert at == path
    assert isinstance(error, DataError)
    assert str(path) in str(error)
    assert "run the method again" in str(error)


def test_bytes_that_are_no_text_are_a_torn_record(store: Store) -> None:
    path = store.save(made(), VECTORS)
    path.write_bytes(b"\xff\xfe\x00")
    assert store.find(KEY) is None


def test_a_copy_is_told_and_counted_once(store: Store) -> None:
    path = store.save(made(), VECTORS)
    copy = path.parent.parent / "zzz" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    (_, first), (_, second) = store.all()
    assert isinstance(first, RunRecord)
    assert isinstance(second, DataError)
    assert str(path) in str(second)


def test_vectors_that_are_gone_or_torn_are_one_message(store: Store) -> None:
    path = store.save(made(), VECTORS).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match="run the method again"):
        store.vectors(made())
    path.unlink()
    with pytest.raises(DataError, match="run the method again"):
        store.vectors(made())


def test_a_record_of_a_newer_sidbench_says_so(store: Store) -> None:
    path = store.save(made(), VECTORS)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(DataError, match="schema 2, written by a newer sidbench; this one reads up to 1"):
        records.read(path)


def test_an_older_record_is_read_through_every_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.save(made(), VECTORS)
    monkeypatch.setattr(records, "SCHEMA", 3)
    monkeypatch.setattr(
        records,
        "UPGRADES",
        {
            1: lambda raw: {**raw, "facts": {"steps": [1]}},
            2: lambda raw: {**raw, "facts": {"steps": [*raw["facts"]["steps"], 2]}},
        },
    )
    found = records.read(path)
    assert found.facts == {"steps": [1, 2]}
    assert found.schema == 3
    monkeypatch.setattr(records, "UPGRADES", {})
    with pytest.raises(DataError, match="run the method again"):
        records.read(path)


def test_records_are_valid_json_for_every_reader(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.save(made(facts={"x": float("nan")}), VECTORS)
