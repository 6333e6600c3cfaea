"""Own files as datasets: a folder of `items.*` and `sequences.*`, and the base of any files by name."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

from sidbench.dataset import Corpus, Dataset
from sidbench.errors import DataError
from sidbench.files import tables
from sidbench.files.columns import Columns
from sidbench.files.items import Policy
from sidbench.files.reading import Sources
from sidbench.vectors import OPENERS

#: Names that a folder's columns had before others were recognised: they come first, so that what was read
#: is read alike.
FIRST = {
    "item": ("item", "item_id", "id"),
    "user": ("user", "user_id"),
    "time": ("timestamp", "time"),
    "items": ("items",),
    "times": ("timestamps",),
    "embedding": ("embedding",),
    "title": ("title",),
    "categories": ("categories",),
}
TABLES = tuple(k for k in tables.KINDS if k not in (".npy", ".npz"))
VECTORS = (".npy", ".npz", *(k for k in OPENERS if k not in tables.KINDS))


class OwnFiles(Dataset):
    """A person's own files: `sources` says where they are, the rest is shared."""

    #: Whether it is said which columns were recognised.
    says_columns: ClassVar[bool] = True

    @abstractmethod
    def sources(self) -> Sources:
        """The files, and what is to be made of them."""

    @abstractmethod
    def title(self) -> str:
        """What boards call these data."""

    def load(self) -> Corpus:
        return self.sources().corpus(self.title(), say_columns=self.says_columns)


class Folder(OwnFiles):
    """A folder of your own: items.npy and/or items.parquet, and sequences.parquet.

    - items.npy: (items, dimensions) numbers, read as float32; row i is row i of items.parquet. Or .npz,
      .safetensors, .fbin, or the same called embeddings.
    - items.parquet: `item` (integers or text; 0..n-1 without this file) and, where known, `title`,
      `embedding` (lists; used without items.npy), `categories` (equally long lists, broad to narrow).
      Or .csv, .tsv, .jsonl, .feather.
    - sequences.parquet: a row a user with `user`, `items` and perhaps `timestamps`, both lists, oldest
      first; or a row an event with `user`, `item`, `timestamp`. Or .csv and so on.

    Events are ordered by time: dates, or numbers that are taken for seconds. Where times are equal, `ties`
    decides: `file` keeps the order of the file, `shuffle` orders by a fixed hash of user and item, so that
    the order inside a tie carries nothing.
    """

    name = "folder"
    variant = "path"
    says_columns: ClassVar[bool] = False

    #: The folder.
    path: Path = Path()
    #: Events of equal time: in the file's order, or shuffled by a fixed hash.
    ties: Literal["file", "shuffle"] = "file"

    def title(self) -> str:
        return self.path.expanduser().resolve().name

    def sources(self) -> Sources:
        folder = self.path.expanduser()
        if not folder.is_dir():
            raise DataError(
                f"no folder {folder}: expected one with sequences.parquet and items.npy or items.parquet"
            )
        table = one_of(folder, ("items",), TABLES)
        vectors = one_of(folder, ("items", "embeddings"), VECTORS)
        if table is None and vectors is None:
            raise DataError(
                f"{folder} holds neither items.npy nor items.parquet: item embeddings are missing"
            )
        sequences = one_of(folder, ("sequences",), TABLES) or folder / "sequences.parquet"
        if not sequences.exists():
            raise DataError(
                f"{sequences} is missing; expected a table (parquet, CSV) with `user` and `items` (lists), "
                "or `user`, `item` and `timestamp`"
            )
        return Sources(
            items=table or vectors or folder,
            sequences=sequences,
            embeddings=vectors if table is not None else None,
            columns=Columns(first=FIRST, closed=("title", "categories")),
            policy=Policy(unusable="error"),
            ties=self.ties,
            timeless=False,
        )


def one_of(folder: Path, stems: tuple[str, ...], endings: tuple[str, ...]) -> Path | None:
    """The one file of these names and endings; two of them are an error."""
    found = [p for stem in stems for end in endings for p in (folder / f"{stem}{end}",) if p.is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(p.name for p in found)}: which one is meant? keep one")
    return found[0] if found else None


def find_folder(spec: str) -> Path | None:
    """The folder that a dataset's name on the command line means, if any.

    A bare name is looked up in the folders of SIDBENCH_DATA, then here; anything else is a path.
    """
    given = Path(spec).expanduser()
    places = [Path(p).expanduser() for p in os.environ.get("SIDBENCH_DATA", "").split(os.pathsep) if p]
    bare = spec not in ("", ".", "..") and given.name == spec
    for folder in [place / spec for place in places if bare] + [given]:
        if spec and folder.is_dir():
            return folder
    return None
