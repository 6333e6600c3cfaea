"""Resolver: what to do where two items share a SID. The built-in ones live in sidbench/resolve/."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from sidbench.dataset import Embeddings
from sidbench.plugin import Plugin
from sidbench.sids import SIDs
from sidbench.tokenizer import Tokenizer


class Resolver(Plugin, ABC):
    """`resolve` gives every item its final SID. What needs distances asks `tokenizer.costs`, in chunks."""

    kind: ClassVar[str] = "resolver"

    @abstractmethod
    def resolve(self, sids: SIDs, tokenizer: Tokenizer | None, x: Embeddings | None) -> SIDs:
        """New SIDs for the same items in the same order."""
