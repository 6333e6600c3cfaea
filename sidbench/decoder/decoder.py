"""Decoder: what every tokenizer's SIDs are judged by; trained on windows, searched under a trie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench import checkpoints
from sidbench.dataset import Sequences
from sidbench.decoder.causal import Causal
from sidbench.decoder.course import Course, now, owner_of
from sidbench.decoder.inputs import Reader, Windows
from sidbench.decoder.learner import Learner
from sidbench.decoder.model import Model
from sidbench.decoder.retrieval import Retriever
from sidbench.decoder.selection import some
from sidbench.decoder.shape import Shape
from sidbench.decoder.tiger import Tiger
from sidbench.decoder.training import Weights, precision_of, threads
from sidbench.decoder.trie import Trie
from sidbench.errors import DataError, UsageError, unknown
from sidbench.kit.device import resolve
from sidbench.kit.ranks import ranks
from sidbench.plugin import Plugin
from sidbench.protocol import Split
from sidbench.ranking import Ranking
from sidbench.sids import SIDs

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Work:
    """What the other processes need to train a decoder with the first."""

    params: dict[str, Any]
    threads: int
    sids: SIDs
    split: Split
    state: dict[str, Any] | None

    def follow(self) -> None:
        torch.set_num_threads(self.threads)
        Decoder(**self.params).follow(self.sids, self.split, self.state)


class Decoder(Plugin):
    """A transformer over SIDs (`tiger` or `causal`) with exact beam search under the trie of all SIDs."""

    kind = "decoder"
    name = "decoder"
    incidental = ("cuda_graph",)
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
    # Embedded dataset, rq-kmeans, 3 seeds, Recall@10: .499 (.010); `shared` .490 (.006), `tied` .481 (.004).
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
    # On a processor bf16 holds up to 0.9 GB more: oneDNN compiles for every shape and keeps the last 1,024.
    # Padding to a few shapes would save that, and cost 5 to 25% of a step at TIGER's sizes (measured).
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
    #: On CUDA, a piece's forward and backward as one captured graph; the result is the same but for rounding.
    cuda_graph: bool = True

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
        with threads(self.threads):
            return self._fit(sids, split)

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
        made: Model = Causal(shape, self.seed) if self.architecture == "causal" else Tiger(shape, self.seed)
        self.model_: Model = made.to(self._device)
        self.reader_ = Reader(self.trie_, shape, self._dtype, leftmost=made.every)

    def _ready(self, sids: SIDs, split: Split) -> tuple[Weights, Windows, Learner]:
        """All that a training step needs; the same in every process."""
        self._prepare(sids)
        windows = Windows(split.train, self.history, self.seed, every=self.model_.every)
        weights = Weights(self.model_, self._dtype, self.weight_decay, self.clip)
        self.model_ = weights.worker
        learner = Learner(
            weights,
            self.trie_,
            self.reader_,
            windows,
            dropout=self.dropout,
            smoothing=self.label_smoothing,
            seed=self.seed,
            capture=self.cuda_graph,
        )
        return weights, windows, learner

    def follow(self, sids: SIDs, split: Split, state: dict[str, Any] | None) -> None:
        """Train with the first of several processes, which is in `fit`, from its state on; keep nothing."""
        with threads(self.threads):
            team = ranks()
            weights, windows, learner = self._ready(sids, split)
            step, begun = 0, -1
            if state is not None:
                step = state["step"]
                weights.load(state["weights"])
                windows.load(state["windows"])
            while (word := team.told()) is not None:
                rate, first = word
                if first != begun:
                    learner.begin(begun := first, team.rank)
                loss = learner.gradient(windows.next(self.batch), step, team.rank, team.count)
                gradient, _ = team.sum(weights.gathered(), loss)
                weights.step(rate, gradient)
                step += 1

    def _fit(self, sids: SIDs, split: Split) -> Self:
        team = ranks()
        weights, windows, learner = self._ready(sids, split)
        if not len(windows) or not len(split.valid):
            raise DataError(
                f"{self.name}: {len(windows)} training windows and {len(split.valid)} validation users; "
                "training needs at least one sequence with two items in `train` and one validation user"
            )
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
        folder = None if place is None else place / "decoder"
        given = {key: value for key, value in self.params().items() if key not in self.incidental}
        owner = owner_of(given, sids, split, self._device)
        resumed = folder is not None and course.resume(folder, owner, windows)
        state = {
            "step": course.step,
            "weights": {key: t.cpu() for key, t in weights.state().items()},
            "windows": windows.state(),
        }
        work = Work(self.params(), torch.get_num_threads(), sids, split, state if resumed else None)
        with team.leading(work):
            self._train(course, windows, learner, split, None if folder is None else (folder, owner))
        weights.restore(course.best_weights)
        self.model_.requires_grad_(False)
        self.curve_, self.windows_, self.processes_ = course.curve, len(windows), team.count
        self.steps_, self.best_step_ = course.step, course.best_step
        self.sequences_seen_, self.targets_seen_ = course.step * self.batch, course.targets
        return self

    def _train(
        self,
        course: Course,
        windows: Windows,
        learner: Learner,
        split: Split,
        kept: tuple[Path, dict[str, Any]] | None,
    ) -> None:
        team, valid = ranks(), some(split.valid, self.valid_users)
        retriever = Retriever(self.model_, self.trie_, self.reader_)
        wider: float | None = None  # what a user costs in the search after training, to one in a validation
        begun = course.step
        learner.begin(begun)
        share = course.share()
        while not course.over(share):
            rate = course.rate()
            team.go(rate, begun)
            batch = windows.next(self.batch)
            course.targets += int(windows.counts[batch].sum())
            loss = learner.gradient(batch, course.step, team.rank, team.count)
            gradient, loss = team.sum(course.weights.gathered(), loss)
            course.recent.append(loss)
            course.weights.step(rate, gradient)
            course.step += 1
            if course.looks():
                course.look()
            share = course.share()
            if course.validates(share):
                before = now()
                found = retriever.validate(valid, self.beam, split.candidates)
                validated = now() - before
                if self.budget and wider is None:
                    wider = retriever.wider(valid, self.beam, split.places)
                queries = split.queries or len(split.valid)
                course.reserved = validated + found.seconds / len(valid) * queries * (wider or 1.0)
                course.validated(found)
                if kept is not None:
                    course.save(*kept, windows)
                # Anew after each validation: a training that goes on from there has the same.
                begun = course.step
                learner.begin(begun)
                share = course.share()
            course.report("train", self.batch)

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
        if users is None and self.user_tokens:
            raise UsageError(
                f"{self.name}.recommend: user_tokens = {self.user_tokens} needs users = their numbers"
            )
        retriever = Retriever(self.model_, self.trie_, self.reader_)
        with threads(self.threads):
            groups, scores = retriever.search(histories, users, max(self.beam, k), nodes, report=True)
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
            "processes": self.processes_,
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "tokens_per_item": self.model_.shape.per_item,
            "tokens_per_target": float(self.trie_.predicted.double().mean()),
            "windows": self.windows_,
            "steps": self.steps_,
            "best_step": self.best_step_,
            "sequences_seen": self.sequences_seen_,
            "targets_seen": self.targets_seen_,
        }

    @property
    def _device(self) -> torch.device:
        return ranks().device(resolve(self.device))

    @property
    def _dtype(self) -> torch.dtype:
        return precision_of(self.precision, self._device)
