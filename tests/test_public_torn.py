"""Published files that are torn, hostile or odd: named with their line, never run."""

from __future__ import annotations

import gzip
import importlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench import rawfiles
from sidbench.errors import DataError
from sidbench.formats import safe
from tests.public_files import LAYOUTS, load, make


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
        ("2023 csv", "Musical_Instruments.csv", "header", "no column 'user_id'"),
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


@pytest.mark.parametrize(
    "layout", ["2014 json", "2014 python", "2018 ratings", "2023 csv", "2023 csv.gz", "1m unpacked"]
)
def test_a_mark_before_the_text_is_no_content(layout: str, folder: Path) -> None:
    whole = load(layout, folder)
    for path in folder.iterdir():
        data = path.read_bytes()
        packed = path.suffix == ".gz"
        text = b"\xef\xbb\xbf" + (gzip.decompress(data) if packed else data)
        path.write_bytes(gzip.compress(text) if packed else text)
    name, own, _ = LAYOUTS[layout]
    assert make(name, files=folder, **own).load().catalogue == whole.catalogue


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
