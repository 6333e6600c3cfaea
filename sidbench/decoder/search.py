"""Beam search under the trie: every user and every beam at once, one loop, over the levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sidbench.decoder.model import Model
from sidbench.decoder.trie import Trie

#: What part of its limit a search may spend on one softmax: a small one stays in the processor's cache.
SHARE = 8
#: More codes than these are many: their softmax is made in tiles of so many rows and codes.
MANY, TILE = 8_192, (256, 1_024)


def beam_search(
    model: Model,
    trie: Trie,
    read: Any,
    users: int,
    beam: int,
    allowed: list[Tensor] | None,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Groups (users, beam) in descending log-probability, and these; -1 and -inf past the end.

    A score is the model's own log-probability of the SID: softmax over all codes of a level, valid or not, so
    what the model gives to SIDs that no item has is lost. Nothing is sampled; of equal scores the lower group
    number comes first. With a beam as wide as the catalogue nothing is ever cut, and the ranking is exact.
    `allowed`, a mask of the nodes of every level, leaves the others out as if the trie had never had them.
    `limit` bounds the numbers that are held at once, beside the candidates.
    """
    device = trie.item_codes.device
    past: list[Tensor] = []
    nodes = torch.zeros(users, 1, dtype=torch.long, device=device)
    scores = torch.zeros(users, 1, dtype=torch.float32, device=device)
    codes: Tensor | None = None
    for level in range(trie.levels):
        hidden, past = model.step(level, codes, past, read, (users, nodes.shape[1]))
        found, source, real = trie.children(level, nodes, scores > -torch.inf)
        if allowed is not None:
            real &= allowed[level][found]
        gained = _gained(model, level, hidden, trie.codes[level][found], source, limit)
        if trie.variable and codes is not None:
            # After the end there is one way on, and it is certain.
            gained.masked_fill_((codes == 0).gather(1, source), 0.0)
        total = gained.add_(scores.gather(1, source)).masked_fill_(~real, -torch.inf)
        last = level == trie.levels - 1
        chosen = _best(total, min(beam, total.shape[1]), in_order=not last)
        scores = total.gather(1, chosen)
        nodes = found.gather(1, chosen)
        if not last:
            codes = trie.codes[level][nodes]
            before = hidden.shape[1]
            first = torch.arange(0, users * before, before, device=nodes.device)
            rows = (first.unsqueeze(1) + source.gather(1, chosen)).flatten()
            past = [kept.index_select(0, rows) for kept in past]
    return nodes.masked_fill_(scores == -torch.inf, -1), scores


def _gained(model: Model, level: int, hidden: Tensor, codes: Tensor, source: Tensor, limit: int) -> Tensor:
    """The log-probabilities of `codes` (users, width), each after the state of its beam, `source`.

    The softmax is over all codes, but no more of it is ever held than `limit` numbers.
    """
    (weights, start), hidden = model.head(level), hidden.float()
    codes = codes + start
    users, beams, width = hidden.shape
    size = len(weights)
    together = limit // SHARE // (beams * size)
    if together and size <= max(MANY, 4 * (codes.shape[1] // beams)):
        # Few codes, or many of them asked for: the scores of all, and of these the ones that are asked for.
        out = torch.empty(codes.shape, dtype=torch.float32, device=hidden.device)
        for i in range(0, users, together):
            part = slice(i, i + together)
            logp = (hidden[part] @ weights.T).log_softmax(-1).flatten(1)
            torch.gather(logp, 1, source[part] * size + codes[part], out=out[part])
        return out
    # Many codes: their sum by tiles that stay in the cache, and one product a code that is asked for.
    flat = hidden.flatten(0, 1)
    normalizer = torch.cat([_log_sum_exp(rows, weights) for rows in torch.split(flat, TILE[0])])
    rows = (source + torch.arange(0, users * beams, beams, device=codes.device).unsqueeze(1)).flatten()
    few = max(1, limit // width)
    pieces = zip(torch.split(rows, few), torch.split(codes.flatten(), few), strict=True)
    scores = torch.cat([(flat[row] * weights[code]).sum(-1) for row, code in pieces])
    return (scores - normalizer[rows]).view_as(codes)


def _log_sum_exp(rows: Tensor, weights: Tensor) -> Tensor:
    """Of `rows @ weights.T`, row by row, over the rows of the weights a tile at a time."""
    parts = [(rows @ tile.T).logsumexp(-1) for tile in torch.split(weights, TILE[1])]
    return torch.stack(parts).logsumexp(0)


def _best(scores: Tensor, count: int, *, in_order: bool) -> Tensor:
    """Places of the highest scores (none above 0), the earlier place first where scores are equal.

    `in_order` returns them by place: beams then stay in the order of their nodes, so that place order is
    lexicographic order at the next level too.
    """
    # Bits of non-negative floats order as integers do; the place below them makes every key unique.
    badness = scores.clamp(max=0).abs().view(torch.int32).long() << 32
    keys = badness + torch.arange(scores.shape[1], device=scores.device)
    chosen: Tensor = keys.topk(count, largest=False, sorted=not in_order).indices
    return chosen.sort().values if in_order else chosen
