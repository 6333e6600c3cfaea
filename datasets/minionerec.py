"""minionerec: a dataset as MiniOneRec publishes or makes it, with its own rows for validation and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidbench.dataset import Corpus, Sequences
from sidbench.errors import DataError, UsageError
from sidbench.formats import safe
from sidbench.peers import cells
from sidbench.peers.base import NamedFolder
from sidbench.peers.items import Texts, numbered, read_item_json
from sidbench.peers.rows import PARTS, Rows, assembled, check_items, joined

EXPECTED = "NAME.item.json, and CSVs below valid/ and test/ or NAME.valid.inter and NAME.test.inter"
SID = r"^(?:<[^<>\s]+>)+$"


class MiniOneRec(NamedFolder):
    """A folder as MiniOneRec's scripts leave it: items, vectors, and rows of (history, next item).

    - NAME.item.json: {"0": {"title", "description", "brand", "categories"}}; NAME.index.json: SIDs, which the
      tokenizer `precomputed` reads; NAME.emb-*.npy: row i is item i.
    - train, valid and test/NAME*.csv with history_item_id, item_id and user_id, or NAME.train.inter and so on
      (tabs; user_id:token, item_id_list:token_seq, item_id:token). Folders below are searched as well.

    The rows are kept as they are: the protocol `published` asks each one's item_id after its history, at
    most ten items long in published files. Cells that Python wrote are matched, never evaluated; one that is
    no list is refused. Tried on the released Office_Products and Industrial_and_Scientific files, which have
    neither training rows nor vectors.
    """

    name = "minionerec"
    paper = "https://arxiv.org/abs/2510.24431"

    #: Fields of NAME.item.json that make an item's text, where vectors are made from text.
    text: tuple[str, ...] = ("title", "description")

    def load(self) -> Corpus:
        folder, name = self.located(EXPECTED)
        about = self._items(folder, name)
        files = self._files(folder, name)
        index = _one(folder, f"{name}.index.json")
        if about is None and index is None and not _all(folder, f"{name}.emb-*.npy"):
            raise DataError(f"{folder} holds neither {name}.item.json nor vectors; expected {EXPECTED}")
        parts, users, notes = _read_parts(files)
        sids = None if index is None else _joined_sids(index)
        count = len(about) if about is not None else None if sids is None else len(sids)
        rows = joined(parts)
        own = _all(folder, f"{name}.emb-*.npy")
        places = {PARTS.index(k): cells.named(v) for k, v in files.items()}
        if count is not None:
            check_items(rows, count, places, f"{name}.item.json")
        sequences, published, said = assembled(rows, len(users))
        made = self.vectors(
            folder,
            own,
            count,
            texts=None if about is None else about.texts,
            sequences=published.train,
            under="published",
        )
        x = made.x
        check_items(rows, len(x), places, "the file of vectors")
        return Corpus(
            name=name,
            embeddings=x,
            item_ids=np.arange(len(x)),
            sequences=sequences,
            user_ids=users,
            titles=None if about is None else about.titles,
            published=published,
            learned_under=made.learned.under,
            learned_from=made.learned.digests,
            notes=(*(about.notes if about else ()), *made.notes, *notes, *_other_sids(files, sids), *said),
        )

    def names(self, folder: Path) -> set[str]:
        ends = (".item.json", ".index.json", ".test.inter")
        return {p.name.removesuffix(end) for end in ends for p in _all(folder, f"*{end}")}

    def _items(self, folder: Path, name: str) -> Texts | None:
        path = _one(folder, f"{name}.item.json")
        return None if path is None else read_item_json(path, self.text)

    def _files(self, folder: Path, name: str) -> dict[str, Path]:
        """The file of each part: a CSV below the folder of its name, else the atomic file."""
        found: dict[str, Path] = {}
        for part in PARTS:
            csvs = sorted({*folder.glob(f"{part}/{name}*.csv"), *folder.glob(f"*/{part}/{name}*.csv")})
            path = csvs[0] if csvs else _one(folder, f"{name}.{part}.inter")
            if len(csvs) > 1:
                raise UsageError(
                    f"{folder} holds several files of {part} rows: {csvs[0]}, {csvs[1]}; keep one"
                )
            if path is not None:
                found[part] = path
        if "test" not in found:
            raise DataError(f"{folder} has no test rows of {name}; expected {EXPECTED}")
        return found


def _all(folder: Path, pattern: str) -> list[Path]:
    """Files of this name here and one folder down."""
    return sorted({*folder.glob(pattern), *folder.glob(f"*/{pattern}")})


def _one(folder: Path, pattern: str) -> Path | None:
    found = _all(folder, pattern)
    if len(found) > 1:
        raise UsageError(
            f"{pattern} stands several times in {folder}: {', '.join(map(str, found))}; keep one"
        )
    return found[0] if found else None


def _read_parts(files: dict[str, Path]) -> tuple[list[Rows], NDArray[np.str_], tuple[str, ...]]:
    """The rows of every file; users are one user by their id, in order of their first row."""
    held = {part: _read_rows(path) for part, path in files.items()}
    names = pa.concat_arrays([user for user, _, _ in held.values()]).dictionary_encode()
    numbers = names.indices.to_numpy().astype(np.int64)
    parts, start, repeats = [], 0, 0
    for part, (user, histories, items) in held.items():
        parts.append(
            Rows(
                numbers[start : start + len(user)],
                histories,
                items,
                np.full(len(user), PARTS.index(part), dtype=np.int8),
            )
        )
        start += len(user)
        row = np.repeat(np.arange(len(items)), histories.lengths)
        repeats += len(np.unique(row[histories.items == items[row]])) if part == "test" else 0
    users = np.array(names.dictionary.to_pylist(), dtype=np.str_)
    notes = (f"{repeats:,} test targets stand in their own history already",) if repeats else ()
    return parts, users, notes


def _read_rows(path: Path) -> tuple[pa.Array, Sequences, NDArray[np.int32]]:
    """User ids as the CSVs write them (A and a number), histories, targets."""
    if path.suffix == ".csv":
        table = cells.read_table(path)
        user = cells.filled(cells.column(table, "user_id", path), "user_id", path)
        histories = cells.integer_lists(cells.column(table, "history_item_id", path), "history_item_id", path)
        items = cells.integers(cells.column(table, "item_id", path), "item_id", path)
        for name, pattern in (
            ("history_item_sid", cells.TEXTS),
            ("history_item_title", cells.TEXTS),
            ("item_sid", SID),
        ):
            if name in table.column_names:
                held = cells.column(table, name, path)
                good = pc.match_substring_regex(held, pattern)
                what = "a SID such as <a_1><b_2>" if name == "item_sid" else "a list of text in quotes"
                cells.require(
                    held, good, name, path, f"{what} (MiniOneRec runs eval on lists, this does not)"
                )
    else:
        atomic = cells.read_atomic(path)
        number = cells.filled(cells.field(atomic, "user_id", "token", path), "user_id", path)
        user = pc.binary_join_element_wise("A", number, "")
        histories = cells.split_numbers(
            cells.field(atomic, "item_id_list", "token_seq", path), " ", "item_id_list", path
        )
        items = cells.integers(cells.field(atomic, "item_id", "token", path), "item_id", path)
    if not histories.lengths.all():
        row = int(np.argmin(histories.lengths))
        raise DataError(
            f"{cells.named(path)}, row {row} (from 0, below the header): the history is empty; a row asks "
            f"for the item after one or more. {(histories.lengths == 0).sum():,} rows are so: leave them out"
        )
    if (items > np.iinfo(np.int32).max).any():
        raise DataError(
            f"{cells.named(path)}, row {int(np.argmax(items))}: item {items.max()} is no item number"
        )
    return user, histories, items.astype(np.int32)


def _joined_sids(path: Path) -> pa.Array:
    """The SID of every item as one text, as the CSVs write it."""
    held = safe.read_json(path, pairs=True)
    if not isinstance(held, safe.Pairs):
        raise DataError(f'{path.name} is no object of SIDs; expected {{"0": ["<a_12>", "<b_3>"]}}')
    order = numbered([key for key, _ in held], path)
    for key, tokens in held:
        if not (isinstance(tokens, list) and tokens and all(isinstance(t, str) for t in tokens)):
            raise DataError(
                f'{path.name}, item {key}: {tokens!r:.40} is no SID; expected ["<a_12>", "<b_3>"]'
            )
    return pa.array(["".join(held[i][1]) for i in order], pa.string())


def _other_sids(files: dict[str, Path], sids: pa.Array | None) -> tuple[str, ...]:
    """A note where the rows were written with other SIDs than index.json holds; neither is used here."""
    if sids is None:
        return ()
    other = 0
    for path in files.values():
        if path.suffix != ".csv":
            continue
        table = cells.read_table(path)
        if "item_sid" in table.column_names:
            items = cells.integers(cells.column(table, "item_id", path), "item_id", path)
            other += int((~np.asarray(pc.equal(sids.take(pa.array(items)), table["item_sid"]))).sum())
    said = f"{other:,} rows of the CSVs name another SID for their target than index.json: export them anew"
    return (said,) if other else ()
