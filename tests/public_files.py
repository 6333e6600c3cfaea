"""Small files in the original layout of every published dataset: what their tests share."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidbench import public, registry
from sidbench.dataset import Corpus
from sidbench.plugin import configure

#: Day 0 of the worlds below: the first of January 2019, in seconds.
DAY, FIRST = 86_400, 1_546_300_800
NAMES = ("amazon-2014", "amazon-2018", "amazon-2023", "movielens", "yelp", "steam")


def world() -> list[tuple[int, int, int, int]]:
    """Users 0-5 by items 0-5, all of them: their own 5-core; user 9 and item 9 fall out of it."""
    events = [(u, (u + step) % 6, step * DAY, 1 + (u + step) % 5) for u in range(6) for step in range(6)]
    return [*events, (9, 0, 3 * DAY, 5), (9, 9, 4 * DAY, 5), (0, 9, 9 * DAY, 1)]


def make(name: str, **params: Any) -> public.Public:
    found = configure(registry.find("dataset", name), {"statistics": "note", **params})
    assert isinstance(found, public.Public)
    return found


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Text as a file, packed where its name says so."""
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def by_lines(rows: list[Any], spelled: Callable[[Any], str] = json.dumps) -> str:
    return "".join(spelled(r) + "\n" for r in rows)


def amazon_2014(folder: Path, spelled: Callable[[Any], str] = json.dumps, suffix: str = ".gz") -> None:
    reviews = [
        {
            "reviewerID": f"A{u}",
            "asin": f"B00{i}",
            "reviewerName": 'O\'Neil "the" reader',
            "helpful": [0, 1],
            "reviewText": "She said 'asin': 'B009' \n and left",
            "overall": float(r),
            "summary": "Ok",
            "unixReviewTime": FIRST + t,
            "reviewTime": "01 1, 2019",
        }
        for u, i, t, r in world()
    ]
    write(folder / f"reviews_Beauty_5.json{suffix}", by_lines(reviews, spelled))
    meta = [
        {
            "asin": f"B00{i}",
            "related": {"also_bought": ["B001"]},
            "title": f"Soap &amp; Shampoo {i}",
            "price": 3.17,
            "salesRank": {"Beauty": 7},
            "categories": [["Beauty", "Hair Care"], ["Beauty", "Bath"]],
            **({"brand": "Coxlures"} if i else {}),
        }
        for i in range(5)
    ]
    # Python's own spelling, as published; and a product of another shop that nobody reviewed.
    meta.append({"asin": "0000000", "title": "unseen"})
    write(folder / f"meta_Beauty.json{suffix}", by_lines(meta, repr))


def amazon_2018_reviews(folder: Path, name: str = "Office_Products") -> None:
    reviews = [
        {
            "overall": float(r),
            "verified": True,
            "reviewTime": "01 1, 2017",
            "reviewerID": f"A{u}",
            "asin": f"B00{i}",
            "style": {"Color:": " Red"},
            "reviewText": "Fine",
            "unixReviewTime": FIRST + t - 500 * DAY,
        }
        for u, i, t, r in world()
    ]
    before = [{**reviews[0], "unixReviewTime": FIRST - 2000 * DAY}]
    write(folder / f"{name}_5.json.gz", by_lines([*before, *reviews]))


def amazon_2018_meta(folder: Path, name: str, titles: dict[int, str | None]) -> None:
    meta = [
        {
            "category": ["Office Products", "Pens"],
            "description": ["A pen.", "Blue."],
            "title": title,
            "brand": "by\n  Bic",
            "asin": f"B00{i}",
        }
        for i, title in titles.items()
    ]
    for m in meta:
        if m["title"] is None:
            del m["title"]
    write(folder / f"meta_{name}.json.gz", by_lines(meta))


def amazon_2018_ratings(folder: Path, name: str = "Musical_Instruments") -> None:
    again = [(0, 0, 20 * DAY, 5)]
    write(
        folder / f"{name}.csv",
        by_lines([*world(), *again], lambda e: f"B00{e[1]},A{e[0]},{e[3]}.0,{FIRST + e[2]}"),
    )


def office(folder: Path) -> None:
    amazon_2018_reviews(folder)
    amazon_2018_meta(folder, "Office_Products", {i: f"A pen, number {i}" for i in range(6)})


def instruments(folder: Path) -> None:
    amazon_2018_ratings(folder)
    amazon_2018_meta(folder, "Musical_Instruments", dict.fromkeys(range(6), "A <b>flute</b>"))


def amazon_2023(folder: Path, form: str, name: str = "Musical_Instruments") -> None:
    # Within a second the milliseconds decide, and the file is in no order.
    rows = [(f"A{u}", f"B00{i}", float(r), (FIRST + t) * 1000 + 7) for u, i, t, r in reversed(world())]
    names = ("user_id", "parent_asin", "rating", "timestamp")
    table = pa.table({n: list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)})
    if form == "parquet":
        pq.write_table(table, folder / f"{name}.parquet")
    elif form.startswith("csv"):
        text = ",".join(names) + "\n" + by_lines(rows, lambda r: ",".join(str(v) for v in r))
        write(folder / f"{name}.{form}", text)
    else:
        extra = {"title": "Fine", "text": 'with "quotes"', "images": [], "verified_purchase": True}
        write(folder / f"{name}.{form}", by_lines([{**extra, **r} for r in table.to_pylist()]))
    meta: list[dict[str, Any]] = [
        {
            "main_category": "Musical Instruments",
            "title": f"Flute {i}",
            "average_rating": 4.5,
            "features": ["silver", "loud"],
            "description": [],
            "price": None,
            "store": "Yamaha" if i else None,
            "categories": ["Winds", "Flutes"],
            "parent_asin": f"B00{i}",
        }
        for i in range(6)
    ]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(meta), folder / f"meta_{name}.parquet")
    else:
        write(folder / f"meta_{name}.jsonl.gz", by_lines([{**m, "details": {"a": 1}} for m in meta]))


def movielens(folder: Path, size: str, packed: bool) -> None:
    names = {"1m": ("ratings.dat", "movies.dat"), "32m": ("ratings.csv", "movies.csv")}[size]
    if size == "1m":
        ratings = by_lines(world(), lambda e: f"{e[0] + 1}::{e[1] + 1}::{e[3]}::{FIRST + e[2]}")
        movies = by_lines(
            list(range(10)), lambda i: f"{i + 1}::Star: Part {i}, Café (1999)::Action|Children's"
        ).encode("latin-1")
    else:
        ratings = "userId,movieId,rating,timestamp\n" + by_lines(
            world(), lambda e: f"{e[0] + 1},{e[1] + 1},{e[3]}.5,{FIRST + e[2]}"
        )
        movies = (
            "movieId,title,genres\n"
            + by_lines(list(range(9)), lambda i: f'{i + 1},"Star, Café {i} (1999)",Action|Sci-Fi')
            + "10,Ten (2000),(no genres listed)\n"
        ).encode()
    held = {names[0]: ratings.encode(), names[1]: movies, "README.txt": b"read me"}
    if packed:
        with zipfile.ZipFile(folder / f"ml-{size}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in held.items():
                archive.writestr(f"ml-{size}/{name}", data)
    else:
        for name, data in held.items():
            (folder / name).write_bytes(data)


def yelp(folder: Path, suffix: str = "", days: bool = False) -> None:
    def when(t: int) -> str:
        text = np.datetime64(FIRST + t, "s").item().strftime("%Y-%m-%d %H:%M:%S")
        return text[:10] if days else text

    reviews = [
        {
            "review_id": f"r{n}",
            "user_id": f"U{u}",
            "business_id": f"b{i}",
            "stars": float(r),
            "useful": 0,
            "text": "Great\nfood",
            "date": when(t),
        }
        for n, (u, i, t, r) in enumerate([*world(), (0, 1, -400 * DAY, 5)])
    ]
    write(folder / f"yelp_academic_dataset_review.json{suffix}", by_lines(reviews))
    places = [
        {
            "business_id": f"b{i}",
            "name": f"Café {i}",
            "city": "Tempe",
            "state": "AZ",
            "stars": 4.5,
            "attributes": None,
            "categories": "Coffee, Bars" if i else None,
        }
        for i in range(6)
    ]
    write(folder / f"yelp_academic_dataset_business.json{suffix}", by_lines(places))


def steam(folder: Path, suffix: str = ".gz") -> None:
    def spelled(row: dict[str, Any]) -> str:
        # As Python 2 wrote it: text with a u before it.
        return (
            "{" + ", ".join(f"u{k!r}: {'u' if isinstance(v, str) else ''}{v!r}" for k, v in row.items()) + "}"
        )

    reviews = [
        {
            "username": f"O'Neil \\{u}" if u == 1 else f"user {u}",
            "hours": 12.5,
            "products": 41.0,
            "product_id": str(i),
            "page_order": 0,
            "date": str(np.datetime64(FIRST + t, "s"))[:10],
            "text": "they wrote u'username': u'nobody' in it\r\n",
            "early_access": False,
            "page": 1,
        }
        for u, i, t, _ in world()
    ]
    write(folder / f"steam_reviews.json{suffix}", by_lines(reviews, spelled))
    games: list[dict[str, Any]] = [
        {
            "publisher": "Valve",
            "genres": ["Action", "Adventure"],
            "app_name": f"Portal {i}",
            **({"title": f"Portal {i}"} if i else {}),
            "tags": ["Puzzle"],
            "price": 19.99,
            "early_access": False,
            "id": str(i),
        }
        for i in range(6)
    ]
    write(
        folder / f"steam_games.json{suffix}",
        by_lines([*games, {"app_name": "without an id"}], repr),
    )


LAYOUTS: dict[str, tuple[str, dict[str, Any], Callable[[Path], Any]]] = {
    "2014 json": ("amazon-2014", {}, amazon_2014),
    "2014 python": ("amazon-2014", {}, lambda f: amazon_2014(f, repr)),
    "2014 unpacked": ("amazon-2014", {}, lambda f: amazon_2014(f, suffix="")),
    "2018 reviews": ("amazon-2018", {"part": "office"}, office),
    "2018 ratings": ("amazon-2018", {}, instruments),
    "2023 csv.gz": ("amazon-2023", {}, lambda f: amazon_2023(f, "csv.gz")),
    "2023 csv": ("amazon-2023", {}, lambda f: amazon_2023(f, "csv")),
    "2023 jsonl.gz": ("amazon-2023", {}, lambda f: amazon_2023(f, "jsonl.gz")),
    "2023 jsonl": ("amazon-2023", {}, lambda f: amazon_2023(f, "jsonl")),
    "2023 parquet": ("amazon-2023", {}, lambda f: amazon_2023(f, "parquet")),
    "1m zip": ("movielens", {}, lambda f: movielens(f, "1m", True)),
    "1m unpacked": ("movielens", {}, lambda f: movielens(f, "1m", False)),
    "32m zip": ("movielens", {"size": "32m"}, lambda f: movielens(f, "32m", True)),
    "32m unpacked": ("movielens", {"size": "32m"}, lambda f: movielens(f, "32m", False)),
    "yelp": ("yelp", {}, yelp),
    "yelp packed": ("yelp", {}, lambda f: yelp(f, ".gz")),
    "yelp days": ("yelp", {}, lambda f: yelp(f, days=True)),
    "steam": ("steam", {}, steam),
    "steam unpacked": ("steam", {}, lambda f: steam(f, "")),
}


def load(layout: str, folder: Path, **params: Any) -> Corpus:
    name, own, prepare = LAYOUTS[layout]
    prepare(folder)
    return make(name, files=folder, **{**own, **params}).load()
