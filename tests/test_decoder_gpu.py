"""Captured training: padded pieces weigh what they weigh unpadded; on a GPU, graphs do what steps do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench import registry
from sidbench.decoder import Decoder
from sidbench.decoder import learner as learner_module
from sidbench.decoder.captured import Captured, _seed, _up
from sidbench.protocol import Split, split
from sidbench.sids import SIDs

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS: list[dict[str, Any]] = [
    {"architecture": "tiger", "tokens": "items"},
    {"architecture": "tiger", "tokens": "codes", "user_tokens": 3, "separators": True},
    {"architecture": "causal", "tokens": "items", "user_tokens": 3},
    {"architecture": "causal", "tokens": "codes", "separators": True},
]
every_architecture = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@pytest.fixture(scope="module")
def world() -> tuple[SIDs, Split]:
    corpus = registry.load_dataset("synthetic:tiny", None)
    codes = np.random.default_rng(0).integers(0, 8, (len(corpus), 3)).astype(np.int32)
    codes[::3, 2] = -1
    return SIDs(codes, (8, 8, 8), corpus.item_ids), split(corpus, "leave-one-out")


def small(**changes: Any) -> Decoder:
    settings = {
        "width": 16, "heads": 2, "head_width": 8, "feed_forward": 16, "history": 7, "batch": 50, "steps": 40,
        "warmup": 5, "eval_every": 10, "valid_users": 100, "beam": 10, "learning_rate": 3e-3, "device": "cpu",
    }  # fmt: skip
    return Decoder(**{**settings, **changes})


@every_architecture
def test_a_padded_piece_has_the_loss_and_gradient_of_its_rows(
    settings: dict[str, Any], world: tuple[SIDs, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(learner_module.SPARE_TOKENS, "cpu", 30)
    weights, windows, learner = small(**settings)._ready(*world)
    captured = Captured(learner, weights)
    shapes = set()
    for _ in range(8):
        batch = windows.next(50)
        plain = learner.gradient(batch, 0)
        expected = weights.gathered().clone()
        weights.gradient.zero_()
        codes = int(learner.trie.predicted[windows.targets(batch)].sum())
        loss = torch.zeros(())
        for piece, items in windows.pieces(batch, windows.targets(batch), learner._limit, learner._spare):
            inputs, goals, each = captured.padded(piece, items, codes)
            shapes.add((inputs.tokens.shape, goals.shape))
            loss += captured.learn(inputs, goals, each)
        torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights.gathered(), expected, atol=1e-5, rtol=1e-3)
        weights.gradient.zero_()
    assert len(shapes) < 20


@every_architecture
def test_graphs_are_kept_by_shape_and_leave_the_gradient_as_it_was(
    settings: dict[str, Any], world: tuple[SIDs, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a GPU on a processor, where a stand-in for a graph does again what was captured."""
    weights, windows, learner = small(**settings)._ready(*world)
    captured = Captured(learner, weights)
    made: list[Again] = []
    capturing: list[Any] = []

    @contextmanager
    def capture(graph: Any, **_: Any) -> Iterator[None]:
        capturing.append(graph)
        yield
        capturing.clear()

    class Again:
        given: tuple[Any, ...]
        loss: Tensor

        def __init__(self) -> None:
            made.append(self)

        def register_generator_state(self, generator: torch.Generator) -> None:
            pass

        def replay(self) -> None:
            self.loss.copy_(run(*self.given))

    def learn(*given: Any) -> Tensor:
        if capturing:  # within a capture nothing is computed yet: what is gathered is taken back
            made[-1].given = given
            before = weights.gradient.clone()
            made[-1].loss = run(*given) * torch.nan
            weights.gradient.copy_(before)
            return made[-1].loss
        return run(*given)

    run = captured.learn
    monkeypatch.setattr(captured, "learn", learn)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Again)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: MagicMock())
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    for step in range(12):
        batch = windows.next(50)
        plain = learner.gradient(batch, step)
        expected = weights.gathered().clone()
        weights.gradient.zero_()
        learner._captured = captured
        loss = learner.gradient(batch, step)
        learner._captured = None
        torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights.gathered(), expected, atol=1e-5, rtol=1e-3)
        weights.gradient.zero_()
    assert 1 <= len(made) == len(captured._graphs) < 12


def test_shapes_are_few_and_draws_are_many() -> None:
    assert [_up(n, 4) for n in (1, 4, 5)] == [4, 4, 8]
    seeds = {
        _seed(s, (step, part, i))
        for s in range(3)
        for step in range(9)
        for part in range(3)
        for i in range(3)
    }
    assert len(seeds) == 3 * 9 * 3 * 3
    assert all(0 <= seed < 1 << 63 for seed in seeds)


@pytest.mark.gpu
@gpu
@every_architecture
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_training_is_the_eager_one(
    settings: dict[str, Any], precision: str, world: tuple[SIDs, Split]
) -> None:
    found: list[tuple[Tensor, Tensor]] = []
    for graph in (False, True):
        decoder = small(device="cuda", precision=precision, cuda_graph=graph, **settings)
        weights, windows, learner = decoder._ready(*world)
        assert (learner._captured is not None) == graph
        loss = torch.stack([learner.gradient(windows.next(50), step) for step in range(3)])
        found.append((loss.cpu(), weights.gathered().cpu()))
    atol, rtol = (1e-5, 1e-3) if precision == "fp32" else (0.02, 0.05)
    for ours, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, plain, atol=atol, rtol=rtol)


@pytest.mark.gpu
@gpu
def test_dropout_of_graphs_depends_on_seed_and_step_alone(world: tuple[SIDs, Split]) -> None:
    weights, windows, learner = small(device="cuda", architecture="tiger", dropout=0.3)._ready(*world)
    batch, found = windows.next(50), []
    for step in (1, 2, 1):
        found.append(learner.gradient(batch, step).cpu())
        weights.gradient.zero_()
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    # A process that captures this graph later draws as this one did.
    weights, windows, learner = small(device="cuda", architecture="tiger", dropout=0.3)._ready(*world)
    assert torch.equal(learner.gradient(batch, 2).cpu(), found[1])


@pytest.mark.gpu
@gpu
@every_architecture
def test_a_gpu_ranks_as_a_processor_does(settings: dict[str, Any], world: tuple[SIDs, Split]) -> None:
    sids, data = world
    one = small(**settings).fit(sids, data)
    other = small(**settings, device="cuda")
    other._prepare(sids)
    other.model_.load_state_dict(one.model_.state_dict())
    rankings = [d.recommend(data.test.histories, 10, data.test.users) for d in (one, other)]
    np.testing.assert_allclose(rankings[0].scores, rankings[1].scores, atol=1e-4)
    differ = rankings[0].groups != rankings[1].groups
    # Only what all but ties may stand in another order.
    assert differ.mean() < 0.01


@pytest.mark.gpu
@gpu
@every_architecture
def test_a_gpu_trains_as_a_processor_does(settings: dict[str, Any], world: tuple[SIDs, Split]) -> None:
    cpu, cuda, bf16 = (
        small(**settings, device=device, precision=precision).fit(*world)
        for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"))
    )
    np.testing.assert_allclose(cuda.curve_["valid_loss"], cpu.curve_["valid_loss"], rtol=0.01)
    np.testing.assert_allclose(bf16.curve_["valid_loss"], cpu.curve_["valid_loss"], rtol=0.05)
