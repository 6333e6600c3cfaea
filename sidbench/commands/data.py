"""sidbench data check: what is understood of a person's data, before anything is trained on it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sidbench import registry
from sidbench.dataset import Corpus, Sequences
from sidbench.embed import Learned, learned_beside
from sidbench.embed.collaborative import training_part
from sidbench.errors import DataError, UsageError
from sidbench.files.events import FEWEST
from sidbench.files.ids import as_numpy
from sidbench.files.items import Items
from sidbench.files.reading import Sources, event_facts, moment
from sidbench.files.survey import Held, Survey, survey
from sidbench.folder import OwnFiles
from sidbench.protocol import check_learned
from sidbench.settings import parse_set

#: The dataset that two files make.
FILES = "files"
#: Codes a level of most methods: a smaller catalogue cannot fill them.
CODES = 256


@dataclass
class Found:
    """What was understood, part by part; `errors` keep a run from starting, `notes` do not."""

    items: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)
    sequences: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Everything, as a script reads it."""
        parts = {"items": self.items, "vectors": self.vectors, "sequences": self.sequences}
        return {
            "ready": not self.errors and bool(self.sequences),
            **{name: part or None for name, part in parts.items()},
            "notes": self.notes,
            "errors": self.errors,
        }


def check(spec: str | None, own: dict[str, str | None], sets: list[str], *, as_json: bool) -> int:
    """Read everything once, say what it is; 0 where it can be used, 1 where it cannot."""
    given = {k: v for k, v in own.items() if v is not None}
    if spec is not None and "items" in given:
        raise UsageError(f"give a dataset ({spec}) or --items, not both")
    if spec is None and "items" not in given:
        raise UsageError("nothing to check: give a folder or dataset, or --items FILE --sequences FILE")
    params = {key: value for target, key, value in (parse_set(f"dataset.{s}") for s in sets)}
    dataset = registry.make_dataset(spec if spec is not None else FILES, {**given, **params})
    console = Console(stderr=as_json, highlight=False)
    with console.status("reading…"):
        found = (
            of_files(dataset.sources(), dataset.params().get("ties", "file"))
            if isinstance(dataset, OwnFiles)
            else of_corpus(dataset.load())
        )
    if as_json:
        sys.stdout.write(json.dumps(found.facts(), indent=2) + "\n")
    else:
        show(found, console)
    return 1 if found.errors else 0


def of_files(sources: Sources, ties: str) -> Found:
    """Items, vectors and sequences one after the other: what one lacks does not hide the next."""
    found = Found()
    items = _items(sources, found)
    if items is None:
        return found
    if sources.sequences is None:
        found.notes.append("no sequences: tokenizers can be fitted (sidbench fit), nothing can be evaluated")
    else:
        try:
            events = sources.read_events(items)
            found.sequences, notes = event_facts(events, len(items.ids), ties)
            found.notes += notes
            _judge(found)
            if items.vectors is not None:
                known = learned_beside(items.vectors.path)
                _judge_learned(
                    found, known, events.ordered(ties)[0], as_numpy(items.ids), items.facts["file"]
                )
        except DataError as e:
            found.errors.append(str(e))
    try:
        sources.check_names()
    except DataError as e:
        found.errors.append(str(e))
    return found


def _items(sources: Sources, found: Found) -> Items | None:
    """The catalogue, without its vectors where those cannot be used."""
    try:
        items = sources.open_items()
    except DataError as e:
        found.errors.append(str(e))
        try:
            items = replace(sources, embedding=sources.embedding or "none").open_items()
        except DataError:
            return None
    try:
        looked = items.look(keep=False)
        if looked is not None:
            found.vectors = looked.facts()
    except DataError as e:
        found.errors.append(str(e))
        found.vectors = {} if items.survey is None else items.survey.facts()
    if items.vectors is None and sources.embedding and not found.errors:
        words = ", ".join(items.facts["words"]) or "no words"
        found.notes.append(f"vectors are to be made by {sources.embedding} of {words}")
        if not items.facts["words"] and sources.embedding != "collaborative":
            found.errors.append(f"{items.facts['file']} has no column of words for {sources.embedding}")
    found.notes += items.notes
    found.items = {**items.facts, "items": len(items.ids), "ids": said_of_ids(as_numpy(items.ids[:1]))}
    if len(items.ids) < CODES:
        found.notes.append(
            f"{len(items.ids):,} items are fewer than the {CODES} codes of a level: run with fewer "
            f"(--set all.codebook_size={max(2, 1 << len(items.ids).bit_length() - 2)})"
        )
    return items


def of_corpus(corpus: Corpus) -> Found:
    """What any other dataset gives."""
    looked, _ = survey(Held(corpus.embeddings))
    s, met = corpus.sequences, np.bincount(corpus.sequences.items, minlength=len(corpus))
    found = Found(
        items={"file": corpus.name, "items": len(corpus), "ids": said_of_ids(corpus.item_ids)},
        vectors=looked.facts(),
        sequences={
            "file": corpus.name,
            "users": len(s),
            "kept": len(s.items),
            "items met": int((met > 0).sum()),
            "items never met": int((met == 0).sum()),
            "length": {
                "shortest": int(s.lengths.min()) if len(s) else 0,
                "mean": round(float(s.lengths.mean()), 2),
                "longest": int(s.lengths.max(initial=0)),
            },
            "short users": int((s.lengths < FEWEST).sum()),
            "times": None
            if corpus.times is None
            else {"first": moment(int(corpus.times.min())), "last": moment(int(corpus.times.max()))},
        },
        notes=list(corpus.notes),
    )
    _judge(found)
    known = Learned(corpus.learned_under, corpus.learned_from)
    _judge_learned(found, known, s, corpus.item_ids, corpus.name)
    return found


def _judge_learned(found: Found, known: Learned, whole: Sequences, ids: NDArray[Any], where: str) -> None:
    """Vectors that were learned of interactions must have been learned of those that train."""
    if not known.under:
        return
    found.notes.append(
        f"the vectors were learned from what trains under {known.under}: for that protocol alone"
    )
    try:
        check_learned(known.digests, training_part(whole), ids, where)
    except UsageError as e:
        found.errors.append(str(e))


def said_of_ids(ids: NDArray[Any]) -> str:
    """What ids are, with one to look at."""
    return f"{'text' if ids.dtype.kind == 'U' else 'numbers'} such as {ids[0].item()!r}"


def _judge(found: Found) -> None:
    """What a run would stumble over."""
    if found.sequences["users"] == found.sequences["short users"]:
        found.errors.append(
            f"no user has {FEWEST} events or more: leave-one-out has nothing to ask; "
            "are user and item the right columns?"
        )


def show(found: Found, console: Console) -> None:
    """The screen: a line of facts each, then what to know, then whether it can be used."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, lines in (
        ("items", _item_lines(found.items)),
        ("vectors", _vector_lines(found.vectors)),
        ("sequences", _event_lines(found.sequences)),
    ):
        for i, line in enumerate(lines):
            table.add_row(name if i == 0 else "", escape(line))
    console.print(table)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    for error in found.errors:
        console.print(Text(f"error: {error}", style="red"), soft_wrap=True)
    if not found.errors:
        what = "ready for sidbench run" if found.sequences else "ready for sidbench fit"
        console.print(Text(f"✓ {what}", style="green"))


def _file_line(facts: dict[str, Any]) -> list[str]:
    if "columns" not in facts:
        return [facts["file"]]
    pairs = ", ".join(f"{role} = {name}" for role, name in facts["columns"].items())
    others = f"; not used: {', '.join(facts['others'][:8])}" if facts["others"] else ""
    more = f" and {len(facts['others']) - 8} more" if len(facts["others"]) > 8 else ""
    return [f"{facts['file']} ({facts['kind']}): {pairs}{others}{more}"]


def _item_lines(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return ["not understood"]
    rows = f" of {facts['rows']:,} rows" if facts.get("rows", facts["items"]) != facts["items"] else ""
    joined = [f"vectors of {facts['embeddings']}, {facts['joined']}"] if "joined" in facts else []
    return [*_file_line(facts), *joined, f"{facts['items']:,} items{rows}, ids are {facts['ids']}"]


def _vector_lines(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return ["none"]
    found = Survey(**facts)
    length = "length one" if found.unit else f"lengths {found.shortest:.3g} to {found.longest:.3g}"
    return [
        f"{found.rows:,} of {found.dim} dimensions ({found.dtype}), {length}",
        f"{found.not_finite:,} with NaN or infinity, {found.zero:,} zero, {found.constant:,} constant, "
        f"{found.repeated:,} repeat an earlier one",
    ]


def _event_lines(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return ["none"]
    length, times = facts["length"], facts["times"]
    when = f", from {times['first']} to {times['last']}" if times else ", without times"
    return [
        *_file_line(facts),
        f"{facts['users']:,} users, {facts['kept']:,} events{when}",
        f"{length['shortest']:,} to {length['longest']:,} events a user, {length['mean']:,} on average; "
        f"{facts['items met']:,} items are met, {facts['items never met']:,} never",
    ]
