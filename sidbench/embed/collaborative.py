"""Vectors of items from what stands near them in training sequences: co-occurrence, PPMI, truncated SVD.

Levy and Goldberg (NIPS 2014) show that word2vec's skip-gram factorises such a matrix; item2vec (Barkan and
Koenigstein 2016) is that model on items. The factorisation has no learning rate and one result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sidbench.dataset import Sequences
from sidbench.embed.tfidf import unit
from sidbench.errors import DataError

Floats = NDArray[np.float32]

#: How many numbers an item becomes, where there are as many items.
DIM = 128
#: How far apart two items of a user may stand; nearer ones count more (1 / distance).
WINDOW = 3
#: How much frequent neighbours are held back (word2vec's 3/4).
SMOOTHING = 0.75
# Randomised SVD: more vectors than asked for, and passes over the matrix.
SPARE, PASSES = 16, 5


def of_sequences(
    sequences: Sequences, items: int, *, dim: int | None = None, seed: int = 0
) -> tuple[Floats, dict[str, Any]]:
    """Vectors of items from whole sequences, of which only leave-one-out's training part is read."""
    train = training_part(sequences)
    x = from_training(train, items, dim or DIM, seed)
    unseen = int((~x.any(axis=1)).sum())
    facts: dict[str, Any] = {
        "source": "collaborative",
        "learned_under": "leave-one-out",
        "method": "svd of positive pointwise mutual information",
        "dim": x.shape[1],
        "asked_dim": dim or DIM,
        "window": WINDOW,
        "smoothing": SMOOTHING,
        "seed": seed,
        "read": "leave-one-out: every user with 3 or more interactions without the last 2",
        "interactions": len(train.items),
        "zero_vectors": unseen,
        "notes": [
            f"collaborative vectors from {len(train.items):,} training interactions of leave-one-out (equal "
            "times in the order of the file): for that protocol alone"
        ],
    }
    if unseen:
        facts["notes"].append(
            f"{unseen:,} of {items:,} items stand beside no other in training: "
            "their collaborative vectors are zeros"
        )
    return x, facts


def training_part(sequences: Sequences) -> Sequences:
    """What trains under leave-one-out: no user's last two items, but for users too short to be evaluated."""
    lengths = sequences.lengths
    upto = np.where(lengths >= 3, lengths - 2, lengths)
    position = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], lengths)
    return sequences.where(position < np.repeat(upto, lengths))


def from_training(train: Sequences, items: int, dim: int = DIM, seed: int = 0) -> Floats:
    """(items, dimensions) vectors of length one; zeros for items that stand beside no other."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    x = _ppmi(_pairs(train, items))
    if not x.nnz:
        raise DataError(
            "no user has two different training interactions: nothing can be learned from these sequences"
        )
    k = min(dim, items)
    with threadpool_limits(1):  # sums are then taken in one order, whatever the number of cores
        u, s, _ = randomized_svd(x, k, n_oversamples=SPARE, n_iter=PASSES, random_state=seed, flip_sign=False)
    u *= np.sign(u[np.abs(u).argmax(axis=0), np.arange(k)])
    # The square root shares the singular values between an item and its neighbours (Levy et al. 2015).
    u = u * np.sqrt(s)
    u[np.diff(x.indptr) == 0] = 0  # rounding leaves next to nothing where nothing is known
    return unit(u.astype(np.float32))


def _pairs(train: Sequences, items: int) -> Any:
    """(items, items), symmetric: how often two items stand near each other, near ones counted more."""
    user = np.repeat(np.arange(len(train)), train.lengths)
    total = sp.csr_matrix((items, items), dtype=np.float64)
    for apart in range(1, WINDOW + 1):
        at = np.flatnonzero(user[apart:] == user[:-apart])
        first, second = train.items[at], train.items[at + apart]
        differ = first != second
        weight = np.full(int(differ.sum()), 1 / apart)
        total = total + sp.coo_matrix((weight, (first[differ], second[differ])), shape=total.shape).tocsr()
    return (total + total.T).tocsr()


def _ppmi(counts: Any) -> Any:
    """What two items' nearness says beyond how frequent each is; never below zero."""
    alone = np.asarray(counts.sum(axis=1)).reshape(-1)
    smooth = alone**SMOOTHING
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    x = counts.copy()
    x.data = np.log(counts.data * smooth.sum() / (alone[rows] * smooth[counts.indices]))
    x.data = np.maximum(x.data, 0).astype(np.float32)
    x = x.astype(np.float32)
    x.eliminate_zeros()
    return x
