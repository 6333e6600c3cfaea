"""Files that stay whole: hashes, JSON that appears at once, one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.errors import DataError, StorageError, UsageError
from sidbench.vectors import Floats, Vectors

CHUNK = 1 << 20
#: What a file system says that keeps no locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class NoLocks(StorageError):
    """Nothing keeps two processes from writing to one place."""


def sha256(*paths: Path) -> str:
    """The hash of these files, one behind the other."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as f:
                while chunk := f.read(CHUNK):
                    digest.update(chunk)
        except OSError as e:
            raise DataError(f"{path} cannot be read ({e.strerror})") from None
    return digest.hexdigest()


class Digest:
    """A hash of rows and their ids that does not depend on the pieces they come in."""

    def __init__(self) -> None:
        self.rows, self.ids, self.lengths = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def add(self, rows: Floats, ids: Any | None) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.rows.update(rows.data)
        if ids is None:
            return
        if pa.types.is_integer(ids.type):
            self.ids.update(ids.to_numpy().astype(np.int64, copy=False).tobytes())
        else:
            text = ids.cast(pa.large_binary())
            self.lengths.update(pc.binary_length(text).to_numpy().tobytes())
            offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
            if len(text):
                self.ids.update(memoryview(text.buffers()[2])[int(offsets[0]) : int(offsets[-1])])

    @staticmethod
    def of_json(value: Any) -> str:
        """The hash of a value that JSON can hold."""
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    def hex(self) -> str:
        parts = (self.rows.digest(), self.ids.digest(), self.lengths.digest())
        return hashlib.sha256(b"".join(parts)).hexdigest()


def stamp(vectors: Vectors) -> list[dict[str, Any]]:
    """What tells at a glance whether the files of an input changed: sizes and times of change."""
    return [file_stamp(path) for path in vectors.files()]


def file_stamp(path: Path) -> dict[str, Any]:
    """The name, size and times of change of one file; tar and touch can set back the first of these."""
    try:
        about = path.stat()
    except OSError as e:
        raise DataError(f"{path} is not there any more ({e.strerror})") from None
    return {
        "name": path.name,
        "bytes": about.st_size,
        "modified_ns": about.st_mtime_ns,
        "changed_ns": about.st_ctime_ns,
    }


def content_sha256(vectors: Vectors, step: int = 131_072) -> str:
    """A hash of all rows and ids."""
    digest = Digest()
    for start, rows in vectors.pieces(step):
        digest.add(rows, vectors.ids(start, start + len(rows)))
    return digest.hex()


def write_json(path: Path, value: Any) -> None:
    """A JSON file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, indent=2) + "\n")
        part.replace(path)
    except OSError as e:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise refused(path, e) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is nothing."""
    try:
        held = json.loads(path.read_text())
        if not isinstance(held, dict):
            raise ValueError(f"it holds {type(held).__name__}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read ({e}); begin anew with --redo") from None
    return held


def refused(path: Path, error: OSError) -> StorageError:
    """The disk takes no more, or none from us."""
    said = error.strerror or str(error)
    return StorageError(
        f"{path} cannot be written ({said}). What is finished stands: make room or change permissions, then "
        "run the same command again"
    )


@contextmanager
def locked(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """One writer at a time; the system gives the lock back whatever becomes of its holder.

    A file server may learn only after so many seconds of `patience` that a holder is dead.
    """
    try:
        handle = _taken(path, what, time.monotonic() + patience)
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    except OSError as e:
        if e.errno in NO_LOCKS:
            raise NoLocks(
                f"{path.parent} lies on a file system without locks ({e.strerror}), so two commands could "
                "write to it at once: mount it with locks, or name a folder elsewhere"
            ) from None
        raise refused(path, e) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a folder that nothing is kept in for a next time
            path.parent.rmdir()
        os.close(handle)


def _taken(path: Path, what: str, until: float) -> int:
    """The open file, with the lock on it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # who is done there took the folder away again
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who had it before may have removed the file: then this lock keeps nobody out.
                if os.path.samestat(path.stat(), os.fstat(handle)):
                    return handle
            except BlockingIOError:
                if time.monotonic() >= until:
                    holder = os.read(handle, 100).decode(errors="replace").strip()
                    os.close(handle)
                    raise UsageError(
                        f"another sidbench{f' (process {holder})' if holder else ''} is writing to {what}; "
                        "wait until it is done, or name another place"
                    ) from None
                time.sleep(0.2)
            except OSError:
                os.close(handle)
                raise
            os.close(handle)
