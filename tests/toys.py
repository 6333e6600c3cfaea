"""Toys: a model that learns in milliseconds and has every kind of state, and a tokenizer around it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit import device
from sidbench.kit.model import Model
from sidbench.kit.randomness import randomness
from sidbench.kit.training import Trained
from sidbench.sids import Codes

#: Called with the number of every step; what it gives is a factor of its loss.
At = Callable[[int], Tensor | None]

X = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)


class Toy(Model):
    """An autoencoder with everything that has a state: dropout, running means, changes between epochs."""

    def __init__(self, columns: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(columns, 8), nn.BatchNorm1d(8), nn.Dropout(dropout))
        self.decoder = nn.Linear(8, columns)
        self.middle: Tensor
        self.register_buffer("middle", torch.zeros(columns))
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.calls = 0
        self.at: At = lambda call: None

    def begin(self, rows: Embeddings, seed: int) -> None:
        self.middle.copy_(torch.from_numpy(rows[:50].mean(axis=0)))
        self.fixed.add_(seed)

    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        error = (self.decoder(self.encoder(x - self.middle)) - x).square().mean()
        extra = self.at(self.calls)
        loss = error if extra is None else error * extra
        return {"loss": loss, "progress": progress}

    def end_epoch(self, epoch: int, rng: torch.Generator, rows: Callable[[int], Tensor]) -> None:
        self.middle.lerp_(rows(7).mean(dim=0), 0.1)
        self.decoder.bias.add_(
            0.01 * torch.randn(len(self.decoder.bias), generator=rng).to(self.middle.device)
        )

    def codes(self, x: Tensor) -> Tensor:
        latent: Tensor = self.encoder(x - self.middle)
        return (latent[:, :3] > 0).long()


class Toys(Trained):
    """A tokenizer around the toy."""

    name = "toys"

    def fit(self, x: Embeddings) -> Self:
        with randomness(self.seed, device.resolve(self.device)):
            model = self.make(x.shape[1])
        self.model = self.train(model, x)
        self.weights_ = {k: v.tolist() for k, v in self.model.state_dict().items()}
        return self

    def make(self, columns: int) -> Toy:
        model = Toy(columns)
        model.at = self.at
        return model

    def encode(self, x: Embeddings) -> Codes:
        with torch.no_grad():
            return np.asarray(self.model.codes(device.tensor(x)).numpy(), dtype=np.int32)

    at: ClassVar[Any] = staticmethod(lambda call: None)


def toys(at: At | None = None, **params: Any) -> Toys:
    defaults = {"codebook_size": 2, "epochs": 6, "batch_size": 32, "check_every": 1, "checkpoint_every": 0}
    made = Toys(**{**defaults, **params})
    if at is not None:
        made.__dict__["at"] = at
    return made


def outcome(fitted: Toys) -> dict[str, Any]:
    curves = {name: np.asarray(values).tolist() for name, values in fitted.curves().items()}
    return {"weights": fitted.weights_, "curves": curves, "chosen": fitted.chosen_}


def stop_at(call: int) -> At:
    def at(now: int) -> None:
        if now == call:
            raise InterruptedError

    return at


def kill_at(call: int) -> At:
    def at(now: int) -> None:
        if now == call:
            os.kill(os.getpid(), signal.SIGKILL)

    return at
