"""Amazon reviews of 2018 (Ni, Li and McAuley 2019), prepared as LC-Rec or as MiniOneRec does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from sidbench.download import Remote
from sidbench.prepare import Log, Mask, Steps, rows_in
from sidbench.public import Figures, Moment, Public
from sidbench.rawfiles import clean, csv_columns, json_columns, records

SITE = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/"
PAGE = "it is listed at https://nijianmo.github.io/amazon/"
NAMES = {
    "industrial": "Industrial_and_Scientific",
    "office": "Office_Products",
    "instruments": "Musical_Instruments",
    "arts": "Arts_Crafts_and_Sewing",
    "games": "Video_Games",
}
#: The parts that MiniOneRec (arXiv:2510.24431) reports on; the others are LC-Rec's (arXiv:2311.09049).
MINIONEREC = ("industrial", "office")
WORDS = 20
#: Of LC-Rec's paper; of MiniOneRec the items of its released index files.
FIGURES = {
    "instruments": Figures(24_772, 9_922, 206_153, "LC-Rec's paper", exact=False),
    "industrial": Figures(None, 3_686, None, "MiniOneRec's index", exact=False),
    "office": Figures(None, 3_459, None, "MiniOneRec's index", exact=False),
}
REVIEW = {
    "reviewerID": pa.string(),
    "asin": pa.string(),
    "unixReviewTime": pa.int64(),
    "overall": pa.float32(),
}
RATING = {"item": pa.string(), "user": pa.string(), "rating": pa.float32(), "time": pa.int64()}


class Amazon2018(Public):
    """Amazon reviews 2018: Industrial, Office (as MiniOneRec), Instruments, Arts, Games (as LC-Rec).

    Where a parameter says `published`, each part has the steps of its paper. Industrial and Office: the
    5-core reviews from October 2016 to October 2018 of items whose title has at most 20 words, 5-core again,
    repeats kept. Instruments, Arts, Games: all ratings of items with metadata, the first of a user's repeats,
    5-core.
    """

    name = "amazon-2018"
    paper = "Ni, Li and McAuley 2019, Justifying recommendations using distantly-labeled reviews (EMNLP)"
    variant = "part"
    fields = ("title", "brand", "categories", "description")

    #: Which products.
    part: Literal["industrial", "office", "instruments", "arts", "games"] = "instruments"
    #: Read the 5-core reviews or all ratings.
    source: Literal["published", "5-core", "ratings"] = "published"
    #: Events from this moment on (ISO date in UTC; empty: all).
    start: Moment = "published"
    #: Events up to this moment, included (ISO date in UTC; empty: all).
    end: Moment = "published"
    #: A user's several events with one item: all stay, or the first or last alone.
    repeats: Literal["published", "keep", "first", "last"] = "published"
    #: Items without a title, or with one of more words, go (0: only items without metadata go).
    title_words: Annotated[int, Field(ge=0)] | Literal["published"] = "published"
    #: What is said of an item, as text for embeddings: {title}, {brand}, {categories}, {description}.
    text: str = "{title} {brand} {categories}"

    def remotes(self) -> dict[str, Remote]:
        name = NAMES[self.part]
        items = f"meta_{name}.json"
        if self._source() == "ratings":
            events = Remote(
                f"{name}.csv", f"{SITE}categoryFilesSmall/{name}.csv", PAGE, also=(f"{name}.csv.gz",)
            )
        else:
            reviews = f"{name}_5.json"
            events = Remote(f"{reviews}.gz", f"{SITE}categoryFilesSmall/{reviews}.gz", PAGE, also=(reviews,))
        return {
            "events": events,
            "items": Remote(f"{items}.gz", f"{SITE}metaFiles2/{items}.gz", PAGE, also=(items,)),
        }

    def _source(self) -> str:
        if self.source != "published":
            return self.source
        return "5-core" if self.part in MINIONEREC else "ratings"

    def _most_words(self) -> int:
        if isinstance(self.title_words, int):
            return self.title_words
        return WORDS if self.part in MINIONEREC else 0

    def steps(self) -> Steps:
        as_minionerec = self.part in MINIONEREC
        start, end = ("2016-10-01", "2018-11-01") if as_minionerec else ("", "")
        return replace(
            super().steps(),
            start=start if self.start == "published" else self.start,
            end=end if self.end == "published" else self.end,
            repeats=("keep" if as_minionerec else "first") if self.repeats == "published" else self.repeats,
        )

    def figures(self) -> Figures | None:
        published = (self._source(), self._most_words()) == (
            ("5-core", WORDS) if self.part in MINIONEREC else ("ratings", 0)
        )
        return FIGURES.get(self.part) if published else None

    def known(self, log: Log, items: Callable[[], pa.Table]) -> tuple[Mask, str]:
        table = items()
        most = self._most_words()
        if not most:
            return rows_in(log.item_ids, table.column("item").combine_chunks()), "their item has no metadata"
        words = np.asarray(table.column("words"))
        titled = table.column("item").filter(pa.array((words > 0) & (words <= most)))
        return (
            rows_in(log.item_ids, titled.combine_chunks()),
            f"their item has no title, or one of more than {most} words",
        )

    def read_events(self, path: Path) -> Log:
        if self._source() == "ratings":
            table = csv_columns(path, RATING, header=False)
            return Log.of(*(table.column(c) for c in ("user", "item", "time", "rating")))
        table = json_columns(path, REVIEW)
        return Log.of(*(table.column(c) for c in REVIEW))

    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        needed = None if ids is None else set(ids.to_pylist())
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        for r in records(path):
            item = str(r.get("asin", ""))
            # Products are listed more than once: a listing with a title is not undone by one without.
            words = words_of(r.get("title"))
            if (needed is None or item in needed) and (words or item not in found):
                found[item] = (
                    words,
                    tuple(clean(r.get(k)) for k in ("title", "brand", "category", "description")),
                )
        columns = {
            f: pa.array([t[i] for _, t in found.values()], pa.string()) for i, f in enumerate(self.fields)
        }
        return pa.table(
            {
                "item": pa.array(found, pa.string()),
                "words": pa.array([w for w, _ in found.values()], pa.int64()),
                **columns,
            }
        )


def words_of(title: Any) -> int:
    """Words of a title as MiniOneRec counts them; 0 for none, and for what is a torn page's markup."""
    if not isinstance(title, str) or "<span id" in title:
        return 0
    plain = title.replace("&quot;", '"').replace("&amp;", "&").strip(" ").strip('"')
    return len(plain.split(" ")) if len(plain) > 1 else 0
