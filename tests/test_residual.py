"""Laws of the residual loop: beams, rows at unit length, level sizes of any number, the path of a device."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import registry
from sidbench.errors import DataError, UsageError
from sidbench.kit import beam, nearest, residual, rows
from sidbench.kit.nearest import Codewords
from sidbench.testing import Check, tokenizer_checks

Floats = NDArray[np.float32]
RQKMeans = registry.find("tokenizer", "rq-kmeans")
CPU = torch.device("cpu")
VARIANTS: list[dict[str, Any]] = [
    {"beam": 4},
    {"normalize_residuals": True},
    {"minibatch": 256, "iters": 2, "normalize_residuals": True},
]


def mixture(n: int, d: int, leaves: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(leaves, d))
    return (centers[rng.integers(leaves, size=n)] + 0.3 * rng.normal(size=(n, d))).astype(np.float32)


def brute(x: Floats, books: list[Floats], normalize: bool = False) -> NDArray[np.int64]:
    """Greedy codes by float64 distances, a level at a time."""
    left, codes = x, []
    for book in books:
        if normalize:
            left = residual.unit(left, np.empty_like(left))
        parts = np.array_split(left, max(1, len(left) * book.size >> 24))
        codes.append(
            np.concatenate(
                [np.square(p[:, None].astype(np.float64) - book).sum(axis=2).argmin(axis=1) for p in parts]
            )
        )
        left = left - book[codes[-1]]
    return np.stack(codes, axis=1)


def test_the_joint_loop_leaves_over_what_its_codes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any codes, not the nearest alone; rows far from the origin, of extreme sizes, in several pieces."""
    monkeypatch.setattr(residual, "NEAR", 64)
    rng, sizes = np.random.default_rng(0), (3, 2, 5)
    seen: list[Floats] = []

    def solve(left: Floats, size: int, level: int) -> tuple[Floats, NDArray[np.int64]]:
        assert 0.5 <= np.abs(left).max() < 1
        seen.append(left.copy())
        return left[:size], rng.integers(size, size=len(left))

    for factor in (1.0, 1e-20, 1e20):
        x = ((mixture(50, 6, 4) + 3) * factor).astype(np.float32)
        kept = x.copy()
        seen.clear()
        books, codes = residual.fit_jointly(x, sizes, solve)
        assert (x == kept).all()
        assert [book.shape for book in books] == [(size, 6) for size in sizes]
        left = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
        for level, found in enumerate(seen):
            power = np.float32(2.0 ** -np.frexp(np.abs(left).max())[1])
            assert (found == left * power).all()
            left = (left if level else x) - books[level][codes[:, level]]
    with pytest.raises(DataError, match="level 0 failed"):
        residual.fit_jointly(x, sizes, lambda left, size, level: (left[:1], np.zeros(50, dtype=np.int64)))


def test_the_joint_loop_holds_one_array_beside_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE", 1 << 14)
    x = mixture(20_000, 64, 8)
    labels = np.arange(len(x)) % 8
    tracemalloc.start()
    residual.fit_jointly(x, (8, 8, 8), lambda left, size, level: (left[:size].copy(), labels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * x.nbytes


def squared_errors(x: Floats, codes: NDArray[Any], books: list[Floats]) -> NDArray[np.float64]:
    left = x
    for level, book in enumerate(books[:-1]):
        left = left - book[codes[:, level]]
    out: NDArray[np.float64] = np.square(left.astype(np.float64) - books[-1][codes[:, -1]]).sum(axis=1)
    return out


def relative_error(x: Floats, y: Floats) -> float:
    return float(np.square(x - y).sum() / np.square(x - x.mean(axis=0)).sum())


CHECKS = [
    pytest.param(check, id="-".join([*map(str, variant), str(check)]))
    for variant in VARIANTS
    for check in tokenizer_checks(RQKMeans, **variant)
]


@pytest.mark.parametrize("check", CHECKS)
def test_every_variant_meets_the_contract(check: Check) -> None:
    check()


# ------------------------------------------------------------------------------------------------- searching


@pytest.mark.parametrize("size", [2, 3, 255, 257, 2500])
@pytest.mark.parametrize("normalize", [False, True])
def test_codes_are_those_of_float64_brute_force(size: int, normalize: bool) -> None:
    x = mixture(700, 5, 60) + np.float32(1)
    rng = np.random.default_rng(size)
    books = [rng.normal(size=(size, 5)).astype(np.float32), (0.3 * rng.normal(size=(size, 5))).astype("f4")]
    books[1][size // 2 :] = books[1][: size - size // 2]  # exact ties
    codes = residual.encode(x, books, normalize=normalize)
    np.testing.assert_array_equal(codes, brute(x, books, normalize))


def test_65536_codes() -> None:
    x = mixture(66_000, 2, 500)
    rng = np.random.default_rng(0)
    books = [x[rng.permutation(len(x))[:65_536]], (0.1 * rng.normal(size=(3, 2))).astype(np.float32)]
    for normalize in (False, True):
        codes = residual.encode(x[:4000], books, normalize=normalize)
        np.testing.assert_array_equal(codes[:100], brute(x[:100], books, normalize))
        np.testing.assert_array_equal(codes[-7:], residual.encode(x[3993:4000], books, normalize=normalize))
    wide = residual.encode(x[:50], books, beam=3)
    assert (squared_errors(x[:50], wide, books) <= squared_errors(x[:50], brute(x[:50], books), books)).all()


def test_ties_across_the_blocks_of_a_large_codebook_go_to_the_lowest_code() -> None:
    book = np.repeat(np.eye(4, dtype=np.float32), nearest.BLOCK, axis=0)
    book[1:] += np.arange(1, len(book), dtype=np.float32)[:, None]  # distinct, and far away
    book[[5, nearest.BLOCK + 1]] = [[1, 0, 0, 0], [-1, 0, 0, 0]]
    book[0] = 9
    x = np.zeros((3, 4), dtype=np.float32)
    x[1, 0], x[2, 0] = -0.5, 0.5
    assert residual.encode(x, [book])[:, 0].tolist() == [5, nearest.BLOCK + 1, 5]


def test_rows_in_doubt_at_any_level_are_decided_exactly() -> None:
    rng = np.random.default_rng(0)
    books = [rng.integers(-2, 3, size=(30, 3)).astype(np.float32) for _ in range(4)]
    x = rng.integers(-4, 5, size=(3000, 3)).astype(np.float32)  # ties everywhere
    np.testing.assert_array_equal(residual.encode(x, books), brute(x, books))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shift", [0.0, 20.0])
def test_a_device_proposes_what_brute_force_finds_or_says_that_it_doubts(
    normalize: bool, shift: float
) -> None:
    x = mixture(3000, 16, 50) + np.float32(shift)
    t = RQKMeans(levels=4, codebook_size=32, iters=3, normalize_residuals=normalize).fit(x)
    x[::40] = 0.5 * (t.codebooks_[0][1] + t.codebooks_[0][2])
    words = [Codewords(book) for book in t.codebooks_]
    codes, doubt = beam.propose(x, words, 1, CPU, normalize)
    exact = residual.encode(x, t.codebooks_, normalize=normalize)
    np.testing.assert_array_equal(codes[~doubt], exact[~doubt])
    assert doubt.mean() < 0.1
    again = residual._on_device(CPU)(x, words, normalize)
    np.testing.assert_array_equal(again, exact)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"beam": 4}])
def test_codes_are_the_same_on_cuda(options: dict[str, Any]) -> None:
    x = mixture(20_000, 32, 300)
    books = RQKMeans(levels=4, codebook_size=64, iters=3, device="cpu").fit(x).codebooks_
    on_cuda = residual.encode(x, books, device="cuda", **options)
    np.testing.assert_array_equal(on_cuda, residual.encode(x, books, **options))


# ----------------------------------------------------------------------------------------------------- beams


def test_a_beam_wide_enough_finds_the_least_error_and_ties_go_to_the_lowest() -> None:
    rng = np.random.default_rng(1)
    books = [rng.integers(-2, 3, size=(4, 2)).astype(np.float32) for _ in range(3)]
    x = rng.integers(-6, 7, size=(200, 2)).astype(np.float32)
    ways = np.array(list(product(range(4), repeat=3)))  # in lexicographic order
    sums = sum(book[ways[:, level]] for level, book in enumerate(books))
    best = ways[np.square(x[:, None] - sums).sum(axis=2).argmin(axis=1)]
    np.testing.assert_array_equal(residual.encode(x, books, beam=64), best)


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (2, 3, 2, 5), (255, 2, 257)])
def test_a_beam_never_leaves_a_row_a_larger_error_than_greedy(width: int, sizes: tuple[int, ...]) -> None:
    x = mixture(1500, 8, 100)
    books = RQKMeans(levels=len(sizes), codebook_size=sizes, iters=3).fit(x).codebooks_
    greedy, wide = residual.encode(x, books), residual.encode(x, books, beam=width)
    one, other = squared_errors(x, greedy, books), squared_errors(x, wide, books)
    assert (other <= one).all()
    assert (other < one).any()


def test_the_exact_search_and_the_proposed_one_agree() -> None:
    x = mixture(400, 6, 40)
    books = RQKMeans(levels=4, codebook_size=12, iters=3).fit(x).codebooks_
    words = [Codewords(book) for book in books]
    found, doubt = beam.propose(x, words, 5, CPU)
    exact = beam.settle(x, [beam.Book.on(CPU, book) for book in words], 5)
    np.testing.assert_array_equal(found[~doubt], exact[~doubt])
    assert doubt.mean() < 0.1


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1e18, 1e30])
def test_beams_hold_at_extreme_values(scale: float) -> None:
    x = (mixture(150, 3, 20) * scale).astype(np.float32)
    books = RQKMeans(codebook_size=8, iters=3).fit(x).codebooks_
    greedy, wide = residual.encode(x, books), residual.encode(x, books, beam=3)
    assert (squared_errors(x, wide, books) <= squared_errors(x, greedy, books)).all()
    np.testing.assert_array_equal(wide[:20], residual.encode(x[:20], books, beam=3))


# ------------------------------------------------------------------------------------- what codes stand for


@pytest.mark.parametrize("variant", [{}, *VARIANTS], ids=str)
def test_more_levels_never_reconstruct_worse(variant: dict[str, Any]) -> None:
    x = mixture(2000, 12, 100)
    t = RQKMeans(**{"levels": 5, "codebook_size": 16, "iters": 8, **variant}).fit(x)
    codes = residual.encode(x, t.codebooks_, normalize=t.normalize_residuals)  # prefixes are greedy's
    errors = [relative_error(x, t.reconstruct(codes[:, : level + 1])) for level in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5


@pytest.mark.parametrize("variant", [{}, *VARIANTS], ids=str)
def test_the_least_cost_is_the_greedy_code(variant: dict[str, Any]) -> None:
    x = mixture(500, 10, 60)
    t = RQKMeans(**{"codebook_size": (16, 9, 5), "iters": 4, **variant}).fit(x)
    codes = residual.encode(x, t.codebooks_, normalize=t.normalize_residuals)
    for level in range(3):
        costs = t.costs(x, codes[:, :level])
        chosen = np.take_along_axis(costs, codes[:, level : level + 1], axis=1)[:, 0]
        np.testing.assert_allclose(chosen, costs.min(axis=1), rtol=1e-5, atol=1e-6)


def test_meanings_are_the_means_of_what_is_left() -> None:
    x = mixture(300, 4, 20)
    codes = np.random.default_rng(0).integers(0, 5, size=(300, 2), dtype=np.int32)
    codes[codes == 4] = 0  # code 4 has no rows
    books = residual.meanings(x, codes, (5, 5))
    np.testing.assert_allclose(books[0][2], x[codes[:, 0] == 2].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(books[0][4], x.mean(axis=0), rtol=1e-4, atol=1e-6)
    left = x - books[0][codes[:, 0]]
    np.testing.assert_allclose(books[1][3], left[codes[:, 1] == 3].mean(axis=0), rtol=1e-4, atol=1e-6)
    assert not books[1][4].any()


def test_normalized_codes_do_not_see_the_length_of_a_row() -> None:
    x = mixture(500, 8, 40)
    t = RQKMeans(codebook_size=16, iters=3, normalize_residuals=True).fit(x)
    np.testing.assert_array_equal(t.encode(x), t.encode(4 * x))
    assert not t.encode(np.zeros((1, 8), dtype=np.float32)).min() < 0


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"minibatch": 64, "backend": "faiss"}, "backend = auto, or minibatch = 0"),
        ({"minibatch": 64, "backend": "sklearn"}, "torch alone"),
        ({"minibatch": 64, "starts": 3}, "set starts = 1"),
        ({"beam": 4, "normalize_residuals": True}, "set beam = 1"),
        ({"beam": 0}, "greater than or equal to 1"),
    ],
)
def test_combinations_without_meaning_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RQKMeans(**params)


def test_the_kit_refuses_them_too() -> None:
    x = mixture(20, 3, 4)
    with pytest.raises(UsageError, match="exclude each other"):
        residual.encode(x, [x[:4]], normalize=True, beam=2)
    with pytest.raises(DataError, match="fitted on 3"):
        residual.encode(x[:, :2], [x[:4]], beam=2)
