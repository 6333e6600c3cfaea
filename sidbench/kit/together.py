"""`torchrun -m sidbench …`: the first process does it all, the others train with it what it trains."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch import distributed as dist

from sidbench.errors import RanksError, UsageError
from sidbench.kit.device import resolve
from sidbench.kit.ranks import Dismissed, Ranks, belonging

#: How long a process waits for another that lives: the first may be at something else. One that has ended
#: is noticed at once, by its connection.
PATIENCE = timedelta(days=30)
#: Seconds after which torch's threads hold nothing of Python's any more.
SETTLED = 0.2


@contextmanager
def joined(device: str) -> Iterator[bool]:
    """Join the processes that torchrun has started; whether this one is the first, or alone.

    There is nothing for the others to do in the block; they end when the first has left it.

    torch's own threads go on after a group has gone and let go of what they sent a moment later; where Python
    is already ending then, the process aborts. So all wait a little, and the others skip Python's end.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield True
        return
    count, rank, place = (int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    cuda = resolve(device).type == "cuda"
    if cuda:
        if place >= torch.cuda.device_count():
            raise UsageError(
                f"process {place} of this machine has no GPU: it has {torch.cuda.device_count()}; "
                "start as many processes as there are (--nproc-per-node)"
            )
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    ranks = Ranks(rank, count, place)
    try:
        if rank:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first says what follows
            with belonging(ranks):
                _serve(ranks)
            yield False
        else:
            with belonging(ranks), _ending(ranks):
                yield True
    finally:
        dist.destroy_process_group()
        time.sleep(SETTLED)
    if rank:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def _ending(ranks: Ranks) -> Iterator[None]:
    """However the block ends, the others may go."""
    try:
        yield
    except RanksError:
        raise
    except BaseException:
        ranks.send(None)
        raise
    ranks.send(None)


def _serve(ranks: Ranks) -> None:
    """Follow what the first leads, one training after the other."""
    while (work := ranks.receive()) is not None:
        with suppress(Dismissed):
            work.follow()
