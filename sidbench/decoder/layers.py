"""One transformer layer, pre-norm, in the forms that training and search need."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.decoder.attention import attend, attend_few, attend_stream, cross_attention, self_attention
from sidbench.decoder.noise import Noise, drop, relu_drop
from sidbench.decoder.shape import Shape

#: Keys and values of many places in one layer: (users, heads, places, head width) each.
KeyValue = tuple[Tensor, Tensor]


class Layer(nn.Module):
    """Self-attention, in a decoder cross-attention, and a feed-forward part; no biases."""

    def __init__(self, shape: Shape, *, cross: bool) -> None:
        super().__init__()
        self.heads = shape.heads
        self.inner = shape.heads * shape.head_width
        self.self_norm = Norm(shape.width)
        self.self_in = weight(3 * self.inner, shape.width)
        self.self_out = weight(shape.width, self.inner)
        if cross:
            self.cross_norm = Norm(shape.width)
            self.cross_query = weight(self.inner, shape.width)
            self.cross_memory = weight(2 * self.inner, shape.width)
            self.cross_out = weight(shape.width, self.inner)
        self.feed_norm = Norm(shape.width)
        self.feed_in = weight(shape.feed_forward, shape.width)
        self.feed_out = weight(shape.width, shape.feed_forward)

    def learn_self(self, x: Tensor, bias: Tensor | None, noise: Noise | None) -> Tensor:
        """x (rows, places, width), every place after those that `bias` shows it."""
        joint = F.linear(self.self_norm(x), self.self_in)
        return add(x, F.linear(self_attention(joint, self.heads, bias, noise), self.self_out), noise)

    def learn_cross(self, x: Tensor, memory: Tensor, bias: Tensor | None, noise: Noise | None) -> Tensor:
        """x (rows, queries, width) after the encoder's memory, a few queries a row."""
        q = self._split(F.linear(self.cross_norm(x), self.cross_query))
        seen = cross_attention(q, memory, self.cross_memory, bias, noise)
        return add(x, F.linear(seen, self.cross_out), noise)

    def feed(self, x: Tensor, noise: Noise | None) -> Tensor:
        h = relu_drop(F.linear(self.feed_norm(x), self.feed_in), noise)
        return add(x, F.linear(h, self.feed_out), noise)

    def search_self(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (beams, width) after itself and `past`, the keys and values of the beam's earlier levels."""
        joint = F.linear(self.self_norm(x), self.self_in)
        now = joint[:, None, self.inner :]
        if past is not None:
            now = torch.cat((past, now), 1)
        seen = attend_few(joint[:, : self.inner], now, self.heads)
        return x + F.linear(seen, self.self_out), now

    def search_stream(
        self, x: Tensor, past: Tensor | None, stream: KeyValue, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (users, beams, width) after the stream of its user, `past` and itself, in one softmax."""
        joint = F.linear(self.self_norm(x), self.self_in)
        now = joint[..., self.inner :].flatten(0, 1)[:, None]
        if past is not None:
            now = torch.cat((past, now), 1)
        k, v = now.view(*x.shape[:2], now.shape[1], 2, self.heads, -1).permute(3, 0, 4, 1, 2, 5)
        seen = attend_stream(self._split(joint[..., : self.inner]), *stream, k, v, bias)
        return x + F.linear(seen, self.self_out), now

    def remember_stream(self, x: Tensor) -> KeyValue:
        """The keys and values of `learn_self` at x, for those who come later."""
        k, v = F.linear(self.self_norm(x), self.self_in[self.inner :]).chunk(2, -1)
        return self._split(k).contiguous(), self._split(v).contiguous()

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


def weight(rows: int, columns: int) -> nn.Parameter:
    """A matrix that `Model.initialise` fills."""
    return nn.Parameter(torch.empty(rows, columns))


def dropped(x: Tensor, noise: Noise | None) -> Tensor:
    """x after dropout, its mean kept."""
    return x if noise is None else drop(x, noise) * noise.scale


def add(x: Tensor, y: Tensor, noise: Noise | None) -> Tensor:
    """x + dropout(y), where y is linear in what a first dropout left unscaled: both scales come here."""
    return x + y if noise is None else torch.add(x, drop(y, noise), alpha=noise.scale**2)
