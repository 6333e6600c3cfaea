"""The boards that this project stands for: current, free of local paths, and saying what they must."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, stdev

import pytest

from sidbench import registry
from sidbench.plugin import required
from sidbench.record import RunRecord, Store
from sidbench.report import check

STORE = Store(Path(__file__).resolve().parent.parent / "results" / "published")
RECORDS = [r for _, r in STORE.all() if isinstance(r, RunRecord)]


REVIEWS = ("amazon-scientific-2018", "amazon-beauty-2014")


def recall(label: str, dataset: str = "synthetic") -> list[float]:
    """Recall@10 of a method's seeds, on the embedded dataset or another."""
    rows = [r for r in RECORDS if r.label == label and r.key["dataset"]["name"] == dataset]
    return [r.metrics["recall@10"] for r in rows]


def test_every_published_record_is_whole_and_succeeded() -> None:
    assert RECORDS
    for path, record in STORE.all():
        assert isinstance(record, RunRecord), record
        assert record.status == "ok", path
        assert STORE.path(record.key) == path


def test_the_published_board_agrees_with_its_records() -> None:
    assert check(STORE.board.read_text(), RECORDS, STORE.vectors) == []


METHODS = sorted(name for name, cls in registry.tokenizers().items() if not required(cls) and not cls.floor)


@pytest.mark.parametrize("method", METHODS)
def test_semantic_ids_stand_clearly_above_random_ones(method: str) -> None:
    semantic, floor = recall(method), recall("random")
    assert len(semantic) == len(floor) == 3
    assert min(semantic) > max(floor)
    # Further apart than three times what seeds scatter.
    assert mean(semantic) - mean(floor) > 3 * max(stdev(semantic), stdev(floor))


# Planes that nothing chose, and nodes that are single items before the last level.
UNEVEN = {"lsh", "tree-kmeans"}


@pytest.mark.parametrize("method", sorted(set(METHODS) - UNEVEN))
def test_no_level_has_collapsed(method: str) -> None:
    for record in RECORDS:
        if record.label == method:
            assert min(record.levels["utilization"]) > 0.9


def test_popularity_alone_does_badly_and_the_decoder_beats_the_references() -> None:
    [popularity], [neighbours] = recall("popularity"), recall("item-knn")
    assert popularity < min(recall("rq-kmeans")) / 3
    assert neighbours < min(recall("rq-kmeans"))


def test_nothing_published_names_a_local_path() -> None:
    # A path from the root: a slash after no word, address or tag, then a folder.
    absolute = re.compile(r"(?<![\w:./<)])/[\w.-]+/")
    assert absolute.search("read from /some/folder")
    for path in STORE.root.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert not absolute.search(path.read_text()), path


def test_the_readme_shows_the_published_board() -> None:
    readme = (STORE.root.parent.parent / "README.md").read_text()
    for label in (*METHODS, "random"):
        values = recall(label)
        assert f"{mean(values):.4f} ± {stdev(values):.4f}" in readme


def short(value: float) -> str:
    """As the README's table of real reviews has it."""
    return f"{value:.4f}".removeprefix("0")


@pytest.mark.parametrize("dataset", REVIEWS)
@pytest.mark.parametrize("method", METHODS)
def test_on_real_reviews_semantic_ids_beat_random_ones_and_popularity(method: str, dataset: str) -> None:
    semantic, floor, [popularity] = (recall(label, dataset) for label in (method, "random", "popularity"))
    assert len(semantic) == len(floor) == 3
    assert min(semantic) > max(floor) > popularity


def test_five_minutes_are_enough_on_scientific() -> None:
    assert min(recall("rq-kmeans", REVIEWS[0])) > 0.075


def test_the_readme_has_the_recall_on_real_reviews() -> None:
    readme = (STORE.root.parent.parent / "README.md").read_text()
    tables = [
        line.split("|") for line in readme.splitlines() if line.startswith(("| refer", "| token", "| floor"))
    ]
    for place, dataset in enumerate(REVIEWS, start=2):
        said = {part.strip() for row in tables for part in row[place].split(",")}
        labels = {r.label for r in RECORDS if r.key["dataset"]["name"] == dataset}
        assert said == {f"{label} {short(mean(recall(label, dataset)))}" for label in labels}
