"""Boards together: what scoring SIDs would turn round; resolvers, lengths, datasets, columns, merging."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sidbench.errors import UsageError
from sidbench.metrics import METRICS, Places, ranking_metrics
from sidbench.metrics.size import size_metrics
from sidbench.record import RunRecord, Store
from sidbench.report import Boards, check, leaderboard, tables
from sidbench.report.board import FLIPPED, known_columns
from sidbench.report.board import tables as board_tables
from sidbench.report.markdown import chosen
from sidbench.report.overview import families, ranks

Cli = Callable[..., Any]
DATASET = {
    "name": "shop",
    "fingerprint": "0123",
    "items": 90,
    "users": 50,
    "interactions": 400,
    "dimensions": 8,
}
KEY: dict[str, Any] = {
    "kind": "tokenizer",
    "params": {"levels": 3},
    "dataset": DATASET,
    "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [10]},
    "resolver": {"name": "suffix", "params": {}},
    "decoder": {"preset": "quick", "name": "causal", "params": {"width": 8, "budget": 300.0}},
    "hardware": {"cpu": "EPYC", "cores": 2, "threads": 2, "device": "cpu", "gpu": None, "memory_gb": 24},
}


def run(
    label: str,
    recall: float,
    *,
    seed: int = 0,
    sid: float | None = None,
    sizes: tuple[int, ...] = (256, 256, 256),
    numbers: dict[str, float] | None = None,
    finished: str = "2026-01-01T00:00:00",
    **changes: Any,
) -> RunRecord:
    """One finished run; `changes` replace parts of the key."""
    key = copy.deepcopy(KEY) | {"method": label, "label": label, "seed": seed} | changes
    if key["kind"] == "reference":
        key |= {"resolver": None, "decoder": None, "params": {}}
    metrics = {"recall@10": recall, "ndcg@10": recall / 2, **(numbers or {})}
    facts: dict[str, Any] = {}
    if key["kind"] == "tokenizer":
        added = [16] if key["resolver"]["name"] == "suffix" else []
        metrics |= {
            "sid_recall@10": recall if sid is None else sid,
            "collision_items": 0.1,
            "resolve_moved": 0.01,
        }
        facts = {"sizes": list(sizes), "sid_sizes": [*sizes, *added], "floor": label == "random"}
        facts["decoder"] = {
            "parameters": 1234,
            "tokens_per_item": 4,
            "sequences_seen": 51200,
            "targets_seen": 256000,
        }
    return RunRecord(
        id=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12],
        status="ok",
        key=key,
        code="c0de",
        facts=facts,
        metrics=metrics,
        levels={"prefix_cosine": [0.5, 0.7]},
        measured={"fit_seconds": 1.0, "finished": finished},
        env={"command": "sidbench run"},
    )


def reference(label: str, recall: float, **changes: Any) -> RunRecord:
    return run(label, recall, kind="reference", **changes)


def keep(label: str, recall: float, **more: Any) -> RunRecord:
    return run(label, recall, resolver={"name": "keep", "params": {}}, **more)


def dataset(name: str) -> dict[str, Any]:
    return DATASET | {"name": name, "fingerprint": name}


def printed(records: list[RunRecord], width: int = 100, **asked: Any) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as got:
        for table in tables(records, width=width, **asked):
            console.print(table)
    return got.get()


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


# ------------------------------------------------------------------------------------------------ rank flips


def places(before: float, size: int, n: int = 400) -> Callable[[RunRecord], dict[str, Any]]:
    """Vectors by label: the share of users whose target is found, in a group of so many items."""

    def of(record: RunRecord) -> dict[str, Any]:
        rng = np.random.default_rng([record.key["seed"], len(record.label)])
        hit = rng.random(n) < (before if record.label == "crowded" else 0.5)
        group = size if record.label == "crowded" else 1
        at = np.where(hit, 0, -1)
        return {
            "user": np.arange(n),
            "target_before": at,
            "target_sid_rank": at,
            "target_size": np.where(hit, group, -1),
        }

    return of


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


def test_with_the_places_of_all_users_only_what_is_beyond_noise_is_marked() -> None:
    records = [run("crowded", 0.09, sid=0.9, seed=s) for s in range(2)] + [
        run("plain", 0.5, seed=s) for s in range(2)
    ]
    (table,) = board_tables(records, places(0.9, 100))
    assert [(f.above, f.below) for f in table.flips] == [("plain", "crowded")]
    assert "beyond noise crowded above plain" in leaderboard(records, places(0.9, 100))
    # By their means they still flip, but the users' places cannot tell the SIDs' shares apart.
    (table,) = board_tables(records, places(0.5, 100))
    assert table.flips == ()


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


# ------------------------------------------------------------------------------- resolvers, lengths, datasets


def several() -> list[RunRecord]:
    """Two methods with two resolvers, one of them better with each, two seeds."""
    out = []
    for s in range(2):
        out += [run("a", 0.50 + s / 100, seed=s), keep("a", 0.40 + s / 100, seed=s)]
        out += [run("b", 0.30 + s / 100, seed=s), keep("b", 0.45 + s / 100, seed=s)]
    return [*out, reference("knn", 0.47)]


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


# ---------------------------------------------------------------------------------------------------- columns


def test_sizes_of_decoder_and_sids_are_columns() -> None:
    text = leaderboard([run("a", 0.5), reference("popularity", 0.1)])
    head, cells = row(text.partition("### Cost")[2], "| Method"), row(text.partition("### Cost")[2], "| a ")
    at = dict(zip(head.strip("| ").split(" | "), cells.strip("| ").split(" | "), strict=True))
    assert at["Parameters"] == "1,234"
    assert at["Tokens read (an item)"] == "4"
    assert at["Sequences seen"] == "51,200"
    assert at["Targets seen"] == "256,000"
    assert at["Budget (s)"] == "300"
    assert "Σ over the tokenizer's levels of log2" not in text.partition("### Quality")[0]


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
    with pytest.raises(UsageError, match="unknown metric 'perplexty'; did you mean 'perplexity'"):
        known_columns(["perplexty"])


def saved(root: Path, records: list[RunRecord]) -> Path:
    store = Store(root)
    for r in records:
        store.save(r, places(0.5, 1)(r))
    return root


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


# ---------------------------------------------------------------------------------------------------- merging


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
