"""Multilayer perceptrons, and what they make of rows: a row's output depends on that row alone, to the bit.

A matrix product rounds differently with its shape, so a layer's output is no function of the row.
`rows_through` takes every layer in float64 and rounds to float32 at its end. The product's error has a bound;
where both ends of it round to the same float32 (all but one number in some thousands do) every order of
summation gives that number, and elsewhere a sum in one fixed order decides. So batch, order, threads and
device do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sidbench.errors import DataError
from sidbench.kit.device import tensor
from sidbench.kit.nearest import PAIRS, Floats
from sidbench.kit.shares import share
from sidbench.kit.workers import workers

Activation = Literal["relu", "gelu", "silu", "tanh"]
Wide = NDArray[np.float64]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
#: One number at a time: what decides a curved activation has no vector lanes that could round differently.
_ONE = {
    nn.GELU: lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2.0)),
    nn.SiLU: lambda v: v / (1.0 + math.exp(-v)) if v > -700.0 else 0.0,
    nn.Tanh: math.tanh,
}
NOTHING = 1e-12  # what a curved activation leaves below this is nothing: its tail has no digits to decide by
TILE = 512  # rows that a core takes through all layers at once
ON_DEVICE = 1 << 25  # numbers of the widest layer that a device holds at once
UNIT = 2.0**-53  # float64's relative rounding error
LARGEST = float(np.finfo(np.float32).max)  # numbers beyond float32 stay at its end, as infinity has no sums


def mlp(
    sizes: Sequence[int],
    rng: torch.Generator,
    activation: Activation = "relu",
    dropout: float = 0.0,
    batch_norm: bool = False,
    zero_last: bool = False,
) -> nn.Sequential:
    """Linear layers of these sizes, from the input's to the output's, with the activation between them.

    Weights start orthogonal (an activation that halves the variance is made good for), biases at zero;
    `zero_last` starts the last layer at zero, so that the whole is zero at first.
    """
    parts: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = i + 2 == len(sizes)
        # On `meta` first, as its own start would draw from the caller's random numbers.
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        gain = 1.0 if last or activation == "tanh" else math.sqrt(2.0)
        with torch.no_grad():
            nn.init.zeros_(linear.bias)
            if last and zero_last:
                nn.init.zeros_(linear.weight)
            else:
                nn.init.orthogonal_(linear.weight, gain, generator=rng)
        parts.append(linear)
        if not last:
            parts += [BatchNorm(fan_out)] if batch_norm else []
            parts.append(ACTIVATIONS[activation]())
            parts += [Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts)


def carries(sizes: Sequence[int], activation: Activation, batch_norm: bool) -> bool:
    """Whether a network of these layers can carry its narrower end through unchanged (see `carry`)."""
    paired = min(sizes[1:-1], default=2 * min(sizes)) >= 2 * min(sizes[0], sizes[-1])
    return paired and activation != "tanh" and not batch_norm


def carry(net: nn.Sequential, into: Tensor, out: Tensor) -> None:
    """Set weights so that the network begins as the linear map out @ into, and keeps what else it has.

    relu, gelu and silu have f(a) - f(-a) = a, so a pair of units passes a number on. The other units keep the
    weights they have towards the next layer's other units and start at zero towards what is carried: training
    begins at the map and bends it.
    """
    linears = [part for part in net if isinstance(part, nn.Linear)]
    channels = len(into)
    pair = torch.cat([torch.eye(channels), -torch.eye(channels)]).to(into)
    with torch.no_grad():
        if len(linears) == 1:
            linears[0].weight.copy_(out @ into)
            return
        linears[0].weight[: 2 * channels] = pair @ into
        for linear in linears[1:-1]:
            linear.weight[: 2 * channels] = 0
            linear.weight[: 2 * channels, : 2 * channels] = pair @ pair.T
        linears[-1].weight.zero_()
        linears[-1].weight[:, : 2 * channels] = out @ pair.T


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation by all rows of a batch, whichever processes have them."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or share().alone:
            normal: Tensor = super().forward(x)
            return normal
        rows = share().of(len(x))
        wide = x.float()
        mean = share().summed(wide.sum(dim=0)) / rows
        apart = wide - mean
        variance = share().summed(apart.square().sum(dim=0)) / rows
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (rows / (rows - 1)), self.momentum)
        out: Tensor = apart * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return out.to(x.dtype)


class Dropout(nn.Dropout):
    """Dropout whose mask is that of the whole batch, whichever processes have its rows."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or share().alone:
            dropped: Tensor = super().forward(x)
            return dropped
        mask = share().drawn(len(x), lambda n: x.new_empty(n, *x.shape[1:]).bernoulli_(1 - self.p))
        return x * (mask / (1 - self.p))


class Standardize(nn.Module):
    """Rows less a mean, over a scale: numbers a column, learned once from the data and part of the state."""

    mean: Tensor
    scale: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class UnitRows(nn.Module):
    """Every row at length one; a row of zeros stays."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1)


def unit_rows(x: Floats) -> Floats:
    """The same for arrays: a row's result depends on that row alone, to the bit."""
    wide = x.astype(np.float64)
    length = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return np.asarray(wide / np.where(length > 0, length, 1.0), dtype=np.float32)


def rows_through(module: nn.Module, x: Floats, device: torch.device) -> Floats:
    """What the module makes of the rows in evaluation, each row by itself; `x` may have any number of them.

    The module is made of what this file offers, in one sequence (sequences within it are fine). Rows stay on
    the device through all layers; only the numbers in doubt come to the processor between them.
    """
    layers = _layers(module, device)
    out = np.empty((len(x), layers[-1].weight.shape[1]), dtype=np.float32)

    def work(start: int, stop: int) -> None:
        tile = tensor(x[start:stop])
        for layer in layers:
            tile = layer(tile)
        out[start:stop] = tile.cpu().numpy()

    if device.type == "cuda":
        step = max(TILE, ON_DEVICE // max(max(layer.weight.shape) for layer in layers))
        for start in range(0, len(x), step):
            work(start, min(start + step, len(x)))
    else:
        with workers() as run:
            run(work, len(x), TILE)
    return out


@dataclass(frozen=True, eq=False)
class _Layer:
    """One linear map in float64 with all that is affine about it folded in, and the activation after it."""

    weight: Tensor  # (inputs, outputs) on the device
    bias: Tensor
    columns: Wide  # the weight transposed, for sums over contiguous numbers
    offsets: Wide
    slope: float  # a product is wrong by at most slope * |row| + floor
    floor: float
    unit: bool  # whether rows are brought to length one first
    curve: nn.Module | None

    def __call__(self, x: Tensor) -> Tensor:
        if self.unit:  # sums of one order: before the first layer, where rows still are on the processor
            x = tensor(unit_rows(x.cpu().numpy()))
        x = x.to(self.weight.device)
        wide = x.double()
        y = torch.addmm(self.bias, wide, self.weight)
        error = self.slope * wide.square().sum(dim=1, keepdim=True).sqrt() + self.floor
        if self.curve is None or isinstance(self.curve, nn.ReLU):
            low, high = y - error, y + error
            if self.curve is not None:
                low, high = low.clamp_(min=0), high.clamp_(min=0)
        else:
            middle = self.curve(y)
            low, high = middle - error, middle + error
            low, high = (end.masked_fill_(end.abs() < NOTHING, 0) for end in (low, high))
        rounded = low.float()
        row, column = (rounded != high.float()).nonzero(as_tuple=True)
        rounded.clamp_(-LARGEST, LARGEST)
        if len(row):
            rounded[row, column] = tensor(self._decide(x, row, column)).to(rounded.device)
        return rounded

    def _decide(self, x: Tensor, row: Tensor, column: Tensor) -> Floats:
        """Single outputs by sums in one order on the processor, whatever else is in the tile."""
        value = np.empty(len(row))
        to = column.cpu().numpy()
        step = max(1, PAIRS // x.shape[1])
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            rows = x[row[part]].cpu().numpy().astype(np.float64)
            value[part] = (rows * self.columns[to[part]]).sum(axis=1)
        value += self.offsets[to]
        if isinstance(self.curve, nn.ReLU):
            value = np.maximum(value, 0.0)
        elif self.curve is not None:
            value = np.frompyfunc(_ONE[type(self.curve)], 1, 1)(value).astype(np.float64)
            value[np.abs(value) < NOTHING] = 0.0
        return value.clip(-LARGEST, LARGEST).astype(np.float32)


def _layers(module: nn.Module, device: torch.device) -> list[_Layer]:
    layers: list[_Layer] = []
    unit, before, weight, bias = False, None, None, None
    curve: nn.Module | None = None

    def close() -> None:
        nonlocal weight, bias, curve, unit
        if weight is not None and bias is not None:
            layers.append(_layer(weight, bias, unit, curve, device))
            weight = bias = curve = None
            unit = False

    for part in _flat(module):
        if isinstance(part, UnitRows):
            close()
            unit = True
        elif isinstance(part, Standardize):
            before = _wide(part.mean), _wide(part.scale)
        elif isinstance(part, nn.Linear):
            close()
            weight, bias = _wide(part.weight), _wide(part.bias)
            if before is not None:  # rows are standardised by the weights of the layer that takes them
                weight = weight / before[1]
                bias = bias - (weight * before[0]).sum(axis=1)
                before = None
        elif isinstance(part, nn.BatchNorm1d):
            assert weight is not None
            assert bias is not None
            assert part.running_mean is not None
            assert part.running_var is not None
            scale = _wide(part.weight) / np.sqrt(_wide(part.running_var) + part.eps)
            weight = weight * scale[:, None]
            bias = (bias - _wide(part.running_mean)) * scale + _wide(part.bias)
        elif isinstance(part, nn.Dropout):
            continue
        elif isinstance(part, (nn.ReLU, *_ONE)):
            curve = part
        else:
            raise TypeError(f"{type(part).__name__} is no part that rows can be taken through one by one")
    close()
    return layers


def _layer(weight: Wide, bias: Wide, unit: bool, curve: nn.Module | None, device: torch.device) -> _Layer:
    # A sum of d products is wrong by less than d units of |row| |column|, in any order; twice that for the
    # two that are compared, twice that again for the slope and rounding of a curve.
    units = (4 * weight.shape[1] + 64) * UNIT
    slope = units * float(np.sqrt(np.square(weight).sum(axis=1).max()))
    floor = units * float(np.abs(bias).max()) + 1e-300
    columns = np.ascontiguousarray(weight)
    return _Layer(
        weight=torch.from_numpy(np.ascontiguousarray(weight.T)).to(device),
        bias=torch.from_numpy(bias.copy()).to(device),
        columns=columns,
        offsets=bias,
        slope=slope,
        floor=floor,
        unit=unit,
        curve=curve,
    )


def _flat(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [part for child in module for part in _flat(child)]
    return [module]


def _wide(values: Tensor) -> Wide:
    return values.detach().cpu().double().numpy()


def tensors(module: nn.Module) -> list[NDArray[np.generic]]:
    """Everything that the module keeps, in its own order: weights, running statistics, flags."""
    return [value.detach().cpu().numpy().copy() for value in module.state_dict().values()]


def put_back(module: nn.Module, values: Sequence[NDArray[np.generic]]) -> None:
    """The reverse of `tensors`, into a module made with the same parameters."""
    state = module.state_dict()
    if len(state) != len(values) or any(
        v.numel() != a.size for v, a in zip(state.values(), values, strict=False)
    ):
        raise DataError("the saved network has other layers than its parameters say; fit the tokenizer again")
    with torch.no_grad():
        for held, value in zip(state.values(), values, strict=True):
            held.copy_(torch.from_numpy(np.array(value)).reshape(held.shape))
