"""Format: SIDs as one other system writes and reads them. The built-in ones live in sidbench/formats/."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Corpus
from sidbench.errors import UnsupportedError, UsageError
from sidbench.plugin import Plugin
from sidbench.sids import Codes, SIDs
from sidbench.tokenizer import Tokenizer

#: Codes that a SID may have, and a level: whatever is longer or larger is turned or torn.
MOST_LEVELS = 16
MOST_CODES = 65_536


@dataclass(frozen=True)
class How:
    """What a person says of a file; `auto` leaves it to the file, its manifest and its format."""

    format: str = "auto"
    base: Literal["auto", 0, 1] = "auto"
    #: What a row of a matrix is: an item, or a level.
    orientation: Literal["auto", "items", "levels"] = "auto"
    #: Whether the last code is a suffix that only sets items apart, and what it counts from.
    suffix: Literal["auto", "none", 0, 1] = "auto"
    #: How a parameter is given where the file was named: `--base 1`, or `--set precomputed.base=1`.
    option: str = "--{} {}"
    format_option: str = "--format {}"

    @property
    def silent(self) -> bool:
        """Whether a person said nothing."""
        return all(v == "auto" for v in (self.format, self.base, self.orientation, self.suffix))

    def flag(self, name: str, value: object) -> str:
        return self.format_option.format(value) if name == "format" else self.option.format(name, value)


def how(
    form: str, base: str, orientation: str, suffix: str, option: str = "--{} {}", named: str = "--from {}"
) -> How:
    """What a person wrote as options; what is none of the choices says so."""
    given = {"base": base, "orientation": orientation, "suffix": suffix}
    choices: dict[str, tuple[Any, ...]] = {
        "base": ("auto", 0, 1),
        "orientation": ("auto", "items", "levels"),
        "suffix": ("auto", "none", 0, 1),
    }
    found: dict[str, Any] = {}
    for name, text in given.items():
        by_text = {str(c): c for c in choices[name]}
        if text not in by_text:
            raise UsageError(f"{option.format(name, text)} does not fit; expected {', '.join(by_text)}")
        found[name] = by_text[text]
    return How(form, **found, option=option, format_option=named)


@dataclass(frozen=True, eq=False)
class Found:
    """What a file holds, as the file counts it: row i is one item, -1 stands beyond the end of its SID."""

    codes: NDArray[np.int64]
    #: Ids as text; none where the rows are the items 0, 1, 2…
    ids: list[str] | None = None
    titles: list[str] | None = None
    #: True where the file itself sets rows apart as items (a key for each, or a letter for each level);
    #: a bare matrix does not.
    rows_are_items: bool = True
    #: Codes that each level has, where the file says so.
    sizes: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Export:
    """What is written: SIDs, and whatever else a system's files hold."""

    sids: SIDs
    #: Levels of the tokenizer's own; one more is a resolver's suffix.
    own: int
    titles: NDArray[np.str_] | None = None
    #: The sequences, for formats that ask for them (`needs_corpus`); rows in their own order.
    corpus: Corpus | None = None
    tokenizer: Tokenizer | None = None
    #: Where the SIDs come from: run, method, dataset, resolver, or a file.
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def has_suffix(self) -> bool:
        return self.own < self.sids.levels

    @cached_property
    def names(self) -> list[str]:
        """The items' ids as text."""
        names: list[str] = self.sids.item_ids.astype(str).tolist()
        return names

    def places(self, first: int = 0) -> NDArray[np.int64] | None:
        """Rows in the order of ids that are the numbers from `first` on, none missing; None for other ids."""
        ids = self.sids.item_ids
        if ids.dtype.kind not in "iu":
            if not all(
                n.isascii() and n.isdigit() and len(n) < 19 and (n[0] != "0" or n == "0") for n in self.names
            ):
                return None
            ids = np.array([int(n) for n in self.names], dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        return order if np.array_equal(ids[order], np.arange(first, first + len(ids))) else None

    def in_order(self, first: int = 0) -> Codes:
        """Codes for a file without ids: by id where ids are numbers, else as they are (ids go beside it)."""
        order = self.places(first)
        return self.sids.codes if order is None else self.sids.codes[order]


class Format(Plugin):
    """How one system writes SIDs. Write `read`, `write`, or both.

    `read` gives codes as the file counts them: base, suffix and orientation are settled by who calls it, from
    what the file proves, what its manifest states and what a person says, and never guessed.
    """

    kind: ClassVar[str] = "format"
    group: ClassVar[str] = "Every format's"
    #: Whose files these are, and where that is described.
    system: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    #: What the system calls such a file.
    file: ClassVar[str] = ""
    #: Endings by which `--from auto` knows it; none where only a person can.
    endings: ClassVar[tuple[str, ...]] = ()
    #: What its files may count from. Where there are two, the file or a person must say.
    bases: ClassVar[tuple[int, ...]] = (0,)
    #: What a row of its matrices is.
    rows: ClassVar[Literal["items", "levels"]] = "items"
    #: True where its contract makes the last code a suffix.
    ends_in_suffix: ClassVar[bool] = False
    #: False where all SIDs must be equally long.
    lengths_differ: ClassVar[bool] = True
    #: True where a file has no ids: row i is the item `first_id` + i, and other ids go to a table beside it.
    by_row: ClassVar[bool] = False
    first_id: ClassVar[int] = 0
    #: True where it writes sequences too.
    needs_corpus: ClassVar[bool] = False
    #: True where it writes of the tokenizer, not of items.
    needs_tokenizer: ClassVar[bool] = False
    #: What of the SIDs such a file does not keep.
    loses: ClassVar[str] = ""

    #: keep the suffix that a resolver added, or drop it (items then share SIDs).
    suffix: Literal["keep", "drop"] = "keep"

    def read(self, path: Path, how: How) -> Found:
        """The codes of one file; what does not fit names the row."""
        raise UnsupportedError(f"{self.name} is only written: there is nothing to read SIDs from")

    def write(self, export: Export, path: Path) -> None:
        """Write `path` (a file, or a folder that does not exist yet), and more files beside it if need be."""
        raise UnsupportedError(f"{self.name} is only read: choose another format")

    def states(self, export: Export) -> dict[str, Any]:
        """What its manifests say besides what those of all formats do."""
        return {}

    @classmethod
    def supports(cls, ability: str) -> bool:
        """Whether `read` or `write` is written."""
        return getattr(cls, ability) is not getattr(Format, ability)

    @property
    def first(self) -> int:
        """What `write` counts from: its parameter `base` where it has one."""
        return int(self.params().get("base", self.bases[0]))

    def prepared(self, export: Export) -> Export:
        """The export as this format keeps it: without the suffix where that is dropped."""
        if (self.suffix == "drop" or self.needs_tokenizer) and export.has_suffix:
            sids, own = export.sids, export.own
            cut = sids.replace(codes=sids.codes[:, :own].copy(), sizes=sids.sizes[:own])
            export = Export(cut, own, export.titles, export.corpus, export.tokenizer, export.source)
        if not self.lengths_differ and (export.sids.codes < 0).any():
            short = int((export.sids.codes < 0).any(axis=1).sum())
            raise UsageError(
                f"{self.name} needs SIDs of one length, and {short:,} items have shorter ones; drop the "
                "suffix (--suffix drop), or resolve with suffix and items = all"
            )
        return export
