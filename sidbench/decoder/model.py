"""What both architectures are to training and to search: states before the output, one step, the output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.decoder.layers import weight
from sidbench.decoder.noise import Noise
from sidbench.decoder.shape import Inputs, Shape


class Model(nn.Module, ABC):
    """Says how likely each code is at each level of the SID of the item after a history."""

    #: Whether one training row has all its items but the first for targets, or only what comes after it.
    every: ClassVar[bool]
    offsets: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        codes, levels = sum(shape.sizes), len(shape.sizes)
        # One row a code of each level, and a last one for "no item here".
        self.table = weight(codes + 1, shape.width)
        self.level = weight(levels, shape.width)
        if shape.user_tokens:
            self.user = weight(shape.user_tokens, shape.width)
        if not shape.tied:
            self.output = weight(codes, shape.width)
        self.starts = [sum(shape.sizes[:i]) for i in range(levels)]
        # Beside the weights: a captured step may not copy numbers from the processor.
        self.register_buffer("offsets", torch.tensor(self.starts), persistent=False)

    def initialise(self, seed: int, depth: int) -> None:
        """Own generator, on the processor: the same start on every device, the global state untouched."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith(".gain"):
                    continue
                std = p.shape[1] ** -0.5
                if name.endswith("_out"):
                    std /= math.sqrt(depth)
                p.normal_(0, std, generator=generator)
            self.table[-1] = 0

    @abstractmethod
    def states(self, inputs: Inputs, codes: Tensor, noise: Noise | None) -> Tensor:
        """What stands before the output (targets, levels, width), given the targets' codes (targets, levels).

        A level's state depends on the history and on the codes of the levels before it alone.
        """

    @abstractmethod
    def read(self, inputs: Inputs) -> Any:
        """What search needs of the histories: once a user, whatever the number of beams."""

    @abstractmethod
    def step(
        self, level: int, codes: Tensor | None, past: list[Tensor], read: Any, shape: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor]]:
        """One level for all beams: the states (users, beams, width) after `codes` (users, beams).

        `codes` are those of the level before, None at the start. `past` is what the beams' own earlier levels
        left, (users x beams, ...) each.
        """

    def head(self, level: int) -> tuple[Tensor, int]:
        """Rows to multiply a state with, in which the level's codes begin at a place: all that compete.

        In single precision: rounded scores would tie where they differ.
        """
        rows = self.table[:-1] if self.shape.tied else self.output
        start = self.starts[level]
        if self.shape.vocabulary == "shared":
            return rows.float(), start
        return rows[start : start + self.shape.sizes[level]].float(), 0

    def embedded(self, level: int, codes: Tensor) -> Tensor:
        """The vectors of codes of one level."""
        return F.embedding(codes + self.starts[level], self.table)

    def before(self, codes: Tensor) -> Tensor:
        """The vectors of all but the last code of each target: (targets, levels - 1, width)."""
        return F.embedding(codes[:, :-1] + self.offsets[:-1], self.table)


def later(places: int, like: Tensor) -> Tensor:
    """What to add to attention scores so that no place sees a later one."""
    return torch.full((places, places), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
