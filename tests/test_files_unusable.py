"""Own files: what cannot be used is left out and counted, or one clear message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidbench import delimited
from sidbench.errors import DataError
from sidbench.files import items as items_module
from sidbench.files.ids import identifiers
from sidbench.files.times import clock
from tests.own_files import (
    EVENTS,
    IDS,
    TITLES,
    N,
    X,
    as_csv,
    as_json,
    at_home,
    call,
    columns,
    corpus,
    events,
    history,
    listed,
    parquet_parts,
    rewritten,
    said,
    vectors_of,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return at_home(tmp_path, monkeypatch)


def test_items_without_vectors_and_their_events_are_left_out_and_counted(home: Path) -> None:
    gone = IDS[4]
    rewritten(home, [None if i == 4 else v for i, v in enumerate(X)])
    c = corpus(home)
    assert gone not in c.item_ids.tolist()
    assert len(c) == N - 1
    kept = dict(zip(IDS, X.tolist(), strict=True))
    del kept[gone]
    assert vectors_of(c) == kept
    lost = sum(i == gone for _, i, _ in EVENTS)
    assert f"1 of 12 items have no vector, first '{gone}': left out" in said(c)
    assert f"{lost} of {len(EVENTS)} events name 1 item that the catalogue of 11 (left of 12)" in said(c)
    with pytest.raises(DataError, match="1 of 12 items have no vector"):
        corpus(home, unusable="error")


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_nan_is_an_error_or_becomes_zero_and_is_counted(home: Path, broken: float) -> None:
    x = X.copy()
    x[3, 1] = x[7, 0] = broken
    rewritten(home, x)
    with pytest.raises(
        DataError, match=r"2 items have a vector with NaN or infinity, first in row 3.*nan=zero"
    ):
        corpus(home)
    c = corpus(home, nan="zero")
    assert np.isfinite(c.embeddings).all()
    assert (c.embeddings == np.where(np.isfinite(x), x, 0)).all()
    assert "2 items have a vector with NaN or infinity, first in row 3: such numbers became zero" in said(c)


def test_repeated_items_are_an_error_or_the_first_stands(home: Path) -> None:
    ids = list(IDS)
    ids[5] = ids[2]
    rewritten(home, X, ids)
    with pytest.raises(DataError, match=rf"1 of 12 items repeat an earlier id, first '{ids[2]}'"):
        corpus(home)
    c = corpus(home, repeated="first")
    assert vectors_of(c)[ids[2]] == X[2].tolist()


def test_events_without_user_item_or_time_are_left_out_and_counted(home: Path) -> None:
    table = events().to_pylist()
    table += [
        {"user": None, "item": IDS[0], "time": 1},
        {"user": "u0", "item": None, "time": 1},
        {"user": "u0", "item": IDS[0], "time": None},
        {"user": "ghost", "item": "unknown", "time": 1},
    ]
    pq.write_table(pa.Table.from_pylist(table), home / "events.parquet")
    c = corpus(home)
    assert len(c.sequences.items) == len(EVENTS)
    assert "ghost" not in c.user_ids.tolist()
    for what in ("events have no user", "events have no item", "events have no time", "events name 1 item"):
        assert f"1 of {len(table)} {what}" in said(c)
    assert "1 of 7 users are left without any event: left out" in said(c)
    with pytest.raises(DataError, match="column user has 1 empty cells"):
        corpus(home, unusable="error")


def test_ids_that_never_meet_are_an_error_that_shows_both(home: Path) -> None:
    table = events().set_column(1, "item", pa.array([f"other-{i}" for _, i, _ in EVENTS]))
    pq.write_table(table, home / "events.parquet")
    with pytest.raises(DataError, match=rf"there ids are such as 'other-.*in the catalogue '{IDS[0]}'"):
        corpus(home)


def test_titles_are_cut_where_they_would_take_gigabytes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "TITLES", 4 * 20 * N)
    long = "w" * 1000
    pq.write_table(listed().set_column(1, "title", pa.array([long] * N)), home / "items.parquet")
    c = corpus(home)
    assert c.titles is not None
    assert set(c.titles.tolist()) == {"w" * 20}
    assert "titles are cut to 20 characters, the longest has 1,000" in said(c)


def test_words_without_vectors_name_the_remedy(home: Path) -> None:
    pq.write_table(columns(), home / "items.parquet")
    with pytest.raises(DataError, match=r"but words \(title\): --embedding tfidf .*sidbench embed"):
        corpus(home)
    c = corpus(home, embedding="tfidf")
    assert len(c.embeddings) == N
    assert "vectors are made by tfidf of title" in said(c)


def test_a_title_that_begins_with_a_quote_swallows_no_rows_between_tabs(home: Path) -> None:
    rows = [f'{i}\t"{t}\t{" ".join(map(str, v))}' for i, t, v in zip(IDS, TITLES, X.tolist(), strict=True)]
    (home / "items.tsv").write_text("\n".join(["item\ttitle\temb", *rows]) + "\n")
    c = corpus(home, items=home / "items.tsv")
    assert vectors_of(c) == vectors_of(corpus(home))
    assert c.titles is not None
    assert c.titles[0] == '"thing 0'
    quoted = as_csv(listed(), home / "items.tsv", "\t").read_text().replace("item_id", '"item_id"', 1)
    quoted = quoted.replace("\nB", '\n"B').replace("\tthing", '"\tthing')  # all is quoted, as R writes it
    (home / "items.tsv").write_text(quoted)
    assert vectors_of(corpus(home, items=home / "items.tsv")) == vectors_of(c)


def test_two_columns_of_one_name_are_asked_about(home: Path) -> None:
    twice = pa.table([pa.array(IDS), pa.array(TITLES), pa.array(X.tolist())], names=["item", "item", "emb"])
    pq.write_table(twice, home / "twice.parquet")
    as_csv(twice, home / "twice.csv")
    for kind in ("parquet", "csv"):
        with pytest.raises(DataError, match="several columns called 'item': which one is meant"):
            corpus(home, items=home / f"twice.{kind}")


def test_a_header_without_rows_is_no_catalogue(home: Path) -> None:
    (home / "none.csv").write_text("item,title,embedding\n")
    with pytest.raises(DataError, match="no rows; expected at least one item"):
        corpus(home, items=home / "none.csv")
    files = ("--items", "none.csv", "--sequences", "events.parquet")
    assert call("data", "check", *files, "--embedding", "tfidf") == 1


def test_columns_that_some_objects_lack_are_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = listed().to_pylist()
    for row in rows[:1] + rows[-3:]:
        del row["title"]
    found = corpus(home, items=as_json(rows, home / "i.json"))
    assert found.titles is not None
    assert found.titles.tolist() == ["", *TITLES[1:-3], "", "", ""]
    (home / "i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(delimited, "BLOCK", 64)  # every object is a piece of its own
    lines = corpus(home, items=home / "i.jsonl")
    assert lines.titles is not None
    assert lines.titles.tolist() == found.titles.tolist()
    assert vectors_of(lines) == vectors_of(found) == vectors_of(corpus(home))


def test_a_part_without_a_column_and_numbers_beyond_all_are_one_message(home: Path) -> None:
    given = parquet_parts(home)
    pq.write_table(listed().slice(4, 4).drop_columns(["embedding"]), home / "parts" / "part-1.parquet")
    with pytest.raises(DataError, match=r"part-1.parquet has no column embedding"):
        corpus(home, **given)
    with pytest.raises(DataError, match="too large"):
        corpus(home, items=as_json([{"item": 10**20, "embedding": [1.0]}], home / "huge.json"))


def test_a_number_beside_an_item_is_no_list_of_items(home: Path) -> None:
    numbered_events = events().append_column("seq", pa.array(range(len(EVENTS))))
    c = corpus(home, sequences=as_csv(numbered_events, home / "e.csv"))
    assert history(c) == history(corpus(home))


def test_nan_is_a_gap_in_ids_and_infinity_is_none() -> None:
    assert identifiers(pa.array([1.0, float("nan"), 3.0]), "f").to_pylist() == [1, None, 3]
    with pytest.raises(DataError, match="expected integers or text"):
        identifiers(pa.array([1.0, float("inf")]), "f")


def test_a_word_among_numbers_is_told_with_its_row(home: Path) -> None:
    rows = [f'{i},"{v}"' for i, v in zip(IDS, X.tolist(), strict=True)]
    rows[7] = f'{IDS[7]},"[1, many, 3]"'
    (home / "i.csv").write_text("\n".join(["item,embedding", *rows]) + "\n")
    with pytest.raises(DataError, match="no number, 'many' in row 7"):
        corpus(home, items=home / "i.csv")


def test_a_name_that_no_file_has_stops_a_run_too(home: Path) -> None:
    with pytest.raises(DataError, match="no file has a column 'nope'"):
        corpus(home, columns="user=nope")
    np.savez(home / "v.npz", x=X)
    assert len(corpus(home, embeddings=home / "v.npz", columns="user=user")) == N


def test_ids_that_differ_by_spaces_alone_are_pointed_out(home: Path) -> None:
    spaced = [f" {i}" if i == IDS[0] else i for _, i, _ in EVENTS]
    pq.write_table(events().set_column(1, "item", pa.array(spaced)), home / "events.parquet")
    gone = sum(i == IDS[0] for _, i, _ in EVENTS)
    assert f"({gone} of these ids it holds without the spaces around them)" in said(corpus(home))


# -- ids of nothing, dates as numbers, torn JSON ------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_ids_of_nothing_are_no_ids(home: Path, nothing: str | None) -> None:
    rewritten(home, ids=[nothing if i == 2 else v for i, v in enumerate(IDS)])
    c = corpus(home)
    assert "1 of 12 items have no id, first one: left out" in said(c)
    assert len(c) == N - 1
    users = [nothing if u == "u1" else u for u, _, _ in EVENTS]
    pq.write_table(events().set_column(0, "user", pa.array(users)), home / "events.parquet")
    gone = sum(u == "u1" for u, _, _ in EVENTS)
    assert f"{gone} of {len(EVENTS)} events have no user: left out" in said(corpus(home))
    with pytest.raises(DataError, match="1 of 12 items have no id"):
        corpus(home, unusable="error")


def test_ids_of_nothing_beside_vectors_are_refused_with_their_row(home: Path) -> None:
    pq.write_table(columns(), home / "words.parquet")
    beside = [" " if i == 3 else v for i, v in enumerate(IDS)]
    pq.write_table(pa.table({"item": beside, "emb": X.tolist()}), home / "x.parquet")
    with pytest.raises(DataError, match=r"1 ids are missing, first in row 3"):
        corpus(home, items=home / "words.parquet", embeddings=home / "x.parquet")


@pytest.mark.parametrize("how", ["numbers", "text", "gaps", "seconds of a day"])
def test_dates_written_as_numbers_are_dates(home: Path, how: str) -> None:
    days = [20_240_101 + k % 28 for k in range(len(EVENTS))]
    times: list[Any] = [d * 10**6 + 235_959 for d in days] if how == "seconds of a day" else list(days)
    if how == "gaps":
        times[1] = None
    table = events().set_column(2, "time", pa.array(times))
    pq.write_table(table, home / "events.parquet")
    given = {"sequences": as_csv(table, home / "e.csv")} if how == "text" else {}
    c = corpus(home, **given)
    assert "are taken for dates written as YYYYMMDD" in said(c)
    assert c.times is not None
    late = 86_399 if how == "seconds of a day" else 0
    assert c.times.min() == 1_704_067_200 + late
    assert (c.times.max() - c.times.min()) % 86_400 == 0
    assert c.times.max() <= 1_704_067_200 + 28 * 86_400


@pytest.mark.parametrize("odd", [20_240_230, 20_241_301, 0])
def test_a_number_among_dates_that_is_no_date_is_refused(home: Path, odd: int) -> None:
    days = [odd if k == 4 else 20_240_101 for k in range(len(EVENTS))]
    pq.write_table(events().set_column(2, "time", pa.array(days)), home / "events.parquet")
    with pytest.raises(
        DataError, match=rf"written as YYYYMMDD, and 1 of them are no date, first {odd} in event 4"
    ):
        corpus(home)


def test_what_is_no_moment_among_dates_is_missing_without_a_warning() -> None:
    found = clock(pa.array([float("inf"), 20_240_131.0, None, float("nan"), 20_240_201.0]), Path("x"))
    assert found.missing.tolist() == [True, False, True, True, False]
    assert found.ticks[[1, 4]].tolist() == [1_706_659_200, 1_706_745_600]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_seconds_and_their_parts_are_what_they_were(home: Path, unit: int) -> None:
    times = [t * unit for _, _, t in EVENTS]
    pq.write_table(events().set_column(2, "time", pa.array(times)), home / "events.parquet")
    c = corpus(home)
    assert c.times is not None
    assert c.times.min() == 1_700_000_000 * unit
    assert ("look like milliseconds" in said(c)) is (unit > 1)
    assert "YYYYMMDD" not in said(c)


def test_torn_json_says_where_it_ends_and_a_mark_before_it_is_no_content(home: Path) -> None:
    whole = as_json(listed().to_pylist(), home / "i.json").read_text()
    lists_of_users = json.dumps({"u1": IDS[:4], "u2": IDS[2:7]})
    for text, option in ((whole, "items"), (lists_of_users, "sequences")):
        (home / "torn.json").write_text(text[:-9])
        with pytest.raises(DataError, match=r"torn\.json cannot be read as JSON .*line 1 column"):
            corpus(home, **{option: home / "torn.json"})
        (home / "mark.json").write_text("\ufeff" + text, encoding="utf-8")
        assert len(corpus(home, **{option: home / "mark.json"})) == N
    rows = "".join(json.dumps(row) + "\n" for row in listed().to_pylist())
    for name in ("lines.jsonl", "lines.json"):
        (home / name).write_text("\ufeff" + rows, encoding="utf-8")
        assert vectors_of(corpus(home, items=home / name)) == vectors_of(corpus(home))


def test_what_is_of_another_kind_is_named_with_its_row(home: Path) -> None:
    rows = listed().to_pylist()
    for key, value in (("item_id", 7), ("embedding", "1 2 3"), ("title", ["a"])):
        odd = [{**row, key: value} if k == 5 else row for k, row in enumerate(rows)]
        with pytest.raises(DataError, match=rf"{key} is .* in row 0 and .* in row 5: expected"):
            corpus(home, items=as_json(odd, home / "i.json"))
    times = ["2020-01-01"] * len(EVENTS)
    times[9] = "yesterday"
    table = events().set_column(2, "time", pa.array(times))
    with pytest.raises(DataError, match="of event 9 is 'yesterday', others are such as '2020-01-01'"):
        corpus(home, sequences=as_csv(table, home / "e.csv"))
    with pytest.raises(DataError, match="of event 0 is 'soon'; expected numbers or dates"):
        corpus(
            home,
            sequences=as_csv(
                events().set_column(2, "time", pa.array(["soon"] * len(EVENTS))), home / "e.csv"
            ),
        )


def test_rows_of_json_lines_are_counted_through_all_pieces(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps(row) for row in listed().to_pylist()]
    monkeypatch.setattr(delimited, "BLOCK", 64)
    (home / "i.jsonl").write_text("\n".join([*lines[:9], "{oops}", *lines[9:]]) + "\n")
    with pytest.raises(DataError, match=r"in row 9 \(from 0\)"):
        corpus(home, items=home / "i.jsonl")
    (home / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        corpus(home, items=home / "none.jsonl")
