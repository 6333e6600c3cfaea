"""run_one: the path of the data, from embeddings to a record, top to bottom."""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from sidbench import checkpoints, clock, metrics, parts, progress, provenance
from sidbench.dataset import Corpus, Sequences
from sidbench.decoder import Decoder
from sidbench.errors import ContractError, RanksError, SidbenchError, StorageError, UsageError
from sidbench.kit.device import noting
from sidbench.protocol import Split, Targets
from sidbench.ranking import Ranking
from sidbench.record import RunRecord, Store, run_id
from sidbench.reference import Reference
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs
from sidbench.task import Bench, Task, places_needed, plain
from sidbench.tokenizer import RUN_FACTS, Tokenizer

log = logging.getLogger(__name__)

#: Rows that `encode` is given at a time when its speed is measured; stated in the record.
ENCODE_CHUNK = 8192
#: Errors of a disk that will take no other row's files either.
REFUSALS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EROFS", "EACCES", "EDQUOT", "EPERM", "EIO")
    if hasattr(errno, name)
}


def run_one(task: Task, bench: Bench, store: Store, env: dict[str, str]) -> RunRecord:
    """Run one row, write its record and artifacts, return the record. A failure is a record too."""
    key = task.key(bench)
    run = _Run(task.seed)
    notes = (*bench.corpus.notes, *bench.split.notes)
    run.facts["notes"] = [provenance.without_folders(note) for note in notes]
    try:
        if isinstance(task.method, Reference):
            _run_reference(task.method, bench, run, store.unfinished(key), task.code())
        else:
            _run_tokenizer(task, bench, run, store, key)
    except (StorageError, RanksError):
        raise
    except (Exception, SystemExit) as e:  # whatever a plugin raises is that row's failure; the others go on
        message = provenance.without_folders(_said(e, task), store.root)
        run.error = {"type": type(e).__name__, "stage": run.stage, "message": message}
        log.debug("%s failed in %s", task.label, run.stage, exc_info=True)
    failed = run.error is not None
    record = RunRecord(
        id=run_id(key),
        status="failed" if failed else "ok",
        key=key,
        code=task.code(),
        error=run.error,
        facts=run.facts,
        # A number that is none (an error relative to nothing) is left out, as an absent one is.
        metrics={} if failed else {k: v for k, v in run.metrics.items() if math.isfinite(v)},
        levels=run.levels,
        measured={**run.measured, "finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds")},
        env=env,
    )
    store.save(record, {} if failed else run.vectors)
    return record


@dataclass
class _Run:
    """What a run has gathered so far."""

    seed: int
    stage: str = "start"
    error: dict[str, str] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    levels: dict[str, list[float]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, NDArray[Any]] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str, device: str = "cpu") -> Iterator[clock.Span]:
        self.stage = stage
        progress.report(stage, 0, 1)
        # Each stage anew: how often `encode` was repeated for its timing must change nothing after it.
        _seed_everything(self.seed)
        with clock.span(device) as span:
            yield span
        progress.report(stage, 1, 1)


def _run_tokenizer(task: Task, bench: Bench, run: _Run, store: Store, key: dict[str, Any]) -> None:
    assert isinstance(task.method, Tokenizer)
    assert task.resolver is not None
    assert task.decoder is not None
    corpus, split = bench.corpus, bench.split
    x = corpus.embeddings.view(np.ndarray)
    x.flags.writeable = False  # a plugin that writes to its input fails as that plugin's own error
    tokenizer = task.method.replace()
    run.facts.update(sizes=list(tokenizer.sizes), floor=tokenizer.floor, encode_chunk=ENCODE_CHUNK)

    # What was cut off goes on from its last checkpoint; by other code it starts anew.
    unfinished = store.unfinished(key) / task.code()
    with noting() as ran_on:
        codes, again = _codes(tokenizer, bench, run, unfinished)
    if ran_on:  # a device, by one of several ways that give the same codes
        run.facts["ran_on"] = ran_on
    manifest = {
        "method": key["method"],
        "params": key["params"],
        "seed": key["seed"],
        "run": run_id(key),
        "dataset": corpus.name,
        "tokenizer_levels": len(tokenizer.sizes),
        "resolver_params": key["resolver"]["params"],
        "fingerprint": corpus.fingerprint,
        "versions": provenance.versions(),
        **({"cold_items": len(split.cold)} if len(split.cold) else {}),
    }
    sids = SIDs(codes, tokenizer.sizes, corpus.item_ids, manifest=manifest)
    run.facts.update(_told(tokenizer))

    run.stage = "measure"
    numbers, run.levels = metrics.codebook_metrics(codes, sids.sizes)
    run.vectors.update(metrics.usage(codes, sids.sizes))
    run.metrics.update(numbers, **bench.floor)
    run.metrics.update(metrics.collision_metrics(codes, split.test.items, floor=bench.floor))
    run.levels.update(metrics.prefix_collisions(codes))
    if len(split.cold):
        run.metrics.update(metrics.cold_collisions(codes, split.cold))
    if again is not None:
        run.metrics["encode_agreement"] = float((again == codes).all(axis=1)[split.warm].mean())
    if tokenizer.supports("reconstruct"):
        run.metrics.update(metrics.reconstruction_metrics(x, codes, tokenizer.reconstruct))
    _seed_everything(task.seed)  # some are encoded again, moved a little
    found = metrics.intrinsic_metrics(
        codes,
        sids.sizes,
        x=x,
        train=split.train,
        categories=corpus.categories,
        tokenizer=tokenizer,
        near=bench.near,
    )
    run.metrics.update(found.values)
    run.levels.update(found.levels)

    with run.timed("resolve") as resolve:
        resolver = task.resolver.replace()
        resolved = _resolved(resolver, sids, tokenizer, bench)
    run.measured["resolve_seconds"] = resolve.seconds
    run.facts["resolver"] = plain(resolver.facts(), f"{resolver.name}.facts()")
    after = metrics.collision_metrics(resolved.codes, split.test.items, floor=bench.floor, resolved=True)
    run.metrics.update(after)
    run.levels.update(metrics.prefix_collisions(resolved.codes, resolved=True))
    costs = tokenizer.costs if tokenizer.supports("costs") else None
    run.metrics.update(metrics.resolution_metrics(codes, resolved.codes, sids.sizes[-1], x, costs))
    trie, trie_levels = metrics.trie_metrics(metrics.Prefixes(resolved.codes))
    run.metrics.update(trie)
    run.levels.update(trie_levels)
    run.facts["sid_sizes"] = list(resolved.sizes)

    decoder, learning = task.decoder.replace(), bench.learning
    with run.timed("train", bench.device) as train, checkpoints.kept_in(unfinished) as kept:
        decoder.fit(resolved, learning)
    run.facts["decoder"] = decoder.facts()
    seconds = kept.spent + train.seconds
    run.measured["decoder_seconds"] = seconds
    run.measured["decoder_sequences_per_second"] = decoder.sequences_seen_ / seconds
    run.vectors.update({f"curve_{k}": np.asarray(v) for k, v in decoder.curve_.items()})

    test, k = split.test, places_needed(bench)
    run.facts["beam"] = max(decoder.beam, k)  # what `recommend` searches with
    with run.timed("search", bench.device) as search:
        # The clock stops at the ranking; its scoring is no part of serving.
        ranking = decoder.recommend(test.histories, k, test.users)
    run.measured["search_users_per_second"] = len(test) / search.seconds
    _score(ranking, bench, run, sid_level=True)

    run.stage = "save"
    tokenizer.state()  # what the plugin's own code raises here is that row's failure, not the disk's
    _save_artifact(store.artifact(key), tokenizer, resolved, corpus)
    shutil.rmtree(store.unfinished(key), ignore_errors=True)


def refuse(method: Tokenizer | Reference, split: Split) -> None:
    """A protocol whose cold items a method must have seen cannot run it."""
    if len(split.cold) and isinstance(method, Tokenizer) and method.supports("codes_of"):
        raise UsageError(
            f"{method.name} looks its codes up and cannot encode new items, so {split.protocol} has nothing "
            f"to judge: its codes of the {len(split.cold):,} cold items were made with knowledge of them. "
            "Leave it out, or use another protocol"
        )


def _codes(tokenizer: Tokenizer, bench: Bench, run: _Run, unfinished: Path) -> tuple[Codes, Codes | None]:
    """The catalogue's codes, and what `encode` alone says of the same items, where it can say anything."""
    refuse(tokenizer, bench.split)
    x = bench.corpus.embeddings.view(np.ndarray)
    if tokenizer.supports("codes_of"):
        with run.timed("fit") as fit:
            codes = tokenizer.codes_of(bench.corpus.item_ids)
        run.measured["peak_memory_mb"] = fit.peak_mb
        return codes, None
    with run.timed("fit", bench.device) as fit, checkpoints.kept_in(unfinished):
        known = tokenizer.fit_encode(bench.known)
    run.measured["fit_seconds"] = fit.seconds
    with run.timed("encode", bench.device) as encode:
        again = _in_chunks(tokenizer, x)
    codes = known
    if len(bench.split.cold):
        codes = again.copy()
        codes[bench.split.warm] = known
    run.measured["peak_memory_mb"] = max(fit.peak_mb, encode.peak_mb)
    # The pass above was the warm-up.
    run.measured["encode_items_per_second"] = clock.items_per_second(
        lambda: _in_chunks(tokenizer, x), len(x), bench.device
    )
    run.vectors.update({f"fit_{k}": np.asarray(v) for k, v in tokenizer.curves().items()})
    return codes, again


def _resolved(resolver: Resolver, sids: SIDs, tokenizer: Tokenizer, bench: Bench) -> SIDs:
    """Every item's SID: those of known items first and for themselves, the cold ones beside them."""
    cold, warm = bench.split.cold, bench.split.warm
    known = sids if not len(cold) else sids.replace(codes=sids.codes[warm], item_ids=sids.item_ids[warm])
    frozen = resolver.resolve(known, tokenizer, bench.known)
    if not np.array_equal(frozen.item_ids, known.item_ids):
        raise ContractError(f"{resolver.name}.resolve must return the same items in the same order")
    if not len(cold):
        return frozen
    x = bench.corpus.embeddings[cold].view(np.ndarray)
    both = resolver.extend(frozen, sids.codes[cold], sids.item_ids[cold], tokenizer, x)
    place = np.concatenate([warm, cold])
    if not np.array_equal(both.item_ids, sids.item_ids[place]) or not np.array_equal(
        both.codes[: len(warm)], frozen.codes
    ):
        raise ContractError(
            f"{resolver.name}.extend must return the frozen SIDs unchanged, then the new items'"
        )
    order = np.argsort(place)
    return both.replace(codes=both.codes[order], item_ids=both.item_ids[order])


def _save_artifact(folder: Path, tokenizer: Tokenizer, sids: SIDs, corpus: Corpus) -> None:
    """Write the fitted tokenizer and the SIDs; the folder gets its name when it is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with parts.folder_beside(folder) as beside:
            part = beside / folder.name
            tokenizer.save(part)
            sids.save(part, corpus.titles)
            if folder.exists():
                folder.replace(beside / "before")
            part.replace(folder)
    except (OSError, SafetensorError) as e:
        if not _disk_refuses(e, folder.parent):
            raise
        raise StorageError(
            f"the artifact {folder} cannot be written ({e}); records already written stand. "
            "Free space or change permissions, then run the same command again"
        ) from None


def _disk_refuses(error: Exception, folder: Path) -> bool:
    """Whether an error is the disk's refusal to take files below this folder; else it is the plugin's own."""
    if isinstance(error, OSError):
        number, file = error.errno, error.filename
    else:  # safetensors writes by itself and tells the number in its text
        told = re.search(r"os error (\d+)", str(error))
        number, file = int(told[1]) if told else None, None
    ours = not isinstance(file, (str, bytes)) or Path(os.fsdecode(file)).resolve().is_relative_to(
        folder.resolve()
    )
    return number in REFUSALS and ours


def _run_reference(method: Reference, bench: Bench, run: _Run, unfinished: Path, code: str) -> None:
    reference, learning = method.replace(), bench.learning
    with run.timed("fit", bench.device) as fit, checkpoints.kept_in(unfinished / code) as kept:
        reference.fit(learning, bench.corpus.embeddings)
    run.facts.update(_told(reference))
    run.measured["fit_seconds"] = kept.spent + fit.seconds
    run.vectors.update({f"curve_{k}": np.asarray(v) for k, v in reference.curves().items()})
    with run.timed("search", bench.device) as search:
        ranking = reference.recommend(bench.split.test.histories, places_needed(bench))
    run.measured["search_users_per_second"] = len(bench.split.test) / search.seconds
    _score(ranking, bench, run, sid_level=False)
    shutil.rmtree(unfinished, ignore_errors=True)


def _told(method: Tokenizer | Reference) -> dict[str, Any]:
    """A method's own facts, none of which may stand for one of the run's."""
    told: dict[str, Any] = plain(method.facts(), f"{method.name}.facts()")
    if taken := sorted(RUN_FACTS & told.keys()):
        raise ContractError(f"{method.name}.facts() names {', '.join(taken)}, which the run itself states")
    return told


def _score(ranking: Ranking, bench: Bench, run: _Run, *, sid_level: bool) -> None:
    run.stage = "score"
    test, split = bench.split.test, bench.split
    if bench.seen == "mask":
        ranking = ranking.without(test.histories)
    found = metrics.places(ranking, test.items)
    run.metrics.update(metrics.ranking_metrics(found, bench.cutoffs, sid_level=sid_level))
    run.metrics.update(metrics.coverage_metrics(ranking, bench.cutoffs))
    if len(split.cold):
        run.metrics.update(metrics.cold_metrics(found, np.isin(test.items, split.cold), bench.cutoffs))
    met = np.bincount(split.train.items, minlength=split.n_items)[test.items]
    run.levels = {**run.levels, **metrics.decile_recall(found, met, bench.cutoffs)}
    run.vectors.update(
        user=test.users, **{f"target_{k}": v.astype(np.int32) for k, v in found._asdict().items()}
    )


def _in_chunks(tokenizer: Tokenizer, x: NDArray[np.float32]) -> Codes:
    return np.concatenate([tokenizer.encode(x[s : s + ENCODE_CHUNK]) for s in range(0, len(x), ENCODE_CHUNK)])


def _seed_everything(seed: int) -> None:
    """So that a plugin that draws from a global generator is still repeatable."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the legacy generator is exactly what is to be seeded
    torch.manual_seed(seed)


def _said(error: BaseException, task: Task) -> str:
    """The error in one line; for what is not ours, with the line of the plugin that raised it."""
    if isinstance(error, SidbenchError):
        return str(error)
    plugins = [p for p in (task.method, task.resolver) if p is not None]
    homes = {provenance.source_file(type(p).__module__) for p in plugins}
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename in homes:
            where = f" ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"
    if clock.is_out_of_memory(error):
        return (
            f"out of memory{where}: fewer rows at a time (a smaller batch_size), a sample to fit on, fewer "
            f"codes a level or another --device need less ({str(error).splitlines()[0] or 'MemoryError'})"
        )
    return f"{type(error).__name__}: {error}{where}"


def warm_up(decoder: Decoder) -> None:
    """Train and search once on four items: what a process pays once must not fall on the first row's clock.

    The first optimizer alone takes seconds to import what it needs; then thread pools and a GPU's context.
    """
    one = Sequences.of([[0, 1]])
    goal = Targets(np.zeros(1, dtype=np.int64), one, np.full(1, 2, dtype=np.int32))
    sids = SIDs(np.arange(4, dtype=np.int32)[:, None], (4,), np.arange(4))
    small = decoder.replace(
        width=8, heads=1, head_width=8, feed_forward=8, batch=8, steps=1, budget=0, user_tokens=0
    )
    with progress.unheard():  # its step is no row's
        small.fit(sids, Split("warm-up", one, goal, goal, len(sids))).recommend(one, 1)


def fresh(task: Task, bench: Bench, store: Store) -> RunRecord | None:
    """The record of this very row, where it is whole, succeeded and was made by the code of today."""
    key = task.key(bench)
    record = store.find(key)
    if record is None or record.status != "ok" or record.code != task.code():
        return None
    return record if store.sizes(key) == record.measured.get("files") else None
