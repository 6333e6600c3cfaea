"""SASRec learns by the full softmax, looks at no future and no test item, ranks exactly, repeats itself."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sidbench import checkpoints, progress
from sidbench.dataset import Corpus, Sequences
from sidbench.decoder import course as course_module
from sidbench.decoder.inputs import Windows
from sidbench.decoder.selection import some
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.kit.softmax import cross_entropy
from sidbench.protocol import ColdStart, Split, Targets, leave_one_out
from sidbench.record import RunRecord, Store
from sidbench.reference import best
from sidbench.references import sasrec as module
from sidbench.references.sasrec import SASRec
from tests.conftest import Said

ITEMS = 40
X = np.zeros((ITEMS, 2), np.float32)


def world(users: int = 200, seed: int = 0) -> Split:
    """What follows an item is fixed: item i is followed by 7 i + 3."""
    rng = np.random.default_rng(seed)
    rows = [[int(rng.integers(ITEMS))] for _ in range(users)]
    for row in rows:
        for _ in range(int(rng.integers(2, 7))):
            row.append((7 * row[-1] + 3) % ITEMS)
    return leave_one_out(Corpus("chain", X, np.arange(ITEMS), Sequences.of(rows), np.arange(users)))


def small(**changes: Any) -> SASRec:
    chosen = {
        "width": 16, "heads": 2, "feed_forward": 32, "history": 4, "batch": 64, "learning_rate": 0.03,
        "steps": 60, "warmup": 5, "eval_every": 20, "valid_users": 100, "dropout": 0.0, "precision": "fp32",
        "device": "cpu",
    }  # fmt: skip
    return SASRec(**{**chosen, **changes})


def hits(model: SASRec, targets: Targets) -> float:
    return float((model.recommend(targets.histories, 1).groups[:, 0] == targets.items).mean())


def weights(model: SASRec) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.model_.parameters()])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 80), st.integers(0, 99))
def test_the_softmax_by_pieces_is_the_softmax(rows: int, items: int, cells: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    states, table = (torch.randn(n, 3, generator=draw).mul_(8).requires_grad_() for n in (rows, items))
    goals = torch.randint(items, (rows,), generator=draw)
    plain = F.cross_entropy(states @ table.T, goals, reduction="sum")
    expected = torch.autograd.grad(plain / 3, (states, table))
    loss = cross_entropy(states, table, goals, cells)
    found = torch.autograd.grad(loss / 3, (states, table))
    torch.testing.assert_close(loss, plain, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    loss = cross_entropy(states, table, goals, cells, torch.bfloat16)
    found = torch.autograd.grad(loss / 3, (states, table))
    torch.testing.assert_close(loss, plain, atol=1.0, rtol=0.02)
    assert all(t.dtype == torch.float32 for t in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_pieces_lose_nothing_of_the_gradient(dtype: torch.dtype) -> None:
    """A sum in bfloat16 stands still where what is added is less than a 256th of it."""
    rows = 64 * 700
    states, table = torch.ones(rows, 3), torch.zeros(2, 3, requires_grad=True)
    loss = cross_entropy(states, table, torch.zeros(rows, dtype=torch.long), 2 * 64, dtype)
    (found,) = torch.autograd.grad(loss, table)
    torch.testing.assert_close(found, torch.tensor([[-0.5], [0.5]]).expand(2, 3) * rows, rtol=0.005, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rule_is_learned_and_told_of(precision: str) -> None:
    split = world()
    model = small(dropout=0.05, precision=precision).fit(split, X)
    assert hits(model, split.test) > 0.6  # chance: 0.025
    assert model.curves()["valid_ndcg@10"][-1] > 0.6
    facts = model.facts()
    assert (facts["steps"], facts["sequences_seen"], facts["precision"]) == (60, 60 * 64, precision)
    assert facts["parameters"] == len(weights(model))
    assert facts["sequences_seen"] < facts["targets_seen"] < 4 * facts["sequences_seen"]
    json.dumps(facts)


def test_a_batch_in_pieces_has_the_loss_and_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    split = world()
    found = []
    for places, cells in ((1 << 20, 1 << 20), (64, 300), (1, 1)):
        monkeypatch.setitem(module.PLACES, "cpu", places)
        monkeypatch.setitem(module.CELLS, "cpu", cells)
        model = small()
        model._prepare(ITEMS, torch.device("cpu"))
        windows = Windows(split.train, model.history, 0, every=True)
        loss = model._learn(windows, windows.next(64), None)
        gradient = torch.cat([p.grad.flatten() for p in model.model_.parameters() if p.grad is not None])
        found.append((loss, gradient))
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5, rtol=1e-3)


def test_lists_are_the_whole_ranking_whatever_the_chunk_and_never_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = world()
    model = small(steps=10, eval_every=5).fit(split, X)
    # Empty, as long as what is read, and longer.
    histories = Sequences.of([[], [3], *([*range(i, i + 9)] for i in range(30))])
    whole = model.recommend(histories, ITEMS)
    assert (np.sort(whole.groups, axis=1) == np.arange(ITEMS)).all()
    first = model.recommend(histories, 7)
    np.testing.assert_array_equal(first.groups, whole.groups[:, :7])
    held: list[int] = []

    def watched(scores: Any, k: int) -> Any:
        held.append(scores.size)
        return best(scores, k)

    monkeypatch.setattr(module, "best", watched)
    monkeypatch.setitem(module.SEARCH_CELLS, "cpu", 3 * ITEMS + 1)
    again = model.recommend(histories, ITEMS)
    assert max(held) == 3 * ITEMS
    np.testing.assert_allclose(again.scores, whole.scores, rtol=1e-4, atol=1e-5)
    # Only the newest items are read.
    newest = Sequences.of([h[-model.history :] for h in histories])
    np.testing.assert_array_equal(model.recommend(newest, 7).groups, first.groups)


def test_no_state_sees_a_later_item() -> None:
    split = world()
    model = small(steps=10, eval_every=5).fit(split, X)
    ahead = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 9]])
    rows = ahead.flatten()
    begin, end = torch.tensor([0, 5]), torch.tensor([4, 9])
    read = model.reader_.stream(rows, begin, end, torch.zeros(2, dtype=torch.long))
    states = model.model_.states(read, torch.zeros(8, 1, dtype=torch.long), None).view(2, 4, -1)
    assert torch.equal(states[0, :3], states[1, :3])
    assert not torch.allclose(states[0, 3], states[1, 3])


def test_one_seed_one_result_and_the_global_state_is_left_alone() -> None:
    split = world()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    numpy_state = pickle.dumps(np.random.get_state())  # noqa: NPY002
    first, again, other = (small(dropout=0.1, seed=s, steps=20).fit(split, X) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert pickle.dumps(np.random.get_state()) == numpy_state  # noqa: NPY002
    assert torch.equal(weights(first), weights(again))
    assert first.curves() == again.curves()
    assert other.curves() != first.curves()


def test_the_test_part_is_never_read() -> None:
    split = world()
    nothing = Sequences.of([[] for _ in split.test.items])
    broken = Targets(split.test.users, nothing, np.zeros_like(split.test.items))
    fitted = [small(steps=10, eval_every=5).fit(s, X) for s in (split, replace(split, test=broken))]
    assert torch.equal(weights(fitted[0]), weights(fitted[1]))


def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = world()
    model = small(steps=50, eval_every=10, dropout=0.1)
    whole = model.replace().fit(split, X)
    monkeypatch.setattr(course_module, "CHECKPOINT_SECONDS", 0.0)
    for at in (7, 33):

        def cut(stage: str, done: float, *_: Any, at: int = at) -> None:
            if stage == "fit" and done == at:
                raise KeyboardInterrupt

        with checkpoints.kept_in(tmp_path), progress.listening(cut), pytest.raises(KeyboardInterrupt):
            model.replace().fit(split, X)
    seen: list[float] = []
    with checkpoints.kept_in(tmp_path), progress.listening(lambda _, done, *__: seen.append(done)):
        resumed = model.replace().fit(split, X)
    assert seen[0] == 31
    assert torch.equal(weights(whole), weights(resumed))
    assert (whole.curves(), whole.facts()) == (resumed.curves(), resumed.facts())
    with checkpoints.kept_in(tmp_path), pytest.raises(UsageError, match="of another fit"):
        model.replace(seed=1).fit(split, X)


def test_a_budget_leaves_time_for_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    split = world()
    ticks = itertools.count()
    # A clock on which every look takes a tenth of a second.
    for place in (course_module, module):
        monkeypatch.setattr(place, "now", lambda: next(ticks) / 10)
    model = small(budget=30, steps=1, patience=1).fit(split, X)
    assert model.facts()["steps"] > 50
    assert 15 <= len(model.curves()["valid_step"]) <= 20
    assert 29 < next(ticks) / 10 + 0.1 / 100 * len(split.valid) < 31
    assert hits(model, split.test) > 0.6


@pytest.mark.parametrize(("queries", "places"), [(2_000, 0), (2_000, 30), (300, 20)])
def test_a_budget_is_kept_for_as_many_lists_of_as_many_places_as_follow(
    queries: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = world()
    clock = [0.0]

    def now() -> float:
        clock[0] += 0.05
        return clock[0]

    def timed(scores: Any, k: int) -> Any:
        clock[0] += len(scores) * k * 5e-4
        return best(scores, k)

    for place in (course_module, module):
        monkeypatch.setattr(place, "now", now)
    monkeypatch.setattr(module, "best", timed)
    model = small(budget=60).fit(replace(split, queries=queries, places=places), X)
    assert model.facts()["steps"] > 20
    assert abs(clock[0] + queries * max(10, places) * 5e-4 - 60) < 3


def test_what_follows_is_the_clocks_business_alone() -> None:
    split = world()
    fitted = [small(steps=20).fit(s, X) for s in (split, replace(split, queries=9_999, places=30))]
    assert fitted[0].curves() == fitted[1].curves()
    assert torch.equal(weights(fitted[0]), weights(fitted[1]))


def test_cold_items_are_unknown_while_learning() -> None:
    rng = np.random.default_rng(0)
    rows = Sequences.of([rng.integers(ITEMS, size=6).tolist() for _ in range(200)])
    split = ColdStart(share=0.2).split(Corpus("any", X, np.arange(ITEMS), rows, np.arange(200)))
    cold, warm = torch.from_numpy(split.cold), torch.from_numpy(split.warm)
    model = small(weight_decay=0.0, clip=1e9).fit(split, X)
    # No gradient ever touched them: neither what they stand for nor how likely they are made.
    table = model.model_.table.detach()
    fresh = small()
    fresh._prepare(ITEMS, torch.device("cpu"))
    assert torch.equal(table[cold], fresh.model_.table.detach()[cold])
    assert not torch.isclose(table[warm], fresh.model_.table.detach()[warm]).all(1).any()
    # However high a cold item would stand, it pushes no other one down while weights are selected.
    valid = some(split.valid, 100)
    before = model._validate(valid, 10)
    with torch.no_grad():
        model.model_.table[cold] *= 1e3
    after = model._validate(valid, 10)
    assert before[:3] == after[:3]
    # When asked, they are candidates like all others.
    assert set(model.recommend(split.test.histories, ITEMS).groups[0]) == set(range(ITEMS))


def test_training_stops_when_validation_no_longer_gains_and_keeps_the_best() -> None:
    split = world()
    model = small(steps=300, eval_every=20, patience=2).fit(split, X)
    facts, curves = model.facts(), model.curves()
    assert facts["steps"] == facts["best_step"] + 2 * 20 < 300
    assert facts["best_step"] == curves["valid_step"][int(np.argmax(curves["valid_ndcg@10"]))]
    unstopped = small(steps=40, eval_every=5, patience=0, learning_rate=1e-12).fit(split, X)
    assert unstopped.facts()["steps"] == 40 > unstopped.facts()["best_step"]


def test_what_cannot_be_trained_is_said() -> None:
    one = leave_one_out(Corpus("one", X, np.arange(ITEMS), Sequences.of([[0, 1, 2], [3]]), np.arange(2)))
    with pytest.raises(DataError, match="at least one sequence with two items"):
        small().fit(one, X)
    with pytest.raises(SidbenchError, match="lower learning_rate"), np.errstate(all="ignore"):
        small(learning_rate=1e30, warmup=1, clip=1e30).fit(world(), X)


def test_a_row_a_seed_with_facts_and_curves_in_its_record(
    sidbench_cli: Callable[..., Said], tmp_path: Path
) -> None:
    chosen = [f"sasrec.{k}={v}" for k, v in (("width", 8), ("steps", 6), ("eval_every", 3), ("batch", 16))]
    sets = [part for c in chosen for part in ("--set", c)]
    line = ("run", "--dataset", "synthetic:tiny", "--methods", "sasrec,popularity", "--seeds", "0,1")
    assert sidbench_cli(*line, *sets, "--threads", "1", "--results", tmp_path).code == 0
    store = Store(tmp_path)
    found = [r for _, r in store.all() if isinstance(r, RunRecord)]
    records = [r for r in found if r.key["method"] == "sasrec"]
    assert sorted(r.key["seed"] for r in records) == [0, 1]
    for record in records:
        assert record.facts["steps"] == 6
        assert store.vectors(record)["curve_valid_step"].tolist() == [3, 6]
        assert not store.unfinished(record.key).exists()
    assert records[0].metrics["recall@10"] != records[1].metrics["recall@10"]
    assert len(found) == len(records) + 1  # popularity draws no random numbers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_learns_and_ranks_the_same() -> None:
    split = world()
    host, device = (small(device=d).fit(split, X) for d in ("cpu", "cuda"))
    assert abs(hits(host, split.test) - hits(device, split.test)) < 0.05
    assert torch.equal(weights(device), weights(small(device="cuda").fit(split, X)))
