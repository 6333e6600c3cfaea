"""Task: one row to be, with all that decides its result; Bench: what the rows of one run share."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sidbench import metrics, provenance
from sidbench.dataset import Corpus, Dataset, Embeddings, some_rows
from sidbench.decoder import Decoder
from sidbench.errors import ContractError
from sidbench.kit.ranks import ranks
from sidbench.plugin import P, Plugin
from sidbench.protocol import Split
from sidbench.reference import Reference
from sidbench.resolver import Resolver
from sidbench.tokenizer import Tokenizer

#: The path that every row takes.
PATH = "sidbench.bench"


@dataclass(frozen=True, eq=False)
class Bench:
    """What all rows of one run share: the data, the protocol, the machine."""

    corpus: Corpus
    split: Split
    cutoffs: tuple[int, ...]
    seen: str  # "keep" or "mask"
    device: str
    threads: int
    #: The plugin that gave the corpus, where one did.
    dataset: Dataset | None = None

    @cached_property
    def floor(self) -> dict[str, float]:
        """What repeated vectors, and texts, alone make of the collisions; the same for every row."""
        return metrics.floor_metrics(self.corpus.embeddings, self.corpus.titles)

    @cached_property
    def near(self) -> metrics.Neighbours:
        """Which items lie near which, of a sample: what prefixes are held against; the same for every row."""
        return metrics.nearest_items(self.corpus.embeddings.view(np.ndarray))

    @cached_property
    def known(self) -> Embeddings:
        """The vectors that a tokenizer is fitted on: those of all items but the cold ones."""
        x, cold = self.corpus.embeddings, self.split.cold
        if len(cold):
            which = hashlib.blake2b(cold.tobytes(), digest_size=4).hexdigest()
            x = some_rows(x, self.split.warm, f"warm-{self.corpus.fingerprint}-{which}")
        x = x.view(np.ndarray)
        x.flags.writeable = False  # a plugin that writes to its input fails as that plugin's own error
        return x

    @cached_property
    def learning(self) -> Split:
        """The split as what learns is given it: the test targets are not there to be read, but counted."""
        test = self.split.test
        nothing = test.take(np.zeros(0, dtype=np.int64))
        return replace(self.split, test=nothing, queries=len(test), places=places_needed(self))


@dataclass(frozen=True, eq=False)
class Task:
    """One row to be: a tokenizer with its resolver and decoder, or a reference that needs neither."""

    label: str
    method: Tokenizer | Reference
    seed: int
    resolver: Resolver | None = None
    decoder: Decoder | None = None
    preset: str = ""

    def key(self, bench: Bench) -> dict[str, Any]:
        """Everything that decides the result, and so names the record."""
        corpus = bench.corpus
        return {
            "kind": self.method.kind,
            "method": self.method.name,
            "label": self.label,
            "params": _params(self.method),
            "seed": self.seed,
            "dataset": {
                "name": corpus.name,
                "fingerprint": corpus.fingerprint,
                "catalogue": corpus.catalogue,
                **origin(bench.dataset),
                "items": len(corpus),
                "users": len(corpus.sequences),
                "interactions": len(corpus.sequences.items),
                "dimensions": corpus.embeddings.shape[1],
            },
            "protocol": {
                "name": bench.split.protocol,
                "seen": bench.seen,
                "cutoffs": list(bench.cutoffs),
                "evaluated": len(bench.split.test),
                **({"params": bench.split.params} if bench.split.params else {}),
            },
            "resolver": None
            if self.resolver is None
            else {"name": self.resolver.name, "params": _params(self.resolver)},
            "decoder": None
            if self.decoder is None
            else {"preset": self.preset, "name": self.decoder.name, "params": _params(self.decoder)},
            "hardware": {**provenance.hardware(bench.device, bench.threads), **ranks().hardware()},
        }

    def code(self) -> str:
        """The fingerprint of the code that this row runs through; the data is named by its content."""
        return code_of(*(type(p) for p in (self.method, self.resolver, self.decoder) if p is not None))


def code_of(*plugins: type[Plugin]) -> str:
    """The fingerprint of some plugins' code and of the path that every row takes."""
    return provenance.code_fingerprint([*(p.__module__ for p in plugins), PATH])


def _params(plugin: Plugin) -> dict[str, Any]:
    """Parameters as JSON has them; seed and device stand elsewhere in the key."""
    own = {k: v for k, v in plugin.deciding().items() if k not in ("seed", "device")}
    return {k: plain(v, f"{plugin.name}.{k}") for k, v in own.items()}


def origin(dataset: Dataset | None) -> dict[str, Any]:
    """The dataset plugin and what decides of its parameters; not where on this machine the data lie."""
    if dataset is None:
        return {"plugin": None, "params": {}}
    own = {k: v for k, v in dataset.deciding().items() if not isinstance(v, Path)}
    params = {k: plain(v, f"{dataset.name}.{k}") for k, v in own.items()}
    return {
        "plugin": dataset.name,
        "params": {k: provenance.without_folders(v) if isinstance(v, str) else v for k, v in params.items()},
    }


def plain(value: Any, where: str) -> Any:
    """A value as JSON has it: files by content and not by place, numbers that are none as null."""
    if isinstance(value, Path):
        return provenance.named_by_content(value)
    if isinstance(value, dict):
        return {str(k): plain(v, where) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v, where) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ContractError(
        f"{where} holds {type(value).__name__}; expected numbers, text, or lists and dicts of them"
    )


def places_needed(bench: Bench) -> int:
    """Places a list must have so that the largest cut-off is full, seen items left out or not."""
    seen = 0
    if bench.seen == "mask":
        histories = bench.split.test.histories
        row = np.repeat(np.arange(len(histories)), histories.lengths)
        distinct = np.unique(np.stack([row, histories.items]), axis=1)[0]
        seen = int(np.bincount(distinct, minlength=1).max())
    return min(max(bench.cutoffs) + seen, len(bench.corpus))


def with_seed(task: Task, seed: int, device: str) -> Task:
    """The same row with another seed, on a concrete device."""
    return replace(
        task,
        method=_given(task.method, seed, device),
        resolver=None if task.resolver is None else _given(task.resolver, seed, device),
        decoder=None if task.decoder is None else _given(task.decoder, seed, device),
        seed=seed,
    )


def _given(plugin: P, seed: int, device: str) -> P:
    """A plugin with these, where it has parameters for them."""
    own = plugin.params()
    return plugin.replace(**{k: v for k, v in (("seed", seed), ("device", device)) if k in own})
