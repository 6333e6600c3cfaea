"""The decoder learns, selects on validation, never reads the test part, and repeats itself to the bit."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import checkpoints, progress
from sidbench.dataset import Corpus, Sequences
from sidbench.decoder import Decoder
from sidbench.decoder import course as course_module
from sidbench.decoder import decoder as decoder_module
from sidbench.decoder import learner as learner_module
from sidbench.decoder import retrieval as retrieval_module
from sidbench.decoder.retrieval import Retriever
from sidbench.decoder.selection import expected_gain, some
from sidbench.decoder.training import Weights
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.protocol import Split, Targets, leave_one_out
from sidbench.sids import SIDs

ITEMS = 40


def world(*, users: int = 300, variable: bool = False) -> tuple[SIDs, Split]:
    """What follows an item is fixed: item i is followed by 7 i + 3."""
    rng = np.random.default_rng(0)
    rows = [[int(rng.integers(ITEMS))] for _ in range(users)]
    for row in rows:
        for _ in range(int(rng.integers(2, 7))):
            row.append((7 * row[-1] + 3) % ITEMS)
    x = rng.random((ITEMS, 2), dtype=np.float32)
    corpus = Corpus("chain", x, np.arange(ITEMS), Sequences.of(rows), np.arange(users))
    codes = np.stack([np.arange(ITEMS) // 8, np.arange(ITEMS) % 8], axis=1).astype(np.int32)
    if variable:
        codes = np.concatenate([codes, np.full((ITEMS, 1), -1, np.int32)], axis=1)
        codes[::3, 2] = 1
        codes[0] = (7, -1, -1)
    sizes = (8, 8, 2)[: codes.shape[1]]
    return SIDs(codes, sizes, np.arange(ITEMS)), leave_one_out(corpus)


def small(**changes: Any) -> Decoder:
    settings = {
        "architecture": "tiger",
        "width": 32, "heads": 2, "head_width": 16, "feed_forward": 64, "history": 4, "batch": 64,
        "steps": 120, "warmup": 10, "eval_every": 40, "valid_users": 100, "beam": 10, "device": "cpu",
    }  # fmt: skip
    return Decoder(**{**settings, **changes})


def hits(decoder: Decoder, targets: Targets, k: int = 1) -> float:
    ranking = decoder.recommend(targets.histories, k, targets.users)
    return float(np.mean([item in ranking.items(u, k) for u, item in enumerate(targets.items)]))


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({}, False),
        ({"tokens": "codes", "user_tokens": 5, "steps": 160}, False),
        ({"precision": "bf16", "dropout": 0.02}, True),
        ({"architecture": "causal"}, False),
        ({"architecture": "causal", "tokens": "codes", "precision": "bf16", "dropout": 0.02}, True),
    ],
    ids=["items", "codes and users", "bf16, dropout, variable length", "causal", "causal over codes, bf16"],
)
def test_a_rule_is_learned(settings: dict[str, Any], variable: bool) -> None:
    sids, split = world(variable=variable)
    decoder = small(**settings).fit(sids, split)
    assert hits(decoder, split.test) > 0.6  # chance: 0.025
    assert decoder.curve_["valid_ndcg@10"][-1] > 0.6
    facts = decoder.facts()
    assert facts["precision"] == settings.get("precision", "fp32")
    targets = int((split.train.lengths - 1).clip(0).sum())
    assert facts["sequences_seen"] == facts["steps"] * 64
    if decoder.architecture == "tiger":
        assert facts["windows"] == targets
        assert facts["targets_seen"] == facts["sequences_seen"]
    else:
        assert targets / 4 <= facts["windows"] < targets
        assert facts["sequences_seen"] < facts["targets_seen"] < 4 * facts["sequences_seen"]


@pytest.mark.parametrize("architecture", ["tiger", "causal"])
@pytest.mark.parametrize("tokens", ["items", "codes"])
def test_however_a_batch_is_packed_its_loss_and_gradient_are_those_of_every_row_alone(
    architecture: str, tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sids, split = world(variable=True)
    decoder = small(architecture=architecture, tokens=tokens, user_tokens=3)
    found = []
    # Each row alone; then cut by size, by length, by both, in shares and not at all.
    packings = [(1, 0, 1), (64, 1 << 20, 1), (1 << 20, 8, 1), (64, 8, 1), (64, 8, 3), (1 << 20, 1 << 20, 1)]
    for limit, spare, parts in packings:
        monkeypatch.setitem(learner_module.PIECE_TOKENS, "cpu", limit)
        monkeypatch.setitem(learner_module.SPARE_TOKENS, "cpu", spare)
        weights, windows, learner = decoder.replace()._ready(sids, split)
        batch = windows.next(20)
        loss = sum(learner.gradient(batch, 0, part, parts) for part in range(parts))
        found.append((loss, weights.gathered().clone()))
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["tiger", "causal"])
@pytest.mark.parametrize("tokens", ["items", "codes"])
def test_what_follows_a_target_changes_nothing_of_its_loss(architecture: str, tokens: str) -> None:
    sids, split = world(users=20)
    decoder = small(architecture=architecture, tokens=tokens, separators=tokens == "codes", user_tokens=3)

    def losses(items: NDArray[np.int32]) -> NDArray[np.float32]:
        """Of each item that is a target, what its codes cost; all rows of an epoch in one piece."""
        _, windows, learner = decoder.replace()._ready(
            sids, replace(split, train=Sequences(items, split.train.offsets))
        )
        order = (windows.begin - windows.end).argsort(stable=True)
        out = np.full((len(items), 2), np.nan, dtype=np.float32)
        for piece, goals in windows.pieces(order, windows.targets(order), 1 << 20, 1 << 20):
            rows = (windows.items, windows.begin[piece], windows.end[piece], windows.users[piece])
            with torch.no_grad():
                found = learner.losses(learner._read(*rows), learner.trie.item_codes[goals], None)
            counts = windows.counts[piece]
            last = windows.end[piece].repeat_interleave(counts)
            before = counts.cumsum(0).repeat_interleave(counts) - torch.arange(len(goals)) - 1
            out[last - before] = found
        return out

    items, offsets = split.train.items, split.train.offsets
    place = np.arange(len(items)) - np.repeat(offsets[:-1], split.train.lengths)
    whole = losses(items)
    assert (np.isnan(whole[:, 0]) == (place == 0)).all()
    for at in range(1, 5):
        other = losses(np.where(place >= at, (items + 11) % ITEMS, items).astype(np.int32))
        targets = (place > 0) & (place < at)
        np.testing.assert_array_equal(other[targets], whole[targets])
        assert (np.abs(other[place >= at] - whole[place >= at]) > 1e-3).any()


def test_one_seed_one_result_and_the_global_state_is_left_alone() -> None:
    sids, split = world()
    threads = torch.get_num_threads()
    state, numpy_state = torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    first, again, other = (
        small(dropout=0.1, steps=20, eval_every=10, seed=seed).fit(sids, split) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert pickle.dumps(np.random.get_state()) == numpy_state  # noqa: NPY002
    pairs = list(zip(first.model_.parameters(), again.model_.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.curve_ == again.curve_
    rankings = [d.recommend(split.test.histories, 10) for d in (first, again)]
    np.testing.assert_array_equal(rankings[0].groups, rankings[1].groups)
    np.testing.assert_array_equal(rankings[0].scores, rankings[1].scores)
    assert other.curve_ != first.curve_


@pytest.mark.parametrize("architecture", ["tiger", "causal"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.1, "patience": 0},
        {"eval_every": 11, "label_smoothing": 0.1},  # looks between checkpoints
        {"learning_rate": 1e-9, "patience": 2, "dropout": 0.1, "tokens": "codes"},  # stops early
    ],
    ids=["all sequences", "smoothed", "stopped"],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    architecture: str,
    precision: str,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sids, split = world(users=80)
    small_ = {
        "architecture": architecture,
        "precision": precision,
        "batch": 24,
        "steps": 45,
        "eval_every": 10,
    }
    decoder = small(**{**small_, **settings})
    whole = decoder.replace().fit(sids, split)
    monkeypatch.setattr(course_module, "CHECKPOINT_SECONDS", 0.0)
    cuts = (7, 23, 29)
    for at in cuts:

        def cut(stage: str, done: float, *_: Any, at: int = at) -> None:
            if stage == "train" and done == at:
                raise KeyboardInterrupt

        with checkpoints.kept_in(tmp_path), progress.listening(cut), pytest.raises(KeyboardInterrupt):
            decoder.replace().fit(sids, split)
    seen: list[float] = []
    with checkpoints.kept_in(tmp_path), progress.listening(lambda _, done, *__: seen.append(done)):
        resumed = decoder.replace().fit(sids, split)
    assert seen[0] == cuts[-1] // decoder.eval_every * decoder.eval_every + 1
    assert (whole.steps_ < 45) == (decoder.patience == 2)
    pairs = list(zip(whole.model_.parameters(), resumed.model_.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert whole.curve_ == resumed.curve_
    assert whole.facts() == resumed.facts()
    with checkpoints.kept_in(tmp_path), pytest.raises(UsageError, match="of another fit"):
        decoder.replace(seed=1).fit(sids, split)


def test_a_budget_leaves_time_for_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    sids, split = world()
    ticks = itertools.count()
    # A clock on which every look takes a tenth of a second: some three looks a step, and two a search.
    for module in (course_module, decoder_module, retrieval_module):
        monkeypatch.setattr(module, "now", lambda: next(ticks) / 10)
    seen: list[tuple[float, float]] = []
    with progress.listening(lambda _, done, total, __: seen.append((done, total))):
        decoder = small(budget=60, steps=1, patience=1).fit(sids, split)
    assert decoder.steps_ > 100
    assert 15 <= len(decoder.curve_["valid_step"]) <= 20
    assert decoder.curve_["valid_step"][-1] == decoder.steps_
    searched = 0.1 / 100 * len(split.valid)
    assert 59 < next(ticks) / 10 + searched < 61
    assert seen[-1][1] == 60
    assert hits(decoder, split.test) > 0.6


@pytest.mark.parametrize(
    ("queries", "places"),
    [(0, 0), (2_000, 0), (2_000, 30), (300, 20)],
    ids=["as before", "many", "both", "wide"],
)
def test_a_budget_is_kept_for_as_many_queries_and_places_as_follow(
    queries: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sids, split = world()
    time = [0.0]
    search = Retriever.search

    def timed(self: Retriever, histories: Sequences, users: Any, beam: int, *rest: Any, **more: Any) -> Any:
        time[0] += len(histories) * beam * 5e-4
        return search(self, histories, users, beam, *rest, **more)

    def now() -> float:
        time[0] += 0.05
        return time[0]

    for module in (course_module, decoder_module, retrieval_module):
        monkeypatch.setattr(module, "now", now)
    monkeypatch.setattr(Retriever, "search", timed)
    budget = 60.0
    decoder = small(budget=budget).fit(sids, replace(split, queries=queries, places=places))
    assert decoder.steps_ > 20
    # What the lists of all who are asked take, at the width of their search.
    after = (queries or len(split.valid)) * max(10, places) * 5e-4
    assert abs(time[0] + after - budget) < 0.05 * budget


def course(**changes: Any) -> course_module.Course:
    settings = {
        "steps": 100, "eval_every": 10, "patience": 3, "budget": 0.0, "warmup": 10, "learning_rate": 2.0,
    }  # fmt: skip
    weights = Weights(torch.nn.Linear(1, 1), torch.float32, 0.0, 1.0)  # type: ignore[arg-type]
    return course_module.Course(weights, "any", **{**settings, **changes})


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    run, rates = course(), []
    for run.step in range(100):
        rates.append(run.rate())
    assert rates[:10] == [2.0 * (step + 1) / 10 for step in range(10)]
    fall = [1 + np.cos(np.pi * step / 90) for step in range(90)]
    np.testing.assert_allclose(rates[10:], fall)


@pytest.mark.parametrize(("warmup", "a_step"), [(50, 0.05), (1_000, 1.0)], ids=["by steps", "by time"])
def test_no_warm_up_takes_more_than_a_tenth_of_a_budget(
    warmup: int, a_step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = [0.0]
    monkeypatch.setattr(course_module, "now", lambda: time[0])
    run, rates = course(budget=100.0, warmup=warmup), []
    while run.share() < 1:
        rates.append(run.rate())
        run.step += 1
        time[0] += a_step
    top = int(np.argmax(rates))
    assert rates[top] > 1.9
    assert top * a_step <= 10
    assert top >= min(warmup, 10 / a_step) - 1
    assert all(np.diff(rates[:top]) > 0)
    assert all(np.diff(rates[top:]) < 0)


def test_what_follows_is_the_clocks_business_alone() -> None:
    sids, split = world()
    fitted = [small(steps=20, eval_every=10).fit(sids, s)
              for s in (split, replace(split, queries=9_999, places=30))]  # fmt: skip
    assert fitted[0].curve_ == fitted[1].curve_
    pairs = zip(fitted[0].model_.parameters(), fitted[1].model_.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_smoothing_changes_training_alone() -> None:
    sids, split = world()
    plain, smooth = (small(steps=80, eval_every=40, label_smoothing=s).fit(sids, split) for s in (0.0, 0.2))
    assert smooth.curve_["loss"][-1] > plain.curve_["loss"][-1] + 0.1
    assert hits(smooth, split.test) > 0.5


def test_the_test_part_is_never_read() -> None:
    sids, split = world()
    nothing = Sequences.of([[] for _ in split.test.items])
    broken = Targets(split.test.users, nothing, np.zeros_like(split.test.items))
    fitted = [small(steps=10, eval_every=5).fit(sids, s) for s in (split, replace(split, test=broken))]
    pairs = zip(fitted[0].model_.parameters(), fitted[1].model_.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert fitted[0].curve_ == fitted[1].curve_


def test_training_stops_when_validation_no_longer_gains_and_keeps_the_best() -> None:
    sids, split = world()
    decoder = small(steps=400, eval_every=20, patience=2).fit(sids, split)
    ndcg, steps = decoder.curve_["valid_ndcg@10"], decoder.curve_["valid_step"]
    assert decoder.steps_ < 400
    assert decoder.best_step_ == steps[int(np.argmax(ndcg))]
    assert decoder.steps_ == decoder.best_step_ + 2 * 20
    retriever = Retriever(decoder.model_, decoder.trie_, decoder.reader_)
    assert retriever.validate(some(split.valid, 100), decoder.beam).ndcg == max(ndcg)


def test_without_patience_every_sequence_is_seen() -> None:
    sids, split = world()
    # A rate at which nothing is learned: the first validation is never beaten.
    decoder = small(steps=60, eval_every=5, patience=0, learning_rate=1e-12).fit(sids, split)
    assert (decoder.steps_, decoder.facts()["sequences_seen"]) == (60, 60 * 64)
    assert decoder.best_step_ < 60
    assert len(decoder.curve_["valid_recall@10"]) == 12


def test_tokens_of_an_item_are_counted() -> None:
    sids, split = world()
    for settings, read in (({"tokens": "items"}, 1), ({"tokens": "codes"}, 2),
                           ({"tokens": "codes", "separators": True}, 3)):  # fmt: skip
        facts = small(steps=1, **settings).fit(sids, split).facts()
        assert (facts["tokens_per_item"], facts["tokens_per_target"]) == (read, 2.0)
    # Of 40 items one has a single code and an end, 13 have three codes, the others two and an end.
    variable, split = world(variable=True)
    facts = small(steps=1, tokens="codes").fit(variable, split).facts()
    assert (facts["tokens_per_item"], facts["tokens_per_target"]) == (3, (2 + 39 * 3) / 40)


def test_progress_is_reported() -> None:
    sids, split = world()
    seen: list[tuple[str, float, float, dict[str, float]]] = []
    with progress.listening(lambda *a: seen.append(a)):
        decoder = small(steps=10, eval_every=5).fit(sids, split)
        assert {s[0] for s in seen} == {"train"}
        decoder.recommend(split.test.histories, 5)
    assert [s[1] for s in seen if s[0] == "train"] == list(range(1, 11))
    assert set(seen[9][3]) == {"loss", "ndcg@10", "recall@10", "step", "sequences"}
    assert seen[9][3]["sequences"] == 10 * 64
    assert seen[-1][:3] == ("search", len(split.test), len(split.test))


def test_ndcg_and_recall_are_means_over_all_orders_inside_shared_sids() -> None:
    sizes = np.array([1, 3, 2, 4, 1])
    groups = np.array([[2, 1, 3, 0, -1], [1, 3, 0, 4, 2], [0, 1, -1, -1, -1]])
    goal = np.array([3, 1, 2])
    for k in (1, 3, 5, 10):
        got, recall = (expected_gain(groups, goal, sizes, k, discount=d) for d in (True, False))
        for u in range(3):
            place, values = 0, []
            for g in groups[u]:
                if g == goal[u]:
                    orders = list(itertools.permutations(range(sizes[g])))
                    ranks = [place + order.index(0) + 1 for order in orders]
                    values = [1 / np.log2(r + 1) if r <= k else 0.0 for r in ranks]
                    break
                place += sizes[g] if g >= 0 else 0
            assert got[u] == pytest.approx(np.mean(values) if values else 0.0)
            assert recall[u] == pytest.approx(np.mean(np.array(values) > 0) if values else 0.0)


def test_presets_are_known_by_name() -> None:
    assert Decoder.preset("quick") == Decoder()
    paper = Decoder.preset("paper", seed=3)
    assert (Decoder().architecture, paper.architecture, paper.name) == ("causal", "tiger", "tiger")
    assert (paper.width, paper.heads, paper.head_width, paper.feed_forward) == (128, 6, 64, 1024)
    assert paper.seed == 3
    # The other architecture at these sizes: all layers in one stack, over the same tokens.
    sids, _ = world()
    both = [Decoder.preset("paper", architecture=name, device="cpu") for name in ("tiger", "causal")]
    for decoder in both:
        decoder._prepare(sids)
    layers = [sum(type(part).__name__ == "Layer" for part in decoder.model_.modules()) for decoder in both]
    assert layers == [8, 8]
    assert both[0].model_.shape == both[1].model_.shape
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        Decoder.preset("quik")
    with pytest.raises(UsageError, match="dropout"):
        Decoder(dropout=1.5)


@pytest.mark.parametrize("name", Decoder.presets)
def test_every_preset_can_stop_in_its_first_half(name: str) -> None:
    decoder = Decoder.preset(name)
    assert (1 + decoder.patience) * decoder.eval_every <= decoder.steps // 2


def test_bad_input_says_what_is_wrong() -> None:
    sids, split = world()
    with pytest.raises(DataError, match="40 items"):
        small().fit(SIDs(sids.codes[:9], sids.sizes, np.arange(9)), split)
    alone = replace(split, train=Sequences.of([[1], [2]]))
    with pytest.raises(DataError, match="0 training windows"):
        small().fit(sids, alone)
    with pytest.raises(SidbenchError, match="learning_rate"):
        small(learning_rate=1e30, steps=40).fit(sids, split)
    decoder = small(user_tokens=3, steps=2).fit(sids, split)
    with pytest.raises(UsageError, match="users"):
        decoder.recommend(split.test.histories, 5)
    with pytest.raises(UsageError, match="k = 0"):
        decoder.recommend(split.test.histories, 0, split.test.users)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_and_searches_the_same() -> None:
    sids, split = world()
    decoder = small(device="cuda", precision="auto", dropout=0.02).fit(sids, split)
    assert decoder.facts()["precision"] == "bf16"
    assert hits(decoder, split.test) > 0.6
    again = small(device="cuda", precision="auto", dropout=0.02).fit(sids, split)
    pairs = zip(decoder.model_.parameters(), again.model_.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
