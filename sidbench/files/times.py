"""Times of events as a person's file writes them: seconds, dates, dates as numbers; as numbers that sort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.files.tables import is_text

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Numbers beyond are no seconds that a log of today could hold (the year 5138): milliseconds or finer.
LATEST = 10**11
#: The first and the last day that a number may spell, as 20240131 does.
FIRST_DAY, LAST_DAY = 19_000_101, 21_001_231
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
#: What text of a time may spell, the first that all of a column fit.
TIMES = (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC"))


@dataclass(frozen=True, eq=False)
class Clock:
    """Times as the file counts them, and how many of its ticks are a second."""

    ticks: NDArray[Any]
    a_second: int = 1
    #: What people should know of how they were read.
    note: str = ""

    def seconds(self, order: Rows) -> NDArray[np.int64]:
        """Whole seconds, rounded down, so that their order is the ticks'."""
        return (self.ticks[order] // self.a_second).astype(np.int64)

    def take(self, rows: Rows) -> Clock:
        return Clock(self.ticks[rows], self.a_second, self.note)

    @property
    def missing(self) -> Mask:
        """Which are no moment."""
        none: Mask = np.zeros(len(self.ticks), np.bool_)
        return none if self.ticks.dtype.kind != "f" else none | ~np.isfinite(self.ticks)


def clock(array: pa.Array, path: Path) -> Clock:
    """Times as numbers that sort; what is no moment is NaN or infinite (`missing`)."""
    a_second = 1
    if is_text(array.type):
        array = _of_text(array, path)
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    kind = array.type
    if pa.types.is_timestamp(kind):
        array, a_second = array.cast(pa.int64()), TICKS[kind.unit]
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{path}: timestamps are {kind}; expected numbers or dates")
    elif (found := written_as_dates(array, path)) is not None:
        return found
    # With gaps, arrow hands over floats: whole numbers up to 2^53 stay what they are.
    return Clock(np.asarray(array.to_numpy(zero_copy_only=False)), a_second)


def written_as_dates(array: pa.Array, path: Path) -> Clock | None:
    """Numbers such as 20240131 or 20240131235959 as the moments that they spell; None where they are none.

    As seconds they would all lie in some weeks of 1970, or beyond the year 600,000. Where nearly all spell a
    date the others are slips, and refused.
    """
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    given = np.isfinite(values)
    values = np.where(given, values, -1)  # which spells nothing
    for shown, a_day in (("YYYYMMDD", 1), ("YYYYMMDDhhmmss", 10**6)):
        near = (values >= FIRST_DAY * a_day) & (values < (LAST_DAY + 1) * a_day) & (values % 1 == 0)
        if not near.any():
            continue
        number = np.where(near, values, FIRST_DAY * a_day).astype(np.int64)
        day, of_day = number // a_day, number % a_day
        of_month = day // 100 % 100
        hour, minute, second = of_day // 10_000, of_day // 100 % 100, of_day % 100
        month = ((day // 10_000 - 1970) * 12 + of_month - 1).astype("datetime64[M]")
        date = month.astype("datetime64[D]") + (day % 100 - 1)
        spelled = near & (of_month >= 1) & (of_month <= 12) & (date.astype("datetime64[M]") == month)
        spelled &= (hour < 24) & (minute < 60) & (second <= 60)
        if spelled.sum() < 0.9 * given.sum():
            continue
        if (bad := np.flatnonzero(given & ~spelled)).size:
            raise DataError(
                f"{path}: timestamps are written as {shown}, and {len(bad):,} of them are no date, first "
                f"{values[bad[0]]:.0f} in event {bad[0]:,}; repair them, or write seconds"
            )
        seconds = date.astype("datetime64[s]").astype(np.int64) + hour * 3600 + minute * 60 + second
        note = f"timestamps such as {number[spelled][0]} are taken for dates written as {shown}"
        return Clock(seconds if given.all() else np.where(given, seconds, np.nan), 1, note)
    return None


def _of_text(array: pa.Array, path: Path) -> pa.Array:
    """Numbers, or dates as ISO 8601 writes them."""
    for kind in TIMES:
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue
    given = array.drop_null()
    kind = next((k for k in TIMES[1:] if _is_time(given[0], k)), None)
    odd = next(i for i, text in enumerate(array) if text.is_valid and not (kind and _is_time(text, kind)))
    others = f", others are such as {given[0].as_py()!r:.40}" if kind else ""
    raise DataError(
        f"{path}: the timestamp of event {odd:,} is {array[odd].as_py()!r:.40}{others}; expected numbers or "
        "dates (2024-01-31 or 2024-01-31 23:59:59), all of one kind"
    )


def _is_time(text: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
