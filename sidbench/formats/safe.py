"""Reading files of strangers: pickles without code, archives that do not blow up, JSON of bounded size."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import mmap
import pickle
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError, UsageError

#: Bytes that anything packed may have unpacked; every function takes another number.
MOST = 8 << 30
#: An archive may grow by this factor; what is small may grow by any.
GROWTH = 200
SMALL = 64 << 20
#: Bytes of text that are looked at together.
PIECE = 8 << 20

REMEDY = "get the file again from where it was made, or write it there in another form"


class Pairs(list[tuple[str, Any]]):
    """A JSON object with every pair that it has: a repeated key is an error to be told, not to be lost."""


# -- JSON ----------------------------------------------------------------------------------------------


def read_text(path: Path, most: int = MOST) -> str:
    """The text of a file, unpacked where it is gzip (by its first bytes, whatever its name)."""
    with _told(path, "text in UTF-8"):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if not packed:
            _check_size(path, path.stat().st_size, most)
            return path.read_text(encoding="utf-8-sig")
        return b"".join(_unpacked(path, most)).decode("utf-8-sig")


def pieces(path: Path, most: int = MOST, size: int = PIECE) -> Generator[bytes, None, None]:
    """The same text as bytes, a piece at a time; whether it is UTF-8 is for the caller to see."""
    with _told(path, "text in UTF-8"), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            _check_size(path, path.stat().st_size, most)
        found = _unpacked(path, most, size) if packed else iter(lambda: file.read(size), b"")
        for n, piece in enumerate(found):
            yield piece if n else piece.removeprefix(codecs.BOM_UTF8)


def read_json(path: Path, most: int = MOST, *, pairs: bool = False, nan: bool = False) -> Any:
    """What a JSON file holds, gzip or not. With `pairs` an object is a list of its pairs.

    NaN, which is no JSON, is refused, or read where the caller names the row that has it.
    """
    text = read_text(path, most)
    hook: Callable[[list[tuple[str, Any]]], Any] | None = Pairs if pairs else None
    try:
        return json.loads(text, object_pairs_hook=hook, parse_constant=float if nan else _no_number)
    except RecursionError:
        raise DataError(f"{path.name} is JSON nested without end; {REMEDY}") from None
    except json.JSONDecodeError as e:  # tells line and column
        raise DataError(f"{path.name} cannot be read as JSON ({e}{_near(text, e)}); {REMEDY}") from None
    except ValueError as e:
        raise DataError(f"{path.name} cannot be read as JSON ({e}); {REMEDY}") from None


def _near(text: str, error: json.JSONDecodeError) -> str:
    """The name that stands before a fault, and whether the text just ends there."""
    ends = error.msg.startswith("Unterminated") or not text[error.pos :].strip()
    names = re.findall(r'"((?:[^"\\]|\\.){0,200})"\s*:', text[max(0, error.pos - 4096) : error.pos])
    after = f", after the name {names[-1][:40]!r}" if names else ""
    return after + (", where the file ends: it is torn" if ends and text.strip() else "")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is no number")


def _unpacked(path: Path, most: int, size: int = 1 << 24) -> Iterator[bytes]:
    packed, length = path.stat().st_size, 0
    with gzip.open(path) as file:
        while piece := file.read(size):
            length += len(piece)
            check_growth(path, "it", length, packed, most)
            yield piece


# -- .npy and .npz ---------------------------------------------------------------------------------------


def read_npy(path: Path, *, mmap_mode: bool = False) -> NDArray[Any]:
    """The array of a `.npy` file; what its header claims must be what the file has."""
    with _told(path, "a .npy file"), path.open("rb") as file:
        _check_header(file, path.stat().st_size)
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap_mode else None, allow_pickle=False)
        return array


def read_npz(path: Path, names: tuple[str, ...] | None = None, most: int = MOST) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file by name, or these alone; each is size-checked before it is read."""
    with _told(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        check_zip(archive, path, most)
        there = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if not i.is_dir()}
        if missing := [n for n in names or () if n not in there]:
            raise DataError(f"{path.name} has no array {missing[0]!r}; it has {_few(list(there))}")
        out = {}
        for name in there if names is None else names:
            info = there[name]
            if not info.filename.endswith(".npy"):
                raise ValueError(f"its member {info.filename!r} is no array")
            with archive.open(info) as file:
                held = io.BytesIO(file.read(info.file_size))
            _check_header(held, info.file_size)
            out[name] = np.lib.format.read_array(held, allow_pickle=False)
        return out


def check_zip(archive: zipfile.ZipFile, path: Path, most: int = MOST) -> None:
    """Refuse an archive that would unpack to more than it may; nothing is unpacked for that."""
    infos = archive.infolist()
    _check_size(path, sum(i.file_size for i in infos), most)
    if len({i.filename for i in infos}) < len(infos):
        raise ValueError("several of its members have one name")
    size = path.stat().st_size
    if sum(i.compress_size for i in infos) > size:
        raise DataError(f"{path.name} is refused: its members overlap, as in a zip bomb; {REMEDY}")
    for info in infos:
        check_growth(path, repr(info.filename), info.file_size, info.compress_size, most)


def read_member(archive: zipfile.ZipFile, name: str, path: Path, most: int = MOST) -> bytes:
    """One member of an archive, size-checked before it is read."""
    with _told(path, "a zip archive"):
        check_zip(archive, path, most)
        return archive.read(name)


def _check_header(file: IO[bytes], size: int) -> None:
    """Read the header of an array and go back: it must claim the bytes that follow it."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version is {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which may be code; save numbers (or text) alone")
    wanted, there = dtype.itemsize * _product(shape), size - file.tell()
    if wanted != there or min(shape, default=0) < 0:
        raise ValueError(f"its header claims an array of {shape} ({wanted} bytes), and {there} bytes follow")
    file.seek(0)


def _product(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:  # not np.prod, which wraps around
        out *= int(n)
    return out


# -- pickles ---------------------------------------------------------------------------------------------


def unpickle(path: Path, most: int = MOST) -> Any:
    """What a pickle holds where that is numbers, text, bytes, lists, tuples, dicts and NumPy arrays.

    Nothing in the file can name a function or class of its own choice: anything else is refused by name.
    Parts may be shared, so look at types before walking into depth.
    """
    with _told(path, "a pickle of numbers, text, lists, dicts and arrays"), path.open("rb") as file:
        size = path.stat().st_size
        _check_size(path, size, most)
        if not size:
            raise EOFError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            scan_pickle(held)
        try:
            return _Unpickler(file, encoding="latin1").load()
        except (AttributeError, IndexError, KeyError, ImportError, RecursionError, AssertionError) as e:
            raise ValueError(f"{type(e).__name__}: {e}") from None


class _Unpickler(pickle.Unpickler):
    """Knows NumPy's own few names, by stand-ins that check what they are given, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise Refused(
                f"it asks for {module}.{name}, which is refused since it may run code: only numbers, text, "
                "lists, dicts and NumPy arrays of numbers or text are read"
            )
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        raise Refused("it refers to objects outside the file")


class Refused(ValueError):
    """A file asks for more than data."""


class _Fixed:
    """Something that a pickle may name and cannot change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise Refused("it changes what it may only use")


class _DType(_Fixed):
    """Stands for numpy.dtype: of numbers and text alone, its state read and never handed to NumPy."""

    __slots__ = ("real",)

    def __init__(self, spec: str) -> None:
        self.real: np.dtype[Any] = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:  # type: ignore[override]
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise Refused("a data type in it is described in no known way")
        self.real = self.real.newbyteorder(state[1] if state[1] in "<>" else "=")


class _MakeDType(_Fixed):
    __slots__ = ()

    def __call__(self, spec: Any = None, align: Any = False, copy: Any = False) -> _DType:
        if not isinstance(spec, str) or not re.fullmatch(r"[biuf][1248]|[SU][1-9][0-9]{0,4}", spec):
            raise Refused(f"it holds an array of {spec!r}: only numbers and text are read")
        return _DType(spec)


class _Array(np.ndarray[Any, Any]):
    """An array on its way out of a pickle; its content is taken only where sizes agree."""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refused("an array in it has no known form")
        _, shape, dtype, fortran, raw = state
        if type(raw) is str:
            raw = raw.encode("latin1")
        _check_array(shape, dtype, raw)
        super().__setstate__((1, shape, dtype.real, bool(fortran), bytes(raw)))  # type: ignore[arg-type]


def _check_array(shape: Any, dtype: Any, raw: Any) -> None:
    if type(dtype) is not _DType or type(raw) not in (bytes, bytearray):
        raise Refused("an array in it holds something other than numbers and text")
    if type(shape) is not tuple:
        raise Refused("an array in it has no shape")
    size = dtype.real.itemsize
    for n in shape:
        if type(n) is not int or n < 0:
            raise Refused("an array in it has no shape")
        size *= n
    if size != len(raw):
        raise Refused(f"an array in it claims a shape which its {len(raw)} bytes are not")


class _Reconstruct(_Fixed):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> NDArray[Any]:
        if kind is not _NDARRAY or shape != (0,):
            raise Refused("an array in it has no known form")
        return np.ndarray.__new__(_Array, (0,), np.int8)


class _FromBuffer(_Fixed):
    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
        _check_array(shape, dtype, raw)
        if order not in ("C", "F"):
            raise Refused("an array in it has no known order")
        flat: NDArray[Any] = np.frombuffer(raw, dtype=dtype.real)
        return flat.reshape(shape, order=order)


class _Scalar(_Fixed):
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> Any:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        _check_array((), dtype, raw)
        return np.frombuffer(raw, dtype=dtype.real)[0]


class _Encode(_Fixed):
    """Old protocols write bytes as text and the name of an encoding."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise Refused("it holds bytes in no known form")
        return text.encode("latin1")


class _Empty(_Fixed):
    """A type that is called without anything: what it makes is empty."""

    __slots__ = ("kind",)

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __call__(self) -> Any:
        return self.kind()


_NDARRAY = _Fixed()
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _MakeDType(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy.core.multiarray", "scalar"): _Scalar(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("_codecs", "encode"): _Encode(),
    ("collections", "OrderedDict"): _Empty(dict),
    ("__builtin__", "bytes"): _Empty(bytes),
}

#: What follows an opcode: so many bytes, a length of so many bytes and then that, or lines of text.
_BYTES = dict.fromkeys(b"(.012NRQabde}]lstu)o\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98", 0)
_BYTES |= {ord("K"): 1, ord("M"): 2, ord("J"): 4, ord("G"): 8, ord("h"): 1, ord("j"): 4, 0x80: 1, 0x95: 8}
_LENGTHS = {ord(k): n for k, n in {"T": 4, "U": 1, "B": 4, "C": 1, "X": 4}.items()}
_LENGTHS |= {0x8A: 1, 0x8B: 4, 0x8C: 1, 0x8D: 8, 0x8E: 8, 0x96: 8}
_LINES = {**dict.fromkeys(b"FILSVgP", 1), **dict.fromkeys(b"ci", 2)}
_PUTS = {ord("q"): 1, ord("r"): 4}


def scan_pickle(held: Any) -> int:
    """Walk over the opcodes of a pickle without obeying any; how many there are.

    What is looked for: lengths beyond the end, and places to remember beyond the number of opcodes (Python
    makes room for all places up to that one, which a few bytes can make gigabytes).
    """
    size, at, count = len(held), 0, 0
    fixed, lengths = [-1] * 256, [0] * 256
    for code, n in _BYTES.items():
        fixed[code] = n + 1
    for code, n in _LENGTHS.items():
        lengths[code] = n
    stop = ord(".")
    while at < size:
        code = held[at]
        count += 1
        step = fixed[code] if code not in _PUTS else -1
        if step > 0:
            at += step
            if code == stop:
                return count
        elif n := lengths[code]:
            at += 1 + n + int.from_bytes(held[at + 1 : at + 1 + n], "little")
        elif code in _PUTS:
            place = int.from_bytes(held[at + 1 : at + 1 + _PUTS[code]], "little")
            at += 1 + _PUTS[code]
            _check_place(place, count)
        elif code == ord("p"):
            end = held.find(b"\n", at)
            text = bytes(held[at + 1 : max(end, at + 1)]).strip()
            _check_place(int(text) if text.isdigit() and len(text) < 20 else -1, count)
            at = end + 1 if end > 0 else size
        elif code in _LINES:
            for _ in range(_LINES[code]):
                end = held.find(b"\n", at)
                at = end + 1 if end >= 0 else size
        else:
            raise Refused(f"byte {at} is no instruction that data needs")
    raise EOFError("it ends in the middle")


def _check_place(place: int, count: int) -> None:
    if not 0 <= place <= count:
        raise Refused("it asks for memory that it has no use for")


# -- what all of them share --------------------------------------------------------------------------------


@contextmanager
def _told(path: Path, expected: str) -> Iterator[None]:
    """What goes wrong while reading names the file, and what to do."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; expected {expected}") from None
    except Refused as e:
        raise DataError(f"{path.name} is refused: {e}; {REMEDY}") from None
    except MemoryError:
        raise DataError(f"{path.name} does not fit in memory") from None
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        OverflowError,
        NotImplementedError,  # a way of packing that is not known
        RuntimeError,  # a password
        SyntaxError,  # of a header
        tokenize.TokenError,  # of one that is torn
        RecursionError,
        zlib.error,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as e:
        why = str(e) or type(e).__name__
        raise DataError(f"{path.name} cannot be read as {expected} ({why}); {REMEDY}") from None


def _check_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise DataError(
            f"{path.name} is refused: {size / 1e9:,.1f} GB, and {most / 1e9:,.1f} GB is the most that is "
            "read; split the file"
        )


def check_growth(path: Path, what: str, size: int, packed: int, most: int = MOST) -> None:
    """Refuse what unpacks to more than it may."""
    _check_size(path, size, most)
    if size > SMALL and size > GROWTH * max(packed, 1):
        raise DataError(
            f"{path.name} is refused: {what} unpacks to over {GROWTH} times its size, as a zip bomb does; "
            "where it is honest, pack it without compression"
        )


def _few(names: list[str]) -> str:
    return (
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"
    )
