"""Scale: sizes and places that charts share, and what each row of a table is called."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence

from sidbench.metrics import METRICS
from sidbench.record import slug
from sidbench.report.drawing import (
    BLUE,
    GREY,
    ORANGE,
    Figure,
    width,
)
from sidbench.report.table import Row, Table

#: The folder of all pictures.
CHARTS = "charts"
#: Pixels of a plot; wide enough to read on a phone as it is.
WIDTH, HEIGHT = 330, 250
#: Pixels of a line of a plot that has one a row.
LINE = 20
#: Pixels of a whole picture: all are of one size, so that their letters are.
FULL = WIDTH + 55
KINDS = {"method": BLUE, "floor": GREY, "reference": ORANGE}


def key(table: Table, row: Row) -> str:
    """A name for a row that stays, whatever else comes to stand on the board."""
    text = json.dumps([table.agreed, row.name], sort_keys=True)
    return f"row-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def file_name(table: Table, figure: Figure) -> str:
    """Where the picture of a chart lies, beside the board."""
    own = hashlib.sha256(json.dumps(table.agreed, sort_keys=True).encode()).hexdigest()[:8]
    return f"{CHARTS}/{slug(table.agreed['dataset']['name'])}-{own}-{figure.name}.svg"


def known(name: str) -> bool:
    """Whether today's metrics have a number that some record holds."""
    family, at, cutoff = name.partition("@")
    return (f"{family}@K" if at and cutoff.isdigit() else name) in METRICS


def beside(names: Iterable[str]) -> float:
    """The pixels that names leave to a plot beside them."""
    return FULL - max(map(width, names)) - 14


def best_reference(table: Table) -> Row | None:
    head = table.headline or ""
    references = [r for r in table.rows if r.kind == "reference" and head in r.values]
    return max(references, key=lambda r: r.values[head].mean, default=None)


def domain(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        pad = max((high / low) ** 0.08, 1.1)
        return low / pad, high * pad
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (low - pad if low < 0 or low - pad > 0 else min(low, 0.0) - pad * 0.3), high + pad


def share(value: float, domain: tuple[float, float], *, log: bool) -> float:
    low, high = domain
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def inverse(share: float, domain: tuple[float, float], *, log: bool) -> float:
    low, high = domain
    return low * (high / low) ** share if log else low + share * (high - low)
