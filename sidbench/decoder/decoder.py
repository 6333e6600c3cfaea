"""Decoder: what every tokenizer's SIDs are judged by; trained on windows, searched under a trie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from sidbench import checkpoints, progress
from sidbench.dataset import Sequences
from sidbench.decoder.causal import Causal
from sidbench.decoder.course import Course, now, owner_of
from sidbench.decoder.inputs import Reader, Windows
from sidbench.decoder.model import Model
from sidbench.decoder.noise import Noise
from sidbench.decoder.search import beam_search
from sidbench.decoder.selection import expected_ndcg, some
from sidbench.decoder.shape import Inputs, Shape
from sidbench.decoder.tiger import Tiger
from sidbench.decoder.training import Weights, negative_log_likelihood, schedule
from sidbench.decoder.trie import Trie
from sidbench.errors import DataError, SidbenchError, UsageError, unknown
from sidbench.plugin import Plugin
from sidbench.protocol import Split, Targets
from sidbench.ranking import Ranking
from sidbench.sids import SIDs

Count = Annotated[int, Field(ge=1)]

MODELS: dict[str, type[Model]] = {"tiger": Tiger, "causal": Causal}
#: Tokens of one piece of a training batch: on a processor what stays in its cache is far cheaper.
PIECE_TOKENS = {"cpu": 5_120, "cuda": 1 << 18}
#: Numbers that one level of search may hold at once.
SEARCH_FLOATS = {"cpu": 1 << 22, "cuda": 1 << 26}


class Decoder(Plugin):
    """A transformer over SIDs (`tiger` or `causal`) with exact beam search under the trie of all SIDs."""

    kind = "decoder"
    name = "decoder"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The defaults: a few thousand users on two cores, in about ten seconds.
        "quick": {},
        # Real data on two cores, under `--budget`: ten thousand users and more.
        "timed": {"history": 10, "dropout": 0.2, "learning_rate": 3e-3},
        # Ten thousand items: minutes on a GPU.
        "standard": {
            "architecture": "tiger",
            "width": 128, "encoder_layers": 2, "decoder_layers": 2, "heads": 4, "head_width": 32,
            "feed_forward": 512, "dropout": 0.1, "history": 20, "tokens": "codes", "batch": 256,
            "learning_rate": 1e-3, "warmup": 500, "steps": 20_000, "eval_every": 500, "patience": 8,
            "valid_users": 2_000, "beam": 50, "precision": "auto", "threads": 0,
        },
        # The sizes of Rajput et al. 2023.
        "paper": {
            "architecture": "tiger",
            "width": 128, "encoder_layers": 4, "decoder_layers": 4, "heads": 6, "head_width": 64,
            "feed_forward": 1024, "dropout": 0.1, "history": 20, "user_tokens": 2_000, "tokens": "codes",
            "batch": 256, "learning_rate": 1e-3, "warmup": 2_000, "steps": 200_000, "eval_every": 2_000,
            "patience": 10, "valid_users": 5_000, "beam": 50, "precision": "auto", "threads": 0,
        },
    }  # fmt: skip

    # As many seconds, Recall@10: embedded dataset (three seeds) .495, Scientific .078; `tiger` .485 and .072.
    #: An encoder-decoder over windows, or a decoder over the stream of SIDs that learns all of it at once.
    architecture: Literal["tiger", "causal"] = "causal"
    #: Numbers that stand for a token between layers.
    width: Count = 64
    #: Layers that read the history; `causal` over codes has these and the next ones in one.
    encoder_layers: Count = 1
    #: Layers that write the next SID.
    decoder_layers: Count = 1
    #: Attention heads a layer.
    heads: Count = 2
    #: Numbers a head compares; heads x head_width need not be the width.
    head_width: Count = 32
    #: Hidden numbers of a layer's feed-forward part.
    feed_forward: Count = 128
    #: Share of numbers dropped in training.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: Items of a history that are read, the newest ones; `causal` learns as many positions a sequence.
    history: Count = 8
    #: Buckets of hashed users, each with a token of its own; 0 = no user token.
    user_tokens: Annotated[int, Field(ge=0, lt=2**30)] = 0
    #: What is read of a history: one token a code, as TIGER does, or one an item, the sum of its codes'.
    tokens: Literal["codes", "items"] = "items"
    #: A token between items, where there is one token a code.
    separators: bool = False
    #: What a code competes with: the codes of its level, or those of all levels.
    vocabulary: Literal["levels", "shared"] = "levels"
    #: One table for what is read and what is written.
    tied: bool = False
    #: Sequences in a training step, taken in pieces that fit the cache: more of them need no more memory.
    batch: Count = 128
    #: The highest learning rate, at the end of the warm-up.
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    #: Steps of linear warm-up; the rate then falls to zero at the last step.
    warmup: Count = 50
    #: AdamW's; gains are left out.
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    #: How much of a target's weight goes to all codes alike, in training.
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: The gradient's norm is cut to this.
    clip: Annotated[float, Field(gt=0)] = 1.0
    #: Training steps, unless patience ends them sooner.
    steps: Count = 400
    #: Seconds for training and the search of all users, in place of steps and patience; 0 = no such limit.
    budget: Annotated[float, Field(ge=0)] = 0.0
    #: Steps between two validations; a budget has twenty.
    eval_every: Count = 50
    #: Validations in a row without a better one before training stops; 0 = it never does.
    patience: Annotated[int, Field(ge=0)] = 3
    #: How many validation users select; the same ones every time.
    valid_users: Count = 500
    #: SIDs kept at every level of the search.
    beam: Count = 20
    #: Of training: auto is bf16 where the processor or GPU computes in it, else fp32.
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    #: One seed, one result.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    #: Where it runs: cpu, cuda, cuda:1; auto takes CUDA where there is one.
    device: str = "auto"
    # At the sizes of `quick` a second thread gains a seventh on an idle machine, and on a busy one every
    # step waits for it: measured twenty times slower.
    #: Processor threads that are used; 0 = as many as torch has been given.
    threads: Annotated[int, Field(ge=0)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.architecture)  # as records and boards name it

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Decoder:
        """A decoder with the settings of `quick`, `timed`, `standard` or `paper`."""
        if name not in cls.presets:
            raise unknown("decoder preset", name, cls.presets)
        return cls(**{**cls.presets[name], **overrides})

    def fit(self, sids: SIDs, split: Split) -> Self:
        """Train on `split.train`, keep the weights that rank `split.valid` best; never read `split.test`."""
        if len(sids) != split.n_items:
            raise DataError(f"{self.name}: {len(sids)} SIDs for a catalogue of {split.n_items} items")
        with _threads(self.threads):
            return self._fit(sids, split)

    def _fit(self, sids: SIDs, split: Split) -> Self:
        every = MODELS[self.architecture].every
        windows = Windows(split.train, self.history, self.seed, every=every)
        if not len(windows) or not len(split.valid):
            raise DataError(
                f"{self.name}: {len(windows)} training windows and {len(split.valid)} validation users; "
                "training needs at least one sequence with two items in `train` and one validation user"
            )
        self._prepare(sids)
        weights = Weights(self.model_, self._dtype, self.weight_decay, self.clip)
        self.model_: Model = weights.worker
        course = Course(weights, self.steps, self.eval_every, self.budget)
        place = checkpoints.place()
        folder = None if place is None else place / "decoder"
        owner = owner_of(self.params(), sids, split, self._device)
        if folder is not None:
            course.resume(folder, owner, windows)
        valid = some(split.valid, self.valid_users)
        noise = self._noise(course.step)
        share = course.share()
        while share < 1 and (self.budget or not self.patience or course.since < self.patience):
            batch = windows.next(self.batch)
            course.targets += int(windows.counts[batch].sum())
            course.recent.append(self._learn(windows, noise, batch))
            weights.step(schedule(course.step, self._after_warmup(course), self.warmup, self.learning_rate))
            course.step += 1
            if course.step % max(1, self.eval_every // 10) == 0:
                self._look(course)
            share = course.share()
            if course.validates(share):
                before = now()
                ndcg, loss, searched = self._validate(valid)
                course.reserved = now() - before + searched / len(valid) * len(split.valid)
                course.validated(ndcg, loss)
                if folder is not None:
                    course.save(folder, owner, windows)
                # Anew after each validation: a training that goes on from there has the same.
                noise = self._noise(course.step)
                share = course.share()
            done = (course.seconds, self.budget) if self.budget else (course.step, self.steps)
            progress.report("train", *done, **course.numbers)
        weights.restore(course.best_weights)
        self.model_.requires_grad_(False)
        self.curve_, self.windows_ = course.curve, len(windows)
        self.steps_, self.best_step_ = course.step, course.best_step
        self.sequences_seen_, self.targets_seen_ = course.step * self.batch, course.targets
        return self

    def _noise(self, step: int) -> Noise | None:
        return Noise(self.dropout, self.seed, self._device, self._dtype, step) if self.dropout else None

    def _after_warmup(self, course: Course) -> float:
        """How much of what follows the warm-up is done."""
        if self.budget:
            return course.share()
        return max(0, course.step - self.warmup) / max(1, self.steps - self.warmup)

    def _look(self, course: Course) -> None:
        """Note the loss; stop where it is no number."""
        loss = float(torch.stack(course.recent).mean())
        if not math.isfinite(loss):
            raise SidbenchError(
                f"{self.name}: the training loss is {loss} at step {course.step}; a lower "
                f"learning_rate than {self.learning_rate} or more warmup than {self.warmup} may help"
            )
        course.numbers["loss"] = loss
        course.curve["step"].append(course.step)
        course.curve["loss"].append(loss)
        course.recent = []

    def recommend(
        self,
        histories: Sequences,
        k: int,
        users: NDArray[np.integer[Any]] | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Ranking:
        """The first k places for every history: groups of items that share a SID, by log-probability.

        Every SID has an item, so k places hold at least k items. The beam is `beam` or k, whichever is more.
        A history may be empty or longer than what is read. `users` matter only where there are user tokens.
        `allowed`, a mask of all items, ranks those alone (what is in stock): the ranking is that of a trie
        with no other item in it, and the probabilities are unchanged.
        """
        if k < 1:
            raise UsageError(f"{self.name}.recommend: k = {k}; expected at least 1")
        members, offsets, nodes = self.trie_.members, self.trie_.offsets, None
        if allowed is not None:
            allowed = self._checked(allowed)
            nodes = self.trie_.allowed(allowed)
            # Groups keep their numbers; what is left out stands in a last one that no list names.
            inside = allowed[members]
            members = np.concatenate((members[inside], members[~inside]))
            upto = np.concatenate(([0], np.cumsum(inside)))[offsets]
            offsets = np.append(upto, len(members))
        with _threads(self.threads):
            groups, scores = self._search(histories, users, max(self.beam, k), nodes, report=True)
        return Ranking(groups[:, :k], scores[:, :k], members, offsets)

    def _checked(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        items = len(self.trie_.group_of)
        if allowed.shape != (items,) or allowed.dtype != bool or not allowed.any():
            raise UsageError(
                f"{self.name}.recommend: allowed has shape {allowed.shape}, {allowed.dtype} and "
                f"{np.count_nonzero(allowed)} items; expected ({items},) of bool and at least one item"
            )
        return allowed

    def facts(self) -> dict[str, Any]:
        """What `auto` became and how training went, for the record."""
        return {
            "device": str(self._device),
            "precision": "fp32" if self._dtype == torch.float32 else "bf16",
            "threads": self.threads or torch.get_num_threads(),
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "windows": self.windows_,
            "steps": self.steps_,
            "best_step": self.best_step_,
            "sequences_seen": self.sequences_seen_,
            "targets_seen": self.targets_seen_,
        }

    @property
    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def _dtype(self) -> torch.dtype:
        """What training computes in. A processor without bfloat16 instructions imitates them, slowly."""
        if self.precision == "auto":
            native = self._device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
            return torch.bfloat16 if native else torch.float32
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def _prepare(self, sids: SIDs) -> None:
        """Tables and an untrained model."""
        self.trie_ = Trie(sids).to(self._device)
        shape = Shape(
            sizes=self.trie_.sizes,
            width=self.width,
            heads=self.heads,
            head_width=self.head_width,
            feed_forward=self.feed_forward,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
            history=self.history,
            user_tokens=self.user_tokens,
            tokens=self.tokens,
            separators=self.separators,
            tied=self.tied,
            vocabulary=self.vocabulary,
        )
        made = Causal(shape, self.seed) if self.architecture == "causal" else Tiger(shape, self.seed)
        self.model_ = made.to(self._device)
        self.reader_ = Reader(self.trie_, shape, self._dtype, leftmost=made.every)

    def _learn(self, windows: Windows, noise: Noise | None, batch: Tensor) -> Tensor:
        """Gather the gradient of one batch, piece by piece; its mean loss a code."""
        goals = self.trie_.item_codes[windows.targets(batch).to(self._device)]
        total = self.trie_.count_codes(goals)
        parts = []
        limit = PIECE_TOKENS[self._device.type]
        read = self.reader_.stream if self.model_.every else self.reader_.read
        for piece, codes in windows.pieces(batch, goals, limit // self.model_.shape.per_item):
            begin, end = windows.begin[piece], windows.end[piece]
            inputs = read(windows.items, begin, end, windows.users[piece])
            losses = negative_log_likelihood(
                self.model_,
                inputs,
                codes,
                variable=self.trie_.variable,
                noise=noise,
                smoothing=self.label_smoothing,
            )
            loss = losses.sum() / total
            loss.backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach())
        return torch.stack(parts).sum()

    def _validate(self, valid: Targets) -> tuple[float, float, float]:
        """NDCG@10 at item level and the mean loss a code, on the users that select; the seconds of search."""
        start = now()
        groups, _ = self._search(valid.histories, valid.users, max(self.beam, 10), None, report=False)
        searched = now() - start
        ndcg = expected_ndcg(groups, self.trie_.group_of[valid.items], np.diff(self.trie_.offsets), 10)
        loss, count = 0.0, 0
        for rows, inputs in self._chunks(valid.histories, valid.users, self._rows(1)):
            codes = self.trie_.item_codes[torch.from_numpy(valid.items[rows]).long().to(self._device)]
            with torch.inference_mode():
                losses = negative_log_likelihood(self.model_, inputs, codes, variable=self.trie_.variable)
            loss += float(losses.sum())
            count += self.trie_.count_codes(codes)
        return float(ndcg.mean()), loss / count, searched

    def _search(
        self,
        histories: Sequences,
        users: NDArray[np.integer[Any]] | None,
        beam: int,
        allowed: list[Tensor] | None,
        *,
        report: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        beam = min(beam, len(self.trie_))
        groups = np.full((len(histories), beam), -1, dtype=np.int64)
        scores = np.full((len(histories), beam), -np.inf, dtype=np.float32)
        limit = SEARCH_FLOATS[self._device.type]
        done = 0
        for rows, inputs in self._chunks(histories, users, self._rows(beam)):
            with torch.inference_mode():
                read = self.model_.read(inputs)
                found, logp = beam_search(self.model_, self.trie_, read, len(rows), beam, allowed, limit)
            width = found.shape[1]
            groups[rows, :width], scores[rows, :width] = found.cpu().numpy(), logp.cpu().numpy()
            done += len(rows)
            if report:
                progress.report("search", done, len(histories))
        return groups, scores

    def _rows(self, beam: int) -> int:
        """How many users at once: as many as keep what one level makes of them within the limit."""
        trie, shape = self.trie_, self.model_.shape
        before = [min(beam, trie.nodes(level - 1) if level else 1) for level in range(trie.levels)]
        candidates = max(trie.most(level, beams) for level, beams in enumerate(before))
        places = shape.history * shape.per_item
        layer = max(
            shape.feed_forward, shape.heads * places, 2 * shape.heads * shape.head_width * trie.levels
        )
        # Of every candidate some ten numbers are kept, or as much in integers.
        floats = max(10 * candidates, max(before) * layer, places * shape.feed_forward)
        return max(1, SEARCH_FLOATS[self._device.type] // floats)

    def _chunks(
        self, histories: Sequences, users: NDArray[np.integer[Any]] | None, count: int
    ) -> Iterator[tuple[NDArray[np.int64], Inputs]]:
        """Row numbers and inputs, longest histories first: like lengths share a chunk, little is padding."""
        if users is None and self.user_tokens:
            raise UsageError(
                f"{self.name}.recommend: user_tokens = {self.user_tokens} needs users = their numbers"
            )
        order = np.argsort(-np.minimum(histories.lengths, self.history), kind="stable")
        items = torch.from_numpy(histories.items.astype(np.int64))
        number = (
            np.zeros(len(histories), dtype=np.int64) if users is None else np.asarray(users, dtype=np.int64)
        )
        for start in range(0, len(order), count):
            rows = order[start : start + count]
            begin, end = (
                torch.from_numpy(histories.offsets[rows]),
                torch.from_numpy(histories.offsets[rows + 1]),
            )
            yield rows, self.reader_.read(items, begin, end, torch.from_numpy(number[rows]))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use this many threads inside the block; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
