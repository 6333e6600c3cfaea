"""The course of one training: how far it is, what was best, and all that a checkpoint needs to go on from."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidbench import checkpoints, progress
from sidbench.decoder.inputs import Windows
from sidbench.decoder.selection import Validation
from sidbench.decoder.training import Weights
from sidbench.errors import SidbenchError
from sidbench.kit import snapshots
from sidbench.protocol import Split
from sidbench.sids import SIDs

#: Seconds between two checkpoints, at least; they are written after validations alone.
CHECKPOINT_SECONDS = 20.0
#: Into how many parts validations divide a budget of time.
PARTS = 20
#: How much of a budget of time its warm-up takes at most: a training that ends before it never learned at its
#: own rate.
WARM = 0.1

now = time.perf_counter


class Course:
    """Counts steps and seconds, says how fast to learn and when to stop, keeps curves and best weights."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        *,
        steps: int,
        eval_every: int,
        patience: int,
        budget: float,
        warmup: int,
        learning_rate: float,
    ) -> None:
        self.weights, self.name = weights, name
        self.steps, self.eval_every, self.patience, self.budget = steps, eval_every, patience, budget
        self.warmup, self.learning_rate = warmup, learning_rate
        self.step = self.targets = 0
        self.best, self.best_step, self.since = -1.0, 0, 0
        self.best_weights = weights.flat.clone()
        self.curve: dict[str, list[float]] = {
            key: []
            for key in ("step", "loss", "valid_step", "valid_loss", "valid_ndcg@10", "valid_recall@10")
        }
        self.numbers: dict[str, float] = {}
        self.recent: list[Tensor] = []
        #: Seconds that must be left at the end: for the last validation, and for the search after it.
        self.reserved = 0.0
        self._parts = 0
        self._start = self._saved = now()

    @property
    def seconds(self) -> float:
        """Since the start, without the time in which the training was interrupted."""
        return now() - self._start

    def share(self) -> float:
        """How much of the training is done, 0 to 1: of the budget where there is one, else of the steps."""
        if not self.budget:
            return self.step / self.steps
        return min(1.0, self.seconds / max(1e-9, self.budget - self.reserved))

    def validates(self, share: float) -> bool:
        """Whether the step just taken is one after which to validate; the last one always is."""
        if not self.budget:
            return self.step % self.eval_every == 0 or self.step == self.steps
        if share < 1 and int(share * PARTS) <= self._parts:
            return False
        self._parts = int(share * PARTS)
        return True

    def over(self, share: float) -> bool:
        """Whether to stop: at the end, or (a budget is used up) after validations without a better one."""
        return share >= 1 or (not self.budget and 0 < self.patience <= self.since)

    def rate(self) -> float:
        """The learning rate of the next step: up in a line, then along half a cosine to zero at the end."""
        peak = self.learning_rate
        if self.budget:
            share = self.share()
        else:
            share = max(0, self.step - self.warmup) / max(1, self.steps - self.warmup)
        if self.step < self.warmup and not (self.budget and share >= WARM):
            risen = peak * (self.step + 1) / self.warmup
            return max(risen, peak * share / WARM) if self.budget else risen
        return peak * 0.5 * (1 + math.cos(math.pi * share))

    def looks(self) -> bool:
        """Whether the step just taken is one after which to look at the losses."""
        return self.step % max(1, self.eval_every // 10) == 0

    def look(self) -> None:
        """Note the mean loss since the last look; stop where it is no number."""
        loss = float(torch.stack(self.recent).mean())
        if not math.isfinite(loss):
            raise SidbenchError(
                f"{self.name}: the training loss is {loss} at step {self.step}; a lower "
                f"learning_rate than {self.learning_rate} or more warmup than {self.warmup} may help"
            )
        self.numbers["loss"] = loss
        self.curve["step"].append(self.step)
        self.curve["loss"].append(loss)
        self.recent = []

    def validated(self, found: Validation) -> None:
        """Note a validation; the weights are kept if it is the best so far."""
        ndcg = found.ndcg
        self.numbers.update({"ndcg@10": ndcg, "recall@10": found.recall})
        self.curve["valid_step"].append(self.step)
        self.curve["valid_loss"].append(found.loss)
        self.curve["valid_ndcg@10"].append(ndcg)
        self.curve["valid_recall@10"].append(found.recall)
        self.since += 1
        if ndcg > self.best:
            self.best, self.best_step, self.since = ndcg, self.step, 0
            self.best_weights = self.weights.flat.clone()

    def report(self, stage: str, batch: int) -> None:
        """Tell who listens how far it is."""
        done = (self.seconds, self.budget) if self.budget else (self.step, self.steps)
        counts = {"step": self.step, "sequences": self.step * batch}
        progress.report(stage, *done, **{**self.numbers, **counts})

    def save(self, folder: Path, owner: dict[str, Any], windows: Windows) -> None:
        """Write a checkpoint if the last is old enough; called after a validation."""
        if now() - self._saved < CHECKPOINT_SECONDS:
            return
        tensors = {f"weights.{key}": t for key, t in self.weights.state().items()}
        tensors |= {f"windows.{key}": t for key, t in windows.state().items()}
        tensors["best"] = self.best_weights
        tensors["recent"] = torch.stack(self.recent) if self.recent else torch.empty(0)
        numbers = {key: getattr(self, key) for key in _COUNTS}
        about = {
            "owner": owner,
            "curve": self.curve,
            "numbers": self.numbers,
            "seconds": self.seconds,
            **numbers,
        }
        snapshots.write(folder, self.step, tensors, about, keep=1)
        self._saved = now()

    def resume(self, folder: Path, owner: dict[str, Any], windows: Windows) -> bool:
        """Go on from the checkpoint in this folder, if there is one."""
        found = snapshots.latest(folder, owner)
        if found is None:
            return False
        tensors, about = found
        self.weights.load(_part(tensors, "weights."))
        windows.load(_part(tensors, "windows."))
        self.best_weights = tensors["best"].to(self.best_weights.device)
        self.recent = list(tensors["recent"].to(self.best_weights.device))
        self.curve, self.numbers = about["curve"], about["numbers"]
        for key in _COUNTS:
            setattr(self, key, about[key])
        self._start = now() - about["seconds"]
        checkpoints.went_on(about["seconds"])
        return True


_COUNTS = ("step", "targets", "best", "best_step", "since", "reserved", "_parts")


def owner_of(params: Mapping[str, Any], sids: SIDs, split: Split, device: torch.device) -> dict[str, Any]:
    """What a checkpoint must agree in with who goes on from it: settings, data, where it runs."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (sids.codes, split.train.items, split.train.offsets, split.valid.items, split.valid.users):
        digest.update(repr((array.shape, array.dtype)).encode() + array.tobytes())
    return {**params, "sizes": list(sids.sizes), "data": digest.hexdigest(), "device": str(device)}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
