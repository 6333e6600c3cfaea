"""Provenance: what makes a record stale is code, and only the code that its row runs through."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sidbench import provenance, registry
from sidbench.provenance import code_fingerprint, named_by_content, without_folders
from sidbench.task import code_of
from tests.conftest import PluginFolder

SOURCE = '''
    """A module."""
    from sidbench.tokenizer import Tokenizer

    class Mine(Tokenizer):
        """Mine."""
        name = "mine"

        def fit(self, x):
            return self

        def encode(self, x):
            """Codes."""
            return x[:, :3]
'''


def mark(folder: PluginFolder, text: str) -> str:
    folder.write("mine", text)
    return code_fingerprint(["sidbench.plugins.mine"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Mine."""', '"""Another word."""'),
        ('"""Codes."""\n            return', "return"),
        ('"""A module."""', "# a comment"),
        ("return self", "return self  # itself"),
        ("return x[:, :3]", "return x[\n                :, :3]"),
        ('name = "mine"', "name = 'mine'"),
    ],
)
def test_words_make_nothing_stale(plugin_folder: PluginFolder, old: str, new: str) -> None:
    assert old in SOURCE
    assert mark(plugin_folder, SOURCE.replace(old, new)) == mark(plugin_folder, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (":3]", ":4]"),
        ('name = "mine"', 'name = "yours"'),
        ("x[:, :3]", "x[:, :3] + 0"),
        ("def fit(self, x)", "def fit(self, x, y=0)"),
        ("return self", "return None"),
    ],
)
def test_code_does(plugin_folder: PluginFolder, old: str, new: str) -> None:
    assert old in SOURCE
    assert mark(plugin_folder, SOURCE.replace(old, new)) != mark(plugin_folder, SOURCE)


def test_another_plugins_code_makes_nothing_stale(plugin_folder: PluginFolder) -> None:
    plugin_folder.write("mine", SOURCE)
    others = [registry.find("tokenizer", "random"), registry.find("reference", "popularity")]
    before = [code_of(cls) for cls in others]
    plugin_folder.write("mine", SOURCE.replace(":3]", ":4]"))
    assert [code_of(cls) for cls in others] == before


def test_what_a_plugin_imports_makes_it_stale_and_nobody_else(
    plugin_folder: PluginFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, other = registry.find("tokenizer", "rq-kmeans"), registry.find("tokenizer", "random")
    before = code_of(user), code_of(other)
    original = provenance._source_hash
    shared = "sidbench.kit.kmeans"  # reached through kit.engines, at depth two
    assert shared in provenance._closure((user.__module__,))
    monkeypatch.setattr(
        provenance, "_source_hash", lambda name: "changed" if name == shared else original(name)
    )
    assert code_of(user) != before[0]
    assert code_of(other) == before[1]


def test_the_path_of_all_rows_makes_all_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [registry.find("tokenizer", "random"), registry.find("reference", "popularity")]
    before = [code_of(cls) for cls in classes]
    original = provenance._source_hash
    for shared in ("sidbench.bench", "sidbench.metrics.ranks", "sidbench.decoder.search"):
        monkeypatch.setattr(
            provenance, "_source_hash", lambda name, s=shared: "changed" if name == s else original(name)
        )
        assert all(code_of(cls) != b for cls, b in zip(classes, before, strict=True))


def test_the_command_line_and_the_boards_make_nothing_stale() -> None:
    closure = provenance._closure(("sidbench.bench",))
    above = {
        m for m in closure if m.split(".")[1] in ("cli", "commands", "report", "plan", "registry", "testing")
    }
    assert not above


def test_relative_imports_of_a_package_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toypkg"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import x\n")
    (package / "inner.py").write_text("from . import deep\nx = 1\n")
    (package / "deep.py").write_text("y = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert provenance._closure(("toypkg",)) == {"toypkg", "toypkg.inner", "toypkg.deep"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("No space left: '/home/me/data/x.npy'", "No space left: 'x.npy'"),
        ("/a/b.py, line 3", "b.py, line 3"),
        ("~/data/set gone", "set gone"),
        ('in "C:\\Users\\me\\x.npy"', 'in "x.npy"'),
        ("see https://a.b/c/d.html", "see https://a.b/c/d.html"),
        ("results/records/x.json", "results/records/x.json"),
        ("3 / 4 and and/or", "3 / 4 and and/or"),
        ("--results=/a/b/c", "--results=c"),
        ("gone: '/home/me/my data/x y.npy'", "gone: 'x y.npy'"),
        ("'/a/b' and '/c d/e'", "'b' and 'e'"),
        ("see file:///home/me/x.npy", "see x.npy"),
        ("C:\\Users\\John Smith\\x.npy is torn", "x.npy is torn"),
        ("at D:/data/me/x.npy", "at x.npy"),
        ("\\\\server\\share\\x.npy", "x.npy"),
        ("expected 3/4 of a:b", "expected 3/4 of a:b"),
    ],
)
def test_records_hold_no_folder_of_a_machine(text: str, kept: str) -> None:
    assert without_folders(text) == kept


def test_a_file_is_named_by_what_it_holds(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "in").mkdir(parents=True)
        (tmp_path / place / "codes.npy").write_bytes(b"1")
        (tmp_path / place / "in" / "x").write_bytes(b"2")
    a, b = tmp_path / "a", tmp_path / "b"
    assert named_by_content(a / "codes.npy") == named_by_content(b / "codes.npy")
    assert named_by_content(a / "codes.npy").startswith("codes.npy#")
    assert named_by_content(a).partition("#")[2] == named_by_content(b).partition("#")[2]
    (b / "in" / "x").write_bytes(b"3")
    assert named_by_content(a).partition("#")[2] != named_by_content(b).partition("#")[2]


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1), ("odd", 64)]
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(provenance, "CPU_QUOTA", quota)
    monkeypatch.setattr(sys, "platform", "other")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert provenance.available_cores() == cores


def test_the_machine_is_told_by_what_decides_its_times() -> None:
    machine = provenance.hardware("cpu", 3)
    assert (machine["threads"], machine["device"], machine["gpu"]) == (3, "cpu", None)
    assert machine["cores"] >= 1
    assert {"sidbench", "python", "torch", "numpy"} <= provenance.versions().keys()


def test_folders_that_are_known_go_with_their_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, data, results = (tmp_path / name for name in ("John Smith", "my data", "the results"))
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("SIDBENCH_DATA", str(data))
    said = f"{home}/x.npy and {data}/shop/y.npy, {results}/z.npy; {home} is full"
    assert without_folders(said, results) == "x.npy and y.npy, z.npy; John Smith is full"
