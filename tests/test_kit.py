"""Laws of the kit: k-means as good as scikit-learn's, codes that are a function of the row alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sidbench import registry
from sidbench.errors import DataError, UsageError
from sidbench.kit import device, engines, residual
from sidbench.kit.kmeans import WIDE, CoreRows, DeviceRows, kmeans, lloyd
from sidbench.kit.nearest import Codewords, Searcher, decide
from sidbench.kit.seeding import plus_plus
from sidbench.kit.sketch import sketch
from sidbench.kit.workers import workers
from sidbench.testing import catalogue

Floats = NDArray[np.float32]
Random = registry.find("tokenizer", "random")
RQKMeans = registry.find("tokenizer", "rq-kmeans")


def mixture(n: int, d: int, leaves: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(leaves, d))
    return (centers[rng.integers(leaves, size=n)] + 0.3 * rng.normal(size=(n, d))).astype(np.float32)


def relative_error(x: Floats, y: Floats) -> float:
    return float(((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


def brute(x: Floats, books: list[Floats]) -> NDArray[np.int64]:
    """Codes by float64 distances, one row and one codeword at a time."""
    codes = np.empty((len(x), len(books)), dtype=np.int64)
    for i, row in enumerate(x):
        left = row
        for level, book in enumerate(books):
            codes[i, level] = np.square(left.astype(np.float64) - book).sum(axis=1).argmin()
            left = left - book[codes[i, level]]
    return codes


# ------------------------------------------------------------------------------------------------- k-means


def errors_of(x: Floats, size: int, backend: str, seeds: int) -> NDArray[np.float64]:
    """The relative error after each level, the median over seeds, at 25 iterations."""
    found = []
    for seed in range(seeds):
        with threadpool_limits(1):  # two thread pools on few cores wait for each other
            t = RQKMeans(codebook_size=size, iters=25, backend=backend, seed=seed).fit(x)
        codes = t.encode(x)
        found.append([relative_error(x, t.reconstruct(codes[:, : level + 1])) for level in range(3)])
    return np.median(found, axis=0)


@pytest.mark.parametrize("d", [16, 200])
def test_the_error_is_scikit_learns(d: int) -> None:
    """Clustered data, the median over seeds: no more than 1% above at any level, at equal iterations."""
    x = mixture(2000, d, 200)
    ours, theirs = (errors_of(x, 24, backend, 5) for backend in ("torch", "sklearn"))
    assert (ours <= 1.01 * theirs).all(), ours / theirs


def test_the_error_is_scikit_learns_where_a_sketch_stands_for_wide_rows() -> None:
    """Clusters of clusters in as many directions as there are leaves: leading components alone miss them."""
    rng = np.random.default_rng(0)
    scale = (1.0 + np.arange(WIDE + 80)) ** -0.5
    top = rng.normal(size=(40, len(scale))) * scale
    leaves = top[rng.integers(40, size=400)] + 0.6 * rng.normal(size=(400, len(scale))) * scale
    x = leaves[rng.integers(400, size=4000)] + 0.25 * rng.normal(size=(4000, len(scale))) * scale
    ours, theirs = (errors_of(x.astype(np.float32), 64, backend, 3) for backend in ("torch", "sklearn"))
    assert (ours <= 1.01 * theirs).all(), ours / theirs


def test_a_sketch_keeps_distances_and_what_is_nearly_equal() -> None:
    """Leading components alone would shorten all distances, most of all those within a cluster."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(2000, 768)) * (1.0 + np.arange(768)) ** -0.3).astype(np.float32)
    x[1000:] = x[:1000] + 0.05 * rng.normal(size=(1000, 768)).astype(np.float32)
    with workers() as run:
        short = sketch(x, run)
    np.testing.assert_allclose(short, sketch(x, None), atol=1e-4)
    ratio = np.square(short[:999] - short[1:1000]).sum(axis=1) / np.square(x[:999] - x[1:1000]).sum(axis=1)
    assert abs(ratio.mean() - 1) < 0.05, ratio.mean()
    assert ratio.std() < 0.15, ratio.std()
    nearest = Searcher([Codewords(short[:1000])]).nearest(0, short[1000:1200])
    np.testing.assert_array_equal(nearest, np.arange(200))


@pytest.mark.parametrize(
    ("n", "d", "k"), [(2000, 8, 50), (2000, 300, 20), (500, 3, 257), (100, 2, 2), (50, 5, 1)]
)
def test_the_inertia_never_rises_and_is_what_it_says(n: int, d: int, k: int) -> None:
    x = mixture(n, d, 40)
    x -= x.mean(axis=0)
    found = kmeans(x, k, iters=20, seed=3)
    assert (np.diff(found.history) <= 1e-5 * found.history[0]).all(), found.history
    each = np.square(x.astype(np.float64) - found.centers[found.labels]).sum()
    assert found.inertia == pytest.approx(each, rel=1e-4)


def test_bounds_skip_rows_and_change_nothing() -> None:
    """Lloyd's with bounds against Lloyd's that looks at every row each time."""
    x = mixture(3000, 8, 60)
    first = x[plus_plus(x, 40, np.random.default_rng(0))]
    with workers() as run:
        found = lloyd(CoreRows(x, run), first, 30)
    plain = lloyd(DeviceRows(x, torch.device("cpu")), first, 30)
    np.testing.assert_allclose(found.history, plain.history[: len(found.history)], rtol=1e-4)
    np.testing.assert_allclose(found.centers, plain.centers, atol=1e-3)


def test_more_starts_are_never_worse() -> None:
    x = mixture(1000, 4, 30)
    errors = [kmeans(x, 20, iters=10, starts=starts, seed=1).inertia for starts in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_empty_clusters_take_over_the_farthest_rows() -> None:
    x = np.concatenate([mixture(200, 2, 1), np.full((1, 2), 50), np.full((1, 2), -80)]).astype(np.float32)
    far = np.full((4, 2), 1e6, dtype=np.float32)
    far[0] = 0
    with workers() as run:
        both = [lloyd(rows, far, 10) for rows in (DeviceRows(x, torch.device("cpu")), CoreRows(x, run))]
    for found in both:
        assert len(np.unique(found.labels)) == 4
        assert {-80.0, 50.0} <= set(found.centers[:, 0].tolist())


@pytest.mark.parametrize("backend", ["torch", "faiss", "sklearn"])
@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e18, 1e36])
def test_fewer_distinct_rows_than_codes_reconstruct_exactly(backend: Any, scale: float) -> None:
    x = np.repeat(catalogue(9, 4) * scale, 20, axis=0).astype(np.float32)
    t = RQKMeans(codebook_size=64, backend=backend).fit(x)
    codes = t.encode(x)
    assert len(np.unique(codes, axis=0)) == len(np.unique(x, axis=0))
    np.testing.assert_allclose(t.reconstruct(codes), x, rtol=1e-5, atol=1e-6 * scale)
    assert [book.shape for book in t.codebooks_] == [(64, 4)] * 3


@pytest.mark.parametrize("backend", ["torch", "faiss", "sklearn"])
@pytest.mark.parametrize("sizes", [(2, 3, 255), (257, 3, 2), (600,)])
def test_sizes_of_any_number(backend: Any, sizes: tuple[int, ...]) -> None:
    x = mixture(600, 6, 50)
    t = RQKMeans(levels=len(sizes), codebook_size=sizes, iters=3, backend=backend).fit(x)
    assert [len(book) for book in t.codebooks_] == list(sizes)
    assert (t.encode(x).max(axis=0) < sizes).all()


def test_large_codebooks_are_seeded_by_distinct_rows() -> None:
    x = mixture(6000, 4, 100)
    with workers() as run:
        picked = plus_plus(x, 3000, np.random.default_rng(0), run)
    assert len(np.unique(picked)) == 3000
    assert kmeans(x, 3000, iters=2).inertia < 0.2 * kmeans(x, 300, iters=2).inertia


def test_seeding_repeats_whatever_the_threads_and_covers_every_cluster() -> None:
    x = mixture(5000, 8, 30, seed=4)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with workers() as run:
                found.append(plus_plus(x, 40, np.random.default_rng(0), run))
    finally:
        torch.set_num_threads(threads)
    assert all((found[0] == picked).all() for picked in found)
    nearest = Searcher([Codewords(x[found[0]])]).nearest(0, x[:1000])
    near = np.square(x[:1000] - x[found[0]][nearest]).sum(axis=1)
    assert near.max() < 0.5 * np.square(x - x.mean(axis=0)).sum(axis=1).mean()


def test_seeding_of_fewer_distinct_rows_than_centres_ends() -> None:
    x = np.repeat(mixture(5, 3, 5), 20, axis=0)
    picked = plus_plus(x, 30, np.random.default_rng(0))
    assert len(picked) == 30
    assert len(np.unique(x[picked], axis=0)) == 5


def test_more_levels_never_reconstruct_worse() -> None:
    x = mixture(2000, 12, 100)
    t = RQKMeans(levels=5, codebook_size=16, iters=8).fit(x)
    codes = t.encode(x)
    errors = [relative_error(x, t.reconstruct(codes[:, : level + 1])) for level in range(5)]
    assert errors == sorted(errors, reverse=True)


def test_rows_far_from_the_origin_lose_nothing() -> None:
    x = mixture(2000, 8, 50)
    near, far = (
        RQKMeans(codebook_size=16, iters=8).fit(x + shift) for shift in (np.float32(0), np.float32(512))
    )
    errors = [
        relative_error(x + s, t.reconstruct(t.encode(x + np.float32(s)))) for s, t in ((0, near), (512, far))
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


# -------------------------------------------------------------------------------------------- exact search


@pytest.mark.parametrize("d", [1, 3, 32, 384, 768])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_codes_are_the_exact_nearest_and_depend_on_the_row_alone(d: int, offset: float) -> None:
    rng = np.random.default_rng(d)
    x = (mixture(1500, d, 80, seed=d) + offset).astype(np.float32)
    t = RQKMeans(codebook_size=(64, 100, 16), iters=3).fit(x)
    books = [book.copy() for book in t.codebooks_]
    books[1][50:] = books[1][:50]  # exact ties
    books[2][7] = np.nextafter(books[2][3], np.float32(np.inf))  # ties but for the last bit
    x[::50] = books[0][1] + books[1][2]  # rows on a codeword
    x[1::50] = (books[0][3] + books[0][4]) / 2  # rows halfway between two
    expected = brute(x[:300], books)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            codes = residual.encode(x, books)
            np.testing.assert_array_equal(codes[:300], expected)
            for size in (1, 7, 64, 1000):
                m = 100 if size == 1 else len(x)
                parts = [residual.encode(x[at : at + size][: m - at], books) for at in range(0, m, size)]
                np.testing.assert_array_equal(np.concatenate(parts), codes[:m])
            order = rng.permutation(len(x))
            np.testing.assert_array_equal(residual.encode(x[order], books), codes[order])
            np.testing.assert_array_equal(residual.encode(x[order[:777]], books), codes[order[:777]])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


def test_ties_go_to_the_lowest_code() -> None:
    book = np.array([[1, 0], [-1, 0], [1, 0], [0, 1]], dtype=np.float32)
    x = np.array([[0, 0], [1, 0], [0.5, 0.5], [-3, 0]], dtype=np.float32)
    assert residual.encode(x, [book])[:, 0].tolist() == [0, 0, 0, 1]
    assert decide(x, book, np.ones((4, 4), dtype=bool)).tolist() == [0, 0, 0, 1]
    assert decide(x, book, np.array([[0, 0, 1, 1]] * 4, dtype=bool)).tolist() == [2, 2, 2, 3]


@pytest.mark.parametrize("scale", [1e-42, 1e-25, 1e15, 1e30])
def test_extreme_values_are_decided_exactly(scale: float) -> None:
    x = (mixture(300, 5, 20) * scale).astype(np.float32)
    t = RQKMeans(codebook_size=8, iters=3).fit(x)
    np.testing.assert_array_equal(t.encode(x), brute(x, t.codebooks_))


def test_a_caller_of_lower_precision_changes_nothing() -> None:
    x = mixture(1000, 64, 80)
    t = RQKMeans(codebook_size=32, iters=3).fit(x)
    codes = t.encode(x)
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(t.encode(x), codes)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_few_rows_need_an_exact_look() -> None:
    """The bound is tight enough that the float64 path stays rare on ordinary data."""
    x = mixture(1024, 768, 200)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    book = Codewords(x[:256])
    searcher = Searcher([book])
    searcher.nearest(0, x[: searcher.tile])
    best = np.sort(searcher.scores[256].numpy(), axis=1)
    asked = (best[:, 1] - best[:, 0] < book.slope + book.offset).mean()
    assert asked < 0.05


# ----------------------------------------------------------------------------------- costs and reconstruct


@pytest.mark.parametrize("backend", ["torch", "faiss", "sklearn"])
def test_costs_are_squared_distances_whose_least_is_the_code(backend: Any) -> None:
    x = (mixture(400, 20, 40) + 3).astype(np.float32)
    t = RQKMeans(codebook_size=(16, 9, 5), iters=4, backend=backend).fit(x)
    codes = t.encode(x)
    for level in range(3):
        costs = t.costs(x, codes[:, :level])
        left = x - t.reconstruct(codes[:, :level]) if level else x
        expected = np.square(left[:, None].astype(np.float64) - t.codebooks_[level]).sum(axis=2)
        np.testing.assert_allclose(costs, expected, rtol=1e-4, atol=1e-4)
        chosen = np.take_along_axis(costs, codes[:, level : level + 1], axis=1)[:, 0]
        np.testing.assert_allclose(chosen, costs.min(axis=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="prefix"):
        t.costs(x, codes)
    with pytest.raises(DataError, match="1 to 3 codes"):
        t.reconstruct(np.zeros((2, 4), dtype=np.int32))


# --------------------------------------------------------------------------------------- backends, devices


def test_the_backend_that_ran_is_recorded() -> None:
    x = mixture(200, 4, 20)
    for backend, ran in (("auto", "torch"), ("torch", "torch"), ("faiss", "faiss"), ("sklearn", "sklearn")):
        fitted = RQKMeans(codebook_size=8, iters=2, backend=backend, device="cpu").fit(x)
        assert fitted.facts()["backend"] == ran
        assert fitted.facts()["device"] == "cpu"
        assert fitted.facts()["backend_version"]


def test_faiss_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sidbench\[cpu\]'"):
        RQKMeans(codebook_size=4, backend="faiss").fit(mixture(50, 4, 5))
    assert RQKMeans(codebook_size=4, iters=1).fit(mixture(50, 4, 5)).facts()["backend"] == "torch"


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.resolve("auto").type == "cpu"
    for name in ("cuda", "cuda:3", "gpu", "mps"):
        with pytest.raises(UsageError, match=r"device = "):
            RQKMeans(codebook_size=4, device=name).fit(mixture(50, 4, 5))


def test_rows_on_a_device_cluster_as_rows_in_memory() -> None:
    x = mixture(3000, 10, 30)
    first = x[plus_plus(x, 30, np.random.default_rng(0))]
    found = lloyd(DeviceRows(x, torch.device("cpu")), first, 15)
    again = lloyd(DeviceRows(x, torch.device("cpu")), first, 15)
    np.testing.assert_array_equal(found.centers, again.centers)
    assert (np.diff(found.history) <= 1e-6 * found.history[0]).all()


# -------------------------------------------------------------------------------------------------- random


def test_random_codes_are_uniform_and_follow_the_seed() -> None:
    x = mixture(20_000, 16, 10)
    codes = Random(codebook_size=(7, 256, 1000)).fit(x).encode(x)
    for level, size in enumerate((7, 256, 1000)):
        counts = np.bincount(codes[:, level], minlength=size)
        spread = ((counts - len(x) / size) ** 2).sum() / (
            len(x) / size
        )  # chi-squared: mean size, sd sqrt(2 size)
        assert abs(spread - size) < 6 * np.sqrt(2 * size)
    assert abs(np.corrcoef(codes.T) - np.eye(3)).max() < 0.03
    other = Random(codebook_size=(7, 256, 1000), seed=1).fit(x).encode(x)
    assert (codes[:, 1] == other[:, 1]).mean() < 0.01


def test_random_takes_zero_and_minus_zero_as_equal() -> None:
    x = np.zeros((2, 3), dtype=np.float32)
    x[1] = -0.0
    codes = Random().fit(x).encode(x)
    assert (codes[0] == codes[1]).all()
