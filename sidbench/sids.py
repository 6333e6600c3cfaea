"""SIDs: codes with their level sizes and item ids; the artifact on disk and its manifest."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import DataError

Codes = NDArray[np.int32]
SCHEMA = 1
FILES = ("sids.parquet", "manifest.json")
TEXTS = 1 << 18  # ids that are Python objects at one time


@dataclass(frozen=True, eq=False)
class SIDs:
    """The Semantic ID of every item: `codes[i]` is item i's, level by level, base 0, -1 beyond its end."""

    codes: Codes
    sizes: tuple[int, ...]
    item_ids: NDArray[Any]
    resolver: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        codes = check_codes(self.codes, self.sizes, "SIDs", variable=True)
        object.__setattr__(self, "codes", codes)
        if len(self.item_ids) != len(codes):
            raise DataError(f"SIDs: {len(self.item_ids)} item ids for {len(codes)} rows of codes")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def levels(self) -> int:
        return len(self.sizes)

    def groups(self) -> tuple[Codes, NDArray[np.int64]]:
        """The distinct SIDs in lexicographic order, and for each item the number of its SID among them."""
        return distinct_rows(self.codes)

    def replace(self, **changes: Any) -> SIDs:
        return replace(self, **changes)

    def save(self, folder: Path, titles: NDArray[np.str_] | None = None) -> None:
        """Write `sids.parquet` (item_id, sid, title), then the `manifest.json` that vouches for it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder.mkdir(parents=True, exist_ok=True)
        flat = pa.array(np.ascontiguousarray(self.codes).reshape(-1), pa.int32())
        columns = {
            "item_id": pa.array(self.item_ids),
            "sid": pa.FixedSizeListArray.from_arrays(flat, self.levels),
        }
        if titles is not None:
            columns["title"] = pa.array(titles)
        pq.write_table(pa.table(columns), folder / "sids.parquet", compression="zstd")
        manifest = {
            "schema": SCHEMA,
            "items": len(self),
            "levels": self.levels,
            "sizes": list(self.sizes),
            "base": 0,
            "beyond_end": -1,
            "resolver": self.resolver,
            **self.manifest,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> SIDs:
        """Read what `save` wrote; anything missing or torn says which file and why."""
        import pyarrow.parquet as pq

        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            table = pq.read_table(folder / "sids.parquet")
            sid = table.column("sid").combine_chunks()
            codes = sid.flatten().to_numpy(zero_copy_only=False).reshape(len(sid), -1)
            ids = _ids(table.column("item_id"))
            sizes = tuple(int(s) for s in manifest["sizes"])
            if manifest["schema"] > SCHEMA:
                raise DataError(
                    f"the SIDs in {folder} have schema {manifest['schema']}, written by a newer sidbench; "
                    f"this one reads up to {SCHEMA}"
                )
            if manifest["items"] != len(codes):
                raise ValueError(f"the manifest says {manifest['items']} items, the table has {len(codes)}")
        except FileNotFoundError:
            gone = [name for name in FILES if not (folder / name).exists()]
            raise DataError(f"no SIDs in {folder}: {' and '.join(gone)} missing") from None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"the SIDs in {folder} cannot be read ({e}); run the method again") from None
        known = {"schema", "items", "levels", "sizes", "base", "beyond_end", "resolver"}
        rest = {k: v for k, v in manifest.items() if k not in known}
        return cls(codes, sizes, ids, manifest.get("resolver", ""), rest)

    @staticmethod
    def titles(folder: Path) -> NDArray[np.str_] | None:
        """The titles that were saved beside the SIDs, if any."""
        import pyarrow.parquet as pq

        if "title" not in pq.read_schema(folder / "sids.parquet").names:
            return None
        return np.array(
            pq.read_table(folder / "sids.parquet", columns=["title"])["title"].to_pylist(), dtype=np.str_
        )


def _ids(column: Any) -> NDArray[Any]:
    """Item ids as an array: text a chunk at a time, as it would pass through Python objects all at once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        ids: NDArray[Any] = column.to_numpy()
        return ids.astype(np.str_) if ids.dtype == object else ids
    ids = np.empty(len(column), dtype=f"<U{pc.max(pc.utf8_length(column)).as_py() or 1}")
    for at in range(0, len(ids), TEXTS):
        ids[at : at + TEXTS] = column.slice(at, TEXTS).to_numpy()
    return ids


def check_codes(codes: Any, sizes: tuple[int, ...], where: str, *, variable: bool = False) -> Codes:
    """The one check of codes at the boundary; returns them as int32 in C order."""
    if not isinstance(codes, np.ndarray) or codes.ndim != 2 or codes.shape[1] != len(sizes):
        shape = getattr(codes, "shape", type(codes).__name__)
        raise DataError(
            f"{where}: codes have shape {shape}; expected (items, {len(sizes)}), one column a level"
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"{where}: codes are {codes.dtype}; expected integers, 0-based")
    floor = -1 if variable else 0
    for level, size in enumerate(sizes if len(codes) else ()):
        low, high = int(codes[:, level].min()), int(codes[:, level].max())
        if low < floor or high >= size:
            raise DataError(f"{where}: level {level} holds codes {low}..{high}; expected 0..{size - 1}")
    if variable and (codes[:, 0] < 0).any():
        raise DataError(f"{where}: some items have no code at the first level")
    if variable and ((codes[:, :-1] < 0) & (codes[:, 1:] >= 0)).any():
        raise DataError(f"{where}: a code follows the end (-1) of a SID")
    return np.ascontiguousarray(codes, dtype=np.int32)


def distinct_rows(codes: Codes) -> tuple[Codes, NDArray[np.int64]]:
    """Distinct rows in lexicographic order and each row's place among them, by sorting."""
    if not codes.shape[1]:  # without columns all rows are one
        return codes[:1], np.zeros(len(codes), dtype=np.int64)
    numbers = _numbered(codes)
    new = np.ones(len(codes), dtype=bool)
    if numbers is None:
        order = np.lexsort(codes.T[::-1])
        ordered = codes[order]
        new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    else:
        order = np.argsort(numbers)
        numbers = numbers[order]
        np.not_equal(numbers[1:], numbers[:-1], out=new[1:])
    place = np.empty(len(codes), dtype=np.int64)
    place[order] = np.cumsum(new) - 1
    return codes[order[new]], place


def _numbered(codes: Codes) -> NDArray[np.int64] | None:
    """A number for every row, in lexicographic order, where 63 bits hold them all: one key sorts faster."""
    if not len(codes) or codes.dtype.kind != "i":
        return None
    low, high = codes.min(axis=0).tolist(), codes.max(axis=0).tolist()
    spans = [last - first + 1 for first, last in zip(low, high, strict=True)]
    if math.prod(spans) >= 2**63:
        return None
    numbers = np.zeros(len(codes), dtype=np.int64)
    for column, first, span in zip(codes.T, low, spans, strict=True):
        numbers *= span
        numbers += column
        numbers -= first
    return numbers
