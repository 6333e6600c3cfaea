"""Resolvers: keep changes nothing, suffix makes every SID its item's own and touches no level before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.resolve.keep import Keep
from sidbench.resolve.suffix import Suffix
from sidbench.sids import SIDs, distinct_rows

Rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40)


def sids(rows: list[tuple[int, int]]) -> SIDs:
    codes = np.array(rows, dtype=np.int32)
    return SIDs(codes, (3, 4), np.arange(len(rows)) + 100, manifest={"method": "m"})


@given(Rows)
def test_suffix_makes_sids_unique_and_no_longer_than_needed(rows: list[tuple[int, int]]) -> None:
    before = sids(rows)
    after = Suffix().resolve(before, None, None)
    assert len(distinct_rows(after.codes)[0]) == len(before)
    assert (after.codes[:, :2] == before.codes).all()
    assert (after.codes >= 0).all()  # the same length for all
    assert after.sizes[:2] == before.sizes
    largest = int(np.unique(before.codes, axis=0, return_counts=True)[1].max())
    assert after.sizes[2] == largest == after.codes[:, 2].max() + 1
    assert (after.item_ids == before.item_ids).all()
    assert (after.manifest, after.resolver) == (before.manifest, "suffix")


@given(Rows)
def test_suffix_counts_from_zero_inside_each_group(rows: list[tuple[int, int]]) -> None:
    after = Suffix().resolve(sids(rows), None, None)
    for row in set(rows):
        inside = after.codes[(after.codes[:, :2] == row).all(axis=1), 2]
        assert sorted(inside) == list(range(len(inside)))


@given(Rows)
def test_keep_changes_nothing(rows: list[tuple[int, int]]) -> None:
    before = sids(rows)
    after = Keep().resolve(before, None, None)
    assert (after.codes == before.codes).all()
    assert (after.sizes, after.resolver) == (before.sizes, "keep")


@pytest.mark.parametrize("resolver", [Keep(), Suffix()])
def test_the_input_stays_as_it_was(resolver: Keep | Suffix) -> None:
    before = sids([(0, 1), (0, 1), (2, 3)])
    copy = before.codes.copy()
    resolver.resolve(before, None, None)
    assert (before.codes == copy).all()
    assert before.resolver == ""
