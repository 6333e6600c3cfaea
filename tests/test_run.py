"""The story: run, run again, change something, stop in the middle."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidbench import clock, registry
from sidbench.record import RunRecord, Store, read
from tests.conftest import PluginFolder, Said
from tests.tiny import TINY, files, loaded, plugin

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")


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
    assert all(name in board for name in ("random", "rq-kmeans", "popularity", "1 thread"))
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
