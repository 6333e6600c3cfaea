"""index.json: a list of tokens such as <a_12> an item (MiniOneRec, LC-Rec, LETTER), or of integers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from sidbench.errors import DataError, UsageError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import lists, safe, text
from sidbench.formats.codes import from_lists

TOKENS = '{"0": ["<a_12>", "<b_3>"], …}'
INTEGERS = '{"0": [12, 3], …}'


def read_json_sids(path: Path, how: How, expected: str, kind: type | None) -> Found:
    """An object of lists by item, or a list of lists; a name that stands twice is told by `settle`."""
    found = None if how.orientation == "levels" else lists.of_file(path)
    if found is not None:
        _check_kind(found.held[0][0].as_py(), path, expected, kind)
        return from_lists(found.held, path.name, found.ids, how)
    held = safe.read_json(path, pairs=True, nan=True)
    ids = None
    if isinstance(held, safe.Pairs):
        ids, held = [key for key, _ in held], [sid for _, sid in held]
    elif not isinstance(held, list):
        raise DataError(f"{path.name} holds {type(held).__name__}; expected {expected}")
    if not held:
        raise DataError(f"{path.name} holds no SIDs; expected {expected}")
    _check_kind(held[0][0] if isinstance(held[0], list) and held[0] else None, path, expected, kind)
    return from_lists(held, path.name, ids, how)


def _check_kind(first: object, path: Path, expected: str, kind: type | None) -> None:
    if kind is not None and isinstance(first, (int, str)) and not isinstance(first, kind):
        other = "tokens" if isinstance(first, str) else "integers"
        raise DataError(
            f"{path.name}: row 0 holds {other}; expected {expected}. Read it as json, which takes both"
        )


class Json(Format):
    """SIDs as JSON: a list of integers or tokens an item, by id or as rows."""

    name = "json"
    group = "The index's"
    system = "any"
    file = "sids.json"
    endings: ClassVar[tuple[str, ...]] = (".json",)
    bases: ClassVar[tuple[int, ...]] = (0, 1)
    paper = "https://arxiv.org/abs/2305.05065"
    loses = "sizes"

    #: What codes are counted from in the file.
    base: Literal[0, 1] = 0
    #: Spaces that a level of the JSON is indented by; 0 writes one line.
    indent: Literal[0, 2] = 0

    #: What a code is written as.
    _tokens: ClassVar[bool] = False

    def read(self, path: Path, how: How) -> Found:
        return read_json_sids(path, how, f"{TOKENS} or {INTEGERS}", None)

    def write(self, export: Export, path: Path) -> None:
        sizes = export.sids.sizes
        if self._tokens:
            before, after = [f'"<{letter}_' for letter in text.letters(len(sizes))], '>"'
        else:
            before, after = [""] * len(sizes), ""
        spell = text.words(sizes, before, after, self.base)
        text.write_json_lists(path, export.names, export.sids.codes, spell, indent=self.indent)


class Tiger(Json):
    """index.json of plain integers, as code bases of TIGER pass SIDs on: {"0": [12, 3]}."""

    name = "tiger"
    system = "TIGER"
    file = "index.json"
    endings = ()

    def read(self, path: Path, how: How) -> Found:
        return read_json_sids(path, how, INTEGERS, int)


class MiniOneRec(Json):
    """index.json of MiniOneRec: <a_12>; from 0, or from 1 as its constrained and plus scripts count."""

    name = "minionerec"
    system = "MiniOneRec"
    file = "NAME.index.json"
    endings = ()
    paper = "https://arxiv.org/abs/2510.24431"
    _tokens = True

    def read(self, path: Path, how: How) -> Found:
        return read_json_sids(path, how, TOKENS, str)


class _FromZero(MiniOneRec):
    name = ""
    bases = (0,)
    base: Literal[0] = 0
    #: Tokens that the system has letters for.
    _most: ClassVar[int] = 5

    def write(self, export: Export, path: Path) -> None:
        if export.sids.levels > self._most:
            raise UsageError(
                f"{self.name} has letters for {self._most} codes an item, and these SIDs have "
                f"{export.sids.levels}; export to json, or drop the suffix (--suffix drop)"
            )
        super().write(export, path)


class LCRec(_FromZero):
    """index.json of LC-Rec: <a_12>, from 0."""

    name = "lc-rec"
    system = "LC-Rec"
    paper = "https://arxiv.org/abs/2311.09049"


class LETTER(_FromZero):
    """index.json of LETTER: <a_12>, from 0."""

    name = "letter"
    system = "LETTER"
    paper = "https://arxiv.org/abs/2405.07314"
    _most = 6
