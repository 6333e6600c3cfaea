"""Budget: the same wall time, or the same sequences seen, for all that a run trains to predict."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from sidbench.errors import UsageError
from sidbench.plugin import P, Plugin

_N = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"(?:{_N}h)?(?:{_N}m)?(?:{_N}s)?")
_SEQUENCES = re.compile(r"(\d[\d_]*)seq")
EXPECTED = "expected a time such as 90s, 5m, 1h or 1h30m, or sequences to see such as 50000seq"


@dataclass(frozen=True)
class Budget:
    """One of the two is above zero."""

    seconds: float = 0.0
    #: Rows of training batches. What a row teaches is the learner's own: one target or, where every position
    #: of a row is one, up to as many as its history is long.
    sequences: int = 0

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`5m`, `1h30m`, `90s`, `50000seq`."""
        compact = "".join(text.split())
        if found := _SEQUENCES.fullmatch(compact):
            out = cls(sequences=int(found[1]))
        elif compact and (found := _TIME.fullmatch(compact)):
            hours, minutes, seconds = (float(part or 0) for part in found.groups())
            out = cls(seconds=3600 * hours + 60 * minutes + seconds)
        else:
            raise UsageError(f"budget = {text!r} does not fit; {EXPECTED}")
        if out == cls():
            raise UsageError(f"budget = {text!r} leaves nothing to train with; {EXPECTED}")
        return out

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.sequences:
            return f"{self.sequences}seq"
        hours, rest = divmod(self.seconds, 3600)
        minutes, seconds = divmod(rest, 60)
        parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
        return "".join(f"{value:g}{unit}" for value, unit in parts if value)

    def binds(self, plugin: Plugin) -> bool:
        """Whether a plugin has the parameters by which this budget is kept."""
        needed = {"budget"} if self.seconds else {"batch", "steps", "patience"}
        return needed <= plugin.params().keys()

    def bind(self, plugin: P) -> P:
        """The plugin as it keeps to the budget; counted, no validation ends it and its warm-up is a tenth."""
        if self.seconds:
            return plugin.replace(budget=self.seconds)
        params = plugin.params()
        steps = math.ceil(self.sequences / params["batch"])
        # A training that ends before its warm-up does has never learned at its own rate.
        warmup = {"warmup": min(params["warmup"], max(1, steps // 10))} if "warmup" in params else {}
        return plugin.replace(steps=steps, patience=0, **warmup)

    def refuse(self, target: str, values: dict[str, Any]) -> None:
        """A parameter that would say anew how long to train is an error, not a question of who wins."""
        for key in sorted({"budget", "steps", "patience"} & values.keys()):
            raise UsageError(
                f"--budget {self} and --set {target}.{key}={values[key]} both say how long to train; "
                "give one of the two"
            )


def seconds_of(*trained: Plugin | None) -> float:
    """The seconds that the first of these (a row's decoder, or its method) is given; 0 where nobody said."""
    first = next(plugin for plugin in trained if plugin is not None)
    return float(first.params().get("budget", 0))
