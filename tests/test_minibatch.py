"""Laws of minibatch k-means: close to Lloyd's, repeatable, every row once an epoch, no centre left over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench.kit import residual
from sidbench.kit.kmeans import kmeans
from sidbench.kit.minibatch import _Runs, minibatch

Floats = NDArray[np.float32]


def mixture(n: int, d: int, leaves: int, seed: int = 0) -> Floats:
    """Clusters of clusters, centred."""
    rng = np.random.default_rng(seed)
    top = rng.normal(size=(max(leaves // 10, 1), d))
    centers = top[rng.integers(len(top), size=leaves)] + 0.6 * rng.normal(size=(leaves, d))
    x = centers[rng.integers(leaves, size=n)] + 0.25 * rng.normal(size=(n, d))
    return np.asarray(x - x.mean(axis=0), dtype=np.float32)


def error(x: Floats, centers: Floats) -> float:
    """The sum of squared distances to the nearest centre."""
    codes = residual.encode(x, [centers])
    return float(np.square(x - residual.reconstruct(codes, [centers]), dtype=np.float64).sum())


@pytest.mark.parametrize(("d", "batch"), [(8, 512), (8, 4096), (96, 2048)])
def test_the_error_is_lloyds_within_a_few_percent(d: int, batch: int) -> None:
    x = mixture(12_000, d, 200)
    full = np.median([kmeans(x, 64, seed=seed).inertia for seed in range(3)])
    found = [error(x, minibatch(x, 64, batch=batch, epochs=3, seed=s, device="cpu")) for s in range(3)]
    assert np.median(found) <= 1.03 * full


def test_rows_sorted_by_cluster_do_no_harm() -> None:
    x = mixture(12_000, 16, 100)
    order = np.argsort(kmeans(x, 50, iters=5).labels, kind="stable")
    mixed, ordered = (
        np.median([error(x, minibatch(y, 64, batch=1024, epochs=3, seed=s, device="cpu")) for s in range(3)])
        for y in (x, x[order])
    )
    assert ordered <= 1.05 * mixed


def test_a_seed_gives_the_same_centres_and_leaves_settings_alone(tmp_path: Path) -> None:
    x = mixture(5000, 12, 50)
    np.save(tmp_path / "x.npy", x)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = [
        minibatch(rows, 20, batch=500, epochs=2, seed=seed, device="cpu")
        for rows, seed in ((x, 3), (np.load(tmp_path / "x.npy", mmap_mode="r"), 3), (x, 4))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("n", "d", "batch"), [(1000, 3, 64), (999, 700, 100), (10, 2, 1000), (50, 4, 1)])
def test_an_epoch_has_every_row_once_in_batches_of_about_that_size(n: int, d: int, batch: int) -> None:
    x = np.repeat(np.arange(n, dtype=np.float32)[:, None], d, axis=1)
    runs = _Runs(x, min(batch, n), np.random.default_rng(0))
    batches = list(runs.epoch())
    assert sorted(np.concatenate(batches)[:, 0].tolist()) == list(range(n))
    assert max(len(b) for b in batches) <= batch
    assert 1 <= len(runs.sample(n // 2 or 1)) <= n


@pytest.mark.parametrize("k", [1, 2, 30, 200])
def test_few_distinct_rows_and_one_centre(k: int) -> None:
    x = np.repeat(mixture(20, 3, 20), 15, axis=0)
    centers = minibatch(x, k, batch=64, epochs=3, seed=0, device="cpu")
    assert centers.shape == (k, 3)
    assert centers.dtype == np.float32
    assert np.isfinite(centers).all()
    if k >= 30:
        assert error(x, centers) < 1e-6 * np.square(x).sum()
    if k == 1:
        np.testing.assert_allclose(centers[0], x.mean(axis=0), atol=1e-5)
