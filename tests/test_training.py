"""The training loop: its laws on models that learn in milliseconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from sidbench import checkpoints
from sidbench.dataset import Embeddings
from sidbench.errors import ContractError, DataError, SidbenchError, UsageError
from sidbench.kit import batches, device, loop, schedule, snapshots
from sidbench.kit.loop import Looped
from sidbench.kit.model import Model
from sidbench.kit.optimizers import MOMENTUM, Learning, Name, Weights
from sidbench.kit.randomness import randomness
from sidbench.kit.training import Trained
from sidbench.progress import listening
from sidbench.sids import Codes
from sidbench.testing.state import global_state

#: Called with the number of every step; what it gives is a factor of its loss.
At = Callable[[int], Tensor | None]

X = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)


class Toy(Model):
    """An autoencoder with everything that has a state: dropout, running means, changes between epochs."""

    def __init__(self, columns: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(columns, 8), nn.BatchNorm1d(8), nn.Dropout(dropout))
        self.decoder = nn.Linear(8, columns)
        self.middle: Tensor
        self.register_buffer("middle", torch.zeros(columns))
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.calls = 0
        self.at: At = lambda call: None

    def begin(self, rows: Embeddings, seed: int) -> None:
        self.middle.copy_(torch.from_numpy(rows[:50].mean(axis=0)))
        self.fixed.add_(seed)

    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        error = (self.decoder(self.encoder(x - self.middle)) - x).square().mean()
        extra = self.at(self.calls)
        loss = error if extra is None else error * extra
        return {"loss": loss, "progress": progress}

    def end_epoch(self, epoch: int, rng: torch.Generator, rows: Callable[[int], Tensor]) -> None:
        self.middle.lerp_(rows(7).mean(dim=0), 0.1)
        self.decoder.bias.add_(
            0.01 * torch.randn(len(self.decoder.bias), generator=rng).to(self.middle.device)
        )

    def codes(self, x: Tensor) -> Tensor:
        latent: Tensor = self.encoder(x - self.middle)
        return (latent[:, :3] > 0).long()


class Toys(Trained):
    """A tokenizer around the toy."""

    name = "toys"

    def fit(self, x: Embeddings) -> Self:
        with randomness(self.seed, device.resolve(self.device)):
            model = self.make(x.shape[1])
        self.model = self.train(model, x)
        self.weights_ = {k: v.tolist() for k, v in self.model.state_dict().items()}
        return self

    def make(self, columns: int) -> Toy:
        model = Toy(columns)
        model.at = self.at
        return model

    def encode(self, x: Embeddings) -> Codes:
        with torch.no_grad():
            return np.asarray(self.model.codes(device.tensor(x)).numpy(), dtype=np.int32)

    at: ClassVar[Any] = staticmethod(lambda call: None)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something happens after every epoch; and no threads that wait for each other at small operations."""
    monkeypatch.setattr(loop, "PAUSE", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toys(at: At | None = None, **params: Any) -> Toys:
    defaults = {"codebook_size": 2, "epochs": 6, "batch_size": 32, "check_every": 1, "checkpoint_every": 0}
    made = Toys(**{**defaults, **params})
    if at is not None:
        made.__dict__["at"] = at
    return made


def outcome(fitted: Toys) -> dict[str, Any]:
    curves = {name: np.asarray(values).tolist() for name, values in fitted.curves().items()}
    return {"weights": fitted.weights_, "curves": curves, "chosen": fitted.chosen_}


def stop_at(call: int) -> At:
    def at(now: int) -> None:
        if now == call:
            raise InterruptedError

    return at


def kill_at(call: int) -> At:
    def at(now: int) -> None:
        if now == call:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


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


# -- resume


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("select", ["last", "loss", "collision"])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, select: str, optimizer: str
) -> None:
    whole = outcome(toys(select=select, optimizer=optimizer).fit(X))
    with checkpoints.kept_in(tmp_path):
        for call in (5, 4, 5):  # in the middle of an epoch, three times
            with pytest.raises(InterruptedError):
                toys(stop_at(call), select=select, optimizer=optimizer).fit(X)
        resumed = toys(select=select, optimizer=optimizer)
        model = resumed.make(6)
        resumed.make = lambda columns: model  # type: ignore[method-assign]
        assert outcome(resumed.fit(X)) == whole
    assert model.calls == 3 * 3  # three of six epochs were done


def fit_in(folder: str, kill: int) -> None:
    """What the child process of the next test runs."""
    with checkpoints.kept_in(folder):
        fitted = toys(kill_at(kill) if kill else None).fit(X)
    print(json.dumps(outcome(fitted)))


def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_training as t; "
    script += f"t.loop.PAUSE = 1; t.torch.set_num_threads(1); t.fit_in({str(tmp_path)!r}, 11)"
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["epoch-000002", "epoch-000003"]
    with checkpoints.kept_in(tmp_path):
        resumed = toys().fit(X)
    assert outcome(resumed) == outcome(toys().fit(X))


def test_only_the_newest_checkpoints_stay_and_halves_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "epoch-000099.partial").mkdir()
    with checkpoints.kept_in(tmp_path):
        whole = outcome(toys(keep_checkpoints=3).fit(X))
        names = sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".partial")
        assert names == ["epoch-000004", "epoch-000005", "epoch-000006"]
        assert outcome(toys(keep_checkpoints=1).fit(X)) == whole  # nothing left to do
        (tmp_path / "epoch-000006" / "state.safetensors").write_bytes(b"half")
        with pytest.raises(DataError, match="cannot be read"):
            toys().fit(X)


def test_incidental_parameters_do_not_keep_a_training_from_going_on(tmp_path: Path) -> None:
    assert set(Toys.incidental) == {"checkpoint_every", "keep_checkpoints", "cuda_graph"}
    with checkpoints.kept_in(tmp_path):
        whole = outcome(toys().fit(X))
        resumed = toys(stop_at(1), keep_checkpoints=1, checkpoint_every=7.0, cuda_graph=False)
        assert outcome(resumed.fit(X)) == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [({"lr": 0.1}, "lr: 0.001 there, 0.1 here"), ({}, "data: "), ({"epochs": 9}, "epochs: 6")],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with checkpoints.kept_in(tmp_path):
        toys().fit(X)
        with pytest.raises(UsageError, match=f"of another fit.*{said}.*remove"):
            toys(**change).fit(X if change else X[::-1])


def test_a_hash_sees_every_row() -> None:
    other = X.copy()
    other[-1, -1] += 1
    assert snapshots.fingerprint(X) == snapshots.fingerprint(X.copy())
    assert len({snapshots.fingerprint(x) for x in (X, other, X.reshape(-1, 3))}) == 3


# -- what is tracked, chosen and said


@pytest.mark.parametrize("select", ["loss", "collision"])
def test_the_lowest_of_what_was_looked_at_is_kept(select: str) -> None:
    fitted = toys(select=select, check_every=2, lr=0.1).fit(X)
    values = np.asarray(fitted.curves()[select])[1::2] if select == "loss" else fitted.curves()[select]
    best = int(np.argmin(values))
    assert fitted.chosen_ == {"by": select, "epoch": 2 * (best + 1), "value": values[best]}
    assert toys().fit(X).chosen_ == {"by": "last", "epoch": 6}


def test_the_chosen_model_is_that_of_its_epoch() -> None:
    def at(call: int) -> Tensor:
        return torch.tensor(1e-3 if 4 <= call <= 6 else 1.0)

    # At a constant rate a shorter training is the beginning of a longer one.
    longer = toys(at, select="loss", schedule="constant", warmup=0).fit(X)
    assert longer.chosen_["epoch"] == 2
    assert longer.weights_ == toys(at, epochs=2, schedule="constant", warmup=0).fit(X).weights_


def test_curves_go_by_epoch_and_survive_saving(tmp_path: Path) -> None:
    fitted = toys(check_every=4).fit(X)
    curves = {name: np.asarray(values) for name, values in fitted.curves().items()}
    assert {name: values.shape for name, values in curves.items()} == {
        "loss": (6,), "progress": (6,), "looked": (2,), "collision": (2,), "utilization": (2, 3),
    }  # fmt: skip
    assert curves["looked"].tolist() == [4, 6]
    codes = fitted.encode(X)
    assert curves["collision"][-1] == 1 - len(np.unique(codes, axis=0)) / len(X)
    assert curves["utilization"][-1].tolist() == [len(np.unique(c)) / 2 for c in codes.T]
    np.testing.assert_allclose(curves["progress"], (np.arange(6) * 3 + 1) / 18)
    fitted.save(tmp_path)
    loaded = Toys.load(tmp_path)
    assert loaded.facts() == fitted.facts()
    assert all(np.array_equal(loaded.curves()[k], v) for k, v in curves.items())


def test_progress_is_reported_with_the_loss() -> None:
    heard: list[tuple[str, float, float, dict[str, float]]] = []
    with listening(lambda *said: heard.append(said)):
        fitted = toys(epochs=2).fit(X)
    assert [said[:3] for said in heard] == [("fit", 3, 6), ("fit", 6, 6)]
    assert [said[3]["loss"] for said in heard] == list(fitted.curves()["loss"])


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_reason() -> None:
    broken = toys(lambda call: torch.tensor(float("nan")) if call == 8 else None, lr=0.5, clip=0)
    with pytest.raises(SidbenchError) as e:
        broken.fit(X)
    for said in ("step 8 of 18", "epoch 3, batch 2", "loss = nan", "progress = 0.38", "lr = 0.5", "clip = 1"):
        assert said in str(e.value)


class Overflow(torch.autograd.Function):
    """One, with a gradient that is no number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.ones(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full((), float("nan"))


def test_weights_that_are_no_numbers_stop_it_too() -> None:
    class Last(Toy):
        def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
            found = super().losses(x, progress)
            if self.calls == 18:  # its loss is a number; what it does to the weights is not
                found["loss"] = Overflow.apply(found["loss"])  # type: ignore[no-untyped-call]
            return found

    tokenizer = toys()
    tokenizer.make = Last  # type: ignore[method-assign]
    with pytest.raises(SidbenchError, match=r"step 18 of 18.*weights"):
        tokenizer.fit(X)


def test_out_of_memory_names_the_remedy() -> None:
    def at(call: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UsageError, match=r"on cpu at batch_size = 32; lower batch_size$"):
        toys(at).fit(X)


def test_out_of_memory_of_numpy_names_it_too() -> None:
    class Sampled(Toys):
        name = "sampled"
        sample: int = 5

    class Large(Toy):
        def begin(self, rows: Embeddings, seed: int) -> None:
            raise MemoryError

    tokenizer = Sampled(codebook_size=2, batch_size=32)
    tokenizer.make = Large  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"sampled: out of memory on cpu.*; lower batch_size, sample$"):
        tokenizer.fit(X)


def test_weights_are_looked_at_before_anything_is_made_of_them() -> None:
    class Broken(Toy):
        def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
            found = super().losses(x, progress)
            found["loss"] = Overflow.apply(found["loss"])  # type: ignore[no-untyped-call]
            return found

        def end_epoch(self, epoch: int, rng: torch.Generator, rows: Any) -> None:
            raise AssertionError

    tokenizer = toys(batch_size=90, check_every=6)
    tokenizer.make = Broken  # type: ignore[method-assign]
    with pytest.raises(SidbenchError, match=r"step 1 of 6.*weights are no numbers"):
        tokenizer.fit(X)


def test_a_model_that_finds_no_numbers_between_epochs_is_told_with_the_step() -> None:
    class Broken(Toy):
        def end_epoch(self, epoch: int, rng: torch.Generator, rows: Any) -> None:
            raise FloatingPointError("latents are no numbers")

    tokenizer = toys(clip=0)
    tokenizer.make = Broken  # type: ignore[method-assign]
    with pytest.raises(SidbenchError, match=r"step 3 of 18.*latents are no numbers.*What may help"):
        tokenizer.fit(X)


# -- what it leaves alone


def test_global_state_is_left_alone(tmp_path: Path) -> None:
    before = global_state()
    first = toys().fit(X)
    assert all(a == b for a, b in zip(before, global_state(), strict=True))
    torch.rand(3)
    with torch.no_grad():
        assert outcome(toys().fit(X)) == outcome(first)
    with pytest.raises(InterruptedError):
        toys(stop_at(3)).fit(X)
    assert outcome(toys(seed=1).fit(X)) != outcome(first)


def test_a_memmap_gives_the_same_as_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(batches, "WINDOW", 2000)  # windows of 83 rows
    assert outcome(toys().fit(np.load(tmp_path / "x.npy", mmap_mode="r"))) == outcome(toys().fit(X))


def test_bfloat16_is_close_to_single_precision() -> None:
    exact, close = toys(precision="fp32").fit(X), toys(precision="bf16").fit(X)
    assert close.facts()["precision"] == "bf16"
    np.testing.assert_allclose(close.curves()["loss"], exact.curves()["loss"], rtol=0.05)
    assert toys(precision="auto").fit(X).facts()["precision"] == "fp32"  # far too narrow to gain


# -- CUDA


def graph_and_eager(**params: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    found = []
    for graph in (True, False):
        tokenizer = toys(device="cuda", cuda_graph=graph, **params)
        tokenizer.make = lambda columns: Toy(columns, dropout=0.0)  # type: ignore[method-assign]
        fitted = tokenizer.fit(X)
        assert fitted.facts()["stepping"] == ("one CUDA graph" if graph else "eager: cuda_graph = false")
        found.append(np.asarray(fitted.curves()["loss"]))
    return found[0], found[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", NAMESAKES)
def test_a_captured_graph_steps_as_single_operations_do(optimizer: Name) -> None:
    graph, eager = graph_and_eager(optimizer=optimizer)
    np.testing.assert_allclose(graph, eager, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_that_do_not_fit_a_device_cross_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = outcome(toys(device="cuda").fit(X))
    monkeypatch.setattr(batches, "RESIDENT", 0.0)
    assert outcome(toys(device="cuda").fit(X)) == resident


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = outcome(toys(device="cuda").fit(X))
    with checkpoints.kept_in(tmp_path):
        toys(device="cuda").fit(X)
        for newest in ("epoch-000006", "epoch-000005"):
            (tmp_path / newest).rename(tmp_path / f"{newest}.partial") if newest.endswith("6") else None
        assert outcome(toys(device="cuda").fit(X)) == whole
