"""Training steps: one operation at a time, or on a CUDA device all of them as one captured graph."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench.errors import UsageError
from sidbench.kit.batches import Feed
from sidbench.kit.model import Model
from sidbench.kit.optimizers import Weights
from sidbench.kit.shares import Share, taking

WARM = 3  # steps before a capture, which let libraries choose and allocate; they are undone


class Steps:
    """Takes steps, one operation at a time, with this process's share of a batch."""

    def __init__(self, model: Model, weights: Weights, share: Share, bf16: bool) -> None:
        self.model, self.weights, self.share, self.bf16 = model, weights, share, bf16
        self.device = weights.flat.device
        self.progress = torch.zeros((), device=self.device)
        self.names: list[str] = []

    def begin(self, phase: Hashable) -> None:
        """Steps of this phase follow."""
        self.weights.thaw()

    def take(self, step: int, rows: Tensor) -> Tensor:
        """The step of this number with this share of its batch; the losses of the whole."""
        self.prepare(step)
        return self.step(rows)

    def prepare(self, step: int) -> None:
        """What a step reads from outside."""
        self.progress.fill_(step / self.weights.steps)
        self.weights.rate(step)

    def step(self, rows: Tensor) -> Tensor:
        # The cache of casts would outlive a capture, and no weight is used twice in a step.
        cast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16, cache_enabled=False)
        with taking(self.share), cast:
            losses = self.model.losses(rows, self.progress)
        self.names = [*losses]
        found = torch.stack([value.detach().float() for value in losses.values()])
        if self.share.alone:
            if self.weights.parts:
                losses["loss"].backward()  # type: ignore[no-untyped-call]
                self.weights.step()
            return found
        if self.weights.parts:
            (self.share.weight * losses["loss"]).backward()  # type: ignore[no-untyped-call]
        gradient, found = self.share.sum(self.weights.gradient, self.share.weight * found)
        if self.weights.parts:
            self.weights.gradient.copy_(gradient)
            self.weights.step()
        return found


class Stepper(Steps):
    """Runs steps and gives their losses; the host waits for a device only when it asks for these."""

    def __init__(
        self, model: Model, weights: Weights, feed: Feed, share: Share, bf16: bool, capture: bool
    ) -> None:
        super().__init__(model, weights, share, bf16)
        self.feed = feed
        self._graph: torch.cuda.CUDAGraph | None = None
        self._phase: Hashable = None
        if self.device.type != "cuda":
            self.how = "eager: on a processor"
        elif not share.alone:
            self.how = "eager: several processes"
        elif not capture:
            self.how = "eager: cuda_graph = false"
        else:
            self.how = f"eager: {model.eager}" if model.eager else "one CUDA graph"

    def begin(self, phase: Hashable) -> None:
        """Steps of this phase follow; the feed has its order."""
        super().begin(phase)
        if self.how == "one CUDA graph" and (self._graph is None or phase != self._phase):
            self.feed.load(0)
            self._capture()
        self._phase = phase

    def run(self, first: int, start: int, stop: int) -> NDArray[np.float64]:
        """The batches from `start` to `stop` of an epoch that begins with step `first`: (steps, losses)."""
        found = []
        for number in range(start, stop):
            step = first + number
            self.feed.load(number)
            if self._graph is None:
                found.append(self.take(step, self.share.deal(step, self.feed.batch)))
            else:
                self.prepare(step)
                self._graph.replay()
                found.append(self._found.clone())
        return np.asarray(torch.stack(found).cpu().numpy(), dtype=np.float64)

    def _capture(self) -> None:
        before = {name: t.clone() for name, t in self.weights.tensors()}
        memory = {name: t.clone() for name, t in self.weights.memory().items()}
        self._graph = None
        try:
            side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                for _ in range(WARM):
                    self.step(self.feed.batch)
            torch.cuda.current_stream(self.device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._found = self.step(self.feed.batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            raise UsageError(
                f"the training step cannot be captured as a CUDA graph ({e}); set cuda_graph = false"
            ) from e
        self._graph = graph
        # In place: the graph knows these tensors by their addresses. What did not exist was zero.
        self.weights.restore(before)
        for name, t in self.weights.memory().items():
            if name in memory:
                t.copy_(memory[name])
            else:
                t.zero_()
