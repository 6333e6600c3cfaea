"""The fused kernel proposes what float32 finds, or doubts; without a GPU Triton interprets it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench.kit import beam, device, fused, residual
from sidbench.kit.nearest import Codewords, Floats
from sidbench.kit.residual import _on_device
from sidbench.sids import Codes

CPU = torch.device("cpu")
CUDA = torch.cuda.is_available()
gpu = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
Case = tuple[Floats, list[Floats]]


def case(n: int, d: int, sizes: Sequence[int], *, shift: float = 0.0, scale: float = 1.0) -> Case:
    """Rows and codebooks of shrinking spread, the first around a mean, one codeword twice in each."""
    rng = np.random.default_rng(n + d)
    books = [rng.normal(size=(size, d)) * 0.6**level for level, size in enumerate(sizes)]
    books[0] += shift
    for book in books:
        book[-1] = book[0]
    x = books[0][rng.integers(sizes[0], size=n)] + 0.5 * rng.normal(size=(n, d))
    return (x * scale).astype(np.float32), [(book * scale).astype(np.float32) for book in books]


CASES = {
    "as published": case(300, 32, (256, 256, 256, 256)),
    "far from the origin": case(200, 32, (64, 64), shift=20.0),
    "odd sizes": case(150, 7, (5, 70, 2, 65)),
    "one code": case(40, 3, (1, 1, 4)),
    "wide rows": case(70, 100, (100, 30)),
    "one row": case(1, 16, (16, 16)),
    "tiny numbers": case(100, 8, (32, 32), scale=1e-30),
    "huge numbers": case(100, 8, (32, 32), scale=1e18),
    "more than fit": case(60, 8, (32, 32), scale=1e30),
}


@pytest.fixture(scope="module")
def where() -> torch.device:
    """Where the kernel can run: a GPU, or else Triton's interpreter."""
    if find_spec("triton") is None:
        pytest.skip("needs Triton: pip install triton")
    if CUDA:
        return torch.device("cuda")
    if "triton" in sys.modules and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("Triton was imported already, as a compiler for GPUs")
    os.environ["TRITON_INTERPRET"] = "1"  # read as Triton is imported
    return CPU


def proposed(
    x: Floats, books: list[Floats], where: torch.device, precision: fused.Precision = "tf32x3"
) -> tuple[Codes, NDArray[np.bool_]]:
    work = fused.Fused([Codewords(book) for book in books], where, precision)
    with np.errstate(all="ignore"):  # numbers that do not fit are doubt
        codes, doubt = work(torch.from_numpy(x).to(where))
    return codes.cpu().numpy(), doubt.cpu().numpy()


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_finds_the_exact_codes_or_doubts(
    name: str, precision: fused.Precision, where: torch.device
) -> None:
    x, books = CASES[name]
    codes, doubt = proposed(x, books, where, precision)
    exact = residual.encode(x, books)
    np.testing.assert_array_equal(codes[~doubt], exact[~doubt])
    assert (codes >= 0).all()
    if name in ("as published", "far from the origin", "odd sizes", "one code"):
        assert doubt.mean() < 0.05
    if name == "more than fit":
        assert doubt.all()


def test_a_row_between_two_codewords_is_in_doubt_and_equal_codewords_are_none(where: torch.device) -> None:
    x, books = CASES["as published"]
    rows = x.copy()
    rows[0] = (books[0][1] + books[0][2]) / 2
    book = np.concatenate([books[0][1:3], 100 + books[0][3:]])
    assert proposed(rows, [book], where)[1][0]
    codes, doubt = proposed(book, [np.concatenate([book, book])], where)
    assert not doubt.any()  # a copy of a codeword takes no part
    np.testing.assert_array_equal(codes[:, 0], residual.encode(book, [book])[:, 0])


def test_a_row_has_the_same_codes_in_any_company(where: torch.device) -> None:
    x, books = CASES["as published"]
    codes, doubt = proposed(x, books, where)
    for some in (slice(0, 1), slice(3, 150), slice(299, 300)):
        alone, unsure = proposed(x[some].copy(), books, where)
        sure = ~(unsure | doubt[some])
        np.testing.assert_array_equal(alone[sure], codes[some][sure])


def tf32(a: Floats) -> Floats:
    """The ten digits of a number that TF32 keeps, the others cut off."""
    return (a.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize("name", ["as published", "far from the origin", "wide rows"])
def test_three_products_in_tf32_stay_within_their_bound(name: str) -> None:
    x, books = CASES[name]
    words = Codewords(books[0])
    z = x if words.shift is None else x - words.shift
    products = np.concatenate([p.numpy() for _, p in words.blocks], axis=1)
    high, word = tf32(z), tf32(products)
    low, rest = tf32(z - high), tf32(products - word)
    dots = high.astype(np.float64) @ word + high.astype(np.float64) @ rest + low.astype(np.float64) @ word
    off = np.abs(dots - z.astype(np.float64) @ products)
    slope, offset, _ = fused.bounds_of(words, "tf32x3")
    length = np.linalg.norm(z.astype(np.float64), axis=1)
    assert (2 * off <= (slope * length + offset)[:, None]).all()
    assert slope > fused.bounds_of(words, "ieee")[0]


def test_torch_is_taken_where_the_kernel_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(fused, "find_spec", lambda name: object())
    assert fused.choose(cuda, 32, False) == "triton"
    assert fused.choose(cuda, 129, False) == fused.choose(cuda, 32, True) == "torch"
    assert fused.choose(CPU, 32, False) == "torch"
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert fused.choose(cuda, 32, False) == "torch"


def test_torch_gives_equal_codes_whatever_travels_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, books = CASES["as published"]
    words = [Codewords(book) for book in books]
    with device.noting() as ran:
        whole = _on_device(CPU)(x, words, False)
    assert ran == {"encode": "torch"}
    np.testing.assert_array_equal(whole, residual.encode(x, books))
    monkeypatch.setattr(device, "LOAD", 4 * 32 * 7)
    monkeypatch.setattr(device, "FEWEST", 1)
    monkeypatch.setattr(fused, "ON_DEVICE", 256 * 3)
    codes, doubt = fused.propose(x, words, CPU)
    np.testing.assert_array_equal(codes[~doubt], whole[~doubt])
    np.testing.assert_array_equal(_on_device(CPU)(x, words, False), whole)
    one, _ = beam.propose(x, words, 1, CPU)
    np.testing.assert_array_equal(one[~doubt], codes[~doubt])


def test_a_triton_that_fails_is_said_and_torch_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("Failed to find C compiler\nand more")

    monkeypatch.setattr(fused, "choose", lambda *given: "triton")
    monkeypatch.setattr(fused, "Fused", broken)
    x, books = CASES["odd sizes"]
    for _ in range(2):
        with device.noting() as ran:
            found = _on_device(CPU)(x, [Codewords(book) for book in books], False)
        np.testing.assert_array_equal(found, residual.encode(x, books))
        assert ran == {"encode": "torch, since Triton failed (RuntimeError: Failed to find C compiler)"}
    assert len(caplog.records) == 1


def test_nobody_is_told_who_does_not_ask() -> None:
    device.note("encode", "torch")
    with device.noting() as ran:
        pass
    assert ran == {}


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("name", CASES)
def test_codes_on_cuda_are_those_of_the_processor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, books = CASES[name]
    many = np.concatenate([x] * 40)
    monkeypatch.setattr(device, "LOAD", 4 * x.shape[1] * 1000)  # several loads, the last one shorter
    monkeypatch.setattr(device, "FEWEST", 1)
    with device.noting() as ran:
        found = residual.encode(many, books, device="cuda")
    np.testing.assert_array_equal(found, residual.encode(many, books))
    assert ran["encode"].startswith("triton" if find_spec("triton") else "torch")


@pytest.mark.gpu
@gpu
def test_the_kernel_and_torch_agree_on_a_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    x, books = case(500_000, 32, (256, 256, 256, 256))
    by_kernel = residual.encode(x, books, device="cuda")
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    np.testing.assert_array_equal(residual.encode(x, books, device="cuda"), by_kernel)
