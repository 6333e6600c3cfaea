"""Files of SIDs in and out: the format is found, the file read and settled, or written whole."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidbench import formats
from sidbench.errors import StorageError, UsageError, unknown
from sidbench.format import Export, Format, How
from sidbench.formats import manifest
from sidbench.formats.codes import Table, settle
from sidbench.formats.tables import ids_of


def known() -> dict[str, type[Format]]:
    """Every format by name: the built-in ones, and those of plugins that were imported."""
    for module in pkgutil.iter_modules(formats.__path__):
        importlib.import_module(f"{formats.__name__}.{module.name}")
    found: dict[str, type[Format]] = {}
    todo: list[type[Format]] = [Format]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls.name:
            found.setdefault(cls.name, cls)
    return dict(sorted(found.items()))


def find(name: str, ability: str) -> type[Format]:
    """A format by name that can be read, or written."""
    able = {n: cls for n, cls in known().items() if cls.supports(ability)}
    if name not in able:
        raise unknown(f"format to {ability}", name, able)
    return able[name]


def by_ending(path: Path) -> type[Format] | None:
    """The format that a file's ending names: the longest one that fits."""
    name = path.name.lower().removesuffix(".gz")
    fits = [
        (len(end), n)
        for n, cls in known().items()
        if cls.supports("read")
        for end in cls.endings
        if name.endswith(end)
    ]
    return known()[max(fits)[1]] if fits else None


def detect(path: Path, where: str, how: How) -> type[Format]:
    """The format that a file's ending names; where none does, a person must."""
    found = by_ending(path)
    if found is None:
        told = ", ".join(f"{n} ({cls.file})" for n, cls in known().items() if cls.supports("read"))
        raise UsageError(
            f"{where} = {path.name!r} is of no known form by its ending; {how.flag('format', 'NAME')} says "
            f"which one it is: {told}"
        )
    return found


def read(path: Path, where: str, how: How | None = None) -> Table:
    """The SIDs of a file (or of a run's folder), with everything about them settled."""
    how = how or How()
    if path.is_dir() and (path / "sids.parquet").is_file():
        path = path / "sids.parquet"
    if not path.exists():
        raise UsageError(f"{where}: there is no file {path}")
    stated = manifest.read(path)
    if how.format != "auto":
        cls = find(how.format, "read")
    elif stated.get("format") in (able := known()) and able[stated["format"]].supports("read"):
        cls = able[stated["format"]]
    else:
        cls = detect(path, where, how)
    form = cls()
    found = form.read(path, how)
    beside = ids_of(path.with_name(Path(str(stated["ids"])).name)) if "ids" in stated else None
    return settle(found, how, form, stated, path.name, beside)


def write(form: Format, export: Export, path: Path) -> list[Path]:
    """Write an export and its manifest; what had these names is replaced when all is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    export = form.prepared(export)
    sids = export.sids
    table = form.by_row and export.places(form.first_id) is None
    with _whole(path) as part:
        form.write(export, part)
        stated: dict[str, Any] = {
            "format": form.name,
            "file": path.name,
            "items": len(sids),
            "base": form.first,
            "orientation": form.rows,
            "levels": sids.levels,
            "sizes": list(sids.sizes),
            "suffix": {"column": sids.levels - 1, "base": form.first} if export.has_suffix else None,
            "params": form.params(),
            "source": export.source,
            **form.states(export),
        }
        if table:
            ids = path.name + ".ids.parquet"
            pq.write_table(pa.table({"item_id": pa.array(export.names)}), part.with_name(ids))
            stated["ids"] = ids
        if part.is_file():
            stated["sha256"] = manifest.checksum(part)
        beside = {
            p.relative_to(part.parent).as_posix(): manifest.checksum(p)
            for p in sorted(part.parent.rglob("*"))
            if p.is_file() and p != part
        }
        if beside:
            stated["files"] = beside
        manifest.beside(part).write_text(manifest.text(**stated))
    return [path, *(path.parent / n for n in beside), manifest.beside(path)]


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place of the same name to write to; what is written there gets its name at the end, all at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            part = Path(folder) / path.name
            yield part
            last = manifest.beside(part)
            files = [p for p in sorted(Path(folder).rglob("*")) if p.is_file() and p != last]
            for file in [*files, last]:  # the manifest vouches for the others, so it comes last
                target = path.parent / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    except OSError as e:
        raise StorageError(
            f"{path} cannot be written ({e.strerror or e}); free space, or name another place"
        ) from None
