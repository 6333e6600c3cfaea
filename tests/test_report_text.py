"""Boards as text: what is absent, failed or not to be told apart; the legend; the check; the terminal."""

from __future__ import annotations

import io
import json
import random
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sidbench.errors import DataError
from sidbench.record import RunRecord
from sidbench.report import check, leaderboard, tables, words
from sidbench.report.markdown import escape
from tests.runs import failed, lines, only, rendered, run, usual


def test_absent_values_are_dashes_and_never_nan() -> None:
    a, b = run("a", 0.1), run("b", 0.2)
    a.metrics["ndcg@10"] = float("nan")
    a.metrics["reconstruction_error"] = 0.5
    for text in (leaderboard([a, b]), rendered([a, b], 140)):
        assert not re.search(r"\b(nan|inf|None)\b", text)
        assert "–" in text


def test_a_failed_run_is_a_row_with_its_reason() -> None:
    message = "codes | have *shape*\n(3, 2)\x20\x20<b>"
    records = [run("a", 0.1), failed("broken", message)]
    text = leaderboard(records)
    assert lines(text, "| broken (failed) |")
    assert r"- broken, seed 0, in fit: ContractError: codes \| have \*shape\* (3, 2) &lt;b&gt;" in text
    shown = rendered(records, 100)
    assert "failed" in shown
    assert "in fit: ContractError" in shown


def test_a_failed_seed_does_not_hide_the_others() -> None:
    (row,) = only([run("a", 0.1), run("a", 0.2, seed=1), failed("a", seed=2)]).rows
    assert row.seeds == (0, 1)
    assert [f.seed for f in row.failures] == [2]
    assert row.values["recall@10"].mean == pytest.approx(0.15)


def test_a_reason_names_the_error_once() -> None:
    text = leaderboard([run("a", 0.1), failed("b", "ContractError: too few rows (b.py, line 7)")])
    assert "in fit: ContractError: too few rows" in text
    assert text.count("ContractError") == 1


def test_only_failures_still_make_a_board() -> None:
    text = leaderboard([failed("a"), failed("b")])
    assert len(lines(text, "| ")) == 4
    assert check(text, [failed("a"), failed("b")]) == []
    assert rendered([failed("a")], 80)


def test_of_failures_alone_the_terminal_shows_no_empty_table() -> None:
    text = rendered([failed("a")], 80)
    assert "codes out of range" in text
    assert "Method" not in text
    assert "Method" in rendered([failed("a"), *usual()], 80)


def test_every_shown_column_has_its_legend_and_no_other() -> None:
    text = leaderboard(usual())
    legend = "\n".join(lines(text.partition("## Legend")[2], "- **"))
    assert "**Recall@K**" in legend
    assert "Not rankable across machines" in legend
    assert "MRR" not in legend
    for label in ("Colliding items", "Utilization", "Perplexity", "Fit", "Search", "Inflation"):
        assert f"**{label}" in legend
    assert "Reconstruction" not in legend


def test_the_board_says_how_it_was_made() -> None:
    text = leaderboard(usual())
    for fact in (
        "12,000 items",
        "24 bits",
        "seen items stay",
        "`tiger` with `layers 2, width 64`, preset `quick`",
        "AMD EPYC",
    ):
        assert fact in text
    assert "`sidbench run --methods all`" in text
    assert "sidbench 0.1.0, python 3.11.7, torch 2.6.0" in text
    assert "1.00% of the items share their embedding" in text
    assert "0, 1, 2" in text


def test_the_text_depends_on_the_records_alone() -> None:
    records = usual()
    text = leaderboard(records)
    assert text.endswith("-->\n")
    random.Random(0).shuffle(records)
    # Records read back from JSON have sorted keys and lists for tuples.
    again = [RunRecord(**json.loads(json.dumps(vars(r), sort_keys=True))) for r in records]
    assert leaderboard(again) == text


def test_a_markdown_table_has_as_many_cells_in_every_row() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", leaderboard(usual()), flags=re.M):
        assert len({line.replace(r"\|", "").count("|") for line in block.splitlines()}) == 1


def test_check_accepts_the_boards_own_records_only() -> None:
    records = usual()
    text = leaderboard(records)
    assert check(text, records) == []
    said = check(text, [*records, run("new", 0.08)])
    assert any("is not on the board" in line for line in said)
    assert any("row new: missing on the board" in line for line in said)
    said = check(text, [r for r in records if r.key["label"] != "popularity"])
    assert any("which is not here" in line for line in said)
    assert any("popularity (reference): on the board, but no record gives it" in line for line in said)


def test_check_names_the_number_that_was_changed() -> None:
    text = leaderboard(usual())
    changed = text.replace("**0.0710 ± 0.0010**", "**0.0910 ± 0.0010**", 1)
    assert changed != text
    (said,) = check(changed, usual())
    assert "row balanced, Recall@10 ↑" in said
    assert "0.0910" in said
    assert "0.0710" in said


def test_check_sees_a_removed_row_a_changed_fact_and_a_cut() -> None:
    text = leaderboard(usual())
    row = next(line for line in text.splitlines() if line.startswith("| rq-kmeans"))
    assert any("rq-kmeans: missing" in said for said in check(text.replace(row + "\n", "", 1), usual()))
    assert any("48,000" in said for said in check(text.replace("12,000 items", "48,000 items"), usual()))
    assert check(text[:-1], usual())
    assert any("cut short" in said for said in check(text[: len(text) // 2], usual()))


def test_no_records_make_a_board_that_says_so() -> None:
    assert "No records yet" in leaderboard([])
    assert check(leaderboard([]), []) == []
    assert tables([]) == []


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_terminal_table_fits_and_keeps_the_headline(width: int) -> None:
    shown = rendered(usual(), width)
    assert max(map(len, shown.splitlines())) <= width
    for needed in (
        "Method",
        "Recall@10",
        "0.0710 ± 0.0010",
        "random (floor)",
        "popularity (reference)",
        "failed",
    ):
        assert needed in shown
    assert "…" not in shown


# ---------------------------------------------------------------------------------------------- differences


def places_of(record: RunRecord) -> dict[str, Any]:
    """Where 2,000 users found their target, so that recall@10 is what the record says."""
    rng = np.random.default_rng([record.key["seed"], len(record.label)])
    hit = rng.random(2000) < record.metrics["recall@10"]
    size = np.ones(2000, dtype=np.int32)
    return {"user": np.arange(2000), "target_before": np.where(hit, 3, -1), "target_size": size}


def test_rows_that_cannot_be_told_apart_are_named() -> None:
    runs = [run("rq-kmeans", 0.50, seed=s) for s in range(3)] + [
        run("rq-vae", 0.501, seed=s) for s in range(3)
    ]
    runs += [run("random", 0.2, seed=s) for s in range(3)]
    page = leaderboard(runs, places_of)
    assert "Rows that share a letter cannot be told apart by recall@10, at 5%." in page
    assert "| **rq-vae** | a |" in page or "| rq-vae | a |" in page
    assert "| rq-kmeans | a |" in page
    assert "| *random (floor)* | b |" in page
    assert re.search(r"\| random \| 0\.(2[89]|3[01])", page)
    assert check(page, runs, places_of) == []
    shown = io.StringIO()
    for table in tables(runs, vectors=places_of):
        Console(file=shown, width=200).print(table)
    assert re.search(r"rq-vae +a ", shown.getvalue())


def test_one_seed_is_said_to_know_no_noise_of_training() -> None:
    runs = [run("rq-kmeans", 0.5), run("random", 0.2)]
    page = leaderboard(runs, places_of)
    assert "at 5%; with one seed the noise of training is not in it" in page


def test_without_places_or_with_other_users_nothing_is_compared() -> None:
    runs = [run("rq-kmeans", 0.5), run("random", 0.2)]

    def gone(record: RunRecord) -> dict[str, Any]:
        raise DataError("gone")

    def others(record: RunRecord) -> dict[str, Any]:
        return places_of(record) | {"user": np.arange(2000) + len(record.label)}

    for vectors in (None, gone, others):
        page = leaderboard(runs, vectors)
        assert "Differences" not in page
        assert "Alike" not in page


def test_no_line_end_in_a_name_lets_markup_out() -> None:
    """A folder may be called anything: an empty line would end a code span, and a table's cell."""
    name = "x`\n\n<script>\r\n|"
    assert words.code(name) == "`x'  <script> |`"
    assert escape(name) == "x\\`  &lt;script&gt; \\|"
