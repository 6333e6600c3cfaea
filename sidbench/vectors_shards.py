"""Vectors in a folder of shards: files of one kind in the natural order of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sidbench.errors import DataError, UsageError
from sidbench.vectors import OPENERS, Asked, Floats, Vectors, natural, open_file


class ShardedVectors(Vectors):
    """Files one behind the other; ids stand in all of them or in none."""

    kind = "shards"

    def __init__(self, path: Path, shards: list[Vectors]) -> None:
        self.path, self.dim = path, shards[0].dim
        for shard in shards:
            if shard.dim != self.dim:
                raise DataError(
                    f"{path}: {shard.path.name} has rows of {shard.dim} dimensions, {shards[0].path.name} of "
                    f"{self.dim}; all shards need the same"
                )
            if shard.named != shards[0].named:
                one, other = (shard, shards[0]) if shard.named else (shards[0], shard)
                raise DataError(
                    f"{path}: {one.path.name} has ids and {other.path.name} has none; give all shards ids or "
                    "none"
                )
        self.named = shards[0].named
        self.dtype = shards[0].dtype if len({s.dtype for s in shards}) == 1 else "mixed"
        self._shards = shards
        self._starts = np.concatenate([[0], np.cumsum([s.rows for s in shards], dtype=np.int64)])
        self.rows = int(self._starts[-1])

    def parts(self) -> list[range]:
        starts = self._starts.tolist()
        return [
            range(at + p.start, at + p.stop)
            for at, shard in zip(starts, self._shards, strict=False)
            for p in shard.parts()
        ]

    def read(self, start: int, stop: int) -> Floats:
        start, stop = self.span(start, stop)
        pieces = [shard.read(a, b) for shard, a, b in self._within(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.dim), np.float32)

    def ids(self, start: int, stop: int) -> Any | None:
        import pyarrow as pa

        start, stop = self.span(start, stop)
        found = [(shard.path.name, shard.ids(a, b)) for shard, a, b in self._within(start, stop)]
        kinds = {name: "none" if ids is None else str(ids.type) for name, ids in found}
        if len(set(kinds.values())) > 1:
            said = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
            raise DataError(f"{self.path}: shards disagree on their ids: {said}")
        if not found or found[0][1] is None:
            return None
        return found[0][1] if len(found) == 1 else pa.concat_arrays([ids for _, ids in found])

    def array(self) -> Floats | None:
        return self._shards[0].array() if len(self._shards) == 1 else None

    def files(self) -> list[Path]:
        return [f for s in self._shards for f in s.files()]

    def layout(self) -> dict[str, Any]:
        first = {k: v for k, v in self._shards[0].layout().items() if k not in ("rows", "dtype", "offset")}
        return {**first, **super().layout(), "shard_kind": self._shards[0].kind}

    def _within(self, start: int, stop: int) -> list[tuple[Vectors, int, int]]:
        """The shards that hold these rows, each with the rows of its own."""
        first = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
        out = []
        for i in range(first, len(self._shards)):
            at, end = int(self._starts[i]), int(self._starts[i + 1])
            if at >= stop:
                break
            out.append((self._shards[i], max(start, at) - at, min(stop, end) - at))
        return out


def open_folder(path: Path, asked: Asked) -> Vectors:
    """Every file of a known kind below this folder; two kinds are refused, for one may not be meant."""
    known = [f for f in path.iterdir() if f.is_file() and f.name[0] not in "._"]
    suffixes = sorted({f.suffix.lower() for f in known} & set(OPENERS))
    if len(suffixes) > 1:
        each = ", ".join(f"{sum(f.suffix.lower() == s for f in known)} {s}" for s in suffixes)
        raise UsageError(f"{path}: files of several kinds ({each}); give one file, or a folder with one kind")
    files = sorted((f for f in known if f.suffix.lower() in suffixes), key=lambda f: natural(f.name))
    if not files:
        raise DataError(f"{path}: no file that ends in {', '.join(sorted(OPENERS))}")
    return ShardedVectors(path, [open_file(f, asked) for f in files])
