"""sidbench export, import and inspect of files; real files where they are at hand; names of other systems."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sidbench import registry
from sidbench.bench import run_one
from sidbench.decoder import Decoder
from sidbench.errors import UsageError
from sidbench.format import Export, How
from sidbench.formats import manifest, reading
from sidbench.origins import ORIGINS
from sidbench.plugin import configure, parameter_types
from sidbench.protocol import split
from sidbench.record import Store
from sidbench.resolve.suffix import Suffix
from sidbench.sids import SIDs
from sidbench.task import Bench, Task
from tests.conftest import Said

Cli = Callable[..., "Said"]
PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
FOLDERS = [Path(p) for p in os.environ.get("SIDBENCH_DATA", "").split(os.pathsep) if p]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick row on the tiny world, with a suffix; no board is drawn."""
    root = tmp_path_factory.mktemp("runs") / "results"
    decoder = Decoder(width=16, head_width=8, feed_forward=32, steps=2, eval_every=2, warmup=1, beam=5)
    tokenizer = registry.find("tokenizer", "rq-kmeans")(codebook_size=8)
    world = registry.make_dataset("synthetic:tiny")
    corpus = world.load().permuted()
    bench = Bench(corpus, split(corpus, "leave-one-out", {}), (1, 5), "keep", "cpu", 1, dataset=world)
    record = run_one(Task("rq-kmeans", tokenizer, 0, Suffix(), decoder), bench, Store(root), {})
    assert record.error is None
    return root


def artifact(results: Path) -> SIDs:
    (folder,) = (p.parent for p in results.rglob("sids.parquet"))
    return SIDs.load(folder)


WRITTEN = sorted(n for n, c in reading.known().items() if c.supports("write"))
ALONE = [n for n in WRITTEN if reading.known()[n].supports("read") and not reading.known()[n].needs_corpus]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_goes_out_in_every_format_and_comes_in_again(
    results: Path, sidbench_cli: Cli, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "x"
    cls = reading.known()[name]
    out = out if cls.file.endswith("/") else out.with_name(f"x.{cls.file.replace('NAME.', '')}")
    said = sidbench_cli("export", "rq-kmeans", "--to", name, "--out", out, "--results", results, "--json")
    assert said.code == 0, said.err
    stated = json.loads(said.out)
    held = artifact(results)
    assert stated["source"]["run"] == held.manifest["run"]
    assert all(Path(p).exists() for p in stated["paths"])
    if not cls.supports("read"):
        return
    assert (stated["suffix"], stated["sizes"]) == ({"base": 0, "column": 3}, list(held.sizes))
    said = sidbench_cli("import", out, "--out", tmp_path / "in", "--json")
    assert said.code == 0, said.err
    back = SIDs.load(tmp_path / "in")
    order = np.argsort(held.item_ids.astype(int) + (name == "liger" and "ids" not in stated))
    again = np.argsort(back.item_ids.astype(int))
    np.testing.assert_array_equal(back.codes[again], held.codes[order])
    assert back.sizes == held.sizes
    assert back.manifest["tokenizer_levels"] == 3
    said = sidbench_cli("inspect", out, "--json")
    assert json.loads(said.out)["sid_sizes"] == list(held.sizes)
    assert json.loads(said.out)["sizes"] == list(held.sizes[:3])


def test_conversion_names_what_it_must_know(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    made = ("export", "rq-kmeans", "--to", "minionerec", "--base", 1, "--results", results)
    assert sidbench_cli(*made, "--out", tmp_path / "x.json").code == 0
    manifest.beside(tmp_path / "x.json").unlink()
    line = ("export", tmp_path / "x.json", "--to", "lc-rec", "--out", tmp_path / "y.json")
    said = sidbench_cli(*line)
    assert said.code == 1
    assert "has no code 0" in said.err
    assert "--from-base 1 if its codes are 1 to K" in said.err
    assert sidbench_cli(*line, "--from-base", 1).code == 0
    held, found = artifact(results), reading.read(tmp_path / "y.json", "test")
    assert found.codes.tolist() == held.codes.tolist()
    said = sidbench_cli(
        "export",
        "rq-kmeans",
        "--to",
        "json",
        "--suffix",
        "drop",
        "--results",
        results,
        "--out",
        tmp_path / "z.json",
    )
    assert "3 codes each from 0\n" in said.out
    assert reading.read(tmp_path / "z.json", "test").codes.shape[1] == 3


def test_what_fit_and_encode_left_goes_out_too(sidbench_cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32))
    fitted, line = tmp_path / "fitted", ("--set", "rq-kmeans.codebook_size=8", "--threads", 1)
    assert sidbench_cli("fit", "rq-kmeans", tmp_path / "x.npy", "--out", fitted, *line).code == 0
    for place, more in (("one.parquet", ()), ("whole", ()), ("shards", ("--shard-rows", 40))):
        made = ("encode", fitted, tmp_path / "x.npy", "--out", tmp_path / place, *more)
        assert sidbench_cli(*made, "--threads", 1).code == 0
        out = tmp_path / f"{place}.dict.json"
        said = sidbench_cli("export", tmp_path / place, "--to", "taac", "--out", out)
        assert said.code == 0, said.err
    held = [(tmp_path / f"{p}.dict.json").read_text() for p in ("one.parquet", "whole", "shards")]
    assert held[0] == held[1] == held[2]
    assert sidbench_cli("export", fitted, "--to", "codebooks-npz", "--out", tmp_path / "c.npz").code == 0
    with np.load(tmp_path / "c.npz") as books:
        assert [books[k].shape for k in books] == [(8, 4)] * 3
    assert "holds no SIDs" in sidbench_cli("export", fitted, "--to", "taac", "--out", tmp_path / "y").err


def test_wrong_usage_says_what_is_right(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    def fails(*words: object) -> str:
        said = sidbench_cli(*words)
        assert said.code == 2, said
        return said.err

    out = ("--out", tmp_path / "x.json", "--results", results)
    assert "did you mean 'minionerec'" in fails("export", "rq-kmeans", "--to", "minionrec", *out)
    assert "taac counts from 0 always" in fails("export", "rq-kmeans", "--to", "taac", "--base", 1, *out)
    assert "has no parameter 'colour'" in fails(
        "export", "rq-kmeans", "--to", "json", "--set", "colour=1", *out
    )
    assert "writes no sequences" in fails(
        "export", "rq-kmeans", "--to", "json", "--dataset", "synthetic", *out
    )
    assert "npz is written from 0 alone" in fails("export", "rq-kmeans", "--to", "npz", *out, "--base", 1)
    assert "json is written from 0 or from 1" in fails(
        "export", "rq-kmeans", "--to", "json", *out, "--base", 2
    )
    assert "there is no run 'nobody'" in fails("export", "nobody", "--to", "json", *out)
    assert "there is no file" in fails("export", tmp_path / "no.json", "--to", "json", *out)
    assert "a run knows its own" in fails("export", "rq-kmeans", "--to", "json", "--from-base", 0, *out)
    (tmp_path / "a.json").write_text('{"0": [0, 1]}')
    there = tmp_path / "there"
    assert sidbench_cli("import", tmp_path / "a.json", "--out", there).code == 0
    assert "is there already" in fails("import", tmp_path / "a.json", "--out", there)
    assert sidbench_cli("import", tmp_path / "a.json", "--out", there, "--redo", "--sizes", "4,4").code == 0
    assert SIDs.load(there).sizes == (4, 4)
    assert "need at least 1,2" in fails(
        "import", tmp_path / "a.json", "--out", there, "--redo", "--sizes", "1,1"
    )
    (tmp_path / "a.xyz").write_text("1")
    assert "is of no known form by its ending; --from NAME" in fails(
        "import", tmp_path / "a.xyz", "--out", there / "b"
    )


def test_what_is_there_already_is_told_and_stays(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    def fails(to: str, out: Path) -> str:
        before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
        said = sidbench_cli("export", "rq-kmeans", "--to", to, "--out", out, "--results", results)
        assert said.code == 2, said
        assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == before
        return " ".join(said.err.split())

    own = tmp_path / "items.npy"
    own.write_bytes(b"somebody's")
    assert "items.npy is there, and no manifest beside it" in fails("npy", own)
    assert "move it away, or write over it with --redo" in fails("npy", own)
    assert "is a folder, and npy is a file; name a file in it" in fails("npy", tmp_path)
    assert "is a file, and minionerec-files is a folder of files" in fails("minionerec-files", own)
    assert "items.npy says another kind of file than taac is" in fails("taac", own)
    assert "items.npy is a file, so that nothing can be written below it" in fails("npy", own / "x.npy")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "name another folder" in fails("minionerec-files", tmp_path / "full")
    line = ("export", "rq-kmeans", "--to", "npy", "--out", own, "--results", results)
    assert sidbench_cli(*line, "--redo").code == 0
    assert sidbench_cli(*line).code == 0  # an export of ours may be made again
    own.write_bytes(own.read_bytes() + b"0")
    assert "is there, and no manifest" in fails("npy", own)


def test_a_folder_holds_the_files_of_the_last_export_alone(
    results: Path, sidbench_cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = ("export", "rq-kmeans", "--to", "minionerec-files", "--out", out, "--results", results)
    for name in ("Sports", "Books"):
        assert sidbench_cli(*line, "--set", f"dataset={name}").code == 0
        assert all(name in p.name for p in out.rglob("*") if p.is_file())
    (out / "index" / "mine.txt").write_text("stays")
    assert sidbench_cli(*line).code == 0
    assert (out / "index" / "mine.txt").read_text() == "stays"
    index = next((out / "index").glob("*.index.json"))
    index.write_text(index.read_text().replace("<a_0>", "<a_1>", 1))
    said = sidbench_cli("import", out, "--out", tmp_path / "in")
    assert "is not the file that out.manifest.json describes" in " ".join(said.err.split())
    changed = index.read_bytes()
    said = sidbench_cli(*line)
    assert said.code == 2
    assert "not as an export left it" in " ".join(said.err.split())
    assert index.read_bytes() == changed
    assert sidbench_cli(*line, "--redo").code == 0
    assert index.read_bytes() != changed


def test_ids_of_somebody_beside_a_matrix_stay(tmp_path: Path) -> None:
    ids = np.array(["b", "a"])
    made = Export(SIDs(np.array([[0, 1], [1, 0]], dtype=np.int32), (2, 2), ids), 2)
    own = tmp_path / "x.npy.ids.parquet"
    own.write_bytes(b"somebody's")
    form = reading.find("npy", "write")()
    with pytest.raises(UsageError, match="not as an export left it"):
        reading.write(form, made, tmp_path / "x.npy")
    assert [p.name for p in tmp_path.iterdir()] == [own.name]
    assert own.read_bytes() == b"somebody's"
    for redo in (True, False):
        assert len(reading.write(form, made, tmp_path / "x.npy", redo=redo)) == 3


def test_an_import_replaces_imports_alone(results: Path, sidbench_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"0": [0, 1]}')
    (run,) = (p.parent for p in results.rglob("sids.parquet"))
    before = {p: p.read_bytes() for p in run.iterdir()}
    said = sidbench_cli("import", tmp_path / "a.json", "--out", run, "--redo")
    assert (said.code, "holds what no import left" in " ".join(said.err.split())) == (2, True)
    assert {p: p.read_bytes() for p in run.iterdir()} == before
    said = sidbench_cli("import", tmp_path / "a.json", "--out", tmp_path / "a.json", "--redo")
    assert (said.code, "is a file; --out names a folder" in " ".join(said.err.split())) == (2, True)


REAL = {
    "lc-rec": "formats/lc-rec/Beauty.index.json",
    "letter": "formats/lc-rec/Beauty.index.json",
    "minionerec": "formats/minionerec/index/Office_Products.index.json",
    "tiger": "formats/tiger/index_rqkmeans.json",
    "npy": "amazon-beauty-2014/extras/published_sids/letter_published.npy",
}


def real(path: str) -> Path:
    for folder in FOLDERS:
        if (folder / path).exists():
            return folder / path
    pytest.skip(f"no {path} in a folder of SIDBENCH_DATA (files as other systems publish them)")


@pytest.mark.parametrize("name", REAL)
def test_published_files_come_in_and_go_out_byte_by_byte(
    tmp_path: Path, name: str, sidbench_cli: Cli
) -> None:
    path = real(REAL[name])
    assert sidbench_cli("import", path, "--from", name, "--out", tmp_path / "in").code == 0
    said = sidbench_cli("export", tmp_path / "in", "--to", name, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    if name == "npy":  # whole numbers of another width
        np.testing.assert_array_equal(np.load(tmp_path / "out"), np.load(path))
    else:
        assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ALONE)
def test_published_sids_through_every_format(tmp_path: Path, name: str) -> None:
    from sidbench.commands.export import of_file

    sent = of_file(real(REAL["lc-rec"]), How("lc-rec"))
    cls = reading.known()[name]
    path = tmp_path / f"x.{cls.file}"
    reading.write(cls(), sent, path)
    table = reading.read(path, "test")
    np.testing.assert_array_equal(table.codes, sent.sids.codes)
    stated = manifest.beside(path)
    stated.unlink()
    alone = reading.read(path, "test", How(name))
    np.testing.assert_array_equal(alone.codes, sent.sids.codes)


def test_names_of_other_systems_lead_to_names_that_there_are() -> None:
    known = {p for cls in registry.tokenizers().values() for p in parameter_types(cls)}
    for o in ORIGINS:
        assert set(o.ours) <= known, o
    assert len({(o.system, o.theirs) for o in ORIGINS}) == len(ORIGINS)


@pytest.mark.parametrize(
    ("method", "key", "said"),
    [
        (
            "rq-vae",
            "num_emb_list",
            "in MiniOneRec that is a list of codes a level, here codebook_size and levels",
        ),
        ("rq-vae", "loss_beta", "in the TAAC pipeline that is weight of the commitment, here beta"),
        ("rq-vae", "vae_hidden_dims", "in RQ-VAE-Recommender that is layers of the encoder, here hidden"),
        ("rq-kmeans", "num_codebooks", "here levels"),
        ("rq-kmeans", "sk_epsilons", "here sinkhorn, which rq-kmeans does not have"),
        ("rq-kmeans", "kmeans_iters", "here iters"),
        ("lsh", "vae_input_dim", "here no parameter (taken from the data)"),
        ("rq-vae", "epoch", "did you mean 'epochs'?"),
        ("rq-vae", "num_emb_list", "docs/formats.md has all such names."),
    ],
)
def test_a_wrong_parameter_is_answered_with_the_right_one(method: str, key: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"has no parameter '{key}'.*{re.escape(said)}"):
        configure(registry.find("tokenizer", method), {key: 3})


def test_all_tokenizers_are_told_too(sidbench_cli: Cli) -> None:
    said = sidbench_cli("run", "--dry-run", "--set", "all.num_codebooks=4")
    assert (said.code, "here levels" in said.err) == (2, True)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page."""
    part = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_has_the_table_of_names() -> None:
    def code(names: tuple[str, ...]) -> str:
        return ", ".join(f"`{n}`" for n in names) or "–"

    wanted = [[o.system, f"`{o.theirs}`", o.meaning, code(o.ours), o.note] for o in ORIGINS]
    assert rows("Names of parameters") == wanted


def test_the_page_names_every_format_with_its_contract() -> None:
    found = {r[0].strip("`"): r for r in rows("The formats")}
    known = {n: c for n, c in registry.plugins("format").items() if registry.scan().origins[c] == "sidbench"}
    assert found.keys() == known.keys()
    for name, cls in known.items():
        assert f"`{cls.file}`" in found[name][1], name
        ways = [w for w, able in (("in", "read"), ("out", "write")) if cls.supports(able)]
        assert found[name][2] == ", ".join(ways), name
        if cls.supports("read"):
            assert found[name][3] == " or ".join(map(str, cls.bases)), name
