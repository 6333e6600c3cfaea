"""What goes wrong in a run: wrong words, plugins that fail, disks that are full."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sidbench import registry
from sidbench.sids import SIDs
from tests.conftest import PluginFolder, Said
from tests.tiny import TINY, ZEROS, files, loaded, plugin

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")


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
        (("rq-kmeans",), "Methods go by --methods"),
        (("--methods", "rq-kmeans,", "random"), "what is 'random'? Methods go by --methods"),
        (("--resume",), "goes on with the same command"),
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
