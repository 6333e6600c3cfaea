"""The conformance kit catches what it says: each check fails on a tokenizer broken in that one way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import Self

from sidbench import registry, testing
from sidbench.dataset import Corpus, Dataset, Embeddings, Sequences
from sidbench.errors import UsageError
from sidbench.kit import device
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs
from sidbench.testing import check_dataset, check_resolver, check_tokenizer, run_checks
from sidbench.tokenizer import Tokenizer


class Good(Tokenizer):
    """Sign patterns of a few columns: the smallest tokenizer that meets every check."""

    name = "good"

    def fit(self, x: Embeddings) -> Self:
        self.threshold_ = x[0].copy()
        return self

    def encode(self, x: Embeddings) -> Codes:
        if x.shape[1] != len(self.threshold_):
            raise UsageError("another width")
        bits = (x > self.threshold_).astype(np.int64)
        columns = [bits[:, level % x.shape[1]] for level in range(self.levels)]
        return np.stack([c % size for c, size in zip(columns, self.sizes, strict=True)], axis=1)


def broken(**changes: Callable[..., Any] | Any) -> type[Tokenizer]:
    """Good with some of its methods or attributes replaced."""
    return type(
        "Broken", (Good,), {"__doc__": "Broken.", "name": "broken", "__module__": __name__, **changes}
    )


def by(change: Callable[[Any, Embeddings, Any], Any]) -> type[Tokenizer]:
    """Good with its codes changed."""

    def encode(self: Good, x: Embeddings) -> Any:
        return change(self, x, Good.encode(self, x).copy())

    return broken(encode=encode)


def fits(change: Callable[[Good, Embeddings], Any]) -> type[Tokenizer]:
    """Good with something more in its fit."""

    def fit(self: Good, x: Embeddings) -> Any:
        Good.fit(self, x)
        change(self, x)
        return self

    return broken(fit=fit)


def add_batch_number(self: Good, x: Embeddings, codes: Codes) -> Codes:
    codes[:, 0] = len(x) % self.sizes[0]
    return codes


def add_position(self: Good, x: Embeddings, codes: Codes) -> Codes:
    codes[:, 0] = np.arange(len(x)) % self.sizes[0]
    return codes


def centre_on_the_batch(self: Good, x: Embeddings, codes: Codes) -> Codes:
    codes[:, 0] = (x[:, 0] > x[:, 0].max() / 2) % self.sizes[0]
    return codes


def write_to_input(self: Good, x: Embeddings, codes: Codes) -> Codes:
    x[0] = 0
    return codes


def learn_early(self: Good) -> None:
    Tokenizer.__post_init__(self)
    self.threshold_ = np.zeros(1, dtype=np.float32)


def forget_on_load(self: Good, state: dict[str, Any]) -> Good:
    self.threshold_ = np.zeros_like(state["threshold_"])
    return self


def global_noise(self: Good, x: Embeddings) -> None:
    noise = np.random.standard_normal(x.shape[1:])  # noqa: NPY002 - the global state is the point
    self.threshold_ = self.threshold_ + noise.astype(np.float32)


FAILURES: dict[str, tuple[type[Tokenizer], str]] = {
    "no docstring": (broken(__doc__=""), "it says what it is"),
    "quick names nothing": (broken(quick={"epochs": 3}), "no parameter 'epochs'"),
    "returns floats": (by(lambda s, x, c: c * 1.0), "expected integers"),
    "returns a list": (by(lambda s, x, c: c.tolist()), "shape"),
    "too few rows": (by(lambda s, x, c: c[1:]), "299 rows of codes for 300"),
    "too few levels": (by(lambda s, x, c: c[:, 1:]), "one column a level"),
    "out of range": (by(lambda s, x, c: c + s.sizes[0]), "level 0 holds codes"),
    "negative": (by(lambda s, x, c: c - 5), "level 0 holds codes"),
    "depends on the batch": (by(add_batch_number), "does not depend on the batch"),
    "depends on the order": (by(add_position), "does not depend on the batch"),
    "depends on the company": (by(centre_on_the_batch), "does not depend on the batch"),
    "noise in encode": (
        by(lambda s, x, c: (c + np.random.default_rng().integers(2, size=c.shape)) % 2),
        "two runs of fit_encode",
    ),
    "noise in fit": (fits(global_noise), "two runs of fit_encode with one seed"),
    "takes global random numbers": (fits(lambda s, x: random.random()), "Python's random state"),
    "seeds NumPy": (fits(lambda s, x: np.random.seed(0)), "NumPy's global random state"),  # noqa: NPY002
    "seeds torch": (fits(lambda s, x: torch.manual_seed(1)), "torch's global random state"),
    "returns nothing from fit": (broken(fit=lambda self, x: None), "must return self"),
    "learns in the constructor": (
        broken(__post_init__=learn_early),
        "a constructor only stores",
    ),
    "writes to its input in fit": (fits(lambda s, x: x.fill(0)), "read-only"),
    "writes to its input in encode": (by(write_to_input), "read-only"),
    "writes around the lock": (fits(lambda s, x: device.tensor(x).zero_() and None), "input"),
    "loses state on load": (broken(restore=forget_on_load), "before save and after load"),
    "keeps what cannot be saved": (
        fits(lambda s, x: vars(s).update(model_=object())),
        "learned state must be",
    ),
    "knows only one size": (by(lambda s, x, c: c * 0 + 15), "level 0 holds codes"),
    "takes any width": (
        broken(encode=lambda self, x: (x[:, :1] > self.threshold_[0]).repeat(self.levels, 1).astype(int)),
        "rows of another width are refused",
    ),
    "cannot count as low as it says": (
        broken(
            fewest=property(lambda self: 1),
            fit=lambda self, x: Good.fit(self, x[: len(x) // (len(x) > 16)]),
        ),
        "fewer items than codes: ZeroDivisionError",
    ),
    "works unfitted": (
        broken(encode=lambda self, x: np.zeros((len(x), self.levels), int)),
        "expected NotFitted",
    ),
    "facts of objects": (broken(facts=lambda self: {"a": (1, 2)}), "survive JSON"),
    "costs of another shape": (broken(costs=lambda self, x, p: np.zeros((len(x), 2))), "costs have shape"),
    "costs of NaN": (
        broken(costs=lambda self, x, p: np.full((len(x), self.sizes[p.shape[1]]), np.nan)),
        "costs",
    ),
    "reconstructs another shape": (broken(reconstruct=lambda self, c: np.zeros((len(c), 2))), "has shape"),
    "uneven duplicates": (by(add_position), "duplicate rows get equal codes"),
}


def test_a_good_tokenizer_passes() -> None:
    check_tokenizer(Good)
    check_tokenizer(Good(levels=2, codebook_size=(4, 2)))
    assert all(r.passed and not r.message for r in run_checks(Good))


@pytest.mark.parametrize("what", FAILURES)
def test_a_broken_tokenizer_is_caught(what: str) -> None:
    cls, says = FAILURES[what]
    messages = [r.message for r in run_checks(cls) if not r.passed]
    assert any(says in m for m in messages), messages
    with pytest.raises(AssertionError, match=r"^broken: "):
        check_tokenizer(cls)


def test_every_tokenizer_check_has_a_failure_that_it_catches() -> None:
    caught = {r.name for cls, _ in FAILURES.values() for r in run_checks(cls) if not r.passed}
    assert caught == {c.name for c in testing.tokenizer_checks(Good)}


def test_what_raises_in_fit_fails_its_checks_by_name_and_the_rest_still_runs() -> None:
    results = list(run_checks(fits(lambda s, x: 1 // 0)))
    assert {r.passed for r in results} == {True, False}
    failed = next(r for r in results if not r.passed)
    assert failed.message == f"broken: {failed.name}: ZeroDivisionError: integer division or modulo by zero"


@pytest.mark.parametrize("name", sorted(registry.resolvers()))
def test_resolvers(name: str) -> None:
    check_resolver(registry.resolvers()[name])


class Shuffle(Resolver):
    """Gives the right SIDs to the wrong items."""

    name = "shuffle"

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        return sids.replace(item_ids=sids.item_ids[::-1], resolver=self.name)


class Merge(Resolver):
    """Gives all items one SID, and does not say who did it."""

    name = "merge"

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        return sids.replace(codes=sids.codes * 0)


def test_broken_resolvers_are_caught() -> None:
    with pytest.raises(AssertionError, match="item ids changed"):
        check_resolver(Shuffle)
    failed = {r.name for r in run_checks(Merge) if not r.passed}
    assert failed == {
        "a resolver says its name",
        "a resolver makes no new collisions",
        "a resolver changes none that was alone",
    }


class Noise(Dataset):
    """Different at every load unless seeded; ids repeat if asked to."""

    name = "noise"
    seeded: bool = True
    repeat: bool = False

    def load(self) -> Corpus:
        rng = np.random.default_rng(0 if self.seeded else None)
        ids = np.arange(10) // (2 if self.repeat else 1)
        x = rng.normal(size=(10, 3)).astype(np.float32)
        return Corpus("noise", x, ids, Sequences.of([[0, 1], [2, 9]]), np.arange(2))


def test_datasets() -> None:
    check_dataset(Noise)
    with pytest.raises(AssertionError, match="two loads have fingerprints"):
        check_dataset(Noise, seeded=False)
    with pytest.raises(AssertionError, match="item ids repeat"):
        check_dataset(Noise(repeat=True))
