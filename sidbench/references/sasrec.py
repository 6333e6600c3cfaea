"""SASRec: a causal transformer over items themselves; what a decoder of SIDs gains or costs beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from sidbench import checkpoints
from sidbench.dataset import Embeddings, Sequences
from sidbench.decoder.causal import Causal
from sidbench.decoder.course import Course, now, owner_of
from sidbench.decoder.inputs import Reader, Windows
from sidbench.decoder.noise import Noise
from sidbench.decoder.selection import Validation, some
from sidbench.decoder.shape import Shape
from sidbench.decoder.training import Weights, precision_of, threads
from sidbench.decoder.trie import Trie
from sidbench.errors import DataError
from sidbench.kit.device import resolve
from sidbench.kit.softmax import cross_entropy
from sidbench.progress import report
from sidbench.protocol import Split, Targets
from sidbench.ranking import Ranking
from sidbench.reference import Reference, best
from sidbench.sids import SIDs

Count = Annotated[int, Field(ge=1)]

#: Places of one piece of a training batch, as many as stay in a processor's cache.
PLACES = {"cpu": 1_024, "cuda": 1 << 18}
#: Places of padding that cost as much as one piece more.
SPARE = {"cpu": 200, "cuda": 4_096}
#: Scores of all items that training holds at one time; a processor's products in bf16 want larger pieces.
CELLS = {"cpu": 1 << 19, "cuda": 1 << 27}
CELLS_BF16 = {"cpu": 1 << 21, "cuda": 1 << 28}
#: Those that recommending holds.
SEARCH_CELLS = {"cpu": 1 << 22, "cuda": 1 << 26}
#: The place up to which validation looks.
PLACES_SEEN = 10


class SASRec(Reference):
    """Self-attention over item ids with a softmax over all items (Kang & McAuley 2018, arXiv:1808.09781).

    The decoder's own layers, training and clock with one code an item in place of a SID: what differs from a
    decoder's row is what SIDs make of it. Trained at every position by the full softmax, the same table for
    what is read and what is written.
    """

    name = "sasrec"
    random: ClassVar[bool] = True

    #: Numbers that stand for an item.
    width: Count = 64
    #: Layers of attention.
    layers: Count = 1
    #: Attention heads a layer; they share the width.
    heads: Count = 2
    #: Hidden numbers of a layer's feed-forward part.
    feed_forward: Count = 128
    #: Share of numbers dropped in training.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    #: Items of a history that are read, the newest ones.
    history: Count = 50
    #: Sequences in a training step.
    batch: Count = 128
    #: The highest learning rate, at the end of the warm-up.
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    #: Steps of linear warm-up; the rate then falls along a cosine to zero at the end.
    warmup: Count = 50
    # A table of items learns by heart what few users took, and decay delays learning less than dropout does.
    # Validation, Scientific, 1,500 steps, (dropout, decay): .066 (.1, .01), .069 (.2, .5), .072 (.2, 2).
    #: AdamW's; gains are left out.
    weight_decay: Annotated[float, Field(ge=0)] = 2.0
    #: The gradient's norm is cut to this.
    clip: Annotated[float, Field(gt=0)] = 1.0
    #: Training steps, unless patience ends them sooner.
    steps: Count = 300
    #: Seconds for training and the lists of all users, in place of steps and patience; 0 = no such limit.
    budget: Annotated[float, Field(ge=0)] = 0.0
    #: Steps between two validations; a budget has twenty.
    eval_every: Count = 50
    #: Validations in a row without a better NDCG@10 before training stops; 0 = never.
    patience: Annotated[int, Field(ge=0)] = 3
    #: How many validation users select; the same ones every time.
    valid_users: Count = 1_000
    #: Of the softmax in training: auto is bf16 where the processor or GPU computes in it, else fp32.
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    #: One seed, one result.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    #: Where it runs: cpu, cuda, cuda:1; auto takes CUDA where there is one.
    device: str = "auto"
    #: Processor threads that are used; 0 = as many as torch has been given.
    threads: Annotated[int, Field(ge=0)] = 1

    def fit(self, split: Split, x: Embeddings) -> Self:
        with threads(self.threads):
            return self._fit(split)

    def _fit(self, split: Split) -> Self:
        windows = Windows(split.train, self.history, self.seed, every=True)
        if not len(windows) or not len(split.valid):
            raise DataError(
                f"{self.name}: {len(windows)} training sequences and {len(split.valid)} validation users; "
                "training needs at least one sequence with two items in `train` and one validation user"
            )
        device = resolve(self.device)
        sids = self._prepare(split.n_items, device)
        self._leave_out(split, device)
        weights = Weights(self.model_, torch.float32, self.weight_decay, self.clip)
        course = Course(
            weights,
            self.name,
            steps=self.steps,
            eval_every=self.eval_every,
            patience=self.patience,
            budget=self.budget,
            warmup=self.warmup,
            learning_rate=self.learning_rate,
        )
        place = checkpoints.place()
        folder = None if place is None else place / self.name
        owner = owner_of(self.params(), sids, split, device)
        if folder is not None:
            course.resume(folder, owner, windows)
        valid = some(split.valid, self.valid_users)
        noise = self._noise(course.step, device)
        share = course.share()
        while not course.over(share):
            batch = windows.next(self.batch)
            course.targets += int(windows.counts[batch].sum())
            course.recent.append(self._learn(windows, batch, noise))
            weights.step(course.rate(), weights.gathered())
            course.step += 1
            if course.looks():
                course.look()
            share = course.share()
            if course.validates(share):
                # As long lists as after training, where the clock asks what those take.
                found = self._validate(valid, max(PLACES_SEEN, split.places if self.budget else 0))
                course.reserved = found.seconds * (1 + (split.queries or len(split.valid)) / len(valid))
                course.validated(found)
                if folder is not None:
                    course.save(folder, owner, windows)
                # Anew after each validation: a training that goes on from there has the same.
                noise = self._noise(course.step, device)
                share = course.share()
            course.report("fit", self.batch)
        weights.flat.copy_(course.best_weights)
        self.curve_ = course.curve
        self.facts_ = {
            "device": str(device),
            "precision": "fp32" if self._dtype == torch.float32 else "bf16",
            "threads": torch.get_num_threads(),
            "tokens_per_item": 1,
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "windows": len(windows),
            "steps": course.step,
            "best_step": course.best_step,
            "sequences_seen": course.step * self.batch,
            "targets_seen": course.targets,
        }
        return self

    def facts(self) -> dict[str, Any]:
        return dict(self.facts_)

    def curves(self) -> dict[str, list[float]]:
        return dict(self.curve_)

    def recommend(self, histories: Sequences, k: int) -> Ranking:
        n = len(self.reader_.table) - 1
        items = np.zeros((len(histories), min(k, n)), dtype=np.int64)
        scores = np.zeros(items.shape, dtype=np.float32)
        done = 0
        with threads(self.threads):
            for rows, found in self._scored(histories):
                items[rows], scores[rows] = best(found.cpu().numpy(), k)
                done += len(rows)
                report("search", done, len(histories))
        return Ranking.of_items(items, scores, n)

    def _prepare(self, n_items: int, device: torch.device) -> SIDs:
        """Tables and an untrained model: `causal` over SIDs of one level, in which every item has its own."""
        items = np.arange(n_items, dtype=np.int32)
        sids = SIDs(items[:, None], (n_items,), items)
        shape = Shape(
            sizes=sids.sizes,
            width=self.width,
            heads=self.heads,
            head_width=-(-self.width // self.heads),
            feed_forward=self.feed_forward,
            encoder_layers=self.layers,
            decoder_layers=0,
            history=self.history,
            user_tokens=0,
            tokens="codes",
            tied=True,
        )
        self.warm_: Tensor | None = None
        self.model_ = Causal(shape, self.seed).to(device)
        self.reader_ = Reader(Trie(sids).to(device), shape, torch.float32, leftmost=True)
        return sids

    def _leave_out(self, split: Split, device: torch.device) -> None:
        """While learning, no list of a validation holds a cold item, and no softmax has its row."""
        if len(split.cold):
            self.warm_ = torch.from_numpy(split.warm).to(device)
            self.row_ = torch.zeros(split.n_items, dtype=torch.long, device=device)
            self.row_[self.warm_] = torch.arange(len(self.warm_), device=device)

    @property
    def _dtype(self) -> torch.dtype:
        return precision_of(self.precision, resolve(self.device))

    def _noise(self, step: int, device: torch.device) -> Noise | None:
        return Noise(self.dropout, self.seed, device, torch.float32, step) if self.dropout else None

    def _learn(self, windows: Windows, batch: Tensor, noise: Noise | None) -> Tensor:
        """Gather the gradient of one batch; its mean loss a target.

        What is read goes through the layers piece by piece, as rows of like lengths waste little on padding;
        the softmax, which is most of the work, takes the targets of all pieces at once.
        """
        device = self.reader_.device
        goals = windows.targets(batch).to(device)
        states = []
        for piece, goal in windows.pieces(batch, goals, PLACES[device.type], SPARE[device.type]):
            begin, end = windows.begin[piece], windows.end[piece]
            read = self.reader_.stream(windows.items, begin, end, windows.users[piece])
            states.append(self.model_.states(read, goal[:, None], noise)[:, 0])
        table, _ = self.model_.head(0)
        if self.warm_ is not None:
            table, goals = table[self.warm_], self.row_[goals]
        cells = (CELLS if self._dtype == torch.float32 else CELLS_BF16)[device.type]
        loss = cross_entropy(torch.cat(states), table, goals, cells, self._dtype) / len(goals)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _validate(self, valid: Targets, k: int) -> Validation:
        """What the users that select are given, and how likely what they took is made; from k places."""
        start = now()
        gain = hits = loss = 0.0
        for rows, scores in self._scored(valid.histories):
            goals = valid.items[rows].astype(np.int64)
            if self.warm_ is not None:
                scores, goals = scores[:, self.warm_], self.row_.cpu().numpy()[goals]
            items = best(scores.cpu().numpy(), k)[0][:, :PLACES_SEEN]
            places = np.nonzero(items == goals[:, None])[1]
            gain += float((1 / np.log2(places + 2)).sum())
            hits += len(places)
            own = scores.gather(1, torch.from_numpy(goals).to(scores.device)[:, None])
            loss += float((scores.logsumexp(1) - own[:, 0]).sum())
        users = len(valid)
        return Validation(gain / users, hits / users, loss / users, now() - start)

    def _scored(self, histories: Sequences) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Row numbers and their scores of all items, a chunk at a time; longest histories first.

        Like lengths share a chunk, so that little is padding.
        """
        model, reader = self.model_, self.reader_
        items = torch.from_numpy(histories.items.astype(np.int64))
        order = np.argsort(-np.minimum(histories.lengths, self.history), kind="stable")
        count = max(1, SEARCH_CELLS[reader.device.type] // (len(reader.table) - 1))
        for start in range(0, len(order), count):
            rows = order[start : start + count]
            begin, end = (torch.from_numpy(histories.offsets[rows + i]) for i in (0, 1))
            with torch.inference_mode():
                last = model.read(reader.read(items, begin, end, torch.from_numpy(rows))).last[:, 0]
                scores = last @ model.head(0)[0].T
            yield rows, scores
