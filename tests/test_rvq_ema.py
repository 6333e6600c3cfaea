"""rvq-ema: codebooks that follow their rows, level on level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench import checkpoints, registry
from sidbench.dataset import Embeddings
from sidbench.kit import vq
from sidbench.plugin import configure
from sidbench.testing.core import catalogue
from sidbench.tokenizer import Tokenizer

X = catalogue(600, 12)
SIZES = (16, 8, 8)


def fitted(x: Embeddings = X, name: str = "rvq-ema", **params: object) -> Tokenizer:
    defaults = {} if name == "rq-kmeans" else {"epochs": 60}
    settings = {"codebook_size": SIZES, **defaults, **params}
    return configure(registry.tokenizers()[name], settings).fit(x)


def error(tokenizer: Tokenizer, x: Embeddings = X, levels: int = 3) -> float:
    codes = tokenizer.encode(x)[:, :levels]
    return float(np.square(tokenizer.reconstruct(codes) - x).sum() / np.square(x - x.mean(axis=0)).sum())


@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_it_comes_as_near_as_residual_kmeans(start: str) -> None:
    ours = fitted(start=start)
    assert error(ours) < 1.1 * error(fitted(name="rq-kmeans"))
    codes = ours.encode(X)
    assert [len(np.unique(codes[:, level])) for level in range(3)] == list(SIZES)


def test_more_levels_never_reconstruct_worse() -> None:
    ours = fitted()
    errors = [error(ours, levels=levels) for levels in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)


def test_codewords_follow_the_rows_that_chose_them() -> None:
    # Two far groups and two codes: whatever it starts from, each code ends at the mean of a group.
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(3, 0.1, (50, 4)), rng.normal(-3, 0.1, (50, 4))]).astype(np.float32)
    ours = fitted(x, levels=1, codebook_size=2, epochs=100, start="random", decay=0.8)
    means = np.stack([x[:50].mean(axis=0), x[50:].mean(axis=0)])
    book = ours.reconstruct(np.array([[0], [1]], dtype=np.int32))
    np.testing.assert_allclose(book[np.argsort(-book[:, 0])], means, atol=0.02)


def test_scale_and_place_of_the_rows_do_not_matter() -> None:
    codes = fitted().encode(X)
    assert (fitted(8 * X).encode(8 * X) == codes).all()
    moved = 64 * X + 512
    assert (fitted(moved).encode(moved) == codes).mean() > 0.97


def test_it_has_no_parameters_of_a_gradient() -> None:
    params = fitted().params()
    assert "decay" in params
    assert not {"lr", "optimizer", "weight_decay", "precision"} & set(params)


def test_codes_are_revived_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    revive = vq.ResidualVQ.revive

    def seen(self: vq.ResidualVQ, *given: Any) -> Any:
        modes.append(self.training)
        return revive(self, *given)

    monkeypatch.setattr(vq.ResidualVQ, "revive", seen)
    fitted()
    assert modes
    assert not any(modes)


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    whole = fitted(checkpoint_every=0).state()
    with checkpoints.kept_in(tmp_path):
        fitted(checkpoint_every=0)
        assert any(tmp_path.iterdir())
        again = fitted(checkpoint_every=0).state()
    for a, b in zip(whole["codebooks_"], again["codebooks_"], strict=True):
        assert np.array_equal(a, b)
