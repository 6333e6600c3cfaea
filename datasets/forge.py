"""forge: FORGE's .npz files: items with their vectors, and pairs of items that belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from sidbench.dataset import Corpus, Embeddings, Published, Sequences, Targets, cached_rows, scramble
from sidbench.errors import DataError, UsageError
from sidbench.formats import safe
from sidbench.peers.base import IN_MEMORY, PeerFolder, finite
from sidbench.vectors import Vectors, open_vectors

EXPECTED = "an .npz with ids and embeds, and one with pairs"


class FORGE(PeerFolder):
    """A folder with FORGE's .npz: `ids` and `embeds` (reconstruction), and `pairs` of ids (contrastive).

    A pair (a, b) is a sequence of two items; the protocol `published` asks b after a for a share of the
    pairs, drawn by a hash of the two ids: FORGE publishes no split of them. Pairs of items without vector
    are dropped and counted.

    The contrastive file's `itemEncID` is a dict in a pickle, which may be code, and is not read: ids come
    from `ids` alone. The sequences of AL-GR (CSV of SIDs) are not read either. No real file was at hand: the
    layout is known from FORGE's description of it.
    """

    name = "forge"
    paper = "https://arxiv.org/abs/2509.20904"
    verified = False

    #: The share of the pairs that tests; as many select.
    held: Annotated[float, Field(gt=0, lt=0.5)] = 0.05

    def load(self) -> Corpus:
        folder = self.folder(EXPECTED)
        embeds, pairs_file = _find(folder)
        vectors = open_vectors(embeds, column="embeds", id_column="ids")
        ids = vectors.ids(0, vectors.rows)
        if ids is None or not pa.types.is_integer(ids.type):
            raise DataError(
                f"{embeds.name}: ids are not one number for each of the {vectors.rows:,} rows of embeds; "
                "write both anew"
            )
        if len(pc.unique(ids)) < len(ids):
            raise DataError(
                f"{embeds.name}: {len(ids) - len(pc.unique(ids)):,} ids stand several times; keep one row"
            )
        pairs = safe.read_npz(pairs_file, ("pairs",))["pairs"]
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu" or not len(pairs):
            raise DataError(
                f"{pairs_file.name}: pairs are {pairs.dtype} of shape {pairs.shape}; expected integers "
                "(pairs, 2)"
            )
        row = pc.index_in(pa.array(pairs.reshape(-1).astype(np.int64)), value_set=ids.cast(pa.int64()))
        known = np.asarray(row.is_valid()).reshape(-1, 2).all(axis=1)
        if not known.any():
            raise DataError(
                f"{pairs_file.name}: no pair names two items of {embeds.name}, whose ids are such as "
                f"{ids[0]}; are "
                "they of one dataset?"
            )
        found = np.asarray(pc.fill_null(row, 0)).reshape(-1, 2)[known].astype(np.int32)
        x, notes = self._matrix(vectors, embeds)
        dropped = len(pairs) - len(found)
        said = (f"{dropped:,} of {len(pairs):,} pairs name an item without vector and are dropped",) * bool(
            dropped
        )
        whole = Sequences(found.reshape(-1), np.arange(0, 2 * len(found) + 1, 2, dtype=np.int64))
        return Corpus(
            name=folder.resolve().name,
            embeddings=x,
            item_ids=np.asarray(ids.cast(pa.int64())),
            sequences=whole,
            user_ids=np.arange(len(found)),
            published=self._cut(found, np.asarray(ids.cast(pa.int64()))),
            notes=(
                f"a pair is a question; {self.held:.1%} of them select and as many test, by a hash of "
                "their ids "
                "(no split was published)",
                *said,
                *notes,
            ),
        )

    def _matrix(self, vectors: Vectors, path: Path) -> tuple[Embeddings, tuple[str, ...]]:
        """All rows; where they are many, in the cache on disk."""
        if vectors.rows * vectors.dim * 4 <= IN_MEMORY:
            return finite(vectors.read(0, vectors.rows), path, self.nan)
        told: list[int] = []

        def fill(out: Embeddings) -> None:
            for start, piece in vectors.pieces(max(1, 4_000_000 // vectors.dim)):
                if self.nan == "zero":
                    bad = ~np.isfinite(piece)
                    told.append(int(bad.any(axis=1).sum()))
                    piece = np.where(bad, np.float32(0), piece)
                out[start : start + len(piece)] = piece

        about = path.stat()
        key = f"forge-{path.stem}-{about.st_size}-{about.st_mtime_ns}-{self.nan}"
        x = cached_rows(key, (vectors.rows, vectors.dim), fill)
        return x, ()

    def _cut(self, pairs: NDArray[np.int32], ids: NDArray[np.int64]) -> Published:
        """Which pairs train, select and test: by their ids, so that a repeated pair stands in one part."""
        own = ids[pairs].astype(np.uint64)
        share = scramble(scramble(own[:, 0], 1) ^ own[:, 1], 2) / np.float64(2**64)
        select, test = (share < self.held), (share >= 1 - self.held)
        trains = ~(select | test)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(2 * trains)])
        return Published(
            Sequences(pairs[trains].reshape(-1), offsets), *(_targets(pairs, part) for part in (select, test))
        )


def _targets(pairs: NDArray[np.int32], part: NDArray[np.bool_]) -> Targets:
    at = np.flatnonzero(part)
    return Targets(at, Sequences(pairs[at, 0], np.arange(len(at) + 1, dtype=np.int64)), pairs[at, 1])


def _find(folder: Path) -> tuple[Path, Path]:
    """The file of vectors with ids, and that of pairs; they may be one."""
    import zipfile

    names: dict[Path, set[str]] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with zipfile.ZipFile(path) as archive:
                names[path] = {n.removesuffix(".npy") for n in archive.namelist()}
        except (OSError, zipfile.BadZipFile) as e:
            raise DataError(f"{path.name} is no .npz file ({e}); is it cut off? Get it again") from None
    embeds = [p for p, n in names.items() if {"ids", "embeds"} <= n]
    pairs = [p for p, n in names.items() if "pairs" in n]
    if len(embeds) == 1 and len(pairs) == 1:
        return embeds[0], pairs[0]
    encoded = [p.name for p, n in names.items() if "itemEncID" in n and "ids" not in n]
    hint = (
        f". {encoded[0]} has its ids in a pickled dict, which is not read: write them beside it as numbers, "
        "np.savez('items.npz', ids=…, embeds=…)"
        if encoded and not embeds
        else ""
    )
    raise UsageError(
        f"{folder}: expected {EXPECTED}; found {len(embeds)} with ids and embeds, {len(pairs)} with "
        f"pairs{hint}. "
        "For SIDs alone, without recall, give the .npz itself to a command that takes vectors"
    )
