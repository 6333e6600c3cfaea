"""Comparing: what moved beyond noise, what did not, what cannot be said; and the exit code."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.errors import DataError, UsageError
from sidbench.record import RunRecord, Store
from sidbench.report.compare import Comparison, Side, compare, numbers

Cli = Callable[..., Any]
KEY: dict[str, Any] = {
    "kind": "tokenizer",
    "params": {"levels": 3},
    "dataset": {
        "name": "shop", "fingerprint": "0123", "items": 90, "users": 50, "interactions": 400, "dimensions": 8,
    },
    "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [10]},
    "resolver": {"name": "suffix", "params": {}},
    "decoder": {"preset": "quick", "name": "causal", "params": {"width": 64}},
    "hardware": {"cpu": "EPYC", "cores": 2, "threads": 2, "device": "cpu", "gpu": None, "memory_gb": 24},
}  # fmt: skip
USERS = 1000


def run(label: str, recall: float, seed: int = 0, code: str = "c0de", **changes: Any) -> RunRecord:
    """One finished run; numbers among the changes go to the metrics, the rest to the key."""
    key = copy.deepcopy(KEY) | {"method": label, "label": label, "seed": seed}
    key |= {k: v for k, v in changes.items() if k in KEY}
    found = {"recall@10": recall, "collision_items": 0.1 + seed / 1000, "utilization": 0.9}
    found |= {k: v for k, v in changes.items() if k not in KEY}
    return RunRecord(
        id=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12],
        status="ok",
        key=key,
        code=code,
        facts={"sizes": [256] * 3, "sid_sizes": [256] * 3},
        metrics=found,
        measured={"fit_seconds": 1.0 + seed / 100, "finished": "2026"},
    )


def vectors(record: RunRecord) -> dict[str, Any]:
    """The same users each time: whoever is easier to please is pleased first, apart from a seed's noise."""
    rng = np.random.default_rng(record.key["seed"])
    ease = np.linspace(0, 1, USERS) + rng.normal(0, 0.02, USERS)
    hit = ease < np.quantile(ease, record.metrics["recall@10"])
    return {
        "user": np.arange(USERS),
        "target_before": np.where(hit, 0, -1),
        "target_size": np.where(hit, 1, -1),
    }


def gone(record: RunRecord) -> dict[str, Any]:
    raise DataError("gone")


def seeds(label: str, recall: float, n: int = 3, **changes: Any) -> list[RunRecord]:
    return [run(label, recall + s / 1000, s, **changes) for s in range(n)]


def sides(
    a: list[RunRecord], b: list[RunRecord], *, named: bool = False, read: Any = vectors
) -> tuple[Side, Side]:
    return Side("A", tuple(a), read, named), Side("B", tuple(b), read, named)


def verdicts(found: Comparison) -> dict[str, str]:
    return {c.metric.name: c.verdict for c in found.changes}


def test_a_folder_beside_itself_moved_nothing() -> None:
    runs = [*seeds("a", 0.5), *seeds("b", 0.4)]
    found = compare(*sides(runs, runs))
    assert set(verdicts(found).values()) == {"same"}
    assert {c.row for c in found.changes} == {"a", "b"}
    assert not found.failed
    assert all(c.p == 1 for c in found.changes)


@pytest.mark.parametrize("read", [vectors, gone])
def test_what_moves_beyond_noise_is_named_and_has_a_sign(read: Any) -> None:
    """By the places of all users where they are there, else by what seeds scatter."""
    found = compare(*sides(seeds("a", 0.5), seeds("a", 0.4), read=read))
    assert verdicts(found) == {
        "recall@10": "worse",
        "collision_items": "same",
        "fit_seconds": "same",
    }
    assert found.failed
    (recall,) = found.worse
    assert recall.delta == pytest.approx(-0.1)
    assert (recall.low is None) == (read is gone)
    if recall.low is not None and recall.high is not None:
        assert recall.low < -0.1 < recall.high < 0
    back = compare(*sides(seeds("a", 0.4), seeds("a", 0.5), read=read))
    assert verdicts(back)["recall@10"] == "better"
    assert not back.failed


def test_a_small_change_is_noise() -> None:
    found = compare(*sides(seeds("a", 0.500), seeds("a", 0.501)))
    assert verdicts(found)["recall@10"] == "same"
    assert not found.failed


def test_one_lost_row_of_many_is_found() -> None:
    """Corrected for hundreds of numbers, a bootstrap of too few draws could call nothing real."""
    more = {"ndcg@10": 0.2, "collision_distinct": 0.1, "collision_traffic": 0.2, "collision_largest": 4.0}
    before = [r for i in range(45) for r in seeds(f"m{i}", 0.5, 2, **more)]
    after = [*seeds("m0", 0.3, 2, **more), *before[2:]]
    found = compare(*sides(before, after))
    assert sum(c.decides for c in found.changes) > 250
    assert {(c.row, c.metric.name) for c in found.worse} >= {("m0", "recall@10")}
    assert {c.row for c in found.worse} == {"m0"}


def test_lower_is_better_where_a_metric_says_so() -> None:
    found = compare(*sides(seeds("a", 0.5), seeds("a", 0.5, collision_items=0.3)))
    assert verdicts(found)["collision_items"] == "worse"
    found = compare(*sides(seeds("a", 0.5, collision_items=0.3), seeds("a", 0.5)))
    assert verdicts(found)["collision_items"] == "better"


@pytest.mark.parametrize("few", ["a", "b", "both"])
def test_one_seed_on_a_side_decides_nothing(few: str) -> None:
    """The interval is there, of users alone; another seed of the very same row may lie outside it."""
    one, two = (1 if few in (side, "both") else 3 for side in "ab")
    found = compare(*sides(seeds("a", 0.5, one), seeds("a", 0.3, two, collision_items=0.4)))
    said = verdicts(found)
    assert said["recall@10"] == said["collision_items"] == "unknown"
    (recall,) = [c for c in found.changes if c.metric.name == "recall@10"]
    assert recall.low is not None
    assert recall.p is None
    assert found.single == ("a",)
    assert not found.failed
    found = compare(*sides(seeds("a", 0.5, one), seeds("a", 0.3, two), read=gone))
    assert verdicts(found)["recall@10"] == "unknown"
    assert not found.failed


def test_references_that_draw_nothing_need_no_seeds() -> None:
    given = {"kind": "reference", "resolver": None, "decoder": None}
    one, two = seeds("a", 0.5, 1, **given), seeds("b", 0.3, 1, **given)
    found = compare(*sides(one, two, named=True))
    assert verdicts(found)["recall@10"] == "worse"
    assert not found.single
    # One that draws is like a tokenizer.
    two = seeds("b", 0.3, 1, **given, params={"seed": 0})
    assert verdicts(compare(*sides(one, two, named=True)))["recall@10"] == "unknown"


def test_two_seeds_of_one_row_are_said_to_differ_in_nothing_else() -> None:
    found = compare(*sides([run("a", 0.5, 0)], [run("a", 0.4, 1)]))
    assert found.given == {"a": ["the seed alone, 0 → 1"]}
    assert not found.failed


def test_rounding_is_no_change() -> None:
    """Of numbers that no seed scatters, and of single ones as far as they are printed."""
    for n in (1, 3):
        a, b = ([run("a", 0.5, s, collision_items=v) for s in range(n)] for v in (0.25, 0.25 * (1 + 1e-9)))
        assert verdicts(compare(*sides(a, b)))["collision_items"] == "same"


def test_times_are_told_and_decide_nothing() -> None:
    slow = [
        replace(r, measured=r.measured | {"fit_seconds": 9.0 + r.key["seed"] / 100}) for r in seeds("a", 0.5)
    ]
    found = compare(*sides(seeds("a", 0.5), slow))
    assert verdicts(found)["fit_seconds"] == "worse"
    assert not found.failed


def test_many_numbers_are_corrected_for_being_many() -> None:
    names = [f"m{i}" for i in range(20)]
    one = [r for n in names for r in seeds(n, 0.5)]
    alone = compare(*sides(seeds("m0", 0.5), seeds("m0", 0.53)))
    moved = seeds("m0", 0.53) + [r for n in names[1:] for r in seeds(n, 0.5)]
    together = compare(*sides(one, moved))
    (p,) = [c.p for c in alone.changes if c.metric.name == "recall@10"]
    (q,) = [c.p for c in together.changes if c.metric.name == "recall@10" and c.row == "m0"]
    assert p is not None
    assert q is not None
    assert p < q


def test_what_ran_and_fails_now_is_worse() -> None:
    error = {"type": "ContractError", "message": "codes out of range", "stage": "fit"}
    broken = [replace(r, status="failed", error=error, metrics={}, facts={}) for r in seeds("a", 0.5)]
    found = compare(*sides([*seeds("a", 0.5), *seeds("b", 0.4)], [*broken, *seeds("b", 0.4)]))
    assert found.failed
    (said,) = found.broken
    assert "codes out of range" in said


def test_rows_of_one_side_alone_are_named_and_decide_nothing() -> None:
    found = compare(*sides([*seeds("a", 0.5), *seeds("b", 0.4)], [*seeds("a", 0.5), *seeds("c", 0.4)]))
    assert found.only_a == ("b + suffix on shop",)
    assert found.only_b == ("c + suffix on shop",)
    assert not found.failed


def test_a_row_whose_settings_changed_is_still_found_and_what_changed_is_said() -> None:
    wider = KEY["decoder"] | {"params": {"width": 96}}
    found = compare(*sides(seeds("a", 0.5), seeds("a", 0.6, decoder=wider, code="f00d")))
    assert found.given == {"a": ["code c0de → f00d", "decoder.width 64 → 96"]}
    assert verdicts(found)["recall@10"] == "better"
    # Where there are two that it could be, none is guessed.
    two = [*seeds("a", 0.6, decoder=wider), *seeds("a", 0.6, params={"levels": 4})]
    with pytest.raises(UsageError, match="no row in common"):
        compare(*sides(seeds("a", 0.5), two))


def test_two_methods_are_beside_each_other_resolver_by_resolver() -> None:
    keep = {"name": "keep", "params": {}}
    a = [*seeds("a", 0.5), *seeds("a", 0.4, resolver=keep)]
    b = [*seeds("b", 0.5), *seeds("b", 0.3, resolver=keep)]
    found = compare(*sides(a, b, named=True))
    by_row = {c.row: c.verdict for c in found.changes if c.metric.name == "recall@10"}
    assert by_row == {"a → b, suffix": "same", "a → b, keep": "worse"}


def test_other_data_are_not_compared_user_by_user() -> None:
    other = KEY["dataset"] | {"fingerprint": "4567"}
    found = compare(*sides(seeds("a", 0.5), seeds("a", 0.3, dataset=other)))
    (recall,) = [c for c in found.changes if c.metric.name == "recall@10"]
    assert recall.low is None
    assert recall.verdict == "worse"


def saved(root: Path, records: list[RunRecord]) -> Path:
    for r in records:
        Store(root).save(r, vectors(r))
    return root


def test_the_command_tells_and_exits(sidbench_cli: Cli, tmp_path: Path) -> None:
    root = saved(tmp_path / "r", [*seeds("good", 0.5), *seeds("bad", 0.3)])
    later = saved(tmp_path / "later", [*seeds("good", 0.4), *seeds("bad", 0.3)])
    said = sidbench_cli("compare", "good", "bad", "--results", root)
    assert said.code == 1
    assert "Recall@10" in said.out
    assert "worse" in said.out
    assert sidbench_cli("compare", "bad", "good+suffix", "--results", root).code == 0
    assert sidbench_cli("compare", root, root).code == 0
    said = sidbench_cli("compare", root, later, "--json")
    assert said.code == 1
    told = json.loads(said.out)
    assert told["failed"]
    assert [(c["row"], c["metric"]) for c in told["changes"] if c["verdict"] == "worse"] == [
        ("good", "recall@10")
    ]
    one, two = (Side(str(r), tuple(runs_of(r)), Store(r).vectors, named=False) for r in (root, later))
    assert told == json.loads(json.dumps(numbers(compare(one, two))))
    first = seeds("good", 0.5)[0].id
    said = sidbench_cli("compare", first[:8], "bad", "--results", root)
    assert said.code == 0
    assert "? One seed on a side" in said.out


def runs_of(root: Path) -> list[RunRecord]:
    return [r for _, r in Store(root).all() if isinstance(r, RunRecord)]


def test_what_cannot_be_compared_is_said(sidbench_cli: Cli, tmp_path: Path) -> None:
    root = saved(tmp_path / "r", seeds("good", 0.5))
    other = saved(tmp_path / "o", seeds("else", 0.5))
    for arguments, said in (
        (("good", "god", "--results", root), "did you mean 'good'"),
        ((root, other), "no row in common"),
        ((root, tmp_path), "holds no records"),
        (("good", "good", "--results", tmp_path / "nowhere"), "there is no results folder"),
    ):
        found = sidbench_cli("compare", *arguments)
        assert found.code == 2
        assert said in found.err


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_two_commits_are_compared(sidbench_cli: Cli, tmp_path: Path) -> None:
    """A results folder that a checkout holds, as it was at each of them."""

    def git(*words: str) -> None:
        named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *named, *words], check=True, capture_output=True)

    root = saved(tmp_path / "results" / "published", seeds("good", 0.5))
    (tmp_path / "unrelated").write_text("")
    git("init", "--quiet")
    git("add", "unrelated")
    git("commit", "--quiet", "-m", "nothing yet")
    for recall in (0.5, 0.4):
        saved(root, seeds("good", recall))
        git("add", "-f", ".")
        git("commit", "--quiet", "-m", f"recall {recall}")
    said = sidbench_cli("compare", "HEAD~1", "HEAD", "--results", root, "--json")
    assert said.code == 1
    worse = [c for c in json.loads(said.out)["changes"] if c["verdict"] == "worse"]
    assert [(c["row"], c["metric"]) for c in worse] == [("good", "recall@10")]
    assert worse[0]["low"] is not None  # the places of all users were there too
    assert sidbench_cli("compare", "HEAD", root, "--results", root).code == 0
    assert "holds no" in sidbench_cli("compare", "HEAD~2", "HEAD", "--results", root).err


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_printed_fits(width: int, sidbench_cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = ("rq-kmeans-balanced", "rq-vae", "fsq")
    a = saved(tmp_path / "a", [r for n in names for r in seeds(n, 0.5)])
    b = saved(tmp_path / "b", [r for n in names for r in seeds(n, 0.3)])
    out = sidbench_cli("compare", a, b).out
    first, *rest = out.splitlines()
    assert first.startswith("A: ")
    assert max(map(len, rest)) <= width
    assert "…" not in out
    assert out.count("worse") == 4
    assert ("95% interval" in out) == (width == 120)
