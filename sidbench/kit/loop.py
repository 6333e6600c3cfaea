"""The training loop: epochs of batches, with what must happen around them written once for every method."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from sidbench import __version__, checkpoints
from sidbench.dataset import Embeddings
from sidbench.errors import SidbenchError, UsageError
from sidbench.kit import device, schedule, snapshots
from sidbench.kit.batches import Feed, cut, shuffled
from sidbench.kit.model import Model
from sidbench.kit.optimizers import Learning, Weights
from sidbench.kit.randomness import randomness, reseed, seed_of
from sidbench.kit.ranks import Ranks, ranks
from sidbench.kit.shares import EPOCH, STATE, Share
from sidbench.kit.stepper import Stepper, Steps
from sidbench.progress import report
from sidbench.sids import distinct_rows
from sidbench.tokenizer import Tokenizer

LOOKS, CHOICES = 5, 20  # over a training, where check_every is auto: to know, and to choose among
LOOKED_AT = 1 << 17  # rows at most, in one look
STRETCH = 256  # steps between looks at the losses, which wait on the device until then
PAUSE = 20  # steps at least between two calls of end_epoch: small catalogues have very short epochs
NATIVE = 1 << 17  # weights from which bfloat16 products gain on a processor that has them


class Looped(Tokenizer):
    """Base of tokenizers that learn batch by batch: the loop and its parameters."""

    group = "The training loop's"
    #: What `epochs = auto` aims at: so many steps, within 5 to 1,000 epochs.
    auto_steps: ClassVar[int] = 2000
    # They decide when and how steps are taken and written, and nothing of what is learned (a captured graph
    # runs the same operations).
    incidental: ClassVar[tuple[str, ...]] = ("checkpoint_every", "keep_checkpoints", "cuda_graph")

    #: Times that the catalogue is seen; auto: as many as make 2,000 steps, within 5 to 1,000.
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    #: Rows in a step at most; an epoch is cut into equal batches, one batch where the catalogue is smaller.
    batch_size: Annotated[int, Field(ge=1)] = 1024
    #: Which epoch's model is kept: the last, or of those looked at the lowest by loss or by collisions.
    select: Literal["loss", "collision", "last"] = "last"
    #: Epochs between two looks at collisions and utilization; auto: 5 looks, or 20 to select from.
    check_every: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    #: Seconds between two checkpoints (where a folder for them is named); they are written between epochs.
    checkpoint_every: Annotated[float, Field(ge=0)] = 30.0
    #: Checkpoints that are kept, the newest.
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    #: On CUDA, run steps as one captured graph; false runs them one operation at a time.
    cuda_graph: bool = True

    def learning(self) -> Learning | None:
        """How the gradient of "loss" is followed; None where a model learns without one (moving averages)."""
        return None

    def train(self, model: Model, x: Embeddings) -> Model:
        """Train, from the newest checkpoint where there is one; the chosen epoch's model, ready to use.

        Sets `epochs_`, `chosen_` (which epoch's model and why), `training_` (facts), and the curves.
        """
        team = ranks() if model.shares else Ranks()
        where = team.device(device.resolve(self.device))
        with self._training(where):
            loop = _Loop(self, model.to(where), x, where, team)
            loop.run()
        self.epochs_, self.chosen_, self.training_ = loop.epochs, loop.chosen, loop.facts()
        self.curve_names_ = [*loop.curves]
        self.curve_values_ = [np.asarray(values, dtype=np.float64) for values in loop.curves.values()]
        return model.eval()

    @contextmanager
    def _training(self, where: torch.device) -> Iterator[None]:
        """What is around a training, in every process that takes part in it."""
        try:
            with randomness(self.seed, where), device.full_precision(), torch.enable_grad():
                yield
        except (RuntimeError, MemoryError) as e:
            # A processor's allocator raises plain RuntimeErrors, NumPy's a MemoryError.
            known = isinstance(e, (torch.OutOfMemoryError, MemoryError))
            if known or any(said in str(e) for said in ("can't allocate memory", "not enough memory")):
                has = self.params()
                lower = ", ".join(["batch_size", *(name for name in ("sample", "hidden") if name in has)])
                elsewhere = "" if where.type == "cpu" else ", or set device = cpu"
                raise UsageError(
                    f"{self.name}: out of memory on {where} at batch_size = {self.batch_size}; "
                    f"lower {lower}{elsewhere}"
                ) from e
            raise

    def facts(self) -> dict[str, Any]:
        return {**self.training_, "epochs": self.epochs_, "chosen": self.chosen_}

    def curves(self) -> dict[str, list[float] | NDArray[Any]]:
        return dict(zip(self.curve_names_, self.curve_values_, strict=True))


class _Loop:
    """One training: what it is made of, and where it stands."""

    def __init__(self, of: Looped, model: Model, x: Embeddings, where: torch.device, team: Ranks) -> None:
        self.of, self.model, self.x, self.where = of, model, x, where
        self.batches, self.batch = cut(len(x), of.batch_size)
        self.share = Share(team, self.batch)
        auto = of.epochs == "auto"
        self.epochs = schedule.epochs_for(self.batches, of.auto_steps) if auto else int(of.epochs)
        self.steps = self.epochs * self.batches
        auto = of.check_every == "auto"
        looks = LOOKS if of.select == "last" else CHOICES
        self.check_every = math.ceil(self.epochs / looks) if auto else int(of.check_every)
        self.pause = math.ceil(PAUSE / self.batches)
        self.how = of.learning()
        self.bf16 = self.how is not None and _bf16(self.how.precision, model, where)
        sample = np.random.default_rng(seed_of(of.seed, "look")).permutation(len(x))[:LOOKED_AT]
        self.looked_at = torch.from_numpy(np.sort(sample))
        self.curves: dict[str, list[Any]] = {}
        self.chosen: dict[str, Any] = {}
        self.best: dict[str, Tensor] = {}
        self.done = 0  # epochs

    def run(self) -> None:
        of, place = self.of, checkpoints.place()
        owner = self._owner() if place else {}
        found = snapshots.latest(place, owner) if place else None
        if found is None:
            with torch.no_grad():
                self.model.begin(self.x, of.seed)
        self.weights = Weights(self.model, self.how, self.steps, self.model.pace())
        if found is not None:
            self._resume(*found)
        self.feed = Feed(self.x, self.batch, self.where)
        self.stepper = Stepper(self.model, self.weights, self.feed, self.share, self.bf16, of.cuda_graph)
        written = time.monotonic()
        with self.share.team.leading(None if self.share.alone else self._work()):
            for epoch in range(self.done, self.epochs):
                self._epoch(epoch)
                self.done = epoch + 1
                if place and time.monotonic() - written >= of.checkpoint_every:
                    self._write(place, owner)
                    written = time.monotonic()
        if self.best:
            self.weights.restore(self.best)
        self.model.zero_grad(set_to_none=True)

    def _work(self) -> Work:
        """What the other processes need to take part from here on."""
        of, model = copy.deepcopy((self.of, self.model))
        memory = {name: t.cpu() for name, t in self.weights.memory().items()}
        shape = (self.batch, self.x.shape[1])
        return Work(of, model.cpu(), self.steps, shape, self.bf16, torch.get_num_threads(), memory)

    def _epoch(self, epoch: int) -> None:
        model, of, stepper = self.model, self.of, self.stepper
        rng = np.random.default_rng(seed_of(of.seed, "order", epoch))
        order = shuffled(len(self.x), self.x[:1].nbytes, rng)
        self.feed.begin(np.resize(order, self.batches * self.batch))
        model.train()
        stepper.begin(model.phase(epoch))
        self.share.begin(epoch)
        reseed(seed_of(of.seed, "noise", epoch), self.where)
        total = np.zeros(())
        for start in range(0, self.batches, STRETCH):
            stop = min(start + STRETCH, self.batches)
            losses = stepper.run(epoch * self.batches, start, stop)
            self._check(losses, epoch, start)
            total = total + losses.sum(axis=0)
            loss = total[stepper.names.index("loss")] / stop
            report("fit", epoch * self.batches + stop, self.steps, loss=float(loss))
        for name, value in zip(stepper.names, total / self.batches, strict=True):
            self.curves.setdefault(name, []).append(float(value))
        generator = torch.Generator().manual_seed(seed_of(of.seed, "between", epoch))
        last = epoch + 1 == self.epochs
        ends, looks = ((epoch + 1) % every == 0 or last for every in (self.pause, self.check_every))
        with torch.no_grad():
            if ends or looks:
                self._check_weights(epoch)
            if ends:
                try:
                    model.end_epoch(epoch, generator, lambda count: self._draw(count, generator))
                except FloatingPointError as e:
                    raise self._broken((epoch + 1) * self.batches - 1, f"{e} after this step") from None
                self.share.align(t for _, t in self.weights.tensors())
            if looks:
                self._look(epoch)

    def _draw(self, count: int, rng: torch.Generator) -> Tensor:
        return self.feed.take(torch.randperm(len(self.x), generator=rng)[:count])

    def _check(self, losses: NDArray[np.float64], epoch: int, start: int) -> None:
        """Stop at the first step whose losses are no numbers any more."""
        bad = ~np.isfinite(losses).all(axis=1)
        if not bad.any():
            return
        at = int(bad.argmax())
        said = ", ".join(f"{n} = {v:g}" for n, v in zip(self.stepper.names, losses[at], strict=True))
        raise self._broken(epoch * self.batches + start + at, said)

    def _check_weights(self, epoch: int) -> None:
        finite = torch.stack([t.isfinite().all() for _, t in self.weights.tensors()])
        if not bool(finite.all()):
            raise self._broken((epoch + 1) * self.batches - 1, "weights are no numbers after this step")

    def _broken(self, step: int, said: str) -> SidbenchError:
        epoch, batch = step // self.batches + 1, step % self.batches + 1
        told = f"training broke at step {step + 1} of {self.steps} (epoch {epoch}, batch {batch}): {said}"
        if self.how is not None:
            how, rate = self.how, self.weights.rates[step]
            remedies = ["a lower lr"]
            remedies += [] if how.clip else ["clip = 1"]
            remedies += ["precision = fp32"] if self.bf16 else []
            remedies += ["more warmup"] if how.warmup < 0.1 else []
            told += f"; the learning rate was {rate:g} ({how.optimizer}, lr = {how.lr:g})"
            told += f". What may help: {', '.join(remedies)}"
        return SidbenchError(f"{self.of.name}: {told}")

    def _look(self, epoch: int) -> None:
        """Collisions and utilization now; this epoch's model is kept if it is the best so far."""
        of, model = self.of, self.model
        model.eval()
        parts = [model.codes(self.feed.take(rows)).int() for rows in torch.split(self.looked_at, 1 << 13)]
        codes = torch.cat(parts).cpu().numpy()
        used = [len(np.unique(codes[:, level])) / size for level, size in enumerate(of.sizes)]
        collision = 1 - len(distinct_rows(codes)[0]) / len(codes)
        for key, now in (("looked", epoch + 1), ("collision", collision), ("utilization", used)):
            self.curves.setdefault(key, []).append(now)
        if of.select == "last":
            self.chosen = {"by": "last", "epoch": epoch + 1}
            return
        value = self.curves["loss"][-1] if of.select == "loss" else collision
        if not self.chosen or value < self.chosen["value"]:
            self.chosen = {"by": of.select, "epoch": epoch + 1, "value": value}
            for name, tensor in self.weights.tensors():
                self.best.setdefault(name, torch.empty_like(tensor)).copy_(tensor)

    def _owner(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be this training's."""
        params = {k: v for k, v in self.of.params().items() if k not in self.of.incidental}
        about = {
            "method": self.of.name,
            **params,
            "data": snapshots.fingerprint(self.x),
            "runs on": device.describe(self.where),
            "torch": torch.__version__,
            "sidbench": __version__,
        }
        return dict(json.loads(json.dumps(about, default=str)))

    def _write(self, place: Path, owner: dict[str, Any]) -> None:
        tensors = {f"now.{name}": t for name, t in self.weights.tensors()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        tensors |= {f"memory.{name}": t for name, t in self.weights.memory().items()}
        about = {"owner": owner, "epochs": self.done, "chosen": self.chosen, "curves": self.curves}
        snapshots.write(place, self.done, tensors, about, self.of.keep_checkpoints)

    def _resume(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        def of(kind: str) -> dict[str, Tensor]:
            return {k.removeprefix(kind): t.to(self.where) for k, t in tensors.items() if k.startswith(kind)}

        self.weights.restore(of("now."))
        self.weights.remember(of("memory."))
        self.best = of("best.")
        self.done, self.chosen, self.curves = about["epochs"], about["chosen"], about["curves"]

    def facts(self) -> dict[str, Any]:
        return {
            "device": device.describe(self.where),
            "precision": "bf16" if self.bf16 else "fp32",
            "stepping": self.stepper.how,
            "steps": self.steps,
            "rows_in_a_step": self.batch,
            "rows_looked_at": len(self.looked_at),
            **self.share.team.hardware(),
        }


@dataclass(frozen=True)
class Work:
    """What the other processes need to train a model with the first, which is in `train`."""

    of: Looped
    model: Model  # as the first's is, on the processor
    steps: int
    shape: tuple[int, int]  # of a batch
    bf16: bool
    threads: int
    memory: dict[str, Tensor]  # of the optimizer

    def follow(self) -> None:
        """Take this process's share of every step; keep nothing."""
        team, share = ranks(), Share(ranks(), self.shape[0])
        where = team.device(device.resolve(self.of.device))
        torch.set_num_threads(self.threads)
        with self.of._training(where):
            model = self.model.to(where)
            weights = Weights(model, self.of.learning(), self.steps, model.pace())
            weights.remember({name: t.to(where) for name, t in self.memory.items()})
            rows = torch.empty(share.longest, self.shape[1], device=where)
            steps = Steps(model, weights, share, self.bf16)
            while (word := team.told()) is not None:
                what, number = word
                if what == EPOCH:
                    model.train()
                    steps.begin(model.phase(number))
                    reseed(seed_of(self.of.seed, "noise", number), where)
                elif what == STATE:
                    team.aligned(t for _, t in weights.tensors())
                else:
                    steps.take(number, share.cut(team.dealt(rows)))


def _bf16(precision: str, model: nn.Module, where: torch.device) -> bool:
    """Whether products are bfloat16. A processor without such instructions imitates them, slowly."""
    if precision != "auto":
        return precision == "bf16"
    wide = sum(p.numel() for p in model.parameters()) >= NATIVE
    return where.type == "cuda" or (wide and torch.cpu._is_avx512_bf16_supported())
