"""TFRecord files of tf.train.Example, gzip or not, read without TensorFlow."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError

Feature = list[bytes] | NDArray[Any]
#: The longest record that is believed.
MOST = 1 << 28


def examples(path: Path) -> Iterator[dict[str, Feature]]:
    """Every record's features by name: bytes as a list, numbers as an array."""
    row = 0
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            while head := file.read(12):
                if len(head) < 12:
                    raise ValueError("the file ends inside a record's head")
                (length,) = struct.unpack("<Q", head[:8])
                if length > MOST:
                    raise ValueError(f"a record of {length:,} bytes: this is no TFRecord file")
                data = file.read(length + 4)
                if len(data) < length + 4:
                    raise ValueError("the file ends inside a record")
                yield dict(_features(data[:length]))
                row += 1
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as e:
        raise DataError(
            f"{path.name}, record {row} (from 0) cannot be read ({e}); is it cut off? Get the file again"
        ) from None


def _features(data: bytes) -> Iterator[tuple[str, Feature]]:
    """Example { Features features = 1 { map<string, Feature> feature = 1 } }."""
    for number, features in _fields(data):
        if number != 1 or not isinstance(features, bytes):
            continue
        for inner, entry in _fields(features):
            if inner == 1 and isinstance(entry, bytes):
                pair = dict(_fields(entry))
                name, value = pair.get(1, b""), pair.get(2, b"")
                if isinstance(name, bytes) and isinstance(value, bytes):
                    yield name.decode("utf-8"), _value(value)


def _value(data: bytes) -> Feature:
    """Feature { oneof: BytesList 1, FloatList 2, Int64List 3 }, each with values in field 1."""
    for kind, held in _fields(data):
        if not isinstance(held, bytes):
            break
        values = [v for number, v in _fields(held) if number == 1]
        if kind == 1:
            return [v for v in values if isinstance(v, bytes)]
        if kind == 2:
            parts = [v if isinstance(v, bytes) else struct.pack("<I", v) for v in values]
            return np.frombuffer(b"".join(parts), dtype="<f4")
        if kind == 3:
            numbers: list[int] = []
            for v in values:
                numbers += _varints(v) if isinstance(v, bytes) else [v]
            return np.array(numbers, dtype=np.uint64).astype(np.int64)
    return np.zeros(0, dtype=np.int64)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protocol-buffer message: number, and bytes or a number."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            if at + width > len(data):
                raise ValueError("a field is longer than its message")
            yield tag >> 3, int.from_bytes(data[at : at + width], "little")
            at += width
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _varints(data: bytes) -> list[int]:
    out, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        out.append(value)
    return out
