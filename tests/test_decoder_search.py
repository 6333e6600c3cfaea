"""Search equals brute force: the same groups, in the same order, with the same log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import clock
from sidbench.dataset import Sequences
from sidbench.decoder import Decoder
from sidbench.decoder import retrieval as retrieval_module
from sidbench.decoder import search as search_module
from sidbench.decoder.training import negative_log_likelihood
from sidbench.decoder.trie import Trie
from sidbench.errors import UsageError
from sidbench.sids import SIDs

SMALL = {
    "architecture": "tiger",
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
    ("separators, one vocabulary", {"seed": 9, "items": 60, "sizes": (8, 4, 8)},
     {"tokens": "codes", "separators": True, "vocabulary": "shared", "tied": True}),
    ("causal", {"seed": 10, "items": 60, "sizes": (8, 4, 8)}, {"architecture": "causal"}),
    ("causal, variable length", {"seed": 11, "items": 60, "sizes": (4, 5, 6, 3), "variable": True},
     {"architecture": "causal", "user_tokens": 7}),
    ("causal over codes", {"seed": 12, "items": 60, "sizes": (8, 4, 8)},
     {"architecture": "causal", "tokens": "codes"}),
    ("causal over codes, one level", {"seed": 4, "items": 30, "sizes": (50,)},
     {"architecture": "causal", "tokens": "codes"}),
    ("causal over codes, all else", {"seed": 13, "items": 60, "sizes": (4, 5, 6, 3), "variable": True},
     {"architecture": "causal", "tokens": "codes", "separators": True, "user_tokens": 7,
      "vocabulary": "shared", "tied": True}),
]  # fmt: skip
ARCHITECTURES: list[dict[str, Any]] = [
    {"architecture": a, "tokens": t, "separators": s}
    for a in ("tiger", "causal")
    for t, s in (("items", False), ("codes", False), ("codes", True))
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


def test_a_narrow_beam_gives_true_scores_and_never_an_invalid_or_repeated_sid() -> None:
    made = make_sids(10, 200, (12, 12, 12), variable=True)
    decoder = untrained(made)
    rows = histories(1, 30, len(made))
    users = np.zeros(len(rows), dtype=np.int64)
    ranking = decoder.recommend(rows, 7)
    assert ranking.groups.shape == (30, 7)
    assert (ranking.groups >= 0).all()
    assert (ranking.groups < len(decoder.trie_)).all()
    expected = brute_force(decoder, rows, users)
    for u in range(len(rows)):
        assert len(set(ranking.groups[u])) == 7
        np.testing.assert_allclose(ranking.scores[u], expected[u][ranking.groups[u]], atol=2e-4)
        assert len(ranking.items(u, 7)) == 7


def test_equal_scores_stand_in_the_order_of_their_groups() -> None:
    decoder = untrained(make_sids(11, 50, (6, 6, 6)))
    with torch.no_grad():
        decoder.model_.output.zero_()
    for beam in (3, 10, 60):
        ranking = untrained_like(decoder, beam).recommend(Sequences.of([[1, 2], [], [3]]), beam)
        count = min(beam, len(decoder.trie_))
        np.testing.assert_array_equal(ranking.groups, np.tile(np.arange(count), (3, 1)))


def untrained_like(decoder: Decoder, beam: int) -> Decoder:
    """The same weights with another beam."""
    other = decoder.replace(beam=beam)
    other.trie_, other.model_, other.reader_ = decoder.trie_, decoder.model_, decoder.reader_
    return other


def test_company_order_and_chunks_do_not_change_a_users_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_sids(12, 100, (9, 9, 9))
    decoder = untrained(made, tokens="codes")
    rows = histories(2, 24, len(made))
    together = decoder.recommend(rows, 5)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    apart = decoder.recommend(rows.take(shuffled), 5)
    monkeypatch.setitem(retrieval_module.SEARCH_FLOATS, "cpu", 1)
    alone = decoder.recommend(rows, 5)
    np.testing.assert_array_equal(together.groups[shuffled], apart.groups)
    np.testing.assert_array_equal(together.groups, alone.groups)
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-4)


def test_only_the_newest_items_are_read() -> None:
    decoder = untrained(make_sids(13, 100, (9, 9)))
    full, cut = (decoder.recommend(Sequences.of([row]), 5) for row in ([7, 8, 1, 2, 3, 4], [1, 2, 3, 4]))
    np.testing.assert_array_equal(full.groups, cut.groups)
    np.testing.assert_array_equal(full.scores, cut.scores)


def test_no_histories_give_an_empty_ranking() -> None:
    ranking = untrained(make_sids(13, 100, (9, 9))).recommend(Sequences.of([]), 5)
    assert ranking.groups.shape == (0, 5)


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
def test_the_cache_changes_nothing(settings: dict[str, Any]) -> None:
    decoder = untrained(make_sids(14, 50, (7, 7, 7)), **settings)
    model = decoder.model_
    rows = histories(3, 6, 50)
    end = torch.from_numpy(rows.offsets[1:])
    inputs = decoder.reader_.read(
        torch.from_numpy(rows.items).long(), torch.from_numpy(rows.offsets[:-1]), end, torch.zeros(6).long()
    )
    codes = torch.randint(7, (6, 3), generator=torch.Generator().manual_seed(0))
    whole = model.states(inputs, codes, None)
    past: list[torch.Tensor] = []
    read = model.read(inputs)
    for level in range(3):
        before = codes[:, level - 1 : level] if level else None
        hidden, past = model.step(level, before, past, read, (6, 1))
        torch.testing.assert_close(hidden[:, 0], whole[:, level], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variable", [False, True])
def test_children_are_all_children_of_the_living_in_order(variable: bool) -> None:
    trie = Trie(make_sids(15, 300, (4, 9, 30, 5), variable=variable))
    rng = np.random.default_rng(0)
    for level in range(trie.levels):
        above = trie.nodes(level - 1) if level else 1
        beams = min(above, 6)
        nodes = torch.from_numpy(np.stack([np.sort(rng.permutation(above)[:beams]) for _ in range(5)]))
        alive = torch.from_numpy(rng.random((5, beams)) < 0.7)
        alive[:, 0] = True
        found, beam, real = trie.children(level, nodes, alive)
        assert real.shape[1] <= trie.most(level, beams)
        for row in range(5):
            begins, own = trie.begins[level], nodes[row, alive[row]].tolist()
            expected = [c for n in own for c in range(int(begins[n]), int(begins[n + 1]))]
            assert found[row, real[row]].tolist() == expected
            parents = torch.searchsorted(begins, found[row, real[row]], right=True) - 1
            assert torch.equal(nodes[row, beam[row, real[row]]], parents)
        everything = trie.children(level, torch.arange(above)[None], torch.ones(1, above, dtype=torch.bool))
        assert everything[0][0].tolist() == list(range(trie.nodes(level)))
        assert trie.most(level, above) == trie.nodes(level)


@pytest.mark.parametrize("architecture", ["tiger", "causal"])
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("beam", [2, 5, 80])
def test_masking_a_subset_equals_building_its_own_trie(architecture: str, variable: bool, beam: int) -> None:
    made = make_sids(17, 80, (4, 4, 4), variable=variable)
    decoder = untrained(made, beam=beam, architecture=architecture)
    rows = histories(4, 12, len(made))
    for seed, share in enumerate((0.02, 0.3, 0.9, 1.0)):
        allowed = np.random.default_rng(seed).random(len(made)) < share
        allowed[[1, 2]] = True
        inside = np.flatnonzero(allowed)
        own = untrained(SIDs(made.codes[allowed], made.sizes, inside), beam=beam)
        # The subset's trie with the model and the histories of the whole.
        own.model_, own.reader_ = decoder.model_, decoder.reader_
        masked, alone = decoder.recommend(rows, 5, allowed=allowed), own.recommend(rows, 5)
        width = alone.groups.shape[1]
        np.testing.assert_allclose(masked.scores[:, :width], alone.scores, rtol=1e-5)
        assert (masked.groups[:, width:] == -1).all()
        for u in range(len(rows)):
            listed = [g for g in masked.groups[u] if g >= 0]
            theirs = [g for g in alone.groups[u] if g >= 0]
            for mine, other in zip(listed, theirs, strict=True):
                members = masked.members[masked.offsets[mine] : masked.offsets[mine + 1]]
                others = alone.members[alone.offsets[other] : alone.offsets[other + 1]]
                assert sorted(members) == sorted(inside[others])
        np.testing.assert_array_equal(np.sort(masked.members), np.arange(len(made)))
        assert masked.group_of.shape == (len(made),)
    everything = decoder.recommend(rows, 5, allowed=np.ones(len(made), dtype=bool))
    np.testing.assert_array_equal(everything.groups, decoder.recommend(rows, 5).groups)


def test_a_mask_that_does_not_fit_says_so() -> None:
    decoder = untrained(make_sids(18, 20, (4, 4)))
    wrong: list[Any] = [np.ones(19, dtype=bool), np.zeros(20, dtype=bool), np.arange(20)]
    for bad in wrong:
        with pytest.raises(UsageError, match="at least one item"):
            decoder.recommend(Sequences.of([[1]]), 5, allowed=bad)


@pytest.mark.parametrize("limit", [1 << 22, 64])
def test_a_softmax_in_tiles_is_the_whole_one(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_sids(19, 400, (50, 70, 60), variable=True)
    decoder = untrained(made, beam=20)
    rows = histories(5, 12, len(made))
    whole = decoder.recommend(rows, 20)
    monkeypatch.setattr(search_module, "MANY", 8)
    monkeypatch.setattr(search_module, "TILE", (7, 16))
    monkeypatch.setitem(retrieval_module.SEARCH_FLOATS, "cpu", limit)
    tiled = decoder.recommend(rows, 20)
    np.testing.assert_array_equal(whole.groups, tiled.groups)
    np.testing.assert_allclose(whole.scores, tiled.scores, rtol=1e-5)


def test_leaves_are_groups_and_members_are_their_items() -> None:
    made = make_sids(16, 80, (3, 3, 3), variable=True)
    trie = Trie(made)
    groups, group_of = made.groups()
    assert len(trie) == len(groups) == trie.nodes(trie.levels - 1)
    for g in range(len(groups)):
        members = trie.members[trie.offsets[g] : trie.offsets[g + 1]]
        assert (group_of[members] == g).all()
        assert (made.codes[members] == groups[g]).all()


def test_wide_levels_and_many_sids_stay_within_memory() -> None:
    rng = np.random.default_rng(0)
    sizes = (65_536, 65_536)
    made = SIDs(rng.integers(0, 65_536, (200_000, 2)).astype(np.int32), sizes, np.arange(200_000))
    decoder = untrained(made, width=4, heads=1, head_width=4, feed_forward=4, decoder_layers=1, beam=5)
    with clock.span("cpu") as span:
        ranking = decoder.recommend(Sequences.of([[1], [2, 3]] * 200), 5)
    assert (ranking.groups >= 0).all()
    # (beams x codes) of these users would take 524 MB.
    assert span.peak_mb < 250


def test_a_beam_of_a_thousand_is_exact() -> None:
    made = make_sids(20, 900, (30, 40, 20))
    decoder = untrained(made, beam=1_000)
    rows = histories(6, 4, len(made))
    expected = brute_force(decoder, rows, np.zeros(4, dtype=np.int64))
    ranking = decoder.recommend(rows, 10)
    for u in range(4):
        np.testing.assert_allclose(ranking.scores[u], np.sort(expected[u])[::-1][:10], atol=2e-4)
