"""How long training takes and how fast it learns: epochs for a catalogue, the learning rate of every step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]

FEWEST, MOST = 5, 1000  # epochs, where they follow from the steps


def epochs_for(batches: int, steps: int) -> int:
    """As many epochs as bring about `steps` steps, but at least 5 and at most 1,000.

    A small catalogue is seen often enough to learn from it, a large one is not seen hundreds of times.
    """
    return min(max(math.ceil(steps / batches), FEWEST), MOST)


def rates(kind: Schedule, lr: float, steps: int, warmup: float) -> list[float]:
    """The learning rate of every step: up in a line over the warm-up's share of them, then as `kind` says.

    A decay reaches zero one step after the last, so that every step learns.
    """
    rising = round(warmup * steps)
    after = max(1, steps - rising)
    falls = [i / after for i in range(steps - rising)]
    if kind == "constant":
        decay = [1.0 for _ in falls]
    elif kind == "linear":
        decay = [1.0 - part for part in falls]
    else:
        decay = [0.5 * (1.0 + math.cos(math.pi * part)) for part in falls]
    return [lr * (i + 1) / rising for i in range(rising)] + [lr * height for height in decay]
