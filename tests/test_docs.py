"""The documents say what is true: commands parse, names exist, CI runs what the README says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from sidbench import __version__, registry
from sidbench.cli import app
from sidbench.settings import parse_set, read_settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
#: Pages that are written by hand.
WRITTEN = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
PAGES = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))


def commands(text: str) -> list[list[str]]:
    """Every sidbench command of the code blocks, as its words."""
    out = []
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                words = [w for w in words if not re.fullmatch(r"[A-Z_]+=.*", w)]
                if words and Path(words[0]).name == "sidbench":
                    out.append(words[1:])
    return out


@pytest.mark.parametrize("words", commands(README + CONTRIBUTING + PAGES), ids=" ".join)
def test_commands_in_the_documents_parse(words: list[str]) -> None:
    name, *rest = words
    root = get_command(app)
    command = root.commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, rest, resilient_parsing=False)
    for text in context.params.get("set_") or []:
        parse_set(text)


def test_the_run_file_in_the_readme_is_valid(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "runs.toml").write_text(text)
    settings = read_settings(tmp_path / "runs.toml", {}, [])
    assert settings.methods == ["rq-kmeans", "rq-kmeans@long", "random"]


def test_no_place_was_kept_for_text_to_come() -> None:
    for text in (README, CONTRIBUTING):
        assert not re.search(r"^[A-Z]+(-[A-Z]+)+$|TODO|TBD", text, flags=re.MULTILINE)


@pytest.mark.parametrize("kind", ["tokenizer", "resolver", "reference", "dataset", "format"])
def test_the_readme_names_every_built_in_plugin(kind: str) -> None:
    origins = registry.scan().origins
    for name, cls in registry.plugins(kind).items():
        if origins[cls] == "sidbench":
            assert f"`{name}`" in README, f"{kind} {name} is not in the README"


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings as GitHub spells them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_benchmark_and_variable_is_named() -> None:
    for file in (ROOT / "tests" / "benchmarks").glob("bench_*.py"):
        assert file.name in CONTRIBUTING, file.name
    for file in (ROOT / "sidbench").rglob("*.py"):
        for variable in re.findall("SIDBENCH_[A-Z_]+", file.read_text(encoding="utf-8")):
            assert variable in README, f"{file.name} reads {variable}"


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    blocks = re.findall(r"```bash\n(python3 -m venv .*?)\n```", README)
    assert len(blocks) == 2
    test, first = blocks[1], blocks[0]
    assert test in script.splitlines()
    assert first.rpartition(".venv/bin/sidbench ")[2] == "run --methods all"
    assert 'sidbench" run --methods all' in script


def test_versions_agree() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
