"""A residual vector quantizer for training: its codebooks, how they are chosen from, taught and revived.

Every loss is summed over the dimensions and over the levels and averaged over the rows, so that its weight
means the same for any batch and catalogue. What is left over at a level is what came in less the codeword,
which is held constant: the commitment of every level reaches the encoder. The estimator acts once, on the
sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.errors import UsageError
from sidbench.kit import estimators, residual
from sidbench.kit.balanced import balanced_kmeans
from sidbench.kit.estimators import Estimator
from sidbench.kit.kmeans import kmeans
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.network import unit_rows
from sidbench.kit.shares import share
from sidbench.kit.sinkhorn import sinkhorn
from sidbench.sids import Codes

Start = Literal["kmeans", "balanced", "random"]

ITERS = 10  # of the k-means that codebooks start from: training goes on from there


@dataclass(frozen=True)
class Choices:
    """What a quantizer is made of; plugins offer these as parameters."""

    estimator: Estimator = "straight-through"
    temperature: tuple[float, float] = (1.0, 0.05)  # of `gumbel`, from the first step to the last
    epsilon: tuple[float, ...] = ()  # of Sinkhorn's assignment in training, a level each; 0 is the nearest
    sinkhorn_iters: int = 50
    update: Literal["gradient", "ema"] = "gradient"
    decay: float = 0.99
    distance: Literal["euclidean", "cosine"] = "euclidean"
    normalize: bool = False  # what is left over is brought to length one at every level
    shared: bool = False
    simvq: bool = False
    residual_gradient: Literal["full", "zero"] = "full"

    def check(self, sizes: Sequence[int], method: str = "") -> None:
        """Refuse what does not go together, in the words of the method's parameters."""
        of = f"{method}." if method else ""
        if self.shared and len(set(sizes)) > 1:
            raise UsageError(
                f"{of}shared = true needs one size for all levels; codebook_size = {tuple(sizes)}: give one "
                "number, or set shared = false"
            )
        if self.epsilon and len(self.epsilon) != len(sizes):
            raise UsageError(
                f"{of}sinkhorn names {len(self.epsilon)} epsilons for {len(sizes)} levels; give one number "
                "for all levels or one for each"
            )
        if self.simvq and self.update == "ema":
            raise UsageError(
                f"{of}simvq = true learns its codebooks by gradient alone; set update = gradient, or "
                "simvq = false"
            )
        if self.estimator == "gumbel" and any(self.epsilon):
            raise UsageError(
                f"{of}estimator = gumbel draws its codewords itself; set sinkhorn = 0, or take another "
                "estimator"
            )


@dataclass(frozen=True, eq=False)
class Quantized:
    """What became of a batch of latents."""

    codes: Tensor  # (rows, levels)
    out: Tensor  # (rows, dimensions): the sum of the codewords, with the estimator's gradient
    commitment: Tensor
    codebook: Tensor


class ResidualVQ(nn.Module):
    """Levels of codebooks, each for what the levels before left over."""

    ready: Tensor

    def __init__(self, sizes: Sequence[int], dim: int, choices: Choices, rng: torch.Generator) -> None:
        super().__init__()
        self.sizes, self.dim, self.choices = tuple(sizes), dim, choices
        choices.check(self.sizes)
        own = self.sizes[:1] if choices.shared else self.sizes
        learned = choices.update == "gradient" and not choices.simvq
        self.tables = nn.ParameterList(
            nn.Parameter(torch.randn(size, dim, generator=rng) / dim**0.5, requires_grad=learned)
            for size in own
        )
        # SimVQ (https://arxiv.org/abs/2411.02038): fixed tables, seen through one learned map a table.
        self.turns = nn.ParameterList(nn.Parameter(torch.eye(dim)) for _ in own if choices.simvq)
        self.frozen = False
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        for i, size in enumerate(own):
            self.register_buffer(f"used{i}", torch.zeros(size, dtype=torch.int64))
            if choices.update == "ema":
                self.register_buffer(f"mass{i}", torch.full((size,), 1.0 / size))
                self.register_buffer(f"sums{i}", self.tables[i].detach() / size)

    # ------------------------------------------------------------------------------------------ training

    def forward(self, z: Tensor, progress: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            return self._forward(z.float(), progress)

    def _forward(self, z: Tensor, progress: Tensor) -> Quantized:
        pick = self.choices
        r = base = F.normalize(z, dim=1) if pick.normalize else z
        total = torch.zeros_like(z)
        commitment = codebook = z.new_zeros(())
        codes = []
        seen: list[tuple[Tensor, Tensor]] = []
        books = [self._book(table) for table in range(len(self.tables))]
        if pick.estimator == "gumbel" and pick.update == "ema":
            books = [book.clone() for book in books]  # the tables move before the gradient is taken
        for level in range(len(self.sizes)):
            if level and pick.normalize:
                r = F.normalize(r, dim=1)
            book = books[self._table(level)]
            if pick.estimator == "gumbel" and self.training:
                chosen, q = self._drawn(r, book, progress)
            else:
                chosen = self._chosen(r.detach(), book.detach(), level)
                q = F.embedding(chosen, book)
            fixed = q.detach()
            commitment = commitment + (r - fixed).square().sum(dim=1).mean()
            if q.requires_grad and book.requires_grad:
                codebook = codebook + (r.detach() - q).square().sum(dim=1).mean()
            if self.training:
                seen.append((chosen, r.detach()))
            # A relaxed draw has a gradient of its own, at every level; a codeword that was chosen has none.
            r = r - (q if pick.estimator == "gumbel" else fixed)
            if pick.residual_gradient == "zero":
                r = r.detach()
            total = total + q
            codes.append(chosen)
        if self.training:
            self._count(seen)
        if pick.estimator != "gumbel":
            total = estimators.ON_SUM[pick.estimator](base, total)
        return Quantized(torch.stack(codes, dim=1), total, commitment, codebook)

    def _table(self, level: int) -> int:
        return 0 if self.choices.shared else level

    def _book(self, table: int) -> Tensor:
        book: Tensor = self.tables[table]
        return torch.mm(book, self.turns[table].T) if self.choices.simvq else book

    def _squares(self, r: Tensor, book: Tensor) -> Tensor:
        """Squared distances, of directions where the distance is the cosine."""
        if self.choices.distance == "cosine":
            r, book = F.normalize(r, dim=1), F.normalize(book, dim=1)
        lengths = book.square().sum(dim=1)
        if self.choices.distance == "cosine":  # a codeword of zeros is at a right angle to everything
            lengths = lengths.masked_fill(lengths == 0, 1.0)
        own = r.square().sum(dim=1, keepdim=True) + lengths
        return torch.addmm(own, r, book.T, alpha=-2)

    def _chosen(self, r: Tensor, book: Tensor, level: int) -> Tensor:
        if self.training and self.choices.epsilon and self.choices.epsilon[level] > 0:
            squares = self._squares(share().whole(r), book)  # a plan is one of all rows of a batch
            # Costs between -1 and 1, so that epsilon means the same at every level.
            low, high = squares.min(), squares.max()
            costs = (2 * squares - (high + low)) / (high - low).clamp_min(1e-12)
            plan = sinkhorn(costs, self.choices.epsilon[level], self.choices.sinkhorn_iters)
            return share().mine(plan).argmax(dim=1)
        if self.choices.distance == "cosine":
            return (r @ F.normalize(book, dim=1).T).argmax(dim=1)
        return torch.addmm(0.5 * book.square().sum(dim=1), r, book.T, alpha=-1).argmin(dim=1)

    def _drawn(self, r: Tensor, book: Tensor, progress: Tensor) -> tuple[Tensor, Tensor]:
        """The relaxed draw: gradient to the rows and to all codewords through the weights."""
        first, last = self.choices.temperature
        temperature = first * (last / first) ** progress
        squares = self._squares(r, book)
        size = len(book)
        noise = share().drawn(len(r), lambda n: estimators.gumbel_noise(torch.Size((n, size)), squares))
        weights = estimators.gumbel(squares, noise, temperature)
        return weights.argmax(dim=1), weights @ book

    @torch.no_grad()
    def _count(self, seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        """What was chosen for what, level by level; a shared table follows all its levels at once."""
        used = [self.get_buffer(f"used{self._table(level)}") for level in range(len(seen))]
        chosen = [
            torch.zeros_like(total).scatter_add_(0, codes, torch.ones_like(codes))
            for total, (codes, _) in zip(used, seen, strict=True)
        ]
        for total, now in zip(used, share().sum(*chosen), strict=True):
            total += now
        if self.choices.update == "gradient" or self.frozen:
            return
        found = [part for total, one in zip(used, seen, strict=True) for part in _sums(*one, len(total))]
        found = share().sum(*found)
        counts, sums = found[::2], found[1::2]
        rows = share().of(len(seen[0][1]))
        if self.choices.shared:
            rows *= len(seen)
            counts, sums = [sum(counts[1:], counts[0])], [sum(sums[1:], sums[0])]
        for table, (count, gained) in enumerate(zip(counts, sums, strict=True)):
            self._follow(table, count / rows, gained / rows)

    def _follow(self, table: int, share: Tensor, gained: Tensor) -> None:
        book, mass, sums = (
            self.tables[table],
            self.get_buffer(f"mass{table}"),
            self.get_buffer(f"sums{table}"),
        )
        mass.lerp_(share, 1 - self.choices.decay)
        sums.lerp_(gained, 1 - self.choices.decay)
        # A code that nothing chose for long keeps its place.
        alive = mass > 1e-9
        book.copy_(torch.where(alive[:, None], sums / mass.clamp_min(1e-9)[:, None], book))

    def freeze(self, frozen: bool) -> None:
        """Codebooks stay as they are until this is called again."""
        self.frozen = frozen
        learned = self.turns if self.choices.simvq else self.tables
        learned.requires_grad_(not frozen and self.choices.update == "gradient")

    @torch.no_grad()
    def codes(self, z: Tensor) -> Tensor:
        """The greedy codes of a batch (in evaluation), near enough for curves; `encode` is exact."""
        found: Quantized = self(z, z.new_ones(()))
        return found.codes

    # --------------------------------------------------------------------------- the start, and revival

    def begin(self, z: Floats, seed: int, how: Start) -> None:
        """Codebooks from the latents of (a sample of) the catalogue, unless they are `ready` already."""
        if not self.ready and how != "random":
            r = unit_rows(z) if self.choices.normalize else z
            device = str(self.ready.device)
            pool = []
            for level, size in enumerate(self.sizes):
                if level and self.choices.normalize:
                    r = unit_rows(r)
                pool.append(r)
                centers, labels = self._clusters(r, size, seed + level, how, device)
                if not self.choices.shared:
                    self._put(level, centers, labels)
                r = r - centers[labels]
            if self.choices.shared:  # one book for what is left over at every level
                self._put(0, *self._clusters(np.concatenate(pool), self.sizes[0], seed, how, device))
        self.ready.fill_(True)

    def _clusters(self, r: Floats, size: int, seed: int, how: Start, device: str) -> tuple[Floats, Index]:
        rows = unit_rows(r) if self.choices.distance == "cosine" else r
        if how == "balanced":
            low, high = len(rows) // size, -(-len(rows) // size)
            even = balanced_kmeans(rows, size, low, high, iters=ITERS, seed=seed, device=device)
            centers, labels = even.centers, even.labels
        else:
            found = kmeans(rows, size, iters=ITERS, seed=seed, device=device)
            centers, labels = found.centers, found.labels
        if self.choices.distance == "cosine":  # clusters of directions, codewords at their members' length
            members = np.bincount(labels, minlength=size)
            length = np.bincount(labels, np.sqrt(np.square(r).sum(axis=1)), size) / np.maximum(members, 1)
            centers = unit_rows(centers) * length[:, None].astype(np.float32)
        return centers, labels

    @torch.no_grad()
    def _put(self, table: int, centers: Floats, labels: Index) -> None:
        book = torch.from_numpy(centers).to(self.tables[table].device)
        self.tables[table].copy_(book)
        if self.choices.update == "ema":
            share = np.bincount(labels, minlength=len(centers)) / len(labels)
            mass = self.get_buffer(f"mass{table}")
            mass.copy_(torch.from_numpy(share))
            self.get_buffer(f"sums{table}").copy_(book * mass[:, None])

    def adopt(self, books: Sequence[Floats]) -> None:
        """Codebooks from elsewhere, as they are."""
        for level, book in enumerate(books):
            self._put(level, book, np.arange(len(book)))
        self.ready.fill_(True)

    def fading(self, below: float) -> bool:
        """Whether `revive` has anything to do; counts begin anew where it has not."""
        counts = [self.get_buffer(f"used{table}") for table in range(len(self.tables))]
        if bool(torch.stack([(used < below * used.sum() / len(used)).any() for used in counts]).any()):
            return True
        for used in counts:
            used.zero_()
        return False

    @torch.no_grad()
    def revive(self, z: Tensor, below: float, rng: torch.Generator) -> Tensor:
        """Codes chosen less than `below` times the mean since the last call move onto rows of these latents.

        Rows are drawn by their squared error, so that a code comes to be where one is missing. In evaluation.
        Returns how many codes moved; FloatingPointError where latents are no numbers.
        """
        moved = torch.zeros((), dtype=torch.int64, device=z.device)
        if self.frozen:
            return moved
        done: set[int] = set()
        r = F.normalize(z, dim=1) if self.choices.normalize else z
        for level in range(len(self.sizes)):
            if level and self.choices.normalize:
                r = F.normalize(r, dim=1)
            table = self._table(level)
            if table not in done:
                done.add(table)
                moved += self._revive(table, r, below, rng)
            book = self._book(table)
            r = r - F.embedding(self._chosen(r, book, level), book)
        return moved

    def _revive(self, table: int, r: Tensor, below: float, rng: torch.Generator) -> Tensor:
        used = self.get_buffer(f"used{table}")
        dead = used < below * used.sum() / len(used)
        squares = self._squares(r, self._book(table)).amin(dim=1).clamp_min(0)
        # As many rows as there are codes, drawn once for all: code i, if dead, takes the i-th.
        weight = squares + squares.mean() * 1e-3 + 1e-30
        weight = weight.cpu()
        if not math.isfinite(float(weight.sum())):
            raise FloatingPointError("latents are no numbers, or too large for float32,")
        drawn = torch.multinomial(weight, len(used), replacement=len(used) > len(r), generator=rng)
        rows = r[drawn.to(r.device)]
        if self.choices.simvq:  # what the map turns into the row
            rows = rows @ torch.linalg.pinv(self.turns[table]).T
        book = self.tables[table]
        book.copy_(torch.where(dead[:, None], rows, book))
        if self.choices.update == "ema":
            mass, sums = self.get_buffer(f"mass{table}"), self.get_buffer(f"sums{table}")
            mass.masked_fill_(dead, 1.0 / len(book))
            sums.copy_(torch.where(dead[:, None], rows / len(book), sums))
        used.zero_()
        return dead.sum()

    # ------------------------------------------------------------------------------- exact, on arrays

    def books(self) -> list[Floats]:
        """The codewords of every level as they are added up."""
        with torch.no_grad():
            return [
                np.ascontiguousarray(self._book(self._table(level)).cpu().numpy())
                for level in range(len(self.sizes))
            ]


def encode(z: Floats, books: Sequence[Floats], choices: Choices, device: str = "cpu") -> Codes:
    """The greedy codes of any latents, by the distance of training; a row's depend on that row alone."""
    if choices.distance == "euclidean" and not choices.normalize:
        return residual.encode(z, books, device=device)
    codes = np.empty((len(z), len(books)), dtype=np.int32)
    r = z
    for level, book in enumerate(books):
        if choices.normalize:
            r = unit_rows(r)
        codes[:, level] = residual.encode(*_compared(r, book, choices), device=device)[:, 0]
        r = r - book[codes[:, level]]
    return codes


def costs(z: Floats, prefix: Codes, books: Sequence[Floats], choices: Choices) -> Floats:
    """(rows, codes) squared distances after a prefix, as `encode` measures them."""
    r = z
    for level in range(prefix.shape[1]):
        r = (unit_rows(r) if choices.normalize else r) - books[level][prefix[:, level]]
    rows, book = _compared(unit_rows(r) if choices.normalize else r, books[prefix.shape[1]], choices)
    return residual.costs(rows, prefix[:, :0], book)


def _compared(r: Floats, book: Floats, choices: Choices) -> tuple[Floats, list[Floats]]:
    """Rows and codewords whose squared distances are those of training."""
    if choices.distance == "euclidean":
        return r, [book]
    rows, directions = unit_rows(r), unit_rows(book)
    zero = ~directions.any(axis=1, keepdims=True)
    if zero.any():  # has no direction: a column of its own puts it at a right angle to everything
        rows = np.hstack([rows, np.zeros((len(rows), 1), dtype=np.float32)])
        directions = np.hstack([directions, zero.astype(np.float32)])
    return rows, [directions]


def _sums(codes: Tensor, r: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rows of each code, and their sum, in an order that repeats to the bit."""
    if r.is_cuda:  # where adding by index would be in any order
        one = r.new_zeros(len(r), size).scatter_(1, codes[:, None], 1.0)
        return one.sum(dim=0), one.T @ r
    counts = r.new_zeros(size).index_add_(0, codes, r.new_ones(len(r)))
    return counts, r.new_zeros(size, r.shape[1]).index_add_(0, codes, r)
