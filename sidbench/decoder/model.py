"""The transformer: a pre-norm encoder-decoder in plain torch, for whole targets and for beams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.decoder.attention import attend, attend_few, cross_attention, self_attention
from sidbench.decoder.noise import Noise, drop, relu_drop

#: Keys and values of the memory in one decoder layer: (users, heads, places, head width) each.
KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """Everything that decides which weights there are."""

    sizes: tuple[int, ...]
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    history: int
    user_tokens: int
    tokens: Literal["codes", "items"]

    @property
    def per_item(self) -> int:
        """How many places of the encoder one item takes."""
        return len(self.sizes) if self.tokens == "codes" else 1


class Layer(nn.Module):
    """Self-attention, in a decoder cross-attention, and a feed-forward part; no biases."""

    def __init__(self, shape: Shape, *, cross: bool) -> None:
        super().__init__()
        self.heads = shape.heads
        self.inner = shape.heads * shape.head_width
        self.self_norm = Norm(shape.width)
        self.self_in = _weight(3 * self.inner, shape.width)
        self.self_out = _weight(shape.width, self.inner)
        if cross:
            self.cross_norm = Norm(shape.width)
            self.cross_query = _weight(self.inner, shape.width)
            self.cross_memory = _weight(2 * self.inner, shape.width)
            self.cross_out = _weight(shape.width, self.inner)
        self.feed_norm = Norm(shape.width)
        self.feed_in = _weight(shape.feed_forward, shape.width)
        self.feed_out = _weight(shape.width, shape.feed_forward)

    def learn_self(self, x: Tensor, bias: Tensor | None, noise: Noise | None) -> Tensor:
        """x (rows, places, width), every place after those that `bias` shows it."""
        joint = F.linear(self.self_norm(x), self.self_in)
        return _add(x, F.linear(self_attention(joint, self.heads, bias, noise), self.self_out), noise)

    def learn_cross(self, x: Tensor, memory: Tensor, bias: Tensor | None, noise: Noise | None) -> Tensor:
        """x (rows, queries, width) after the encoder's memory, a few queries a row."""
        q = self._split(F.linear(self.cross_norm(x), self.cross_query))
        seen = cross_attention(q, memory, self.cross_memory, bias, noise)
        return _add(x, F.linear(seen, self.cross_out), noise)

    def feed(self, x: Tensor, noise: Noise | None) -> Tensor:
        h = relu_drop(F.linear(self.feed_norm(x), self.feed_in), noise)
        return _add(x, F.linear(h, self.feed_out), noise)

    def search_self(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (beams, width) after itself and `past`, the keys and values of the beam's earlier levels."""
        joint = F.linear(self.self_norm(x), self.self_in)
        now = joint[:, None, self.inner :]
        if past is not None:
            now = torch.cat((past, now), 1)
        seen = attend_few(joint[:, : self.inner], now, self.heads)
        return x + F.linear(seen, self.self_out), now

    def remember(self, memory: Tensor) -> KeyValue:
        """The memory's keys and values for this layer: once a user, whatever the number of beams."""
        k, v = F.linear(memory, self.cross_memory).chunk(2, -1)
        return self._split(k).contiguous(), self._split(v).contiguous()

    def search_cross(self, x: Tensor, memory: KeyValue, bias: Tensor | None) -> Tensor:
        """x (users, beams, width): all beams of a user are queries on the one memory of that user."""
        q = self._split(F.linear(self.cross_norm(x), self.cross_query))
        return x + F.linear(attend(q, *memory, bias), self.cross_out)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class Norm(nn.Module):
    """Layer normalisation with a gain and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gain.shape, self.gain)


class Transformer(nn.Module):
    """Reads a history of items, says how likely each code is at each level of the next item's SID."""

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        codes, levels, width = sum(shape.sizes), len(shape.sizes), shape.width
        # One row a code of each level, and a last one for "no item here".
        self.table = _weight(codes + 1, width)
        self.level = _weight(levels, width)
        self.place = _weight(shape.history, width)
        self.begin = _weight(1, width)
        if shape.user_tokens:
            self.user = _weight(shape.user_tokens, width)
        self.encoder = nn.ModuleList(Layer(shape, cross=False) for _ in range(shape.encoder_layers))
        self.decoder = nn.ModuleList(Layer(shape, cross=True) for _ in range(shape.decoder_layers))
        self.encoder_norm, self.decoder_norm = Norm(width), Norm(width)
        self.output = _weight(codes, width)
        self.starts = [sum(shape.sizes[:i]) for i in range(levels)]
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Own generator, on the processor: the same start on every device, the global state untouched."""
        generator = torch.Generator().manual_seed(seed)
        depth = 2 * len(self.encoder) + 3 * len(self.decoder)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith(".gain"):
                    continue
                std = p.shape[1] ** -0.5
                if name.endswith("_out"):
                    std /= math.sqrt(depth)
                p.normal_(0, std, generator=generator)
            self.table[-1] = 0

    def encode(
        self, tokens: Tensor, users: Tensor | None, noise: Noise | None, bias: Tensor | None
    ) -> Tensor:
        """Memory (rows, places, width) of tokens (rows, items, levels), the last item rightmost."""
        rows, items = tokens.shape[:2]
        # Counted from the end: the same place always means "the last item", however long the history.
        x, place = F.embedding(tokens, self.table), self.place[-items:]
        if self.shape.tokens == "codes":
            x = x + (place[:, None] + self.level)
        else:
            x = x.sum(2, keepdim=True) + place[:, None]
        x = x.reshape(rows, items * self.shape.per_item, -1)
        if users is not None:
            x = torch.cat((F.embedding(users, self.user)[:, None], x), 1)
        x = _drop(x, noise)
        for layer in self.encoder:
            assert isinstance(layer, Layer)
            x = layer.feed(layer.learn_self(x, bias, noise), noise)
        return _drop(self.encoder_norm(x), noise)

    def remember(self, memory: Tensor) -> list[KeyValue]:
        """Keys and values of the memory, a decoder layer each."""
        return [layer.remember(memory) for layer in self.decoder if isinstance(layer, Layer)]

    def targets(self, codes: Tensor, memory: Tensor, bias: Tensor | None, noise: Noise | None) -> Tensor:
        """What stands before the output (rows, levels, width), all levels of known targets in one pass."""
        rows, levels = codes.shape
        before = F.embedding(codes[:, :-1] + codes.new_tensor(self.starts[: levels - 1]), self.table)
        x = torch.cat((self.begin.expand(rows, 1, -1), before), 1) + self.level[:levels]
        later = torch.full((levels, levels), -math.inf, dtype=x.dtype, device=x.device).triu_(1)
        x = _drop(x, noise)
        for layer in self.decoder:
            assert isinstance(layer, Layer)
            x = layer.learn_cross(layer.learn_self(x, later, noise), memory, bias, noise)
            x = layer.feed(x, noise)
        return _drop(self.decoder_norm(x), noise)

    def step(
        self,
        level: int,
        codes: Tensor | None,
        past: list[Tensor] | None,
        memory: list[KeyValue],
        bias: Tensor | None,
        shape: tuple[int, int],
    ) -> tuple[Tensor, list[Tensor]]:
        """One level for all beams: codes (users, beams) of the level before, None at the start."""
        users, beams = shape
        if codes is None:
            x = self.begin.expand(users * beams, -1)
        else:
            x = F.embedding(codes.reshape(-1) + self.starts[level - 1], self.table)
        x = x + self.level[level]
        now: list[Tensor] = []
        for i, (layer, keys) in enumerate(zip(self.decoder, memory, strict=True)):
            assert isinstance(layer, Layer)
            x, own = layer.search_self(x, None if past is None else past[i])
            now.append(own)
            x = layer.search_cross(x.view(users, beams, -1), keys, bias)
            x = layer.feed(x, None).view(users * beams, -1)
        return self.decoder_norm(x).view(users, beams, -1), now

    def head(self, level: int) -> Tensor:
        """A row a code of one level, in single precision: rounded scores would tie where they differ."""
        start = self.starts[level]
        return self.output[start : start + self.shape.sizes[level]].float()

    def logits(self, level: int, x: Tensor) -> Tensor:
        """Scores of all codes of one level."""
        return F.linear(x.float(), self.head(level))


def _weight(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, columns))


def _drop(x: Tensor, noise: Noise | None) -> Tensor:
    return x if noise is None else drop(x, noise) * noise.scale


def _add(x: Tensor, y: Tensor, noise: Noise | None) -> Tensor:
    """x + dropout(y), where y is linear in what a first dropout left unscaled: both scales come here."""
    return x + y if noise is None else torch.add(x, drop(y, noise), alpha=noise.scale**2)
