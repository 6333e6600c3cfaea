"""Laws of the networks: what comes out of a row is a function of that row, and what training computes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sidbench import registry
from sidbench.errors import DataError
from sidbench.kit import network
from sidbench.kit.nearest import Floats

CPU = torch.device("cpu")
ACTIVATIONS: tuple[network.Activation, ...] = ("relu", "gelu", "silu", "tanh")


def rows(n: int, d: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def made(*sizes: int, seed: int = 0, **options: object) -> nn.Sequential:
    return network.mlp(sizes, torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


def used(net: nn.Sequential, d: int) -> nn.Sequential:
    """As after training: running statistics that are not where they started."""
    net.train()
    with torch.no_grad():
        for seed in range(5):
            net(torch.from_numpy(3 * rows(64, d, seed) + 1))
    return net.eval()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_through_is_what_the_module_computes(activation: network.Activation) -> None:
    net = used(made(20, 33, 17, 5, activation=activation, batch_norm=True, dropout=0.3), 20)
    scale = network.Standardize(20)
    scale.mean.copy_(torch.linspace(-1, 1, 20))
    scale.scale.copy_(torch.linspace(0.5, 2, 20))
    whole = nn.Sequential(network.UnitRows(), scale, net).eval()
    x = rows(1300, 20)
    with torch.no_grad():
        expected = whole.double()(torch.from_numpy(x).double()).numpy()
    found = network.rows_through(whole.float(), x, CPU)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_comes_out_the_same_in_any_batch_order_and_company(activation: network.Activation) -> None:
    net = used(made(37, 64, 9, activation=activation, batch_norm=True), 37)
    whole = nn.Sequential(network.UnitRows(), net) if activation == "tanh" else net
    x = rows(1111, 37)
    out = network.rows_through(whole, x, CPU)
    order = np.random.default_rng(1).permutation(len(x))
    assert (network.rows_through(whole, x[order], CPU) == out[order]).all()
    for size in (1, 7, 500):
        part = x[: 40 * size]
        parts = [network.rows_through(whole, part[i : i + size], CPU) for i in range(0, len(part), size)]
        assert (np.concatenate(parts) == out[: len(part)]).all()
    among = network.rows_through(whole, np.concatenate([1e4 * x, np.zeros_like(x), x]), CPU)
    assert (among[-len(x) :] == out).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_number_is_decided_as_a_sum_in_one_order_would_be(
    activation: network.Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an error bound that leaves everything in doubt, all numbers go the slow way, to the same bits."""
    net = made(24, 40, 6, activation=activation)
    x = rows(200, 24)
    quick = network.rows_through(net, x, CPU)
    monkeypatch.setattr(network, "UNIT", 1e-3)
    assert (network.rows_through(net, x, CPU) == quick).all()


def test_no_numbers_of_a_curved_tail_are_lost() -> None:
    """Far below zero gelu leaves nothing: no digits to decide by, and none in doubt."""
    net = made(8, 16, 4, activation="gelu")
    with torch.no_grad():
        net[0].bias.fill_(-40.0)  # type: ignore[operator]
    assert (network.rows_through(net, rows(50, 8), CPU) == 0).all()


def test_initial_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = made(12, 8, 3), made(12, 8, 3), made(12, 8, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.from_numpy(rows(5, 12))
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), other(x))


def test_a_network_whose_last_layer_is_zero_is_zero_and_learns() -> None:
    net = made(6, 10, 6, zero_last=True)
    out = net(torch.from_numpy(rows(4, 6)))
    assert (out == 0).all()
    out.sum().backward()
    last = net[-1].weight
    assert isinstance(last, nn.Parameter)
    assert last.grad is not None
    assert (last.grad != 0).any()


def test_layers_keep_the_variance() -> None:
    x = torch.from_numpy(rows(4000, 128))
    for activation, depth in itertools.product(("relu",), (1, 4)):
        out = made(128, *([128] * depth), 128, activation=activation)(x)
        assert 0.3 < float(out.detach().var()) < 3


def test_what_is_kept_is_put_back() -> None:
    net = used(made(5, 7, 3, batch_norm=True), 5)
    fresh = made(5, 7, 3, batch_norm=True, seed=9).eval()
    network.put_back(fresh, [np.ascontiguousarray(a) for a in network.tensors(net)])
    x = rows(9, 5)
    assert (network.rows_through(net, x, CPU) == network.rows_through(fresh, x, CPU)).all()
    with pytest.raises(DataError, match="other layers"):
        network.put_back(made(5, 8, 3, batch_norm=True), network.tensors(net))
    with pytest.raises(DataError, match="other layers"):
        network.put_back(made(5, 7, 3), network.tensors(net))


def test_a_part_that_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="LayerNorm"):
        network.rows_through(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), rows(2, 3), CPU)


def test_rows_may_lie_on_disk(tmp_path: Path) -> None:
    net, x = made(9, 4), rows(700, 9)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert (network.rows_through(net, mapped, CPU) == network.rows_through(net, x, CPU)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_at_the_end_of_float32_stay_numbers_without_a_warning(activation: network.Activation) -> None:
    net = made(24, 40, 6, activation=activation)
    big = np.float32(3.4e38) * np.sign(rows(50, 24))
    x = np.concatenate([rows(50, 24, 1), big])
    out = network.rows_through(net, x, CPU)
    assert np.isfinite(out).all()
    assert (network.rows_through(net, x[::-1].copy(), CPU)[::-1] == out).all()
    assert (network.rows_through(net, x[:50], CPU) == out[:50]).all()


@pytest.mark.parametrize(
    ("name", "far"),
    [(name, 0.0) for name in ("rq-vae", "rq-kmeans-plus", "fsq", "rq-kmeans", "opq", "tree-kmeans")]
    + [(name, 1e38) for name in ("rq-kmeans", "opq", "tree-kmeans")],  # the others train: no squares so large
)
def test_rows_at_the_end_of_float32_get_codes_without_a_warning(name: str, far: float) -> None:
    cls = registry.find("tokenizer", name)
    t = cls(**{**cls.quick, "levels": 2, "codebook_size": 8}).fit(rows(100, 8) - np.float32(far))
    x = np.concatenate([rows(20, 8), np.float32(3.4e38) * np.sign(rows(20, 8, 1))])
    codes = t.encode(x)
    assert (np.concatenate([t.encode(row[None]) for row in x]) == codes).all()


def test_numbers_in_doubt_are_decided_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = made(24, 40, 6), rows(200, 24)
    monkeypatch.setattr(network, "UNIT", 1e-3)
    whole = network.rows_through(net, x, CPU)
    monkeypatch.setattr(network, "PAIRS", 100)
    assert (network.rows_through(net, x, CPU) == whole).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_gives_the_same_bits() -> None:
    net, x = used(made(37, 64, 9, batch_norm=True), 37), rows(3000, 37)
    cuda = torch.device("cuda")
    assert (network.rows_through(net, x, cuda) == network.rows_through(net, x, CPU)).all()
