"""Amazon reviews of 2023 (Hou et al. 2024), any category: the publishers' 5-core ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidbench.download import Remote
from sidbench.errors import DataError, UsageError, nearest
from sidbench.prepare import Log
from sidbench.public import Public
from sidbench.rawfiles import clean, complete, csv_columns, is_json, json_columns, records, told

SITE = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/"
PAGE = (
    "it is listed at https://amazon-reviews-2023.github.io/ and lies at "
    "https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023"
)
CATEGORIES = (
    "All_Beauty",
    "Amazon_Fashion",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Baby_Products",
    "Beauty_and_Personal_Care",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Handmade_Products",
    "Health_and_Household",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Software",
    "Sports_and_Outdoors",
    "Subscription_Boxes",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)
#: Milliseconds, unlike the years before.
RATING = {"user_id": pa.string(), "parent_asin": pa.string(), "timestamp": pa.int64(), "rating": pa.float32()}
META = {
    "title": "title",
    "brand": "store",
    "categories": "categories",
    "features": "features",
    "description": "description",
    "main_category": "main_category",
}


class Amazon2023(Public):
    """Amazon reviews 2023, any category by its published name (amazon-2023:Video_Games), 5-core.

    By hand it takes the 5-core or full ratings as CSV, the raw reviews as JSON lines, or either as parquet.
    """

    name = "amazon-2023"
    paper = "Hou et al. 2024, arXiv:2403.03952"
    variant = "part"
    fields = tuple(META)

    #: The category, as the publishers spell it.
    part: str = "Musical_Instruments"
    #: A user's several events with one item: all stay, or the first or last alone.
    repeats: Literal["published", "keep", "first", "last"] = "first"
    #: What is said of an item: {title}, {brand}, {categories}, {features}, {description}, {main_category}.
    text: str = "{title} {brand} {categories}"

    def remotes(self) -> dict[str, Remote]:
        if self.part not in CATEGORIES:
            raise UsageError(
                f"amazon-2023 has no category {self.part!r}{nearest(self.part, CATEGORIES)} "
                f"Known: {', '.join(CATEGORIES)}."
            )
        name, meta = self.part, f"meta_{self.part}"
        return {
            "events": Remote(
                f"{name}.csv.gz",
                f"{SITE}benchmark/5core/rating_only/{name}.csv.gz",
                PAGE,
                also=(f"{name}.csv", f"{name}.jsonl.gz", f"{name}.jsonl", f"{name}.parquet"),
            ),
            "items": Remote(
                f"{meta}.jsonl.gz",
                f"{SITE}raw/meta_categories/{meta}.jsonl.gz",
                PAGE,
                also=(f"{meta}.jsonl", f"{meta}.parquet"),
            ),
        }

    def read_events(self, path: Path) -> Log:
        if path.suffix == ".parquet":
            table = parquet(path, tuple(RATING))
        elif is_json(path):
            table = json_columns(path, RATING)
        else:
            table = csv_columns(path, RATING, header=True)
        ticks = np.asarray(table.column("timestamp"), dtype=np.int64)
        # Sorted here, by milliseconds: seconds, which a log holds, would leave some of the order open.
        table = table.take(pa.array(np.argsort(ticks, kind="stable")))
        seconds = pc.divide(table.column("timestamp").cast(pa.int64()), 1000)
        return Log.of(table.column("user_id"), table.column("parent_asin"), seconds, table.column("rating"))

    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        needed = None if ids is None else set(ids.to_pylist())
        names = ("parent_asin", *META.values())
        rows = parquet(path, names).to_pylist() if path.suffix == ".parquet" else records(path)
        found = {
            str(r.get("parent_asin", "")): tuple(clean(r.get(name)) for name in META.values())
            for r in rows
            if needed is None or r.get("parent_asin") in needed
        }
        texts = {f: pa.array([t[i] for t in found.values()], pa.string()) for i, f in enumerate(META)}
        return pa.table({"item": pa.array(found, pa.string()), **texts})


def parquet(path: Path, names: tuple[str, ...]) -> pa.Table:
    """These columns; ids and times may not be missing."""
    with told(path):
        have = pq.read_schema(path).names
        if missing := [n for n in names if n not in have]:
            raise DataError(f"{path} has no column {missing[0]!r}; columns: {', '.join(have)}")
        table = pq.read_table(path, columns=list(names))
    complete(table.select([n for n in names if n in RATING]), path)
    return table
