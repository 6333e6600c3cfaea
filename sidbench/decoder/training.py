"""What one training step is made of: the weights in two precisions, the loss; what it computes in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.decoder.model import Model
from sidbench.decoder.noise import Noise
from sidbench.decoder.shape import Inputs


class Weights:
    """All weights as one vector: one optimizer call, one norm, one copy a step, however many layers.

    `flat` holds the exact weights in single precision. `worker` computes: the model given, or a copy of it in
    bfloat16 that is refreshed after each step, so nothing is cast within a step.
    """

    def __init__(self, model: Model, dtype: torch.dtype, weight_decay: float, clip: float) -> None:
        self.clip = clip
        # Gains are not decayed: they come last, so that each group is one slice.
        parameters = sorted(model.parameters(), key=lambda p: p.ndim == 1)
        self.flat = _flatten(parameters)
        self.worker = model
        self._worker_flat = self.flat
        if dtype != torch.float32:
            self.worker = copy.deepcopy(model).to(dtype)
            parameters = sorted(self.worker.parameters(), key=lambda p: p.ndim == 1)
            self._worker_flat = _flatten(parameters)
        #: What the worker gathers, in its own precision: in bfloat16 each piece of a batch is added with a
        #: rounding of 2^-9, so how a batch is cut into pieces shows by about that much.
        self.gradient = torch.zeros_like(self._worker_flat)
        _views(self.gradient, parameters, gradient=True)
        matrices = sum(p.numel() for p in parameters if p.ndim > 1)
        parts = [nn.Parameter(part) for part in torch.split(self.flat, [matrices, len(self.flat) - matrices])]
        groups = [
            {"params": parts[:1], "weight_decay": weight_decay},
            {"params": parts[1:], "weight_decay": 0.0},
        ]
        self._parts = parts
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    def gathered(self) -> Tensor:
        """What the worker has gathered, in single precision."""
        return self.gradient.float()

    def step(self, rate: float, gradient: Tensor) -> None:
        """Apply a gradient, which is used up, and begin to gather anew."""
        norm = torch.linalg.vector_norm(gradient)
        gradient *= (self.clip / norm).clamp_(max=1)
        for part, piece in zip(
            self._parts, torch.split(gradient, [len(p) for p in self._parts]), strict=True
        ):
            part.grad = piece
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.gradient.zero_()
        self.restore(self.flat)

    def state(self) -> dict[str, Tensor]:
        """The exact weights and the optimizer's moments, for a checkpoint."""
        moments = {
            f"{i}.{key}": t
            for i, part in enumerate(self._parts)
            for key, t in self._optimizer.state[part].items()
        }
        return {"flat": self.flat, **moments}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.flat.copy_(state["flat"])
        for i, part in enumerate(self._parts):
            own = {key: t for key, t in state.items() if key.startswith(f"{i}.")}
            self._optimizer.state[part] = {key.split(".", 1)[1]: t.to(part.device) for key, t in own.items()}
        self.restore(self.flat)

    def restore(self, flat: Tensor) -> None:
        """Make the worker compute with these weights."""
        if self._worker_flat is not flat:
            self._worker_flat.copy_(flat)


def precision_of(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """What training computes in. A processor without bfloat16 instructions imitates them, slowly."""
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if asked == "bf16" or (asked == "auto" and native) else torch.float32


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many threads inside the block; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def negative_log_likelihood(
    model: Model,
    inputs: Inputs,
    codes: Tensor,
    *,
    variable: bool,
    noise: Noise | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Of the SIDs `codes` (targets, levels) after these inputs, code by code. Zero after the end of a SID."""
    states = model.states(inputs, codes, noise).float()
    losses = []
    for level in range(codes.shape[1]):
        weights, start = model.head(level)
        logits = F.linear(states[:, level], weights)
        goal = codes[:, level] + start
        losses.append(F.cross_entropy(logits, goal, reduction="none", label_smoothing=smoothing))
    out = torch.stack(losses, 1)
    if variable:
        ended = F.pad(codes[:, :-1] == 0, (1, 0))
        out = out.masked_fill(ended, 0)
    return out


def _flatten(parameters: list[nn.Parameter]) -> Tensor:
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    _views(flat, parameters, gradient=False)
    return flat


def _views(flat: Tensor, parameters: list[nn.Parameter], *, gradient: bool) -> None:
    """Make every parameter (or its gradient) a window into one vector."""
    for p, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        if gradient:
            p.grad = part.view_as(p)
        else:
            p.data = part.view_as(p)
