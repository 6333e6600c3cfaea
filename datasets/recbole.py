"""recbole: RecBole's atomic files: NAME.inter with one event a row, NAME.item with what is known of items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from sidbench.dataset import Corpus
from sidbench.errors import DataError, UsageError
from sidbench.peers import cells
from sidbench.peers.base import Found, NamedFolder, finite
from sidbench.prepare import Log, Steps

EXPECTED = "NAME.inter, and NAME.item"
Core = Annotated[int, Field(ge=1)]


class RecBole(NamedFolder):
    """Atomic files of RecBole: tabs, a header of `name:type`, types token, token_seq, float and float_seq.

    - NAME.inter: user_id:token, item_id:token, timestamp:float, perhaps rating:float, a row an event.
    - NAME.item: item_id:token and whatever is known; token_seq fields are text, a float_seq field is vectors.

    Users and items are joined by their tokens. Events go by time, equal times by the order of the file. Files
    that are split beforehand (NAME.train.inter with item_id_list, numbers for ids) are read by `minionerec`;
    NAME.user, .kg and .link are not read. No real file was at hand: the layout is RecBole's documented one.
    """

    name = "recbole"
    paper = "https://arxiv.org/abs/2011.01731"
    verified = False

    #: The column of users.
    user_field: str = "user_id"
    #: The column of items, in both files.
    item_field: str = "item_id"
    #: The column of times, in seconds.
    time_field: str = "timestamp"
    #: The column of ratings, where `rating` asks for them.
    rating_field: str = "rating"
    #: Fields of NAME.item that make an item's text; empty takes all of type token_seq.
    text: tuple[str, ...] = ()
    #: The field of NAME.item that is an item's title.
    title: str = "title"
    #: Events of items that NAME.item lacks: an error, or dropped and counted.
    unknown: Literal["error", "drop"] = "error"
    #: Events with a lower rating are dropped; 0 keeps all.
    rating: float = 0.0
    #: Users with fewer events are dropped, until all have that many.
    user_core: Core = 1
    #: Items with fewer events are dropped, until all have that many.
    item_core: Core = 1

    def load(self) -> Corpus:
        folder, name = self.located(EXPECTED)
        path = folder / f"{name}.inter"
        events = cells.read_atomic(path)
        items = [cells.field(events, f, "token", path) for f in (self.user_field, self.item_field)]
        for field_name, ids in zip((self.user_field, self.item_field), items, strict=True):
            cells.filled(ids, field_name, path)
        if self.time_field not in events:
            raise DataError(
                f"{path.name} has no column {self.time_field!r}; events need their time. Columns: "
                f"{', '.join(events)}. Name it with --set dataset.time_field=COLUMN"
            )
        times = cells.floats(cells.field(events, self.time_field, "float", path), self.time_field, path)
        ratings = None
        if self.rating:
            ratings = cells.floats(
                cells.field(events, self.rating_field, "float", path), self.rating_field, path
            )
        about = folder / f"{name}.item"
        known = cells.read_atomic(about) if about.is_file() else None
        log = Log.of(items[0], items[1], np.floor(times), ratings)
        log = self._of_known(log, known, about, path)
        steps = Steps(rating=self.rating, user_core=self.user_core, item_core=self.item_core)
        made = steps(log).sequences()
        found, titles = self._vectors(folder, known, about, made.item_ids, made.sequences)
        return Corpus(
            name=name,
            embeddings=found.x,
            item_ids=np.array(made.item_ids.to_pylist(), dtype=np.str_),
            sequences=made.sequences,
            user_ids=np.array(made.user_ids.to_pylist(), dtype=np.str_),
            titles=titles,
            times=made.times,
            learned_under=found.learned.under,
            learned_from=found.learned.digests,
            notes=(*made.notes, *found.notes),
        )

    def names(self, folder: Path) -> set[str]:
        return {p.stem for p in folder.glob("*.inter") if "." not in p.stem}

    def _of_known(self, log: Log, known: Any, about: Path, path: Path) -> Log:
        """Events of items that NAME.item describes."""
        if known is None:
            return log
        ids = cells.field(known, self.item_field, "token", about)
        if len(pc.unique(ids)) < len(ids):
            counts = pc.value_counts(ids)
            twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
            raise DataError(f"{about.name}: item {twice!r} stands twice; keep one row an item")
        there = np.asarray(pc.is_in(log.item_ids, value_set=ids))
        if not there.all() and self.unknown == "error":
            row = int(np.flatnonzero(~there[log.items])[0])
            item = log.item_ids[int(log.items[row])].as_py()
            raise DataError(
                f"{path.name}, row {row} (from 0): item {item!r} is not in {about.name}, nor are "
                f"{int((~there).sum()) - 1:,} others; add them, or drop their events with "
                "--set dataset.unknown=drop"
            )
        return log.about(there, f"of items that {about.name} lacks")

    def _vectors(
        self, folder: Path, known: Any, about: Path, ids: pa.Array, sequences: Any
    ) -> tuple[Found, NDArray[np.str_] | None]:
        """Vectors and titles in the order of `ids`."""
        if known is None:
            return self.vectors(folder, [], len(ids), texts=None, sequences=sequences), None
        row = pc.index_in(ids, value_set=cells.field(known, self.item_field, "token", about))
        titles = None
        if self.title in known:
            titles = np.array(known[self.title][1].take(row).to_pylist(), dtype=np.str_)
        seqs = [n for n, (kind, _) in known.items() if kind == "float_seq"]
        named = [self.embedding] if self.embedding in seqs else seqs if self.embedding == "auto" else []
        if len(named) > 1:
            raise UsageError(
                f"{about.name} has several fields of vectors, {', '.join(named)}; name one with "
                f"--set dataset.embedding={named[0]}"
            )
        if named:
            x, notes = finite(float_rows(known[named[0]][1], named[0], about), about, self.nan)
            return Found(x[np.asarray(row)], notes), titles
        fields = list(self.text) or [n for n, (kind, _) in known.items() if kind == "token_seq"]
        texts = None
        if fields:
            columns = [
                cells.field(known, f, known[f][0] if f in known else "token_seq", about) for f in fields
            ]
            texts = pc.binary_join_element_wise(*columns, " ").take(row).to_pylist()
        return self.vectors(folder, [], len(ids), texts=texts, sequences=sequences), titles


def float_rows(column: pa.Array, name: str, path: Path) -> NDArray[np.float64]:
    """Cells of numbers with spaces between, as rows of one length."""
    lists = pc.split_pattern_regex(pc.utf8_trim_whitespace(column), r"\s+")
    lengths = np.asarray(pc.list_value_length(lists))
    if len(np.unique(lengths)) > 1:
        row = int(np.flatnonzero(lengths != lengths[0])[0])
        raise DataError(
            f"{path.name}, row {row} (from 0): {name} has {lengths[row]} numbers, row 0 has {lengths[0]}; "
            "every item needs as many"
        )
    try:
        return np.asarray(lists.flatten().cast(pa.float64())).reshape(len(column), -1)
    except pa.ArrowInvalid as e:
        raise DataError(f"{path.name}: {name} holds what is no number ({str(e).splitlines()[0]})") from None
