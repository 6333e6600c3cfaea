"""Laws of tree-kmeans: a path of nearest children, exactly; small nodes lose nothing; many nodes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import registry
from sidbench.errors import DataError
from sidbench.kit import rows, tree
from sidbench.kit.kmeans import kmeans
from sidbench.testing import catalogue

Floats = NDArray[np.float32]
TreeKMeans = registry.find("tokenizer", "tree-kmeans")


def walked(t: Any, x: Floats) -> NDArray[np.int64]:
    """The path of nearest children by float64 distances, one row at a time."""
    codes = np.empty((len(x), t.levels), dtype=np.int64)
    for i, row in enumerate(x.astype(np.float64)):
        node = 0
        for level, (centers, first) in enumerate(zip(t.centers_, t.first_, strict=True)):
            kids = centers[first[node] : first[node + 1]]
            codes[i, level] = np.square(row - kids).sum(axis=1).argmin()
            node = first[node] + codes[i, level]
    return codes


@pytest.mark.parametrize(("d", "sizes"), [(2, (4, 4, 4)), (24, (8, 3, 5)), (200, (40, 9))])
def test_codes_are_the_path_of_nearest_children(d: int, sizes: tuple[int, ...]) -> None:
    x = catalogue(900, d)
    t = TreeKMeans(levels=len(sizes), codebook_size=sizes).fit(x)
    new = np.concatenate([x[:300], catalogue(300, d, seed=1), 5 * catalogue(50, d, seed=2)])
    np.testing.assert_array_equal(t.encode(new), walked(t, new))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_codes_are_exact_at_extreme_scales(scale: float) -> None:
    x = (catalogue(300, 8).astype(np.float64) * scale).astype(np.float32)
    t = TreeKMeans(codebook_size=5).fit(x)
    codes = t.encode(x)
    np.testing.assert_array_equal(codes, walked(t, x))
    assert (np.bincount(codes[:, 0]) > 10).all()
    assert np.isfinite(t.costs(x, codes[:, :2])).all()


def test_equally_near_children_go_to_the_first() -> None:
    x = np.array([[0, 0], [0, 2], [4, 0], [4, 2], [0, 1], [4, 1], [2, 1]] * 3, dtype=np.float32)
    t = TreeKMeans(levels=2, codebook_size=2).fit(x)
    np.testing.assert_array_equal(t.encode(x), walked(t, x))


def test_the_centres_are_the_means_of_their_rows_where_it_has_settled() -> None:
    x = catalogue(1500, 6)
    t = TreeKMeans(levels=2, codebook_size=6, iters=200).fit(x)
    path = t.encode(x)
    for width in (1, 2):
        y = t.reconstruct(path[:, :width])
        _, group = np.unique(path[:, :width], axis=0, return_inverse=True)
        group = group.reshape(-1)
        sums = np.stack([np.bincount(group, weights=column) for column in x.T], axis=1)
        np.testing.assert_allclose(y, (sums / np.bincount(group)[:, None])[group], atol=2e-5)


def test_distinct_items_of_small_nodes_do_not_collide() -> None:
    x = catalogue(500, 12)
    t = TreeKMeans(levels=2, codebook_size=128).fit(x)
    assert len(np.unique(t.encode(x), axis=0)) == len(np.unique(x, axis=0))
    np.testing.assert_array_equal(t.reconstruct(t.encode(x)), x)


def test_children_stand_by_falling_number_of_rows() -> None:
    x = catalogue(2000, 5)
    counts = np.bincount(TreeKMeans(levels=1, codebook_size=20).fit(x).encode(x)[:, 0])
    assert (np.diff(counts) <= 0).all()


def test_deeper_levels_reconstruct_better() -> None:
    x = catalogue(3000, 16)
    t = TreeKMeans(levels=8, codebook_size=3).fit(x)
    codes = t.encode(x)
    error = [np.square(x - t.reconstruct(codes[:, : w + 1])).sum() for w in range(8)]
    assert (np.diff(error) <= 1e-6 * error[0]).all(), error


def test_many_small_sets_are_clustered_as_well_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(40, 90, size=60)
    sets = [catalogue(n, 7, seed=i) for i, n in enumerate(counts)]
    z = np.zeros((60, counts.max(), 7), dtype=np.float32)
    for i, rows_ in enumerate(sets):
        z[i, : len(rows_)] = rows_
    found = tree.kmeans_of_many(torch.from_numpy(z), counts, 12, 25, rng).numpy()
    ours = [np.square(x[:, None] - c).sum(axis=2).min(axis=1).sum() for x, c in zip(sets, found, strict=True)]
    alone = [kmeans(x, 12, iters=25, seed=i).inertia for i, x in enumerate(sets)]
    assert np.isfinite(found).all()
    assert sum(ours) <= 1.03 * sum(alone), sum(ours) / sum(alone)


def test_thousands_of_nodes_at_once() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    t = TreeKMeans(levels=14, codebook_size=2, iters=5).fit(x)
    codes = t.encode(x)
    assert len(t.centers_[11]) > 3500
    np.testing.assert_array_equal(codes[:50], walked(t, x[:50]))


def test_nodes_of_many_rows_have_a_k_means_to_themselves() -> None:
    x = catalogue(4 * tree.FEW, 3)
    t = TreeKMeans(levels=2, codebook_size=(2, 30)).fit(x)
    assert t.facts()["nodes"] == [2, 60]
    np.testing.assert_array_equal(t.encode(x[:200]), walked(t, x[:200]))


def test_costs_are_distances_to_the_children_and_a_free_place_costs_more() -> None:
    x = catalogue(300, 10)
    t = TreeKMeans(codebook_size=(12, 40, 9)).fit(x)
    codes = t.encode(x)
    for level in range(3):
        costs = t.costs(x, codes[:, :level])
        np.testing.assert_array_equal(costs.argmin(axis=1), codes[:, level])
        own = np.square(x - t.reconstruct(codes[:, : level + 1])).sum(axis=1)
        np.testing.assert_allclose(costs[np.arange(300), codes[:, level]], own, rtol=1e-3, atol=1e-4)
        node = t._node(codes[:, :level])
        children = np.diff(t.first_[level])[node]
        there = np.arange(t.sizes[level]) < children[:, None]
        assert (np.where(there, -np.inf, costs).min(axis=1) == -np.inf).any()
        real = np.where(there, costs, 0).max(axis=1)
        assert (np.where(there, np.inf, costs) > real[:, None]).all()


def test_a_path_that_the_tree_does_not_have_is_an_error() -> None:
    x = catalogue(100, 4)
    t = TreeKMeans(codebook_size=50).fit(x)
    codes = np.array([[0, 49, 0]], dtype=np.int32)
    with pytest.raises(DataError, match=r"no node \[0, 49\] .* children"):
        t.reconstruct(codes)


def test_keys_are_equal_for_equal_rows_alone() -> None:
    x = catalogue(5000, 9)
    x[7] = -x[8]  # signs alone
    x[9, 0], x[10] = 0.0, x[9]
    x[10, 0] = -0.0
    _, place = np.unique(rows.keys(x), return_inverse=True)
    _, expected = np.unique(x, axis=0, return_inverse=True)
    pairs = np.unique(np.stack([place.reshape(-1), expected.reshape(-1)]), axis=1)
    assert pairs.shape[1] == place.max() + 1 == expected.max() + 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_it_is_as_good() -> None:
    x = catalogue(3000, 16)
    error = []
    for device in ("cpu", "cuda"):
        t = TreeKMeans(codebook_size=8, device=device).fit(x)
        codes = t.encode(x)
        error.append(np.square(x - t.reconstruct(codes)).sum())
    assert error[1] <= 1.05 * error[0]
    t.device = "cpu"
    assert (t.encode(x) == codes).all()


def test_a_path_that_the_tree_lacks_costs_the_same_whatever_the_code() -> None:
    x = catalogue(200, 6)
    t = TreeKMeans(levels=3, codebook_size=(4, 200, 5), iters=2).fit(x)
    paths = np.tile(np.array([[0, 199]], dtype=np.int32), (3, 1))
    costs = t.costs(x[:3], paths)
    assert np.isfinite(costs).all()
    assert (costs == costs[:, :1]).all()
    with pytest.raises(DataError, match="no node"):
        t.reconstruct(paths)
