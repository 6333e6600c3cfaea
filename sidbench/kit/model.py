"""What the training loop trains: a torch module with losses, and what may happen between epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from sidbench.kit.nearest import Floats


class Model(nn.Module, ABC):
    """What the loop trains. All that it learns is in parameters and persistent buffers.

    `losses` may draw from torch's global generators (dropout does): the loop gives them a state of its own,
    by epoch, and puts the caller's back.
    """

    #: Why its steps cannot be captured as one CUDA graph; empty where they can.
    eager: str = ""
    #: Whether several processes may train it, each with some rows of a batch. Losses of shares, weighted by
    #: their rows, must then add up to the batch's: means over rows do, all else asks `kit.shares.share()`.
    shares: bool = False

    def begin(self, rows: Floats, seed: int) -> None:
        """Once, before the first step and not on resume: k-means initialisation from the rows, say."""

    def pace(self) -> dict[str, float]:
        """Children that learn at a share of the learning rate; the others take all of it."""
        return {}

    def phase(self, epoch: int) -> Hashable:
        """Called before every epoch, on resume too: freeze or thaw here, by the number alone.

        What it returns tells epochs apart whose steps run different operations. Children are frozen as a
        whole, with `requires_grad_`; what never requires a gradient is never trained.
        """
        return None

    @abstractmethod
    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        """Scalars of one batch: "loss" is minimised, the others are tracked. `progress` runs from 0 to 1."""

    def end_epoch(self, epoch: int, rng: torch.Generator, rows: Callable[[int], Tensor]) -> None:
        """Between epochs, at least 20 steps apart (a small catalogue's are shorter): dead-code revival, say.

        `rng` is a CPU generator; `rows(count)` draws that many different rows (all, where there are fewer).
        Changes are made in place: a captured graph knows tensors by their addresses. FloatingPointError says
        what turned out to be no number; the loop adds the step.
        """

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """The greedy codes (rows, levels) that the loop looks at now and then; not those of a record."""
