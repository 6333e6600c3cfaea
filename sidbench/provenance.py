"""Where a number came from: the code that made it, the machine, the versions."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import platform
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sidbench import __version__
from sidbench.errors import DataError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
#: How an absolute path begins (on Unix or Windows), which an address such as https://a/b does not.
_START = r"(?:file:/*(?=/)|(?<![\w:/.]))~?/|(?:file:/+|\b(?<!:))[A-Za-z]:[\\/]|(?<![\w\\:])\\\\"
#: The folders of a path; between quotes they may hold spaces, and on Windows anywhere.
_QUOTED = re.compile(rf"(?<=(['\"]))(?:{_START})(?:(?:(?!\1)[^/\\\n])+[/\\]+)*(?=(?:(?!\1)[^\n])*\1)")
_FOLDERS = re.compile(rf"(?:{_START})(?:[^/\\\s'\":]+/+|[^/\\'\":\n]+\\+)*(?=[^\s'\":/\\])")

#: Packages whose version can change a result.
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "faiss-cpu", "faiss-gpu", "k-means-constrained")


def code_fingerprint(modules: Iterable[str]) -> str:
    """A hash of these modules and of every sidbench module that they import, at any depth.

    Taken from the parsed source without docstrings, so a comment or a line break makes nothing stale.
    """
    h = hashlib.sha256()
    for name in sorted(_closure(tuple(modules))):
        h.update(name.encode() + b"\0" + _source_hash(name).encode())
    return h.hexdigest()[:16]


def code_stamp(modules: Iterable[str]) -> str:
    """A hash of sizes and times of these source files: where it is as it was, nothing need be parsed."""
    h = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        about = None if spec is None or spec.origin is None else Path(spec.origin).stat()
        h.update(repr((name, about and (about.st_size, about.st_mtime_ns))).encode())
    return h.hexdigest()[:16]


def modules_behind(modules: Iterable[str]) -> list[str]:
    """These modules and all of sidbench that they import, at any depth: what `code_fingerprint` reads."""
    return sorted(_closure(tuple(modules)))


def _closure(roots: tuple[str, ...]) -> set[str]:
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(_imports(name))
    return seen


@cache
def _tree(name: str) -> ast.Module | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_bytes())


@cache
def _imports(name: str) -> tuple[str, ...]:
    """The modules of sidbench, or of the plugin's own package, that a module names in its imports."""
    tree = _tree(name)
    if tree is None:
        return ()
    homes = {"sidbench", name.partition(".")[0]}
    out: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, node)
            out.add(base)
            out.update(f"{base}.{a.name}" for a in node.names)  # `from sidbench.kit import kmeans`
    return tuple(sorted(m for m in out if m.partition(".")[0] in homes and _is_module(m)))


def _absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    spec = importlib.util.find_spec(name)
    package = name if spec is not None and spec.submodule_search_locations else name.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


@cache
def _is_module(name: str) -> bool:
    if name == "sidbench":  # its only content is the version, which must not make records stale
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


@cache
def _source_hash(name: str) -> str:
    tree = _tree(name)
    if tree is None:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return hashlib.sha256(_spelled(tree).encode()).hexdigest()


def _spelled(node: Any) -> str:
    """A syntax tree as text, fields that are empty left out: the same under every version of Python."""
    if isinstance(node, ast.AST):
        fields = [f"{k}={_spelled(v)}" for k, v in ast.iter_fields(node) if v is not None and v != []]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_spelled, node))}]"
    return repr(node)


def versions() -> dict[str, str]:
    """What was installed."""
    out = {"sidbench": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def hardware(device: str, threads: int) -> dict[str, Any]:
    """The machine as a record's key names it: timings compare only where all of it agrees."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "threads": threads,
        "memory_gb": round(total_memory() / 2**30),
        "device": device.partition(":")[0],  # which of several equal GPUs says nothing
        "gpu": _gpu_model(device) if device.startswith("cuda") else None,
    }


def available_cores() -> int:
    """Cores this process may use, which in a container is not what the machine has."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:  # a quota of processor time, as container engines set it
        quota, period = CPU_QUOTA.read_text().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def total_memory() -> int:
    """Bytes of memory of the machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def without_folders(text: str, *roots: Path) -> str:
    """Text for a record, which is shared: of an absolute path only its last name is kept.

    `roots` are folders of this run; those that every run knows are looked for as they are, spaces and all.
    """
    text = _QUOTED.sub("", text)
    places = {str(p) for r in (*roots, *_known_roots()) for p in (r.absolute(), r.resolve())}
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 3:  # not / or C:\
            found = re.escape(place)
            text = re.sub(rf"(?<![\w.~-])(?:file://)?{found}[/\\](?:[^/\\\s'\":]+[/\\])*", "", text)
            text = re.sub(rf"(?<![\w.~-])(?:file://)?{found}(?![\w-])", lambda m: Path(m[0]).name, text)
    return _FOLDERS.sub("", text)


def _known_roots() -> list[Path]:
    """Folders whose names say whose machine this is."""
    named = [
        folder
        for variable in ("SIDBENCH_DATA", "SIDBENCH_PLUGIN_PATH", "SIDBENCH_CACHE")
        for folder in os.environ.get(variable, "").split(os.pathsep)
        if folder
    ]
    plugins = getattr(sys.modules.get("sidbench.plugins"), "__path__", [])
    libraries = sysconfig.get_paths()["purelib"]
    found = [tempfile.gettempdir(), sys.prefix, libraries, *plugins, *named]
    for place in (Path.cwd, Path.home):
        with suppress(OSError, RuntimeError):  # removed meanwhile; a user without one
            found.append(place())
    return [Path(f).expanduser() for f in found]


def named_by_content(path: Path) -> str:
    """A file as a record's key has it: its name and a hash of what it holds, wherever it lies."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}; check the path, or the name that was meant")
    h = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        try:
            h.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
        except OSError as e:
            raise DataError(f"{file} cannot be read ({e.strerror})") from None
    return f"{path.name}#{h.hexdigest()[:12]}"


@lru_cache(maxsize=1)
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or sys.platform


def _gpu_model(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def source_file(module: str) -> str | None:
    """The file a module was read from."""
    spec = importlib.util.find_spec(module)
    return None if spec is None else spec.origin
