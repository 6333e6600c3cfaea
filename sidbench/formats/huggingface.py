"""hf-tokens: the tokens that a Hugging Face tokenizer needs added, with the items written in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np

from sidbench.errors import DataError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import lists, safe, text
from sidbench.formats.codes import from_lists


class HuggingFace(Format):
    """Tokens such as <a_12> for `tokenizer.add_tokens`, and every item as a list of them, in one JSON."""

    name = "hf-tokens"
    system = "Hugging Face"
    file = "tokens.json"
    endings = ("tokens.json",)
    bases = (0, 1)

    #: What codes are counted from in the tokens.
    base: Literal[0, 1] = 0
    #: all: a token for every code that a level has; used: for those that items have.
    tokens: Literal["all", "used"] = "all"

    def read(self, path: Path, how: How) -> Found:
        found = lists.of_file(path, after_tokens=True)
        if found is not None and _are_known(found):
            return from_lists(found.held, path.name, found.ids)
        held = safe.read_json(path, pairs=True, nan=True)
        expected = 'expected {"added_tokens": ["<a_0>", …], "items": {"7": ["<a_0>", "<b_3>"]}}'
        parts = dict(held) if isinstance(held, safe.Pairs) else {}
        tokens, items = parts.get("added_tokens"), parts.get("items")
        if not isinstance(tokens, list) or not isinstance(items, safe.Pairs) or not items:
            raise DataError(f"{path.name} has no added_tokens and items; {expected}")
        if len(set(map(str, tokens))) < len(tokens):
            raise DataError(f"{path.name}: added_tokens holds a token twice; export it again")
        known = set(map(str, tokens))
        for row, (key, sid) in enumerate(items):
            if (
                isinstance(sid, list)
                and (odd := next((t for t in sid if str(t) not in known), None)) is not None
            ):
                raise DataError(
                    f"{path.name}: row {row} (item {key!r}) has {str(odd)[:40]!r}, which is not among "
                    "added_tokens; add it there, or repair the row"
                )
        return from_lists([sid for _, sid in items], path.name, [key for key, _ in items])

    def write(self, export: Export, path: Path) -> None:
        codes, sizes = export.sids.codes, export.sids.sizes
        before = [f"<{letter}_" for letter in text.letters(len(sizes))]
        spell = text.words(sizes, before, ">", self.base)
        added: list[str] = []
        for level, words in enumerate(spell):
            column = codes[:, level]
            kept = np.unique(column[column >= 0]) if self.tokens == "used" else np.arange(sizes[level])
            added += words.take(kept).to_pylist()
        quoted = text.words(sizes, [f'"{b}' for b in before], '>"', self.base)
        rest = path.with_name(path.name + ".part")
        text.write_json_lists(rest, export.names, codes, quoted)
        items = rest.read_bytes()
        rest.unlink()
        head = f'{{"added_tokens": {json.dumps(added)},\n"items": '
        path.write_bytes(head.encode() + items + b"}\n")


def _are_known(found: lists.Lists) -> bool:
    """Whether the tokens are texts, each there once, and those of the items are among them."""
    import pyarrow as pa

    values = found.held.values
    if not pa.types.is_dictionary(values.type) or len(set(map(str, found.tokens))) < len(found.tokens):
        return False
    return set(values.dictionary.to_pylist()) <= set(map(str, found.tokens))
