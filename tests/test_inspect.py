"""inspect: runs, artifacts and files of other systems; what is not at hand is named, nothing leaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

from sidbench import metrics, registry
from sidbench.commands.measure import SECTIONS
from sidbench.commands.results import find_run
from sidbench.commands.subject import place_of
from sidbench.protocol import split
from sidbench.record import Store
from sidbench.sids import SIDs
from tests.conftest import Said

Cli = Callable[..., "Said"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two quick rows on the tiny world."""
    from sidbench.cli import main

    root = tmp_path_factory.mktemp("runs") / "results"
    quick = ["decoder.steps=3", "rq-kmeans.codebook_size=8", "random.codebook_size=8"]
    line = [
        "run",
        "--methods",
        "rq-kmeans,random,popularity",
        "--dataset",
        "synthetic:tiny",
        "--threads",
        "1",
    ]
    line += ["--results", str(root), *(word for text in quick for word in ("--set", text))]
    with pytest.raises(SystemExit) as end:
        main(line)
    assert not end.value.code
    return root


def asked(cli: Cli, *words: object) -> dict[str, Any]:
    said = cli("inspect", *words, "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_a_run_is_named_with_its_resolver_too(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    run = find_run(Store(results), "rq-kmeans")
    named = f"rq-kmeans+{run.key['resolver']['name']}"
    assert find_run(Store(results), named).id == run.id
    assert asked(sidbench_cli, named, "--results", results)
    assert sidbench_cli("show", named, "--results", results).code == 0
    out = tmp_path / "sids.json"
    assert sidbench_cli("export", named, "--to", "json", "--out", out, "--results", results).code == 0
    said = sidbench_cli("inspect", "rq-kmeans+nothing", "--results", results)
    assert said.code == 2
    assert f"({named})" in " ".join(said.err.split())


def test_a_run_says_what_its_record_says(results: Path, sidbench_cli: Cli) -> None:
    record = find_run(Store(results), "rq-kmeans")
    by_name = asked(sidbench_cli, "rq-kmeans", "--results", results)
    by_id = asked(sidbench_cli, record.id[:8], "--results", results)
    assert by_name == by_id
    for name, value in by_name["metrics"].items():
        if name in record.metrics:
            assert value == pytest.approx(record.metrics[name], abs=1e-9), name
        else:
            assert name == "next_item_hit_embedding", name
    for name, values in by_name["levels"].items():
        assert values == pytest.approx(record.levels[name], abs=1e-9), name
    assert set(by_name["missing"]) == set(SECTIONS["Churn"])
    # Whatever is in no section would be computed and never shown.
    shown = {name for names in SECTIONS.values() for name in names}
    found = {n for n in by_name["metrics"] if not n.endswith("_min")}  # the levels stand beside
    assert shown - {"trie_fanout"} == found | set(by_name["missing"])
    assert by_name["notes"] == []


def test_an_artifact_anywhere_is_the_run(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    record = find_run(Store(results), "rq-kmeans")
    shutil.copytree(Store(results).artifact(record.key), tmp_path / "elsewhere")
    here = asked(sidbench_cli, tmp_path / "elsewhere", "--results", tmp_path / "none")
    assert here["metrics"] == asked(sidbench_cli, "rq-kmeans", "--results", results)["metrics"]


def test_a_file_without_and_with_its_dataset(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    corpus = registry.load_dataset("synthetic:tiny")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (300, 3))
    codes[0] = 0
    order = rng.permutation(300)
    path = tmp_path / "index.json"
    path.write_text(
        json.dumps({str(i): [f"<{'abc'[j]}_{c}>" for j, c in enumerate(codes[i])] for i in order.tolist()})
    )
    alone = asked(sidbench_cli, path)
    assert alone["sizes"] == [5, 5, 5]
    assert alone["missing"]["prefix_cosine"] == "needs the items' vectors"
    assert "no dataset: --dataset names one" in alone["notes"]
    beside = asked(sidbench_cli, path, "--dataset", "synthetic:tiny", "--sizes", "8,8,8")
    mine = metrics.intrinsic_metrics(
        codes[corpus.item_ids].astype(np.int32),
        (8, 8, 8),
        x=corpus.embeddings.view(np.ndarray),
        train=split(corpus, "leave-one-out").train,
        categories=corpus.categories,
    )
    for name, value in mine.values.items():
        assert beside["metrics"][name] == pytest.approx(value), name
    assert beside["missing"]["stability"] == "needs the fitted tokenizer"
    assert beside["metrics"]["utilization"] == 5 / 8


def test_only_training_interactions_are_looked_at(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every test and validation target exchanged, nothing changes."""
    from dataclasses import replace

    np.save(tmp_path / "sids.npy", np.random.default_rng(0).integers(0, 5, (300, 3)))
    before = asked(sidbench_cli, tmp_path / "sids.npy", "--dataset", "synthetic:tiny")
    load = registry.load_dataset

    def other(spec: str, params: dict[str, Any] | None = None) -> Any:
        corpus = load(spec, params)
        items, ends = corpus.sequences.items.copy(), corpus.sequences.offsets[1:]
        for back in (1, 2):
            items[ends - back] = np.random.default_rng(back).integers(0, 300, len(ends))
        return replace(corpus, sequences=replace(corpus.sequences, items=items))

    monkeypatch.setattr(registry, "load_dataset", other)
    assert asked(sidbench_cli, tmp_path / "sids.npy", "--dataset", "synthetic:tiny") == before


def test_an_attribute_takes_the_place_of_categories(sidbench_cli: Cli, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 6, (400, 2))
    np.save(tmp_path / "sids.npy", codes)
    brand: list[str | None] = [f"brand {c}" for c in codes[:, 0]]
    brand[7], brand[9] = None, ""
    order = np.random.default_rng(1).permutation(400)
    table = {"item": order, "brand": [brand[i] for i in order], "parts": [[1]] * 400}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    line = (tmp_path / "sids.npy", "--attribute")
    found = asked(sidbench_cli, *line, f"{tmp_path / 'items.parquet'}:brand")
    assert found["levels"]["category_recovery"][0] == pytest.approx(1)
    assert 0 < found["levels"]["category_recovery"][1] < 1
    assert "known of 398 items" in found["notes"][-1]
    for wrong, said in (("maker", "expected item_id"), ("parts", "cannot be read as one text")):
        assert said in sidbench_cli("inspect", *line, f"{tmp_path / 'items.parquet'}:{wrong}").err
    assert "expected FILE:COLUMN" in sidbench_cli("inspect", *line, "brand").err


def test_churn_is_asked_for(results: Path, sidbench_cli: Cli) -> None:
    said = sidbench_cli("inspect", "rq-kmeans", "--results", results, "--churn", "--json")
    found = json.loads(said.out)["metrics"]
    assert 0 < found["churn_growth_groups"] <= 1
    assert 0 < found["churn_seed_groups"] <= 1
    assert "another seed" in said.err
    floor = asked(sidbench_cli, "random", "--results", results, "--churn")["metrics"]
    assert floor["churn_seed"] > 0.9
    assert floor["churn_growth"] == 0  # its codes need no items


def test_codes_that_a_resolver_moved_are_said_to_be_its_own(
    results: Path, sidbench_cli: Cli, tmp_path: Path
) -> None:
    sids = SIDs.load(Store(results).artifact(find_run(Store(results), "rq-kmeans").key))
    own = int(sids.manifest["tokenizer_levels"])
    moved = sids.replace(codes=sids.codes[:, :own], sizes=sids.sizes[:own], resolver="nearest-free")
    shutil.copytree(Store(results).artifact(find_run(Store(results), "rq-kmeans").key), tmp_path / "moved")
    moved.save(tmp_path / "moved")
    found = asked(sidbench_cli, tmp_path / "moved", "--churn")
    assert "moves codes" in found["notes"][0]
    assert "which no fit gives" in found["missing"]["churn_seed"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("legends", ["--legends", "--no-legends"])
def test_what_is_printed_fits(
    results: Path, sidbench_cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int, legends: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = sidbench_cli("inspect", "rq-kmeans", "--results", results, legends)
    assert max(map(cell_len, said.out.splitlines())) <= width
    for title in SECTIONS:
        assert title in said.out
    assert ("does not show" in " ".join(said.out.lower().split())) == (legends == "--legends")
    assert ("--legends explains" in said.out) == (legends == "--no-legends")
    assert "nan" not in said.out


def test_legends_of_a_file_claim_nothing_of_a_resolver(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    np.save(tmp_path / "unique.npy", np.stack(np.divmod(np.arange(60), 20), axis=1))
    np.save(tmp_path / "shared.npy", np.zeros((60, 2), dtype=np.int64))
    out = " ".join(sidbench_cli("inspect", tmp_path / "unique.npy", "--legends").out.split())
    assert "before the resolver" not in out
    assert "as they are in the file, whatever a resolver did before" in out
    assert "the last level may be a suffix" in out
    assert "may be a suffix" not in sidbench_cli("inspect", tmp_path / "shared.npy").out


@pytest.mark.parametrize("width", [80, 120])
def test_many_levels_fit_too(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    np.save(tmp_path / "sids.npy", np.random.default_rng(0).integers(0, 5000, (300, 16)))
    said = sidbench_cli("inspect", tmp_path / "sids.npy", "--no-legends", "--base", "0")
    assert max(map(cell_len, said.out.splitlines())) <= width
    assert "…" not in said.out


def test_what_is_no_sids_says_so(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    def fails(*words: object) -> str:
        said = sidbench_cli("inspect", *words, "--results", results)
        assert said.code in (1, 2)
        return said.err

    assert "has no SIDs: it is a reference" in fails("popularity")
    assert "there is no run 'nobody'" in fails("nobody")
    assert "there is no file" in fails(tmp_path / "none.json")
    assert "holds no artifact" in fails(tmp_path)
    assert "unknown protocol" in fails("random", "--protocol", "lottery")
    assert "--sizes is for a file" in fails("random", "--sizes", "8,8,8")
    assert "is not what these SIDs were made on" in fails("random", "--dataset", "synthetic")
    np.save(tmp_path / "sids.npy", np.full((300, 2), 7))
    assert "expected one number a level" in fails(tmp_path / "sids.npy", "--sizes", "many")
    assert "does not fit" in fails(tmp_path / "sids.npy", "--sizes", "4,4", "--base", "1")
    assert "give --base 1 if" in fails(tmp_path / "sids.npy")
    assert "expected auto, 0, 1" in fails(tmp_path / "sids.npy", "--base", "2")
    assert "are for a file of SIDs" in fails("random", "--base", "0")


def test_a_dataset_that_is_gone_leaves_what_needs_none(
    results: Path, sidbench_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidbench.errors import DataError

    def gone(spec: str, params: Any = None) -> Any:
        raise DataError("gone")

    monkeypatch.setattr(registry, "load_dataset", gone)
    found = asked(sidbench_cli, "rq-kmeans", "--results", results)
    assert "utilization" in found["metrics"]
    assert found["missing"]["stability"] == "needs the items' vectors"
    assert found["notes"] == ["dataset 'synthetic' is not found here: --dataset names it"]
    # Records keep no folders: of own files the place is asked for.
    assert [place_of(spec) for spec in ("files", "minionerec", "movielens", "nobody")] == [
        "files:ITEMS ",
        "minionerec:PATH ",
        "",
        "",
    ]
