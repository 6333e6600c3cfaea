"""What a person sees while data are fetched and read, before there is a row to show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from sidbench import progress

#: Seconds between two looks: reports come with every piece that is read.
EVERY = 0.2


@contextmanager
def loading(console: Console, text: str) -> Iterator[None]:
    """A spinner that says which file is being fetched or read, how fast, and how long still."""
    with console.status(escape(text)) as status:
        shown = 0.0

        def listen(stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= EVERY:
                shown = now
                status.update(escape(f"{text} {said(stage, done, total, numbers)}"))

        with progress.listening(listen):
            yield


def said(stage: str, done: float, total: float, numbers: dict[str, float]) -> str:
    """`fetch reviews.json.gz: 12 of 45 MB, 3.1 MB/s, 0:11 left`; of anything else its share."""
    speed, left = numbers.get("bytes/s"), numbers.get("seconds left")
    if speed is None:
        return f"{stage}: {done / total:.0%}" if done and total else stage
    of = "" if left is None else f" of {total / 1e6:.0f}"
    parts = [f"{stage}: {done / 1e6:.0f}{of} MB", f"{speed / 1e6:.1f} MB/s"]
    if left is not None:
        hours, rest = divmod(round(left), 3600)
        minutes, seconds = divmod(rest, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left")
    return ", ".join(parts)
