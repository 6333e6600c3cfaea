"""The shards of an encode as pieces of work for an engine: each by whichever worker is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sidbench.catalogue.encode import Runner
from sidbench.catalogue.job import Entry, Job, encode_shard
from sidbench.engines import Engine, Lost, Needs
from sidbench.errors import StorageError
from sidbench.progress import report


def needs(engine: Engine, device: str, threads: int) -> Needs:
    """What one shard takes: a core unless told otherwise, and on cuda a GPU of its own.

    As many shards at a time as there are cores read, compute and write past each other by themselves.
    """
    return Needs(threads or 1, int(engine.device(device).startswith("cuda")))


def spread(engine: Engine, device: str, asked: Needs) -> Runner:
    """What `encode` takes to have its shards done by an engine."""
    there = engine.device(device)

    def run(job: Job, todo: list[int]) -> Iterator[tuple[int, Entry]]:
        job = replace(job, device=there)
        lost: dict[int, str] = {}
        rows = job.rows - sum(stop - start for start, stop in map(job.bounds, todo))
        for i, outcome in engine.each(encode_shard, job, todo, asked, job.parts):
            if isinstance(outcome, Lost):
                lost[i] = outcome.said
            else:
                start, stop = job.bounds(i)
                rows += stop - start
                report("encode", rows, job.rows)
                yield i, outcome
        if lost:
            first = min(lost)
            raise StorageError(
                f"{len(lost)} of {len(todo)} shards are not done, the first of them {job.file(first).name}: "
                f"{lost[first]}. The others stand; the same command does what is missing"
            )

    return run
