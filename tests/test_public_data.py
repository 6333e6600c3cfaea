"""Published datasets, read from small files in each original layout: parsed, prepared, compared, kept."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench import public, rawfiles, registry
from sidbench.dataset import Corpus
from sidbench.errors import DataError, UsageError
from sidbench.formats import safe
from sidbench.plugin import configure
from sidbench.testing import check_dataset

#: Day 0 of the worlds below: the first of January 2019, in seconds.
DAY, FIRST = 86_400, 1_546_300_800
NAMES = ("amazon-2014", "amazon-2018", "amazon-2023", "movielens", "yelp", "steam")


def world() -> list[tuple[int, int, int, int]]:
    """Users 0-5 by items 0-5, all of them: their own 5-core; user 9 and item 9 fall out of it."""
    events = [(u, (u + step) % 6, step * DAY, 1 + (u + step) % 5) for u in range(6) for step in range(6)]
    return [*events, (9, 0, 3 * DAY, 5), (9, 9, 4 * DAY, 5), (0, 9, 9 * DAY, 1)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SIDBENCH_CACHE", str(cache))
    return cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "by hand"
    path.mkdir()
    return path


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_world(layout: str, folder: Path) -> None:
    corpus = load(layout, folder)
    assert len(corpus.item_ids) == len(corpus.user_ids) == 6
    assert corpus.sequences.lengths.tolist() == [6] * 6
    items = {v: n for n, v in enumerate(sorted(corpus.item_ids.tolist()))}
    users = {v: n for n, v in enumerate(sorted(corpus.user_ids.tolist()))}
    if layout.startswith("steam"):  # the backslash sorts before the others
        users = {v: int(v[-1]) for v in corpus.user_ids.tolist()}
    for user, row in zip(corpus.user_ids.tolist(), corpus.sequences, strict=True):
        assert [items[corpus.item_ids[i]] for i in row] == [(users[user] + step) % 6 for step in range(6)]
    assert corpus.times is not None
    steps = np.diff(corpus.times.reshape(6, 6))
    assert (steps == DAY).all()
    if not layout.startswith("2018 reviews"):
        assert corpus.times.min() == FIRST
    assert corpus.titles is not None
    assert sum(bool(t) for t in corpus.titles) >= 5
    assert any("events dropped" in n for n in corpus.notes)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_has_run_the_real_downloads(name: str) -> None:
    found = registry.find("dataset", name)
    assert found.verified is False
    assert make(name).params()["embedding"] == "tfidf"
    for remote in make(name).remotes().values():
        assert remote.published
        assert remote.url.startswith("http") or name == "yelp"


def test_checking_all_plugins_fetches_nothing() -> None:
    from sidbench.commands.plugins import _checkable

    found = _checkable()
    assert "synthetic" in found
    assert not {*NAMES, "folder"} & set(found)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_list_says_what_nobody_has_run(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from sidbench.commands.plugins import list_

    list_("datasets", as_json=as_json)
    out = capsys.readouterr().out
    if as_json:
        said = {d["name"]: d["verified"] for d in json.loads(out)["datasets"]}
        assert said["synthetic"] is True
        assert not any(said[name] for name in NAMES)
    else:
        lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ") and line.split()}
        assert all("(verified: no)" in lines[name] for name in NAMES)
        assert "verified" not in lines["synthetic"]


def test_one_dataset_meets_the_checks_of_all(folder: Path) -> None:
    movielens(folder, "1m", True)
    check_dataset(registry.find("dataset", "movielens"), files=folder, statistics="note")


def test_text_is_what_the_template_says(folder: Path) -> None:
    amazon_2014(folder)
    dataset = make("amazon-2014", files=folder, text="{title} by {brand}: {categories}")
    items = dataset._items(folder / "meta_Beauty.json.gz", None)
    texts = public.filled(dataset.text, items).to_pylist()
    assert texts[0] == "Soap & Shampoo 0 by : Beauty, Hair Care, Bath"
    assert texts[1] == "Soap & Shampoo 1 by Coxlures: Beauty, Hair Care, Bath"
    corpus = dataset.load()
    assert any("1 of 6 items are not in meta_Beauty.json.gz (first 'B005')" in n for n in corpus.notes)


@pytest.mark.parametrize(
    "text", ["plain", "{nothing}", "{title!r}", "{title.upper}", "{title:>9}", "{", "{0}"]
)
def test_a_template_names_fields_alone(text: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"template|expected at least one of"):
        make("amazon-2014", files=folder, text=text).load()


def test_office_drops_what_minionerec_drops(folder: Path) -> None:
    amazon_2018_reviews(folder)
    long = " ".join(["word"] * 21)
    titles = {
        0: "Pen &amp; ink",
        1: long,
        2: None,
        3: '<span id="productTitle"',
        4: "x",
        5: "Five",
        9: "Nine",
    }
    amazon_2018_meta(folder, "Office_Products", titles)
    office = make("amazon-2018", part="office", files=folder, user_core=2, item_core=2, shortest=1)
    corpus = office.load()
    assert sorted(corpus.item_ids.tolist()) == ["B000", "B005", "B009"]
    assert any("not from 2016-10-01 to 2018-11-01" in n for n in corpus.notes)
    assert any("no title, or one of more than 20 words" in n for n in corpus.notes)
    every = office.replace(title_words=0, start="", end="").load()
    assert len(every.item_ids) == 7
    # The review of long ago stays, and is a repeat that MiniOneRec keeps.
    assert every.sequences.lengths.max() == 8
    assert len(office.replace(title_words=0, start="", end="", repeats="last").load().sequences.items) < len(
        every.sequences.items
    )


def test_instruments_drops_what_lc_rec_drops(folder: Path) -> None:
    amazon_2018_ratings(folder)
    amazon_2018_meta(folder, "Musical_Instruments", {i: "Flute" if i else None for i in range(5)})
    corpus = make("amazon-2018", files=folder, user_core=4, item_core=4).load()
    # The fifth has no metadata; one without a title stays.
    assert sorted(corpus.item_ids.tolist()) == [f"B00{i}" for i in range(5)]
    assert any("their item has no metadata" in n for n in corpus.notes)
    assert any("repeats of a user's item (the first stays)" in n for n in corpus.notes)


def test_a_listing_without_a_title_does_not_undo_one_with(folder: Path) -> None:
    amazon_2018_meta(folder, "Office_Products", {1: "Pen"})
    path = folder / "meta_Office_Products.json.gz"
    write(path, gzip.decompress(path.read_bytes()).decode() + '{"asin": "B001", "brand": "none"}\n')
    table = make("amazon-2018", part="office").read_items(path, None)
    assert table.column("title").to_pylist() == ["Pen"]
    assert table.column("words").to_pylist() == [1]


def test_milliseconds_decide_within_a_second(folder: Path) -> None:
    amazon_2023(folder, "csv")
    path = folder / "Musical_Instruments.csv"
    at = (FIRST + 100 * DAY) * 1000
    path.write_text(path.read_text() + f"A0,B002,5.0,{at + 900}\nA0,B001,5.0,{at + 100}\n")
    corpus = make("amazon-2023", files=folder, repeats="keep").load()
    row = corpus.sequences[corpus.user_ids.tolist().index("A0")]
    assert [corpus.item_ids[i] for i in row[-2:]] == ["B001", "B002"]


def test_an_unknown_category_names_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'Video_Games'"):
        make("amazon-2023", part="VideoGames", files=folder).load()


def test_the_newest_events_stay_and_the_catalogue_is_whole(folder: Path) -> None:
    corpus = load("1m zip", folder, history=1)
    assert corpus.sequences.lengths.tolist() == [3] * 6
    assert len(corpus.item_ids) == 6
    assert any("older than the newest 3 of their user" in n for n in corpus.notes)
    assert load("1m zip", folder, history=0).sequences.lengths.tolist() == [6] * 6


def test_a_protocol_by_time_has_times(folder: Path) -> None:
    from sidbench.protocol import PROTOCOLS

    split = PROTOCOLS["time-split"]().split(load("yelp", folder))
    assert len(split.test)


def test_where_the_files_lie_names_no_other_data(folder: Path) -> None:
    from sidbench.bench import _origin

    here, there = make("yelp", files=folder, statistics="error"), make("yelp")
    assert _origin(here) == _origin(there)
    assert _origin(make("yelp", user_core=3)) != _origin(there)


# ------------------------------------------------------------------------------------------ published counts


def test_other_counts_than_the_published_are_an_error_with_both(folder: Path) -> None:
    movielens(folder, "1m", True)
    dataset = make("movielens", files=folder)
    with pytest.raises(DataError, match=r"39 interactions where .* has 1,000,209.*statistics=note"):
        dataset.replace(statistics="error").load()
    assert any("7 users where the published archive has 6,040" in n for n in dataset.load().notes)


@pytest.mark.parametrize(
    ("name", "part", "counts"),
    [
        ("amazon-2014", "beauty", (22_363, 12_101, 198_502)),
        ("amazon-2014", "sports", (35_598, 18_357, 296_337)),
        ("amazon-2014", "toys", (19_412, 11_924, 167_597)),
        ("amazon-2018", "instruments", (24_772, 9_922, 206_153)),
    ],
)
def test_known_counts(name: str, part: str, counts: tuple[int, int, int]) -> None:
    dataset = make(name, part=part)
    figures = dataset.raw_figures() or dataset.figures()
    assert figures is not None
    assert figures.differs(counts) == ""
    users, items, events = counts
    assert figures.differs((users, items, events - 1)).startswith(f"{events - 1:,} interactions where ")


def test_counts_after_other_steps_are_not_compared(folder: Path) -> None:
    amazon_2018_ratings(folder)
    amazon_2018_meta(folder, "Musical_Instruments", dict.fromkeys(range(6), "Flute"))
    dataset = make("amazon-2018", files=folder, statistics="error")
    assert any("6 users where LC-Rec's paper has 24,772" in n for n in dataset.load().notes)
    for changes in ({"user_core": 2}, {"title_words": 9}, {"repeats": "keep"}):
        notes = dataset.replace(**changes).load().notes
        assert not any("LC-Rec" in n for n in notes), changes
    assert any("LC-Rec" in n for n in dataset.replace(text="{brand}", history=3).load().notes)


def test_the_real_beauty_log_is_as_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processed log, written back in the layout of its origin: no count is off, no event goes."""
    real = Path(os.environ.get("SIDBENCH_DATA", "")) / "amazon-beauty-2014"
    if not os.environ.get("SIDBENCH_DATA") or not real.is_dir():
        pytest.skip("SIDBENCH_DATA names no folder with amazon-beauty-2014")
    rows = pq.read_table(real / "sequences.parquet").to_pylist()
    review = '{{"reviewerID": "{}", "asin": "{}", "helpful": [0, 0], "overall": 5.0, "unixReviewTime": {}}}\n'
    text = "".join(review.format(r["user"], i, t) for r in rows for t, i in enumerate(r["items"]))
    (folder / "reviews_Beauty_5.json").write_text(text)
    (folder / "meta_Beauty.json").write_text("{'asin': '0', 'title': 'Soap'}\n")
    monkeypatch.setattr(
        public, "vectors_for", lambda spec, **about: (np.ones((about["items"], 2), np.float32), {})
    )
    corpus = make("amazon-2014", files=folder, statistics="error", history=0).load()
    assert (len(corpus.user_ids), len(corpus.item_ids), len(corpus.sequences.items)) == (
        22_363,
        12_101,
        198_502,
    )
    assert [n for n in corpus.notes if "dropped" in n] == []
    ids = corpus.item_ids.astype(np.int64)
    assert np.array_equal(ids[corpus.sequences.items], np.concatenate([r["items"] for r in rows]))


# ------------------------------------------------------------------------------------------ vectors


def test_numbers_that_are_none_are_an_error_or_zeros(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(spec: str, **about: Any) -> tuple[Any, dict[str, Any]]:
        x = np.ones((about["items"], 4), np.float32)
        x[2, 1:3] = np.nan, np.inf
        return x, {"notes": ["from nowhere"]}

    monkeypatch.setattr(public, "vectors_for", torn)
    with pytest.raises(DataError, match=r"1 of 6 items have NaN or infinity.*nan=zero"):
        load("1m zip", folder)
    corpus = load("1m zip", folder, nan="zero")
    assert corpus.embeddings.sum() == 22
    assert any("zeros were taken for 2 numbers" in n for n in corpus.notes)
    assert "from nowhere" in corpus.notes


def test_vectors_of_ones_own_are_joined_by_id(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.parquet"
    ids = np.random.default_rng(0).permutation(12)  # more than there are, in another order
    table = pa.table({"item": ids, "embedding": [[float(i), 1.0] for i in ids]})
    pq.write_table(table, own, row_group_size=5)
    corpus = load("1m zip", folder, embedding=str(own))
    assert corpus.embeddings[:, 0].astype(int).tolist() == corpus.item_ids.tolist()
    pq.write_table(table.filter(pa.array(ids != corpus.item_ids[1])), own)
    with pytest.raises(DataError, match=rf"not of 1 of these 6, first {corpus.item_ids[1]}"):
        load("1m zip", folder, embedding=str(own))
    np.save(tmp_path / "own.npy", corpus.embeddings)
    with pytest.raises(DataError, match="have no ids"):
        load("1m zip", folder, embedding=str(tmp_path / "own.npy"))


# ------------------------------------------------------------------------------------------ cache


def test_what_was_parsed_is_not_parsed_again(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("2014 json", folder)
    assert len(list((own_cache / "parsed").glob("amazon-2014-*.parquet"))) == 3

    def never(*args: object) -> None:
        raise AssertionError("read again")

    cls = registry.find("dataset", "amazon-2014")
    with monkeypatch.context() as m:
        m.setattr(cls, "read_events", never)
        m.setattr(cls, "read_items", never)
        again = make("amazon-2014", files=folder).load()
        assert again.fingerprint == first.fingerprint
        assert again.notes == first.notes
        # Other steps begin with the same log.
        assert len(make("amazon-2014", files=folder, user_core=6).load().user_ids) == 6
    amazon_2014(folder)
    path = folder / "reviews_Beauty_5.json.gz"
    write(path, gzip.decompress(path.read_bytes()).decode().replace("B000", "B00X"))
    with monkeypatch.context() as m:
        m.setattr(cls, "read_events", never)
        with pytest.raises(AssertionError, match="read again"):
            make("amazon-2014", files=folder).load()


def test_a_torn_cache_is_made_again(folder: Path, own_cache: Path) -> None:
    first = load("2014 json", folder)
    for path in (own_cache / "parsed").glob("*.parquet"):
        path.write_bytes(b"PAR1 torn")
    assert load("2014 json", folder).fingerprint == first.fingerprint


def test_files_in_the_cache_folder_are_taken(own_cache: Path) -> None:
    place = own_cache / "downloads"
    place.mkdir(parents=True)
    yelp(place)
    assert len(make("yelp").load().user_ids) == 6
    assert (place / "yelp_academic_dataset_review.json.seen.json").is_file()


def test_yelp_says_where_it_is_published() -> None:
    with pytest.raises(DataError, match=r"business.yelp.com.*yelp_academic_dataset_review.json \(or "):
        make("yelp").load()


def test_dates_are_taken_from_toml(folder: Path) -> None:
    from datetime import date

    assert make("yelp", start=date(2019, 1, 3)).start == "2019-01-03"


# ------------------------------------------------------------------------------------------ torn files

NO_RECORD = "line 1: neither a JSON object nor a Python dict"


@pytest.mark.parametrize(
    ("layout", "name", "how", "said"),
    [
        ("2014 json", "reviews_Beauty_5.json.gz", "cut", "cut off or damaged"),
        (
            "2014 python",
            "reviews_Beauty_5.json.gz",
            "line",
            NO_RECORD,
        ),
        ("2014 json", "meta_Beauty.json.gz", "line", NO_RECORD),
        ("2018 ratings", "Musical_Instruments.csv", "line", "does not read as it should"),
        ("2018 reviews", "Office_Products_5.json.gz", "line", "does not read as it should"),
        ("2023 csv.gz", "Musical_Instruments.csv.gz", "cut", "cut off or damaged"),
        ("2023 csv", "Musical_Instruments.csv", "header", "no such column|does not read"),
        ("2023 parquet", "Musical_Instruments.parquet", "cut", "does not read|cannot be read"),
        ("1m zip", "ml-1m.zip", "cut", "damaged"),
        ("1m unpacked", "movies.dat", "line", "is not MovieID::Title::Genres"),
        ("1m unpacked", "ratings.dat", "line", "does not read as it should"),
        ("yelp", "yelp_academic_dataset_review.json", "empty field", "have no 'user_id'"),
        ("steam", "steam_reviews.json.gz", "line", NO_RECORD),
        ("steam", "steam_reviews.json.gz", "call", NO_RECORD),
        ("steam", "steam_reviews.json.gz", "deep", NO_RECORD),
        ("steam", "steam_reviews.json.gz", "no field", "line 1: no 'username'"),
        ("steam", "steam_games.json.gz", "utf-8", "line 1: .* in UTF-8"),
    ],
)
def test_a_torn_file_is_named_with_its_line(
    layout: str, name: str, how: str, said: str, folder: Path
) -> None:
    LAYOUTS[layout][2](folder)
    path = folder / name
    data = path.read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    torn = {
        "line": b"what is this, there\n" + text,
        "header": text.replace(b"user_id", b"somebody", 1),
        "empty field": text.replace(b'"user_id": "U0"', b'"user_id": null'),
        "call": b"{'username': __import__('os').getcwd()}\n",
        "deep": b"{'username': " + b"[" * 100_000 + b"}\n",
        "no field": b"{u'product_id': u'1', u'date': u'2017-01-01'}\n",
        "utf-8": b"{'id': '\xff'}\n",
        "cut": text,
    }[how]
    whole = gzip.compress(torn) if name.endswith(".gz") else torn
    path.write_bytes(data[: len(data) * 2 // 3] if how == "cut" else whole)
    with pytest.raises(DataError, match=said) as e:
        make(LAYOUTS[layout][0], files=folder, **LAYOUTS[layout][1]).load()
    assert name in str(e.value)


def test_an_archive_with_other_files_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/README", "nothing else")
    with pytest.raises(DataError, match=r"holds 0 files ratings\.dat"):
        make("movielens", files=folder).load()


def test_a_bomb_is_refused_before_it_is_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe, "SMALL", 1 << 20)
    with zipfile.ZipFile(folder / "ml-1m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/ratings.dat", b"0" * (2 << 20))
        archive.writestr("ml-1m/movies.dat", b"")
    with pytest.raises(DataError, match=r"ml-1m\.zip"):
        make("movielens", files=folder).load()


def test_fields_inside_texts_are_no_fields() -> None:
    path = Path("reviews")
    line = (
        r"""{u'text': u"a 'username': 'x', \"date\": 1", 'n': -1.5, "username": u'O\'Neil', 'date': None}"""
    )
    assert rawfiles.flat(line, ("username", "n", "d", "other"), path, 1) == ["O'Neil", -1.5, None, None]
    assert rawfiles.first_string("{'asin': 'B00', 'title': 'x'}", "asin") == "B00"
    assert rawfiles.first_string('{"asin": "B00", "title": "x"}', "asin") == "B00"
    assert rawfiles.first_string("{'title': 'x', 'asin': 'B00'}", "asin") is None
    assert rawfiles.first_string("{'asin': ['B00']}", "asin") is None
    assert rawfiles.first_string(r"{'asin': 'B\'00'}", "asin") is None


PLAIN = st.one_of(
    st.text(max_size=8),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(st.sampled_from("abcu'\"\\"), min_size=1, max_size=3), PLAIN, max_size=5))
def test_plain_dicts_read_pair_by_pair_are_what_python_reads(said: dict[str, Any]) -> None:
    names = (*said, "missing")
    assert rawfiles.flat(repr(said), names, Path("x"), 1) == [said.get(n) for n in names]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("Soap &amp;amp; more", "Soap & more"),
        ("<b>Bold</b>  text\n\t", "Bold text"),
        ([["a", "b"], ["a"], None, ""], "a, b"),
        (None, ""),
        (3.5, "3.5"),
    ],
)
def test_text_is_cleaned(raw: object, said: str) -> None:
    assert rawfiles.clean(raw) == said


def test_words_are_counted_as_minionerec_does() -> None:
    words_of = importlib.import_module("sidbench.datasets.amazon_2018").words_of
    assert words_of(' "Two words" ') == 2
    assert words_of("a") == words_of(None) == words_of("x <span id= y") == 0


def test_all_files_that_are_needed_are_named_at_once(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"reviews_Beauty_5.json.gz and meta_Beauty.json.gz; --set dataset.files"
    ):
        make("amazon-2014", files=folder).load()
