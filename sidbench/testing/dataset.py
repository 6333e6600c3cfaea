"""What every dataset must hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from sidbench.dataset import Corpus, Dataset
from sidbench.testing.core import Check, bound, instance, that


class DatasetSubject:
    """A dataset under test, loaded once for all checks but the one that compares two loads."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @cached_property
    def corpus(self) -> Corpus:
        return self.dataset.load()


def check_a_dataset_loads_a_corpus(d: DatasetSubject) -> None:
    that(isinstance(d.corpus, Corpus), f"load returned {type(d.corpus).__name__}, not Corpus")
    that(bool(d.corpus.name) and bool(d.corpus.fingerprint), "the corpus has no name or no fingerprint")


def check_a_dataset_loads_the_same_twice(d: DatasetSubject) -> None:
    again = d.dataset.replace().load()
    that(
        again.fingerprint == d.corpus.fingerprint,
        f"two loads have fingerprints {d.corpus.fingerprint} and {again.fingerprint}",
    )
    that(again.times_digest == d.corpus.times_digest, "two loads have different times")


def check_sequences_are_whole_and_in_range(d: DatasetSubject) -> None:
    items, offsets = d.corpus.sequences.items, d.corpus.sequences.offsets
    that(len(offsets) > 1, "there are no sequences")
    that(offsets[0] == 0 and offsets[-1] == len(items), "offsets do not cover the items")
    that(bool((np.diff(offsets) >= 0).all()), "offsets fall")
    that(
        items.min() >= 0 and items.max() < len(d.corpus),
        f"sequences name items outside 0..{len(d.corpus) - 1}",
    )


def check_ids_are_unique(d: DatasetSubject) -> None:
    for what, ids in (("item", d.corpus.item_ids), ("user", d.corpus.user_ids)):
        that(len(np.unique(ids)) == len(ids), f"{what} ids repeat")


DATASET_CHECKS: tuple[Callable[[DatasetSubject], None], ...] = (
    check_a_dataset_loads_a_corpus,
    check_a_dataset_loads_the_same_twice,
    check_sequences_are_whole_and_in_range,
    check_ids_are_unique,
)


def dataset_checks(dataset: type[Dataset] | Dataset, **params: Any) -> list[Check]:
    """Every check of a dataset. It is loaded twice, so give a small variant where there is one."""
    subject = DatasetSubject(instance(dataset, params))
    return bound(subject.dataset.name, subject, DATASET_CHECKS)


def check_dataset(dataset: type[Dataset] | Dataset, **params: Any) -> None:
    """Run every check of a dataset; the first that fails raises AssertionError."""
    for check in dataset_checks(dataset, **params):
        check()
