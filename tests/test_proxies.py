"""analyze proxies: rank correlation by the book, honest intervals, and silence where there is too little."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sidbench.metrics import METRICS
from sidbench.record import RunRecord, Store, run_id
from sidbench.report import proxies
from sidbench.report.differences import holm
from sidbench.report.proxies import analyze, overall, verdict
from sidbench.report.proxies_page import PAGE, page
from tests.conftest import Said

Cli = Callable[..., "Said"]
few = settings(max_examples=25, deadline=None)


def record(
    method: str, seed: int = 0, *, floor: bool = False, dataset: str = "shop", **numbers: float
) -> RunRecord:
    key = {
        "kind": "tokenizer", "method": method.partition("@")[0], "label": method,
        "params": {"variant": method}, "seed": seed,
        "dataset": {
            "name": dataset, "fingerprint": "0" * 16, "catalogue": "1" * 16, "plugin": None, "params": {},
            "items": 100, "users": 50, "interactions": 400, "dimensions": 8,
        },
        "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [10], "evaluated": 50},
        "resolver": {"name": "suffix", "params": {}},
        "decoder": {"preset": "quick", "name": "causal", "params": {}},
        "hardware": {"device": "cpu", "cpu": "one", "cores": 2, "threads": 2, "memory_gb": 8, "gpu": None},
    }  # fmt: skip
    metrics = {k.replace("recall10", "recall@10"): float(v) for k, v in numbers.items()}
    facts = {"sizes": [8, 8], "floor": floor, "beam": 10}
    return RunRecord(run_id(key), "ok", key, "c" * 16, facts=facts, metrics=metrics, env={"sidbench": "0"})


def board(n: int = 20, *, seeds: int = 1, dataset: str = "shop", noise: float = 0.0) -> list[RunRecord]:
    """Rows whose stability is their recall, whose gini is its opposite, and whose perplexity is anything."""
    rng = np.random.default_rng(n)
    out = []
    for i in range(n):
        for seed in range(seeds):
            recall = i / n + noise * rng.normal()
            out.append(
                record(
                    f"m{i}", seed, dataset=dataset, recall10=recall, stability=recall, gini=-recall,
                    perplexity=rng.normal(), utilization=0.5,
                )
            )  # fmt: skip
    return out


@few
@given(st.integers(0, 2**32 - 1))
def test_correlations_are_scipys_ties_and_all(seed: int) -> None:
    from scipy.stats import kendalltau, spearmanr

    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, (2, 9)).astype(float)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return
    assert proxies.spearman(x[None], y[None], np.ones((1, 9)))[0] == pytest.approx(spearmanr(x, y)[0])
    assert proxies.kendall(x, y) == pytest.approx(kendalltau(x, y)[0])
    # What is in a draw several times is as if it stood there several times.
    times = rng.integers(0, 3, 9)
    a, b = np.repeat(x, times), np.repeat(y, times)
    got = proxies.spearman(x[None], y[None], times[None].astype(float))[0]
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(spearmanr(a, b)[0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])


@pytest.mark.parametrize(("n", "value"), [(5, 1.0), (6, 0.886), (7, 0.786), (9, 0.7), (20, 0.447)])
def test_what_is_needed_is_what_tables_of_critical_values_say(n: int, value: float) -> None:
    assert proxies.needed(n) == pytest.approx(value, abs=0.02)


def test_a_perfect_proxy_is_found_and_noise_is_not() -> None:
    [group] = analyze(board(20, seeds=2))
    by_name = {p.name: p for p in group.proxies}
    assert by_name["stability"].rho == pytest.approx(1)
    assert by_name["gini"].rho == pytest.approx(-1)
    assert by_name["stability"].real
    assert by_name["stability"].low > 0.9
    assert not by_name["perplexity"].real
    assert by_name["perplexity"].low < 0 < by_name["perplexity"].high
    assert group.skipped["utilization"] == "the same for all"
    assert group.skipped["prefix_cosine"] == "in no record"
    assert "Stability (ρ = +1.00)" in verdict(group)[0]


def test_a_headline_that_is_the_same_for_all_goes_with_nothing() -> None:
    rows = [record(f"m{i}", recall10=0.0, stability=i, gini=-i) for i in range(9)]
    [group] = analyze(rows)
    assert group.proxies == ()
    assert "recall@10 is the same" in group.skipped["stability"]
    assert "nothing was computed" in verdict(group)[0]


def test_tables_of_equal_size_are_evidence_of_their_own() -> None:
    """Three tables that say the same are more than one: their orders are not drawn alike."""
    numbers = [(0.1, 2), (0.2, 1), (0.3, 4), (0.4, 3), (0.5, 7), (0.6, 5), (0.7, 6), (0.8, 8)]
    rows = [
        record(f"m{i}", dataset=name, recall10=y, stability=x)
        for name in ("shop", "books", "toys")
        for i, (y, x) in enumerate(numbers)
    ]
    groups = analyze(rows)
    (alone, *_) = groups[0].proxies
    (together,) = overall(groups)
    assert together.rho == pytest.approx(alone.rho)
    assert together.p < alone.p / 5
    assert together.high - together.low < 0.8 * (alone.high - alone.low)


def test_noise_alone_is_rarely_called_real() -> None:
    """Under no relation at all, corrected for all numbers tried: at most one table in twenty."""
    called = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drawn = rng.normal(size=(8, 4)).tolist()
        rows = [
            record(f"m{i}", recall10=r, stability=s, gini=g, perplexity=p)
            for i, (r, s, g, p) in enumerate(drawn)
        ]
        [group] = analyze(rows)
        called += any(p.real for p in group.proxies)
    assert called <= 5


def test_one_sid_for_all_comes_first_in_no_headline() -> None:
    """What scores highest on the SID level and covers the catalogue is a list in random order to a user."""
    from sidbench import metrics
    from sidbench.ranking import Ranking
    from sidbench.report.board import tables

    users, items, cutoffs = 400, 100, [1, 5, 10, 20]
    rng = np.random.default_rng(0)
    targets = rng.integers(0, items, users)
    one = Ranking(
        np.zeros((users, 1), np.int64),
        np.zeros((users, 1), np.float32),
        np.arange(items, dtype=np.int32),
        np.array([0, items]),
    )
    # A method that is right once in four times and guesses otherwise.
    lists = np.argsort(rng.random((users, items)), axis=1)[:, :20]
    right = rng.random(users) < 0.25
    lists[right, 0] = targets[right]
    single = Ranking.of_items(lists, np.zeros(lists.shape, np.float32), items)
    rows = []
    for name, ranking in (("one", one), ("method", single)):
        found = metrics.ranking_metrics(metrics.places(ranking, targets), cutoffs)
        numbers = found | metrics.coverage_metrics(ranking, cutoffs)
        rows.append(replace(record(name), metrics=numbers))
    assert rows[0].metrics["sid_recall@10"] == 1 > rows[1].metrics["sid_recall@10"]
    assert rows[0].metrics["coverage@10"] == pytest.approx(1)
    assert rows[0].metrics["recall@10"] == pytest.approx(10 / items)
    [table] = tables(rows)
    assert table.rows[0].name == "method"
    for name in rows[0].metrics:
        assert "one" not in table.best(metrics.metric(name)), name


def test_too_few_say_nothing_and_few_say_so() -> None:
    [group] = analyze(board(4))
    assert group.proxies == ()
    assert verdict(group) == [
        "4 tokenizers: too few to say anything. At least 5 are needed; nothing was computed."
    ]
    [group] = analyze(board(7))
    assert "7 tokenizers are few" in verdict(group)[1]
    # However perfect, six rows and three numbers cannot be beyond chance by much.
    [group] = analyze(board(5))
    assert not any(p.real for p in group.proxies)


def test_floors_and_references_do_not_make_a_correlation() -> None:
    rng = np.random.default_rng(3)
    rows = [
        record(f"m{i}", recall10=0.5 + 0.01 * rng.normal(), gini=0.5 + 0.01 * rng.normal()) for i in range(9)
    ]
    far = record("random", floor=True, recall10=0.0, gini=0.0)
    [without], [with_floor] = analyze(rows), analyze([*rows, far])
    assert with_floor.proxies[0].rho == without.proxies[0].rho
    assert with_floor.proxies[0].floored is not None
    assert with_floor.proxies[0].floored > without.proxies[0].rho


def test_seeds_widen_the_interval_and_move_nothing_else() -> None:
    calm, loud = board(10, seeds=3), board(10, seeds=3)
    rng = np.random.default_rng(0)
    loud = [
        replace(r, metrics={**r.metrics, "recall@10": r.metrics["recall@10"] + shift})
        for r, shift in zip(loud, np.tile([-0.3, 0, 0.3], 10), strict=True)
    ]
    rng.shuffle(loud)
    [a], [b] = analyze(calm), analyze(loud)
    tight, wide = (next(p for p in g.proxies if p.name == "gini") for g in (a, b))
    assert tight.rho == pytest.approx(wide.rho)
    assert wide.high - wide.low > tight.high - tight.low


def test_variants_of_one_method_are_drawn_together() -> None:
    rows = [record(f"m{i % 2}@{i}", recall10=i + 10 * (i % 2), gini=i + 10 * (i % 2)) for i in range(8)]
    [group] = analyze(rows)
    assert (group.rows, group.methods) == (8, 2)
    assert "8 rows of 2 tokenizers" in " ".join(verdict(group))
    assert "take them for rows of their own" in verdict(group)[-1]


def test_tables_are_taken_together_only_where_there_are_several() -> None:
    assert overall(analyze(board(12))) == []
    over = overall(analyze([*board(12), *board(9, dataset="other")]))
    assert over[0].rho == pytest.approx(1) or over[0].rho == pytest.approx(-1)
    assert {o.name for o in over} == {"stability", "gini", "perplexity"}
    by_name = {o.name: o for o in over}
    assert (by_name["gini"].groups, by_name["gini"].same_sign) == (2, 2)
    assert by_name["gini"].corrected < 0.05 < by_name["perplexity"].corrected


def test_the_page_shows_its_pictures_and_the_same_records_give_the_same_page() -> None:
    groups = analyze([*board(12), *board(9, dataset="ot<h>er|")])
    files = page(groups)
    assert files == page(analyze([*board(9, dataset="ot<h>er|"), *board(12)]))
    text = files[PAGE]
    for name in files:
        assert name == PAGE or f'src="{name}"' in text
        assert (
            "http" not in files[name].replace("http://www.w3.org/", "").replace("https://arxiv", "")
            or name == PAGE
        )
    assert len(files) == 1 + 2 * 4
    assert "What it does not show" in text
    assert "ot&lt;h&gt;er\\|" in text
    assert "nan" not in text
    for name in ("Stability", "Gini"):
        assert f"- **{name}**: " in text
    assert "No records" in page([])[PAGE]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    for r in board(9):
        store.save(replace(r, metrics={**r.metrics, "neighbour_agreement": 0.5}), {})
    return store.root


@pytest.mark.parametrize("width", [80, 120])
def test_the_command_writes_the_page(
    results: Path, sidbench_cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = sidbench_cli("analyze", "proxies", "--results", results)
    assert said.code == 0
    lines = said.out.splitlines()
    assert max(cell_len(line) for line in lines if not line.endswith(PAGE)) <= width
    assert "…" not in said.out
    assert "Stability" in said.out
    assert (results / PAGE).exists()
    assert sorted(p.suffix for p in (results / "proxies").iterdir()) == [".svg"] * 4
    found = json.loads(sidbench_cli("analyze", "proxies", "--results", results, "--json", "--no-write").out)
    assert found["page"] is None
    assert found["tables"][0]["proxies"][0]["metric"] in METRICS


def test_a_page_that_is_not_of_its_records_is_found_out(results: Path, sidbench_cli: Cli) -> None:
    line = ("analyze", "proxies", "--results", results)
    assert f"{PAGE} is missing" in sidbench_cli(*line, "--check").out
    sidbench_cli(*line)
    said = sidbench_cli(*line, "--check")
    assert (said.code, "agrees with its records" in said.out) == (0, True)
    picture = next((results / "proxies").glob("*stability.svg"))
    picture.write_text(picture.read_text().replace("m3", "m4"))
    page_file = results / PAGE
    page_file.write_text(page_file.read_text().replace("+1.00", "+0.99"))
    found = json.loads(sidbench_cli(*line, "--check", "--json").out)
    assert not found["current"]
    assert len(found["differences"]) == 2


def test_several_folders_are_one_and_a_run_counts_once(
    results: Path, sidbench_cli: Cli, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    for r in [board(9)[0], record("late", recall10=2, stability=2, gini=-2, perplexity=0, utilization=0.5)]:
        other.save(replace(r, metrics={**r.metrics, "neighbour_agreement": 0.5}), {})
    line = ("analyze", "proxies", "--results", results, "--results", other.root, "--json", "--no-write")
    [table] = json.loads(sidbench_cli(*line).out)["tables"]
    assert table["rows"] == 10


def test_older_records_without_artifacts_are_counted_and_used_as_they_are(
    results: Path, sidbench_cli: Cli
) -> None:
    Store(results).save(record("old", recall10=0.1, stability=0.1), {})
    said = sidbench_cli("analyze", "proxies", "--results", results, "--no-write")
    assert said.code == 0
    assert "1 older records could not be completed" in said.out
    assert "10 tokenizers" in said.out


def test_wrong_words(sidbench_cli: Cli, tmp_path: Path) -> None:
    assert "unknown analysis 'proxy'" in sidbench_cli("analyze", "proxy", "--results", tmp_path).err
    assert (
        "there is no results folder" in sidbench_cli("analyze", "proxies", "--results", tmp_path / "no").err
    )
    said = sidbench_cli("analyze", "proxies", "--results", tmp_path)
    assert said.code == 0
    assert "No records of tokenizers here" in said.out


def test_older_records_are_completed_from_their_artifacts(sidbench_cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "results"
    line: list[Any] = ["run", "--methods", "rq-kmeans", "--dataset", "synthetic:tiny", "--threads", "1"]
    line += ["--set", "rq-kmeans.codebook_size=8", "--set", "decoder.steps=3", "--results", root]
    assert sidbench_cli(*line).code == 0
    from sidbench.commands.analyze import _filled
    from sidbench.commands.results import readable
    from sidbench.commands.subject import Loader

    store = Store(root)
    [whole] = readable(store)
    bare = replace(
        whole, metrics={k: whole.metrics[k] for k in ("recall@10", "utilization", "collision_items")}
    )
    reasons: dict[str, int] = {}
    [filled] = _filled({bare.id: (bare, store)}, Loader(), reasons)
    assert reasons == {}
    for name in ("neighbour_agreement", "stability", "next_item_hit", "trie_branching", "gini"):
        assert filled.metrics[name] == pytest.approx(whole.metrics[name], abs=1e-9)
    other = replace(bare, metrics={**bare.metrics, "utilization": 0.123})
    [kept] = _filled({bare.id: (other, store)}, Loader(), reasons)
    assert kept is other
    assert "holds other codes" in next(iter(reasons))
