"""suffix: one more level that numbers the items sharing a SID."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.errors import DataError
from sidbench.kit.groups import ranks
from sidbench.resolver import Resolver, joined
from sidbench.sids import Codes, SIDs, distinct_rows
from sidbench.tokenizer import Tokenizer

NONE = -2  # below every number and below the -1 of an item without a suffix


class Suffix(Resolver):
    """Adds a last level, 0, 1, 2… inside each group of items that share a SID; the same length for all.

    With `base = 1` groups are numbered from 1, and 0 says that an item shares its SID with none. With
    `items = "colliding"` such an item gets no suffix, so SIDs differ in length. Items that come later get
    the next numbers of their group.
    """

    name = "suffix"
    paper = "https://arxiv.org/abs/2305.05065"
    added: ClassVar[tuple[str, ...]] = ("items", "base")
    unique: ClassVar[bool] = True
    by_order: ClassVar[bool] = True

    #: all: one more code for every item; colliding: only for items that share a SID, so lengths differ.
    items: Literal["all", "colliding"] = "all"
    #: The first number in a group of several items; with 1, an item that is alone has 0.
    base: Literal[0, 1] = 0

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        if (sids.codes < 0).any():
            raise DataError(
                f"{self.name}: these SIDs differ in length, so they end in a suffix of their own already; "
                "use the resolver keep (--resolvers keep)"
            )
        groups, group = sids.groups()
        number = self._numbers(group, np.full(len(groups), NONE))
        return sids.replace(
            codes=np.concatenate([sids.codes, number], axis=1),
            sizes=(*sids.sizes, int(number.max(initial=0)) + 1),
            resolver=self.name,
        )

    def extend(
        self,
        frozen: SIDs,
        codes: Codes,
        item_ids: NDArray[Any],
        tokenizer: Tokenizer | None,
        x: Embeddings | None,
    ) -> SIDs:
        groups, group = distinct_rows(np.concatenate([frozen.codes[:, :-1], codes]))
        highest = np.full(len(groups), NONE)
        np.maximum.at(highest, group[: len(frozen)], frozen.codes[:, -1])
        number = self._numbers(group[len(frozen) :], highest)
        size = max(frozen.sizes[-1], int(number.max(initial=0)) + 1)
        return joined(frozen, np.concatenate([codes, number], axis=1), item_ids, (*frozen.sizes[:-1], size))

    def _numbers(self, group: NDArray[np.int64], highest: NDArray[np.int64]) -> Codes:
        """A column of suffixes: on from the highest number of a group that has members, else from `base`."""
        old = highest[group] > NONE
        first = np.where(old, np.maximum(highest[group] + 1, self.base), self.base)
        alone = ~old & (np.bincount(group, minlength=len(highest))[group] == 1)
        lone = -1 if self.items == "colliding" else 0
        return np.where(alone, lone, first + ranks(group))[:, None].astype(np.int32)
