"""Leading principal components: a cheap look at wide rows, to cluster by before the look at every column."""

from __future__ import annotations

import numpy as np
import torch

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats
from sidbench.kit.workers import Run

SAMPLE = 2048  # rows that the components are taken from


def components(x: Floats, count: int) -> Floats:
    """An orthonormal basis (columns, count) close to the leading components, by subspace iteration.

    Any orthonormal basis is right to cluster by (it only shortens distances), so three rounds are enough.
    """
    # Strided, not drawn: the components depend on the rows alone, and so does their start.
    rows = x[:: -(-len(x) // SAMPLE)]
    centred = tensor(np.ascontiguousarray(rows - rows.mean(axis=0)))
    spread = centred.T @ centred
    basis = tensor(np.random.default_rng(0).standard_normal((x.shape[1], count), dtype=np.float32))
    for _ in range(3):
        basis, _ = torch.linalg.qr(spread @ basis)
    return basis.numpy()


def project(x: Floats, basis: Floats, run: Run | None) -> Floats:
    """The rows in that basis, by all workers if there are any."""
    wide, turn = tensor(x), tensor(basis)
    out = torch.empty(len(x), basis.shape[1])

    def work(start: int, stop: int) -> None:
        torch.mm(wide[start:stop], turn, out=out[start:stop])

    if run:
        run(work, len(x), 4096)
    else:
        work(0, len(x))
    return out.numpy()
