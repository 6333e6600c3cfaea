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
DIM = 256
#: A word or pair of neighbours counts from this many texts on; fewer can say nothing of what is alike.
FEWEST = 2
#: The most frequent words and pairs, at most.
TERMS = 262_144
#: Texts on which the axes are learned, at most, evenly over the catalogue; all are projected onto them.
LEARNED_FROM = 200_000
# Randomised SVD: more vectors than asked for, and passes over the matrix.
SPARE, PASSES = 16, 5
# Texts projected at a time.
BLOCK = 65_536

WORD_GAP = r"[^\p{L}\p{N}]+"
MARKS = r"\p{M}+"
#: Scripts without spaces: every character is a word, and pairs of neighbours do the rest.
SPACELESS = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"


@dataclass(frozen=True, eq=False)
class Tfidf:
    """What was learned: words, pairs of them, their weights, and the axes."""

    words: pa.Array
    #: Pairs of neighbouring words as first * len(words) + second, ascending; they follow the words.
    pairs: Ints
    idf: Floats
    axes: Floats
    #: The dimensions asked for, which may be more than there are.
    asked: int = DIM
    #: On how many texts the axes were learned, and on how many in all.
    learned_from: int = 0

    @classmethod
    def fit(cls, texts: pa.Array, dim: int = DIM, seed: int = 0, fewest: int = FEWEST) -> Tfidf:
        """Learn words, weights and axes; the same from the same texts."""
        from sklearn.utils.extmath import randomized_svd
        from threadpoolctl import threadpool_limits

        rows, words, tokens = tokens_of(texts)
        seen = np.bincount(_once(rows, words, len(tokens)), minlength=len(tokens))
        fewest = min(fewest, max(int(seen.max(initial=0)), 1))
        kept = np.flatnonzero(seen >= fewest)
        if not len(kept):
            raise DataError(
                f"none of {len(texts):,} texts holds a word; name the columns that describe the items"
            )
        kept = kept[np.argsort(-seen[kept], kind="stable")[:TERMS]]
        vocabulary = tokens.take(pa.array(kept))
        vocabulary = vocabulary.take(pc.sort_indices(vocabulary))
        index = pc.fill_null(pc.index_in(tokens, value_set=vocabulary), -1).to_numpy().astype(np.int64)
        words = index[words]
        pair_rows, pair_codes = neighbours(rows, words, len(vocabulary))
        codes, inverse = np.unique(pair_codes, return_inverse=True)
        pair_seen = np.bincount(_once(pair_rows, inverse, len(codes)), minlength=len(codes))
        often = np.flatnonzero(pair_seen >= max(fewest, 2))
        often = np.sort(often[np.argsort(-pair_seen[often], kind="stable")[: TERMS - len(vocabulary)]])
        model = cls(vocabulary, codes[often], np.ones(0, np.float32), np.zeros((0, 0), np.float32))
        counts = model._matrix(len(texts), rows, words)
        held = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = (np.log((1 + len(texts)) / (1 + held)) + 1).astype(np.float32)
        x = _weighted(counts, idf)
        sample = x[:: -(-len(texts) // LEARNED_FROM)]
        k = min(dim, *sample.shape)
        # One thread: sums are then taken in one order, and vectors do not depend on the number of cores.
        with threadpool_limits(1):
            _, _, axes = randomized_svd(
                sample, k, n_oversamples=SPARE, n_iter=PASSES, random_state=seed, flip_sign=False
            )
        # The sign of an axis is nobody's choice: its largest number is made positive.
        axes *= np.sign(axes[np.arange(k), np.abs(axes).argmax(axis=1)])[:, None]
        axes = np.ascontiguousarray(axes.T, dtype=np.float32)
        return cls(model.words, model.pairs, idf, axes, dim, sample.shape[0])

    def transform(self, texts: pa.Array) -> Floats:
        """Vectors of length one; zero where no word is known. A row depends on its text alone."""
        out = np.zeros((len(texts), self.axes.shape[1]), dtype=np.float32)
        for start in range(0, len(texts), BLOCK):
            some = texts.slice(start, BLOCK)
            rows, words, tokens = tokens_of(some)
            index = pc.fill_null(pc.index_in(tokens, value_set=self.words), -1).to_numpy().astype(np.int64)
            x = _weighted(self._matrix(len(some), rows, index[words]), self.idf)
            out[start : start + len(some)] = unit(np.asarray(x @ self.axes))
            report("projecting texts", start + len(some), len(texts))
        return out

    def facts(self) -> dict[str, Any]:
        """What to record of how vectors were made."""
        facts: dict[str, Any] = {
            "source": "text",
            "method": "tf-idf and truncated SVD",
            "dim": self.axes.shape[1],
            "asked_dim": self.asked,
            "words": len(self.words),
            "pairs": len(self.pairs),
            "learned_from": self.learned_from,
        }
        return facts

    def _matrix(self, n: int, rows: Ints, words: Ints) -> Any:
        """(texts, words and pairs) counts, as a CSR matrix."""
        known = words >= 0
        pair_rows, pair_codes = neighbours(rows, words, len(self.words))
        at = np.searchsorted(self.pairs, pair_codes)
        found = np.flatnonzero(at < len(self.pairs))
        found = found[self.pairs[at[found]] == pair_codes[found]]
        columns = np.concatenate([words[known], len(self.words) + at[found]])
        where = np.concatenate([rows[known], pair_rows[found]])
        ones = np.ones(len(columns), dtype=np.float32)
        made = sp.coo_matrix((ones, (where, columns)), shape=(n, len(self.words) + len(self.pairs))).tocsr()
        made.sum_duplicates()
        return made


def tokens_of(texts: pa.Array) -> tuple[Ints, Ints, pa.Array]:
    """Every word of every text, in order: its row, its number, and the words by number.

    Lower case without accents; letters and digits make words, everything else parts them.
    """
    plain = pc.utf8_lower(pc.utf8_normalize(texts.cast(pa.large_string()), form="NFKD"))
    plain = pc.replace_substring_regex(plain, MARKS, "")
    if pc.any(pc.match_substring_regex(plain, SPACELESS)).as_py():
        plain = pc.replace_substring_regex(plain, SPACELESS, r" \1 ")
    plain = pc.utf8_trim(pc.replace_substring_regex(plain, WORD_GAP, " "), " ")
    lists = pc.split_pattern(pc.fill_null(plain, ""), " ")
    coded = lists.flatten().dictionary_encode()
    words = coded.indices.to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(texts)), pc.list_value_length(lists).to_numpy())
    # An empty text splits into one empty word.
    empty = pc.equal(coded.dictionary, "").to_numpy(zero_copy_only=False)[words]
    return rows[~empty], words[~empty], coded.dictionary


def neighbours(rows: Ints, words: Ints, base: int) -> tuple[Ints, Ints]:
    """Pairs of known words that stand beside each other in a text: row and first * base + second."""
    pair = np.flatnonzero((rows[1:] == rows[:-1]) & (words[1:] >= 0) & (words[:-1] >= 0))
    return rows[pair], words[pair] * base + words[pair + 1]


def unit(x: Floats) -> Floats:
    """Rows of length one; a row of zeros stays."""
    norm = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    return (x / np.where(norm > 0, norm, 1)[:, None]).astype(np.float32)


def _once(rows: Ints, terms: Ints, count: int) -> Ints:
    """Each term once a row."""
    return np.unique(rows * count + terms) % max(count, 1)


def _weighted(counts: Any, idf: Floats) -> Any:
    """(1 + log count) * idf, rows of length one."""
    x = counts.copy()
    x.data = (1 + np.log(x.data)) * idf[x.indices]
    squares = np.add.reduceat(np.append(x.data.astype(np.float64) ** 2, 0), x.indptr[:-1])
    norm = np.where(np.diff(x.indptr) > 0, np.sqrt(squares), 1)
    x.data = (x.data / np.repeat(norm, np.diff(x.indptr))).astype(np.float32)
    return x
