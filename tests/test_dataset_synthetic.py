"""What the synthetic world promises: known truth, duplicates, and signal in content and order."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from sidbench.dataset import Corpus
from sidbench.protocol import Split, leave_one_out, make_protocol
from sidbench.reference import Reference
from sidbench.references.item_knn import ItemKNN
from sidbench.references.popularity import Popularity

# The module lies on a search path, which type checkers do not follow.
synthetic = importlib.import_module("sidbench.datasets.synthetic")
SCALES, Scale, Synthetic = synthetic.SCALES, synthetic.Scale, synthetic.Synthetic


@pytest.fixture(scope="module")
def world() -> Corpus:
    corpus: Corpus = Synthetic().load()
    return corpus.permuted()


def recall(reference: Reference, split: Split, corpus: Corpus) -> float:
    ranking = reference.fit(split, corpus.embeddings).recommend(split.test.histories, 10)
    return float((ranking.groups == split.test.items[:, None]).any(axis=1).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_gives_the_same_world_and_another_one_another(seed: int) -> None:
    one, two = Synthetic(size="tiny", seed=seed).load(), Synthetic(size="tiny", seed=seed).load()
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != Synthetic(size="tiny", seed=seed + 2).load().fingerprint


@pytest.mark.parametrize("size", ["tiny", "default"])
def test_it_has_the_size_it_claims(size: str) -> None:
    corpus = Synthetic(size=size).load()
    scale = SCALES[size]
    assert corpus.embeddings.shape == (scale.items, scale.dim)
    assert len(corpus.sequences) == scale.users
    lengths = corpus.sequences.lengths
    assert (lengths.min(), lengths.max()) == (synthetic.SHORTEST, synthetic.LONGEST)
    np.testing.assert_allclose(np.linalg.norm(corpus.embeddings, axis=1), 1, atol=1e-5)
    assert corpus.titles is not None
    assert all(len(t.split()) == 5 for t in corpus.titles)


def test_categories_form_a_tree_that_the_vectors_follow(world: Corpus) -> None:
    categories = world.categories
    assert categories is not None
    top, middle, low = SCALES["default"].tree
    assert (categories[:, 1] // middle == categories[:, 0]).all()
    assert (categories[:, 2] // low == categories[:, 1]).all()
    assert len(np.unique(categories[:, 2])) == top * middle * low
    cosine = world.embeddings @ world.embeddings.T
    same = [categories[:, [d]] == categories[:, d] for d in range(3)]
    means = [cosine[~same[0]].mean(), *(cosine[s].mean() for s in same)]
    assert (np.diff(means) > 0.05).all()
    # Text encoders put a common direction into everything.
    assert means[0] > 0.15


def test_duplicates_are_there_and_share_their_titles(world: Corpus) -> None:
    groups = np.unique(world.embeddings, axis=0, return_inverse=True)[1].reshape(-1)
    extra = len(world) - len(np.unique(groups))
    assert extra == int(len(world) * synthetic.EXACT)
    assert np.bincount(groups).max() > 2
    assert world.titles is not None
    assert len(set(zip(groups.tolist(), world.titles.tolist(), strict=True))) == len(np.unique(groups))
    cosine = world.embeddings @ world.embeddings.T
    np.fill_diagonal(cosine, 0)
    assert (cosine > 0.999).any(axis=1).sum() > extra + synthetic.NEAR * len(world)


def test_popularity_has_a_long_tail(world: Corpus) -> None:
    counts = np.sort(np.bincount(world.sequences.items, minlength=len(world)))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.3 * counts.sum()
    assert np.median(counts) < counts.mean()


def test_content_carries_signal_and_popularity_does_badly(world: Corpus) -> None:
    split = leave_one_out(world)
    chance = 10 / len(world)
    knn, popular = recall(ItemKNN(), split, world), recall(Popularity(), split, world)
    assert popular < knn / 3
    assert knn > 20 * chance


def test_order_carries_signal(world: Corpus) -> None:
    train = leave_one_out(world).train
    user = np.repeat(np.arange(len(train)), train.lengths)
    inside = np.diff(user) == 0
    shuffled = train.items[np.lexsort((np.random.default_rng(0).random(len(user)), user))]
    habitual = []
    for items in (train.items, shuffled):
        pairs = items[:-1][inside].astype(np.int64) * len(world) + items[1:][inside]
        counts = np.unique(pairs, return_counts=True)[1]
        habitual.append(counts[counts >= 5].sum() / counts.sum())
    # The same items without their order: most transitions that people repeat are gone.
    assert habitual[0] > 2 * habitual[1]


def test_the_last_id_plus_one_finds_nothing(world: Corpus) -> None:
    test = leave_one_out(world).test
    assert ((test.histories.last() + 1) == test.items).mean() < 0.004


def test_a_world_on_disk_is_the_world_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path))
    monkeypatch.setitem(SCALES, "huge", Scale(items=900, users=500, tree=(4, 3, 2), dim=8, on_disk=True))
    monkeypatch.setitem(SCALES, "large", Scale(items=900, users=500, tree=(4, 3, 2), dim=8))
    monkeypatch.setattr(synthetic, "BLOCK", 256)
    disk, memory = Synthetic(size="huge").load(), Synthetic(size="large").load()
    assert isinstance(disk.embeddings, np.memmap)
    assert disk.fingerprint == memory.fingerprint
    again = Synthetic(size="huge").load()
    assert again.fingerprint == disk.fingerprint
    assert len(list(tmp_path.iterdir())) == 1
    assert isinstance(disk.permuted().embeddings, np.memmap)


def test_people_come_and_go_over_two_years(world: Corpus) -> None:
    times = world.times
    assert times is not None
    assert synthetic.OPENED <= times.min() < times.max() < synthetic.OPENED + synthetic.YEARS
    split = make_protocol("time-split").split(world)
    asked = len(split.test) / (len(world.sequences.items) - len(world.sequences))
    assert asked == pytest.approx(0.1, abs=0.001)
    # Some are asked several times, and there are many of them.
    users = len(np.unique(split.test.users))
    assert len(world.sequences) / 6 < users < len(split.test) / 2


def test_the_rest_of_the_world_is_the_same_whatever_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Synthetic(size="tiny").load()
    monkeypatch.setattr(synthetic, "moments", lambda lengths, seed: np.zeros(lengths.sum(), np.int64))
    timeless = Synthetic(size="tiny").load()
    assert (timeless.fingerprint, timeless.catalogue) == (timed.fingerprint, timed.catalogue)
    assert timeless.times_digest != timed.times_digest
