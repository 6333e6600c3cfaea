"""Index files that other systems published: every collision figure known of them, to its last digit."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sidbench import metrics
from sidbench.formats import reading
from sidbench.sids import Codes

FOLDERS = [Path(p) for p in os.environ.get("SIDBENCH_DATA", "").split(os.pathsep) if p]
NOBODY: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def data(path: str) -> Path:
    """A file of the real data, or a skip that says how to have it."""
    for folder in FOLDERS:
        if (folder / path).exists():
            return folder / path
    pytest.skip(f"no {path} in a folder of SIDBENCH_DATA (published SIDs and bundles of real data)")


def index(path: str) -> tuple[list[str], Codes]:
    table = reading.read(data(path), "path")
    codes = table.codes
    return table.ids if table.ids is not None else [str(i) for i in range(len(codes))], codes


def last_items(bundle: str) -> NDArray[np.int64]:
    """The test targets of leave-one-out: everybody's last item."""
    import pyarrow.parquet as pq

    column = pq.read_table(data(f"{bundle}/sequences.parquet"))["items"].combine_chunks()
    ends = np.asarray(column.offsets)[1:] - 1
    return np.asarray(column.values.to_numpy()[ends], dtype=np.int64)


def figures(codes: Codes, targets: NDArray[np.int64] = NOBODY) -> dict[str, float]:
    sizes = tuple(256 for _ in range(codes.shape[1]))
    _, levels = metrics.codebook_metrics(codes, sizes)
    return {
        **metrics.collision_metrics(codes, targets),
        **{f"used_{i}": round(256 * v) for i, v in enumerate(levels["utilization"], 1)},
        **{f"perplexity_{i}": v for i, v in enumerate(levels["perplexity"], 1)},
    }


def printed(found: dict[str, float], **expected: str) -> None:
    """Each number, printed with as many digits as it is known with, is the one that is known."""
    for name, text in expected.items():
        scale, digits = (100, text[:-1]) if text.endswith("%") else (1, text)
        places = len(digits.partition(".")[2])
        assert f"{scale * found[name]:.{places}f}" == digits, name


def test_minionerec_office() -> None:
    ids, codes = index("formats/minionerec/index/Office_Products.index.json")
    place = {name: row for row, name in enumerate(ids)}
    folder = data("formats/minionerec/test")
    with next(folder.glob("Office*.csv")).open(newline="") as file:
        targets = np.array([place[row["item_id"]] for row in csv.DictReader(file)])
    found = figures(codes, targets)
    assert (len(codes), found["collision_largest"], found["used_1"]) == (3459, 2, 88)
    printed(
        found,
        collision_distinct="0.434%",
        collision_items="0.867%",
        collision_traffic="1.73%",
        perplexity_1="70.8",
    )
    assert (round(found["collision_traffic"] * len(targets)), len(targets)) == (84, 4866)


def test_minionerec_office_lies_on_its_floor_of_texts() -> None:
    ids, codes = index("formats/minionerec/index/Office_Products.index.json")
    items = json.loads(data("formats/minionerec/index/Office_Products.item.json").read_text())
    texts = np.array([f"{items[i]['title']}\n{items[i]['description']}" for i in ids])
    x = np.load(data("formats/minionerec/index/Office_Products.emb-minilm-td.npy")).astype(np.float32)
    floor = metrics.floor_metrics(x, texts)
    printed(floor, floor_text_distinct="0.434%", floor_text_items="0.867%", floor_distinct="0.434%")
    found = metrics.collision_metrics(codes, NOBODY)
    assert found["collision_distinct"] == floor["floor_text_distinct"]
    assert found["collision_items"] == floor["floor_text_items"]


@pytest.mark.parametrize(
    "path",
    ["formats/lc-rec/Beauty.index.json", "amazon-beauty-2014/extras/published_sids/letter_published.npy"],
)
def test_letter_beauty(path: str) -> None:
    _, codes = index(path)
    found = figures(codes)
    assert (codes.shape, found["used_1"]) == ((12_101, 4), 197)
    printed(found, collision_distinct="0.107%", collision_items="0.198%", perplexity_1="82.7")


@pytest.mark.parametrize(
    ("name", "largest", "used", "shown"),
    [
        ("rkmeans", 26, (256, 256), ("0.2014", "0.3052", "0.3382", "202", "28")),
        ("rqvae", 22, (32, 256), ("0.1275", "0.2042", "0.2400", "29", "212")),
    ],
)
def test_collisiongenrec_scientific(
    name: str, largest: int, used: tuple[int, int], shown: tuple[str, ...]
) -> None:
    bundle = "amazon-scientific-2018"
    _, codes = index(f"{bundle}/extras/published_sids/collisiongenrec_{name}_native.npy")
    found = figures(codes, last_items(bundle))
    assert (len(codes), found["collision_largest"]) == (4344, largest)
    assert (found["used_1"], found["used_4"]) == used
    names = ("collision_distinct", "collision_items", "collision_traffic", "perplexity_1", "perplexity_4")
    printed(found, **dict(zip(names, shown, strict=True)))


def test_scientific_floor() -> None:
    x = np.load(data("amazon-scientific-2018/items.npy")).astype(np.float32)
    printed(metrics.floor_metrics(x), floor_distinct="0.276%", floor_items="0.552%")


def test_tiger_lists_are_read() -> None:
    _, codes = index("formats/tiger/index_rqkmeans.json")
    found = figures(codes)
    by_length = metrics.prefix_collisions(codes)
    assert by_length["collision_items"][-1] == found["collision_items"]
    assert by_length["collision_distinct"] == sorted(by_length["collision_distinct"], reverse=True)
