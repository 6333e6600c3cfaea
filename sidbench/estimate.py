"""What the rows of a plan will take: from earlier records, else from short trials on the real data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sidbench import clock, progress
from sidbench.bench import warm_up
from sidbench.budget import seconds_of
from sidbench.dataset import Embeddings
from sidbench.decoder import Decoder
from sidbench.protocol import Targets
from sidbench.record import RunRecord
from sidbench.reference import Reference
from sidbench.sids import SIDs
from sidbench.task import Bench, Task, places_needed
from sidbench.tokenizer import Tokenizer

#: Seconds of training steps, and of search, that a trial takes at most, but for a first step that is longer.
TRIAL = 1.5
#: Steps of a trial, the first left out.
STEPS = 12


@dataclass(frozen=True)
class Estimate:
    """At most about what a row will take: early stopping may end it sooner."""

    seconds: float
    memory_mb: float
    disk_mb: float
    known: bool  # an earlier record of the same row says so


@dataclass(eq=False)
class Estimator:
    """Estimates for the rows of one plan; what several rows share is tried once."""

    bench: Bench
    earlier: Iterable[RunRecord]
    _tried: dict[Any, float] = field(default_factory=dict)

    def __call__(self, task: Task) -> Estimate:
        n, d = self.bench.corpus.embeddings.shape
        disk, budget = _disk_mb(task, self.bench), seconds_of(task.decoder, task.method)
        for record in self.earlier:
            if record.status == "ok" and _same_row(record, task, self.bench):
                seconds = _seconds(record, len(self.bench.split.test), budget)
                peak = float(record.measured.get("peak_memory_mb", 0))
                return Estimate(seconds, _resident_mb() + peak, disk, True)
        if isinstance(task.method, Reference):
            reference = task.method.replace(**({"seed": 0} if task.method.random else {}))
            seconds = budget or self._once(reference, lambda: _try_reference(reference, self.bench))
        else:
            assert task.decoder is not None
            what = (task.decoder.replace(seed=0), task.method.levels, repr(task.resolver))
            method, x = task.method, self.bench.corpus.embeddings
            seconds = self._once(method.replace(seed=0), lambda: _try_fit(method, x))
            seconds += self._once(what, lambda: _try_decoder(task, self.bench))
        return Estimate(1 + seconds, _resident_mb() + 1.5 * 4 * n * d / 2**20, disk, False)

    def _once(self, what: Any, trial: Callable[[], float]) -> float:
        if what not in self._tried:
            self._tried[what] = 0.0
            with suppress(Exception):  # what fails here fails as a row, too, and is told there
                self._tried[what] = trial()
        return self._tried[what]


class _EnoughError(Exception):
    """Ends a trial from within."""


def _try_decoder(task: Task, bench: Bench) -> float:
    """Seconds to train to the last step and search for all users, from a few steps and a few users."""
    assert isinstance(task.method, Tokenizer)
    assert task.decoder is not None
    decoder, learning = task.decoder, bench.learning
    if decoder.budget:  # training leaves of it what the search will take
        return decoder.budget
    warm_up(decoder)
    moments: list[float] = []

    def listen(stage: str, *_: Any) -> None:
        if stage == "train":
            moments.append(time.perf_counter())
            if len(moments) > STEPS or moments[-1] - moments[0] > TRIAL or moments[0] - start > TRIAL:
                raise _EnoughError

    sids = _any_sids(task, bench)
    start = time.perf_counter()
    # Validations are counted by the users that they search for, below.
    ready = decoder.replace(eval_every=decoder.steps)
    with suppress(_EnoughError), progress.listening(listen):
        ready.fit(sids, learning)
    steps = np.diff(moments) if len(moments) > 1 else np.array([moments[0] - start])
    setup = max(0.0, moments[0] - start - float(np.median(steps)))
    validations = math.ceil(decoder.steps / decoder.eval_every)
    users = len(bench.split.test) + validations * min(decoder.valid_users, len(learning.valid))
    # Stopped in the middle it searches as a trained one does; what it finds means nothing.
    k = places_needed(bench)
    each = _seconds_each(lambda some: ready.recommend(some.histories, k, some.users), bench.split.test)
    return setup + float(np.median(steps)) * decoder.steps + each * users


def _any_sids(task: Task, bench: Bench) -> SIDs:
    """SIDs of the row's sizes, drawn at random, and resolved where the resolver needs no fitted tokenizer."""
    assert isinstance(task.method, Tokenizer)
    rng = np.random.default_rng(0)
    sizes, n = task.method.sizes, len(bench.corpus)
    codes = np.stack([rng.integers(size, size=n, dtype=np.int32) for size in sizes], axis=1)
    sids = SIDs(codes, sizes, bench.corpus.item_ids)
    if task.resolver is not None:
        with suppress(Exception):
            return task.resolver.resolve(sids, task.method.replace(), bench.corpus.embeddings)
    return sids


def _try_reference(reference: Reference, bench: Bench) -> float:
    if reference.random:
        warm_up(Decoder(device=bench.device))
    # Cut off in the middle it recommends as one that has learned, and as fast.
    fit = _seconds_to(lambda: reference.fit(bench.learning, bench.corpus.embeddings))
    k = places_needed(bench)
    each = _seconds_each(lambda some: reference.recommend(some.histories, k), bench.split.test)
    return fit + each * len(bench.split.test)


def _seconds_each(search: Callable[[Targets], Any], test: Targets) -> float:
    """Seconds a user, from more and more of them until they take long enough to be believed."""
    order = np.random.default_rng(0).permutation(len(test))
    count = min(16, len(test))
    search(test.take(order[:count]))  # what is paid once is paid here
    while True:
        start = time.perf_counter()
        search(test.take(order[:count]))
        seconds = time.perf_counter() - start
        if seconds > TRIAL / 5 or count == len(test):
            return seconds / count
        count = min(4 * count, len(test))


def _try_fit(method: Tokenizer, x: Embeddings) -> float:
    """Seconds to fit all rows, from two samples: what grows with the rows grows in a straight line."""
    if method.supports("codes_of"):
        return 0.0
    # Rows come in no order, so the first of them are a sample.
    few = min(len(x), max(1024, 2 * method.fewest))
    many = min(len(x), 4 * few)
    one = _seconds_to(lambda: method.replace().fit(x[:few]))
    if many == few:
        return one
    more = _seconds_to(lambda: method.replace().fit(x[:many]))
    return more + max(0.0, more - one) / (many - few) * (len(x) - many)


def _seconds_to(fit: Callable[[], Any]) -> float:
    """The seconds of a fit; one that takes long is cut off and judged by how far it was."""
    share = 1.0
    start = time.perf_counter()

    def listen(stage: str, done: float, total: float, _: dict[str, float]) -> None:
        nonlocal share
        if stage == "fit" and 0 < done < total and time.perf_counter() - start > TRIAL:
            share = done / total
            raise _EnoughError

    with suppress(_EnoughError), progress.listening(listen):
        fit()
    return (time.perf_counter() - start) / share


def _seconds(record: RunRecord, users: int, budget: float) -> float:
    took = record.measured
    if budget:
        fit = 0.0 if record.key["decoder"] is None else float(took.get("fit_seconds", 0))
        return 1 + budget + fit + float(took.get("resolve_seconds", 0))
    seconds = sum(float(took.get(k, 0)) for k in ("fit_seconds", "resolve_seconds", "decoder_seconds"))
    return 1 + seconds + users / float(took.get("search_users_per_second", math.inf))


def _same_row(record: RunRecord, task: Task, bench: Bench) -> bool:
    ours, theirs = task.key(bench), record.key
    same = ("label", "params", "dataset", "protocol", "decoder", "resolver", "hardware")
    return all(ours[k] == theirs.get(k) for k in same)


def _resident_mb() -> float:
    """What this process, with the data and every library, holds already."""
    return clock.resident() / 2**20


def _disk_mb(task: Task, bench: Bench) -> float:
    vectors = 20 * len(bench.split.test)
    if not isinstance(task.method, Tokenizer):
        return vectors / 2**20
    n, d = bench.corpus.embeddings.shape
    return float(vectors + n * (4 * task.method.levels + 40) + 4 * d * sum(task.method.sizes)) / 2**20
