"""`causal`: no encoder; one stream of SIDs, in which every item is predicted from those before it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.decoder.layers import KeyValue, Layer, Norm, dropped, weight
from sidbench.decoder.model import Model, later
from sidbench.decoder.noise import Noise
from sidbench.decoder.shape import Inputs, Shape


class Stream(NamedTuple):
    """What has been read: keys and values a layer, what is padding, where the next item stands, its state."""

    keys: list[KeyValue]
    bias: Tensor
    place: Tensor
    last: Tensor


class Causal(Model):
    """Trained on all items of a row at once.

    Over `codes` it is one transformer over all codes of the row. Over `items` it is two, after RQ-Transformer
    (Lee et al. 2022): one over the items, each the sum of its codes' vectors, and one, for every item, over
    the levels of the next one's SID, all of which see what the first makes of the row.
    """

    every: ClassVar[bool] = True

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__(shape)
        self.flat = shape.tokens == "codes"
        # An item that is being written has a place of its own.
        self.place = weight(shape.history + 1, shape.width)
        if shape.separators and self.flat:
            self.separator = weight(1, shape.width)
        deep = 0 if self.flat else shape.decoder_layers
        wide = shape.encoder_layers + shape.decoder_layers - deep
        self.trunk = nn.ModuleList(Layer(shape, cross=False) for _ in range(wide))
        self.trunk_norm = Norm(shape.width)
        self.depth = nn.ModuleList(Layer(shape, cross=False) for _ in range(deep))
        if deep:
            self.depth_norm = Norm(shape.width)
        self.initialise(seed, 2 * (wide + deep))

    def states(self, inputs: Inputs, codes: Tensor, noise: Noise | None) -> Tensor:
        tokens, at = inputs.tokens, inputs.at
        if at is None:
            assert inputs.lengths is not None
            rows, items, levels = tokens.shape
            at = torch.arange(0, rows * (items + 1), items + 1, device=tokens.device) + inputs.lengths
            tokens = torch.cat((tokens, tokens[:, :1]), 1)
            tokens = tokens.view(-1, levels).index_copy(0, at, codes + self.offsets)
            tokens = tokens.view(rows, items + 1, levels)
        return (
            self._over_codes(tokens, inputs.users, at, noise)
            if self.flat
            else self._over_items(tokens, inputs.users, at, codes, noise)
        )

    def _over_codes(self, tokens: Tensor, users: Tensor | None, at: Tensor, noise: Noise | None) -> Tensor:
        _, items, levels = tokens.shape
        # The last code of a row comes before nothing.
        x = self._trunk(self._enter(tokens, users)[:, :-1], noise)
        per_item, before = self.shape.per_item, x.shape[1] + 1 - items * self.shape.per_item
        # The state of a level stands where the code before it is read.
        first = at // items * x.shape[1] + at % items * per_item + before - 1 + self.shape.separators
        where = first.unsqueeze(1) + torch.arange(levels, device=at.device)
        return x.flatten(0, 1).index_select(0, where.flatten()).view(len(at), levels, -1)

    def _over_items(
        self, tokens: Tensor, users: Tensor | None, at: Tensor, codes: Tensor, noise: Noise | None
    ) -> Tensor:
        items = tokens.shape[1]
        x = self._trunk(self._enter(tokens[:, :-1], users), noise)
        before = x.shape[1] - (items - 1)
        row = at // items
        h = x.flatten(0, 1).index_select(0, row * x.shape[1] + at - row * items + before - 1)
        x = F.pad(self.before(codes), (0, 0, 1, 0)) + h.unsqueeze(1) + self.level
        mask = later(x.shape[1], x)
        for layer in self.depth:
            assert isinstance(layer, Layer)
            x = layer.feed(layer.learn_self(x, mask, noise), noise)
        return dropped(self.depth_norm(x), noise)

    def _enter(self, tokens: Tensor, users: Tensor | None) -> Tensor:
        """The vectors (rows, places, width) of tokens (rows, items, levels)."""
        rows, items = tokens.shape[:2]
        x, place = F.embedding(tokens, self.table), self.place[:items]
        if self.flat:
            x = x + (place[:, None] + self.level)
            if self.shape.separators:
                x = torch.cat(((place + self.separator).expand(rows, items, -1).unsqueeze(2), x), 2)
        else:
            x = x.sum(2, keepdim=True) + place[:, None]
        x = x.flatten(1, 2)
        return x if users is None else torch.cat((F.embedding(users, self.user)[:, None], x), 1)

    def _trunk(self, x: Tensor, noise: Noise | None) -> Tensor:
        mask = later(x.shape[1], x)
        x = dropped(x, noise)
        for layer in self.trunk:
            assert isinstance(layer, Layer)
            x = layer.feed(layer.learn_self(x, mask, noise), noise)
        return dropped(self.trunk_norm(x), noise)

    def read(self, inputs: Inputs) -> Stream:
        assert inputs.lengths is not None
        x = self._enter(inputs.tokens, inputs.users)
        mask = later(x.shape[1], x)
        keys: list[KeyValue] = []
        for layer in self.trunk:
            assert isinstance(layer, Layer)
            if self.flat:
                keys.append(layer.remember_stream(x))
            x = layer.feed(layer.learn_self(x, mask, None), None)
        users, places = x.shape[:2]
        before = places - inputs.tokens.shape[1] * self.shape.per_item
        there = before + inputs.lengths * self.shape.per_item
        last = self.trunk_norm(x)[torch.arange(users, device=x.device), there - 1]
        beyond = torch.arange(places, device=x.device) >= there.unsqueeze(1)
        bias = torch.zeros(users, 1, 1, places, dtype=x.dtype, device=x.device)
        bias.masked_fill_(beyond[:, None, None], -torch.inf)
        return Stream(keys, bias, self.place[inputs.lengths].unsqueeze(1), last.unsqueeze(1))

    def step(
        self, level: int, codes: Tensor | None, past: list[Tensor], read: Stream, shape: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor]]:
        users, beams = shape
        if not self.flat:
            x = read.last + self.level[level]
            x = x if codes is None else x + self.embedded(level - 1, codes)
            return self._deeper(x.reshape(users * beams, -1), past, shape)
        if codes is not None:
            x = self.embedded(level - 1, codes) + (read.place + self.level[level - 1])
        elif self.shape.separators:
            x = read.place + self.separator
        else:
            return read.last, []
        now: list[Tensor] = []
        for i, (layer, keys) in enumerate(zip(self.trunk, read.keys, strict=True)):
            assert isinstance(layer, Layer)
            x, own = layer.search_stream(x, past[i] if past else None, keys, read.bias)
            now.append(own)
            x = layer.feed(x, None)
        return self.trunk_norm(x), now

    def _deeper(self, x: Tensor, past: list[Tensor], shape: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        now: list[Tensor] = []
        for i, layer in enumerate(self.depth):
            assert isinstance(layer, Layer)
            x, own = layer.search_self(x, past[i] if past else None)
            now.append(own)
            x = layer.feed(x, None)
        return self.depth_norm(x).view(*shape, -1), now
