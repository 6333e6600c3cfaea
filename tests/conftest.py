"""Fixtures that several tests share: a plugin folder of one's own, and the command line in this process."""

from __future__ import annotations

import importlib
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import sidbench.plugins
from sidbench import provenance, registry
from sidbench.cli import main
from tests.tiny import TINY

# Where tests run in the background of a script Ctrl-C may be ignored, by children too: some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def forget() -> None:
    """What was read of plugins and of their source is read anew."""
    importlib.invalidate_caches()
    registry.scan.cache_clear()
    for cached in (provenance._tree, provenance._imports, provenance._is_module, provenance._source_hash):
        cached.cache_clear()


@dataclass(frozen=True)
class PluginFolder:
    """A folder as SIDBENCH_PLUGIN_PATH names one, without a new process."""

    path: Path

    def write(self, name: str, text: str) -> Path:
        file = self.path / f"{name}.py"
        file.write_text(textwrap.dedent(text))
        sys.modules.pop(f"sidbench.plugins.{name}", None)
        vars(sidbench.plugins).pop(name, None)
        forget()
        return file


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginFolder]:
    folder = tmp_path / "my plugins"
    folder.mkdir()
    monkeypatch.setattr(sidbench.plugins, "__path__", [*sidbench.plugins.__path__, str(folder)])
    before = set(sys.modules)
    forget()
    yield PluginFolder(folder)
    for name in set(sys.modules) - before:
        if name.startswith("sidbench.plugins."):
            del sys.modules[name]
            vars(sidbench.plugins).pop(name.rpartition(".")[2], None)
    monkeypatch.undo()
    forget()


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def sidbench_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command line in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        assert end.value.code is None or isinstance(end.value.code, int)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return Said(end.value.code or 0, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def threads() -> Iterator[None]:
    """For tests that run: what follows them has its threads back."""
    with kept_threads():
        yield


@contextmanager
def kept_threads() -> Iterator[None]:
    """A run limits the threads of its process: afterwards they are as many as before."""
    import torch

    from sidbench.plan import limit_threads

    before = torch.get_num_threads()
    yield
    limit_threads(before)


@pytest.fixture
def quick_epochs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something happens after every epoch; and no threads that wait for each other at small operations."""
    import torch

    from sidbench.kit import loop

    monkeypatch.setattr(loop, "PAUSE", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of three rows, which others copy."""
    folder = tmp_path_factory.mktemp("first") / "results"
    with kept_threads(), pytest.raises(SystemExit) as end:
        main(["run", *TINY, "--methods", "random,rq-kmeans,popularity", "--results", str(folder)])
    assert end.value.code == 0
    return folder


@pytest.fixture
def results(first: Path, tmp_path: Path) -> Path:
    shutil.copytree(first, tmp_path / "results")
    return tmp_path / "results"
