"""Steps of the training loop: how long, how fast, in which batches, by which optimizer, on which model."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import Self

from sidbench import checkpoints
from sidbench.dataset import Embeddings
from sidbench.errors import ContractError
from sidbench.kit import batches, loop, schedule
from sidbench.kit.loop import Looped
from sidbench.kit.model import Model
from sidbench.kit.optimizers import MOMENTUM, Learning, Name, Weights
from sidbench.kit.randomness import randomness
from sidbench.sids import Codes
from tests.toys import Toy, X, toys

pytestmark = pytest.mark.usefixtures("quick_epochs")


# -- how long and how fast


def test_the_learning_rate_follows_its_formula() -> None:
    assert schedule.rates("constant", 2.0, 4, 0.5) == [1.0, 2.0, 2.0, 2.0]
    assert schedule.rates("linear", 1.0, 5, 0.2) == [1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = schedule.rates("cosine", 3.0, 9, 0.0)
    np.testing.assert_allclose(cosine, 1.5 * (1 + np.cos(np.pi * np.arange(9) / 9)))
    assert schedule.rates("cosine", 1.0, 3, 1.0) == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert min(schedule.rates("linear", 1.0, 100, 0.1)) > 0


def test_epochs_follow_from_the_catalogue() -> None:
    assert schedule.epochs_for(2, 2000) == 1000  # 2,000 items: enough steps
    assert schedule.epochs_for(20, 2000) == 100
    assert schedule.epochs_for(5000, 2000) == 5  # five million: not a thousand epochs
    assert schedule.epochs_for(1, 2000) == 1000
    assert toys(epochs="auto", batch_size=1000, check_every=999).fit(X).epochs_ == 1000


@pytest.mark.parametrize(
    ("n", "size"), [(1, 1), (1, 1024), (90, 32), (90, 90), (90, 91), (97, 10), (2000, 1024)]
)
def test_an_epoch_is_cut_into_equal_batches(n: int, size: int) -> None:
    number, rows = batches.cut(n, size)
    assert rows <= size
    assert 0 <= number * rows - n < number
    assert number == -(-n // size)


@pytest.mark.parametrize(("n", "row_bytes"), [(1000, 24), (1000, 1 << 20), (5003, 1 << 21), (777, 1 << 30)])
def test_an_order_has_every_row_once(n: int, row_bytes: int) -> None:
    order = batches.shuffled(n, row_bytes, np.random.default_rng(1))
    assert (np.sort(order) == np.arange(n)).all()
    assert (order != np.arange(n)).mean() > 0.9


def test_a_large_catalogue_is_read_from_few_places_at_a_time() -> None:
    held = 1 << 8  # rows of a megabyte in a window
    order = batches.shuffled(100 * held, 1 << 20, np.random.default_rng(0))
    pieces = np.unique(order[:held] // (held // batches.PIECES))
    assert len(pieces) == batches.PIECES
    assert np.ptp(order[:held]) > 50 * held  # which lie far apart


# -- optimizers

NAMESAKES: dict[Name, Any] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM),
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("name", NAMESAKES)
def test_every_optimizer_steps_as_its_namesake(name: Name, clip: float) -> None:
    torch_rng = torch.Generator().manual_seed(0)

    def model() -> nn.Module:
        with randomness(3, torch.device("cpu")):
            return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))

    ours, theirs = model(), model()
    how = Learning(name, lr=0.05, weight_decay=0.1, schedule="linear", clip=clip)
    weights = Weights(ours, how, 20)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    rest = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = NAMESAKES[name](groups, lr=0.05)
    for step in range(20):
        x = torch.randn(8, 5, generator=torch_rng)
        ours(x).square().sum().backward()
        weights.rate(step)
        weights.step()
        optimizer.zero_grad()
        theirs(x).square().sum().backward()
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 20)
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_frozen_does_not_move_and_goes_on_afterwards() -> None:
    class Frozen(Toy):
        seen: list[tuple[Tensor, Tensor]] = []

        def phase(self, epoch: int) -> Hashable:
            self.encoder.requires_grad_(epoch >= 3)
            return epoch >= 3

        def end_epoch(self, epoch: int, rng: torch.Generator, rows: Any) -> None:
            weights = self.get_parameter("encoder.0.weight"), self.decoder.weight
            self.seen.append((weights[0].detach().clone(), weights[1].detach().clone()))

    tokenizer = toys(weight_decay=1.0)
    tokenizer.make = Frozen  # type: ignore[method-assign]
    tokenizer.fit(X)
    encoder, decoder = zip(*Frozen.seen, strict=True)
    assert torch.equal(encoder[0], encoder[2])
    assert not torch.equal(encoder[2], encoder[3])
    assert not torch.equal(decoder[0], decoder[1])


def test_a_child_frozen_in_part_is_refused() -> None:
    model = Toy(6)
    weights = Weights(model, Learning(), 1)
    model.get_parameter("encoder.0.bias").requires_grad_(False)  # not those of the normalisation
    with pytest.raises(ContractError, match="in part"):
        weights.thaw()


def test_short_epochs_are_not_interrupted_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends(Toy):
        seen: list[int] = []

        def end_epoch(self, epoch: int, rng: torch.Generator, rows: Any) -> None:
            self.seen.append(epoch + 1)

    monkeypatch.setattr(loop, "PAUSE", 7)
    tokenizer = toys(epochs=10)
    tokenizer.make = Ends  # type: ignore[method-assign]
    tokenizer.fit(X)
    assert Ends.seen == [3, 6, 9, 10]  # three steps an epoch


class Means(Model):
    """Codes are signs about a mean that moves: nothing here has a gradient."""

    mean: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))

    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            self.mean.lerp_(x.mean(dim=0), 0.1)
            return {"loss": (x - self.mean).square().mean()}

    def codes(self, x: Tensor) -> Tensor:
        return (x > self.mean)[:, :3].long()


def test_a_model_may_learn_without_a_gradient(tmp_path: Path) -> None:
    class Moving(Looped):
        name = "moving"

        def fit(self, x: Embeddings) -> Self:
            self.mean_ = self.train(Means(x.shape[1]), x).get_buffer("mean").numpy()
            return self

        def encode(self, x: Embeddings) -> Codes:
            return np.asarray((x > self.mean_)[:, :3], dtype=np.int32)

    with checkpoints.kept_in(tmp_path):
        fits = [Moving(codebook_size=2, epochs=e, batch_size=30, checkpoint_every=0).fit(X) for e in (40, 40)]
    np.testing.assert_allclose(fits[0].mean_, X.mean(axis=0), atol=0.1)
    assert np.array_equal(fits[0].mean_, fits[1].mean_)
    assert "lr" not in fits[0].params()
    with pytest.raises(ContractError, match="require a gradient"):
        Weights(Means(3), Learning(), 1)
