"""taac: the data of the Tencent advertising contest (TAAC 2025): seq.jsonl, indexer.pkl, creative_emb/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson
from numpy.typing import NDArray

from sidbench.dataset import Corpus, Embeddings, Sequences
from sidbench.errors import DataError, UsageError
from sidbench.formats import safe
from sidbench.peers.base import Found, PeerFolder, finite
from sidbench.prepare import Log
from sidbench.progress import report

EXPECTED = "seq.jsonl, indexer.pkl and creative_emb/"
#: A line: user, item, what is known of either, what was done, when.
EVENT = 6


class TAAC(PeerFolder):
    """The contest's folder: seq.jsonl (a user a line), indexer.pkl, creative_emb/emb_81_32.pkl and emb_8*/.

    - seq.jsonl: [[user, item, user features, item features, action, seconds], …]; entries without an item
      (features of the user) are left out.
    - indexer.pkl: {"i": {creative id: number from 1}, "u": …}. Items keep their creative ids, which
      semantic_id_dict.json is keyed by. Pickles are read without any code of theirs.
    - creative_emb: emb_81_32.pkl, or emb_82_1024/ and so on with parts (*.json or part-*) of
      {"anonymous_cid": …, "emb": […]} a line.

    item_feat_dict.json, seq_offsets.pkl and predict_*.jsonl are not read. No real file was at hand: the
    layout is known from public copies of the contest's baseline.
    """

    name = "taac"
    verified = False

    #: Which multimodal embedding: 81 (32 numbers) to 86.
    emb: Literal[81, 82, 83, 84, 85, 86] = 81
    #: Items without a vector: leave them out with their events, count them as zero vectors, or an error.
    missing: Literal["drop", "zero", "error"] = "drop"
    #: Actions that count, such as [1] for clicks; empty takes all.
    actions: tuple[int, ...] = ()

    def load(self) -> Corpus:
        folder = self.folder(EXPECTED)
        for file in ("seq.jsonl", "indexer.pkl"):
            if not (folder / file).is_file():
                raise UsageError(f"there is no file {folder / file}; expected {EXPECTED}")
        creative = _creative_ids(folder / "indexer.pkl")
        log, users = self._events(folder / "seq.jsonl", len(creative))
        occur = np.zeros(len(creative), dtype=bool)
        occur[np.asarray(log.item_ids)] = True
        notes: tuple[str, ...] = ()
        source: tuple[Any, NDArray[np.float32]] | None = None
        if self.embedding == "auto":
            ids, x, told = self._vectors(folder)
            notes += told
            row = _rows(creative, ids)
            lacking = occur & (row < 0)
            if lacking.any() and self.missing == "error":
                first = creative[int(np.flatnonzero(lacking)[0])].as_py()
                raise DataError(
                    f"emb_{self.emb}: {int(lacking.sum()):,} of {int(occur.sum()):,} items of seq.jsonl "
                    "have no "
                    f"vector, first {first!r}; choose --set dataset.missing=drop or zero"
                )
            if self.missing == "drop":
                log = log.about(
                    (row >= 0)[np.asarray(log.item_ids)], f"of items without vector in emb_{self.emb}"
                )
            elif lacking.any():
                notes += (
                    f"{int(lacking.sum()):,} items have no vector in emb_{self.emb}; zero stands there",
                )
            source = row, x
        made = log.sequences()
        items = np.asarray(made.item_ids)
        embeddings = self._embeddings(source, items, made.sequences)
        return Corpus(
            name=folder.resolve().name,
            embeddings=embeddings.x,
            item_ids=np.array(creative.take(pa.array(items)).to_pylist(), dtype=np.str_),
            sequences=made.sequences,
            user_ids=np.array([users[i] for i in np.asarray(made.user_ids).tolist()], dtype=np.str_),
            times=made.times,
            learned_under=embeddings.learned.under,
            learned_from=embeddings.learned.digests,
            notes=(*made.notes, *notes, *embeddings.notes),
        )

    def _embeddings(
        self, source: tuple[Any, NDArray[np.float32]] | None, items: NDArray[np.int64], sequences: Sequences
    ) -> Found:
        if source is None:
            return self.vectors(self.path, [], len(items), texts=None, sequences=sequences)
        row, x = source
        out = np.zeros((len(items), x.shape[1]), dtype=np.float32)
        there = row[items] >= 0
        out[there] = x[row[items][there]]
        return Found(out)

    def _events(self, path: Path, items: int) -> tuple[Log, list[str]]:
        """Every event with an item; users are lines."""
        users: list[str] = []
        columns: tuple[list[int], list[int], list[int]] = ([], [], [])
        size = path.stat().st_size
        with path.open("rb") as file:
            for row, line in enumerate(file):
                if not row % 10_000:
                    report("reading seq.jsonl", file.tell(), size)
                if line.strip():
                    self._take(line, row, path, items, users, columns)
        if not columns[0]:
            raise DataError(
                f"{path.name} holds no event with an item"
                + (f" and action {self.actions}" * bool(self.actions))
            )
        return Log.of(*(pa.array(c, pa.int64()) for c in columns)), users

    def _take(
        self,
        line: bytes,
        row: int,
        path: Path,
        items: int,
        users: list[str],
        columns: tuple[list[int], list[int], list[int]],
    ) -> None:
        """One user's line."""
        try:
            events = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(
                f"{path.name}, row {row} (from 0) is no JSON ({e}); is the file cut off?"
            ) from None
        if not isinstance(events, list) or not all(isinstance(e, list) and len(e) == EVENT for e in events):
            raise DataError(
                f"{path.name}, row {row} (from 0): expected a list of [user, item, user features, item "
                "features, "
                "action, seconds]"
            )
        user = next((str(e[0]) for e in events if e[0]), str(row))
        number = len(users)
        users.append(user)
        for event in events:
            _, item, _, _, action, when = event
            if not item or (self.actions and action not in self.actions):
                continue
            if type(item) is not int or not 1 <= item <= items:
                raise DataError(
                    f"{path.name}, row {row} (from 0): item {item!r} is not in indexer.pkl, which numbers "
                    f"1..{items}"
                )
            if not isinstance(when, (int, float)) or isinstance(when, bool):
                raise DataError(f"{path.name}, row {row} (from 0): the time {when!r} is no number of seconds")
            columns[0].append(number)
            columns[1].append(item - 1)
            columns[2].append(int(when))

    def _vectors(self, folder: Path) -> tuple[pa.Array, Embeddings, tuple[str, ...]]:
        """Creative ids, and their vectors."""
        base = folder / "creative_emb"
        if self.emb == 81:
            return _of_pickle(base / "emb_81_32.pkl", self)
        found = sorted(base.glob(f"emb_{self.emb}_*"))
        found = [p for p in found if p.is_dir()]
        parts = sorted({p for d in found for pattern in ("*.json", "part-*") for p in d.glob(pattern)})
        if len(found) != 1 or not parts:
            raise UsageError(
                f"{base} has {'several folders' if len(found) > 1 else 'no parts below'} "
                f"emb_{self.emb}_*/; expected "
                f"one with *.json or part-*, or another --set dataset.emb=81"
            )
        ids: list[pa.Array] = []
        rows: list[NDArray[np.float32]] = []
        for number, path in enumerate(parts):
            report(f"reading emb_{self.emb}", number, len(parts))
            part_ids, part = _of_part(path)
            if rows and part.shape[1] != rows[0].shape[1]:
                raise DataError(
                    f"{path.name}: vectors of {part.shape[1]} numbers, others have {rows[0].shape[1]}"
                )
            ids.append(part_ids)
            rows.append(part)
        x, notes = finite(np.concatenate(rows), found[0], self.nan)
        return pa.concat_arrays(ids), x, notes


def _creative_ids(path: Path) -> pa.Array:
    """The creative id of every item, in order of the items' numbers."""
    held = safe.unpickle(path)
    items = held.get("i") if type(held) is dict else None
    if type(items) is not dict or not items:
        raise DataError(f'{path.name} has no dict "i" of items; expected {{"i": {{id: number}}, "u": …}}')
    numbers = list(items.values())
    if not all(type(n) is int for n in numbers) or sorted(numbers) != list(range(1, len(numbers) + 1)):
        raise DataError(
            f"{path.name}: the items' numbers are not 1..{len(numbers)}, each once; get the file again"
        )
    names: list[str] = [""] * len(numbers)
    for name, number in items.items():
        if type(name) not in (int, str):
            raise DataError(
                f"{path.name}: the creative id {name!r:.40} is {type(name).__name__}; expected a number"
            )
        names[number - 1] = str(name)
    return pa.array(names, pa.string())


def _rows(wanted: pa.Array, ids: pa.Array) -> NDArray[np.int64]:
    """The row of each wanted id, -1 where there is none; the last of several counts, as a dict has it."""
    place: dict[str, int] = {name: row for row, name in enumerate(ids.to_pylist())}
    return np.array([place.get(name, -1) for name in wanted.to_pylist()], dtype=np.int64)


def _of_pickle(path: Path, dataset: TAAC) -> tuple[pa.Array, Embeddings, tuple[str, ...]]:
    """A dict of vectors by creative id."""
    held = safe.unpickle(path)
    if type(held) is not dict or not held:
        raise DataError(f"{path.name} holds {type(held).__name__}; expected a dict of vectors by creative id")
    rows = []
    width = None
    for key, value in held.items():
        row = np.asarray(value, dtype=np.float32) if type(value) is list and _numbers(value) else value
        if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype.kind not in "fiu":
            raise DataError(f"{path.name}, item {key!r:.40}: expected a vector, found {type(value).__name__}")
        width = len(row) if width is None else width
        if len(row) != width:
            raise DataError(f"{path.name}, item {key!r:.40}: {len(row)} numbers, the first item has {width}")
        rows.append(np.asarray(row, dtype=np.float32))
    x, notes = finite(np.stack(rows), path, dataset.nan)
    return pa.array([str(k) for k in held], pa.string()), x, notes


def _numbers(values: list[Any]) -> bool:
    return all(type(v) in (int, float) for v in values)


def _of_part(path: Path) -> tuple[pa.Array, NDArray[np.float32]]:
    """One part: a JSON object a line. Lines without a vector are left out."""
    table = None
    for kind in (pa.string(), pa.int64()):
        schema = pa.schema([("anonymous_cid", kind), ("emb", pa.list_(pa.float32()))])
        options = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        try:
            table = pajson.read_json(path, pajson.ReadOptions(block_size=1 << 26, use_threads=False), options)
            break
        except (OSError, pa.ArrowException) as e:
            said = str(e).splitlines()[0][:160]
    if table is None:
        raise DataError(
            f"{path.parent.name}/{path.name} cannot be read ({said}); expected lines of "
            '{"anonymous_cid": "…", "emb": [0.1, …]}'
        )
    table = table.filter(table["emb"].is_valid()).combine_chunks()
    lists = table["emb"].combine_chunks()
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    ids = table["anonymous_cid"].cast(pa.string()).combine_chunks()
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    lengths = np.asarray(lists.value_lengths())
    flat = lists.flatten()
    if not len(lists) or ids.null_count or flat.null_count or len(np.unique(lengths)) > 1:
        row = 0 if not len(lists) else int(np.flatnonzero(lengths != lengths[0])[:1].sum())
        raise DataError(
            f"{path.parent.name}/{path.name}, row {row} (from 0, of those with a vector): "
            f"{len(np.unique(lengths))} "
            f"lengths of vectors, {ids.null_count} empty ids, {flat.null_count} empty numbers; expected "
            "the same "
            "number of numbers in every line"
        )
    return ids, np.asarray(flat).reshape(len(lists), -1)
