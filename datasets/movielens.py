"""MovieLens 1M and 32M (Harper and Konstan 2015): ratings as events, titles and genres as text."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal

import pyarrow as pa
from pydantic import Field

from sidbench.download import Remote
from sidbench.errors import DataError
from sidbench.formats.safe import check_zip
from sidbench.prepare import Log
from sidbench.public import Figures, Public
from sidbench.rawfiles import REMEDY, csv_columns, opened, told

SITE = "https://files.grouplens.org/datasets/movielens/"
PAGE = "it is listed at https://grouplens.org/datasets/movielens/"
#: Files of the archive that are read: ratings and movies.
MEMBERS = {"1m": ("ratings.dat", "movies.dat"), "32m": ("ratings.csv", "movies.csv")}
#: Of GroupLens' README files; that 3,706 of the films of 1M have ratings is what others count in it.
FIGURES = {
    "1m": Figures(6_040, 3_706, 1_000_209, "the published archive"),
    "32m": Figures(200_948, None, 32_000_204, "the published archive"),
}
RATINGS = {"userId": pa.int32(), "movieId": pa.int32(), "rating": pa.float32(), "timestamp": pa.int64()}


class MovieLens(Public):
    """MovieLens 1M or 32M: every rating is an event. Fetched from GroupLens."""

    name = "movielens"
    paper = "Harper and Konstan 2015, https://doi.org/10.1145/2827872"
    variant = "size"
    fields = ("title", "genres")

    #: Ratings: one million, or thirty-two.
    size: Literal["1m", "32m"] = "1m"
    #: Items that are read before a target that selects or tests, the newest ones (0: all); all events train.
    history: Annotated[int, Field(ge=0)] = 200
    #: What is said of a film, as text for embeddings: {title}, {genres}.
    text: str = "{title} {genres}"

    def remotes(self) -> dict[str, Remote]:
        ratings, movies = MEMBERS[self.size]
        folder = f"ml-{self.size}"
        url = f"{SITE}{folder}.zip"
        return {
            name: Remote(f"{folder}.zip", url, PAGE, also=(f"{folder}/{member}", member))
            for name, member in (("events", ratings), ("items", movies))
        }

    def raw_figures(self) -> Figures:
        return FIGURES[self.size]

    def read_events(self, path: Path) -> Log:
        with member(path, MEMBERS[self.size][0]) as file:
            if self.size == "32m":
                table = csv_columns(path, RATINGS, header=True, file=file)
            else:
                # Fields stand between double colons: between single ones every other is empty.
                columns: dict[str, pa.DataType] = {}
                for i, (name, kind) in enumerate(RATINGS.items()):
                    columns |= {f"gap {i}": pa.string(), name: kind} if i else {name: kind}
                table = csv_columns(
                    path, columns, header=False, between=":", file=file, quoted=False, wanted=tuple(RATINGS)
                )
        return Log.of(*(table.column(c) for c in ("userId", "movieId", "timestamp", "rating")))

    def read_items(self, path: Path, ids: pa.Array | None) -> pa.Table:
        with member(path, MEMBERS[self.size][1]) as file:
            if self.size == "32m":
                columns = {"movieId": pa.int32(), "title": pa.string(), "genres": pa.string()}
                table = csv_columns(path, columns, header=True, file=file)
                items, titles, genres = (table.column(c).to_pylist() for c in columns)
            else:
                rows = [split(line, path) for line in io.TextIOWrapper(file, "latin-1") if line.strip()]
                items, titles, genres = [int(r[0]) for r in rows], [r[1] for r in rows], [r[2] for r in rows]
        none = "(no genres listed)"
        said = ["" if g == none else g.replace("|", ", ") for g in genres]
        return pa.table(
            {"item": pa.array(items, pa.int32()), "title": titles, "genres": pa.array(said, pa.string())}
        )


def split(line: str, path: Path) -> list[str]:
    """The three fields of a line of movies.dat."""
    fields = line.strip().split("::")
    if len(fields) != 3 or not fields[0].isdigit():
        raise DataError(f"{path}: {line[:60]!r} is not MovieID::Title::Genres; {REMEDY}")
    return fields


@contextmanager
def member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """A file of the archive, its size checked first, or the file itself where it was unpacked by hand."""
    if path.suffix != ".zip":
        with opened(path) as file:
            yield file
        return
    try:
        with told(path), zipfile.ZipFile(path) as archive:
            check_zip(archive, path)
            found = [i for i in archive.infolist() if i.filename.rpartition("/")[2] == name]
            if len(found) != 1:
                raise DataError(f"{path} holds {len(found)} files {name}, expected one; {REMEDY}")
            with archive.open(found[0]) as file:
                yield file
    except (zipfile.BadZipFile, ValueError) as e:
        raise DataError(f"{path} is damaged ({e}); {REMEDY}") from None
