"""keep: items that share a SID go on sharing it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.resolver import Resolver, joined
from sidbench.sids import Codes, SIDs
from sidbench.tokenizer import Tokenizer


class Keep(Resolver):
    """Changes nothing: items that share a SID stay together, and recall counts them as the group they are.

    Items that come later keep the tokenizer's codes too.
    """

    name = "keep"

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        return sids.replace(resolver=self.name)

    def extend(
        self,
        frozen: SIDs,
        codes: Codes,
        item_ids: NDArray[Any],
        tokenizer: Tokenizer | None,
        x: Embeddings | None,
    ) -> SIDs:
        return joined(frozen, codes, item_ids)
