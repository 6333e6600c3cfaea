"""The plan of a run: which rows there will be, which are done already, and what the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench import provenance, registry
from sidbench.bench import Bench, Task, fresh, run_one, with_seed
from sidbench.decoder import Decoder
from sidbench.errors import UsageError, unknown
from sidbench.kit.device import resolve as resolve_device
from sidbench.plugin import configure
from sidbench.protocol import PROTOCOLS, split
from sidbench.record import RunRecord, Store
from sidbench.resolver import Resolver
from sidbench.settings import Settings
from sidbench.tokenizer import Tokenizer

#: Names in --set that are no plugin: the decoder, the dataset, and every tokenizer at once.
SHARED = ("decoder", "dataset", "all")


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows in the order in which they will run."""

    bench: Bench
    tasks: tuple[Task, ...]
    store: Store
    done: dict[int, RunRecord]

    @property
    def todo(self) -> list[Task]:
        return [t for i, t in enumerate(self.tasks) if i not in self.done]


@dataclass(frozen=True)
class Estimate:
    """Roughly what a row will take; `known` where an earlier record of the same row says so."""

    seconds: float
    memory_mb: float
    disk_mb: float
    known: bool


def make_plan(settings: Settings, *, redo: bool = False) -> Plan:
    """Check every name and parameter first, then load the data, then see what is done already."""
    device = str(resolve_device(settings.device))
    threads = settings.threads or provenance.available_cores()
    limit_threads(threads)
    rows = _rows(settings)
    if settings.protocol not in PROTOCOLS:
        raise unknown("protocol", settings.protocol, PROTOCOLS)
    registry.make_dataset(settings.dataset, settings.set.get("dataset"))  # its name, before anything is read
    store = Store(Path(settings.results))
    store.check_writable()

    corpus = registry.load_dataset(settings.dataset, settings.set.get("dataset"))
    bench = Bench(
        corpus=corpus,
        split=split(corpus, settings.protocol),
        cutoffs=tuple(sorted(set(settings.cutoffs))),
        seen=settings.seen,
        device=device,
        threads=threads,
    )
    tasks = []
    for row in rows:
        # A reference draws no random numbers: one row, whatever the seeds.
        seeds = settings.seeds if isinstance(row.method, Tokenizer) else settings.seeds[:1]
        tasks += [with_seed(row, seed, device) for seed in dict.fromkeys(seeds)]
    done = {} if redo else {i: r for i, t in enumerate(tasks) if (r := fresh(t, bench, store)) is not None}
    return Plan(bench, tuple(tasks), store, done)


def run_plan(plan: Plan, started: Callable[[int, Task], None], finished: Callable[[int, Task, RunRecord, bool], None],
             command: str) -> list[RunRecord]:  # fmt: skip
    """Run what is not done, in order; tell of each row as it starts and ends. Every row's record, in order."""
    env = {**provenance.versions(), "command": command}
    records = []
    for i, task in enumerate(plan.tasks):
        reused = plan.done.get(i)
        if reused is None:
            started(i, task)
        record = reused or run_one(task, plan.bench, plan.store, env)
        records.append(record)
        finished(i, task, record, reused is not None)
    return records


def limit_threads(threads: int) -> None:
    """One number of threads for every library that has its own pool."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)


def _rows(settings: Settings) -> list[Task]:
    """One task a method (or variant) and resolver, with everybody's parameters in place."""
    tokenizers, references, resolvers = registry.tokenizers(), registry.references(), registry.resolvers()
    methods = {**tokenizers, **references}
    _check_targets(settings, [*methods, *resolvers])
    labels: list[str] = []
    for name in settings.methods:
        if name == "all":
            variants = [t for t in settings.set if "@" in t]
            labels += [*references, *tokenizers, *variants]
        else:
            labels.append(name)

    chosen = list(resolvers) if settings.resolvers == ["all"] else settings.resolvers
    made: list[Resolver] = [configure(registry.find("resolver", r), settings.set.get(r, {})) for r in chosen]
    decoder = Decoder.preset(settings.decoder, **_known(Decoder, settings.set.get("decoder", {})))
    rows = []
    for label in dict.fromkeys(labels):
        name = label.partition("@")[0]
        cls = references[name] if name in references else _tokenizer(name, methods)
        shared = settings.set.get("all", {}) if issubclass(cls, Tokenizer) else {}
        values = {**shared, **settings.set.get(name, {}), **(settings.set.get(label, {}) if label != name else {})}
        method = configure(cls, values)
        if isinstance(method, Tokenizer):
            rows += [Task(label, method, 0, resolver, decoder, settings.decoder) for resolver in made]
        else:
            rows.append(Task(label, method, 0))
    return rows


def _tokenizer(name: str, methods: dict[str, type[Any]]) -> type[Any]:
    if name in methods:
        return methods[name]
    for broken in registry.scan().broken:
        if broken.name in (name, name.replace("-", "_")):
            raise UsageError(f"method {name!r} from {broken.origin} cannot be used: {broken.reason}")
    raise unknown("method", name, [*methods, "all"])


def _known(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values, once every name among them is a parameter of the class."""
    configure(cls, values)
    return values


def _check_targets(settings: Settings, names: list[str]) -> None:
    known = [*names, *SHARED]
    for target in settings.set:
        if target.partition("@")[0] not in known:
            raise UsageError(f"--set {target}: {unknown('plugin', target, known)}")


def estimate(task: Task, plan: Plan, speed: float) -> Estimate:
    """From an earlier record of the same row with another seed or state of the code, else from arithmetic.

    `speed` is what this machine computes, in multiply-adds a second (see `machine_speed`).
    """
    bench = plan.bench
    n, d = bench.corpus.embeddings.shape
    memory = 4.0 * n * d * 2.5 / 2**20 + 300
    for _, record in plan.store.all():
        if not isinstance(record, RunRecord) or record.status != "ok" or not _same_row(record, task, bench):
            continue
        took = record.measured
        seconds = sum(float(took.get(k, 0)) for k in ("fit_seconds", "resolve_seconds", "decoder_seconds"))
        seconds += len(bench.split.test) / took["search_users_per_second"] + 1
        return Estimate(seconds, memory, _disk_mb(task, bench), True)
    if task.decoder is None:
        return Estimate(1 + len(bench.split.test) * n * d / speed, memory, _disk_mb(task, bench), False)
    assert isinstance(task.method, Tokenizer)
    levels = task.method.levels + 1
    # A k-means of 25 iterations stands for any method; the decoder reaches a fifth of a plain product's speed.
    fit = 25 * n * d * sum(task.method.sizes) / speed
    macs = _work(task.decoder, levels)
    train = 3 * macs * task.decoder.steps * task.decoder.batch / (speed / 5)
    search = macs * max(task.decoder.beam, *bench.cutoffs) / 4 * len(bench.split.test) / (speed / 5)
    return Estimate(2 + fit + train + search, memory, _disk_mb(task, bench), False)


def machine_speed() -> float:
    """Multiply-adds a second of a float32 matrix product here, in a twentieth of a second."""
    import torch

    a = torch.ones(512, 512)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(4):
            a @ a
        rates.append(4 * 512**3 / (time.perf_counter() - start))
    return sorted(rates)[2]


def _work(decoder: Decoder, levels: int) -> float:
    """Multiply-adds of one sequence through the decoder, forward."""
    tokens = decoder.history * (levels if decoder.tokens == "codes" else 1)
    inner, block = decoder.heads * decoder.head_width, 2 * decoder.width * decoder.feed_forward
    encoder = decoder.encoder_layers * tokens * (4 * decoder.width * inner + block + 2 * tokens * inner)
    return encoder + decoder.decoder_layers * levels * (8 * decoder.width * inner + block + 2 * tokens * inner)


def _same_row(record: RunRecord, task: Task, bench: Bench) -> bool:
    ours, theirs = task.key(bench), record.key
    return all(ours[k] == theirs.get(k) for k in ("label", "params", "dataset", "decoder", "resolver", "hardware"))


def _disk_mb(task: Task, bench: Bench) -> float:
    vectors = 20 * len(bench.split.test)
    if not isinstance(task.method, Tokenizer):
        return vectors / 2**20
    n, d = bench.corpus.embeddings.shape
    return (vectors + n * (4 * task.method.levels + 40) + 4 * d * sum(task.method.sizes)) / 2**20
