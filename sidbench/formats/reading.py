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
from sidbench.errors import DataError, StorageError, UsageError, unknown
from sidbench.format import Export, Format, How
from sidbench.formats import manifest
from sidbench.formats.codes import Table, settle
from sidbench.formats.tables import ids_of

#: What makes a folder an artifact of ours.
OURS = ("manifest.json", "tokenizer.json")


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


def is_foreign(path: Path, how: How) -> bool:
    """Whether a person means a file of SIDs, or another system's folder: no run, and no artifact of ours."""
    if path.is_dir():
        ours = any((path / n).is_file() for n in OURS)
        return not ours and (manifest.beside(path).is_file() or how.format != "auto")
    return path.is_file() or by_ending(path) is not None


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


def check_place(form: type[Format] | Format, path: Path, *, redo: bool = False) -> None:
    """Refuse to write over what no export of ours left there, unless that is asked for."""
    folder = form.file.endswith("/")
    if (there := next(p for p in path.absolute().parents if p.exists())).is_file():
        raise UsageError(f"{there} is a file, so that nothing can be written below it; name another place")
    if path.is_dir() and not folder:
        raise UsageError(
            f"{path} is a folder, and {form.name} is a file; name a file in it: "
            f"{path / form.file.replace('NAME', 'sids')}"
        )
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, and {form.name} is a folder of files; name another place")
    kinds = {Path(cls.file).suffix for cls in known().values()} - {""}
    if path.suffix in kinds and path.suffix != Path(form.file).suffix:
        raise UsageError(
            f"{path.name} says another kind of file than {form.name} is ({form.file}); name it so, or leave "
            "the ending out"
        )
    if redo or not path.exists() or (folder and not any(path.iterdir())):
        return
    if folder:
        spoken = manifest.beside(path).is_file()
    else:
        try:
            spoken = manifest.speaks_of(path)
        except DataError:
            spoken = False
    if not spoken:
        raise UsageError(
            f"{path} is there, and no manifest beside it says that an export left it so; name another "
            f"{'folder' if folder else 'file'}, move it away, or write over it with --redo"
        )


def write(form: Format, export: Export, path: Path, *, redo: bool = False) -> list[Path]:
    """Write an export and its manifest; an earlier export of these names is replaced when all is written."""
    check_place(form, path, redo=redo)
    export = form.prepared(export)
    sids, earlier = export.sids, manifest.files(path)
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
        if (ids := write_ids(form, export, part)) is not None:
            stated["ids"] = ids.name
        if part.is_file():
            stated["sha256"] = manifest.checksum(part)
        beside = {
            p.relative_to(part.parent).as_posix(): manifest.checksum(p)
            for p in sorted(part.parent.rglob("*"))
            if p.is_file() and p != part
        }
        if beside:
            stated["files"] = beside
        if not redo:
            _check_others(path, beside, earlier)
        manifest.beside(part).write_text(manifest.text(**stated))
    for name, digest in earlier.items():  # of an export under another name, nothing must be taken for this
        old = path.parent / name
        if name not in beside and old.is_file() and manifest.checksum(old) == digest:
            old.unlink()
    return [path, *(path.parent / n for n in beside), manifest.beside(path)]


def _check_others(path: Path, made: dict[str, str], earlier: dict[str, str]) -> None:
    """Refuse to take the place of a file beside, or in the folder, that no export of ours left so."""
    for name, digest in made.items():
        there = path.parent / name
        if there.is_file() and manifest.checksum(there) not in (digest, earlier.get(name)):
            raise UsageError(
                f"{there} is there, and not as an export left it; name another place, move it away, or write "
                "over it with --redo"
            )


def write_ids(form: Format, export: Export, path: Path) -> Path | None:
    """The ids beside a file that has no place for them; None where it needs none."""
    if not form.by_row or export.places(form.first_id) is not None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    beside = path.with_name(path.name + ".ids.parquet")
    pq.write_table(pa.table({"item_id": pa.array(export.names)}), beside)
    return beside


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
