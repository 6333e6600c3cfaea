"""fsq: grids of steps, their codes, and an encoder that fills them."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch

from sidbench import registry
from sidbench.errors import UsageError
from sidbench.kit.device import tensor
from sidbench.plugin import configure
from sidbench.testing.core import catalogue

X = catalogue(600, 12)
FSQ: Any = registry.tokenizers()["fsq"]
module: Any = importlib.import_module(FSQ.__module__)
Grid, factors, SLOPE = module.Grid, module.factors, module.SLOPE


def fitted(**params: object) -> Any:
    settings = {"codebook_size": (16, 12, 8), "epochs": 60, "hidden": (32,), "batch_size": 128, **params}
    return configure(FSQ, settings).fit(X)


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        (2, (2,)), (3, (3,)), (7, (7,)), (16, (4, 4)), (64, (8, 8)), (100, (4, 5, 5)), (255, (6, 6, 7)),
        (256, (4, 8, 8)), (257, (4, 8, 8)), (1024, (4, 4, 8, 8)), (65_536, (4, 4, 8, 8, 8, 8)),
    ],
)  # fmt: skip
def test_the_steps_of_a_level(size: int, steps: tuple[int, ...]) -> None:
    assert factors(size) == steps


def test_steps_are_even_and_use_nearly_all_codes() -> None:
    for size in range(2, 2000):
        steps = factors(size)
        assert 0.86 * size < math.prod(steps) <= size
        assert max(steps) <= 2 * min(steps)


def test_every_code_stands_for_a_place_of_its_own_that_encodes_to_it() -> None:
    grid = Grid((256, 7, 12))
    codes = np.stack([np.arange(256), np.arange(256) % 7, np.arange(256) % 12], axis=1).astype(np.int32)
    points = grid.points(codes)
    assert np.abs(points).max() < 1
    assert len(np.unique(points[:, :3], axis=0)) == 256
    bounded = (points.astype(np.float64) + 1) / 2
    latents = (np.log(bounded / (1 - bounded)) / SLOPE).astype(np.float32)
    assert (grid.codes_of(latents) == codes).all()


def test_places_of_a_prefix_leave_the_rest_at_zero_and_unused_codes_are_the_last() -> None:
    grid = Grid((255, 4))
    assert grid.points(np.array([[3]], dtype=np.int32))[0, 3:].tolist() == [0.0]
    last, unused = grid.points(np.array([[251, 0], [254, 0]], dtype=np.int32))
    assert (last == unused).all()


def test_normal_numbers_fill_the_cells_evenly() -> None:
    z = np.random.default_rng(0).normal(size=(100_000, 1)).astype(np.float32)
    counts = np.bincount(Grid((8,)).codes_of(z)[:, 0], minlength=8)
    assert counts.min() > 0.8 * counts.mean()


def test_training_sees_the_codes_that_encoding_gives() -> None:
    model = fitted()._model
    with torch.no_grad():
        seen = model.codes(tensor(X)).numpy()
    assert (seen == model.grid.codes_of(model.encode(X))).mean() > 0.999


def test_gradients_pass_the_rounding_as_if_it_were_not_there() -> None:
    model = fitted()._model.train()
    model.decoder = torch.nn.Identity()
    model.normalizer = torch.nn.Identity()
    model.encoder = torch.nn.Identity()
    model.of = configure(FSQ, {"prefixes": 0, "spread": 0})
    z = torch.randn(5, len(model.grid.steps), requires_grad=True)
    (gradient,) = torch.autograd.grad(model.losses(z, torch.zeros(()))["loss"], z)
    with torch.no_grad():
        bounded = torch.sigmoid(SLOPE * z)
        q = 2 * (torch.minimum((bounded * model.steps).floor(), model.steps - 1) + 0.5) / model.steps - 1
        slope = 2 * SLOPE * bounded * (1 - bounded)
    torch.testing.assert_close(gradient, 2 * (q - z) * (slope - 1) / z.numel())


def test_a_batch_of_one_row_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fsq\.batch_size"):
        configure(FSQ, {"batch_size": 1})
    # Rows enough for any batch size leave no batch of one.
    three = configure(FSQ, {"batch_size": 2, "codebook_size": 2, "epochs": 1, "hidden": (4,)})
    assert three.fit(X[:3]).encode(X[:3]).shape == (3, 3)


def test_it_learns_and_does_not_collapse() -> None:
    ours = fitted()
    codes = ours.encode(X)
    used = [len(np.unique(codes[:, level])) / size for level, size in enumerate(ours.sizes)]
    assert min(used) > 0.9
    variance = np.square(X - X.mean(axis=0)).sum()
    errors = [float(np.square(ours.reconstruct(codes[:, :k]) - X).sum() / variance) for k in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3
    assert fitted(prefixes=0.0).encode(X).shape == codes.shape


def test_costs_are_least_at_the_code_and_count_the_prefix() -> None:
    x = catalogue(300, 12)
    fitted = FSQ(levels=3, codebook_size=(8, 30, 7), epochs=2, hidden=(16,), device="cpu").fit(x)
    codes = fitted.encode(x)
    before = np.zeros(len(x), dtype=np.float32)
    for level in range(3):
        costs = fitted.costs(x, codes[:, :level])
        assert (costs.argmin(axis=1) == codes[:, level]).all()
        assert (costs.min(axis=1) >= before).all()
        before = costs.min(axis=1)
