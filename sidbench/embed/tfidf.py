"""TF-IDF and truncated SVD: vectors of texts without any download, the same for the same texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from sidbench.errors import DataError
from sidbench.progress import report

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

#: How many numbers a text becomes, where there are as many words and texts.
DIM = 512
#: In a catalogue of this many texts, a word counts if two of them have it: in one alone it says nothing of
#: what is alike. In a smaller one every word counts.
LARGE = 1_000
#: The most frequent words, at most.
TERMS = 262_144
#: Texts on which the axes are learned, at most, evenly over the catalogue; all are projected onto them.
LEARNED_FROM = 100_000
# Randomised SVD: more vectors than asked for, and passes over the matrix.
SPARE, PASSES = 16, 3
#: Singular values below this share of the largest are rounding: their axes are left out.
NOISE = 1e-3
# Texts projected at a time.
BLOCK = 65_536

WORD_GAP = r"[^\p{L}\p{N}]+"
MARKS = r"\p{M}+"
#: Scripts without spaces: every character is a word.
SPACELESS = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"


@dataclass(frozen=True, eq=False)
class Tfidf:
    """What was learned: words, their weights, and the axes."""

    #: In ascending order.
    words: pa.Array
    idf: Floats
    #: (words, dimensions): the axes, each divided by the square root of its singular value, so that frequent
    #: words do not drown the others (tuned on validation items of two catalogues).
    axes: Floats
    #: The dimensions asked for, which may be more than there are.
    asked: int = DIM
    #: On how many texts the axes were learned.
    learned_from: int = 0

    @classmethod
    def fit(cls, texts: pa.Array, dim: int = DIM, seed: int = 0) -> Tfidf:
        """Learn words, weights and axes; the same from the same texts."""
        from sklearn.utils.extmath import randomized_svd
        from threadpoolctl import threadpool_limits

        rows, words, tokens = tokens_of(texts)
        seen = np.bincount(np.unique(rows * len(tokens) + words) % max(len(tokens), 1), minlength=len(tokens))
        kept = np.flatnonzero(seen >= (2 if len(texts) >= LARGE else 1))
        if not len(kept):
            raise DataError(
                f"none of {len(texts):,} texts holds a word that counts; name columns that describe the items"
            )
        kept = kept[np.argsort(-seen[kept], kind="stable")[:TERMS]]
        vocabulary = tokens.take(pa.array(kept))
        order = pc.sort_indices(vocabulary)
        idf = (np.log((1 + len(texts)) / (1 + seen[kept[order.to_numpy()]])) + 1).astype(np.float32)
        model = cls(vocabulary.take(order), idf, np.zeros((0, 0), np.float32))
        x = model._weighted(texts.take(pa.array(np.arange(0, len(texts), -(-len(texts) // LEARNED_FROM)))))
        k = min(dim, *x.shape)
        report("learning axes", 0, 1)
        # One thread: sums are then taken in one order, and vectors do not depend on the number of cores.
        with threadpool_limits(1):
            _, s, axes = randomized_svd(
                x, k, n_oversamples=SPARE, n_iter=PASSES, random_state=seed, flip_sign=False
            )
        report("learning axes", 1, 1)
        s, axes = s[s > NOISE * s[0]], axes[s > NOISE * s[0]]
        # The sign of an axis is nobody's choice: its largest number is made positive.
        signs = np.sign(axes[np.arange(len(s)), np.abs(axes).argmax(axis=1)])
        scaled = np.ascontiguousarray((axes * (signs / np.sqrt(s))[:, None]).T, dtype=np.float32)
        return cls(model.words, idf, scaled, dim, x.shape[0])

    def transform(self, texts: pa.Array, out: Floats | None = None) -> Floats:
        """Vectors of length one; zeros where no word is known. A row depends on its text alone."""
        if out is None:
            out = np.empty((len(texts), self.axes.shape[1]), dtype=np.float32)
        for start in range(0, len(texts), BLOCK):
            some = texts.slice(start, BLOCK)
            out[start : start + len(some)] = unit(np.asarray(self._weighted(some) @ self.axes))
            report("embed", start + len(some), len(texts))
        return out

    def facts(self) -> dict[str, Any]:
        """What to record of how vectors were made."""
        return {
            "method": "tf-idf and truncated SVD",
            "dim": self.axes.shape[1],
            "asked_dim": self.asked,
            "words": len(self.words),
            "learned_from": self.learned_from,
        }

    def notes(self) -> list[str]:
        """What people should know of it."""
        dim = self.axes.shape[1]
        if dim == self.asked:
            return []
        return [
            f"{dim} dimensions, not {self.asked}: the texts and their {len(self.words):,} words have no more"
        ]

    def _weighted(self, texts: pa.Array) -> Any:
        """(texts, words), CSR: (1 + log count) * idf, rows of length one."""
        rows, words, tokens = tokens_of(texts)
        index = pc.fill_null(pc.index_in(tokens, value_set=self.words), -1).to_numpy().astype(np.int64)
        columns = index[words]
        known = columns >= 0
        ones = np.ones(int(known.sum()), dtype=np.float32)
        shape = (len(texts), len(self.words))
        x = sp.coo_matrix((ones, (rows[known], columns[known])), shape=shape).tocsr()
        x.sum_duplicates()
        x.data = (1 + np.log(x.data)) * self.idf[x.indices]
        filled = np.flatnonzero(np.diff(x.indptr))
        if len(filled):
            norm = np.sqrt(np.add.reduceat(x.data.astype(np.float64) ** 2, x.indptr[filled]))
            x.data = (x.data / np.repeat(norm, np.diff(x.indptr)[filled])).astype(np.float32)
        return x


def tokens_of(texts: pa.Array) -> tuple[Ints, Ints, pa.Array]:
    """Every word of every text, in order: its row, its number, and the words by number.

    Lower case without accents; letters and digits make words, everything else parts them.
    """
    plain = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKD"))
    plain = pc.replace_substring_regex(plain, MARKS, "")
    if pc.any(pc.match_substring_regex(plain, SPACELESS)).as_py():
        plain = pc.replace_substring_regex(plain, SPACELESS, r" \1 ")
    lists = pc.split_pattern(pc.replace_substring_regex(plain, WORD_GAP, " "), " ")
    coded = lists.flatten().dictionary_encode()
    words = coded.indices.to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(texts)), pc.list_value_length(lists).to_numpy())
    # At the ends of a text, and in an empty one, nothing stands beside a space.
    some = pc.not_equal(coded.dictionary, "").to_numpy(zero_copy_only=False)[words]
    return rows[some], words[some], coded.dictionary


def unit(x: Floats) -> Floats:
    """Rows of length one; a row of zeros stays."""
    norm = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    return np.asarray(x / np.where(norm > 0, norm, 1)[:, None], dtype=np.float32)
