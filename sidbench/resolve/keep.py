"""keep: items that share a SID go on sharing it."""

from __future__ import annotations

from sidbench.dataset import Embeddings
from sidbench.resolver import Resolver
from sidbench.sids import SIDs
from sidbench.tokenizer import Tokenizer


class Keep(Resolver):
    """Changes nothing: items that share a SID stay together, and recall counts them as the group they are."""

    name = "keep"

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        return sids.replace(resolver=self.name)
