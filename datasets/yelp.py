"""Yelp Open Dataset: reviews of a year as events. Behind a form, so put in place by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sidbench.download import Remote
from sidbench.prepare import Log
from sidbench.public import Figures, Moment, Public
from sidbench.rawfiles import clean, json_columns, records

PAGE = (
    "Yelp wants a form to be agreed to at https://business.yelp.com/data/resources/open-dataset/, then gives "
    "an archive of JSON files"
)
REVIEW = {"user_id": pa.string(), "business_id": pa.string(), "date": pa.string(), "stars": pa.float32()}


class Yelp(Public):
    """Yelp Open Dataset: reviews of 2019, 5-core, as S3-Rec prepares them. Only by hand.

    Each release holds other businesses: the published counts are of the one of 2020.
    """

    name = "yelp"
    paper = "S3-Rec, Zhou et al. 2020, arXiv:2008.07873"
    fields = ("title", "categories", "city", "state")

    #: Events from this moment on (ISO date in UTC; empty: all).
    start: Moment = "2019-01-01"
    #: Events up to this moment, included (ISO date in UTC; empty: all).
    end: Moment = "2019-12-31"
    #: What is said of a business, as text for embeddings: {title}, {categories}, {city}, {state}.
    text: str = "{title} {categories} {city}"

    def remotes(self) -> dict[str, Remote]:
        events, items = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"
        return {
            "events": Remote(events, "", PAGE, also=(f"{events}.gz",)),
            "items": Remote(items, "", PAGE, also=(f"{items}.gz",)),
        }

    def figures(self) -> Figures:
        return Figures(30_431, 20_033, 316_354, "S3-Rec's paper (release of 2020)", exact=False)

    def read_events(self, path: Path) -> Log:
        table = json_columns(path, REVIEW)
        date = table.column("date")
        # Older releases have days alone.
        whole = pc.if_else(
            pc.equal(pc.utf8_length(date), 10), pc.binary_join_element_wise(date, "00:00:00", " "), date
        )
        seconds = pc.strptime(whole, "%Y-%m-%d %H:%M:%S", "s").cast(pa.int64())
        return Log.of(table.column("user_id"), table.column("business_id"), seconds, table.column("stars"))

    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        needed = None if ids is None else set(ids.to_pylist())
        found = {
            str(r.get("business_id", "")): tuple(
                clean(r.get(k)) for k in ("name", "categories", "city", "state")
            )
            for r in records(path)
            if needed is None or r.get("business_id") in needed
        }
        texts = {f: pa.array([t[i] for t in found.values()], pa.string()) for i, f in enumerate(self.fields)}
        return pa.table({"item": pa.array(found, pa.string()), **texts})
