"""An encode as data: which model, which rows, where to. One shard of it may be done by any process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sidbench import registry
from sidbench.catalogue.files import Digest, sha256
from sidbench.catalogue.output import narrow, table_of, write_whole
from sidbench.dataset import check_finite
from sidbench.errors import DataError, UsageError
from sidbench.progress import report
from sidbench.tokenizer import Tokenizer
from sidbench.vectors import Vectors, open_vectors

T = TypeVar("T")

#: Numbers of the input that go through reading, computing and writing at a time, and such pieces in a queue.
PIECE, QUEUED = 4_194_304, 2
#: Rows of a shard where nobody says: so many numbers of the input, within these bounds.
SHARD, FEWEST, MOST = 67_108_864, 65_536, 1_048_576


@dataclass(frozen=True)
class Source:
    """Which rows, as `open_vectors` is asked for them."""

    path: str
    column: str | None = None
    id_column: str | None = None
    dim: int | None = None
    dtype: str | None = None
    ids: str | None = None

    def resolved(self) -> Source:
        """The same, wherever the process that reads it was started."""
        ids = None if self.ids is None else str(Path(self.ids).resolve())
        return replace(self, path=str(Path(self.path).resolve()), ids=ids)

    def refuse(self, out: Path) -> None:
        """Nothing is written over or among what is read."""
        out = out.resolve()
        for path in (self.path, self.ids):
            if path is not None and Path(path).resolve() in (out, *out.parents):
                raise UsageError(f"{out} lies where the input does ({path}); name another place")

    def open(self) -> Vectors:
        """The rows; a reader of its own for every caller."""
        asked = asdict(self)
        return open_vectors(asked.pop("path"), **asked)


@dataclass(frozen=True)
class Job:
    """Everything that a shard is made from; it can be sent to another process or machine."""

    model: Path
    source: Source
    #: The folder that takes the shards, and how they are called and written.
    parts: Path
    stem: str
    suffix: str
    rows: int
    dim: int
    sizes: tuple[int, ...]
    shard_rows: int
    device: str = "auto"
    #: The hash of the fitted tokenizer: a folder that holds another one by now is an error.
    model_sha256: str = ""

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def bounds(self, i: int) -> tuple[int, int]:
        """The rows of a shard: the first, and the one after the last."""
        return i * self.shard_rows, min((i + 1) * self.shard_rows, self.rows)

    def file(self, i: int) -> Path:
        return self.parts / f"{self.stem}-{i:05d}{self.suffix}"


#: What a finished shard's manifest entry holds: file, rows, bytes, sha256, input_sha256.
Entry = dict[str, Any]


def default_shard_rows(dim: int) -> int:
    """So many that a shard takes a second or so, and files stay few."""
    return int(np.clip(SHARD // dim, FEWEST, MOST))


def piece_rows(dim: int) -> int:
    """Rows that go through the queues at a time."""
    return max(1024, PIECE // dim)


def encode_shard(job: Job, i: int) -> Entry:
    """Read, encode and write one shard; its manifest entry. Done twice, it leaves the same file."""
    [(_, entry)] = _shards(job, [i], lambda rows: None)
    return entry


def encode_shards(job: Job, todo: Iterable[int]) -> Iterator[tuple[int, Entry]]:
    """These shards one after another, each with its entry as it is finished; what is left out is there."""
    todo = list(todo)
    spans = [job.bounds(i) for i in todo]
    there = job.rows - sum(stop - start for start, stop in spans)
    return _shards(job, todo, lambda rows: report("encode", there + rows, job.rows))


def _shards(job: Job, todo: list[int], said: Callable[[int], None]) -> Iterator[tuple[int, Entry]]:
    """One thread reads ahead, another writes behind, and the tokenizer's own threads compute meanwhile.

    So they do across shards too. The queues between them are short: memory is bounded whatever the size.
    """
    tokenizer = load_model(job.model, job.device, job.model_sha256)
    rows = 0
    with closing(_Pipeline()) as pipe:
        pieces: queue.Queue[_Piece | None] = queue.Queue(QUEUED)
        coded: queue.Queue[_Piece | None] = queue.Queue(QUEUED)
        done: queue.Queue[tuple[int, Entry] | None] = queue.Queue()
        pipe.start("read", _read, pipe, job, todo, pieces)
        pipe.start("write", _write, pipe, job, coded, done)
        while (piece := pipe.get(pieces)) is not None:
            try:
                piece.codes = narrow(tokenizer.encode(piece.rows), job.sizes)
            except DataError as e:
                check_finite(piece.rows, job.source.path, piece.start)
                where = f"rows {piece.start:,} to {piece.start + len(piece.rows) - 1:,} of {job.source.path}"
                raise DataError(f"{where}: {e}") from None
            rows += len(piece.rows)
            said(rows)
            piece.rows = piece.rows[:0]
            pipe.put(coded, piece)
            while not done.empty():
                if (finished := done.get()) is not None:
                    yield finished
        pipe.put(coded, None)
        while (finished := pipe.get(done)) is not None:
            yield finished


@lru_cache(maxsize=1)
def load_model(folder: Path, device: str, expected: str) -> Tokenizer:
    """The fitted tokenizer, once a process."""
    if expected and model_sha256(folder) != expected:
        raise DataError(
            f"{folder} holds another tokenizer than this encode began with; put it back, or name "
            "another place"
        )
    return registry.load_tokenizer(folder, device)


def model_sha256(folder: Path) -> str:
    """A hash of what was learned and of the parameters."""
    return sha256(folder / "tokenizer.json", folder / "tokenizer.safetensors")


@dataclass
class _Piece:
    """Rows on their way through the threads."""

    shard: int
    start: int
    rows: Any
    ids: Any
    codes: Any = None
    #: Of the shard's last piece: the hash of all its rows and ids.
    digest: str = ""


def _read(pipe: _Pipeline, job: Job, todo: list[int], out: queue.Queue[_Piece | None]) -> None:
    try:
        vectors = job.source.open()
    except UsageError as e:  # it was there when the work began
        raise DataError(f"{e}") from None
    if (vectors.rows, vectors.dim) != (job.rows, job.dim):
        raise DataError(
            f"{job.source.path} has {vectors.rows:,} rows of {vectors.dim} by now; this encode began with "
            f"{job.rows:,} rows of {job.dim}"
        )
    step = piece_rows(job.dim)
    for i in todo:
        digest = Digest()
        begin, end = job.bounds(i)
        for start, rows in vectors.pieces(step, begin, end):
            ids = vectors.ids(start, start + len(rows))
            digest.add(rows, ids)
            last = digest.hex() if start + len(rows) == end else ""
            pipe.put(out, _Piece(i, start, rows, ids, digest=last))
    pipe.put(out, None)


def _write(
    pipe: _Pipeline,
    job: Job,
    coded: queue.Queue[_Piece | None],
    done: queue.Queue[tuple[int, Entry] | None],
) -> None:
    held: list[_Piece] = []
    while (piece := pipe.get(coded)) is not None:
        held.append(piece)
        if not piece.digest:
            continue
        done.put((piece.shard, _finish(job, held)))
        held = []
    done.put(None)


def _finish(job: Job, pieces: list[_Piece]) -> Entry:
    """Write the shard that these pieces make up."""
    start, stop = job.bounds(pieces[0].shard)
    table = table_of(np.concatenate([p.codes for p in pieces]), [p.ids for p in pieces], start)
    path = job.file(pieces[0].shard)
    write_whole(path, job.suffix, lambda: iter([table]), stop - start, job.sizes)
    return {
        "file": path.name,
        "rows": [start, stop],
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "input_sha256": pieces[-1].digest,
    }


class _Pipeline:
    """Threads that end together: what one of them raises is raised where the others are waited for."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.error: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def start(self, name: str, work: Any, *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            except _Stopped:
                pass
            except BaseException as e:
                self.error = self.error or e
                self.stopped.set()

        self.threads.append(threading.Thread(target=run, name=f"sidbench-{name}", daemon=True))
        self.threads[-1].start()

    def get(self, source: queue.Queue[T]) -> T:
        while True:
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                self._check()

    def put(self, target: queue.Queue[T], value: T) -> None:
        while True:
            self._check()
            try:
                return target.put(value, timeout=0.1)
            except queue.Full:
                continue

    def close(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _check(self) -> None:
        if self.stopped.is_set():
            if self.error is not None and threading.current_thread() not in self.threads:
                raise self.error
            raise _Stopped


class _Stopped(Exception):
    """Another thread has ended the work."""
