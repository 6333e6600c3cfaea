"""What is half written: under a dotted name that its writer holds a lock on, so that a dead one's can go."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: The file by which the writer of a folder holds it.
HELD = "held"
#: Seconds for which a writer waits for who removes what dead ones left.
PATIENCE = 1.0


@contextmanager
def file_beside(path: Path) -> Iterator[tuple[int, Path]]:
    """An empty file that is to become `path`: its open handle, which the caller closes, and its name.

    What dead writers of the same file left is removed first; this one goes too unless it was renamed.
    """
    sweep(path)
    with _locked(path.parent, fcntl.LOCK_SH):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        holder = os.dup(handle)  # the lock stays until the last of both is closed
        _lock(holder, fcntl.LOCK_EX)
    try:
        yield handle, Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)
        os.close(holder)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A folder in which what is to become `path` may be written; it goes at the end, with what is in it.

    What dead writers of the same folder left is removed first.
    """
    sweep(path)
    with _locked(path.parent, fcntl.LOCK_SH):
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        try:
            holder = os.open(part / HELD, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _lock(holder, fcntl.LOCK_EX)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(holder)


def sweep(path: Path) -> None:
    """Remove what dead processes left half written of this file or folder; what a living one holds stays.

    A file system without locks does not say who lives: there nothing is removed.
    """
    # As `tempfile` names what it makes: a dotted name that somebody chose is none of these.
    ours = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}")
    found = [p for p in path.parent.glob(".*") if ours.fullmatch(p.name)]
    if not found:
        return
    # Alone in the folder, so that nothing is met between its making and its lock.
    with _locked(path.parent, fcntl.LOCK_EX) as alone:
        for part in found if alone else ():
            if _is_left(part):
                if part.is_dir():
                    shutil.rmtree(part, ignore_errors=True)
                else:
                    with suppress(OSError):
                        part.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process holds a file, or a folder by the file in it; no where locks do not tell."""
    try:
        handle = os.open(path / HELD if path.is_dir() else path, os.O_RDWR)  # file servers lock no less
    except OSError:
        return False
    try:
        return _refused(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _is_left(part: Path) -> bool:
    """Whether the writer of a file or folder is dead."""
    try:
        handle = os.open(part / HELD if part.is_dir() else part, os.O_RDONLY)
    except FileNotFoundError:
        return part.is_dir()  # ended before it could hold it
    except OSError:
        return False
    try:
        return _lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """A lock on the folder itself: many make something in it, or one removes; whether it could be had."""
    handle = None
    with suppress(OSError):  # what cannot be opened is said by whoever writes there
        handle = os.open(folder, os.O_RDONLY)
    try:
        if handle is None:
            yield False
        elif how == fcntl.LOCK_EX:
            yield _lock(handle, how)
        else:
            # Who removes is done soon, and knows nothing of what is made from here on. Who else may hold a
            # folder (flock(1) around a command) is not waited for.
            until = time.monotonic() + PATIENCE
            while _refused(handle, how) and time.monotonic() < until:
                time.sleep(0.01)
            yield True
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """A lock without waiting; False where another has it, or where there are none."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _refused(handle: int, how: int) -> bool:
    """Whether another has the lock; else it is ours, or there are none."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
