"""precomputed: SIDs that another system made, read from its file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UnsupportedError, UsageError
from sidbench.format import MOST_CODES, How
from sidbench.formats import codes as settled
from sidbench.formats import reading
from sidbench.plugin import Plugin
from sidbench.sids import Codes
from sidbench.tokenizer import Size, Tokenizer


class Precomputed(Tokenizer):
    """SIDs from a file, so that any system's can be scored with the same decoder; nothing is fitted.

    Reads every format of `sidbench list formats`, `index.json` of LC-Rec, LETTER or MiniOneRec first, and the
    table of a run. Items are joined by their ids as text. What a file cannot say (what it counts from, which
    way round a matrix stands) comes from its manifest or from the parameters here and is never guessed. A
    shorter SID (a suffix that only colliding items have) ends in -1, which the resolver `keep` leaves.
    """

    name = "precomputed"
    paper = "https://arxiv.org/abs/2311.09049"
    added: ClassVar[tuple[str, ...]] = ("format", "orientation", "suffix")

    #: The file: index.json, parquet, .npy and whatever else `sidbench list formats` reads.
    path: Path
    #: The number that the file counts codes from; auto takes its manifest's, or 0 where a code 0 proves it.
    base: Literal["auto", 0, 1] = "auto"
    #: A format by name, of `sidbench list formats`; auto goes by the manifest, else by the ending.
    format: str = "auto"
    #: What a row of a matrix is; auto refuses a shape that could be either.
    orientation: Literal["auto", "items", "levels"] = "auto"
    #: Whether the last code is a suffix, and counted from what; auto takes it from manifest and format.
    suffix: Literal["auto", "none", 0, 1] = "auto"
    #: Codes of a SID; 0 takes the file's, any other number must be the file's.
    levels: Annotated[int, Field(ge=0, le=16)] = 0
    #: Codes of a level; 0 takes the file's largest and one.
    codebook_size: Annotated[int, Field(ge=0, le=65_536)] | tuple[Size, ...] = 0

    def __post_init__(self) -> None:
        # Not the tokenizers' own check of sizes: it would read the file, and a constructor only stores.
        Plugin.__post_init__(self)
        size = self.codebook_size
        if isinstance(size, tuple) and self.levels not in (0, len(size)):
            raise UsageError(
                f"{self.name}.codebook_size names {len(size)} sizes for levels = {self.levels}; "
                f"leave levels out or set it to {len(size)}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of codes at each level: as given, else as the file has them."""
        return tuple(self.sizes_) if "sizes_" in vars(self) else self._file.sizes

    def fit(self, x: Embeddings) -> Self:
        raise UnsupportedError(self._no_encoder("fit"))

    def encode(self, x: Embeddings) -> Codes:
        raise UnsupportedError(self._no_encoder("encode"))

    def codes_of(self, item_ids: NDArray[Any]) -> Codes:
        """The codes of these items; every one must be in the file."""
        if "codes_" not in vars(self):
            found = self._file
            self.codes_, self.ids_, self.sizes_ = found.codes, found.ids, list(found.sizes)
            self.base_ = found.base
        row = settled.rows_of(self.ids_, len(self.codes_), item_ids, self.path.name)
        self.unused_ = len(self.codes_) - len(np.unique(row))
        codes: Codes = self.codes_[row]
        return codes

    def facts(self) -> dict[str, Any]:
        lengths = (self.codes_ >= 0).sum(axis=1)
        return {
            "base": self.base_,
            "items_in_file": len(self.codes_),
            "items_not_in_dataset": self.unused_,
            "shortest_sid": int(lengths.min()),
        }

    def _no_encoder(self, what: str) -> str:
        return (
            f"{self.name} cannot {what}: the file holds SIDs of known items and no encoder for embeddings; "
            "call codes_of(item_ids)"
        )

    @cached_property
    def _file(self) -> File:
        how = How(
            self.format,
            self.base,
            self.orientation,
            self.suffix,
            option=f"--set {self.name}.{{}}={{}}",
            format_option=f"--set {self.name}.format={{}}",
        )
        table = reading.read(self.path, f"{self.name}.path", how)
        return File(table.ids, table.codes, self._sizes_of(table), table.base)

    def _sizes_of(self, table: settled.Table) -> tuple[int, ...]:
        """The sizes of a file's levels: as given, if codes fit, as its manifest says, else as needed."""
        levels, largest = table.codes.shape[1], table.codes.max(axis=0)
        given = self.codebook_size
        wanted = len(given) if isinstance(given, tuple) else self.levels
        if wanted not in (0, levels):
            raise DataError(
                f"{self.path.name} holds SIDs of up to {levels} codes, {self.name}.levels says {wanted}; "
                "leave levels out, or give the file that was meant"
            )
        if given == 0 and table.sizes is not None:
            given = table.sizes
        if given == 0:
            given = tuple(int(code) + 1 for code in largest)
        sizes = given if isinstance(given, tuple) else (given,) * levels
        for level, (size, code) in enumerate(zip(sizes, largest, strict=True)):
            if code >= min(size, MOST_CODES):
                raise DataError(
                    f"{self.path.name}: level {level} holds code {code} (counted from 0), beyond "
                    f"{'codebook_size' if size <= MOST_CODES else 'the most that a level can have'} = "
                    f"{min(size, MOST_CODES)}; leave codebook_size out, or give the file that was meant"
                )
        return sizes


@dataclass(frozen=True, eq=False)
class File:
    """What a file of SIDs holds: ids as text (None: the rows' numbers) and codes from 0, -1 past an end."""

    ids: list[str] | None
    codes: Codes
    sizes: tuple[int, ...]
    base: int
