"""Laws of opq: codes of parallel subspaces, no worse than without a rotation, better with every round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import registry
from sidbench.errors import UsageError
from sidbench.kit import product
from sidbench.testing import catalogue

Floats = NDArray[np.float32]
OPQ = registry.find("tokenizer", "opq")


def correlated(n: int, d: int, seed: int = 0) -> Floats:
    """Clusters in few directions, turned so that every column holds a part of all of them."""
    rng = np.random.default_rng(seed)
    scale = 0.8 ** np.arange(d)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    middle = rng.normal(size=(60, d))
    x = (middle[rng.integers(60, size=n)] + 0.4 * rng.normal(size=(n, d))) * scale
    return np.asarray(x @ turn + 2, dtype=np.float32)


def error(x: Floats, **params: Any) -> float:
    t = OPQ(codebook_size=16, **params).fit(x)
    return float(np.square(x - t.reconstruct(t.encode(x))).sum() / np.square(x - x.mean(axis=0)).sum())


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_a_rotation_helps_where_columns_are_correlated(levels: int) -> None:
    x = correlated(2000, 16)
    learned, plain = (error(x, levels=levels, rotate=rotate) for rotate in (True, False))
    assert learned <= 0.9 * plain, (learned, plain)


def test_without_a_rotation_columns_are_the_subspaces() -> None:
    x = correlated(500, 7)
    t = OPQ(codebook_size=8, rotate=False).fit(x)
    assert t.facts()["subspaces"] == [3, 2, 2]
    for book, columns in zip(t.codebooks_, ([0, 1, 2], [3, 4], [5, 6]), strict=True):
        others = np.delete(book, columns, axis=1)
        assert (others == others[0]).all()
        assert len(np.unique(book, axis=0)) == 8


@pytest.mark.parametrize("d", [6, 16])
def test_more_rounds_never_raise_the_error(d: int) -> None:
    x = correlated(1000, d)
    errors = [error(x, iters=iters) for iters in (0, 1, 2, 4, 8, 16)]
    assert (np.diff(errors) <= 1e-5 * errors[0]).all(), errors
    assert errors[-1] < errors[0]


def test_codewords_of_different_levels_are_at_right_angles_and_codes_parallel() -> None:
    x = correlated(1500, 12)
    t = OPQ(levels=4, codebook_size=8).fit(x)
    books = [t.codebooks_[0] - x.mean(axis=0), *t.codebooks_[1:]]
    for a in range(4):
        for b in range(a):
            assert np.abs(books[a].astype(np.float64) @ books[b].T).max() < 1e-4
    codes = t.encode(x)
    z = x - x.mean(axis=0)
    for level, book in enumerate(books):  # each level by itself, as if there were no other
        far = np.square(z[:, None] - book).sum(axis=2)
        own = far[np.arange(len(x)), codes[:, level]]
        np.testing.assert_allclose(own, far.min(axis=1), rtol=1e-4, atol=1e-5)


def test_a_sample_learns_nearly_as_well_as_all_rows() -> None:
    x = correlated(6000, 16)
    some, all_rows = error(x, sample=1), error(x)  # 32 rows a code: 512
    assert some <= 1.15 * all_rows, (some, all_rows)


def test_variances_are_dealt_out_evenly() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy((rng.normal(size=(4000, 8)) * 0.5 ** np.arange(8)).astype(np.float32))
    turn = product.principal(z - z.mean(dim=0), 2)
    np.testing.assert_allclose(turn.T @ turn, np.eye(8), atol=1e-5)
    dealt = [sorted(np.abs(part).argmax(axis=0).tolist()) for part in np.split(turn.numpy(), 2, axis=1)]
    # Products of variances as even as they can be: half the exponents 0 + 1 + … + 7 each.
    assert [sum(part) for part in dealt] == [14, 14]


def test_columns_that_hold_nothing_do_no_harm() -> None:
    x = np.concatenate([catalogue(300, 3), np.ones((300, 6), np.float32)], axis=1)
    assert error(x) < 0.2


def test_more_levels_than_dimensions_are_refused() -> None:
    with pytest.raises(UsageError, match="levels to at most"):
        OPQ(levels=5, codebook_size=4).fit(catalogue(50, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_it_is_as_good() -> None:
    x = correlated(3000, 24)
    assert error(x, device="cuda") <= 1.05 * error(x, device="cpu")
    fitted = OPQ(codebook_size=16, device="cuda").fit(x)
    codes = fitted.encode(x)
    fitted.device = "cpu"
    assert (fitted.encode(x) == codes).all()
