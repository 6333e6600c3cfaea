"""What lies in a results folder: the board and its check, what is stale, what is shown of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench import parts, registry
from sidbench.catalogue.files import locked
from sidbench.record import Store
from sidbench.sids import SIDs
from tests.conftest import PluginFolder, Said
from tests.tiny import TINY, files, loaded, plugin

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")


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


def test_clean_leaves_alone_what_a_living_process_holds(sidbench_cli: Cli, results: Path) -> None:
    store = Store(results)
    record = loaded(results)["random suffix 0"]
    checkpoints = store.unfinished(record.key) / "fit"
    checkpoints.mkdir(parents=True)
    with (
        locked(store.claim(record.key), "a row"),
        parts.file_beside(store.path(record.key)) as (handle, half),
        parts.folder_beside(store.artifact(record.key)) as folder,
    ):
        os.close(handle)
        said = sidbench_cli("clean", "--results", results, "--yes", "--json")
        assert json.loads(said.out)["stale"] == []
        assert all(p.exists() for p in (store.claim(record.key), checkpoints, half, folder))
    store.claim(record.key).parent.mkdir(exist_ok=True)
    store.claim(record.key).write_text("1")  # as a killed one leaves it
    stale = json.loads(sidbench_cli("clean", "--results", results, "--yes", "--json").out)["stale"]
    assert [Path(s["path"]) for s in stale] == [store.claim(record.key), checkpoints.parent]
    assert "left over" in stale[0]["reason"]
    assert not checkpoints.parents[1].exists()


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
