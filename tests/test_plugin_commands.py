"""list, check, new and doctor: what there is, whether it keeps the laws, where to begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PluginFolder, Said
from tests.tiny import TINY, ZEROS, plugin

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")


def test_a_new_tokenizer_works_as_written(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    said = sidbench_cli("new", "tokenizer", "my-idea", "--folder", plugin_folder.path)
    assert said.code == 0
    assert f"SIDBENCH_PLUGIN_PATH={plugin_folder.path}" in said.out
    text = (plugin_folder.path / "my_idea.py").read_text()
    assert "class MyIdea(Tokenizer)" in text
    assert "my-method" not in text
    plugin_folder.write("my_idea", text)
    checked = json.loads(sidbench_cli("check", "my-idea", "--json").out)
    assert [c for c in checked if not c["passed"]] == []
    assert len(checked) > 10
    ran = sidbench_cli(
        "run", *TINY, "--methods", "my-idea", "--set", "my-idea.keep=0.5", "--results", tmp_path / "r"
    )
    assert ran.code == 0
    again = sidbench_cli("new", "tokenizer", "my-idea", "--folder", plugin_folder.path)
    assert again.code == 2
    assert "there is a tokenizer 'my-idea' already" in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tokeniser", "x"), "unknown kind 'tokeniser'; did you mean 'tokenizer'"),
        (("tokenizer", "My Method"), "'My Method' is no plugin name"),
        (("tokenizer", "random"), "there is a tokenizer 'random' already"),
        (("tokenizer", "x", "--folder", "/dev/null/x"), "cannot be written"),
    ],
)
def test_new_says_what_does_not_fit(sidbench_cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    found = sidbench_cli("new", *arguments)
    assert found.code == 2
    assert said in found.err


def test_list_tells_everything_and_json_is_valid(plugin_folder: PluginFolder, sidbench_cli: Cli) -> None:
    plugin_folder.write("harmed", "import no_such_module")
    said = sidbench_cli("list")
    assert said.code == 0
    assert all(
        name in said.out for name in ("rq-kmeans", "synthetic", "suffix", "item-knn", "recall@K", "paper")
    )
    assert "✗ harmed" in said.out
    assert "no_such_module" in said.out
    every = json.loads(sidbench_cli("list", "--json").out)
    kmeans = next(m for m in every["methods"] if m["name"] == "rq-kmeans")
    assert {"iters", "levels"} <= {p["name"] for p in kmeans["parameters"]}
    assert every["broken"][0]["name"] == "harmed"
    for kind in every.keys() - {"broken"}:
        assert json.loads(sidbench_cli("list", kind, "--json").out)[kind] == every[kind]
        assert all(e["name"] in sidbench_cli("list", kind).out for e in every[kind])
    sizes = [d["summary"] for d in every["decoders"]]
    assert len(set(sizes)) == len(sizes)
    wrong = sidbench_cli("list", "method")
    assert wrong.code == 2
    assert "did you mean 'methods'" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("random", "--set", "levels=2"), 0),
        (("random", "--set", "random.levels=2", "--set", "codebook_size=[4,7]"), 0),
        (("suffix",), 0),
        (("synthetic:tiny",), 0),
    ],
)
def test_check_takes_parameters_and_variants(
    sidbench_cli: Cli, arguments: tuple[str, ...], code: int
) -> None:
    said = sidbench_cli("check", *arguments)
    assert said.code == code, said.out
    assert "checks passed" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("randm",), "unknown plugin 'randm'; did you mean 'random'"),
        (("random", "--set", "level=2"), "random has no parameter 'level'; did you mean 'levels'"),
        (("random", "--set", "rq-kmeans.levels=2"), "'rq-kmeans' is not what is checked here (random)"),
        (("synthetic:tyni",), "size = 'tyni' does not fit"),
        (("popularity",), "'popularity' is a reference"),
    ],
)
def test_check_says_what_does_not_fit(sidbench_cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    found = sidbench_cli("check", *arguments)
    assert found.code == 2
    assert said in found.err


def test_a_check_that_fails_is_told_and_exits_with_1(plugin_folder: PluginFolder, sidbench_cli: Cli) -> None:
    plugin_folder.write("floats", plugin("floats", encode=f"{ZEROS}.astype(float)"))
    said = sidbench_cli("check", "floats")
    assert said.code == 1
    assert "codes are float64" in said.out


def test_doctor_tells_what_there_is_and_what_is_wrong(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDBENCH_DATA", str(tmp_path / "[gone]"))
    (tmp_path / "file").write_text("")
    plugin_folder.write("harmed", "import no_such_module")
    told = json.loads(sidbench_cli("doctor", "--results", tmp_path / "file", "--json").out)
    assert {"versions", "device", "threads", "faiss", "folders", "plugins", "problems"} <= told.keys()
    problems = "\n".join(told["problems"])
    for part in ("plugin harmed", "[gone], which is no folder", "file cannot be written"):
        assert part in problems
    said = sidbench_cli("doctor", "--results", tmp_path / "file")
    assert said.code == 1
    assert "[gone]" in said.out
