"""nearest-free: who does not fit moves to the nearest last code that has room."""

from __future__ import annotations

from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field

from sidbench.kit.places import Places, to_nearest
from sidbench.resolver import Mover


class NearestFree(Mover):
    """Items beyond `cap` on a SID move to the nearest last code below their prefix that has room.

    Who stays is nearest to the place; where several want one place, the nearest gets it and the others look
    on. An item whose prefix has no room left stays where it is, and facts count it.
    """

    name = "nearest-free"
    paper = "https://arxiv.org/abs/2509.20904"

    #: Items that may share a SID; FORGE lets 5.
    cap: Annotated[int, Field(ge=1)] = 1

    def most(self) -> int:
        return self.cap

    def place(self, places: Places, item_ids: NDArray[Any]) -> None:
        to_nearest(places, self.cap)
