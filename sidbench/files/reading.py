"""A person's files understood: what they hold in numbers and words, and the corpus that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sidbench.dataset import Corpus
from sidbench.embed import learned_as, learned_beside, vectors_for
from sidbench.errors import DataError
from sidbench.files import tables
from sidbench.files.columns import Columns
from sidbench.files.events import FEWEST, Events, read_events
from sidbench.files.ids import as_numpy
from sidbench.files.items import Items, Policy, open_items


@dataclass(frozen=True)
class Sources:
    """Where everything lies, and what is to be made of it."""

    items: Path
    sequences: Path | None
    embeddings: Path | None = None
    columns: Columns = field(default_factory=Columns)
    policy: Policy = field(default_factory=Policy)
    ties: Literal["file", "shuffle"] = "file"
    #: How vectors are made of words where there are none.
    embedding: str = ""
    dim: int | None = None
    dtype: str | None = None
    #: Whether a row an event may come without a time.
    timeless: bool = True

    def open_items(self) -> Items:
        """Ids, words and where the vectors lie."""
        return open_items(
            self.items,
            self.embeddings,
            self.columns,
            self.policy,
            without_vectors=bool(self.embedding),
            dim=self.dim,
            dtype=self.dtype,
        )

    def read_events(self, items: Items) -> Events:
        """What users did, with the items that are kept."""
        if self.sequences is None:
            raise DataError(
                f"{self.items}: there are no sequences beside it; give --sequences FILE with user and item"
            )
        return read_events(
            self.sequences,
            items.ids,
            self.columns,
            drop=self.policy.unusable == "drop",
            timeless=self.timeless,
            whole=int(items.facts["rows"]),
        )

    def check_names(self) -> None:
        """A name given for a column that no file has is a mistake, whichever file was meant."""
        if not self.columns.given:
            return
        files = {"items": self.items, "sequences": self.sequences, "embeddings": self.embeddings}
        self.columns.check_used(
            {
                f: tables.names(p)
                for f, p in files.items()
                if p is not None and tables.is_table(p) and (f == "sequences" or tables.has_columns(p))
            }
        )

    def corpus(self, name: str, *, say_columns: bool = True) -> Corpus:
        """Everything read, as what a benchmark runs on."""
        self.check_names()
        items = self.open_items()
        items.look(keep=True)
        events = self.read_events(items)
        sequences, times, notes = events.ordered(self.ties)
        made: list[str] = []
        if items.vectors is None:
            texts = items.texts
            embeddings, about = vectors_for(
                self.embedding,
                texts=[""] * len(items.ids) if texts is None else texts,
                sequences=sequences,
                items=len(items.ids),
                where=items.facts["file"],
                dim=self.dim,
            )
            made = [
                f"vectors are made by {self.embedding} of {', '.join(items.facts['words']) or 'sequences'}"
            ]
            made += about.get("notes", [])
            learned = learned_as(about)
        else:
            embeddings = items.load()
            learned = learned_beside(items.vectors.path)
        said = [columns_said(items.facts), columns_said(events.facts)] if say_columns else []
        titles, categories = items.titles, items.categories
        return Corpus(
            name=name,
            embeddings=embeddings,
            item_ids=as_numpy(items.ids),
            sequences=sequences,
            user_ids=as_numpy(events.user_ids),
            titles=titles,
            categories=categories,
            times=times,
            learned_under=learned.under,
            learned_from=learned.digests,
            notes=(*said, *items.notes, *made, *events.notes, *notes),
        )


def columns_said(facts: dict[str, Any]) -> str:
    """Which column was taken for what."""
    pairs = ", ".join(f"{role} = {name}" for role, name in facts["columns"].items())
    return f"{facts['file']}: {pairs}"


def event_facts(events: Events, items: int, ties: str) -> tuple[dict[str, Any], list[str]]:
    """The numbers of sequences, and what people should know of them."""
    sequences, times, notes = events.ordered(ties)
    lengths = sequences.lengths
    met = np.bincount(sequences.items, minlength=items)
    short = int((lengths < FEWEST).sum())
    facts = {
        **events.facts,
        "users": len(sequences),
        "kept": len(sequences.items),
        "items met": int((met > 0).sum()),
        "items never met": int((met == 0).sum()),
        "length": {
            "shortest": int(lengths.min()) if len(lengths) else 0,
            "mean": round(float(lengths.mean()), 2) if len(lengths) else 0.0,
            "longest": int(lengths.max(initial=0)),
        },
        "short users": short,
        "repeated events": events.again(),
        "times": None
        if times is None
        else {"first": moment(int(times.min())), "last": moment(int(times.max()))},
    }
    said = [*events.notes, *notes]
    if short:
        said.append(
            f"{short:,} users have fewer than {FEWEST} events: they train, leave-one-out asks nothing of them"
        )
    if facts["repeated events"]:
        said.append(f"{facts['repeated events']:,} events repeat another one in user, item and time: kept")
    return facts, said


def moment(seconds: int) -> str:
    """A time as a date where it can be one."""
    try:
        return str(np.datetime64(seconds, "s")) if 0 <= seconds < 32_503_680_000 else str(seconds)
    except ValueError:
        return str(seconds)
