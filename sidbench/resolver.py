"""Resolver: what to do where two items share a SID. The built-in ones live in sidbench/resolve/."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UnsupportedError
from sidbench.plugin import Plugin
from sidbench.sids import Codes, SIDs
from sidbench.tokenizer import Tokenizer


class Resolver(Plugin, ABC):
    """`resolve` gives every item its final SID. What needs distances asks `tokenizer.costs`, in chunks."""

    kind: ClassVar[str] = "resolver"

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


def joined(frozen: SIDs, codes: Codes, item_ids: NDArray[Any], sizes: tuple[int, ...] | None = None) -> SIDs:
    """The frozen items' SIDs and after them those of new items, which may not be among the frozen."""
    if np.isin(item_ids, frozen.item_ids).any():
        raise DataError("extend: some of the new items have SIDs already; give those that have none")
    ids = np.concatenate([frozen.item_ids, item_ids])
    return frozen.replace(
        codes=np.concatenate([frozen.codes, codes]), sizes=sizes or frozen.sizes, item_ids=ids
    )
