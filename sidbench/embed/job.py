"""From a table of items to a file of vectors: sources, joined, weighted, whitened; every step recorded."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sidbench import __version__
from sidbench.embed import output, whiten
from sidbench.embed.sources import Catalogue, Held, Made, Source
from sidbench.embed.tfidf import unit
from sidbench.errors import DataError, UsageError
from sidbench.progress import report

Floats = NDArray[np.float32]

FORMAT = "sidbench-embedding"
#: Packages whose version can change a vector.
PACKAGES = ("numpy", "scipy", "scikit-learn", "pyarrow", "torch", "transformers", "sentence-transformers")
# Numbers written at a time.
CELLS = 16_000_000
Kind = Literal["pca", "whiten", "zca"]


@dataclass(frozen=True)
class Recipe:
    """What is to be made, whatever the items."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    #: Principal axes of what is joined: none, without or with whitening, or ZCA (whitened, then turned back).
    axes: Kind | None = None
    axes_dim: int | None = None
    eps: float = 1e-3
    normalize: bool = True
    dtype: Literal["float32", "float16"] = "float32"
    #: The column of ids; None where it is recognised.
    item: str | None = None

    def steps(self) -> dict[str, Any]:
        """What follows the sources."""
        return {
            "weights": list(self.weights),
            "axes": self.axes,
            "axes_dim": self.axes_dim,
            "eps": self.eps if self.axes in ("whiten", "zca") else None,
            "normalize": "unit length" if self.normalize else "none",
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class Place:
    """A file of vectors and the folder beside it: the manifest, what was learned, unfinished work."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.stem}.embedding")

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def fitted(self) -> Path:
        return self.folder / "fitted"

    def work(self, key: str) -> Path:
        """Where an unfinished command keeps what it has; another command has another place."""
        return self.folder / f"unfinished-{key[:12]}"


@dataclass(frozen=True)
class Result:
    """What was written, or was there already."""

    place: Place
    manifest: dict[str, Any]
    fresh: bool


def read_items(path: Path, sources: Sequence[Source], item: str | None = None) -> Catalogue:
    """The columns of the items' file that are read, and its ids."""
    from sidbench.files import tables
    from sidbench.files.columns import Columns
    from sidbench.files.ids import from_text, identifiers

    names = tuple(tables.names(path))
    key = Columns({("items", "item"): item} if item is not None else {}).find(names, "items", "item")
    wanted = [c for s in sources for c in s.columns(names, path.name)]
    table = tables.read(
        path, list(dict.fromkeys([*wanted, *([key] if key else []), *([] if wanted or key else names[:1])]))
    )
    if not len(table):
        raise DataError(f"{path} has no rows; expected one for every item")
    ids = None
    if key is not None:
        ids = identifiers(tables.whole(table.column(key)), path)
        ids = from_text(ids) if tables.kind_of(path) in (".csv", ".tsv") else ids
    return Catalogue(path, names, table, ids)


def embed(
    items: Path, recipe: Recipe, place: Place, *, like: Path | None = None, redo: bool = False
) -> Result:
    """Make the vectors, or go on where the same command was interrupted, or find that all is done.

    `like` is the folder of an earlier result: its steps are applied to these items as learned there.
    """
    output.check_kind(place.out)
    before = None if like is None else read_manifest(like / "manifest.json")
    catalogue = read_items(items, recipe.sources, recipe.item)
    made_from = {
        "items": len(catalogue),
        "sources": [s.about(catalogue) for s in recipe.sources],
        **recipe.steps(),
        "like": None if before is None else before["key"],
        "ids_sha256": _ids_digest(catalogue.ids) if place.out.suffix == ".parquet" else None,
        "sidbench": __version__,
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    if (held := _held(place, key, redo)) is not None:
        return Result(place, held, fresh=True)
    work = place.work(key)
    try:
        if redo:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        made = [
            _one(source, catalogue, work / f"source-{i}", like, before, i)
            for i, source in enumerate(recipe.sources)
        ]
        axes = _axes(recipe, made, like)
        rows, dim = (
            len(catalogue),
            sum(m.rows.shape[1] for m in made) if axes is None else axes.basis.shape[1],
        )
        zeros = Zeros()
        output.write(
            place.out, _pieces(recipe, made, axes, dim, zeros), rows, dim, recipe.dtype, catalogue.ids
        )
        if before is None:
            _keep(place.fitted, made, axes)
        else:
            shutil.rmtree(place.fitted, ignore_errors=True)
        manifest = {
            "format": FORMAT,
            "version": 1,
            "key": key,
            "output": {
                "file": place.out.name,
                "rows": rows,
                "dim": dim,
                "dtype": recipe.dtype,
                "sha256": output.sha256(place.out),
            },
            "items_file": items.name,
            "made_from": made_from,
            "found": [m.facts for m in made],
            "axes": None if axes is None else axes.facts,
            "zero_vectors": zeros.count,
            "notes": [n for m in made for n in m.facts.get("notes", ())],
            "versions": {"python": platform.python_version(), **_versions()},
        }
        _write_manifest(place.manifest, manifest)
    except OSError as e:
        raise output.refused(place.out, e) from None
    shutil.rmtree(work, ignore_errors=True)
    return Result(place, manifest, fresh=False)


def read_manifest(path: Path) -> dict[str, Any]:
    """What an earlier command recorded."""
    try:
        held = json.loads(path.read_text())
        if held["format"] != FORMAT or not isinstance(held["output"], dict):
            raise ValueError(f"its format is {held['format']!r}")
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing; name the folder NAME.embedding that `sidbench embed` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path} cannot be understood ({e}); run `sidbench embed` again") from None
    return dict(held)


@dataclass
class Zeros:
    """How many rows say nothing, counted as they are written."""

    count: int = 0


def _one(
    source: Source, items: Catalogue, work: Path, like: Path | None, before: dict[str, Any] | None, i: int
) -> Made:
    """One source's vectors, learned here or as learned there."""
    if like is None or before is None:
        return source.make(items, work)
    return source.again(items, work, _learned(like / "fitted", i), before["found"][i])


def _axes(recipe: Recipe, made: list[Made], like: Path | None) -> whiten.Axes | None:
    if recipe.axes is None:
        return None
    if like is not None:
        return whiten.Axes(
            np.load(like / "fitted" / "mean.npy", allow_pickle=False),
            np.load(like / "fitted" / "basis.npy", allow_pickle=False),
            {"learned_from": like.name},
        )
    return whiten.Axes.fit([m.rows for m in made], recipe.weights, recipe.axes, recipe.axes_dim, recipe.eps)


def _pieces(
    recipe: Recipe, made: list[Made], axes: whiten.Axes | None, dim: int, zeros: Zeros
) -> Iterator[NDArray[Any]]:
    """The finished rows, a piece at a time."""
    n = len(made[0].rows)
    step = max(1, CELLS // max(dim, 1))
    alone = len(made) == 1 and axes is None
    for start in range(0, n, step):
        stop = min(start + step, n)
        x = (
            made[0].rows[start:stop]
            if alone
            else whiten.joined([m.rows for m in made], recipe.weights, start, stop)
        )
        x = x if axes is None else axes.apply(x)
        x = unit(x) if recipe.normalize else np.asarray(x)
        y = x.astype(recipe.dtype)
        if not np.isfinite(y).all():
            raise DataError("some numbers do not fit float16; leave out --dtype float16, or --no-normalize")
        zeros.count += int((~y.any(axis=1)).sum())
        yield y
        report("write", stop, n)


def _held(place: Place, key: str, redo: bool) -> dict[str, Any] | None:
    """The manifest of just this result, if it is there whole; a file of anything else is not written over."""
    if redo or not place.out.exists():
        return None
    manifest = read_manifest(place.manifest) if place.manifest.is_file() else None
    ours = manifest is not None and manifest["output"].get("sha256") == output.sha256(place.out)
    if ours and manifest is not None and manifest["key"] == key:
        return manifest
    why = "was made by another command or of other items" if ours else "was not made by this command"
    raise UsageError(f"{place.out} is there already and {why}; --redo replaces it, --out names another file")


def _keep(folder: Path, made: list[Made], axes: whiten.Axes | None) -> None:
    """What new items need, in files that nothing has to be run to read."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for i, m in enumerate(made):
        for name, values in m.held.items():
            if isinstance(values, np.ndarray):
                np.save(part / f"{i}-{name}.npy", values)
            else:
                pq.write_table(pa.table({name: values}), part / f"{i}-{name}.parquet")
    if axes is not None:
        np.save(part / "mean.npy", axes.mean)
        np.save(part / "basis.npy", axes.basis)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def _learned(folder: Path, i: int) -> Held:
    held: Held = {}
    for path in sorted(folder.glob(f"{i}-*")):
        name = path.stem.partition("-")[2]
        if path.suffix == ".npy":
            held[name] = np.load(path, allow_pickle=False)
        else:
            held[name] = pq.read_table(path).column(0).combine_chunks()
    return held


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(manifest, indent=2) + "\n")
    part.replace(path)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _ids_digest(ids: pa.Array | None) -> str | None:
    from sidbench.embed import update_with_texts

    if ids is None:
        return None
    h = hashlib.sha256()
    update_with_texts(h, ids.cast(pa.large_string()))
    return h.hexdigest()
