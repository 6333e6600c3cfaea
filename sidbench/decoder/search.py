"""Beam search under the trie: every user and every beam at once, one loop, over the levels."""

from __future__ import annotations

import torch
from torch import Tensor

from sidbench.decoder.model import Transformer
from sidbench.decoder.trie import Trie


def beam_search(
    model: Transformer, trie: Trie, memory: Tensor, bias: Tensor | None, beam: int
) -> tuple[Tensor, Tensor]:
    """Groups (users, beam) in descending log-probability, and these; -1 and -inf past the end.

    A score is the model's own log-probability of the SID: softmax over all codes of a level, valid or not, so
    what the model gives to SIDs that no item has is lost. Nothing is sampled; of equal scores the lower group
    number comes first. With a beam as wide as the catalogue nothing is ever cut, and the ranking is exact.
    """
    users = len(memory)
    keys = model.remember(memory)
    past: list[Tensor] | None = None
    nodes = torch.zeros(users, 1, dtype=torch.long, device=memory.device)
    scores = torch.zeros(users, 1, dtype=torch.float32, device=memory.device)
    codes: Tensor | None = None
    for level in range(trie.levels):
        hidden, past = model.step(level, codes, past, keys, bias, (users, nodes.shape[1]))
        logp = model.logits(level, hidden).log_softmax(-1)
        if trie.variable and codes is not None:
            # After the end there is one way on, and it is certain.
            logp = logp.masked_fill_((codes == 0).unsqueeze(-1), 0.0)
        found, gained = trie.children(level, nodes, logp)
        fan = found.shape[-1]
        total = (scores.unsqueeze(-1) + gained).flatten(1)
        last = level == trie.levels - 1
        chosen = _best(total, min(beam, trie.nodes(level), total.shape[1]), in_order=not last)
        scores = total.gather(1, chosen)
        nodes = found.flatten(1).gather(1, chosen).long().masked_fill_(scores == -torch.inf, 0)
        if not last:
            codes = trie.codes[level][nodes]
            before = past[0].shape[0] // users
            first = torch.arange(0, users * before, before, device=nodes.device)
            rows = (first.unsqueeze(1) + chosen // fan).flatten()
            past = [kept.index_select(0, rows) for kept in past]
    return nodes.masked_fill_(scores == -torch.inf, -1), scores


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
