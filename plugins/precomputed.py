"""precomputed: SIDs that another system made, read from its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UnsupportedError, UsageError
from sidbench.plugin import Plugin
from sidbench.sids import Codes
from sidbench.tokenizer import Size, Tokenizer

FORMS = (
    '.json ({"0": ["<a_12>", "<b_3>"]} or {"0": [12, 3]}, or a list of such lists), '
    ".parquet (item_id and sid), .npy (items, levels)"
)
TOKEN = r"^(?P<level>[^0-9].*_)(?P<code>[0-9]+)>?$"
SHOWN = 5  # ids named in an error
MOST = 65_536  # codes of a level


class Precomputed(Tokenizer):
    """SIDs from a file, so that any system's can be scored with the same decoder; nothing is fitted.

    Reads `index.json` as LC-Rec, LETTER and MiniOneRec write it, plain lists of integers as TIGER's, a
    parquet table, or a `.npy` whose row i is the item of id i. Items are joined by their ids as text. A
    shorter SID (a suffix that only colliding items have) ends in -1, which the resolver `keep` leaves as
    it is.
    """

    name = "precomputed"
    paper = "https://arxiv.org/abs/2311.09049"

    #: The file: index.json, .parquet with item_id and sid, or .npy whose row i is the item of id i.
    path: Path
    #: The number that the file counts codes from; auto is 1 where no code of the whole file is 0.
    base: Literal["auto", 0, 1] = "auto"
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
        import pyarrow as pa
        import pyarrow.compute as pc

        if "codes_" not in vars(self):
            found = self._file
            self.codes_, self.ids_, self.sizes_ = found.codes, found.ids, list(found.sizes)
            self.base_ = found.base
        wanted = pa.array(np.asarray(item_ids)).cast(pa.string())
        if self.ids_ is None:
            known = pa.array(np.arange(len(self.codes_))).cast(pa.string())
        else:
            known = pa.array(self.ids_, pa.string())
        row = pc.index_in(wanted, value_set=known)
        if row.null_count:
            missing = wanted.filter(pc.is_null(row)).slice(0, SHOWN).to_pylist()
            there = "rows are the items" if self.ids_ is None else "ids are such as"
            raise DataError(
                f"{self.path.name}: {row.null_count} of {len(wanted)} items of the dataset have no SID "
                f"there, such as {', '.join(missing)}; its {there} {', '.join(known[:SHOWN].to_pylist())}. "
                "Give a file for this dataset, with the dataset's own item ids"
            )
        self.unused_ = len(known) - len(pc.unique(row))
        codes: Codes = self.codes_[row.to_numpy()]
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
        ids, raw = read(self.path)
        codes, base = counted_from_zero(raw, self.base, self.path.name)
        return File(ids, codes, self._sizes_of(codes), base)

    def _sizes_of(self, codes: Codes) -> tuple[int, ...]:
        """The sizes of a file's levels: as given, if the file's codes fit, else its largest code and one."""
        levels, largest = codes.shape[1], codes.max(axis=0)
        given = self.codebook_size
        wanted = len(given) if isinstance(given, tuple) else self.levels
        if wanted not in (0, levels):
            raise DataError(
                f"{self.path.name} holds SIDs of up to {levels} codes, {self.name}.levels says {wanted}; "
                "leave levels out, or give the file that was meant"
            )
        if given == 0:
            given = tuple(int(code) + 1 for code in largest)
        sizes = given if isinstance(given, tuple) else (given,) * levels
        for level, (size, code) in enumerate(zip(sizes, largest, strict=True)):
            if code >= min(size, MOST):
                raise DataError(
                    f"{self.path.name}: level {level} holds code {code} (counted from 0), beyond "
                    f"{'codebook_size' if size <= MOST else 'the most that a level can have'} = "
                    f"{min(size, MOST)}; leave codebook_size out, or give the file that was meant"
                )
        return sizes


@dataclass(frozen=True, eq=False)
class File:
    """What a file of SIDs holds: ids as text (None: the rows' numbers) and codes from 0, -1 past an end."""

    ids: list[str] | None
    codes: Codes
    sizes: tuple[int, ...]
    base: int


def read(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    """Ids as text, if the file has any, and codes as the file counts them, -1 beyond the end of a SID."""
    import pyarrow as pa

    readers = {".json": _read_json, ".parquet": _read_parquet, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"precomputed.path = {path.name!r} is of no known form; expected {FORMS}")
    try:
        ids, codes = reader(path)
    except FileNotFoundError:
        raise UsageError(f"precomputed.path: there is no file {path}") from None
    except (OSError, EOFError, ValueError, TypeError, pa.ArrowException) as e:
        raise DataError(f"{path.name} cannot be read as SIDs ({e}); expected {FORMS}") from None
    if not codes.size:
        raise DataError(f"{path.name} holds no SIDs; expected {FORMS}")
    if ids is not None and len(set(ids)) < len(ids):
        twice = [i for i, count in zip(*np.unique(ids, return_counts=True), strict=True) if count > 1]
        raise DataError(f"{path.name} holds several SIDs for the same item: {', '.join(twice[:SHOWN])}")
    return ids, codes


def counted_from_zero(raw: NDArray[np.int64], base: Literal["auto", 0, 1], name: str) -> tuple[Codes, int]:
    """Codes that begin at 0, and the base they had."""
    end = raw == -1
    bad = np.argwhere((raw < -1) | (end[:, :1] & (np.arange(raw.shape[1]) == 0)))
    if len(bad):
        row, level = bad[0]
        raise DataError(
            f"{name}: row {row} has the code {raw[row, level]} at level {level}; codes are 0 or more, and "
            "only -1 may follow the last code of a shorter SID"
        )
    holes = np.flatnonzero((end[:, :-1] & ~end[:, 1:]).any(axis=1))
    if len(holes):
        raise DataError(
            f"{name}: row {holes[0]} is {raw[holes[0]].tolist()}: a code follows -1, the end of a SID"
        )
    lowest = int(raw[~end].min())
    found = min(lowest, 1) if base == "auto" else base
    if lowest < found:
        raise DataError(f"{name} holds the code 0, so its codes do not count from 1: leave out base = 1")
    return np.where(end, -1, raw - found).astype(np.int32), found


def _read_json(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    held = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_pairs)
    if isinstance(held, Pairs):
        return [key for key, _ in held], _matrix([sid for _, sid in held])
    if not isinstance(held, list):
        raise ValueError(f"it holds {type(held).__name__}")
    return None, _matrix(held)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with every pair that it has: a repeated key is an error to be told, not to be lost."""


def _pairs(pairs: list[tuple[str, Any]]) -> Pairs:
    return Pairs(pairs)


def _read_parquet(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    key = next((n for n in ("item_id", "item", "id") if n in names), None)
    if key is None or "sid" not in names:
        raise ValueError(f"its columns are {', '.join(names)}; expected item_id and sid")
    table = pq.read_table(path, columns=[key, "sid"])
    ids = table[key].cast(pa.string())
    if ids.null_count:
        raise ValueError(f"{ids.null_count} of its rows have no {key}")
    return ids.to_pylist(), _matrix(table["sid"])


def _read_npy(path: Path) -> tuple[list[str] | None, NDArray[np.int64]]:
    codes = np.load(path, allow_pickle=False)
    if not isinstance(codes, np.ndarray) or codes.ndim != 2:
        raise ValueError(f"it holds an array of shape {getattr(codes, 'shape', None)}")
    if codes.dtype.kind not in "iu":
        raise ValueError(f"its codes are {codes.dtype}, not integers")
    return None, codes.astype(np.int64)


def _matrix(sids: Any) -> NDArray[np.int64]:
    """Lists of integers or tokens as rows of one width, -1 beyond the end of a shorter one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sids = sids.combine_chunks() if isinstance(sids, pa.ChunkedArray) else pa.array(sids)
    if pa.types.is_fixed_size_list(sids.type):
        sids = sids.cast(pa.list_(sids.type.value_type))
    if not (pa.types.is_list(sids.type) or pa.types.is_large_list(sids.type)):
        raise ValueError(f"a SID is {sids.type}, not a list of codes")
    lengths = pc.fill_null(pc.list_value_length(sids), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not lengths.all():
        raise ValueError(f"row {int(np.flatnonzero(lengths == 0)[0])} has no codes")
    level = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    values = sids.flatten()
    if values.null_count:
        raise ValueError("some codes are null")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = _of_tokens(values, level)
    if not pa.types.is_integer(values.type):
        raise ValueError(f"its codes are {values.type}, not integers or tokens such as <a_12>")
    codes = np.full((len(sids), int(lengths.max(initial=0))), -1, dtype=np.int64)
    codes[np.repeat(np.arange(len(sids)), lengths), level] = values.to_numpy(zero_copy_only=False)
    return codes


def _of_tokens(tokens: Any, level: NDArray[np.int64]) -> Any:
    """The numbers of tokens such as <a_12>; the letter must be the same for a whole level."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(tokens, TOKEN)
    if parts.null_count:
        odd = tokens.filter(pc.is_null(parts))[0].as_py()
        raise ValueError(f"{odd!r} is no token such as <a_12>")
    letters = pc.struct_field(parts, "level").dictionary_encode()
    pairs = np.unique(np.stack([level, letters.indices.to_numpy()]), axis=1)
    if pairs.shape[1] > len(np.unique(level)):
        both = pairs[1, pairs[0] == pairs[0, np.flatnonzero(np.diff(pairs[0]) == 0)[0]]]
        seen = " and ".join(letters.dictionary.take(pa.array(both[:2])).to_pylist())
        raise ValueError(f"tokens of different levels stand in one place: {seen}")
    return pc.struct_field(parts, "code").cast(pa.int64())
