"""What decides which weights a model has, and what a model is given to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Everything that decides which weights there are."""

    sizes: tuple[int, ...]
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    history: int
    user_tokens: int
    tokens: Literal["codes", "items"]
    separators: bool = False
    tied: bool = False
    vocabulary: Literal["levels", "shared"] = "levels"

    @property
    def per_item(self) -> int:
        """How many places one item of a history takes."""
        return len(self.sizes) + self.separators if self.tokens == "codes" else 1


class Inputs(NamedTuple):
    """A few histories as a model reads them.

    `tokens` (rows, items, levels); for `tiger` the last item stands rightmost and `bias`, to be added to
    attention scores, leaves out what is padding; for `causal` the first stands leftmost.
    """

    tokens: Tensor
    users: Tensor | None
    bias: Tensor | None
    #: Items of each row, at least one ("nothing"); for `causal` alone.
    lengths: Tensor | None = None
    #: Which places (row x items + item) are targets, in training; None: the item after each row is.
    at: Tensor | None = None
