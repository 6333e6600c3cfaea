"""exhaustive-candidates: the combinations of each level's best codes, in order, until one is free."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.errors import UsageError
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.places import Claims, Places, best
from sidbench.resolver import Mover
from sidbench.sids import Codes

WINDOW = 32  # combinations that are put in order at one time
MOST = 1 << 20  # combinations an item


class ExhaustiveCandidates(Mover):
    """Tries all combinations of the best codes of every level in order of their total cost (ECM).

    A level's codes are compared after the item's own codes of the levels before, so totals are the true
    distances for parallel codes and near to them for residual ones. The nearest item of a shared SID stays;
    where several ask for one free SID, the one with the least total gets it. Any level may change.
    """

    name = "exhaustive-candidates"
    paper = "https://arxiv.org/abs/2509.16446"

    #: The best codes of every level that are combined.
    candidates: Annotated[int, Field(ge=2)] = 8

    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        count = self.candidates ** len(places.sizes)
        if count > MOST:
            raise UsageError(
                f"{self.name}.candidates = {self.candidates}: {len(places.sizes)} levels make {count:,} "
                f"combinations, more than the {MOST:,} that may be tried; set fewer"
            )
        waits, _ = places.movers()
        codes, loss = self._candidates(places, waits)
        claims = Claims(places)
        for start in range(0, count, WINDOW):
            order, total = _window(places, loss, start)
            left = np.arange(len(waits))
            for column in range(order.shape[1]):
                digits = np.unravel_index(order[left, column], (self.candidates,) * len(places.sizes))
                asked = codes[left[:, None], np.arange(len(places.sizes)), np.stack(digits, axis=1)]
                left = left[~claims.ask(waits[left], asked, total[left, column])]
            waits, codes, loss = waits[left], codes[left], loss[left]
            if not len(waits):
                return

    def _candidates(self, places: Places, which: Index) -> tuple[Codes, Floats]:
        """(items, levels, candidates) best codes of every level, and what each costs more than the own."""
        shape = (len(which), len(places.sizes), self.candidates)
        codes, loss = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.float32)
        for piece in places.pieces(len(which), max(places.sizes)):
            own = places.codes[which[piece]]
            for level in range(len(places.sizes)):
                costs = places.costs(which[piece], own[:, :level])
                costs = costs - costs[np.arange(len(own)), own[:, level]][:, None]
                codes[piece, level], loss[piece, level] = best(costs, self.candidates)
        return codes, loss


def _window(places: Places, loss: Floats, start: int) -> tuple[Index, Floats]:
    """(items, up to WINDOW) the next combinations in order of total cost, and their totals."""
    n, levels, k = loss.shape
    width = min(WINDOW, k**levels - start)
    order, total = np.empty((n, width), dtype=np.int64), np.empty((n, width), dtype=np.float32)
    able = _first(start + width, levels, k)
    digits = np.unravel_index(able, (k,) * levels)
    for piece in places.pieces(n, len(able)):
        sums = loss[piece, 0][:, digits[0]]
        for level in range(1, levels):
            sums += loss[piece, level][:, digits[level]]
        # Combinations of equal totals in order of their number, the last level's the fastest.
        first = np.argsort(sums, axis=1, kind="stable")[:, start : start + width]
        order[piece], total[piece] = able[first], np.take_along_axis(sums, first, axis=1)
    return order, total


@cache
def _first(count: int, levels: int, k: int) -> Index:
    """The combinations that can be among the first so many, whatever codes cost, in order of their number.

    Codes are in order of cost, so a combination comes after all that are nowhere further down: the product
    of its places (from 1) says how many there are, itself included.
    """
    before = np.arange(1, k + 1)
    products = before.astype(np.float64)
    for _ in range(1, levels):
        products = np.multiply.outer(products, before).ravel()
    return np.flatnonzero(products <= count)
