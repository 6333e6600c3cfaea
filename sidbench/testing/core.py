"""What all checks are made of: the outcome, one check bound to one plugin, and what they assert with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidbench.dataset import Embeddings
from sidbench.errors import UsageError
from sidbench.plugin import configure
from sidbench.sids import Codes, check_codes
from sidbench.tokenizer import Tokenizer


@dataclass(frozen=True)
class CheckResult:
    """One check's outcome; `message` is empty where it passed."""

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class Check:
    """One check bound to one plugin: call it, and it raises AssertionError or does not."""

    plugin: str
    name: str
    body: Callable[[], None]

    def __call__(self) -> None:
        try:
            self.body()
        except Exception as e:
            seen = str(e) if isinstance(e, AssertionError) else f"{type(e).__name__}: {e}"
            raise AssertionError(f"{self.plugin}: {self.name}: {seen}") from e

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def catalogue(n: int, dimensions: int, seed: int = 0) -> Embeddings:
    """Items in clusters of clusters, away from the origin, a tenth of them exact duplicates."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(8, dimensions))
    fine = coarse[rng.integers(8, size=40)] + 0.5 * rng.normal(size=(40, dimensions))
    x = fine[rng.integers(40, size=n)] + 0.2 * rng.normal(size=(n, dimensions)) + 0.5
    x[rng.integers(n, size=n // 10)] = x[rng.integers(n, size=n // 10)]
    return x.astype(np.float32)


def instance(plugin: Any, params: dict[str, Any]) -> Any:
    return configure(plugin, params) if isinstance(plugin, type) else plugin.replace(**params)


def bound(plugin: str, subject: Any, bodies: Sequence[Callable[[Any], None]]) -> list[Check]:
    def bind(body: Callable[[Any], None]) -> Check:
        name = body.__name__.removeprefix("check_").replace("_", " ")
        return Check(plugin, name, lambda: body(subject))

    return [bind(body) for body in bodies]


def that(holds: bool, otherwise: str) -> None:
    # Not `assert`: python -O must not pass a plugin that breaks its contract.
    if not holds:
        raise AssertionError(otherwise)


def valid(codes: Codes, tokenizer: Tokenizer, n: int) -> None:
    check_codes(codes, tokenizer.sizes, "encode")
    that(len(codes) == n, f"{len(codes)} rows of codes for {n} items")


def same(a: Codes, b: Codes, what: str) -> None:
    rows = np.flatnonzero((a != b).any(axis=1))
    if len(rows):
        first = rows[0]
        seen = f"first row {first}: {a[first].tolist()} and {b[first].tolist()}"
        raise AssertionError(f"{what} differ in {len(rows)} of {len(a)} rows ({seen})")


def raises(error: type[Exception], call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except error:
        return
    except Exception as e:
        raise AssertionError(f"{what} raised {type(e).__name__} ({e}); expected {error.__name__}") from e
    raise AssertionError(f"{what} raised nothing; expected {error.__name__}")


@contextmanager
def refusal_allowed() -> Iterator[None]:
    """A method that cannot have these sizes may say so: a UsageError is an answer, any other error is not."""
    try:
        yield
    except UsageError:
        return
