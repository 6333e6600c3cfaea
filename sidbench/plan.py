"""The plan of a run: which rows there will be, and which are done already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sidbench import registry
from sidbench.bench import fresh, refuse
from sidbench.dataset import cached_files
from sidbench.decoder import Decoder
from sidbench.engines import Engine, Local
from sidbench.errors import UsageError, unknown
from sidbench.logger import Logger
from sidbench.origins import advice
from sidbench.plugin import P, Plugin, configure, parameter_types, required
from sidbench.protocol import PROTOCOLS, make_protocol
from sidbench.record import RunRecord, Store
from sidbench.resolver import Resolver
from sidbench.settings import Settings
from sidbench.task import Bench, Task, with_seed
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
    notes: tuple[str, ...] = ()
    #: What loading the data left in the cache.
    cached_mb: float = 0.0
    #: Who is told while rows run.
    loggers: tuple[Logger, ...] = ()

    @property
    def todo(self) -> list[Task]:
        return [t for i, t in enumerate(self.tasks) if i not in self.done]


def make_plan(
    settings: Settings, *, redo: bool = False, dry: bool = False, engine: Engine | None = None
) -> Plan:
    """Check every name and parameter first, then load the data, then see what is done already."""
    engine = engine or Local()
    device, threads = engine.device(settings.device), engine.threads(settings.threads)
    limit_threads(threads)
    rows, left_out = _rows(settings)
    loggers = _loggers(settings)
    protocol = make_protocol(settings.protocol, settings.set.get(settings.protocol))
    # Its name and parameters, before anything is read.
    dataset = registry.make_dataset(settings.dataset, settings.set.get("dataset"))
    store = Store(Path(settings.results))
    if not dry:
        store.check_writable()

    before = cached_files()
    corpus = registry.load_dataset(settings.dataset, settings.set.get("dataset"))
    if corpus.published is not None and "protocol" not in settings.model_fields_set:
        protocol = make_protocol("published")  # who names none means the split that came with the data
    bench = Bench(
        corpus=corpus,
        split=protocol.split(corpus),
        cutoffs=tuple(sorted(set(settings.cutoffs))),
        seen=settings.seen,
        device=device,
        threads=threads,
        dataset=dataset,
    )
    cached = sum(size for path, size in cached_files().items() if path not in before) / 2**20
    tasks = []
    for row in rows:
        refuse(row.method, bench.split)
        # A reference that draws no random numbers is one row, the same one whatever the seeds.
        draws = isinstance(row.method, Tokenizer) or row.method.random
        seeds = settings.seeds if draws else [0]
        tasks += [with_seed(row, seed, device) for seed in dict.fromkeys(seeds)]
    # Records name their machine: who has no GPU cannot say which those of a cluster are; its workers can.
    blind = device.startswith("cuda") and not torch.cuda.is_available()
    look = () if redo or blind else enumerate(tasks)
    done = {i: r for i, t in look if (r := fresh(t, bench, store)) is not None}
    notes = (*left_out, *_unused(settings, tasks), *_unbound(settings, tasks))
    return Plan(bench, tuple(tasks), store, done, notes, cached, loggers)


def limit_threads(threads: int) -> None:
    """One number of threads for every library that has its own pool."""
    import torch
    from threadpoolctl import threadpool_limits

    # What is loaded already obeys the calls; what a plugin loads later reads these as it starts.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)


def _rows(settings: Settings) -> tuple[list[Task], list[str]]:
    """One task a method (or variant) and resolver, with everybody's parameters in place; what is left out."""
    tokenizers, references, resolvers = registry.tokenizers(), registry.references(), registry.resolvers()
    methods = {**tokenizers, **references}
    _check_set(settings, {**methods, **resolvers, **registry.loggers(), **PROTOCOLS})
    labels: list[str] = []
    for name in settings.methods:
        variants = [t for t in settings.set if "@" in t]
        if name == "all":
            # What needs a value that only a person has (a file) runs when it is named.
            given = settings.set
            whole = [n for n, cls in tokenizers.items() if set(required(cls)) <= set(given.get(n, {}))]
            labels += [*references, *whole, *variants]
        elif "@" in name and name not in variants:
            raise unknown("variant", name, variants)  # it would run under another name with nothing changed
        else:
            labels.append(name)

    chosen = [n for r in settings.resolvers for n in (resolvers if r == "all" else [r])]
    made: list[Resolver] = [
        configure(registry.find("resolver", r), settings.set.get(r, {})) for r in dict.fromkeys(chosen)
    ]
    decoder = Decoder.preset(settings.decoder, **settings.set.get("decoder", {}))
    decoder = _bound(decoder, "decoder", settings)
    rows = []
    without: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        name = label.partition("@")[0]
        cls = references[name] if name in references else _tokenizer(name, methods)
        shared = settings.set.get("all", {}) if issubclass(cls, Tokenizer) else {}
        values = {
            **shared,
            **settings.set.get(name, {}),
            **(settings.set.get(label, {}) if label != name else {}),
        }
        method = configure(cls, values)
        if isinstance(method, Tokenizer):
            able = [r for r in made if method.supports("costs") or not r.needs_costs]
            rows += [Task(label, method, 0, resolver, decoder, settings.decoder) for resolver in able]
            if len(able) < len(made):
                without[label] = [r.name for r in made if r not in able]
        else:
            rows.append(Task(label, _bound(method, label, settings), 0))
    left = {row.label for row in rows}
    for label, lost in without.items():
        if label in left or "all" in settings.methods:
            continue
        raise UsageError(
            f"{label} gives no distances (costs): it cannot be used with {', '.join(lost)}; for it use "
            f"--resolvers {','.join(n for n, cls in resolvers.items() if not cls.needs_costs)}"
        )
    notes = [
        f"{label}: left out with {', '.join(lost)}, since it gives no distances (costs)"
        for label, lost in without.items()
    ]
    return rows, notes


def _loggers(settings: Settings) -> tuple[Logger, ...]:
    """Those that a person named, each with its package there."""
    made: list[Logger] = [
        configure(registry.find("logger", name), settings.set.get(name, {}))
        for name in dict.fromkeys(settings.log)
    ]
    for logger in made:
        logger.check()
    return tuple(made)


def _bound(plugin: P, target: str, settings: Settings) -> P:
    """The decoder or a reference with the run's budget; what counts instead of training stays as it is."""
    budget = settings.budget
    if budget is None or not budget.binds(plugin):
        return plugin
    for label in (target.partition("@")[0], target):
        budget.refuse(label, settings.set.get(label, {}))
    return budget.bind(plugin)


def _tokenizer(name: str, methods: dict[str, type[Any]]) -> type[Any]:
    if name in methods:
        return methods[name]
    for broken in registry.scan().broken:
        if broken.name in (name, name.replace("-", "_")):
            raise UsageError(f"method {name!r} from {broken.origin} cannot be used: {broken.reason}")
    raise unknown("method", name, [*methods, "all"])


def _check_set(settings: Settings, plugins: dict[str, type[Plugin]]) -> None:
    """Every name and value under `set`, those of plugins that are not in this run too: a typo is a typo."""
    for target, values in settings.set.items():
        name = target.partition("@")[0]
        if name not in plugins and target not in SHARED:
            raise UsageError(f"--set {target}: {unknown('plugin', name, [*plugins, *SHARED])}")
        if target == "dataset":  # checked where the dataset is made
            continue
        for key, option in (("seed", "--seeds"), ("device", "--device")):
            if key in values and target not in PROTOCOLS:  # a protocol's seed is its own
                raise UsageError(f"--set {target}.{key}: {option} sets it, for every row alike")
        if target == "all":
            shared = [k for k in parameter_types(Tokenizer) if k not in ("seed", "device")]
            for key in values:
                if key not in shared:
                    said = unknown("parameter of every tokenizer", key, shared)
                    elsewhere = advice("every tokenizer", key, shared)
                    raise UsageError(f"--set all.{key}: {elsewhere or said}")
        else:
            configure(Decoder if target == "decoder" else plugins[name], values)


def _unused(settings: Settings, tasks: list[Task]) -> tuple[str, ...]:
    """A note on each table under `set` that no row of this run reads."""
    used = {
        "dataset",
        settings.protocol,
        *settings.log,
        *(t.label for t in tasks),
        *(t.method.name for t in tasks),
    }
    used |= {t.resolver.name for t in tasks if t.resolver is not None}
    used |= {"decoder", "all"} if any(t.decoder is not None for t in tasks) else set()
    return tuple(
        f"--set {target} is not used by any row of this run" for target in settings.set if target not in used
    )


def _unbound(settings: Settings, tasks: list[Task]) -> tuple[str, ...]:
    """A note on each reference that takes a budget, but not one of this kind."""
    budget = settings.budget
    if budget is None:
        return ()
    found = {t.label: t.method for t in tasks if t.decoder is None and "budget" in t.method.params()}
    return tuple(
        f"{label} goes by its own settings: a budget of sequences needs batch, steps and patience"
        for label, method in found.items()
        if not budget.binds(method)
    )
