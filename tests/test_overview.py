"""Boards together: resolvers, lengths of SIDs, datasets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sidbench.report import check, leaderboard
from sidbench.report.board import tables as board_tables
from sidbench.report.overview import families, ranks
from tests.shop_runs import (
    KEY,
    dataset,
    keep,
    printed,
    reference,
    row,
    run,
    several,
)

Cli = Callable[..., Any]


def test_the_best_resolver_of_each_method_stands_first() -> None:
    (family,) = families(board_tables(several()))
    assert [(r.name, family.named[r.name].resolver) for r in family.best.rows] == [
        ("a", "suffix"),
        ("knn", ""),
        ("b", "keep"),
    ]
    assert len(family.whole.rows) == 4
    text = leaderboard(several())
    first = text.index(": the best resolver of each method")
    assert first < text.index("Every method with every resolver") < text.index("### Quality")
    assert "flatters it" in text
    assert "| a | 3 × 256 | suffix | **0.5050 ± 0.0071** |" in text
    assert check(text, several()) == []
    assert check(text.replace("0.4550", "0.4650"), several())


def test_the_whole_matrix_has_every_method_with_every_resolver() -> None:
    records = [*several(), keep("c", 0.2)]
    (family,) = families(board_tables(records))
    assert family.grid[0] == ["Method", "keep", "suffix"]
    assert {line[0]: line[1:] for line in family.grid[1:]}["c"] == ["0.2000", "–"]
    for width in (60, 80, 120):
        best, whole = printed(records, width), printed(records, width, matrix=True)
        assert max(map(len, [*best.splitlines(), *whole.splitlines()])) <= width
        assert len(re.findall(r"^ *a +(?:keep|suffix) ", best, flags=re.M)) == 1
        assert len(re.findall(r"^ *a +(?:keep|suffix) ", whole, flags=re.M)) == 2
        assert "--matrix" in best


def test_a_run_that_failed_under_one_resolver_is_said() -> None:
    broken = keep("c", 0.2)
    error = {"type": "ContractError", "message": "codes out of range", "stage": "resolve"}
    records = [*several(), run("c", 0.1), replace(broken, status="failed", error=error, metrics={}, facts={})]
    assert "failed" in leaderboard(records)
    assert "codes out of range" in " ".join(printed(records).split())


def test_rows_of_several_lengths_stand_beside_each_other_with_their_bits() -> None:
    long = run("a", 0.6, sizes=(256,) * 4, params={"levels": 4})
    text = leaderboard([run("a", 0.5), run("b", 0.4), long])
    assert ": SIDs of every length" in text
    assert "| a | 4 × 256 | **0.6000** |" in text
    assert "compare those of equal bits" in text
    assert "4 × 256 (32 bits)" in text
    assert "; the resolver's level adds 4" in text


def test_tables_that_differ_in_more_are_no_family() -> None:
    other = run("a", 0.5, decoder=KEY["decoder"] | {"preset": "standard", "params": {"width": 9}})
    assert families(board_tables([run("a", 0.5), other])) == []


def test_ranks_over_datasets_count_rows_that_all_have() -> None:
    first = [run("a", 0.5), run("b", 0.4), run("c", 0.3), reference("knn", 0.6)]
    second = [
        run("a", 0.10, dataset=dataset("books")),
        run("b", 0.20, dataset=dataset("books")),
        run("c", 0.10, dataset=dataset("books")),
        run("d", 0.90, dataset=dataset("books")),
        reference("knn", 0.05, dataset=dataset("books")),
    ]
    (found,) = ranks(board_tables([*first, *second]))
    assert found.datasets == ("books", "shop")
    assert {r.row.name: r.ranks for r in found.rows} == {
        "a": (2.5, 2),
        "b": (1, 3),
        "c": (2.5, 4),
        "knn": (4, 1),
    }
    assert found.best == {"b"}
    assert found.missing == ("d",)
    text = leaderboard([*first, *second])
    assert "## Over 2 datasets" in text
    assert "left out: d." in text
    assert row(text, "| b | **2.00**")
    assert "Mean" in printed([*first, *second])
    assert check(text, [*first, *second]) == []
    # One dataset, or rows that no two share, have no ranks over datasets.
    assert ranks(board_tables(first)) == []
    assert ranks(board_tables([run("a", 0.1), run("b", 0.2, dataset=dataset("books"))])) == []
