"""The page and the charts: they say what the records say, hold no foreign markup, ask nobody."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert

from sidbench.errors import DataError
from sidbench.record import RunRecord, Store
from sidbench.report import Boards
from sidbench.report.charts import CHARTS
from sidbench.report.files import MARKDOWN, PAGE

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"
HARDWARE = {"cpu": "AMD EPYC", "cores": 2, "threads": 2, "device": "cpu", "gpu": None, "memory_gb": 24}
DATASET = {
    "name": "shop",
    "fingerprint": "0123",
    "items": 90,
    "users": 50,
    "interactions": 400,
    "dimensions": 8,
}
DECODER = {"preset": "quick", "name": "causal", "params": {"width": 8}}
EVIL = '<script>alert("1")</script>'


def record(label: str, recall: float, seed: int = 0, **changes: Any) -> RunRecord:
    """One finished run, with all that today's runs leave."""
    kind = changes.pop("kind", "tokenizer")
    key = {
        "kind": kind,
        "method": label,
        "label": label,
        "params": {} if kind == "reference" else {"levels": 2, "codebook_size": 16, "note": "plain"},
        "seed": seed,
        "dataset": DATASET,
        "protocol": {"name": "leave-one-out", "seen": "keep", "cutoffs": [1, 10]},
        "resolver": None if kind == "reference" else {"name": "suffix", "params": {}},
        "decoder": None if kind == "reference" else DECODER,
        "hardware": HARDWARE,
        **changes,
    }
    metrics = {"recall@1": recall / 3, "recall@10": recall, "ndcg@1": recall / 3, "ndcg@10": recall / 2}
    facts: dict[str, Any] = {}
    levels = {}
    if kind == "tokenizer":
        metrics |= {"collision_items": recall / 5, "utilization": 0.9, "perplexity": 12.0}
        levels = {"utilization": [1.0, 0.8], "perplexity": [15.0, 9.0 + recall]}
        levels["recall_decile@10"] = [recall] * 10
        facts = {"sizes": [16, 16], "floor": label == "random", "epochs": 3}
    return RunRecord(
        id=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12],
        status="ok",
        key=key,
        code="c0de",
        facts=facts,
        metrics=metrics,
        levels=levels,
        measured={
            "fit_seconds": 1.5,
            "encode_items_per_second": 1e5 / recall,
            "finished": "2026-01-02T03:04:05",
        },
        env={"torch": "2.6.0", "command": "sidbench run --methods all"},
    )


def failed(label: str, message: str) -> RunRecord:
    whole = record(label, 0.1)
    error = {"type": "ContractError", "message": message, "stage": "fit"}
    return RunRecord(whole.id, "failed", whole.key, whole.code, error, env=whole.env)


def vectors(run: RunRecord) -> dict[str, Any]:
    """What lies beside a run: places that give its recall, courses, how full its codes are."""
    rng = np.random.default_rng(int(run.id, 16))
    before = np.where(rng.random(50) < run.metrics["recall@10"], 0, 50).astype(np.int32)
    kept = {"user": np.arange(50), "target_before": before, "target_size": np.ones(50, dtype=np.int32)}
    if run.key["kind"] == "tokenizer":
        kept |= {
            "curve_valid_step": np.arange(1, 4) * 50,
            "curve_valid_ndcg@10": np.array([0.1, 0.2, run.metrics["ndcg@10"]]),
            "fit_loss": np.array([3.0, 2.0, 1.5]),
            "usage_1": np.array([30, *[4] * 15]),
            "usage_2": np.array([80, 10, *[0] * 14]),
        }
    return kept


def gone(run: RunRecord) -> dict[str, Any]:
    raise DataError(f"the vectors of {run.id} are gone")


def usual() -> list[RunRecord]:
    out = [record("rq-kmeans", 0.40 + s / 50, s) for s in range(2)]
    out += [record("tree", 0.60 + s / 50, s) for s in range(2)]
    out += [record("random", 0.10, s) for s in range(2)]
    return [*out, record("popularity", 0.2, kind="reference"), failed("rq-vae", "codes out of range")]


class Reader(HTMLParser):
    """The text of a page, its tags closed in order."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(records: list[RunRecord], read: Callable[[RunRecord], Any] = vectors) -> str:
    return Boards(records, read).files()[PAGE]


@pytest.fixture(scope="module")
def made() -> Boards:
    return Boards(usual(), vectors)


@pytest.fixture(scope="module")
def usual_page(made: Boards) -> str:
    return made.files()[PAGE]


def test_a_page_is_well_formed_and_names_nothing_twice(usual_page: str) -> None:
    seen = Reader(usual_page).seen
    ids = [attrs["id"] for _, attrs in seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in seen if tag == "a"]
    assert links
    assert all(link and link[0] == "#" and link[1:] in ids for link in links)


def test_nothing_is_asked_of_anybody(usual_page: str) -> None:
    seen = Reader(usual_page).seen
    loading = ("src", "srcset", "data", "action", "poster", "xlink:href", "background")
    assert not [attrs for _, attrs in seen if any(name in attrs for name in loading)]
    assert {attrs["href"] for tag, attrs in seen if tag == "link"} == {"data:,"}
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", usual_page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|\beval\(|innerHTML", usual_page)


def test_the_browser_is_told_to_run_one_script_and_load_nothing(usual_page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", usual_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', usual_page)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_text_of_records_is_no_markup() -> None:
    records = [*usual(), record(EVIL, 0.5), failed('"><img src=x>', EVIL)]
    records[-2].key["params"]["note"] = f"{EVIL}`"
    records[-2].facts["notes"] = [EVIL]
    records[-2].env["command"] = f"sidbench {EVIL} `"
    made = Boards(records, vectors)
    text = made.files()[PAGE]
    assert text.count("<script") == 1
    assert "<img" not in text
    read = Reader(text)
    assert EVIL in "".join(read.text)
    assert not [name for _, attrs in read.seen for name in attrs if name.startswith("on")]
    for name, svg in made.files().items():
        if name.endswith(".svg"):
            assert "<script" not in svg
            Reader(svg.partition("-->")[2])


def test_every_cell_of_the_markdown_stands_on_the_page(made: Boards) -> None:
    shown = "".join(Reader(made.files()[PAGE]).text)
    cells = re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?%?", made.markdown.split("Cut-off")[0])
    assert len(cells) > 20
    for cell in cells:
        assert cell in shown


def test_what_several_boards_say_together_opens_the_page() -> None:
    plain = {"name": "keep", "params": {}}
    other = {**DATASET, "name": "library", "fingerprint": "4567"}
    runs = [record("rq-kmeans", 0.3), record("tree", 0.4)]
    runs += [record(r.key["label"], r.metrics["recall@10"] / 2, resolver=plain) for r in runs]
    runs += [record(r.key["label"], 0.5 - r.metrics["recall@10"], dataset=other) for r in runs[:2]]
    text = Boards(runs, vectors).files()[PAGE]
    seen = Reader(text).seen
    ids = [attrs["id"] for _, attrs in seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    ranks, best = (
        re.search(f'<section class="board" id="{i}-0".*?</section>', text, re.S) for i in ("over", "best")
    )
    assert ranks is not None
    assert best is not None
    # One dataset has them in one order, the other in the other: both have mean rank 1.5.
    assert ranks[0].count('data-v="1.5"') == 2
    assert "tree</b> with suffix" in best[0]
    for resolver in ("keep", "suffix"):
        assert resolver in best[0]
    # Every row of them opens what its own board says of it.
    opened = set(re.findall(r'<a class="open" href="#(row-[0-9a-f]{8})"', ranks[0] + best[0]))
    assert opened
    assert opened <= set(re.findall(r'id="(row-[0-9a-f]{8})"', text))


def test_what_is_sorted_by_is_the_value_itself(made: Boards, usual_page: str) -> None:
    (table, _), *_ = made.drawn
    rows = re.findall(r'<tr[^>]* data-row="[^"]+".*?</tr>', usual_page, re.DOTALL)
    by_name = {unescape(re.findall(r'data-v="([^"]*)"', row)[0]): row for row in rows[: len(table.rows)]}
    for row in table.rows:
        keys = re.findall(r'<td[^>]* data-v="([^"]+)"', by_name[row.name])
        for value in row.values.values():
            if value is row.values.get("recall@10"):
                assert repr(value.mean) in keys


@pytest.mark.parametrize(
    "records",
    [
        [],
        [failed("rq-vae", "no")],
        [record("popularity", 0.2, kind="reference")],
        [record("rq-kmeans", 0.4)],
        [record("rq-kmeans", 0.4), record("tree", 0.4)],
    ],
    ids=["none", "failed", "reference", "one", "equal"],
)
def test_small_boards_render(records: list[RunRecord]) -> None:
    made = Boards(records, vectors)
    Reader(made.files()[PAGE])
    assert made.check(made.files().get) == []


def test_older_records_render() -> None:
    """No vectors, no levels, no facts but sizes; numbers that today's metrics do not know."""
    old = [record("rq-kmeans", 0.4), record("tree", 0.6)]
    for run in old:
        run.levels.clear()
        run.measured.clear()
        run.env.clear()
        run.metrics.update({"no_such_number": 1.0, "strange@10": 2.0})
        for name in ("collision_items", "perplexity", "ndcg@10"):
            del run.metrics[name]
    text = page(old, gone)
    Reader(text)
    assert text.count("<figure") == 1  # the headline is all that can be drawn
    assert "no_such_number" not in text


def test_rows_that_never_ran_have_a_line_and_a_reason(usual_page: str) -> None:
    shown = "".join(Reader(usual_page).text)
    assert "rq-vae, seed 0, in fit: ContractError: codes out of range" in shown
    assert re.search(r'rq-vae</a><span class="badge failed">failed', usual_page)


def test_a_row_opens_to_parameters_runs_machine_versions_and_command(usual_page: str) -> None:
    (detail,) = re.findall(r'<details class="one"><summary>tree<.*?</details>', usual_page, re.DOTALL)
    shown = "".join(Reader(detail).text)
    for said in (
        "codebook_size",
        "16",
        "AMD EPYC",
        "torch 2.6.0",
        "sidbench run --methods all",
        "2026-01-02 03:04:05",
    ):
        assert said in shown
    assert all(run.id in shown for run in usual() if run.label == "tree")
    assert "rq-kmeans" in shown  # it is compared with


def test_files_do_not_depend_on_the_order_of_records(made: Boards) -> None:
    assert Boards(usual()[::-1], vectors).files() == made.files()


def test_all_charts_are_drawn_and_stand_in_markdown(made: Boards) -> None:
    names = [figure.name for _, figures in made.drawn for figure in figures]
    assert names == [
        "quality", "differences", "speed", "collisions", "bits", "popularity", "learning", "fitting",
        "levels", "usage",
    ]  # fmt: skip
    charts = [name for name in made.files() if name.startswith(CHARTS)]
    assert sorted(re.findall(r'<img src="([^"]+)"', made.markdown)) == sorted(charts)
    for name in charts:
        assert "prefers-color-scheme:dark" in made.files()[name]


def test_rows_with_shorter_and_longer_sids_are_drawn_together() -> None:
    short, long = record("tree", 0.5), record("tree", 0.6, decoder={**DECODER, "preset": "standard"})
    longer = record("tree", 0.7)
    longer.key["params"]["levels"] = 3
    longer.facts["sizes"] = [16, 16, 16]
    longer = dataclasses.replace(longer, id="0" * 12)
    drawn = Boards([short, long, longer], vectors).drawn
    found = {
        (table.agreed["decoder"]["preset"], len(table.agreed["shape"])): [
            f for f in figures if f.name == "lengths"
        ]
        for table, figures in drawn
    }
    assert found.pop(("standard", 2)) == []  # it was run at one length
    for figures in found.values():
        (row,), _ = figures[0].data
        assert row["points"] == [[8.0, 0.5], [12.0, 0.7]]


def test_a_change_of_any_file_is_found(made: Boards) -> None:
    files = made.files()
    assert made.check(files.get) == []
    for name, text in files.items():
        number = re.search(r"(?<=[> \"(])\d+\.\d+(?=[<\" ,)])", text[len(text) // 2 :])
        assert number, name
        at = len(text) // 2 + number.start()
        assert made.check({**files, name: f"{text[:at]}7{text[at:]}"}.get), name
        assert made.check({k: v for k, v in files.items() if k != name}.get), name
        if name.endswith(".svg"):
            assert made.check({**files, name: "<svg/>"}.get) == [f"{name} was not drawn by sidbench"]


def test_a_picture_of_other_numbers_is_found(made: Boards) -> None:
    before = made.files()
    records = usual()
    records[0].metrics["recall@10"] += 0.01
    found = Boards(records, vectors).check(before.get)
    assert any("shows other numbers" in line for line in found)
    assert any("page differs" in line for line in found)


def test_a_picture_changed_inside_the_page_is_found(made: Boards) -> None:
    text = made.files()[PAGE]
    at = text.index("<path", text.index('data-of="'))
    edited = {**made.files(), PAGE: f"{text[:at]}<path/>{text[at:]}"}
    assert made.check(edited.get) == ["the chart 'Recall@10' of the page was changed after it was drawn"]


def test_pictures_that_are_still_right_are_not_drawn_again(
    made: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.files()
    drawn: list[Any] = []
    draw = vl_convert.vegalite_to_svg

    def watched(spec: Any) -> str:
        drawn.append(spec)
        return str(draw(spec))

    monkeypatch.setattr(vl_convert, "vegalite_to_svg", watched)
    assert Boards(usual(), vectors).files(before.get) == before
    assert not drawn
    records = usual()
    records[0].measured["encode_items_per_second"] += 1  # one picture tells it
    torn = {
        name: text.replace("<path", "<g/><path", 1) if "usage" in name else text
        for name, text in before.items()
    }
    Boards(records, vectors).files(torn.get)
    assert len(drawn) == 2


def test_a_page_of_many_rows_stays_small() -> None:
    records = [record(f"method-{i:02}", 0.2 + i / 40, s) for i in range(12) for s in range(3)]
    assert len(page(records)) < 1_000_000


def test_the_command_writes_and_checks_every_file(
    sidbench_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "results")
    for run in [*usual()[:3], record("popularity", 0.2, kind="reference")]:
        store.save(run, vectors(run))
    assert sidbench_cli("leaderboard", "--results", store.root, "--json").code == 0
    charts = sorted((store.root / CHARTS).glob("*.svg"))
    assert charts
    assert (store.root / PAGE).is_file()
    assert (store.root / MARKDOWN).is_file()
    # A picture of a board that is gone goes; what others put there stays.
    shutil.copy(charts[0], store.root / CHARTS / "older-board.svg")
    (store.root / CHARTS / "mine.svg").write_text("<svg/>")
    assert sidbench_cli("leaderboard", "--results", store.root).code == 0
    names = {p.name for p in (store.root / CHARTS).iterdir()}
    assert names == {*(p.name for p in charts), "mine.svg"}
    assert sidbench_cli("leaderboard", "--results", store.root, "--check").code == 0
    charts[0].unlink()
    said = sidbench_cli("leaderboard", "--results", store.root, "--check")
    assert said.code == 1
    assert "is missing" in said.out


def test_the_published_page_agrees_with_its_records() -> None:
    text = (PUBLISHED / PAGE).read_text()
    Reader(text)
    store = Store(PUBLISHED)
    runs = [r for _, r in store.all() if isinstance(r, RunRecord)]
    assert all(run.id in text for run in runs)
