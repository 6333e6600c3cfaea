"""lc-rec: a dataset as LC-Rec and LETTER lay it out: one list of items for each user."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sidbench.dataset import Corpus
from sidbench.errors import DataError
from sidbench.formats import safe
from sidbench.peers.base import NamedFolder
from sidbench.peers.items import listed, numbered, read_item_json

EXPECTED = "NAME.inter.json, and NAME.item.json or NAME.emb-*.npy"


class LCRec(NamedFolder):
    """A folder as LC-Rec and LETTER have it: NAME.inter.json, NAME.item.json, NAME.emb-*.npy, NAME*.pt.

    - NAME.inter.json: {"0": [3, 1, 4], …}, a user's items, oldest first; NAME.item.json: {"0": {"title": …}}.
    - NAME.emb-*.npy: row i is item i. Collaborative vectors (NAME-32d-sasrec.pt, a tensor) are read where
      `embedding` names the file. NAME.index.json tells the items where nothing else does; its SIDs are for
      the tokenizer `precomputed`.

    Tried on LETTER's Beauty (inter.json and index.json). No real .item.json, .npy or .pt of theirs was at
    hand: their layout is known from the code that reads them.
    """

    name = "lc-rec"
    paper = "https://arxiv.org/abs/2311.09049"

    #: Fields of NAME.item.json that make an item's text, where vectors are made from text.
    text: tuple[str, ...] = ("title", "description")

    def load(self) -> Corpus:
        folder, name = self.located(EXPECTED)
        inter = folder / f"{name}.inter.json"
        held = safe.read_json(inter, pairs=True)
        if not isinstance(held, safe.Pairs) or not held:
            raise DataError(
                f'{inter.name} is no object of lists; expected {{"0": [3, 1, 4], …}}, a user each'
            )
        users = [user for user, _ in held]
        if len(set(users)) < len(users):
            twice = next(u for i, u in enumerate(users) if u in set(users[:i]))
            raise DataError(f"{inter.name}: user {twice!r} stands twice; expected one list a user")
        sequences = listed([items for _, items in held], users, inter)
        own = sorted(folder.glob(f"{name}.emb-*.npy"))
        about = folder / f"{name}.item.json"
        texts = read_item_json(about, self.text) if about.is_file() else None
        count = len(texts) if texts is not None else self._counted(folder, name)
        made = self.vectors(
            folder, own, count, texts=None if texts is None else texts.texts, sequences=sequences
        )
        x = made.x
        bad = np.flatnonzero(sequences.items >= len(x))
        if len(bad):
            row = int(sequences.row_of(bad[:1])[0])
            raise DataError(
                f"{inter.name}, user {users[row]}: item {sequences.items[bad[0]]} is not in the catalogue of "
                f"{len(x):,}, nor are {len(np.unique(sequences.items[bad])) - 1:,} others. Are the files of "
                "one dataset?"
            )
        numbers = all(u.isascii() and u.isdigit() and len(u) < 19 for u in users)
        return Corpus(
            name=name,
            embeddings=x,
            item_ids=np.arange(len(x)),
            sequences=sequences,
            user_ids=np.array([int(u) for u in users] if numbers else users),
            titles=None if texts is None else texts.titles,
            learned_under=made.learned.under,
            learned_from=made.learned.digests,
            notes=(
                "no timestamps: the order of the file stands for time",
                *(texts.notes if texts else ()),
                *made.notes,
            ),
        )

    def names(self, folder: Path) -> set[str]:
        return {p.name.removesuffix(".inter.json") for p in folder.glob("*.inter.json")}

    def _counted(self, folder: Path, name: str) -> int | None:
        """How many items index.json has, where it is there."""
        index = folder / f"{name}.index.json"
        if not index.is_file():
            return None
        held = safe.read_json(index, pairs=True)
        if not isinstance(held, safe.Pairs):
            raise DataError(f'{index.name} is no object of SIDs; expected {{"0": ["<a_12>", "<b_3>"]}}')
        return len(numbered([key for key, _ in held], index))
