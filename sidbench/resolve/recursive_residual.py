"""recursive-residual: level by level, best code first, stepping back where all below a prefix is taken."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.errors import UsageError
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.places import Claims, Places, best
from sidbench.resolver import Mover
from sidbench.sids import Codes

MOST = 1 << 20  # SIDs that an item may ask for


class RecursiveResidual(Mover):
    """Searches for a free SID depth first: the best codes of the last level, then the next code before (RRS).

    Every step back measures anew what is left over, so each path is one that encoding could have taken. The
    nearest item of a shared SID stays; where several ask for one free SID, the one nearest to it gets it.
    """

    name = "recursive-residual"
    paper = "https://arxiv.org/abs/2509.16446"

    #: The best codes that are tried at every level before stepping back.
    candidates: Annotated[int, Field(ge=2)] = 8

    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        levels = len(places.sizes)
        if self.candidates**levels > MOST:
            raise UsageError(
                f"{self.name}.candidates = {self.candidates}: {levels} levels make "
                f"{self.candidates**levels:,} SIDs, more than the {MOST:,} that may be tried; set fewer"
            )
        waits, _ = places.movers()
        claims = Claims(places)
        for digits in np.ndindex((self.candidates,) * (levels - 1)):
            if not len(waits):
                return
            prefix, codes, loss = self._branch(places, waits, digits)
            left = np.arange(len(waits))
            for column in range(self.candidates):
                asked = np.concatenate([prefix[left], codes[left, column, None]], axis=1)
                left = left[~claims.ask(waits[left], asked, loss[left, column])]
            waits = waits[left]

    def _branch(self, places: Places, which: Index, digits: tuple[int, ...]) -> tuple[Codes, Codes, Floats]:
        """Every item's prefix that takes the so-manieth best code at each level, and its best last codes."""
        prefix = np.zeros((len(which), len(digits)), dtype=np.int32)
        codes = np.empty((len(which), self.candidates), dtype=np.int32)
        loss = np.empty((len(which), self.candidates), dtype=np.float32)
        for piece in places.pieces(len(which), max(places.sizes)):
            dead = np.zeros(len(prefix[piece]), dtype=bool)
            for level, digit in enumerate(digits):
                found, far = best(places.costs(which[piece], prefix[piece, :level]), digit + 1)
                prefix[piece, level] = found[:, digit]
                dead |= ~np.isfinite(far[:, digit])
            codes[piece], loss[piece] = best(places.costs(which[piece], prefix[piece]), self.candidates)
            loss[piece][dead] = np.inf
        return prefix, codes, loss
