"""suffix: one more level that numbers the items sharing a SID."""

from __future__ import annotations

import numpy as np

from sidbench.dataset import Embeddings
from sidbench.errors import DataError
from sidbench.resolver import Resolver
from sidbench.sids import SIDs
from sidbench.tokenizer import Tokenizer


class Suffix(Resolver):
    """Adds a last level, 0, 1, 2… inside each group of items that share a SID; the same length for all."""

    name = "suffix"
    paper = "https://arxiv.org/abs/2305.05065"

    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        if (sids.codes < 0).any():
            raise DataError(
                f"{self.name}: these SIDs differ in length, so they end in a suffix of their own already; "
                "use the resolver keep (--resolvers keep)"
            )
        _, group = sids.groups()
        order = np.argsort(group, kind="stable")  # rows are permuted on load: their order says nothing
        sizes = np.bincount(group) if len(group) else np.zeros(1, dtype=np.int64)
        starts = np.cumsum(sizes) - sizes
        number = np.empty(len(sids), dtype=np.int32)
        number[order] = np.arange(len(sids)) - starts[group[order]]
        codes = np.concatenate([sids.codes, number[:, None]], axis=1)
        return sids.replace(codes=codes, sizes=(*sids.sizes, int(sizes.max(initial=1))), resolver=self.name)
