"""Resolver: what to do where two items share a SID. The built-in ones live in sidbench/resolve/."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UnsupportedError
from sidbench.kit.places import Places
from sidbench.plugin import Plugin
from sidbench.sids import Codes, SIDs, distinct_rows
from sidbench.tokenizer import Tokenizer


class Resolver(Plugin, ABC):
    """`resolve` gives every item its final SID. What needs distances asks `tokenizer.costs`, in chunks.

    Write `resolve`, and `extend` where later items can have SIDs too. Both are deterministic.
    """

    kind: ClassVar[str] = "resolver"
    #: Where the method was described.
    paper: ClassVar[str] = ""
    #: True where, with default parameters, items share a SID afterwards only if `facts()["unplaced"]` says
    #: that so many found no other place.
    unique: ClassVar[bool] = False
    #: True where an item that shared its SID with none may get another.
    moves_others: ClassVar[bool] = False
    #: True where the order of rows decides who gets which SID (a run's rows are in an order without meaning).
    by_order: ClassVar[bool] = False
    #: True where it asks `Tokenizer.costs`: it cannot be used with a tokenizer that has none.
    needs_costs: ClassVar[bool] = False

    @abstractmethod
    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        """New SIDs for the same items in the same order."""

    def extend(
        self,
        frozen: SIDs,
        codes: Codes,
        item_ids: NDArray[Any],
        tokenizer: Tokenizer | None,
        x: Embeddings | None,
    ) -> SIDs:
        """SIDs for items that came later: the frozen ones first and unchanged, then the new ones.

        `frozen` is what `resolve` (or `extend`) gave; `codes` are the tokenizer's own of the new items, whose
        embeddings are `x`. A level may grow, as `sizes` then says.
        """
        raise UnsupportedError(
            f"{self.name} gives no SIDs to items that come later (it has no extend); use another resolver"
        )

    def facts(self) -> dict[str, Any]:
        """What a record should keep of the last `resolve` or `extend`."""
        return {}


class Mover(Resolver):
    """Moves items to SIDs that nobody has, of the same length and levels; write `place`.

    Items that come later are placed by the same rule around those that are there.
    """

    unique: ClassVar[bool] = True
    needs_costs: ClassVar[bool] = True

    @abstractmethod
    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        """Change `places.codes` of items that are not frozen; `item_ids` are theirs."""

    def most(self) -> int:
        """The most items that a SID is meant to have."""
        return 1

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        places = Places(sids.codes, sids.sizes, 0, tokenizer, x)
        return sids.replace(codes=self._placed(places, sids.item_ids), resolver=self.name)

    def extend(
        self,
        frozen: SIDs,
        codes: Codes,
        item_ids: NDArray[Any],
        tokenizer: Tokenizer | None,
        x: Embeddings | None,
    ) -> SIDs:
        everybody = joined(frozen, codes, item_ids)
        places = Places(everybody.codes, frozen.sizes, len(frozen), tokenizer, x)
        return everybody.replace(codes=self._placed(places, item_ids))

    def facts(self) -> dict[str, Any]:
        """Items beyond what their SID is meant to have, since nothing was free, and the SIDs they are on."""
        return {"unplaced": self.unplaced_, "unfit_groups": self.unfit_}

    def _placed(self, places: Places, item_ids: NDArray[Any]) -> Codes:
        if (places.codes < 0).any():
            raise DataError(
                f"{self.name}: these SIDs differ in length, so they end in a suffix that sets them apart "
                "already; use the resolver keep (--resolvers keep)"
            )
        if self.needs_costs:
            places.need_costs(self.name)
        self.place(places, item_ids)
        over = np.bincount(distinct_rows(places.codes)[1]) - self.most()
        self.unplaced_, self.unfit_ = int(over[over > 0].sum()), int((over > 0).sum())
        return places.codes


def joined(frozen: SIDs, codes: Codes, item_ids: NDArray[Any], sizes: tuple[int, ...] | None = None) -> SIDs:
    """The frozen items' SIDs and after them those of new items, which may not be among the frozen."""
    if np.isin(item_ids, frozen.item_ids).any():
        raise DataError("extend: some of the new items have SIDs already; give those that have none")
    ids = np.concatenate([frozen.item_ids, item_ids])
    return frozen.replace(
        codes=np.concatenate([frozen.codes, codes]), sizes=sizes or frozen.sizes, item_ids=ids
    )
