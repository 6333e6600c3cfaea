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


def recall(label: str) -> list[float]:
    """Recall@10 of a method's seeds on the embedded dataset."""
    rows = [r for r in RECORDS if r.label == label and r.key["dataset"]["name"] == "synthetic"]
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
