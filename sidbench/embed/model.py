"""Vectors of texts by a language model: sorted by length, in shards that survive an interruption."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.progress import report

Floats = NDArray[np.float32]

INSTALL = "pip install 'sidbench[embed]'"
#: Texts a shard: what an interruption costs at most, for each process.
SHARD = 1_024
#: Texts between two reports of progress, in batches.
BATCHES = 4
#: Files of a model in other runtimes' formats: never read here.
FOREIGN = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.mlmodel")


@dataclass(frozen=True)
class Encoder:
    """A model in a folder, and all that decides what it makes of a text."""

    folder: Path
    #: As a person named it.
    name: str
    batch: int = 64
    #: Tokens of a text that are read; the model's own bound where nothing is said.
    max_length: int | None = None
    #: Put before every text, as some models want it ("passage: ").
    prompt: str = ""

    def facts(self) -> dict[str, Any]:
        """What to record: the model by a hash of its files, and how it makes one vector of a text."""
        about = {
            "method": "language model",
            "model": self.name,
            "model_files": digest_of(self.folder),
            "pooling": pooling_of(self.folder),
            "prompt": self.prompt,
            "max_length": self.max_length,
            "batch": self.batch,
        }
        # Not when it is taken from elsewhere, but what it is: the snapshot's name is the hub's commit.
        if self.folder.parent.name == "snapshots":
            about["revision"] = self.folder.name
        return about


@dataclass(frozen=True)
class Machines:
    """Where a model runs; no part of what it makes, but for rounding."""

    #: auto (every GPU, else the processor), cpu, cuda, cuda:1.
    device: str = "auto"
    #: Processes; 0 is one a GPU, or one.
    processes: int = 0

    def places(self) -> list[str]:
        """A device for every process."""
        gpus = 0
        if self.device == "auto" or self.device.startswith("cuda"):
            import torch

            gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            devices = [f"cuda:{i}" for i in range(gpus)] or ["cpu"]
        elif self.device == "cuda" or self.device.startswith("cuda:"):
            if not gpus:
                raise UsageError(f"--device {self.device}: no GPU is to be seen here; leave it at auto")
            devices = [f"cuda:{i}" for i in range(gpus)] if self.device == "cuda" else [self.device]
        else:
            devices = [self.device]
        count = self.processes or len(devices)
        return [devices[i % len(devices)] for i in range(count)]


def find(spec: str, **how: Any) -> Encoder:
    """The model that a name means: a folder, or a name on the Hugging Face hub."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UsageError(f"--model {spec}: language models need an extra; {INSTALL}")
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise UsageError(
                f"{folder} holds no model: neither modules.json (sentence-transformers) nor config.json "
                "(transformers) is there"
            )
        return Encoder(folder, folder.resolve().name, **how)
    return Encoder(_from_hub(spec), spec, **how)


def _from_hub(name: str) -> Path:
    """A model's files, fetched once by Hugging Face's own client."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=list(FOREIGN)))
    except Exception as e:  # its own errors, those of the network and of the disk
        why = (str(e).splitlines() or [type(e).__name__])[0]
        raise UsageError(
            f"--model {name}: there is no such folder here, and the hub gives no such model ({why}). Without "
            "a network, fetch it elsewhere and name its folder"
        ) from None


def digest_of(folder: Path) -> dict[str, Any]:
    """A hash of all files of a model that are read, by name and content."""
    h, size = hashlib.sha256(), 0
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not any(p.relative_to(folder).match(f) for f in FOREIGN)
    )
    for path in files:
        inner = hashlib.sha256()
        with path.open("rb") as f:
            while chunk := f.read(1 << 20):
                inner.update(chunk)
                size += len(chunk)
        h.update(f"{path.relative_to(folder).as_posix()}\0{inner.hexdigest()}\n".encode())
    return {"sha256": h.hexdigest(), "files": len(files), "bytes": size}


def pooling_of(folder: Path) -> str:
    """How vectors of tokens become one, as the model's folder says."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return "mean (the model's folder names none)"
    try:
        steps = json.loads(modules.read_text())
        for step in steps:
            if step["type"].endswith("Pooling"):
                about = json.loads((folder / step["path"] / "config.json").read_text())
                named = [str(about["pooling_mode"])] if "pooling_mode" in about else []
                flags = [k.removeprefix("pooling_mode_") for k, v in about.items() if v is True]
                return " + ".join(named or [f for f in flags if f != "include_prompt"]) or "unknown"
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{folder}: its modules.json cannot be understood ({e}); copy the model again"
        ) from None
    return "none"


def encode(texts: pa.Array, encoder: Encoder, work: Path, machines: Machines | None = None) -> Floats:
    """A vector for every text, zeros for an empty one; equal texts are read once.

    `work` keeps a file a shard of the texts in order of length, so that padding costs little, and so that
    whoever is interrupted goes on there. Batches are those of an uninterrupted run, and so are the bytes.
    """
    texts = pc.utf8_trim_whitespace(texts)
    coded = texts.dictionary_encode()
    distinct, index = coded.dictionary, coded.indices.to_numpy().astype(np.int64)
    some = np.flatnonzero(pc.not_equal(distinct, "").to_numpy(zero_copy_only=False))
    if not len(some):
        raise DataError(f"all {len(texts):,} texts are empty; name the columns that describe the items")
    length = pc.utf8_length(distinct).to_numpy()[some]
    order = some[np.argsort(-length, kind="stable")]
    shards = -(-len(order) // SHARD)
    work.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(shards) if not shard_file(work, i).is_file()]
    if todo:
        # A stage of its own: it takes as long as many texts, and would spoil the time left.
        report("loading the model", 0, 1)
        _run(distinct.take(pa.array(order)), todo, encoder, work, (machines or Machines()).places())
    parts = [np.load(shard_file(work, i), allow_pickle=False) for i in range(shards)]
    rows: Floats = np.zeros((len(distinct), parts[0].shape[1]), dtype=np.float32)
    rows[order] = np.concatenate(parts)
    return np.asarray(rows[index])


def shard_file(work: Path, i: int) -> Path:
    """Where a finished shard lies."""
    return work / f"shard-{i:06d}.npy"


def _size(order: Any, i: int) -> int:
    return min(SHARD, len(order) - i * SHARD)


def _run(texts: pa.Array, todo: list[int], encoder: Encoder, work: Path, places: list[str]) -> None:
    """Every shard of `todo`, here or in processes of their own."""
    done = len(texts) - sum(_size(texts, i) for i in todo)
    if len(places) == 1:
        for count in _shards(texts, todo, encoder, work, places[0], 0):
            done += count
            report("embed", done, len(texts))
        return
    spread = multiprocessing.get_context("spawn")
    pipes: dict[Connection, Any] = {}
    held = work / "texts.arrow"
    with pa.OSFile(str(held), "wb") as f, pa.ipc.new_file(f, pa.schema([("text", texts.type)])) as writer:
        writer.write_batch(pa.record_batch({"text": texts}))
    threads = max(1, (os.cpu_count() or 1) // len(places)) if "cpu" in places else 0
    try:
        for i, place in enumerate(places[: len(todo)]):
            ours, theirs = spread.Pipe(duplex=False)
            # Every n-th shard: they are sorted by length, so that each process has as many long ones.
            mine = todo[i :: len(places)]
            args = (held, mine, asdict(encoder), work, place, threads, theirs, os.getpid())
            process = spread.Process(target=_worker, args=args, daemon=True)
            process.start()
            theirs.close()
            pipes[ours] = process
        running = set(pipes)
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                try:
                    said = pipe.recv()
                except EOFError:
                    running.discard(pipe)
                    pipes[pipe].join()
                    if pipes[pipe].exitcode:
                        raise DataError(
                            f"a process that ran the model ended with code {pipes[pipe].exitcode} (memory?); "
                            "what is finished stands, the same command goes on (with fewer --processes?)"
                        ) from None
                    continue
                if isinstance(said, str):
                    raise DataError(said)
                done += said
                report("embed", done, len(texts))
    finally:
        for process in pipes.values():
            process.terminate()
        for process in pipes.values():
            process.join()
        held.unlink(missing_ok=True)


def _worker(
    held: Path,
    todo: list[int],
    encoder: dict[str, Any],
    work: Path,
    place: str,
    threads: int,
    pipe: Connection,
    parent: int,
) -> None:
    """What a process of its own does; it says how many texts it has read, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to stop
    try:
        with pa.memory_map(str(held)) as f:
            texts = pa.ipc.open_file(f).get_batch(0).column(0)
        for count in _shards(texts, todo, Encoder(**encoder), work, place, threads):
            if os.getppid() != parent:  # killed: nobody waits for the rest
                os._exit(1)
            pipe.send(count)
    except SidbenchError as e:
        pipe.send(str(e))
    except Exception as e:
        pipe.send(f"the model failed on {place}: {type(e).__name__}: {e}")
    finally:
        pipe.close()


def _shards(
    texts: pa.Array, todo: list[int], encoder: Encoder, work: Path, place: str, threads: int
) -> Iterator[int]:
    """Read these shards and keep each; gives the number of texts read, a few batches at a time."""
    model = load(encoder, place, threads)
    for i in todo:
        some = texts.slice(i * SHARD, SHARD).to_pylist()
        parts = []
        for start in range(0, len(some), BATCHES * encoder.batch):
            piece = some[start : start + BATCHES * encoder.batch]
            try:
                x = model.encode(
                    piece,
                    prompt=encoder.prompt or None,
                    batch_size=encoder.batch,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
            except RuntimeError as e:
                if "out of memory" in str(e).lower():
                    raise DataError(
                        f"{place} has no memory for {encoder.batch} texts at a time; give a smaller "
                        "--batch-size (another one is another command: it begins anew)"
                    ) from None
                raise
            parts.append(np.asarray(x, dtype=np.float32))
            yield len(piece)
        rows = np.concatenate(parts)
        if not np.isfinite(rows).all():
            bad = some[int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])]
            raise DataError(
                f"the model {encoder.name} gives NaN or infinity, first for the text {bad[:80]!r}"
            )
        path = shard_file(work, i)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("wb") as f:
            np.save(f, rows)
        part.replace(path)


def load(encoder: Encoder, place: str, threads: int = 0) -> Any:
    """The model itself; no code of its own is run, whatever its folder asks for."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    silence: Any = logging.disable_progress_bar
    silence()  # of its weights: every process would draw one across the others'
    if threads:
        torch.set_num_threads(threads)
    try:
        model = SentenceTransformer(
            str(encoder.folder), device=place, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        why = (str(e).splitlines() or [type(e).__name__])[0]
        raise DataError(f"the model in {encoder.folder} cannot be loaded ({why})") from None
    model.eval()
    if encoder.max_length is not None:
        model.max_seq_length = encoder.max_length
    return model
