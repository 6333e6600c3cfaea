"""Download: a published file, fetched once into the cache; resumed, checked, and the same ever after."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sidbench import __version__
from sidbench.dataset import cache_folder
from sidbench.errors import DataError
from sidbench.progress import Rate, report

PIECE = 1 << 20
#: Seconds without a byte after which a connection counts as cut.
TIMEOUT = 60.0
#: Failures in a row, none of which brought new bytes, after which it is given up.
ATTEMPTS = 4
#: Seconds before the second attempt; twice as many before each further one.
PAUSE = 1.0
#: The longest pause that a server may ask for.
LONGEST_PAUSE = 60.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
#: What the first bytes of a file of this kind are; a page that says "not found" begins otherwise.
MAGIC = {".gz": b"\x1f\x8b", ".zip": b"PK\x03\x04", ".parquet": b"PAR1"}


@dataclass(frozen=True)
class Remote:
    """A published file: its name here, its address (none: only by hand), and who publishes it."""

    name: str
    url: str
    published: str
    #: Other names under which the same content may be put in place by hand (uncompressed, another form).
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a file was when it was first seen here."""

    sha256: str
    bytes: int
    url: str
    first_seen: str
    #: A file of the same size and date needs no second look before it is read.
    mtime_ns: int = 0


@dataclass
class _Part:
    """How far a download is, and what the server called the content that it began with."""

    url: str = ""
    etag: str = ""
    last_modified: str = ""
    total: int = -1
    have: int = field(default=0, compare=False)

    @property
    def validator(self) -> str:
        """What `If-Range` takes: a strong ETag or a date; without either nothing may be joined."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class _CutError(Exception):
    """A connection that ended before the file did, or an answer that may be another one next time."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _FinalError(Exception):
    """An answer that will not change: asking again is of no use."""


def downloads() -> Path:
    """Where fetched files lie, and where files put by hand are looked for."""
    return cache_folder() / "downloads"


def obtain(remote: Remote, folder: Path | None = None) -> Path:
    """The file: from `folder` where one is named, else from the cache, else from its address.

    A file of the cache is compared with what was first seen under its name: another content is an error.
    """
    if folder is not None:
        return _by_hand(remote, folder)
    if (found := _found(remote, downloads())) is not None:
        check_content(found, remote.url)
        return found
    if not remote.url:
        raise DataError(
            f"{remote.name} cannot be fetched: {remote.published}. Put it by hand at "
            f"{downloads() / remote.name}{_other_names(remote)}"
        )
    return _fetch(remote)


def fingerprint(path: Path) -> str:
    """The content's sha256, from the note beside the file where size and date have not changed since."""
    try:
        stat, seen = path.stat(), _read_seen(path)
        if seen is not None and (seen.bytes, seen.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return seen.sha256
        return sha256(path)
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e})") from None


def check_content(path: Path, url: str = "") -> Seen:
    """Record the sha256 of a file on first sight; ever after, another content is an error."""
    try:
        stat, seen = path.stat(), _read_seen(path)
        if seen is not None and (seen.bytes, seen.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return seen
        found = sha256(path)
        if seen is not None and found != seen.sha256:
            raise DataError(
                f"{path} is not what it was: {stat.st_size:,} bytes with sha256 {found}, but on "
                f"{seen.first_seen} it had {seen.bytes:,} bytes with sha256 {seen.sha256}. To fetch it again "
                f"delete it; to take the new content delete {_seen_path(path)}"
            )
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        first = now if seen is None else seen.first_seen
        seen = Seen(found, stat.st_size, url if seen is None else seen.url, first, stat.st_mtime_ns)
        _write_json(_seen_path(path), asdict(seen))
        return seen
    except OSError as e:
        raise DataError(
            f"{path} or the note beside it cannot be read or written ({e.strerror or e})"
        ) from None


def sha256(path: Path) -> str:
    """The content's hash, a piece at a time."""
    h = hashlib.sha256()
    total = path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(4 * PIECE):
            h.update(piece)
            report(f"check {path.name}", file.tell(), total)
    return h.hexdigest()


def _found(remote: Remote, folder: Path) -> Path | None:
    """The file under any of its names."""
    return next((folder / name for name in (remote.name, *remote.also) if (folder / name).is_file()), None)


def _by_hand(remote: Remote, folder: Path) -> Path:
    if (found := _found(remote, folder.expanduser())) is not None:
        return found
    published = f"published at {remote.url}" if remote.url else remote.published
    raise DataError(f"{folder} holds no {remote.name}{_other_names(remote)}; {published}")


def _other_names(remote: Remote) -> str:
    return f" (or {', '.join(remote.also)})" if remote.also else ""


def _fetch(remote: Remote) -> Path:
    """Into the cache, by one process at a time; what another has fetched meanwhile is taken."""
    path = downloads() / remote.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.is_file():
                _download(remote, path)
        check_content(path, remote.url)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {path.parent} is full ({e.strerror}): {remote.name} is not whole. Make room "
                "and run the same command again (it goes on where it stopped), or set SIDBENCH_CACHE to a "
                "folder with room"
            ) from None
        raise DataError(
            f"{path} cannot be written ({e.strerror or e}); set SIDBENCH_CACHE to a folder that can be"
        ) from None
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One fetches, the others wait; the lock of a process that ends is free at once."""
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report(f"wait for another process that fetches {path.name}", 0, 1)
                time.sleep(0.1)
        yield


def _download(remote: Remote, path: Path) -> None:
    """Attempts until the file is whole; one that brought new bytes counts as none that failed."""
    part_file, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    part = _read_part(note, remote.url)
    part.have = part_file.stat().st_size if part.url and part_file.is_file() else 0
    furthest, failures = part.have, 0
    while True:
        try:
            _attempt(remote, part, part_file, note)
            _look_at_first_bytes(part_file, path.suffix, part.url)
            break
        except _FinalError as e:
            raise DataError(_cannot(remote, path, str(e))) from None
        except _CutError as e:
            # Only bytes beyond what any attempt had count, else a server without Range is asked for ever.
            failures = 0 if part.have > furthest else failures + 1
            furthest = max(furthest, part.have)
            if failures >= ATTEMPTS:
                raise DataError(_cannot(remote, path, f"{e}, {failures} times in a row")) from None
            time.sleep(max(e.pause, PAUSE * 2 ** max(failures - 1, 0)))
    with part_file.open("rb+") as file:
        os.fsync(file.fileno())
    # A note of an earlier file under this name is no judge of another fetch: it is compared, not replaced.
    part_file.replace(path)
    note.unlink(missing_ok=True)


def _attempt(remote: Remote, part: _Part, file: Path, note: Path) -> None:
    """One request: the rest of what is there if the server still has the same content, else all of it."""
    headers = {"User-Agent": f"sidbench/{__version__}", "Accept-Encoding": "identity"}
    if part.have and part.validator:
        headers |= {"Range": f"bytes={part.have}-", "If-Range": part.validator}
    try:
        request = urllib.request.Request(remote.url, headers=headers)
        # An opener of its own reads the proxies of the environment as they are now.
        with urllib.request.build_opener().open(request, timeout=TIMEOUT) as answer:
            _take(answer, remote, part, file, note)
    except urllib.error.HTTPError as e:
        with e:
            _refused(e, part, file)
    except urllib.error.URLError as e:
        if type(e.reason).__name__ == "SSLCertVerificationError":
            raise _FinalError(f"its certificate cannot be verified ({e.reason})") from None
        raise _CutError(f"{e.reason}") from None
    except (http.client.HTTPException, TimeoutError, ConnectionError) as e:
        raise _CutError(f"no answer ({type(e).__name__})") from None
    except ValueError as e:
        raise _FinalError(f"that is no address ({e})") from None


def _refused(error: urllib.error.HTTPError, part: _Part, file: Path) -> None:
    """A status that is no success: final, passing, or a range that does not fit what is there."""
    if error.code == 416:
        if error.headers.get("Content-Range", "") == f"bytes */{part.have}":
            return  # nothing was missing but the end of the stream
        file.unlink(missing_ok=True)
        part.have = 0
        raise _CutError("the server does not have the rest of what is here")
    if error.code not in PASSING:
        raise _FinalError(f"the server answers {error.code} {error.reason}")
    asked = error.headers.get("Retry-After", "")
    pause = min(float(asked), LONGEST_PAUSE) if asked.isdigit() else 0.0
    raise _CutError(f"the server answers {error.code} {error.reason}", pause)


def _take(answer: Any, remote: Remote, part: _Part, file: Path, note: Path) -> None:
    """Write what comes behind what is there, or from the start where the server sends all of it."""
    length = answer.headers.get("Content-Length")
    left = int(length) if length is not None and length.isdigit() else -1
    start, total = 0, left
    if answer.status == 206:
        start, total = _range(answer.headers.get("Content-Range", ""))
        if start != part.have or (part.total >= 0 and total != part.total):
            file.unlink(missing_ok=True)
            part.have = 0
            raise _CutError("the server sent another part than was asked for")
    part.url, part.total, part.have = remote.url, total, start
    part.etag = answer.headers.get("ETag") or ""
    part.last_modified = answer.headers.get("Last-Modified") or ""
    _check_room(file.parent, total - start, remote.name)
    with file.open("r+b" if start else "wb") as out:
        out.seek(start)
        out.truncate()
        # Written before the first byte: a part is never older than what is known of it.
        _write_json(note, {k: v for k, v in asdict(part).items() if k != "have"})
        _copy(answer, out, part, remote.name)
    if 0 <= total != part.have:
        raise _CutError(f"the connection was cut after {part.have:,} of {total:,} bytes")


def _copy(answer: Any, out: Any, part: _Part, name: str) -> None:
    rate = Rate()
    rate.add(part.have)
    while piece := _read(answer, part):
        out.write(piece)
        part.have += len(piece)
        rate.add(part.have)
        numbers = {}
        if speed := rate.a_second:
            numbers["bytes/s"] = speed
            if part.total >= 0:
                numbers["seconds left"] = (part.total - part.have) / speed
        report(f"fetch {name}", part.have, max(part.total, part.have), **numbers)


def _read(answer: Any, part: _Part) -> bytes:
    """What has come; a fault of the line is told from one of the disk."""
    try:
        piece: bytes = answer.read1(PIECE)
    except (OSError, http.client.HTTPException) as e:
        raise _CutError(f"the connection was cut ({type(e).__name__}) after {part.have:,} bytes") from None
    return piece


def _range(text: str) -> tuple[int, int]:
    """Start and total of `bytes 10-99/100`; (-1, -1) where it says something else."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit() or not total.isdigit():
        return -1, -1
    return int(start), int(total)


def _check_room(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{name} needs {needed:,} bytes more, {free:,} are free")


def _look_at_first_bytes(file: Path, suffix: str, url: str) -> None:
    """A page in place of the file (a login, an apology) is not the file."""
    wanted = MAGIC.get(suffix, b"")
    with file.open("rb") as f:
        first = f.read(64)
    if not first.startswith(wanted):
        file.unlink()
        raise _FinalError(f"what came is no {suffix[1:]} file: it begins with {first[:24]!r}")


def _cannot(remote: Remote, path: Path, reason: str) -> str:
    return (
        f"cannot fetch {remote.url}: {reason}. Run the same command again to go on, or put the file by hand "
        f"at {path}{_other_names(remote)}; {remote.published}"
    )


def _seen_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.seen.json")


def _read_seen(path: Path) -> Seen | None:
    """The note beside a file; one that cannot be read is no reason to take any content."""
    note = _seen_path(path)
    if not note.exists():
        return None
    try:
        return Seen(**_read_json(note))
    except TypeError:
        raise DataError(
            f"{note} does not hold what was seen of {path.name}; delete it to record the file anew"
        ) from None


def _read_part(note: Path, url: str) -> _Part:
    """How an earlier attempt at the same address stood."""
    said = _read_json(note)
    try:
        part = _Part(**said)
    except TypeError:  # torn by something other than this program: begin anew
        return _Part()
    return part if part.url == url else _Part()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _write_json(path: Path, said: dict[str, Any]) -> None:
    whole = path.with_name(f"{path.name}.tmp{os.getpid()}")
    whole.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    whole.replace(path)
