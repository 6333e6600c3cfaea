"""Trained weights as one vector, and the optimizers that step it: a few operations however many layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sidbench.errors import ContractError
from sidbench.kit.schedule import Schedule, rates

Name = Literal["adamw", "adam", "sgd", "adagrad", "rmsprop"]
ALIGN = 16  # floats: every parameter begins on a cache line, as it would on its own
MOMENTUM = 0.9  # of sgd


@dataclass(frozen=True)
class Learning:
    """How a gradient is followed; `Trained` has these as parameters and says what they mean."""

    optimizer: Name = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    clip: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"


class Weights:
    """All parameters of a model that are trained, in one vector; the model's own become windows into it.

    One clip, one step, one copy of everything, whatever the model is made of. The vector is stepped in
    parts: a part is what lies together of one child of the model and is decayed (matrices) or is not
    (biases and gains). A part whose parameters do not require a gradient is frozen: not stepped, not
    decayed. Parameters that never required one are no part of the vector; a model may have no others.
    `pace` names children that learn at a share of the rate.
    """

    def __init__(
        self,
        model: nn.Module,
        learning: Learning | None,
        steps: int,
        pace: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if bool(named) != (learning is not None):
            raise ContractError(f"{len(named)} parameters require a gradient; learning() is {learning}")
        named.sort(key=lambda pair: _part(*pair))
        lengths = [-(-p.numel() // ALIGN) * ALIGN for _, p in named]
        device = next(iter(model.state_dict().values())).device
        self.flat = torch.zeros(sum(lengths), device=device)
        self.gradient = torch.zeros_like(self.flat)
        self.parts: list[nn.Parameter] = []
        self._members: list[list[nn.Parameter]] = []
        groups: list[dict[str, Any]] = []
        at = 0
        self._paces: list[float] = []
        measured = zip(named, lengths, strict=True)
        for (child, bare), pairs in groupby(measured, key=lambda pair: _part(*pair[0])):
            start, members = at, []
            for (_, p), length in pairs:
                window = self.flat[at : at + p.numel()].view_as(p)
                window.copy_(p.detach())
                p.data = window
                p.grad = self.gradient[at : at + p.numel()].view_as(p)
                members.append(p)
                at += length
            part = nn.Parameter(self.flat[start:at])
            part.grad = self.gradient[start:at]
            self.parts.append(part)
            self._members.append(members)
            self._paces.append(pace.get(child, 1.0))
            groups.append(
                {"params": [part], "weight_decay": 0.0 if bare or not learning else learning.weight_decay}
            )
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        inside = {n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in trained}
        #: Buffers and untrained parameters: with `flat` all that the model is.
        self.others = {k: v for k, v in model.state_dict().items() if k not in inside}
        # A tensor on a CUDA device, so that a captured step reads the rates of its own time.
        self._rates = torch.zeros(len(groups), device=device) if device.type == "cuda" else None
        self._shares = torch.tensor(self._paces, device=device)
        self.steps = steps
        if learning is not None:
            self.clip = learning.clip
            self.rates = rates(learning.schedule, learning.lr, steps, learning.warmup)
            make = _OPTIMIZERS[learning.optimizer]
            self.optimizer = make(groups, 0.0 if self._rates is None else self._rates[0])
            self._share_out()

    def thaw(self) -> None:
        """Step the parts that require a gradient, and only those."""
        for members in self._members:
            asked = {p.requires_grad for p in members}
            if len(asked) > 1:
                raise ContractError("a child of the model is frozen in part: freeze all of it, or none")
        at = 0
        for part, members in zip(self.parts, self._members, strict=True):
            part.grad = self.gradient[at : at + len(part)] if members[0].requires_grad else None
            at += len(part)

    def rate(self, step: int) -> None:
        """Take the learning rate of this step."""
        if not self.parts:
            return
        if self._rates is None:
            for group, pace in zip(self.optimizer.param_groups, self._paces, strict=True):
                group["lr"] = self.rates[step] * pace
        else:
            torch.mul(self._shares, self.rates[step], out=self._rates)

    def _share_out(self) -> None:
        """On a CUDA device, every part reads its own rate."""
        if self._rates is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate

    def step(self) -> None:
        """Apply the gradient that was gathered, and forget it."""
        if self.clip:
            norm = torch.linalg.vector_norm(self.gradient)
            self.gradient.mul_((self.clip / (norm + 1e-6)).clamp_(max=1.0))
        self.optimizer.step()
        self.gradient.zero_()

    def memory(self) -> dict[str, Tensor]:
        """What the optimizer remembers, by name."""
        state = self.optimizer.state_dict()["state"] if self.parts else {}
        return {f"{i}.{key}": value for i, part in state.items() for key, value in part.items()}

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Put back what `memory` gave."""
        if not self.parts:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in memory.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self._share_out()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that the model is, by name."""
        yield "flat", self.flat
        yield from ((f"other.{name}", value) for name, value in self.others.items())

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Make the model what `tensors` were."""
        for name, value in self.tensors():
            value.copy_(tensors[name])


def _part(name: str, p: nn.Parameter) -> tuple[str, bool]:
    return name.partition(".")[0], p.ndim < 2


def _adam(groups: list[dict[str, Any]], lr: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=lr, fused=True, capturable=isinstance(lr, Tensor))


def _adamw(groups: list[dict[str, Any]], lr: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, fused=True, capturable=isinstance(lr, Tensor))


class _Plain(torch.optim.Optimizer):
    """An optimizer of one slow-moving tensor a part, by the formula of its torch namesake.

    torch's own cannot all be captured with a learning rate that changes; these can.
    """

    key = ""

    def __init__(self, groups: list[dict[str, Any]], lr: Any) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["weight_decay"]:
                    p.grad.add_(p, alpha=group["weight_decay"])
                state = self.state[p]
                if self.key not in state:
                    state[self.key] = torch.zeros_like(p)
                p.sub_(self.change(p.grad, state[self.key]).mul_(group["lr"]))

    def change(self, gradient: Tensor, slow: Tensor) -> Tensor:
        """What is subtracted, before the learning rate."""
        raise NotImplementedError


class _SGD(_Plain):
    key = "momentum_buffer"

    def change(self, gradient: Tensor, slow: Tensor) -> Tensor:
        slow.mul_(MOMENTUM).add_(gradient)
        return slow.clone()


class _Adagrad(_Plain):
    key = "sum"

    def change(self, gradient: Tensor, slow: Tensor) -> Tensor:
        slow.addcmul_(gradient, gradient)
        return gradient / slow.sqrt().add_(1e-10)


class _RMSprop(_Plain):
    key = "square_avg"

    def change(self, gradient: Tensor, slow: Tensor) -> Tensor:
        slow.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        return gradient / slow.sqrt().add_(1e-8)


_OPTIMIZERS: dict[Name, Callable[[list[dict[str, Any]], Any], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _SGD,
    "adagrad": _Adagrad,
    "rmsprop": _RMSprop,
}
