"""The training loop: it goes on to the same bits, says what it tracks, leaves alone what is not its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidbench import checkpoints
from sidbench.dataset import Embeddings
from sidbench.errors import DataError, SidbenchError, UsageError
from sidbench.kit import batches, snapshots
from sidbench.kit.optimizers import Name
from sidbench.progress import listening
from sidbench.testing.state import global_state
from tests.toys import Toy, Toys, X, kill_at, outcome, stop_at, toys

pytestmark = pytest.mark.usefixtures("quick_epochs")


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
    script += "from sidbench.kit import loop; loop.PAUSE = 1; t.torch.set_num_threads(1); "
    script += f"t.fit_in({str(tmp_path)!r}, 11)"
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
@pytest.mark.parametrize("optimizer", get_args(Name))
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
