"""minionerec-files: all that MiniOneRec trains on: index.json, info/*.txt and CSVs with SIDs filled in."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.dataset import Corpus, Targets
from sidbench.errors import DataError, UsageError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import safe, text
from sidbench.formats.codes import rows_of
from sidbench.formats.index_json import MiniOneRec
from sidbench.sids import Codes

#: Codes of a SID that MiniOneRec's tasks over items join, whatever there are.
JOINED = 3
#: What its scripts have a name in words for; any other stops sft.py and evaluate.py with a KeyError.
NAMED = ("Industrial_and_Scientific", "Office_Products", "Toys_and_Games", "Sports", "Books")
#: What would end a line of info/*.txt, or a part of it, for one reader or another.
BREAKS = r"[\t\r\n\x0b\x0c\x1c-\x1e\x{85}\x{2028}\x{2029}]+"


@dataclass(frozen=True, eq=False)
class Items:
    """Row i of `codes`, `sids` (text, arrow) and `titles` is item number i of the files."""

    codes: Codes
    sids: Any
    titles: NDArray[np.str_]
    #: The number of each item of the corpus.
    number: NDArray[np.int64]
    #: The owner's ids, where they are not the numbers themselves.
    names: list[str] | None


class MiniOneRecFiles(Format):
    """A folder for MiniOneRec's sft.py, rl.py and evaluate.py: index/, info/, train/, valid/ and test/.

    Rows are the split that the data were published with, else leave-one-out; training rows are every item
    after the `window` before it. Items are numbered 0 to N - 1; other ids stand in NAME.item2id. The manifest
    says what MiniOneRec's loaders make of SIDs that are not three tokens long.
    """

    name = "minionerec-files"
    system = "MiniOneRec"
    file = "folder/"
    bases = (0, 1)
    paper = "https://arxiv.org/abs/2510.24431"
    needs_corpus = True

    #: What codes are counted from in the files.
    base: Literal[0, 1] = 0
    #: The dataset's name in file names; empty takes the data's own. MiniOneRec's scripts know five names.
    dataset: str = ""
    #: What follows the name; MiniOneRec's scripts look for train/NAME*11.csv.
    ending: str = "_5_2016-10-2018-11"
    #: The most items of a history.
    window: Annotated[int, Field(ge=1)] = 10

    def write(self, export: Export, path: Path) -> None:
        corpus = export.corpus
        if corpus is None:
            raise UsageError(f"{self.name} writes histories: name the data that they are of (--dataset)")
        name = self.dataset or corpus.name
        if not name or not name.isprintable() or set(name) & set("/\\:*?[]") or name[0] == ".":
            raise UsageError(
                f"{name!r} is no name for files; set {self.name}.dataset, such as Office_Products"
            )
        if export.places() is None and (odd := text.odd_name(export.names, r"[\t\r\n]")) is not None:
            raise UsageError(f"{self.name} takes no tab and no line's end in an id, and one is {odd!r}")
        items = self._items(export, corpus)
        parts, _ = split_rows(corpus, self.window)
        for sub in ("index", "info", *parts):
            (path / sub).mkdir(parents=True, exist_ok=True)
        numbered = export.sids.replace(codes=items.codes, item_ids=np.arange(len(items.codes)))
        MiniOneRec(base=self.base).write(Export(numbered, export.own), path / "index" / f"{name}.index.json")
        about = {str(i): {"title": t, "description": ""} for i, t in enumerate(items.titles.tolist())}
        held = json.dumps(about, indent=2, ensure_ascii=False)
        (path / "index" / f"{name}.item.json").write_text(held + "\n", encoding="utf-8")
        stem = name + self.ending
        write_info(path / "info" / f"{stem}.txt", items)
        for part, rows in parts.items():
            write_rows(path / part / f"{stem}.csv", rows, user_names(corpus.user_ids), items)
        if items.names is not None:
            lines = (f"{own}\t{number}\n" for number, own in enumerate(items.names))
            (path / f"{name}.item2id").write_text("".join(lines), encoding="utf-8")

    def read(self, path: Path, how: How) -> Found:
        """The SIDs of index/NAME.index.json, by the owner's ids where NAME.item2id has them."""
        remedy = "expected a folder as MiniOneRec keeps it, with index/NAME.index.json"
        if not path.is_dir():
            raise DataError(f"{path.name} is a file; {remedy}. Read index.json alone as minionerec")
        held = sorted((path / "index").glob("*.index.json*"))
        if not held:
            raise DataError(f"{path.name} has no index/NAME.index.json; {remedy}")
        if len(held) > 1:
            raise DataError(
                f"{path.name} has SIDs of several datasets: {', '.join(f.name for f in held)}; give the one "
                f"that is meant, as minionerec: {held[0]}"
            )
        found = MiniOneRec().read(held[0], how)
        names = path / f"{held[0].name.partition('.index.json')[0]}.item2id"
        if not names.is_file() or found.ids is None:
            return found
        return replace(found, ids=_own_ids(found.ids, names))

    def states(self, export: Export) -> dict[str, Any]:
        """Which split the rows are, and what MiniOneRec's own code does with these SIDs."""
        assert export.corpus is not None
        parts, split = split_rows(export.corpus, self.window)
        name = self.dataset or export.corpus.name
        return {
            "dataset": name,
            "split": split,
            "rows": {part: len(rows) for part, rows in parts.items()},
            "descriptions": "empty in item.json: put your own there, where you have them",
            "minionerec": what_happens(export.sids.codes, name, len(parts["train"])),
        }

    def _items(self, export: Export, corpus: Corpus) -> Items:
        """All items by their number: the id where ids are 0 to N - 1, else the row of the SIDs."""
        order = export.places()
        names = None
        if order is None:
            order, names = np.arange(len(export.sids)), export.names
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        number = place[rows_of(export.names, len(order), corpus.item_ids, "these SIDs")]
        codes, sizes = export.sids.codes[order], export.sids.sizes
        before = [f"<{letter}_" for letter in text.letters(len(sizes))]
        spell = text.words(sizes, before, ">", self.base)
        titles = np.array([f"Item_{i}" for i in range(len(order))], dtype=np.str_)
        if corpus.titles is not None:
            own = np.full(len(order), "", dtype=corpus.titles.dtype)
            own[number] = corpus.titles
            titles = np.where(own != "", own, titles)
        return Items(codes, text.joined(text.spelled(codes, spell), ""), titles, number, names)


def _own_ids(numbers: list[str], path: Path) -> list[str]:
    """The owner's id of each item, out of NAME.item2id."""
    own: dict[str, str] = {}
    for row, line in enumerate(safe.read_text(path).removesuffix("\n").split("\n")):
        name, tab, number = line.rpartition("\t")
        if not tab or number in own:
            raise DataError(
                f"{path.name}: row {row} is {line[:60]!r}; expected an id, a tab and the item's number, each "
                "number once. Repair the row"
            )
        own[number] = name
    if missing := [n for n in numbers if n not in own]:
        raise DataError(
            f"{path.name} has no id for item {missing[0]} ({len(missing):,} such items); give each item of "
            "index.json a row"
        )
    return [own[n] for n in numbers]


def what_happens(codes: Codes, name: str, training: int) -> list[str]:
    """What MiniOneRec's own code does with SIDs like these, in sentences."""
    lengths = (codes >= 0).sum(axis=1)
    shortest, longest, n = int(lengths.min()), int(lengths.max()), len(codes)
    whole, cut = len(np.unique(codes, axis=0)), len(np.unique(codes[:, :JOINED], axis=0))
    said = ["its loaders run eval() on the lists of the CSVs; here they hold quoted text and numbers alone"]
    if longest > JOINED:
        many = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        said.append(
            f"SIDs have {many} tokens, and data.py joins the first {JOINED} of index.json "
            f"alone where it pairs SIDs with titles: there {n:,} items have {cut:,} SIDs, not {whole:,}; the "
            "CSVs, and info/*.txt that the constrained search of evaluate.py reads, hold all tokens. For one "
            "spelling drop the suffix, or resolve with a resolver that adds no level"
        )
    if shortest < JOINED:
        said.append(
            f"{int((lengths < JOINED).sum()):,} items have under {JOINED} tokens; data.py leaves them out "
            "of the tasks that pair SIDs with titles"
        )
    if whole < n:
        said.append(
            f"{n - whole:,} of {n:,} items repeat another's SID; calc.py compares SIDs as text, so each of "
            "them counts as a hit"
        )
    if name not in NAMED:
        said.append(
            f"its scripts know the categories {', '.join(NAMED)}; {name!r} stops them with a KeyError: set "
            "dataset to one of these, or add the name to category_dict"
        )
    if not training:
        said.append("there are no training rows: sft.py has nothing to learn from")
    return said


def split_rows(corpus: Corpus, window: int) -> tuple[dict[str, Targets], str]:
    """The rows of each file, and which split they are."""
    if corpus.published is not None:
        found, split = corpus.published, "published"
        train, valid, test = found.train, found.valid, found.test
    else:
        from sidbench.protocol import leave_one_out

        made = leave_one_out(corpus)
        train, valid, test, split = made.train, made.valid, made.test, made.protocol
    at = np.setdiff1d(np.arange(len(train.items)), train.offsets[:-1])
    learned = Targets(train.row_of(at), train.before(at), train.items[at])
    rows = {"train": learned, "valid": valid, "test": test}
    return {part: cut(found, window) for part, found in rows.items()}, split


def cut(rows: Targets, window: int) -> Targets:
    """Histories with their latest items alone."""
    h = rows.histories
    from_end = np.repeat(h.offsets[1:], h.lengths) - np.arange(len(h.items))
    return Targets(rows.users, h.where(from_end <= window), rows.items)


def user_names(ids: NDArray[Any]) -> NDArray[np.str_]:
    """A and a number, as MiniOneRec writes users; text stays as it is."""
    plain = ids.astype(np.str_)
    return np.char.add("A", plain) if ids.dtype.kind in "iu" else plain


def write_info(path: Path, items: Items) -> None:
    """A line an item: SID, title, number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    titles = pc.replace_substring_regex(pa.array(items.titles.tolist()), BREAKS, " ")
    numbers = pa.array(np.arange(len(titles))).cast(pa.string())
    lines = pc.binary_join_element_wise(items.sids, titles, numbers, "\t")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines.to_pylist())


def write_rows(path: Path, rows: Targets, users: NDArray[np.str_], items: Items) -> None:
    """The CSV of one part, its lists as Python writes them."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    history, target = pa.array(items.number[rows.histories.items]), items.number[rows.items]
    offsets = pa.array(rows.histories.offsets, pa.int64())

    def lists(values: Any) -> list[str]:
        joined = pc.binary_join(pa.LargeListArray.from_arrays(offsets, values), ", ")
        made: list[str] = pc.binary_join_element_wise("[", joined, "]", "").to_pylist()
        return made

    titles = pa.array([repr(t) for t in items.titles.tolist()])
    sids = pc.binary_join_element_wise("'", items.sids, "'", "")
    frame = pd.DataFrame(
        {
            "user_id": users[rows.users],
            "history_item_title": lists(titles.take(history)),
            "item_title": items.titles[target],
            "history_item_id": lists(history.cast(pa.string())),
            "item_id": target,
            "history_item_sid": lists(sids.take(history)),
            "item_sid": items.sids.take(pa.array(target)).to_pylist(),
        }
    )
    frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")
