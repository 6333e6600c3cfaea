"""Triton: greedy residual codes of rows in one pass; what is left of a row never leaves the chip.

Imported only where Triton is; `sidbench.kit.fused` says when, and holds what the kernel is given.
"""

from __future__ import annotations

import triton
import triton.language as tl


# Triton reads the types of arguments from what it is given; here it knows no other annotation than its own.
def _codes(  # type: ignore[no-untyped-def]
    x,
    n,
    d,
    products,
    bias,
    centers,
    shift,
    starts,
    bounds,
    codes,
    doubt,
    LEVELS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Codes of ROWS rows, and whether rounding leaves one of them in doubt.

    Levels lie one after another, each padded to whole tiles of WORDS codewords by some that are infinitely
    far; columns are padded by zeros to D.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    word = tl.arange(0, WORDS)
    inside = row < n
    seen = inside[:, None] & (column < d)[None, :]
    left = tl.load(x + row[:, None] * d + column[None, :], mask=seen, other=0.0)
    unsure = tl.zeros([ROWS], tl.int32)
    for level in range(LEVELS):
        z = left - tl.load(shift + level * D + column)[None, :]
        length = tl.sqrt(tl.sum(z * z, axis=1))
        best = tl.full([ROWS], float("inf"), tl.float32)
        second = tl.full([ROWS], float("inf"), tl.float32)
        code = tl.zeros([ROWS], tl.int32)
        first = tl.load(starts + level)
        last = tl.load(starts + level + 1)
        for at in range(first, last, WORDS):
            tile = tl.load(products + (at + word)[None, :] * D + column[:, None])
            scores = tl.load(bias + at + word)[None, :] - tl.dot(z, tile, input_precision=PRECISION)
            low, which = tl.min(scores, axis=1, return_indices=True)
            others = tl.where(word[None, :] == which[:, None], float("inf"), scores)
            second = tl.minimum(tl.minimum(second, tl.min(others, axis=1)), tl.maximum(best, low))
            code = tl.where(low < best, at - first + which, code)
            best = tl.minimum(best, low)
        margin = tl.load(bounds + level * 3) * length + tl.load(bounds + level * 3 + 1)
        # A length that is too large, or no number, is doubt too: nothing below it can overflow.
        sure = (second - best > margin) & (length < tl.load(bounds + level * 3 + 2))
        unsure = tl.where(sure, unsure, 1)
        tl.store(codes + row * LEVELS + level, code, mask=inside)
        # As the processor does it: one subtraction a level, in order, so what is left is the same to the bit.
        left = left - tl.load(centers + (first + code)[:, None] * D + column[None, :])
    tl.store(doubt + row, unsure.to(tl.int8), mask=inside)


kernel = triton.jit(_codes)
