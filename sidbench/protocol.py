"""Protocols: which interactions train, which select, which test. Named, and part of every record's key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.dataset import Corpus, Sequences, scramble
from sidbench.dataset import Targets as Targets
from sidbench.errors import DataError, UsageError, unknown
from sidbench.plugin import Plugin, configure


@dataclass(frozen=True, eq=False)
class Split:
    """One protocol applied to one corpus. Row u of `train` is user u; learning sees `train` only."""

    protocol: str
    train: Sequences
    valid: Targets
    test: Targets
    n_items: int
    notes: tuple[str, ...] = ()
    #: What else names the protocol in a record: its parameters, the digest of the times it read.
    params: dict[str, Any] = field(default_factory=dict)
    #: Items that come after everything was learned, in ascending order; none in most protocols.
    cold: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    #: How many histories are searched after the learning, for a budget to leave time; 0 = as many as select.
    queries: int = 0
    #: For how many places each; 0 = as many as the learner likes.
    places: int = 0

    @property
    def warm(self) -> NDArray[np.int64]:
        """All other items, in ascending order: what learning may know."""
        return np.setdiff1d(np.arange(self.n_items), self.cold)

    @property
    def candidates(self) -> NDArray[np.bool_] | None:
        """The items that may be ranked while learning, a mask of all; None where it may be any."""
        return ~np.isin(np.arange(self.n_items), self.cold) if len(self.cold) else None


class Protocol(Plugin, ABC):
    """A way to split a corpus. Its parameters are in the key of every record made under it."""

    kind: ClassVar[str] = "protocol"

    def split(self, corpus: Corpus) -> Split:
        """What trains, what selects, what tests; refused where the vectors know what is tested.

        Where data were published with a number of items that are read before a target, older ones are not.
        """
        if corpus.learned_under not in ("", self.name):
            raise UsageError(
                f"dataset {corpus.name!r}: its vectors were learned from training interactions of "
                f"{corpus.learned_under}, and would know what {self.name} tests; give vectors of content, or "
                f"--protocol {corpus.learned_under}"
            )
        return _windowed(_compared(self.divide(corpus), corpus), corpus.window)

    @abstractmethod
    def divide(self, corpus: Corpus) -> Split:
        """The split itself."""


def check_learned(learned_from: tuple[str, ...], train: Sequences, ids: NDArray[Any], where: str) -> None:
    """Refuse vectors that were learned from other interactions than those that train."""
    known = {digest for digest in learned_from if digest}
    if known and known != {train.digest(ids)}:
        raise UsageError(
            f"{where}: its vectors were learned from other interactions than those that "
            "train here (other sequences, other items, or ties in another order), and may know what "
            "is tested. Learn them again from the sequences of this run (`sidbench embed ITEMS --source "
            "sequences:FILE --redo`, or the embedding `collaborative`), or give vectors of content"
        )


def _compared(found: Split, corpus: Corpus) -> Split:
    """The split, if vectors that were learned of interactions were learned of those that train in it."""
    check_learned(corpus.learned_from, found.train, corpus.item_ids, f"dataset {corpus.name!r}")
    if "" not in corpus.learned_from:
        return found
    said = (
        "from which interactions its vectors were learned is not recorded: if not from those that train "
        "here, they know what is tested (`sidbench embed` again with --redo records it)"
    )
    return replace(found, notes=(*found.notes, said))


def _windowed(found: Split, window: int) -> Split:
    """The split with no more than so many items before any target that selects or tests; 0: all."""
    if not window:
        return found
    cut = int((found.valid.histories.lengths > window).sum() + (found.test.histories.lengths > window).sum())
    said = f"{cut:,} histories that select or test are cut to their newest {window} items, as was published"
    valid, test = (replace(t, histories=t.histories.newest(window)) for t in (found.valid, found.test))
    notes = (*found.notes, said) if cut else found.notes
    return replace(found, valid=valid, test=test, notes=notes, params={**found.params, "window": window})


class LeaveOneOut(Protocol):
    """The last item of each user tests, the one before selects, the rest trains.

    The test history includes the validation item. Every item of the catalogue is a candidate. A user with
    fewer than 3 interactions is not evaluated; what there is trains. Order is the dataset's: equal
    timestamps keep the order of the file unless the dataset says otherwise (`ties`).
    """

    name = "leave-one-out"

    def divide(self, corpus: Corpus) -> Split:
        s = corpus.sequences
        evaluated = np.flatnonzero(s.lengths >= 3)
        if not len(evaluated):
            raise DataError(
                f"dataset {corpus.name!r}: leave-one-out needs users with at least 3 interactions; "
                f"none of {len(s)} has that many"
            )
        kept = np.where(s.lengths >= 3, s.lengths - 2, s.lengths)
        position = np.arange(len(s.items)) - np.repeat(s.offsets[:-1], s.lengths)
        full = s.take(evaluated)
        short = len(s) - len(evaluated)
        return Split(
            protocol=self.name,
            train=s.where(position < np.repeat(kept, s.lengths)),
            valid=Targets(evaluated, full.drop_last(2), full.last(2)),
            test=Targets(evaluated, full.drop_last(1), full.last(1)),
            n_items=len(corpus),
            notes=(f"{short:,} users with fewer than 3 interactions train but are not evaluated",)
            if short
            else (),
        )


class TimeSplit(Protocol):
    """Two moments cut all interactions: what is before the first trains, what is after the second tests.

    Every interaction but a user's first is a target once, after all that the user did before it, in the part
    in which its own time lies: 8:1:1 of the targets. Targets of one moment stay together, at the cut nearest
    to these shares, so nothing in training is as late as anything that selects or tests. A test history holds
    all earlier items of its user, those after the cuts too. A user may be asked several times: means are over
    targets. The tokenizer is fitted on the whole catalogue, items that are new in the test included.
    """

    name = "time-split"

    #: Share of the targets that select.
    valid: Annotated[float, Field(gt=0, lt=1)] = 0.1
    #: Share of the targets, the latest ones, that test.
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid + self.test >= 1:
            raise UsageError(
                f"{self.name}: valid = {self.valid} and test = {self.test} leave nothing to train on; "
                "give shares that add up to less than 1"
            )

    def divide(self, corpus: Corpus) -> Split:
        s, times = corpus.sequences, corpus.times
        if times is None:
            raise DataError(
                f"dataset {corpus.name!r} does not say when things happened, and {self.name} cuts by time; "
                "in a folder, sequences.parquet needs a column `timestamps` (lists, beside `items`), or "
                "`timestamp` where a row is an event; a dataset plugin gives Corpus(times=...)"
            )
        at = np.setdiff1d(np.arange(len(s.items)), s.offsets[:-1])
        select, test = self._cuts(np.sort(times[at]), corpus.name)
        part = np.searchsorted([select, test], times[at], side="right")
        parts = [at[part == i] for i in range(3)]
        train = s.where(times < select)
        valid, tested = (Targets(s.row_of(p), s.before(p), s.items[p]) for p in parts[1:])
        new = ~np.isin(tested.items, train.items)
        shares = ", ".join(
            f"{len(p):,} ({len(p) / len(at):.1%}) {what}"
            for p, what in zip(parts, ("train", "select", "test"), strict=True)
        )
        return Split(
            protocol=self.name,
            train=train,
            valid=valid,
            test=tested,
            n_items=len(corpus),
            notes=(
                f"of {len(at):,} targets {shares}; the cuts are at {_moment(select)} and {_moment(test)}",
                f"{new.mean():.1%} of the test targets name an item that no training sequence holds",
            ),
            params={**self.params(), "times": corpus.times_digest},
        )

    def _cuts(self, times: NDArray[np.int64], name: str) -> tuple[int, int]:
        """The first moments that select and test: those with shares nearest to what is asked for."""
        start = np.flatnonzero(np.diff(times, prepend=times[:1] - 1))
        if len(start) < 3:
            raise DataError(
                f"dataset {name!r}: {self.name} needs targets at three moments at least, and {len(times):,} "
                f"targets are at {len(start)}; is the column of times what it should be?"
            )
        first = start[1:-1][np.abs(start[1:-1] - len(times) * (1 - self.valid - self.test)).argmin()]
        later = start[start > first]
        second = later[np.abs(later - len(times) * (1 - self.test)).argmin()]
        return int(times[first]), int(times[second])


class ColdStart(Protocol):
    """Leave-one-out with items that are new at test time: nothing was learned from them; they get SIDs then.

    A share of the items is in no training sequence, no validation and not in the tokenizer's fit. Then they
    are given codes by `encode` and a place beside the SIDs that exist by the resolver's `extend`. Test
    histories may hold them and all items are candidates; recall on cold and on warm targets stands apart.
    Users whose validation item is cold do not select. Which items are cold follows from their ids and the
    seed alone: other embeddings of the same catalogue have the same ones.
    """

    name = "cold-start"

    #: Share of the items that are new at test time.
    share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    #: Another seed holds out other items.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def divide(self, corpus: Corpus) -> Split:
        whole = LeaveOneOut().divide(corpus)
        cold = self._draw(corpus.item_ids)
        is_cold = np.isin(np.arange(len(corpus)), cold)
        selects = whole.valid.take(np.flatnonzero(~is_cold[whole.valid.items]))
        asked = int(is_cold[whole.test.items].sum())
        if not asked or not len(selects):
            raise DataError(
                f"dataset {corpus.name!r}: of {len(cold):,} cold items {asked:,} are test targets, and "
                f"{len(selects):,} validation targets are warm; expected some of both: set "
                f"{self.name}.share (now {self.share}) or {self.name}.seed"
            )
        return replace(
            whole,
            protocol=self.name,
            train=whole.train.where(~is_cold[whole.train.items]),
            valid=replace(selects, histories=selects.histories.where(~is_cold[selects.histories.items])),
            notes=(
                *whole.notes,
                f"{len(cold):,} of {len(corpus):,} items are cold, and {asked:,} of {len(whole.test):,} test "
                f"targets; {len(whole.valid) - len(selects):,} users whose validation item is cold do not "
                "select",
            ),
            params=self.params(),
            cold=cold,
        )

    def _draw(self, item_ids: NDArray[Any]) -> NDArray[np.int64]:
        """The items of the lowest hashes, where a hash is of an id's place among all ids."""
        place = np.empty(len(item_ids), dtype=np.uint64)
        place[np.argsort(item_ids, kind="stable")] = np.arange(len(item_ids), dtype=np.uint64)
        count = min(len(item_ids), max(1, round(self.share * len(item_ids))))
        hashed = scramble(scramble(place, self.seed + 1), self.seed)
        return np.sort(np.argsort(hashed, kind="stable")[:count]).astype(np.int64)


class Published(Protocol):
    """The split that came with the data: its rows train, select and test as somebody published them.

    A dataset of such files brings it, and is then run under it unless another protocol is named. Histories
    and targets are those of the rows, not longer and not fewer; every item of the catalogue is a candidate.
    """

    name = "published"

    def divide(self, corpus: Corpus) -> Split:
        found = corpus.published
        if found is None:
            raise DataError(
                f"dataset {corpus.name!r} brings no split of its own; {self.name} is for data that were "
                "published with one, such as minionerec:FOLDER. Name another protocol"
            )
        for what, part in (("select", found.valid), ("test", found.test)):
            if not len(part):
                raise DataError(
                    f"dataset {corpus.name!r} was published without rows that {what}, and {self.name} makes "
                    "up none; add the file that holds them, or name another protocol"
                )
        new = ~np.isin(found.test.items, found.train.items)
        return Split(
            protocol=self.name,
            train=found.train,
            valid=found.valid,
            test=found.test,
            n_items=len(corpus),
            notes=(
                f"{len(found.valid):,} published rows select, {len(found.test):,} test; "
                f"{new.mean():.1%} of the test targets name an item that no training sequence holds",
            ),
            params={**self.params(), "rows": found.digest},
        )


def _moment(seconds: int) -> str:
    """A time as people say it."""
    return str(np.datetime64(seconds, "s")).replace("T", " ")


PROTOCOLS: dict[str, type[Protocol]] = {p.name: p for p in (LeaveOneOut, TimeSplit, ColdStart, Published)}


def make_protocol(name: str, values: dict[str, Any] | None = None) -> Protocol:
    """A protocol by name, with a person's values."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return configure(PROTOCOLS[name], values or {})


def split(corpus: Corpus, protocol: str, values: dict[str, Any] | None = None) -> Split:
    """Apply a protocol by name."""
    return make_protocol(protocol, values).split(corpus)


def leave_one_out(corpus: Corpus) -> Split:
    """The protocol of most papers, and the default."""
    return LeaveOneOut().split(corpus)
