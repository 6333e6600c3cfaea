"""Random numbers of one's own: torch's global generators borrowed, and a seed for every use."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def randomness(seed: int, where: torch.device) -> Iterator[None]:
    """Inside, torch's global generators start from this seed; the caller's states are put back.

    What a model draws while it is built (its first weights) belongs in here too.
    """
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        reseed(seed, where)
        yield


def reseed(seed: int, where: torch.device) -> None:
    """Start torch's generators of the processor and of this device anew; `torch.manual_seed` reaches all."""
    torch.default_generator.manual_seed(seed)
    if where.type == "cuda":
        with torch.cuda.device(where):
            torch.cuda.manual_seed(seed)


def seed_of(seed: int, what: str, epoch: int = 0) -> int:
    """A seed of its own for every use and epoch, so that nothing random has a state to keep."""
    words = np.random.SeedSequence([seed, zlib.crc32(what.encode()), epoch]).generate_state(2, np.uint32)
    return int(words[0]) << 31 ^ int(words[1])
