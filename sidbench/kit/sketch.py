"""A sketch of wide rows: short rows about as far from each other, to cluster by before all columns are seen.

The leading principal components hold what all clusters share; alone, they would hide which rows are nearly
equal, as every row is near to some others there. Random directions for the rest keep that: their squared
distances are right on average.
"""

from __future__ import annotations

import numpy as np
import torch

from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats
from sidbench.kit.streamed import Residuals
from sidbench.kit.workers import Run

COMPONENTS, RANDOM = 64, 96
STEP = 1 << 16  # rows of one product, where there is no worker a core
SAMPLE = 1024  # rows that the components are taken from


def sketch(x: Floats | Residuals, run: Run | None) -> Floats:
    """160 columns for any number of columns, by all workers if there are any.

    It depends on the rows alone, not on a seed.
    """
    rng = np.random.default_rng(0)
    components = _components(x, COMPONENTS, rng)
    rest = rng.standard_normal((x.shape[1], RANDOM), dtype=np.float32) / np.float32(np.sqrt(RANDOM))
    rest -= components @ (components.T @ rest)
    turn = tensor(np.concatenate([components, rest], axis=1))
    out = torch.empty(len(x), turn.shape[1])

    def work(start: int, stop: int) -> None:
        torch.mm(tensor(x[start:stop]), turn, out=out[start:stop])

    if run:
        run(work, len(x), 1024)
    else:
        for part in range(0, len(x), STEP):
            work(part, min(part + STEP, len(x)))
    return out.numpy()


def _components(x: Floats | Residuals, count: int, rng: np.random.Generator) -> Floats:
    """An orthonormal basis (columns, count) close to the leading components, by subspace iteration.

    Any basis will do (what it misses is among the rest), so three rounds are enough.
    """
    rows = x[:: -(-len(x) // SAMPLE)]
    centred = tensor(np.ascontiguousarray(rows - rows.mean(axis=0)))
    spread = centred.T @ centred
    basis = tensor(rng.standard_normal((x.shape[1], count), dtype=np.float32))
    for _ in range(3):
        basis, _ = torch.linalg.qr(spread @ basis)
    return basis.numpy()
