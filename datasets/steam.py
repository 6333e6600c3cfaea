"""Steam (Kang and McAuley 2018): reviews of games as events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sidbench.download import Remote
from sidbench.errors import DataError
from sidbench.prepare import Log
from sidbench.public import Figures, Public
from sidbench.rawfiles import REMEDY, clean, flat, lines, records

SITE = "http://cseweb.ucsd.edu/~wckang/"
PAGE = "it is listed at https://github.com/kang205/SASRec"
REVIEW = ("username", "product_id", "date")
GAME = ("title", "genres", "tags", "specs", "developer", "publisher")


class Steam(Public):
    """Steam reviews: who reviewed which game on which day, 5-core as SASRec. Fetched from UCSD, 1.3 GB."""

    name = "steam"
    paper = "Kang and McAuley 2018, arXiv:1808.09781"
    fields = GAME

    #: What is said of a game: {title}, {genres}, {tags}, {specs}, {developer}, {publisher}.
    text: str = "{title} {genres} {tags}"

    def remotes(self) -> dict[str, Remote]:
        events, items = "steam_reviews.json", "steam_games.json"
        return {
            "events": Remote(f"{events}.gz", f"{SITE}{events}.gz", PAGE, also=(events,)),
            "items": Remote(f"{items}.gz", f"{SITE}{items}.gz", PAGE, also=(items,)),
        }

    def raw_figures(self) -> Figures:
        # Its games count those that nobody reviewed, its users perhaps by another name: a note, no error.
        return Figures(2_567_538, None, 7_793_069, "SASRec's repository", exact=False)

    def read_events(self, path: Path) -> Log:
        columns: tuple[list[Any], ...] = ([], [], [])
        for number, line in lines(path):
            for column, value, name in zip(columns, flat(line, REVIEW, path, number), REVIEW, strict=True):
                if not isinstance(value, str):
                    raise DataError(f"{path}, line {number}: no {name!r} in {line[:60]!r}; {REMEDY}")
                column.append(value)
        users, items, days = (pa.array(c, pa.string()) for c in columns)
        try:
            seconds = pc.strptime(days, "%Y-%m-%d", "s").cast(pa.int64())
        except pa.ArrowInvalid as e:
            raise DataError(f"{path}: a date is not like 2017-12-17 ({e}); {REMEDY}") from None
        return Log.of(users, items, seconds)

    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        needed = None if ids is None else set(ids.to_pylist())
        found = {}
        for r in records(path):
            item = str(r.get("id", ""))  # some games have none
            if item and (needed is None or item in needed):
                game = {**r, "title": r.get("title") or r.get("app_name")}
                found[item] = tuple(clean(game.get(k)) for k in GAME)
        texts = {f: pa.array([t[i] for t in found.values()], pa.string()) for i, f in enumerate(GAME)}
        return pa.table({"item": pa.array(found, pa.string()), **texts})
