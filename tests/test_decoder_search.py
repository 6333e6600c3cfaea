"""Search equals brute force: the same groups, in the same order, with the same log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench.dataset import Sequences
from sidbench.decoder import Decoder
from sidbench.decoder.training import negative_log_likelihood
from sidbench.sids import SIDs

SMALL = {
    "width": 16, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "head_width": 8, "feed_forward": 24,
    "history": 4, "device": "cpu", "precision": "fp32", "beam": 3,
}  # fmt: skip


def make_sids(seed: int, items: int, sizes: tuple[int, ...], *, variable: bool = False) -> SIDs:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, s, items) for s in sizes], axis=1).astype(np.int32)
    if variable:
        lengths = rng.integers(1, len(sizes) + 1, items)
        codes[np.arange(len(sizes)) >= lengths[:, None]] = -1
    return SIDs(codes, sizes, np.arange(items))


def untrained(sids: SIDs, **changes: object) -> Decoder:
    """A decoder with random weights, large enough that scores differ by much."""
    decoder = Decoder(**{**SMALL, **changes})  # type: ignore[arg-type]
    decoder._prepare(sids)
    with torch.no_grad():
        for p in decoder.model_.parameters():
            p.requires_grad_(False).mul_(2)
    return decoder


def histories(seed: int, users: int, items: int, longest: int = 7) -> Sequences:
    rng = np.random.default_rng(seed)
    return Sequences.of(
        [rng.integers(0, items, n) for n in [0, 1, longest, *rng.integers(0, longest, users - 3)]]
    )


def brute_force(decoder: Decoder, rows: Sequences, users: NDArray[np.int64]) -> NDArray[np.float64]:
    """The log-probability of every SID for every history, each by teacher forcing."""
    trie = decoder.trie_
    paths = trie.item_codes[torch.from_numpy(trie.members[trie.offsets[:-1]]).long()]
    out = np.empty((len(rows), len(trie)))
    for u in range(len(rows)):
        count = len(trie)
        items = torch.from_numpy(np.tile(rows[u], count).astype(np.int64))
        end = torch.arange(1, count + 1) * len(rows[u])
        number = torch.full((count,), int(users[u]))
        inputs = decoder.reader_.read(items, end - len(rows[u]), end, number)
        out[u] = (
            -negative_log_likelihood(decoder.model_, inputs, paths, variable=trie.variable).sum(1).numpy()
        )
    return out


CASES = [
    ("equal sizes", {"seed": 0, "items": 60, "sizes": (8, 8, 8)}, {}),
    ("unequal sizes", {"seed": 1, "items": 60, "sizes": (3, 17, 5)}, {}),
    ("shared SIDs", {"seed": 2, "items": 60, "sizes": (3, 4)}, {}),
    ("variable length", {"seed": 3, "items": 60, "sizes": (4, 5, 6, 3), "variable": True}, {}),
    ("one level", {"seed": 4, "items": 30, "sizes": (50,)}, {}),
    ("eight levels", {"seed": 5, "items": 40, "sizes": (2, 3, 2, 3, 2, 3, 2, 3)}, {}),
    ("one SID", {"seed": 6, "items": 5, "sizes": (1, 1)}, {}),
    ("tokens of codes", {"seed": 7, "items": 60, "sizes": (8, 8, 8)}, {"tokens": "codes"}),
    ("user tokens", {"seed": 8, "items": 60, "sizes": (8, 4, 8)}, {"tokens": "codes", "user_tokens": 7}),
]


@pytest.mark.parametrize(("sids", "settings"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_beam_as_wide_as_the_catalogue_gives_the_exact_ranking(sids, settings):  # type: ignore[no-untyped-def]
    made = make_sids(**sids)
    decoder = untrained(made, **settings)
    rows = histories(0, 9, len(made))
    users = np.arange(len(rows)) * 3
    expected = brute_force(decoder, rows, users)
    ranking = decoder.recommend(rows, len(made), users)
    assert ranking.groups.shape[1] == len(decoder.trie_)
    for u in range(len(rows)):
        assert sorted(ranking.groups[u]) == list(range(len(decoder.trie_)))
        np.testing.assert_allclose(ranking.scores[u], expected[u][ranking.groups[u]], atol=2e-4)
        assert (np.diff(ranking.scores[u]) <= 0).all()
        np.testing.assert_allclose(ranking.scores[u], np.sort(expected[u])[::-1], atol=2e-4)
