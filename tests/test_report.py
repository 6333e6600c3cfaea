"""Boards: what may share a table, what is averaged, what is marked, and what a reader is told."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import re
import statistics
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sidbench.errors import DataError
from sidbench.record import RunRecord
from sidbench.report import check, leaderboard, tables, words
from sidbench.report.board import Table
from sidbench.report.board import tables as board_tables
from sidbench.report.markdown import escape

HARDWARE = {"cpu": "AMD EPYC", "cores": 2, "threads": 2, "device": "cpu", "gpu": None, "memory_gb": 24}
DATASET = {
    "name": "synthetic:default",
    "fingerprint": "0123456789abcdef",
    "items": 12_000,
    "users": 20_000,
    "interactions": 300_000,
    "dimensions": 64,
}
KEY: dict[str, Any] = {
    "kind": "tokenizer",
    "method": "rq-kmeans",
    "label": "rq-kmeans",
    "params": {"levels": 3, "codebook_size": 256, "iters": 25, "seed": 0},
    "seed": 0,
    "dataset": DATASET,
    "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [1, 5, 10, 20]},
    "resolver": {"name": "suffix", "params": {}},
    "decoder": {"preset": "quick", "name": "tiger", "params": {"width": 64, "layers": 2, "seed": 0}},
    "hardware": HARDWARE,
}


def run(
    label: str, recall: float, *, seed: int = 0, sizes: tuple[int, ...] = (256,) * 3, **changes: Any
) -> RunRecord:
    """One finished run; `changes` go to the key, dotted with two underscores."""
    key = copy.deepcopy(KEY)
    key |= {"method": label.partition("@")[0], "label": label, "seed": seed}
    key["params"]["seed"] = key["decoder"]["params"]["seed"] = seed
    for path, v in changes.items():
        *into, last = path.split("__")
        at = key
        for part in into:
            at = at[part]
        at[last] = v
    metrics = {f"recall@{k}": recall * f for k, f in ((1, 0.2), (5, 0.7), (10, 1.0), (20, 1.5))}
    metrics |= {f"ndcg@{k}": recall * f for k, f in ((1, 0.2), (5, 0.4), (10, 0.5), (20, 0.6))}
    facts: dict[str, Any] = {}
    levels = {}
    if key["kind"] == "tokenizer":
        metrics |= {"sid_recall@10": recall * 1.1, "inflation@10": 0.1, "collision_items": 0.02 + recall / 10}
        metrics |= {"collision_items_resolved": 0.0, "collision_largest": 7.0, "utilization": 0.98}
        metrics |= {"perplexity": 200.0, "floor_items": 0.01, "floor_distinct": 0.005}
        levels = {"perplexity": [250.0, 200.0, 150.0]}
        facts |= {"sizes": list(sizes), "floor": label == "random"}
    measured = {
        "fit_seconds": 1 + 10 * recall,
        "search_users_per_second": 1234.5,
        "finished": "2024-01-01T00:00:00",
    }
    return RunRecord(
        id=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12],
        status="ok",
        key=key,
        code="c0de",
        facts=facts,
        metrics=metrics,
        levels=levels,
        measured=measured,
        env={
            "torch": "2.6.0",
            "sidbench": "0.1.0",
            "python": "3.11.7",
            "command": "sidbench run --methods all",
        },
    )


def failed(label: str, message: str = "codes out of range", **changes: Any) -> RunRecord:
    whole = run(label, 0.0, **changes)
    return RunRecord(
        id=whole.id,
        status="failed",
        key=whole.key,
        code=whole.code,
        error={"type": "ContractError", "message": message, "stage": "fit"},
        facts={},
        env=whole.env,
    )


def reference(label: str, recall: float, **changes: Any) -> RunRecord:
    return run(label, recall, kind="reference", resolver=None, decoder=None, params={}, **changes)


def usual() -> list[RunRecord]:
    """What a first run leaves: methods over seeds, the floor, references, one failure."""
    out = [run("rq-kmeans", 0.050 + 0.002 * s, seed=s) for s in range(3)]
    out += [run("balanced", 0.070 + 0.001 * s, seed=s) for s in range(3)]
    out += [run("random", 0.010, seed=s) for s in range(3)]
    return [*out, reference("popularity", 0.02), reference("item-knn", 0.04), failed("rq-vae")]


def only(records: list[RunRecord]) -> Table:
    (table,) = board_tables(records)
    return table


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def rendered(records: list[RunRecord], width: int) -> str:
    console = Console(
        width=width, record=True, color_system=None, file=None, force_terminal=False, quiet=False
    )
    with console.capture() as got:
        for table in tables(records, width=width):
            console.print(table)
    return got.get()


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
