"""Vectors of items without a download: TF-IDF, training sequences, files, joined and whitened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench import embed
from sidbench.cli import main
from sidbench.dataset import Sequences
from sidbench.embed import collaborative, output, sources, text, whiten
from sidbench.embed.tfidf import Tfidf, tokens_of, unit
from sidbench.errors import DataError, UsageError
from sidbench.folder import Folder
from sidbench.protocol import split
from sidbench.registry import make_dataset
from sidbench.vectors import open_vectors

KINDS = [("pca", 3), ("whiten", 3), ("zca", None)]


def texts_of(rows: list[str]) -> pa.Array:
    return pa.array(rows, pa.large_string())


def made_up(count: int, seed: int = 0) -> list[str]:
    """Texts of a few topics, each with words of its own and words of all."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 8, count)
    return [
        " ".join(
            [*(f"t{t}w{w}" for w in rng.integers(0, 12, 5)), *(f"all{w}" for w in rng.integers(0, 9, 2))]
        )
        for t in topic
    ]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with items and sequences, as a person has them, without vectors."""
    folder = tmp_path / "shop"
    folder.mkdir()
    n, rng = 60, np.random.default_rng(0)
    titles: list[str | None] = list(made_up(n))
    titles[7] = None
    brands = [f"brand{i % 9}" if i != 7 else "" for i in range(n)]
    table = {"item": [f"i{i}" for i in range(n)], "title": titles, "brand": brands, "price": rng.random(n)}
    pq.write_table(pa.table(table), folder / "items.parquet")
    rows = [rng.choice(n - 3, rng.integers(3, 9), replace=False) for _ in range(80)]
    pq.write_table(
        pa.table({"user": range(len(rows)), "items": [[f"i{i}" for i in r] for r in rows]}),
        folder / "sequences.parquet",
    )
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["embed", *arguments])
    return int(end.value.code or 0)


# -- words -------------------------------------------------------------------------------------------------


def test_words_are_letters_and_digits_without_case_and_accents() -> None:
    rows, words, tokens = tokens_of(texts_of(["Crème-Brûlée 2.5oz!", "", "  ", "東京 tower", "O'Neil"]))
    said: dict[int, list[str]] = {}
    for row, word in zip(rows.tolist(), words.tolist(), strict=True):
        said.setdefault(row, []).append(tokens[word].as_py())
    assert said == {0: ["creme", "brulee", "2", "5oz"], 3: ["東", "京", "tower"], 4: ["o", "neil"]}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.integers(1, 6))
def test_any_texts_give_finite_rows_of_length_one_or_zero(rows: list[str], dim: int) -> None:
    if not any(c.isalnum() for c in "".join(rows)):
        with pytest.raises(DataError, match="holds a word"):
            embed.embed_texts(rows, dim=dim)
        return
    x = embed.embed_texts(rows, dim=dim)
    assert x.shape[0] == len(rows)
    assert 1 <= x.shape[1] <= dim
    assert x.dtype == np.float32
    norm = np.linalg.norm(x.astype(np.float64), axis=1)
    assert (np.isclose(norm, 1, atol=1e-5) | (norm == 0)).all()


def test_equal_texts_have_equal_rows_and_the_same_call_the_same_bytes() -> None:
    rows = made_up(300)
    rows[100] = rows[200]
    x = embed.embed_texts(rows, dim=20)
    assert (x[100] == x[200]).all()
    assert x.tobytes() == embed.embed_texts(rows, dim=20).tobytes()


def test_a_row_depends_on_its_text_alone() -> None:
    """Whatever stands beside it: new items get what old ones with their text have."""
    rows = made_up(200)
    learned = Tfidf.fit(texts_of(rows), 16)
    whole = learned.transform(texts_of(rows))
    np.testing.assert_allclose(learned.transform(texts_of(rows[50:60])), whole[50:60], atol=1e-6)
    assert not learned.transform(texts_of(["nobody said this"])).any()


def test_neighbours_share_their_topic() -> None:
    rows = made_up(400)
    topic = np.array([r[1] for r in rows])
    x = embed.embed_texts(rows, dim=32)
    near = x @ x.T
    np.fill_diagonal(near, -2)
    assert (topic[near.argmax(axis=1)] == topic).mean() > 0.95


def test_fewer_dimensions_than_asked_for_are_said() -> None:
    x, facts = embed.vectors_for("tfidf", texts=["a b", "b c", "a"], items=3, where="here")
    assert x.shape[1] <= 3
    assert facts["asked_dim"] == 512
    assert f"{x.shape[1]} dimensions, not 512" in facts["notes"][0]


def test_empty_texts_are_zeros_counted_and_said() -> None:
    x, facts = embed.vectors_for("tfidf", texts=["a b", " ", "b c", "!"], items=4, where="here")
    assert not x[[1, 3]].any()
    assert (facts["empty_texts"], facts["zero_vectors"]) == (1, 2)
    assert "2 of 4 items have a vector of zeros: 1 have no text, 1 no word" in facts["notes"][-1]


def test_large_catalogues_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path))
    rows = made_up(embed.WORTH_KEEPING)
    first, facts = embed.vectors_for("tfidf", texts=rows, items=len(rows), where="here", dim=8)
    (kept,) = tmp_path.glob("embedding-*.npy")
    at = kept.stat().st_mtime_ns
    # However arrow holds them: in pieces, or with something before them.
    pieces = pa.chunked_array([pa.array(rows[:700]), pa.array(rows[700:])])
    again, same = embed.vectors_for("tfidf", texts=pieces, items=len(rows), where="here", dim=8)
    assert (again == first).all()
    assert same == facts
    assert kept.stat().st_mtime_ns == at
    other, _ = embed.vectors_for("tfidf", texts=rows[::-1], items=len(rows), where="here", dim=8)
    assert (other != first).any()
    kept.write_bytes(b"torn")
    mended, _ = embed.vectors_for("tfidf", texts=rows, items=len(rows), where="here", dim=8)
    assert (mended == first).all()


def test_what_no_source_answers_to() -> None:
    with pytest.raises(UsageError, match="did you mean 'tfidf'"):
        embed.embed_texts(["a"], "tfidff")
    with pytest.raises(DataError, match="2 texts for 3 items"):
        embed.vectors_for("tfidf", texts=["a", "b"], items=3, where="here")
    with pytest.raises(UsageError, match="needs sequences"):
        embed.vectors_for("collaborative", texts=[], items=3, where="here")


# -- sequences ---------------------------------------------------------------------------------------------


def some_sequences(seed: int, users: int = 60, items: int = 30) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, items, rng.integers(1, 9)).tolist() for _ in range(users)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_what_selects_and_tests_changes_nothing(seed: int) -> None:
    """The last two items of every user who is evaluated may be any: the vectors keep every byte."""
    rows, rng = some_sequences(seed), np.random.default_rng(seed)
    other = [r[:-2] + rng.integers(0, 30, 2).tolist() if len(r) >= 3 else r for r in rows]
    a, about = collaborative.of_sequences(Sequences.of(rows), 30, dim=8)
    b, same = collaborative.of_sequences(Sequences.of(other), 30, dim=8)
    assert a.tobytes() == b.tobytes()
    assert about == same


def test_the_training_part_is_the_protocols() -> None:
    from sidbench.dataset import Corpus
    from sidbench.protocol import split

    s = Sequences.of(some_sequences(3))
    x = np.ones((30, 1), np.float32)
    corpus = Corpus("c", x, np.arange(30), s, np.arange(len(s)))
    train, ours = split(corpus, "leave-one-out").train, collaborative.training_part(s)
    assert (train.items == ours.items).all()
    assert (train.offsets == ours.offsets).all()


def test_items_beside_each_other_are_alike_and_unseen_ones_zero() -> None:
    rows = [[0, 1, 0, 1, 9, 9], [1, 0, 1, 9, 9], [2, 3, 2, 3, 9, 9], [3, 2, 3, 9, 9]] * 3
    x, facts = collaborative.of_sequences(Sequences.of(rows), 10, dim=4)
    # Each stands beside the other and not beside itself: alike is what has the same neighbours.
    assert facts["zero_vectors"] == 6
    assert not x[4:].any()
    assert "6 of 10 items stand beside no other in training" in facts["notes"][-1]
    np.testing.assert_allclose(np.linalg.norm(x[:4], axis=1), 1, atol=1e-5)
    assert abs(float(x[0] @ x[2])) < 0.5
    with pytest.raises(DataError, match="nothing can be learned"):
        collaborative.of_sequences(Sequences.of([[1, 2, 3]]), 10)


# -- columns -----------------------------------------------------------------------------------------------


def test_columns_and_templates_make_texts() -> None:
    table = pa.table(
        {
            "title": ["Saw ", None, "Glue"],
            "tags": [["a", "b"], [], None],
            "paths": [[["x", "y"], ["z"]], None, []],
            "price": [1.5, 2.0, None],
        }
    )
    assert text.joined(table, ["title", "tags", "paths"]).to_pylist() == ["Saw. a, b. x, y, z", "", "Glue"]
    assert text.filled(table, "{title} ({tags}), {price}").to_pylist() == [
        "Saw (a, b), 1.5",
        " (), 2",
        "Glue (), ",
    ]
    assert text.filled(table, "A {title}").to_pylist() == ["A Saw", "", "A Glue"]
    with pytest.raises(UsageError, match="did you mean 'title'"):
        text.check_columns(["titel"], ["title", "price"], "items.parquet")


@pytest.mark.parametrize(
    "template", ["{title.__class__}", "{0[1]}", "{title!r}", "{title:>9}", "{", "{}", "no"]
)
def test_templates_name_columns_and_nothing_else(template: str) -> None:
    with pytest.raises(UsageError, match="--template"):
        text.fields(template)


# -- joined ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_axes_whiten_what_they_say(kind: Any, dim: int | None) -> None:
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((500, 4)) * [5, 3, 1, 0.1]).astype(np.float32)
    b = rng.standard_normal((500, 3)).astype(np.float32)
    axes = whiten.Axes.fit([a, b], [1, 0.5], kind, dim, 0.0)
    joined = whiten.joined([a, b], [1, 0.5], 0, 500)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), np.sqrt(1.5), atol=1e-5)
    y = axes.apply(joined)
    assert y.shape[1] == (dim or 7)
    covariance = np.cov(y.T.astype(np.float64), bias=True)
    if kind == "pca":
        np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-5)
    else:
        np.testing.assert_allclose(covariance, np.eye(y.shape[1]), atol=1e-3)
    assert not axes.apply(np.zeros((1, 7), np.float32)).any()


def test_weights_are_shares_of_the_cosine() -> None:
    rng = np.random.default_rng(1)
    a, b = (unit(rng.standard_normal((2, 6)).astype(np.float32)) for _ in range(2))
    x = unit(whiten.joined([a, b], [3.0, 1.0], 0, 2))
    assert np.isclose(x[0] @ x[1], 0.75 * (a[0] @ a[1]) + 0.25 * (b[0] @ b[1]), atol=1e-6)


# -- the command -------------------------------------------------------------------------------------------


def test_a_folder_gets_vectors_and_runs(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(shop)) == 0
    said = capsys.readouterr().out
    assert "1 of 60 items have a vector of zeros: 1 have no text" in said
    assert f"next: sidbench run --dataset {shop}" in said
    corpus = Folder(path=shop).load()
    assert corpus.embeddings.shape[0] == 60
    manifest = json.loads((shop / "items.embedding" / "manifest.json").read_text())
    assert manifest["made_from"]["sources"][0]["columns"] == ["title", "brand"]
    assert manifest["zero_vectors"] == 1
    assert str(shop.parent) not in json.dumps(manifest)


def test_what_is_done_stays_and_what_is_anothers_is_not_touched(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(shop), "--json") == 0
    assert json.loads(capsys.readouterr().out)["fresh"] is False
    before = (shop / "items.npy").stat().st_mtime_ns
    assert run(str(shop), "--json") == 0
    assert json.loads(capsys.readouterr().out)["fresh"] is True
    assert run(str(shop), "--dim", "5") == 2
    assert "--redo replaces it" in capsys.readouterr().err
    np.save(shop / "items.npy", np.ones((60, 2), np.float32))
    assert run(str(shop)) == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert run(str(shop), "--redo") == 0
    assert (shop / "items.npy").stat().st_mtime_ns != before


@pytest.mark.parametrize("kind", [".npy", ".parquet", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_kind_of_file_reads_back(shop: Path, kind: str, dtype: str) -> None:
    assert run(str(shop), "--dim", "12") == 0
    out = shop / f"other{kind}"
    assert run(str(shop), "--dim", "12", "--out", str(out), "--dtype", dtype) == 0
    vectors = open_vectors(out)
    x = np.load(shop / "items.npy").astype(dtype).astype(np.float32)
    assert (vectors.read(0, vectors.rows) == x).all()
    assert np.dtype(vectors.dtype) == dtype
    if kind == ".parquet":
        ids = vectors.ids(0, 2)
        assert ids is not None
        assert ids.to_pylist() == ["i0", "i1"]


def test_sources_are_joined_weighted_whitened_and_new_items_fit_in(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(5).standard_normal((60, 6)).astype(np.float32)
    ids = pa.array([f"i{i}" for i in range(60)])[::-1]
    rows = pa.array(image[::-1].tolist())
    pq.write_table(pa.table({"item": ids[:-1], "embedding": rows[:-1]}), shop / "image.parquet")
    joined = [
        "--source", "text:title,brand", "--source", f"vectors:{shop / 'image.parquet'}",
        "--source", f"sequences:{shop / 'sequences.parquet'}", "--weights", "1,0.5,1", "--whiten", "10",
    ]  # fmt: skip
    assert run(str(shop), *joined, "--dim", "8") == 0
    said = capsys.readouterr().out
    assert "1 of 60 items are not in image.parquet: zeros stand there" in said
    assert "items stand beside no other in training" in said
    x = np.load(shop / "items.npy")
    assert x.shape == (60, 10)
    manifest = json.loads((shop / "items.embedding" / "manifest.json").read_text())
    assert manifest["axes"]["eps"] == 1e-3
    assert [s["kind"] for s in manifest["made_from"]["sources"]] == ["text", "vectors", "sequences"]

    # The first ten items and one that nobody knew, by the same steps.
    table = pq.read_table(shop / "items.parquet")
    new = pa.table({"item": ["new"], "title": ["t1w1 all0"], "brand": ["brand1"], "price": [0.0]})
    pq.write_table(pa.concat_tables([table.slice(0, 10), new]), shop / "new.parquet")
    np.save(shop / "new-image.npy", np.concatenate([[np.zeros(6)], image[1:11]]).astype(np.float32))
    assert run(str(shop / "new.parquet"), "--like", str(shop / "items.npy")) == 2
    assert "give every --source anew" in capsys.readouterr().err
    again = [
        "--source", "text", "--source", f"vectors:{shop / 'new-image.npy'}", "--source", "sequences",
    ]  # fmt: skip
    assert run(str(shop / "new.parquet"), "--like", str(shop / "items.npy"), *again) == 0
    assert "1 of 11 items were not there when sequences were learned" in capsys.readouterr().out
    y = np.load(shop / "new.npy")
    np.testing.assert_allclose(y[:10], x[:10], atol=1e-4)
    assert y[10].any()


def test_sequences_of_the_command_are_training_alone(shop: Path) -> None:
    """The leak that would falsify boards, through the files: other last two items, the same bytes."""
    source = ["--source", f"sequences:{shop / 'sequences.parquet'}"]
    assert run(str(shop), *source) == 0
    before = (shop / "items.npy").read_bytes()
    table = pq.read_table(shop / "sequences.parquet")
    rows = [[*r[:-2], f"i{len(r)}", "i59"] for r in table["items"].to_pylist()]
    pq.write_table(table.set_column(1, "items", pa.array(rows)), shop / "sequences.parquet")
    assert run(str(shop), *source, "--redo") == 0
    assert (shop / "items.npy").read_bytes() == before


def test_vectors_that_know_one_protocol_run_under_no_other(shop: Path) -> None:
    """The file remembers what it was learned from, as long as it is that file."""
    assert run(str(shop), "--source", f"sequences:{shop / 'sequences.parquet'}") == 0
    corpus = Folder(path=shop).load().permuted()
    assert len(split(corpus, "leave-one-out").test)
    with pytest.raises(UsageError, match="would know what cold-start tests"):
        split(corpus, "cold-start")
    np.save(shop / "items.npy", np.ones((60, 2), np.float32))
    corpus = Folder(path=shop).load()
    assert (corpus.learned_under, corpus.learned_from) == ("", ())


def test_what_was_learned_of_interactions_stays_so_wherever_it_goes(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every way into a run: beside, as an embedding, joined with others; and `run` itself refuses."""
    cf, both = shop / "cf.npy", shop / "both.npy"
    assert run(str(shop), "--source", f"sequences:{shop / 'sequences.parquet'}", "--out", str(cf)) == 0
    assert run(str(shop), "--source", "text", "--source", f"vectors:{cf}", "--out", str(both)) == 0
    items = str(shop / "items.parquet")
    for way in ({"embeddings": str(cf)}, {"embeddings": str(both)}, {"embedding": str(cf)}):
        assert make_dataset("files", {"items": items, **way}).load().learned_under == "leave-one-out"
    with pytest.raises(SystemExit) as e:
        main(["run", "--items", items, "--embeddings", str(cf), "--protocol", "cold-start", "--dry-run"])
    assert e.value.code == 2
    assert "would know what cold-start tests" in capsys.readouterr().err
    events = shop / "events.csv"
    events.write_text("user,item,time\n" + "".join(f"{k % 5},i{k % 60},{k // 10}\n" for k in range(90)))
    corpus = make_dataset("files", {"items": items, "sequences": str(events), "embeddings": str(cf)}).load()
    with pytest.raises(UsageError, match="and may know what is tested"):
        split(corpus, "leave-one-out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--columns", "titel"], "did you mean 'title'"),
        (["--columns", "title", "--template", "{title}"], "not both"),
        (["--columns", "name=title"], "item=COLUMN alone names a column by its role"),
        (["--source", "sequences:none.csv:user=a"], "there is no file none.csv"),
        (["--template", "{title.x}"], "in braces stands the name of a column"),
        (["--model", "sentence-transformers-none"], "no such folder here|pip install"),
        (["--source", "image:x.npy"], "expected text, text:COLUMN"),
        (["--source", "vectors:none.npy"], "there is no file none.npy"),
        (["--source", "text", "--weights", "1"], "of one there is nothing to weigh"),
        (["--source", "text", "--source", "text:brand", "--weights", "1"], "expected 2 numbers above 0"),
        (["--source", "text", "--source", "text:brand", "--weights", "1,x"], "expected numbers"),
        (["--source", "text:title", "--columns", "brand"], "go with --source text"),
        (["--whiten", "many"], "expected a number of dimensions"),
        (["--whiten", "5", "--pca", "5"], "not both"),
        (["--dtype", "int8"], "expected float32 or float16"),
        (["--out", "x.csv"], "Known: .npy, .parquet, .safetensors"),
        (["--like", "nowhere.npy"], "manifest.json is missing"),
    ],
)
def test_wrong_usage_is_one_message(
    shop: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(str(shop), *arguments) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (shop / "items.npy").exists()


def test_damaged_files_are_said(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.ones((60, 3), np.float32)
    np.save(shop / "short.npy", image[:50])
    image[4, 1] = np.nan
    np.save(shop / "nan.npy", image)
    for name, message in (("short", "has 50 rows and no ids"), ("nan", "NaN or infinity, first in row 4")):
        assert run(str(shop), "--source", f"vectors:{shop / name}.npy") == 1
        assert message in capsys.readouterr().err
    pq.write_table(pa.table({"item": ["i1", "i1"], "title": ["a", "b"]}), shop / "twice.parquet")
    assert run(str(shop / "twice.parquet"), "--source", f"sequences:{shop / 'sequences.parquet'}") == 1
    assert "ids of twice.parquet repeat" in capsys.readouterr().err
    pq.write_table(pa.table({"item": [1], "price": [2.0]}), shop / "bare.parquet")
    assert run(str(shop), "--columns", "item=titel") == 1
    assert "no column 'titel'; did you mean 'title'" in capsys.readouterr().err
    assert run(str(shop / "bare.parquet")) == 2
    assert "has none of the columns title" in capsys.readouterr().err


def test_two_commands_do_not_write_one_file(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sidbench.catalogue.files import locked

    with locked(shop / "items.embedding" / "lock", "items.npy"):
        assert run(str(shop)) == 2
    assert "another sidbench" in capsys.readouterr().err
    assert run(str(shop)) == 0
    assert not (shop / "items.embedding" / "lock").exists()


def test_a_disk_that_takes_nothing_is_said(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(output.WRITERS, ".npy", full)
    assert run(str(shop)) == 1
    assert "No space left" in capsys.readouterr().err
    assert not (shop / "items.npy").exists()


@pytest.mark.skipif("SIDBENCH_DATA" not in os.environ, reason="SIDBENCH_DATA names no real data")
def test_words_of_real_items_are_as_good_neighbours_as_a_language_models() -> None:
    """Validation items of Amazon Scientific 2018 among the ten nearest to the item before."""
    folder = Path(os.environ["SIDBENCH_DATA"]) / "amazon-scientific-2018"
    if not folder.is_dir():
        pytest.skip("no amazon-scientific-2018 in SIDBENCH_DATA")
    items = pq.read_table(folder / "items.parquet")
    s = Folder(path=folder).load().sequences
    s = s.take(np.flatnonzero(s.lengths >= 3))

    def recall(x: Any) -> float:
        x = unit(x.astype(np.float32))
        near = x[s.last(3)] @ x.T
        return float(((near > near[np.arange(len(s)), s.last(2)][:, None]).sum(axis=1) < 10).mean())

    texts = text.joined(items, text.default_columns(items.column_names, "items"))
    assert recall(embed.embed_texts(texts)) > recall(np.load(folder / "items.npy")) - 0.002


def test_sources_are_known_by_their_kind() -> None:
    assert isinstance(sources.parse("text:title, brand"), sources.Text)
    with pytest.raises(UsageError, match="did you mean 'text'"):
        sources.parse("txt")
