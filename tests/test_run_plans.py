"""Runs for scripts, and plans: what JSON holds, what a dry run tells, what learns is given."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench import plan, registry
from sidbench.dataset import Corpus, Dataset, cached_rows
from sidbench.settings import read_settings
from sidbench.task import places_needed
from tests.conftest import PluginFolder, Said
from tests.tiny import TINY, files, plugin

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")


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
    assert made.learning.places == places_needed(made) == max(made.cutoffs)
    masked = replace(made, seen="mask").learning
    assert masked.places == places_needed(replace(made, seen="mask")) > max(made.cutoffs)
    assert (made.learning.train.items == made.split.train.items).all()


@pytest.mark.parametrize("seen", ["keep", "mask"])
def test_lists_are_as_long_as_the_largest_cutoff_needs(seen: str) -> None:
    settings = read_settings(None, {"dataset": "synthetic:tiny", "methods": "popularity", "seen": seen}, [])
    made = plan.make_plan(settings, dry=True).bench
    longest = max(len(np.unique(h)) for h in made.split.test.histories)
    assert places_needed(made) == 20 + (longest if seen == "mask" else 0)
