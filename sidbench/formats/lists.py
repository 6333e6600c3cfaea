"""Lists of codes or tokens out of JSON of any length, block by block with NumPy; odd JSON is left alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.formats import safe

#: What a byte is outside of text. What stands for itself comes first; `S` is a whole text, `D` a digit.
S, D, MINUS, COMMA, COLON, OPEN, CLOSE, OTHER, SKIP = range(9)
KINDS = np.full(256, OTHER, np.uint8)
KINDS[[ord(c) for c in " \t\n\r"]] = SKIP
KINDS[[ord(c) for c in "0123456789"]] = D
for _byte, _kind in {"-": MINUS, ",": COMMA, ":": COLON, "[": OPEN, "]": CLOSE, '"': S}.items():
    KINDS[ord(_byte)] = _kind

QUOTE, BACKSLASH, DIGITS = ord('"'), b"\\", 18
POWERS = 10 ** np.arange(DIGITS, dtype=np.int64)
#: How hf-tokens begins: the tokens, and then the items.
SPACE = rb"[ \t\n\r]*"
HEAD = re.compile(
    SPACE.join([b"", rb"\{", b'"added_tokens"', b":", rb"(\[[^\]\\]*\])", b",", b'"items"', b":", b""])
)


class Odd(Exception):
    """This is other JSON than lists of numbers, or of plain texts, by name or one after the other."""


@dataclass
class Lists:
    """The lists of a file, and the name of each where it has names: text (or numbers) as Arrow holds it."""

    #: A list array; null where nothing was read.
    held: Any = None
    names: Any = None
    #: What stood before the items of hf-tokens.
    tokens: list[Any] = field(default_factory=list)

    @property
    def ids(self) -> list[str] | None:
        """The names as Python has them."""
        if self.names is None:
            return None
        ids: list[str] = self.names.to_pylist()
        return ids


def of_file(path: Path, *, after_tokens: bool = False) -> Lists | None:
    """The lists of a file; None where `json` must look at it, and say what is wrong if anything is."""
    with closing(safe.pieces(path)) as pieces:
        try:
            return read(pieces, after_tokens=after_tokens)
        except Odd:
            return None


def read(pieces: Iterable[bytes], *, after_tokens: bool = False) -> Lists:
    """All lists of an object, or of a list, whose text comes in pieces; `Odd` where there is more to it.

    What is accepted is JSON to the last byte, and means what `json` would make of it: strings without
    escapes, integers of up to 18 digits. Nothing but arrays of numbers grows with the file.
    """
    import pyarrow as pa

    found = Lists()
    parts: list[_Part] = []
    todo = iter(pieces)
    text = next(todo, b"")
    if after_tokens:
        head = HEAD.match(text)
        if head is None:
            raise Odd
        try:
            found.tokens = json.loads(head[1])
        except ValueError:
            raise Odd from None
        text = text[head.end() :]
    text = text.lstrip(b" \t\n\r")
    named = text[:1] == b"{"
    if not named and (text[:1] != b"[" or after_tokens):
        raise Odd
    text = text[1:]
    for following in _with_next(todo):
        if following is None:
            parts.append(_part(_ended(text, named, after_tokens), named))
            break
        end = _last_whole(text)
        if end:
            parts.append(_part(text[:end], named))
            text = text[end + 1 :]
        elif len(text) > 4 * len(following) + (1 << 20):
            raise Odd  # one list as long as the file: nothing is gained here
        text += following
    if any(p.values.type != parts[0].values.type for p in parts):
        raise Odd
    values = pa.chunked_array([p.values for p in parts])
    if pa.types.is_dictionary(values.type):
        values = values.unify_dictionaries()
    values = values.combine_chunks()
    ends = np.cumsum(np.concatenate([p.lengths for p in parts]), dtype=np.int64)
    offsets = pa.array(np.concatenate([[0], ends]))
    found.held = pa.LargeListArray.from_arrays(offsets, values)
    if named:
        found.names = pa.chunked_array([p.names for p in parts])
    return found


def _with_next(pieces: Iterator[bytes]) -> Iterator[bytes | None]:
    """Every piece, and None at the end."""
    yield from pieces
    yield None


def _last_whole(text: bytes) -> int:
    """Where the last list ends that a comma follows, outside of all text; 0 where there is none."""
    end = len(text)
    for _ in range(64):
        end = text.rfind(b"],", 0, end)
        if end < 0:
            return 0
        if not text.count(b'"', 0, end) % 2:
            return end + 1
    return 0


def _ended(text: bytes, named: bool, twice: bool) -> bytes:
    """What stands before the last brackets."""
    for close in (b"}" if named else b"]",) + ((b"}",) if twice else ()):
        text = text.rstrip(b" \t\n\r")
        if text[-1:] != close:
            raise Odd
        text = text[:-1]
    return text


@dataclass
class _Part:
    """The lists of one block."""

    values: Any
    lengths: NDArray[np.int64]
    names: Any


def _allowed(named: bool, kind: int) -> NDArray[np.bool_]:
    """Which kind may follow which: [within a list, first, second]."""
    may = np.zeros((2, 8, 8), np.bool_)
    within = [(OPEN, kind), (COMMA, kind), (kind, COMMA), (kind, CLOSE)]
    if kind == D:
        within += [(D, D), (OPEN, MINUS), (COMMA, MINUS), (MINUS, D)]
    between = [(CLOSE, COMMA)] + ([(COMMA, S), (S, COLON), (COLON, OPEN)] if named else [(COMMA, OPEN)])
    for at, pairs in enumerate((between, within)):
        for first, second in pairs:
            may[at, first, second] = True
    return may


MAY = {(named, kind): _allowed(named, kind) for named in (False, True) for kind in (S, D)}


def _part(text: bytes, named: bool) -> _Part:
    """The lists of a block that begins with one and ends with one: every byte is looked at, none is passed.

    Bytes become kinds, texts a kind each; which kind may follow which, in and out of a list, is all there is
    to the grammar.
    """
    import pyarrow as pa

    if BACKSLASH in text:
        raise Odd
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise Odd from None
    data = np.frombuffer(text, np.uint8)
    quote = data == QUOTE
    inside = np.bitwise_xor.accumulate(quote.view(np.uint8)).view(np.bool_) if len(data) else quote
    if not len(data) or inside[-1]:
        raise Odd
    begins = quote & inside
    content = inside & ~quote
    kinds = KINDS[data]
    kinds[content | (quote & ~inside)] = SKIP
    place = np.flatnonzero(kinds != SKIP)
    stream = kinds[place]
    held = data[content]
    if not len(stream) or (held < 32).any() or (stream == OTHER).any():
        raise Odd
    # Within a list: from its bracket to the byte before the other one.
    bracket = (stream == OPEN) | (stream == CLOSE)
    within = np.bitwise_xor.accumulate(bracket.view(np.uint8))
    at = 3 if named else 1  # the first thing in the first list
    kind = S if len(stream) > at and stream[at] == S else D
    may = MAY[named, kind]
    steps = may[within[:-1], stream[:-1], stream[1:]]
    start = S if named else OPEN
    if not steps.all() or stream[0] != start or stream[-1] != CLOSE or (within[stream == CLOSE] != 0).any():
        raise Odd
    opened, closed = np.flatnonzero(stream == OPEN), np.flatnonzero(stream == CLOSE)
    commas = np.cumsum(stream == COMMA)
    lengths = (commas[closed] - commas[opened] + 1).astype(np.int64)
    is_text = stream == S
    # Where each text ends and how long it is: content lies one behind the other.
    ends = np.flatnonzero(quote & ~inside)
    sizes = ends - np.flatnonzero(begins) - 1
    value = within[is_text].view(np.bool_)
    if kind == S:
        # A few hundred tokens, however many items have them.
        values = _texts(held[np.repeat(value, sizes)], sizes[value]).dictionary_encode()
    else:
        values = pa.array(_numbers(data, place, stream))
    names = None
    if named:
        names = _texts(held[np.repeat(~value, sizes)] if kind == S else held, sizes[~value])
    return _Part(values, lengths, names)


def _texts(held: NDArray[np.uint8], sizes: NDArray[np.int64]) -> Any:
    """Texts that lie one behind the other, as an array of them."""
    import pyarrow as pa

    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.StringArray.from_buffers(len(sizes), pa.py_buffer(offsets), pa.py_buffer(held))


def _numbers(
    data: NDArray[np.uint8], place: NDArray[np.int64], stream: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """The integers among the bytes; digits of one stand side by side, and none has a 0 before others."""
    digit = stream == D
    joined = digit[1:] & (digit[:-1] | (stream[:-1] == MINUS))
    if (np.diff(place)[joined] != 1).any():
        raise Odd
    at = np.flatnonzero(digit)
    number = data[place[at]].astype(np.int64) - ord("0")
    begins = np.flatnonzero(~(digit[at - 1] & (at > 0)))
    lengths = np.diff(np.append(begins, len(at)))
    if (lengths > DIGITS).any() or ((number[begins] == 0) & (lengths > 1)).any():
        raise Odd
    power = np.repeat(begins + lengths - 1, lengths) - np.arange(len(at))
    out: NDArray[np.int64] = np.add.reduceat(number * POWERS[power], begins)
    negative = stream[np.maximum(at[begins] - 1, 0)] == MINUS
    return np.where(negative, -out, out)
