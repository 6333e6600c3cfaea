"""Users' sequences as SIDs: a PyTorch dataset, a stream, an arrow table, a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sidbench.dataset import Corpus, Sequences, scramble
from sidbench.errors import UsageError
from sidbench.protocol import split
from sidbench.sids import SIDs

PARTS = ("train", "valid", "test", "all")
Row = dict[str, Any]


class SidSequences(Dataset[Row]):
    """Row i is a user's history as SIDs, oldest first, with the item that follows where there is one.

    `dataset[i]` gives `user` (a row of `user_ids`), `items` (rows of `sids`), `sids` (items, levels) and, of
    what selects or tests, `target` and `target_sid`. -1 stands beyond the end of a shorter SID.
    """

    def __init__(
        self,
        sids: SIDs,
        histories: Sequences,
        users: NDArray[np.int64],
        user_ids: NDArray[Any],
        targets: NDArray[np.int64] | None,
    ) -> None:
        self.sids, self.histories, self.users, self.user_ids = sids, histories, users, user_ids
        self.targets = targets
        self._codes = torch.from_numpy(sids.codes.astype(np.int64))

    def __len__(self) -> int:
        return len(self.histories)

    def __getitem__(self, i: int) -> Row:
        if not -len(self) <= i < len(self):  # which is how iteration knows the end
            raise IndexError(i)
        i %= len(self)
        items = torch.from_numpy(self.histories[i].astype(np.int64))
        row: Row = {"user": int(self.users[i]), "items": items, "sids": self._codes[items]}
        if self.targets is not None:
            target = int(self.targets[i])
            row |= {"target": target, "target_sid": self._codes[target]}
        return row

    def stream(self, *, shuffle: bool = True, seed: int = 0, rank: int = -1, world: int = 0) -> SidStream:
        """The same rows as a stream, each once among all workers and processes."""
        return SidStream(self, shuffle, seed, rank, world)

    def to_arrow(self) -> pa.Table:
        """All in the owner's ids: user, items, sids and, where there are any, target and target_sid."""
        offsets = pa.array(self.histories.offsets)
        ids, codes = pa.array(self.sids.item_ids), self.sids.codes
        taken = codes[self.histories.items].reshape(-1)
        columns = {
            "user": pa.array(self.user_ids[self.users]),
            "items": pa.LargeListArray.from_arrays(offsets, ids.take(pa.array(self.histories.items))),
            "sids": pa.LargeListArray.from_arrays(
                offsets, pa.FixedSizeListArray.from_arrays(pa.array(taken), self.sids.levels)
            ),
        }
        if self.targets is not None:
            flat = pa.array(codes[self.targets].reshape(-1))
            columns["target"] = ids.take(pa.array(self.targets))
            columns["target_sid"] = pa.FixedSizeListArray.from_arrays(flat, self.sids.levels)
        return pa.table(columns)

    def to_hf(self) -> Any:
        """The same as a Hugging Face dataset."""
        return as_hf(self.to_arrow())


class SidStream(IterableDataset[Row]):
    """Rows in an order that the seed and the epoch decide, divided among workers and processes.

    Every row comes exactly once an epoch, whatever the number of workers; `set_epoch` gives another order.
    """

    def __init__(self, rows: SidSequences, shuffle: bool, seed: int, rank: int, world: int) -> None:
        self.rows, self.shuffle, self.seed, self.epoch = rows, shuffle, seed, 0
        if (rank < 0) != (world < 1) or rank >= max(world, 1):
            raise UsageError(
                f"rank = {rank} of world = {world}: give both, rank from 0 to world - 1, or none"
            )
        self.rank, self.world = rank, world

    def set_epoch(self, epoch: int) -> None:
        """Which pass over the data comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Row]:
        rank, world = self._processes()
        worker = get_worker_info()
        mine, shards = (
            (rank, world)
            if worker is None
            else (
                rank * worker.num_workers + worker.id,
                world * worker.num_workers,
            )
        )
        order = np.arange(len(self.rows))
        if self.shuffle:
            order = np.argsort(scramble(order.astype(np.uint64), self.seed * 1_000_003 + self.epoch + 1))
        for i in order[mine::shards]:
            yield self.rows[int(i)]

    def _processes(self) -> tuple[int, int]:
        if self.world:
            return self.rank, self.world
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1


def pad(rows: list[Row], *, left: bool = False, value: int = -1) -> dict[str, torch.Tensor]:
    """Rows as one batch, for a DataLoader's `collate_fn`: `items` and `sids` filled up, `mask` where."""
    longest = max(len(r["items"]) for r in rows)
    levels = rows[0]["sids"].shape[1]
    out = {
        "user": torch.tensor([r["user"] for r in rows]),
        "items": torch.full((len(rows), longest), value),
        "sids": torch.full((len(rows), longest, levels), value),
        "mask": torch.zeros((len(rows), longest), dtype=torch.bool),
    }
    for b, r in enumerate(rows):
        n = len(r["items"])
        at = slice(longest - n, longest) if left else slice(0, n)
        out["items"][b, at], out["sids"][b, at], out["mask"][b, at] = r["items"], r["sids"], True
    if "target" in rows[0]:
        out["target"] = torch.tensor([r["target"] for r in rows])
        out["target_sid"] = torch.stack([r["target_sid"] for r in rows])
    return out


def make(
    sids: SIDs, row: NDArray[np.int64], corpus: Corpus, part: str, protocol: str, max_length: int
) -> SidSequences:
    """Sequences of a corpus whose item i is row `row[i]` of the SIDs."""
    if part not in PARTS:
        raise UsageError(f"part = {part!r}; expected one of {', '.join(PARTS)}")
    if max_length < 1:
        raise UsageError(f"max_length = {max_length}; expected 1 or more")
    targets = None
    if part == "all":
        histories, users = corpus.sequences, np.arange(len(corpus.sequences))
    else:
        divided = split(corpus, protocol)
        if part == "train":
            histories, users = divided.train, np.arange(len(divided.train))
        else:
            asked = divided.valid if part == "valid" else divided.test
            histories, users, targets = asked.histories, asked.users, row[asked.items]
    lengths = histories.lengths
    if (lengths == 0).any():  # what is tested alone trains nothing
        some = np.flatnonzero(lengths)
        histories, users = histories.take(some), users[some]
        targets = None if targets is None else targets[some]
        lengths = lengths[some]
    position = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], lengths)
    histories = histories.where(position >= np.repeat(lengths - max_length, lengths))
    histories = Sequences(row[histories.items].astype(np.int32), histories.offsets)
    return SidSequences(sids, histories, users.astype(np.int64), corpus.user_ids, targets)


def as_hf(table: pa.Table) -> Any:
    """A table as a Hugging Face dataset."""
    try:
        # Tried, not looked for: where it is missing, this project's folder of datasets answers to the name.
        made = import_module("datasets").Dataset
    except (ImportError, AttributeError):
        raise UsageError(
            "the package datasets is not installed: pip install 'sidbench[hf]'; to_arrow() needs nothing"
        ) from None
    return made(table)
