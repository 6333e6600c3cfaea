"""Lists and matrices of codes or tokens as one array, and what they prove of base, suffix and orientation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.format import MOST_CODES, MOST_LEVELS, Format, Found, How
from sidbench.sids import Codes

TOKEN = r"^<?(?P<level>[^0-9<>\s]\S*?_)(?P<code>[0-9]{1,18})>?$"
SHOWN = 5  # ids named in an error


@dataclass(frozen=True, eq=False)
class Table:
    """SIDs of a file once everything about it is settled: codes from 0, -1 beyond the end of a SID."""

    codes: Codes
    ids: list[str] | None
    base: int
    #: What the suffix counts from; none where the last code is a level like the others, or nobody says.
    suffix: int | None
    #: Codes at each level where a manifest states them.
    sizes: tuple[int, ...] | None = None
    titles: list[str] | None = None
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> int:
        """Levels before the suffix."""
        return int(self.codes.shape[1]) - (self.suffix is not None)


def settle(
    found: Found, how: How, form: Format, stated: dict[str, Any], name: str, beside: list[str] | None = None
) -> Table:
    """Base, orientation and suffix from what was said, what the manifest states and what the file proves.

    `beside` are ids from a table that was written with a file which has none.
    """
    raw = _turned(found, how, form, stated, name)
    if not raw.size:
        raise DataError(f"{name} holds no SIDs; expected those of at least one item, as {form.name}")
    ids = found.ids if found.ids is not None else beside
    if ids is None and form.first_id:
        ids = [str(n) for n in range(form.first_id, form.first_id + len(raw))]
    if ids is not None:
        _check_ids(ids, name)
    wanted = stated.get("items", len(raw) if ids is None else len(ids))
    if len(raw) != wanted:
        raise DataError(
            f"{name} has {len(raw):,} items where {wanted:,} are stated beside it: row "
            f"{min(len(raw), wanted)} and later are missing or too many; export it again"
        )
    if raw.shape[1] > MOST_LEVELS:
        raise DataError(
            f"{name}: row 0{_called(ids, 0)} has {raw.shape[1]:,} codes, and a SID has at most "
            f"{MOST_LEVELS}; a "
            "file with a list for each level is turned round (--orientation levels), where it has no ids"
        )
    _check_codes(raw, ids, name)
    suffix = _suffix(raw, how, form, stated)
    base = _base(raw, suffix, how, form, stated, name)
    codes = _from_zero(raw, base, suffix, ids, how, name)
    sizes = stated.get("sizes")
    who, remedy = "its manifest states", "remove the manifest and give base and suffix"
    if sizes is None and found.sizes is not None and len(found.sizes) == codes.shape[1]:
        sizes, who, remedy = found.sizes, "it states", "write the file again, with sizes that hold its codes"
    if sizes is not None:
        sizes = tuple(int(s) for s in sizes)
        if len(sizes) != codes.shape[1] or (codes.max(axis=0) >= sizes).any():
            raise DataError(
                f"{name}: {who} sizes {', '.join(map(str, sizes))}, and its codes go up to "
                f"{', '.join(str(c) for c in codes.max(axis=0))} (from 0); {remedy}"
            )
    counted = base if suffix == "same" else suffix
    notes: tuple[str, ...] = (f"counts codes from {base}",)
    if counted is not None:
        notes += (f"the last code is a suffix, counted from {counted}",)
    return Table(codes, ids, base, counted, sizes, found.titles, notes, stated)


def _turned(found: Found, how: How, form: Format, stated: dict[str, Any], name: str) -> NDArray[np.int64]:
    """Codes with a row for each item."""
    codes = found.codes
    if found.rows_are_items:
        return codes
    shape = f"{codes.shape[0]:,} x {codes.shape[1]:,}"
    said = how.orientation if how.orientation != "auto" else stated.get("orientation")
    ways = (
        f"give {how.flag('orientation', 'items')} if each row is an item, "
        f"{how.flag('orientation', 'levels')} if each row is a level"
    )
    possible = [way for way, axis in (("items", 1), ("levels", 0)) if codes.shape[axis] <= MOST_LEVELS]
    if not possible:
        raise DataError(
            f"{name} is a matrix of {shape}; expected at most {MOST_LEVELS} codes an item, in one direction"
        )
    if said is None:
        if len(possible) == 2:
            raise DataError(
                f"{name} is a matrix of {shape}, which does not say whether a row is an item or a level; "
                f"{ways}"
            )
        if possible != [form.rows]:
            raise DataError(
                f"{name} is a matrix of {shape}; {form.name} has a row for each "
                f"{'item' if form.rows == 'items' else 'level'}, so this one is turned or torn; {ways}"
            )
        said = form.rows
    if said not in possible:
        raise DataError(
            f"{name} is a matrix of {shape}: with a row for each {said[:-1]} an item would have "
            f"{codes.shape[1 if said == 'items' else 0]:,} codes, and {MOST_LEVELS} is the most"
        )
    return codes if said == "items" else np.ascontiguousarray(codes.T)


def _check_ids(ids: list[str], name: str) -> None:
    text = "".join(ids)
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in set(text)):
        row = next(n for n, i in enumerate(ids) if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in i))
        raise DataError(
            f"{name}: row {row} has the id {ids[row]!r}, which is no text that files can hold; repair the "
            "row, or write the file again"
        )
    if not all(map(str.strip, ids)):
        row = next(n for n, i in enumerate(ids) if not i.strip())
        raise DataError(
            f"{name}: row {row} has the id {ids[row]!r}, which is empty: nobody could look the item up; give "
            "each item an id"
        )
    if len(set(ids)) < len(ids):
        first = {i: n for n, i in reversed(list(enumerate(ids)))}
        row, twice = next((n, i) for n, i in enumerate(ids) if first[i] < n)
        raise DataError(
            f"{name} holds several SIDs for the same item: {twice}, the second in row {row} (counted from "
            "0); remove one of them"
        )


def _check_codes(raw: NDArray[np.int64], ids: list[str] | None, name: str) -> None:
    """Every code can be one, and -1 only ends a SID."""
    end = raw == -1
    bad = np.argwhere((raw < -1) | (end[:, :1] & (np.arange(raw.shape[1]) == 0)) | (raw > MOST_CODES))
    if len(bad):
        row, level = (int(n) for n in bad[0])
        code = raw[row, level]
        why = (
            f"{MOST_CODES - 1:,} is the most that a level can have"
            if code > 0
            else "codes are 0 or more, and only -1 may follow the last code of a shorter SID"
        )
        raise DataError(
            f"{name}: row {row}{_called(ids, row)} has the code {code} at level {level}; {why}. Repair the "
            "row, or write the file again"
        )
    holes = np.flatnonzero((end[:, :-1] & ~end[:, 1:]).any(axis=1))
    if len(holes):
        row = int(holes[0])
        raise DataError(
            f"{name}: row {row}{_called(ids, row)} is {raw[row].tolist()}: a code follows -1, the end of a "
            "SID; repair the row, or write the file again"
        )


def _suffix(
    raw: NDArray[np.int64], how: How, form: Format, stated: dict[str, Any]
) -> int | Literal["same"] | None:
    """What the last code counts from where it is a suffix; `same` where it counts as the levels do."""
    if how.suffix != "auto":
        return None if how.suffix == "none" else how.suffix
    if "suffix" in stated:
        known = stated["suffix"]
        return None if known is None else int(known["base"])
    if raw.shape[1] > 1 and form.ends_in_suffix:
        return 0
    if raw.shape[1] > 1 and (raw[:, -1] == -1).any() and (raw[:, -2] != -1).all():
        return "same"  # some items alone have a last code: what only sets them apart
    return None


def _base(
    raw: NDArray[np.int64],
    suffix: int | Literal["same"] | None,
    how: How,
    form: Format,
    stated: dict[str, Any],
    name: str,
) -> int:
    """The one number that the levels count from: said, stated, or proven by a code 0."""
    levels = raw[:, :-1] if suffix in (0, 1) and raw.shape[1] > 1 else raw
    if how.base != "auto":
        if how.base not in form.bases:
            raise DataError(
                f"{name}: {form.name} counts from {form.bases[0]} always; leave "
                f"{how.flag('base', how.base)} out, "
                f"or read it as another format ({how.flag('format', 'json')})"
            )
        return int(how.base)
    if "base" in stated:
        return int(stated["base"])
    first = (levels == 0).any(axis=0)
    # A suffix that only some items have may count otherwise than the levels: it proves nothing of them.
    apart = isinstance(suffix, int) or levels.shape[1] == 1
    if first[: None if apart else -1].any():
        return 0
    advice = (
        f"give {how.flag('base', 1)} if its codes are 1 to K (MiniOneRec's constrained and plus scripts "
        f"write so), {how.flag('base', 0)} if they are 0 to K - 1 and no item has 0"
    )
    if form.bases == (0,):
        advice = f"{form.name} counts from 0: give {how.flag('base', 0)} if so, and no item has 0"
    if first.any():
        raise DataError(
            f"{name} has the code 0 in its last column alone, which may be a suffix that counts otherwise "
            "than "
            f"the levels: {advice}; {how.flag('suffix', 0)} says that the last column is a suffix from 0"
        )
    raise DataError(
        f"{name} has no code 0, so it does not say whether its codes count from 0 or from 1: {advice}"
    )


def _from_zero(
    raw: NDArray[np.int64],
    base: int,
    suffix: int | Literal["same"] | None,
    ids: list[str] | None,
    how: How,
    name: str,
) -> Codes:
    """Codes that begin at 0, level by level, and the suffix too."""
    offsets = np.full(raw.shape[1], base)
    if isinstance(suffix, int) and raw.shape[1] > 1:
        offsets[-1] = suffix
    low = np.argwhere((raw < offsets) & (raw != -1))
    if len(low):
        row, level = (int(n) for n in low[0])
        raise DataError(
            f"{name}: row {row}{_called(ids, row)} holds the code {raw[row, level]} at level {level}, so "
            "its codes "
            f"do not count from {offsets[level]}: give {how.flag('base', 0)}, or leave base (or suffix) out"
        )
    codes = np.where(raw == -1, -1, raw - offsets)
    if codes.max() >= MOST_CODES:
        row, level = (int(n) for n in np.argwhere(codes >= MOST_CODES)[0])
        raise DataError(
            f"{name}: row {row}{_called(ids, row)} has the code {codes[row, level]} at level {level} "
            f"(counted from 0), beyond the most that a level can have = {MOST_CODES}; repair the row"
        )
    return codes.astype(np.int32)


def _called(ids: list[str] | None, row: int) -> str:
    return "" if ids is None else f" (item {ids[row]!r})"


def rows_of(ids: list[str] | None, count: int, item_ids: NDArray[Any], name: str) -> NDArray[np.int64]:
    """The row of a file's SIDs for each of these items, joined by their ids as text; all must be there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(np.asarray(item_ids)).cast(pa.string())
    known = pa.array(np.arange(count)).cast(pa.string()) if ids is None else pa.array(ids, pa.string())
    row = pc.index_in(wanted, value_set=known)
    if row.null_count:
        missing = wanted.filter(pc.is_null(row)).slice(0, SHOWN).to_pylist()
        there = "rows are the items" if ids is None else "ids are such as"
        raise DataError(
            f"{name}: {row.null_count} of {len(wanted)} items of the dataset have no SID "
            f"there, such as {', '.join(missing)}; its {there} {', '.join(known[:SHOWN].to_pylist())}. "
            "Give a file for this dataset, with the dataset's own item ids"
        )
    found: NDArray[np.int64] = row.to_numpy().astype(np.int64)
    return found


def from_lists(sids: Any, name: str, ids: list[str] | None = None, how: How | None = None) -> Found:
    """Lists of integers or tokens, one an item (or one a level, where that is said), as one matrix."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keyed = ids is not None
    given = sids
    if not isinstance(sids, (pa.Array, pa.ChunkedArray)):
        if how is not None and how.orientation == "levels" and not keyed:
            sids = given = _of_levels(sids, name)
            keyed = True
        try:
            sids = pa.array(sids)
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            raise DataError(_blame(given, name, ids)) from None
    elif isinstance(sids, pa.ChunkedArray):
        sids = sids.combine_chunks()
    if pa.types.is_fixed_size_list(sids.type):
        sids = sids.cast(pa.list_(sids.type.value_type))
    if pa.types.is_null(sids.type) and not len(sids):
        return Found(np.zeros((0, 0), np.int64), ids, rows_are_items=keyed)
    if not (pa.types.is_list(sids.type) or pa.types.is_large_list(sids.type)):
        raise DataError(_blame(given, name, ids))
    lengths = pc.fill_null(pc.list_value_length(sids), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = sids.flatten()
    if not lengths.all() or values.null_count:
        raise DataError(_blame(given, name, ids))
    level = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    lettered = False
    if any(of(values.type) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)):
        row = np.repeat(np.arange(len(sids)), lengths)
        values, lettered = of_tokens(values, level, row, name, ids)
    if not pa.types.is_integer(values.type):
        raise DataError(_blame(given, name, ids))
    longest = int(lengths.max(initial=0))
    if longest > MOST_LEVELS and (keyed or lengths.min() < longest):
        row_ = int(lengths.argmax())
        raise DataError(
            f"{name}: row {row_}{_called(ids, row_)} has {longest:,} codes, and {MOST_LEVELS} is the most; "
            "repair the row, or give the file that holds SIDs"
        )
    codes = np.full((len(sids), longest), -1, dtype=np.int64)
    try:
        codes[np.repeat(np.arange(len(sids)), lengths), level] = values.cast(pa.int64()).to_numpy(
            zero_copy_only=False
        )
    except pa.ArrowInvalid:
        raise DataError(_blame(given, name, ids)) from None
    ragged = bool(len(lengths)) and bool(lengths.min() < longest)
    return Found(codes, ids, rows_are_items=keyed or lettered or ragged)


def _of_levels(sids: Any, name: str) -> list[list[Any]]:
    """Lists for each level as lists for each item."""
    if not all(isinstance(level, list) for level in sids) or len({len(level) for level in sids}) > 1:
        lengths = ", ".join(str(len(s)) if isinstance(s, list) else "none" for s in sids[:MOST_LEVELS])
        raise DataError(
            f"{name}: its levels have {lengths} codes; with a list for each level all have one code for "
            "each item"
        )
    return [list(item) for item in zip(*sids, strict=True)]


def of_tokens(
    tokens: Any, level: NDArray[np.int64], row: NDArray[np.int64], name: str, ids: list[str] | None
) -> tuple[Any, bool]:
    """The numbers of tokens such as <a_12>, and whether their letters tell the levels apart.

    A place has one letter throughout: a file turned round would have several.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    # A few hundred tokens, however many items have them.
    distinct = tokens if pa.types.is_dictionary(tokens.type) else tokens.dictionary_encode()
    parts = pc.extract_regex(distinct.dictionary, TOKEN)
    at_token = distinct.indices.to_numpy(zero_copy_only=False)
    if parts.null_count:
        odd_tokens = np.flatnonzero(pc.is_null(parts).to_numpy(zero_copy_only=False))
        at = int(np.flatnonzero(np.isin(at_token, odd_tokens))[0])
        raise DataError(
            f"{name}: row {row[at]}{_called(ids, int(row[at]))} has {_short(tokens[at].as_py())}, which is "
            "no token such as <a_12>; repair the row, or write the file again"
        )
    letters = pc.struct_field(parts, "level").dictionary_encode()
    which = letters.indices.to_numpy()[at_token]
    first = np.full(int(level.max()) + 1, -1)
    first[level[::-1]] = which[::-1]
    odd = np.flatnonzero(first[level] != which)
    if len(odd):
        at = int(odd[0])
        seen = letters.dictionary.take(pa.array([first[level[at]], which[at]])).to_pylist()
        raise DataError(
            f"{name}: row {row[at]}{_called(ids, int(row[at]))}: tokens of different levels stand in one "
            "place, "
            f"<{seen[0]} and <{seen[1]}; a list for each level is read with --orientation levels, any other "
            "such row must be repaired"
        )
    numbers = pc.struct_field(parts, "code").cast(pa.int64()).take(distinct.indices)
    return numbers, len(first) > 1 and len(set(first.tolist())) == len(first)


def from_matrix(codes: Any, name: str, ids: list[str] | None = None) -> Found:
    """An array of integers; which way round it stands is for `settle` to find out."""
    if not isinstance(codes, np.ndarray) or codes.ndim != 2:
        raise DataError(
            f"{name} holds an array of shape {getattr(codes, 'shape', None)}; expected (items, levels)"
        )
    if codes.dtype.kind == "f":
        odd = np.argwhere(~(np.isfinite(codes) & (codes == np.rint(codes))))
        what = f"; row {odd[0][0]}, column {odd[0][1]} has {codes[tuple(odd[0])]}" if len(odd) else ""
        raise DataError(f"{name}: its codes are {codes.dtype}, not integers{what}; write them as integers")
    if codes.dtype.kind not in "iu":
        raise DataError(f"{name}: its codes are {codes.dtype}, not integers; write them as integers")
    if codes.dtype == np.uint64:  # what no signed number holds would come out below 0
        codes = np.minimum(codes, np.iinfo(np.int64).max)
    return Found(codes.astype(np.int64), ids, rows_are_items=ids is not None)


def _blame(given: Any, name: str, ids: list[str] | None) -> str:
    """The first row that is no list of codes, as a sentence; only after something failed."""
    import pyarrow as pa

    remedy = "repair the row, or write the file again"
    kind: type | None = None
    floats = False
    if isinstance(given, (pa.Array, pa.ChunkedArray)):
        inner = given.type.value_type if pa.types.is_nested(given.type) else given.type
        floats, given = pa.types.is_floating(inner), given.to_pylist()
    for row, sid in enumerate(given):
        where = f"{name}: row {row}{_called(ids, row)}"
        if not isinstance(sid, list):
            return f"{where} is {_short(sid)}, not a list of codes; {remedy}"
        if not sid:
            return f"{where} has no codes; {remedy}"
        for code in sid:
            if code is None:
                return f"{where} has a code that is null; {remedy}"
            if floats and isinstance(code, float) and code.is_integer():
                continue  # the whole column is of floats: what is worse comes first
            if type(code) not in (int, str):
                return f"{where} has {_short(code)}, which is {type(code).__name__}, not integers; {remedy}"
            if kind is not None and type(code) is not kind:
                return f"{where} has {_short(code)}: integers and tokens do not mix in one file; {remedy}"
            kind = type(code)
            if kind is int and not -1 <= code <= MOST_CODES:
                return (
                    f"{where} has the code {_short(code)}; codes are 0 to {MOST_CODES - 1:,}, and -1 after "
                    f"the last; {remedy}"
                )
    if floats:
        return f"{name}: its codes are floats, not integers; write them as integers"
    return f"{name} holds no lists of codes; {remedy}"


def _short(value: Any) -> str:
    kind = type(value)
    if kind in (dict, list, tuple):
        return f"a {kind.__name__}"
    text = repr(value) if kind is not int or abs(value) < 10**18 else "a number of many digits"
    return text if len(text) <= 40 else text[:40] + "…"
