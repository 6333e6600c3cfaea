"""PeerFolder: a folder as another system leaves it, with vectors of its own or made from text."""

from __future__ import annotations

import pickle
import zipfile
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Dataset, Embeddings, Sequences, check_embeddings
from sidbench.embed import Learned, learned_as, learned_beside, vectors_for
from sidbench.errors import DataError, UsageError
from sidbench.formats import safe

Nan = Literal["error", "zero"]
# A larger file of vectors is read through a memmap.
IN_MEMORY = 1 << 30


@dataclass(frozen=True, eq=False)
class Found:
    """Row i for item i, what people should know of it, and what it was learned from beside content."""

    x: Embeddings
    notes: tuple[str, ...] = ()
    learned: Learned = field(default_factory=Learned)


class PeerFolder(Dataset):
    """Base of datasets in another system's layout: `NAME:FOLDER` names the folder."""

    variant: ClassVar[str] = "path"
    group: ClassVar[str] = "Of every folder of another system"

    #: The folder.
    path: Path
    #: The vectors: auto (the folder's own, else tfidf, without text collaborative), a file of the folder, or
    #: a source (tfidf, collaborative, sentence-transformers/MODEL).
    embedding: str = "auto"
    #: NaN and infinity in vectors of a file: an error, or zero in their place, which a note counts.
    nan: Nan = "error"

    def folder(self, expected: str) -> Path:
        """The folder, if it is one."""
        folder = self.path.expanduser()
        if not folder.is_dir():
            raise UsageError(f"{self.name}: there is no folder {folder}; expected one with {expected}")
        return folder

    def vectors(
        self,
        folder: Path,
        own: list[Path],
        items: int | None,
        *,
        texts: list[str] | None,
        sequences: Sequences | None,
        under: str = "leave-one-out",
    ) -> Found:
        """Row i for item i, from a file where there is one.

        `own` are the files of vectors in this layout; `items` is how many rows there must be, where known.
        `under` is the protocol under which nothing of `sequences` that is learned from is asked.
        """
        source = self.embedding
        named = [p for p in (folder / source, Path(source).expanduser()) if p.is_file()]
        if source == "auto" and len(own) > 1:
            raise UsageError(
                f"{self.name}: several files hold vectors, {', '.join(p.name for p in own)}; name one with "
                f"--set dataset.embedding={own[0].relative_to(folder)}"
            )
        if named or (source == "auto" and own):
            path = named[0] if named else own[0]
            x, notes = read_vectors(path, self.nan)
            if items is not None and len(x) != items:
                raise DataError(
                    f"{path.name} has {len(x):,} rows, the catalogue {items:,} items; row i must be item i. "
                    "Make the vectors again, or leave them out with --set dataset.embedding=tfidf"
                )
            return Found(x, notes, learned_beside(path))
        if items is None:
            raise DataError(
                f"{self.name}: there are neither vectors nor a list of items; add one of the files that "
                f"`sidbench list --params {self.name}` names"
            )
        found = source
        if source == "auto":
            found = "tfidf" if texts is not None else "collaborative"
        elif texts is None and source != "collaborative":
            raise DataError(
                f"{self.name}: the folder has no text that {source!r} could read; set "
                "--set dataset.embedding=collaborative, or to a file of vectors (.npy, row i is item i)"
            )
        x, facts = vectors_for(
            found, texts=texts or [], sequences=sequences, items=items, where=f"dataset {self.name}"
        )
        made = {
            "tfidf": "the folder holds no vectors: they are made from the items' text (tfidf)",
            "collaborative": "the folder holds neither vectors nor text: vectors are made from the training "
            "sequences (collaborative), and say nothing of content",
        }
        notes = (*((made[found],) if source == "auto" else ()), *facts.get("notes", ()))
        known = learned_as(facts)
        return Found(x, notes, Learned(under, known.digests) if known.under else known)


class NamedFolder(PeerFolder):
    """Base of datasets whose folders hold several: `NAME:FOLDER/DATASET` names one, as `of` does."""

    group: ClassVar[str] = "Of every folder that may hold several datasets"

    #: Which dataset, where the folder holds several, such as Office_Products.
    of: str = ""

    @abstractmethod
    def names(self, folder: Path) -> set[str]:
        """The datasets that a folder holds."""

    def located(self, expected: str) -> tuple[Path, str]:
        """The folder, and the one dataset in it that is meant."""
        folder, name = self.path.expanduser(), self.of
        inside = not name and not folder.is_dir() and folder.parent.is_dir()
        if inside and folder.name in self.names(folder.parent):
            folder, name = folder.parent, folder.name
        if not folder.is_dir():
            self.folder(expected)
        found = sorted(self.names(folder))
        if name and name not in found:
            raise UsageError(
                f"{self.name}.of = {name!r} is not in {folder}; there are {', '.join(found) or 'none'}"
            )
        if not name and len(found) != 1:
            there = f"several datasets: {', '.join(found)}" if found else "no dataset"
            hint = f". Name one: {self.name}:{folder}/{found[0]}" if found else ""
            raise UsageError(f"{folder} holds {there}; expected {expected}{hint}")
        return folder, name or found[0]


def read_vectors(path: Path, nan: Nan) -> tuple[Embeddings, tuple[str, ...]]:
    """The rows of a .npy, or of a tensor in a .pt, as finite float32."""
    if path.suffix == ".npy":
        return finite(safe.read_npy(path, mmap_mode=path.stat().st_size > IN_MEMORY), path, nan)
    if path.suffix in (".pt", ".pth"):
        return finite(read_tensor(path), path, nan)
    raise UsageError(f"{path.name}: vectors of this kind are not read here; expected .npy or .pt")


def read_tensor(path: Path) -> NDArray[Any]:
    """The one tensor that a .pt file holds; nothing else in it is loaded."""
    import torch

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                safe.check_zip(archive, path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
        KeyError,
        zipfile.BadZipFile,
    ) as e:
        said = (str(e).strip().splitlines() or [type(e).__name__])[0][:160]
        raise DataError(
            f"{path.name} cannot be read as a tensor ({said}); expected what torch.save(tensor) wrote, "
            "and nothing that runs code"
        ) from None
    if not isinstance(held, torch.Tensor):
        raise DataError(f"{path.name} holds {type(held).__name__}; expected one tensor")
    tensor = held.detach()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def finite(x: NDArray[Any], path: Path, nan: Nan) -> tuple[Embeddings, tuple[str, ...]]:
    """Vectors without NaN and infinity: they are refused, or zero takes their place and is counted."""
    while x.ndim > 2 and 1 in x.shape:
        x = np.squeeze(x, axis=x.shape.index(1))
    if x.dtype.kind not in "fiu":
        raise DataError(f"{path.name} holds {x.dtype}; expected numbers, a row for each item")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is looked at next
        y = x.astype(np.float32, copy=False)
    told: tuple[str, ...] = ()
    if nan == "zero" and y.ndim == 2 and not (good := np.isfinite(y)).all():
        rows = int((~good.all(axis=1)).sum())
        y = np.where(good, y, np.float32(0))
        count = good.size - int(good.sum())
        told = (f"{count:,} numbers in {rows:,} rows of {path.name} are NaN or infinite; zero stands there",)
    y = np.ascontiguousarray(y)
    try:
        check_embeddings(y, path.name)
    except DataError as e:
        if "NaN" not in str(e):
            raise
        raise DataError(f"{e}; or --set dataset.nan=zero, as MiniOneRec does") from None
    return y, told
