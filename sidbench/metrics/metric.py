"""Metric: what one number on the board is called, where it comes from, which way is better, what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Source = Literal["ranking", "sids", "data", "tokenizer", "decoder", "clock"]
Direction = Literal["higher", "lower", "none"]

#: What stands where there is no value: never "nan".
ABSENT = "–"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A declared number. The legend says what it is, exactly, and what it does not show."""

    name: str
    label: str
    source: Source
    legend: str
    direction: Direction
    format: str = ".4f"
    unit: str = ""
    #: A family has one member a cut-off: `recall@K` declares `recall@1`, `recall@10`…
    family: bool = False
    #: Secondary numbers explain others; the best of them is no achievement and is not marked.
    secondary: bool = False

    def at(self, cutoff: int) -> Metric:
        """The member of a family at one cut-off."""
        number = str(cutoff)
        return replace(
            self, name=self.name.replace("@K", f"@{number}"), label=f"{self.label}@{number}", family=False
        )

    def show(self, value: float | None, spread: float | None = None) -> str:
        """The value as every board prints it, with ± where a spread is known."""
        if value is None or not math.isfinite(value):
            return ABSENT
        shown = _plain(format(value, self.format))
        if spread is None or not math.isfinite(spread):
            return shown
        return f"{shown} ± {format(spread, self.format.lstrip('+'))}"

    def better(self, a: float, b: float) -> bool:
        """Whether a is strictly better than b."""
        return a > b if self.direction == "higher" else a < b if self.direction == "lower" else False


def _plain(text: str) -> str:
    """No "-0.0%": a rounded zero has no sign."""
    return text[1:] if text.startswith("-") and not any(c in "123456789" for c in text) else text
