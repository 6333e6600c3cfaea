"""Laws of lsh: exact signs, bits that differ as often as the angle says, sizes that are powers of two."""

from __future__ import annotations

import numpy as np
import pytest

from sidbench import registry
from sidbench.errors import UsageError
from sidbench.testing import catalogue

LSH = registry.find("tokenizer", "lsh")


@pytest.mark.parametrize("angle", [0.1, 0.5, 1.0, np.pi / 2, 2.5])
def test_two_items_differ_in_a_bit_as_often_as_their_angle_says(angle: float) -> None:
    rng = np.random.default_rng(0)
    a, b = np.linalg.qr(rng.normal(size=(32, 2)))[0].T
    pair = np.stack([a, np.cos(angle) * a + np.sin(angle) * b]).astype(np.float32)
    t = LSH(levels=16, codebook_size=65_536, center=False)
    differ = []
    for seed in range(8):
        codes = t.replace(seed=seed).fit(pair).encode(pair)
        differ.append(np.unpackbits((codes[0] ^ codes[1]).view(np.uint8)).sum() / 256)
    # 2,048 planes: four standard deviations.
    p = angle / np.pi
    assert np.mean(differ) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2048))


@pytest.mark.parametrize("d", [3, 64, 768])
def test_signs_are_those_of_float64_sums(d: int) -> None:
    """On rows that lie almost in a plane too, where a float32 product's sign is noise."""
    x = catalogue(400, d)
    t = LSH(levels=2, codebook_size=(256, 4)).fit(x)
    z = x - t.mean_
    plane = t.planes_[3].astype(np.float64)
    near = z - np.outer(z @ plane, plane)
    rows = np.concatenate([x, (near + t.mean_).astype(np.float32), t.mean_[None]])
    z = (rows - t.mean_).astype(np.float64)
    sides = np.stack([(z * p).sum(axis=1) >= 0 for p in t.planes_.astype(np.float64)], axis=1)
    expected = np.stack([sides[:, :8] @ (1 << np.arange(8)[::-1]), sides[:, 8:] @ np.array([2, 1])], axis=1)
    np.testing.assert_array_equal(t.encode(rows), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_change_no_code(scale: float) -> None:
    x = catalogue(200, 16)
    scaled = (x.astype(np.float64) * scale).astype(np.float32)
    t = LSH(center=False)
    agree = t.fit(x).encode(x) == t.fit(scaled).encode(scaled)
    assert agree.mean() > 0.99  # but for the rounding of the scaled values themselves


def test_costs_are_zero_for_the_own_code_alone() -> None:
    x = catalogue(100, 12)
    t = LSH(codebook_size=(16, 2, 8)).fit(x)
    codes = t.encode(x)
    for level in range(3):
        costs = t.costs(x, codes[:, :level])
        np.testing.assert_array_equal(costs.argmin(axis=1), codes[:, level])
        assert (costs[np.arange(100), codes[:, level]] == 0).all()
        far = (x - t.mean_) @ t.planes_[sum(t.bits[: level + 1]) - 1]  # the last bit
        flipped = costs[np.arange(100), codes[:, level] ^ 1]
        np.testing.assert_allclose(flipped, far**2, rtol=1e-3, atol=1e-6)


def test_a_size_that_is_no_power_of_two_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="nearest choices are 64 and 128"):
        LSH(codebook_size=100)
    with pytest.raises(UsageError, match="choices are 2 and 4"):
        LSH(codebook_size=(256, 3, 2))
    with pytest.raises(UsageError, match="choices are 32768 and 65536"):
        LSH(codebook_size=40_000)


def test_one_item_is_enough() -> None:
    x = catalogue(1, 6)
    assert LSH(codebook_size=65_536).fit(x).encode(x).shape == (1, 3)


def test_rows_at_the_end_of_float32_get_codes_without_a_warning() -> None:
    t = LSH(levels=2, codebook_size=16).fit(catalogue(50, 8) - np.float32(1e38))
    x = np.concatenate([catalogue(20, 8), np.float32(3.4e38) * np.sign(catalogue(20, 8, seed=1))])
    codes = t.encode(x)
    assert (t.encode(x[::-1])[::-1] == codes).all()


def test_costs_of_last_codes_are_those_of_whole_sids() -> None:
    x = catalogue(50, 8)
    t = LSH(levels=2, codebook_size=4).fit(x)
    codes = t.encode(x)
    other = codes[:, :1] ^ 1
    first = t.costs(x, codes[:, :0])[np.arange(50), other[:, 0]]
    np.testing.assert_allclose(t.costs(x, other)[np.arange(50), codes[:, 1]], first, rtol=1e-5)
