"""The story: run, run again, change something, break something, stop in the middle, look at what is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sidbench import bench, clock, plan, registry
from sidbench.cli import main
from sidbench.dataset import Corpus, Dataset, cached_rows
from sidbench.record import RunRecord, Store, read
from sidbench.settings import read_settings
from sidbench.sids import SIDs

if TYPE_CHECKING:
    from tests.conftest import PluginFolder, Said

Cli = Callable[..., "Said"]

DECODER = {
    "width": 8,
    "heads": 1,
    "head_width": 8,
    "feed_forward": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "history": 4,
    "steps": 4,
    "eval_every": 2,
    "batch": 32,
    "valid_users": 20,
    "beam": 5,
    "precision": "fp32",
}
#: A row in a fraction of a second.
TINY = [
    *(
        "--dataset",
        "synthetic:tiny",
        "--threads",
        "1",
        "--set",
        "all.levels=2",
        "--set",
        "all.codebook_size=8",
    ),
    *(a for k, v in DECODER.items() for a in ("--set", f"decoder.{k}={v}")),
]
PLUGIN = """
import numpy as np
from sidbench.tokenizer import Tokenizer


class {cls}(Tokenizer):
    "A tokenizer of a test."

    name = "{name}"

    def fit(self, x):
        {fit}
        self.done_ = 1
        return self

    def encode(self, x):
        return {encode}
"""
ZEROS = "np.zeros((len(x), self.levels), dtype=np.int64)"


def plugin(name: str, fit: str = "pass", encode: str = ZEROS) -> str:
    return PLUGIN.format(cls=name.title().replace("-", ""), name=name, fit=fit, encode=encode)


def loaded(folder: Path) -> dict[str, RunRecord]:
    """Records by label, resolver and seed."""
    out = {}
    for _, record in Store(folder).all():
        assert isinstance(record, RunRecord)
        resolver = record.key["resolver"]
        out[f"{record.label} {resolver['name'] if resolver else '-'} {record.key['seed']}"] = record
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """A run limits the threads of its process; the tests that follow have theirs back."""
    before = torch.get_num_threads()
    yield
    plan.limit_threads(before)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that others copy."""
    folder = tmp_path_factory.mktemp("first") / "results"
    with pytest.raises(SystemExit) as end:
        main(["run", *TINY, "--methods", "random,rq-kmeans,popularity", "--results", str(folder)])
    assert end.value.code == 0
    return folder


@pytest.fixture
def results(first: Path, tmp_path: Path) -> Path:
    shutil.copytree(first, tmp_path / "results")
    return tmp_path / "results"


# ------------------------------------------------------------------------------------------------ a whole run


def test_a_run_leaves_records_vectors_artifacts_and_a_board(first: Path) -> None:
    records = loaded(first)
    assert records.keys() == {"random suffix 0", "rq-kmeans suffix 0", "popularity - 0"}
    for record in records.values():
        assert record.status == "ok"
        assert record.key["hardware"]["threads"] == 1
        vectors = Store(first).vectors(record)
        assert len(vectors["user"]) == len(vectors["target_before"]) == 400
        assert 0 <= record.metrics["recall@1"] <= record.metrics["recall@20"] <= 1
        assert str(first) not in json.dumps(record.key) + json.dumps(record.facts)
    kmeans = records["rq-kmeans suffix 0"]
    assert kmeans.key["params"]["codebook_size"] == 8
    assert kmeans.key["decoder"]["params"]["steps"] == 4
    assert kmeans.facts["decoder"]["steps"] == 4
    assert kmeans.facts["sid_sizes"][:2] == [8, 8]
    assert kmeans.metrics["collision_items_resolved"] == 0
    assert registry.load_tokenizer(Store(first).artifact(kmeans.key)).name == "rq-kmeans"
    board = (first / "LEADERBOARD.md").read_text()
    assert all(name in board for name in ("random", "rq-kmeans", "popularity", "1 threads"))
    assert str(first.parent) not in board
    assert not list(first.rglob(".*"))


def test_a_second_run_reuses_everything(sidbench_cli: Cli, results: Path) -> None:
    before = files(results)
    said = sidbench_cli("run", *TINY, "--methods", "random,rq-kmeans,popularity", "--results", results)
    assert said.code == 0
    assert said.out.count("kept from an earlier run") == 3
    assert files(results) == before


def test_a_changed_parameter_redoes_only_its_row(sidbench_cli: Cli, results: Path) -> None:
    change = ("--set", "rq-kmeans.iters=3")
    said = sidbench_cli("run", *TINY, *change, "--methods", "random,rq-kmeans", "--results", results)
    assert said.code == 0
    assert said.out.count("kept from an earlier run") == 1
    runs = list((results / "records" / "synthetic-tiny" / "rq-kmeans").glob("*.json"))
    assert sorted(read(p).key["params"]["iters"] for p in runs) == [3, 25]
    assert "iters=3" in (results / "LEADERBOARD.md").read_text()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["vectors", "sids.parquet", "tokenizer.json", "tokenizer.safetensors"])
@pytest.mark.parametrize("harm", [Path.unlink, halve], ids=["gone", "torn"])
def test_every_file_of_a_row_must_be_whole(
    sidbench_cli: Cli, results: Path, name: str, harm: Callable[[Path], None]
) -> None:
    before, store = files(results), Store(results)
    key = loaded(results)["random suffix 0"].key
    harm(store.path(key).with_suffix(".npz") if name == "vectors" else store.artifact(key) / name)
    said = sidbench_cli("run", *TINY, "--methods", "random,popularity", "--results", results)
    assert said.code == 0
    assert said.out.count("kept from an earlier run") == 1
    repaired = files(results)
    assert repaired.keys() == before.keys()
    derived = (".json", ".md", ".html", ".svg")  # they tell what was measured, too
    assert all(v == before[k] for k, v in repaired.items() if not k.endswith(derived))


def test_other_ids_of_the_same_vectors_are_another_run(sidbench_cli: Cli, tmp_path: Path) -> None:
    data, results = tmp_path / "shop", tmp_path / "r"
    rng = np.random.default_rng(0)
    data.mkdir()
    np.save(data / "items.npy", rng.standard_normal((40, 8)).astype(np.float32))

    def run(prefix: str, title: str) -> Said:
        ids = [f"{prefix}{i}" for i in range(40)]
        pq.write_table(pa.table({"item": ids, "title": [title] * 40}), data / "items.parquet")
        walks = np.random.default_rng(1).integers(40, size=(60, 6)).tolist()
        lists = [[ids[i] for i in walk] for walk in walks]
        pq.write_table(pa.table({"user": range(60), "items": lists}), data / "sequences.parquet")
        line = [a if a != "synthetic:tiny" else str(data) for a in TINY]
        return sidbench_cli("run", *line, "--methods", "random", "--results", results)

    run("a", "old")
    assert "kept from an earlier run" in run("a", "old").out
    for prefix, title in (("b", "old"), ("b", "new")):
        assert "kept from an earlier run" not in run(prefix, title).out
        shown = sidbench_cli("show", "random", "--item", f"{prefix}7", "--results", results)
        assert shown.code == 0
        assert title in shown.out
    records = [r for _, r in Store(results).all() if isinstance(r, RunRecord)]
    assert len(records) == 3
    assert len({r.key["dataset"]["fingerprint"] for r in records}) == 1  # and so one permutation
    assert len({r.metrics["recall@10"] for r in records}) == 1
    told = json.loads(sidbench_cli("clean", "--results", results, "--yes", "--json").out)["stale"]
    assert sum(s["reason"] == "made on older data" for s in told) == 2
    (kept,) = loaded(results).values()
    assert kept == max(records, key=lambda r: r.measured["finished"])


def test_a_record_says_whose_data_and_how_many_users(first: Path) -> None:
    for record in loaded(first).values():
        assert record.key["dataset"]["plugin"] == "synthetic"
        assert record.key["dataset"]["params"] == {"size": "tiny", "seed": 0}
        assert record.key["protocol"]["evaluated"] == 400
        assert record.facts["notes"] == []


def test_the_beam_that_was_used_is_told(sidbench_cli: Cli, first: Path, tmp_path: Path) -> None:
    assert loaded(first)["random suffix 0"].facts["beam"] == 20  # the largest cut-off, above decoder.beam
    assert "beam" not in loaded(first)["popularity - 0"].facts
    cutoffs = ("--cutoffs", "1,3")
    sidbench_cli("run", *TINY, "--methods", "random", *cutoffs, "--results", tmp_path / "r")
    assert loaded(tmp_path / "r")["random suffix 0"].facts["beam"] == 5


@pytest.mark.parametrize("harm", ["record", "vectors", "artifact", "code", "failed"])
def test_what_is_torn_stale_or_failed_is_redone(sidbench_cli: Cli, results: Path, harm: str) -> None:
    record = loaded(results)["random suffix 0"]
    path = Store(results).path(record.key)
    text = path.read_text()
    if harm == "record":
        path.write_text(text[:100])
    elif harm == "vectors":
        path.with_suffix(".npz").unlink()
    elif harm == "artifact":
        shutil.rmtree(Store(results).artifact(record.key))
    else:
        old, new = (record.code, "0" * 16) if harm == "code" else ('"status": "ok"', '"status": "failed"')
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    said = sidbench_cli("run", *TINY, "--methods", "random,popularity", "--results", results)
    assert said.code == 0
    assert said.out.count("kept from an earlier run") == 1
    again = loaded(results)["random suffix 0"]
    assert (again.metrics, again.code) == (record.metrics, record.code)
    assert (Store(results).artifact(record.key) / "manifest.json").exists()


def test_two_runs_are_byte_equal_but_for_what_was_measured(
    sidbench_cli: Cli, first: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    methods = ("--methods", "rq-kmeans,popularity,random")  # in another order, too
    assert sidbench_cli("run", *TINY, *methods, "--results", other).code == 0

    def stripped(folder: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, content in files(folder).items():
            if name.startswith("records") and name.endswith(".json"):
                raw = json.loads(content)
                out[name] = json.dumps({k: v for k, v in raw.items() if k not in ("measured", "env")})
            elif name not in ("LEADERBOARD.md", "leaderboard.html") and not name.startswith("charts"):
                out[name] = content
        return out

    assert stripped(other) == stripped(first)
    assert any(name.endswith(".npz") for name in stripped(first))


def test_seeds_are_samples_of_one_row(sidbench_cli: Cli, results: Path) -> None:
    methods = ("--methods", "random,popularity")
    assert sidbench_cli("run", *TINY, *methods, "--seeds", "0,1", "--results", results).code == 0
    records = loaded(results)
    assert {"random suffix 0", "random suffix 1", "popularity - 0"} <= records.keys()
    assert "popularity - 1" not in records
    assert re.search(r"\d ± \d", (results / "LEADERBOARD.md").read_text())
    only = sidbench_cli("run", *TINY, *methods, "--seeds", "1", "--results", results)
    assert only.out.count("kept from an earlier run") == 2  # a reference is the same whatever the seeds


def test_redo_runs_what_is_done(sidbench_cli: Cli, results: Path) -> None:
    before = loaded(results)["random suffix 0"]
    said = sidbench_cli("run", *TINY, "--methods", "random", "--redo", "--results", results)
    assert "kept from an earlier run" not in said.out
    assert loaded(results)["random suffix 0"].metrics == before.metrics


def test_other_cutoffs_are_no_other_sample(sidbench_cli: Cli, results: Path) -> None:
    line = ("run", *TINY, "--methods", "random", "--results", results)
    assert sidbench_cli(*line, "--cutoffs", "1,10").code == 0
    assert len(list((results / "records" / "synthetic-tiny" / "random").glob("*.json"))) == 2
    assert not re.search(r"\d ± \d", (results / "LEADERBOARD.md").read_text())


def test_variants_stand_beside_each_other(sidbench_cli: Cli, tmp_path: Path, results: Path) -> None:
    config = tmp_path / "runs.toml"
    config.write_text('methods = ["rq-kmeans", "rq-kmeans@short"]\n[set."rq-kmeans@short"]\niters = 1\n')
    said = sidbench_cli("run", *TINY, "--config", config, "--results", results)
    assert said.code == 0
    assert loaded(results)["rq-kmeans@short suffix 0"].key["params"]["iters"] == 1
    assert "rq-kmeans@short" in (results / "LEADERBOARD.md").read_text()
    assert str(tmp_path) not in (results / "LEADERBOARD.md").read_text()


def test_seen_items_can_be_masked(sidbench_cli: Cli, results: Path) -> None:
    methods = ("--methods", "popularity,random", "--seen", "mask", "--cutoffs", "5,20")
    assert sidbench_cli("run", *TINY, *methods, "--results", results).code == 0
    masked = [
        r for _, r in Store(results).all() if isinstance(r, RunRecord) and r.key["protocol"]["seen"] == "mask"
    ]
    assert len(masked) == 2
    for record in masked:  # a full list although the seen items are gone: chance of 20 places at the least
        assert record.metrics["recall@20"] > 0


def test_one_code_for_all_is_chance_at_item_level(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write("constant", plugin("constant"))
    sidbench_cli("run", *TINY, "--methods", "constant", "--resolvers", "keep", "--results", tmp_path / "r")
    (record,) = loaded(tmp_path / "r").values()
    n = record.key["dataset"]["items"]
    for k in record.key["protocol"]["cutoffs"]:
        assert record.metrics[f"recall@{k}"] == pytest.approx(k / n, rel=1e-12)
        assert record.metrics[f"sid_recall@{k}"] == 1
    assert record.metrics["collision_items"] == 1


def test_the_order_in_which_encode_is_timed_changes_nothing(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that draws from the global generator is repeatable, however often its speed is measured."""
    plugin_folder.write("draws", plugin("draws", encode="np.random.randint(8, size=(len(x), self.levels))"))
    line = ("run", *TINY, "--methods", "draws", "--results")
    sidbench_cli(*line, tmp_path / "a")
    rate = clock.items_per_second
    monkeypatch.setattr(clock, "items_per_second", lambda work, *rest: (work(), work(), rate(work, *rest))[2])
    sidbench_cli(*line, tmp_path / "b")
    (a,), (b,) = loaded(tmp_path / "a").values(), loaded(tmp_path / "b").values()
    assert a.metrics == b.metrics


# ------------------------------------------------------------------------------------------- what goes wrong

FAULTS = {
    "raises": (
        plugin("raises", fit="raise RuntimeError('no [luck] today')"),
        "fit",
        r"RuntimeError: no \[luck\] today \(raises.py, line 12, in fit\)",
    ),
    "exits": (
        plugin("exits", fit="raise SystemExit(0)"),
        "fit",
        r"SystemExit: 0 \(exits.py, line 12, in fit\)",
    ),
    "floats": (plugin("floats", encode=f"{ZEROS}.astype(float)"), "fit", "floats.encode: codes are float64"),
    "range": (plugin("range", encode=f"{ZEROS} + 8"), "fit", r"level 0 holds codes 8..8; expected 0..7"),
    "few": (
        plugin("few", encode=f"{ZEROS}[1:]"),
        "fit",
        "few.encode returned 299 rows of codes for 300 items",
    ),
    "writes": (plugin("writes", fit="x[0] = 1"), "fit", r"read-only \(writes.py, line 12, in fit\)"),
    "forgets": (plugin("forgets", fit="return None"), "fit", "forgets.fit must return self"),
    "odd": (
        plugin("odd") + "\n    def facts(self):\n        return {'x': object()}\n",
        "encode",
        r"odd.facts\(\) holds object",
    ),
    "path": (
        plugin("path", fit="open('/no/such/dir/file.npy')"),
        "fit",
        r"No such file or directory: 'file.npy'",
    ),
}


def test_a_plugin_that_fails_is_a_failed_row_and_the_others_stand(
    plugin_folder: PluginFolder, sidbench_cli: Cli, results: Path
) -> None:
    for name, (text, _, _) in FAULTS.items():
        plugin_folder.write(name, text)
    methods = ",".join([*FAULTS, "random"])
    said = sidbench_cli("run", *TINY, "--methods", methods, "--results", results)
    assert said.code == 1
    assert f"{len(FAULTS)} of {len(FAULTS) + 1} rows failed; the others stand" in said.out
    assert said.out.count("kept from an earlier run") == 1
    board = (results / "LEADERBOARD.md").read_text()
    for name, (_, stage, message) in FAULTS.items():
        record = loaded(results)[f"{name} suffix 0"]
        assert record.status == "failed"
        assert record.error is not None
        assert record.error["stage"] == stage
        assert re.search(message, record.error["message"]), record.error["message"]
        assert not record.metrics
        assert str(plugin_folder.path) not in json.dumps(record.error)
        assert f"{name} (failed)" in board
    shown = sidbench_cli("show", "raises", "--results", results)
    assert shown.code == 2
    assert "failed in fit" in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "rq-kmean"), "unknown method 'rq-kmean'; did you mean 'rq-kmeans'"),
        (("--dataset", "syntetic"), "unknown dataset 'syntetic'; did you mean 'synthetic'"),
        (("--resolvers", "sufix"), "unknown resolver 'sufix'; did you mean 'suffix'"),
        (("--decoder", "quik"), "unknown decoder preset 'quik'; did you mean 'quick'"),
        (("--protocol", "leave-two-out"), "unknown protocol 'leave-two-out'; did you mean 'leave-one-out'"),
        (("--seen", "hide"), "Input should be 'keep' or 'mask'"),
        (("--seeds", "x"), "seeds.0 = 'x'"),
        (("--device", "tpu"), "device = 'tpu'"),
        (("--set", "leave-one-out.x=1"), "leave-one-out has no parameters; leave out leave-one-out.x"),
        (("--set", "rq-kmeans.iter=3"), "rq-kmeans has no parameter 'iter'; did you mean 'iters'"),
        (("--set", "rq-kmeans.iters=0"), "rq-kmeans.iters = 0 does not fit"),
        (("--methods", "random", "--set", "rq-kmeans.iter=3"), "no parameter 'iter'; did you mean 'iters'"),
        (("--set", "rq-kmean.iters=3"), "unknown plugin 'rq-kmean'; did you mean 'rq-kmeans'"),
        (("--set", "decoder.step=3"), "no parameter 'step'; did you mean 'steps'"),
        (("--set", "all.iters=3"), "unknown parameter of every tokenizer 'iters'"),
        (("--set", "random.seed=3"), "--seeds sets it"),
        (("--set", "decoder.device=cpu"), "--device sets it"),
        (("--methods", "rq-kmeans@long"), "unknown variant 'rq-kmeans@long'"),
        (("--set", "dataset.sized=3"), "no parameter 'sized'; did you mean 'size'"),
        (("--set", "iters=3"), "expected NAME.PARAMETER=VALUE"),
        (("--config", "no.toml"), "there is no run file no.toml"),
    ],
)
def test_wrong_usage_is_one_message_before_anything_is_read(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(registry, "load_dataset", lambda *_: pytest.fail("the data was read"))
    monkeypatch.chdir(tmp_path)
    found = sidbench_cli("run", *arguments)
    assert found.code == 2
    assert said in found.err
    assert found.err.startswith("error: ")
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_are_one_message(sidbench_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = sidbench_cli("run", *TINY, "--methods", "popularity", "--results", tmp_path / "file")
    assert said.code == 1
    assert "results cannot be written to" in said.err


def test_a_full_disk_is_one_message(
    sidbench_cli: Cli, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(results)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = sidbench_cli("run", *TINY, "--methods", "item-knn", "--results", results)
    assert said.code == 1
    assert "cannot be written (No space left on device)" in said.err
    assert "records already written stand" in said.err
    assert files(results) == before


def test_an_artifact_that_cannot_be_written_ends_the_run(
    sidbench_cli: Cli, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = files(results)
    monkeypatch.setattr(SIDs, "save", full)
    line = ("run", *TINY, "--methods", "random,popularity", "--seeds", "7", "--results", results)
    said = sidbench_cli(*line)
    assert said.code == 1
    assert "cannot be written ([Errno 28] No space left on device)" in said.err
    assert "run the same command again" in said.err
    assert {k: v for k, v in files(results).items() if k != "LEADERBOARD.md"} == {
        k: v for k, v in before.items() if k != "LEADERBOARD.md"
    }


@pytest.mark.parametrize(
    "fault",
    [
        "def state(self):\n        raise OSError(28, 'No space left on device')",
        "def state(self):\n        open('/no/such/file')",
        "def save(self, folder):\n        raise OSError('a service is away')",
        "def save(self, folder):\n        raise PermissionError(13, 'Permission denied', '/etc/shadow')",
    ],
)
def test_an_error_of_a_plugin_that_is_saved_is_its_rows_alone(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, fault: str
) -> None:
    plugin_folder.write("leaks", plugin("leaks") + f"\n    {fault}\n")
    said = sidbench_cli("run", *TINY, "--methods", "leaks,popularity", "--results", tmp_path / "r")
    assert said.code == 1
    assert "1 of 2 rows failed; the others stand" in said.out
    error = loaded(tmp_path / "r")["leaks suffix 0"].error
    assert error is not None
    assert error["stage"] == "save"
    assert loaded(tmp_path / "r")["popularity - 0"].status == "ok"


def test_what_no_row_reads_is_noted(sidbench_cli: Cli, results: Path) -> None:
    extra = ("--set", "rq-kmeans@long.iters=99")
    said = sidbench_cli("run", *TINY, *extra, "--methods", "random", "--results", results)
    assert said.code == 0
    assert "--set rq-kmeans@long is not used by any row of this run" in said.out


# --------------------------------------------------------------------------------------- scripts and plans


def test_json_is_all_there_is_on_standard_output(
    plugin_folder: PluginFolder, sidbench_cli: Cli, results: Path
) -> None:
    plugin_folder.write("prints", plugin("prints", fit="print('hello from a plugin')"))
    said = sidbench_cli("run", *TINY, "--methods", "prints,random", "--results", results, "--json")
    assert said.code == 0
    records = json.loads(said.out)
    assert [r["key"]["label"] for r in records] == ["prints", "random"]
    assert "hello from a plugin" in said.err


def test_a_dry_run_runs_nothing(sidbench_cli: Cli, results: Path, tmp_path: Path) -> None:
    before = files(results)
    line = ("run", *TINY, "--methods", "random,rq-kmeans", "--set", "rq-kmeans.iters=2", "--dry-run")
    said = sidbench_cli(*line, "--results", results)
    assert said.code == 0
    assert "1 of 2 rows to run" in said.out
    assert "No row was run" in said.out
    assert "at most about" in said.out
    assert files(results) == before
    told = json.loads(sidbench_cli(*line, "--results", tmp_path / "new", "--json").out)
    assert told["total"]["rows"] == 2
    assert all(row["seconds"] > 0 and row["disk_mb"] > 0 for row in told["rows"])
    assert told["total"]["memory_mb"] > 100  # this process alone holds that
    assert told["total"]["cached_mb"] == 0
    assert not (tmp_path / "new").exists()


def test_an_estimate_comes_from_an_earlier_run_where_there_is_one(sidbench_cli: Cli, results: Path) -> None:
    line = ("run", *TINY, "--methods", "random", "--seeds", "5", "--dry-run", "--json", "--results", results)
    (row,) = json.loads(sidbench_cli(*line).out)["rows"]
    assert row["known"]


def test_an_estimate_goes_by_the_same_protocol(sidbench_cli: Cli, results: Path) -> None:
    line = ("run", *TINY, "--methods", "random", "--seeds", "5", "--dry-run", "--json", "--results", results)
    for other in (("--seen", "mask"), ("--protocol", "cold-start")):
        (row,) = json.loads(sidbench_cli(*line, *other).out)["rows"]
        assert not row["known"]


def test_an_estimate_without_an_earlier_run_is_of_the_right_size(sidbench_cli: Cli, tmp_path: Path) -> None:
    line = ("run", *TINY, "--methods", "random,item-knn", "--results", tmp_path / "r")
    line += ("--set", "decoder.steps=150", "--set", "decoder.eval_every=50")
    rows = json.loads(sidbench_cli(*line, "--dry-run", "--json").out)["rows"]
    assert not any(row["known"] for row in rows)
    start = time.perf_counter()
    sidbench_cli(*line)
    took = time.perf_counter() - start
    # A second a row is added for what no trial sees; a busy machine may do the rest.
    assert took / 8 < sum(row["seconds"] for row in rows) < 8 * took + 2


def test_a_dry_run_tells_what_the_data_left_in_the_cache(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))

    class OnDisk(Dataset):
        name = "on-disk"

        def load(self) -> Corpus:
            made: Corpus = registry.find("dataset", "synthetic")(size="tiny").load()

            def fill(out: Any) -> None:
                out[:] = made.embeddings

            return replace(made, embeddings=cached_rows("on-disk", made.embeddings.shape, fill))

    monkeypatch.setattr(registry, "make_dataset", lambda *_: OnDisk())
    line = ("run", *TINY, "--methods", "popularity", "--dry-run", "--results", tmp_path / "r")
    assert "of cache." in sidbench_cli(*line).out
    assert "of cache." not in sidbench_cli(*line).out  # it is there already


def test_what_learns_is_given_no_test_targets() -> None:
    settings = read_settings(None, {"dataset": "synthetic:tiny", "methods": "popularity"}, [])
    made = plan.make_plan(settings, dry=True).bench
    assert len(made.learning.test) == 0
    assert len(made.learning.valid) == len(made.split.valid) > 0
    assert made.learning.queries == len(made.split.test) > 0
    assert made.learning.places == bench.places_needed(made) == max(made.cutoffs)
    masked = replace(made, seen="mask").learning
    assert masked.places == bench.places_needed(replace(made, seen="mask")) > max(made.cutoffs)
    assert (made.learning.train.items == made.split.train.items).all()


@pytest.mark.parametrize("seen", ["keep", "mask"])
def test_lists_are_as_long_as_the_largest_cutoff_needs(seen: str) -> None:
    settings = read_settings(None, {"dataset": "synthetic:tiny", "methods": "popularity", "seen": seen}, [])
    made = plan.make_plan(settings, dry=True).bench
    longest = max(len(np.unique(h)) for h in made.split.test.histories)
    assert bench.places_needed(made) == 20 + (longest if seen == "mask" else 0)


# ----------------------------------------------------------------------------- leaderboard, clean and show


def test_an_edited_board_is_found_out(sidbench_cli: Cli, results: Path) -> None:
    assert sidbench_cli("leaderboard", "--check", "--results", results).code == 0
    board = results / "LEADERBOARD.md"
    text = board.read_text()
    board.write_text(text.replace("0.", "0.9", 1))
    said = sidbench_cli("leaderboard", "--check", "--results", results, "--json")
    assert said.code == 1
    assert json.loads(said.out)["differences"]
    assert sidbench_cli("leaderboard", "--results", results).code == 0
    assert board.read_text() == text
    board.unlink()
    said = sidbench_cli("leaderboard", "--check", "--results", results)
    assert said.code == 1
    assert "there is no board" in said.err


def test_a_torn_record_is_reported_and_the_board_is_made_of_the_others(
    sidbench_cli: Cli, results: Path
) -> None:
    path = Store(results).path(loaded(results)["random suffix 0"].key)
    path.write_text("{")
    said = sidbench_cli("leaderboard", "--results", results)
    assert said.code == 1
    assert f"left out: {path} is no whole record" in said.err
    assert "rq-kmeans" in (results / "LEADERBOARD.md").read_text()


def test_clean_lists_what_is_stale_and_removes_it_when_told(sidbench_cli: Cli, results: Path) -> None:
    assert json.loads(sidbench_cli("clean", "--results", results, "--json").out)["stale"] == []
    record = loaded(results)["random suffix 0"]
    path = Store(results).path(record.key)
    path.write_text(path.read_text().replace(record.code, "0" * 16))
    (path.parent / f".{path.name}-abc").write_text("half")
    (results / ".LEADERBOARD.md-abc").write_text("half")
    before = files(results)
    said = sidbench_cli("clean", "--results", results)
    assert said.code == 0
    assert f"{path}: made by older code" in said.out
    assert "left over from a run that was killed" in said.out
    assert "5 stale; --yes removes them" in said.out
    assert files(results) == before
    assert sidbench_cli("clean", "--results", results, "--yes").code == 0
    assert "random suffix 0" not in loaded(results)
    assert not Store(results).artifact(record.key).exists()
    assert not path.parent.exists()
    assert not Store(results).artifact(record.key).parent.exists()
    assert not list(results.rglob(".*"))
    assert "rq-kmeans suffix 0" in loaded(results)
    assert sidbench_cli("leaderboard", "--check", "--results", results).code == 0


def test_clean_keeps_what_it_cannot_judge(
    plugin_folder: PluginFolder, sidbench_cli: Cli, results: Path
) -> None:
    file = plugin_folder.write("constant", plugin("constant"))
    sidbench_cli("run", *TINY, "--methods", "constant", "--results", results)
    file.unlink()
    registry.scan.cache_clear()
    said = json.loads(sidbench_cli("clean", "--results", results, "--yes", "--json").out)
    assert said["stale"] == []
    assert len(said["unknown"]) == 1
    assert "constant suffix 0" in loaded(results)


def test_show_tells_of_a_run_and_of_an_item(sidbench_cli: Cli, results: Path) -> None:
    record = loaded(results)["rq-kmeans suffix 0"]
    said = sidbench_cli("show", "rq-kmeans", "--results", results)
    assert said.code == 0
    assert record.id in said.out
    assert "Most shared codes" in said.out
    run = json.loads(sidbench_cli("show", record.id[:6], "--results", results, "--json").out)
    assert run["record"]["id"] == record.id
    assert run["items"] == 300
    item = json.loads(sidbench_cli("show", record.id, "--item", "7", "--results", results, "--json").out)
    assert item["item"] == "7"
    assert len(item["sid"]) == 3
    counts = [n["items"] for n in item["neighbours"]]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == len(item["shares"]) + 1
    text = sidbench_cli("show", record.id, "--item", "7", "--results", results).out
    assert "-".join(map(str, item["sid"])) in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nothing"), "there is no run 'nothing'"),
        (("show", "popularity"), "popularity has no SIDs: it is a reference"),
        (("show", "random", "--item", "x"), "there is no item 'x' in this run; its ids look like"),
    ],
)
def test_show_says_what_is_not_there(
    sidbench_cli: Cli, first: Path, arguments: tuple[str, ...], said: str
) -> None:
    found = sidbench_cli(*arguments, "--results", first)
    assert found.code == 2
    assert said in found.err


def test_titles_with_brackets_are_shown_as_they_are(sidbench_cli: Cli, results: Path) -> None:
    folder = Store(results).artifact(loaded(results)["random suffix 0"].key)
    sids = SIDs.load(folder)
    sids.save(folder, np.array([f"[bold]Vol {i}[/nonsense]" for i in range(len(sids))]))
    assert "[bold]Vol" in sidbench_cli("show", "random", "--results", results).out
    assert "[/nonsense]" in sidbench_cli("show", "random", "--item", "7", "--results", results).out


@pytest.mark.parametrize("command", [("leaderboard",), ("clean",), ("show", "random")])
def test_a_results_folder_that_is_not_there(sidbench_cli: Cli, tmp_path: Path, command: Any) -> None:
    said = sidbench_cli(*command, "--results", tmp_path / "none")
    assert said.code == 2
    assert "there is no results folder" in said.err


# --------------------------------------------------------------------------------- list, check, new, doctor


def test_a_new_tokenizer_works_as_written(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    said = sidbench_cli("new", "tokenizer", "my-idea", "--folder", plugin_folder.path)
    assert said.code == 0
    assert f"SIDBENCH_PLUGIN_PATH={plugin_folder.path}" in said.out
    text = (plugin_folder.path / "my_idea.py").read_text()
    assert "class MyIdea(Tokenizer)" in text
    assert "my-method" not in text
    plugin_folder.write("my_idea", text)
    checked = json.loads(sidbench_cli("check", "my-idea", "--json").out)
    assert [c for c in checked if not c["passed"]] == []
    assert len(checked) > 10
    ran = sidbench_cli(
        "run", *TINY, "--methods", "my-idea", "--set", "my-idea.keep=0.5", "--results", tmp_path / "r"
    )
    assert ran.code == 0
    again = sidbench_cli("new", "tokenizer", "my-idea", "--folder", plugin_folder.path)
    assert again.code == 2
    assert "there is a tokenizer 'my-idea' already" in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tokeniser", "x"), "unknown kind 'tokeniser'; did you mean 'tokenizer'"),
        (("tokenizer", "My Method"), "'My Method' is no plugin name"),
        (("tokenizer", "random"), "there is a tokenizer 'random' already"),
        (("tokenizer", "x", "--folder", "/dev/null/x"), "cannot be written"),
    ],
)
def test_new_says_what_does_not_fit(sidbench_cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    found = sidbench_cli("new", *arguments)
    assert found.code == 2
    assert said in found.err


def test_list_tells_everything_and_json_is_valid(plugin_folder: PluginFolder, sidbench_cli: Cli) -> None:
    plugin_folder.write("harmed", "import no_such_module")
    said = sidbench_cli("list")
    assert said.code == 0
    assert all(
        name in said.out for name in ("rq-kmeans", "synthetic", "suffix", "item-knn", "recall@K", "paper")
    )
    assert "✗ harmed" in said.out
    assert "no_such_module" in said.out
    every = json.loads(sidbench_cli("list", "--json").out)
    kmeans = next(m for m in every["methods"] if m["name"] == "rq-kmeans")
    assert {"iters", "levels"} <= {p["name"] for p in kmeans["parameters"]}
    assert every["broken"][0]["name"] == "harmed"
    for kind in every.keys() - {"broken"}:
        assert json.loads(sidbench_cli("list", kind, "--json").out)[kind] == every[kind]
        assert all(e["name"] in sidbench_cli("list", kind).out for e in every[kind])
    wrong = sidbench_cli("list", "method")
    assert wrong.code == 2
    assert "did you mean 'methods'" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("random", "--set", "levels=2"), 0),
        (("random", "--set", "random.levels=2", "--set", "codebook_size=[4,7]"), 0),
        (("suffix",), 0),
        (("synthetic:tiny",), 0),
    ],
)
def test_check_takes_parameters_and_variants(
    sidbench_cli: Cli, arguments: tuple[str, ...], code: int
) -> None:
    said = sidbench_cli("check", *arguments)
    assert said.code == code, said.out
    assert "checks passed" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("randm",), "unknown plugin 'randm'; did you mean 'random'"),
        (("random", "--set", "level=2"), "random has no parameter 'level'; did you mean 'levels'"),
        (("random", "--set", "rq-kmeans.levels=2"), "'rq-kmeans' is not what is checked here (random)"),
        (("synthetic:tyni",), "size = 'tyni' does not fit"),
        (("popularity",), "'popularity' is a reference"),
    ],
)
def test_check_says_what_does_not_fit(sidbench_cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    found = sidbench_cli("check", *arguments)
    assert found.code == 2
    assert said in found.err


def test_a_check_that_fails_is_told_and_exits_with_1(plugin_folder: PluginFolder, sidbench_cli: Cli) -> None:
    plugin_folder.write("floats", plugin("floats", encode=f"{ZEROS}.astype(float)"))
    said = sidbench_cli("check", "floats")
    assert said.code == 1
    assert "codes are float64" in said.out


def test_doctor_tells_what_there_is_and_what_is_wrong(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDBENCH_DATA", str(tmp_path / "[gone]"))
    (tmp_path / "file").write_text("")
    plugin_folder.write("harmed", "import no_such_module")
    told = json.loads(sidbench_cli("doctor", "--results", tmp_path / "file", "--json").out)
    assert {"versions", "device", "threads", "faiss", "folders", "plugins", "problems"} <= told.keys()
    problems = "\n".join(told["problems"])
    for part in ("plugin harmed", "[gone], which is no folder", "file cannot be written"):
        assert part in problems
    said = sidbench_cli("doctor", "--results", tmp_path / "file")
    assert said.code == 1
    assert "[gone]" in said.out


# ------------------------------------------------------------------------------------------------- stopped


def test_a_run_that_is_stopped_goes_on_from_there(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9, then Ctrl-C, while one method blocks; what had finished stands both times."""
    wait = "import os, time; open('started', 'w').close(); time.sleep(0 if os.path.exists('go') else 60)"
    plugin_folder.write("blocks", plugin("blocks", fit=wait))
    env = {**os.environ, "SIDBENCH_PLUGIN_PATH": str(plugin_folder.path), "COLUMNS": "60"}
    line = [sys.executable, "-m", "sidbench", "run", *TINY, "--methods", "popularity,blocks,item-knn"]

    def start() -> subprocess.Popen[str]:
        (tmp_path / "started").unlink(missing_ok=True)
        process = subprocess.Popen(
            line, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not (tmp_path / "started").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        return process

    killed = start()
    killed.kill()
    killed.communicate()
    assert loaded(tmp_path / "results").keys() == {"popularity - 0"}
    assert "popularity" in (tmp_path / "results" / "LEADERBOARD.md").read_text()

    stopped = start()
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=30)
    assert stopped.returncode == 130
    assert "kept from an earlier run" in out
    assert "the same command goes on from there" in err
    assert "Traceback" not in out + err
    assert loaded(tmp_path / "results").keys() == {"popularity - 0"}

    (tmp_path / "go").touch()
    monkeypatch.chdir(tmp_path)
    done = sidbench_cli(*line[3:])
    assert done.code == 0
    assert done.out.count("kept from an earlier run") == 1
    assert len(loaded(tmp_path / "results")) == 3
    assert not list((tmp_path / "results").rglob(".*"))
