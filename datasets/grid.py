"""grid: a dataset as GRID has it: TFRecords of users and items, and the tensor of vectors that it infers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Corpus, Sequences
from sidbench.errors import DataError, UsageError
from sidbench.peers.base import Found, PeerFolder, finite, read_tensor
from sidbench.peers.tfrecord import examples
from sidbench.progress import report

EXPECTED = "testing/*.tfrecord.gz, and items/*.tfrecord.gz or merged_predictions_tensor.pt"


class GRID(PeerFolder):
    """A data folder of GRID: training/, evaluation/, testing/ and items/ of gzipped TFRecords, and a tensor.

    - testing: user_id and sequence_data, a user's whole sequence, which ends with what tests; training, where
      it is there, must hold the beginnings of the same sequences.
    - items: id, text and perhaps embedding. merged_predictions_tensor.pt, or the .pt that `embedding` names:
      float rows, row i is item i. A tensor of integers holds SIDs: the tokenizer `precomputed` reads it.

    TFRecords are read without TensorFlow; the checksum of each record is not looked at (gzip has its own).
    merged_predictions.pkl is not read: it is a pickle of tensors. No real file was at hand: the layout is
    known from GRID's configuration files.
    """

    name = "grid"
    paper = "https://arxiv.org/abs/2507.22224"
    verified = False

    def load(self) -> Corpus:
        folder = self.folder(EXPECTED)
        users, sequences = _users(folder, "testing")
        _check_beginnings(folder, users, sequences)
        titles, texts, own = _items(folder)
        seen = int(sequences.items.max()) + 1
        if titles is not None and seen > len(titles):
            raise DataError(
                f"testing names item {seen - 1}, items/ has 0..{len(titles) - 1}; are they of one dataset?"
            )
        tensors = (
            [p for p in sorted(folder.glob("*.pt")) if _is_vectors(p)] if self.embedding == "auto" else []
        )
        if own is not None and not tensors and self.embedding == "auto":
            found = Found(*finite(own, folder / "items", self.nan))
        else:
            count = len(titles) if titles is not None else None if tensors else seen
            found = self.vectors(folder, tensors, count, texts=texts, sequences=sequences)
        x = found.x
        if seen > len(x):
            raise DataError(f"testing names item {seen - 1}, and there are vectors of {len(x):,} items")
        return Corpus(
            name=folder.resolve().name,
            embeddings=x,
            item_ids=np.arange(len(x)),
            sequences=sequences,
            user_ids=users,
            titles=titles,
            learned_under=found.learned.under,
            learned_from=found.learned.digests,
            notes=("no timestamps: the order of the records stands for time", *found.notes),
        )


def _files(folder: Path, part: str) -> list[Path]:
    return sorted(p for p in (folder / part).glob("*tfrecord*") if p.is_file())


def _users(folder: Path, part: str) -> tuple[NDArray[np.int64], Sequences]:
    """Users and their items, in order of the users' ids."""
    files = _files(folder, part)
    if not files:
        raise UsageError(f"{folder} has no {part}/*.tfrecord.gz; expected {EXPECTED}")
    users: list[int] = []
    rows: list[NDArray[np.int64]] = []
    for number, path in enumerate(files):
        report(f"{part} records", number, len(files))
        for row, found in enumerate(examples(path)):
            user, items = found.get("user_id"), found.get("sequence_data")
            if not isinstance(user, np.ndarray) or not isinstance(items, np.ndarray) or len(user) != 1:
                raise DataError(
                    f"{path.name}, record {row} (from 0) has the features {', '.join(found)}; expected a "
                    "number "
                    "user_id and the numbers sequence_data"
                )
            if items.dtype.kind != "i" or (len(items) and not 0 <= items.min() <= items.max() < 2**31):
                raise DataError(
                    f"{path.name}, record {row} (from 0): sequence_data are no item numbers from 0"
                )
            users.append(int(user[0]))
            rows.append(items)
    ids = np.array(users, dtype=np.int64)
    if len(np.unique(ids)) < len(ids):
        raise DataError(f"{part}: some user has several records; expected one sequence a user")
    order = np.argsort(ids)
    return ids[order], Sequences.of([rows[i] for i in order])


def _check_beginnings(folder: Path, users: NDArray[np.int64], sequences: Sequences) -> None:
    """What trains is the beginning of what tests; else the folders do not mean what they are read as."""
    if not _files(folder, "training"):
        return
    known, train = _users(folder, "training")
    place = np.searchsorted(users, known)
    there = np.zeros(len(known), dtype=bool)
    inside = place < len(users)
    there[inside] = users[place[inside]] == known[inside]
    fits = there & (train.lengths <= np.where(there, sequences.lengths[np.where(there, place, 0)], 0))
    row = train.row_of(np.arange(len(train.items)))
    position = np.arange(len(train.items)) - train.offsets[row]
    use = fits[row]
    same = sequences.items[sequences.offsets[place[row[use]]] + position[use]] == train.items[use]
    wrong = np.bincount(row[use], weights=~same, minlength=len(known)) > 0
    bad = np.flatnonzero(~fits | wrong)
    if len(bad):
        raise DataError(
            f"user {known[bad[0]]}'s sequence in training/ is not the beginning of that in testing/ "
            f"({len(bad):,} users); expected whole sequences in testing/, of the same users"
        )


def _items(folder: Path) -> tuple[NDArray[np.str_] | None, list[str] | None, NDArray[Any] | None]:
    """Titles, texts and vectors of items/, row i of item i; none where there is no such folder."""
    found: dict[int, dict[str, Any]] = {}
    for path in _files(folder, "items"):
        for row, features in enumerate(examples(path)):
            key = features.get("id")
            if not isinstance(key, np.ndarray) or len(key) != 1:
                raise DataError(
                    f"{path.name}, record {row} (from 0) has {', '.join(features)}; expected a number id"
                )
            found[int(key[0])] = features
    if not found:
        return None, None, None
    if sorted(found) != list(range(len(found))):
        missing = next(i for i in range(len(found)) if i not in found)
        raise DataError(
            f"items/: item {missing} is missing; expected the items 0..{len(found) - 1}, each once"
        )
    texts = [
        b" ".join(v) if isinstance(v := found[i].get("text", []), list) else b"" for i in range(len(found))
    ]
    try:
        plain = [t.decode("utf-8") for t in texts]
    except UnicodeDecodeError as e:
        raise DataError(f"items/: the text of an item is not UTF-8 ({e.reason})") from None
    vectors = [v for i in range(len(found)) if isinstance(v := found[i].get("embedding"), np.ndarray)]
    whole = len(vectors) == len(found) and len({len(v) for v in vectors} - {0}) == 1
    own = np.stack(vectors) if whole else None
    return np.array(plain, dtype=np.str_), plain if any(plain) else None, own


def _is_vectors(path: Path) -> bool:
    """Whether a tensor holds vectors (floats), and not SIDs."""
    return read_tensor(path).dtype.kind == "f"
