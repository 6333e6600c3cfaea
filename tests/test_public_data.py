"""Published datasets, read from small files in each original layout: parsed, prepared, compared, kept."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidbench import public, registry
from sidbench.errors import DataError, UsageError
from sidbench.protocol import split
from sidbench.testing import check_dataset
from tests.public_files import (
    DAY,
    FIRST,
    LAYOUTS,
    NAMES,
    amazon_2014,
    amazon_2018_meta,
    amazon_2018_ratings,
    amazon_2018_reviews,
    amazon_2023,
    load,
    make,
    movielens,
    write,
    yelp,
)


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


@pytest.mark.parametrize("protocol", ["leave-one-out", "time-split", "cold-start"])
def test_the_window_of_a_question_is_cut_and_all_events_train(folder: Path, protocol: str) -> None:
    """As published: what is asked reads the newest items, what trains keeps every event."""
    corpus = load("1m zip", folder, history=2)
    assert corpus.sequences.lengths.tolist() == [6] * 6
    values = {"share": 0.4} if protocol == "cold-start" else None
    whole = split(load("1m zip", folder, history=0), protocol, values)
    cut = split(corpus, protocol, values)
    assert [list(r) for r in cut.train] == [list(r) for r in whole.train]
    for short, long in ((cut.valid, whole.valid), (cut.test, whole.test)):
        assert short.items.tolist() == long.items.tolist()
        assert [list(r) for r in short.histories] == [list(r[-2:]) for r in long.histories]
    assert cut.params == {**whole.params, "window": 2}
    assert any("are cut to their newest 2 items, as was published" in n for n in cut.notes)
    assert not any("newest" in n for n in whole.notes)
    assert "window" not in whole.params


def test_a_protocol_by_time_has_times(folder: Path) -> None:
    from sidbench.protocol import PROTOCOLS

    split = PROTOCOLS["time-split"]().split(load("yelp", folder))
    assert len(split.test)


def test_where_the_files_lie_names_no_other_data(folder: Path) -> None:
    from sidbench.task import origin

    here, there = make("yelp", files=folder, statistics="error"), make("yelp")
    assert origin(here) == origin(there)
    assert origin(make("yelp", user_core=3)) != origin(there)


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


def test_all_files_that_are_needed_are_named_at_once(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"reviews_Beauty_5.json.gz and meta_Beauty.json.gz; --set dataset.files"
    ):
        make("amazon-2014", files=folder).load()
