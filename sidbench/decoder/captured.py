"""On a CUDA device: forward and backward of a piece as one captured graph, one for each of a few shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.decoder.noise import Noise
from sidbench.decoder.shape import Inputs
from sidbench.decoder.training import Weights
from sidbench.errors import UsageError

if TYPE_CHECKING:
    from sidbench.decoder.learner import Learner

#: Runs before a capture, which let libraries choose and allocate; what they gather is undone.
WARM = 3
#: Widths of a piece are rounded up to so many parts of a history, its targets to as many of the most.
STEPS = 4


@dataclass
class Graph:
    """A captured piece: what it reads is copied to `given` (by address), its loss appears in `loss`."""

    graph: torch.cuda.CUDAGraph
    given: list[Tensor]
    loss: Tensor


class Captured:
    """Pads pieces to one of a few shapes; what is padding weighs nothing."""

    def __init__(self, learner: Learner, weights: Weights) -> None:
        self.learner, self.weights = learner, weights
        self.device = learner.reader.device
        self._generator = torch.Generator(self.device)
        self._graphs: dict[tuple[torch.Size, ...], Graph] = {}
        self._pool: Any = None

    def gradient(self, piece: Tensor, items: Tensor, codes: int, draw: tuple[int, int, int]) -> Tensor:
        """Gather the gradient of one piece. Its dropout depends on the seed and on `draw` alone."""
        inputs, goals, weights = self.padded(piece, items, codes)
        given = [t for t in (*inputs, goals, weights) if t is not None]
        shapes = tuple(t.shape for t in given)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._capture(inputs, goals, weights)
        found = self._graphs[shapes]
        for held, new in zip(found.given, given, strict=True):
            held.copy_(new)
        # A graph that is captured later than it was in another run then draws as it did there.
        self._generator.manual_seed(_seed(self.learner.seed, draw))
        found.graph.replay()
        return found.loss.clone()

    def padded(self, piece: Tensor, items: Tensor, codes: int) -> tuple[Inputs, Tensor, Tensor]:
        """A piece as the model reads it, its targets' codes, and what each code of a target weighs."""
        learner, windows = self.learner, self.learner.windows
        history = learner.model.shape.history
        begin, end = windows.begin[piece], windows.end[piece]
        width = min(history, _up(int((end - begin).max()), -(-history // STEPS)))
        rows = _up(len(piece), 2 ** max(0, (len(piece) - 1).bit_length() - 2))
        more = (0, rows - len(piece))
        begin, end, users = (F.pad(t, more) for t in (begin, end, windows.users[piece]))
        if learner.model.every:
            inputs = learner.reader.stream(windows.items, begin, end, users, width)
            assert inputs.at is not None
            count = _up(len(items), max(1, rows * width // STEPS))
            # What is too much is a target of the first row's second place; it weighs nothing.
            inputs = inputs._replace(at=F.pad(inputs.at, (0, count - len(items)), value=1), lengths=None)
        else:
            inputs = learner.reader.read(windows.items, begin, end, users, width)
            count = rows
        weights = torch.zeros(count)
        weights[: len(items)] = 1 / codes
        goals = learner.reader.send(F.pad(items, (0, count - len(items))))
        return inputs, learner.trie.item_codes[goals], learner.reader.send(weights)

    def _capture(self, inputs: Inputs, goals: Tensor, weights: Tensor) -> Graph:
        held = inputs._replace(**{key: t.clone() for key, t in inputs._asdict().items() if t is not None})
        goals, weights = goals.clone(), weights.clone()
        before = self.weights.gradient.clone()
        try:
            side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                for _ in range(WARM):
                    self.learn(held, goals, weights)
            torch.cuda.current_stream(self.device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._generator)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            # Thread-local: what watches the connections to other processes may ask meanwhile.
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                loss = self.learn(held, goals, weights)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            raise UsageError(
                f"the decoder's step cannot be captured as a CUDA graph ({e}); set decoder.cuda_graph = false"
            ) from e
        self.weights.gradient.copy_(before)
        given = [t for t in (*held, goals, weights) if t is not None]
        return Graph(graph, given, loss)

    def learn(self, inputs: Inputs, goals: Tensor, weights: Tensor) -> Tensor:
        """What is captured: forward and backward of a padded piece."""
        of = self.learner
        noise = None
        if of.dropout:
            # Its own pool: the masks of a graph are drawn within it.
            noise = Noise(of.dropout, 0, self.device, of.reader.dtype, generator=self._generator)
        loss = (of.losses(inputs, goals, noise).sum(1) * weights).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def _up(count: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-count // step) * step


def _seed(seed: int, draw: tuple[int, int, int]) -> int:
    """A seed of its own for each step, process and piece, as Philox takes it."""
    step, part, piece = draw
    return ((step * 1024 + part) * 1024 + piece) * 0x9E3779B97F4A7C15 + seed & (1 << 63) - 1
