"""Protocols: which interactions train, which select, which test. Named, and part of every record's key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Corpus, Sequences
from sidbench.errors import DataError, unknown


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted: row i is `items[i]` after `histories[i]`, by user `users[i]` of the corpus."""

    users: NDArray[np.int64]
    histories: Sequences
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.integer[Any]]) -> Targets:
        return Targets(self.users[rows], self.histories.take(rows), self.items[rows])


@dataclass(frozen=True, eq=False)
class Split:
    """One protocol applied to one corpus. Row u of `train` is user u; learning sees `train` only."""

    protocol: str
    train: Sequences
    valid: Targets
    test: Targets
    n_items: int
    notes: tuple[str, ...] = ()


def leave_one_out(corpus: Corpus) -> Split:
    """The last item of each user tests, the one before selects, the rest trains.

    The test history includes the validation item. Every item of the catalogue is a candidate. A user with
    fewer than 3 interactions is not evaluated; what there is trains. Order is the dataset's: equal
    timestamps keep the order of the file unless the dataset says otherwise (`ties`).
    """
    s = corpus.sequences
    evaluated = np.flatnonzero(s.lengths >= 3)
    if not len(evaluated):
        raise DataError(
            f"dataset {corpus.name!r}: leave-one-out needs users with at least 3 interactions; "
            f"none of {len(s)} has that many"
        )
    kept = np.where(s.lengths >= 3, s.lengths - 2, s.lengths)
    position = np.arange(len(s.items)) - np.repeat(s.offsets[:-1], s.lengths)
    offsets = np.zeros(len(s) + 1, dtype=np.int64)
    np.cumsum(kept, out=offsets[1:])
    train = Sequences(s.items[position < np.repeat(kept, s.lengths)], offsets)
    full = s.take(evaluated)
    short = len(s) - len(evaluated)
    return Split(
        protocol="leave-one-out",
        train=train,
        valid=Targets(evaluated, full.drop_last(2), full.last(2)),
        test=Targets(evaluated, full.drop_last(1), full.last(1)),
        n_items=len(corpus),
        notes=(f"{short:,} users with fewer than 3 interactions train but are not evaluated",)
        if short
        else (),
    )


PROTOCOLS: dict[str, Callable[[Corpus], Split]] = {"leave-one-out": leave_one_out}


def split(corpus: Corpus, protocol: str) -> Split:
    """Apply a protocol by name."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol](corpus)
