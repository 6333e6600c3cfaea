"""Trained: the base of methods that learn by gradient, with the parameters that they share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidbench.kit import optimizers
from sidbench.kit.loop import Looped
from sidbench.kit.model import Model as Model  # what a method of this kind is made of
from sidbench.kit.optimizers import Learning
from sidbench.kit.schedule import Schedule


class Trained(Looped):
    """Base of tokenizers that learn by gradient: how it is followed."""

    group = "The optimizer's"

    #: What turns gradients into steps; sgd has a momentum of 0.9, the others torch's defaults.
    optimizer: optimizers.Name = "adamw"
    #: The highest learning rate.
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    #: Weight decay of matrices and codebooks; biases and gains are not decayed.
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    #: How the learning rate falls after the warm-up: not at all, in a line, by half a cosine.
    schedule: Schedule = "cosine"
    #: The share of all steps in which the learning rate rises to its height.
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.02
    #: The largest norm of a step's gradient; 0 leaves it as it is.
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    #: fp32, or products in bf16; auto: bf16 on CUDA, and for wide networks on a processor that has it.
    precision: Literal["auto", "fp32", "bf16"] = "fp32"

    def learning(self) -> Learning:
        return Learning(
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
            precision=self.precision,
        )
