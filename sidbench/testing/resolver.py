"""What every resolver must hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UnsupportedError
from sidbench.kit import residual
from sidbench.kit.kmeans import kmeans
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs, check_codes, distinct_rows
from sidbench.testing.core import Check, bound, catalogue, instance, raises, same, that
from sidbench.tokenizer import Tokenizer


class Coarse(Tokenizer):
    """A small tokenizer with many collisions and with costs, for resolvers to work on."""

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


class Costless(Coarse):
    """The same without costs."""

    name = "costless"
    costs = Tokenizer.costs


class Situation:
    """Items, their tokenizer and their SIDs."""

    def __init__(self, x: Embeddings, tokenizer: Tokenizer) -> None:
        self.x, self.tokenizer = x, tokenizer.fit(x)
        self.ids = np.array([f"item-{i}" for i in range(len(x))])
        self.codes = tokenizer.encode(x)
        self.sids = SIDs(self.codes, tokenizer.sizes, self.ids)

    def some(self, rows: NDArray[Any]) -> SIDs:
        return SIDs(self.codes[rows], self.sids.sizes, self.ids[rows])

    @property
    def alone(self) -> NDArray[np.bool_]:
        """Items that share their SID with none."""
        return _alone(self.codes)


class ResolverSubject:
    """A resolver under test with SIDs that collide: where there is room for all, and where there is not.

    One situation has a single level, whose prefix is empty.
    """

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.crowded = Situation(catalogue(200, 8), Coarse())
        self.flat = Situation(catalogue(200, 8), Coarse(levels=1, codebook_size=64))
        x = catalogue(200, 8)
        x[:5] = x[0]  # five items that nothing tells apart
        self.roomy = Situation(x, Coarse(codebook_size=(8, 128)))
        self.situations = (self.crowded, self.flat, self.roomy)

    @property
    def x(self) -> Embeddings:
        return self.crowded.x

    @property
    def tokenizer(self) -> Tokenizer:
        return self.crowded.tokenizer

    @property
    def sids(self) -> SIDs:
        return self.crowded.sids

    @cached_property
    def resolved(self) -> SIDs:
        return self.resolve(self.crowded)[0]

    def resolve(self, on: Situation) -> tuple[SIDs, int]:
        """What a fresh copy makes of a situation, and how many items it says it could not place."""
        resolver = self.resolver.replace()
        resolved = resolver.resolve(on.sids, on.tokenizer, on.x)
        return resolved, int(resolver.facts().get("unplaced", 0))

    def extend(self, on: Situation, frozen: SIDs, rows: NDArray[Any]) -> tuple[SIDs, int] | None:
        """The same for items that come later; None for a resolver that has no answer."""
        resolver = self.resolver.replace()
        try:
            grown = resolver.extend(frozen, on.codes[rows], on.ids[rows], on.tokenizer, on.x[rows])
        except UnsupportedError:
            return None
        return grown, int(resolver.facts().get("unplaced", 0))


def _alone(codes: Codes) -> NDArray[np.bool_]:
    group = distinct_rows(codes)[1]
    found: NDArray[np.bool_] = np.bincount(group)[group] == 1
    return found


def _surplus(codes: Codes) -> int:
    return len(codes) - len(distinct_rows(codes)[0])


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


def check_a_resolver_that_promises_unique_sids_counts_the_rest(r: ResolverSubject) -> None:
    if not r.resolver.unique:
        return
    for on in r.situations:
        resolved, unplaced = r.resolve(on)
        surplus = _surplus(resolved.codes)
        that(surplus == unplaced, f"{surplus} items share a SID beyond its first, facts say {unplaced}")
    that(surplus == 0, f"{surplus} items share a SID where there was room for all")


def check_a_resolver_changes_none_that_was_alone(r: ResolverSubject) -> None:
    if r.resolver.moves_others:
        return
    for on in r.situations:
        codes = r.resolve(on)[0].codes[:, : on.sids.levels]
        changed = int((codes[on.alone] != on.codes[on.alone]).any(axis=1).sum())
        that(changed == 0, f"{changed} items that shared their SID with none got another")


def check_a_resolver_does_not_mind_the_order_of_items(r: ResolverSubject) -> None:
    if r.resolver.by_order:
        return
    for on in r.situations:
        order = np.random.default_rng(3).permutation(len(on.x))
        resolver = r.resolver.replace()
        other = resolver.resolve(on.some(order), on.tokenizer, on.x[order])
        # Items that nothing tells apart may have exchanged their SIDs.
        one = np.hstack([on.x, r.resolve(on)[0].codes])
        two = np.hstack([on.x[order], other.codes])
        same(distinct_rows(one)[0], distinct_rows(two)[0], "SIDs before and after reordering items")


def check_a_resolver_asks_for_costs_only_if_it_says_so(r: ResolverSubject) -> None:
    on = Situation(r.x, Costless())
    resolver = r.resolver.replace()
    if r.resolver.needs_costs:
        raises(UnsupportedError, lambda: resolver.resolve(on.sids, on.tokenizer, on.x), "no costs")
    else:
        that(len(resolver.resolve(on.sids, on.tokenizer, on.x)) == len(on.x), "items are missing")


def check_items_that_come_later_change_nobody(r: ResolverSubject) -> None:
    for on in r.situations:
        early, late = np.arange(120), np.arange(120, 200)
        resolver = r.resolver.replace()
        frozen = resolver.resolve(on.some(early), on.tokenizer, on.x[early])
        kept = frozen.codes.copy()
        # Those of a last call come to what the calls before it left.
        for rows in np.split(late, [50, 80]):
            grown = r.extend(on, frozen, rows)
            if grown is None:
                return
            found, unplaced = grown
            that(isinstance(found, SIDs), f"extend returned {type(found).__name__}, not SIDs")
            ids = np.concatenate([frozen.item_ids, on.ids[rows]])
            that(np.array_equal(found.item_ids, ids), "extend must give the frozen items first, then the new")
            same(frozen.codes, found.codes[: len(frozen)], "SIDs of frozen items before and after extend")
            check_codes(found.codes, found.sizes, "extend", variable=True)
            that(found.resolver == frozen.resolver, f"extend says resolver {found.resolver!r}")
            frozen = found
        same(kept, frozen.codes[:120], "SIDs of the first items")
        if r.resolver.unique:
            surplus = _surplus(frozen.codes)
            that(surplus == unplaced, f"{surplus} items share a SID after extend, facts say {unplaced}")
    if r.resolver.unique:
        that(surplus == 0, f"{surplus} items share a SID after extend where there was room for all")


def check_an_item_that_has_a_sid_cannot_come_again(r: ResolverSubject) -> None:
    early = np.arange(120)
    frozen = r.resolver.replace().resolve(r.crowded.some(early), r.tokenizer, r.x[early])
    if r.extend(r.crowded, frozen, np.arange(120, 130)) is not None:
        raises(DataError, lambda: r.extend(r.crowded, frozen, np.arange(110, 130)), "extend by known items")


RESOLVER_CHECKS: tuple[Callable[[ResolverSubject], None], ...] = (
    check_a_resolver_keeps_every_item_in_its_place,
    check_a_resolver_says_its_name,
    check_a_resolver_makes_no_new_collisions,
    check_a_resolver_is_deterministic,
    check_a_resolver_leaves_its_input_untouched,
    check_a_resolver_takes_one_item,
    check_a_resolver_that_promises_unique_sids_counts_the_rest,
    check_a_resolver_changes_none_that_was_alone,
    check_a_resolver_does_not_mind_the_order_of_items,
    check_a_resolver_asks_for_costs_only_if_it_says_so,
    check_items_that_come_later_change_nobody,
    check_an_item_that_has_a_sid_cannot_come_again,
)


def resolver_checks(resolver: type[Resolver] | Resolver, **params: Any) -> list[Check]:
    """Every check of a resolver."""
    subject = ResolverSubject(instance(resolver, params))
    return bound(subject.resolver.name, subject, RESOLVER_CHECKS)


def check_resolver(resolver: type[Resolver] | Resolver, **params: Any) -> None:
    """Run every check of a resolver; the first that fails raises AssertionError."""
    for check in resolver_checks(resolver, **params):
        check()
