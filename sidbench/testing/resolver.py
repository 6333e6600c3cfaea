"""What every resolver must hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit import residual
from sidbench.kit.kmeans import kmeans
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs, check_codes
from sidbench.testing.core import Check, bound, catalogue, instance, same, that
from sidbench.tokenizer import Tokenizer


class Coarse(Tokenizer):
    """Two levels of four codes: a tokenizer with many collisions and with costs, for resolvers to work on."""

    name = "coarse"
    levels: int = 2
    codebook_size: int | tuple[int, ...] = 4

    def fit(self, x: Embeddings) -> Self:
        self.codebooks_ = residual.fit(x, self.sizes, lambda left, k, level: kmeans(left, k, iters=5).centers)
        return self

    def encode(self, x: Embeddings) -> Codes:
        return residual.encode(x, self.codebooks_)

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        return residual.costs(x, prefix, self.codebooks_)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)


class ResolverSubject:
    """A resolver under test with SIDs that collide."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.x = catalogue(200, 8)
        self.tokenizer = Coarse().fit(self.x)
        ids = np.array([f"item-{i}" for i in range(len(self.x))])
        self.sids = SIDs(self.tokenizer.encode(self.x), self.tokenizer.sizes, ids)

    @cached_property
    def resolved(self) -> SIDs:
        return self.resolver.resolve(self.sids, self.tokenizer, self.x)


def check_a_resolver_keeps_every_item_in_its_place(r: ResolverSubject) -> None:
    that(isinstance(r.resolved, SIDs), f"resolve returned {type(r.resolved).__name__}, not SIDs")
    that(np.array_equal(r.resolved.item_ids, r.sids.item_ids), "item ids changed, or their order")
    check_codes(r.resolved.codes, r.resolved.sizes, "resolve", variable=True)


def check_a_resolver_says_its_name(r: ResolverSubject) -> None:
    that(r.resolved.resolver == r.resolver.name, f"the SIDs say resolver {r.resolved.resolver!r}")


def check_a_resolver_makes_no_new_collisions(r: ResolverSubject) -> None:
    before, after = len(r.sids.groups()[0]), len(r.resolved.groups()[0])
    that(after >= before, f"{after} distinct SIDs from {before}")


def check_a_resolver_is_deterministic(r: ResolverSubject) -> None:
    again = r.resolver.replace().resolve(r.sids, r.tokenizer, r.x)
    same(r.resolved.codes, again.codes, "two calls of resolve")


def check_a_resolver_leaves_its_input_untouched(r: ResolverSubject) -> None:
    codes, x = r.sids.codes.copy(), r.x.copy()
    r.resolver.resolve(r.sids, r.tokenizer, r.x)
    that(bool((codes == r.sids.codes).all()), "resolve changed the SIDs that it was given")
    that(bool((x == r.x).all()), "resolve changed the embeddings that it was given")


def check_a_resolver_takes_one_item(r: ResolverSubject) -> None:
    one = SIDs(r.sids.codes[:1], r.sids.sizes, r.sids.item_ids[:1])
    that(len(r.resolver.resolve(one, r.tokenizer, r.x[:1])) == 1, "one item did not stay one item")


RESOLVER_CHECKS: tuple[Callable[[ResolverSubject], None], ...] = (
    check_a_resolver_keeps_every_item_in_its_place,
    check_a_resolver_says_its_name,
    check_a_resolver_makes_no_new_collisions,
    check_a_resolver_is_deterministic,
    check_a_resolver_leaves_its_input_untouched,
    check_a_resolver_takes_one_item,
)


def resolver_checks(resolver: type[Resolver] | Resolver, **params: Any) -> list[Check]:
    """Every check of a resolver."""
    subject = ResolverSubject(instance(resolver, params))
    return bound(subject.resolver.name, subject, RESOLVER_CHECKS)


def check_resolver(resolver: type[Resolver] | Resolver, **params: Any) -> None:
    """Run every check of a resolver; the first that fails raises AssertionError."""
    for check in resolver_checks(resolver, **params):
        check()
