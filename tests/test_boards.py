"""Boards: what scoring SIDs would turn round, and which columns there are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.errors import UsageError
from sidbench.metrics import METRICS, Places, ranking_metrics
from sidbench.metrics.size import size_metrics
from sidbench.record import RunRecord, Store
from sidbench.report import Boards, check, leaderboard
from sidbench.report.board import tables as board_tables
from sidbench.report.columns import known_columns
from sidbench.report.markdown import chosen
from sidbench.report.table import FLIPPED, WITHIN
from tests.shop_runs import (
    cells,
    keep,
    places,
    printed,
    reference,
    row,
    run,
    saved,
    several,
)

Cli = Callable[..., Any]


def test_an_order_that_scoring_sids_would_turn_round_is_marked() -> None:
    records = [run("crowded", 0.3, sid=0.9), run("plain", 0.5), run("low", 0.1), reference("knn", 0.4)]
    (table,) = board_tables(records)
    assert [(f.above, f.below) for f in table.flips] == [("plain", "crowded")]
    text = leaderboard(records)
    assert f"0.9000 {FLIPPED}" in row(text, "| crowded")
    assert FLIPPED in row(text, "| **plain**" if "| **plain**" in text else "| plain")
    assert FLIPPED not in row(text, "| low")
    said = f"{FLIPPED} Scoring SIDs instead of items would have put crowded above plain."
    assert said in text
    assert said in " ".join(printed(records).split())
    assert check(text, records) == []


def test_one_order_at_both_levels_has_no_mark() -> None:
    records = [run("a", 0.5, sid=0.6), run("b", 0.4, sid=0.6), run("c", 0.4, sid=0.5)]
    assert FLIPPED not in leaderboard(records)
    # Nor does the rounding of two means make an order.
    assert FLIPPED not in leaderboard([run("a", 0.5 + 1e-15, sid=0.5), run("b", 0.5, sid=0.5 + 1e-15)])


def test_with_the_places_of_all_users_the_mark_says_what_is_beyond_noise() -> None:
    records = [run("crowded", 0.09, sid=0.9, seed=s) for s in range(2)] + [
        run("plain", 0.5, seed=s) for s in range(2)
    ]
    (table,) = board_tables(records, places(0.9, 100))
    assert [(f.above, f.below, f.beyond) for f in table.flips] == [("plain", "crowded", True)]
    text = leaderboard(records, places(0.9, 100))
    assert (
        f"{FLIPPED} Scoring SIDs instead of items would have put, beyond noise, crowded above plain." in text
    )
    assert f"0.9000 ± 0.0000 {FLIPPED} |" in row(text, "| crowded")
    # By their means they still flip, but the users' places cannot tell the SIDs' shares apart.
    (table,) = board_tables(records, places(0.5, 100))
    assert [f.beyond for f in table.flips] == [False]
    text = leaderboard(records, places(0.5, 100))
    assert (
        f"{WITHIN} Scoring SIDs instead of items would have put, within noise, crowded above plain." in text
    )
    assert f"0.9000 ± 0.0000 {WITHIN} |" in row(text, "| crowded")


@given(st.integers(2, 500), st.lists(st.integers(0, 600), min_size=20, max_size=20))
def test_one_sid_for_all_is_chance_and_no_list_of_items_that_finds_one_is_below(
    n: int, at: list[int]
) -> None:
    """Under keep: whoever maps everything to one SID gets K / N, however the SID level flatters it."""
    zero = np.zeros(20, dtype=np.int64)
    constant = ranking_metrics(Places(zero, zero + n, zero), (10,))
    assert constant["recall@10"] == pytest.approx(min(1, 10 / n))
    assert constant["sid_recall@10"] == 1
    # Lists in random order, one item a SID: as good in the mean; any one is a number of hits by chance.
    every = np.arange(n)
    shuffled = ranking_metrics(Places(every, np.ones_like(every), every), (10,))
    for name in ("recall@10", "ndcg@10", "mrr@10"):
        assert constant[name] == pytest.approx(shuffled[name])


def test_everything_on_one_sid_comes_first_in_no_headline_column(
    plugin_folder: Any, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write(
        "constant",
        """
        import numpy as np
        from sidbench.tokenizer import Tokenizer

        class Constant(Tokenizer):
            name = "constant"

            def fit(self, x):
                self.fitted_ = np.zeros(1)
                return self

            def encode(self, x):
                return np.zeros((len(x), self.levels), dtype=np.int32)
        """,
    )
    quick = ("--set", "decoder.steps=20", "--set", "decoder.eval_every=10", "--threads", "1")
    names = "constant,lsh"
    said = sidbench_cli(
        "run", "--dataset", "synthetic:tiny", "--methods", names, "--resolvers", "keep", *quick,
        "--results", tmp_path / "r",
    )  # fmt: skip
    assert said.code == 0
    store = Store(tmp_path / "r")
    (table,) = board_tables([r for _, r in store.all() if isinstance(r, RunRecord)], store.vectors)
    constant = next(r for r in table.rows if r.name == "constant")
    assert constant.values["sid_recall@10"].mean == 1
    assert table.rows.index(constant) == len(table.rows) - 1
    (quality,) = [p for p in table.parts if p.name == "Quality"]
    assert {"recall@10", "ndcg@10"} <= {c.name for c in quality.columns}
    for column in (*quality.columns, *(c for part in table.by_cutoff for c in part.columns)):
        assert "constant" not in table.best(column), column.name
    for column in table.columns(["collision_items", "collision_largest", "utilization", "perplexity"]):
        assert "constant" not in table.best(column), column.name
    assert {(f.above, f.below) for f in table.flips} == {("lsh", "constant")}
    assert FLIPPED in store.board.read_text()
    assert FLIPPED in said.out


def test_sizes_of_decoder_and_sids_are_columns() -> None:
    text = leaderboard([run("a", 0.5), reference("popularity", 0.1)])
    at = cells(text, "Cost", "a")
    assert at["Parameters"] == "1,234"
    assert at["Tokens read (an item)"] == "4"
    assert at["Sequences seen"] == "51,200"
    assert at["Targets seen"] == "256,000"
    assert at["Budget (s)"] == "300"
    assert "Σ over the tokenizer's levels of log2" not in text.partition("### Quality")[0]


def test_the_first_columns_are_item_level_and_what_flatters_stands_after_them() -> None:
    ranking = {"mrr@10": 0.125, "sid_mrr@10": 0.25, "coverage@10": 0.75}
    text = leaderboard([run("a", 0.5, numbers=ranking)])
    quality = list(cells(text, "Quality", "a"))
    assert quality[1:] == ["Recall@10 ↑", "NDCG@10 ↑", "MRR@10 ↑", "SID-level recall@10 ↑", "Coverage@10"]
    whole = cells(text, "Cut-off 10", "a")
    assert (whole["SID-level MRR@10 ↑"], whole["Coverage@10"]) == ("0.2500", "75.0%")


def test_collisions_stand_by_depth_and_beside_the_floor() -> None:
    a = run("a", 0.5, numbers={"collision_items_excess": 0.08})
    a.levels["collision_items"] = [1.0, 0.5, 0.1]
    shown = cells(leaderboard([a]), "SIDs", "a")
    assert shown["Excess over the floor ↓"] == "+8.00%"
    assert shown["Colliding items by level"] == "100.00% · 50.00% · 10.00%"


def test_who_found_no_place_is_said_of_every_resolver_that_looks_for_one() -> None:
    crowded = run("a", 0.5, resolver={"name": "min-cost-last", "params": {}})
    crowded.facts["resolver"] = {"unplaced": 12, "unfit_groups": 5}
    plain = keep("a", 0.4)
    plain.facts["resolver"] = {}
    text = leaderboard([crowded, plain])
    own = text.partition(", min-cost-last resolver, causal quick\n")[2]
    assert cells(own, "Cost", "a")["Without a place (items) ↓"] == "12"
    assert "| Without a place (items) ↓ |" in text.partition("every resolver")[2]
    shown = leaderboard([crowded], columns=("resolve_unfit_groups",))
    assert cells(shown, "Chosen columns", "a")["Groups that do not fit (SIDs) ↓"] == "5"


def test_a_tokenizers_own_facts_are_not_its_decoders() -> None:
    assert size_metrics({"sizes": [4, 8], "parameters": 7}, {}) == {"sid_length": 2, "sid_bits": 5}
    told = {"parameters": 7, "tokens_per_item": 1}
    assert size_metrics(told, {"budget": 60}) == {
        "decoder_parameters": 7,
        "decoder_tokens_per_item": 1,
        "decoder_budget": 60,
    }


def test_chosen_columns_stand_alone_and_the_board_says_so() -> None:
    records = several()
    made = Boards(records, places(0.5, 1), ("recall@K", "sid_bits", "prefix_cosine"))
    text = made.markdown
    section = text.partition("### Chosen columns")[2]
    assert re.match(
        r"\| Method \|.* Recall@10 ↑ \| Bits \(an item\) \| Prefix cosine by level \|", section.strip()
    )
    assert "0.5000 · 0.7000" in section
    assert "### Cost" not in text
    assert chosen(text) == ("recall@K", "sid_bits", "prefix_cosine")
    assert chosen(leaderboard(records)) == ()
    assert check(text, records, expected=made.markdown) == []
    assert "Perplexity" not in text.partition("## Legend")[2]


def test_all_columns_are_all_numbers_that_rows_have() -> None:
    record = run(
        "a", 0.5, numbers={n: 0.25 for n, m in METRICS.items() if not m.family and m.source == "sids"}
    )
    text = leaderboard([record], columns=("all",))
    for n, m in METRICS.items():
        if n in record.metrics:
            assert f" {m.label} " in text or f" {m.label} (" in text, n


def test_names_of_columns_are_checked() -> None:
    assert known_columns(["all", "recall@K", "recall@7", "fit_seconds"])
    with pytest.raises(UsageError, match="unknown metric 'perplexty'; did you mean 'perplexity'") as error:
        known_columns(["perplexty"])
    assert "Near it are also perplexity_min" in str(error.value)
    assert "fit_seconds" not in str(error.value)  # of so many only what is near
    with pytest.raises(UsageError, match=r"unknown metric 'zzzz'\. `sidbench list` prints all \d+"):
        known_columns(["zzzz"])


def test_the_command_chooses_sorts_and_remembers(sidbench_cli: Cli, tmp_path: Path) -> None:
    records = [run("slow", 0.5, numbers={"perplexity": 2.0}), run("fast", 0.4, numbers={"perplexity": 9.0})]
    root = saved(tmp_path / "r", records)
    said = sidbench_cli("leaderboard", "--results", root)
    assert said.out.index("slow") < said.out.index("fast")
    said = sidbench_cli(
        "leaderboard", "--results", root, "--columns", "recall@10,perplexity", "--sort", "perplexity"
    )
    assert said.out.index("fast") < said.out.index("slow")
    board = root / "LEADERBOARD.md"
    assert "### Chosen columns" in board.read_text()
    assert sidbench_cli("leaderboard", "--results", root, "--check").code == 0
    # Clearing up writes the board anew, as it was.
    assert sidbench_cli("clean", "--results", root).code == 0
    assert "### Chosen columns" in board.read_text()
    assert sidbench_cli("leaderboard", "--results", root).code == 0
    assert "### Chosen columns" not in board.read_text()
    for wrong in (
        ("--columns", "recal@10"),
        ("--sort", "nothing"),
        ("--columns", "recall@7"),
        ("--sort", "gini"),
    ):
        said = sidbench_cli("leaderboard", "--results", root, *wrong)
        assert said.code == 2, wrong
        assert wrong[1] in said.err
    assert sidbench_cli("leaderboard", "--results", root, "--check", "--sort", "recall@10").code == 2
