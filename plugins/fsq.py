"""fsq: finite scalar quantization, codes that are places on a fixed grid, on a learned encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit import device, network, residual, rows
from sidbench.kit.autoencoder import Normalizer
from sidbench.kit.model import Model
from sidbench.kit.nearest import Floats
from sidbench.kit.shares import share
from sidbench.kit.training import Trained
from sidbench.sids import Codes

Width = Annotated[int, Field(ge=1, le=65_536)]
SLOPE = 1.6  # of the bound: 2 sigmoid(1.6 z) - 1 spreads normal numbers all but evenly over -1 to 1
SAMPLE = 32_768  # rows at most that mean and scale are learned from
CROWD = 1024  # rows of a batch at most between which crowding is measured


class FSQ(Trained):
    """Finite scalar quantization: no codebook to learn, so none that could collapse.

    An encoder gives a few numbers, each is bounded and rounded to a handful of steps. A level of a SID is a
    group of such numbers: its codes count the places of their grid. The steps of a level multiply to at most
    its size, as near to it as steps within a factor of two of each other allow (4 x 8 x 8 = 256; for 255 it
    is 6 x 6 x 7 = 252); codes beyond the product are never used. Beyond the paper, a share of the rows is
    decoded from the first levels alone, so that levels go from coarse to fine, and crowding costs.
    """

    name = "fsq"
    paper = "https://arxiv.org/abs/2309.15505"
    quick = {"epochs": 3, "hidden": (16,)}
    auto_steps = 1000

    #: Times that the catalogue is seen; auto: as many as make 1,000 steps, within 5 to 1,000.
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    #: Rows in a step at most: small batches make up for what rounding takes from each gradient.
    batch_size: Annotated[int, Field(ge=2)] = 256
    #: The highest learning rate.
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-2

    #: Widths of the encoder's layers; the decoder has them in reverse.
    hidden: tuple[Width, ...] = (256, 128)
    #: The activation between layers.
    activation: network.Activation = "relu"
    #: Share of rows in a step decoded from a random number of their first levels; 0: levels are equal.
    prefixes: Annotated[float, Field(ge=0, le=1)] = 0.2
    #: Weight of the penalty for latents of a batch that lie close together: more gives fewer collisions.
    spread: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02

    def fit(self, x: Embeddings) -> Self:
        model = Rounding(self, x.shape[1])
        self.train(model, x)
        self.columns_, self.weights_ = x.shape[1], network.tensors(model)
        return self._adopt(model)

    def encode(self, x: Embeddings) -> Codes:
        residual.check_columns(x, self.columns_)
        return self._model.grid.codes_of(self._model.encode(x))

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        """Squared distances on the bounded grid to the cells of the prefix and of each code.

        Codes that are never used cost more than any other.
        """
        residual.check_columns(x, self.columns_)
        level = rows.next_level(x, prefix, self.levels)
        return self._model.grid.costs(self._model.encode(x), prefix, self.sizes[level])

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return self._model.decode(self._model.grid.points(codes))

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "steps_of_levels": [list(steps) for steps in map(factors, self.sizes)]}

    def restore(self, state: dict[str, Any]) -> Self:
        super().restore(state)
        model = Rounding(self, self.columns_)
        network.put_back(model, self.weights_)
        return self._adopt(model)

    def _adopt(self, model: Rounding) -> Self:
        self._model = model.to(device.resolve(self.device)).eval()
        return self


@cache
def factors(size: int) -> tuple[int, ...]:
    """The steps of a level's numbers: about log6(size) numbers, none with more than twice another's steps.

    Their product is the largest up to `size`; of several such the most even.
    """
    count = max(1, round(math.log(size, 6)))

    def rising(left: int, count: int, low: int, high: int) -> Iterator[tuple[int, ...]]:
        if count == 0:
            yield ()
            return
        for step in range(low, high + 1):
            if step**count > left:
                return
            for rest in rising(left // step, count - 1, step, min(high, 2 * step)):
                yield (step, *rest)

    return max(rising(size, count, 2, size), key=lambda steps: (math.prod(steps), -max(steps)))


class Grid:
    """The grids of all levels, side by side: codes of latents, and the places that codes stand for.

    A latent is bounded to -1 to 1, which is cut into as many cells of one width as the number has steps; a
    cell stands for its middle.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.levels = [factors(size) for size in sizes]
        self.steps = [step for level in self.levels for step in level]

    def codes_of(self, z: Floats) -> Codes:
        """Where latents lie: each number's cell by comparisons alone, so that every row is by itself."""
        codes = np.zeros((len(z), len(self.levels)), dtype=np.int32)
        column = 0
        for level, steps in enumerate(self.levels):
            for step in steps:
                inner = np.arange(1, step) / step
                edges = (np.log(inner / (1 - inner)) / SLOPE).astype(np.float32)
                codes[:, level] *= step
                codes[:, level] += np.searchsorted(edges, z[:, column], side="right").astype(np.int32)
                column += 1
        return codes

    def points(self, codes: Codes) -> Floats:
        """The middles of the cells; levels that are not given stay at zero, codes never used are the last."""
        out = np.zeros((len(codes), len(self.steps)), dtype=np.float32)
        column = 0
        for level, steps in enumerate(self.levels[: codes.shape[1]]):
            left = np.minimum(codes[:, level], math.prod(steps) - 1)
            for at in range(len(steps) - 1, -1, -1):
                left, digit = np.divmod(left, steps[at])
                out[:, column + at] = (2 * digit + 1) / steps[at] - 1
            column += len(steps)
        return out

    def costs(self, z: Floats, prefix: Codes, size: int) -> Floats:
        """(rows, size) squared distances of bounded latents to the prefix's cells and each next code's."""
        level = prefix.shape[1]
        before, steps = sum(map(len, self.levels[:level])), self.levels[level]
        upto = before + len(steps)
        at = np.tanh(z[:, :upto].astype(np.float64) * (SLOPE / 2))  # 2 sigmoid(slope z) - 1
        gap = at[:, :before] - self.points(prefix)[:, :before]
        codes = np.zeros((size, level + 1), dtype=np.int32)
        codes[:, level] = np.arange(size)
        cells = self.points(codes)[:, before:upto].astype(np.float64)
        far = np.square(at[:, None, before:] - cells).sum(axis=2)
        far[:, math.prod(steps) :] += 4.0 * len(steps)  # two sides of the grid apart
        return np.asarray(far + np.square(gap).sum(axis=1)[:, None], dtype=np.float32)


class Rounding(Model):
    """Rows are normalised, encoded to a few numbers, bounded, rounded, and decoded."""

    shares = True
    steps: Tensor
    level: Tensor

    def __init__(self, of: FSQ, columns: int) -> None:
        super().__init__()
        self.of, self.grid = of, Grid(of.sizes)
        latent = len(self.grid.steps)
        rng = torch.Generator().manual_seed(of.seed)
        self.normalizer = Normalizer("center", columns)
        # Normalised latents fill the grid, whatever the data's scale is.
        self.encoder = nn.Sequential(
            network.mlp((columns, *of.hidden, latent), rng, of.activation),
            network.BatchNorm(latent).requires_grad_(False),
        )
        self.decoder = network.mlp((latent, *of.hidden[::-1], columns), rng, of.activation)
        groups = [len(steps) for steps in self.grid.levels]
        level = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(groups))
        self.register_buffer("steps", torch.tensor(self.grid.steps), persistent=False)
        self.register_buffer("level", level, persistent=False)

    def begin(self, rows: Floats, seed: int) -> None:
        some = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
        self.normalizer.learn(rows[np.sort(some)])

    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        x = self.normalizer(x)
        bounded = torch.sigmoid(SLOPE * self.encoder(x).float())
        middle = (self._cells(bounded) + 0.5) / self.steps
        # Rounded forwards, as if it were not backwards.
        q = 2 * (bounded + (middle - bounded).detach()) - 1
        levels = len(self.grid.levels)
        kept = 1 + torch.floor(self._drawn(x) * levels)
        whole = self._drawn(x) >= self.of.prefixes
        q = q * (whole | (self.level < kept))
        gap = self.decoder(q).float() - x
        reconstruction = gap.square().mean()
        cells = share().whole(bounded * self.steps)  # rows crowd each other, whichever process has them
        crowding = torch.stack([_crowding(level) for level in self._by_level(cells)]).sum()
        loss = reconstruction + self.of.spread * crowding
        return {"loss": loss, "reconstruction": reconstruction, "crowding": crowding}

    def _drawn(self, x: Tensor) -> Tensor:
        """A number from 0 to 1 for every row."""
        return share().drawn(len(x), lambda n: torch.rand(n, 1, device=x.device))

    def _cells(self, bounded: Tensor) -> Tensor:
        return torch.minimum((bounded * self.steps).floor(), self.steps - 1)

    def _by_level(self, numbers: Tensor) -> tuple[Tensor, ...]:
        return torch.split(numbers, [len(steps) for steps in self.grid.levels], dim=1)

    def codes(self, x: Tensor) -> Tensor:
        cells = self._cells(torch.sigmoid(SLOPE * self.encoder(self.normalizer(x))))
        codes = []
        for steps, part in zip(self.grid.levels, self._by_level(cells), strict=True):
            code = part[:, 0]
            for at, step in enumerate(steps[1:], start=1):
                code = code * step + part[:, at]
            codes.append(code)
        return torch.stack(codes, dim=1).long()

    def encode(self, x: Floats) -> Floats:
        """The latents of any rows; a row's are a function of that row alone, to the bit."""
        return network.rows_through(nn.Sequential(*self.normalizer, self.encoder), x, self.steps.device)

    def decode(self, points: Floats) -> Floats:
        """Rows from places on the grid, in the input's own units."""
        return self.normalizer.undo(network.rows_through(self.decoder, points, self.steps.device))


def _crowding(cells: Tensor) -> Tensor:
    """How close rows lie to each other (Wang and Isola, 2020): least where they fill the grid evenly."""
    cells = cells[:CROWD]
    lengths = cells.square().sum(dim=1)
    squares = lengths[:, None] + lengths - 2 * cells @ cells.T
    return torch.exp(-squares.clamp_min(0)).mean().log()
