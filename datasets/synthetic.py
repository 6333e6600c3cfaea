"""Synthetic: a catalogue with a known category tree, and users for whom both content and order matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sidbench.dataset import Corpus, Dataset, Embeddings, Sequences, cached_rows, code_fingerprint

Floats = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scale:
    """How large a world is. Only `on_disk` worlds touch the disk."""

    items: int
    users: int
    tree: tuple[int, int, int]
    dim: int
    on_disk: bool = False


SCALES = {
    "tiny": Scale(items=300, users=400, tree=(4, 3, 2), dim=16),
    "default": Scale(items=2_000, users=5_000, tree=(6, 5, 4), dim=64),
    "large": Scale(items=100_000, users=50_000, tree=(16, 16, 20), dim=64),
    "huge": Scale(items=1_000_000, users=200_000, tree=(32, 32, 40), dim=128, on_disk=True),
}

# The catalogue. Shares of items that repeat another's vector exactly, or all but.
EXACT, NEAR, NEAR_NOISE = 0.02, 0.04, 0.02
# How far apart siblings lie at each level of the tree, and items inside a leaf; text encoders put a
# common direction into every vector, so cosines between unrelated items are well above zero.
SPREAD, WITHIN, COMMON = (1.0, 0.8, 0.7), 0.6, 0.8
ITEM_ZIPF, LEAF_ZIPF = 0.9, 0.4
# The users. What the next item is: a habitual successor of the last one; another item of the current
# interest; the same after the interest drifted along the category graph or swung back to the other
# interest; or anything popular.
FOLLOW, STAY, DRIFT, SWING = 0.20, 0.46, 0.18, 0.12
HABITS = (0.6, 0.3, 0.1)
SHORTEST, LONGEST, MEAN_EXTRA = 5, 30, 6.0
BLOCK = 65_536
# When: two years from the first of January 2024, in seconds.
OPENED, YEARS = 1_704_067_200, 2 * 365 * 86_400


class Synthetic(Dataset):
    """An embedded world: category tree, Zipf popularity, duplicates, drifting users. No download."""

    name = "synthetic"
    variant = "size"

    #: Items: 300, 2,000, 100,000 or 1,000,000.
    size: Literal["tiny", "default", "large", "huge"] = "default"
    #: Another seed is another world.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def load(self) -> Corpus:
        scale = SCALES[self.size]
        catalogue = Catalogue(scale, self.seed)
        if scale.on_disk:
            key = f"{self.name}-{self.size}-{self.seed}-{code_fingerprint(__file__)}"
            x = cached_rows(key, (scale.items, scale.dim), catalogue.fill)
        else:
            x = np.empty((scale.items, scale.dim), dtype=np.float32)
            catalogue.fill(x)
        sequences = walk(catalogue, scale.users, self.seed)
        return Corpus(
            name=self.name if self.size == "default" else f"{self.name}-{self.size}",
            embeddings=x,
            item_ids=np.arange(scale.items),
            sequences=sequences,
            user_ids=np.arange(scale.users),
            titles=catalogue.titles(),
            categories=catalogue.categories,
            times=moments(sequences.lengths, self.seed),
        )


class Catalogue:
    """Items, their place in the tree, how popular they are and what tends to follow them."""

    def __init__(self, scale: Scale, seed: int) -> None:
        self.scale, self.seed = scale, seed
        rng = np.random.default_rng([seed, 1])
        n, leaves = scale.items, int(np.prod(scale.tree))
        # Rows are originals first, then their copies; the suite permutes the rows of every dataset.
        copies = int(n * (EXACT + NEAR))
        self.exact = int(n * EXACT)
        originals = n - copies
        share = zipf(rng, leaves, LEAF_ZIPF)
        # Every leaf has an item: a walk that enters it must find something.
        leaf = np.concatenate([np.arange(leaves), rng.choice(leaves, originals - leaves, p=share)])
        rng.shuffle(leaf)
        # Uneven, so that some items are copied several times: groups of more than two exist.
        self.source = (rng.random(copies) ** 4 * originals).astype(np.int64)
        self.leaf = np.concatenate([leaf, leaf[self.source]]).astype(np.int32)
        _, middle, low = scale.tree
        self.categories = np.stack([self.leaf // (middle * low), self.leaf // low, self.leaf], axis=1)

        weight = zipf(rng, n, ITEM_ZIPF)
        self.shelf: NDArray[np.int32] = np.argsort(self.leaf, kind="stable").astype(np.int32)
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.shelf])])
        self.start = np.searchsorted(self.leaf[self.shelf], np.arange(leaves + 1))
        self.next_leaf: NDArray[np.int32] = neighbours(rng, scale.tree)
        self.successors = self._habits(rng)

    def pick(self, rng: Rng, leaf: NDArray[np.int32]) -> NDArray[np.int32]:
        """An item of each leaf, the popular ones more often."""
        low, high = self.cumulative[self.start[leaf]], self.cumulative[self.start[leaf + 1]]
        at = np.searchsorted(self.cumulative, low + rng.random(len(leaf)) * (high - low), side="right") - 1
        items: NDArray[np.int32] = self.shelf[np.clip(at, self.start[leaf], self.start[leaf + 1] - 1)]
        return items

    def pick_any(self, rng: Rng, count: int) -> NDArray[np.int32]:
        """Items of the whole catalogue, the popular ones more often."""
        at = np.searchsorted(self.cumulative, rng.random(count) * self.cumulative[-1], side="right") - 1
        items: NDArray[np.int32] = self.shelf[np.minimum(at, len(self.shelf) - 1)]
        return items

    def fill(self, x: Embeddings) -> None:
        """Write every item's vector into x, a block at a time: unit norm, a hierarchy plus noise."""
        rng = np.random.default_rng([self.seed, 2])
        top, middle, low = self.scale.tree
        dim = self.scale.dim
        # A spectrum that falls off: few directions carry most of the variance, as in text embeddings.
        shape = 1 / np.sqrt(1 + np.arange(dim) / 8)
        shape = rng.permutation(shape * np.sqrt(1 / (shape**2).sum()))
        centres = COMMON * unit(rng.standard_normal(dim) * shape)[None]
        for spread, children in zip(SPREAD, (top, middle, low), strict=True):
            step = rng.standard_normal((len(centres) * children, dim)) * shape
            centres = np.repeat(centres, children, axis=0) + spread * step
        originals = len(x) - len(self.source)
        for start in range(0, originals, BLOCK):
            leaf = self.leaf[start : min(start + BLOCK, originals)]
            noise = rng.standard_normal((len(leaf), dim)) * shape
            x[start : start + len(leaf)] = unit(centres[leaf] + WITHIN * noise)
        for start in range(0, len(self.source), BLOCK):
            source = self.source[start : start + BLOCK]
            y = x[source]
            near = np.arange(start, start + len(source)) >= self.exact
            y[near] = unit(y[near] + NEAR_NOISE * rng.standard_normal((int(near.sum()), dim)) * shape)
            x[originals + start : originals + start + len(source)] = y

    def titles(self) -> NDArray[np.str_]:
        """Text made of category words, a maker and a size; exact copies share theirs."""
        rng = np.random.default_rng([self.seed, 3])
        top, middle, low = self.scale.tree
        words = made_up_words(rng, top * (1 + middle * (1 + low)) + 64)
        tops, words = words[:top], words[top:]
        middles, words = words[: top * middle], words[top * middle :]
        leaves, makers = words[: top * middle * low], words[top * middle * low :]
        maker = rng.integers(len(makers), size=len(self.leaf))
        size = rng.integers(1, 100, size=len(self.leaf)) * 10
        originals = len(self.leaf) - len(self.source)
        maker[originals:] = maker[self.source]
        size[originals : originals + self.exact] = size[self.source[: self.exact]]
        rows = zip(maker.tolist(), *self.categories.T.tolist(), size.tolist(), strict=True)
        return np.array([f"{makers[m]} {leaves[c]} {middles[b]} {tops[a]} {s}" for m, a, b, c, s in rows])

    def _habits(self, rng: Rng) -> NDArray[np.int32]:
        """What follows each item for most people: half in its own leaf, half in a leaf the graph leads to."""
        columns = []
        for _ in HABITS:
            leaf = np.where(rng.random(len(self.leaf)) < 0.5, self.leaf, self.lead(rng, self.leaf))
            columns.append(self.pick(rng, leaf))
        return np.stack(columns, axis=1)

    def lead(self, rng: Rng, leaf: NDArray[np.int32]) -> NDArray[np.int32]:
        """A leaf that the category graph leads to from each leaf."""
        return self.next_leaf[leaf, rng.integers(self.next_leaf.shape[1], size=len(leaf))]


def walk(catalogue: Catalogue, users: int, seed: int) -> Sequences:
    """What every user did, a block of users at a time."""
    parts = []
    lengths = []
    for block, start in enumerate(range(0, users, BLOCK)):
        rng = np.random.default_rng([seed, 4, block])
        count = min(BLOCK, users - start)
        length = np.minimum(SHORTEST + rng.geometric(1 / (MEAN_EXTRA + 1), count) - 1, LONGEST)
        history = histories(catalogue, rng, -np.sort(-length))
        # Longest first while walking (the active users are then a prefix); shuffled for the reader.
        order = rng.permutation(count)
        length, history = -np.sort(-length)[order], history[order]
        parts.append(history[np.arange(LONGEST) < length[:, None]])
        lengths.append(length)
    offsets = np.zeros(users + 1, dtype=np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return Sequences(np.concatenate(parts), offsets)


def moments(lengths: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """When every user did it, in seconds of Unix time: each between two moments of the same two years.

    A stream of random numbers of their own: the rest of the world is the same with and without times.
    """
    rng = np.random.default_rng([seed, 5])
    first, last = np.sort(OPENED + rng.integers(0, YEARS, (2, len(lengths))), axis=0)
    at = np.repeat(first, lengths) + (
        np.repeat(last - first, lengths) * rng.random(int(lengths.sum()))
    ).astype(np.int64)
    user = np.repeat(np.arange(len(lengths)), lengths)
    return at[np.lexsort((at, user))]


def histories(catalogue: Catalogue, rng: Rng, lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """(users, LONGEST) items; a user keeps two interests, one of them active. `lengths` descend."""
    users = len(lengths)
    history = np.full((users, LONGEST), -1, dtype=np.int32)
    history[:, 0] = catalogue.pick_any(rng, users)
    active = catalogue.leaf[history[:, 0]]
    other = catalogue.leaf[catalogue.pick_any(rng, users)]
    bounds = np.cumsum([FOLLOW, STAY, DRIFT, SWING])
    for t in range(1, int(lengths[0])):
        live = int(np.searchsorted(-lengths, -t, side="left"))
        act, oth, last = active[:live], other[:live], history[:live, t - 1]
        kind = np.searchsorted(bounds, rng.random(live), side="right")
        swing = kind == 3
        act[swing], oth[swing] = oth[swing], act[swing]
        drift = kind == 2
        act[drift] = catalogue.lead(rng, act[drift])
        item = catalogue.pick(rng, act)
        follow = kind == 0
        habit = np.searchsorted(np.cumsum(HABITS)[:-1], rng.random(int(follow.sum())), side="right")
        item[follow] = catalogue.successors[last[follow], habit]
        jump = kind == 4
        item[jump] = catalogue.pick_any(rng, int(jump.sum()))
        # People seldom take the same thing twice: they look on in the same leaf, then next door.
        for turn in range(6):
            again = np.flatnonzero((history[:live, :t] == item[:, None]).any(axis=1))
            item[again] = catalogue.pick(rng, act[again] if turn < 3 else catalogue.lead(rng, act[again]))
        history[:live, t] = item
        active[:live] = catalogue.leaf[item]
    return history


def zipf(rng: Rng, count: int, power: float) -> Floats:
    """Shares that fall with a random rank."""
    share = (1.0 + rng.permutation(count)) ** -power
    return np.asarray(share / share.sum())


def neighbours(rng: Rng, tree: tuple[int, int, int]) -> NDArray[np.int32]:
    """(leaves, 2): a leaf of the same parent, and one of the same grandparent, that each leaf leads to."""
    top, middle, low = tree
    leaf = np.arange(top * middle * low)
    parent, cousin = leaf // low, leaf // (middle * low)
    sibling = parent * low + (leaf % low + rng.integers(1, max(low, 2), len(leaf))) % low
    kin = cousin * middle * low + rng.integers(0, middle * low, len(leaf))
    return np.stack([sibling, kin], axis=1).astype(np.int32)


def unit(x: Floats) -> Floats:
    """Rows of length one."""
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def made_up_words(rng: Rng, count: int) -> list[str]:
    """Distinct pronounceable words."""
    syllables = np.array([c + v for c in "bdfgklmnprstvz" for v in "aeiou"])
    number = rng.choice(len(syllables) ** 3, count, replace=False)
    base = len(syllables)
    return ["".join(syllables[[k // base**2, k // base % base, k % base]]) for k in number.tolist()]
