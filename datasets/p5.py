"""p5: sequences as P5 and S3-Rec write them: a user and their items on a line, both counted from 1."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sidbench.dataset import Corpus
from sidbench.errors import DataError
from sidbench.formats import safe
from sidbench.peers.base import NamedFolder
from sidbench.peers.cells import split_numbers
from sidbench.peers.items import text_lines

EXPECTED = "sequential_data.txt (P5), or NAME.txt (S3-Rec)"
ASIN = re.compile(r"""['"]asin['"]: ?['"]([^'"]+)['"]""")


class P5(NamedFolder):
    """sequential_data.txt of P5, or NAME.txt of S3-Rec: lines of `user item item …`, oldest first.

    - Users and items count from 1, and item i is row i - 1 of vectors (.npy in the folder).
    - datamaps.json and meta.json.gz of P5, where both are there, give titles and text (title, brand,
      categories); their lines are read as literals, never evaluated. review_splits.pkl and the like are not
      read.

    Tried on S3-Rec's published Beauty.txt. No real P5 download was at hand: that its sequential_data.txt has
    the same layout is known from code that reads it, as are datamaps.json and meta.json.gz.
    """

    name = "p5"
    paper = "https://arxiv.org/abs/2203.13366"

    def load(self) -> Corpus:
        folder, name = self.located(EXPECTED)
        path = folder / f"{name}.txt"
        lines = pa.array(text_lines(path), pa.string())
        if not len(lines):
            raise DataError(f"{path.name} is empty; expected lines of `user item item …`")
        rows = split_numbers(lines, " ", "a line", path)
        short = np.flatnonzero(rows.lengths < 2)
        if len(short):
            raise DataError(
                f"{path.name}, row {short[0]} (from 0): {lines[int(short[0])].as_py()[:60]!r} has no items; "
                "expected `user item item …`, numbers with spaces between"
            )
        users = rows.items[rows.offsets[:-1]]
        if len(np.unique(users)) < len(users):
            values, counts = np.unique(users, return_counts=True)
            twice = values[counts > 1][0]
            raise DataError(f"{path.name}: user {twice} stands on two rows; expected one line a user")
        is_item = np.ones(len(rows.items), dtype=bool)
        is_item[rows.offsets[:-1]] = False
        found = rows.where(is_item)
        if found.items.min() < 1:
            row = int(found.row_of(np.flatnonzero(found.items < 1)[:1])[0])
            raise DataError(
                f"{path.name}, row {row} (from 0) names item 0; P5 and S3-Rec count from 1. Files that count "
                "from 0 are read as lc-rec (NAME.inter.json) or as your own (sidbench run --sequences)"
            )
        sequences = type(found)(found.items - np.int32(1), found.offsets)
        names, titles, texts = self._about(folder)
        count = max(int(found.items.max()), len(names or ()))
        if names is not None and count > len(names):
            raise DataError(
                f"{path.name} names item {count}, datamaps.json knows {len(names):,}; of one dataset?"
            )
        own = sorted(folder.glob("*.npy"))
        made = self.vectors(folder, own, count, texts=texts, sequences=sequences)
        return Corpus(
            name=name if name != "sequential_data" else folder.resolve().name,
            embeddings=made.x,
            item_ids=np.arange(1, count + 1),
            sequences=sequences,
            user_ids=users.astype(np.int64),
            titles=titles,
            learned_under=made.learned.under,
            learned_from=made.learned.digests,
            notes=("no timestamps: the order of the file stands for time", *made.notes),
        )

    def names(self, folder: Path) -> set[str]:
        """P5's one file, else every file of sequences of S3-Rec."""
        if (folder / "sequential_data.txt").is_file():
            return {"sequential_data"}
        return {p.stem for p in folder.glob("*.txt") if not p.stem.endswith(("_sample", "_negative"))}

    def _about(self, folder: Path) -> tuple[list[str] | None, Any, list[str] | None]:
        """The owner's ids in order of their numbers, and titles and texts where meta.json is there."""
        maps = folder / "datamaps.json"
        meta = next((p for p in (folder / "meta.json.gz", folder / "meta.json") if p.is_file()), None)
        if not maps.is_file():
            return None, None, None
        held = safe.read_json(maps)
        numbers = held.get("item2id") if isinstance(held, dict) else None
        if not isinstance(numbers, dict):
            raise DataError(f"{maps.name} has no object item2id; get the file again, or remove it")
        names = sorted(numbers, key=lambda n: int(numbers[n]))
        if [int(numbers[n]) for n in names] != list(range(1, len(names) + 1)):
            raise DataError(f"{maps.name}: item2id must number the items 1..{len(names)}, each once")
        if meta is None:
            return names, None, None
        about = read_meta(meta, set(names))
        titles = [str(about.get(n, {}).get("title", "")) for n in names]
        texts = [text_of(about.get(n, {})) for n in names]
        return names, np.array(titles, dtype=np.str_), texts


def read_meta(path: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Amazon's metadata of these items: a dict a line, as JSON or as Python writes it."""
    found: dict[str, dict[str, Any]] = {}
    for row, line in enumerate(text_lines(path)):
        match = ASIN.search(line)
        if match is None or match[1] not in wanted:
            continue
        try:
            value = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError(
                f"{path.name}, row {row} (from 0): {line[:60]!r} is no dict of text and numbers; remove the "
                "line, or the file (vectors then come from elsewhere: --set dataset.embedding=…)"
            ) from None
        if isinstance(value, dict):
            found[match[1]] = value
    return found


def text_of(about: dict[str, Any]) -> str:
    """Title, brand and categories in one line."""
    categories = about.get("categories") or []
    names = (
        [c for path in categories if isinstance(path, list) for c in path]
        if isinstance(categories, list)
        else []
    )
    parts = [about.get("title"), about.get("brand"), " ".join(map(str, names))]
    return " ".join(str(p) for p in parts if p)
