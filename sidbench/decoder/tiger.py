"""`tiger`: an encoder reads the history, a decoder writes the next SID after it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.decoder.layers import KeyValue, Layer, Norm, dropped, weight
from sidbench.decoder.model import Model, later
from sidbench.decoder.noise import Noise
from sidbench.decoder.shape import Inputs, Shape


class Memory(NamedTuple):
    """Keys and values of the encoded history, a decoder layer each, and what of it is padding."""

    keys: list[KeyValue]
    bias: Tensor | None


class Tiger(Model):
    """A pre-norm encoder-decoder transformer in plain torch, for whole targets and for beams."""

    every: ClassVar[bool] = False

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__(shape)
        self.place = weight(shape.history, shape.width)
        self.begin = weight(1, shape.width)
        if shape.separators and shape.tokens == "codes":
            self.separator = weight(1, shape.width)
        self.encoder = nn.ModuleList(Layer(shape, cross=False) for _ in range(shape.encoder_layers))
        self.decoder = nn.ModuleList(Layer(shape, cross=True) for _ in range(shape.decoder_layers))
        self.encoder_norm, self.decoder_norm = Norm(shape.width), Norm(shape.width)
        self.initialise(seed, 2 * shape.encoder_layers + 3 * shape.decoder_layers)

    def encode(self, inputs: Inputs, noise: Noise | None) -> Tensor:
        """Memory (rows, places, width) of the histories."""
        tokens, users, bias, *_ = inputs
        rows, items = tokens.shape[:2]
        # Counted from the end: the same place always means "the last item", however long the history.
        x, place = F.embedding(tokens, self.table), self.place[-items:]
        if self.shape.tokens == "codes":
            x = x + (place[:, None] + self.level)
            if self.shape.separators:
                x = torch.cat(((place + self.separator).expand(rows, items, -1).unsqueeze(2), x), 2)
        else:
            x = x.sum(2, keepdim=True) + place[:, None]
        x = x.reshape(rows, items * self.shape.per_item, -1)
        if users is not None:
            x = torch.cat((F.embedding(users, self.user)[:, None], x), 1)
        x = dropped(x, noise)
        for layer in self.encoder:
            assert isinstance(layer, Layer)
            x = layer.feed(layer.learn_self(x, bias, noise), noise)
        return dropped(self.encoder_norm(x), noise)

    def states(self, inputs: Inputs, codes: Tensor, noise: Noise | None) -> Tensor:
        memory = self.encode(inputs, noise)
        rows, levels = codes.shape
        x = torch.cat((self.begin.expand(rows, 1, -1), self.before(codes)), 1) + self.level
        mask = later(levels, x)
        x = dropped(x, noise)
        for layer in self.decoder:
            assert isinstance(layer, Layer)
            x = layer.learn_cross(layer.learn_self(x, mask, noise), memory, inputs.bias, noise)
            x = layer.feed(x, noise)
        return dropped(self.decoder_norm(x), noise)

    def read(self, inputs: Inputs) -> Memory:
        memory = self.encode(inputs, None)
        keys = [layer.remember(memory) for layer in self.decoder if isinstance(layer, Layer)]
        return Memory(keys, inputs.bias)

    def step(
        self, level: int, codes: Tensor | None, past: list[Tensor], read: Memory, shape: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor]]:
        users, beams = shape
        if codes is None:
            x = self.begin.expand(users * beams, -1)
        else:
            x = self.embedded(level - 1, codes.reshape(-1))
        x = x + self.level[level]
        now: list[Tensor] = []
        for i, (layer, keys) in enumerate(zip(self.decoder, read.keys, strict=True)):
            assert isinstance(layer, Layer)
            x, own = layer.search_self(x, past[i] if past else None)
            now.append(own)
            x = layer.search_cross(x.view(users, beams, -1), keys, read.bias)
            x = layer.feed(x, None).view(users * beams, -1)
        return self.decoder_norm(x).view(users, beams, -1), now
