"""Boards: what may share a table, what is averaged, what is marked, and what a reader is told."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from sidbench.errors import DataError
from sidbench.report import check, leaderboard
from sidbench.report.board import tables as board_tables
from tests.runs import DATASET, HARDWARE, KEY, failed, lines, only, reference, rendered, run, usual


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {**DATASET, "fingerprint": "fedcba9876543210"}},
        {"dataset": {**DATASET, "name": "beauty"}},
        {"protocol__seen": "mask"},
        {"protocol__cutoffs": [10, 300]},
        {"resolver": {"name": "keep", "params": {}}},
        {"decoder__params__width": 128},
        {"decoder": None},
        {"hardware": {**HARDWARE, "cpu": "another"}},
        {"sizes": (256, 256)},
        {"sizes": (128, 256, 256)},
    ],
)
def test_what_must_agree_makes_another_table(change: dict[str, Any]) -> None:
    a, b = run("a", 0.1), run("b", 0.2, **change)
    assert [[r.name for r in t.rows] for t in board_tables([a, b])] in ([["a"], ["b"]], [["b"], ["a"]])
    overview = (": the best resolver of each method", ": SIDs of every length")
    headings = [h for h in lines(leaderboard([a, b]), "## ") if not h.endswith(overview)]
    assert len(headings) == 3  # two sections and the legend


def test_seed_and_what_older_records_do_not_say_make_no_other_table() -> None:
    told = {**KEY["protocol"], "evaluated": 19_000}
    b = run("b", 0.3, protocol=told, dataset={**DATASET, "params": {"users": 20_000}})
    b.facts["beam"] = 50
    table = only([run("a", 0.1), run("a", 0.2, seed=1), b])
    assert [r.name for r in table.rows] == ["b", "a"]


def test_other_cutoffs_make_a_section_of_their_own_with_its_floor() -> None:
    records = [*usual(), run("balanced", 0.08, protocol__cutoffs=[10, 300])]
    records += [run("random", 0.01, protocol__cutoffs=[10, 300])]
    text = leaderboard(records)
    assert [h.split("decoder")[-1].split("quick")[-1] for h in lines(text, "## ")[:2]] == [
        ", cut-offs 1, 5, 10, 20",
        ", cut-offs 10, 300",
    ]
    assert {len(t.rows) for t in board_tables(records)} == {6, 2}
    assert check(text, records) == []


def test_rows_searched_with_other_beams_stand_apart() -> None:
    a, b, early = run("a", 0.1), run("b", 0.2), failed("early")
    a.facts["beam"], b.facts["beam"] = 50, 300
    assert [len(t.rows) for t in board_tables([a, b, early])] == [2, 2]
    text = leaderboard([a, b, early, reference("item-knn", 0.05)])
    assert [h.rpartition(", ")[2] for h in lines(text, "## ")[:2]] == ["beam 300", "beam 50"]
    assert "searched with a beam of 300" in text


def test_what_was_evaluated_is_said() -> None:
    told = {**KEY["protocol"], "evaluated": 19_000}
    a = run("a", 0.1, protocol=told, dataset={**DATASET, "params": {"ties": "file"}})
    b = run("b", 0.2, decoder__params__tokens="items")
    a.key["decoder"]["params"]["tokens"] = "items"
    c = run("b", 0.2, dataset={**DATASET, "fingerprint": "fedcba9876543210", "params": {"ties": "id"}})
    a.facts["notes"], b.facts["notes"] = ["12 ties"], ["12 ties", "7 users too short"]
    text = leaderboard([a, b, c])
    assert "19,000 users evaluated" in text
    assert "loaded with `ties file`" in text
    assert "- **Notes**: 12 ties; 7 users too short" in text
    assert "histories read as item tokens" in text
    assert any("ties file" in h for h in lines(text, "## "))
    assert any("ties id" in h for h in lines(text, "## "))


def test_all_cutoffs_stand_on_the_board_at_both_levels() -> None:
    records = usual()
    for r in records:
        if r.status == "ok" and r.key["kind"] == "tokenizer":
            for k in (1, 5, 10, 20):
                r.metrics.update({f"sid_recall@{k}": 0.1, f"sid_ndcg@{k}": 0.1, f"mrr@{k}": 0.05})
            r.levels["utilization"] = [1.0, 0.5, 0.25]
    text = leaderboard(records)
    for k in (1, 5, 10, 20):
        for label in ("Recall", "NDCG", "MRR", "SID-level recall", "SID-level NDCG"):
            assert f" {label}@{k} " in text.partition(f"### Cut-off {k}\n")[2].partition("###")[0]
    assert "100.0% · 50.0% · 25.0%" in text
    assert check(text, records) == []


def test_tables_on_a_terminal_have_a_blank_line_between() -> None:
    shown = rendered([run("a", 0.1), run("a", 0.1, protocol__seen="mask")], 100)
    second = next(i for i, line in enumerate(shown.splitlines()) if "seen mask" in line)
    assert not shown.splitlines()[second - 1].strip()


def test_references_stand_on_every_board_of_their_data() -> None:
    records = [
        run("a", 0.1),
        run("a", 0.2, resolver={"name": "keep", "params": {}}),
        reference("popularity", 0.05),
    ]
    assert [[r.name for r in t.rows] for t in board_tables(records)] == [["a", "popularity"]] * 2
    other = reference("popularity", 0.05, dataset={**DATASET, "name": "beauty"})
    assert [len(t.rows) for t in board_tables([*records[:2], other])] == [1, 1, 1]


def test_references_alone_make_a_board() -> None:
    text = leaderboard([reference("popularity", 0.05), reference("item-knn", 0.07)])
    assert [line.split("|")[1].strip() for line in lines(text, "| *")][:2] == [
        "*item-knn (reference)*",
        "*popularity (reference)*",
    ]


def test_parameters_make_rows_and_never_an_average() -> None:
    table = only([run("a", 0.1), run("a", 0.3, params__iters=50), run("a", 0.5, seed=1)])
    assert {r.name: r.seeds for r in table.rows} == {"a (iters=25)": (0, 1), "a (iters=50)": (0,)}
    assert [r.values["recall@10"].mean for r in table.rows] == [0.3, 0.3]


def test_seeds_give_mean_and_sample_standard_deviation() -> None:
    recalls = [0.05, 0.06, 0.10]
    table = only([run("a", r, seed=s) for s, r in enumerate(recalls)])
    (column,) = table.columns(["recall@H"])
    v = table.rows[0].values["recall@10"]
    assert (v.mean, v.sd) == pytest.approx((statistics.mean(recalls), statistics.stdev(recalls)))
    assert table.cell(table.rows[0], column) == "0.0700 ± 0.0265"
    assert only([run("a", 0.05)]).rows[0].values["recall@10"].sd is None


def test_one_record_counts_once() -> None:
    with pytest.raises(DataError, match="twice"):
        leaderboard([run("a", 0.1), run("a", 0.1)])


def test_rows_stand_in_order_and_failures_last() -> None:
    names = [r.name for r in only(usual()).rows]
    assert names == ["balanced", "rq-kmeans", "item-knn", "popularity", "random", "rq-vae"]


def test_only_the_best_method_is_bold_and_secondary_columns_never() -> None:
    records = usual()
    records += [run("random", 0.9, seed=9), reference("oracle", 0.95)]  # would win, but do not compete
    table = only(records)
    for column in table.columns(["recall@H", "ndcg@H", "recall@K"]):
        assert table.best(column) == {"balanced"}
    assert table.best(table.columns(["collision_items"])[0]) == {"rq-kmeans"}
    assert table.best(table.columns(["fit_seconds"])[0]) == {"rq-kmeans"}
    for name in ("sid_recall@H", "inflation@H", "utilization", "perplexity", "collision_items_resolved"):
        assert table.best(table.columns([name])[0]) == set()
    for line in lines(leaderboard(records), "| "):
        if "**" in line:
            assert line.startswith(("| balanced |", "| rq-kmeans |"))


def test_values_equal_as_printed_share_the_bold_and_no_competition_has_none() -> None:
    table = only([run("a", 0.10000), run("b", 0.10001), run("c", 0.05)])
    assert table.best(table.columns(["recall@H"])[0]) == {"a", "b"}
    for alone in ([run("a", 0.1)], [run("a", 0.1), run("b", 0.1)]):
        table = only(alone)
        assert table.best(table.columns(["recall@H"])[0]) == set()


def test_a_reader_is_told_what_does_not_beat_the_floor_or_a_reference() -> None:
    records = [run("good", 0.03), run("bad", 0.01), run("random", 0.02), reference("item-knn", 0.05)]
    notes = only(records).notes
    assert notes == [
        "Not above the floor random: bad.",
        "No tokenizer here is above item-knn, which needs no SIDs.",
    ]
    both = [*records, reference("transitions", 0.04)]
    assert "No tokenizer here is above item-knn, transitions, which need no SIDs." in only(both).notes
    for text in (leaderboard(records), rendered(records, 100)):
        assert "Not above the floor random: bad." in text
    assert only(usual()).notes == []
