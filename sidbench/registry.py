"""Finds plugins: the wheel's, the checkout's, SIDBENCH_PLUGIN_PATH's and installed packages'."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from sidbench.dataset import Corpus, Dataset
from sidbench.errors import DataError, SidbenchError, UsageError, unknown
from sidbench.folder import Folder, find_folder
from sidbench.format import Format
from sidbench.logger import Logger
from sidbench.plugin import Plugin, configure, parameter_types, required
from sidbench.reference import Reference
from sidbench.resolver import Resolver
from sidbench.tokenizer import Tokenizer, read_about

P = TypeVar("P", bound=Plugin)

#: Packages whose modules are plugins; the first two are search paths over several folders.
PACKAGES = (
    "sidbench.plugins",
    "sidbench.datasets",
    "sidbench.resolve",
    "sidbench.references",
    "sidbench.loggers",
    "sidbench.formats",
)
ENTRY_POINTS = "sidbench.plugins"
KINDS: dict[str, type[Plugin]] = {
    c.kind: c for c in (Tokenizer, Dataset, Resolver, Reference, Logger, Format)
}


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used, and why: listed, never skipped in silence."""

    name: str
    origin: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Registry:
    """What was found: classes by kind and name, where each came from, and what is broken."""

    found: dict[str, dict[str, type[Plugin]]] = field(default_factory=lambda: {k: {} for k in KINDS})
    origins: dict[type[Plugin], str] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    def add(self, module: ModuleType, origin: str) -> None:
        """Take in every plugin class that a module defines."""
        own = [
            c
            for c in vars(module).values()
            if inspect.isclass(c) and issubclass(c, Plugin) and _defines(module, c)
        ]
        for cls in own:
            shared = any(c is not cls and issubclass(c, cls) for c in own)
            base = shared or inspect.isabstract(cls) or cls.__name__[0] == "_"
            if cls.kind not in KINDS or (not cls.name and base):
                continue  # a base that others of the file share
            missing = sorted(getattr(cls, "__abstractmethods__", ()))
            known = self.found[cls.kind]
            if not cls.name:
                self.broken.append(Broken(cls.__name__, origin, "it has no name (write: name = '...')"))
            elif missing:
                self.broken.append(
                    Broken(cls.name, origin, f"{cls.__name__} does not write {', '.join(missing)}")
                )
            elif cls.name in known and known[cls.name] is not cls:
                other = self.origins[known[cls.name]]
                self.broken.append(Broken(cls.name, origin, f"the name is taken by {other}"))
            elif odd := _odd_parameters(cls):
                self.broken.append(Broken(cls.name, origin, odd))
            else:
                known[cls.name] = cls
                self.origins[cls] = origin


def _odd_parameters(cls: type[Plugin]) -> str:
    """Why a class's parameters cannot be used; empty where they can."""
    try:
        parameter_types(cls)
    except Exception as e:  # annotations are a stranger's code too
        return f"the types of its parameters cannot be read: {type(e).__name__}: {e}"
    return ""


def _defines(module: ModuleType, cls: type) -> bool:
    """Whether a class is the module's own; an installed package may define it in another of its modules."""
    if module.__name__.startswith("sidbench."):
        return cls.__module__ == module.__name__
    return cls.__module__.partition(".")[0] == module.__name__.partition(".")[0]


@lru_cache(maxsize=1)
def scan() -> Registry:
    """Import every plugin once."""
    registry = Registry()
    for package in PACKAGES:
        for name, origin in _modules(importlib.import_module(package), registry):
            _take(registry, name, origin)
    registry.add(importlib.import_module(Folder.__module__), "sidbench")
    for entry in entry_points(group=ENTRY_POINTS):
        dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        _take(registry, entry.value.partition(":")[0], dist, label=entry.name)
    return registry


def _modules(package: ModuleType, registry: Registry) -> Iterator[tuple[str, str]]:
    """Modules of a search path in name order; a file hidden by an earlier folder's is reported."""
    seen: dict[str, str] = {}
    # A folder named twice (SIDBENCH_PLUGIN_PATH=plugins in a checkout) is one folder.
    folders: dict[Path, str] = {}
    for p in package.__path__:
        folders.setdefault(Path(p).resolve(), p)
    for folder in folders.values():
        if not Path(folder).is_dir():
            registry.broken.append(Broken(folder, "SIDBENCH_PLUGIN_PATH", "there is no such folder"))
            continue
        for info in sorted(pkgutil.iter_modules([folder]), key=lambda m: m.name):
            origin = "sidbench" if folder == package.__path__[0] or _own(folder) else folder
            if info.name in seen:
                reason = f"a file of the same name in {seen[info.name]} comes first; rename one"
                registry.broken.append(Broken(info.name, origin, reason))
                continue
            seen[info.name] = folder
            yield f"{package.__name__}.{info.name}", origin


def _own(folder: str) -> bool:
    """Whether a folder is this checkout's plugins/ or datasets/."""
    root = Path(__file__).resolve().parent.parent
    return Path(folder) in (root / "plugins", root / "datasets")


def _take(registry: Registry, module: str, origin: str, label: str = "") -> None:
    try:
        registry.add(importlib.import_module(module), origin)
    except (Exception, SystemExit) as e:  # whatever a stranger's file raises must not break the others
        reason = f"it does not import: {type(e).__name__}: {e}"
        registry.broken.append(
            Broken(label or module.rpartition(".")[2], origin, reason, traceback.format_exc())
        )


def plugins(kind: str) -> dict[str, type[Any]]:
    """All plugins of a kind by name, in order of name."""
    return dict(sorted(scan().found[kind].items()))


def tokenizers() -> dict[str, type[Tokenizer]]:
    return cast(dict[str, type[Tokenizer]], plugins("tokenizer"))


def resolvers() -> dict[str, type[Resolver]]:
    return cast(dict[str, type[Resolver]], plugins("resolver"))


def references() -> dict[str, type[Reference]]:
    return cast(dict[str, type[Reference]], plugins("reference"))


def loggers() -> dict[str, type[Logger]]:
    return cast(dict[str, type[Logger]], plugins("logger"))


def datasets() -> dict[str, type[Dataset]]:
    return cast(dict[str, type[Dataset]], plugins("dataset"))


def find(kind: str, name: str) -> type[Any]:
    """A plugin by name; an unknown one names the nearest, a broken one says why."""
    known = plugins(kind)
    if name in known:
        return known[name]
    for b in scan().broken:
        if b.name in (name, name.replace("-", "_")):
            raise UsageError(f"{kind} {name!r} from {b.origin} cannot be used: {b.reason}")
    raise unknown(kind, name, known)


def make_dataset(spec: str, params: dict[str, Any] | None = None) -> Dataset:
    """`synthetic`, `synthetic:tiny`, a folder's path, or the name of a folder in SIDBENCH_DATA."""
    params = dict(params or {})
    name, colon, value = spec.partition(":")
    known = datasets()
    if name == Folder.name and colon:
        spec = value
    if name in known and name != Folder.name:
        cls = known[name]
        if colon:
            if not cls.variant:
                raise UsageError(f"dataset {name!r} has no variants; give it without {colon}{value}")
            params[cls.variant] = value
        if cls.variant in required(cls) and cls.variant not in params:
            raise UsageError(f"dataset {name!r} needs its {cls.variant}: give {name}:{cls.variant.upper()}")
        return configure(cls, params)
    folder = find_folder(spec)
    if folder is None and (os.sep in spec or spec.startswith((".", "~"))):
        raise UsageError(
            f"there is no folder {spec}; give one with items.* and sequences.*, or a dataset's name"
        )
    if folder is None:
        known_names = [n for n in known if n != Folder.name]
        raise UsageError(
            f"{unknown('dataset', spec, known_names)} Or give the path of a folder "
            "(items.npy and sequences.parquet), or the name of one in a folder of SIDBENCH_DATA."
        )
    return configure(Folder, {"path": str(folder), **params})


def load_dataset(spec: str, params: dict[str, Any] | None = None) -> Corpus:
    """Load a dataset with its items permuted, so that nothing can profit from their order."""
    dataset = make_dataset(spec, params)
    try:
        return dataset.load().permuted()
    except SidbenchError:
        raise
    except MemoryError:
        raise DataError(f"dataset {spec!r} does not fit in memory") from None
    except Exception as e:  # a stranger's code
        last = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise DataError(f"dataset {spec!r} does not load: {type(e).__name__}: {e} ({where})") from e


def load_tokenizer(folder: Path | str, device: str = "auto") -> Tokenizer:
    """A fitted tokenizer from disk, its class found by name, to run on `device` wherever it was fitted."""
    cls = find("tokenizer", str(read_about(Path(folder))["name"]))
    return cast(Tokenizer, cls.load(folder, device))
