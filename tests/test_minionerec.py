"""MiniOneRec's files: its rows stay as published, what is exported is what it reads, damage is named."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sidbench import registry
from sidbench.dataset import Corpus
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.format import Export, How
from sidbench.formats import reading
from sidbench.formats.minionerec_files import MiniOneRecFiles
from sidbench.protocol import leave_one_out, split
from sidbench.sids import SIDs

N, WINDOW = 8, 3
# What a user did, and from which position on it selects and tests.
DONE: dict[int, tuple[list[int], int, int]] = {
    4: ([0, 1, 2, 3, 4, 5], 3, 5),
    9: ([6, 7, 7, 1], 2, 3),
    2: ([3, 2], 1, 1),
    7: ([5, 0, 6, 5, 5, 1, 2], 7, 7),
}
TITLES = ["pen, red", "it's", 'a "pad"', "tab\there", "back\\slash", "naïve – 墨", "NA", "two\nlines"]
TOKENS = [f"<a_{i % 4}><b_{i}><c_0>" for i in range(N)]
HEAD = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id", "history_item_sid"]
HEAD += ["item_sid"]


def rows() -> dict[str, list[tuple[int, list[int], int]]]:
    """The rows of each part, as MiniOneRec cuts them: every item but the first, after at most WINDOW."""
    made: dict[str, list[tuple[int, list[int], int]]] = {"train": [], "valid": [], "test": []}
    for user, (items, select, test) in DONE.items():
        for at in range(1, len(items)):
            part = "test" if at >= test else "valid" if at >= select else "train"
            made[part].append((user, items[max(0, at - WINDOW) : at], items[at]))
    return made


def write(home: Path, parts: tuple[str, ...] = ("train", "valid", "test")) -> None:
    """A folder as MiniOneRec publishes one."""
    (home / "index").mkdir(parents=True)
    about = {str(i): {"title": t, "description": f"['{i}']"} for i, t in enumerate(TITLES)}
    (home / "index" / "Pens.item.json").write_text(json.dumps(about))
    index = {str(i): re.findall(r"<[^>]+>", t) for i, t in enumerate(TOKENS)}
    (home / "index" / "Pens.index.json").write_text(json.dumps(index))
    np.save(home / "index" / "Pens.emb-qwen-td.npy", np.eye(N, dtype=np.float32))
    for part in parts:
        (home / part).mkdir()
        with (home / part / "Pens_5_2016-10-2018-11.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(HEAD)
            for user, history, item in rows()[part]:
                titles, sids = [TITLES[i] for i in history], [TOKENS[i] for i in history]
                table.writerow([f"A{user}", titles, TITLES[item], history, item, sids, TOKENS[item]])


def load(home: Path, **options: Any) -> Corpus:
    return registry.make_dataset(f"minionerec:{home}", options).load()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write(tmp_path / "pens")
    return tmp_path / "pens"


def asked(corpus: Corpus, part: str) -> list[tuple[str, list[int], int]]:
    targets = getattr(split(corpus, "published"), part)
    users = corpus.user_ids[targets.users].tolist()
    return list(zip(users, [h.tolist() for h in targets.histories], targets.items.tolist(), strict=True))


def test_rows_are_asked_as_they_were_published(home: Path) -> None:
    corpus = load(home)
    for part in ("valid", "test"):
        assert asked(corpus, part) == [(f"A{u}", h, i) for u, h, i in rows()[part]]
    whole = dict(zip(corpus.user_ids.tolist(), [r.tolist() for r in corpus.sequences], strict=True))
    assert whole == {f"A{u}": items for u, (items, _, _) in DONE.items()}
    train = dict(zip(corpus.user_ids.tolist(), split(corpus, "published").train, strict=True))
    assert {u: r.tolist() for u, r in train.items()} == {f"A{u}": d[0][: d[1]] for u, d in DONE.items()}
    assert corpus.titles is not None
    assert corpus.titles.tolist() == TITLES
    assert corpus.notes == ()


def test_without_training_rows_the_histories_train_and_the_board_says_so(tmp_path: Path) -> None:
    write(tmp_path, ("valid", "test"))
    corpus = load(tmp_path)
    assert [asked(corpus, p) for p in ("valid", "test")] == [
        [(f"A{u}", h, i) for u, h, i in rows()[p]] for p in ("valid", "test")
    ]
    train = dict(zip(corpus.user_ids.tolist(), split(corpus, "published").train, strict=True))
    # Nobody knows of user 7, who has training rows alone.
    assert {u: r.tolist() for u, r in train.items()} == {
        f"A{u}": d[0][: d[1]] for u, d in DONE.items() if u != 7
    }
    assert any("no training rows are at hand" in n and "not comparable" in n for n in corpus.notes)


def test_training_knows_nothing_of_a_target(home: Path) -> None:
    corpus = load(home)
    made = split(corpus, "published")
    for part in (made.valid, made.test):
        for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
            items, select, _ = DONE[int(corpus.user_ids[user][1:])]
            assert made.train[user].tolist() == items[:select]
            assert item in items[select:]


@pytest.mark.parametrize("backwards", [False, True])
def test_atomic_files_say_the_same_in_either_order(home: Path, backwards: bool) -> None:
    csvs = load(home)
    for part, held in rows().items():
        (home / part / "Pens_5_2016-10-2018-11.csv").unlink()
        # LC-Rec writes a user's training rows latest first.
        held = held[::-1] if backwards and part == "train" else held
        lines = [f"{u}\t{' '.join(map(str, h))}\t{i}" for u, h, i in held]
        head = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (home / f"Pens.{part}.inter").write_text("\n".join([head, *lines]) + "\n")
    corpus = load(home)
    for part in ("valid", "test"):
        assert asked(corpus, part) == asked(csvs, part)
    whole = dict(zip(corpus.user_ids.tolist(), [r.tolist() for r in corpus.sequences], strict=True))
    assert whole == {f"A{u}": items for u, (items, _, _) in DONE.items()}


def test_rows_that_were_left_out_are_bridged_and_counted(home: Path) -> None:
    path = home / "valid" / "Pens_5_2016-10-2018-11.csv"
    lines = path.read_text(encoding="utf-8").split("\nA4,", 2)
    path.write_text("\nA4,".join([lines[0], lines[2]]), encoding="utf-8")  # user 4's first row is gone
    corpus = load(home)
    assert any("1 of 14 rows do not go on" in n for n in corpus.notes)
    whole = dict(zip(corpus.user_ids.tolist(), [r.tolist() for r in corpus.sequences], strict=True))
    assert whole["A4"] == DONE[4][0]


def test_a_run_takes_the_published_split_unless_told_otherwise(home: Path, tmp_path: Path) -> None:
    from sidbench.plan import make_plan
    from sidbench.settings import Settings

    given: dict[str, Any] = {
        "methods": ["popularity"], "dataset": f"minionerec:{home}", "results": str(tmp_path / "results"),
    }  # fmt: skip
    assert make_plan(Settings(**given), dry=True).bench.split.protocol == "published"
    named = Settings(**given, protocol="leave-one-out")
    assert make_plan(named, dry=True).bench.split.protocol == "leave-one-out"


def test_several_datasets_in_a_folder_must_be_named(home: Path) -> None:
    (home / "index" / "Ink.item.json").write_text("{}")
    with pytest.raises(UsageError, match=r"several datasets: Ink, Pens.*Name one: minionerec:.*/Ink"):
        load(home)
    assert load(home, of="Pens").name == "Pens"
    assert load(home / "Pens").name == "Pens"
    with pytest.raises(UsageError, match=r"minionerec\.of = 'Pen' is not in"):
        load(home, of="Pen")


# -- damage ------------------------------------------------------------------------------------------------

CSV = "test/Pens_5_2016-10-2018-11.csv"


def text(file: str, old: str, new: str) -> Callable[[Path], Any]:
    def change(home: Path) -> None:
        whole = (home / file).read_text(encoding="utf-8")
        assert old in whole
        (home / file).write_text(whole.replace(old, new, 1), encoding="utf-8")

    return change


def cut(file: str, by: int) -> Callable[[Path], Any]:
    return lambda home: (home / file).write_bytes((home / file).read_bytes()[:-by])


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code for a list of ids": (
        text(CSV, '"[2, 3, 4]"', "__import__('os').system('touch pwned')"),
        r"2018-11\.csv, row 0 .*history_item_id is .*__import__.*expected a list of numbers.*never evaluated",
    ),
    "code inside a list of ids": (text(CSV, "[2, 3, 4]", "[2, 3, exit()]"), "row 0 .*history_item_id"),
    "code in a list of SIDs": (
        text(CSV, "['<a_2><b_2><c_0>'", "[open('pwned', 'w'), '<a_2><b_2><c_0>'"),
        "row 0 .*history_item_sid is .*expected a list of text in quotes",
    ),
    "code for titles": (text(CSV, '[\'a ""pad', '[*exit(), \'a ""pad'), "row 0 .*history_item_title"),
    "text for an item": (text(CSV, ',5,"[', ',five,"['), "row 0 .*item_id is 'five'; expected a number"),
    "a negative item": (text(CSV, "[2, 3, 4]", "[2, -3, 4]"), "row 0 .*history_item_id is"),
    "a number beyond all": (text(CSV, "[2, 3, 4]", "[2, 99999999999999, 4]"), "no item number"),
    "an unknown item": (
        text(CSV, "[2, 3, 4]", "[2, 88, 4]"),
        r"2018-11\.csv, row 0: item 88 is not in the catalogue .* 0\.\.7.*of one dataset\?",
    ),
    "an unknown target": (text(CSV, ',5,"[', ',50,"['), "row 0: item 50 is not in the catalogue"),
    "a SID cut off": (cut(CSV, 4), "row 2 .*item_sid is"),
    "a row cut off": (cut(CSV, 40), r"2018-11\.csv"),
    "a missing column": (
        text(CSV, "history_item_id", "history_ids"),
        "no column 'history_item_id'; did you mean",
    ),
    "a column twice": (text(CSV, "history_item_title", "item_id"), "names a column twice"),
    "an empty file": (lambda h: (h / CSV).write_text(""), r"2018-11\.csv .*first line is empty"),
    "no rows": (lambda h: (h / CSV).write_text(",".join(HEAD) + "\n"), "has a header and no rows"),
    "no UTF-8": (lambda h: (h / CSV).write_bytes(b"user_id\xff,item_id\nA,1\n"), "not text in UTF-8"),
    "no user": (text(CSV, "\nA4,", "\n,"), r"row 0 .*user_id is ''; expected a value in every row"),
    "no history": (text(CSV, '"[2, 3, 4]"', "[]"), r"row 0 .*the history is empty.*1 rows are so"),
    "no test rows": (lambda h: (h / CSV).unlink(), "no test rows of Pens"),
    "two test files": (lambda h: (h / "test" / "Pens_b.csv").write_text("x"), "several files of test rows"),
    "items cut off": (cut("index/Pens.item.json", 9), r"Pens\.item\.json cannot be read as JSON"),
    "an item lost": (text("index/Pens.item.json", '"7"', '"70"'), r"Pens\.item\.json: item 7 is missing"),
    "SIDs of numbers": (
        text("index/Pens.index.json", '"<a_1>"', "1"),
        r"Pens\.index\.json, item 1: .*no SID",
    ),
    "vectors of others": (
        lambda h: np.save(h / "index/Pens.emb-qwen-td.npy", np.eye(N + 1)),
        r"qwen-td\.npy has 9 rows, the catalogue 8 items",
    ),
    "NaN": (
        lambda h: np.save(h / "index/Pens.emb-qwen-td.npy", np.full((N, 2), np.nan)),
        r"qwen-td\.npy.*NaN or infinity, first in row 0.*dataset\.nan=zero",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_named_with_its_row(home: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, said = WRONG[fault]
    damage(home)
    monkeypatch.chdir(home)
    with pytest.raises(SidbenchError, match=said):
        load(home)
    assert not (home / "pwned").exists()


def test_other_sids_in_the_rows_are_noted(home: Path) -> None:
    text(CSV, ",<a_1><b_5><c_0>", ",<a_1><b_7><c_0>")(home)
    assert any("1 rows of the CSVs name another SID" in n for n in load(home).notes)


# -- out again ---------------------------------------------------------------------------------------------


def exported(corpus: Corpus, out: Path, codes: Any = None, **options: Any) -> tuple[Path, dict[str, Any]]:
    made = np.array([[i % 4, i, 0] for i in corpus.item_ids.tolist()]) if codes is None else codes
    sizes = tuple(int(c) + 1 for c in made.max(axis=0))
    export = Export(SIDs(made, sizes, corpus.item_ids), min(3, len(sizes)), corpus.titles, corpus)
    form = MiniOneRecFiles(**options)
    form.write(export, out)
    return out, form.states(export)


def test_what_was_read_is_written_byte_for_byte(home: Path, tmp_path: Path) -> None:
    out, stated = exported(load(home).permuted(), tmp_path / "out", window=WINDOW)
    for part in ("valid", "test"):
        name = f"{part}/Pens_5_2016-10-2018-11.csv"
        assert (out / name).read_bytes() == (home / name).read_bytes()
    assert (out / "index/Pens.index.json").read_bytes() == (home / "index/Pens.index.json").read_bytes()
    # Training rows come by user, not in the order of somebody's file.
    lines = [sorted((d / "train/Pens_5_2016-10-2018-11.csv").read_text().splitlines()) for d in (home, out)]
    assert lines[0] == lines[1]
    assert stated["rows"] == {part: len(held) for part, held in rows().items()}
    assert any("'Pens' stops them with a KeyError" in s for s in stated["minionerec"])


def test_the_info_file_has_a_line_an_item_whatever_the_title(home: Path, tmp_path: Path) -> None:
    out, _ = exported(load(home), tmp_path / "out")
    lines = (out / "info/Pens_5_2016-10-2018-11.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.split("\t") for line in lines]
    assert [p[0] for p in parts] == TOKENS
    assert [p[2] for p in parts] == [str(i) for i in range(N)]
    assert [p[1] for p in parts] == [re.sub(r"[\t\n]", " ", t) for t in TITLES]


def test_what_is_written_is_read_again(home: Path, tmp_path: Path) -> None:
    before = load(home)
    out, _ = exported(before, tmp_path / "out", window=WINDOW)
    after = load(out, embedding=str(home / "index" / "Pens.emb-qwen-td.npy"))
    for part in ("valid", "test"):
        assert asked(after, part) == asked(before, part)
    assert sorted(map(tuple, after.sequences)) == sorted(map(tuple, before.sequences))
    assert after.titles is not None
    assert after.titles.tolist() == TITLES


def test_data_without_a_split_of_their_own_leave_one_out(tmp_path: Path) -> None:
    world = registry.load_dataset("synthetic:tiny")
    codes = np.stack(
        [np.arange(len(world)) % 7, np.arange(len(world)) // 7, np.arange(len(world)) % 2], axis=1
    )
    out, stated = exported(world, tmp_path / "out", codes, dataset="Office_Products")
    assert stated["split"] == "leave-one-out"
    np.save(out / "index" / "Office_Products.emb-any.npy", world.embeddings)
    corpus = load(out)
    made = leave_one_out(world)
    by_user = {u: i for i, u in enumerate(corpus.user_ids.tolist())}
    test = {by_user[u]: (h, i) for u, h, i in asked(corpus, "test")}
    for user, history, item in zip(
        made.test.users.tolist(), made.test.histories, made.test.items.tolist(), strict=True
    ):
        held, target = test[by_user[f"A{world.user_ids[user]}"]]
        assert held == world.item_ids[history[-10:]].tolist()
        assert target == world.item_ids[item]
    with (out / "train/Office_Products_5_2016-10-2018-11.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == int((made.train.lengths - 1).clip(0).sum())
    for row in table[:50]:
        ids = ast.literal_eval(row["history_item_id"])
        assert len(ids) == len(ast.literal_eval(row["history_item_sid"])) <= 10


def test_the_manifest_says_what_other_lengths_become(home: Path, tmp_path: Path) -> None:
    corpus = load(home)
    four = np.stack([np.zeros(N), np.zeros(N), np.arange(N) // 4, np.arange(N) % 4], axis=1).astype(np.int32)
    four[0, 3] = -1
    _, stated = exported(corpus, tmp_path / "four", four)
    (said,) = [s for s in stated["minionerec"] if "joins the first 3" in s]
    assert "SIDs have 3 to 4 tokens" in said
    assert "8 items have 2 SIDs, not 8" in said
    two = np.stack([np.arange(N) // 4, np.arange(N) % 2], axis=1).astype(np.int32)
    _, stated = exported(corpus, tmp_path / "two", two)
    assert any("8 items have under 3 tokens" in s for s in stated["minionerec"])
    assert any("4 of 8 items repeat another's SID" in s for s in stated["minionerec"])


def test_ids_that_are_no_numbers_get_some(tmp_path: Path) -> None:
    from dataclasses import replace

    world = registry.make_dataset("synthetic:tiny").load()
    named = replace(world, item_ids=np.array([f"B{i:03}" for i in range(len(world))]), catalogue="")
    codes = np.stack([np.arange(len(world))] * 3, axis=1)
    out, _ = exported(named, tmp_path / "out", codes, dataset="Books", ending="")
    np.save(out / "index" / "Books.emb-any.npy", world.embeddings)
    pairs = [line.split("\t") for line in (out / "Books.item2id").read_text().splitlines()]
    assert pairs == [[f"B{i:03}", str(i)] for i in range(len(world))]
    assert [r.tolist() for r in load(out).sequences] == [r.tolist() for r in world.sequences]


def test_a_name_that_leaves_the_folder_is_refused(home: Path, tmp_path: Path) -> None:
    for name in ("../up", "a/b", ".hidden", "a\nb"):
        with pytest.raises(UsageError, match="is no name for files"):
            exported(load(home), tmp_path / "out", dataset=name)


FOLDER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no index": (lambda h: (h / "index/Pens.index.json").unlink(), "has no index/NAME.index.json; expected"),
    "two": (
        lambda h: (h / "index/Ink.index.json").write_text("{}"),
        "SIDs of several datasets.*give the one",
    ),
    "cut": (cut("index/Pens.index.json", 9), r"Pens\.index\.json cannot be read as JSON.*it is torn.; get"),
    "empty": (lambda h: (h / "index/Pens.index.json").write_text(""), "cannot be read as JSON.*get the file"),
    "no UTF-8": (lambda h: (h / "index/Pens.index.json").write_bytes(b"\xff\xfe{"), "text in UTF-8.*get"),
    "a word": (text("index/Pens.index.json", "<b_3>", "word"), r"row 3 \(item '3'\) has 'word'.*repair"),
    "a number": (
        text("index/Pens.index.json", '"<b_3>"', "3"),
        r"row 3 \(item '3'\) has 3.*do not mix.*repair",
    ),
    "nothing": (text("index/Pens.index.json", '"<b_3>"', "null"), r"row 3 \(item '3'\).*null; repair"),
    "twice": (text("index/Pens.index.json", '"5"', '"3"'), "same item: pen 3, the second in row 5.*remove"),
    "huge": (text("index/Pens.index.json", "<b_3>", "<b_99999>"), r"row 3 .*code 99999.*Repair the row"),
    "levels": (text("index/Pens.index.json", "<b_3>", "<a_3>"), "row 3 .*different levels.*must be repaired"),
    "no id": (text("Pens.item2id", "pen 3\t3\n", ""), r"Pens\.item2id has no id for item 3 .*give each item"),
    "torn id": (
        text("Pens.item2id", "pen 3\t3", "pen 3"),
        r"Pens\.item2id: row 3 is 'pen 3'.*Repair the row",
    ),
    "an id of two": (text("Pens.item2id", "3\t3", "2\t3"), "same item: pen 2, the second in row 3.*remove"),
    "a number of two": (text("Pens.item2id", "\t3", "\t2"), "item2id: row 3 is .*each number once. Repair"),
}


@pytest.mark.parametrize("fault", FOLDER)
def test_sids_of_a_folder_and_its_faults(home: Path, fault: str) -> None:
    (home / "Pens.item2id").write_text("".join(f"pen {i}\t{i}\n" for i in range(N)))
    form = How("minionerec-files")
    table = reading.read(home, "test", form)
    assert table.ids == [f"pen {i}" for i in range(N)]
    assert table.codes.tolist() == [[i % 4, i, 0] for i in range(N)]
    damage, said = FOLDER[fault]
    damage(home)
    with pytest.raises(SidbenchError, match=said) as e:
        reading.read(home, "test", form)
    assert "Pens" in str(e.value) or home.name in str(e.value)


def test_ids_of_a_folder_come_back(tmp_path: Path) -> None:
    from dataclasses import replace

    world = registry.make_dataset("synthetic:tiny").load()
    named = replace(world, item_ids=np.array([f"B{i:03}" for i in range(len(world))]), catalogue="")
    codes = np.stack([np.arange(len(world))] * 3, axis=1).astype(np.int32)
    sent = Export(SIDs(codes, (len(world),) * 3, named.item_ids), 3, None, named)
    for base in (0, 1):
        out = tmp_path / str(base)
        reading.write(MiniOneRecFiles(base=base, dataset="Books"), sent, out)
        table = reading.read(out, "test")
        assert (table.base, table.ids) == (base, sent.names)
        assert (table.codes == codes).all()
    odd = replace(named, item_ids=np.array([f"B\t{i:03}" for i in range(len(world))]), catalogue="")
    with pytest.raises(UsageError, match="takes no tab"):
        exported(odd, tmp_path / "odd", codes)


# -- the released files, and MiniOneRec's own code ---------------------------------------------------------

DATA = Path(os.environ.get("SIDBENCH_DATA", "/nowhere").split(os.pathsep)[0]) / "formats" / "minionerec"
released = pytest.mark.skipif(not DATA.is_dir(), reason="SIDBENCH_DATA/formats/minionerec is not there")


def office() -> tuple[Corpus, Any]:
    corpus = registry.load_dataset(f"minionerec:{DATA}")
    held = json.loads((DATA / "index" / "Office_Products.index.json").read_text())
    tokens = [held[str(i)] for i in corpus.item_ids.tolist()]
    return corpus, np.array([[int(t[3:-1]) for t in sid] for sid in tokens], dtype=np.int32)


@released
def test_the_released_office_files_go_in_and_come_out_the_same(tmp_path: Path) -> None:
    corpus, codes = office()
    made = split(corpus, "published")
    assert (len(corpus), len(made.valid), len(made.test)) == (3_459, 4_866, 4_866)
    out, _ = exported(corpus, tmp_path / "out", codes)
    for name in (
        "index/Office_Products.index.json",
        "info/Office_Products_5_2016-10-2018-11.txt",
        "valid/Office_Products_5_2016-10-2018-11.csv",
        "test/Office_Products_5_2016-10-2018-11.csv",
    ):
        assert (out / name).read_bytes() == (DATA / name).read_bytes(), name


PEER = Path(os.environ.get("SIDBENCH_PEERS", "/nowhere")) / "MiniOneRec"


def peer(*names: str) -> list[ModuleType]:
    """Modules of MiniOneRec's clone, forgotten afterwards: `data` is everyone's name."""
    if not (PEER / "data.py").is_file():
        pytest.skip("SIDBENCH_PEERS names no folder with a clone of MiniOneRec")
    pytest.importorskip("transformers")
    before = {n: sys.modules.pop(n) for n in names if n in sys.modules}
    sys.path.insert(0, str(PEER))
    try:
        return [__import__(n) for n in names]
    except ImportError as e:
        pytest.skip(f"MiniOneRec does not import here: {e}")
    finally:
        sys.path.remove(str(PEER))
        for n in names:
            sys.modules.pop(n, None)
        sys.modules.update(before)


def tiny_tokenizer(sids: list[str], base: str) -> Any:
    """A tokenizer of characters to which SIDs' tokens were added, as MiniOneRec adds them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {t: i for i, t in enumerate(["<s>", "</s>", "<unk>", *sorted(set(base))])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    kind: Any = PreTrainedTokenizerFast  # its types are nobody's business here
    fast = kind(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    fast.add_tokens(sorted({t for sid in sids for t in re.findall(r"<[^>]+>", sid)}))
    return fast


def written(home: Path, tmp_path: Path, codes: Any = None) -> tuple[Path, list[str]]:
    out, _ = exported(load(home), tmp_path / "out", codes, dataset="Office_Products", window=WINDOW)
    lines = (out / "info/Office_Products_5_2016-10-2018-11.txt").read_text(encoding="utf-8").splitlines()
    return out, [line.split("\t")[0] for line in lines]


@pytest.mark.filterwarnings("ignore")
def test_minionerecs_own_loaders_read_what_is_written(home: Path, tmp_path: Path) -> None:
    (data,) = peer("data")
    out, sids = written(home, tmp_path)
    everything = "".join(p.read_text(encoding="utf-8") for p in out.rglob("*.csv")) + "".join(
        map(chr, range(32, 127))
    )
    tokenizer = tiny_tokenizer(sids, everything + "\n\t")
    stem = "Office_Products_5_2016-10-2018-11.csv"
    common = {"max_len": 4096, "category": "office products"}
    index = str(out / "index/Office_Products.index.json")
    items = str(out / "index/Office_Products.item.json")
    for part, held in rows().items():
        path = str(out / part / stem)
        evaluated = data.EvalSidDataset(path, tokenizer, test=True, **common)
        assert len(evaluated) == len(held)
        key = {(u, tuple(h), i) for u, h, i in held}
        assert len(key) == len(held)
        if part != "train":  # training rows come by user
            assert [r["output"] for r in evaluated.get_all()] == [sids[i] + "\n" for _, _, i in held]
        prompts = [tokenizer.decode(evaluated[n]["input_ids"]) for n in range(len(held))]
        for _, history, _ in held:
            assert any("history: " + ", ".join(sids[i] for i in history) + "\n" in p for p in prompts)
        trained = data.SidSFTDataset(path, tokenizer, **common)
        answers = [[t for t in trained[n]["labels"] if t != -100] for n in range(len(held))]
        assert sorted(tokenizer.decode(a) for a in answers) == sorted(f"{sids[i]}\n</s>" for _, _, i in held)
        assert len(data.SidDataset(path, **common)) == len(held)
        assert len(data.SFTData(path, tokenizer, **common)) == len(held)
        assert len(data.FusionSeqRecDataset(path, items, index, tokenizer, **common)) == len(held)
        assert len(data.TitleHistory2SidSFTDataset(path, items, index, tokenizer, **common)) == len(held)
        # What reinforcement learning reads.
        assert len(data.RLSeqTitle2SidDataset(path)) == len(held)
        assert len(data.RLSidhis2TitleDataset(path, items, index)) == len(held)
    assert len(data.RLTitle2SidDataset(items, index)) > N
    assert len(data.RLSid2TitleDataset(items, index)) == N
    pairs = data.SidItemFeatDataset(items, index, tokenizer, **common)
    assert pairs.sid2title == dict(zip(sids, TITLES, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_minionerec_cuts_a_fourth_token_as_the_manifest_says(home: Path, tmp_path: Path) -> None:
    (data,) = peer("data")
    four = np.stack([np.zeros(N), np.zeros(N), np.arange(N) // 4, np.arange(N) % 4], axis=1).astype(np.int32)
    out, sids = written(home, tmp_path, four)
    pairs = data.SidItemFeatDataset(
        str(out / "index/Office_Products.item.json"), str(out / "index/Office_Products.index.json")
    )
    assert set(pairs.sid2title) == {"<a_0><b_0><c_0>", "<a_0><b_0><c_1>"}
    assert len(set(sids)) == N


@pytest.mark.filterwarnings("ignore")
def test_minionerecs_constrained_search_ends_in_sids_of_the_info_file(home: Path, tmp_path: Path) -> None:
    import torch

    (processor,) = peer("LogitProcessor")
    four = np.stack([np.zeros(N), np.arange(N) // 4, np.arange(N) % 4, np.arange(N) % 2], axis=1).astype(
        np.int32
    )
    _, sids = written(home, tmp_path, four)
    tokenizer = tiny_tokenizer(sids, "#: Response\n")
    # As evaluate.py builds it: what may follow each prefix of "### Response:\n" SID "\n" end.
    start = 3
    allowed: dict[str, set[int]] = {}
    for sid in sids:
        ids = [0, 1, 2, *tokenizer(sid + "\n").input_ids, tokenizer.eos_token_id]
        for n in range(start, len(ids)):
            prefix = ids[:n] if n == start else ids[start:n]
            allowed.setdefault("-".join(map(str, prefix)), set()).add(ids[n])
    found = set()
    for seed in range(200):
        torch.manual_seed(seed)
        search = processor.ConstrainedLogitsProcessor(
            lambda _, p: sorted(allowed.get("-".join(map(str, p)), ())), num_beams=1, base_model="qwen"
        )
        sent = torch.tensor([[0, 1, 2]])
        while int(sent[0, -1]) != tokenizer.eos_token_id:
            scores = search(sent, torch.randn(1, len(tokenizer)))
            sent = torch.cat([sent, scores.argmax(dim=1, keepdim=True)], dim=1)
        found.add(tokenizer.decode(sent[0, 3:-1]).strip())
    assert found == set(sids)


def test_a_corpus_must_be_named(tmp_path: Path) -> None:
    sids = SIDs(np.zeros((2, 3), np.int32), (1, 1, 1), np.arange(2))
    with pytest.raises(UsageError, match="name the data that they are of"):
        MiniOneRecFiles().write(Export(sids, 3), tmp_path / "out")
    corpus = registry.make_dataset("synthetic:tiny").load()
    with pytest.raises(DataError, match="have no SID"):
        MiniOneRecFiles().write(Export(sids, 3, None, corpus), tmp_path / "out")
