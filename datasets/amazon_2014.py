"""Amazon reviews of 2014 (He and McAuley 2016): the 5-core logs that TIGER, P5 and S3-Rec report on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pyarrow as pa

from sidbench.download import Remote
from sidbench.prepare import Log
from sidbench.public import Figures, Public
from sidbench.rawfiles import clean, complete, first_string, is_json, json_columns, records

SITE = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
PAGE = "it is listed at https://jmcauley.ucsd.edu/data/amazon/"
NAMES = {"beauty": "Beauty", "sports": "Sports_and_Outdoors", "toys": "Toys_and_Games"}
#: Users, items and interactions of the 5-core logs, as S3-Rec (arXiv:2008.07873) and TIGER report them.
COUNTS = {
    "beauty": (22_363, 12_101, 198_502),
    "sports": (35_598, 18_357, 296_337),
    "toys": (19_412, 11_924, 167_597),
}
REVIEW = {
    "reviewerID": pa.string(),
    "asin": pa.string(),
    "unixReviewTime": pa.int64(),
    "overall": pa.float32(),
}


class Amazon2014(Public):
    """Amazon reviews 2014, 5-core: Beauty, Sports or Toys. Fetched from SNAP."""

    name = "amazon-2014"
    paper = "He and McAuley 2016, arXiv:1602.01585; McAuley et al. 2015, arXiv:1506.04757"
    variant = "part"
    fields = ("title", "brand", "categories", "description")

    #: Which products.
    part: Literal["beauty", "sports", "toys"] = "beauty"
    #: What is said of an item, as text for embeddings: {title}, {brand}, {categories}, {description}.
    text: str = "{title} {brand} {categories}"

    def remotes(self) -> dict[str, Remote]:
        events, items = f"reviews_{NAMES[self.part]}_5.json", f"meta_{NAMES[self.part]}.json"
        return {
            "events": Remote(f"{events}.gz", f"{SITE}{events}.gz", PAGE, also=(events,)),
            "items": Remote(f"{items}.gz", f"{SITE}{items}.gz", PAGE, also=(items,)),
        }

    def raw_figures(self) -> Figures:
        return Figures(*COUNTS[self.part], said_by="the published 5-core")

    def read_events(self, path: Path) -> Log:
        # Reviews of some categories are JSON, of others Python's own spelling of the same.
        if is_json(path):
            table = json_columns(path, REVIEW)
        else:
            rows = [{name: r.get(name) for name in REVIEW} for r in records(path)]
            table = complete(pa.Table.from_pylist(rows, pa.schema(list(REVIEW.items()))), path)
        return Log.of(*(table.column(name) for name in REVIEW))

    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        needed = None if ids is None else set(ids.to_pylist())

        def wanted(line: str) -> bool:
            first = first_string(line, "asin")
            return needed is None or first is None or first in needed

        found = {
            str(r.get("asin", "")): tuple(clean(r.get(name)) for name in self.fields)
            for r in records(path, wanted)
        }
        texts = {name: [t[i] for t in found.values()] for i, name in enumerate(self.fields)}
        return pa.table(
            {"item": pa.array(found, pa.string()), **{k: pa.array(v, pa.string()) for k, v in texts.items()}}
        )
