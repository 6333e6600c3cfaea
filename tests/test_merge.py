"""Merging: the runs of other machines, taken in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidbench.record import RunRecord, Store
from sidbench.report.board import tables as board_tables
from tests.shop_runs import (
    KEY,
    run,
    saved,
)

Cli = Callable[..., Any]


def test_merging_takes_in_other_machines_and_keeps_them_apart(sidbench_cli: Cli, tmp_path: Path) -> None:
    other = KEY["hardware"] | {"cpu": "another"}
    here = saved(tmp_path / "here", [run("a", 0.5), run("b", 0.4)])
    there = saved(tmp_path / "there", [run("a", 0.5), run("a", 0.6, hardware=other), run("c", 0.3)])
    said = sidbench_cli("leaderboard", "--results", here, "--merge", there)
    assert said.code == 0
    assert "2 runs taken in" in said.out
    found = board_tables([r for _, r in Store(here).all() if isinstance(r, RunRecord)])
    assert sorted([r.name for r in t.rows] for t in found) == [["a"], ["a", "b", "c"]]
    for _, record in Store(here).all():
        assert isinstance(record, RunRecord)
        assert len(Store(here).vectors(record)["user"]) == 400
    assert sidbench_cli("leaderboard", "--results", here, "--check").code == 0
    again = sidbench_cli("leaderboard", "--results", here, "--merge", there)
    assert "0 runs taken in" in again.out


@pytest.mark.parametrize("newer", ["ours", "theirs"])
def test_of_one_run_in_both_the_newer_stands_and_it_is_said(
    newer: str, sidbench_cli: Cli, tmp_path: Path
) -> None:
    dates = {"ours": "2026-01-01", "theirs": "2026-01-01"} | {newer: "2026-02-01"}
    here = saved(tmp_path / "here", [run("a", 0.5, finished=dates["ours"])])
    there = saved(tmp_path / "there", [run("a", 0.6, finished=dates["theirs"])])
    said = sidbench_cli("leaderboard", "--results", here, "--merge", there)
    assert f"is in both; {newer} stands: it is newer" in said.out
    ((_, record),) = Store(here).all()
    assert isinstance(record, RunRecord)
    assert record.metrics["recall@10"] == {"ours": 0.5, "theirs": 0.6}[newer]


def test_a_run_that_failed_elsewhere_replaces_none_that_ran(sidbench_cli: Cli, tmp_path: Path) -> None:
    error = {"type": "E", "message": "no", "stage": "fit"}
    failed = replace(run("a", 0.6, finished="2027"), status="failed", error=error, metrics={})
    here, there = saved(tmp_path / "here", [run("a", 0.5)]), tmp_path / "there"
    Store(there).save(failed, {})
    said = sidbench_cli("leaderboard", "--results", here, "--merge", there)
    assert "ours stands: the other one failed" in said.out
    assert "0.5000" in (here / "LEADERBOARD.md").read_text()
    assert sidbench_cli("leaderboard", "--results", here, "--merge", tmp_path / "nowhere").code == 2
