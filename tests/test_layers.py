"""Imports point one way: what lies below knows nothing of what lies above, plugins nothing of each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidbench

PACKAGE = Path(sidbench.__file__).parent
ROOT = PACKAGE.parent
#: From below to above; a module imports its own layer and those below it.
LAYERS = (
    ("errors", "origins", "parts", "progress", "clock", "checkpoints", "sidbench"),
    ("plugin", "budget", "sids", "provenance"),
    (
        "dataset",
        "delimited",
        "tokenizer",
        "kit",
        "engines",
        "download",
        "prepare",
        "rawfiles",
        "vectors",
        "vectors_parquet",
        "vectors_shards",
    ),
    (
        "embed",
        "files",
        "folder",
        "format",
        "formats",
        "protocol",
        "public",
        "ranking",
        "resolver",
        "vectors_more",
    ),
    (
        "reference",
        "record",
        "metrics",
        "decoder",
        "resolve",
        "references",
        "plugins",
        "peers",
        "datasets",
    ),
    ("logger", "loggers"),
    ("registry", "testing"),
    ("task", "catalogue", "report"),
    ("bench",),
    ("settings", "plan", "matrix", "estimate", "display", "callbacks"),
    ("commands", "handle", "sidsets"),
    ("cli", "cli_files"),
    ("__main__",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
HEAVY = ("torch", "pandas", "numpy", "sklearn", "pyarrow", "scipy", "faiss")
#: What a plugin may not know: everything that runs it.
ABOVE_PLUGINS = {
    "registry",
    "testing",
    "bench",
    "task",
    "report",
    "settings",
    "plan",
    "matrix",
    "engines",
    "estimate",
    "display",
    "callbacks",
    "commands",
    "cli",
}


def own_modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "templates" not in p.parts)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in its imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            base = node.module or ""
            # `from sidbench import clock` names a module, `from sidbench.errors import x` does not.
            yield from (f"{base}.{a.name}" for a in node.names) if base == "sidbench" else [base]


def layer_of(module: str) -> str:
    """`sidbench.kit.kmeans` is of `kit`; the package's own names (`__version__`) are of `sidbench`."""
    part = module.split(".")[1] if "." in module else "sidbench"
    return "sidbench" if part == "__version__" else part


def sidbench_parts(path: Path) -> set[str]:
    return {layer_of(m) for m in imported(path) if m.partition(".")[0] == "sidbench"}


def test_every_module_has_a_layer() -> None:
    parts = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in own_modules()}
    assert parts - {"__init__"} <= HEIGHT.keys()


@pytest.mark.parametrize("path", own_modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    height = HEIGHT["sidbench" if own == "__init__" else own]
    too_high = {part for part in sidbench_parts(path) if HEIGHT[part] > height}
    assert not too_high, f"{own} imports {', '.join(sorted(too_high))} from above"


def test_boards_see_records_and_metrics_alone() -> None:
    for path in (PACKAGE / "report").glob("*.py"):
        assert sidbench_parts(path) <= {"report", "record", "metrics", "errors"}, path


def plugin_files() -> list[Path]:
    return sorted([*(ROOT / "plugins").glob("*.py"), *(ROOT / "datasets").glob("*.py")])


def test_there_are_plugins_to_look_at() -> None:
    assert {"rq_kmeans.py", "random_codes.py", "synthetic.py"} <= {p.name for p in plugin_files()}


@pytest.mark.parametrize("path", plugin_files(), ids=lambda p: p.stem)
def test_plugins_know_neither_each_other_nor_what_runs_them(path: Path) -> None:
    modules = set(imported(path))
    others = {p.stem for p in plugin_files()}
    assert not {m for m in modules if m.startswith(("sidbench.plugins", "sidbench.datasets"))}
    assert not {m.partition(".")[0] for m in modules} & (others | {"plugins", "datasets"})
    assert not sidbench_parts(path) & ABOVE_PLUGINS


def test_plugin_folders_are_no_packages() -> None:
    # A datasets/__init__.py would hide the datasets package of others from whoever stands in the checkout.
    assert not (ROOT / "plugins" / "__init__.py").exists()
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, sidbench.cli\n"
        "try: sidbench.cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.stderr.write(','.join(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "--dry-run" in done.stdout
