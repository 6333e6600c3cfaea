"""Product quantization with a rotation learned for it: a codebook a subspace, codes that do not wait.

A codeword of a subspace is kept as the vector of the full space that it stands for. Such vectors of different
subspaces are at right angles, so the residual loop over the codebooks is the parallel search: what one
codebook takes away, no other sees. Encoding, costs and reconstruction are therefore those of `residual`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext

import numpy as np
import torch
from torch import Tensor

from sidbench.kit.device import full_precision, tensor
from sidbench.kit.kmeans import kmeans
from sidbench.kit.nearest import Floats
from sidbench.kit.workers import Run, workers
from sidbench.progress import report

SCORES = 1 << 22  # scores held at once
PIECE = 1 << 16  # rows held at once, of those that were not sampled
WARM_UP = 10  # Lloyd's iterations before the rotation is touched


def widths(dimensions: int, subspaces: int) -> list[int]:
    """Dimensions of every subspace: as even as they can be, the first ones a dimension wider."""
    return [dimensions // subspaces + (m < dimensions % subspaces) for m in range(subspaces)]


def principal(z: Tensor, subspaces: int) -> Tensor:
    """Principal directions as columns, dealt out so that the subspaces' products of variances are even.

    The next largest goes to the subspace with the least product so far, among those with room (Ge et al.).
    """
    variance, directions = torch.linalg.eigh((z.T @ z).double() / len(z))
    value = variance.flip(0).cpu().numpy()
    # Against the smallest, so that every direction adds to its subspace's product.
    share = np.log(np.maximum(value, value[0] * 1e-12 + np.finfo(np.float64).tiny))
    share -= share.min()
    room = widths(len(value), subspaces)
    taken: list[list[int]] = [[] for _ in room]
    for i in range(len(value)):
        open_ = [m for m in range(subspaces) if len(taken[m]) < room[m]]
        taken[min(open_, key=lambda m: share[taken[m]].sum())].append(i)
    order = torch.tensor([i for part in taken for i in part], device=z.device)
    found: Tensor = directions.flip(1)[:, order].float()
    return found


def fit(
    x: Floats,
    sizes: Sequence[int],
    *,
    mean: Floats,
    scale: np.float32,
    rounds: int,
    sample: int,
    seed: int,
    device: torch.device,
    rotate: bool = True,
) -> list[Floats]:
    """A codebook a subspace, as vectors of the full space; those of the first hold the mean as well.

    Rotation and codebooks are learned on at most `sample` rows (32 a code where that is more). Then all rows
    go to their codewords, and codewords to the mean of their rows. No round raises the error: rows go to
    their nearest codewords, codewords to their rows' mean, and the rotation to the best between rows and
    what stands for them (orthogonal Procrustes). Without `rotate` subspaces are the columns as they come.
    """
    rng = np.random.default_rng(seed)
    count = max(sample, 32 * max(sizes))
    some = x[np.sort(rng.choice(len(x), count, replace=False))] if len(x) > count else x
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        z = [tensor((some - mean) * scale).to(device)]
        with workers() if device.type == "cpu" else nullcontext():
            turn = principal(z[0], len(sizes)) if rotate else torch.eye(x.shape[1], device=device)
        books = []
        for m, part in enumerate(torch.split(turn, widths(x.shape[1], len(sizes)), dim=1)):
            rows = np.ascontiguousarray((z[0] @ part).cpu().numpy())
            found = kmeans(rows, sizes[m], iters=WARM_UP, seed=seed + m, device=str(device))
            books.append(tensor(found.centers).to(device))
        # A worker a subspace: in small products several threads would only wait for each other.
        run = stack.enter_context(workers()) if device.type == "cpu" else _in_turn
        for done in range(rounds if rotate else 0):
            report("fit", done, rounds)
            books, between = _means(z, turn, books, run)
            left, _, right = torch.linalg.svd(between)
            turn = left @ right
        pieces = range(0, len(x), PIECE)
        all_rows = (tensor((x[at : at + PIECE] - mean) * scale).to(device) for at in pieces)
        books, _ = _means(all_rows, turn, books, run)
        report("fit", rounds, rounds)
        parts = torch.split(turn, widths(x.shape[1], len(sizes)), dim=1)
        full = [(book @ part.T).cpu().numpy() for book, part in zip(books, parts, strict=True)]
    words: list[Floats] = [np.divide(book, scale, dtype=np.float32) for book in full]
    words[0] += mean
    return words


def _means(
    pieces: Iterable[Tensor], turn: Tensor, books: list[Tensor], run: Run
) -> tuple[list[Tensor], Tensor]:
    """Codewords at the mean of their rows, and the product of the rows with the codewords they then have."""
    parts = torch.split(turn, [book.shape[1] for book in books], dim=1)
    sums = [torch.zeros(len(book), len(turn), dtype=torch.float64, device=turn.device) for book in books]
    counts = [torch.zeros(len(book), 1, dtype=torch.int64, device=turn.device) for book in books]
    for z in pieces:

        def work(start: int, stop: int, z: Tensor = z) -> None:
            for m in range(start, stop):
                _add(z, z @ parts[m], books[m], sums[m], counts[m])

        run(work, len(books), 1)
    moved, between = [], []
    for book, part, total, count in zip(books, parts, sums, counts, strict=True):
        means = total @ part.double() / count.clamp(min=1)
        moved.append(torch.where(count > 0, means.float(), book))
        between.append(total.T @ moved[-1].double())
    return moved, torch.cat(between, dim=1).float()


def _in_turn(work: Callable[[int, int], None], n: int, step: int) -> None:
    work(0, n)


def _add(z: Tensor, y: Tensor, book: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add every row to the sum and the count of the codeword nearest to it (`y`: the row in the subspace)."""
    bias = 0.5 * book.square().sum(dim=1)
    step = max(256, SCORES // len(book))
    for rows, short in zip(torch.split(z, step), torch.split(y, step), strict=True):
        label = torch.addmm(bias, short, book.T, alpha=-1).argmin(dim=1)
        one = torch.ones_like(label)
        counts.index_add_(0, label, one[:, None])
        if rows.is_cuda:  # where scattered sums would have no order
            hot = torch.zeros(len(rows), len(book), device=rows.device).scatter_(1, label[:, None], 1.0)
            sums += hot.T @ rows
        else:
            sums += torch.zeros(sums.shape).index_add_(0, label, rows)
